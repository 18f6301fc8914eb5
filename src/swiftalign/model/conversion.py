"""The names, shapes and dtypes that weight files have in memory, by the rules that transformers itself loads them with.

Weight files keep the names under which a model was published. Transformers renames, merges and splits the tensors while
it loads them. Its rules are plain Python beside torch's operations, so they are run here with `_Shape` in place of
torch's tensors, in hundredths of a second and without torch. They are private to transformers:
`tests/test_conversion.py` holds them against real models, and where they can't be loaded, `swiftalign.model.read`
builds the model on the meta device instead.
"""

from __future__ import annotations

import builtins
import importlib.util
import re
import types
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

from swiftalign.model.components import class_of
from swiftalign.model.declared import has_own_code
from swiftalign.model.safetensors import TensorInfo

# The places at which models keep their sub-models, of which each has rules of its own.
_SUB_MODELS = {
    "text_config": ("model.language_model", "language_model", "model.text_model", "model"),
    "vision_config": ("model.visual", "model.vision_tower", "vision_model", "model.vision_model"),
    "audio_config": ("model.audio_tower", "audio_tower"),
}
_HEADS = re.compile(r"(ForConditionalGeneration|ForCausalLM|ForBlockDiffusion)$")


class RulesError(Exception):
    """Transformers' rules can't be loaded, or fail on these tensors."""


@dataclass(frozen=True)
class Loaded:
    """A tensor as it is once loaded.

    Attributes:
        info: its name in the model, its shape, and the dtype in which it is stored.
        files: names of the tensors in the weight files that it is made of.
        renamed: whether loading only renames it, so that it has the bytes of the one stored tensor.
    """

    info: TensorInfo
    files: tuple[str, ...]
    renamed: bool = True


def loaded(stored: Mapping[str, TensorInfo], config: Mapping[str, Any], built: Any = None) -> dict[str, Loaded]:
    """What transformers makes of the tensors of weight files, by their names in the model, in natural order.

    Args:
        stored: the tensors by their names in the files.
        config: the model's config.json. Code that is not transformers' is loaded without its rules.
        built: has ``get_parameter(name)``, for rules that look at the shape that the model class builds.

    Raises:
        RulesError: the rules can't be loaded, or fail on these tensors.
    """
    if has_own_code(config, class_of(config)):
        return {name: Loaded(stored[name], (name,)) for name in sorted(stored, key=natural)}
    core, rules = _rules()
    try:
        transforms = list(_transforms(rules, config))
        renamings = [rule for rule in transforms if isinstance(rule, core.WeightRenaming)]
        converters = [rule for rule in transforms if isinstance(rule, core.WeightConverter)]
        by_pattern = {pattern: rule for rule in converters for pattern in rule.source_patterns}
        made: dict[str, Loaded] = {}
        groups: dict[str, tuple[Any, list[str]]] = {}
        for name in sorted(stored, key=natural):
            target, pattern = core.rename_source_key(name, renamings, converters)
            if pattern is None:
                made[target] = Loaded(TensorInfo(target, stored[name].shape, stored[name].dtype), (name,))
                continue
            rule, files = groups.setdefault(target, (deepcopy(by_pattern[pattern]), []))
            rule.add_tensor(target, name, pattern, _Shape(stored[name].shape))
            files.append(name)
        settings = _Config(config)
        for target, (rule, files) in groups.items():
            for name, shape in rule.convert(target, model=built, config=settings).items():
                shape = shape[0] if isinstance(shape, list) else shape
                info = TensorInfo(name, tuple(shape.shape), stored[files[0]].dtype)
                made[name] = Loaded(info, tuple(files), renamed=False)
    except Exception as error:  # private code, run on what files from outside hold
        raise RulesError(f"transformers' rules for its weight files fail: {error}") from error
    return {name: made[name] for name in sorted(made, key=natural)}


def natural(name: str) -> list[tuple[int, int, str]]:
    """A key that sorts dotted names with their numbers as numbers: layers.2 comes before layers.10."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in name.split(".")]


def _transforms(rules: Any, config: Mapping[str, Any]) -> Iterator[Any]:
    """The rules of a model and of its sub-models, in transformers' order.

    References:
        transformers `conversion_mapping.py`, `get_model_conversion_mapping`, which asks the live model.
    """
    seen: dict[str, list[str]] = defaultdict(list)

    def inside(name: str, identifier: str) -> bool:
        return any(not outer or name.startswith(f"{outer}.") for outer in seen[identifier])

    for name, model_class, model_type in _sub_models(config):
        if inside(name, model_class):
            continue
        found = rules.get_checkpoint_conversion_mapping(model_class)
        by_type = found is None
        if by_type and not inside(name, model_type):
            found = rules.get_checkpoint_conversion_mapping(model_type)
        if found is None:
            continue
        for rule in found:
            if name:
                rule.scope_prefix, rule.base_model_prefix = name.removeprefix("model").removeprefix("."), "model"
            yield rule
        seen[model_class].append(name)
        if by_type:
            seen[model_type].append(name)
    yield from rules.get_checkpoint_conversion_mapping("legacy") or ()


def _sub_models(config: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Name, class and type of a model and of its sub-models, as far as the config tells: a place may hold none."""
    model_class, model_type = class_of(config) or "?", str(config.get("model_type"))
    yield "", model_class, model_type
    yield "model", _HEADS.sub("Model", model_class), model_type
    for key, names in _SUB_MODELS.items():
        part = config.get(key)
        if isinstance(part, Mapping) and part.get("model_type"):
            yield from ((name, "?", str(part["model_type"])) for name in names)


class _Config:
    """A config.json whose keys are attributes, as transformers' rules ask for them."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        vars(self).update(
            {key: _Config(value) if isinstance(value, Mapping) else value for key, value in values.items()}
        )

    def get_text_config(self) -> Any:
        return getattr(self, "text_config", self)


class _Shape:
    """A tensor without values, with the methods of torch's that the rules call."""

    def __init__(self, shape: Sequence[int]) -> None:
        self.shape = tuple(shape)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def dim(self) -> int:
        return len(self.shape)

    def size(self, dim: int | None = None) -> Any:
        return self.shape if dim is None else self.shape[dim]

    def numel(self) -> int:
        return prod(self.shape)

    def contiguous(self) -> _Shape:
        return self

    def clone(self) -> _Shape:
        return self

    def reshape(self, *shape: Any) -> _Shape:
        sides = list(shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape)
        if -1 in sides:
            sides[sides.index(-1)] = self.numel() // (-prod(sides))
        if prod(sides) != self.numel():
            raise ValueError(f"{list(self.shape)} can't be reshaped to {sides}")
        return _Shape(sides)

    view = reshape

    def transpose(self, dim0: int, dim1: int) -> _Shape:
        sides = list(self.shape)
        sides[dim0], sides[dim1] = sides[dim1], sides[dim0]
        return _Shape(sides)

    def squeeze(self, dim: int | None = None) -> _Shape:
        return _Shape([side for index, side in enumerate(self.shape) if side != 1 or dim not in (None, index)])


class _Torch(types.ModuleType):
    """What the rules take from torch: operations on `_Shape`; anything else may be named, but not used."""

    Tensor = _Shape

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Unused()

    @staticmethod
    def no_grad(function: Any = None) -> Any:
        return function if function is not None else lambda wrapped: wrapped

    @staticmethod
    def stack(tensors: Sequence[_Shape], dim: int = 0) -> _Shape:
        sides = list(tensors[0].shape)
        sides.insert(dim, len(tensors))
        return _Shape(sides)

    @staticmethod
    def cat(tensors: Sequence[_Shape], dim: int = 0) -> _Shape:
        sides = list(tensors[0].shape)
        sides[dim] = sum(tensor.shape[dim] for tensor in tensors)
        return _Shape(sides)

    @staticmethod
    def chunk(tensor: _Shape, chunks: int, dim: int = 0) -> list[_Shape]:
        most, left, parts = -(-tensor.shape[dim] // chunks), tensor.shape[dim], []
        while left > 0:
            sides = list(tensor.shape)
            sides[dim] = min(most, left)
            left -= most
            parts.append(_Shape(sides))
        return parts

    @staticmethod
    def transpose(tensor: _Shape, dim0: int, dim1: int) -> _Shape:
        return tensor.transpose(dim0, dim1)


class _Unused:
    """Stands for whatever else the rules' modules import: it may be named, called as a decorator, or subclassed."""

    def __getattr__(self, name: str) -> _Unused:
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return args[0] if len(args) == 1 and callable(args[0]) and not kwargs else self

    def __mro_entries__(self, bases: Any) -> tuple[()]:
        return ()


@cache
def _rules() -> tuple[Any, Any]:
    """Transformers' ``core_model_loading`` and ``conversion_mapping``, run without the rest of transformers."""
    package = importlib.util.find_spec("transformers")
    if package is None or package.origin is None:
        raise RulesError("transformers is not installed")
    made: dict[str, types.ModuleType] = {}

    def importing(name: str, scope: Any = None, local: Any = None, wanted: Any = (), level: int = 0) -> Any:
        if level == 1 and name in made:
            return made[name]
        if level or name.partition(".")[0] == "torch":
            return _Torch("torch") if name == "torch" else _Unused()
        return builtins.__import__(name, scope, local, wanted, level)

    try:
        for name in ("core_model_loading", "conversion_mapping"):
            spec = importlib.util.spec_from_file_location(name, Path(package.origin).with_name(f"{name}.py"))
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            vars(module)["__builtins__"] = {**vars(builtins), "__import__": importing}
            spec.loader.exec_module(module)
            made[name] = module
    except Exception as error:  # another release may have another layout
        raise RulesError(f"transformers' rules for names in weight files can't be read: {error}") from error
    return made["core_model_loading"], made["conversion_mapping"]
