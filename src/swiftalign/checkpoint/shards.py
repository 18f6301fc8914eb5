"""What DeepSpeed, FSDP and torch.distributed.checkpoint save in shards, each process its own: weights and optimizer."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swiftalign.checkpoint.distributed import METADATA, read_distributed
from swiftalign.checkpoint.pickles import read_pickle
from swiftalign.problems import Problem

_MODEL, _RANKS = "pytorch_model_fsdp", "pytorch_model_fsdp_rank*.bin"


@dataclass(frozen=True)
class Shards:
    """What a checkpoint holds in shards.

    Attributes:
        writer: what wrote them.
        weights: the folder or file of the weights: of DeepSpeed with the optimizer's state; None where there is none.
        optimizer: the folder of the optimizer's state; None where there is none.
        command: the shell command that gathers the weights into ``gathered`` in the checkpoint; empty if there is none.
    """

    writer: str
    weights: Path | None = None
    optimizer: Path | None = None
    command: str = ""

    @property
    def state(self) -> str:
        """The optimizer's state in words, with how to resume from it; empty where there is none."""
        if self.optimizer is None:
            return ""
        if self.writer == "DeepSpeed":
            count = len({file.name.partition("_mp_rank")[0] for file in self.optimizer.glob("*_optim_states.pt")})
            return f"the optimizer's lies in {self.optimizer.name}: resume with DeepSpeed and {count} processes"
        return f"the optimizer's lies in {self.optimizer.name}: resume with FSDP"

    def read(self) -> dict[str, Any]:
        """The tensors of the weights, by name; empty where only tools of the writer can gather them.

        Raises:
            Exception: of any type, where the files are damaged, or divided in an unknown way.
        """
        if self.writer == "DeepSpeed" or self.weights is None:
            return {}
        if (self.weights / METADATA).is_file():
            return read_distributed(self.weights)
        return read_pickle(self.weights, "cpu") if self.weights.is_file() else {}

    def not_gathered(self, folder: Path) -> Problem:
        """The problem of a checkpoint whose weights lie in these shards only."""
        message = f"{folder}: its weights lie in shards only, which {self.writer} wrote"
        if not self.command:
            hint = "resume the run with FULL_STATE_DICT as FSDP's state_dict_type and as many processes, and save again"
            return Problem("weights-in-shards", f"{message}: {_RANKS}", hint)
        next_step = "copy config.json and the tokenizer's files of the base model there, and check that folder"
        if (folder / "adapter_config.json").exists():
            next_step = "take '.default' out of the names of its tensors, and save them as adapter_model.safetensors"
        hint = f"gather them, if you trust where they come from:\n{self.command}\nthen {next_step}"
        return Problem("weights-in-shards", f"{message}: {self.weights.name if self.weights else ''}", hint)


def find_shards(folder: Path) -> Shards | None:
    """What a checkpoint folder holds in shards, by the names of its files; none of them is read.

    References:
        DeepSpeed `runtime/engine.py`, `_get_ckpt_name` and `_get_zero_ckpt_name`; accelerate `utils/fsdp_utils.py`.
    """
    if not folder.is_dir():
        return None
    place, target = shlex.quote(str(folder)), shlex.quote(str(folder / "gathered"))
    inside = [child for child in folder.iterdir() if child.is_dir()]
    if tags := [child for child in inside if any(child.glob("*_model_states.pt"))]:
        newest = max(tags, key=lambda child: (len(child.name), child.name))  # the highest number
        # The script in the checkpoint is the same, but it came with the checkpoint.
        command = f"python -m deepspeed.utils.zero_to_fp32 {place} {target} --tag {shlex.quote(newest.name)}"
        return Shards("DeepSpeed", newest, newest if any(newest.glob("*_optim_states.pt")) else None, command)
    divided = {child.name.rpartition("_")[0]: child for child in inside if (child / METADATA).is_file()}
    optimizer = divided.get("optimizer")
    if (folder / METADATA).is_file():
        return Shards("torch.distributed.checkpoint", folder, None, f"accelerate merge-weights {place} {target}")
    if weights := divided.get(_MODEL):
        return Shards("FSDP", weights, optimizer, f"accelerate merge-weights {shlex.quote(str(weights))} {target}")
    whole = folder / f"{_MODEL}.bin"
    if whole.is_file():
        copy = f"mkdir -p {target} && cp {shlex.quote(str(whole))} {target}/pytorch_model.bin"
        return Shards("FSDP", whole, optimizer, copy)
    weights = folder if any(folder.glob(_RANKS)) else None
    return Shards("FSDP", weights, optimizer) if weights or optimizer else None


def in_checkpoint(path: Path) -> bool:
    """Whether a folder holds the shards of the checkpoint folder that it lies in."""
    shards = find_shards(path.parent) if path.is_dir() else None
    return shards is not None and path in (shards.weights, shards.optimizer)
