"""How a run is made fast: the choices, as its run folder keeps them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from swiftalign.model.safetensors import read_json
from swiftalign.problems import ModelError, RunFolderError

Kernels = Literal["plain", "liger", "compiled"]
Attention = Literal["torch", "flash4"]


@dataclass(frozen=True)
class Choices:
    """How a run trains its batches.

    Attributes:
        batch: rows per batch, in each process.
        sharding: how the model is spread over GPUs: a value of `swiftalign.config.sharding.Sharding`, or the stage
            that DeepSpeed's settings give, e.g. ``zero0``.
        gradient_checkpointing: whether the LLM's layers keep only their input, and run again in the backward pass.
        padding_free: whether the rows of a batch are concatenated; otherwise each is padded to the longest.
        attention: concatenated rows attend by torch's own kernels, or by FlashAttention 4.
        kernels: the frozen layers run as they are written, with Liger's kernels, or compiled.
        frozen_fp8: whether the LLM's frozen matrices are kept in FP8.
        vit_checkpointing: gradient checkpointing of the ViT; a frozen ViT has no backward pass to save memory in.
        peak: predicted bytes that the largest batch takes; None where there is no prediction.
        seconds: predicted seconds per average batch; None where there is no prediction.
        reasons: name of a choice -> why it was made.
    """

    batch: int = 1
    sharding: str = "ddp"
    gradient_checkpointing: bool = True
    padding_free: bool = False
    attention: Attention = "torch"
    kernels: Kernels = "plain"
    frozen_fp8: bool = False
    vit_checkpointing: bool = False
    peak: int | None = None
    seconds: float | None = None
    reasons: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1) + "\n"


def read_choices(path: Path) -> Choices:
    """The choices that a run folder keeps; ms-swift's defaults where it keeps none.

    Raises:
        RunFolderError: the file is damaged.
    """
    try:
        return Choices(**read_json(path)) if path.exists() else Choices()
    except (ModelError, TypeError) as error:
        hint = "'swiftalign train CONFIG --resume' writes it anew"
        raise RunFolderError(f"{path}: not the choices of a run: {error}", hint) from None
