"""The contact sheet: every original beside its variants, as one picture.

Lengths are in points of the page; the picture has `SCALE` pixels for each.
"""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from swiftalign.data.records import Kind
from swiftalign.preview.strips import Panel, Shape, Strip

SCALE = 2
SMOOTH = 2  # further pixels of a stroke, averaged away
CELL, GAP, MARGIN = 270, 18, 26
TALLEST = 320  # of an image
MOST_COLUMNS = 5
TEXT, LABEL = 12.5, 11.5
MOST_NUMBERED = 12  # points of a line; of longer ones only the ends are numbered

INK, DIM, FAINT, PAPER = "#1f2328", "#656d76", "#d0d7de", "#ffffff"
TROUBLE, LEFT_OUT = "#d1242f", "#9a6700"
COLOURS: dict[Kind, str] = {"bbox": "#0969da", "quad": "#1a7f37", "line": "#8250df"}
NAMES: dict[Kind, str] = {"bbox": "box", "quad": "quad", "line": "line"}

# For labels that DejaVu has no glyphs for; Pillow finds them where the system keeps its fonts.
_WIDE_FONTS = ("NotoSansCJK-Regular.ttc", "wqy-microhei.ttc", "msyh.ttc", "PingFang.ttc", "Arial Unicode.ttf")
_WIDE_FROM = "\u2e80"

Box = tuple[float, float, float, float]
Pixel = tuple[float, float]


def render_sheet(
    strips: Sequence[Strip], heading: str, *, title: str = "Augmentation preview", fates: bool = True
) -> Image.Image:
    """Strips below one another, with a legend.

    Args:
        heading: what is shown, in one line.
        fates: whether the legend explains clipped and dropped targets.
    """
    columns = min(max(len(strip.panels) for strip in strips), MOST_COLUMNS)
    width = max(2 * MARGIN + columns * CELL + (columns - 1) * GAP, 640)
    rendered = [_strip(strip, columns, width) for strip in strips]
    head = _head(title, heading, _LEGEND if fates else _LEGEND[:3], width)
    height = sum(part.height for part in (head, *rendered)) + MARGIN * SCALE
    sheet = Image.new("RGB", (width * SCALE, height), PAPER)
    top = 0
    for part in (head, *rendered):
        sheet.paste(part, (0, top))
        top += part.height
    return sheet


def png(picture: Image.Image) -> bytes:
    """A picture as the bytes of a PNG file."""
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def _head(title: str, heading: str, legend: Iterable[tuple[Shape, str]], width: int) -> Image.Image:
    page = _page(width, 104)
    draw = ImageDraw.Draw(page)
    _write(draw, (MARGIN, 24), title, 21, INK, bold=True)
    _write(draw, (MARGIN, 54), heading, 13, DIM)
    left: float = MARGIN
    for shape, text in legend:
        swatch = Image.new("RGB", (30 * SCALE, 16 * SCALE), PAPER)
        _Overlay(swatch).strokes([shape])
        page.paste(swatch, (round(left * SCALE), 80 * SCALE))
        _write(draw, (left + 36, 80), text, TEXT, INK)
        left += 36 + draw.textlength(text, _font(TEXT)) / SCALE + 22
    return page


_SWATCH_BOX = ((0.08, 0.14), (0.92, 0.86))
_LEGEND = (
    (Shape("bbox", "", _SWATCH_BOX), "box"),
    (Shape("quad", "", ((0.2, 0.1), (0.95, 0.2), (0.8, 0.9), (0.05, 0.8))), "quad, corners numbered"),
    (Shape("line", "", ((0.05, 0.8), (0.95, 0.2))), "line, points numbered"),
    (Shape("bbox", "", _SWATCH_BOX, "clipped"), "clipped"),
    (Shape("bbox", "", _SWATCH_BOX, "dropped"), "dropped"),
)


def _strip(strip: Strip, columns: int, width: int) -> Image.Image:
    """A row's panels, in lines of ``columns``."""
    lines = [strip.panels[start : start + columns] for start in range(0, len(strip.panels), columns)]
    cells = [[_cell(panel) for panel in line] for line in lines]
    tall = [max(image.height for image, _ in line) for line in cells]
    words = [max(_height(text) for _, text in line) for line in cells]
    page = _page(width, 40)
    total = sum(tall) + sum(count + GAP * SCALE for count in words)
    page = _page(width, 40 + math.ceil(total / SCALE))
    draw = ImageDraw.Draw(page)
    draw.line((MARGIN * SCALE, 4 * SCALE, (width - MARGIN) * SCALE, 4 * SCALE), FAINT, SCALE)
    _write(draw, (MARGIN, 14), f"row {strip.row}", 14, INK, bold=True)
    name = _cut("/".join(strip.path.parts[-3:]), 12, width - 2 * MARGIN - 100)
    _write(draw, (MARGIN + draw.textlength(f"row {strip.row}", _font(14, True)) / SCALE + 12, 16), name, 12, DIM)
    top = 40 * SCALE
    for line, height, text_height in zip(cells, tall, words, strict=True):
        for column, (image, text) in enumerate(line):
            left = (MARGIN + column * (CELL + GAP)) * SCALE
            page.paste(image, (left, top))
            draw.rectangle((left - 1, top - 1, left + image.width, top + image.height), outline=FAINT)
            _paragraph(draw, left, top + height + 8 * SCALE, text)
        top += height + text_height + GAP * SCALE
    return page


@dataclass(frozen=True)
class _Words:
    """A line of a caption."""

    text: str
    size: float
    colour: str
    bold: bool = False


def _cell(panel: Panel) -> tuple[Image.Image, list[_Words]]:
    """A panel's picture with its targets drawn, and its caption in lines."""
    height, width = panel.image.shape[:2]
    zoom = min(CELL * SCALE / width, TALLEST * SCALE / height)
    size = max(1, round(width * zoom)), max(1, round(height * zoom))
    picture = Image.fromarray(panel.image).resize(size, Image.Resampling.LANCZOS)
    overlay = _Overlay(picture)
    overlay.strokes(panel.shapes)
    overlay.words(panel.shapes)
    left_out = ", ".join(entry.replace(": ", " (", 1) + ")" for entry in panel.left_out)
    lines = [_Words(f"{panel.title}   {panel.size[0]}×{panel.size[1]}", 13, INK, True)]  # noqa: RUF001
    lines += _wrapped(", ".join(panel.operations), DIM)
    lines += _wrapped(f"not applied: {left_out}" if left_out else "", LEFT_OUT)
    lines += [line for fault in panel.faults for line in _wrapped(fault, TROUBLE)]
    return picture, lines


def _wrapped(text: str, colour: str) -> Iterator[_Words]:
    line = ""
    for word in text.split():
        longer = f"{line} {word}".strip()
        if line and _font(TEXT).getlength(longer) > CELL * SCALE:
            yield _Words(line, TEXT, colour)
            longer = word
        line = longer
    if line:
        yield _Words(_cut(line, TEXT, CELL), TEXT, colour)


def _height(lines: Sequence[_Words]) -> int:
    return sum(_leading(words) for words in lines) + 8 * SCALE


def _leading(words: _Words) -> int:
    return round(words.size * 1.45 * SCALE)


def _paragraph(draw: ImageDraw.ImageDraw, left: int, top: int, lines: Sequence[_Words]) -> None:
    for words in lines:
        draw.text((left, top), words.text, words.colour, _font(words.size, words.bold, _is_wide(words.text)))
        top += _leading(words)


class _Overlay:
    """Draws targets over a picture: first all strokes, which are smoothed, then numbers and labels."""

    def __init__(self, picture: Image.Image) -> None:
        self.picture = picture
        self._taken: list[Box] = []

    def strokes(self, shapes: Iterable[Shape]) -> None:
        size = self.picture.width * SMOOTH, self.picture.height * SMOOTH
        layer = Image.new("RGBA", size, (255, 255, 255, 0))
        draw = ImageDraw.Draw(layer)
        unit = SCALE * SMOOTH
        for shape in shapes:
            path = [(x * size[0], y * size[1]) for x, y in shape.corners]
            closed = path if shape.kind == "line" else [*path, path[0]]
            for colour, width in (("#ffffffb0", 4.5), (_colour(shape), 2.2)):
                for part in _dashes(closed, 7 * unit, 5 * unit) if shape.fate == "dropped" else [closed]:
                    draw.line(part, colour, round(width * unit), joint="curve")
            if shape.kind == "line":
                for a, b in pairwise(path):
                    draw.polygon(_arrow(a, b, 6.5 * unit), _colour(shape))
        layer = layer.reduce(SMOOTH)
        self.picture.paste(layer, (0, 0), layer)

    def words(self, shapes: Sequence[Shape]) -> None:
        for shape in shapes:
            if shape.kind != "bbox":
                self._numbers(shape)
        for shape in shapes:
            self._label(shape)

    def _place(self, shape: Shape) -> list[Pixel]:
        return [(x * self.picture.width, y * self.picture.height) for x, y in shape.corners]

    def _numbers(self, shape: Shape) -> None:
        points = self._place(shape)
        for number, (x, y) in enumerate(points, 1):
            if len(points) > MOST_NUMBERED and 1 < number < len(points):
                continue
            radius = 6.5 * SCALE
            x = min(max(x, radius), self.picture.width - radius) if _near(x, self.picture.width, radius) else x
            y = min(max(y, radius), self.picture.height - radius) if _near(y, self.picture.height, radius) else y
            self._disc(x, y, radius, _colour(shape))
            self._taken.append((x - radius, y - radius, x + radius, y + radius))
            draw = ImageDraw.Draw(self.picture)
            draw.text((x, y), str(number), "white", _font(9 if number < 10 else 7.5, True), anchor="mm")

    def _disc(self, x: float, y: float, radius: float, colour: str) -> None:
        side = round(2 * radius) * 4
        mask = Image.new("L", (side, side))
        ImageDraw.Draw(mask).ellipse((0, 0, side - 1, side - 1), 255)
        mask = mask.reduce(4)
        self.picture.paste(Image.new("RGB", mask.size, colour), (round(x - radius), round(y - radius)), mask)

    def _label(self, shape: Shape) -> None:
        text = " · ".join(part for part in (_clean(shape.label), shape.note) if part)
        text = _cut(text, LABEL, self.picture.width / SCALE - 10)
        font = _font(LABEL, wide=_is_wide(text))
        width, height = font.getlength(text) + 8 * SCALE, 17 * SCALE
        left, top = self._free_place(shape, width, height)
        self._taken.append((left, top, left + width, top + height))
        draw = ImageDraw.Draw(self.picture)
        draw.rounded_rectangle((left, top, left + width, top + height), 3 * SCALE, _colour(shape))
        draw.text((left + 4 * SCALE, top + height / 2), text, "white", font, anchor="lm")

    def _free_place(self, shape: Shape, width: float, height: float) -> Pixel:
        """The first wish where neither a number nor another label is; else the nearest free line to the first."""
        wishes = [self._on_picture(x, y, width, height) for x, y in self._wishes(shape, width, height)]
        left, wanted = wishes[0]
        lines = [(left, k * height) for k in range(int(self.picture.height // height))]
        free = [
            at
            for at in (*wishes, *sorted(lines, key=lambda at: abs(at[1] - wanted)))
            if self._is_free(at, width, height)
        ]
        return free[0] if free else wishes[0]

    def _wishes(self, shape: Shape, width: float, height: float) -> Iterator[Pixel]:
        """Above a box, at its top inside, or below it; over or under a point of a quad or a line."""
        points = self._place(shape)
        apart = 4 * SCALE
        if shape.kind == "bbox":
            xs, ys = zip(*points, strict=True)
            yield from ((min(xs), top) for top in (min(ys) - height - apart, min(ys) + apart, max(ys) + apart))
            return
        apart += 5 * SCALE
        for x, y in sorted(points[:MOST_NUMBERED], key=lambda point: point[1]):
            yield from ((x - width / 2, y - height - apart), (x - width / 2, y + apart))

    def _on_picture(self, left: float, top: float, width: float, height: float) -> Pixel:
        lowest, rightmost = max(self.picture.height - height, 0), max(self.picture.width - width, 0)
        return min(max(left, 0), rightmost), min(max(top, 0), lowest)

    def _is_free(self, at: Pixel, width: float, height: float) -> bool:
        box = (at[0], at[1], at[0] + width, at[1] + height)
        return not any(_overlap(box, taken) for taken in self._taken)


def _colour(shape: Shape) -> str:
    return COLOURS[shape.kind] if shape.fate == "kept" else TROUBLE


def _near(value: float, side: int, radius: float) -> bool:
    """Whether a point lies on the picture, or so near that its disc is moved onto it."""
    return -radius <= value <= side + radius


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _dashes(path: Sequence[Pixel], dash: float, gap: float) -> Iterator[list[Pixel]]:
    """Pieces of a path; each side begins with a dash, so that corners show."""
    for a, b in pairwise(path):
        length = math.dist(a, b)
        count = min(math.ceil(length / (dash + gap)), 400)
        for index in range(count):
            start, end = index * (dash + gap) / length, min((index * (dash + gap) + dash) / length, 1)
            yield [(a[0] + t * (b[0] - a[0]), a[1] + t * (b[1] - a[1])) for t in (start, end)]


def _arrow(a: Pixel, b: Pixel, size: float) -> list[Pixel]:
    """An arrow head in the middle of a segment, from a to b."""
    length = math.dist(a, b) or 1.0
    x, y = (b[0] - a[0]) / length * size, (b[1] - a[1]) / length * size
    middle = (a[0] + b[0]) / 2, (a[1] + b[1]) / 2
    back = middle[0] - x / 2, middle[1] - y / 2
    return [
        (middle[0] + x, middle[1] + y),
        (back[0] - y * 0.8, back[1] + x * 0.8),
        (back[0] + y * 0.8, back[1] - x * 0.8),
    ]


def _page(width: int, height: int) -> Image.Image:
    return Image.new("RGB", (width * SCALE, height * SCALE), PAPER)


def _write(
    draw: ImageDraw.ImageDraw, at: tuple[float, float], text: str, size: float, colour: str, *, bold: bool = False
) -> None:
    draw.text((at[0] * SCALE, at[1] * SCALE), text, colour, _font(size, bold))


def _is_wide(text: str) -> bool:
    return any(letter >= _WIDE_FROM for letter in text)


def _clean(text: str) -> str:
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text[:200]).split())


def _cut(text: str, size: float, width: float) -> str:
    """Text that fits, with an ellipsis where something was cut off."""
    font = _font(size, wide=_is_wide(text))
    if font.getlength(text) <= width * SCALE:
        return text
    while text and font.getlength(f"{text}…") > width * SCALE:
        text = text[:-1]
    return f"{text}…"


@functools.cache
def _font(size: float, bold: bool = False, wide: bool = False) -> ImageFont.FreeTypeFont:
    import matplotlib

    for name in _WIDE_FONTS if wide else ():
        try:
            return ImageFont.truetype(name, size * SCALE)
        except OSError:
            continue
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return ImageFont.truetype(folder / f"DejaVuSans{'-Bold' if bold else ''}.ttf", size * SCALE)
