"""Weights of one phase as the beginning of the next."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from swiftalign.model.safetensors import weight_files
from swiftalign.plan.plan import TuningPlan
from swiftalign.problems import PlanMismatchError


def carry_weights(plan: TuningPlan, model: Any, checkpoint: Path) -> None:
    """Give everything that trains the values that a checkpoint of the same plan has.

    Raises:
        PlanMismatchError: the checkpoint lacks a tensor, or has it in another shape.
    """
    adapter = checkpoint / "adapter_model.safetensors"
    parameters = {item.key: item.parameter for item in plan.trainables}
    weights, found = dict(model.named_parameters()), set()
    for path in [adapter] if adapter.is_file() else weight_files(checkpoint):
        with safe_open(path, framework="pt") as file, torch.no_grad():
            for key in parameters.keys() & set(file.keys()):
                value, weight = file.get_tensor(key), weights[parameters[key]]
                if value.shape == weight.shape:
                    weight.copy_(value)
                    found.add(key)
    missing = sorted(parameters.keys() - found)
    if missing:
        message = f"{checkpoint}: {len(missing)} of the phase's tensors are not there, e.g. {missing[0]}"
        raise PlanMismatchError(message, f"check it: swiftalign verify-ckpt {checkpoint}")
