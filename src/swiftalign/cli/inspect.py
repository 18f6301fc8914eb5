"""`swiftalign inspect-params`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from swiftalign.cli.app import Allowed, AsJson, Configs, Overrides, check_allowed, open_console, read_plans
from swiftalign.problems import SwiftalignError

if TYPE_CHECKING:
    from swiftalign.config.sections import Config
    from swiftalign.model.tree import Model
    from swiftalign.plan.plan import TuningPlan
    from swiftalign.speed.cards import Card
    from swiftalign.speed.what_fits import WhatFits


def inspect_params(
    configs: Configs,
    overrides: Overrides = None,
    allowed: Allowed = None,
    expect: Annotated[
        str | None, typer.Option(metavar="aligner", help="Fail unless all of the aligner trains, and nothing else.")
    ] = None,
    gpu: Annotated[
        str | None,
        typer.Option(
            "--gpu", metavar="80GiB", help="Predict memory and time on a card: its memory, its name, or here."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what a configuration would train.

    Reads names, shapes and dtypes only; the model is not loaded.
    Exit code 0, or 1 with error findings, or 2 where there is no answer. Examples:

      swiftalign inspect-params stage4.yaml

      swiftalign inspect-params stage4.yaml --expect aligner --json

      swiftalign inspect-params stage4.yaml --gpu H100
    """
    if expect not in (None, "aligner"):
        raise SwiftalignError(f"--expect {expect}: only 'aligner' can be expected")
    allowed = check_allowed(allowed)
    card = _card(gpu) if gpu else None
    config, modules, plans = read_plans(configs, overrides)
    from dataclasses import asdict, replace

    from swiftalign.cli.show import plan_json, print_findings, print_phases, print_plan, print_what_fits
    from swiftalign.preflight.trained import expect_aligner
    from swiftalign.problems import blocking

    found = [finding for each in plans for finding in each.findings]
    once = tuple(finding for index, finding in enumerate(found) if finding not in found[:index])
    plan = replace(plans[0], findings=once)  # every phase trains the same
    if expect:
        plan = replace(plan, findings=(*plan.findings, *expect_aligner(plan, modules)))
    parts = list(zip(config.runs, plans, strict=True))
    fits = [_what_fits(part, modules, each, card) for part, each in parts] if card else []
    if as_json:
        told = plan_json(plan)
        if config.phases:
            told["phases"] = [_phase(*part) for part in parts]
        if fits:
            told["what_fits"] = [asdict(each) for each in fits] if config.phases else asdict(fits[0])
        print(json.dumps(told, indent=2))
    else:
        console = open_console()
        print_plan(plan, modules, console)
        if config.phases:
            print_phases(parts, console)
        for (part, _), what_fits in zip(parts, fits, strict=False):
            print_what_fits(what_fits, console, phase=part.phase)
        if plan.findings:
            console.print()
            print_findings(plan.findings, console, allowed=allowed)
    if blocking(plan.findings, allowed):
        raise typer.Exit(1)


def _card(text: str) -> Card:
    from swiftalign.speed.cards import named_card, present_card

    card = present_card() if text == "here" else named_card(text)
    if card is None:
        raise SwiftalignError("--gpu here: this machine has no NVIDIA GPU that answers", "name one, as --gpu H100")
    return card


def _what_fits(config: Config, modules: Model, plan: TuningPlan, card: Card) -> WhatFits:
    from swiftalign.speed.choose import choose_for_card
    from swiftalign.speed.rows import rows_of
    from swiftalign.speed.what_fits import what_fits

    rows = rows_of(config) if config.data.train else []
    plan, choices, predictor = choose_for_card(config, modules, plan, card, rows)
    if predictor is None:
        raise SwiftalignError(f"--gpu: the memory of {plan.model_type} is not known", "it is counted for Qwen3-VL")
    return what_fits(predictor, plan, choices, assumed=not rows)


def _phase(config: Config, plan: TuningPlan) -> dict[str, Any]:
    from dataclasses import asdict

    return {"name": config.phase, "rates": plan.rates, "schedule": asdict(plan.schedule)}
