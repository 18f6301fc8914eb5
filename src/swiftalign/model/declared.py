"""What transformers' model classes declare of their weights, read from its sources: no code of it runs.

`tests/test_headers.py` holds it against the classes themselves.
"""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

_CLASS = re.compile(r"^class (\w+)\(([^)]*)\):\n.*?(?=^\S|\Z)", re.MULTILINE | re.DOTALL)
_TIES = "_tied_weights_keys"
_UNBUILT = "_keys_to_ignore_on_load_unexpected"
_FLOAT32 = "_keep_in_fp32_modules_strict"
_FLOAT32_IN_FLOAT16 = "_keep_in_fp32_modules"


@dataclass(frozen=True)
class Declared:
    """What the classes of a model declare of its weights, by regular expressions on their names.

    Attributes:
        ties: weights that may share another's memory, and that other one; both begin at the start of a name.
        unbuilt: tensors that published files hold and the classes do not build; anywhere in a name.
        float32: weights that are float32 in a model of bfloat16 or float16; anywhere in a name.
        float32_in_float16: weights that are float32 in a model of float16; anywhere in a name.

    References:
        transformers `modeling_utils.py`, `PreTrainedModel.post_init`, which collects them from the live sub-models.
    """

    ties: dict[str, str]
    unbuilt: tuple[str, ...]
    float32: tuple[str, ...]
    float32_in_float16: tuple[str, ...]


def has_own_code(config: Mapping[str, Any], model_class: str) -> bool:
    """Whether a model runs Python code that is not transformers': its own, or that of another package.

    A class that goes by an older name, as ``Qwen2_5OmniModel``, is one of transformers if its family is.
    """
    file = _file(str(config.get("model_type")))
    family = re.sub(r"(?:For[A-Z]\w*|Model)$", "", model_class)
    return bool(config.get("auto_map")) or not file or not any(name.startswith(family) for name in _classes(file))


def declared(config: Mapping[str, Any], model_class: str) -> Declared:
    """What the class of a model and those of its sub-models declare; nothing for code that is not transformers'."""
    types = {} if has_own_code(config, model_class) else dict.fromkeys(_model_types(config))
    files = list(dict.fromkeys(file for each in types if (file := _file(each))))
    own = _classes(files[0]) if files else {}
    ties: dict[str, str] = {}
    # A class with a head holds the class without one as `model`; the sub-models of that may be in other files.
    for name, prefix in ((model_class, ""), (re.sub(r"For[A-Z]\w+$", "Model", model_class), "model.")):
        ties |= {prefix + tied: prefix + to for tied, to in (own.get(name, {}).get(_TIES) or {}).items()}
    inner = [
        values
        for file in files
        for name, values in _classes(file).items()
        if not re.search(r"For[A-Z]|PreTrainedModel$", name)
    ]

    def all_of(attribute: str) -> tuple[str, ...]:
        found = (values.get(attribute) or () for values in (own.get(model_class, {}), *inner))
        return tuple(dict.fromkeys(pattern for patterns in found for pattern in patterns))

    return Declared(ties, all_of(_UNBUILT), all_of(_FLOAT32), all_of(_FLOAT32_IN_FLOAT16))


def _model_types(config: Mapping[str, Any]) -> Iterator[str]:
    """The type of a model and those of its sub-models."""
    if isinstance(model_type := config.get("model_type"), str):
        yield model_type
    for part in config.values():
        if isinstance(part, Mapping):
            yield from _model_types(part)


@cache
def _file(model_type: str) -> Path | None:
    """The file with the classes of a type; that of ``siglip_vision_model`` is siglip's."""
    package = importlib.util.find_spec("transformers")  # imports nothing
    if package is None or package.origin is None:
        return None
    words = re.findall(r"[A-Za-z0-9]+", model_type)
    names = ("_".join(words[:count]) for count in range(len(words), 0, -1))
    files = (Path(package.origin).parent / f"models/{name}/modeling_{name}.py" for name in names)
    return next((file for file in files if file.is_file()), None)


@cache
def _classes(file: Path) -> dict[str, dict[str, Any]]:
    """What each class of a file declares or inherits from one before it in the file."""
    classes: dict[str, dict[str, Any]] = {}
    for found in _CLASS.finditer(file.read_text(encoding="utf-8")):
        name, bases = found[1], found[2].replace(" ", "").split(",")
        values = {key: value for base in reversed(bases) for key, value in classes.get(base, {}).items()}
        body = ast.parse(found[0]).body[0].body if "_keys" in found[0] or "_keep_in" in found[0] else []  # type: ignore[attr-defined]
        for line in body:
            if isinstance(line, ast.Assign) and isinstance(line.targets[0], ast.Name):
                attribute = line.targets[0].id
                if attribute in (_TIES, _UNBUILT, _FLOAT32, _FLOAT32_IN_FLOAT16):
                    with suppress(ValueError):  # not a literal
                        values[attribute] = ast.literal_eval(line.value)
        classes[name] = values
    return classes
