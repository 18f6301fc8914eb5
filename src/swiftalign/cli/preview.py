"""`swiftalign preview-aug`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from swiftalign.cli.app import AsJson, Configs, Overrides, check_output, open_console
from swiftalign.problems import SwiftalignError

SHEET = "preview.png"
_MOST_NUMBERS = 1_000_000


def preview_aug(
    configs: Configs,
    overrides: Overrides = None,
    num: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Number of rows, from the first.  [default: 6; with --report 200]"),
    ] = None,
    variants: Annotated[
        int, typer.Option(min=1, metavar="N", help="Number of variants (epochs) to show for each row.")
    ] = 3,
    seed: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="Seed of the draws.  [default: the configuration's]")
    ] = None,
    progress: Annotated[
        float | None,
        typer.Option(
            min=0, max=100, metavar="PERCENT", help="Point of the run, for a curriculum.  [default: 100, its end]"
        ),
    ] = None,
    epoch: Annotated[int, typer.Option(min=0, metavar="N", help="First epoch to show.")] = 0,
    rows: Annotated[str | None, typer.Option(metavar="0,5,9-12", help="Row numbers, from 0, instead of --num.")] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help=f"Picture of all rows and variants, .png or .jpg.  [default: {SHEET}]",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite existing files.")] = False,
    steps: Annotated[
        bool, typer.Option("--steps", help="Show the first variant of each row after each operation.")
    ] = False,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="HTML page; targets can be shown and hidden.")
    ] = None,
    report: Annotated[
        bool, typer.Option("--report", help="Measure the effect on targets; pictures only with --output or --html.")
    ] = False,
    max_drift: Annotated[
        float | None, typer.Option(min=0, max=1, metavar="X", help="Fail above this drift; implies --report.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show training rows as the model gets them: augmented, or as they are.

    The picture shows images and targets, and why a target was dropped. Both are read back from samples that ms-swift's
    template encodes, as in training. The page also shows what the model reads and what it learns to write.
    Drift is the mean share of a target's area, or of a line's length, that augmentation moves out of the image.
    Exit codes: 0 = success, 1 = an encoded sample does not hold its targets, or drift exceeds --max-drift, 2 = the
    command fails.

    Examples:

      swiftalign preview-aug stage4.yaml --rows 0,5,9-12 --html preview.html

      swiftalign preview-aug stage4.yaml --num 3 --steps --output steps.png

      swiftalign preview-aug stage4.yaml --report --max-drift 0.05
    """
    from swiftalign.cli.show import print_drift
    from swiftalign.config.load import load_config
    from swiftalign.files import short_path
    from swiftalign.previews.contact_sheet import PICTURES

    report = report or max_drift is not None
    sheet = output or (None if report else Path(SHEET))
    files = [path for path in (sheet, html) if path]
    if sheet and sheet.suffix.lower() not in PICTURES:
        raise SwiftalignError(
            f"--output {sheet}: the sheet is a PNG or a JPEG", f"write --output {sheet.with_suffix('.png')}"
        )
    for path in files:
        check_output(path, force=force)
    numbers = None if rows is None else row_numbers(rows)
    config = load_config(configs, overrides or [])
    from swiftalign.previews.preview import preview

    with open_console(stderr=True).status("reading") as status:  # drawn on a terminal only
        try:
            result = preview(
                config,
                rows=numbers,
                num=num,
                epochs=range(epoch, epoch + variants),
                seed=seed,
                percent=progress,
                steps=steps,
                sheet=sheet,
                html=html,
                report=report,
                source=" + ".join(path.name for path in configs),
                progress=status.update,
            )
        except OSError as error:
            raise SwiftalignError(f"can't write {' and '.join(map(str, files))}: {error.strerror or error}") from None
    for note in result.notes:
        print(f"note: {note}", file=sys.stderr)
    for fault in result.faults:
        print(f"error: {fault}", file=sys.stderr)
    if as_json:
        print(json.dumps(result.to_json(), indent=2))
    else:
        for path in files:
            print(f"wrote {short_path(path)}")
        if result.report:
            print_drift(result.report, open_console())
    if result.report and max_drift is not None and result.report.drift > max_drift:
        worst = result.report.worst
        blame = f"; {worst.operation} alone takes {100 * worst.drift:.2f}%" if worst else ""
        print(f"error: drift is {100 * result.report.drift:.2f}%, above {100 * max_drift:.2f}%{blame}", file=sys.stderr)
        raise typer.Exit(1)
    if result.faults:
        raise typer.Exit(1)


def row_numbers(text: str) -> list[int]:
    """The row numbers that ``--rows`` names, without repetitions.

    >>> row_numbers("0,5,9-12,5")
    [0, 5, 9, 10, 11, 12]

    Raises:
        SwiftalignError: the text does not have this form.
    """
    numbers: dict[int, None] = {}
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise SwiftalignError(f"--rows {text}: not row numbers", "write e.g. --rows 0,5,9-12")
        begin, end = int(first), int(last or first)
        if end < begin or end - begin >= _MOST_NUMBERS:
            raise SwiftalignError(f"--rows {text}: {part.strip()} is not a range of at most {_MOST_NUMBERS:,} rows")
        numbers |= dict.fromkeys(range(begin, end + 1))
    return list(numbers)
