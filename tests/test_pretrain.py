"""The script that makes the shipped model: its rows are those of the trainer."""

from __future__ import annotations

import sys
from pathlib import Path
from random import Random
from typing import Any

import pytest

from swift_template import template_of
from swiftalign.demo.data import draw_row, prompt_for, row_size

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the script's shape, with random weights."""
    import torch

    import pretrain
    from swiftalign.demo.model import write_model

    folder = tmp_path_factory.mktemp("small")
    tokenizer = pretrain.learn_tokenizer()
    torch.manual_seed(0)
    write_model(folder, pretrain.new_model(tokenizer).to(torch.bfloat16), tokenizer)
    return folder


@pytest.mark.parametrize("index", [0, 3, 7])
def test_rows_are_encoded_as_the_trainer_encodes_them(folder: Path, index: int) -> None:
    import torch

    import pretrain
    from swiftalign.data.formats.own import OWN
    from swiftalign.data.records import Reading
    from swiftalign.data.text import DEFAULT_WRITING

    template: Any = template_of(folder)
    image, objects = draw_row(Random(index), row_size((128, 128), index))
    row = {"images": ["-"], "objects": objects, "prompt": prompt_for(objects)}
    messages = OWN.read(row, Reading(Path())).to_swift([image.size], DEFAULT_WRITING)
    theirs = template.encode({**messages, "images": [image]})
    ours = pretrain.Encoder(template.tokenizer)(image, *pretrain.locating(Random(0), objects, image.size))
    assert ours["input_ids"] == theirs["input_ids"]
    assert ours["labels"] == theirs["labels"]
    pixels = pretrain.as_pixel_values(ours["pixel_values"])
    assert torch.allclose(pixels, theirs["pixel_values"], atol=1e-6)
    assert list(ours["grid"]) == theirs["image_grid_thw"][0].tolist()


def test_positions_are_the_models(folder: Path) -> None:
    import numpy as np
    import torch
    from transformers import AutoTokenizer, Qwen3VLForConditionalGeneration

    import pretrain

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = Qwen3VLForConditionalGeneration.from_pretrained(folder)
    image, objects = draw_row(Random(3), row_size((128, 128), 3))
    row = pretrain.Encoder(tokenizer)(image, *pretrain.locating(Random(0), objects, image.size))
    tokens = torch.tensor([row["input_ids"]])
    kinds = (tokens == model.config.image_token_id).int()
    theirs, _ = model.model.get_rope_index(tokens, mm_token_type_ids=kinds, image_grid_thw=torch.tensor([row["grid"]]))
    assert np.array_equal(row["position_ids"], theirs[:, 0].numpy())


def test_the_shipped_model_writes_what_batches_of_drawn_rows_say() -> None:
    import time

    import torch
    from transformers import AutoTokenizer, Qwen3VLForConditionalGeneration

    import pretrain
    from swiftalign.demo.workspace import PRETRAINED
    from swiftalign.worker.attention import use_padding_free_attention
    from swiftalign.worker.sync_free import SyncFreeCollator, SyncFreeModel

    model: Any = Qwen3VLForConditionalGeneration.from_pretrained(PRETRAINED, dtype=torch.float32).eval()
    SyncFreeModel(model)
    use_padding_free_attention(model)
    collate = SyncFreeCollator(model, pretrain.in_a_line, keep_answers=True)
    collate.dtype = torch.uint8
    encoder = pretrain.Encoder(AutoTokenizer.from_pretrained(PRETRAINED))
    begin = time.time() - 900  # of 1000 seconds: rows of the last stage
    batch: Any = collate(next(iter(pretrain.Drawn(encoder, 8, 5, begin, 1000))))
    batch["pixel_values"] = pretrain.as_pixel_values(batch["pixel_values"])
    with torch.inference_mode():
        assert model(**batch, use_cache=False).loss.item() < 0.2


def test_the_model_is_small_enough_to_ship(folder: Path) -> None:
    assert (folder / "model.safetensors").stat().st_size < 12e6
