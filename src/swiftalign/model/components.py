"""Where the components of a model lie: ms-swift's prefixes, corrected where they do not fit the model's class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from swiftalign.model.swift_map import SwiftType, architecture, type_named, type_of_model, types_of_class
from swiftalign.model.tree import Architecture


@dataclass(frozen=True)
class Correction:
    """What is wrong with ms-swift's prefixes for a class of transformers, and the right ones.

    Attributes:
        reason: what ms-swift's own flags would do to a model of the class.
        llm: the right prefixes of the LLM; None where ms-swift's are right. The same for the other components.
    """

    reason: str
    llm: tuple[str, ...] | None = None
    vit: tuple[str, ...] | None = None
    aligner: tuple[str, ...] | None = None
    generator: tuple[str, ...] | None = None

    def applied(self, to: Architecture) -> Architecture:
        """The architecture with the right prefixes."""
        parts = {name: getattr(self, name) for name in ("llm", "vit", "aligner", "generator")}
        return replace(to, **{name: prefixes for name, prefixes in parts.items() if prefixes is not None})


_LLM = ("model.language_model", "lm_head")

CORRECTIONS: dict[str, Correction] = {
    "Ernie4_5_VLMoeForConditionalGeneration": Correction(
        "ms-swift's prefixes are those of the hub's own code: in transformers, `vision_model` is `model.vision_tower`, "
        "and `model`, as the LLM, holds the ViT too",
        llm=_LLM,
        vit=("model.vision_tower",),
    ),
}


def corrected(found: Architecture, config: Mapping[str, Any]) -> Architecture:
    """An architecture of ms-swift, with this toolkit's correction for the class that a config names."""
    fault = correction(config)
    return fault.applied(found) if fault else found


def correction(config: Mapping[str, Any]) -> Correction | None:
    """The correction for the class that a config names; a model with code of its own is as ms-swift expects it."""
    return None if config.get("auto_map") else CORRECTIONS.get(class_of(config))


def class_of(config: Mapping[str, Any]) -> str:
    """The model class that a config names; empty if it names none."""
    classes = config.get("architectures")
    return str(classes[0]) if isinstance(classes, list) and classes else ""


def swift_types(config: Mapping[str, Any], path: str, given: str | None = None) -> list[SwiftType]:
    """The types of ms-swift that a model may be of: one where anything decides it.

    Args:
        path: folder or hub id of the model; ms-swift knows published models by the last part.
        given: ms-swift's ``model_type``, as the user gives it.
    """
    if given:
        return [each] if (each := type_named(given)) else []
    if published := type_of_model(path):
        return [published[0]]
    found = types_of_class(class_of(config)) if class_of(config) else []
    if not found:
        return [each] if (each := type_named(str(config.get("model_type")))) else []
    same = [each for each in found if each.name == config.get("model_type")]
    return same or found


def architectures(config: Mapping[str, Any], path: str, given: str | None = None) -> list[Architecture]:
    """The architectures with an aligner that a model may have, corrected for its class."""
    names = dict.fromkeys(each.architecture for each in swift_types(config, path, given) if each.architecture)
    found = [corrected(each, config) for name in names if (each := architecture(name))]
    return [each for each in found if each.aligner]
