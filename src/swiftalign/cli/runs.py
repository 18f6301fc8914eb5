"""`swiftalign runs`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from swiftalign.cli.app import AsJson, open_console


def runs(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to search for runs.")] = Path(),
    as_json: AsJson = False,
) -> None:
    """List the runs in a folder and below it, the newest first.

    A run is running, done, stopped (by a signal, after it saved a checkpoint), failed, or cut off (it ended without a
    report, for example by a power failure). To continue one of the last three, run 'swiftalign train CONFIG --resume'.
    Exit codes: 0 = success, 2 = there is no such folder. Examples:

      swiftalign runs

      swiftalign runs demo/runs --json
    """
    from swiftalign.cli.show import print_runs
    from swiftalign.runs.history import find_runs

    found = find_runs(folder)
    if as_json:
        print(json.dumps([run.to_json() for run in found], indent=2))
    elif found:
        print_runs(found, open_console())
    else:
        print(f"no runs in {folder}")
