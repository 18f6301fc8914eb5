"""`swiftalign train`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
    from swiftalign.config import Config
    from swiftalign.plan import TuningPlan


def train(
    configs: Configs,
    overrides: Overrides = None,
    allowed: Allowed = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the arguments for ms-swift, and stop.")] = False,
    as_json: AsJson = False,
) -> None:
    """Check a configuration, then train it with ms-swift.

    Exit code 0, or 1 where pre-flight finds an error or training fails, or 2 where the configuration can't be read.
    Examples:

      swiftalign train stage4.yaml

      swiftalign train base.yaml stage4.yaml --set training.aligner_lr=5e-5

      swiftalign train stage4.yaml --dry-run
    """
    allowed = check_allowed(allowed)
    config, _, plan = resolve(configs, overrides)
    from swiftalign.findings import blocking
    from swiftalign.report import print_findings
    from swiftalign.training.run_folder import choose_run_folder

    print_findings(plan.findings, open_console(stderr=True), allowed=allowed)
    if blocking(plan.findings, allowed):
        raise typer.Exit(1)
    _check_data(config, plan, allowed)
    folder = choose_run_folder(config, configs[0])
    if dry_run:
        _print_arguments(config, plan, folder, as_json=as_json)
        return
    _train(config, plan, folder, as_json=as_json)


def _check_data(config: Config, plan: TuningPlan, allowed: list[str]) -> None:
    """Look at every row before anything trains."""
    require_training_data(config)
    from swiftalign.findings import blocking
    from swiftalign.grounding.scan import scan
    from swiftalign.grounding.tokens import pixel_limits
    from swiftalign.report import print_findings

    data, other, console = config.data, config.handed_through, open_console(stderr=True)
    tokenizer = Path(config.model.path) / "tokenizer.json"
    with console.status("reading the data") as status:
        report = scan(
            [Path(name) for name in (*data.train, *data.val)],
            max_length=other.get("max_length"),
            too_long=data.too_long,
            limits=pixel_limits(other.get("max_pixels")),
            tokenizer=tokenizer if tokenizer.is_file() else None,
            text=data.text,
            system=other.get("system"),
            progress=lambda rows: status.update(f"reading the data: {rows:,} rows"),
        )
    print_findings(report.findings, console, allowed=allowed)
    if blocking(report.findings, allowed):
        raise typer.Exit(1)


def _print_arguments(config: Config, plan: TuningPlan, folder: Path, *, as_json: bool) -> None:
    from swiftalign.training.lowering import lower, to_argv

    arguments = lower(config, plan, folder)
    if as_json:
        print(json.dumps(arguments, indent=2))
        return
    for name, value in arguments.items():
        print(" ".join(to_argv({name: value})))


def _train(config: Config, plan: TuningPlan, folder: Path, *, as_json: bool) -> None:
    from swiftalign.report import short_path
    from swiftalign.training.launch import follow_training
    from swiftalign.training.progress import RunProgress
    from swiftalign.training.run_folder import locked, write_run_files

    console = open_console(stderr=as_json)
    with locked(folder):
        write_run_files(folder, config, plan)
        console.print(f"run folder  {short_path(folder)}", soft_wrap=True)
        console.print(
            f"training    {plan.method}: {len(plan.trainables)} tensors, {plan.trainable_parameters:,} of "
            f"{plan.total_parameters:,} parameters"
        )
        with RunProgress(console) as progress:
            for event in follow_training(folder, local_model=Path(config.model.path).is_absolute()):
                progress.show(event)
        result = progress.finish(folder, plan)
    if as_json:
        print(json.dumps(result, indent=2))
