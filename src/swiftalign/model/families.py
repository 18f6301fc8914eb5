"""The model families that this toolkit knows, by ``model_type``, and what can be asked without knowing the type."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from swiftalign.model.family import Family
from swiftalign.model.qwen2_5_vl import QWEN2_5_VL
from swiftalign.model.qwen3_5 import QWEN3_5, QWEN3_5_MOE
from swiftalign.model.qwen3_vl import QWEN3_VL, QWEN3_VL_MOE
from swiftalign.model.safetensors import TensorInfo

_FAMILIES = {family.model_type: family for family in (QWEN3_VL, QWEN3_VL_MOE, QWEN3_5, QWEN3_5_MOE, QWEN2_5_VL)}


def register(family: Family) -> None:
    """Make a family known, in place of one of the same ``model_type``."""
    _FAMILIES[family.model_type] = family


def unregister(model_type: str) -> None:
    """Forget a family."""
    del _FAMILIES[model_type]


def find(model_type: str | None) -> Family | None:
    """The family of this ``model_type``, where it is known."""
    return _FAMILIES.get(model_type or "")


def published_config(model_id: str) -> dict[str, Any] | None:
    """The config of a public model by its hub id, e.g. ``Qwen/Qwen3-VL-8B-Instruct``; None for any other id."""
    return next((family.published[model_id] for family in _FAMILIES.values() if model_id in family.published), None)


def published_ids() -> list[str]:
    """The hub ids that `published_config` knows."""
    return [model_id for family in _FAMILIES.values() for model_id in family.published]


def in_aligner(name: str) -> bool:
    """Whether a tensor's name lies in the aligner of any known family."""
    return any(family.architecture.component(name) == "aligner" for family in _FAMILIES.values())


def shape_fits(stored: TensorInfo, built: TensorInfo) -> bool:
    """Whether a weight file's tensor has the shape of the model's tensor, or that of the published files' layout."""
    if stored.shape == built.shape:
        return True
    swapped = any(family.transposed and family.transposed.search(built.name) for family in _FAMILIES.values())
    return swapped and len(built.shape) == 3 and stored.shape == (built.shape[0], built.shape[2], built.shape[1])


def mergers_of(names: Iterable[str]) -> list[str]:
    """The mergers to which tensors of these names belong, without the leading ``model.``.

    >>> mergers_of(["model.visual.merger.norm.weight", "model.visual.blocks.0.norm1.weight"])
    ['visual.merger']
    """
    patterns = {family.merger for family in _FAMILIES.values() if family.merger}
    matches = (pattern.search(name) for name in names for pattern in patterns)
    return list(dict.fromkeys(match[1] for match in matches if match))


def absent_mergers(names: Iterable[str]) -> list[str]:
    """The mergers of which nothing is named, in an aligner of which something is; full names, sorted."""
    found, whole = set(mergers_of(names)), set()
    for family in _FAMILIES.values():
        if any(family.merger and family.merger.search(f"{part}.") for part in found):
            whole |= set(family.mergers)
    for part in found:  # a numbered merger implies those with smaller numbers
        stem, _, number = part.rpartition(".")
        whole |= {f"{stem}.{index}" for index in range(int(number))} if number.isdigit() else set()
    return sorted(f"model.{part}" for part in whole - found)


def merger_layers(merger: str) -> list[str]:
    """The names of the Linear layers that a merger may have."""
    return list(dict.fromkeys(f"{merger}.{layer}" for family in _FAMILIES.values() for layer in family.merger_layers))
