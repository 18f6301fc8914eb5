"""What a model family is to this toolkit: one `Family` object, made in one file of this package.

A plan for a model of a known family needs only the model's config and the headers of its weight files. A model of any
other type is built on torch's meta device (`swiftalign.model.meta`), which takes seconds.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from swiftalign.model.safetensors import MAX_SIDE, TensorInfo
from swiftalign.model.tree import Architecture, Kind, Model, Module
from swiftalign.problems import ModelError

Shape = tuple[int, ...]
# A module with weights, or one without weights and without children: name, kind, and shapes of its own parameters.
Described = tuple[str, Kind, dict[str, Shape]]

_MAX_COUNT = 1_000  # layers of a stack: no model has more, and listing them would take forever


@dataclass(frozen=True)
class Sizes:
    """The sizes of a model that decide how much time and memory a batch takes.

    Attributes:
        layers: number of layers of the LLM.
        width: hidden size of the LLM.
        inner: intermediate size of the LLM; in a mixture of experts, of all experts that process one token.
        queries: width of all query heads together.
        attention_kept: elements that attention keeps of each token until the backward pass, over all layers of the LLM.
        attention_layers: number of the LLM's layers in which each token sees all those before it.
        matrix: parameters that multiply one token, over all layers of the LLM.
        vocabulary: number of tokens in the vocabulary.
        vit_layers: number of blocks of the ViT.
        vit_width: hidden size of the ViT.
        vit_inner: intermediate size of the ViT.
        vit_matrix: parameters that multiply one patch, over all blocks of the ViT.
        merge: patches per visual token.
        mergers: number of mergers in the aligner.
        aligner_matrix: parameters that multiply one visual token, over all mergers.
        state: elements of the memory that linear attention updates with each token, over all layers of the LLM.
        linear_work: float32 elements per token that a layer with linear attention takes while it computes.
        plain_kept: elements that the LLM's layers keep with plain kernels, relative to compiled ones.
        routed: elements of a token's copies for its experts; 0 without experts.
        window: patches that see each other in a block of the ViT with window attention; 0 without such blocks.
        window_layers: number of these blocks.
    """

    layers: int
    width: int
    inner: int
    queries: int
    attention_kept: int
    attention_layers: int
    matrix: int
    vocabulary: int
    vit_layers: int
    vit_width: int
    vit_inner: int
    vit_matrix: int
    merge: int
    mergers: int
    aligner_matrix: int
    state: int = 0
    linear_work: int = 0
    plain_kept: float = 1.48
    routed: int = 0
    window: int = 0
    window_layers: int = 0


@dataclass(frozen=True)
class Chat:
    """How ms-swift's template writes a conversation of the models, around ChatML's ``<|im_start|>`` and ``<|im_end|>``.

    Attributes:
        templates: ms-swift's names of the templates that write so.
        system: the system message of rows without one; None for no message.
        answer: what comes before each answer that does not begin with ``<think>``; it is learned.
        strips: whether white space around each message is removed.
    """

    templates: tuple[str, ...] = ()
    system: str | None = None
    answer: str = ""
    strips: bool = False


PLAIN = Chat()


@dataclass(frozen=True)
class Family:
    """Everything that this toolkit knows about the models of one ``model_type``; what has a default may be left out.

    Attributes:
        model_type: ``model_type`` in the models' config.json.
        architecture: name prefixes of LLM, ViT and aligner.
        describe: lists every module of a config's model that has weights, or neither weights nor children. Raises
            KeyError where the config leaves a size to transformers' defaults, and TypeError for an impossible size.
            None to build the models on the meta device.
        aligner_regex: matches the whole names of the aligner's Linear layers; None to list the layers one by one.
        merger: finds in a tensor's name the merger of the aligner that the tensor belongs to: group 1, the merger's
            name without the leading ``model.``.
        mergers: the mergers that every model of the family has, named as by ``merger``.
        merger_layers: names of the Linear layers inside a merger.
        stacks: ends of the names of the module lists that hold the LLM's layers and the ViT's blocks.
        transposed: matches names of three-dimensional tensors whose last two axes are swapped in published files.
        patch: side of an image patch, in pixels.
        merge: side of a visual token, in patches.
        coordinates: the models write coordinates as whole numbers: 0..1000 of the image's sides, or pixels of the
            image as it reaches the model.
        published: hub id -> config, so that a plan for a public model needs no network.
        sizes: sizes that a config implies, from which speed and memory are predicted; None for no predictions.
        measured: how runs with which the predictions were compared were spread over GPUs, or ``one`` for one GPU -> the
            widths of their LLMs.
        chat: how ms-swift's template writes a conversation, so that `swiftalign.data.tokens` can count its tokens; None
            where that is not known.
        sync_free: whether `swiftalign.worker.sync_free` knows the models' forward pass.
        compiles: whether compiling the frozen layers was measured, so that it may be chosen without being asked for.
        fp8: whether the LLM's frozen matrices may be kept in FP8.
    """

    model_type: str
    architecture: Architecture
    describe: Callable[[dict[str, Any]], Iterable[Described]] | None = None
    aligner_regex: str | None = None
    merger: re.Pattern[str] | None = None
    mergers: tuple[str, ...] = ()
    merger_layers: tuple[str, ...] = ()
    stacks: tuple[str, str] = ("language_model.layers", "visual.blocks")
    transposed: re.Pattern[str] | None = None
    patch: int = 16
    merge: int = 2
    coordinates: Literal["relative1000", "resized"] = "relative1000"
    published: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    sizes: Callable[[dict[str, Any]], Sizes] | None = None
    measured: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    chat: Chat | None = None
    sync_free: bool = False
    compiles: bool = False
    fp8: bool = False

    def build(self, config: dict[str, Any], source: str = "config.json", dtype: str | None = None) -> Model | None:
        """The model that a config describes; None where the config leaves a size to transformers' defaults.

        Args:
            source: the hub id or folder of the model, for the result and for messages.
            dtype: dtype of the weights once loaded; None for the config's.

        Raises:
            ModelError: a size in the config is not a whole number, or is larger than any model's.
        """
        if self.describe is None:
            return None
        dtype = dtype or config_dtype(config) or "float32"
        by_name: dict[str, Module] = {}
        try:
            for name, kind, shapes in self.describe(config):
                if not all(type(side) is int and 0 < side <= MAX_SIDE for shape in shapes.values() for side in shape):
                    raise TypeError(name)
                parts = name.split(".")
                for depth in range(1, len(parts)):
                    parent = ".".join(parts[:depth])
                    is_list = parts[depth].isdigit()
                    by_name.setdefault(parent, Module(parent, Kind.MODULE_LIST if is_list else Kind.CONTAINER))
                weights = (TensorInfo(f"{name}.{own}", shape, dtype) for own, shape in shapes.items())
                by_name[name] = Module(name, kind, tuple(weights))
        except KeyError:
            return None
        except (TypeError, AttributeError):
            message = f"{source}: a size in its config is not a whole number, or is larger than any model's"
            raise ModelError(message, "copy the model's config.json again") from None
        tied = frozenset({"lm_head.weight"} if config.get("tie_word_embeddings") and "lm_head" in by_name else ())
        return Model(source, self.model_type, self.architecture, by_name, dtype, tied, config)


def linear(name: str, inputs: int, outputs: int, *, bias: bool = True) -> Described:
    """A Linear layer."""
    return name, Kind.LINEAR, {"weight": (outputs, inputs)} | ({"bias": (outputs,)} if bias else {})


def swiglu(name: str, width: int, inner: int, *, bias: bool = False) -> Iterator[Described]:
    """A gated feed-forward block: three Linear layers and their activation."""
    yield linear(f"{name}.gate_proj", width, inner, bias=bias)
    yield linear(f"{name}.up_proj", width, inner, bias=bias)
    yield linear(f"{name}.down_proj", inner, width, bias=bias)
    yield f"{name}.act_fn", Kind.PLAIN, {}


def whole_number(value: Any) -> int:
    """A config's number of layers, or a similar count.

    Raises:
        TypeError: it is not a whole number from 1 to 1,000.
    """
    if type(value) is not int or not 0 < value <= _MAX_COUNT:
        raise TypeError(f"{value!r} is not a count")
    return value


def config_dtype(config: dict[str, Any]) -> str | None:
    """The dtype that a model's config names."""
    for part in (config, config.get("text_config")):
        value = (part.get("dtype") or part.get("torch_dtype")) if isinstance(part, dict) else None
        if isinstance(value, str) and value != "auto":
            return value.removeprefix("torch.")
    return None
