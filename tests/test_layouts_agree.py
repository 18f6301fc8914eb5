"""The same targets in every layout are learnt as the same text, also after augmentation."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from layout_cases import ALL, EXACT, LAYOUTS, ROUNDED, shares
from swift_template import template_of
from swiftalign.augment.pipeline import Pipeline, blank
from swiftalign.config.augmentation import AugmentationSection
from swiftalign.config.sections import GroundingTextSection
from swiftalign.data.answers import parse_answer
from swiftalign.data.encoded import TemplateEncoder, learned_faults
from swiftalign.data.formats import read_row
from swiftalign.data.records import Reading, Row
from swiftalign.data.rows import open_images, sizes_of, to_row
from swiftalign.data.scan import scan
from swiftalign.data.sizes import PixelLimits, Size
from swiftalign.data.targets import Kind, PixelTarget
from swiftalign.data.text import Writing

PLAIN_LABELS = ["cup", "left wire", "large table, turned", "工具"]
LABELS = [*PLAIN_LABELS, 'a "b" \\', "x]}, {", '"bbox_2d": [1, 2, 3, 4]', "two\nlines", "[3, 4]", "é\u2028"]
SIZES: list[Size] = [(320, 240), (224, 448), (333, 217)]
OFFSET = (
    0.37  # pixels: no coordinate lies in the middle of two whole numbers of a grid, where rounding may go both ways
)


@st.composite
def targets_on(draw: Any, size: Size, kinds: Sequence[Kind], labels: Sequence[str], *, central: bool) -> Any:
    """One to four targets: anywhere on the image, or so far inside it that no operation here moves them out."""
    low, high = (0.3, 0.7) if central else (0.0, 1.0)
    targets = []
    for _ in range(draw(st.integers(1, 4))):
        kind, label = draw(st.sampled_from(list(kinds))), draw(st.sampled_from(list(labels)))
        spans = []
        for side in size:
            first = draw(st.integers(int(side * low) + 1, int(side * high) - 42))
            spans.append((first + OFFSET, first + draw(st.integers(30, 40)) + OFFSET))
        (left, right), (top, bottom) = spans
        bend = draw(st.integers(0, 9))
        points: list[tuple[float, float]]
        if kind == "bbox":
            points = [(left, top), (right, bottom)]
        elif kind == "quad":
            points = [(left + bend, top), (right, top + bend), (right - bend, bottom), (left, bottom - bend)]
        elif kind == "line":
            points = [(left, top), (right - bend, top + bend), (right, bottom)][: draw(st.integers(2, 3))]
        elif kind == "point":
            points = [(left, bottom)]
        else:
            points = [(left, top + 10), (left + 15, top), (right, top + 12), (right - 9, bottom), (left + bend, bottom)]
        targets.append(PixelTarget(kind, label, tuple(points)))
    return size, targets


def cases(kinds: Sequence[Kind] = ALL, labels: Sequence[str] = LABELS, *, central: bool = False) -> Any:
    return st.sampled_from(SIZES).flatmap(lambda size: targets_on(size, kinds, labels, central=central))


WRITINGS = [
    Writing(),
    Writing(GroundingTextSection(label_first=True)),
    Writing(unit="resized", limits=PixelLimits(4 * 28**2, 16384 * 28**2, factor=28)),
]
MOST_ZOOM = 1.2 * (1.2 + 32 / 217)  # of `scale`, and of `resize_by_scale` with its rounding


def pipeline(policy: str, writing: Writing, zoom: float = 1.2) -> Pipeline:
    """Operations that move targets; with a large zoom, they lose many."""
    operations = [
        {"hflip": {"prob": 0.5}},
        {"rotate": {"max_deg": 8}},
        {"scale": {"lo": 0.9, "hi": zoom}},
        {"resize_by_scale": {"lo": 0.8, "hi": 1.2, "align_multiple": 32}},
        {"pad_to_multiple": {"multiple": 32}},
    ]
    section = AugmentationSection.model_validate({"enabled": True, "ops": operations, "rotated_boxes": policy})
    return Pipeline(section, writing.limits)


def read(name: str, targets: Sequence[PixelTarget], size: Size, writing: Writing) -> Row:
    row = LAYOUTS[name].write(targets, size, writing)
    row = json.loads(json.dumps(row))
    return read_row(row, "rows.jsonl:1", Reading(Path(), None, writing.unit))


def augmented(
    row: Row, size: Size, writing: Writing, policy: str, number: int, zoom: float = 1.2
) -> tuple[list[Any], Size]:
    """The messages of a row, and the size of its image, after an epoch's operations."""
    record = row.record([size], writing.limits)
    assert not record.wording.fixed
    placed = pipeline(policy, writing, zoom).place(blank(size), record, epoch=0, row=number)
    return placed.placed_record.to_swift([placed.size], writing)["messages"], placed.size


PROPERTY = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
FEWER = settings(PROPERTY, max_examples=25)  # each draws targets for each layout


@PROPERTY
@given(case=cases(), writing=st.sampled_from(WRITINGS))
def test_every_layout_is_read_into_the_same_targets(case: tuple[Size, list[PixelTarget]], writing: Writing) -> None:
    size, targets = case
    for name, layout in LAYOUTS.items():
        held = [target for target in targets if target.kind in layout.kinds]
        if name in ("paligemma", "florence"):
            held = [target for target in held if target.label in PLAIN_LABELS]
        if not held:
            continue
        found = read(name, held, size, writing).record([size], writing.limits).targets
        assert [(t.kind, t.label, t.image) for t in found] == [(t.kind, t.label, 0) for t in held], name
        for target, meant in zip(found, held, strict=True):
            for (x, y), (true_x, true_y) in zip(target.points, meant.points, strict=True):
                assert abs(x - true_x) <= layout.error / 1000 * size[0] + 1e-9, name
                assert abs(y - true_y) <= layout.error / 1000 * size[1] + 1e-9, name


@PROPERTY
@given(case=cases(), writing=st.sampled_from(WRITINGS))
def test_the_text_is_that_of_the_own_layout(case: tuple[Size, list[PixelTarget]], writing: Writing) -> None:
    size, targets = case
    wanted = read("own", targets, size, writing).to_swift([size], writing)["messages"]
    for name in EXACT:
        assert read(name, targets, size, writing).to_swift([size], writing)["messages"] == wanted, name
    if writing.unit == "relative1000":  # rounded as the own layout rounds
        for name in ("messages", "conversations", "query-response", "content-list"):
            assert read(name, targets, size, writing).to_swift([size], writing)["messages"] == wanted, name


@PROPERTY
@given(
    case=cases(),
    writing=st.sampled_from(WRITINGS),
    policy=st.sampled_from(["skip", "grow", "quad"]),
    number=st.integers(0, 10_000),
)
def test_an_exact_layout_is_augmented_into_the_same_text(
    case: tuple[Size, list[PixelTarget]], writing: Writing, policy: str, number: int
) -> None:
    """Targets may be cut and may be lost on the way."""
    size, targets = case
    wanted = augmented(read("own", targets, size, writing), size, writing, policy, number, zoom=2.5)
    for name in EXACT:
        assert augmented(read(name, targets, size, writing), size, writing, policy, number, 2.5) == wanted, name


@pytest.mark.parametrize("gone", [{0}, {1}, {2}, {0, 1}, {1, 2}, {0, 2}, {0, 1, 2}], ids=str)
@pytest.mark.parametrize("name", [*EXACT, "messages", "conversations"])
def test_targets_that_are_lost_leave_the_list_of_the_others(name: str, gone: set[int]) -> None:
    size = SIZES[0]
    targets = [PixelTarget("bbox", label, ((9.37, 9.37), (99.37, 99.37))) for label in "abc"]
    record = read(name, targets, size, Writing()).record([size])
    moved = record.moved([None if number in gone else target for number, target in enumerate(record.targets)])
    left = [label for number, label in enumerate("abc") if number not in gone]
    assert [item["label"] for item in json.loads(moved.to_swift([size], Writing())["messages"][-1]["content"])] == left


@FEWER
@given(data=st.data(), writing=st.sampled_from(WRITINGS), number=st.integers(0, 10_000))
def test_a_rounded_layout_is_augmented_into_nearly_the_same_numbers(data: Any, writing: Writing, number: int) -> None:
    """All targets are far inside: a rounded one may be cut otherwise at the edge."""
    for name in ROUNDED:
        layout = LAYOUTS[name]
        labels = PLAIN_LABELS if name in ("paligemma", "florence") else LABELS
        size, targets = data.draw(cases(layout.kinds, labels, central=True))
        told = []
        for each in ("own", name):
            messages, new = augmented(read(each, targets, size, writing), size, writing, "grow", number)
            told.append((parse_answer(messages[-1]["content"], writing, new), new))
        (wanted, new), (found, new_of_rounded) = told
        assert new == new_of_rounded
        assert (found.sound, wanted.sound) == (True, True), name
        assert [(t.kind, t.label) for t in found.targets] == [(t.kind, t.label) for t in wanted.targets], name
        off = MOST_ZOOM * math.hypot(*size) * layout.error / 1000  # pixels of the new canvas
        grid = writing.grid(new)
        for mine, true in zip(found.targets, wanted.targets, strict=True):
            for axis in (0, 1):
                most = off / new[axis] * 1000 + 1000 / grid[axis] + 1e-6
                gaps = [abs(a[axis] - b[axis]) for a, b in zip(mine.points, true.points, strict=True)]
                assert max(gaps) <= most, name


@pytest.fixture(scope="module")
def template(demo: Path) -> Any:
    return template_of(demo / "model")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("agree")
    noise = np.random.default_rng(0).integers(0, 255, (240, 320, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "a.png")
    return folder


@pytest.mark.parametrize("augment", [False, True], ids=["as-it-is", "augmented"])
@pytest.mark.parametrize("name", LAYOUTS)
def test_what_is_learnt_says_where_the_targets_are(name: str, augment: bool, folder: Path, template: Any) -> None:
    """With ms-swift's own template: encoded as training does, and decoded from the labels."""
    writing, size = Writing(), SIZES[0]
    shapes: dict[Kind, tuple[tuple[float, float], ...]] = {
        "bbox": ((100.37, 80.37), (190.37, 150.37)),
        "quad": ((120.37, 90.37), (200.37, 95.37), (195.37, 140.37), (118.37, 135.37)),
        "line": ((110.37, 100.37), (150.37, 120.37), (210.37, 90.37)),
        "point": ((160.37, 120.37),),
        "polygon": ((130.37, 90.37), (180.37, 80.37), (210.37, 120.37), (170.37, 150.37), (125.37, 140.37)),
    }
    kinds = LAYOUTS[name].kinds
    labels = dict(zip(ALL, PLAIN_LABELS * 2, strict=False))
    targets = [PixelTarget(kind, labels[kind], points) for kind, points in shapes.items() if kind in kinds]
    path = folder / f"{name}.jsonl"
    path.write_text(f"{json.dumps(LAYOUTS[name].write(targets, size, writing))}\n" * 2, encoding="utf-8")
    assert not [found for found in scan([path]).findings if found.severity != "note"]
    row = read_row(json.loads(path.read_text().splitlines()[0]), f"{path}:1", Reading(folder))
    images, record = open_images(row), row.record([size])
    if augment:
        images, record = pipeline("grow", writing).row(images, record, epoch=0, row=3)

    encoded = TemplateEncoder(template, writing)(to_row(record, images, writing))

    sizes = sizes_of(images)
    assert learned_faults(encoded.learned, record, sizes, writing) == []
    assert encoded.answer.sound
    assert [(t.kind, t.label) for t in encoded.answer.targets] == [(t.kind, t.label) for t in record.targets]
    for told, meant in zip(encoded.answer.targets, record.targets, strict=True):
        exact = [n * 1000 for n in shares(meant, sizes[0])]
        assert [n for point in told.points for n in point] == pytest.approx(exact, abs=0.5 + 1e-6)
