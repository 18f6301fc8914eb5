"""The JSON schema of a configuration file, for editors."""

from __future__ import annotations

from typing import Any

from pydantic import PydanticInvalidForJsonSchema, PydanticSchemaGenerationError, TypeAdapter

from swiftalign.config import Config, section_fields
from swiftalign.config_files import ALIASES, OWNED_BY_CONFIG, OWNED_BY_PLAN
from swiftalign.swift_arguments import Argument, swift_arguments


def config_schema() -> dict[str, Any]:
    """What a configuration file may hold, in the spellings that the loader accepts."""
    schema = Config.model_json_schema()
    schema |= {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "swiftalign configuration"}
    schema.pop("required", None)  # a file may be a fragment, to be laid over another
    sections = schema["$defs"]
    for section in ("data", "tuner", "training"):
        target = sections[f"{section.title()}Section"]
        target["additionalProperties"] = False
        target["properties"] |= {a.name: _argument_schema(a) for a in _others(section)}
    for name in ("train", "val"):
        sections["DataSection"]["properties"][name] = _or_text(sections["DataSection"]["properties"][name])
    swift = schema["properties"]["swift"]
    swift["properties"] = {a.name: _argument_schema(a) for a in _others("swift")}
    schema["properties"]["model"] = _or_text(schema["properties"]["model"])
    for alias, key in ALIASES.items():
        (old_section, old_name), (new_section, new_name) = map(str, alias), map(str, key)
        source = sections[f"{new_section.title()}Section"]["properties"][new_name]
        sections[f"{old_section.title()}Section"]["properties"][old_name] = source
    return schema


def _or_text(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [{"type": "string"}, schema], "description": schema.get("description", "")}


def _others(section: str) -> list[Argument]:
    """The arguments of ms-swift that a section takes beside its declared keys."""
    declared = section_fields(section) if section != "swift" else {}
    taken = {*declared, *OWNED_BY_PLAN, *OWNED_BY_CONFIG}
    return [a for a in swift_arguments().values() if a.section == section and a.name not in taken]


def _argument_schema(argument: Argument) -> dict[str, Any]:
    try:
        return TypeAdapter(argument.annotation).json_schema()
    except (PydanticInvalidForJsonSchema, PydanticSchemaGenerationError):
        return {}
