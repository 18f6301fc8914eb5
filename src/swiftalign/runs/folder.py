"""The folder of one run: its name, its lock, and the files in it."""

from __future__ import annotations

import fcntl
import glob
import json
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swiftalign.checkpoint.read import START_FILE
from swiftalign.config.sections import Config
from swiftalign.data import rows
from swiftalign.data.scan import DataReport
from swiftalign.files import file_error, write_whole
from swiftalign.model.safetensors import read_json
from swiftalign.plan.plan import TuningPlan
from swiftalign.problems import ModelError, RunFolderError, printable
from swiftalign.speed.choices import Choices
from swiftalign.versions import versions
from swiftalign.yaml12 import dump_yaml

CONFIG_FILE, PLAN_FILE, DATA_FILE, LEFT_OUT_FILE = "config.yaml", "plan.json", "data.json", "left_out.json"
VERSIONS_FILE, CHOICES_FILE, INDEX_FILE = "versions.json", "speed.json", "rows.npz"
PICTURE_FILE = "loss.png"
LOCK_FILE = ".lock"
STOP_FILE = ".stop"  # asks the training processes to save a checkpoint and end; holds the name of the signal
EXPORT_FILE = "export.json"  # in the folder of an exported model, which may hold a plan too
_OWN_FILES = (CONFIG_FILE, PLAN_FILE, DATA_FILE, LEFT_OUT_FILE, "args.json", PICTURE_FILE, "train.log", "events.jsonl")
_OTHER_FILES = (VERSIONS_FILE, CHOICES_FILE, INDEX_FILE, LOCK_FILE, START_FILE, STOP_FILE, "initial.json")
_OWN_FOLDERS = ("images", "runs")  # ms-swift's


def choose_run_folder(config: Config, *, resume: bool = False) -> Path:
    """``training.output_dir``, or ``runs/NAME`` beside the config file, whose name it takes.

    A config without a file has ``runs/run`` in the current folder.

    Args:
        resume: choose the last run, which is to be resumed; otherwise the next unused folder, for a new run.
    """
    if config.training.output_dir:
        return Path(config.training.output_dir)
    file = Path(config.where() or "run.yaml").absolute()
    first = file.parent / "runs" / file.stem
    if not resume:
        unused, count = first, 1
        while unused.exists():
            count += 1
            unused = first.with_name(f"{first.name}-{count}")
        return unused
    found = {1: first}
    for folder in first.parent.glob(f"{glob.escape(first.name)}-*"):
        number = folder.name.removeprefix(f"{first.name}-")
        if number.isdecimal():
            found[int(number)] = folder
    return next((found[number] for number in sorted(found, reverse=True) if holds_run(found[number])), first)


def phase_folder(run_folder: Path, number: int) -> Path:
    """The run folder of the n-th phase of a run, counted from 1."""
    return run_folder / f"phase-{number}"


def predictions_file(run_folder: Path, step: int) -> Path:
    """The answers of an evaluation of a run, one line of JSON per row."""
    return run_folder / "predictions" / f"step-{step}.jsonl"


def holds_run(folder: Path) -> bool:
    """Whether a run has begun in this folder; an exported model is no run."""
    places = (folder, phase_folder(folder, 1))
    return any((place / PLAN_FILE).exists() and not (place / EXPORT_FILE).exists() for place in places)


@contextmanager
def locked(folder: Path, *, used: bool = False) -> Iterator[None]:
    """Lock a run folder for this process. The system releases the lock when the process ends, however it ends.

    Args:
        used: the folder may hold a run already, which is resumed.

    Raises:
        RunFolderError: another run holds the lock, the folder holds a run already, or it can't be written.
    """
    begun = (folder / LOCK_FILE).exists()
    with _writing():
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunFolderError(f"{folder}: another run is writing to this folder now", _ELSEWHERE) from None
        if not used and (holds_run(folder) or any(folder.glob("checkpoint-*"))):
            raise RunFolderError(f"{folder}: holds a run already", f"pass --resume to continue it, or {_ELSEWHERE}")
        others = [] if begun or holds_run(folder) else [name for name in _OWN_FILES if (folder / name).exists()]
        if others:  # files of something else
            (folder / LOCK_FILE).unlink()
            raise RunFolderError(f"{folder}: holds files that a run would overwrite: {', '.join(others)}", _ELSEWHERE)
        yield
    finally:
        os.close(lock)


_ELSEWHERE = "name another folder: --set training.output_dir=runs/NAME"


@contextmanager
def _writing() -> Iterator[None]:
    """Say in words what can't be written.

    Raises:
        RunFolderError: in place of an error of the system.
    """
    try:
        yield
    except OSError as error:
        raise file_error(error, RunFolderError, elsewhere=_ELSEWHERE) from None


def write_run_files(
    folder: Path,
    config: Config,
    plan: TuningPlan,
    data: DataReport | None = None,
    choices: Choices | None = None,
) -> None:
    """Write configuration, plan, versions, the choices for speed, and what was found in the data."""
    write_config(folder, config)
    with _writing():
        if data:
            write_whole(folder / INDEX_FILE, rows.index_to_bytes(data.files))
        if data and data.left_out:
            lines = {str(path): numbers for path, numbers in data.left_out.items()}
            write_whole(folder / LEFT_OUT_FILE, json.dumps(lines) + "\n")
        elif data:  # a file that is there would leave rows out
            (folder / LEFT_OUT_FILE).unlink(missing_ok=True)
        write_whole(folder / DATA_FILE, json.dumps(data.digests if data else {}, indent=1) + "\n")
        write_whole(folder / CHOICES_FILE, (choices or Choices(plan.schedule.batch)).to_json())
        write_whole(folder / VERSIONS_FILE, json.dumps(versions(), indent=2) + "\n")
        write_whole(folder / PLAN_FILE, json.dumps(plan.to_json(), indent=1) + "\n")


def read_left_out(folder: Path) -> rows.LeftOut:
    """The rows that a run does not use, by file.

    Raises:
        RunFolderError: the file is damaged.
    """
    found = _values(folder / LEFT_OUT_FILE)
    if not all(isinstance(lines, list) and all(type(line) is int for line in lines) for lines in found.values()):
        raise RunFolderError(f"{folder / LEFT_OUT_FILE}: not line numbers by file", _RESUME)
    return {Path(name): lines for name, lines in found.items()}


def read_index(folder: Path) -> rows.Index:
    """The data files of a run with the positions of their rows; empty for a run of a release that kept none.

    Raises:
        RunFolderError: the file is damaged.
    """
    path = folder / INDEX_FILE
    try:
        return rows.read_index(path) if path.exists() else {}
    except Exception as error:  # numpy and zipfile raise many types on damaged bytes
        raise RunFolderError(f"{path}: not the positions of rows: {error}", _RESUME) from None


@dataclass(frozen=True)
class Start:
    """Where training begins: at a checkpoint of this run, with other weights, or with those of the base model.

    Attributes:
        unchecked: whether training begins even if what the model would learn is not what the rows say.
    """

    checkpoint: Path | None = None
    weights: Path | None = None
    unchecked: bool = False


def write_start(folder: Path, start: Start) -> None:
    """Write ``.start``: the checkpoint or weights that every training process loads, and where the folder is now."""
    values = {name: value if value is True else str(value) for name, value in vars(start).items() if value}
    values["folder"] = str(folder.absolute())
    with _writing():
        write_whole(folder / START_FILE, json.dumps(values) + "\n")


def read_start(folder: Path) -> Start:
    """Raises RunFolderError where the file is damaged."""
    values = _values(folder / START_FILE)
    named = {name: values[name] for name in ("checkpoint", "weights") if name in values}
    if not all(isinstance(path, str) for path in named.values()):
        raise RunFolderError(f"{folder / START_FILE}: not paths by name", _RESUME)
    paths = {name: Path(path) for name, path in named.items()}
    return Start(**paths, unchecked="unchecked" in values)


def forget_run(folder: Path, kept: Collection[str]) -> None:
    """Remove what a run has written before its first step, and the folder if nothing else is in it.

    Args:
        kept: names of what was in the folder before.
    """
    for place in (phase_folder(folder, 1), folder):
        for path in [*place.glob("*"), *place.glob("runs/events.out.tfevents.*")]:
            owned = path.parent != place or path.name in (*_OWN_FILES, *_OTHER_FILES) or path.suffix == ".log"
            if owned and path.relative_to(place).parts[0] not in kept:
                path.unlink()
        for emptied in (*(place / name for name in _OWN_FOLDERS), place):
            with suppress(OSError):  # it is not there, or something is in it
                emptied.rmdir()


def _values(path: Path) -> dict[str, Any]:
    """What a JSON file of a run folder maps; empty where there is none.

    Raises:
        RunFolderError: the file is damaged.
    """
    try:
        values = read_json(path) if path.exists() else {}
    except ModelError as error:
        raise RunFolderError(error.message, _RESUME) from None
    if not isinstance(values, dict):
        raise RunFolderError(f"{path}: not a mapping", _RESUME)
    return values


_RESUME = "'swiftalign train CONFIG --resume' writes it anew"


def write_config(folder: Path, config: Config) -> None:
    """Write a run's configuration.

    Raises:
        RunFolderError: it can't be written.
    """
    with _writing():
        write_whole(folder / CONFIG_FILE, dump_yaml(config.values))


def versions_changed(folder: Path) -> list[str]:
    """What has changed among the installed packages since a run began, in words."""
    try:
        began = read_json(folder / VERSIONS_FILE)
        changed = {name: (began[name], now) for name, now in versions().items() if began[name] != now}
        return [printable(f"{name} was {before}, now {now}") for name, (before, now) in changed.items()]
    except (ModelError, KeyError, TypeError):
        return [f"{VERSIONS_FILE} can't be read"]
