"""Writing the files of ``swiftalign init``: a configuration, or a curriculum over one."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from swiftalign.config.load import load_config
from swiftalign.config.sections import DataSource, Kind
from swiftalign.data.count import rows_in
from swiftalign.data.files import JSONL
from swiftalign.data.formats import read_row
from swiftalign.data.scan import PROGRESS_ROWS
from swiftalign.data.storage import DataFile, open_file
from swiftalign.files import appearing, file_error, not_fetched, write_whole
from swiftalign.init.recipes import PROBLEMS, REPLAYED, SCHEMA_FILE, aligner_of, recipes, write_config
from swiftalign.methods import METHODS
from swiftalign.model.families import published_config
from swiftalign.model.read import read
from swiftalign.model.tree import ModelSource
from swiftalign.plan.schedule import ROWS_PER_STEP
from swiftalign.problems import DataError, ModelError, SwiftalignError, counted
from swiftalign.suggest import did_you_mean

PHASES = ("simple", "medium", "full")  # of a curriculum
# Most objects per image in the first two; the third has every row.
SIMPLE, MEDIUM = 3, 8


def write_init(
    path: Path,
    *,
    model: str | None,
    method: str | None = None,
    problem: str | None = None,
    train: str | None = None,
    val: str | None = None,
    replay: str | None = None,
    curriculum: Path | None = None,
    force: bool = False,
    progress: Callable[[int], None] = lambda rows: None,
) -> list[str]:
    """Write a configuration and its schema; returns lines that say what was written and what to type next.

    The arguments are the options of ``init``; ``progress`` gets the number of rows read, now and then.

    Raises:
        SwiftalignError: something is missing or unknown, or a file exists already.
        ModelError: the model's layers have to be counted, and the folder is no model.
        DataError: a data file can't be read.
    """
    method = choose_method(method, problem)
    if model is None:
        raise SwiftalignError("no model is named", "e.g. --model Qwen/Qwen3-VL-4B-Instruct, or the folder of a model")
    if curriculum and method in METHODS and METHODS[method].ranks_may_shrink:
        message = f"{method} can't be trained in phases: it prunes ranks until the end of its run"
        raise SwiftalignError(message, "--method lora, or leave --curriculum out")
    if replay is not None and train is None:
        raise SwiftalignError(f"--replay {replay}: there are no rows to mix it into", "name them with --train")
    if replay is not None and train is not None and not Path(train).expanduser().exists():
        raise DataError(f"--train {train}: no such file, and --replay takes a share of its rows", "name a file of rows")
    folder, steps, phases, scored, mixed = path.absolute().parent, 0, "", None, None
    source, layers = source_of(model), None
    is_folder = Path(source.path).is_absolute()
    if method == "mixed" or is_folder or published_config(source.path):
        try:
            layers = read(source)
        except ModelError:
            if method == "mixed" and is_folder:
                raise
    with writing(path, force=force):
        if val is not None and Path(val).expanduser().exists():
            scored = scored_kinds(Path(val).expanduser(), progress)
        if curriculum:
            files = split(curriculum, force=force, progress=progress)
            train, phases = str(curriculum), _phases(files, folder)
        elif train is not None and Path(train).expanduser().exists():  # steps of the recipe's three epochs
            rows, weight = _count(train), REPLAYED / (1 - REPLAYED)  # of a file of as many rows
            if replay is not None:
                mixed = from_folder(replay, folder), weight * rows / max(1, _count(replay))
                rows = round(rows * (1 + weight))
            steps = 3 * max(1, -(-rows // ROWS_PER_STEP))
        text = write_config(
            model=from_folder(source.path, folder) if is_folder else source.path,
            method=method,
            train=train and from_folder(train, folder),
            val=val and from_folder(val, folder),
            replay=mixed,
            problem=problem,
            steps=steps,
            name=path.name,
            layers=layers,
            scored=scored,
            phases=phases,
        )
        write_whole(path, text)
        write_schema(folder)
    wrote = f"wrote {path}: {method}" + (f", in phases of {_sizes(files)} rows" if curriculum else "")
    measured = [f"measured (swiftalign docs {PROBLEMS[problem].page}): {PROBLEMS[problem].measured}"] if problem else []
    unread = [f"{model} can't be read here: the aligner is named as a Qwen3-VL's; inspect-params tells whether it fits"]
    unread = unread if aligner_of(source.path, layers) is None else []
    return [wrote, *measured, *unread, f"next: swiftalign inspect-params {path}"]


def _count(path: str) -> int:
    """The number of rows of a file.

    Raises:
        DataError: it can't be read.
    """
    return rows_in(DataSource(path=str(Path(path).expanduser())))


def write_curriculum(path: Path, source: Path, *, force: bool, progress: Callable[[int], None]) -> list[str]:
    """Split a JSONL file by objects per image, and write a config of three phases, to be laid over a method.

    Raises:
        SwiftalignError: the source can't be split, or a file exists already.
    """
    with writing(path, force=force):
        files = split(source, force=force, progress=progress)
        text = (
            "# A curriculum, to be laid over a method: 'swiftalign train METHOD.yaml THIS.yaml'.\n"
            "data: {dataset_shuffle: false}\n"
            "training: {train_dataloader_shuffle: false, save_strategy: epoch}\n"
        )
        write_whole(path, text + _phases(files, path.absolute().parent))
    simple, medium, _ = files
    written = f"wrote {path}, {simple} and {medium}: {_sizes(files)} rows"
    return [written, f"next: swiftalign inspect-params METHOD.yaml {path}"]


def _phases(files: Mapping[Path, int], folder: Path) -> str:
    """The phases section, with a phase for each file of `split`."""
    text = (
        "# Weights are carried from phase to phase; optimizer and schedule begin afresh. "
        "Rows come in the order of the file.\n"
        "phases:\n"
    )
    for name, (file, rows), epochs in zip(PHASES, files.items(), (30, 30, 40), strict=True):
        text += (
            f"  - name: {name}   # {counted(rows, 'row')}\n"
            f"    data: {{train: {json.dumps(from_folder(str(file), folder))}}}\n"
            f"    training: {{num_train_epochs: {epochs}}}\n"
        )
    return text


def _sizes(files: Mapping[Path, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in zip(PHASES, files.values(), strict=True))


def split(source: Path, *, force: bool = False, progress: Callable[[int], None] = lambda rows: None) -> dict[Path, int]:
    """Write the rows with one to three and with four to eight objects beside the source, each in the source's order.

    Image paths stay valid, as they are relative to the same folder. Rows without an object are only in the full data.

    Returns:
        The files of the three phases, the last of which is the source, and the number of rows in each.

    Raises:
        SwiftalignError: the source can't be read, a row is malformed, a phase would be empty, or a file is there.
    """
    simple, medium = (source.with_name(f"{source.stem}.{name}{source.suffix}") for name in ("simple", "medium"))
    for path in (simple, medium):
        if path.exists() and not force:
            raise SwiftalignError(f"{path} exists already", "pass --force to overwrite it")
    rows = {simple: 0, medium: 0, source: 0}
    try:
        with ExitStack() as stack:
            files = [stack.enter_context(appearing(path)) for path in (simple, medium)]
            opened = [stack.enter_context(file.open("wb")) for file in files]
            file = DataFile(DataSource(path=str(source)))
            for line, content in file.read():
                objects = len(read_row(file.value(content, line), file.where(line), file.reading).targets)
                if 1 <= objects <= MEDIUM:
                    opened[objects > SIMPLE].write(content.rstrip(b"\r\n") + b"\n")
                    rows[medium if objects > SIMPLE else simple] += 1
                rows[source] += 1
                if rows[source] % PROGRESS_ROWS == 0:
                    progress(rows[source])
            for name, path, most in (("simple", simple, SIMPLE), ("medium", medium, MEDIUM)):
                if not rows[path]:
                    hint = "write the phases by hand, see configs/strategies/curriculum.yaml"
                    fault = f"{source}: no row for the {name} phase, which takes images with up to {most} objects"
                    raise SwiftalignError(fault, hint)
    except OSError as error:
        raise SwiftalignError(f"{error.filename or source}: {error.strerror or error}") from None
    return rows


@contextmanager
def writing(path: Path, *, force: bool, folder: bool = False) -> Iterator[None]:
    """A block that writes a file, or fills a folder, that is not there yet; missing folders are created.

    Raises:
        SwiftalignError: the file exists, or the folder holds something, and ``force`` is not given; or it can't be
            written.
    """
    kind, state = ("folder", "exists and is not empty") if folder else ("file", "exists already")
    if path.exists() and not force and not (folder and path.is_dir() and not any(path.iterdir())):
        raise SwiftalignError(f"{path} {state}", f"name another {kind}, or pass --force to overwrite it")
    try:
        (path if folder else path.absolute().parent).mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise file_error(error) from None


def choose_method(method: str | None, problem: str | None = None) -> str:
    """The name of the recipe: as named, or that of the method that suits the problem.

    Raises:
        SwiftalignError: none or both are named, or one is unknown.
    """
    for option, value, known in (("--method", method, recipes()), ("--problem", problem, PROBLEMS)):
        if value is not None and value not in known:
            hint = did_you_mean(value, known, cutoff=0.4)
            raise SwiftalignError(f"{option} {value}: not one of {', '.join(known)}", hint)
    if method and problem:
        raise SwiftalignError("--method and --problem both choose the method", "keep one of the two")
    if method or problem:
        return method or PROBLEMS[problem or ""].method
    raise SwiftalignError("no method is named", f"--method {'|'.join(recipes())}, or --problem {'|'.join(PROBLEMS)}")


def source_of(model: str) -> ModelSource:
    """Where the model of ``--model`` comes from, by the rules for ``model.path`` of a config in the current folder."""
    return replace(load_config([], [f"model.path={json.dumps(model)}"]).source, where="")


def check_first_row(path: str) -> None:
    """Read the first row of a data file.

    Raises:
        DataError: the file is missing, can't be read or is empty, or the row is malformed.
    """
    file = open_file(DataSource(path=str(Path(path).expanduser())))
    if not file.path.exists():
        what, hint = not_fetched(Path(path)) or ("no such file", "name a file or folder of rows")
        raise DataError(f"{path}: {what}", hint)
    for line, content in file.read():
        read_row(file.value(content, line), file.where(line), file.reading)
        return
    raise DataError(f"{path} holds no row", JSONL)


def scored_kinds(path: Path, progress: Callable[[int], None] = lambda rows: None) -> list[Kind]:
    """The kinds of target that ``custom.grounding_eval`` can score in validation rows, that of most rows first.

    Raises:
        DataError: the file can't be read, or a row is malformed.
    """
    file, rows = open_file(DataSource(path=str(path))), Counter[Kind]()
    for number, (line, content) in enumerate(file.read(), 1):
        row = read_row(file.value(content, line), file.where(line), file.reading)
        if len(row.images) == 1:  # rows of several images are not asked
            rows.update(sorted(row.kinds))
        if number % PROGRESS_ROWS == 0:
            progress(number)
    return [kind for kind, _ in rows.most_common()]


def from_folder(path: str, folder: Path) -> str:
    """A path as a config file in ``folder`` spells it: relative, except where the absolute path is shorter."""
    absolute = str(Path(path).expanduser().absolute())
    relative = os.path.relpath(absolute, folder)
    if relative.startswith(os.path.join("..", "..")):  # noqa: PTH118  # a prefix, not a path
        return absolute
    return relative if relative.startswith("..") or "/" in relative else f"./{relative}"


def write_schema(folder: Path) -> None:
    from swiftalign.config.schema import config_schema

    write_whole(folder / SCHEMA_FILE, json.dumps(config_schema(), indent=1) + "\n")
