"""What a scan has seen, as findings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from swiftalign.data.tokens import PixelLimits, Size
from swiftalign.problems import Problem, counted

NAMED_ROWS = 4  # that a finding names; the others it counts

# Code -> the finding in words, and what to do about it.
_WORDS: dict[str, tuple[str, str]] = {
    "data-empty": ("no rows", "name a file with rows"),
    "data-row-malformed": ("row malformed", "mend or remove these rows"),
    "data-image-missing": ("no such image", "image paths count from the JSONL file's folder"),
    "data-image-unreadable": ("image unreadable", "replace these images, or remove their rows"),
    "data-outside-image": (
        "coordinates outside the image",
        'check that they are pixels of this very image, or 0..1000 with "coordinates": "relative1000"; '
        "let through, they are cut at its edge",
    ),
    "data-outside-slightly": ("coordinates just outside the image", "they are cut at its edge"),
    "data-coordinates-pixel-like": (
        "relative coordinates above 1000",
        'if they are pixels, leave "coordinates" out of the rows',
    ),
    "data-coordinates-relative-like": (
        "pixel coordinates that look relative",
        'if they are 0..1000 of the image\'s sides, add "coordinates": "relative1000" to the rows',
    ),
    "data-box-degenerate": ("box without area", "a box is [x1, y1, x2, y2], not [x, y, width, height]"),
    "data-quad-crossed": ("quad crosses itself", "give its corners in order around the object"),
    "data-line-degenerate": ("line without length", "remove it, or give its ends"),
    "data-outline-apart": ("box and quad of one object lie apart", "augmentation builds the box from the quad"),
    "data-special-text": (
        "text holds what is read as a token or a placeholder",
        "remove it; the image's place is put in by itself",
    ),
    "data-placeholders": ("placeholders do not fit", "write <image> and <bbox> once for each image and box"),
    "data-too-long": ("longer than max_length", "raise data.max_length, or leave them out: data.too_long: drop"),
    "data-too-long-dropped": ("left out, longer than max_length", ""),
    "data-no-objects": ("no objects", "the model learns to answer [] there"),
    "data-unchecked": ("not checked whole", ""),
}


class SeenFaults:
    """Faults by code: the first ones in words, the others as numbers."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._first: dict[str, list[tuple[str, str]]] = {}

    def add(self, code: str, where: str, detail: str = "") -> None:
        """A fault of a row, or of what else `where` names."""
        self.counts[code] += 1
        first = self._first.setdefault(code, [])
        if len(first) < NAMED_ROWS:
            first.append((where, _brief(detail)))

    def findings(self) -> Iterator[Problem]:
        """One for each code."""
        for code, (title, hint) in _WORDS.items():
            if code in self._first:
                (where, detail), *others = self._first[code]
                lines = [f"{title}: {detail}" if detail else title]
                lines += [f"    {place}: {more}" if more else f"    {place}" for place, more in others]
                rest = self.counts[code] - len(self._first[code])
                lines += [f"    and {counted(rest, 'more row')}"] if rest else []
                yield Problem(code, "\n".join(lines), hint, where=where)


@dataclass
class SeenSizes:
    """What happens to the images' sizes on their way into the model."""

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
