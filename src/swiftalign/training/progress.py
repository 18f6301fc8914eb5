"""Showing a run as it goes: a bar on a terminal, plain lines elsewhere, and the loss as a picture at the end."""

from __future__ import annotations

import time
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from swiftalign.grounding.metrics import METRICS
from swiftalign.plan import TuningPlan
from swiftalign.report import short_path
from swiftalign.training.events import Event

LOSS_PICTURE = "loss.png"


class RunProgress:
    """Draws the events of one run."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.losses: list[tuple[int, float]] = []
        self.eval_losses: list[tuple[int, float]] = []
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
            self.eval_losses.append((step, values["eval_loss"]))
            self.console.print(f"step {step}/{self._steps}  eval_loss {values['eval_loss']:.4f}")
        scores = {name.removeprefix("eval_"): value for name, value in values.items() if name.endswith("_acc")}
        if scores := {name: value for name, value in scores.items() if METRICS.get(name)}:
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
        loss = ""
        if self.losses:
            draw_loss(folder / LOSS_PICTURE, self.losses, self.eval_losses, title=f"{folder.name}: {plan.method}")
            loss = f", loss {self.losses[0][1]:.4f} -> {self.losses[-1][1]:.4f}"
        status = str(result.get("status", "done"))
        self.console.print(f"{status:12}{result.get('step', 0)} steps in {seconds:.0f} s{loss}")
        if result.get("checkpoint"):
            self.console.print(f"checkpoint  {short_path(result['checkpoint'])}", soft_wrap=True)
        if self.losses:
            self.console.print(f"loss        {short_path(folder / LOSS_PICTURE)}", soft_wrap=True)
        return result


def draw_loss(path: Path, losses: list[tuple[int, float]], eval_losses: list[tuple[int, float]], *, title: str) -> None:
    """Training and validation loss over steps, as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.6), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot(*zip(*losses, strict=True), label="training", color="#1f6f8b", linewidth=1.8)
    if eval_losses:
        axes.plot(*zip(*eval_losses, strict=True), label="validation", color="#d1495b", marker="o", markersize=3)
        axes.legend(frameon=False)
    axes.set(title=title, xlabel="step", ylabel="loss")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)
