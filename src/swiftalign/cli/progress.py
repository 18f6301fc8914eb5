"""Showing a run as it goes: a bar on a terminal, plain lines elsewhere, and the loss as a picture at the end."""

from __future__ import annotations

import time
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from swiftalign.cli.show import print_findings, short_path
from swiftalign.data.metrics import METRICS
from swiftalign.plan.plan import TuningPlan
from swiftalign.problems import Problem
from swiftalign.runs.events import Event, read_events
from swiftalign.runs.picture import draw_run

LOSS_PICTURE = "loss.png"


class RunProgress:
    """Draws the events of one run."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.losses: list[tuple[int, float]] = []
        self.accuracies: dict[str, float] = {}  # of the last evaluation that measured them
        self.result: dict[str, Any] = {}
        self._started = time.monotonic()
        self._first_step = 0
        self._training_since = self._started
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._task = self._bar.add_task("starting", total=None, loss="-")
        self._steps = 0

    def __enter__(self) -> RunProgress:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._bar.stop()

    def show(self, event: Event) -> None:
        values = event.values
        match event.kind:
            case "stage":
                self._bar.update(self._task, description=values["name"])
                self._line(values["name"])
            case "note":
                self.console.print(f"{values['name']:12}{values['text']}", soft_wrap=True, markup=False)
            case "finding":
                self.result.setdefault("findings", []).append(values)
                print_findings([Problem(values["code"], values["message"], values["hint"])], self.console)
            case "start":
                self._steps, self._first_step = values["steps"], values["step"]
                self._training_since = time.monotonic()
                self._bar.update(self._task, description="training", total=self._steps, completed=values["step"])
            case "step":
                self._bar.update(self._task, completed=values["step"])
            case "log":
                self._log(values)
            case "saved":
                checkpoints = self.result.setdefault("checkpoints", [])
                if values["path"] not in checkpoints:  # the last step of an epoch may save twice
                    checkpoints.append(values["path"])
                    self._line(f"saved {Path(values['path']).name}")
            case "stopping":
                self.console.print("stopping after this step, and saving; Ctrl-C again stops at once")
            case "done" | "stopped":
                self.result.update(values, status=event.kind)

    def _log(self, values: dict[str, Any]) -> None:
        step = values["step"]
        if "loss" in values:
            self.losses.append((step, values["loss"]))
            self._bar.update(self._task, loss=f"{values['loss']:.4f}")
            self._line(f"step {step}/{self._steps}  loss {values['loss']:.4f}  {self._time_left(step)}")
        if "eval_loss" in values:
            self.console.print(f"step {step}/{self._steps}  eval_loss {values['eval_loss']:.4f}")
        scores = {name.removeprefix("eval_"): value for name, value in values.items() if name.endswith("_acc")}
        if scores := {name: value for name, value in scores.items() if METRICS.get(name)}:
            self.accuracies = scores
            told = "  ".join(f"{name} {value:.3f}" for name, value in scores.items())
            self.console.print(f"step {step}/{self._steps}  {told}")

    def _time_left(self, step: int) -> str:
        done = step - self._first_step
        left = (time.monotonic() - self._training_since) / done * (self._steps - step) if done else 0.0
        return f"{left:.0f} s left"

    def _line(self, text: str) -> None:
        if not self.console.is_terminal:
            self.console.print(text)

    def finish(self, folder: Path, plan: TuningPlan) -> dict[str, Any]:
        """Draw the loss and print what the run left behind; returns the same as values."""
        seconds = time.monotonic() - self._started
        result = {
            "run_folder": str(folder),
            "seconds": round(seconds, 1),
            **self.result,
            "loss": self.losses[-1][1] if self.losses else None,
        }
        loss = f", loss {self.losses[0][1]:.4f} -> {self.losses[-1][1]:.4f}" if self.losses else ""
        status = str(result.get("status", "done"))
        self._tell(status, f"{result.get('step', 0)} steps in {seconds:.0f} s{loss}")
        best = result.get("best_checkpoint")
        if best and result.get("best_metric") is not None:
            self._tell("best", f"{result['best_metric']:.4f} at {Path(best).name}")
        if self.accuracies:
            self._tell("accuracy", ", ".join(f"{name} {value:.3f}" for name, value in self.accuracies.items()))
        if result.get("tokens_per_second"):
            memory = result.get("peak_memory", 0) / 1e9
            self._tell("speed", f"{result['tokens_per_second']:,.0f} tokens/s, {memory:.1f} GB of memory at most")
        if result.get("checkpoint"):
            self._tell("checkpoint", short_path(result["checkpoint"]))
        if self.losses:
            draw_run(folder / LOSS_PICTURE, read_events(folder), title=f"{folder.name}: {plan.method}")
            self._tell("picture", short_path(folder / LOSS_PICTURE))
        if result.get("checkpoint") and status == "done":
            self._tell("next", f"swiftalign verify-ckpt {short_path(folder)}")
        return result

    def _tell(self, name: str, text: str) -> None:
        self.console.print(f"{name:12}{text}", soft_wrap=True)
