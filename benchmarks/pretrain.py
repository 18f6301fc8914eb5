"""Teach a Qwen3-VL of five million parameters to ground coloured shapes, from random weights.

    python benchmarks/pretrain.py OUTPUT

Makes the model that the package ships, on a GPU, or slowly without one. Rows are drawn as the demo draws them, none
twice in a run, by worker processes; they become harder as the time passes: boxes, all kinds, several objects, objects
that only their colours tell apart. Writes a model folder in bfloat16, and its accuracies on rows of another seed.
Prints a line every few seconds.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, trainers
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset
from transformers import Qwen3VLForConditionalGeneration

from common import accuracies
from swiftalign.data.formats.own import OWN
from swiftalign.data.records import Reading
from swiftalign.data.text import DEFAULT_WRITING
from swiftalign.demo.data import COLOURS, PAINTERS, draw_row, prompt_for, row_size, write_dataset
from swiftalign.demo.model import byte_tokenizer, model_config, write_model
from swiftalign.worker.attention import use_padding_free_attention
from swiftalign.worker.sync_free import SyncFreeCollator, SyncFreeModel

TEXT = {
    "hidden_size": 192,
    "intermediate_size": 512,
    "num_hidden_layers": 6,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "head_dim": 32,
    "max_position_embeddings": 4096,
    "initializer_range": 0.05,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 10_000.0,
        "mrope_section": [6, 5, 5],
        "mrope_interleaved": True,
    },
}
VISION = {
    "depth": 6,
    "hidden_size": 128,
    "intermediate_size": 512,
    "num_heads": 4,
    "out_hidden_size": 192,
    "num_position_embeddings": 256,
    "initializer_range": 0.05,
    "deepstack_visual_indexes": [1, 3, 4],
}
WORDS = 160  # tokens beyond bytes
PATCH, MERGE = 16, 2
SIZE = (128, 128)
IMAGE = "<|image_pad|>"


@dataclass(frozen=True)
class Stage:
    """From when on, in shares of the time, which rows are drawn."""

    begin: float
    most: int  # objects
    shapes: tuple[str, ...] = tuple(sorted(PAINTERS))
    alike: float = 0.0  # share of rows whose objects all have one shape: only their colours tell them apart
    alone: float = 0.0  # share of rows that ask for one of their objects
    named: float = 0.0  # share of rows that ask for a name
    pointed: float = 0.0  # share of rows that list colours, each with its place
    colours: tuple[str, ...] = tuple(COLOURS)  # to choose from


BASIC = ("red", "cyan", "green", "yellow", "black", "purple", "orange", "blue")  # from the most to the least distinct
# Shapes alone tell most objects apart: asked for all objects of each image, or for one of several alike, the model took
# one of two discs by chance even after two million images. It binds a colour to a place when there are two colours
# first and the place stands right behind the word; those that join later follow within some ten thousand images.
STAGES = (
    Stage(0.0, 1, ("box", "disc")),
    Stage(0.04, 1),
    Stage(0.08, 4),
    Stage(0.35, 2, alike=1.0, alone=0.4, named=0.1, pointed=0.5, colours=BASIC[:2]),
    Stage(0.42, 3, alike=1.0, alone=0.4, named=0.1, pointed=0.5, colours=BASIC[:3]),
    Stage(0.47, 3, alike=1.0, alone=0.5, named=0.1, pointed=0.4, colours=BASIC[:4]),
    Stage(0.53, 4, alike=1.0, alone=0.5, named=0.1, pointed=0.4, colours=BASIC[:6]),
    Stage(0.59, 4, alike=1.0, alone=0.5, named=0.1, pointed=0.4),
    Stage(0.68, 4, alike=0.5, alone=0.3, named=0.03, pointed=0.1),
    Stage(0.84, 4, alike=0.3, alone=0.1),
)
WARM_UP = 0.02  # share of the time
EVALUATED = 512


def learn_tokenizer() -> Any:
    """Bytes, and the most frequent words of prompts and answers."""
    texts = []
    for number in range(2000):
        _, objects = draw_row(Random(f"words:{number}"), SIZE)
        texts += [prompt_for(objects), _answer(objects, SIZE), "user\nassistant\n"]
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = byte_tokenizer()._tokenizer.pre_tokenizer
    alphabet = sorted(ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=len(alphabet) + WORDS, initial_alphabet=alphabet, show_progress=False)
    learner.train_from_iterator(texts, trainer)
    merges = [tuple(pair) for pair in json.loads(learner.to_str())["model"]["merges"]]
    longest = TEXT["max_position_embeddings"]
    return byte_tokenizer([left + right for left, right in merges], merges, max_length=longest)


def _answer(objects: list[dict[str, Any]], size: tuple[int, int]) -> str:
    row = OWN.read({"images": ["-"], "objects": objects}, Reading(Path()))
    return str(row.to_swift([size], DEFAULT_WRITING)["messages"][-1]["content"])


def locating(random: Random, objects: list[dict[str, Any]], size: tuple[int, int]) -> tuple[str, str]:
    """The demo's own prompt and answer."""
    return prompt_for(objects), _answer(objects, size)


def singling_out(random: Random, objects: list[dict[str, Any]], size: tuple[int, int]) -> tuple[str, str]:
    """The same for one of the objects."""
    return locating(random, [random.choice(objects)], size)


def pointing(random: Random, objects: list[dict[str, Any]], size: tuple[int, int]) -> tuple[str, str]:
    """Each object's colour, and its centre right behind it, in any order."""
    listed = random.sample(objects, len(objects))
    return "Point.", "".join(f" {item['label'].split()[0]}{_centre(item, size)}" for item in listed)


def naming(random: Random, objects: list[dict[str, Any]], size: tuple[int, int]) -> tuple[str, str]:
    """The other way around: what lies at a place."""
    wanted = random.choice(objects)
    return f"What is at {_centre(wanted, size)}?", wanted["label"]


def _centre(item: dict[str, Any], size: tuple[int, int]) -> str:
    numbers = next(value for name, value in item.items() if name != "label")
    x, y = (sum(numbers[axis::2]) * 2 / len(numbers) / size[axis] for axis in (0, 1))
    return f"{round(1000 * x)}, {round(1000 * y)}"


def new_model(tokenizer: Any) -> Qwen3VLForConditionalGeneration:
    return Qwen3VLForConditionalGeneration(model_config(tokenizer, TEXT, VISION, tied=True))


# -- rows --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Encoder:
    """Rows as the trainer's template and processor make them, a hundred times faster."""

    tokenizer: Any

    def __call__(self, image: Any, prompt: str, answer: str) -> dict[str, Any]:
        rows, columns = image.height // PATCH, image.width // PATCH
        count = rows * columns // MERGE**2
        encode = self._encode
        before = encode("<|im_start|>user\n<|vision_start|>")
        after = encode(f"<|vision_end|>{prompt}<|im_end|>\n<|im_start|>assistant\n")
        written = encode(f"{answer}<|im_end|>\n")
        pads = [self.tokenizer.convert_tokens_to_ids(IMAGE)] * count
        tokens = [*before, *pads, *after, *written]
        return {
            "input_ids": tokens,
            "labels": [-100] * (len(tokens) - len(written)) + written,
            "position_ids": _positions(len(before), rows // MERGE, columns // MERGE, len(tokens)),
            "pixel_values": torch.from_numpy(_patches(np.asarray(image))),
            "grid": (1, rows, columns),
        }

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.backend_tokenizer.encode(text).ids
        return ids


def _positions(before: int, rows: int, columns: int, total: int) -> np.ndarray:
    """Of Qwen3-VL's rotary embedding, [3, total]: time, height and width."""
    found = np.empty((3, total), dtype=np.int64)
    found[:, :before] = np.arange(before)
    end = before + rows * columns
    found[0, before:end] = before
    found[1, before:end] = before + np.repeat(np.arange(rows), columns)
    found[2, before:end] = before + np.tile(np.arange(columns), rows)
    found[:, end:] = before + max(rows, columns) + np.arange(total - end)
    return found


def _patches(image: np.ndarray) -> np.ndarray:
    """An image's patches, block by block: [height, width, 3] of bytes -> [patches, 3 * 16 * 16]."""
    height, width, _ = image.shape
    side = PATCH * MERGE
    split = image.reshape(height // side, MERGE, PATCH, width // side, MERGE, PATCH, 3)
    return split.transpose(0, 3, 1, 4, 6, 2, 5).reshape(-1, 3 * PATCH**2)  # blocks, patches of one, channels, pixels


def as_pixel_values(patches: Tensor) -> Tensor:
    """What the ViT takes, from bytes: [patches, 3 * 16 * 16] -> [patches, 3 * 2 * 16 * 16], scaled to -1..1."""
    scaled = patches.float() / 127.5 - 1
    return scaled.view(-1, 3, 1, PATCH**2).expand(-1, -1, 2, -1).reshape(len(patches), -1)


def in_a_line(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """A batch without padding, as ms-swift packs it; `SyncFreeCollator` joins the pixels."""
    lengths = [len(row["input_ids"]) for row in rows]
    starts = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
    return {
        "input_ids": torch.tensor([[token for row in rows for token in row["input_ids"]]]),
        "labels": torch.tensor([[label for row in rows for label in row["labels"]]]),
        "position_ids": torch.from_numpy(np.concatenate([row["position_ids"] for row in rows], 1)).unsqueeze(1),
        "cu_seq_lens_q": starts,
        "cu_seq_lens_k": starts,
        "max_length_q": max(lengths),
        "max_length_k": max(lengths),
        "image_grid_thw": torch.tensor([row["grid"] for row in rows]),
    }


class Drawn(IterableDataset):
    """Batches of rows that are drawn when they are asked for, harder as the time passes."""

    def __init__(self, encoder: Encoder, batch: int, seed: int, begin: float, seconds: float) -> None:
        self.encoder, self.batch, self.seed = encoder, batch, seed
        self.begin, self.seconds = begin, seconds

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        info = torch.utils.data.get_worker_info()
        worker, number = (info.id if info else 0), 0
        torch.set_num_threads(1)
        while True:
            passed = (time.time() - self.begin) / self.seconds
            stage = [stage for stage in STAGES if stage.begin <= passed][-1]
            rows = []
            for index in range(self.batch):
                random = Random(f"pretraining:{self.seed}:{worker}:{number}:{index}")
                shapes = (random.choice(stage.shapes),) if random.random() < stage.alike else stage.shapes
                size = row_size(SIZE, random.randrange(8))
                image, objects = draw_row(random, size, most=stage.most, shapes=shapes, colours=stage.colours)
                asks = (naming, singling_out, pointing, locating)
                shares = stage.named, stage.alone, stage.pointed
                (ask,) = random.choices(asks, (*shares, 1 - sum(shares)))
                rows.append(self.encoder(image, *ask(random, objects, size)))
            number += 1
            yield rows


# -- training ----------------------------------------------------------------------------------------------------------


def train(model: Any, encoder: Encoder, options: argparse.Namespace) -> int:
    """Returns how many images were seen."""
    device = next(model.parameters()).device
    SyncFreeModel(model)
    use_padding_free_attention(model)
    collate = SyncFreeCollator(model, in_a_line, keep_answers=True)
    collate.dtype = torch.uint8  # pixels are sent to the GPU as bytes
    begin = time.time()
    drawn = Drawn(encoder, options.batch, options.seed, begin, options.seconds)
    workers = options.workers or max(len(os.sched_getaffinity(0)) - 1, 1)
    loader = DataLoader(drawn, None, num_workers=workers, collate_fn=collate, pin_memory=device.type == "cuda")
    decayed = [weight for weight in model.parameters() if weight.ndim > 1]
    others = [weight for weight in model.parameters() if weight.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=options.rate, betas=(0.9, 0.98), fused=True)
    model.train()
    total, told, last = torch.zeros((), device=device), begin, 0
    for step, batch in enumerate(loader, 1):
        passed = (time.time() - begin) / options.seconds
        if passed >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = options.rate * _schedule(passed)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            batch = _to(batch, device)
            batch["pixel_values"] = as_pixel_values(batch["pixel_values"])
            loss = model(**batch, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        total += loss.detach()
        if time.time() - told > options.every:
            mean, told_after = float(total) / (step - last), time.time() - begin
            rate = step * options.batch / told_after
            print(f"{told_after:5.0f} s  step {step}  loss {mean:.4f}  {rate:.0f} images/s", flush=True)
            total.zero_()
            told, last = time.time(), step
    return (step - 1) * options.batch  # the last one was drawn, not learnt from


def _schedule(passed: float) -> float:
    return min(passed / WARM_UP, 1.0) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * passed)))


def _to(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    return {name: _to(item, device) for name, item in value.items()} if isinstance(value, dict) else value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--seconds", type=float, default=1000, help="of training")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rate", type=float, default=1.5e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=0, help="that draw rows; by default one a core but one")
    parser.add_argument("--every", type=float, default=10, help="seconds between lines")
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = learn_tokenizer()
    model = new_model(tokenizer)
    parameters = sum(weight.numel() for weight in model.parameters())
    print(f"{parameters:,} parameters, {len(tokenizer)} tokens, on {device}", flush=True)
    images = train(model.to(device), Encoder(tokenizer), options)
    # Of the model as it is written: the hooks and the attention were for training.
    for part in model.modules():
        if hasattr(part, "config"):
            part.config._attn_implementation_internal = "sdpa"
    write_model(options.output, model.to(torch.bfloat16), tokenizer)
    held_out = options.output / "held-out"
    write_dataset(held_out / "rows.jsonl", rows=EVALUATED, seed=10_000)
    metrics = accuracies(options.output, held_out / "rows.jsonl")
    told = {"images": images, "seconds": options.seconds, "parameters": parameters, **metrics}
    (options.output / "pretraining.json").write_text(json.dumps(told, indent=1) + "\n")
    print(json.dumps(told))


if __name__ == "__main__":
    main()
