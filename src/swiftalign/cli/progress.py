"""Showing a run as it goes: a bar on a terminal, and plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from swiftalign.checkpoint.choose import choose, number_of
from swiftalign.cli.show import phase_line, print_findings
from swiftalign.cli.terminal import bar_column, tell
from swiftalign.files import short_path
from swiftalign.problems import ModelError, Problem, counted, size_text
from swiftalign.runs.events import Event
from swiftalign.runs.folder import PICTURE_FILE
from swiftalign.runs.train import RunResult, accuracies_of
from swiftalign.speed.cards import GIB


class RunProgress:
    """Prints the events of `swiftalign.runs.train.train`, one run or phase after the other.

    Args:
        console: where progress goes.
        problems: where the problems that pre-flight finds go.
        allowed: codes of error problems that do not stop the run.
    """

    def __init__(self, console: Console, problems: Console | None = None, allowed: Collection[str] = ()) -> None:
        self.console, self.problems, self.allowed = console, problems or console, allowed
        self._steps, self._first_step, self._training_since = 0, 0, time.monotonic()
        self.bar = Progress(
            TextColumn("{task.description}"),
            bar_column(console),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._task = self.bar.add_task("starting", total=None, loss="-")

    def show(self, event: Event) -> None:
        values = event.values
        match event.kind:
            case "progress":
                self.bar.update(self._task, description=values["text"])
            case "problems":
                is_drawn = self.bar.live.is_started
                if is_drawn:  # the other console would write into the bar's line
                    self.bar.stop()
                print_findings(values["problems"], self.problems, allowed=self.allowed)
                if is_drawn:
                    self.bar.start()
            case "phase":
                heading = phase_line(values["config"], values["plan"])
                tell(self.console, f"\nphase {values['number']}/{values['phases']}   {heading}")
            case "resume":
                self._tell("resume", values["text"])
            case "finished-before":
                self._tell("resume", f"{short_path(values['folder'])} has finished already, at step {values['step']}")
            case "join":
                processes = values["processes"]
                machine = f"{processes.number + 1} of {processes.commands}, training in {short_path(values['folder'])}"
                self._tell("machine", machine)
            case "begin":
                plan = values["plan"]
                self.bar.reset(self._task, description="starting", total=None, loss="-")
                self._tell("run folder", short_path(values["folder"]))
                trained = f"{plan.trainable_parameters:,} of {plan.total_parameters:,} parameters"
                self._tell("training", f"{plan.method}: {len(plan.trainables)} tensors, {trained}")
                choices = values["choices"]
                for name, reason in choices.reasons.items():
                    value = getattr(choices, name)
                    shown = str(value).lower() if isinstance(value, bool) else value
                    self._tell("choice", f"{name}: {shown} ({reason})")
                if choices.peak is not None:
                    seconds = f", {choices.seconds:.2f} s per batch" if choices.seconds else ""
                    self._tell("choice", f"predicted: {choices.peak / GIB:.1f} GiB at most{seconds}")
            case "stage":
                self.bar.update(self._task, description=values["name"])
                self._line(values["name"])
            case "note":
                self._tell(values["name"], values["text"])
            case "finding":
                print_findings([Problem(values["code"], values["message"], values["hint"])], self.console)
            case "start":
                self._steps, self._first_step = values["steps"], values["step"]
                self._training_since = time.monotonic()
                self.bar.update(self._task, description="training", total=self._steps, completed=values["step"])
            case "step":
                self.bar.update(self._task, completed=values["step"])
            case "log":
                self._log(event)
            case "answers" if values["malformed"]:
                text = f"{short_path(values['where'])}: {' '.join(values['text'].split())}"
                share = f"{values['malformed']} of {values['rows']} answers are malformed"
                at = f"step {values['step']}/{self._steps}"
                tell(self.console, f"{at}  {share}, e.g. {text}")
            case "saved":
                self._line(f"saved {Path(values['path']).name}")
            case "stopping":
                tell(self.console, "stopping after this step, and saving; Ctrl-C again stops at once")
            case "ended":
                self._tell("stopped", values["text"])
            case "finished":
                self._finish(values["result"])

    def _log(self, event: Event) -> None:
        values, at = event.values, f"step {event.values['step']}/{self._steps}"
        if "loss" in values:
            done = values["step"] - self._first_step
            left = (time.monotonic() - self._training_since) / done * (self._steps - values["step"]) if done else 0.0
            self.bar.update(self._task, loss=f"{values['loss']:.4f}")
            self._line(f"{at}  loss {values['loss']:.4f}  {left:.0f} s left")
        if "eval_loss" in values:
            tell(self.console, f"{at}  eval_loss {values['eval_loss']:.4f}")
        if scores := accuracies_of(event):
            tell(self.console, "  ".join([at, *(f"{name} {value:.3f}" for name, value in scores.items())]))

    def _finish(self, result: RunResult) -> None:
        losses, values = result.losses, result.values
        loss = f", loss {losses[0][1]:.4f} -> {losses[-1][1]:.4f}" if losses else ""
        self._tell(result.status, f"{result.step} steps in {result.seconds:.0f} s{loss}")
        if early := values.get("early_stop"):
            waited = counted(early["evaluations"], "evaluation")
            self._tell("early stop", f"{early['metric']} did not get better than {early['best']:.4f} in {waited}")
        if result.accuracies:
            self._tell("accuracy", ", ".join(f"{name} {value:.3f}" for name, value in result.accuracies.items()))
        if values.get("tokens_per_second"):
            memory = size_text(values.get("peak_memory", 0))
            self._tell("speed", f"{values['tokens_per_second']:,.0f} tokens/s, {memory} of memory at most")
        if chosen := result.chosen:
            self._tell("checkpoint", f"{short_path(chosen.path)}  ({chosen.reason})")
            with suppress(ModelError):  # the run has no best checkpoint
                best = choose(result.run_folder, "best")
                if best.path != chosen.path:
                    self._tell("best", f"{best.path.name} is {best.reason}; --checkpoint best takes it")
        if (result.run_folder / PICTURE_FILE).exists():
            self._tell("picture", short_path(result.run_folder / PICTURE_FILE))
        if result.status == "stopped" and values.get("resumable", True):
            self._tell("go on with", "the same command and --resume")
        elif result.status == "stopped":
            self._tell("go on with", "a new run: save_only_model left out what a resumed run needs")
        elif chosen:
            step = number_of(chosen.path)
            self._tell("next", f"swiftalign verify-ckpt {short_path(result.run_folder)} --checkpoint {step}")

    def _line(self, text: str) -> None:
        """What the bar shows on a terminal."""
        if not self.console.is_terminal:
            tell(self.console, text)

    def _tell(self, name: str, text: str) -> None:
        tell(self.console, f"{name:12}{text}", hang=12)
