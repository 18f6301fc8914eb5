"""YAML as plain values that remember their file and line.

Values follow the YAML 1.2 core schema where PyYAML's YAML 1.1 surprises: ``1e-4`` is a number, ``no`` is a word.
Tags that build objects, duplicate keys and alias bombs are errors.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from swiftalign.problems import ConfigError, Problem, SwiftalignError, config_problem
from swiftalign.yaml12 import TAG, CoreSchemaLoader

Key = tuple[str | int, ...]

# Room for any real configuration; a "billion laughs" file passes it within a millisecond.
MAX_VALUES = 50_000
MAX_BYTES = 2_000_000
MAX_DEPTH = 60
MAX_INTEGER = 2**63 - 1


_WORDS = {"true": True, "false": False, "~": None, "null": None, "": None}


@dataclass
class Document:
    """One file's values and where each stands.

    Attributes:
        value: what the file holds.
        lines: path of keys -> (file, line), for each key and list item; lines count from 1.
        spellings: path of keys -> the name that the file has for it, where that is another.
        problems: faults found so far that did not stop the reading.
    """

    value: Any
    lines: dict[Key, tuple[str, int]] = field(default_factory=dict)
    spellings: dict[Key, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def where(self, key: Key) -> str:
        """``file:line`` of a key, or of the nearest key that holds it."""
        for end in range(len(key), -1, -1):
            if key[:end] in self.lines:
                file, line = self.lines[key[:end]]
                return f"{file}:{line}" if line else file
        return ""

    def name(self, key: Key) -> str:
        """A key as messages name it: dotted, and as the file spells it."""
        return self.spellings.get(key) or ".".join(map(str, key))


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
        where = f"{path}:{data.count(10, 0, error.start) + 1}"
        raise ConfigError([config_problem(where, "not UTF-8 text", "save the file as UTF-8")]) from None


def parse_document(text: str, name: str) -> Document:
    """Parse YAML text; ``name`` stands for the file in messages."""
    try:
        node = yaml.compose(text, Loader=CoreSchemaLoader)
    except yaml.MarkedYAMLError as error:
        raise ConfigError([_syntax_problem(error, name)]) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigError([config_problem(f"{name}:{line}", "not valid YAML: a control character")]) from None
    except RecursionError:
        raise ConfigError([config_problem(name, _TOO_DEEP)]) from None
    return _Builder(name).build(node)


_TOO_DEEP = f"nested more than {MAX_DEPTH} levels deep"


class _Syntax(NamedTuple):
    """PyYAML's words for a fault, and plainer ones."""

    pattern: str
    message: str
    hint: str
    at_start: bool = False  # report where the unfinished thing begins, not where PyYAML gave up


_SYNTAX = (
    _Syntax(
        "mapping values are not allowed",
        "a ':' in the wrong place",
        "is a ':' missing in the line above, a line indented differently, or a text with ': ' not in quotes?",
    ),
    _Syntax(r"found character '\\t'", "a tab", "indent with spaces"),
    _Syntax(r"found character '(.)'", r"a text can't begin with '\1'", "put it in quotes"),
    _Syntax(
        "found undefined alias '(.*)'", r"there is no anchor &\1 for the alias *\1", "put a text with '*' in quotes"
    ),
    _Syntax("expected alphabetic or numeric", "'*' or '&' without a name", "put a text with '*' or '&' in quotes"),
    _Syntax("found unexpected end of stream", "a quote opens here and does not close", "add the quote", at_start=True),
    _Syntax(
        r"expected ',' or '(.)'",
        r"a list or mapping opens here and does not close",
        r"add the '\1', or put a text with brackets in quotes",
        at_start=True,
    ),
    _Syntax("expected <block end>", "this can't stand here", "compare its indentation and quotes with the lines above"),
    _Syntax("could not find expected ':'", "a key without its ':'", "write 'key: value'", at_start=True),
    _Syntax(
        "unknown escape character|expected escape sequence",
        "a backslash in double quotes begins an escape",
        "put a regular expression in single quotes",
    ),
    _Syntax("another document", "a second document begins here", "write it as a file of its own"),
)


def _syntax_problem(error: yaml.MarkedYAMLError, name: str) -> Problem:
    reason = str(error.problem or error.context)
    mark, message, hint = error.problem_mark, reason, None
    for known in _SYNTAX:
        found = re.match(f".*?(?:{known.pattern})", reason)
        if found:
            message, hint = found.expand(known.message), found.expand(known.hint)
            mark = (known.at_start and error.context_mark) or mark
            break
    where = f"{name}:{mark.line + 1}" if mark else name
    return config_problem(where, f"not valid YAML: {message}", hint)


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
        self.problems.append(config_problem(f"{self.name}:{node.start_mark.line + 1}", message, hint))

    def value(self, node: yaml.Node, key: Key) -> Any:
        self.count += 1
        # Raised at once: going on is what an alias bomb wants.
        if self.count > MAX_VALUES:
            file, line = self.lines[key[:1]]
            raise ConfigError(
                [config_problem(f"{file}:{line}", f"more than {MAX_VALUES:,} values, with aliases expanded")]
            )
        if len(key) > MAX_DEPTH:
            where = f"{self.name}:{node.start_mark.line + 1}"
            raise ConfigError([config_problem(where, _TOO_DEEP, "does an alias stand inside what it names?")])
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, key)
        if isinstance(node, yaml.SequenceNode):
            return self.sequence(node, key)
        return self.scalar(node)

    def mapping(self, node: yaml.MappingNode, key: Key) -> dict[str, Any]:
        if node.tag != TAG + "map":
            self.refuse_tag(node)
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self.fail(key_node, "a key must be a word, not a list or mapping")
                continue
            name = self.text(key_node)
            if name == "<<":
                self.fail(key_node, "a merge key (<<) is not read", "write the keys out, or lay a file over another")
                continue
            if name in result:
                self.fail(key_node, f"{'.'.join(map(str, (*key, name)))} is given twice", "keep one of the two")
                continue
            self.lines[(*key, name)] = (self.name, key_node.start_mark.line + 1)
            result[name] = self.value(value_node, (*key, name))
        return result

    def sequence(self, node: yaml.SequenceNode, key: Key) -> list[Any]:
        if node.tag != TAG + "seq":
            self.refuse_tag(node)
        items = []
        for index, item in enumerate(node.value):
            self.lines[(*key, index)] = (self.name, item.start_mark.line + 1)
            items.append(self.value(item, (*key, index)))
        return items

    def scalar(self, node: yaml.Node) -> Any:
        text, kind = self.text(node), node.tag.removeprefix(TAG)
        if kind in ("null", "bool"):
            if text.lower() not in _WORDS:  # an explicit tag on another word: `!!bool yes`
                self.fail(node, f"{text[:40]!r} is not {'true or false' if kind == 'bool' else 'null'}")
            return _WORDS.get(text.lower())
        if kind in ("int", "float"):
            return self.number(node, text, kind)
        if kind != "str":
            self.refuse_tag(node)
        return text

    def number(self, node: yaml.Node, text: str, kind: str) -> int | float | None:
        infinite = text.lower().endswith((".inf", ".nan"))
        value: int | float = math.inf
        try:
            if kind == "float":
                value = float(text.replace(".", "", 1) if infinite else text)
            else:
                value = int(text, 0) if text[:2] in ("0o", "0x") else int(text)
        except ValueError:  # an explicit tag on other text, or an integer of thousands of digits
            if not text.lstrip("+-").isdigit():
                self.fail(node, f"{text[:40]!r} is no number")
                return None
        if abs(value) > MAX_INTEGER if kind == "int" else math.isinf(value) and not infinite:
            self.fail(node, f"{text[:40]} is too large a number")
        return value

    def text(self, node: yaml.Node) -> str:
        if yaml.reader.Reader.NON_PRINTABLE.search(node.value):  # an escape such as "\0" in double quotes
            self.fail(node, "a text with a control character", "put a regular expression in single quotes")
        return str(node.value)

    def refuse_tag(self, node: yaml.Node) -> None:
        tag = node.tag.replace(TAG, "!!")
        self.fail(node, f"the tag {tag} is not allowed", "write plain values only")


def holds(values: Any, key: Key) -> bool:
    """Whether nested mappings and lists have a value under this path of keys."""
    for part in key:
        try:
            values = values[part]
        except (KeyError, IndexError, TypeError):
            return False
    return True


def lookup(values: Any, key: Key) -> Any:
    """The value under a path of keys; None where there is none."""
    return reduce(lambda value, part: value[part], key, values) if holds(values, key) else None
