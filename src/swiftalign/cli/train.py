"""`swiftalign train`."""

from __future__ import annotations

import json
import os
from typing import Annotated, Any

import typer

from swiftalign.cli.app import Allowed, AsJson, Configs, Overrides, check_allowed, open_console
from swiftalign.problems import PreflightError


def train(
    configs: Configs,
    overrides: Overrides = None,
    allowed: Allowed = None,
    go_on: Annotated[
        bool, typer.Option("--resume", help="Continue the config's last run from its newest intact checkpoint.")
    ] = False,
    nproc: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Number of processes on this machine, one per GPU.")
    ] = None,
    gpus: Annotated[
        str | None, typer.Option(metavar="0,1", help="Numbers of the GPUs to train on, one process per GPU.")
    ] = None,
    nnodes: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Number of machines; run the same command on each.")
    ] = None,
    node_rank: Annotated[int | None, typer.Option(min=0, metavar="N", help="Number of this machine, from 0.")] = None,
    rdzv_endpoint: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Address of machine 0, with a free port.")
    ] = None,
    join_timeout: Annotated[
        int,
        typer.Option(min=1, metavar="SECONDS", help="How long processes wait for each other at the start."),
    ] = 600,
    skip_image_check: Annotated[
        bool, typer.Option("--skip-image-check", help="Read only the headers of images before training.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the arguments for ms-swift, and exit.")] = False,
    as_json: AsJson = False,
) -> None:
    """Check a configuration, then train it with ms-swift.

    SIGTERM and the first Ctrl-C save a checkpoint after the current step; --resume continues from it.
    Exit codes: 0 = trained, 1 = a problem is an error, or training failed, 2 = the configuration can't be read,
    130 or 143 = stopped by a signal.
    Examples:

      swiftalign train stage4.yaml

      swiftalign train base.yaml stage4.yaml --set training.aligner_lr=5e-5

      swiftalign train stage4.yaml --resume

      swiftalign train stage4.yaml --gpus 0,1,2,3

      swiftalign train stage4.yaml --dry-run
    """
    allowed = check_allowed(allowed)
    from swiftalign.cli.progress import RunProgress
    from swiftalign.config.load import load_config
    from swiftalign.runs.folder import choose_run_folder, phase_folder
    from swiftalign.runs.job import find_job
    from swiftalign.runs.launch import take_part
    from swiftalign.runs.lowering import lower, to_argv
    from swiftalign.runs.processes import choose_processes
    from swiftalign.runs.train import prepare
    from swiftalign.runs.train import train as run_training

    job = find_job(os.environ)
    processes = choose_processes(nproc, gpus, nnodes, node_rank, rdzv_endpoint, job=job, join_seconds=join_timeout)
    config = load_config(configs, overrides or [])
    if processes.number and not dry_run:
        code = take_part(processes, RunProgress(open_console(stderr=as_json)).show)
        raise typer.Exit(code)
    if processes.number and processes.job:
        return  # command 0 prints
    options: dict[str, Any] = {"allow": allowed, "processes": processes, "check_images": not skip_image_check}
    progress = RunProgress(open_console(stderr=as_json), open_console(stderr=True), allowed)
    with progress.bar:
        try:
            if dry_run:
                parts = prepare(config, encode=True, **options, listen=progress.show)
            else:
                result = run_training(config, resume=go_on, **options, listen=progress.show)
        except PreflightError:  # its problems have been shown
            raise typer.Exit(1) from None
    if not dry_run:
        if as_json:
            print(json.dumps(result.to_json(), indent=2))
        if result.signal:
            raise typer.Exit(128 + result.signal)
        return
    folder = choose_run_folder(config, resume=go_on)
    lowered = [
        lower(part.plan, part.config, phase_folder(folder, number) if config.phases else folder, part.choices)
        for number, part in enumerate(parts, 1)
    ]
    if as_json:
        print(json.dumps(lowered if config.phases else lowered[0], indent=2))
        return
    if processes.total > 1 and not processes.job:
        print("#", " ".join(["torchrun", *processes.command(str(folder))[3:]]))
    for part, arguments in zip(parts, lowered, strict=True):
        if part.config.phase:
            print(f"# {part.config.phase}")
        for name, value in arguments.items():
            print(" ".join(to_argv({name: value})))
