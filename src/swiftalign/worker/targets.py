"""Keeping peft to the layers that it is given, and to the parameters that it saves."""

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


def freeze_rank_numbers(model: Any) -> None:
    """Keep AdaLoRA's `ranknum` the constant that it is: no checkpoint holds it.

    peft 0.21 makes it a trained parameter where it casts it to float32, which it does for a base in 16 bits.

    References:
        peft `tuners/tuners_utils.py`, `cast_adapter_dtype`.
    """
    for name, weight in model.named_parameters():
        if ".ranknum." in name:
            weight.requires_grad_(False)
