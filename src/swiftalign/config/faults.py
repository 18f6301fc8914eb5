"""Problems of a configuration's keys and values, named as the file spells them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from swiftalign.config.arguments import ARGUMENTS
from swiftalign.config.augmentation import EXAMPLES, PARAMETERS
from swiftalign.config.sections import Config, section_fields
from swiftalign.config.spellings import KEYS, PASS_THROUGH, TRUTH, home, is_argument
from swiftalign.config.swift_arguments import megatron_arguments, swift_arguments
from swiftalign.config.yaml import Key, Mapping, dotted, holds, lookup
from swiftalign.methods import METHODS
from swiftalign.problems import Problem, config_problem
from swiftalign.suggest import did_you_mean
from swiftalign.yaml12 import PATTERNS

OPERATIONS: Key = ("custom", "augmentation", "ops")


def argument_faults(values: Mapping) -> list[Any]:
    """Unknown keys, and malformed settings of methods and arguments of ms-swift, as error details like pydantic's."""
    details: list[Any] = []
    tuner = values.get("tuner")
    for method in METHODS.values() if isinstance(tuner, dict) else ():
        try:
            method.model_validate(tuner)
        except ValidationError as error:
            details += [{**detail, "loc": ("tuner", *detail["loc"])} for detail in error.errors()]
    for section in PASS_THROUGH:
        given = values.get(section)
        for name, value in given.items() if isinstance(given, dict) else ():
            if is_argument(section, name):
                _, kind = swift_arguments()[name]
                try:
                    TypeAdapter(kind, config=ConfigDict(allow_inf_nan=False)).validate_python(value, strict=True)
                except ValidationError as error:
                    details += [{**detail, "loc": (section, name, *detail["loc"])} for detail in error.errors()]
            elif name not in section_fields(section):
                details.append({"type": "extra_forbidden", "loc": (section, name)})
    return details


def value_faults(values: Mapping, details: Iterable[Any]) -> Iterator[Problem]:
    """One problem per key; pydantic reports one error per branch of a union."""
    by_key: dict[Key, list[Any]] = {}
    for detail in details:
        by_key.setdefault(_faulty(values, detail), []).append(detail)
    for key, same in by_key.items():
        first, value = same[0], lookup(values, key)
        operation = lookup(values, (*key[:4], "name")) if key[:3] == OPERATIONS else None
        hint: str | None = None
        match first["type"]:
            case "missing" if operation:
                message, example = f"{operation} needs {key[-1]}", str(EXAMPLES[operation]).replace("'", "")
                key, hint = key[:4], f"write for example - {operation}: {example}"
            case "missing" if isinstance(key[-1], int):
                key = key[:-1]
                message = f"{values.name(*key)} is too short"
            case "missing" if len(key) > 2 and key[:2] in _SOURCES:
                message, hint = f"{values.name(*key[:-1])} names no file", "give it a path: {path: FILE}"
            case "missing":
                message, hint = "no model is given", "add 'model: Qwen/Qwen3-VL-4B-Instruct', or the name of a folder"
            case "union_tag_invalid" if isinstance(operation, str):
                message = f"{values.name(*key)}: there is no operation {operation!r}"
                hint = _near(operation, list(PARAMETERS))
                hint = hint or f"use {', '.join(PARAMETERS)}, or an augmenter of imgaug as imgaug.NAME"
            case "extra_forbidden":
                message, hint = _wrong_name(values, key)
            case "value_error":
                message, _, hint = f"{values.name(*key)}: {first['ctx']['error']}".partition("; ")
            case _:
                is_source = len(key) == 3 and key[:2] in _SOURCES and not isinstance(value, str)
                expected = "a file, a folder or a mapping" if is_source else _EXPECTED_AT.get(key)
                kinds = dict.fromkeys(expected or _expected(detail) for detail in same)
                text = str(value).lower() if isinstance(value, bool) else "empty" if value is None else repr(value)
                text = text if len(text) <= 60 else text[:57] + "..."
                message = f"{values.name(*key)} must be {' or '.join(kinds)}, not {text}"
                hint = None if is_source else _how_to_write(value, same)
        yield config_problem(values.where(*key), message, hint)


def _faulty(values: Mapping, detail: Any) -> Key:
    """The key that a detail of pydantic is about."""
    key: Key = ()
    for part in detail["loc"]:
        if holds(values, (*key, part)):  # otherwise the name of a union's branch
            key = (*key, part)
    return (*key, detail["loc"][-1]) if detail["type"] == "missing" else key


def understood(values: Mapping, details: Iterable[Any]) -> dict[Key, Any]:
    """Replace values of another type that can mean one thing only: ``off``, ``'1e-4'``, ``3.0``, one item for a list.

    Returns:
        the values as they were, by key.
    """
    given: dict[Key, Any] = {}
    for detail in details:
        key = _faulty(values, detail)
        value = lookup(values, key)
        meant: Any = None
        if key in given or not key:
            continue
        match detail["type"]:
            case "bool_type" if isinstance(value, str):
                meant = TRUTH.get(value.lower())
            case "list_type" if isinstance(value, str | int | float) and not isinstance(value, bool):
                meant = [value]
            case "int_type" | "float_type" if isinstance(value, str) and PATTERNS["float"].fullmatch(value):
                meant = float(value) if re.search(r"\d", value) else None  # .inf and .nan are not settings
            case "int_type" if isinstance(value, float):
                meant = value
            case "literal_error" if isinstance(value, str):
                meant = next((choice for choice in _choices(detail) if choice.lower() == value.lower()), None)
        if detail["type"] == "int_type" and isinstance(meant, float):
            meant = int(meant) if meant.is_integer() else None
        if meant is not None:
            given[key] = value
            lookup(values, key[:-1], values)[key[-1]] = meant
    return given


def put_back(values: Mapping, given: dict[Key, Any], details: Iterable[Any]) -> bool:
    """Give keys that are faulty all the same the values that they had; whether there are any."""
    faulty = [key for detail in details for key in given if _faulty(values, detail)[: len(key)] == key]
    for key in faulty:
        lookup(values, key[:-1], values)[key[-1]] = given[key]
    return bool(faulty)


_EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "text",
    "string_too_short": "a path",
    "list_type": "a list",
    "tuple_type": "a list",
    "too_short": "a list of at least {min_length}",
    "too_long": "a list of {max_length}",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "union_tag_invalid": "an operation",
    "greater_than": "greater than {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "less_than": "less than {lt:g}",
    "less_than_equal": "at most {le:g}",
}
_SOURCES: tuple[Key, ...] = (("data", "train"), ("data", "val"))
_EXPECTED_AT: dict[Key, str] = {
    ("model",): "a hub id, a folder or a mapping",
    ("model", "path"): "a hub id or a folder",
    ("data", "train"): "a file or a list of files",
    ("data", "val"): "a file or a list of files",
}


def _expected(detail: Any) -> str:
    if choices := _choices(detail):
        return f"one of {', '.join(choices)}" if len(choices) > 1 else choices[0].lower()
    words = _EXPECTED.get(detail["type"]) or detail["type"].replace("_", " ")
    return str(words.format(**detail.get("ctx", {})))


def _choices(detail: Any) -> list[str]:
    choices = re.split(", | or ", detail["ctx"]["expected"]) if detail["type"] == "literal_error" else []
    return [choice.strip("'") for choice in choices if choice != "None"]


def _how_to_write(value: Any, details: list[Any]) -> str | None:
    kinds = {detail["type"] for detail in details}
    if value is None:
        return "remove the key to use its default"
    if "literal_error" in kinds:
        return _near(value, [choice for detail in details for choice in _choices(detail)])
    if "bool_type" in kinds and value in ("yes", "on", "no", "off"):
        return f"write {'true' if value in ('yes', 'on') else 'false'}"
    if "list_type" in kinds:
        return f"write [{value}]" if isinstance(value, str) else "write [a, b], or a dash before each item"
    if "union_tag_invalid" in kinds:
        return "write '- rotate: {max_deg: 8}', or name and params"
    if kinds & {"dict_type", "model_type"}:
        return "write 'key: value' lines under it"
    if "int_type" in kinds and isinstance(value, float) and value.is_integer():
        return f"write {value:.0f}"
    if kinds & {"int_type", "float_type"} and isinstance(value, str) and PATTERNS["float"].fullmatch(value):
        return "write it without quotes"
    return None


def _wrong_name(values: Mapping, key: Key) -> tuple[str, str]:
    """What to say of a key that its section does not take; the hint names the right section or a similar key."""
    section, name, label = dotted(key[:-1]), str(key[-1]), values.name(*key)
    if key[:3] == OPERATIONS:
        operation = lookup(values, (*key[:4], "name"))
        names = list(PARAMETERS[operation].model_fields) if operation in PARAMETERS else ["name", "params"]
        message, hint = f"{operation}: there is no parameter {name!r}", _near(name, names) or f"use {', '.join(names)}"
    elif home(name) not in (None, section):
        message, hint = f"{label}: not a key of {section or 'the top level'}", f"move it under '{home(name)}:'"
    elif name in megatron_arguments():
        message, hint = f"{label} is an argument for Megatron training only", "remove it: it has no effect here"
    elif section:
        arguments = [argument for argument in swift_arguments() if is_argument(section, argument)]
        theirs = [place[1] for place in KEYS if place[0] == section and len(place) == 2]
        message, known = f"{label}: unknown key", [*section_fields(section), *arguments, *theirs]
        hint = _near(name, known) or "run 'swiftalign init --schema' to list the keys"
    else:
        message, sections = f"{label}: unknown section", [*Config.model_fields]
        hint = (
            _near(name, [*sections, *swift_arguments(), *ARGUMENTS]) or f"use one of the sections {', '.join(sections)}"
        )
    return message, hint


def _near(name: Any, names: Sequence[str]) -> str | None:
    return did_you_mean(str(name).lower(), names)
