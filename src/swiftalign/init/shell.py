"""Reading a saved command line: words, quotes and variables as a shell reads them. Nothing is executed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePath

from swiftalign.problems import ConfigError, SwiftalignError, config_problem

_PIECE = re.compile(
    r"""(?P<space>(?:[ \t\r]|\\\r?\n)+)
    |(?P<end>\n|;|&&|\|\||[&|(){}](?=\s|$))
    |(?P<redirect>(?:\d|&)?(?:>>?|<)&?[ \t]*(?:"[^"]*"|'[^']*'|[^\s;|&]*))
    |(?P<single>'[^']*')
    |(?P<double>"(?:\\.|[^"\\])*")
    |(?P<escape>\\.)
    |(?P<run>\$\([^()]*(?:\([^()]*\)[^()]*)*\)|`[^`]*`)
    |(?P<plain>(?:\$\{[^}]*\}|\$(?!\()|[^\s;&|()'"\\`$<>])+|[&|()])""",
    re.VERBOSE | re.DOTALL,
)
_ASSIGNED = re.compile(r"([A-Za-z_]\w*)=")
_VARIABLE = re.compile(r"\\([\\$\"`])|\$(?:\{(\w+)(?::?-([^}]*))?\}|([A-Za-z_]\w*))|(\$[({\w@*#?!$-]|`)")
_COMMANDS = (
    "sft",
    "pt",
    "rlhf",
    "infer",
    "export",
    "eval",
    "deploy",
    "rollout",
    "sample",
    "app",
    "web-ui",
    "merge-lora",
)
_MOST_TEXT = 100_000  # characters of a word: a variable may hold another one twice, and that another one twice


@dataclass
class Word:
    """A word of a command: its pieces, each with how it is quoted, and the line on which it begins."""

    line: int
    pieces: list[tuple[str, str]] = field(default_factory=list)

    @property
    def raw(self) -> str:
        return "".join(piece for _, piece in self.pieces)

    @property
    def assigns(self) -> str:
        """The variable that the word gives a value to; empty if it gives none."""
        found = _ASSIGNED.match(self.pieces[0][1]) if self.pieces[0][0] == "plain" else None
        return found[1] if found else ""


@dataclass(frozen=True)
class Command:
    """One command of ms-swift.

    Attributes:
        name: what follows ``swift``, e.g. ``sft``; ``megatron sft`` for Megatron's.
        words: the words after it, with their lines.
        environment: the variables that it gets, with their lines.
        line: the line on which it begins.
    """

    name: str
    words: tuple[tuple[str, int], ...]
    environment: dict[str, tuple[str, int]]
    line: int


def swift_commands(text: str, file: str) -> Iterator[Command]:
    """The commands of ms-swift in a script, with the values of the script's variables in their places.

    Args:
        file: name of the file in messages.

    Raises:
        ConfigError: a command uses a variable that the script does not set, or the output of another command.
        SwiftalignError: a quote is not closed.
    """
    variables: dict[str, tuple[str | ConfigError, int]] = {}  # a value that can't be known is an error where it is used
    exported: set[str] = set()

    def known(value: str | ConfigError) -> str:
        if isinstance(value, ConfigError):
            raise value
        return value

    def expanded(word: Word) -> str:
        """A word as the command gets it."""

        def fail(what: str, message: str, hint: str) -> ConfigError:
            return ConfigError([config_problem(f"{file}:{word.line}", f"{what} {message}", hint)])

        def value(found: re.Match[str]) -> str:
            escaped, braced, default, name, other = found.groups()
            if escaped:
                return escaped
            name = braced or name
            if name in variables:
                return known(variables[name][0])
            if default is not None:
                return default
            if name:
                raise fail(f"${name}", "has no value in this file", f"write {name}=... above the command, or its value")
            raise fail(other, "begins something that only a shell can work out", "write its value")

        result = ""
        for kind, piece in word.pieces:
            match kind:
                case "run":
                    raise fail(piece[:60], "is the output of a command, and no command is run", "write its value")
                case "single":
                    result += piece[1:-1]
                case "escape":
                    result += piece[1:]
                case "double":
                    result += _VARIABLE.sub(value, piece[1:-1].replace("\\\n", ""))
                case _:
                    result += _VARIABLE.sub(value, piece)
            if len(result) > _MOST_TEXT:
                raise fail(word.raw[:60], f"is longer than {_MOST_TEXT:,} characters", "write its value")
        return result

    def assigned(words: list[Word]) -> dict[str, tuple[str | ConfigError, int]]:
        values: dict[str, tuple[str | ConfigError, int]] = {}
        for word in words:
            (kind, piece), *others = word.pieces
            try:
                value: str | ConfigError = expanded(Word(word.line, [(kind, piece.partition("=")[2]), *others]))
            except ConfigError as error:
                value = error
            values[word.assigns] = value, word.line
        return values

    for words in _commands(text, file):
        at = _command_at(words)
        given = [word for word in words[:at] if word.assigns]
        if at is not None:
            environment = {name: variables[name] for name in exported & variables.keys()} | assigned(given)
            name = PurePath(words[at].raw).stem if words[at].raw.endswith(".py") else words[at].raw.rpartition(".")[2]
            yield Command(
                f"megatron {name}" if at and PurePath(words[at - 1].raw).name == "megatron" else name.replace("_", "-"),
                tuple((expanded(word), word.line) for word in words[at + 1 :]),
                {name: (known(value), line) for name, (value, line) in environment.items()},
                words[at].line,
            )
        elif words[0].raw == "export":
            exported |= {word.assigns or word.raw for word in words[1:]}
            variables |= assigned(given)
        elif len(given) == len(words):  # otherwise they are for that command alone
            variables |= assigned(given)


def _command_at(words: list[Word]) -> int | None:
    """The index of the word that names a command of ms-swift: after ``swift``, or its file or module."""
    for index, word in enumerate(words if words[0].raw != "echo" else ()):
        if index and PurePath(words[index - 1].raw).name in ("swift", "megatron"):
            if word.raw.replace("_", "-") in _COMMANDS:
                return index
        elif re.search(r"(?:^|/)swift/cli/\w+\.py$|^swift\.cli\.\w+$", word.raw):
            return index
    return None


def _commands(text: str, file: str) -> Iterator[list[Word]]:
    """The words of each command."""
    words: list[Word] = []
    word: Word | None = None
    position, line = 0, 1
    while position < len(text):
        if text[position] == "#" and word is None:  # a comment
            position = text.find("\n", position) % (len(text) + 1)
            continue
        found = _PIECE.match(text, position)
        if found is None:  # a quote, a backslash or a backtick without its other end
            raise SwiftalignError(f"{file}:{line}: {text[position]} is not closed", "write its other end, or remove it")
        kind, piece = str(found.lastgroup), found[0]
        if kind == "end" and piece in "(){}" and word is not None:
            kind = "plain"
        if kind in ("space", "end", "redirect"):
            if word is not None:
                words.append(word)
            word = None
            if kind == "end" and words:
                yield words
                words = []
        else:
            word = word or Word(line)
            word.pieces.append((kind, piece))
        position, line = found.end(), line + piece.count("\n")
    if word is not None:
        words.append(word)
    if words:
        yield words
