"""The folder of one run: its name, its lock, and what it keeps."""

from __future__ import annotations

import fcntl
import glob
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from swiftalign.config.sections import Config
from swiftalign.data import rows
from swiftalign.data.scan import DataReport
from swiftalign.files import write_whole
from swiftalign.plan.plan import TuningPlan
from swiftalign.problems import RunFolderError
from swiftalign.speed.choices import Choices
from swiftalign.versions import versions
from swiftalign.yaml12 import dump_yaml

CONFIG_FILE, PLAN_FILE, DATA_FILE, LEFT_OUT_FILE = "config.yaml", "plan.json", "data.json", "left_out.json"
VERSIONS_FILE, CHOICES_FILE, INDEX_FILE = "versions.json", "speed.json", "rows.npz"
LOCK_FILE = ".lock"
START_FILE = ".start"
STOP_FILE = ".stop"  # asks a run to save and end
_OWN_FILES = (CONFIG_FILE, PLAN_FILE, DATA_FILE, LEFT_OUT_FILE, "args.json", "loss.png", "train.log", "events.jsonl")


def choose_run_folder(config: Config, config_path: Path) -> Path:
    """Where a run goes: ``training.output_dir``, or the next free ``runs/NAME`` beside the config file."""
    if config.training.output_dir:
        return Path(config.training.output_dir)
    runs = config_path.absolute().parent / "runs"
    number = 1
    while True:
        folder = runs / (config_path.stem if number == 1 else f"{config_path.stem}-{number}")
        if not folder.exists():
            return folder
        number += 1


def latest_run(config: Config, config_path: Path) -> Path:
    """The run to resume: ``training.output_dir``, or the last of ``runs/NAME`` beside the config file."""
    if config.training.output_dir:
        return Path(config.training.output_dir)
    first = config_path.absolute().parent / "runs" / config_path.stem
    found = {1: first}
    for folder in first.parent.glob(f"{glob.escape(first.name)}-*"):
        number = folder.name.removeprefix(f"{first.name}-")
        if number.isdecimal():
            found[int(number)] = folder
    return next((found[number] for number in sorted(found, reverse=True) if holds_run(found[number])), first)


def phase_folder(run_folder: Path, number: int) -> Path:
    """Where the n-th phase of a run goes, counted from 1: a run folder of its own."""
    return run_folder / f"phase-{number}"


def holds_run(folder: Path) -> bool:
    """Whether a run has begun there."""
    return any((place / PLAN_FILE).exists() for place in (folder, phase_folder(folder, 1)))


@contextmanager
def locked(folder: Path, *, used: bool = False) -> Iterator[None]:
    """Hold a run folder for one process; the system frees the lock with the process, however it ends.

    Args:
        used: it may hold a run already, which goes on.

    Raises:
        RunFolderError: another run holds it, it has been used already, or it can't be written.
    """
    begun = (folder / LOCK_FILE).exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise RunFolderError(f"{folder}: can't write the run there: {error.strerror or error}", _ELSEWHERE) from None
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunFolderError(f"{folder}: another run is writing there now", _ELSEWHERE) from None
        if not used and (holds_run(folder) or any(folder.glob("checkpoint-*"))):
            raise RunFolderError(f"{folder}: holds a run already", f"go on with it by --resume, or {_ELSEWHERE}")
        others = [] if begun or holds_run(folder) else [name for name in _OWN_FILES if (folder / name).exists()]
        if others:  # somebody else's
            (folder / LOCK_FILE).unlink()
            raise RunFolderError(f"{folder}: holds files that a run would overwrite: {', '.join(others)}", _ELSEWHERE)
        yield
    finally:
        os.close(lock)


_ELSEWHERE = "name another folder: --set training.output_dir=runs/NAME"


def write_run_files(
    folder: Path,
    config: Config,
    plan: TuningPlan,
    data: DataReport | None = None,
    choices: Choices | None = None,
) -> None:
    """Keep what the run is: configuration, plan, versions, speed's choices, and what was found in its data."""
    write_config(folder, config)
    try:
        if data:
            write_whole(folder / INDEX_FILE, rows.index_to_bytes(data.index))
        if data and data.left_out:
            lines = {str(path): numbers for path, numbers in data.left_out.items()}
            write_whole(folder / LEFT_OUT_FILE, json.dumps(lines) + "\n")
        write_whole(folder / DATA_FILE, json.dumps(data.digests if data else {}, indent=1) + "\n")
        write_whole(folder / CHOICES_FILE, (choices or Choices(plan.schedule.batch)).to_json())
        write_whole(folder / VERSIONS_FILE, json.dumps(versions(), indent=2) + "\n")
        write_whole(folder / PLAN_FILE, json.dumps(plan.to_json(), indent=1) + "\n")
    except OSError as error:
        raise RunFolderError(f"{folder}: can't write the run there: {error.strerror or error}", _ELSEWHERE) from None


def read_left_out(folder: Path) -> rows.LeftOut:
    """The rows that a run leaves out."""
    path = folder / LEFT_OUT_FILE
    values = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return {Path(name): lines for name, lines in values.items()}


def read_index(folder: Path) -> rows.Index:
    """The data files of a run with the positions of their rows; empty for a run of a release that kept none."""
    path = folder / INDEX_FILE
    return rows.read_index(path) if path.exists() else {}


@dataclass(frozen=True)
class Start:
    """Where training begins: at a checkpoint of the run, with the weights of another run, or with the model's own."""

    checkpoint: Path | None = None
    weights: Path | None = None


def write_start(folder: Path, start: Start) -> None:
    """Leave word for the training processes, on whichever machine they are."""
    values = {name: str(path) for name, path in vars(start).items() if path}
    write_whole(folder / START_FILE, json.dumps(values) + "\n")


def read_start(folder: Path) -> Start:
    path = folder / START_FILE
    values = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return Start(**{name: Path(value) for name, value in values.items()})


def write_config(folder: Path, config: Config) -> None:
    """Keep a run's configuration.

    Raises:
        RunFolderError: it can't be written.
    """
    try:
        write_whole(folder / CONFIG_FILE, dump_yaml(config.values))
    except OSError as error:
        raise RunFolderError(f"{folder}: can't write the run there: {error.strerror or error}", _ELSEWHERE) from None


def versions_changed(folder: Path) -> list[str]:
    """Packages that are not the ones that a run began with."""
    try:
        began = json.loads((folder / VERSIONS_FILE).read_text(encoding="utf-8"))
        return [f"{name} was {began[name]}, now {now}" for name, now in versions().items() if began[name] != now]
    except (OSError, ValueError, KeyError, TypeError):
        return [f"{VERSIONS_FILE} can't be read"]
