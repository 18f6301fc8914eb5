"""Where LLM, ViT and aligner live in a model, and what kind of layer each Qwen3-VL name is.

Qwen3-VL is described here by name, so that a plan needs nothing but the headers of its weight files. Tests hold the
description against the real classes of transformers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Any, Literal, get_args

from swiftalign.model.safetensors import TensorInfo

Component = Literal["llm", "vit", "aligner"]
COMPONENTS: tuple[Component, ...] = get_args(Component)


class Kind(StrEnum):
    """What a module is, as far as the tuning methods care."""

    LINEAR = "linear"
    EMBEDDING = "embedding"
    CONV = "conv"
    LAYER_NORM = "layer_norm"  # torch's own LayerNorm, which weight decay skips by its class
    NORM = "norm"  # any other normalisation
    PARAMETERS = "parameters"  # holds weights of its own and is none of the above, e.g. MoE experts
    MODULE_LIST = "module_list"
    CONTAINER = "container"
    PLAIN = "plain"  # neither weights nor children, e.g. an activation


def is_inside(name: str, parents: Iterable[str]) -> bool:
    """Whether a dotted name is one of the parents, or the name of a descendant of one.

    >>> is_inside("model.visual.merger.norm", ["model.visual.merger"]), is_inside("model.visual2", ["model.visual"])
    (True, False)
    """
    return any(name == parent or name.startswith(f"{parent}.") for parent in parents)


@dataclass(frozen=True)
class Architecture:
    """Which name prefixes make up each component; the aligner may lie inside the ViT's prefix.

    References:
        ms-swift `swift/model/model_arch.py`, `MultiModelKeys`.
    """

    name: str
    llm: tuple[str, ...]
    vit: tuple[str, ...]
    aligner: tuple[str, ...]

    def component(self, name: str) -> Component:
        """The component of a module or parameter; like ms-swift, what lies outside all prefixes counts with the LLM."""
        return "aligner" if is_inside(name, self.aligner) else "vit" if is_inside(name, self.vit) else "llm"

    def covers(self, name: str) -> bool:
        """Whether a name lies in one of the prefixes: ms-swift's freeze flags reach no other."""
        return is_inside(name, (*self.llm, *self.vit, *self.aligner))


@dataclass(frozen=True, slots=True)
class Module:
    """One module of the model.

    Attributes:
        weights: its own parameters, without those of its children, under their full names.
    """

    name: str
    kind: Kind
    weights: tuple[TensorInfo, ...] = ()

    @property
    def weight(self) -> TensorInfo:
        """The matrix of a layer; files list the bias first."""
        return next(tensor for tensor in self.weights if tensor.name == f"{self.name}.weight")


@dataclass(frozen=True)
class Model:
    """Every module of a model, by its dotted name.

    Attributes:
        source: the hub id or folder that it was read from.
        tied: parameters that share another's memory (`lm_head.weight` of a tied model); they count once.
        dtype: of the weights, as they are loaded.
        unbuilt: tensors of the weight files that the model class does not build, e.g. of an MTP head.
        missing: tensors that the model class builds and the weight files lack; they would start from random values.
    """

    source: str
    model_type: str
    architecture: Architecture
    by_name: dict[str, Module]
    dtype: str
    tied: frozenset[str] = frozenset()
    config: dict[str, Any] = field(default_factory=dict, repr=False)
    unbuilt: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Module]:
        return iter(self.by_name.values())

    def __contains__(self, name: str) -> bool:
        return name in self.by_name

    def under(self, name: str) -> Iterator[TensorInfo]:
        """The parameters of a module and all its descendants."""
        for module in self:
            if is_inside(module.name, [name]):
                yield from module.weights

    def component(self, name: str) -> Component:
        return self.architecture.component(name)

    def parameters(self) -> Iterator[TensorInfo]:
        """Every parameter once, tied ones under the name that holds the memory."""
        for module in self:
            yield from (weight for weight in module.weights if weight.name not in self.tied)

    @cached_property
    def totals(self) -> dict[Component, int]:
        """Number of parameters of each component."""
        counts = dict.fromkeys(COMPONENTS, 0)
        for weight in self.parameters():
            counts[self.component(weight.name)] += weight.numel
        return counts

    @cached_property
    def mergers(self) -> tuple[str, ...]:
        """The aligner's parts: its prefixes, with module lists spelled out member by member."""
        parts: list[str] = []
        for prefix in self.architecture.aligner:
            module = self.by_name.get(prefix)
            if module is not None and module.kind is Kind.MODULE_LIST:
                parts += self.members(prefix)
            elif module is not None:
                parts.append(prefix)
        return tuple(parts)

    def members(self, name: str) -> list[str]:
        """The direct children of a module list, in order."""
        pattern = re.compile(re.escape(name) + r"\.\d+")
        return [child for child in self.by_name if pattern.fullmatch(child)]
