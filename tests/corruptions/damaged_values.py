"""Damage to values: not finite, zero, unmoved, or other than the base's where they should be its own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import torch

from corruptions.files import (
    WEIGHTS,
    Damage,
    Tensor,
    both,
    element,
    first,
    read_tensors,
    tensors,
    write_tensors,
    zeroed,
)

MODEL = "model.safetensors"
DEEP = ("--deep",)
BASE = ("--base", "BASE")
Held = dict[str, Tensor]


def _put(bits: int, index: int = 0, part: str = "linear_fc1.weight") -> Callable[[Held], None]:
    return lambda held: element(held[first(held, part)], bits, index)


def _zero(*parts: str) -> Callable[[Held], None]:
    """Zero every tensor whose name ends in one of these."""

    def change(held: Held) -> None:
        for name, tensor in held.items():
            if name.endswith(parts):
                zeroed(tensor)

    return change


def _zero_first(part: str) -> Callable[[Held], None]:
    return lambda held: zeroed(held[first(held, part)])


def _unmoved(*parts: str) -> Callable[[Path], None]:
    """Say of tensors that they began as they are."""

    def harm(path: Path) -> None:
        initial = json.loads((path.parent / "initial.json").read_text())
        file = next(path / name for name in (WEIGHTS, MODEL) if (path / name).exists())
        for name, tensor in read_tensors(file).items():
            if name in initial and (not parts or any(part in name for part in parts)):
                initial[name] = hashlib.sha256(tensor.data).hexdigest()
        (path.parent / "initial.json").write_text(json.dumps(initial))

    return harm


def _in_pickle(value: float) -> Callable[[Path], None]:
    def harm(path: Path) -> None:
        held = torch.load(path / "adapter_model.bin")
        held[first(held)][0, 0] = value
        torch.save(held, path / "adapter_model.bin")

    return harm


def _from_base(*parts: str) -> Callable[[Path], None]:
    """Put the base's own tensors in, whose names contain one of these; of all, where none is given."""

    def harm(path: Path) -> None:
        name = WEIGHTS if (path / WEIGHTS).exists() else MODEL
        held = read_tensors(path / name)
        base = read_tensors(Path(json.loads((path.parent / "base.json").read_text())) / MODEL)
        for key, tensor in held.items():
            if not parts or any(part in key for part in parts):
                tensor.data = base[key.removeprefix("base_model.model.")].data
        write_tensors(path / name, held)

    return harm


def _shorter(held: Held) -> None:
    tensor = held[first(held, "embed_tokens.weight")]
    half = tensor.shape[0] // 2
    tensor.data = tensor.data[: len(tensor.data) // tensor.shape[0] * half]
    tensor.shape[0] = half


VALUES: dict[str, Damage] = {
    "nan-in-float32": Damage("saved", tensors(_put(0x7FC00000)), ("not-finite",), DEEP),
    "nan-with-a-payload": Damage("saved", tensors(_put(0xFFFFFFFF, 77)), ("not-finite",), DEEP),
    "inf-in-float32": Damage("lora", tensors(_put(0x7F800000, -1, "lora_A.weight")), ("not-finite",), DEEP),
    "minus-inf-in-float32": Damage("dora", tensors(_put(0xFF800000, 3, "magnitude_vector")), ("not-finite",), DEEP),
    "nan-in-bf16": Damage("saved-bf16-as-base", tensors(_put(0x7F81, 5)), ("not-finite",), DEEP),
    "inf-in-bf16": Damage("saved-bf16-as-base", tensors(_put(0x7F80)), ("not-finite",), DEEP),
    "minus-inf-in-bf16": Damage("merged-bf16", tensors(_put(0xFF80, -1), MODEL), ("not-finite",), DEEP),
    "nan-in-float16": Damage("merged-fp16", tensors(_put(0x7E00), MODEL), ("not-finite",), DEEP),
    "inf-in-float16": Damage("merged-fp16", tensors(_put(0x7C00, 9), MODEL), ("not-finite",), DEEP),
    "minus-inf-in-float16": Damage("merged-fp16", tensors(_put(0xFC00, -1), MODEL), ("not-finite",), DEEP),
    "nan-in-a-frozen-part": Damage("full", tensors(_put(0x7FC00000, 1, "q_proj.weight"), MODEL), ("not-finite",), DEEP),
    "nan-in-a-pickle": Damage("pickle", _in_pickle(float("nan")), ("not-finite",), DEEP),
    "matrix-of-zeros": Damage(
        "saved",
        tensors(_zero_first("visual.merger.linear_fc2.weight")),
        ("all-zero",),
        DEEP,
        message="1 tensor with only zeros: base_model.model.model.visual.merger.linear_fc2.weight",
    ),
    "matrix-of-zeros-in-a-model": Damage("merged", tensors(_zero_first("q_proj.weight"), MODEL), ("all-zero",), DEEP),
    "lora-a-zero": Damage("lora", tensors(_zero_first("lora_A.weight")), ("all-zero",), DEEP),
    "lora-b-zero": Damage("lora", tensors(_zero("merger.linear_fc1.lora_B.weight")), ("untouched",)),
    "lora-b-all-zero": Damage(
        "lora",
        tensors(_zero("lora_B.weight")),
        ("nothing-moved",),
        message="all 8 tensors that make the adapters change their layers still have their initial value",
    ),
    "lora-b-all-zero-alone": Damage("alone", tensors(_zero("lora_B.weight")), ("nothing-moved",)),
    "dora-b-zero": Damage("dora", tensors(_zero_first("lora_B.weight")), ("untouched",), DEEP),
    "adalora-e-zero": Damage("adalora", tensors(_zero_first("lora_E")), ("untouched",)),
    "boft-r-zero": Damage("boft", tensors(_zero_first("boft_R")), ("untouched",)),
    "fourierft-spectrum-zero": Damage("fourierft", tensors(_zero_first("fourierft_spectrum")), ("untouched",)),
    "fourierft-all-zero": Damage("fourierft", tensors(_zero("fourierft_spectrum")), ("nothing-moved",)),
    "dora-magnitude-initial": Damage("dora", _unmoved("merger.linear_fc1.lora_magnitude"), ("untouched",)),
    "saved-module-initial": Damage("saved", _unmoved("merger_list.2."), ("untouched",)),
    "saved-module-initial-deep": Damage("saved-bf16", _unmoved("merger_list.2."), ("untouched",), DEEP),
    "one-tensor-initial": Damage(
        "mixed",
        _unmoved("visual.merger.norm.bias"),
        ("untouched",),
        message="1 tensor still with the initial value: base_model.model.model.visual.merger.norm.bias",
    ),
    "full-model-initial": Damage("full", _unmoved(), ("nothing-moved",), DEEP),
    "everything-initial": Damage(
        "saved",
        _unmoved(),
        ("nothing-moved",),
        message="all 24 tensors that were compared still have their initial value",
    ),
    "adapter-all-initial": Damage("boft", _unmoved(), ("nothing-moved",), DEEP),
    "base-differs-in-the-llm": Damage(
        "merged", tensors(_put(0x3F800000, 2, "q_proj.weight"), MODEL), ("changed-outside-plan",), BASE
    ),
    "base-differs-in-a-bias": Damage(
        "full", tensors(_put(0x3F800000, 0, "blocks.1.norm1.bias"), MODEL), ("changed-outside-plan",), BASE
    ),
    "base-differs-in-the-run": Damage(
        "merged-in-run", tensors(_put(0x3F800000, 0, "lm_head.weight"), MODEL), ("changed-outside-plan",), BASE
    ),
    "rounded-some": Damage("full", _from_base("merger_list.0.norm"), ("rounded-to-base", "untouched"), BASE),
    "rounded-some-saved": Damage("saved", _from_base("visual.merger.norm"), ("rounded-to-base", "untouched"), BASE),
    "rounded-in-the-merged": Damage(
        "merged-in-run", _from_base("merger_list.0.linear_fc1"), ("rounded-to-base",), BASE
    ),
    "rounded-all": Damage("merged-in-run", _from_base(), ("nothing-moved",), BASE),
    "rounded-all-alone": Damage(
        "merged",
        _from_base(),
        ("nothing-moved",),
        BASE,
        message="all 24 trained tensors equal the base",
    ),
    "base-is-another": Damage("merged", lambda _: None, ("changed-outside-plan",), ("--base", "OTHER")),
    "trained-outside-the-aligner": Damage(
        "merged",
        both(_from_base(), tensors(_put(0x3F800000, 0, "lm_head.weight"), MODEL)),
        ("changed-outside-plan",),
        BASE,
        message="1 tensor outside the aligner and different from the base: lm_head.weight",
    ),
    "base-has-more-experts": Damage(
        "merged", lambda _: None, ("changed-outside-plan", "base-mismatch"), ("--base", "MOE")
    ),
    "base-of-another-shape": Damage("merged", tensors(_shorter, MODEL), ("tensor-shape", "base-mismatch"), BASE),
}
