"""A trainer callback that both stock ms-swift and swiftalign load by ``external_plugins``: when each step ended, the
memory at the peak, the loss of each step, and what the kernels of some steps spent their time on.

Writes JSON to the file that the environment variable STEP_TIMES names, and a trace for chrome://tracing to the one that
STEP_TRACE names, if it is set.
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
from torch._dynamo.utils import compilation_time_metrics, counters

WARM_UP = 5  # steps before timing: kernels are chosen, compiled, and memory is taken
PROFILED = 9  # steps before the end that are not timed: the kernels of all but the last are profiled
KERNELS = 24  # that take the most time, and are named


class StepTimes(TrainerCallback):
    """See the module."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.began = 0.0
        self.ends: list[float] = []
        self.losses: list[float] = []
        self.profiled: dict[str, Any] = {}
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
            kinds = [torch.profiler.ProfilerActivity.CUDA]
            kinds += [torch.profiler.ProfilerActivity.CPU] if "STEP_TRACE" in os.environ else []
            self._profiler = torch.profiler.profile(activities=kinds)
            self._profiler.__enter__()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        borders = (WARM_UP, state.max_steps - PROFILED, state.max_steps - 1)
        if torch.cuda.is_available() and state.global_step in borders:
            torch.cuda.synchronize()  # nowhere else: the CPU may run ahead
        self.ends.append(time.time())
        if self._profiler is not None and state.global_step == state.max_steps - 1:
            self._profiler.__exit__(None, None, None)
            self.profiled = _profiled(self._profiler, PROFILED - 1)
            if "STEP_TRACE" in os.environ:
                self._profiler.export_chrome_trace(os.environ["STEP_TRACE"])
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
            **self.profiled,
            "shapes": self.shapes,
            "workers": args.dataloader_num_workers,
            "compiled": _compiled(),
            "peak_bytes": peaks[0],
            "reserved_bytes": peaks[1],
        }
        Path(os.environ["STEP_TIMES"]).write_text(json.dumps(values))


def _profiled(profiler: Any, steps: int) -> dict[str, Any]:
    """Milliseconds per step: of kernels by kind, of those that take most by name, and between kernels."""
    shares: dict[str, float] = {}
    kernels: list[tuple[float, int, str]] = []
    for event in profiler.key_averages():
        if event.device_type != torch.autograd.DeviceType.CUDA:
            continue
        milliseconds = event.device_time_total / 1e3 / steps
        kind = _kind(event.key.lower())
        shares[kind] = shares.get(kind, 0.0) + milliseconds
        kernels.append((milliseconds, event.count // steps, event.key))
    spans = sorted(
        (event.time_range.start, event.time_range.end)
        for event in profiler.events()
        if event.device_type == torch.autograd.DeviceType.CUDA
    )
    idle, until = 0.0, spans[0][0]
    for start, end in spans:
        idle += max(start - until, 0.0)
        until = max(until, end)
    return {
        "shares_ms": {kind: round(value, 1) for kind, value in shares.items()},
        "idle_ms": round(idle / 1e3 / steps, 1),
        "kernels": [[round(ms, 2), count, name[:120]] for ms, count, name in sorted(kernels, reverse=True)[:KERNELS]],
    }


def _compiled() -> dict[str, Any]:
    """How many graphs were compiled, how many of them came out of torch's cache, and in how many seconds."""
    cached, seconds = counters["aot_autograd"], sum(compilation_time_metrics.get("_compile.compile_inner", []))
    graphs = counters["stats"]["unique_graphs"]
    return {"graphs": graphs, "from_cache": cached["autograd_cache_hit"], "seconds": round(seconds, 1)}


def _kind(kernel: str) -> str:
    if any(word in kernel for word in ("flash", "fmha", "attention")):
        return "attention"
    if any(word in kernel for word in ("gemm", "nvjet", "cutlass", "xmma", "cublas")):
        return "products"
    if "nccl" in kernel:
        return "exchange"
    return "copies" if "memcpy" in kernel or "memset" in kernel else "elementwise"


callbacks_map["step_times"] = StepTimes
