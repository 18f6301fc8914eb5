"""`swiftalign verify-ckpt` and `swiftalign export`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from swiftalign.cli.app import AsJson, open_console
from swiftalign.problems import SwiftalignError


def verify_ckpt(
    path: Annotated[
        Path, typer.Argument(help="A checkpoint, a run (its newest checkpoint), a model folder or a weight file.")
    ],
    configs: Annotated[
        list[Path] | None,
        typer.Option("--config", metavar="FILE", help="The run's config, where no plan.json lies beside it."),
    ] = None,
    base: Annotated[
        Path | None, typer.Option(metavar="MODEL", help="Base model: only what the plan trains may differ from it.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Check every checkpoint of a run.")] = False,
    deep: Annotated[bool, typer.Option("--deep", help="Read every byte: finite, moved.")] = False,
    table: Annotated[bool, typer.Option("--table", help="List the merger's keys and shapes.")] = False,
    as_json: AsJson = False,
) -> None:
    """Check that a checkpoint is what its run promised.

    What is expected comes from the run's plan.json, else from --config, else from adapter_config.json and its base.
    Exit code 0, or 1 with error findings, or 2 where it can't be checked. Examples:

      swiftalign verify-ckpt runs/stage4

      swiftalign verify-ckpt checkpoint-500 --deep --base Qwen3-VL-4B-Instruct
    """
    from swiftalign.checkpoint.read import checkpoints_of
    from swiftalign.checkpoint.verify import verify

    config = None
    if configs:
        from swiftalign.config.load import load_config

        config = load_config(configs)
    paths = (checkpoints_of(path) if every else []) or [path]
    with open_console(stderr=True).status("reading every byte" if deep else "reading headers"):
        results = [verify(item, config=config, base=base, deep=deep) for item in paths]
    if as_json:
        values = [result.to_json() for result in results]
        print(json.dumps(values if every else values[0], indent=2))
    else:
        from swiftalign.cli.show import print_verification

        for result in results:
            print_verification(result, open_console(), keys=table)
    if not all(result.ok for result in results):
        raise typer.Exit(1)


def export(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint folder, or a run folder (its newest checkpoint).")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="The folder to make.")],
    base: Annotated[Path | None, typer.Option(metavar="MODEL", help="Base model, where it has moved.")] = None,
    dtype: Annotated[str | None, typer.Option(help="Convert to float32, bfloat16 or float16, and merge in it.")] = None,
    link: Annotated[bool, typer.Option("--link", help="Hard-link weight files in which nothing changes.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the output folder.")] = False,
    adapter_only: Annotated[bool, typer.Option("--adapter-only", help="Just the adapter, cleaned.")] = False,
    aligner_only: Annotated[bool, typer.Option("--aligner-only", help="Just the merged aligner tensors.")] = False,
    check_logits: Annotated[
        bool, typer.Option("--check-logits", help="Load base with adapter and the result, and compare.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Merge a checkpoint into its base: a model folder to serve.

    Everything that the run did not train stays the base's own, to the byte; the result is checked before it appears.
    Exit code 0, or 1 where the checkpoint is refused, or 2 where there is none. Examples:

      swiftalign export runs/stage4 --output models/stage4

      swiftalign export checkpoint-500 -o models/stage4 --base Qwen3-VL-4B-Instruct --link
    """
    if dtype not in (None, "float32", "bfloat16", "float16"):
        raise SwiftalignError(f"--dtype {dtype}: must be float32, bfloat16 or float16")
    if adapter_only and aligner_only:
        raise SwiftalignError("--adapter-only and --aligner-only exclude each other")
    from swiftalign.cli.show import print_export
    from swiftalign.export.export import export as write_export

    with open_console(stderr=True).status("merging"):
        report = write_export(
            checkpoint,
            output,
            base=base,
            dtype=dtype,
            link=link,
            force=force,
            adapter_only=adapter_only,
            aligner_only=aligner_only,
            check_logits=check_logits,
        )
    if as_json:
        print(json.dumps(report.to_json(), indent=2))
    else:
        print_export(report, open_console())
