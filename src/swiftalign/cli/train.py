"""`swiftalign train`."""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer

from swiftalign.cli.app import Allowed, AsJson, Configs, Overrides, as_result, check_allowed, print_json
from swiftalign.cli.terminal import open_console
from swiftalign.problems import PreflightError, SwiftalignError


def train(
    configs: Configs,
    overrides: Overrides = None,
    allowed: Allowed = None,
    go_on: Annotated[
        bool, typer.Option("--resume", help="Continue the config's last run from its newest intact checkpoint.")
    ] = False,
    nproc: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Start so many processes on this machine, one per GPU.")
    ] = None,
    gpus: Annotated[
        str | None,
        typer.Option(metavar="NUMBERS", help="Train on the GPUs of these numbers, e.g. 0,1; one process per GPU."),
    ] = None,
    nnodes: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Train on so many machines; run the same command on each.")
    ] = None,
    node_rank: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="Say the number of this machine, from 0.")
    ] = None,
    rdzv_endpoint: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Say the address of machine 0, with a free port.")
    ] = None,
    join_timeout: Annotated[
        int,
        typer.Option(min=1, metavar="SECONDS", help="Let processes wait so long for each other at the start."),
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

    Next: 'swiftalign verify-ckpt RUN' checks what was saved, and 'swiftalign runs' lists the runs.
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
        except PreflightError as error:  # its problems have been shown
            if as_json:
                print_json(error.to_json())
            raise typer.Exit(1) from None
    if not dry_run:
        if as_json:
            stopped = SwiftalignError(f"stopped by signal {result.signal}", "the same command and --resume go on")
            print_json(as_result(result.to_json(), [stopped] if result.signal else [], ok=not result.signal))
        if result.signal:
            raise typer.Exit(128 + result.signal)
        return
    folder = choose_run_folder(config, resume=go_on)
    lowered = [
        lower(part.plan, part.config, phase_folder(folder, number) if config.phases else folder, part.choices)
        for number, part in enumerate(parts, 1)
    ]
    if as_json:
        print_json(lowered if config.phases else lowered[0])
        return
    if processes.total > 1 and not processes.job:
        print("#", " ".join(["torchrun", *processes.command(str(folder))[3:]]))
    for part, arguments in zip(parts, lowered, strict=True):
        if part.config.phase:
            print(f"# {part.config.phase}")
        for name, value in arguments.items():
            print(" ".join(to_argv({name: value})))
