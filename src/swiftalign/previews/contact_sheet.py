"""The contact sheet: every original beside its variants, as one picture.

Lengths are in points of the page; the picture has `SCALE` pixels for each.
"""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps, ImageStat

from swiftalign.data.polygons import area, envelope
from swiftalign.data.targets import Kind, Point
from swiftalign.previews.strips import Panel, Shape, Strip

SCALE = 2
SMOOTH = 2  # strokes are drawn this many times larger and then reduced
CELL, WIDE_CELL, GAP, MARGIN = 270, 360, 18, 26  # a cell is wide where an image has more pixels than a narrow one
TALLEST = 1.2  # height of an image at most, over the width of its cell
NARROWEST = 640  # width of the sheet at least
MOST_COLUMNS = 5
TEXT, LABEL, LEADING = 12.5, 11.5, 18
MOST_NUMBERED = 12  # points of a line or a polygon; of one with more, only the first and the last are numbered
DOT, DISC = 4.0, 5.5  # radius of a point, and of a number
SMALL = 0.03  # share of the image that an object has at most whose inside no label should cover

PICTURES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}  # how a picture's file ends, and its format
INK, DIM, FAINT, PAPER, CASING = "#1f2328", "#656d76", "#d0d7de", "#ffffff", "#ffffffb0"
TROUBLE, LEFT_OUT = "#d1242f", "#9a6700"
# White letters are readable on each. The last two can be told from all others, and from red, in any colour vision.
COLOURS: dict[Kind, str] = {
    "bbox": "#0969da",
    "quad": "#1a7f37",
    "line": "#8250df",
    "point": "#bf3989",
    "polygon": "#24292f",
}

# For labels with letters that DejaVu lacks; Pillow looks for these fonts in the system's folders.
_WIDE_FONTS = ("NotoSansCJK-Regular.ttc", "wqy-microhei.ttc", "msyh.ttc", "PingFang.ttc", "Arial Unicode.ttf")
_WIDE_FROM = "\u2e80"

Box = tuple[float, float, float, float]  # left, top, right, bottom

_SWATCH_BOX = ((0.08, 0.14), (0.92, 0.86))
_KINDS = (
    (Shape("bbox", "", _SWATCH_BOX), "box"),
    (Shape("quad", "", ((0.2, 0.1), (0.95, 0.2), (0.8, 0.9), (0.05, 0.8))), "quad, corners numbered"),
    (Shape("line", "", ((0.05, 0.8), (0.95, 0.2))), "line, points numbered"),
    (Shape("point", "", ((0.5, 0.5),)), "point"),
    (Shape("polygon", "", ((0.1, 0.3), (0.6, 0.1), (0.95, 0.6), (0.5, 0.9), (0.4, 0.5))), "polygon, corners numbered"),
)
_LOSSES = (
    (Shape("bbox", "", _SWATCH_BOX, "clipped"), "clipped"),
    (Shape("bbox", "", _SWATCH_BOX, "dropped"), "dropped"),
)


def render_sheet(
    strips: Sequence[Strip], heading: str, *, title: str = "Augmentation preview", with_losses: bool = True
) -> Image.Image:
    """Strips below one another, with a legend of the kinds of targets in them.

    Args:
        heading: line below the title.
        title: title of the sheet.
        with_losses: whether the legend explains clipped and dropped targets.
    """
    columns = min(max(len(strip.panels) for strip in strips), MOST_COLUMNS)
    largest = max(max(panel.image.shape) for strip in strips for panel in strip.panels)
    across = WIDE_CELL if largest > CELL else CELL
    width = max(columns * (across + GAP) - GAP, NARROWEST - 2 * MARGIN)
    present = {shape.kind for strip in strips for panel in strip.panels for shape in panel.shapes}
    legend = [entry for entry in _KINDS if entry[0].kind in present] + [*(_LOSSES if with_losses else ())]
    left, top, places = 0.0, 54, list[tuple[float, int]]()
    for _, text in legend:
        wide = 36 + _font(TEXT).getlength(text) / SCALE
        if left + wide > width:
            left, top = 0.0, top + 24
        places.append((left, top))
        left += wide + 22
    head = _blank(width, top + 24)
    _write(head, 0, 0, title, 21, INK, bold=True)
    _write(head, 0, 28, heading, 13, DIM)
    for (shape, text), (left, top) in zip(legend, places, strict=True):
        swatch = _blank(30, 16)
        _draw_shapes(swatch, [shape])
        head.paste(swatch, (round(left * SCALE), top * SCALE))
        _write(head, left + 36, top, text, TEXT, INK)
    parts = [head]
    for strip in strips:
        head = _blank(width, 40)
        ImageDraw.Draw(head).line((0, 4 * SCALE, head.width, 4 * SCALE), FAINT, SCALE)
        left = 12 + _write(head, 0, 14, f"row {strip.row}", 14, INK, bold=True)
        _write(head, left, 16, _cut("/".join(Path(strip.name).parts[-3:]), 12, width - left), 12, DIM)
        cells = [_cell(panel, across) for panel in strip.panels]
        lines = [cells[start : start + columns] for start in range(0, len(cells), columns)]
        parts += [head, *(_joined(line, across=True, gap=GAP * SCALE) for line in lines)]
    return ImageOps.expand(_joined(parts), MARGIN * SCALE, PAPER)


def lacks_letters(strips: Sequence[Strip]) -> bool:
    """Whether no font of this machine has the letters of some labels."""
    wide = any(_is_wide(shape.label) for strip in strips for panel in strip.panels for shape in panel.shapes)
    return wide and _font(LABEL, wide=True).getname()[0] == _font(LABEL).getname()[0]


def encoded_picture(picture: Image.Image, suffix: str) -> bytes:
    """A picture as the bytes of a file whose name ends so: `PICTURES`."""
    file = io.BytesIO()
    picture.save(file, PICTURES[suffix.lower()], quality=85)
    return file.getvalue()


def _cell(panel: Panel, across: int) -> Image.Image:
    """A panel's picture with its targets, and its caption, as wide as this."""
    height, width = panel.image.shape[:2]
    zoom = min(across * SCALE / width, TALLEST * across * SCALE / height)
    size = max(1, round(width * zoom)), max(1, round(height * zoom))
    picture = Image.fromarray(panel.image).resize(size, Image.Resampling.LANCZOS)
    ImageDraw.Draw(picture).rectangle((0, 0, size[0] - 1, size[1] - 1), outline=FAINT)
    taken = _draw_shapes(picture, panel.shapes, numbered=True)
    worth = Image.new("L", size)  # what labels should not cover: outlines, and small objects
    for shape in panel.shapes:
        path = [(x * size[0], y * size[1]) for x, y in shape.corners]
        if shape.kind not in ("line", "point") and area(np.array(shape.corners)) < SMALL:
            ImageDraw.Draw(worth).polygon(path, 255)
        dot = [(path[0][0] + turn * SCALE * DOT, path[0][1]) for turn in (-1, 1)]
        ImageDraw.Draw(worth).line(dot if shape.kind == "point" else path, 255, round(2 * DOT * SCALE))
    for shape in panel.shapes:
        _draw_label(picture, shape, taken, worth)
    left_out = ", ".join(entry.replace(": ", " (", 1) + ")" for entry in panel.left_out)
    texts = [
        (", ".join(panel.operations), DIM),
        (f"not applied: {left_out}" if left_out else "", LEFT_OUT),
        *((fault, TROUBLE) for fault in panel.faults),
    ]
    lines = [(line, colour) for text, colour in texts for line in _wrapped(text, across)]
    top = math.ceil(picture.height / SCALE) + 8
    cell = _blank(across, top + (len(lines) + 1) * LEADING + GAP)
    cell.paste(picture)
    _write(cell, 0, top, f"{panel.title}   {panel.size[0]}×{panel.size[1]}", 13, INK, bold=True)  # noqa: RUF001
    for number, (line, colour) in enumerate(lines, 1):
        _write(cell, 0, top + number * LEADING, line, TEXT, colour)
    return cell


def _draw_shapes(picture: Image.Image, shapes: Sequence[Shape], *, numbered: bool = False) -> list[Box]:
    """Draw targets over a picture with smooth strokes, and return the places of the points' numbers."""
    layer = Image.new("RGBA", (picture.width * SMOOTH, picture.height * SMOOTH), (255, 255, 255, 0))
    draw, unit = ImageDraw.Draw(layer), SCALE * SMOOTH
    paths = [[(x * layer.width, y * layer.height) for x, y in shape.corners] for shape in shapes]
    for shape, path in zip(shapes, paths, strict=True):
        outline = path if shape.kind == "line" else [*path, path[0]]
        for colour, width in ((CASING, 4.5), (_colour(shape), 2.2)):
            if shape.kind == "point":
                [(x, y)], radius = path, (DOT + width / 2) * unit
                draw.ellipse((x - radius, y - radius, x + radius, y + radius), colour)
                continue
            for part in _dashes(outline, 7 * unit, 5 * unit) if shape.status == "dropped" else [outline]:
                draw.line(part, colour, round(width * unit), joint="curve")
        for a, b in pairwise(path if shape.kind == "line" else []):
            middle, direction = ((a[0] + b[0]) / 2, (a[1] + b[1]) / 2), math.atan2(b[0] - a[0], b[1] - a[1])
            draw.regular_polygon((middle, 6.5 * unit), 3, 180 + math.degrees(direction), _colour(shape))
    taken, radius = list[Box](), DISC * unit
    for shape, path in zip(shapes, paths, strict=True):
        middle = np.mean(path, axis=0)
        drawn: list[Point] = []
        for number, (x, y) in enumerate(path if numbered and shape.kind not in ("bbox", "point") else (), 1):
            if len(path) > MOST_NUMBERED and 1 < number < len(path):
                continue
            if shape.kind != "line":  # beside a corner, not over the object
                away = math.dist((x, y), middle) or 1.0
                x, y = x + radius * (x - middle[0]) / away, y + radius * (y - middle[1]) / away
            if -2 * radius <= x <= layer.width + 2 * radius and -2 * radius <= y <= layer.height + 2 * radius:
                x, y = _clamp(x, radius, layer.width - radius), _clamp(y, radius, layer.height - radius)
                if any(math.dist((x, y), other) < 1.6 * radius for other in drawn):
                    continue
                disc = x - radius, y - radius, x + radius, y + radius
                draw.ellipse(disc, _colour(shape))
                draw.text((x, y), str(number), "white", _font((8 if number < 10 else 6.5) * SMOOTH, True), anchor="mm")
                drawn.append((x, y))
                taken.append(disc)
    layer = layer.reduce(SMOOTH)
    picture.paste(layer, (0, 0), layer)
    return [(a / SMOOTH, b / SMOOTH, c / SMOOTH, d / SMOOTH) for a, b, c, d in taken]


def _draw_label(picture: Image.Image, shape: Shape, taken: list[Box], worth: Image.Image) -> None:
    """Write a target's label where it covers least of what is worth seeing, or else on the nearest free line.

    Args:
        taken: places of numbers and other labels in pixels; the label's place is added.
        worth: the picture's size; light where something is worth seeing.
    """
    text = " ".join("".join(letter if letter.isprintable() else " " for letter in shape.label[:200]).split())
    text = _cut(" · ".join(part for part in (text, shape.note) if part), LABEL, picture.width / SCALE - 10)
    font = _font(LABEL, wide=_is_wide(text))
    width, height = font.getlength(text) + 8 * SCALE, 17 * SCALE
    points = [(x * picture.width, y * picture.height) for x, y in shape.corners]
    if shape.kind == "bbox":
        (left, top), (right, bottom) = envelope(np.array(points))
        apart = 3 * SCALE
        downs = top - height - apart, bottom + apart, top + apart, bottom - height - apart
        places = [(x, y) for y in downs for x in (left, right - width)]
    else:
        apart = round((2 * DISC + 2) * SCALE)
        spots = sorted(points[:MOST_NUMBERED], key=lambda point: point[1])
        aside = (
            (-width / 2, -height - apart),
            (-width / 2, apart),
            (apart, -height / 2),
            (-width - apart, -height / 2),
        )
        places = [(x + right, y + down) for x, y in spots for right, down in aside]
    places = [(_clamp(left, 0, picture.width - width), _clamp(top, 0, picture.height - height)) for left, top in places]
    lines = [(places[0][0], number * height) for number in range(int(picture.height // height))]

    def free(place: Point) -> bool:
        left, top = place
        return not any(left < r and le < left + width and top < b and t < top + height for le, t, r, b in taken)

    def covered(place: Point) -> float:
        left, top = place
        return float(ImageStat.Stat(worth.crop((left, top, left + width, top + height))).sum[0])

    nearest = sorted(filter(free, lines), key=lambda at: abs(at[1] - places[0][1]))
    left, top = min(filter(free, places), key=covered, default=nearest[0] if nearest else places[0])
    taken.append((left, top, left + width, top + height))
    draw = ImageDraw.Draw(picture)
    draw.rounded_rectangle(taken[-1], 3 * SCALE, _colour(shape))
    draw.text((left + 4 * SCALE, top + height / 2), text, "white", font, anchor="lm")


def _colour(shape: Shape) -> str:
    return COLOURS[shape.kind] if shape.status == "kept" else TROUBLE


def _clamp(value: float, low: float, high: float) -> float:
    return max(min(value, high), low)


def _dashes(path: Sequence[Point], dash: float, gap: float) -> Iterator[list[Point]]:
    """The dashes along a path; each side begins with a dash, so that corners are visible."""
    for a, b in pairwise(path):
        length = math.dist(a, b)
        for index in range(min(math.ceil(length / (dash + gap)), 400)):
            start, end = index * (dash + gap) / length, min((index * (dash + gap) + dash) / length, 1)
            yield [(a[0] + t * (b[0] - a[0]), a[1] + t * (b[1] - a[1])) for t in (start, end)]


def _blank(width: int, height: int) -> Image.Image:
    return Image.new("RGB", (width * SCALE, height * SCALE), PAPER)


def _joined(parts: Sequence[Image.Image], *, across: bool = False, gap: int = 0) -> Image.Image:
    """Pictures below one another, or beside one another."""
    widths, heights, gaps = [part.width for part in parts], [part.height for part in parts], gap * (len(parts) - 1)
    size = (sum(widths) + gaps, max(heights)) if across else (max(widths), sum(heights) + gaps)
    page, at = Image.new("RGB", size, PAPER), 0
    for part in parts:
        page.paste(part, (at, 0) if across else (0, at))
        at += (part.width if across else part.height) + gap
    return page


def _write(
    page: Image.Image, left: float, top: float, text: str, size: float, colour: str, *, bold: bool = False
) -> float:
    """Write a line of text, and return where it ends."""
    draw, font = ImageDraw.Draw(page), _font(size, bold, _is_wide(text))
    draw.text((left * SCALE, top * SCALE), text, colour, font)
    return draw.textbbox((left * SCALE, top * SCALE), text, font)[2] / SCALE


def _wrapped(text: str, width: int) -> Iterator[str]:
    """A text in lines as wide as this."""
    line = ""
    for word in text.split():
        longer = f"{line} {word}".strip()
        if line and _font(TEXT).getlength(longer) > width * SCALE:
            yield line
            longer = word
        line = longer
    if line:
        yield _cut(line, TEXT, width)


def _cut(text: str, size: float, width: float) -> str:
    """The text, cut to this width with an ellipsis."""
    font = _font(size, wide=_is_wide(text))
    if font.getlength(text) <= width * SCALE:
        return text
    while text and font.getlength(f"{text}…") > width * SCALE:
        text = text[:-1]
    return f"{text}…"


def _is_wide(text: str) -> bool:
    return any(letter >= _WIDE_FROM for letter in text)


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
