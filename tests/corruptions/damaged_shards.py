"""Checkpoints whose weights lie in a trainer's shards only, and shards that are damaged or incomplete."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp

from corruptions.damaged_files import Planted
from corruptions.files import WEIGHTS, Damage, Harm, both, without

# What DeepSpeed names the files of two processes under ZeRO-3; only the names are looked at.
ZERO3 = [f"zero_pp_rank_{rank}_mp_rank_00_{part}_states.pt" for rank in (0, 1) for part in ("model", "optim")]


def shards(*names: str) -> Harm:
    def harm(path: Path) -> None:
        for name in names:
            (path / name).parent.mkdir(exist_ok=True)
            (path / name).touch()

    return harm


def _zero(*names: str) -> Harm:
    return shards(*(f"global_step30/{name}" for name in names))


def _distributed(path: Path) -> Path:
    """A whole model as torch itself saves it, by one process."""
    with warnings.catch_warnings(action="ignore"):  # that one process saves
        dcp.save({"model": {"lm_head.weight": torch.ones(2, 3)}}, checkpoint_id=path / "step-30", no_dist=True)
    return path / "step-30"


def _planted(path: Path) -> None:
    (path / "pytorch_model_fsdp_0").mkdir()
    (path / "pytorch_model_fsdp_0/.metadata").write_bytes(pickle.dumps(Planted()))


IN_SHARDS = ("weights-in-shards",)
SHARDS: dict[str, Damage] = {
    "zero3-without-adapter": Damage(
        "lora",
        both(without(WEIGHTS), _zero(*ZERO3)),
        IN_SHARDS,
        message="PATH: its weights lie in shards only, which DeepSpeed wrote: global_step30",
    ),
    "zero-without-optimizer": Damage(
        "saved",
        both(without("optimizer.pt", "scheduler.pt"), _zero("mp_rank_00_model_states.pt")),
        ("optimizer-missing",),
    ),
    "zero3-folder-empty": Damage(
        "saved", both(without("optimizer.pt", "scheduler.pt"), shards("global_step30/x")), ("optimizer-missing",)
    ),
    "fsdp1-ranks": Damage("lora", both(without(WEIGHTS), shards("pytorch_model_fsdp_rank0.bin")), IN_SHARDS),
    "distributed-model": Damage(
        "lora",
        _distributed,
        IN_SHARDS,
        message="PATH: its weights lie in shards only, which torch.distributed.checkpoint wrote: step-30",
    ),
    "fsdp-planted": Damage("lora", both(without(WEIGHTS), _planted), ("pickle-refused",)),
    "fsdp-metadata-empty": Damage(
        "lora", both(without(WEIGHTS), shards("pytorch_model_fsdp_0/.metadata")), ("pickle-refused",)
    ),
    "fsdp-optimizer-without-scheduler": Damage(
        "saved",
        both(without("optimizer.pt", "scheduler.pt"), shards("optimizer_0/.metadata")),
        ("optimizer-missing",),
        message="PATH: has no scheduler.pt",
    ),
}
