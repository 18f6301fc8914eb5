"""The zero_optimization section of the DeepSpeed settings that training.deepspeed gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from swiftalign.model.safetensors import read_json

GATHER = "stage3_gather_16bit_weights_on_model_save"


# ms-swift's presets; those of ZeRO-3 gather the weights.
PRESETS: dict[str, dict[str, Any]] = {
    **{name: {} for name in ("zero0", "zero1", "zero2", "zero2_offload")},
    **{name: {"stage": 3, GATHER: True} for name in ("zero3", "zero3_offload")},
}


def zero_section(setting: str | dict[str, Any]) -> dict[str, Any]:
    """The zero_optimization section of a preset, a JSON text, a JSON file or a mapping.

    Raises:
        ModelError: the file does not exist or is not JSON.
        ValueError: the text is not JSON, or the value is not a mapping.
    """
    if isinstance(setting, str):
        if setting in PRESETS:
            return PRESETS[setting]
        setting = json.loads(setting) if setting.startswith("{") else read_json(Path(setting))
    if not isinstance(setting, dict) or not isinstance(setting.get("zero_optimization", {}), dict):
        raise ValueError("not a mapping")
    return dict(setting.get("zero_optimization", {}))
