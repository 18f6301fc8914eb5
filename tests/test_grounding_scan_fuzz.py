"""Rows damaged in any way are named or pass, and those that pass can be encoded."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scan_cases import BOX, CUP, RELATIVE, box, boxes, draw_images, line, own, swift
from swift_template import template_of
from swiftalign.config.sections import GroundingTextSection
from swiftalign.data.encoding import Encoding
from swiftalign.data.rows import Rows
from swiftalign.data.scan import scan
from swiftalign.data.text import Writing


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_images(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def template(demo: Path) -> Any:
    return template_of(demo / "model")


JSON = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.integers(-5, 5),
        st.floats(),
        st.text(max_size=8),
        st.sampled_from(
            ["a.png", "<image>", "<bbox>", "assistant", "text", "image_url", "relative1000", 10**400, 1e308]
        ),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=5),
        st.dictionaries(
            st.one_of(st.sampled_from(["role", "content", "type", "text", "url", "bbox", "ref", "quad"]), st.text()),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=6,
)
SOUND = [
    own(BOX, line(1, 2, 3, 4), {**box(1, 2, 30, 40), "quad": [1, 2, 30, 2, 30, 40, 1, 40]}, prompt="Find.", system="S"),
    own(BOX, **RELATIVE),
    own(box(0.1, 0.2, 0.3, 0.4), {"label": "dot", "point_2d": [0.5, 0.5], "image": 1}, images=["a.png", "tiny.png"])
    | {"coordinates": "relative1", "width": 640, "height": 480, "summary": "Much."},
    boxes([1, 2, 3, 4], [5, 6], ref=["x"], bbox_type="real", image_id=[0, 0]),
    swift("<image>Where?", CUP, **RELATIVE),
    swift(
        "<image>Where?",
        '[{"bbox_2d": <bbox>, "label": "<ref-object>"}]',
        objects={"ref": ["x"], "bbox": [[1, 2, 3, 4]]},
    ),
    {"image": "a.png", "conversations": [{"from": "human", "value": "<image>Where?"}, {"from": "gpt", "value": CUP}]}
    | RELATIVE,
    {"images": ["a.png"], "query": "Where?", "response": "Here.", "history": [["Hello?", "Hello."]]},
    {"image": "a.png", "prefix": "detect cup", "suffix": "<loc0010><loc0020><loc0300><loc0400> cup"},
    {"image": "a.png", "prefix": "<OD>", "suffix": "cup<loc_10><loc_20><loc_300><loc_400>"},
    {
        "messages": [
            {"role": "system", "content": "Short."},
            {"role": "user", "content": [{"type": "image", "image": "a.png"}, {"type": "text", "text": "Where?"}]},
            {"role": "assistant", "content": "Here."},
            {"role": "user", "content": "And there?"},
            {"role": "assistant", "content": "No."},
        ]
    },
]


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths to everything inside a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in items for place in places(item, (*path, key)))]


@st.composite
def damaged_rows(draw: Any) -> Any:
    """A sound row in which one or two things, at any depth, are something else or are gone."""
    row = copy.deepcopy(draw(st.sampled_from(SOUND)))
    for _ in range(draw(st.integers(1, 2))):
        place = draw(st.sampled_from(places(row)))
        if not place:
            return draw(JSON)
        inner = row
        for key in place[:-1]:
            inner = inner[key]
        if draw(st.booleans()):
            inner[place[-1]] = draw(JSON)
        else:
            del inner[place[-1]]
    return row


FUZZ = settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@FUZZ
@given(row=damaged_rows())
def test_damaged_rows_are_named_or_pass(row: Any, folder: Path, demo: Path) -> None:
    path = folder / "damaged.jsonl"
    path.write_text(f"{json.dumps(own(BOX))}\n{json.dumps(row)}\n", encoding="utf-8")
    text = GroundingTextSection(fenced=True)
    report = scan([path], encoding=Encoding(Writing(text), max_length=30, tokenizer=demo / "model/tokenizer.json"))
    assert report.rows.train == 2
    for finding in report.findings:
        assert finding.where.startswith(str(path)) or finding.code == "data-image-resized"


@FUZZ
@given(lines=st.lists(st.binary(max_size=40), min_size=1, max_size=4))
def test_bytes_are_named_or_pass(lines: list[bytes], folder: Path) -> None:
    path = folder / "bytes.jsonl"
    path.write_bytes(b"\n".join(lines))
    report = scan([path])
    assert sum(report.counts.values()) == max(report.rows.train or 0, 1)


@pytest.mark.slow
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(row=damaged_rows())
def test_what_passes_can_be_encoded_by_ms_swift(row: Any, folder: Path, demo: Path, template: Any) -> None:
    path = folder / "passed.jsonl"
    path.write_text(json.dumps(row), encoding="utf-8")
    report = scan([path])
    if not report.counts:
        assert template.encode(Rows([path])[0], return_length=True)["length"] > 0
