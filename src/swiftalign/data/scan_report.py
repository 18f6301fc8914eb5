"""What is wrong with the rows of the data, as findings: one for each code."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from swiftalign.data.records import Size
from swiftalign.data.tokens import PixelLimits
from swiftalign.problems import DATA_CODES, Problem, counted

NAMED_ROWS = 4  # that a finding names; the others are counted


class RowProblems:
    """Problems of rows by code: the first ones in full, the others as a number."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._first: dict[str, list[Problem]] = {}

    def add(self, problem: Problem, where: str) -> None:
        """Take a problem into account.

        Args:
            where: ``FILE:LINE`` of the row, or what else has the problem.
        """
        self.counts[problem.code] += 1
        first = self._first.setdefault(problem.code, [])
        if len(first) < NAMED_ROWS:
            first.append(replace(problem, message=_brief(problem.message), where=where))

    def findings(self) -> Iterator[Problem]:
        for code, (_, title) in DATA_CODES.items():
            if code in self._first:
                first, *others = self._first[code]
                lines = [f"{title}: {first.message}" if first.message else title]
                lines += [f"    {other.where}: {other.message}".removesuffix(": ") for other in others]
                rest = self.counts[code] - len(self._first[code])
                lines += [f"    and {counted(rest, 'more row')}"] if rest else []
                yield replace(first, message="\n".join(lines))


@dataclass
class SeenSizes:
    """What happens to the images' sizes on their way into the model.

    Attributes:
        images: number of images.
        changed: number of images that reach the model at another size.
        reduced: number of images with more pixels than the model gets.
        largest: the largest image: its pixels, path, size, and size in the model.
    """

    images: int = 0
    changed: int = 0
    reduced: int = 0
    largest: tuple[int, str, Size, Size] = (0, "", (0, 0), (0, 0))

    def add(self, path: Path, size: Size, becomes: Size, limits: PixelLimits) -> None:
        self.images += 1
        self.changed += size != becomes
        pixels = size[0] * size[1]
        self.reduced += pixels > min(limits.most, limits.before or limits.most)
        if pixels > self.largest[0]:
            self.largest = (pixels, str(path), size, becomes)

    def findings(self) -> Iterator[Problem]:
        if not self.changed:
            return
        _, path, (width, height), (wide, high) = self.largest
        message = (
            f"{self.changed:,} of {counted(self.images, 'image')} reach the model at another size, "
            f"{self.reduced:,} of them reduced to its limit; the largest is {path}, {width}x{height} -> {wide}x{high}"
        )
        yield Problem("data-image-resized", message)


def _brief(text: str, limit: int = 300) -> str:
    """A text that may hold the data's own words, for a message: not long, and safe to print."""
    cut = text if len(text) <= limit else f"{text[:limit]}..."
    return cut if cut.isprintable() else cut.encode("unicode_escape").decode()
