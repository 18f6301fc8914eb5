"""Keeping peft to the layers that it is given."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def exact_targets(model: Any) -> Iterator[None]:
    """Meanwhile peft adapts the layers that it is given, also in a model whose type it knows.

    For some mixtures of experts, as they were before transformers 5, peft reads LoRA's targets as the last parts of
    their names, and adapts the experts in the place of every ``gate_proj``, ``up_proj`` and ``down_proj``. It tells
    such a model by the ``model_type`` of its config, which is empty meanwhile.

    References:
        peft `utils/transformers_weight_conversion.py`, `_convert_peft_config_moe`.
    """
    config = vars(model.config)
    hidden = {name: config[name] for name in ("model_type",) if name in config}
    config["model_type"] = ""
    try:
        yield
    finally:
        del config["model_type"]
        config.update(hidden)
