"""LoRA (arXiv:2106.09685) and DoRA (arXiv:2402.09353)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import prod, sqrt
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from swiftalign.methods.base import ALIGNER_LINEAR, Fraction, Method, Part, PositiveInt, Shape, Usage
from swiftalign.methods.keys import PeftKey
from swiftalign.methods.merging import SavedAdapter, merge_by_peft, tensor_bytes
from swiftalign.model.tree import Kind, Module
from swiftalign.problems import Problem, register

if TYPE_CHECKING:
    import torch

register("dora-without-layers", "error", "use_dora has no adapter layer to act on")
register("dora-exclusive", "error", "use_dora works with train_type lora only")

_A = Part("lora_A", lambda a, weight: a[1:] == weight[1:], "inert", 0, ".default.weight", ".weight")
_B = Part("lora_B", lambda b, weight: b[:1] == weight[:1], "zero", 1, ".default.weight", ".weight")
_EMBEDDING_A = Part("lora_embedding_A", lambda a, weight: a[1:] == weight[:1], "zero", 0)
_EMBEDDING_B = Part("lora_embedding_B", lambda b, weight: b[:1] == weight[1:], "inert", 1)
# A module in the running model, but saved under the name that it had when it was a plain parameter.
_MAGNITUDE = Part("lora_magnitude_vector", lambda m, weight: prod(m) in weight[:2], in_model=".default.weight")


class Lora(Method):
    """A product of two low-rank factors is added to a layer's weight.

    Merged: W + s B A, where s is lora_alpha / lora_rank, or lora_alpha / sqrt(lora_rank) with use_rslora.
    """

    name = "lora"
    adapts = frozenset({Kind.LINEAR, Kind.EMBEDDING, Kind.CONV})
    parts: ClassVar[tuple[Part, ...]] = (_A, _B, _EMBEDDING_A, _EMBEDDING_B)
    size = "lora_rank"
    size_pattern = "rank_pattern"
    summary = "low-rank updates of the aligner's Linear layers"
    aligner_lr = "2.0e-4"
    demo_lr = "1.0e-2"
    recipe = f"train_type: lora\n{ALIGNER_LINEAR}lora_rank: 16\nlora_alpha: 32\n"

    lora_rank: PositiveInt = Field(8, serialization_alias="r")
    lora_alpha: float = Field(32.0, gt=0)
    lora_dropout: Fraction = 0.05
    use_dora: bool = False
    use_rslora: bool = False

    def shapes(self, layer: Module) -> dict[Part, Shape]:
        """The factors A and B; an embedding's are transposed, and a convolution's B has a kernel of ones."""
        shape, rank = layer.weight.shape, self.lora_rank
        if layer.kind is Kind.EMBEDDING:
            return {_EMBEDDING_A: (rank, shape[0]), _EMBEDDING_B: (shape[1], rank)}
        return {_A: (rank, *shape[1:]), _B: (shape[0], rank, *(1 for _ in shape[2:]))}

    @staticmethod
    def merge(adapter: SavedAdapter, dtype: str | None) -> Iterator[tuple[str, bytes]]:
        """W + s B A, equal to peft's merge bit for bit.

        References:
            peft `tuners/lora/layer.py`, `Linear.merge` and `get_delta_weight`.
        """
        if not _is_plain(adapter):
            yield from merge_by_peft(adapter, dtype)
            return
        for layer in adapter.layers:
            weight = adapter.weight(layer, dtype)
            weight += _update(adapter, layer)
            yield f"{layer}.weight", tensor_bytes(weight)


def _is_plain(adapter: SavedAdapter) -> bool:
    """Whether it adapts Linear layers alone, all with the same rank and alpha, and by nothing but LoRA or DoRA."""
    rank, shapes = adapter.config.get("r"), {}
    for layer in adapter.layers:
        outputs, *inputs = adapter.base[f"{layer}.weight"].info.shape
        shapes[str(PeftKey(layer, "lora_A.weight"))] = (rank, *inputs)
        shapes[str(PeftKey(layer, "lora_B.weight"))] = (outputs, rank)
        if adapter.config.get("use_dora"):
            shapes[str(PeftKey(layer, "lora_magnitude_vector"))] = (outputs,)
    return adapter.is_plain(shapes, "r", "use_rslora", "use_dora")


def _update(adapter: SavedAdapter, layer: str) -> torch.Tensor:
    """s B A in float32."""
    rank = adapter.config["r"]
    scale: float = adapter.config["lora_alpha"] / (sqrt(rank) if adapter.config.get("use_rslora") else rank)
    return (adapter.part(layer, "lora_B.weight") @ adapter.part(layer, "lora_A.weight")).mul(scale)


class Dora(Lora):
    """LoRA that learns the magnitude of each output's weights apart from their direction.

    Merged: m (W + s B A) / ||W + s B A||, with a magnitude m and a norm per output.
    """

    name = "dora"
    variant_of = "lora"
    flag = "use_dora"
    spelling = "is LoRA with use_dora: true; write train_type: lora and use_dora: true"
    parts = (*Lora.parts, _MAGNITUDE)
    dense_copies = 2
    summary = "LoRA with a magnitude per output, of the aligner's Linear layers (arXiv:2402.09353)"
    recipe = f"train_type: lora\nuse_dora: true\n{ALIGNER_LINEAR}lora_rank: 16\nlora_alpha: 32\n"

    def shapes(self, layer: Module) -> dict[Part, Shape]:
        """LoRA's factors, and a magnitude per output, or per dimension of an embedding."""
        shape = layer.weight.shape
        ones = (1,) * (len(shape) - 2)
        magnitude = (shape[1],) if layer.kind is Kind.EMBEDDING else (1, shape[0], *ones) if ones else (shape[0],)
        return {**super().shapes(layer), _MAGNITUDE: magnitude}

    @staticmethod
    def merge(adapter: SavedAdapter, dtype: str | None) -> Iterator[tuple[str, bytes]]:
        """m (W + s B A) / ||W + s B A||, equal to peft's merge bit for bit.

        References:
            peft `tuners/lora/variants.py`, `DoraLinearVariant.merge_unsafe`.
        """
        if not _is_plain(adapter):
            yield from merge_by_peft(adapter, dtype)
            return
        import torch

        for layer in adapter.layers:
            weight = adapter.weight(layer, dtype)
            moved = weight + _update(adapter, layer)
            magnitude = adapter.part(layer, "lora_magnitude_vector") / torch.linalg.norm(moved, dim=1)
            yield f"{layer}.weight", tensor_bytes((magnitude.view(-1, 1) * moved).to(weight.dtype))

    def problems(self, usage: Usage) -> Iterable[Problem]:
        where = usage.where("tuner", "use_dora")
        tuner: dict[str, Any] = {"train_type": "lora", "use_dora": True, "target_regex": usage.aligner_regex}
        if usage.train_type != "lora":
            message = f"use_dora does not work with train_type {usage.train_type}"
            yield Problem("dora-exclusive", message, "remove use_dora, or train with LoRA:", {"tuner": tuner}, where)
        elif not usage.layers:
            tuner |= {name: usage.given[name] for name in Lora.model_fields if name in usage.given}
            reason = "target_regex '^$' adapts none" if usage.targets_none else "no layer is adapted"
            message = f"use_dora has no layer to act on: {reason}, and DoRA does nothing for modules_to_save"
            hint = "train the aligner's Linear layers with DoRA:"
            yield Problem("dora-without-layers", message, hint, {"tuner": tuner}, where)
