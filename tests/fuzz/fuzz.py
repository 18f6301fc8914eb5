"""Files from outside, mutated at random: each ends in findings, in an error for the user, or is read as what it is.

A case must end in a result or in a `SwiftalignError`, soon and in little memory. Nothing that a file holds is run, no
file outside the case's folder is written or removed, and no text for the user holds a control character. What passes
as sound must be what it was before the mutation, or what the mutated file says; each kind says how that is told.
"""

from __future__ import annotations

import os
import re
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any, Protocol
from unittest.mock import patch

from corruptions import PLANTED
from fuzz.watch import TookTooLongError, Watch, watched
from swiftalign.problems import ModelError, Problem, SwiftalignError

SECRET = "secret.safetensors"
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class Kind(Protocol):
    """A kind of file from outside.

    Attributes:
        folder: where a case's files lie; cases run in it.
        changed: what the last case changed, in words.
        names_files: whether such a file may name any file to read, as a configuration may.
    """

    folder: Path
    changed: str
    names_files: bool

    def case(self, rng: Random) -> Iterator[str]:
        """Mutate, read, and put back; yields what is wrong, and texts for the user as ``show`` gives them."""
        ...


class UnsafeTextError(AssertionError):
    """A text for the user that a terminal would obey."""


def show(*texts: str) -> None:
    """What the user is told."""
    for text in texts:
        text.encode()
        if found := _CONTROL.search(text):
            raise UnsafeTextError(f"{found[0]!r} in {text[:300]!r}")


def show_error(error: SwiftalignError) -> None:
    show(error.message, error.hint or "")
    for problem in getattr(error, "problems", ()):
        show_problem(problem)


def show_problem(problem: Problem) -> None:
    show(str(problem), problem.advice)


@contextmanager
def put_back(*files: Path) -> Iterator[None]:
    """Restore the bytes of files, and remove those that were not there."""
    before = [file.read_bytes() if file.exists() else None for file in files]
    try:
        yield
    finally:
        for file, content in zip(files, before, strict=True):
            if content is None:
                file.unlink(missing_ok=True)
            else:
                file.write_bytes(content)


def no_hub(model_id: str, revision: str | None, hub: str) -> Any:
    """In place of the hub's answer: a mutated name is no id to ask for."""
    raise ModelError(f"{model_id!r}: not asked for")


def run(name: str, kind: Kind, numbers: Iterable[int]) -> tuple[list[str], int]:
    """Run cases; returns each kind of fault once, with a case and how often it came, and how many cases were read."""
    found: dict[str, tuple[int, str, int]] = {}
    read = 0
    cache = Path(os.environ["XDG_CACHE_HOME"])
    secret = kind.folder / SECRET
    secret.write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    before = Path.cwd()
    os.chdir(kind.folder)
    try:
        temporary = patch("tempfile.tempdir", str(kind.folder))
        with temporary, patch("swiftalign.model.hub.fetch_config", no_hub), patch("sys.dont_write_bytecode", True):
            for number in numbers:
                watch = Watch(kind.folder, cache, secret=None if kind.names_files else secret)
                faults = list[str]()
                try:
                    with watched(watch):
                        faults += kind.case(Random(f"{name}:{number}"))
                    read += 1
                except SwiftalignError as error:
                    try:
                        show_error(error)
                    except (UnsafeTextError, UnicodeEncodeError) as unsafe:
                        faults.append(f"{type(unsafe).__name__}: {unsafe}")
                except TookTooLongError as error:
                    faults.append(f"not done in time{_place(error)}")
                except Exception as error:
                    faults.append(f"{type(error).__name__}: {str(error)[:300]}{_place(error)}")
                faults += watch.faults
                if planted := [place for place in (kind.folder, before) if (place / PLANTED).exists()]:
                    faults.append("code of a file was run")
                    (planted[0] / PLANTED).rmdir()
                for fault in faults:
                    key = re.sub(r"\d+|'[^']*'|\"[^\"]*\"", "", fault)[-200:]
                    first, text, count = found.get(key, (number, f"{fault}\n    changed: {kind.changed}", 0))
                    found[key] = first, text, count + 1
    finally:
        os.chdir(before)
    return [f"case {number} (and {count - 1} more): {text}" for number, text, count in found.values()], read


def _place(error: BaseException) -> str:
    """Where an error arose, by the last frames."""
    frames = traceback.extract_tb(error.__traceback__)
    return "".join(f"\n    {frame.filename}:{frame.lineno} {frame.name}" for frame in frames[-6:])
