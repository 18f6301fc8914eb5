"""Splitting training rows into a curriculum: few objects per image first, then more, then all."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from swiftalign.data.formats import read_row
from swiftalign.data.rows import DataFile
from swiftalign.files import appearing
from swiftalign.problems import SwiftalignError

# Most objects per image in the first two phases; the third has every row.
SIMPLE, MEDIUM = 3, 8
EPOCHS = (30, 30, 40)


@dataclass(frozen=True)
class Curriculum:
    """Files of the phases, and the number of rows in each."""

    simple: Path
    medium: Path
    full: Path
    rows: tuple[int, int, int]


def split(source: Path, *, force: bool = False, progress: Callable[[int], None] = lambda rows: None) -> Curriculum:
    """Write the rows with one to three and with four to eight objects beside the source, each in the source's order.

    Image paths stay valid, as they count from the same folder. Rows without an object are in the full data alone.

    Raises:
        SwiftalignError: the source can't be read, a row is malformed, a phase would be empty, or a file is there.
    """
    simple, medium = (source.with_name(f"{source.stem}.{name}{source.suffix}") for name in ("simple", "medium"))
    for path in (simple, medium):
        if path.exists() and not force:
            raise SwiftalignError(f"{path} exists already", "pass --force to overwrite it")
    few = many = total = 0
    try:
        with ExitStack() as stack:
            files = [stack.enter_context(appearing(path)) for path in (simple, medium)]
            first, second = (stack.enter_context(file.open("wb")) for file in files)
            for line, content in DataFile(source).read():
                objects = read_row(content, source, line).objects
                if 1 <= objects <= MEDIUM:
                    (first if objects <= SIMPLE else second).write(content.rstrip(b"\r\n") + b"\n")
                    few, many = few + (objects <= SIMPLE), many + (objects > SIMPLE)
                total += 1
                if total % 1000 == 0:
                    progress(total)
            for name, count, most in (("simple", few, SIMPLE), ("medium", many, MEDIUM)):
                if not count:
                    hint = "write the phases by hand, see configs/strategies/curriculum.yaml"
                    fault = f"{source}: no row for the {name} phase, which takes images with up to {most} objects"
                    raise SwiftalignError(fault, hint)
    except OSError as error:
        raise SwiftalignError(f"{error.filename or source}: {error.strerror or error}") from None
    return Curriculum(simple, medium, source, (few, many, total))
