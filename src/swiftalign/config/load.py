"""Read configuration files, lay them over one another, and check them; each problem has its file and line."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from swiftalign.config.augmentation import spelled_out
from swiftalign.config.faults import OPERATIONS, argument_faults, put_back, understood, value_faults
from swiftalign.config.sections import Config
from swiftalign.config.spellings import settle, translate
from swiftalign.config.yaml import Items, Mapping, Place, dotted, holds, lookup, nested, read_document, read_override
from swiftalign.problems import ConfigError, Problem, config_problem

# Keys that a phase may set. Every phase trains the same weights of the same model.
_PHASE_KEYS = ("name", "data", "training", "custom", "swift")
_SOURCE_PATHS = ("path", "images")  # of an entry of data.train or data.val
_RUN_KEYS = (("training", "output_dir"), ("training", "resume_from_checkpoint"))  # the same in all phases
_DTYPE_KEYS = (("training", "bf16"), ("training", "fp16"))  # they are the model's, which is the same in all phases
_MOST_FILES = 100  # that a file may extend, directly or through others


def load_config(files: str | Path | Sequence[str | Path], overrides: Sequence[str] = ()) -> Config:
    """Read configuration files; later files replace values of earlier ones, and ``section.key=value`` overrides all.

    Mappings are merged key by key and lists are replaced, with one exception: a file with ``tuner.train_type``
    chooses a method, and its ``tuner`` section replaces the whole earlier section. The files that a file names under
    ``extends`` are part of it: they are merged in their order, and its own values over them.

    Args:
        files: one YAML file, or several in their order. Relative paths in a file count from its folder.
        overrides: settings as ``--set`` takes them, e.g. ``training.aligner_lr=5e-5``. Relative paths in them count
            from the current folder.

    Returns:
        The checked configuration, which knows the file and line of each of its values. Names of other tools are
        translated; a key without effect is in its ``notes``.

    Raises:
        SwiftalignError: a file can't be read.
        ConfigError: the files have problems; the error lists all of them.
    """
    paths = [Path(file) for file in ([files] if isinstance(files, str | Path) else files)]
    merged, problems = Mapping(file=str(paths[0]) if paths else "--set"), list[Problem]()
    names, notes = list[str](), list[Problem]()
    for path in paths:
        layer = _extended(path, (), names, problems, notes)
        if holds(layer, ("tuner", "train_type")):
            merged.pop("tuner", None)
        merged.merge(layer)
    for text in overrides:
        names.append(f"--set {text}")
        merged.merge(_normalised(read_override(text), names[-1], Path.cwd(), problems, notes))
    whole = copy.deepcopy(merged)  # settling it changes values that may mean something else within a phase
    config, phases = _validated(whole, names, problems, notes), list[Config]()
    for index in range(len(config.phases)):
        base = copy.deepcopy(merged)
        own: Mapping = base.pop("phases")[index]
        name, problems = own.pop("name", None), []
        others = [(key,) for key in own if key not in _PHASE_KEYS]
        for key in [*others, *(key for key in (*_RUN_KEYS, *_DTYPE_KEYS) if holds(own, key))]:
            hint = f"move {dotted(key)} out of phases; a phase may set {', '.join(_PHASE_KEYS)}"
            problems.append(config_problem(own.where(*key), f"a phase can't set {dotted(key)}", hint))
        if not isinstance(name, str | None):
            message, hint = "a phase's name must be text", "put the name in quotes"
            problems.append(config_problem(own.where("name"), message, hint))
        if problems:
            raise ConfigError(problems)
        base.merge(own)  # a phase's own keys replace those outside ``phases``
        phases.append(_validated(base, names, problems, notes, name or f"phase {index + 1}"))
    return Config.from_values(whole, phases=phases, notes=notes, given=merged) if phases else config


def read_values(values: Mapping, folder: Path) -> Config:
    """A configuration from values that stand in no configuration file, as another tool's arguments.

    Args:
        values: the values, in any spelling that a configuration file may use; they are changed.
        folder: the folder that relative paths count from.

    Raises:
        ConfigError: the values have problems; the error lists all of them.
    """
    problems, notes = list[Problem](), list[Problem]()
    normalised = _normalised(values, values.file, folder, problems, notes)
    return _validated(normalised, [values.file], problems, notes)


def _extended(
    path: Path, above: tuple[Path, ...], names: list[str], problems: list[Problem], notes: list[Problem]
) -> Mapping:
    """A file's values over those of the files that it extends.

    Args:
        above: the files that led to this one.
        names: gets the names of all files, each after those that it extends.
    """
    document = read_document(path)
    extended = Mapping(file=str(path))
    if isinstance(document, Mapping) and "extends" in document:
        where, given = document.where("extends"), document.pop("extends")
        bases = given if isinstance(given, list) else [given]
        if not all(isinstance(base, str) and base for base in bases):
            raise ConfigError([config_problem(where, "extends must be a file or a list of files")])
        chain = (*above, path.resolve())
        for base in (path.parent / os.path.expanduser(base) for base in bases):  # noqa: PTH111  # not yet a path
            if not os.path.isfile(base):  # noqa: PTH113  # False for a name that is too long for the file system
                raise ConfigError([config_problem(where, f"extends names a file that does not exist: {base}")])
            if base.resolve() in chain:
                circle = " extends ".join(map(str, (*chain[chain.index(base.resolve()) :], base.resolve())))
                raise ConfigError([config_problem(where, f"files extend each other in a circle: {circle}")])
            if len(names) >= _MOST_FILES:
                raise ConfigError([config_problem(where, f"more than {_MOST_FILES} files are extended")])
            extended.merge(_extended(base, chain, names, problems, notes))
    names.append(str(path))
    extended.merge(_normalised(document, str(path), path.parent.absolute(), problems, notes))
    return extended


def _normalised(values: Any, file: str, folder: Path, problems: list[Problem], notes: list[Problem]) -> Mapping:
    """The values of a file in one form: keys as this toolkit names them, files as lists, absolute paths."""
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

    translate(values, problems, notes)

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
    for key in (*_RUN_KEYS, ("training", "deepspeed"), ("training", "deepspeed", "config"), ("model", "path")):
        value = lookup(values, key)
        if not isinstance(value, str) or ("deepspeed" in key and not value.endswith(".json")):
            continue  # a preset's name or JSON text; what is not text is left for the checks
        # A model is a hub id unless it looks like a folder, is one, or is the folder of a model in the current folder.
        place = _absolute(value, folder, written=key == ("training", "output_dir"))
        is_folder = (
            value.startswith((".", "/", "~"))
            or "/" not in value
            or os.path.isdir(folder / value)  # noqa: PTH112  # False for a name that is too long for the file system
            or os.path.isfile(os.path.join(place, "config.json"))  # noqa: PTH113, PTH118
        )
        if key != ("model", "path") or is_folder:
            lookup(values, key[:-1])[key[-1]] = place

    for item in values["phases"] if isinstance(values.get("phases"), list) else ():
        if isinstance(item, Mapping):
            _normalised(item, file, folder, problems, notes)
    return values


def _absolute(path: str, folder: Path, *, written: bool = False) -> str:
    """Make a path absolute; links are not resolved, as image paths are relative to the folder that holds the link.

    A path is relative to the file's folder. What is not there, but in the current folder, is meant there, as ms-swift
    reads paths.

    Args:
        written: whether the run writes there, so that it need not exist.
    """
    if not path:
        return path
    named = os.path.expanduser(path)  # noqa: PTH111  # keeps links
    place, here = os.path.abspath(folder / named), os.path.abspath(named)  # noqa: PTH100
    return here if not (written or os.path.exists(place)) and os.path.exists(here) else place  # noqa: PTH110


def _validated(
    values: Mapping, names: list[str], problems: list[Problem], notes: list[Problem], phase: str | None = None
) -> Config:
    """Check the merged values; problems are sorted by file or override (in the order of ``names``) and line."""
    settle(values, problems)
    config, details = _checked(values, phase, notes)
    if spelled := understood(values, details):
        config, details = _checked(values, phase, notes)
        if put_back(values, spelled, details):
            config, details = _checked(values, phase, notes)

    def position(problem: Problem) -> tuple[int, int]:
        file, _, line = problem.where.rpartition(":")
        if file in names and line.isdigit():
            return names.index(file), int(line)
        return names.index(problem.where) if problem.where in names else 0, 0

    if problems := sorted([*problems, *value_faults(values, details)], key=position):
        raise ConfigError(problems)
    assert config is not None
    return config


def _checked(values: Mapping, phase: str | None, notes: list[Problem]) -> tuple[Config | None, list[Any]]:
    """The configuration, unless its values are malformed, and what is wrong with them as pydantic tells it."""
    details = argument_faults(values)
    try:
        return Config.from_values(values, phase, notes=notes), details
    except ValidationError as error:
        return None, [*details, *error.errors()]
