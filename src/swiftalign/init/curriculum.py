"""Splitting training rows into a curriculum: few objects an image first, then more, then all."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swiftalign.data.answers import parse_answer
from swiftalign.data.records import layout_fault, parse_row, read_lines
from swiftalign.files import appearing
from swiftalign.problems import SwiftalignError

# Objects an image, at most, of the first two phases; the third has every row.
SIMPLE, MEDIUM = 3, 8
EPOCHS = (30, 30, 40)


@dataclass(frozen=True)
class Curriculum:
    """Files of the phases, each with its number of rows."""

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
    counts = [0, 0, 0]
    try:
        with ExitStack() as stack:
            rows = stack.enter_context(source.open("rb"))
            files = [stack.enter_context(appearing(path)) for path in (simple, medium)]
            parts = [stack.enter_context(file.open("wb")) for file in files]
            for number, line in read_lines(rows):
                objects = _objects(parse_row(line, source, number), f"{source}:{number}")
                for phase, (least, most) in enumerate(((1, SIMPLE), (SIMPLE + 1, MEDIUM))):
                    if least <= objects <= most:
                        parts[phase].write(line.rstrip(b"\r\n") + b"\n")
                        counts[phase] += 1
                counts[2] += 1
                if counts[2] % 1000 == 0:
                    progress(counts[2])
            for name, count, most in zip(("simple", "medium"), counts, (SIMPLE, MEDIUM), strict=False):
                if not count:
                    raise SwiftalignError(f"{source}: no row for the {name} phase", _WANTED.format(most=most))
    except OSError as error:
        raise SwiftalignError(f"{error.filename or source}: {error.strerror or error}") from None
    return Curriculum(simple, medium, source, (counts[0], counts[1], counts[2]))


_WANTED = "it takes images with up to {most} objects; write the phases by hand, see configs/strategies/curriculum.yaml"


def _objects(row: Any, where: str) -> int:
    """How many objects a row has; of ms-swift's rows, those that the answer names."""
    fault = layout_fault(row)
    if fault:
        raise SwiftalignError(f"{where}: {fault}", "'swiftalign train' checks every row")
    if "messages" not in row:
        return len(row["objects"])
    boxes = (row.get("objects") or {}).get("bbox")
    text = row["messages"][-1].get("content")
    return len(boxes) if boxes else len(parse_answer(text).targets) if isinstance(text, str) else 0
