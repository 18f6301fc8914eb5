"""The model families that this toolkit knows, by ``model_type``, and what can be asked without knowing the type."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from swiftalign.model.components import architectures
from swiftalign.model.family import Family
from swiftalign.model.qwen2_5_vl import QWEN2_5_VL
from swiftalign.model.qwen3_5 import QWEN3_5, QWEN3_5_MOE
from swiftalign.model.qwen3_vl import QWEN3_VL, QWEN3_VL_MOE
from swiftalign.model.safetensors import TensorInfo
from swiftalign.model.tree import Architecture, is_inside

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


def architecture_of(config: dict[str, Any], path: str, names: Iterable[str]) -> Architecture | None:
    """The architecture of a model by its config and names of its modules; None where ms-swift has none that fits.

    Args:
        path: folder or hub id of the model.
        names: names in the model, by which one of several architectures is chosen.
    """
    family = find(config.get("model_type"))
    known, names = [family.architecture] if family else architectures(config, path), list(names)
    fitting = (each for each in known if any(is_inside(name, each.aligner) for name in names))
    return next(fitting, known[0] if known else None)


def in_aligner(name: str, architecture: Architecture | None = None) -> bool:
    """Whether a name lies in the aligner: of a model of this architecture, else of any known family."""
    known = [architecture] if architecture else [family.architecture for family in _FAMILIES.values()]
    return any(each.component(name) == "aligner" for each in known)


def shape_fits(stored: TensorInfo, built: TensorInfo) -> bool:
    """Whether a weight file's tensor has the shape of the model's tensor, or that of the published files' layout."""
    if stored.shape == built.shape:
        return True
    swapped = any(family.transposed and family.transposed.search(built.name) for family in _FAMILIES.values())
    return swapped and len(built.shape) == 3 and stored.shape == (built.shape[0], built.shape[2], built.shape[1])


def mergers_of(names: Iterable[str], architecture: Architecture | None) -> list[str]:
    """The parts of an aligner in which names lie: its prefixes, or the numbered members of one that is a list.

    >>> aligner = QWEN3_VL.architecture
    >>> mergers_of(["model.visual.deepstack_merger_list.1.norm", "model.visual.blocks.0.norm1"], aligner)
    ['model.visual.deepstack_merger_list.1']
    """
    found: dict[str, None] = {}
    for name in names:
        for prefix in architecture.aligner if architecture else ():
            if is_inside(name, [prefix]):
                number = name[len(prefix) :].lstrip(".").partition(".")[0]
                found[f"{prefix}.{number}" if number.isdecimal() else prefix] = None
    return list(found)


def absent_mergers(names: Iterable[str], architecture: Architecture | None) -> list[str]:
    """The mergers of known families of which nothing is named, in an aligner of which something is; sorted.

    Args:
        names: names in a checkpoint, which may have any prefix.
        architecture: that of the model; None where it is not known, and any family may be meant.
    """
    names = list(names)
    absent: set[str] = set()
    for family in _FAMILIES.values():
        if family.merger is None or architecture not in (None, family.architecture):
            continue
        found = {match[1] for name in names if (match := family.merger.search(name))}
        whole = set(family.mergers) if found else set()
        for part in found:  # a numbered merger implies those with smaller numbers
            stem, _, number = part.rpartition(".")
            whole |= {f"{stem}.{index}" for index in range(int(number))} if number.isdigit() else set()
        absent |= whole - found
    return sorted(f"model.{part}" for part in absent)


def merger_layers(merger: str) -> list[str]:
    """The names of the Linear layers that a merger may have."""
    return list(dict.fromkeys(f"{merger}.{layer}" for family in _FAMILIES.values() for layer in family.merger_layers))
