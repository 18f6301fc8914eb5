"""The names that peft gives to the tensors of an adapter."""

from __future__ import annotations

import re

ADAPTER_PREFIX = "base_model.model."


ADALORA_STATE = "adalora_state.safetensors"  # beside pruned factors, what training needs to go on


_TENSOR = re.compile(r"(.+)\.(lora_\w+|boft_\w+|fourierft_spectrum)(?:\.(?:weight|bias))?")


def adapter_part(name: str) -> tuple[str, str] | None:
    """The layer in the base model and the part of its adapter that a tensor is, e.g. ``lora_A``; None of any other."""
    match = _TENSOR.fullmatch(name)
    return (match[1].removeprefix(ADAPTER_PREFIX), match[2]) if match else None
