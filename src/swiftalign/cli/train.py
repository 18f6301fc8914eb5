"""`swiftalign train`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from swiftalign.cli.app import (
    Allowed,
    AsJson,
    Configs,
    Overrides,
    check_allowed,
    open_console,
    read_plans,
    require_training_data,
)
from swiftalign.problems import SwiftalignError

if TYPE_CHECKING:
    from rich.console import Console

    from swiftalign.config.sections import Config
    from swiftalign.model.tree import Model
    from swiftalign.plan.plan import TuningPlan
    from swiftalign.plan.schedule import LeftOut
    from swiftalign.problems import Problem
    from swiftalign.runs.processes import Processes
    from swiftalign.speed.cards import Card
    from swiftalign.speed.choices import Choices


def train(
    configs: Configs,
    overrides: Overrides = None,
    allowed: Allowed = None,
    go_on: Annotated[
        bool, typer.Option("--resume", help="Go on with the config's last run, from its newest sound checkpoint.")
    ] = False,
    nproc: Annotated[int | None, typer.Option(min=1, help="Processes on this machine, one a GPU.")] = None,
    gpus: Annotated[str | None, typer.Option(metavar="0,1", help="GPUs to train on, a process each.")] = None,
    nnodes: Annotated[int, typer.Option(min=1, help="Machines; the same command runs on each.")] = 1,
    node_rank: Annotated[int | None, typer.Option(min=0, help="Number of this machine, from 0.")] = None,
    rdzv_endpoint: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Of the first machine.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the arguments for ms-swift, and stop.")] = False,
    as_json: AsJson = False,
) -> None:
    """Check a configuration, then train it with ms-swift.

    SIGTERM and the first Ctrl-C save a checkpoint after the running step; --resume goes on from there.
    Exit code 0, or 1 where pre-flight finds an error or training fails, or 2 where the configuration can't be read.
    Examples:

      swiftalign train stage4.yaml

      swiftalign train base.yaml stage4.yaml --set training.aligner_lr=5e-5

      swiftalign train stage4.yaml --resume

      swiftalign train stage4.yaml --gpus 0,1,2,3

      swiftalign train stage4.yaml --dry-run
    """
    allowed = check_allowed(allowed)
    from swiftalign.runs.processes import choose_processes

    processes = choose_processes(nproc, gpus, nnodes, node_rank, rdzv_endpoint)
    config, modules, plans = read_plans(configs, overrides, processes=processes.total)
    if processes.nodes > 1 and not config.training.output_dir:
        raise SwiftalignError("several machines need a run folder that all of them see", _FOLDER)
    from swiftalign.speed.cards import present_card

    card = present_card()
    parts = [_preflight(part, modules, plan, allowed, card) for part, plan in zip(config.runs, plans, strict=True)]
    from swiftalign.runs.folder import choose_run_folder, latest_run, locked

    folder = latest_run(config, configs[0]) if go_on else choose_run_folder(config, configs[0])
    if dry_run:
        _print_arguments(parts, folder, processes, as_json=as_json)
        return
    console = open_console(stderr=as_json)
    if processes.node:
        _join(config, parts, folder, processes, console)
        return
    with locked(folder, used=go_on):
        if config.phases:
            result = _run_phases(config, parts, folder, processes, console, go_on=go_on)
        else:
            result = _run(parts[0], folder, processes, console, go_on=go_on)
    if as_json:
        print(json.dumps(result, indent=2))


_FOLDER = "--set training.output_dir=/shared/runs/NAME"


@dataclass(frozen=True)
class _Part:
    """A run, or a phase of one, that has passed pre-flight."""

    config: Config
    plan: TuningPlan
    left_out: LeftOut
    choices: Choices


def _preflight(config: Config, modules: Model, plan: TuningPlan, allowed: list[str], card: Card | None) -> _Part:
    from swiftalign.speed.choose import choose_for_card
    from swiftalign.speed.rows import rows_of

    _stop_at_errors(plan.findings, allowed)
    left_out = _check_data(config, allowed)
    rows = rows_of(config, left_out) if card else []
    final, choices, _ = choose_for_card(config, modules, plan, card, rows, left_out=left_out)
    _stop_at_errors([finding for finding in final.findings if finding not in plan.findings], allowed)
    return _Part(config, final, left_out, choices)


def _stop_at_errors(findings: Sequence[Problem], allowed: list[str]) -> None:
    from swiftalign.cli.show import print_findings
    from swiftalign.problems import blocking

    print_findings(findings, open_console(stderr=True), allowed=allowed)
    if blocking(findings, allowed):
        raise typer.Exit(1)


def _join(config: Config, parts: list[_Part], folder: Path, processes: Processes, console: Console) -> None:
    """Train as one of several machines; the first one writes the run folder and shows progress."""
    from swiftalign.cli.show import short_path
    from swiftalign.runs.folder import phase_folder
    from swiftalign.runs.launch import follow_training

    console.print(f"machine     {processes.node + 1} of {processes.nodes}, training in {short_path(folder)}")
    for number in range(1, len(parts) + 1):
        inner = phase_folder(folder, number) if config.phases else folder
        inner.mkdir(parents=True, exist_ok=True)
        for _ in follow_training(inner, local_model=Path(config.model.path).is_absolute(), processes=processes):
            pass


def _run_phases(
    config: Config, parts: list[_Part], folder: Path, processes: Processes, console: Console, *, go_on: bool
) -> dict[str, Any]:
    """Train phase after phase: weights are carried on, optimizer and schedule begin afresh."""
    from swiftalign.cli.show import phase_line
    from swiftalign.runs.folder import holds_run, phase_folder, write_config
    from swiftalign.runs.resume import require_same_config

    if go_on and holds_run(folder):
        require_same_config(folder, config)
    write_config(folder, config)
    results: list[dict[str, Any]] = []
    for number, part in enumerate(parts, 1):
        console.print(f"\nphase {number}/{len(parts)}   {phase_line(part.config, part.plan)}", soft_wrap=True)
        weights = _weights(parts[number - 2], results[-1]) if results else None
        inner = phase_folder(folder, number)
        inner.mkdir(exist_ok=True)
        results.append(_run(part, inner, processes, console, go_on=go_on and holds_run(inner), weights=weights))
    return {"run_folder": str(folder), "checkpoint": results[-1].get("checkpoint"), "phases": results}


def _weights(part: _Part, result: dict[str, Any]) -> Path:
    """What the next phase begins with: the best checkpoint where it is asked for, else the last."""
    best = result.get("best_checkpoint") if part.config.training.load_best_model_at_end else None
    return Path(best or result["checkpoint"])


def _run(
    part: _Part, folder: Path, processes: Processes, console: Console, *, go_on: bool, weights: Path | None = None
) -> dict[str, Any]:
    """Train in a run folder, and tell what came of it."""
    from swiftalign.cli.progress import RunProgress
    from swiftalign.cli.show import choice_lines, short_path
    from swiftalign.runs.events import outcome
    from swiftalign.runs.folder import Start, write_run_files, write_start
    from swiftalign.runs.launch import follow_training
    from swiftalign.runs.resume import data_digests

    config, plan = part.config, part.plan
    if go_on and (ended := outcome(folder)) and ended.kind == "done":
        console.print(f"resume      {short_path(folder)} has finished already, at step {ended.values['step']}")
        return {"run_folder": str(folder), **ended.values}
    checkpoint = _resume(folder, config, plan, console) if go_on else None
    write_run_files(folder, config, plan, part.left_out, data_digests(config), part.choices)
    write_start(folder, Start(checkpoint) if checkpoint else Start(weights=weights))
    console.print(f"run folder  {short_path(folder)}", soft_wrap=True)
    console.print(
        f"training    {plan.method}: {len(plan.trainables)} tensors, {plan.trainable_parameters:,} of "
        f"{plan.total_parameters:,} parameters"
    )
    for line in choice_lines(part.choices):
        console.print(f"choice      {line}", soft_wrap=True)
    local = Path(config.model.path).is_absolute()
    with RunProgress(console) as progress:
        try:
            for event in follow_training(folder, local_model=local, processes=processes):
                progress.show(event)
        except SystemExit:
            if progress.result.get("status") == "stopped":
                progress.finish(folder, plan)
                console.print("go on with  the same command and --resume")
            raise
    return progress.finish(folder, plan)


def _resume(folder: Path, config: Config, plan: TuningPlan, console: Console) -> Path | None:
    """The checkpoint from which a run goes on; None where it begins."""
    from swiftalign.cli.show import short_path
    from swiftalign.runs.folder import holds_run, versions_changed
    from swiftalign.runs.resume import newest_sound, require_same_run, set_aside

    if not holds_run(folder):
        console.print(f"resume      no run in {short_path(folder)}: it begins now", soft_wrap=True)
        return None
    require_same_run(folder, config, plan)
    for change in versions_changed(folder):
        console.print(f"resume      {change}: the result may differ", soft_wrap=True)
    with console.status("checking checkpoints"):
        resumption = newest_sound(folder, plan)
    for damaged, fault in resumption.damaged:
        console.print(f"resume      passing over {damaged.name}: {fault}", soft_wrap=True, markup=False)
    set_aside(resumption)
    name = resumption.checkpoint.name if resumption.checkpoint else "the beginning, as no checkpoint is sound"
    console.print(f"resume      from {name}", soft_wrap=True)
    return resumption.checkpoint


def _check_data(config: Config, allowed: list[str]) -> LeftOut:
    """Look at every row before anything trains; returns those that are too long, where they are to be dropped."""
    require_training_data(config)
    from swiftalign.data.length_limit import length_limit
    from swiftalign.data.scan import scan
    from swiftalign.data.tokens import pixel_limits
    from swiftalign.preflight.data import scored_kind

    data, other, console = config.data, config.handed_through, open_console(stderr=True)
    files, limit = [Path(name) for name in (*data.train, *data.val)], length_limit(config)
    with console.status("reading the data") as status:
        report = scan(
            files,
            max_length=limit.most if limit else None,
            too_long=data.too_long,
            limits=pixel_limits(other.get("max_pixels")),
            tokenizer=limit.tokenizer if limit else None,
            text=data.text,
            system=other.get("system"),
            progress=lambda rows: status.update(f"reading the data: {rows:,} rows"),
        )
    _stop_at_errors([*report.findings, *scored_kind(config, report.kinds)], allowed)
    return report.left_out(files)


def _print_arguments(parts: list[_Part], folder: Path, processes: Processes, *, as_json: bool) -> None:
    from swiftalign.runs.folder import phase_folder
    from swiftalign.runs.lowering import lower, to_argv

    lowered = []
    for number, part in enumerate(parts, 1):
        place = phase_folder(folder, number) if part.config.phase else folder
        lowered.append(lower(part.config, part.plan, place, part.choices))
    if as_json:
        print(json.dumps(lowered if parts[0].config.phase else lowered[0], indent=2))
        return
    if processes.total > 1:
        print("#", " ".join(["torchrun", *processes.command(str(folder))[3:]]))
    for part, arguments in zip(parts, lowered, strict=True):
        if part.config.phase:
            print(f"# {part.config.phase}")
        for name, value in arguments.items():
            print(" ".join(to_argv({name: value})))
