"""`swiftalign init`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from swiftalign.cli.app import open_console
from swiftalign.problems import SwiftalignError


def init(
    path: Annotated[Path, typer.Argument(help="The file to write.")] = Path("config.yaml"),
    model: Annotated[str | None, typer.Option(help="Hub id, or folder of a local model.")] = None,
    method: Annotated[str | None, typer.Option(help="modules_to_save, lora, dora, adalora, boft or fourierft.")] = None,
    problem: Annotated[
        str | None,
        typer.Option(
            help="Choose the method by problem: overfitting, grounding-drift, capacity, optimization, "
            "coordinate-space or spatial-patterns."
        ),
    ] = None,
    train_file: Annotated[str | None, typer.Option("--train", help="JSONL file to train on.")] = None,
    val_file: Annotated[str | None, typer.Option("--val", help="JSONL file to validate on.")] = None,
    demo: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Make a workspace instead: a small Qwen3-VL, and drawn data of a camera new to it."
        ),
    ] = None,
    tiny: Annotated[
        bool, typer.Option("--tiny", help="With --demo: a random model and few rows, which train in seconds.")
    ] = False,
    curriculum: Annotated[
        Path | None,
        typer.Option(metavar="JSONL", help="Split rows by objects an image, and write a config in phases over them."),
    ] = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema of config files, and stop.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite what is there.")] = False,
) -> None:
    """Write a commented configuration, or a demo workspace.

    Asks for what is missing on a terminal. Examples:

      swiftalign init --model Qwen/Qwen3-VL-4B-Instruct --method dora --train data/train.jsonl

      swiftalign init --demo demo

      swiftalign init phases.yaml --curriculum data/train.jsonl
    """
    if schema:
        from swiftalign.config.schema import config_schema

        print(json.dumps(config_schema(), indent=2))
        return
    from swiftalign.demo.workspace import DemoRequest, write_demo
    from swiftalign.init.write import InitRequest, write_curriculum, write_init

    console = open_console()
    if tiny and demo is None:
        raise SwiftalignError("--tiny is for a demo workspace", "--demo DIR --tiny")
    if demo is not None:
        _refuse_beside_demo(model=model, problem=problem, train=train_file, val=val_file, curriculum=curriculum)
        with console.status("writing a small Qwen3-VL and drawing its data"):
            written = write_demo(DemoRequest(demo, method or "modules_to_save", force, tiny))
    elif curriculum is not None:
        with console.status("reading rows") as status:
            written = write_curriculum(
                path, curriculum, force=force, progress=lambda rows: status.update(f"reading rows: {rows:,}")
            )
    else:
        request = InitRequest(path, model, method, problem, train_file, val_file, force)
        written = write_init(_ask_for_missing(request) if sys.stdin.isatty() else request)
    for line in written:
        console.print(line, soft_wrap=True)


def _refuse_beside_demo(**options: object) -> None:
    given = [f"--{name}" for name, value in options.items() if value is not None]
    if given:
        raise SwiftalignError(
            f"--demo brings a model and data of its own, beside {', '.join(given)}", "keep one of them"
        )


def _ask_for_missing(request: Any) -> Any:
    from dataclasses import replace

    from swiftalign.methods import offered

    if request.model is None:
        request = replace(request, model=typer.prompt("Model (hub id or folder)", default="Qwen/Qwen3-VL-4B-Instruct"))
    if request.method is None and request.problem is None:
        for name, known in offered().items():
            print(f"  {name:16} {known.summary}")
        request = replace(request, method=typer.prompt("Method", default="modules_to_save"))
    if request.train is None:
        request = replace(request, train=typer.prompt("Training data (JSONL)", default="data/train.jsonl"))
    return request
