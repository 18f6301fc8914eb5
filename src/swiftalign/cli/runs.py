"""`swiftalign runs`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from swiftalign.cli.app import AsJson, as_result, check_output, print_json
from swiftalign.cli.terminal import open_console
from swiftalign.problems import SwiftalignError

PICTURE = "compare.png"


def runs(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="FOLDER",
            help="Folders to search for runs; with --compare, the runs.  [default: the current folder]",
            show_default=False,
        ),
    ] = None,
    compare: Annotated[bool, typer.Option("--compare", help="Show runs side by side, and draw their curves.")] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help=f"Write the picture of --compare to this PNG file.  [default: {PICTURE}]",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the picture.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the runs in folders and below them, the newest first, or compare some of them.

    A run is running, done (perhaps by early stopping), stopped (by a signal, after it saved a checkpoint), failed, or
    cut off (it ended without a report, for example by a power failure). To continue one of the last three, run
    'swiftalign train CONFIG --resume'. 'best' is the value at the checkpoint that --checkpoint best takes, with its
    step. Where a terminal is too narrow for a table, each run gets a few lines.

    --compare shows the settings that differ, and the last and the best value of everything that was measured. The
    picture has a colour for each run, and a panel for the loss, each learning rate and each accuracy.

    Exit codes: 0 = success, 2 = there is no such folder or run, or the picture exists.

    Examples:

      swiftalign runs

      swiftalign runs demo/runs --json

      swiftalign runs --compare runs/stage4 runs/stage4-2 --output stage4.png

    Next: 'swiftalign verify-ckpt RUN' checks a run's checkpoint, and 'swiftalign export RUN' merges it.
    """
    if not compare:
        if output or force:
            raise SwiftalignError("--output and --force belong to --compare", "add --compare, or leave them out")
        from swiftalign.cli.show_runs import print_runs
        from swiftalign.runs.history import find_runs

        places = folders or [Path()]
        found = find_runs(*places)
        if as_json:
            print_json([run.to_json() for run in found])
        elif found:
            print_runs(found, open_console())
        else:
            print(f"no runs in {', '.join(map(str, places))}")
        return
    picture = output or Path(PICTURE)
    if picture.suffix.lower() != ".png":
        raise SwiftalignError(f"--output {picture}: the picture is a PNG", f"write {picture.with_suffix('.png')}")
    check_output(picture, force=force)
    from swiftalign.cli.show_runs import print_comparison
    from swiftalign.files import short_path
    from swiftalign.runs.compare import compare as compare_runs
    from swiftalign.runs.picture import draw_runs

    comparison = compare_runs(folders or [])
    drawn = any(name == "loss" for curves in comparison.curves for name in curves)
    if drawn:
        try:
            draw_runs(picture, dict(zip(comparison.names, comparison.curves, strict=True)))
        except OSError as error:
            raise SwiftalignError(f"can't write {picture}: {error.strerror or error}") from None
    if as_json:
        print_json(as_result({**comparison.to_json(), "picture": str(picture) if drawn else None}))
        return
    print_comparison(comparison, open_console())
    print(f"wrote {short_path(picture)}" if drawn else "no picture: no run has logged a loss")
