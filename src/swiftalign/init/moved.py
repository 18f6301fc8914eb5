"""``swiftalign init --from``: a run of another tool as one configuration, with comments on what has no counterpart."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from textwrap import indent
from typing import Any

from swiftalign.config.load import load_config, read_values
from swiftalign.config.sections import Config, section_fields
from swiftalign.config.spellings import without_counterpart
from swiftalign.config.yaml import Mapping, dotted
from swiftalign.files import short_path, write_whole
from swiftalign.init.llama_factory import move_llama_factory
from swiftalign.init.recipes import SCHEMA_FILE
from swiftalign.init.sources import Moved, Source, read_source, shown
from swiftalign.init.swift_runs import move_swift_run
from swiftalign.init.write import from_folder, write_schema, writing
from swiftalign.problems import ConfigError, counted
from swiftalign.yaml12 import dump_yaml

_TOOLS = {"run": "a run of ms-swift", "arguments": "arguments of ms-swift", "llama-factory": "LLaMA-Factory"}
_PATHS = (
    ("model", "path"), ("data", "images"), ("training", "output_dir"), ("training", "resume_from_checkpoint"),
    ("training", "deepspeed"),
)  # fmt: skip


def write_moved(
    path: Path,
    origin: Path,
    *,
    model: str | None = None,
    train: str | None = None,
    val: str | None = None,
    force: bool = False,
) -> list[str]:
    """Write the configuration of another tool's run, and its schema; returns lines that say what was taken.

    Args:
        path: file to write.
        origin: file of the other tool, or the folder of its run.
        model: base model, in place of the one that the source names.
        train: file to train on, in place of those that the source names.
        val: file to validate on, in place of those that the source names.
        force: whether a file at ``path`` is replaced.

    Raises:
        SwiftalignError: the source is of no tool that is known here, or can't be read; or ``path`` exists already.
        ConfigError: the source asks for something that this toolkit does not do in the same way.
    """
    source = read_source(origin)
    config, moved = move(source, model=model, train=train, val=val)
    variables = [f"{name}={shlex.quote(value)}" for name, value in moved.variables.items()]
    told = _TOOLS.get(source.kind, "a configuration")
    with writing(path, force=force):
        write_whole(path, written(config, moved, source, path))
        write_schema(path.absolute().parent)
    taken = sum(len(section) if isinstance(section, dict) else 1 for section in config.values.values())
    missing = f"; its last lines name {counted(len(moved.left_out), 'setting')} left out" if moved.left_out else ""
    settings = f"{counted(taken, 'setting')} from {told} ({short_path(source.file)})"
    lines = [f"wrote {path}: {config.tuner.method.name}, {settings}{missing}"]
    for file in (*config.data.train, *config.data.val):
        if not Path(file.path).exists():
            lines.append(f"{short_path(file.path)}: not found here; name a file with --train or --val")
    if variables or moved.options:
        lines.append(f"train with: {' '.join([*variables, 'swiftalign train', str(path), *moved.options])}")
    return [*lines, f"next: swiftalign inspect-params {path}"]


def move(
    source: Source, *, model: str | None = None, train: str | None = None, val: str | None = None
) -> tuple[Config, Moved]:
    """The configuration that trains what a source describes, and what is to be said of it.

    Args:
        model: base model, in place of the one that the source names.
        train: file to train on, in place of those that the source names.
        val: file to validate on, in place of those that the source names.

    Raises:
        ConfigError: the source asks for something that this toolkit does not do in the same way.
    """
    replacing = {"model.path": model, "data.train": train, "data.val": val}
    if source.kind == "own":
        moved = Moved(Mapping(file=str(source.file)))
        config = load_config([source.file], [f"{key}={json.dumps(value)}" for key, value in replacing.items() if value])
        moved.left_out = [f"{dotted(key)} - {why}" for key, why in without_counterpart(config.values)]
        return config, moved
    moved = move_llama_factory(source) if source.kind == "llama-factory" else move_swift_run(source)
    for name, (key, value) in zip(("model", "dataset", "val_dataset"), replacing.items(), strict=True):
        if value is not None:
            section, _, part = key.partition(".")
            moved.comments.pop((section, part), None)
            if name in moved.values:
                moved.leave_out(name, f"{shown(value)} was named in its place")
            moved.values[name] = value if name == "model" and not Path(value).exists() else source.found(value)[0]
    given = dict(moved.values)
    if moved.problems:
        raise ConfigError(moved.problems)
    config = read_values(moved.values, Path.cwd())
    moved.left_out += (
        f"{key[-1]}: {shown(given[key[-1]])} - {why}"
        for key, why in without_counterpart(config.values)
        if key[-1] in given
    )
    return config, moved


def written(config: Config, moved: Moved, source: Source, path: Path) -> str:
    """The configuration as the text of a file at ``path``: paths are relative to its folder, where that is shorter."""
    name = path.name
    told = _TOOLS.get(source.kind, "a configuration and the files that it extends")
    head = [
        f"Moved here from {told}: {short_path(source.file)}",
        f"'swiftalign inspect-params {name}' shows what will train, 'swiftalign train {name}' trains it.",
        *moved.remarks,
    ]
    text = f"# yaml-language-server: $schema={SCHEMA_FILE}\n" + "".join(map(_comment, head))
    values = _relative(config.values, path.absolute().parent)
    for section in Config.model_fields:
        held = values.get(section)
        if held is None or held == {} or held == []:
            continue
        note = moved.comments.get((section, ""))
        if section == "model" and held.keys() == {"path"}:
            held, note = held["path"], moved.comments.get(("model", "path"))
        if not isinstance(held, dict):
            text += "\n" + _entry(section, held, note)
            continue
        text += f"\n{section}:\n"
        order = [*section_fields(section)]
        for key in sorted(held, key=lambda key: order.index(key) if key in order else len(order)):
            text += indent(_entry(key, held[key], moved.comments.get((section, key))), "  ")
    if moved.left_out:
        text += "\n# Left out:\n" + "".join(_comment(f"  {line}") for line in sorted(moved.left_out))
    return text


def _relative(values: Any, folder: Path) -> Any:
    """Values with paths as a file in this folder spells them."""

    def spelled(path: Any) -> Any:
        return from_folder(path, folder) if isinstance(path, str) and path.startswith("/") else path

    result = {key: dict(value) if isinstance(value, dict) else value for key, value in values.items()}
    for section, key in _PATHS:
        if isinstance(result.get(section), dict) and key in result[section]:
            result[section][key] = spelled(result[section][key])
    for part in ("train", "val"):
        files = result.get("data", {}).get(part)
        if isinstance(files, list):
            named = [
                {k: spelled(v) if k in ("path", "images") else v for k, v in file.items()}
                if isinstance(file, dict)
                else spelled(file)
                for file in files
            ]
            result["data"][part] = named[0] if len(named) == 1 else named
    if isinstance(result.get("phases"), list):
        result["phases"] = [_relative(phase, folder) for phase in result["phases"]]
    return result


def _entry(key: str, value: Any, comment: str | None) -> str:
    """A key with its value, and a comment beside or above it."""
    whole = isinstance(value, float) and value.is_integer()
    text = dump_yaml({key: int(value) if whole else value})
    if not comment:
        return text
    note = _comment(comment)
    return f"{text.rstrip()}   {note}" if text.count("\n") == 1 and len(text) + len(note) <= 120 else note + text


def _comment(text: str) -> str:
    """A line of comment; whatever could end the line is spelled out."""
    plain = "".join(char if char.isprintable() else f"\\u{ord(char):04x}" for char in text)
    return f"# {plain}\n"
