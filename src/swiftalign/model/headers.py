"""A model read from the headers of its weight files: names by transformers' rules, and what each module is, by rule.

`tests/test_headers.py` compares every name, shape and kind with the real classes of transformers.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from swiftalign.model.components import class_of
from swiftalign.model.conversion import loaded, natural
from swiftalign.model.safetensors import TensorInfo
from swiftalign.model.tree import NO_COMPONENTS, Kind, Model, Module

# Names of buffers that weight files may hold: constants, statistics and caches, which are no parameters.
_BUFFERS = re.compile(
    r"\.(?:e_score_correction_bias|layer_scalar|global_(?:invstd|mean)|(?:in|out)put_(?:min|max)|running_(?:mean|var)"
    r"|num_batches_tracked|(?:original_)?inv_freq|position_ids|masked_bias)$"
)
_EMBEDDING = re.compile(r"embed|wte|wpe|^emb$|position", re.IGNORECASE)
_LINEAR = re.compile(r"proj|linear|dense", re.IGNORECASE)
_ROUTERS = ("gate", "router")


def from_headers(stored: Mapping[str, TensorInfo], config: dict[str, Any], *, source: str, dtype: str | None) -> Model:
    """The model that weight files hold; its architecture is still to be set.

    Args:
        stored: the tensors by their names in the files.
        dtype: dtype of the weights once loaded; None for that of the first tensor.

    Raises:
        RulesError: transformers' rules can't be loaded, or fail on these tensors.
    """
    made, dtype = loaded(stored, config), dtype or next(iter(stored.values())).dtype
    own: dict[str, dict[str, TensorInfo]] = defaultdict(dict)
    for name, tensor in made.items():
        if not _BUFFERS.search(f".{name}"):
            module, _, last = name.rpartition(".")
            own[module][last] = TensorInfo(name, tensor.info.shape, dtype)
    tied: set[str] = set()
    if head := _tied_head(own, config):
        own["lm_head"], tied = head, {"lm_head.weight"}
    by_name: dict[str, Module] = {}
    for name in sorted(own, key=natural):
        parts = name.split(".")
        for depth in range(1, len(parts)):
            kind = Kind.MODULE_LIST if parts[depth].isdecimal() else Kind.CONTAINER
            by_name.setdefault(".".join(parts[:depth]), Module(".".join(parts[:depth]), kind))
        by_name[name] = Module(name, kind_of(name, own[name]), tuple(own[name].values()))
    files = {name: tensor.files for name, tensor in made.items()}
    return Model(source, str(config["model_type"]), NO_COMPONENTS, by_name, dtype, frozenset(tied), config, files=files)


def _tied_head(own: Mapping[str, Mapping[str, TensorInfo]], config: Mapping[str, Any]) -> dict[str, TensorInfo] | None:
    """The weight of an ``lm_head`` that shares the memory of the embeddings; files then rarely hold it."""
    if "lm_head" in own:
        return dict(own["lm_head"]) if config.get("tie_word_embeddings") else None
    embeddings = [weights["weight"] for name, weights in own.items() if name.endswith(".embed_tokens")]
    if not embeddings or not class_of(config).endswith(("ForConditionalGeneration", "ForCausalLM")):
        return None
    return {"weight": TensorInfo("lm_head.weight", embeddings[0].shape, embeddings[0].dtype)}


def kind_of(name: str, weights: Mapping[str, TensorInfo]) -> Kind:
    """What a module is, by its name and the shapes of its own weights."""
    weight, leaf = weights.get("weight"), name.rpartition(".")[2]
    if weight is None or weights.keys() - {"weight", "bias"}:
        return Kind.PARAMETERS
    sides, bias = len(weight.shape), "bias" in weights
    if sides == 1:
        return Kind.LAYER_NORM if bias else Kind.NORM
    if sides == 2 and not bias:
        if leaf in _ROUTERS:
            return Kind.PARAMETERS
        if _EMBEDDING.search(leaf) and not _LINEAR.search(leaf):
            return Kind.EMBEDDING
    if sides == 2:
        return Kind.LINEAR
    return Kind.CONV if sides > 3 or "conv" in leaf else Kind.PARAMETERS
