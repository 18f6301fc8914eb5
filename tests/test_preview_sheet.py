"""The contact sheet of `preview-aug`: its words, its drawings, and the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from swiftalign.augment.draws import Step
from swiftalign.augment.pipeline import Pipeline
from swiftalign.config.augmentation import AugmentationSection
from swiftalign.data.records import Record
from swiftalign.data.rows import Rows
from swiftalign.data.targets import KINDS
from swiftalign.data.text import Composed
from swiftalign.previews import contact_sheet
from swiftalign.previews.contact_sheet import (
    CELL,
    COLOURS,
    DOT,
    SCALE,
    TALLEST,
    TROUBLE,
    WIDE_CELL,
    encoded_picture,
    lacks_letters,
    render_sheet,
)
from swiftalign.previews.preview import read_chosen
from swiftalign.previews.strips import THUMBNAIL, Panel, Shape, Strip, describe, thumbnail
from swiftalign.problems import DataError

BY_THE_GUIDE = Pipeline(AugmentationSection(preset="guide"))


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (Step("hflip", {}), "hflip"),
        (Step("rotate", {"degrees": -3.21}), "rotate -3.2°"),
        (Step("scale", {"factor": 1.078}), "scale ×1.08"),  # noqa: RUF001
        (Step("expand_to_fit_affine", {"multiple": 32, "max_pixels": 921600}), "expand to 32 ≤921600"),
        (Step("expand_to_fit_affine", {"multiple": 32, "max_pixels": None}), "expand to 32"),
        (Step("random_crop", {"scale": 0.72, "aspect_ratio": 1.1, "x": 0.2, "y": 0.9}), "crop 72% 1.10:1 at 20% 90%"),
        (Step("roi_crop", {"scale": 1.5, "anchor_classes": ["cup", "door"], "anchor": 0.4}), "crop ×1.50 of cup, door"),  # noqa: RUF001
        (Step("fit", {"size": [128, 96]}), "fit 128×96"),  # noqa: RUF001
        (Step("color_jitter", {"brightness": 1.2, "contrast": 0.8, "saturation": 1.1}), "color b1.2 c0.8 s1.1"),
        (Step("hsv", {"hue_deg": -4.4, "sat": 1.0, "val": 0.9}), "hsv h-4° s1.0 v0.9"),
        (Step("imgaug.MotionBlur", {"arguments": {"k": 5}, "seed": 1}), "MotionBlur k=5"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_operations_are_told_in_short(step: Step, words: str) -> None:
    assert describe(step) == words


def test_every_operation_of_the_presets_has_words_with_its_values() -> None:
    for epoch in range(40):
        record = Record((Path("x.png"),), (), Composed())
        sample = BY_THE_GUIDE(np.zeros((64, 64, 3), np.uint8), record, epoch=epoch, row=0)
        for step in sample.replay.steps:
            assert (describe(step) == step.name) == (step.name == "hflip")


def test_rows_count_over_all_files_without_blank_lines(tmp_path: Path) -> None:
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    lines = [json.dumps({"images": ["a.png"], "objects": [], "prompt": str(n)}) for n in range(5)]
    (tmp_path / "1.jsonl").write_text("\n" + lines[0] + "\n\n" + lines[1] + "\n", encoding="utf-8")
    (tmp_path / "2.jsonl").write_text("\n".join(lines[2:]), encoding="utf-8")
    files = [tmp_path / "1.jsonl", tmp_path / "2.jsonl"]
    rows = read_chosen(Rows(files), [3, 0, 4])
    assert [(number, row.wording) for number, row in rows.items()] == [(n, Composed(str(n))) for n in (3, 0, 4)]
    with pytest.raises(DataError, match="row 7: the training files have 5 rows, counted from 0"):
        read_chosen(Rows(files), [1, 7])


def test_a_malformed_row_is_named_by_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('\n{"images": ["a.png"]}\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"rows\.jsonl:2: needs 'images' and 'objects'"):
        read_chosen(Rows([path]), [0])


# -- the sheet ------------------------------


def one_strip(*shapes: Shape, size: tuple[int, int] = (200, 100), grey: int = 255) -> Strip:
    image = np.full((size[1], size[0], 3), grey, np.uint8)
    return Strip(0, Path("/data/images/a.png"), (Panel("epoch 0", image, size, shapes),))


def count(picture: Image.Image, colour: str) -> int:
    wanted = np.array([int(colour[k : k + 2], 16) for k in (1, 3, 5)])
    return int((np.abs(np.asarray(picture).astype(int) - wanted).max(axis=2) < 3).sum())


def figure(*shapes: Shape, grey: int = 255) -> Image.Image:
    """The picture of a strip without the legend above it and the caption below it."""
    sheet = render_sheet([one_strip(*shapes, grey=grey)], "")
    return sheet.crop((0, 280, sheet.width, sheet.height - 180))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("status", ["kept", "clipped", "dropped"])
def test_targets_have_their_kinds_colour_and_lost_ones_are_red(kind: Any, status: Any) -> None:
    points = {"bbox": ((0.2, 0.2), (0.8, 0.9)), "line": ((0.2, 0.2), (0.8, 0.9)), "point": ((0.5, 0.5),)}
    quad = ((0.3, 0.2), (0.8, 0.3), (0.7, 0.8), (0.2, 0.7))
    shape = Shape(kind, "", points.get(kind, quad), status)
    colour = COLOURS[kind] if status == "kept" else TROUBLE
    assert count(figure(shape), colour) > count(figure(), colour) + (300 if kind == "point" else 500)


@pytest.mark.parametrize("kind", ["point", "polygon"])
@pytest.mark.parametrize("grey", [0, 36, 128, 255])
def test_a_light_rim_separates_points_and_polygons_from_any_background(kind: Any, grey: int) -> None:
    shape = Shape(kind, "", {"point": ((0.5, 0.5),)}.get(kind, ((0.3, 0.2), (0.8, 0.3), (0.4, 0.4), (0.2, 0.7))))
    drawn, empty = (np.asarray(figure(*shapes, grey=grey).convert("L")).astype(int) for shapes in ((shape,), ()))
    assert np.abs(drawn - empty).max() > 80
    if grey < 128:
        assert (drawn - empty).max() > 100, "lighter than a dark image"


def test_a_point_is_one_dot_without_a_number() -> None:
    drawn = np.asarray(figure(Shape("point", "", ((0.5, 0.25),)))).astype(int)
    coloured = np.abs(drawn - [0xBF, 0x39, 0x89]).max(axis=2) < 3
    rows = np.flatnonzero(coloured.any(axis=1))
    below_label = rows[np.flatnonzero(np.diff(rows) > 1)[-1] + 1 :]
    dot = coloured[below_label]
    assert dot.sum() == pytest.approx(np.pi * (DOT + 1.1) ** 2 * SCALE**2, rel=0.1)
    assert (len(dot), int(dot.any(axis=0).sum())) == pytest.approx((2 * (DOT + 1.1) * SCALE,) * 2, abs=2)


def test_the_corners_of_a_polygon_are_numbered_up_to_the_limit() -> None:
    def discs(corners: int) -> int:
        angles = np.arange(corners) / corners * 2 * np.pi
        ring = tuple((0.5 + 0.4 * float(np.cos(t)), 0.5 + 0.4 * float(np.sin(t))) for t in angles)
        numbered, bare = (count(figure(Shape(kind, "", ring)), COLOURS[kind]) for kind in ("polygon", "bbox"))
        return numbered - bare

    assert discs(12) > 3 * discs(13) > 0


def test_the_legend_has_the_kinds_that_occur() -> None:
    def legend(*shapes: Shape) -> Image.Image:
        return render_sheet([one_strip(*shapes)], "").crop((0, 150, 640 * SCALE, 270))

    point = Shape("point", "", ((0.5, 0.5),))
    box, polygon = (
        Shape("bbox", "", ((0.1, 0.1), (0.9, 0.9))),
        Shape("polygon", "", ((0.1, 0.1), (0.9, 0.5), (0.2, 0.9))),
    )
    assert count(legend(point), COLOURS["point"]) > 50
    assert count(legend(box), COLOURS["point"]) == 0
    assert count(legend(point), COLOURS["bbox"]) == 0
    quad = Shape("quad", "", ((0.1, 0.1), (0.9, 0.1), (0.9, 0.9), (0.1, 0.9)))
    line = Shape("line", "", ((0.1, 0.1), (0.9, 0.9)))
    all_kinds = render_sheet([one_strip(box, quad, line, point, polygon)], "")
    assert all_kinds.height == render_sheet([one_strip(box)], "").height + 24 * SCALE, "it goes on in a second line"
    assert all_kinds.width == 640 * SCALE


def test_dropped_targets_are_dashed() -> None:
    points = ((0.2, 0.3), (0.8, 0.9))
    empty = count(render_sheet([one_strip()], ""), TROUBLE)
    solid, dashed = (
        count(render_sheet([one_strip(Shape("bbox", "", points, status))], ""), TROUBLE) - empty
        for status in ("clipped", "dropped")
    )
    assert 0.4 * solid < dashed < 0.9 * solid


def test_a_line_shows_its_order() -> None:
    points = ((0.2, 0.5), (0.5, 0.5), (0.8, 0.5))
    forth, back = (render_sheet([one_strip(Shape("line", "", order))], "") for order in (points, points[::-1]))
    assert np.abs(np.asarray(forth).astype(int) - np.asarray(back)).max() > 100


HOSTILE = ["x" * 5000, "two\nlines\x00\x1b[31m", "\u676f\u5b50", "", "<b>", "\u202egnirts", "\U0001f600"]


@pytest.mark.parametrize("label", HOSTILE, ids=lambda label: ascii(label)[:12])
def test_any_label_fits_the_sheet(label: str) -> None:
    sheet = render_sheet(
        [one_strip(Shape("bbox", label, ((-3, -3), (-2, -2)), "dropped", "dropped: 0% visible"))], label[:90]
    )
    assert sheet.size == render_sheet([one_strip()], "").size


def test_a_crowd_of_targets_and_points_is_drawn() -> None:
    boxes = [Shape("bbox", f"thing {n}", ((n / 300, 0.1), (n / 300 + 0.1, 0.2))) for n in range(300)]
    line = Shape("line", "river", tuple((n / 500, 0.5) for n in range(500)))
    dot = Shape("line", "dot", ((0.5, 0.5), (0.5, 0.5)), "dropped")
    lake = Shape("polygon", "lake", tuple((n / 500, 0.5 + n % 2 / 9) for n in range(500)), "dropped")
    points = [Shape("point", f"bird {n}", ((n / 300, 0.8),)) for n in range(300)]
    sheet = render_sheet([one_strip(*boxes, line, dot, lake, *points, Shape("point", "", ((-9, 9),), "dropped"))], "")
    assert count(sheet, COLOURS["line"]) > 1000


@pytest.mark.parametrize("size", [(1, 1), (1, 600), (600, 3)])
def test_images_of_any_shape_fit_their_cell(size: tuple[int, int]) -> None:
    sheet = render_sheet([one_strip(size=size)], "")
    assert sheet.width == 640 * SCALE
    assert sheet.height < (TALLEST * (WIDE_CELL if max(size) > CELL else CELL) + 276) * SCALE


def test_photographs_have_wide_cells() -> None:
    assert render_sheet([one_strip(size=(640, 64))], "").width == 640 * SCALE
    strip = one_strip(size=(640, 64))
    two = Strip(0, strip.path, strip.panels * 2)
    assert (
        render_sheet([two], "").width == render_sheet([one_strip()], "").width + (2 * WIDE_CELL + 18 + 52 - 640) * SCALE
    )


@pytest.mark.parametrize("kind", ["bbox", "quad", "polygon"])
def test_neither_labels_nor_numbers_cover_a_small_object(kind: Any) -> None:
    """A red one of 60 x 40 pixels, right above another one whose label would stand on it."""
    image = np.full((400, 600, 3), 255, np.uint8)
    image[200:240, 300:360] = (255, 0, 0)
    ring = ((0.5, 0.5), (0.6, 0.5), (0.6, 0.6), (0.5, 0.6))
    small = Shape(kind, "a small object", (ring[0], ring[2]) if kind == "bbox" else ring)
    shapes = (small, Shape("bbox", "one below", ((0.5, 0.61), (0.6, 0.9))))
    drawn = render_sheet([Strip(0, Path("a.png"), (Panel("epoch 0", image, (600, 400), shapes),))], "")
    assert count(drawn, "#ff0000") > 0.6 * 60 * 40 * (WIDE_CELL * SCALE / 600) ** 2  # but for the outline


def test_a_sheet_is_a_png_or_a_jpeg(tmp_path: Path) -> None:
    for name, kind in (("a.png", "PNG"), ("b.jpg", "JPEG"), ("c.JPEG", "JPEG")):
        (tmp_path / name).write_bytes(encoded_picture(render_sheet([one_strip()], ""), Path(name).suffix))
        with Image.open(tmp_path / name) as written:
            assert written.format == kind


def test_letters_that_no_font_has_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    latin, chinese = (one_strip(Shape("point", label, ((0.5, 0.5),))) for label in ("cup", "杯子"))
    contact_sheet._font.cache_clear()
    monkeypatch.setattr(contact_sheet, "_WIDE_FONTS", ("a font that no machine has.ttf",))
    assert (lacks_letters([latin]), lacks_letters([latin, chinese])) == (False, True)


def test_of_a_large_image_a_thumbnail_is_kept() -> None:
    reduced = thumbnail(np.zeros((3000, 1500, 3), np.uint8))
    assert reduced.shape == (THUMBNAIL, THUMBNAIL // 2, 3)
    small = np.zeros((THUMBNAIL, 10, 3), np.uint8)
    assert thumbnail(small) is small
