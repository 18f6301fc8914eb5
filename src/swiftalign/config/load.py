"""Reading configuration files: several laid one over another, checked, with every fault named by file and line."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from swiftalign.config.augmentation import spelled_out
from swiftalign.config.faults import ALIASES, OPERATIONS, argument_faults, dotted, name_faults, value_faults
from swiftalign.config.sections import Config
from swiftalign.config.yaml import Document, Key, holds, lookup, parse_document, read_document
from swiftalign.problems import ConfigError, SwiftalignError, config_problem

PATHS: tuple[Key, ...] = (
    ("data", "train"),
    ("data", "val"),
    ("training", "output_dir"),
    ("training", "resume_from_checkpoint"),
)


def load_config(paths: Sequence[Path], overrides: Sequence[str] = ()) -> Config:
    """Read configuration files, later ones laid over earlier, and ``section.key=value`` overrides over all.

    Mappings are merged key by key and lists replaced, with one exception: a file that names ``tuner.train_type``
    chooses a method, and its ``tuner`` section replaces the one below it whole.

    Raises:
        SwiftalignError: a file can't be read.
        ConfigError: a file holds faults; all of them are listed.
    """
    merged = Document({}, {(): (str(paths[0]) if paths else "--set", 0)})
    for path in paths:
        _lay_over(merged, _normalise(read_document(path), path.parent.absolute()), replace_tuner=True)
    for override in overrides:
        _lay_over(merged, _normalise(_override(override), Path.cwd()), replace_tuner=False)
    names = [*map(str, paths), *map(_label, overrides)]
    config = _validate(merged, names)
    config._phases = tuple(_phase(merged, index, names) for index in range(len(config.phases)))
    return config


# What a phase may hold. Every phase trains the same weights of the same model.
_PHASE_KEYS = ("name", "data", "training", "custom", "swift")
_RUN_KEYS: tuple[Key, ...] = (("training", "output_dir"), ("training", "resume_from_checkpoint"))  # of the whole run


def _phase(document: Document, index: int, names: list[str]) -> Config:
    """The configuration of a phase: its own keys, laid over those outside ``phases``."""
    base = Document(copy.deepcopy(document.value), dict(document.lines), dict(document.spellings))
    layer = _part(Document(base.value.pop("phases"), base.lines), index)
    name = layer.value.pop("name", None)
    others: list[Key] = [(key,) for key in layer.value if key not in _PHASE_KEYS]
    for key in [*others, *(key for key in _RUN_KEYS if holds(layer.value, key))]:
        message = f"a phase can't have {dotted(key)} of its own"
        hint = f"it may have {', '.join(_PHASE_KEYS)}; move {dotted(key)} out of phases"
        layer.problems.append(config_problem(layer.where(key), message, hint))
    if not isinstance(name, str | None):
        layer.problems.append(config_problem(layer.where(("name",)), "a phase's name must be text", "put it in quotes"))
    if layer.problems:
        raise ConfigError(layer.problems)
    base.lines = {key: line for key, line in base.lines.items() if key[:1] != ("phases",)}
    _lay_over(base, layer, replace_tuner=False)
    config = _validate(base, names)
    config._phase = name or f"phase {index + 1}"
    return config


def _part(phases: Document, index: int) -> Document:
    """One item of ``phases`` as a document of its own."""
    prefix: Key = ("phases", index)
    lines = {key[2:]: line for key, line in phases.lines.items() if key[:2] == prefix}
    return Document(phases.value[index], {(): phases.lines[()], **lines})


def _label(override: str) -> str:
    return f"--set {override}"


def _override(text: str) -> Document:
    """``tuner.lora_rank=32`` as a document of one value, which is read as YAML."""
    name, equals, value = text.partition("=")
    keys = name.strip().split(".")
    if not equals or not all(keys):
        raise SwiftalignError(f"--set {text}: not of the form section.key=value", "e.g. --set tuner.lora_rank=32")
    label = _label(text)
    try:
        document = Document(parse_document(value, label).value, {(): (label, 0)})
    except ConfigError as error:
        raise ConfigError([replace(problem, where=label) for problem in error.problems]) from None
    for depth in range(len(keys), 0, -1):
        document.value = {keys[depth - 1]: document.value}
        document.lines[tuple(keys[:depth])] = (label, 0)
    return document


def _normalise(document: Document, folder: Path) -> Document:
    """One file in the canonical form: aliases under their own name, single files as lists, paths made absolute."""
    _read_sections(document)
    if isinstance(document.value.get("model"), str):
        _move(document, ("model",), ("model", "path"))
    for alias, key in ALIASES.items():
        _rename(document, alias, key)
    _spell_out_operations(document)
    for section, name in PATHS:
        values = document.value.get(section)
        if isinstance(values, dict) and name in values:
            values[name] = _locate(values[name], folder, is_list=section == "data")
    _normalise_phases(document, folder)
    deepspeed = lookup(document.value, ("training", "deepspeed"))
    if isinstance(deepspeed, str) and deepspeed.endswith(".json"):  # else a preset's name, or JSON itself
        document.value["training"]["deepspeed"] = _absolute(deepspeed, folder)
    path = lookup(document.value, ("model", "path"))
    if isinstance(path, str) and _is_local(path, folder):
        document.value["model"]["path"] = _absolute(path, folder)
    return document


def _normalise_phases(document: Document, folder: Path) -> None:
    phases = document.value.get("phases")
    if not isinstance(phases, list):
        return
    for index, item in enumerate(phases):
        if not isinstance(item, dict):
            continue
        part, prefix = _part(Document(phases, document.lines), index), ("phases", index)
        name = item.pop("name", None)
        _normalise(part, folder)
        phases[index] = {**({} if name is None else {"name": name}), **part.value}
        document.lines = {key: line for key, line in document.lines.items() if key[:2] != prefix}
        document.lines |= {(*prefix, *key): line for key, line in part.lines.items()}
        document.problems += part.problems


def _read_sections(document: Document) -> None:
    """Make the value a mapping of sections; an empty one ("tuner:" with nothing under it) says nothing."""
    if isinstance(document.value, list) and all(isinstance(item, dict) for item in document.value):
        ops = ("custom", "augmentation", "ops")  # the guide writes a bare list of augmentation operations
        document.value = {"custom": {"augmentation": {"ops": document.value}}}
        lines = {(*ops, *key): line for key, line in document.lines.items()}
        document.lines = lines | {ops[:depth]: (lines[ops][0], 1) for depth in range(4)}
    if not isinstance(document.value, dict | None):
        hint = "'swiftalign init' writes a config to start from"
        raise ConfigError([config_problem(document.where(()), "not a config: it holds no 'section: ...' lines", hint)])
    document.value = {name: value for name, value in (document.value or {}).items() if value is not None}


def _spell_out_operations(document: Document) -> None:
    """``- rotate: {max_deg: 8}`` as ``{name: rotate, params: {max_deg: 8}}``."""
    ops = lookup(document.value, OPERATIONS)
    if not isinstance(ops, list):
        return
    for index, item in enumerate(ops):
        ops[index] = spelled_out(item)
        if isinstance(item, dict) and len(item) == 1 and "name" not in item:
            ((name, _),) = item.items()
            short = (*OPERATIONS, index, name)
            for key in [key for key in document.lines if key[: len(short)] == short]:
                document.lines[(*OPERATIONS, index, "params", *key[len(short) :])] = document.lines.pop(key)


def _locate(value: Any, folder: Path, *, is_list: bool) -> Any:
    """Make paths absolute, and one path a list where a list is read; what is no path is left for the checks."""
    if isinstance(value, str):
        path = _absolute(value, folder)
        return [path] if is_list else path
    if is_list and isinstance(value, list):
        return [_absolute(item, folder) if isinstance(item, str) else item for item in value]
    return value


def _absolute(path: str, folder: Path) -> str:
    """Links stay as they are named: a linked JSONL file counts its images from the link's own folder."""
    return os.path.abspath(folder / os.path.expanduser(path)) if path else path  # noqa: PTH100, PTH111  # keeps links


def _is_local(path: str, folder: Path) -> bool:
    """A model is a folder where it looks like one or is one; otherwise it is a hub id."""
    return path.startswith((".", "/", "~")) or "/" not in path or os.path.isdir(folder / path)  # noqa: PTH112  # a name too long for a file system is no error


def _move(document: Document, old: Key, new: Key) -> None:
    """Put ``model: X`` where ``model: {path: X}`` has it."""
    document.value[old[0]] = {new[1]: document.value[old[0]]}
    document.lines[new] = document.lines[old]
    document.spellings[new] = document.name(old)


def _rename(document: Document, alias: Key, key: Key) -> None:
    section = document.value.get(alias[0])
    if not isinstance(section, dict) or alias[1] not in section:
        return
    target = document.value.setdefault(key[0], {})
    where = document.where(alias)
    value = section.pop(alias[1])
    if not isinstance(target, dict):
        return  # the section itself is at fault, and is reported as such
    if key[1] in target:
        message = f"{dotted(alias)} and {dotted(key)} mean the same, and both are given"
        document.problems.append(config_problem(where, message, "keep one of the two"))
        return
    target[key[1]] = value
    document.lines.setdefault((key[0],), document.lines[alias])
    document.lines[key] = document.lines.pop(alias)
    document.spellings[key] = dotted(alias)


def _lay_over(base: Document, layer: Document, *, replace_tuner: bool) -> None:
    if replace_tuner and isinstance(lookup(layer.value, ("tuner",)), dict) and "train_type" in layer.value["tuner"]:
        base.value.pop("tuner", None)
        base.lines = {key: line for key, line in base.lines.items() if key[:1] != ("tuner",)}
    _merge(base.value, layer.value)
    base.spellings = {key: name for key, name in base.spellings.items() if key not in layer.lines} | layer.spellings
    base.lines.update({key: line for key, line in layer.lines.items() if key})
    base.problems += layer.problems


def _merge(base: dict[str, Any], layer: dict[str, Any]) -> None:
    for name, value in layer.items():
        if isinstance(value, dict) and isinstance(base.get(name), dict):
            _merge(base[name], value)
        else:
            base[name] = value


def _validate(document: Document, names: list[str]) -> Config:
    """Hold the merged values against the schema; ``names`` are the files and overrides, in their order."""
    config, details = None, argument_faults(document.value)
    try:
        config = Config.model_validate(document.value)
    except ValidationError as error:
        details += error.errors()
    problems = document.problems + name_faults(document) + value_faults(document, details)
    if config is None or problems:
        raise ConfigError(sorted(problems, key=lambda problem: _position(problem.where, names)))
    config._document = document
    return config


def _position(where: str, names: list[str]) -> tuple[int, int]:
    file, _, line = where.rpartition(":")
    if file in names and line.isdigit():
        return names.index(file), int(line)
    return names.index(where) if where in names else 0, 0
