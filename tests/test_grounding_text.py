"""The text that the model reads and writes is Qwen3-VL's, to the token ids that really reach it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from swift_template import template_of
from swiftalign.config.sections import GroundingTextSection
from swiftalign.data.records import Record
from swiftalign.data.rows import Rows
from swiftalign.data.targets import PixelTarget, TextTarget
from swiftalign.data.text import Composed, Writing, answer

BOX = PixelTarget("bbox", "red box", ((8, 16), (64, 96)))
QUAD = PixelTarget("quad", "slab", ((10, 10), (50, 12), (49, 30), (9, 28)))
OTHER_DIAGONAL = PixelTarget("line", "wire", ((100, 20), (20, 100)))
BENT = PixelTarget("line", "cable", ((5, 5), (60, 40), (80, 44)))


SIZE = (128, 128)


def messages(*targets: PixelTarget, text: GroundingTextSection, **words: Any) -> list[dict[str, Any]]:
    record = Record((Path("a.png"),), targets, Composed(**words))
    row = record.to_swift([SIZE], Writing(text))
    assert set(row) == {"messages"}
    return list(row["messages"])


def test_an_answer_is_json_in_the_record_s_order() -> None:
    assert answer([OTHER_DIAGONAL, BOX, QUAD, BENT], [SIZE]) == (
        '[{"line_2d": [781, 156, 156, 781], "label": "wire"}, '
        '{"bbox_2d": [62, 125, 500, 750], "label": "red box"}, '
        '{"quad_2d": [78, 78, 391, 94, 383, 234, 70, 219], "label": "slab"}, '
        '{"line_2d": [39, 39, 469, 312, 625, 344], "label": "cable"}]'
    )


def test_an_answer_without_objects_is_an_empty_list() -> None:
    assert answer([], [SIZE]) == "[]"


def test_an_answer_can_be_fenced() -> None:
    assert answer([], [(9, 9)], Writing(GroundingTextSection(fenced=True))) == "```json\n[]\n```"


def test_labels_are_written_as_they_are() -> None:
    label = 'a "red" Löffel \\ 匙 \U0001f944'
    written = answer([PixelTarget("bbox", label, ((0, 0), (1, 1)))], [(1, 1)])
    assert '匙 \U0001f944"' in written
    assert json.loads(written)[0]["label"] == label


def test_an_outline_is_not_written() -> None:
    outlined = PixelTarget("bbox", "red box", BOX.points, QUAD.points)
    assert answer([outlined], [SIZE]) == answer([BOX], [SIZE])


SIDES = st.integers(1, 20_000)
POINTS = st.lists(st.tuples(*[st.floats(-30_000, 30_000)] * 2), min_size=2, max_size=6)


@given(points=POINTS, width=SIDES, height=SIDES)
def test_coordinates_are_whole_thousandths_within_the_image(
    points: list[tuple[float, float]], width: int, height: int
) -> None:
    target = PixelTarget("line", "wire", tuple(points)).in_text(width, height)
    written = [value for point in target.points for value in point]
    assert len(written) == 2 * len(points)
    for value, (share, side) in zip(
        written, [(v, s) for p in points for v, s in zip(p, (width, height), strict=True)], strict=True
    ):
        assert type(value) is int
        exact = min(max(share / side * 1000, 0), 1000)
        assert abs(value - exact) <= 0.5


def test_coordinates_are_rounded_and_not_cut() -> None:
    target = PixelTarget("line", "wire", ((0.4999, 0.5001), (999.5001, 1000.7)))
    assert target.in_text(1000, 1000) == TextTarget("line", "wire", ((0, 1), (1000, 1000)))


def test_a_row_s_own_words_come_before_the_config_s() -> None:
    text = GroundingTextSection(prompt="Find {labels}.", system="Short.")
    assert messages(BOX, QUAD, BOX, text=text)[:2] == [
        {"role": "system", "content": "Short."},
        {"role": "user", "content": "<image>Find red box, slab."},
    ]
    own = messages(BOX, text=text, prompt="Where? {labels}", system="")
    assert [message["role"] for message in own] == ["user", "assistant"]
    assert own[0]["content"] == "<image>Where? {labels}"
    assert own[1]["content"] == answer([BOX], [SIZE])


ROWS = {
    "box, quad and both lines": [BOX, QUAD, OTHER_DIAGONAL, BENT],
    "lines first": [OTHER_DIAGONAL, BENT, BOX],
    "nothing": [],
}
KEYS = {"bbox": "bbox_2d", "quad": "quad", "line": "line"}
WIDTH, HEIGHT = 192, 128


@pytest.fixture(scope="module")
def template(demo: Path) -> Any:
    return template_of(demo / "model")


def write_row(folder: Path, targets: list[PixelTarget]) -> Path:
    Image.new("RGB", (WIDTH, HEIGHT), "grey").save(folder / "a.png")
    objects = [{"label": t.label, KEYS[t.kind]: [value for point in t.points for value in point]} for t in targets]
    path = folder / "rows.jsonl"
    path.write_text(json.dumps({"images": ["a.png"], "objects": objects, "system": "Short."}))
    return path


@pytest.mark.slow
@pytest.mark.parametrize("fenced", [False, True])
@pytest.mark.parametrize("name", ROWS)
def test_the_token_ids_that_reach_the_model_are_the_record_s_text(
    name: str, fenced: bool, template: Any, tmp_path: Path
) -> None:
    from swift.dataset import LazyLLMDataset

    text = GroundingTextSection(fenced=fenced)
    rows = Rows([write_row(tmp_path, ROWS[name])], writing=Writing(text))
    encoded = LazyLLMDataset(rows, template.encode, strict=True)[0]

    learned = [token for token in encoded["labels"] if token != -100]
    expected = answer(ROWS[name], [(WIDTH, HEIGHT)], Writing(text))
    assert template.tokenizer.decode(learned) == f"{expected}<|im_end|>\n"
    image = "<|vision_start|>" + "<|image_pad|>" * (WIDTH * HEIGHT // 1024) + "<|vision_end|>"
    assert template.tokenizer.decode(encoded["input_ids"]) == (
        f"<|im_start|>system\nShort.<|im_end|>\n<|im_start|>user\n{image}{text.prompt}<|im_end|>\n"
        f"<|im_start|>assistant\n{expected}<|im_end|>\n"
    )
    if OTHER_DIAGONAL in ROWS[name]:
        assert '"line_2d": [521, 156, 104, 781]' in expected


@pytest.mark.slow
def test_ms_swift_s_own_boxes_would_turn_a_line_onto_the_other_diagonal() -> None:
    """Which is why lines are written as text here, and not handed over as its ``objects``."""
    from swift.dataset import RowPreprocessor

    row = {"objects": {"bbox": [[100, 20, 20, 100]]}}
    RowPreprocessor._check_objects(row)
    assert row["objects"]["bbox"] == [[20, 20, 100, 100]]
