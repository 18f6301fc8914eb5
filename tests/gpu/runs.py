"""The runs that the tests on several GPUs look at: what each is told, and what it leaves behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Timer
from typing import Any

from safetensors.torch import load_file

from swiftalign.checkpoint.choose import checkpoints_of
from swiftalign.config.sharding import WAYS
from swiftalign.runs.events import read_events

PROCESSES = 2
SECONDS = 240.0  # that one command may take

# Ways to start a run: on one GPU, by one process that sees both, and by each way of spreading.
ONE, VISIBLE = "one", "visible"
ALONE = (ONE, VISIBLE, "device_map")
WAYS_TO_START = (VISIBLE, *WAYS)

_LINEAR = r"model\.visual\.(merger|deepstack_merger_list\.\d+)\.linear_fc[12]"
_PHASES = "[{name: first, training: {max_steps: 4}}, {name: second, training: {max_steps: 4, aligner_lr: 1.0e-4}}]"

# What a short run is told beside the way.
FEATURES: dict[str, tuple[str, ...]] = {
    "short": (),
    "compiled": ("training.torch_compile=true",),
    "padded": ("training.padding_free=false", "training.gradient_checkpointing=true"),
    "evaluated": (
        "data.val={demo}/data/few.jsonl",
        "training.eval_strategy=steps",
        "training.eval_steps=2",
        "training.save_steps=2",
        "training.load_best_model_at_end=true",
        "training.metric_for_best_model=loss",
        # No improvement is large enough: the second evaluation ends the run.
        "training.early_stopping={{patience: 1, min_delta: 100}}",
        "custom.grounding_eval={{rows: 4}}",
    ),
    "lora": (f"tuner.target_regex={_LINEAR.replace('{', '{{')}", "tuner.modules_to_save=[]", "tuner.lora_rank=8"),
    "phases": (f"phases={_PHASES.replace('{', '{{').replace('}', '}}')}",),
}
TRAIN_OTHERWISE = ("compiled", "lora", "phases")  # the others have the losses of the short run without settings


@dataclass(frozen=True)
class Run:
    """One run of the small model.

    Attributes:
        way: one of `ALONE`, or a way of spreading over GPUs.
        dtype: of the frozen model.
        feature: a key of `FEATURES`; empty for a run of full length.
        stopped: whether it is stopped in the middle, and resumed.
    """

    way: str
    dtype: str = "float32"
    feature: str = ""
    stopped: bool = False

    @property
    def name(self) -> str:
        return "-".join(filter(None, (self.way, self.dtype, self.feature, "stopped" if self.stopped else "")))

    @property
    def whole(self) -> Run:
        """The same without a stop."""
        return replace(self, stopped=False)

    @property
    def reference(self) -> Run:
        """The run on one GPU that must have the same losses."""
        plain = self.feature and self.feature not in TRAIN_OTHERWISE
        return Run(ONE, self.dtype, "short" if plain else self.feature)

    def settings(self, demo: Path, *, cpu: bool) -> list[str]:
        """What the configuration is told."""
        steps = 8 if self.feature or cpu else 40
        rows = 4 if cpu else 16  # per step, of all processes together
        processes = 1 if self.way in ALONE else PROCESSES
        settings = (
            f"model.dtype={self.dtype}",
            f"training.sharding={self.way if self.way in WAYS else 'auto'}",
            f"training.per_device_train_batch_size={rows // processes}",
            f"training.max_steps={steps}",
            f"training.logging_steps={steps // 4}",
            f"training.save_steps={steps // 2}",
            # At 1e-3, the rounding of bfloat16 in batches of another size moves the loss by 0.014 within 30 steps.
            *(["training.aligner_lr=2.0e-4"] if self.dtype == "bfloat16" else []),
            *FEATURES[self.feature or "short"],
        )
        return [setting.format(demo=demo) for setting in settings]

    def processes(self, *, cpu: bool) -> list[str]:
        """The options that say on which GPUs."""
        if self.way == ONE and not cpu:
            return ["--gpus", "0"]
        return [] if self.way in ALONE else ["--nproc", str(PROCESSES)]


@dataclass
class Result:
    """What a run left behind.

    Attributes:
        failed: which command failed, with its exit code; empty if none did.
        output: the end of what the commands printed, and of the log if training failed.
        losses: by phase and step.
        stopped_at: the step at which the run was stopped.
        last: values of the last event.
        checkpoint: the last checkpoint.
        seconds: all commands together.
    """

    run: Run
    failed: str = ""
    output: str = ""
    losses: dict[str, float] = field(default_factory=dict)
    stopped_at: int = 0
    last: dict[str, Any] = field(default_factory=dict)
    checkpoint: Path | None = None
    seconds: float = 0.0

    def __str__(self) -> str:
        losses = " ".join(f"{loss:.4f}" for loss in self.losses.values())
        return f"{self.run.name:32} {self.seconds:4.0f} s  {self.failed or 'trained, sound, exported'}  losses {losses}"

    def weights(self) -> dict[str, Any]:
        assert self.checkpoint is not None
        return load_file(self.checkpoint / "adapter_model.safetensors")


def execute(run: Run, folder: Path, *, cpu: bool) -> Result:
    """Train, verify and export, and gather what is left.

    Args:
        folder: holds the workspace ``demo``; the run's files come beside it.
    """
    begin, out, demo = time.monotonic(), folder / run.name, folder / "demo"
    result = Result(run)
    sets = [f"training.output_dir={out}", *run.settings(demo, cpu=cpu)]
    train = ["train", str(demo / "config.yaml"), *run.processes(cpu=cpu), "--skip-image-check"]
    train += [word for setting in sets for word in ("--set", setting)]
    commands = [train]
    if run.stopped:
        commands.append([*train, "--resume"])
    commands.append(["verify-ckpt", str(out), "--deep", "--base", str(demo / "model")])
    commands.append(["export", str(out), "--output", str(folder / f"{run.name}-model"), "--check-logits"])
    for number, command in enumerate(commands):
        stop = run.stopped and number == 0
        code, output = _call(command, folder / f"{run.name}.log", stop=stop)
        if code != (128 + signal.SIGTERM if stop else 0):
            why = f"ended with {code}" if code is not None else f"took over {SECONDS:.0f} s"
            result.failed, result.output = f"{command[0]} {why}", output[-2000:]
            break
        if stop:
            result.stopped_at = max(each.values["step"] for each in read_events(out) if each.kind == "saved")
    files = sorted(out.rglob("events.jsonl"))
    for phase, file in enumerate(files):
        events = list(read_events(file.parent))
        result.losses |= {
            f"{phase + 1}:{each.values['step']}": each.values["loss"]
            for each in events
            if each.kind == "log" and "loss" in each.values
        }
        result.last = {"kind": events[-1].kind, **events[-1].values} if events else {}
        result.checkpoint = next(reversed(checkpoints_of(file.parent)), None)
        if result.failed:
            result.output += (file.parent / "train.log").read_text(errors="replace")[-6000:]
    result.seconds = round(time.monotonic() - begin, 1)
    return result


def _call(command: list[str], log: Path, *, stop: bool) -> tuple[int | None, str]:
    """Run a command of swiftalign, and stop it by SIGTERM after its first line about a step, if asked to.

    Returns:
        Its exit code, None if it was ended after the time limit; and what it printed.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "swiftalign", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # A compiler of its own number of processes in each of many runs would take all cores.
        env=os.environ | {"OMP_NUM_THREADS": "2", "TORCHINDUCTOR_COMPILE_THREADS": "2", "HF_HUB_OFFLINE": "1"},
    )
    assert process.stdout is not None
    output, begin = "", time.monotonic()
    limits = [Timer(SECONDS + more, process.terminate) for more in (0, 10)]  # a second signal ends a run at once
    for limit in limits:
        limit.start()
    with log.open("a") as file:
        for line in process.stdout:
            file.write(line)
            output += line
            if stop and line.startswith("step "):
                process.terminate()
                stop = False
    code, late = process.wait(), time.monotonic() - begin > SECONDS
    for limit in limits:
        limit.cancel()
    return None if late else code, output
