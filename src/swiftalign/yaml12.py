"""The core schema of YAML 1.2 for PyYAML, which otherwise reads YAML 1.1."""

from __future__ import annotations

import re
from typing import Any

import yaml


class CoreSchemaLoader(yaml.SafeLoader):
    """PyYAML's composer with the YAML 1.2 core schema instead of YAML 1.1."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  # PyYAML's class variable has no type


class CoreSchemaDumper(yaml.SafeDumper):
    """Quotes every text that YAML 1.1 or 1.2 would read as another kind of value."""


TAG = "tag:yaml.org,2002:"
# Text of a plain scalar, per kind.
PATTERNS = {
    "bool": re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"),
    "null": re.compile(r"^(?:~|null|Null|NULL|)$"),
    "int": re.compile(r"^(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$"),
    "float": re.compile(
        r"^(?:[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))$"
    ),
}
for _kind, _pattern in PATTERNS.items():
    CoreSchemaLoader.add_implicit_resolver(TAG + _kind, _pattern, None)
    CoreSchemaDumper.add_implicit_resolver(TAG + _kind, _pattern, None)


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    # YAML 1.1 reads U+0085 as a line end, unless it is escaped; PyYAML escapes it in double quotes.
    return dumper.represent_scalar(TAG + "str", text, style='"' if "\x85" in text else None)


CoreSchemaDumper.add_representer(str, _represent_text)
# Subclasses of dict and list are dumped as plain mappings and lists.
CoreSchemaDumper.add_multi_representer(dict, CoreSchemaDumper.represent_dict)
CoreSchemaDumper.add_multi_representer(list, CoreSchemaDumper.represent_list)


def dump_yaml(values: Any) -> str:
    """Plain values as YAML text that `parse_document` reads back."""
    text: str = yaml.dump(values, Dumper=CoreSchemaDumper, sort_keys=False, allow_unicode=True, width=100)
    return text
