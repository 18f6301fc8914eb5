"""Read configuration files, lay them over one another, and check them; each problem has its file and line."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from swiftalign.config.augmentation import spelled_out
from swiftalign.config.faults import ALIASES, OPERATIONS, argument_faults, value_faults
from swiftalign.config.sections import Config
from swiftalign.config.yaml import Items, Mapping, Place, dotted, holds, lookup, nested, read_document, read_override
from swiftalign.problems import ConfigError, Problem, config_problem

# Keys that a phase may set. Every phase trains the same weights of the same model.
_PHASE_KEYS = ("name", "data", "training", "custom", "swift")
_SOURCE_PATHS = ("path", "images")  # of an entry of data.train or data.val
_RUN_KEYS = (("training", "output_dir"), ("training", "resume_from_checkpoint"))  # the same in all phases


def load_config(files: str | Path | Sequence[str | Path], overrides: Sequence[str] = ()) -> Config:
    """Read configuration files; later files replace values of earlier ones, and ``section.key=value`` overrides all.

    Mappings are merged key by key and lists are replaced, with one exception: a file with ``tuner.train_type``
    chooses a method, and its ``tuner`` section replaces the whole earlier section.

    Raises:
        SwiftalignError: a file can't be read.
        ConfigError: the files have problems; the error lists all of them.
    """
    paths = [Path(file) for file in ([files] if isinstance(files, str | Path) else files)]
    names = [*map(str, paths), *(f"--set {text}" for text in overrides)]
    merged, problems = Mapping(file=str(paths[0]) if paths else "--set"), list[Problem]()
    for path in paths:
        layer = _normalised(read_document(path), str(path), path.parent.absolute(), problems)
        if holds(layer, ("tuner", "train_type")):
            merged.pop("tuner", None)
        merged.merge(layer)
    for text in overrides:
        merged.merge(_normalised(read_override(text), f"--set {text}", Path.cwd(), problems))
    config, phases = _validated(merged, names, problems), list[Config]()
    for index in range(len(config.phases)):
        base = copy.deepcopy(merged)
        own: Mapping = base.pop("phases")[index]
        name, problems = own.pop("name", None), []
        others = [(key,) for key in own if key not in _PHASE_KEYS]
        for key in [*others, *(key for key in _RUN_KEYS if holds(own, key))]:
            hint = f"move {dotted(key)} out of phases; a phase may set {', '.join(_PHASE_KEYS)}"
            problems.append(config_problem(own.where(*key), f"a phase can't set {dotted(key)}", hint))
        if not isinstance(name, str | None):
            message, hint = "a phase's name must be text", "put the name in quotes"
            problems.append(config_problem(own.where("name"), message, hint))
        if problems:
            raise ConfigError(problems)
        base.merge(own)  # a phase's own keys replace those outside ``phases``
        phases.append(_validated(base, names, problems, name or f"phase {index + 1}"))
    return Config.from_values(merged, phases=phases) if phases else config


def _normalised(values: Any, file: str, folder: Path, problems: list[Problem]) -> Mapping:
    """The values of a file in one form: no aliases for keys, files as lists, absolute paths."""
    if isinstance(values, Items) and all(isinstance(item, dict) for item in values):
        values = nested(("custom", "augmentation", "ops"), values, Place(file, 1))  # a bare list, as in the guide
    values = Mapping() if values is None else values
    if not isinstance(values, Mapping):
        hint = "run 'swiftalign init' to write a config"
        raise ConfigError([config_problem(file, "not a config: the file has no 'section: ...' lines", hint)])
    for name in [name for name, value in values.items() if value is None]:
        del values[name]  # an empty section, e.g. "tuner:" with nothing under it
    if isinstance(values.get("model"), str):
        values["model"] = nested(("path",), values["model"], values.places["model"]._replace(name="model"))

    for (section, alias), key in ALIASES.items():
        if holds(values, (section, alias)):
            value, place = values[section].pop(alias), values[section].places[alias]
            target = values.setdefault(key[0], Mapping())
            values.places.setdefault(key[0], place)
            if holds(values, key):
                message = f"{section}.{alias} and {dotted(key)} mean the same, and both are given"
                problems.append(config_problem(str(place), message, "keep one of the two"))
            elif isinstance(target, Mapping):  # otherwise the section itself is reported
                target[key[1]], target.places[key[1]] = value, place._replace(name=f"{section}.{alias}")

    operations = lookup(values, OPERATIONS)
    for index, item in enumerate(operations if isinstance(operations, list) else ()):
        operations[index] = full = spelled_out(item)
        if isinstance(item, Mapping):
            places = {key if key in full else "params": place for key, place in item.places.items()}
            operations[index] = Mapping(full, places)

    for name in ("train", "val"):
        files = lookup(values, ("data", name))
        if isinstance(files, str | Mapping):
            files = values["data"][name] = [files]
        for index, item in enumerate(files if isinstance(files, list) else ()):
            if isinstance(item, str):
                files[index] = _absolute(item, folder)
            elif isinstance(item, Mapping):
                item |= {key: _absolute(item[key], folder) for key in _SOURCE_PATHS if isinstance(item.get(key), str)}
    if isinstance(images := lookup(values, ("data", "images")), str):
        values["data"]["images"] = _absolute(images, folder)
    for section, name in (*_RUN_KEYS, ("training", "deepspeed"), ("model", "path")):
        value = lookup(values, (section, name))
        if not isinstance(value, str) or (name == "deepspeed" and not value.endswith(".json")):
            continue  # a preset's name or JSON text; what is not text is left for the checks
        # A model is a hub id unless it looks like a folder or is one.
        looks_like_one = value.startswith((".", "/", "~")) or "/" not in value
        if name != "path" or looks_like_one or os.path.isdir(folder / value):  # noqa: PTH112  # False for a name that is too long for the file system
            values[section][name] = _absolute(value, folder)

    for item in values["phases"] if isinstance(values.get("phases"), list) else ():
        if isinstance(item, Mapping):
            _normalised(item, file, folder, problems)
    return values


def _absolute(path: str, folder: Path) -> str:
    """Make a path absolute; links are not resolved, as image paths are relative to the folder that holds the link."""
    return os.path.abspath(folder / os.path.expanduser(path)) if path else path  # noqa: PTH100, PTH111  # keeps links


def _validated(values: Mapping, names: list[str], problems: list[Problem], phase: str | None = None) -> Config:
    """Check the merged values; problems are sorted by file or override (in the order of ``names``) and line."""
    details = argument_faults(values)
    try:
        config = Config.from_values(values, phase)
    except ValidationError as error:
        details += error.errors()

    def position(problem: Problem) -> tuple[int, int]:
        file, _, line = problem.where.rpartition(":")
        if file in names and line.isdigit():
            return names.index(file), int(line)
        return names.index(problem.where) if problem.where in names else 0, 0

    if problems := sorted([*problems, *value_faults(values, details)], key=position):
        raise ConfigError(problems)
    return config
