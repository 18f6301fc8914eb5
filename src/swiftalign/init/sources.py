"""The files from which ``swiftalign init --from`` moves a run here: which tool wrote them, and what they say."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from swiftalign.config.arguments import ARGUMENTS, Names
from swiftalign.config.spellings import SECTIONS
from swiftalign.config.swift_arguments import swift_arguments
from swiftalign.config.yaml import Items, Mapping, Place, parse_document, read_text
from swiftalign.files import not_fetched
from swiftalign.init.shell import Command, swift_commands
from swiftalign.problems import ConfigError, Problem, SwiftalignError, config_problem
from swiftalign.runs.folder import CONFIG_FILE, PLAN_FILE

ARGS_FILE = "args.json"
_KNOWN = (
    "--from takes ms-swift's args.json, or the folder of a run or checkpoint that holds one; a YAML or JSON file for "
    "'swift sft'; a file with a 'swift sft' command line; a YAML file of LLaMA-Factory; or a config of this toolkit"
)
_DOCUMENTS = (".yaml", ".yml", ".json")
_WORDS = {**dict.fromkeys(("yes", "true", "t", "y", "1"), True), **dict.fromkeys(("no", "false", "f", "n", "0"), False)}


@dataclass(frozen=True)
class Source:
    """What a file says of a run.

    Attributes:
        file: the file.
        kind: ``run`` for ms-swift's args.json, which holds every argument; ``arguments`` for what a user gave to
            ms-swift; ``llama-factory``; ``own`` for a configuration that `load_config` reads.
        values: arguments by name; empty for ``own``.
        environment: environment variables that the file sets, with the place of each.
    """

    file: Path
    kind: Literal["run", "arguments", "llama-factory", "own"]
    values: Mapping = field(default_factory=Mapping)
    environment: dict[str, tuple[str, Place]] = field(default_factory=dict)

    @property
    def folders(self) -> Iterator[Path]:
        """The folders that a relative path of the file may count from, the likeliest first.

        ms-swift counts paths from the folder in which it is started, which args.json does not name: it is often one
        that holds the run folder.
        """
        yield from (Path.cwd(), self.file.absolute().parent)
        yield from self.file.absolute().parent.parents if self.kind == "run" else ()

    def found(self, path: str) -> tuple[str, bool]:
        """A path, made absolute, and whether there is a file or folder."""
        named = os.path.expanduser(path)  # noqa: PTH111  # keeps links
        places = [os.path.abspath(folder / named) for folder in self.folders]  # noqa: PTH100
        there = next((place for place in places if os.path.exists(place)), None)  # noqa: PTH110
        return there or places[0], there is not None


@dataclass
class Moved:
    """The settings of another tool's run, on their way to a configuration.

    Attributes:
        values: settings as a configuration file may give them; ms-swift's arguments stand outside sections.
        comments: what is said of keys of the configuration.
        left_out: what has no counterpart: ``KEY: VALUE - why``.
        remarks: what is said of the whole run.
        variables: environment variables that the new run needs.
        options: options of ``swiftalign train`` that the new run needs.
        problems: what rules out that the configuration trains the same.
    """

    values: Mapping
    comments: dict[Names, str] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    variables: dict[str, str] = field(default_factory=dict)
    options: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def leave_out(self, name: str, why: str) -> None:
        """Take a setting out of the values, and say why."""
        self.left_out.append(f"{name}: {shown(self.values.pop(name))} - {why}")

    def refuse(self, name: str, why: str, hint: str) -> None:
        """Take a setting out of the values, and report it as a fault."""
        where, value = self.values.where(name), self.values.pop(name)
        self.problems.append(config_problem(where, f"{name}: {shown(value)} can't be moved here: {why}", hint))

    def add(self, section: str, name: str, value: Any, comment: str) -> None:
        """Give a key of a section a value that the source does not spell out."""
        given = self.values.setdefault(section, Mapping(file=self.values.file)) if section else self.values
        given[name] = value
        self.comments[section or "training", name] = comment


def shown(value: Any) -> str:
    """A value in a line of text."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 200 else text[:197] + "..."


def read_source(path: Path) -> Source:
    """Read a file that describes a run, or the file in a folder that does. Nothing in it is executed.

    Raises:
        SwiftalignError: the file is missing, unreadable, too large, or of no tool that is known here.
        ConfigError: the file has a fault, with its line.
    """
    if path.is_dir():
        own = next((folder for folder in (path, path.parent) if (folder / PLAN_FILE).is_file()), None)
        if own and (own / CONFIG_FILE).is_file():
            return Source(own / CONFIG_FILE, "own")
        if not (path / ARGS_FILE).is_file():
            hint = "name the folder of a run or of a checkpoint of ms-swift, or a file"
            raise SwiftalignError(f"{path} holds no {ARGS_FILE}", hint)
        path /= ARGS_FILE
    if not path.exists():
        what, hint = not_fetched(path) or ("no such file or folder", _KNOWN)
        raise SwiftalignError(f"{path}: {what}", hint)
    text = read_text(path)
    if path.suffix.lower() not in _DOCUMENTS and (commands := list(swift_commands(text, str(path)))):
        return _command(path, commands)
    try:
        document = parse_document(text, str(path))
    except ConfigError:
        if path.suffix.lower() in _DOCUMENTS:
            raise
        raise SwiftalignError(f"{path}: no 'swift sft' command in it", _KNOWN) from None
    if not isinstance(document, Mapping):
        raise SwiftalignError(f"{path}: not a file that describes a run", _KNOWN)
    return _document(path, document)


def _document(path: Path, values: Mapping) -> Source:
    """What a YAML or JSON file is, by its keys."""
    sections = {*SECTIONS, "phases", "extends", "custom", "template"} - {"model", "template"}
    if "training_args" in values or "swift_version" in values or path.name == ARGS_FILE:
        if "rlhf_type" in values or "mcore_model" in values or "learning_rate" not in values:
            kind = (
                "of reinforcement learning or preferences (swift rlhf)"
                if "rlhf_type" in values
                else "of another command"
            )
            hint = "only runs of 'swift sft' with transformers' trainer can be moved here"
            raise SwiftalignError(f"{path}: the arguments of a run {kind}", hint)
        return Source(path, "run", values)
    if "model_name_or_path" in values and values.keys() & {"stage", "finetuning_type", "cutoff_len", "dataset_dir"}:
        return Source(path, "llama-factory", values)
    if values.keys() & sections or isinstance(values.get("model"), Mapping):
        return Source(path, "own")
    environment = values.pop("ENV", None)
    if values.keys() & (swift_arguments().keys() | ARGUMENTS.keys()):
        variables = environment if isinstance(environment, Mapping) else Mapping()
        places = {name: variables.places.get(name, Place(str(path))) for name in variables}
        return Source(path, "arguments", values, {name: (str(variables[name]), places[name]) for name in variables})
    raise SwiftalignError(f"{path}: not a file that describes a run", _KNOWN)


def _command(path: Path, commands: list[Command]) -> Source:
    """The arguments of the one command of a script, over those of the file that it begins with."""
    command = commands[0]
    if len(commands) > 1:
        lines = ", ".join(str(each.line) for each in commands)
        raise SwiftalignError(f"{path}: {len(commands)} commands of ms-swift, in lines {lines}", "keep one of them")
    if command.name != "sft":
        hint = "only 'swift sft' with transformers' trainer can be moved here"
        raise SwiftalignError(f"{path}:{command.line}: this is '{command.name}'", hint)
    words = list(command.words)
    source = Source(path, "arguments", Mapping(file=str(path)))
    if words and words[0][0].endswith(_DOCUMENTS):
        source = _document(Path(source.found(words[0][0])[0]), _arguments_file(source, words.pop(0)))
    values, environment = source.values, source.environment
    given: dict[str, tuple[int, list[str]]] = {}
    name = ""
    for text, line in words:
        if text.startswith("--"):
            name, equals, value = text[2:].partition("=")
            name = name.replace("-", "_")
            given[name] = line, [value] if equals else []
        elif not name:
            problem = config_problem(f"{path}:{line}", f"{text!r} stands before any --ARGUMENT", "remove it")
            raise ConfigError([problem])
        else:
            given[name][1].append(text)
    for name, (line, texts) in given.items():
        values[name], values.places[name] = _typed(name, texts, str(path)), Place(str(path), line)
    environment |= {name: (text, Place(str(path), line)) for name, (text, line) in command.environment.items()}
    return Source(path, "arguments", values, environment)


def _arguments_file(source: Source, word: tuple[str, int]) -> Mapping:
    file, there = source.found(word[0])
    if not there:
        raise SwiftalignError(f"{source.file}:{word[1]}: {word[0]} does not exist", "run init where the command is run")
    document = parse_document(read_text(Path(file)), file)
    return document if isinstance(document, Mapping) else Mapping(file=file)


def _typed(name: str, texts: list[str], file: str) -> Any:
    """The value of an argument on a command line; text of another type is left for the checks.

    References:
        transformers `HfArgumentParser`: a truth value without a word is true, a list takes all words.
    """
    kind = swift_arguments().get(name, ("", Any))[1]
    kinds = {kind, *get_args(kind)}
    lists = [each for each in kinds if each is list or get_origin(each) is list]

    def value(text: str, kinds: set[Any]) -> Any:
        choices = {str(choice): choice for each in kinds if get_origin(each) is Literal for choice in get_args(each)}
        if choices:
            return choices.get(text, text)
        if bool in kinds and str not in kinds:
            return _WORDS.get(text.lower(), text)
        if dict in kinds and text.startswith("{"):
            return parse_document(text, file)
        for number in (int, float):
            if number in kinds and str not in kinds:
                try:
                    return number(text)
                except ValueError:
                    continue
        return text

    if lists:
        inner = {part for each in lists for part in get_args(each)}
        return Items(value(text, inner) for text in texts)
    if not texts:
        return True if bool in kinds else None
    return value(texts[0], kinds) if len(texts) == 1 else Items(texts)
