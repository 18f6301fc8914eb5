"""Reading configuration files: several laid one over another, checked, with every fault named by file and line."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from swiftalign.config import Config, section_fields
from swiftalign.document import Document, Key, parse_document, read_document
from swiftalign.errors import ConfigError, Problem, SwiftalignError
from swiftalign.swift_arguments import megatron_arguments, swift_arguments

SECTIONS = ("model", "data", "tuner", "training", "custom", "swift")
PASS_THROUGH = ("data", "tuner", "training", "swift")

# What the plan decides; handing any of these to ms-swift beside it would make the plan untrue.
OWNED_BY_PLAN = {
    **dict.fromkeys(("tuner_type", "train_type"), "tuner.train_type"),
    **dict.fromkeys(("target_modules", "target_regex", "modules_to_save"), "tuner"),
    **dict.fromkeys(("freeze_llm", "freeze_vit", "freeze_aligner"), "tuner"),
    **dict.fromkeys(
        (
            "target_parameters",
            "freeze_parameters",
            "freeze_parameters_regex",
            "freeze_parameters_ratio",
            "trainable_parameters",
            "trainable_parameters_regex",
            "init_weights",
            "lora_bias",
            "lora_dtype",
            "use_swift_lora",
            "tuner_backend",
            "adapters",
            "bf16",
            "fp16",
        ),
        "",
    ),
}
# What other keys of the config say already.
OWNED_BY_CONFIG = {
    "model": "model",
    "model_revision": "model.revision",
    "model_type": "model.type",
    "torch_dtype": "model.dtype",
    "attn_impl": "model.attention",
    "use_hf": "hub",
    "dataset": "data.train",
    "val_dataset": "data.val",
    "add_version": "training.output_dir",
}
# The guide's, and ms-swift 4's, names for the same.
ALIASES: dict[Key, Key] = {
    ("custom", "train_jsonl"): ("data", "train"),
    ("custom", "val_jsonl"): ("data", "val"),
    ("tuner", "tuner_type"): ("tuner", "train_type"),
}
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
    return _validate(merged)


def _override(text: str) -> Document:
    """``tuner.lora_rank=32`` as a document of one value, which is read as YAML."""
    name, equals, value = text.partition("=")
    keys = name.strip().split(".")
    if not equals or not all(keys):
        raise SwiftalignError(f"--set {text}: not of the form section.key=value", "e.g. --set tuner.lora_rank=32")
    label = f"--set {text}"
    document = Document(parse_document(value, label).value, {(): (label, 0)})
    for depth in range(len(keys), 0, -1):
        document.value = {keys[depth - 1]: document.value}
        document.lines[tuple(keys[:depth])] = (label, 0)
    return document


def _normalise(document: Document, folder: Path) -> Document:
    """One file in the canonical form: aliases under their own name, single files as lists, paths made absolute."""
    if document.value is None:
        document.value = {}
    if isinstance(document.value, list):  # the guide writes a bare list of augmentation operations
        document.value = {"custom": {"augmentation": {"ops": document.value}}}
        document.lines = {("custom", "augmentation", "ops", *key): line for key, line in document.lines.items()}
        document.lines |= {
            ("custom", "augmentation", "ops")[:depth]: (document.lines[("custom", "augmentation", "ops")][0], 1)
            for depth in range(4)
        }
    if not isinstance(document.value, dict):
        raise ConfigError([Problem(document.where(()), "not a config: it holds no 'section: ...' lines")])
    values = document.value
    if isinstance(values.get("model"), str):
        _move(document, ("model",), ("model", "path"))
    for alias, key in ALIASES.items():
        _rename(document, alias, key)
    for section, name in (("data", "train"), ("data", "val")):
        if isinstance(_get(values, (section, name)), str):
            values[section][name] = [values[section][name]]
    for key in PATHS:
        value = _get(values, key)
        if isinstance(value, str):
            values[key[0]][key[1]] = _absolute(value, folder)
        elif isinstance(value, list):
            values[key[0]][key[1]] = [_absolute(item, folder) if isinstance(item, str) else item for item in value]
    path = _get(values, ("model", "path"))
    if isinstance(path, str) and _is_local(path, folder):
        values["model"]["path"] = _absolute(path, folder)
    return document


def _absolute(path: str, folder: Path) -> str:
    return str((folder / Path(path).expanduser()).resolve()) if path else path


def _is_local(path: str, folder: Path) -> bool:
    """A model is a folder where it looks like one or is one; otherwise it is a hub id."""
    return path.startswith((".", "/", "~")) or "/" not in path or (folder / path).is_dir()


def _get(values: dict[str, Any], key: Key) -> Any:
    for part in key:
        if not isinstance(values, dict) or part not in values:
            return None
        values = values[part]
    return values


def _move(document: Document, old: Key, new: Key) -> None:
    """Put ``model: X`` where ``model: {path: X}`` has it."""
    document.value[old[0]] = {new[1]: document.value[old[0]]}
    document.lines[new] = document.lines[old]


def _rename(document: Document, alias: Key, key: Key) -> None:
    section = document.value.get(alias[0])
    if not isinstance(section, dict) or alias[1] not in section:
        return
    target = document.value.setdefault(key[0], {})
    where = document.where(alias)
    if not isinstance(target, dict):
        return  # the section itself is at fault, and is reported as such
    if key[1] in target:
        names = f"{'.'.join(map(str, alias))} and {'.'.join(map(str, key))}"
        raise ConfigError([Problem(where, f"{names} mean the same, and both are given", "keep one of the two")])
    target[key[1]] = section.pop(alias[1])
    document.lines.setdefault((key[0],), document.lines[alias])
    document.lines[key] = document.lines.pop(alias)


def _lay_over(base: Document, layer: Document, *, replace_tuner: bool) -> None:
    if replace_tuner and isinstance(_get(layer.value, ("tuner",)), dict) and "train_type" in layer.value["tuner"]:
        base.value.pop("tuner", None)
        base.lines = {key: line for key, line in base.lines.items() if key[:1] != ("tuner",)}
    _merge(base.value, layer.value)
    base.lines.update({key: line for key, line in layer.lines.items() if key})


def _merge(base: dict[str, Any], layer: dict[str, Any]) -> None:
    for name, value in layer.items():
        if isinstance(value, dict) and isinstance(base.get(name), dict):
            _merge(base[name], value)
        else:
            base[name] = value


def _validate(document: Document) -> Config:
    problems = []
    # An empty section ("tuner:" with nothing under it) means its defaults.
    values = {name: value for name, value in document.value.items() if value is not None}
    config = None
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        problems += [_problem(document, values, detail) for detail in error.errors()]
    problems += _check_names(document, values)
    if problems:
        unique = {(problem.where, problem.message): problem for problem in problems}
        raise ConfigError(sorted(unique.values(), key=_file_order))
    assert config is not None
    config._document = document
    return config


def _file_order(problem: Problem) -> tuple[str, int]:
    file, _, line = problem.where.rpartition(":")
    return (file, int(line)) if line.isdigit() else (problem.where, 0)


def _problem(document: Document, values: dict[str, Any], detail: Any) -> Problem:
    """A pydantic error in the words of the file."""
    key = tuple(part for part in detail["loc"] if part != "constrained-str")
    # A union reports one error per branch, with the branch's name at the end of the path.
    while key and not _exists(values, key) and detail["type"] not in ("missing", "extra_forbidden"):
        key = key[:-1]
    name, where, value = _dotted(key), document.where(key), detail["input"]
    context = detail.get("ctx", {})
    match detail["type"]:
        case "missing" if key == ("model",):
            return Problem(where, "no model is named", "add a line 'model: Qwen/Qwen3-VL-4B-Instruct', or a folder")
        case "missing":
            return Problem(where, f"{name} is missing")
        case "extra_forbidden":
            return _unknown_key(key, where)
        case "literal_error":
            choices = re.findall(r"'([^']*)'", context["expected"])
            return Problem(
                where, f"{name} must be one of {', '.join(choices)}, not {_show(value)}", _near(value, choices)
            )
        case "value_error":
            return Problem(where, f"{name}: {context['error']}")
        case kind:
            hint = "a list is written [a, b], or with a dash before each item" if kind == "list_type" else None
            if kind == "bool_type":
                hint = "write true or false"
            return Problem(where, f"{name} must be {_expectation(kind, context)}, not {_show(value)}", hint)


def _exists(values: Any, key: Key) -> bool:
    for part in key:
        try:
            values = values[part]
        except (KeyError, IndexError, TypeError):
            return False
    return True


_EXPECTATIONS = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "text",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
}


def _expectation(kind: str, context: dict[str, Any]) -> str:
    for name, words in (("gt", "greater than"), ("ge", "at least"), ("lt", "less than"), ("le", "at most")):
        if name in context:
            return f"{words} {context[name]}"
    return _EXPECTATIONS.get(kind, kind.replace("_", " "))


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _dotted(key: Iterable[str | int]) -> str:
    return ".".join(map(str, key))


def _check_names(document: Document, values: dict[str, Any]) -> list[Problem]:
    """Problems of the keys that are handed through: unknown, the plan's, another section's, or of a wrong type."""
    problems = []
    for section in PASS_THROUGH:
        given = values.get(section)
        if not isinstance(given, dict):
            continue
        declared = section_fields(section) if section != "swift" else {}
        for name, value in given.items():
            if name not in declared:
                problem = _check_argument(section, str(name), value, document.where((section, name)))
                if problem:
                    problems.append(problem)
    return problems


def _check_argument(section: str, name: str, value: Any, where: str) -> Problem | None:
    label = f"{section}.{name}"
    if name in OWNED_BY_PLAN:
        place = OWNED_BY_PLAN[name]
        hint = f"say it under {place}" if place else "the plan sets it from the tuner section"
        return Problem(where, f"{label}: the plan decides this argument", hint)
    if name in OWNED_BY_CONFIG:
        return Problem(where, f"{label}: this is {OWNED_BY_CONFIG[name]} here", f"say it as {OWNED_BY_CONFIG[name]}")
    home = next((other for other in ("tuner", "training", "data") if name in section_fields(other)), None)
    argument = swift_arguments().get(name)
    home = home or (argument.section if argument else None)
    if home is None:
        if name in megatron_arguments():
            return Problem(where, f"{label} is an argument of Megatron training only", "remove it: it would do nothing")
        return _unknown_key((section, name), where)
    if section == "swift" and name in section_fields(home):
        return Problem(where, f"{label}: this is {home}.{name} here", f"move it under '{home}:'")
    if section != "swift" and home != section:
        return Problem(where, f"{label}: this key belongs under '{home}:'", f"move it under '{home}:'")
    assert argument is not None
    return _check_type(argument.annotation, label, value, where)


def _check_type(annotation: Any, label: str, value: Any, where: str) -> Problem | None:
    try:
        TypeAdapter(annotation).validate_python(value, strict=True)
    except ValidationError as error:
        details = error.errors()
        choices = [c for d in details if d["type"] == "literal_error" for c in re.findall(r"'([^']*)'", str(d["ctx"]))]
        if choices:
            return Problem(where, f"{label} must be one of {', '.join(choices)}, not {_show(value)}")
        kinds = dict.fromkeys(_expectation(d["type"], d.get("ctx", {})) for d in details)
        return Problem(where, f"{label} must be {' or '.join(kinds)}, not {_show(value)}")
    return None


def _unknown_key(key: Key, where: str) -> Problem:
    *parents, name = key
    section = str(parents[0]) if parents else ""
    names: list[str] = []
    if not parents:
        names = list(Config.model_fields)
        home = next((s for s in SECTIONS if s != "swift" and name in section_fields(s)), None)
        argument = swift_arguments().get(str(name))
        home = home or (argument.section if argument else None)
        if home:
            return Problem(where, f"{name}: unknown section", f"{name} is a key of '{home}:'")
    elif len(parents) == 1 or section != "custom":
        names = list(section_fields(section))
        names += [n for n, a in swift_arguments().items() if section in ("swift", a.section) and n not in OWNED_BY_PLAN]
        names += [str(alias[1]) for alias in ALIASES if alias[0] == section]
    elif parents[:2] == ["custom", "augmentation"]:
        names = ["enabled", "ops"]
    return Problem(where, f"{_dotted(key)}: unknown {'key' if parents else 'section'}", _near(str(name), names))


def _near(name: Any, names: Sequence[str]) -> str | None:
    close = difflib.get_close_matches(str(name), list(names), n=1, cutoff=0.6)
    return f"did you mean {close[0]}?" if close else None
