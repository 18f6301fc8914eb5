"""Lengths counted before training are those of ms-swift's own encoding."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from swift_template import template_of
from swiftalign.config.sections import GroundingTextSection
from swiftalign.data.encoding import Encoding
from swiftalign.data.formats.swift import SWIFT
from swiftalign.data.images import image_size
from swiftalign.data.records import Reading
from swiftalign.data.rows import Rows
from swiftalign.data.sizes import PixelLimits, model_size, pixel_limits, visual_tokens
from swiftalign.data.text import Writing
from swiftalign.data.tokens import Conversation, conversation
from swiftalign.demo.data import write_dataset
from swiftalign.problems import DataError, ModelError

ROWS = 200
TEXTS = [
    GroundingTextSection(),
    GroundingTextSection(fenced=True, system="You find objects.\n"),
    GroundingTextSection(system="  Überall: 物体 \U0001f600 e\u0301 {labels}  "),
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "rows.jsonl"
    write_dataset(path, rows=ROWS, seed=11)
    return path


@pytest.fixture(scope="module")
def merging(demo: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's model with a vocabulary that has merges, as the published one has."""
    from transformers import AutoTokenizer

    folder = shutil.copytree(demo / "model", tmp_path_factory.mktemp("merging") / "model")
    texts = [message["content"] for row in Rows([data]) for message in row["messages"]]
    AutoTokenizer.from_pretrained(folder).train_new_from_iterator(texts, vocab_size=900).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def template(demo: Path) -> Any:
    return template_of(demo / "model")


def both_lengths(template: Any, tokenizer: Path, rows: list[dict[str, Any]]) -> tuple[list[int], list[int]]:
    """As ms-swift encodes rows, and as they are counted here."""
    encoded = [template.encode(row, return_length=True)["length"] for row in rows]
    known = [conversation(row, [image_size(Path(path)) for path in row["images"]]) for row in rows]
    return encoded, Encoding(tokenizer=tokenizer).lengths([row for row in known if row is not None])


def in_layout(rows: Rows, index: int) -> dict[str, Any]:
    """A row with the paths of its images, however the trainer hands them over."""
    return {**rows[index], "images": [str(path) for path in rows.row(index).images]}


@pytest.mark.slow
@pytest.mark.parametrize("text", TEXTS, ids=["plain", "fenced, with system", "odd characters"])
def test_the_demo_s_rows_are_as_long_as_ms_swift_makes_them(
    text: GroundingTextSection, template: Any, demo: Path, data: Path
) -> None:
    rows = Rows([data], writing=Writing(text))
    encoded, counted = both_lengths(
        template, demo / "model/tokenizer.json", [in_layout(rows, index) for index in range(ROWS)]
    )
    assert counted == encoded
    assert len(set(counted)) > 50


@pytest.mark.slow
def test_lengths_agree_where_bytes_merge_into_tokens(merging: Path, demo: Path, data: Path) -> None:
    rows = Rows([data], writing=Writing(TEXTS[1]))
    listed = [in_layout(rows, index) for index in range(60)]
    encoded, counted = both_lengths(template_of(merging), merging / "tokenizer.json", listed)
    _, of_bytes = both_lengths(template_of(merging), demo / "model/tokenizer.json", listed)
    assert counted == encoded
    assert sum(counted) < sum(of_bytes) * 0.7


IMAGE = "<image>"
SWIFT_ROWS: dict[str, dict[str, Any]] = {
    "several rounds": {
        "messages": [
            {"role": "system", "content": "Short."},
            {"role": "user", "content": f"{IMAGE}Where?"},
            {"role": "assistant", "content": "\n\nHere."},
            {"role": "user", "content": "And there?"},
            {"role": "assistant", "content": "No."},
        ]
    },
    "image not named": {
        "messages": [{"role": "user", "content": "Where?"}, {"role": "assistant", "content": "Here."}],
    },
    "two images, one in the middle": {
        "images": 2,
        "messages": [
            {"role": "user", "content": f"{IMAGE} or {IMAGE}?"},
            {"role": "assistant", "content": "The first."},
        ],
    },
    "objects": {
        "messages": [
            {"role": "user", "content": f"{IMAGE}Find <ref-object>."},
            {"role": "assistant", "content": "<bbox> and <bbox> and <bbox>"},
        ],
        "objects": {"ref": ["a box"], "bbox": [[1, 2, 33.5, 40], [5, 6], [1, 1, 20, 1, 20, 20, 1, 20]]},
    },
    "objects of two images, in shares": {
        "images": 2,
        "messages": [
            {"role": "user", "content": f"{IMAGE}{IMAGE}"},
            {"role": "assistant", "content": "<bbox><bbox>"},
        ],
        "objects": {"bbox": [[0.1, 0.2, 0.3, 0.4], [0, 0, 1, 1]], "bbox_type": "norm1", "image_id": [1, 0]},
    },
    "content in parts": {
        "parts": True,
        "messages": [
            {"role": "user", "content": [{"type": "image", "image": 0}, {"type": "text", "text": "Where?"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "Here."}]},
        ],
    },
    "two users and two assistants in turn": {
        "messages": [
            {"role": "user", "content": f"{IMAGE}Look."},
            {"role": "user", "content": "Where?"},
            {"role": "assistant", "content": "Here. "},
            {"role": "assistant", "content": "There."},
        ],
    },
    "assistant alone, without an image": {"images": 0, "messages": [{"role": "assistant", "content": "A wall."}]},
    "an end of its own": {
        "messages": [{"role": "user", "content": IMAGE}, {"role": "assistant", "content": "Here.<|im_end|>"}]
    },
}


def filled(row: dict[str, Any], paths: list[Path], *, own_boxes: bool) -> dict[str, Any]:
    """A row of `SWIFT_ROWS` with images, as training reads it from a file.

    Args:
        own_boxes: whether this toolkit writes the placeholders; otherwise ms-swift does.
    """
    row = json.loads(json.dumps(row))
    named = [str(path) for path in paths[: row.pop("images", 1)]]
    if row.pop("parts", False):
        row["messages"][0]["content"][0]["image"] = named[0]
    else:
        row["images"] = named
    read = SWIFT.read(row, Reading(paths[0].parent, own_boxes=own_boxes))
    assert [*read.wording.problems(read.targets), *read.remarks] == []
    sizes = [image_size(image) for image in read.images if image is not None]
    return read.to_swift(sizes, Writing(own_boxes=own_boxes))


@pytest.mark.slow
@pytest.mark.parametrize("name", SWIFT_ROWS)
def test_rows_of_ms_swift_s_layout_are_as_long_as_it_makes_them(
    name: str, template: Any, demo: Path, data: Path
) -> None:
    rows = Rows([data])
    images = [rows.row(index).images[0] for index in (3, 7)]
    row = filled(SWIFT_ROWS[name], images, own_boxes=True)
    assert not any(tag in json.dumps(row) for tag in ("<bbox>", "<ref-object>", "objects"))
    encoded, counted = both_lengths(template, demo / "model/tokenizer.json", [row])
    assert counted == encoded


@pytest.mark.slow
@pytest.mark.parametrize("name", SWIFT_ROWS)
def test_what_is_written_for_placeholders_is_what_ms_swift_writes(
    name: str, template: Any, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In its newer format; the older one puts special tokens around each box, as Qwen2-VL does."""
    monkeypatch.setattr(template, "bbox_format", "new")
    rows = Rows([data])
    images = [rows.row(index).images[0] for index in (3, 7)]
    ours, theirs = (filled(SWIFT_ROWS[name], images, own_boxes=own) for own in (True, False))
    if "objects" in SWIFT_ROWS[name]:
        assert json.dumps(theirs).count("<bbox>") == len(SWIFT_ROWS[name]["objects"]["bbox"])
    encoded = [template.encode(row, return_length=True) for row in (ours, theirs)]
    assert template.tokenizer.decode(encoded[0]["input_ids"]) == template.tokenizer.decode(encoded[1]["input_ids"])
    assert encoded[0]["labels"] == encoded[1]["labels"]


@pytest.mark.parametrize(
    "change",
    [
        {"tools": [{"type": "function"}]},
        {"videos": ["a.mp4"]},
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "loss": False}]},
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": [1, 2]}]},
        {"messages": [{"role": "user", "content": "a"}, {"role": "tool_call", "content": "{}"}]},
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "<image>"}]},
    ],
    ids=["tools", "videos", "loss", "token ids", "tool call", "image in the answer"],
)
def test_what_is_not_known_is_not_counted(change: dict[str, Any]) -> None:
    row = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], **change}
    assert conversation(row, [(64, 64)] if "<image>" in json.dumps(row) else []) is None


def test_a_default_system_message_counts_where_a_row_has_none() -> None:
    row = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    known = conversation(row, [], system="Short.")
    assert known is not None
    assert known.texts == (
        "<|im_start|>system\nShort.<|im_end|>\n<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n",
        "b<|im_end|>\n",
    )


@settings(max_examples=200, deadline=None)
@given(text=st.text())
@example(text="\U0001d160")  # one character of 4 bytes, which NFC takes apart into three
def test_the_bound_is_never_below_the_count(text: str, demo: Path) -> None:
    row = Conversation((text, "<|im_end|>"), 7)
    assert Encoding(tokenizer=demo / "model/tokenizer.json").lengths([row])[0] <= row.most


LIMITS = st.one_of(st.none(), st.tuples(st.integers(1, 50), st.integers(50, 20000)))


@settings(max_examples=500, deadline=None)
@given(width=st.integers(1, 20000), height=st.integers(1, 20000), tokens=LIMITS)
def test_sizes_are_those_of_qwen_vl_utils(width: int, height: int, tokens: tuple[int, int] | None) -> None:
    from qwen_vl_utils.vision_process import smart_resize

    limits = PixelLimits(tokens[0] * 1024, tokens[1] * 1024) if tokens else PixelLimits()
    try:
        tall, wide = smart_resize(height, width, 32, limits.least, limits.most)
    except ValueError:
        with pytest.raises(DataError, match="more than 200 times the other"):
            model_size(width, height, limits)
        return
    assert model_size(width, height, limits) == (wide, tall)
    assert visual_tokens(width, height, limits) * 1024 == wide * tall


@pytest.mark.parametrize(
    ("max_pixels", "environment", "expected"),
    [
        (None, {}, PixelLimits(4096, 16384 * 1024)),
        (None, {"IMAGE_MAX_TOKEN_NUM": "1280"}, PixelLimits(4096, 1280 * 1024)),
        (None, {"MAX_PIXELS": "1003520", "MIN_PIXELS": "65536"}, PixelLimits(65536, 980 * 1024)),
        (None, {"MAX_PIXELS": "1003520", "IMAGE_MAX_TOKEN_NUM": "5"}, PixelLimits(4096, 5 * 1024)),
        (250_000, {}, PixelLimits(4096, 16384 * 1024, 250_000)),
    ],
)
def test_limits_come_from_where_ms_swift_takes_them(
    max_pixels: int | None, environment: dict[str, str], expected: PixelLimits
) -> None:
    assert pixel_limits(max_pixels, environment) == expected


def test_a_limit_that_is_no_number_is_named() -> None:
    with pytest.raises(DataError, match="IMAGE_MAX_TOKEN_NUM or MAX_PIXELS: not a whole number"):
        pixel_limits(environment={"MAX_PIXELS": "1M"})


@pytest.mark.parametrize("size", [(1000, 700), (333, 1234), (640, 480)])
def test_max_pixels_reduces_as_ms_swift_does(size: tuple[int, int]) -> None:
    from PIL import Image
    from qwen_vl_utils.vision_process import fetch_image
    from swift.template.vision_utils import rescale_image

    reduced = rescale_image(Image.new("RGB", size), 200_000)
    assert model_size(*size, PixelLimits(before=200_000)) == fetch_image({"image": reduced}, image_patch_size=16).size


@pytest.mark.parametrize("content", [None, "{}", "not JSON"], ids=["missing", "empty", "not JSON"])
def test_a_tokenizer_that_can_t_be_read_is_named(content: str | None, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ModelError, match=f"tokenizer {path}: "):
        Encoding(tokenizer=path).lengths([Conversation(("a",), 0)])


def test_counting_loads_neither_torch_nor_transformers(demo: Path) -> None:
    import subprocess
    import sys

    code = (
        "import sys; from pathlib import Path; from swiftalign.data.encoding import Encoding;"
        "from swiftalign.data.tokens import Conversation;"
        f"print(Encoding(tokenizer=Path({str(demo / 'model/tokenizer.json')!r})).lengths([Conversation(('ab',), 3)]),"
        "[name for name in ('torch', 'transformers', 'swift', 'PIL') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[5] []\n"
