"""Reading a model's answer: what is well-formed comes back as it was written, the rest is counted, nothing raises."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swiftalign.config.sections import GroundingTextSection
from swiftalign.data.answers import MAX_CHARACTERS, MAX_ITEMS, Answer, parse_answer
from swiftalign.data.targets import KINDS, SPELLINGS, Kind, PixelTarget, TextTarget
from swiftalign.data.text import Writing, answer

BOX = {"bbox_2d": [10, 20, 30, 40], "label": "cup"}
CUP = TextTarget("bbox", "cup", ((10, 20), (30, 40)))

LETTERS = 'aB 1ßé框\\"\n{}[],:'
numbers = st.floats(0, 640)
points = st.tuples(numbers, numbers)


@st.composite
def targets(draw: st.DrawFn) -> PixelTarget:
    kind: Kind = draw(st.sampled_from(KINDS))
    _, _, least, most = SPELLINGS[kind]
    corners = draw(st.lists(points, min_size=least, max_size=most or 6))
    if kind == "bbox":
        corners = list(zip(*(sorted(axis) for axis in zip(*corners, strict=True)), strict=True))
    return PixelTarget(kind, draw(st.text(LETTERS, max_size=8)), tuple(corners))


WRITINGS = {
    "plain": {},
    "fenced": {"fenced": True},
    "numbered": {"shape": "numbered", "object_key": "box {n}"},
    "by image": {"shape": "by_image", "label_first": True, "fenced": True},
    "other names": {"keys": {"bbox": "box", "line": "wire"}, "label_key": "desc", "point_counts": True},
}


@pytest.mark.parametrize("text", WRITINGS.values(), ids=WRITINGS)
@settings(deadline=None)
@given(written=st.lists(targets(), max_size=5))
def test_what_is_written_is_read_back_rounded(written: list[PixelTarget], text: dict[str, Any]) -> None:
    writing = Writing(GroundingTextSection(**text))
    text = answer(written, [(640, 480)], writing)

    read = parse_answer(text, writing, (640, 480))

    assert read.sound
    assert read.targets == tuple(target.in_text(640, 480) for target in written)


@pytest.mark.parametrize(
    "text",
    [
        json.dumps([BOX]),
        json.dumps(BOX),
        json.dumps([BOX], indent=4),
        f"```json\n{json.dumps([BOX])}\n```",
        f"```\n{json.dumps([BOX])}",
        f"Sure [as you asked], not []: {json.dumps([BOX])} I hope [that] helps.",
        f"{json.dumps([BOX])}{json.dumps([BOX])}",
    ],
    ids=["list", "lone object", "indented", "fenced", "fence left open", "words around", "said twice"],
)
def test_a_complete_answer_is_read_in_whatever_it_is_wrapped(text: str) -> None:
    assert parse_answer(text) == Answer((CUP,))


@pytest.mark.parametrize("text", ["[]", " [ ] ", "```json\n[]\n```"])
def test_an_empty_list_is_a_complete_answer(text: str) -> None:
    assert parse_answer(text) == Answer()


@pytest.mark.parametrize("text", ["", "I see no cup.", "<box>10,20</box>", "[1, 2]", "["])
def test_an_answer_without_objects_is_not_complete(text: str) -> None:
    assert parse_answer(text) == Answer(complete=False)


@pytest.mark.parametrize(
    "end", ["", ",", ', {"bbox_2d": [1, 2', ', {"bbox_2d": [1, 2, 3, 4], "lab', ", and more]", ', {"a": 1 "b": 2}]']
)
def test_a_broken_or_cut_off_answer_keeps_its_complete_items(end: str) -> None:
    assert parse_answer(f"[{json.dumps(BOX)}{end}") == Answer((CUP,), complete=False)


def test_an_answer_cut_off_within_its_first_object_has_nothing() -> None:
    assert parse_answer('[{"bbox_2d": [1, 2') == Answer(complete=False)


@pytest.mark.parametrize(
    ("item", "kind"),
    [
        ({"bbox_2d": [1, 2, 3], "label": "a"}, "bbox"),
        ({"bbox_2d": [1, 2, 3, 4, 5, 6], "label": "a"}, "bbox"),
        ({"bbox_2d": [30, 20, 10, 40], "label": "a"}, "bbox"),
        ({"bbox_2d": [10, 40, 30, 20], "label": "a"}, "bbox"),
        ({"bbox_2d": [10, 20, 30, 1001], "label": "a"}, "bbox"),
        ({"bbox_2d": [-1, 20, 30, 40], "label": "a"}, "bbox"),
        ({"bbox_2d": [True, 20, 30, 40], "label": "a"}, "bbox"),
        ({"bbox_2d": ["1", 20, 30, 40], "label": "a"}, "bbox"),
        ({"bbox_2d": [[10, 20], [30, 40]], "label": "a"}, "bbox"),
        ({"bbox_2d": [float("nan"), 20, 30, 40], "label": "a"}, "bbox"),
        ({"bbox_2d": [10, 20, float("inf"), 40], "label": "a"}, "bbox"),
        ({"bbox_2d": [10, 20, 10**300, 40], "label": "a"}, "bbox"),
        ({"bbox_2d": "1, 2, 3, 4", "label": "a"}, "bbox"),
        ({"bbox_2d": None, "label": "a"}, "bbox"),
        ({"bbox_2d": [10, 20, 30, 40]}, "bbox"),
        ({"bbox_2d": [10, 20, 30, 40], "label": 3}, "bbox"),
        ({"quad_2d": [10, 20, 30, 40], "label": "a"}, "quad"),
        ({"line_2d": [10, 20], "label": "a"}, "line"),
        ({"line_2d": [10, 20, 30], "label": "a"}, "line"),
        ({"line_2d": [], "label": "a"}, "line"),
        ({"bbox_2d": [10, 20, 30, 40], "line_2d": [10, 20, 30, 40], "label": "a"}, None),
        ({"bbox_2d": [10, 20, 30, 40], "point_2d": [10, 20], "label": "a"}, None),
        ({"point_2d": [10, 20, 30, 40], "label": "a"}, "point"),
        ({"point_2d": [[10, 20]], "label": "a"}, "point"),
        ({"point_2d": [10, 1001], "label": "a"}, "point"),
        ({"polygon_2d": [10, 20, 30, 40], "label": "a"}, "polygon"),
        ({"polygon_2d": [10, 20, 30, 40, 50, 60, 70], "label": "a"}, "polygon"),
        ({"polygon": [10, 20, 30, 40, 50, 60], "label": "a"}, None),
        ({"dot_2d": [10, 20], "label": "a"}, None),
        ({"label": "a"}, None),
        ({}, None),
        ([1, 2], None),
        ("a", None),
        (None, None),
    ],
    ids=str,
)
def test_a_malformed_item_is_counted_and_the_others_are_kept(item: Any, kind: Kind | None) -> None:
    assert parse_answer(json.dumps([BOX, item, BOX])) == Answer((CUP, CUP), (kind,))


def test_a_box_or_line_without_extent_is_well_formed() -> None:
    items = [{"bbox_2d": [5, 5, 5, 9], "label": "a"}, {"line_2d": [5, 5, 5, 5], "label": "a"}]
    assert len(parse_answer(json.dumps(items)).targets) == 2


@pytest.mark.parametrize(
    "text",
    [
        "[" * 300_000,
        "[ " * 200_000,
        "{" * 300_000,
        '[{"a":' * 60_000,
        '[{"bbox_2d": ' + "[" * 300_000,
        '[{"bbox_2d": [' + "9" * 300_000 + ', 1, 2, 3], "label": "a"}]',
        '[{"bbox_2d": [1e400, NaN, -Infinity, 3], "label": "\ud800"}',
    ],
    ids=["brackets", "spaced brackets", "braces", "nested", "nested numbers", "long number", "no numbers"],
)
def test_hostile_text_yields_no_target(text: str) -> None:
    read = parse_answer(text)
    assert not read.targets
    assert not read.complete


def test_a_very_long_answer_is_cut_off() -> None:
    items = ", ".join([json.dumps(BOX)] * (MAX_ITEMS + 1))
    many = parse_answer(f"[{items}]")
    assert (len(many.targets), many.complete) == (MAX_ITEMS, False)
    assert parse_answer(" " * MAX_CHARACTERS + json.dumps([BOX])) == Answer(complete=False)


@settings(deadline=None)
@given(st.text(alphabet='[]{}",: \\ntrueNa0123456789.-+eE_box2dlinequadpygt', max_size=200))
def test_no_text_raises(text: str) -> None:
    for read in (parse_answer(text), parse_answer(f'[{{"bbox_2d": {text}')):
        assert all(0 <= number <= 1000 for target in read.targets for point in target.points for number in point)
