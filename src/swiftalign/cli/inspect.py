"""`swiftalign inspect-params`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from swiftalign.cli.app import Allowed, AsJson, Configs, Overrides, as_result, check_allowed, print_json
from swiftalign.cli.complete import one_of
from swiftalign.cli.terminal import open_console
from swiftalign.problems import SwiftalignError, blocking


def inspect_params(
    configs: Configs,
    overrides: Overrides = None,
    allowed: Allowed = None,
    expect: Annotated[
        str | None,
        typer.Option(
            metavar="aligner",
            help="Exit with 1 unless all of the aligner trains, and nothing else.",
            autocompletion=one_of("aligner"),
        ),
    ] = None,
    gpu: Annotated[
        str | None,
        typer.Option(
            "--gpu",
            metavar="GPU",
            help="Predict memory and time on a GPU: a name (H100), a size (80GiB), or 'here' for this machine's. "
            "Several GPUs of a machine: 4xH100.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what a configuration would train.

    Only names, shapes and dtypes are read; the model is not loaded.

    Exit codes: 0 = no errors, 1 = a problem is an error, 2 = the config or the model can't be read.

    Examples:

      swiftalign inspect-params stage4.yaml

      swiftalign inspect-params stage4.yaml --expect aligner --json

      swiftalign inspect-params stage4.yaml --gpu H100

      swiftalign inspect-params stage4.yaml --gpu 4xH100

    Next: 'swiftalign train CONFIG' trains it.
    """
    if expect not in (None, "aligner"):
        raise SwiftalignError(f"--expect {expect}: only 'aligner' can be expected")
    allowed = check_allowed(allowed)
    from swiftalign.checks.preflight import preflight
    from swiftalign.checks.sharding import chosen_way
    from swiftalign.checks.trained import expect_aligner
    from swiftalign.cli.show import plan_json, print_findings, print_phases, print_plan, print_what_fits
    from swiftalign.config.load import load_config
    from swiftalign.plan.read import read_model
    from swiftalign.plan.resolve import resolve
    from swiftalign.speed.cards import named_card, present_card, several, visible_cards

    card, processes = None, 1
    if gpu:
        processes, name = several(gpu)
        card = present_card(visible_cards()[:1]) if name == "here" else named_card(name)
        if card is None:
            raise SwiftalignError(f"--gpu {gpu}: no NVIDIA GPU was found on this machine", "name one, e.g. --gpu H100")
    config = load_config(configs, overrides or [])
    with open_console(stderr=True).status("reading the model"):  # drawn on a terminal only
        model = read_model(config)
    parts = [(part, resolve(part, model, processes=processes)) for part in config.runs]
    plan = parts[0][1]  # every phase trains the same
    problems = [problem for part in parts for problem in preflight(part[0], model, part[1])]
    problems += expect_aligner(plan, model) if expect else []
    fits = []
    if card:
        from swiftalign.data.encoding import encoding_of
        from swiftalign.data.rows import Rows
        from swiftalign.speed.choose import choose_for_card
        from swiftalign.speed.rows import rows_of
        from swiftalign.speed.what_fits import what_fits

        for part, each in parts:
            encoding, sources = encoding_of(part), part.data.sources("train")
            rows = rows_of(Rows(sources, writing=encoding.writing), encoding) if sources else []
            chosen, choices, predictor = choose_for_card(part, model, each, card, rows)
            if predictor is None:
                message = f"--gpu: the memory of {each.model_type} is not known"
                raise SwiftalignError(message, "it is counted for Qwen3-VL, Qwen3.5 and Qwen2.5-VL")
            problems += chosen_way(part, chosen, choices, predictor)
            fits.append(what_fits(part, chosen, choices, predictor, assumed=not rows))
    problems = [problem for index, problem in enumerate(problems) if problem not in problems[:index]]
    if as_json:
        values = plan_json(plan, problems)
        if config.phases:
            values["phases"] = [
                {"name": part.phase, "rates": each.trained_rates, "schedule": asdict(each.schedule)}
                for part, each in parts
            ]
        if fits:
            values["what_fits"] = [asdict(each) for each in fits] if config.phases else asdict(fits[0])
        print_json(as_result(values, problems, ok=not blocking(problems, allowed)))
    else:
        console = open_console()
        print_plan(plan, model, console)
        if config.phases:
            print_phases(parts, console)
        for (part, _), found in zip(parts, fits, strict=False):
            print_what_fits(found, console, phase=part.phase)
        if problems:
            console.print()
            print_findings(problems, console, allowed=allowed)
    if blocking(problems, allowed):
        raise typer.Exit(1)
