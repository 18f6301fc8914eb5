"""`swiftalign train`."""

from __future__ import annotations

import json
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
    require_training_data,
    resolve,
)

if TYPE_CHECKING:
    from rich.console import Console

    from swiftalign.config import Config
    from swiftalign.modules import Modules
    from swiftalign.plan import TuningPlan
    from swiftalign.schedule import LeftOut


def train(
    configs: Configs,
    overrides: Overrides = None,
    allowed: Allowed = None,
    go_on: Annotated[
        bool, typer.Option("--resume", help="Go on with the config's last run, from its newest sound checkpoint.")
    ] = False,
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

      swiftalign train stage4.yaml --dry-run
    """
    allowed = check_allowed(allowed)
    config, modules, plan = resolve(configs, overrides)
    from swiftalign.findings import blocking
    from swiftalign.report import print_findings, short_path
    from swiftalign.training.events import outcome
    from swiftalign.training.resume import data_digests
    from swiftalign.training.run_folder import choose_run_folder, latest_run, locked, write_run_files

    print_findings(plan.findings, open_console(stderr=True), allowed=allowed)
    if blocking(plan.findings, allowed):
        raise typer.Exit(1)
    left_out = _check_data(config, allowed)
    if left_out:
        plan = _with_fewer_rows(config, modules, plan, left_out, allowed)
    folder = latest_run(config, configs[0]) if go_on else choose_run_folder(config, configs[0])
    if dry_run:
        _print_arguments(config, plan, folder, as_json=as_json)
        return
    console = open_console(stderr=as_json)
    with locked(folder, used=go_on):
        if go_on and (ended := outcome(folder)) and ended.kind == "done":
            console.print(f"resume      {short_path(folder)} has finished already, at step {ended.values['step']}")
            return
        checkpoint = _resume(folder, config, plan, console) if go_on else None
        write_run_files(folder, config, plan, left_out, data_digests(config))
        result = _train(config, plan, folder, checkpoint, console)
    if as_json:
        print(json.dumps(result, indent=2))


def _resume(folder: Path, config: Config, plan: TuningPlan, console: Console) -> Path | None:
    """The checkpoint from which a run goes on; None where it begins."""
    from swiftalign.report import short_path
    from swiftalign.training.resume import newest_sound, require_same_run, set_aside
    from swiftalign.training.run_folder import PLAN_FILE, versions_changed

    if not (folder / PLAN_FILE).exists():
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
    from swiftalign.checks.data import scored_kind
    from swiftalign.findings import blocking
    from swiftalign.grounding.length_limit import length_limit
    from swiftalign.grounding.scan import scan
    from swiftalign.grounding.tokens import pixel_limits
    from swiftalign.report import print_findings

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
    findings = [*report.findings, *scored_kind(config, report.kinds)]
    print_findings(findings, console, allowed=allowed)
    if blocking(findings, allowed):
        raise typer.Exit(1)
    return report.left_out(files)


def _with_fewer_rows(
    config: Config, modules: Modules, plan: TuningPlan, left_out: LeftOut, allowed: list[str]
) -> TuningPlan:
    """The plan for the rows that remain: it has fewer steps."""
    from swiftalign.findings import blocking
    from swiftalign.plan import resolve_plan
    from swiftalign.report import print_findings

    shorter = resolve_plan(config, modules, left_out=left_out)
    new = [finding for finding in shorter.findings if finding not in plan.findings]
    print_findings(new, open_console(stderr=True), allowed=allowed)
    if blocking(new, allowed):
        raise typer.Exit(1)
    return shorter


def _print_arguments(config: Config, plan: TuningPlan, folder: Path, *, as_json: bool) -> None:
    from swiftalign.training.lowering import lower, to_argv

    arguments = lower(config, plan, folder)
    if as_json:
        print(json.dumps(arguments, indent=2))
        return
    for name, value in arguments.items():
        print(" ".join(to_argv({name: value})))


def _train(config: Config, plan: TuningPlan, folder: Path, checkpoint: Path | None, console: Console) -> dict[str, Any]:
    from swiftalign.report import short_path
    from swiftalign.training.launch import follow_training
    from swiftalign.training.progress import RunProgress

    console.print(f"run folder  {short_path(folder)}", soft_wrap=True)
    console.print(
        f"training    {plan.method}: {len(plan.trainables)} tensors, {plan.trainable_parameters:,} of "
        f"{plan.total_parameters:,} parameters"
    )
    local = Path(config.model.path).is_absolute()
    with RunProgress(console) as progress:
        try:
            for event in follow_training(folder, local_model=local, checkpoint=checkpoint):
                progress.show(event)
        except SystemExit:
            if progress.result.get("status") == "stopped":
                progress.finish(folder, plan)
                console.print("go on with  the same command and --resume")
            raise
    return progress.finish(folder, plan)
