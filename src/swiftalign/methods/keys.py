"""The names that peft gives to the tensors of an adapter."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

ADAPTER_PREFIX = "base_model.model."
ADALORA_STATE = "adalora_state.safetensors"  # beside pruned factors, what training needs to go on

_FACTORS = ("lora_", "boft_", "fourierft_spectrum")
_KEY = re.compile(
    r"(?:base_model\.model\.)?(.+?)\."
    r"((?:lora_\w+|boft_\w+|fourierft_spectrum)(?:\.(?:weight|bias))?|(?:(?:base_layer|token_adapter)\.)?[^.]*)"
)


@dataclass(frozen=True, slots=True)
class PeftKey:
    """The name of a tensor in a checkpoint.

    >>> PeftKey.parse("base_model.model.model.visual.merger.linear_fc1.lora_A.weight")
    PeftKey(layer='model.visual.merger.linear_fc1', part='lora_A.weight')
    >>> PeftKey.parse("base_model.model.lm_head.base_layer.weight")
    PeftKey(layer='lm_head', part='base_layer.weight')
    >>> str(PeftKey("model.visual.merger.norm", "bias"))
    'base_model.model.model.visual.merger.norm.bias'

    Attributes:
        layer: name of the module in the base model.
        part: name of the tensor in that module, as peft wraps it.
    """

    layer: str
    part: str

    @classmethod
    def parse(cls, name: str) -> PeftKey:
        """Read a name with peft's prefix, or without it."""
        match = _KEY.fullmatch(name)
        return cls(match[1], match[2]) if match else cls("", name)

    def __str__(self) -> str:
        return f"{ADAPTER_PREFIX}{self.layer}.{self.part}"

    @property
    def factor(self) -> str:
        """The adapter's tensor without its ``.weight``, e.g. ``lora_A``; empty where the base's own tensor is saved."""
        return self.part.partition(".")[0] if self.part.startswith(_FACTORS) else ""

    @property
    def base(self) -> str:
        """The tensor of the base model that this one replaces, or that it changes as a part of an adapter."""
        if self.factor:
            return f"{self.layer}.bias" if self.part.endswith(".bias") else f"{self.layer}.weight"
        name = self.part.removeprefix("base_layer.")
        return f"{self.layer}.{name}" if self.layer else name


def exactly(layers: Iterable[str]) -> str:
    """A regular expression for peft's ``target_modules`` that matches these layers and no other."""
    return "|".join(re.escape(layer) for layer in layers)
