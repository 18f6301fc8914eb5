"""`swiftalign inspect-params`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from swiftalign.cli.app import Allowed, AsJson, Configs, Overrides, check_allowed, open_console, resolve
from swiftalign.errors import SwiftalignError

if TYPE_CHECKING:
    from swiftalign.config import Config
    from swiftalign.plan import TuningPlan


def inspect_params(
    configs: Configs,
    overrides: Overrides = None,
    allowed: Allowed = None,
    expect: Annotated[
        str | None, typer.Option(metavar="aligner", help="Fail unless all of the aligner trains, and nothing else.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what a configuration would train.

    Reads names, shapes and dtypes only; the model is not loaded.
    Exit code 0, or 1 with error findings, or 2 where there is no answer. Examples:

      swiftalign inspect-params stage4.yaml

      swiftalign inspect-params stage4.yaml --expect aligner --json
    """
    if expect not in (None, "aligner"):
        raise SwiftalignError(f"--expect {expect}: only 'aligner' can be expected")
    allowed = check_allowed(allowed)
    config, modules, plans = resolve(configs, overrides)
    from dataclasses import replace

    from swiftalign.checks.trained import expect_aligner
    from swiftalign.findings import blocking
    from swiftalign.report import plan_json, print_findings, print_phases, print_plan

    found = [finding for each in plans for finding in each.findings]
    once = tuple(finding for index, finding in enumerate(found) if finding not in found[:index])
    plan = replace(plans[0], findings=once)  # every phase trains the same
    if expect:
        plan = replace(plan, findings=(*plan.findings, *expect_aligner(plan, modules)))
    if as_json:
        phases = {"phases": [_phase(*each) for each in zip(config.runs, plans, strict=True)]} if config.phases else {}
        print(json.dumps(plan_json(plan) | phases, indent=2))
    else:
        console = open_console()
        print_plan(plan, modules, console)
        if config.phases:
            print_phases(zip(config.runs, plans, strict=True), console)
        if plan.findings:
            console.print()
            print_findings(plan.findings, console, allowed=allowed)
    if blocking(plan.findings, allowed):
        raise typer.Exit(1)


def _phase(config: Config, plan: TuningPlan) -> dict[str, Any]:
    from dataclasses import asdict

    return {"name": config.phase, "rates": plan.rates, "schedule": asdict(plan.schedule)}
