"""The JSON schema of a configuration file, for editors."""

from __future__ import annotations

import re
from collections.abc import Collection
from contextlib import suppress
from typing import Any

from pydantic import PydanticInvalidForJsonSchema, PydanticSchemaGenerationError, TypeAdapter

from swiftalign.config.arguments import ARGUMENTS
from swiftalign.config.augmentation import IMGAUG, PARAMETERS
from swiftalign.config.sections import Config
from swiftalign.config.spellings import KEYS, SECTIONS, is_argument
from swiftalign.config.swift_arguments import swift_arguments
from swiftalign.methods import METHODS, train_types


def config_schema() -> dict[str, Any]:
    """The keys and values of a configuration file, in all spellings that the loader accepts."""
    schema = Config.model_json_schema()
    schema |= {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "swiftalign configuration"}
    schema |= {"type": ["object", "array"], "items": {"type": "object"}}  # a bare list: augmentation operations
    schema.pop("required", None)  # a file may be a fragment that is laid over another
    sections = schema["$defs"]

    # Operations: ``hflip`` and ``{rotate: {...}}`` as well as ``{name, params}``.
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
    # In a phase of a curriculum, an operation needs none of its parameters; of imgaug's, only prob changes.
    closed = {"type": "object", "additionalProperties": False}
    free = {name: closed | {"properties": sections[kind.__name__]["properties"]} for name, kind in PARAMETERS.items()}
    prob = closed | {"properties": {"prob": sections["ImgaugParameters"]["properties"]["prob"]}}
    phase_ops = {"type": ["object", "null"], "properties": free, "patternProperties": dict.fromkeys(other, prob)}
    sections["CurriculumPhase"]["properties"]["ops"] |= phase_ops | {"additionalProperties": False}

    # Keys that the sections take in addition to the declared ones, and other spellings of values.
    tuner = sections["TunerSection"]["properties"]
    tuner["train_type"]["enum"] = train_types()
    for method in METHODS.values():
        tuner |= method.model_json_schema()["properties"]
    for section in ("data", "tuner", "training"):
        target = sections[f"{section.title()}Section"]
        target["additionalProperties"] = False
        target["properties"] |= _arguments(section)
    for name in ("train", "val"):
        files = sections["DataSection"]["properties"][name]
        source = files["items"]
        files["items"] = _or_text(source)
        sections["DataSection"]["properties"][name] = {"anyOf": [*_or_text(source)["anyOf"], files]}
    schema["properties"]["swift"] |= {"properties": _arguments("swift"), "additionalProperties": False}
    del sections["ModelSection"][
        "required"
    ]  # a fragment need not name the model, and there are other names of its path
    schema["properties"]["model"] = _or_text(schema["properties"]["model"])
    for section in SECTIONS:
        target = schema["properties"]["swift"] if section == "swift" else sections[f"{section.title()}Section"]
        target["patternProperties"] = _other_spellings(section, target["properties"])
    spellings = _other_spellings("", schema["properties"])
    own = {name: schema["properties"][name] for name in ("data", "training", "custom", "swift")}
    phase = {"type": "object", "properties": {"name": {"type": "string"}, **own}, "additionalProperties": False}
    phase["patternProperties"] = schema["patternProperties"] = spellings
    file = {"type": "string", "minLength": 1}
    schema["properties"]["extends"] = {
        "anyOf": [file, {"type": "array", "items": file}],
        "description": "files that this one changes, relative to it",
    }
    schema["properties"]["phases"]["items"] = phase
    for section in (*sections.values(), schema["properties"]["swift"]):
        section["type"] = ["object", "null"]  # a section may be empty
    for item in ("DataSource", "CurriculumPhase"):
        sections[item]["type"] = "object"
    return schema


def _or_text(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [{"type": "string", "minLength": 1}, schema]}


def _other_spellings(section: str, known: Collection[str]) -> dict[str, Any]:
    """What the loader moves from a section to another place, or leaves out; without a section, from the top level."""
    theirs = [key[-1] for key, rule in KEYS.items() if list(key[:-1]) == [section] * bool(section)]
    names = {*ARGUMENTS, *swift_arguments(), *theirs, *([] if section else ["template"])}
    return {f"^({'|'.join(sorted(names - {*known}))})$": {}}


def _arguments(section: str) -> dict[str, Any]:
    """The arguments of ms-swift that a section takes in addition to its declared keys."""
    schemas: dict[str, Any] = {name: {} for name in swift_arguments() if is_argument(section, name)}
    for name in schemas:
        with suppress(PydanticInvalidForJsonSchema, PydanticSchemaGenerationError):
            _, kind = swift_arguments()[name]
            schemas[name] = TypeAdapter(kind).json_schema()
    return schemas
