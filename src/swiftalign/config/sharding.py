"""How a run is spread over GPUs: the ways that a config may ask for, and DeepSpeed's settings."""

from __future__ import annotations

import copy
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

from swiftalign.model.safetensors import read_json

Sharding = Literal[
    "ddp", "fsdp2", "fsdp2_offload", "zero1", "zero2", "zero2_offload", "zero3", "zero3_offload", "device_map"
]
"""A way to spread a run over GPUs.

- ``ddp``: each GPU has the whole model, and a process of its own.
- ``fsdp2``: the frozen layers of the LLM are divided among the GPUs; the rest, and all that trains, is on each of them.
  With ``_offload``, the layers are kept in the machine's memory.
- ``zero1`` and ``zero2``: DeepSpeed divides the optimizer's state; ``zero3`` also divides all weights. With
  ``_offload``, the machine's memory keeps them.
- ``device_map``: one process spreads the layers over all GPUs, which then work in turn.
"""
WAYS: tuple[Sharding, ...] = get_args(Sharding)

GATHER = "stage3_gather_16bit_weights_on_model_save"
PRESETS = ("zero0", "zero1", "zero2", "zero2_offload", "zero3", "zero3_offload")  # of ms-swift


def stage(sharding: str) -> int | None:
    """The stage of DeepSpeed's ZeRO; None for a way without DeepSpeed."""
    return int(sharding[4]) if sharding.startswith("zero") else None


def divides_weights(sharding: str) -> bool:
    """Whether a GPU has only its share of the frozen weights."""
    return sharding.startswith(("fsdp2", "zero3"))


def deepspeed_settings(setting: str | dict[str, Any]) -> dict[str, Any]:
    """DeepSpeed's settings as a mapping.

    Args:
        setting: the name of a preset of ms-swift, JSON, the path of a JSON file, or a mapping.

    Raises:
        ModelError: the file does not exist or is not JSON.
        ValueError: the text is not JSON, or the value is not a mapping.
    """
    if isinstance(setting, str):
        if setting in PRESETS:
            package = find_spec("swift")
            assert package is not None  # ms-swift is a dependency
            assert package.origin is not None
            setting = str(Path(package.origin).parent / "config" / f"{setting}.json")
        setting = json.loads(setting) if setting.startswith("{") else read_json(Path(setting))
    if not isinstance(setting, dict) or not isinstance(setting.get("zero_optimization", {}), dict):
        raise ValueError("not a mapping")
    return copy.deepcopy(setting)


def zero_section(setting: str | dict[str, Any]) -> dict[str, Any]:
    """The section ``zero_optimization`` of DeepSpeed's settings.

    Raises:
        ModelError: see `deepspeed_settings`.
        ValueError: see `deepspeed_settings`.
    """
    return dict(deepspeed_settings(setting).get("zero_optimization", {}))


def way_of(zero: dict[str, Any]) -> str:
    """The way that a section ``zero_optimization`` stands for, e.g. ``zero3_offload``.

    >>> way_of({"stage": 3, "offload_param": {"device": "cpu"}})
    'zero3_offload'
    """
    kept = (zero.get(name) for name in ("offload_optimizer", "offload_param"))
    away = any(isinstance(each, dict) and each.get("device") not in (None, "none") for each in kept)
    return f"zero{zero.get('stage') or 0}{'_offload' if away else ''}"
