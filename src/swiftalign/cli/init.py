"""`swiftalign init`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from swiftalign.cli.app import open_console
from swiftalign.problems import SwiftalignError


def init(
    path: Annotated[Path, typer.Argument(metavar="CONFIG", help="File to write.")] = Path("config.yaml"),
    model: Annotated[str | None, typer.Option(metavar="MODEL", help="Hub id, or path of a model folder.")] = None,
    method: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Tuning method: modules_to_save, lora, dora, adalora, boft or fourierft."),
    ] = None,
    problem: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Choose the method by the problem to solve: overfitting (few rows), grounding-drift (targets move), "
            "capacity (which layers need more rank), optimization (rank limits the fit), coordinate-space (keep the "
            "features' geometry) or spatial-patterns. The file says why, and what was measured.",
        ),
    ] = None,
    train_file: Annotated[str | None, typer.Option("--train", metavar="JSONL", help="File to train on.")] = None,
    val_file: Annotated[str | None, typer.Option("--val", metavar="JSONL", help="File to validate on.")] = None,
    demo: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Write a demo workspace instead: a small Qwen3-VL, and images of a camera that it was not trained on.",
        ),
    ] = None,
    tiny: Annotated[
        bool, typer.Option("--tiny", help="With --demo: a tiny random model and few rows, which train in seconds.")
    ] = False,
    curriculum: Annotated[
        Path | None,
        typer.Option(
            metavar="JSONL", help="Split rows by objects per image, and write a config with one phase per group."
        ),
    ] = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema of config files, and exit.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite existing files.")] = False,
) -> None:
    """Write a configuration with comments, or a demo workspace.

    On a terminal, it asks for options that are missing. Examples:

      swiftalign init --model Qwen/Qwen3-VL-4B-Instruct --method dora --train data/train.jsonl

      swiftalign init --demo demo

      swiftalign init phases.yaml --curriculum data/train.jsonl
    """
    if schema:
        from swiftalign.config.schema import config_schema

        print(json.dumps(config_schema(), indent=2))
        return
    from swiftalign.demo.workspace import write_demo
    from swiftalign.init.write import write_curriculum, write_init
    from swiftalign.methods import offered

    console = open_console()
    if tiny and demo is None:
        raise SwiftalignError("--tiny works only with --demo", "write --demo DIR --tiny")
    if demo is not None:
        beside = {"model": model, "problem": problem, "train": train_file, "val": val_file, "curriculum": curriculum}
        if given := [f"--{name}" for name, value in beside.items() if value is not None]:
            message = f"--demo has its own model and data, so it can't be combined with {', '.join(given)}"
            raise SwiftalignError(message, "remove one of them")
        with console.status("writing a small Qwen3-VL and drawing its data"):
            written = write_demo(demo, method=method or "modules_to_save", force=force, tiny=tiny)
    elif curriculum is not None:
        with console.status("reading rows") as status:
            written = write_curriculum(
                path, curriculum, force=force, progress=lambda rows: status.update(f"reading rows: {rows:,}")
            )
    else:
        if sys.stdin.isatty():  # ask for what is missing
            if model is None:
                model = typer.prompt("Model (hub id or folder)", default="Qwen/Qwen3-VL-4B-Instruct")
            if method is None and problem is None:
                for name, known in offered().items():
                    print(f"  {name:16} {known.summary}")
                method = typer.prompt("Method", default="modules_to_save")
            if train_file is None:
                train_file = typer.prompt("Training data (JSONL)", default="data/train.jsonl")
        written = write_init(
            path, force=force, model=model, method=method, problem=problem, train=train_file, val=val_file
        )
    for line in written:
        console.print(line, soft_wrap=True)
