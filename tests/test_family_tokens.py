"""Tokens of rows, and images as they reach the model, as ms-swift's template of each family makes them."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from swift_template import template_of
from swiftalign.checks.learned import sampled
from swiftalign.config.sections import Config
from swiftalign.data.encoded import TemplateEncoder, learned_faults
from swiftalign.data.encoding import Encoding, encoding_of
from swiftalign.data.rows import Rows, open_images, sizes_of, with_images
from swiftalign.data.sizes import model_size, visual_tokens
from swiftalign.data.tokens import conversation
from swiftalign.model.families import find, published_config

# A published model of each family, whose config gives the folder its type.
PUBLISHED = {
    "qwen3_5": "Qwen/Qwen3.5-0.8B",
    "qwen3_5_moe": "Qwen/Qwen3.5-35B-A3B",
    "qwen2_5_vl": "Qwen/Qwen2.5-VL-3B-Instruct",
}
# Templates of ms-swift for them.
TEMPLATES = {"qwen3_5": "qwen3_5", "qwen3_5_moe": "qwen3_8", "qwen2_5_vl": "qwen2_5_vl"}
SIZES = [(61, 47), (640, 480), (1000, 37), (333, 901), (28, 28), (512, 512), (719, 1279)]


def folder_of(family: str, demo: Path, folder: Path) -> Path:
    """A folder with a family's config, the demo's tokenizer, and the processor of the family's patch size."""
    shutil.copytree(demo / "model", folder, ignore=shutil.ignore_patterns("*.safetensors"))
    known = find(family)
    assert known is not None
    for name in ("preprocessor_config.json", "video_preprocessor_config.json"):
        values = json.loads((folder / name).read_text()) | {"patch_size": known.patch, "merge_size": known.merge}
        (folder / name).write_text(json.dumps(values))
    (folder / "config.json").write_text(json.dumps(published_config(PUBLISHED[family])))
    return folder


@pytest.fixture(scope="module", params=PUBLISHED)
def known(request: pytest.FixtureRequest, demo: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Encoding]:
    """ms-swift's template for a family, and what this toolkit knows of it."""
    folder = folder_of(request.param, demo, tmp_path_factory.mktemp("models") / "renamed")
    template = template_of(folder, request.param, template_type=TEMPLATES[request.param])
    return template, encoding_of(Config.model_validate({"model": {"path": str(folder)}}))


def both(template: Any, encoding: Encoding, row: dict[str, Any]) -> tuple[int, int | None]:
    """The tokens of a row as ms-swift encodes it, and as they are counted here."""
    sizes = [image.size for image in row.get("images", [])]
    length = template.encode(own_messages(row), return_length=True)["length"]
    known = conversation(row, sizes, encoding.limits, encoding.system, encoding.chat)
    return length, encoding.lengths([known])[0] if known else None


def own_messages(row: dict[str, Any]) -> dict[str, Any]:
    """The row with messages of its own: ms-swift changes them."""
    return row | {"messages": [dict(message) for message in row["messages"]], "images": list(row.get("images", []))}


def row_of(*texts: str, system: str | None = None, size: tuple[int, int] | None = (61, 47)) -> dict[str, Any]:
    roles = ["user", "assistant"] * len(texts)
    messages = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    return {"messages": messages, "images": [Image.new("RGB", size)] if size else []}


ROWS = {
    "plain": row_of("<image>Where?", "Here."),
    "white space": row_of(" \n<image> Where? \n", "\n\n Here. \n"),
    "image not named": row_of("  Where?", "Here."),
    "system": row_of("<image>Where?", "Here.", system="  Be short.\n"),
    "empty system": row_of("<image>Where?", "Here.", system=""),
    "rounds": row_of("<image>Where?", "Here.", "And now?", "There.\n"),
    "reasoning": row_of("<image>Where?", "<think>It is small. </think>Here."),
    "reasoning, then none": row_of("<image>Where?", "<think>\nIt\n</think>\n\nHere.", "And now?", "There."),
    "odd reasoning": row_of("<image>Where?", "So: <think>a</think> b </think>\n c <think>"),
    "only the end of reasoning": row_of("<image>Where?", "It is small.</think>Here."),
    "end of its own": row_of("<image>Where?", "Here.<|im_end|>"),
    "text alone": row_of("Where?", "Here.", size=None),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ROWS)
def test_a_row_has_as_many_tokens_as_ms_swift_makes(name: str, known: tuple[Any, Encoding]) -> None:
    length, counted = both(*known, ROWS[name])
    assert counted == length


@pytest.mark.slow
def test_random_white_space_and_reasoning_are_counted_as_ms_swift_does(known: tuple[Any, Encoding]) -> None:
    draw = random.Random(5)
    parts = ["<think>", "</think>", "\n", " ", "a", "é", "<image>"]
    for _ in range(150):
        texts = ["".join(draw.choices(parts[:6], k=draw.randint(1, 8))) for _ in range(draw.choice([2, 4]))]
        row = row_of(*texts, system=draw.choice([None, "", " s "]))
        length, counted = both(*known, row)
        assert counted == length, texts


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_an_image_reaches_the_model_in_the_size_that_is_planned(
    size: tuple[int, int], known: tuple[Any, Encoding]
) -> None:
    template, encoding = known
    encoded = template.encode(row_of("<image>Where?", "Here.", size=size))
    processor = template.processor.image_processor
    _, high, wide = encoded["image_grid_thw"][0].tolist()
    assert model_size(*size, encoding.limits) == (wide * processor.patch_size, high * processor.patch_size)
    assert visual_tokens(*size, encoding.limits) == list(encoded["input_ids"]).count(template.image_token_id)


@pytest.mark.slow
def test_what_is_learned_is_what_the_rows_say(known: tuple[Any, Encoding], demo: Path) -> None:
    """Qwen3.5 learns an empty thinking before each answer, which the check of the rows reads past."""
    template, encoding = known
    encode = TemplateEncoder(template, encoding.writing)
    rows = Rows([demo / "data/train.jsonl"], writing=encoding.writing)
    assert list(sampled(rows, encode)) == []
    row = rows.row(0)
    images = open_images(row)
    encoded = encode(with_images(row.to_swift(sizes_of(images), rows.writing), images))
    assert encoded.learned.startswith(f"{encoding.chat.answer}[")
    assert encoded.answer.sound
    assert encoded.image is not None
    assert encoded.image.shape[1::-1] == model_size(*sizes_of(images)[0], encoding.limits)


@pytest.mark.slow
def test_a_wrong_coordinate_is_found_behind_the_thinking(known: tuple[Any, Encoding], demo: Path) -> None:
    template, encoding = known
    other = replace(encoding.writing, unit="resized" if encoding.writing.unit == "relative1000" else "relative1000")
    rows = Rows([demo / "data/train.jsonl"], writing=other)
    [problem] = sampled(rows, TemplateEncoder(template, encoding.writing))
    assert problem.code == "data-not-learned"
    row = Rows([demo / "data/train.jsonl"], writing=encoding.writing).row(0)
    images = open_images(row)
    sizes = sizes_of(images)
    learned = encoding.chat.answer + "[]"
    assert learned_faults(learned, row.record(sizes, encoding.limits), sizes, encoding.writing)


@pytest.mark.parametrize("settings", [{}, {"data": {"template": "qwen3_8"}}, {"data": {"template": "qwen3_vl"}}])
@pytest.mark.parametrize("given", [{}, {"enable_thinking": True}, {"loss_scale": "last_round"}], ids=str)
def test_tokens_are_counted_only_where_the_template_is_known(
    settings: dict[str, Any], given: dict[str, Any], demo: Path, tmp_path: Path
) -> None:
    folder = folder_of("qwen3_5", demo, tmp_path / "model")
    encoding = encoding_of(Config.model_validate({"model": {"path": str(folder)}, "swift": given, **settings}))
    counts = not given and settings.get("data", {}).get("template") != "qwen3_vl"
    assert (encoding.tokenizer is not None) == counts
