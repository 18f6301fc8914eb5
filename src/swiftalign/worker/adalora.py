"""AdaLoRA's whole state, kept beside the pruned factors of a checkpoint, so that training can go on from there.

peft saves the factors without their pruned ranks, and neither the importance of the ranks nor the pattern of those
that are left as training needs it: stock resume and best-model reload fail on such checkpoints.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from swiftalign.files import appearing
from swiftalign.methods.keys import ADALORA_STATE, ADAPTER_PREFIX

_AVERAGES = ("ipt", "exp_avg_ipt", "exp_avg_unc")  # of peft's RankAllocator: tensors by parameter name


def save_state(model: Any, folder: Path) -> None:
    """Write everything that trains, unpruned, and the rank allocator's averages."""
    tensors = {f"parameter:{name}": weight for name, weight in model.named_parameters() if weight.requires_grad}
    for average in _AVERAGES:
        found = getattr(model.base_model.rankallocator, average)
        tensors |= {f"{average}:{name}": value for name, value in found.items()}
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    pattern = json.dumps(_config(model).rank_pattern)
    with appearing(folder / ADALORA_STATE) as part:
        save_file(plain, part, metadata={"rank_pattern": pattern})


def load_state(model: Any, folder: Path) -> None:
    """Put a state back into a model whose factors have their first ranks."""
    weights, allocator = dict(model.named_parameters()), model.base_model.rankallocator
    allocator.reset_ipt()
    with safe_open(folder / ADALORA_STATE, framework="pt") as file, torch.no_grad():
        for key in file.keys():  # noqa: SIM118  # not a mapping
            kind, _, name = key.partition(":")
            tensor = file.get_tensor(key)
            if kind == "parameter":
                weights[name].copy_(tensor)
            else:  # by the names of the model inside
                getattr(allocator, kind)[name] = tensor.to(weights[f"{ADAPTER_PREFIX}{name}"].device)
        _config(model).rank_pattern = json.loads(file.metadata()["rank_pattern"])


def _config(model: Any) -> Any:
    return model.peft_config[model.active_adapter]
