"""How ms-swift's templates write coordinates, read from its sources without importing it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Any, Literal

from swiftalign.model.components import swift_types
from swiftalign.model.swift_map import constants, sources, type_of_model

Unit = Literal["relative1000", "resized"]

# ms-swift's names of the units -> ours
UNITS: Mapping[str, Unit] = {"norm1000": "relative1000", "none": "resized"}

_CLASS = re.compile(r"^class (\w+)\(([^)]*)\):\n((?:(?:[ \t].*)?\n)*)", re.MULTILINE)
_REGISTRATION = re.compile(r"^register_template\(.*?(?=^[^\s)]|\Z)", re.MULTILINE | re.DOTALL)
_HEAD = re.compile(r"register_template\(\s*(\w+)\(\s*(?:\w+TemplateType\.(\w+)|'(\w+)')")


def unit_of_model(config: Mapping[str, Any], path: str, given_type: str | None, template: str | None) -> Unit | None:
    """The unit in which ms-swift's template for a model writes coordinates; None where its templates differ in it.

    Args:
        config: the model's config.json.
        path: folder or hub id of the model; ms-swift knows published models by the last part.
        given_type: ms-swift's ``model_type``, as the user gives it.
        template: ms-swift's ``template``, as the user gives it.
    """
    if template := template or template_of_published(path, given_type):
        return unit_of_template(template)
    names = {name for each in swift_types(config, path, given_type) for name in each.templates}
    units = {unit_of_template(name) for name in names}
    return units.pop() if len(units) == 1 else None


def template_of_published(path: str, given_type: str | None = None) -> str | None:
    """The template that ms-swift takes for a published model, by the last part of its path; None for any other."""
    published = None if given_type else type_of_model(path)
    return published[1] if published else None


def unit_of_template(template: str) -> Unit | None:
    """The unit in which a template of ms-swift writes coordinates; None for a template that it does not have."""
    name = _registered().get(template)
    while name and name in _classes():
        bases, unit = _classes()[name]
        if unit:
            return UNITS[unit]
        name = next((base for base in bases if base in _classes()), None)
    return None


def template_names() -> tuple[str, ...]:
    """The names of all templates."""
    return tuple(_registered())


@cache
def _classes() -> dict[str, tuple[list[str], str | None]]:
    """Every class of ms-swift's templates: its bases, and the ``norm_bbox`` that it sets itself."""
    found = {}
    for text in _texts():
        for name, bases, body in _CLASS.findall(text):
            unit = re.search(r"^    norm_bbox = '(\w+)'", body, re.MULTILINE)
            found[name] = (re.findall(r"\w+", bases), unit[1] if unit else None)
    return found


@cache
def _registered() -> dict[str, str]:
    """The class of each template; a kind of template may have a class for all of its own."""
    of_kinds, found = dict[str, str](), {}
    for text in _texts():
        for name, _, body in _CLASS.findall(text):
            if default := re.search(r"^    template_cls: .* = (\w+)", body, re.MULTILINE):
                of_kinds[name] = default[1]
    for call in (call for text in _texts() for call in _REGISTRATION.findall(text)):
        head, own = _HEAD.match(call), re.search(r"template_cls=(\w+)", call)
        if head:
            kind, constant, name = head.groups()
            name = name or constants("template/constant.py")[constant]
            found[name] = own[1] if own else of_kinds.get(kind, "Template")
    return found


@cache
def _texts() -> tuple[str, ...]:
    return (*sources("template/base.py"), *sources("template/templates/*.py"))
