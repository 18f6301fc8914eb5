"""The JSON schema of a configuration file, for editors."""

from __future__ import annotations

import re
from typing import Any

from pydantic import PydanticInvalidForJsonSchema, PydanticSchemaGenerationError, TypeAdapter

from swiftalign.config.augmentation import IMGAUG, PARAMETERS
from swiftalign.config.faults import ALIASES, is_argument
from swiftalign.config.sections import Config
from swiftalign.config.swift_arguments import Argument, swift_arguments
from swiftalign.methods import METHODS, train_types


def config_schema() -> dict[str, Any]:
    """The keys and values of a configuration file, in all spellings that the loader accepts."""
    schema = Config.model_json_schema()
    schema |= {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "swiftalign configuration"}
    schema |= {"type": ["object", "array"], "items": {"type": "object"}}  # a bare list: augmentation operations
    schema.pop("required", None)  # a file may be a fragment that is laid over another
    sections = schema["$defs"]
    _allow_short_operations(sections)
    tuner = sections["TunerSection"]["properties"]
    tuner["train_type"]["enum"] = train_types()
    for method in METHODS.values():
        tuner |= method.model_json_schema()["properties"]
    for section in ("data", "tuner", "training"):
        target = sections[f"{section.title()}Section"]
        target["additionalProperties"] = False
        target["properties"] |= _arguments(section)
    for name in ("train", "val"):
        sections["DataSection"]["properties"][name] = _or_text(sections["DataSection"]["properties"][name])
    schema["properties"]["swift"] |= {"properties": _arguments("swift"), "additionalProperties": False}
    schema["properties"]["model"] = _or_text(schema["properties"]["model"])
    for (old_section, old_name), (new_section, new_name) in ALIASES.items():
        source = sections[f"{new_section.title()}Section"]["properties"][new_name]
        sections[f"{old_section.title()}Section"]["properties"][old_name] = source
    own = {name: schema["properties"][name] for name in ("data", "training", "custom", "swift")}
    phase = {"type": "object", "properties": {"name": {"type": "string"}, **own}, "additionalProperties": False}
    schema["properties"]["phases"]["items"] = phase
    for section in (*sections.values(), schema["properties"]["swift"]):
        section["type"] = ["object", "null"]  # a section may be empty
    return schema


def _allow_short_operations(sections: dict[str, Any]) -> None:
    """Allow ``hflip`` and ``{rotate: {...}}`` as well as ``{name, params}``."""
    ops = sections["AugmentationSection"]["properties"]["ops"]
    for branch in ops["items"]["oneOf"]:
        operation = sections[branch["$ref"].rpartition("/")[2]]
        parameters = sections[operation["properties"]["params"]["$ref"].rpartition("/")[2]]
        operation["required"] = ["name", *(["params"] if "required" in parameters else [])]
    short = {name: sections[f"{kind.__name__}Op"]["properties"]["params"] for name, kind in PARAMETERS.items()}
    other = {f"^{re.escape(IMGAUG)}": {"type": ["object", "null"]}}
    one = {"minProperties": 1, "maxProperties": 1, "additionalProperties": False}
    mapping = {"type": "object", "properties": short, "patternProperties": other, **one}
    ops["items"] = {"anyOf": [{"type": "string"}, mapping, ops["items"]]}


def _or_text(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [{"type": "string", "minLength": 1}, schema]}


def _arguments(section: str) -> dict[str, Any]:
    """The arguments of ms-swift that a section takes in addition to its declared keys."""
    return {a.name: _argument_schema(a) for a in swift_arguments().values() if is_argument(section, a.name)}


def _argument_schema(argument: Argument) -> dict[str, Any]:
    try:
        return TypeAdapter(argument.annotation).json_schema()
    except (PydanticInvalidForJsonSchema, PydanticSchemaGenerationError):
        return {}
