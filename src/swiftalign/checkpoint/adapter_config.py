"""peft's adapter_config.json, read without trusting it: which layers it adapts, at which rank, and what else it saves.

The rules are those of peft 0.20 and 0.21; sound checkpoints made by peft itself hold them in `tests/corruptions`.
"""

from __future__ import annotations

import re
import time
import warnings
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from swiftalign.methods import of_adapter
from swiftalign.methods.base import Method
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


@dataclass
class AdapterConfig:
    """A checked adapter_config.json.

    Attributes:
        patience: seconds that are left for matching by the file's regular expressions.
    """

    path: Path
    values: dict[str, Any]
    patience: float = _PATIENCE

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
        """Whether every bias of the base is saved too."""
        return self.values.get("bias") == "all" and (self.method is None or self.method.saves_biases)

    @property
    def saves_own_biases(self) -> bool:
        """Whether biases of the adapted layers are saved: ``lora_only`` trains them, and peft 0.21 saves them."""
        release = re.match(r"(\d{1,3})\.(\d{1,3})\b", str(self.values.get("peft_version")))
        is_new = release is not None and (int(release[1]), int(release[2])) >= (0, 21)
        return is_new and str(self.values.get("bias")).endswith("_only")

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
        excluded = self._matches("exclude_modules", name) or any(f".{entry}." in f".{name}." for entry in self.saved)
        if excluded or not self._matches("target_modules", name):
            return False
        targets, layers = self.values.get("target_modules"), self.values.get("layers_to_transform")
        # Layer numbers count only where a name is matched by its end.
        if layers in (None, []) or isinstance(targets, str) or name in self._names["target_modules"]:
            return True
        given = self.values.get("layers_pattern") or [r"[^.]*"]
        lists = map(_of_list, [given] if isinstance(given, str) else given)
        matches = (match for one in lists if (match := self._find(one, name)))
        number = next((match[1] for match in matches), None) or ""
        # peft fails where a group of the pattern's own comes before the number.
        return number.isdecimal() and int(number) in ([layers] if isinstance(layers, int) else layers)

    def saves(self, module: str) -> bool:
        """Whether a module is saved whole, itself or with one that holds it."""
        return any(f"{entry}." in f"{module}." for entry in self.saved)

    def size_of(self, layer: str) -> int | None:
        """A layer's rank or number of frequencies: from the first pattern that matches, else the general one.

        References:
            peft `utils/other.py`, `get_pattern_key`.
        """
        general = self.method.peft_settings(self.values).get(self.method.size) if self.method else None
        sizes = (size for key, size in _size_pattern(self.values).items() if self._find(_of_layer(key), layer))
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
            return bool(self._find(pattern, name))
        dotted = f".{name}"
        return any(dotted[place + 1 :] in self._names[key] for place, sign in enumerate(dotted) if sign == ".")

    def _find(self, pattern: str, name: str) -> re.Match[str] | None:
        """The result of `re.fullmatch`; None for a name that is longer than any of a model.

        Some regular expressions would take for ever, like ``(a|a)*b``.

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
            with warnings.catch_warnings(action="ignore"):  # on what its own syntax would read otherwise
                found: re.Match[str] | None = regex.fullmatch(pattern, name, timeout=max(self.patience, 0.001))
        except TimeoutError:
            raise ModelError(f"{self.path}: one of its regular expressions takes too long to match") from None
        except regex.error as error:
            raise ModelError(f"{self.path}: not a regular expression: {error}") from None
        self.patience -= time.monotonic() - begin
        return found


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
    if values.get("megatron_config"):  # peft `dispatch_megatron`
        raise ModelError(f"{path}: megatron_config makes peft import a module that the file names")
    patterns: dict[str, str] = {}
    for key in ("target_modules", "exclude_modules", "layers_pattern", "modules_to_save"):
        value = values.get(key) or []
        texts = [value] if isinstance(value, str) and key != "modules_to_save" else value
        if not _is_list(texts, str):
            raise ModelError(f"{path}: {key} is not a list of names")
        if key == "layers_pattern" or isinstance(value, str):
            patterns |= {_of_list(text) if key == "layers_pattern" else text: key for text in texts}
    layers, tokens = values.get("layers_to_transform") or [], values.get("trainable_token_indices") or []
    if type(layers) is not int and not _is_list(layers, int):
        raise ModelError(f"{path}: layers_to_transform is not a list of numbers")
    if not all(_is_list(rows, int) for rows in (tokens.values() if isinstance(tokens, dict) else [tokens])):
        raise ModelError(f"{path}: trainable_token_indices is not a list of numbers")
    sizes = _size_pattern(values)
    if not isinstance(sizes, dict) or not _is_list(list(sizes.values()), int):
        raise ModelError(f"{path}: its pattern of ranks or frequencies is not a mapping of numbers")
    method = of_adapter(values)
    general = method.peft_settings(values).get(method.size) if method else None
    if general is not None and type(general) is not int:
        raise ModelError(f"{path}: {general!r:.50} is not a rank or a number of frequencies")
    masks = (values.get("rank_pattern") or {}) if method and method.ranks_may_shrink else {}
    if not isinstance(masks, dict) or not all(_is_list(mask, bool) for mask in masks.values()):
        raise ModelError(f"{path}: rank_pattern does not say by true and false which ranks each layer keeps")
    patterns |= {_of_layer(pattern): f"the pattern {pattern[:50]!r}" for pattern in sizes}
    for pattern, key in patterns.items():
        if len(pattern) > _MAX_PATTERN:
            raise ModelError(f"{path}: {key} is too long for a regular expression: {len(pattern)} characters")
        try:
            with warnings.catch_warnings(action="ignore"):  # on what a later Python may read otherwise
                re.compile(pattern)
        except (re.error, RecursionError, OverflowError) as error:
            raise ModelError(f"{path}: {key} is not a regular expression: {error}") from None
    config = AdapterConfig(path, values)
    for name in _EXAMPLES:  # a regex that takes too long is a fault of the file
        config.adapts(name)
        config.size_of(name)
    return config


def _is_list(value: Any, kind: type) -> bool:
    return isinstance(value, list) and len(value) <= _MAX_ENTRIES and all(type(item) is kind for item in value)
