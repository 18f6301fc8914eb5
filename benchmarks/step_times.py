"""A trainer callback that both stock ms-swift and swiftalign load by ``external_plugins``: when each step ended, the
memory at the peak, the loss of each step, and what the kernels of one step spent their time on.

Writes JSON to the file that the environment variable STEP_TIMES names.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from swift.callbacks import callbacks_map
from swift.callbacks.base import TrainerCallback

WARM_UP = 5  # steps before timing: kernels are chosen, compiled, and memory is taken
PROFILED = 2  # steps before the last, whose kernels are timed: it takes longer by that


class StepTimes(TrainerCallback):
    """See the module."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.began = 0.0
        self.ends: list[float] = []
        self.losses: list[float] = []
        self.shares: dict[str, float] = {}
        self.shapes: list[list[int]] = []
        self._profiler: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        kwargs["model"].register_forward_pre_hook(self._shape, with_kwargs=True)
        for card in range(torch.cuda.device_count()):
            torch.cuda.reset_peak_memory_stats(card)

    def _shape(self, model: Any, args: Any, kwargs: dict[str, Any]) -> None:
        tokens = kwargs.get("input_ids")
        if tokens is None:
            tokens = kwargs.get("inputs_embeds")  # what ms-swift's template made of them, for some families
        if model.training and tokens is not None:
            self.shapes.append(list(tokens.shape[:2]))

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.began = self.began or time.time()
        if torch.cuda.is_available() and state.global_step == state.max_steps - PROFILED:
            self._profiler = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA])
            self._profiler.__enter__()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if torch.cuda.is_available() and state.global_step in (WARM_UP, state.max_steps - PROFILED):
            torch.cuda.synchronize()  # nowhere else: the CPU may run ahead
        self.ends.append(time.time())
        if self._profiler is not None:
            self._profiler.__exit__(None, None, None)
            self.shares = _shares(self._profiler)
            self._profiler = None

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if logs and "loss" in logs:
            self.losses.append(float(logs["loss"]))

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        cards = range(torch.cuda.device_count())
        peaks = [
            max((measured(card) for card in cards), default=0)
            for measured in (torch.cuda.max_memory_allocated, torch.cuda.max_memory_reserved)
        ]
        if dist.is_initialized():  # of all processes
            everywhere: list[Any] = [None] * dist.get_world_size()
            dist.all_gather_object(everywhere, peaks)
            peaks = [max(each) for each in zip(*everywhere, strict=True)]
        if not state.is_world_process_zero:
            return
        values = {
            "began": self.began,
            "ends": self.ends,
            "losses": self.losses,
            "shares_ms": self.shares,
            "shapes": self.shapes,
            "workers": args.dataloader_num_workers,
            "peak_bytes": peaks[0],
            "reserved_bytes": peaks[1],
        }
        Path(os.environ["STEP_TIMES"]).write_text(json.dumps(values))


def _shares(profiler: Any) -> dict[str, float]:
    """Milliseconds of a step's kernels, by kind."""
    shares: dict[str, float] = {}
    for event in profiler.key_averages():
        kind = _kind(event.key.lower())
        shares[kind] = round(shares.get(kind, 0.0) + event.device_time_total / 1e3, 1)
    return shares


def _kind(kernel: str) -> str:
    if any(word in kernel for word in ("flash", "fmha", "attention")):
        return "attention"
    if any(word in kernel for word in ("gemm", "nvjet", "cutlass", "xmma", "cublas")):
        return "products"
    return "copies" if "memcpy" in kernel or "memset" in kernel else "elementwise"


callbacks_map["step_times"] = StepTimes
