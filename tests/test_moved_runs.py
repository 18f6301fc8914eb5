"""Runs of stock ``swift sft``, moved here by ``init --from`` and trained again: the trained weights are the same.

The model has the token ids of the published ones, which ms-swift's template insists on.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from swiftalign.demo.model import SPECIAL_TOKENS, TEXT, VISION, write_model
from swiftalign.runs.lowering import to_argv

FIRST_SPECIAL = 151643  # <|endoftext|> of Qwen's vocabulary
QWEN_TOKENS = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>",
    "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
MERGERS = ["model.visual.merger", *(f"model.visual.deepstack_merger_list.{index}" for index in range(3))]
ALIGNER = {"freeze_llm": True, "freeze_vit": True, "freeze_aligner": False}
LAYERS = r"model\.visual\.(merger|deepstack_merger_list\.\d)\.linear_fc[12]"
METHODS = {
    "modules_to_save": {"target_regex": "dummy-target-modules", "modules_to_save": MERGERS},
    "lora": {**ALIGNER, "lora_rank": 4},
    "dora": {**ALIGNER, "use_dora": True, "lora_rank": 4},
    "adalora": {"tuner_type": "adalora", "target_regex": LAYERS, "adalora_target_r": 2, "adalora_init_r": 4},
    "boft": {"tuner_type": "boft", **ALIGNER, "boft_block_size": 8},
    "fourierft": {"tuner_type": "fourierft", **ALIGNER, "fourier_n_frequency": 50},
    "full": {"tuner_type": "full", **ALIGNER},
}
STEPS = 4


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Qwen3-VL in bfloat16, and rows of ms-swift's layout: answers in words, and with placeholders of boxes."""
    import torch
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import AutoModelForImageTextToText, Qwen2Tokenizer, Qwen3VLConfig

    assert set(QWEN_TOKENS) >= set(SPECIAL_TOKENS)
    folder = tmp_path_factory.mktemp("qwen")
    vocabulary = {token: number for number, token in enumerate(sorted(ByteLevel.alphabet()))}
    special = {token: FIRST_SPECIAL + number for number, token in enumerate(QWEN_TOKENS)}
    tokenizer = Qwen2Tokenizer(
        vocab=vocabulary | special,
        merges=[],
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=list(QWEN_TOKENS),
    )
    config = Qwen3VLConfig(
        text_config={**TEXT, "vocab_size": 151_680, "tie_word_embeddings": True},
        vision_config=VISION,
        tie_word_embeddings=True,
        image_token_id=special["<|image_pad|>"],
        video_token_id=special["<|video_pad|>"],
        vision_start_token_id=special["<|vision_start|>"],
        vision_end_token_id=special["<|vision_end|>"],
    )
    torch.manual_seed(0)
    write_model(folder / "model", AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16), tokenizer)
    dice, noise, lines = random.Random(0), np.random.default_rng(0), []
    for number in range(2 * STEPS):
        width, height = 32 * dice.randint(3, 6), 32 * dice.randint(3, 6)
        image = folder / f"{number}.png"
        Image.fromarray(noise.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(image)
        boxes = [[4 * index, 8, 40 + 4 * index, 60] for index in range(dice.randint(1, 3))]
        answer = json.dumps([{"bbox_2d": "BOX", "label": "a disc"} for _ in boxes]).replace('"BOX"', "<bbox>")
        row = {"images": [str(image)], "objects": {"ref": [], "bbox": boxes}}
        if number % 2:
            answer, row = f"There are {len(boxes)} discs.", {"images": [str(image)]}
        question = {"role": "user", "content": "<image>What is in the image?"}
        lines.append(json.dumps({"messages": [question, {"role": "assistant", "content": answer}], **row}))
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def run(command: list[str], folder: Path) -> str:
    environment = os.environ | {
        "QWENVL_BBOX_FORMAT": "new",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    done = subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return done.stdout


def weights(checkpoint: Path) -> dict[str, object]:
    from safetensors.torch import load_file

    [file] = checkpoint.glob("*model.safetensors")
    return dict(load_file(file))


@pytest.mark.slow
@pytest.mark.parametrize(
    "method",
    [method if method == "modules_to_save" else pytest.param(method, marks=pytest.mark.long) for method in METHODS],
)
def test_a_stock_run_trained_again_has_the_same_weights(method: str, base: Path, tmp_path: Path) -> None:
    import torch

    stock = {
        "model": str(base / "model"),
        "model_type": "qwen3_vl",
        "dataset": [str(base / "rows.jsonl")],
        "dataset_shuffle": False,
        "train_dataloader_shuffle": False,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 1,
        "learning_rate": 1e-3,
        "max_steps": STEPS,
        "lora_dropout": 0,
        "logging_steps": 1,
        "save_steps": STEPS,
        "check_model": False,
        "use_cpu": True,
        "dataloader_num_workers": 0,
        "report_to": "none",
        "output_dir": "stock",
        **METHODS[method],
    }
    run(["-c", "import sys; from swift.pipelines import sft_main; sft_main(sys.argv[1:])", *to_argv(stock)], tmp_path)
    [ran] = (tmp_path / "stock").iterdir()
    run(["-m", "swiftalign", "init", "config.yaml", "--from", str(ran)], tmp_path)
    run(["-m", "swiftalign", "train", "config.yaml"], tmp_path)
    theirs = weights(ran / f"checkpoint-{STEPS}")
    own = weights(tmp_path / f"runs/config/checkpoint-{STEPS}")
    assert theirs.keys() == own.keys()
    apart = {
        name: (theirs[name].float() - own[name].float()).abs().max().item()
        for name in theirs
        if not torch.equal(theirs[name], own[name])
    }  # type: ignore[attr-defined]
    assert apart == {}
