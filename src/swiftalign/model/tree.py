"""A model without its weights: which modules it has, of which kind, with parameters of which shape and dtype."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Any, Literal, get_args

from swiftalign.model.safetensors import TensorInfo

Component = Literal["llm", "vit", "aligner", "other"]
COMPONENTS: tuple[Component, ...] = get_args(Component)[:3]  # those that have a freeze flag


class Kind(StrEnum):
    """What a module is, as far as it matters to the tuning methods."""

    LINEAR = "linear"
    EMBEDDING = "embedding"
    CONV = "conv"
    DEPTHWISE_CONV = "depthwise_conv"
    LAYER_NORM = "layer_norm"  # torch's own LayerNorm, which weight decay skips by its class
    NORM = "norm"  # any other normalisation
    PARAMETERS = "parameters"  # any other module with weights of its own, e.g. MoE experts
    MODULE_LIST = "module_list"
    CONTAINER = "container"
    PLAIN = "plain"  # has neither weights nor children, e.g. an activation

    @classmethod
    def of_convolution(cls, weight: tuple[int, ...]) -> Kind:
        """The kind of a convolution by the shape of its weight: outputs, inputs of a filter, sides of the kernel.

        Where each filter reads a single input, there may be as many groups as inputs; the shape does not tell. peft
        refuses to adapt as many groups as that, unless the rank is a multiple of them, and can't merge them.

        >>> Kind.of_convolution((64, 3, 14, 14)), Kind.of_convolution((64, 1, 4))
        (<Kind.CONV: 'conv'>, <Kind.DEPTHWISE_CONV: 'depthwise_conv'>)
        """
        return cls.DEPTHWISE_CONV if weight[1] == 1 else cls.CONV


@dataclass(frozen=True)
class ModelSource:
    """Where a model comes from, and how it is to be loaded.

    Attributes:
        path: absolute path of a model folder, or an id on a hub.
        revision: branch, tag or commit on the hub; None for the hub's default.
        hub: ``huggingface`` or ``modelscope``.
        type: ms-swift's model_type, where the model's config does not decide it.
        dtype: torch's name of the dtype to load the weights in; None for the dtype they are stored in.
        trust_remote_code: whether the model's own Python code may run.
        where: ``file:line`` of the setting that names the model, for messages; may be empty.
    """

    path: str
    revision: str | None = None
    hub: str = "huggingface"
    type: str | None = None
    dtype: str | None = None
    trust_remote_code: bool = False
    where: str = ""


def is_inside(name: str, parents: Iterable[str]) -> bool:
    """Whether a dotted name is one of the parents, or lies in one.

    >>> is_inside("model.visual.merger.norm", ["model.visual"]), is_inside("model.visuals", ["model.visual"])
    (True, False)
    """
    return any(name == parent or name.startswith(f"{parent}.") for parent in parents)


@dataclass(frozen=True)
class Architecture:
    """Which name prefixes make up each component; the aligner may lie inside the ViT's prefix.

    Attributes:
        name: ms-swift's name of the architecture.
        generator: parts that make speech or images, which ms-swift always freezes.

    References:
        ms-swift `swift/model/model_arch.py`, `MultiModelKeys`.
    """

    name: str
    llm: tuple[str, ...]
    vit: tuple[str, ...]
    aligner: tuple[str, ...]
    generator: tuple[str, ...] = ()

    def component(self, name: str) -> Component:
        """The component of a module or parameter; ``other`` in no prefix, which no freeze flag reaches."""
        parts: tuple[tuple[Component, tuple[str, ...]], ...]
        parts = (("other", self.generator), ("aligner", self.aligner), ("vit", self.vit), ("llm", self.llm))
        return next((part for part, prefixes in parts if is_inside(name, prefixes)), "other")


NO_COMPONENTS = Architecture("unknown", (), (), ())


@dataclass(frozen=True, slots=True)
class Module:
    """One module of a model.

    Attributes:
        name: full dotted name.
        kind: what the module is.
        weights: the module's own parameters, without those of its children, under their full names.
    """

    name: str
    kind: Kind
    weights: tuple[TensorInfo, ...] = ()

    @property
    def weight(self) -> TensorInfo:
        """The layer's weight matrix, which need not be listed first."""
        return next(tensor for tensor in self.weights if tensor.name == f"{self.name}.weight")


@dataclass(frozen=True)
class Model:
    """Every module of a model, by its dotted name.

    Attributes:
        source: the hub id or folder that the model was read from.
        model_type: ``model_type`` of the model's config.json.
        architecture: the name prefixes of the model's components.
        by_name: module by dotted name, in the model's order.
        dtype: dtype of the weights once loaded.
        tied: names of parameters that share another parameter's memory, e.g. ``lm_head.weight``; they count once.
        config: the model's config.json.
        unbuilt: tensors of the weight files that the model class does not build, e.g. an MTP head's.
        missing: tensors that the model class builds but the weight files lack; they would start from random values.
        unswapped: tensors that the weight files hold as the model class does, and published files with swapped axes.
        files: a tensor's name -> the names in the weight files of those that it is made of; empty without such files.
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
    unswapped: tuple[str, ...] = ()
    files: Mapping[str, tuple[str, ...]] = field(default_factory=dict, repr=False)

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
        """The component that a module or parameter lies in: ``llm``, ``vit``, ``aligner`` or ``other``."""
        return self.architecture.component(name)

    def parameters(self) -> Iterator[TensorInfo]:
        """Every parameter once; a tied one under the name that owns the memory."""
        for module in self:
            yield from (weight for weight in module.weights if weight.name not in self.tied)

    @cached_property
    def totals(self) -> dict[Component, int]:
        """Number of parameters per component."""
        counts: dict[Component, int] = dict.fromkeys(get_args(Component), 0)
        for weight in self.parameters():
            counts[self.component(weight.name)] += weight.numel
        return counts

    @cached_property
    def mergers(self) -> tuple[str, ...]:
        """The aligner's parts: its prefixes, where a module list is replaced by its members."""
        return tuple(
            part
            for prefix in self.architecture.aligner
            if prefix in self
            for part in (self.members(prefix) if self.by_name[prefix].kind is Kind.MODULE_LIST else [prefix])
        )

    def members(self, name: str) -> list[str]:
        """The direct children of a module list, in order."""
        pattern = re.compile(re.escape(name) + r"\.\d+")
        return [child for child in self.by_name if pattern.fullmatch(child)]
