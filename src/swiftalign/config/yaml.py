"""YAML as plain values that remember their file and line.

Values follow the YAML 1.2 core schema, not PyYAML's YAML 1.1: ``1e-4`` is a number, ``no`` is a word.
Tags that build objects, duplicate keys and alias bombs are errors.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from swiftalign.files import not_fetched
from swiftalign.problems import ConfigError, Problem, SwiftalignError, config_problem, size_text
from swiftalign.yaml12 import PATTERNS, TAG, CoreSchemaLoader

Key = tuple[str | int, ...]

# More than any real configuration needs; a "billion laughs" file exceeds it within a millisecond.
MAX_VALUES = 50_000
MAX_BYTES = 2_000_000
MAX_DEPTH = 60
MAX_INTEGER = 2**63 - 1

OVERRIDE = "--set "


class Place(NamedTuple):
    """Where a key or a list item stands.

    Attributes:
        file: path of the file, or ``--set section.key=value``.
        line: line of the file, counted from 1; 0 stands for the whole file.
        name: the key as the file spells it, if the configuration uses another name.
    """

    file: str = ""
    line: int = 0
    name: str = ""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line and not self.file.startswith(OVERRIDE) else self.file


class Items(list[Any]):
    """A list that remembers the place of each item."""

    places: Sequence[Place] = ()


class Mapping(dict[str, Any]):
    """A mapping that remembers the place of each key.

    Attributes:
        places: place of each key; a key that was removed keeps its place.
        file: path of the file that holds the mapping.
    """

    def __init__(self, values: dict[str, Any] | None = None, places: dict[str, Place] | None = None, file: str = ""):
        super().__init__(values or {})
        self.places = places or {}
        self.file = file

    def merge(self, layer: Mapping) -> None:
        """Lay another mapping over this one: mappings are merged key by key, other values are replaced."""
        self.places |= layer.places
        for key, value in layer.items():
            held = self.get(key)
            if isinstance(value, Mapping) and isinstance(held, Mapping):
                held.merge(value)
            else:
                self[key] = value

    def where(self, *key: str | int) -> str:
        """``file:line`` of a path of keys, or of the nearest key above it."""
        found = (_place(self, key[:end]) for end in range(len(key), 0, -1))
        return str(next(filter(None, found), self.file))

    def name(self, *key: str | int) -> str:
        """The name of a path of keys in messages: dotted, and as the file spells it."""
        place = _place(self, key)
        return place.name if place and place.name else dotted(key)


def _place(values: Any, key: Key) -> Place | None:
    place: Place | None = lookup(getattr(lookup(values, key[:-1]), "places", None), key[-1:])
    return place


def nested(keys: Sequence[str], value: Any, place: Place) -> Any:
    """Put a value under a path of keys that all have one place."""
    for key in reversed(keys):
        value = Mapping({key: value}, {key: place})
    return value


def dotted(key: Sequence[str | int]) -> str:
    return ".".join(map(str, key))


def lookup(values: Any, key: Key, default: Any = None) -> Any:
    """The value under a path of keys in nested mappings and lists."""
    try:
        return reduce(getitem, key, values)
    except (KeyError, IndexError, TypeError):
        return default


def holds(values: Any, key: Key) -> bool:
    """Whether there is a value under a path of keys."""
    return lookup(values, key, default=holds) is not holds


def read_document(path: Path) -> Any:
    """Read a YAML file.

    Raises:
        SwiftalignError: the file is missing, unreadable or too large.
        ConfigError: the file is not YAML, or it contains a tag, a duplicate key or an alias bomb.
    """
    return parse_document(read_text(path), str(path))


def read_text(path: Path) -> str:
    """The text of a file that a user names.

    Raises:
        SwiftalignError: the file is missing, unreadable or too large.
        ConfigError: the file is not UTF-8.
    """
    if path.is_dir():
        hint = f"give a YAML file, e.g. {path / 'config.yaml'}"
        raise SwiftalignError(f"{path} is a folder, not a config file", hint)
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        what, hint = not_fetched(path) or ("no such file", "run 'swiftalign init' to write a config")
        raise SwiftalignError(f"{path}: {what}", hint) from None
    except OSError as error:
        raise SwiftalignError(f"{path}: {error.strerror or error}") from None
    if len(data) > MAX_BYTES:
        raise SwiftalignError(f"{path}: larger than {size_text(MAX_BYTES)}, the limit for a config file")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        where = f"{path}:{data.count(10, 0, error.start) + 1}"
        raise ConfigError([config_problem(where, "the file is not UTF-8 text", "save the file as UTF-8")]) from None


def read_override(text: str) -> Any:
    """Read ``section.key=value``, whose value is YAML; messages name ``--set section.key=value`` as the place.

    Raises:
        SwiftalignError: the text is not of this form.
        ConfigError: the value is not valid YAML.
    """
    name, equals, value = text.partition("=")
    keys, place = name.strip().split("."), Place(OVERRIDE + text)
    if not equals or not all(keys):
        raise SwiftalignError(f"{place}: expected section.key=value", "write it like --set tuner.lora_rank=32")
    return nested(keys, parse_document(value, place.file), place)


def parse_document(text: str, file: str) -> Any:
    """Parse YAML text into mappings and lists that remember places.

    Args:
        file: name of the file in messages.
    """
    try:
        node = yaml.compose(text, Loader=CoreSchemaLoader)
    except yaml.MarkedYAMLError as error:
        reason, mark, hint = str(error.problem or error.context), error.problem_mark, None
        message = reason
        for pattern, plain, advice in _SYNTAX:
            if found := re.match(f".*?(?:{pattern})", reason):
                message, hint = found.expand(plain), found.expand(advice)
                mark = (_UNFINISHED.search(reason) and error.context_mark) or mark
                break
        place = Place(file, mark.line + 1 if mark else 0)
        raise ConfigError([config_problem(str(place), f"not valid YAML: {message}", hint)]) from None
    except yaml.reader.ReaderError as error:
        place = Place(file, text.count("\n", 0, error.position) + 1)
        raise ConfigError([config_problem(str(place), "not valid YAML: it contains a control character")]) from None
    except RecursionError:
        raise ConfigError([config_problem(file, _TOO_DEEP)]) from None
    builder = _Builder(file)
    value = None if node is None else builder.value(node, (), Place(file))
    if builder.problems:
        raise ConfigError(builder.problems)
    return value


_TOO_DEEP = f"values are nested more than {MAX_DEPTH} levels deep"


# What PyYAML says about a fault, a plainer message, and a hint.
_SYNTAX = (
    (
        "mapping values are not allowed",
        "a ':' is in the wrong place",
        "look for a missing ':' above, wrong indentation, or a text with ': ' without quotes",
    ),
    (r"found character '\\t'", "a tab is not allowed here", "indent with spaces"),
    (r"found character '(.)'", r"a text can't begin with '\1'", "put the text in quotes"),
    ("found undefined alias '(.*)'", r"there is no anchor &\1 for the alias *\1", "put a text with '*' in quotes"),
    ("expected alphabetic or numeric", "'*' or '&' has no name", "put a text with '*' or '&' in quotes"),
    ("found unexpected end of stream", "this quote is not closed", "add the closing quote"),
    (
        r"expected ',' or '(.)'",
        r"this list or mapping is not closed",
        r"add the '\1', or put a text with brackets in quotes",
    ),
    ("expected <block end>", "this line does not fit the lines above", "compare the indentation and the quotes"),
    ("could not find expected ':'", "a key is not followed by ':'", "write 'key: value'"),
    (
        "unknown escape character|expected escape sequence",
        "an unknown escape sequence in double quotes",
        "put a regular expression in single quotes",
    ),
    ("another document", "a second document begins here", "move it to its own file"),
)
# Said where a value is not finished: messages name the line where it begins, not the one where PyYAML stopped.
_UNFINISHED = re.compile("found unexpected end of stream|expected ',' or '|could not find expected ':'")


_TAGS = {yaml.MappingNode: ("map",), yaml.SequenceNode: ("seq",), yaml.ScalarNode: ("str", *PATTERNS)}


class _Builder:
    """Makes values from PyYAML's nodes, and gathers the problems."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.problems: list[Problem] = []
        self.count = 0

    def place(self, node: yaml.Node) -> Place:
        return Place(self.file, node.start_mark.line + 1)

    def fail(self, node: yaml.Node, message: str, hint: str | None = None) -> None:
        self.problems.append(config_problem(str(self.place(node)), message, hint))

    def value(self, node: yaml.Node, key: Key, top: Place) -> Any:
        """The value of a node.

        Args:
            key: path of keys to the value.
            top: place of the first of these keys.
        """
        self.count += 1
        # Raised at once, because an alias bomb has billions of further values.
        if self.count > MAX_VALUES:
            raise ConfigError([config_problem(str(top), f"more than {MAX_VALUES:,} values after aliases are expanded")])
        if len(key) > MAX_DEPTH:
            hint = "use fewer levels, and no alias inside the value that it names"
            raise ConfigError([config_problem(str(self.place(node)), _TOO_DEEP, hint)])
        kind, text = node.tag.removeprefix(TAG), self.text(node) if isinstance(node, yaml.ScalarNode) else ""
        if kind not in _TAGS[type(node)]:
            self.fail(node, f"the tag {node.tag.replace(TAG, '!!')} is not allowed", "remove the tag")
        if isinstance(node, yaml.ScalarNode):
            return self.scalar(node, text, kind)
        if isinstance(node, yaml.SequenceNode):
            places = [self.place(item) for item in node.value]
            items = Items(self.value(item, (*key, i), top if key else places[i]) for i, item in enumerate(node.value))
            items.places = places
            return items
        result = Mapping(file=self.file)
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self.fail(key_node, "a key must be text, not a list or mapping")
                continue
            name, place = self.text(key_node), self.place(key_node)
            if name == "<<":
                self.fail(key_node, "merge keys (<<) are not supported", "write the keys out, or use a second file")
            elif name in result:
                self.fail(key_node, f"{dotted((*key, name))} is given twice", "keep one of the two")
            else:
                result[name] = self.value(value_node, (*key, name), top if key else place)
                result.places[name] = place
        return result

    def scalar(self, node: yaml.Node, text: str, kind: str) -> Any:
        if kind not in PATTERNS:
            return text
        if not PATTERNS[kind].fullmatch(text):  # an explicit tag on unsuitable text, e.g. `!!bool yes`
            meaning = {"null": "not null", "bool": "not true or false"}.get(kind, "not a number")
            self.fail(node, f"{text[:40]!r} is {meaning}")
            return None
        if kind in ("null", "bool"):
            return text.lower() == "true" if kind == "bool" else None
        if text.lower().endswith((".inf", ".nan")):
            return float(text.replace(".", ""))
        value, most = math.inf, sys.float_info.max if kind == "float" else MAX_INTEGER
        with suppress(ValueError):  # an integer of thousands of digits
            value = float(text) if kind == "float" else int(text, 0 if text[:2] in ("0o", "0x") else 10)
        if abs(value) > most:
            self.fail(node, f"the number {text[:40]} is too large")
        return value

    def text(self, node: yaml.Node) -> str:
        if yaml.reader.Reader.NON_PRINTABLE.search(node.value):  # an escape such as "\0" in double quotes
            self.fail(node, "the text contains a control character", "put a regular expression in single quotes")
        return str(node.value)
