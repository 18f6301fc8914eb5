"""Draw synthetic grounding data: coloured shapes, and the boxes, quads and lines that locate them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from PIL import Image, ImageDraw

from swiftalign.data.sizes import Size
from swiftalign.demo.camera import Camera, photograph
from swiftalign.problems import DataError

GRID = 32  # pixels; image sides are multiples of it: patches of 16 pixels, merged 2 by 2
SMALLEST_SIDE = 2 * GRID  # pixels; up to four objects lie in the four quarters of an image
MARGIN = 3  # pixels between a shape and the edges of its quarter
WIRE_WIDTH = 3  # pixels

COLOURS = {
    "red": (210, 30, 40),
    "green": (30, 150, 60),
    "blue": (40, 70, 200),
    "yellow": (240, 210, 40),
    "purple": (130, 50, 160),
    "orange": (240, 130, 30),
    "cyan": (40, 190, 200),
    "black": (20, 20, 20),
}

Colour = tuple[int, int, int]
Drawn = tuple[str, list[float]]  # the key of a target in a row, and its numbers
Quarter = tuple[int, int, int, int]  # the part that one object may cover: left, top, right and bottom edge in pixels
Painter = Callable[[ImageDraw.ImageDraw, Quarter, Colour, Random], Drawn]


def write_dataset(
    path: Path,
    *,
    rows: int,
    seed: int | str,
    size: Size = (128, 128),
    camera: Camera | None = None,
    draw: Callable[[Random, Size], tuple[Image.Image, list[dict[str, Any]]]] | None = None,
) -> None:
    """Write `rows` lines of JSON to `path`, and their images to ``images/<stem of path>/`` beside it.

    A row holds ``images`` (paths relative to the file's folder), ``prompt`` and ``objects``; each of its 1 to 4 objects
    has a ``label`` and one target in pixels, measured at pixel edges:

    - ``bbox_2d``: [x1, y1, x2, y2] of a box or a disc;
    - ``quad``: the four corners of a rotated slab, 8 numbers, clockwise from the top left corner;
    - ``line``: the 2 to 4 points of a wire, 4 to 8 numbers.

    Args:
        rows: number of rows.
        seed: row i depends only on the seed, i and `size`, so a longer file starts like a shorter one.
        size: width and height of most images, in pixels; every fourth image has another shape.
        camera: the camera that takes the images, other than the one that the demo's model knows; objects stay in place.
        draw: draws an image of this size and its objects, in place of `draw_row`.

    Raises:
        DataError: a side in `size` is not a multiple of 32, or is below 64.
    """
    if any(side < SMALLEST_SIDE or side % GRID for side in size):
        hint = "choose sides that are multiples of 32, and at least 64"
        raise DataError(f"image size {size[0]}x{size[1]} does not fit", hint)
    folder = path.parent / "images" / path.stem
    folder.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for index in range(rows):
            image, objects = (draw or draw_row)(Random(f"{seed}:{index}"), row_size(size, index))
            if camera:
                image = photograph(image, f"{seed}:{index}", camera)
            name = f"{index:05d}.png"
            image.save(folder / name, compress_level=1)
            row = {"images": [f"images/{path.stem}/{name}"], "prompt": prompt_for(objects), "objects": objects}
            file.write(json.dumps(row) + "\n")


def row_size(size: Size, index: int) -> Size:
    """`size`; for every fourth row a wider or a taller image, alternately."""
    width, height = size
    if index % 4 != 3:
        return size
    return (width + 2 * GRID, height) if index % 8 == 3 else (width, height + GRID)


def draw_row(
    random: Random,
    size: Size,
    *,
    most: int = 4,
    shapes: Iterable[str] | None = None,
    colours: Iterable[str] | None = None,
) -> tuple[Image.Image, list[dict[str, object]]]:
    """Draw an image; returns it with its objects, as a row holds them.

    Args:
        size: width and height of the image, in pixels.
        most: maximum number of objects; the minimum is 1.
        shapes: names from `PAINTERS` to choose from; None for all.
        colours: names from `COLOURS` to choose from, None for all; no two objects have the same colour.
    """
    image = _background(random, size)
    draw = ImageDraw.Draw(image)
    half_width, half_height = size[0] // 2, size[1] // 2
    quarters = [
        (left + MARGIN, top + MARGIN, left + half_width - MARGIN, top + half_height - MARGIN)
        for left in (0, half_width)
        for top in (0, half_height)
    ]
    count = random.randint(1, most)
    quarters = random.sample(quarters, count)
    chosen = random.sample(sorted(COLOURS if colours is None else colours), count)
    objects: list[dict[str, object]] = []
    for quarter, colour in zip(quarters, chosen, strict=True):
        shape = random.choice(sorted(PAINTERS if shapes is None else shapes))
        kind, numbers = PAINTERS[shape](draw, quarter, COLOURS[colour], random)
        objects.append({"label": f"{colour} {shape}", kind: numbers})
    return image, objects


def prompt_for(objects: list[dict[str, object]]) -> str:
    """A request to locate these objects, each named by its label and the kind of its target."""
    wanted = [f"the {item['label']} ({kind})" for item in objects for kind in item if kind != "label"]
    listed = " and ".join([", ".join(wanted[:-1]), wanted[-1]] if len(wanted) > 1 else wanted)
    return f"Locate {listed}. Answer in JSON."


def _background(random: Random, size: Size) -> Image.Image:
    """A light grey, uniform in half of the images and slightly blotched in the others."""
    base = random.randint(215, 240)
    if random.random() < 0.5:
        return Image.new("RGB", size, (base, base, base))
    width, height = size[0] // 8, size[1] // 8
    blotches = Image.frombytes("L", (width, height), bytes(base - random.randrange(16) for _ in range(width * height)))
    return blotches.resize(size, Image.Resampling.BILINEAR).convert("RGB")


def _paint_extent(shape: str, draw: ImageDraw.ImageDraw, quarter: Quarter, colour: Colour, random: Random) -> Drawn:
    """A rectangle or an ellipse that takes at least 40% of each side of the quarter."""
    left, top, right, bottom = quarter
    width, height = (random.randint(math.ceil(0.4 * side), side) for side in (right - left, bottom - top))
    x = random.randint(left, right - width)
    y = random.randint(top, bottom - height)
    # Pillow includes the last column and row; the target names the edge behind them.
    getattr(draw, shape)((x, y, x + width - 1, y + height - 1), fill=colour)
    return "bbox_2d", [x, y, x + width, y + height]


def _paint_slab(draw: ImageDraw.ImageDraw, quarter: Quarter, colour: Colour, random: Random) -> Drawn:
    """A rectangle rotated by 10 to 35 degrees in either direction, so that its first corner stays the top left one."""
    left, top, right, bottom = quarter
    diagonal = min(right - left, bottom - top) * random.uniform(0.75, 1.0)
    slant = math.radians(random.uniform(20, 40))
    half_width, half_height = diagonal / 2 * math.cos(slant), diagonal / 2 * math.sin(slant)
    turn = math.radians(random.choice((-1, 1)) * random.uniform(10, 35))
    centre_x, centre_y = (left + right) / 2, (top + bottom) / 2
    numbers: list[float] = []
    for side_x, side_y in ((-1, -1), (1, -1), (1, 1), (-1, 1)):
        x, y = side_x * half_width, side_y * half_height
        numbers.append(round(centre_x + x * math.cos(turn) - y * math.sin(turn), 1))
        numbers.append(round(centre_y + x * math.sin(turn) + y * math.cos(turn), 1))
    draw.polygon(numbers, fill=colour)
    return "quad", numbers


def _paint_wire(draw: ImageDraw.ImageDraw, quarter: Quarter, colour: Colour, random: Random) -> Drawn:
    """A line from the left to the right of the quarter, with up to two evenly spaced bends."""
    left, top, right, bottom = quarter
    steps = random.randint(1, 3)
    numbers: list[float] = []
    for step in range(steps + 1):
        numbers += [left + round((right - left) * step / steps), random.randint(top, bottom)]
    draw.line(numbers, fill=colour, width=WIRE_WIDTH, joint="curve")
    return "line", numbers


PAINTERS: dict[str, Painter] = {
    "box": partial(_paint_extent, "rectangle"),
    "disc": partial(_paint_extent, "ellipse"),
    "slab": _paint_slab,
    "wire": _paint_wire,
}
