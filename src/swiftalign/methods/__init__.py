"""The tuning methods that this toolkit knows, by name. To add one, write a `Method` and register it.

>>> METHODS["dora"].variant_of, METHODS["dora"].flag
('lora', 'use_dora')
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from swiftalign.methods.adalora import Adalora
from swiftalign.methods.base import Method, Part
from swiftalign.methods.boft import Boft
from swiftalign.methods.fourierft import Fourierft
from swiftalign.methods.lora import Dora, Lora
from swiftalign.methods.whole import Full, ModulesToSave

METHODS: dict[str, type[Method]] = {m.name: m for m in (ModulesToSave, Lora, Dora, Adalora, Boft, Fourierft, Full)}


def register(method: type[Method]) -> None:
    """Make a method known everywhere: to configs, plans, checks, checkpoints, exports and ``init``."""
    METHODS[method.name] = method


def unregister(name: str) -> None:
    del METHODS[name]


def train_types() -> list[str]:
    """The values that ``tuner.train_type`` can have."""
    return [method.name for method in METHODS.values() if not method.variant_of]


def variant(settings: Mapping[str, Any]) -> type[Method] | None:
    """The variant that one of these settings asks for, as ``use_dora`` does, whatever the train_type."""
    return next((method for method in METHODS.values() if method.flag and settings.get(method.flag)), None)


def chosen(train_type: str, settings: Mapping[str, Any]) -> type[Method]:
    """The method of a train_type, or its variant that these settings ask for."""
    asked = variant(settings)
    return asked if asked and asked.variant_of == train_type else METHODS[train_type]


def of_adapter(config: Mapping[str, Any]) -> type[Method] | None:
    """The method of an adapter_config.json; None for a peft_type that this toolkit does not know."""
    kind = str(config.get("peft_type")).lower()
    return chosen(kind, config) if kind in train_types() and METHODS[kind].adapts else None


def part_of(name: str, train_type: str | None = None) -> Part | None:
    """A part by its name in peft, e.g. ``lora_A``: of this train_type's methods, or of any where that is not known."""
    methods = [m for m in METHODS.values() if train_type in (m.name, m.variant_of)] or METHODS.values()
    return next((part for method in methods for part in method.parts if part.name == name), None)


def settings_fields() -> dict[str, Any]:
    """The settings of all methods, with their pydantic fields."""
    return {name: field for method in METHODS.values() for name, field in method.model_fields.items()}


def offered() -> dict[str, type[Method]]:
    """The methods that ``swiftalign init`` can write, by name."""
    return {name: method for name, method in METHODS.items() if method.summary}
