"""Writing the files of ``swiftalign init``: a configuration, or a curriculum over one."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from swiftalign.config.sections import DataSource
from swiftalign.data.count import rows_in
from swiftalign.data.formats import read_row
from swiftalign.data.storage import DataFile
from swiftalign.files import appearing
from swiftalign.init.recipes import PROBLEMS, SCHEMA_FILE, write_config
from swiftalign.methods import offered
from swiftalign.plan.schedule import ROWS_PER_STEP
from swiftalign.problems import SwiftalignError, counted

# Most objects per image in a curriculum's first two phases; the third has every row.
SIMPLE, MEDIUM = 3, 8


def write_init(
    path: Path,
    *,
    model: str | None,
    method: str | None = None,
    problem: str | None = None,
    train: str | None = None,
    val: str | None = None,
    force: bool = False,
) -> list[str]:
    """Write a configuration and its schema; returns lines that say what was written and what to type next.

    The arguments are the options of ``init``.

    Raises:
        SwiftalignError: something is missing or unknown, or a file exists already.
    """
    method = choose_method(method, problem)
    if model is None:
        raise SwiftalignError("no model is named", "e.g. --model Qwen/Qwen3-VL-4B-Instruct, or the folder of a model")
    folder, steps = path.absolute().parent, 0
    with writing(path, force=force):
        if train is not None and Path(train).expanduser().exists():  # steps of the recipe's three epochs
            rows = rows_in(DataSource(path=str(Path(train).expanduser())))
            steps = 3 * max(1, -(-rows // ROWS_PER_STEP))
        text = write_config(
            model=_from_folder(model, folder) if Path(model).is_dir() else model,
            method=method,
            train=train and _from_folder(train, folder),
            val=val and _from_folder(val, folder),
            problem=problem,
            steps=steps,
            name=path.name,
        )
        path.write_text(text, encoding="utf-8")
        write_schema(folder)
    measured = [f"measured (docs/methods.md): {PROBLEMS[problem].measured}"] if problem else []
    return [f"wrote {path}: {method}", *measured, f"next: swiftalign inspect-params {path}"]


def write_curriculum(path: Path, source: Path, *, force: bool, progress: Callable[[int], None]) -> list[str]:
    """Split a JSONL file by objects per image, and write a config of three phases, to be laid over a method.

    Raises:
        SwiftalignError: the source can't be split, or a file exists already.
    """
    with writing(path, force=force):
        files = split(source, force=force, progress=progress)
        folder, names = path.absolute().parent, ("simple", "medium", "full")
        text = (
            "# A curriculum, to be laid over a method: 'swiftalign train METHOD.yaml THIS.yaml'.\n"
            "# Weights are carried from phase to phase; optimizer and schedule begin afresh. "
            "Rows come in the order of the file.\n"
            "data: {dataset_shuffle: false}\n"
            "training: {train_dataloader_shuffle: false, save_strategy: epoch}\n"
            "phases:\n"
        )
        for name, (file, rows), epochs in zip(names, files.items(), (30, 30, 40), strict=True):
            text += (
                f"  - name: {name}   # {counted(rows, 'row')}\n"
                f"    data: {{train: {json.dumps(_from_folder(str(file), folder))}}}\n"
                f"    training: {{num_train_epochs: {epochs}}}\n"
            )
        path.write_text(text, encoding="utf-8")
    simple, medium, _ = files
    sizes = ", ".join(f"{name} {count:,}" for name, count in zip(names, files.values(), strict=True))
    written = f"wrote {path}, {simple} and {medium}: {sizes} rows"
    return [written, f"next: swiftalign inspect-params METHOD.yaml {path}"]


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
                if rows[source] % 1000 == 0:
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
        raise SwiftalignError(f"{path}: can't write it: {error.strerror or error}") from None


def choose_method(method: str | None, problem: str | None = None) -> str:
    """The tuning method: as named, or the one that suits the problem."""
    for option, value, known in (("--method", method, offered()), ("--problem", problem, PROBLEMS)):
        if value is not None and value not in known:
            near = difflib.get_close_matches(value, list(known), n=1, cutoff=0.4)
            hint = f"did you mean {near[0]}?" if near else None
            raise SwiftalignError(f"{option} {value}: not one of {', '.join(known)}", hint)
    if method and problem:
        raise SwiftalignError("--method and --problem both choose the method", "keep one of the two")
    if method or problem:
        return method or PROBLEMS[problem or ""].method
    raise SwiftalignError("no method is named", f"--method {'|'.join(offered())}, or --problem {'|'.join(PROBLEMS)}")


def _from_folder(path: str, folder: Path) -> str:
    """A path as a config file in ``folder`` spells it: relative, except where the absolute path is shorter."""
    absolute = str(Path(path).expanduser().absolute())
    relative = os.path.relpath(absolute, folder)
    if relative.startswith(os.path.join("..", "..")):  # noqa: PTH118  # a prefix, not a path
        return absolute
    return relative if relative.startswith("..") or "/" in relative else f"./{relative}"


def write_schema(folder: Path) -> None:
    from swiftalign.config.schema import config_schema

    (folder / SCHEMA_FILE).write_text(json.dumps(config_schema(), indent=1) + "\n", encoding="utf-8")
