"""Loading weights that ms-swift doesn't load: those of an earlier phase or beside divided layers, and AdaLoRA's state.

peft saves AdaLoRA's factors without their pruned ranks, and saves neither the importance of the ranks nor the pattern
of the remaining ones. Resuming from such a checkpoint and reloading the best one fail in ms-swift. So the whole state
is kept beside them.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from swiftalign.checkpoint.values import INITIAL_FILE
from swiftalign.files import appearing, write_whole
from swiftalign.methods.keys import ADALORA_STATE, ADAPTER_PREFIX
from swiftalign.model.bytes import load
from swiftalign.model.safetensors import read_stored
from swiftalign.model.stored import stored_tensors
from swiftalign.plan.plan import TuningPlan
from swiftalign.problems import PlanMismatchError

_AVERAGES = ("ipt", "exp_avg_ipt", "exp_avg_unc")  # of peft's RankAllocator: tensors by parameter name


def carry_weights(plan: TuningPlan, model: Any, checkpoint: Path) -> None:
    """Copy a checkpoint's values into everything that trains.

    Args:
        checkpoint: a checkpoint of the same plan, from this run or an earlier phase.

    Raises:
        PlanMismatchError: the checkpoint lacks a tensor, or has it in another shape.
    """
    adapter = checkpoint / "adapter_model.safetensors"
    parameters = {item.key: item.parameter for item in plan.trainables}
    weights, loaded = dict(model.named_parameters()), set()
    is_adapter = adapter.is_file()
    stored = {tensor.name: tensor for tensor in read_stored(adapter)} if is_adapter else stored_tensors(checkpoint)
    for key, tensor in stored.items():
        if key in parameters and tensor.info.shape == weights[parameters[key]].shape:
            with torch.no_grad():
                weights[parameters[key]].copy_(load(tensor))
            loaded.add(key)
    missing = sorted(parameters.keys() - loaded)
    if missing:
        message = f"{checkpoint}: {len(missing)} of the tensors that train are missing, e.g. {missing[0]}"
        raise PlanMismatchError(message, f"run swiftalign verify-ckpt {checkpoint}")


def write_initial(plan: TuningPlan, model: Any, run_folder: Path) -> None:
    """Write digests of what trains, before it does: verify-ckpt compares a checkpoint with them."""
    keys = {item.parameter: item.key for item in plan.trainables}
    digests = {
        keys[name]: hashlib.sha256(weight.detach().cpu().contiguous().view(torch.uint8).numpy()).hexdigest()
        for name, weight in model.named_parameters()
        if name in keys
    }
    write_whole(run_folder / INITIAL_FILE, json.dumps(digests, indent=1))


def save_state(model: Any, folder: Path) -> None:
    """Write everything that trains with AdaLoRA, unpruned, and the rank allocator's averages."""
    tensors = {f"parameter:{name}": weight for name, weight in model.named_parameters() if weight.requires_grad}
    for average in _AVERAGES:
        values = getattr(model.base_model.rankallocator, average)
        tensors |= {f"{average}:{name}": value for name, value in values.items()}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    pattern = json.dumps(model.peft_config[model.active_adapter].rank_pattern)
    with appearing(folder / ADALORA_STATE) as part:
        save_file(tensors, part, metadata={"rank_pattern": pattern})


def load_state(model: Any, folder: Path) -> None:
    """Load what `save_state` wrote into a model whose factors have their initial ranks."""
    weights, allocator = dict(model.named_parameters()), model.base_model.rankallocator
    allocator.reset_ipt()
    with safe_open(folder / ADALORA_STATE, framework="pt") as file, torch.no_grad():
        for key in file.keys():  # noqa: SIM118  # not a mapping
            kind, _, name = key.partition(":")
            tensor = file.get_tensor(key)
            if kind == "parameter":
                weights[name].copy_(tensor)
            else:  # by the names of the model inside peft's wrapper
                getattr(allocator, kind)[name] = tensor.to(weights[f"{ADAPTER_PREFIX}{name}"].device)
        model.peft_config[model.active_adapter].rank_pattern = json.loads(file.metadata()["rank_pattern"])
