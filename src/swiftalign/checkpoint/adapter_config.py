"""peft's adapter_config.json, read without trusting it: which layers it adapts, at which rank, and what else it saves.

The rules are those of peft 0.20; sound checkpoints made by peft itself hold them in `tests/corruptions`.
"""

from __future__ import annotations

import re
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from swiftalign.config.sections import NO_TARGETS, TunerSection
from swiftalign.methods import of_adapter
from swiftalign.methods.base import Method
from swiftalign.methods.keys import PeftKey, exactly
from swiftalign.problems import ModelError

# Settings with tensors or layer names of their own, which no plan foresees.
_UNPLANNED = (
    "target_parameters",
    "layer_replication",
    "megatron_config",
    "monteclora_config",
    "use_qalora",
    "use_bdlora",
)
_MAX_ENTRIES = 20_000
_MAX_PATTERN = 100_000
_MAX_MATCHED = 255  # no longer name is matched by a regex from a file
_REPEATS = re.compile(r"[*+?{]")
_EXAMPLES = ("model.visual.deepstack_merger_list.0.linear_fc1", "model.language_model.layers.35.self_attn.q_proj")
_PATIENCE = 1.0  # seconds, for all matching by the regexes of a file


class _Matcher:
    """Matches names by the regular expressions of a file, some of which would take for ever, like ``(a|a)*b``."""

    def __init__(self, path: Path) -> None:
        self.path, self.left = path, _PATIENCE

    def find(self, pattern: str, name: str) -> re.Match[str] | None:
        """The result of `re.fullmatch`; None for a name that is longer than any of a model.

        Raises:
            ModelError: the file's regular expressions have taken too long altogether.
        """
        if len(name) > _MAX_MATCHED:
            return None
        if not _REPEATS.search(pattern):  # as in the plan's own lists of names: quick, and without another import
            return re.fullmatch(pattern, name)
        import regex  # unlike `re`, it can be stopped

        begin = time.monotonic()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # on what its own syntax would read otherwise
                found: re.Match[str] | None = regex.fullmatch(pattern, name, timeout=max(self.left, 0.001))
        except TimeoutError:
            raise ModelError(f"{self.path}: one of its regular expressions takes too long to match") from None
        except regex.error as error:
            raise ModelError(f"{self.path}: not a regular expression: {error}") from None
        self.left -= time.monotonic() - begin
        return found


@dataclass(frozen=True)
class AdapterConfig:
    """A checked adapter_config.json."""

    path: Path
    values: dict[str, Any]

    @property
    def kind(self) -> str:
        return str(self.values["peft_type"]).lower()

    @property
    def base(self) -> str | None:
        """Hub id or folder of the base model, as it was called in training."""
        value = self.values.get("base_model_name_or_path")
        return value if isinstance(value, str) and value else None

    @property
    def saved(self) -> list[str]:
        return self.values.get("modules_to_save") or []

    @property
    def saves_biases(self) -> bool:
        """Whether every bias of the base is saved too; peft saves none for ``lora_only``."""
        return self.values.get("bias") == "all" and (self.method is None or self.method.saves_biases)

    @property
    def unplanned(self) -> list[str]:
        return [name for name in _UNPLANNED if self.values.get(name)]

    @property
    def tokens(self) -> dict[str, list[int]]:
        """Rows of embeddings that train alone, by the end of the embedding's name."""
        value = self.values.get("trainable_token_indices") or {}
        return {"embed_tokens": value} if isinstance(value, list) else value

    @property
    def method(self) -> type[Method] | None:
        """Its tuning method; None for one that this toolkit does not know."""
        return of_adapter(self.values)

    def adapts(self, name: str) -> bool:
        """Whether a layer of this name gets an adapter.

        References:
            peft `tuners/tuners_utils.py`, `check_target_module_exists`.
        """
        if self._matches("exclude_modules", name) or any(f".{entry}." in f".{name}." for entry in self.saved):
            return False
        # Layer numbers count only where a name is matched by its end.
        whole = isinstance(self.values.get("target_modules"), str) or name in self._names["target_modules"]
        return self._matches("target_modules", name) and (whole or self._in_layers(name))

    def saves(self, module: str) -> bool:
        """Whether a module is saved whole, itself or with one that holds it."""
        return any(f"{entry}." in f"{module}." for entry in self.saved)

    def saves_besides(self, key: PeftKey) -> bool:
        """Whether peft saves a tensor that ``modules_to_save`` does not name: biases, token rows and embeddings."""
        biases = self.saves_biases and key.part.rpartition(".")[2] == "bias"
        rows = bool(self.tokens) and key.part == "token_adapter.trainable_tokens_delta"
        return biases or rows or key.base.endswith((".embed_tokens.weight", "lm_head.weight"))

    def size_of(self, layer: str) -> int | None:
        """A layer's rank or number of frequencies: from the first pattern that matches, else the general one.

        References:
            peft `utils/other.py`, `get_pattern_key`.
        """
        general = self.method.peft_settings(self.values).get(self.method.size) if self.method else None
        sizes = (size for key, size in _size_pattern(self.values).items() if self._matcher.find(_of_layer(key), layer))
        return next(sizes, general if isinstance(general, int) else None)

    @cached_property
    def _names(self) -> dict[str, frozenset[str]]:
        """The entries of the two settings that are a regular expression or a list of names."""
        lists = {key: self.values.get(key) or () for key in ("target_modules", "exclude_modules")}
        return {key: frozenset(() if isinstance(names, str) else names) for key, names in lists.items()}

    def _matches(self, key: str, name: str) -> bool:
        """Whether a regular expression matches the whole name, or a list holds the name or its end after a dot."""
        pattern = self.values.get(key)
        if isinstance(pattern, str):
            return bool(self._matcher.find(pattern, name))
        dotted = f".{name}"
        return any(dotted[place + 1 :] in self._names[key] for place, sign in enumerate(dotted) if sign == ".")

    def _in_layers(self, name: str) -> bool:
        """Whether the number in the name is one of ``layers_to_transform``, where that is given."""
        layers = self.values.get("layers_to_transform")
        if layers is None or layers == []:
            return True
        given = self.values.get("layers_pattern") or [r"[^.]*"]
        lists = map(_of_list, [given] if isinstance(given, str) else given)
        matches = (match for one in lists if (match := self._matcher.find(one, name)))
        number = next((match[1] for match in matches), None) or ""
        # peft fails where a group of the pattern's own comes before the number.
        return number.isdecimal() and int(number) in ([layers] if isinstance(layers, int) else layers)

    @cached_property
    def _matcher(self) -> _Matcher:
        return _Matcher(self.path)

    def tuner(self, adapted: list[str]) -> TunerSection:
        """The tuner settings that this stands for, with its layers by name.

        Raises:
            ValueError: it is of a method that this toolkit does not know, or malformed (as pydantic says it).
        """
        values: dict[str, Any] = {
            "train_type": self.kind,
            "modules_to_save": list(self.saved),
            "target_regex": exactly(adapted) or NO_TARGETS[0],
        }
        return TunerSection(**values, **(self.method.peft_settings(self.values) if self.method else {}))


def _of_list(pattern: str) -> str:
    """The regular expression that peft makes of an entry of ``layers_pattern``, for a whole name."""
    return rf"(?:.*?\.{pattern}\.(\d{{1,9}})\.).*"


def _of_layer(pattern: str) -> str:
    """The regular expression that peft makes of a key of ``rank_pattern``."""
    return rf"(.*\.)?({pattern})$"


def _size_pattern(values: dict[str, Any]) -> dict[str, int]:
    """Sizes by regex of a layer's name; AdaLoRA keeps masks under the same key."""
    method = of_adapter(values)
    return values.get(method.size_pattern if method else "") or {}


def checked_adapter_config(path: Path, values: Any) -> AdapterConfig:
    """peft's own config, with the settings that are used here of the right types.

    Args:
        values: what the file at `path` holds.

    Raises:
        ModelError: the file is not a config of peft.
    """
    if not isinstance(values, dict) or not isinstance(values.get("peft_type"), str):
        raise ModelError(f"{path}: has no peft_type")
    for fault in _faults(values):
        raise ModelError(f"{path}: {fault}")
    config = AdapterConfig(path, values)
    for name in _EXAMPLES:  # a regex that takes too long is a fault of the file
        config.adapts(name)
        config.size_of(name)
    return config


def _faults(values: dict[str, Any]) -> Iterator[str]:
    patterns: dict[str, str] = {}
    for key in ("target_modules", "exclude_modules", "layers_pattern", "modules_to_save"):
        value = values.get(key) or []
        texts = [value] if isinstance(value, str) and key != "modules_to_save" else value
        if not _is_list(texts, str):
            yield f"{key} is not a list of names"
        elif key == "layers_pattern" or isinstance(value, str):
            patterns |= {_of_list(text) if key == "layers_pattern" else text: key for text in texts}
    layers, tokens = values.get("layers_to_transform") or [], values.get("trainable_token_indices") or []
    if type(layers) is not int and not _is_list(layers, int):
        yield "layers_to_transform is not a list of numbers"
    if not all(_is_list(rows, int) for rows in (tokens.values() if isinstance(tokens, dict) else [tokens])):
        yield "trainable_token_indices is not a list of numbers"
    sizes = _size_pattern(values)
    if isinstance(sizes, dict) and _is_list(list(sizes.values()), int):
        patterns |= {_of_layer(pattern): f"the pattern {pattern[:50]!r}" for pattern in sizes}
    else:
        yield "its pattern of ranks or frequencies is not a mapping of numbers"
    for pattern, key in patterns.items():
        if len(pattern) > _MAX_PATTERN:
            yield f"{key} is too long for a regular expression: {len(pattern)} characters"
            return
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # on what a later Python may read otherwise
                re.compile(pattern)
        except (re.error, RecursionError, OverflowError) as error:
            yield f"{key} is not a regular expression: {error}"


def _is_list(value: Any, kind: type) -> bool:
    return isinstance(value, list) and len(value) <= _MAX_ENTRIES and all(type(item) is kind for item in value)
