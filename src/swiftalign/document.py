"""YAML as plain values that remember their file and line.

Values follow the YAML 1.2 core schema where PyYAML's YAML 1.1 surprises: ``1e-4`` is a number, ``no`` is a word.
Tags that build objects, duplicate keys and alias bombs are errors.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from swiftalign.errors import ConfigError, Problem, SwiftalignError

Key = tuple[str | int, ...]

# Room for any real configuration; a "billion laughs" file passes it within a millisecond.
MAX_VALUES = 50_000
MAX_BYTES = 2_000_000
MAX_DEPTH = 60


class _CoreSchemaLoader(yaml.SafeLoader):
    """PyYAML's composer with the YAML 1.2 core schema instead of YAML 1.1."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  # a class variable in PyYAML, untyped as one


_TAG = "tag:yaml.org,2002:"
for _name, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
):
    _CoreSchemaLoader.add_implicit_resolver(_TAG + _name, re.compile(rf"^(?:{_pattern})$"), list(_first))


class _CoreSchemaDumper(yaml.SafeDumper):
    """Quotes every word that YAML 1.1 or 1.2 would read as something else."""


for _first, _resolvers in _CoreSchemaLoader.yaml_implicit_resolvers.items():
    for _tag, _regexp in _resolvers:
        _CoreSchemaDumper.add_implicit_resolver(_tag, _regexp, [_first])


def dump_yaml(values: Any) -> str:
    """Plain values as YAML text that `parse_document` reads back."""
    text: str = yaml.dump(values, Dumper=_CoreSchemaDumper, sort_keys=False, allow_unicode=True, width=100)
    return text


@dataclass
class Document:
    """One file's values and where each stands.

    Attributes:
        value: what the file holds.
        lines: path of keys -> (file, line), for each key and list item; lines count from 1.
    """

    value: Any
    lines: dict[Key, tuple[str, int]] = field(default_factory=dict)

    def where(self, key: Key) -> str:
        """``file:line`` of a key, or of the nearest key that holds it."""
        for end in range(len(key), -1, -1):
            if key[:end] in self.lines:
                file, line = self.lines[key[:end]]
                return f"{file}:{line}" if line else file
        return ""


def read_document(path: Path) -> Document:
    """Read a YAML file.

    Raises:
        SwiftalignError: the file is missing, unreadable or too large.
        ConfigError: it is no YAML, or holds a tag, a duplicate key or an alias bomb.
    """
    if path.is_dir():
        raise SwiftalignError(
            f"{path} is a folder, not a config file", f"name a YAML file, e.g. {path / 'config.yaml'}"
        )
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise SwiftalignError(f"{path}: no such file", "'swiftalign init' writes a config to start from") from None
    except OSError as error:
        raise SwiftalignError(f"{path}: {error.strerror or error}") from None
    if len(data) > MAX_BYTES:
        raise SwiftalignError(f"{path}: larger than {MAX_BYTES // 1_000_000} MB, which no config is")
    try:
        return parse_document(data.decode("utf-8-sig"), str(path))
    except UnicodeDecodeError as error:
        raise ConfigError([Problem(str(path), f"not UTF-8 text (byte {error.start})")]) from None


def parse_document(text: str, name: str) -> Document:
    """Parse YAML text; ``name`` stands for the file in messages."""
    loader = _CoreSchemaLoader(text)
    try:
        node = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{name}:{mark.line + 1}" if mark else name
        raise ConfigError([Problem(where, f"not valid YAML: {error.problem or error.context}")]) from None
    except yaml.YAMLError as error:
        raise ConfigError([Problem(name, f"not valid YAML: {' '.join(str(error).split())}")]) from None
    except RecursionError:
        raise ConfigError([Problem(name, "nested too deeply")]) from None
    finally:
        loader.dispose()
    return _Builder(name).build(node)


class _Builder:
    def __init__(self, name: str) -> None:
        self.name = name
        self.lines: dict[Key, tuple[str, int]] = {(): (name, 0)}
        self.problems: list[Problem] = []
        self.count = 0

    def build(self, node: yaml.Node | None) -> Document:
        value = None if node is None else self.value(node, ())
        if self.problems:
            raise ConfigError(self.problems)
        return Document(value, self.lines)

    def fail(self, node: yaml.Node, message: str, hint: str | None = None) -> None:
        self.problems.append(Problem(f"{self.name}:{node.start_mark.line + 1}", message, hint))

    def value(self, node: yaml.Node, key: Key) -> Any:
        self.count += 1
        if self.count > MAX_VALUES or len(key) > MAX_DEPTH:
            # Raised at once: going on is what an alias bomb wants.
            what = "more than 50,000 values once its aliases are expanded" if len(key) <= MAX_DEPTH else "too deep"
            raise ConfigError([Problem(f"{self.name}:{node.start_mark.line + 1}", what)])
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, key)
        if isinstance(node, yaml.SequenceNode):
            return self.sequence(node, key)
        return self.scalar(node)

    def mapping(self, node: yaml.MappingNode, key: Key) -> dict[str, Any]:
        if node.tag != _TAG + "map":
            self.fail(node, f"the tag {node.tag} is not allowed", "write plain values only")
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self.fail(key_node, "a key must be a word")
                continue
            name = key_node.value
            if name in result:
                self.fail(key_node, f"{'.'.join(map(str, (*key, name)))} is given twice", "keep one of the two")
                continue
            self.lines[(*key, name)] = (self.name, key_node.start_mark.line + 1)
            result[name] = self.value(value_node, (*key, name))
        return result

    def sequence(self, node: yaml.SequenceNode, key: Key) -> list[Any]:
        if node.tag != _TAG + "seq":
            self.fail(node, f"the tag {node.tag} is not allowed", "write plain values only")
        items = []
        for index, item in enumerate(node.value):
            self.lines[(*key, index)] = (self.name, item.start_mark.line + 1)
            items.append(self.value(item, (*key, index)))
        return items

    def scalar(self, node: yaml.Node) -> Any:
        text, kind = node.value, node.tag.removeprefix(_TAG)
        if kind == "null":
            return None
        if kind == "bool":
            return text.lower() == "true"
        try:
            if kind == "int":
                return int(text, 0) if text[:2] in ("0o", "0x") else int(text)
            if kind == "float":
                return float(text.replace(".inf", "inf").replace(".nan", "nan")) if "n" in text.lower() else float(text)
        except ValueError:  # an explicit tag on other text, or an integer of thousands of digits
            self.fail(node, f"{text[:40]!r} is no {kind}")
            return None
        if kind != "str":
            self.fail(node, f"the tag {node.tag} is not allowed", "write plain values only")
        return text
