"""The names and types of ms-swift's and transformers' arguments, read from their sources without importing them.

Importing ms-swift takes seconds and loads torch; parsing the few files that declare its argument dataclasses takes
milliseconds. The tables give the names that a config section may use, and the types of their values.
"""

from __future__ import annotations

import ast
import typing
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

# Section, package, file and dataclass: the section takes the arguments of the dataclass.
_SOURCES: tuple[tuple[str, str, str, str], ...] = (
    ("tuner", "swift", "arguments/tuner_args.py", "TunerArguments"),
    ("training", "swift", "trainers/arguments.py", "TrainArgumentsMixin"),
    ("training", "transformers", "training_args.py", "TrainingArguments"),
    ("training", "transformers", "training_args_seq2seq.py", "Seq2SeqTrainingArguments"),
    ("data", "swift", "arguments/base_args/data_args.py", "DataArguments"),
    ("data", "swift", "arguments/base_args/template_args.py", "TemplateArguments"),
    ("swift", "swift", "arguments/base_args/model_args.py", "ModelArguments"),
    ("swift", "swift", "arguments/base_args/quant_args.py", "QuantizeArguments"),
    ("swift", "swift", "arguments/base_args/generation_args.py", "GenerationArguments"),
    ("swift", "swift", "arguments/base_args/base_args.py", "BaseArguments"),
    ("swift", "swift", "arguments/sft_args.py", "SwanlabArguments"),
    ("swift", "swift", "arguments/sft_args.py", "SftArguments"),
    ("swift", "swift", "ray_utils/arguments.py", "RayArguments"),
)

# Classes whose defaults hold before those of all others, and classes whose defaults hold after them: the order in which
# Python looks through the bases of `SftArguments`.
_RANKS = {
    **{
        name: rank
        for rank, name in enumerate(("SftArguments", "SwanlabArguments", "TunerArguments", "BaseArguments"), -4)
    },
    **{
        name: rank
        for rank, name in enumerate(("TrainArgumentsMixin", "Seq2SeqTrainingArguments", "TrainingArguments"), 1)
    },
}
_COMPUTED: Any = object()  # a default that is not a literal

# Names that annotations may use; any other class makes the argument's type unknown, and only ms-swift checks its value.
_TYPES: dict[str, Any] = {
    **{name: getattr(typing, name) for name in ("Any", "Dict", "List", "Literal", "Optional", "Tuple", "Union")},
    **{kind.__name__: kind for kind in (bool, int, float, str, list, dict, tuple)},
}


@cache
def swift_arguments() -> dict[str, tuple[str, Any]]:
    """The arguments of ``swift sft``: name -> section and type.

    The section is the one that takes the argument: tuner, training, data or swift. The type of its value is ``Any`` if
    the annotation uses a class of ms-swift or transformers.
    """
    table: dict[str, tuple[str, Any]] = {}
    for section, package, file, class_name in _SOURCES:
        for name, annotation, _ in _fields(package, file, class_name):
            # The first section is kept, because SftArguments repeats the arguments of the trainer.
            table.setdefault(name, (section, annotation))
    return table


@cache
def swift_defaults() -> dict[str, Any]:
    """The defaults of the arguments of ``swift sft``, without those that depend on what is installed."""
    table: dict[str, Any] = {}
    for _, package, file, class_name in sorted(_SOURCES, key=lambda source: _RANKS.get(source[3], 0)):
        for name, _, default in _fields(package, file, class_name):
            if name not in table:
                table[name] = default
    return {name: default for name, default in table.items() if default is not _COMPUTED}


@cache
def megatron_arguments() -> frozenset[str]:
    """The arguments that only ``megatron sft`` takes; they have no effect in ``swift sft``."""
    file, kinds = "megatron/arguments/megatron_args.py", ("MegatronTunerMixin", "MegatronArguments")
    return frozenset({name for kind in kinds for name, *_ in _fields("swift", file, kind)} - swift_arguments().keys())


def _fields(package: str, file: str, class_name: str) -> Iterator[tuple[str, Any, Any]]:
    """Names, types and defaults of a dataclass's fields; none if the installed release has no such file or class."""
    spec = find_spec(package)  # finds a top-level package without running its code
    assert spec is not None, f"{package} is a dependency"
    assert spec.origin is not None
    path = Path(spec.origin).parent / file
    for node in ast.parse(path.read_text(encoding="utf-8")).body if path.exists() else ():
        for item in node.body if isinstance(node, ast.ClassDef) and node.name == class_name else ():
            if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
                text = ast.unparse(item.annotation).strip("'\"")  # some annotations are written as a text
                try:
                    # The text comes from the installed packages' own sources, never from a user's file.
                    kind = eval(text, {"__builtins__": {}}, _TYPES)
                except Exception:
                    kind = Any
                if text.startswith("ClassVar"):
                    continue
                if kind is not Any:
                    kind = kind | None  # ms-swift writes `x: int = None` for an argument that may be None
                    lists = [part for part in typing.get_args(kind) if typing.get_origin(part) is list]
                    for part in lists:  # one value may stand for a list of it, as on a command line
                        kind = typing.Union[kind, *typing.get_args(part)]
                yield item.target.id, kind, _default(item.value)


def _default(value: ast.expr | None) -> Any:
    """The default of a dataclass's field, if it is a literal or made of an empty list or mapping."""
    if isinstance(value, ast.Call):  # field(default=..., ...)
        options = {option.arg: option.value for option in value.keywords}
        value = options.get("default", options.get("default_factory"))
        if isinstance(value, ast.Lambda):
            value = value.body
        elif isinstance(value, ast.Name) and value.id in ("list", "dict"):
            return [] if value.id == "list" else {}
    try:
        return _COMPUTED if value is None else ast.literal_eval(value)
    except ValueError:
        return _COMPUTED
