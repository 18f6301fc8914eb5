"""What is wrong with a configuration's keys and values, in the words of its file."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from swiftalign.config.augmentation import PARAMETERS, AugmentationSection, preset_operations
from swiftalign.config.sections import (
    Config,
    EarlyStoppingSection,
    GroundingEvalSection,
    GroundingTextSection,
    section_fields,
)
from swiftalign.config.swift_arguments import megatron_arguments, swift_arguments
from swiftalign.config.yaml import Document, Key, holds, lookup
from swiftalign.methods import METHODS
from swiftalign.problems import Problem, config_problem

PASS_THROUGH = ("data", "tuner", "training", "swift")

# What the plan decides -> the key that says it here, where one does. Handing any of these to ms-swift beside the plan
# would make the plan untrue.
OWNED_BY_PLAN = {
    "tuner_type": "tuner.train_type",
    "train_type": "tuner.train_type",
    "target_modules": "tuner.target_modules",
    "target_regex": "tuner.target_regex",
    "modules_to_save": "tuner.modules_to_save",
    "freeze_llm": "tuner.freeze_llm",
    "freeze_vit": "tuner.freeze_vit",
    "freeze_aligner": "tuner.freeze_aligner",
    **dict.fromkeys(("bf16", "fp16"), "model.dtype"),
    **dict.fromkeys(
        (
            "target_parameters",
            "freeze_parameters",
            "freeze_parameters_regex",
            "freeze_parameters_ratio",
            "trainable_parameters",
            "trainable_parameters_regex",
            "init_weights",
            "lora_bias",
            "lora_dtype",
            "use_swift_lora",
            "tuner_backend",
            "adapters",
        ),
        "",
    ),
}
# What other keys of the config say already.
OWNED_BY_CONFIG = {
    "model": "model",
    "model_revision": "model.revision",
    "model_type": "model.type",
    "torch_dtype": "model.dtype",
    "attn_impl": "model.attention",
    "use_hf": "hub",
    "dataset": "data.train",
    "val_dataset": "data.val",
    "train_jsonl": "data.train",
    "val_jsonl": "data.val",
    "add_version": "training.output_dir",
}
OPERATIONS: Key = ("custom", "augmentation", "ops")
# The guide's, and ms-swift 4's, names for the same.
ALIASES: dict[Key, Key] = {
    ("custom", "train_jsonl"): ("data", "train"),
    ("custom", "val_jsonl"): ("data", "val"),
    ("tuner", "tuner_type"): ("tuner", "train_type"),
}


def _passed_through(values: dict[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """Section, name and value of each key that is handed to ms-swift."""
    for section in PASS_THROUGH:
        given = values.get(section)
        declared = section_fields(section)
        if isinstance(given, dict):
            yield from ((section, name, value) for name, value in given.items() if name not in declared)


def name_faults(document: Document) -> list[Problem]:
    """Keys to hand through that are unknown, the plan's, or another section's."""
    names = [(section, name) for section, name, _ in _passed_through(document.value)]
    return [_wrong_name(document, key) for key in names if not is_argument(*key)]


def is_argument(section: str, name: str) -> bool:
    """Whether a section hands a key through, as an argument of ms-swift."""
    if name not in swift_arguments() or name in OWNED_BY_PLAN or name in OWNED_BY_CONFIG:
        return False
    home = str(_home(name))
    return section in (home, "swift") and name not in section_fields(home)


def _home(name: str) -> str | None:
    """The section that takes a key of this name."""
    declaring = next((section for section in PASS_THROUGH if name in section_fields(section)), None)
    argument = swift_arguments().get(name)
    return declaring or (argument.section if argument else None)


def argument_faults(values: dict[str, Any]) -> list[Any]:
    """Settings of methods, and arguments of ms-swift, with malformed values, as pydantic's error details."""
    details: list[Any] = []
    tuner = values.get("tuner")
    for method in METHODS.values() if isinstance(tuner, dict) else ():
        try:
            method.model_validate(tuner)
        except ValidationError as error:
            details += [{**detail, "loc": ("tuner", *detail["loc"])} for detail in error.errors()]
    for section, name, value in _passed_through(values):
        if is_argument(section, name):
            kind = TypeAdapter(swift_arguments()[name].annotation, config=ConfigDict(allow_inf_nan=False))
            try:
                kind.validate_python(value, strict=True)
            except ValidationError as error:
                details += [{**detail, "loc": (section, name, *detail["loc"])} for detail in error.errors()]
    return details


def value_faults(document: Document, details: Iterable[Any]) -> list[Problem]:
    """Pydantic's errors in the words of the file: one a key, whose branches of a union are errors of their own."""
    by_key: dict[Key, list[Any]] = {}
    for detail in details:
        by_key.setdefault(_key_of(document.value, detail), []).append(detail)
    return [_value_fault(document, key, same) for key, same in by_key.items()]


def _key_of(values: Any, detail: Any) -> Key:
    """The place of an error in the file: pydantic's path without the names of a union's branches."""
    key: Key = ()
    for part in detail["loc"]:
        if holds(values, (*key, part)):
            key = (*key, part)
    return (*key, detail["loc"][-1]) if detail["type"] == "missing" else key


def _value_fault(document: Document, key: Key, details: list[Any]) -> Problem:
    name, where, first = document.name(key), document.where(key), details[0]
    match first["type"]:
        case "missing" if key[:3] == OPERATIONS:
            operation = lookup(document.value, (*key[:4], "name"))
            return config_problem(
                document.where(key[:4]), f"{operation} needs {key[-1]}", f"for example {_example(operation)}"
            )
        case "missing" if isinstance(key[-1], int):
            return config_problem(document.where(key[:-1]), f"{document.name(key[:-1])} is too short")
        case "union_tag_invalid":
            return _no_operation(document, key)
        case "missing":
            return config_problem(
                where, "no model is named", "add a line 'model: Qwen/Qwen3-VL-4B-Instruct', or a folder"
            )
        case "extra_forbidden":
            return _wrong_name(document, key)
        case "value_error":
            message, _, hint = str(first["ctx"]["error"]).partition("; ")
            return config_problem(where, f"{name}: {message}", hint or None)
    kinds = dict.fromkeys(_EXPECTED_AT.get(key) or _expected(detail) for detail in details)
    value = lookup(document.value, key)
    return config_problem(
        where, f"{name} must be {' or '.join(kinds)}, not {_show(value)}", _how_to_write(value, details)
    )


def _example(operation: str) -> str:
    params = next(op.params for op in preset_operations("conservative") if op.name == operation)
    return f"- {operation}: {{{', '.join(f'{k}: {_plain(v)}' for k, v in params.model_dump().items())}}}"


def _plain(value: Any) -> str:
    return f"[{', '.join(map(_plain, value))}]" if isinstance(value, (list, tuple)) else f"{value:g}"


def _no_operation(document: Document, key: Key) -> Problem:
    value = lookup(document.value, key)
    name = value.get("name") if isinstance(value, dict) else value
    where = document.where(key)
    if not isinstance(name, str):
        hint = "an operation is written '- rotate: {max_deg: 8}', or as name and params"
        return config_problem(where, f"{document.name(key)} must be an operation, not {_show(value)}", hint)
    hint = _near(name, list(PARAMETERS)) or f"there are {', '.join(PARAMETERS)}, and imgaug's as imgaug.NAME"
    return config_problem(where, f"{document.name(key)}: no operation {name!r}", hint)


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
    "too_long": "a list of {max_length}",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "greater_than": "greater than {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "less_than": "less than {lt:g}",
    "less_than_equal": "at most {le:g}",
}
_EXPECTED_AT: dict[Key, str] = {
    ("model",): "a hub id, a folder or a mapping",
    ("model", "path"): "a hub id or a folder",
    ("data", "train"): "a file or a list of files",
    ("data", "val"): "a file or a list of files",
}


def _expected(detail: Any) -> str:
    context = detail.get("ctx", {})
    if detail["type"] == "literal_error":
        choices = _choices(detail)
        return f"one of {', '.join(choices)}" if len(choices) > 1 else choices[0].lower()
    words = _EXPECTED.get(detail["type"])
    return words.format(**context) if words else str(detail["type"]).replace("_", " ")


def _choices(detail: Any) -> list[str]:
    choices = re.split(", | or ", detail["ctx"]["expected"]) if detail["type"] == "literal_error" else []
    return [choice.strip("'") for choice in choices if choice != "None"]


def _how_to_write(value: Any, details: list[Any]) -> str | None:
    kinds = {detail["type"] for detail in details}
    if value is None:
        return "remove the key to have its default"
    if "literal_error" in kinds:
        return _near(value, [choice for detail in details for choice in _choices(detail)])
    if "bool_type" in kinds and value in ("yes", "on", "no", "off"):
        return f"write {'true' if value in ('yes', 'on') else 'false'}"
    if "list_type" in kinds:
        return f"write [{value}]" if isinstance(value, str) else "a list is written [a, b], or a dash before each item"
    if kinds & {"dict_type", "model_type"}:
        return "write 'key: value' lines under it"
    if kinds & {"int_type", "float_type"}:
        return _how_to_write_number(value)
    return None


def _how_to_write_number(value: Any) -> str | None:
    if isinstance(value, float) and value.is_integer():
        return f"write {value:.0f}"
    if isinstance(value, str) and re.fullmatch(r"[-+]?[0-9]*\.?[0-9]+([eE][-+]?[0-9]+)?", value):
        return "write it without quotes"
    return None


def _show(value: Any) -> str:
    if value is None:
        return "empty"
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def dotted(key: Key) -> str:
    return ".".join(map(str, key))


def _wrong_name(document: Document, key: Key) -> Problem:
    """A key that its section does not take: where it belongs, or what it may be meant to be."""
    section, name = dotted(key[:-1]), str(key[-1])
    where, label = document.where(key), document.name(key)
    home = _home(name)
    if key[:3] == OPERATIONS:
        operation = lookup(document.value, (*key[:4], "name"))
        names = list(PARAMETERS[operation].model_fields) if operation in PARAMETERS else ["name", "params"]
        hint = _near(name, names) or f"it takes {', '.join(names)}"
        return config_problem(where, f"{operation}: no parameter {name!r}", hint)
    if name in OWNED_BY_PLAN:
        place = OWNED_BY_PLAN[name]
        hint = f"write it as {place}" if place else "remove it: the plan sets it from the tuner section"
        return config_problem(where, f"{label}: the plan decides this argument", hint)
    if name in OWNED_BY_CONFIG:
        return config_problem(where, f"{label}: another key says this", f"write it as {OWNED_BY_CONFIG[name]}")
    if home not in (None, section):
        return config_problem(where, f"{label}: not a key of {section or 'the top level'}", f"move it under '{home}:'")
    if name in megatron_arguments():
        return config_problem(
            where, f"{label} is an argument of Megatron training only", "remove it: it would do nothing"
        )
    hint = _near(name, _names_in(section)) or _what_there_is(section)
    return config_problem(where, f"{label}: unknown {'key' if section else 'section'}", hint)


_NESTED: dict[str, type[BaseModel]] = {
    "custom.augmentation": AugmentationSection,
    "custom.grounding_eval": GroundingEvalSection,
    "data.text": GroundingTextSection,
    "training.early_stopping": EarlyStoppingSection,
}


def _names_in(section: str) -> list[str]:
    if not section:
        return list(Config.model_fields)
    if section in _NESTED:
        return list(_NESTED[section].model_fields)
    declared = section_fields(section)
    arguments = [name for name in swift_arguments() if is_argument(section, name)]
    return [*declared, *arguments, *(str(alias[1]) for alias in ALIASES if alias[0] == section)]


def _what_there_is(section: str) -> str:
    return "'swiftalign init --schema' lists the keys" if section else f"the sections are {', '.join(_names_in(''))}"


def _near(name: Any, names: Sequence[str]) -> str | None:
    close = difflib.get_close_matches(str(name).lower(), names, n=1, cutoff=0.6)
    return f"did you mean {close[0]}?" if close else None
