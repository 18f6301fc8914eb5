"""Training as a function: pre-flight, the run folder, the training processes, and what they leave behind."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from swiftalign.checkpoint.choose import Chosen, checkpoints_of, choose
from swiftalign.checks.best_model import metric_without_value
from swiftalign.checks.data import geometry_kept, images_to_learn_from, scored_kind, scored_rows
from swiftalign.checks.learned import learned
from swiftalign.checks.preflight import preflight
from swiftalign.checks.sharding import chosen_way
from swiftalign.checks.training import packages
from swiftalign.config.sections import Config, best_metric
from swiftalign.data.encoding import encoding_of
from swiftalign.data.files import UNKNOWN, require_training_data
from swiftalign.data.metrics import METRICS
from swiftalign.data.rows import Rows
from swiftalign.data.scan import DataReport, read_data
from swiftalign.files import file_error, short_path
from swiftalign.plan.plan import TuningPlan
from swiftalign.plan.read import read_model
from swiftalign.plan.resolve import resolve
from swiftalign.problems import PreflightError, Problem, SwiftalignError, blocking
from swiftalign.runs.events import Event, curves_of, outcome, read_events
from swiftalign.runs.folder import (
    PICTURE_FILE,
    PLAN_FILE,
    Start,
    choose_run_folder,
    forget_run,
    holds_run,
    locked,
    phase_folder,
    versions_changed,
    write_config,
    write_run_files,
    write_start,
)
from swiftalign.runs.job import kept_out
from swiftalign.runs.launch import follow_training
from swiftalign.runs.peers import Peers
from swiftalign.runs.picture import draw_run
from swiftalign.runs.processes import ONE, Processes
from swiftalign.runs.resume import newest_sound, require_same_config, require_same_run
from swiftalign.speed.cards import present_card, visible_cards
from swiftalign.speed.choices import Choices
from swiftalign.speed.choose import choose_for_card
from swiftalign.speed.rows import rows_of

Listener = Callable[[Event], None]
_NOT_USED = "They fit only a command that torchrun or srun starts once per GPU, without --nproc, --gpus and --nnodes"


@dataclass(frozen=True)
class Part:
    """A run, or one phase of a run, that has passed pre-flight.

    Attributes:
        data: what the pass over the data has found.
        choices: how the run is made fast.
    """

    config: Config
    plan: TuningPlan
    data: DataReport
    choices: Choices


@dataclass(frozen=True)
class RunResult:
    """What a run left behind.

    Attributes:
        run_folder: folder of the configuration, plan, log, events and checkpoints.
        status: ``done``, or ``stopped`` by a signal after a checkpoint was saved.
        step: the last optimizer step.
        checkpoint: the last checkpoint that was saved; None where none was.
        best_checkpoint: that of the best evaluation; None where the run does not keep the best.
        seconds: wall-clock time from the start of the training processes to their end.
        losses: (step, training loss) of every log.
        accuracies: shares from 0 to 1 by name, e.g. ``bbox_acc``, from the last evaluation that measured them.
        values: everything else that the training processes report, by name, e.g. ``tokens_per_second``.
        phases: the result of each phase; empty for a run without phases.
        chosen: the checkpoint that the run folder stands for, and why; None where none was saved.
        signal: number of the signal that stopped the run; None where it was not stopped.
    """

    run_folder: Path
    status: str
    step: int
    checkpoint: Path | None
    best_checkpoint: Path | None = None
    seconds: float = 0.0
    losses: tuple[tuple[int, float], ...] = ()
    accuracies: dict[str, float] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    phases: tuple[RunResult, ...] = ()
    chosen: Chosen | None = None
    signal: int | None = None

    def to_json(self) -> dict[str, Any]:
        folder = {"run_folder": str(self.run_folder)}
        if self.phases:
            phases = [phase.to_json() for phase in self.phases]
            return {**folder, "checkpoint": phases[-1].get("checkpoint"), "phases": phases}
        loss = self.losses[-1][1] if self.losses else None
        values = {**folder, "seconds": round(self.seconds, 1), **self.values, "status": self.status, "loss": loss}
        return values | ({"chosen": self.chosen.to_json()} if self.chosen else {})


def prepare(
    config: Config,
    *,
    allow: Collection[str] = (),
    processes: Processes = ONE,
    encode: bool = False,
    check_images: bool = True,
    listen: Listener = lambda event: None,
) -> list[Part]:
    """Everything that comes before training: read the model, resolve the plan, run pre-flight, look at every row.

    Args:
        allow: codes of error problems that do not stop the run.
        processes: how many processes train, and where.
        encode: whether a few rows are encoded and read back, as the training process does before it trains.
        check_images: whether every image is decoded before training, not only its header read.
        listen: is called with each event, for progress and messages.

    Returns:
        The run, or its phases in their order.

    Raises:
        PreflightError: a problem that is an error was found and is not allowed.
        ModelError: there is no such model.
        DataError: a data file is missing or empty.
    """
    for part in config.runs:
        require_training_data(part)
    seen: list[Problem] = []

    def stop_at_errors(problems: list[Problem]) -> None:
        new = [problem for problem in problems if problem not in seen]
        seen.extend(new)
        if new:
            listen(Event("problems", {"problems": new}))
        if errors := blocking(new, allow):
            raise PreflightError(errors)

    def show(text: str) -> None:
        listen(Event("progress", {"text": text}))

    cards, parts = visible_cards(), []
    card = present_card([each for each in cards if each.entry in processes.gpus] or cards[:1])
    one_card = any(part.training.sharding != "device_map" for part in config.runs)
    if len(cards) > 1 and processes.total == 1 and not processes.gpus and one_card:
        on = "both" if len(cards) == 2 else f"all {len(cards)}"
        used = f"GPU {cards[0].number or cards[0].entry}; --nproc {len(cards)} trains on {on}"
        listen(Event("note", {"name": "gpu", "text": f"{len(cards)} GPUs are visible, and one is used: {used}"}))
    if not processes.job and (names := kept_out(os.environ)):
        listen(Event("note", {"name": "job", "text": f"not used: {', '.join(names)}. {_NOT_USED}"}))
    show("reading the model")
    model = read_model(config)
    for part in config.runs:
        # The configuration is checked before the data is read, which takes long, and again when its rows are counted.
        unread = resolve(part, model, rows=UNKNOWN, processes=processes.total)
        stop_at_errors([*packages(part), *preflight(part, model, unread)])
        data = read_data(
            part,
            lambda rows: show(f"reading the data: {rows:,} rows"),
            check_images=check_images,
            image_progress=lambda done, about: show(f"checking images: {done:,} of about {about:,}"),
        )
        stop_at_errors([*data.findings, *scored_kind(part, data.kinds), *scored_rows(part, data)])
        plan = resolve(part, model, rows=data.rows, processes=processes.total)
        stop_at_errors([*images_to_learn_from(part, plan, data), *geometry_kept(part, data)])
        if encode:
            show("encoding a few rows")
            stop_at_errors(list(learned(part, data)))
        stop_at_errors(preflight(part, model, plan))
        sample = []
        if card:
            encoding = encoding_of(part)
            rows = Rows(part.data.sources("train"), data.left_out, encoding.writing, data.files)
            sample = rows_of(rows, encoding)
        plan, choices, predictor = choose_for_card(part, model, plan, card, sample, counts=data.rows)
        stop_at_errors([*preflight(part, model, plan), *chosen_way(part, plan, choices, predictor)])
        parts.append(Part(part, plan, data, choices))
    return parts


def train(
    config: Config,
    *,
    resume: bool = False,
    allow: Collection[str] = (),
    processes: Processes = ONE,
    check_images: bool = True,
    listen: Listener = lambda event: None,
) -> RunResult:
    """Check a configuration and all its rows, then train it with ms-swift in child processes.

    The first Ctrl-C or SIGTERM saves a checkpoint after the current step; ``status`` is then ``stopped``.

    Args:
        config: the configuration, or its phases.
        resume: go on with the configuration's last run, from its newest sound checkpoint.
        allow: codes of error problems that do not stop the run.
        processes: how many processes train, and where; this is command 0 of those that train together.
        check_images: whether every image is decoded before training, not only its header read.
        listen: is called with each event, for progress and messages. By default nothing is shown.

    Returns:
        What the run left behind: of a run in phases that of its last phase, with all phases in ``phases``.

    Raises:
        PreflightError: a problem that is an error was found and is not allowed.
        ModelError: there is no such model.
        DataError: a data file is missing or empty.
        SwiftalignError: the run uses several machines, and ``training.output_dir`` is not set.
        RunFolderError: the run folder is in use, holds another run, or can't be written.
        TrainingError: training ended before its last step.
        SystemExit: SIGTERM or Ctrl-C came before the first step, or a second time.
    """
    if processes.several_machines and not config.training.output_dir:
        hint = "--set training.output_dir=/shared/runs/NAME"
        raise SwiftalignError("several machines need a run folder that all of them see", hint)
    with Peers(processes) as peers:
        parts = prepare(config, allow=allow, processes=processes, check_images=check_images, listen=listen)
        folder = choose_run_folder(config, resume=resume)
        before = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
        kept = None if holds_run(folder) else before
        with locked(folder, used=resume):
            try:
                result = _run_phases(config, parts, folder, processes, peers, listen, allow=allow, resume=resume)
            except SystemExit:  # a signal before the first step, or a second one
                listen(Event("ended", {"text": _ended(folder, kept)}))
                raise
        if result.signal:
            peers.code = 128 + result.signal
        return result


def _run_phases(
    config: Config,
    parts: list[Part],
    folder: Path,
    processes: Processes,
    peers: Peers,
    listen: Listener,
    *,
    allow: Collection[str],
    resume: bool,
) -> RunResult:
    """Train a run that has passed pre-flight, or its phases, one after the other."""
    if not config.phases:
        return _run(parts[0], folder, processes, peers, listen, allow=allow, resume=resume)
    if resume and holds_run(folder):
        require_same_config(folder, config)
    write_config(folder, config)
    results: list[RunResult] = []
    for number, part in enumerate(parts, 1):
        listen(Event("phase", {"number": number, "phases": len(parts), "config": part.config, "plan": part.plan}))
        # Weights are carried on from phase to phase; optimizer and schedule begin afresh.
        chosen = results[-1].chosen if results else None
        weights = chosen.path if chosen else None
        inner = phase_folder(folder, number)
        inner.mkdir(exist_ok=True)
        go_on = resume and holds_run(inner)
        results.append(_run(part, inner, processes, peers, listen, allow=allow, resume=go_on, weights=weights))
        if results[-1].status == "stopped":
            break
    return replace(results[-1], run_folder=folder, phases=tuple(results))


def _run(
    part: Part,
    folder: Path,
    processes: Processes,
    peers: Peers,
    listen: Listener,
    *,
    allow: Collection[str],
    resume: bool,
    weights: Path | None = None,
) -> RunResult:
    """Train in a run folder.

    Args:
        weights: a checkpoint whose weights the run begins with.
    """
    config, plan = part.config, part.plan
    if resume and (ended := outcome(folder)) and ended.kind == "done":
        listen(Event("finished-before", {"folder": folder, "step": ended.values["step"]}))
        return _result(folder, [ended], 0.0)
    checkpoint = None
    if resume and not holds_run(folder):
        listen(Event("resume", {"text": f"no run in {short_path(folder)}: it begins now"}))
    elif resume:
        require_same_run(folder, config, plan, part.data.digests)
        for change in versions_changed(folder):
            listen(Event("resume", {"text": f"{change}: the result may differ"}))
        listen(Event("progress", {"text": "checking checkpoints"}))
        checkpoint, passed_over = newest_sound(folder, plan)
        for each in passed_over:
            listen(Event("resume", {"text": f"skipping {each.path.name}: {each.reason}"}))
            if each.damaged:
                aside = each.path.with_name(f"damaged-{each.path.name}")  # `save_total_limit` then does not count it
                shutil.rmtree(aside, ignore_errors=True)
                each.path.rename(aside)
        name = checkpoint.name if checkpoint else "the beginning, as there is no sound checkpoint"
        listen(Event("resume", {"text": f"from {name}"}))
    write_run_files(folder, config, plan, part.data, part.choices)
    unchecked = "data-not-learned" in allow
    write_start(folder, Start(checkpoint, None if checkpoint else weights, unchecked))
    listen(Event("begin", {"folder": folder, "plan": plan, "choices": part.choices}))
    began, events = time.monotonic(), []
    local = Path(config.model.path).is_absolute()
    spread = part.choices.sharding == "device_map"
    for event in follow_training(folder, local_model=local, processes=processes, peers=peers, all_gpus=spread):
        events.append(event)
        listen(event)
    measured = curves_of(read_events(folder)).get(f"eval_{best_metric(config)}", {})
    for problem in metric_without_value(config, measured.values()):
        listen(event := Event("finding", {"severity": problem.severity, **asdict(problem)}))
        events.append(event)
    result = _result(folder, events, time.monotonic() - began)
    if result.losses:
        try:
            draw_run(folder / PICTURE_FILE, read_events(folder), title=f"{folder.name}: {plan.method}")
        except OSError as error:  # the disk may just be full, and the run has ended well
            listen(Event("note", {"name": "picture", "text": f"not drawn: {file_error(error).message}"}))
    listen(Event("finished", {"result": result}))
    return result


def _ended(folder: Path, kept: Collection[str] | None) -> str:
    """What a run leaves that a signal has ended at once; one that has not taken a step is removed.

    Args:
        kept: names of what was in the folder before; None if that was a run.
    """
    place = folder if (folder / PLAN_FILE).exists() else phase_folder(folder, 1)
    if kept is not None and not any(event.kind == "step" for event in read_events(place)):
        forget_run(folder, kept)
        return "before the first step: nothing was trained, and nothing of the run is left"
    if checkpoints_of(folder):
        return f"at once: {choose(folder, 'last').path.name} is the last that was saved; --resume continues from it"
    return "at once: no checkpoint was saved; --resume begins with the first step"


def _result(folder: Path, events: list[Event], seconds: float) -> RunResult:
    """What a run's events add up to."""
    values: dict[str, Any] = {}
    losses: list[tuple[int, float]] = []
    accuracies: dict[str, float] = {}
    status, signal = "done", None
    for event in events:
        match event.kind:
            case "finding":
                values.setdefault("findings", []).append(event.values)
            case "log":
                if "loss" in event.values:
                    losses.append((event.values["step"], event.values["loss"]))
                accuracies = accuracies_of(event) or accuracies
            case "saved":
                paths = values.setdefault("checkpoints", [])
                if event.values["path"] not in paths:  # the last step of an epoch may save twice
                    paths.append(event.values["path"])
            case "done" | "stopped":
                values |= event.values
                status = event.kind
            case "signal":
                signal = event.values["number"]
    best, last = (values.get(name) for name in ("best_checkpoint", "checkpoint"))
    return RunResult(
        folder,
        status,
        values.get("step", 0),
        Path(last) if last else None,
        Path(best) if best else None,
        seconds,
        tuple(losses),
        accuracies,
        values,
        chosen=choose(folder) if checkpoints_of(folder) else None,
        signal=signal,
    )


def accuracies_of(event: Event) -> dict[str, float]:
    """The accuracies by kind of target that an event of an evaluation holds, without the prefix ``eval_``."""
    scores = {name.removeprefix("eval_"): value for name, value in event.values.items() if name.endswith("_acc")}
    return {name: value for name, value in scores.items() if METRICS.get(name)}
