"""`swiftalign preview-aug`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from swiftalign.cli.app import AsJson, Configs, Overrides, as_result, check_output, print_json
from swiftalign.cli.terminal import open_console, tell
from swiftalign.problems import Problem, SwiftalignError

SHEET = "preview.png"
_MOST_NUMBERS = 1_000_000


def preview_aug(
    configs: Configs,
    overrides: Overrides = None,
    num: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Show so many rows, from the first.  [default: 6; with --report 200]"),
    ] = None,
    variants: Annotated[int, typer.Option(min=1, metavar="N", help="Show so many variants (epochs) of each row.")] = 3,
    seed: Annotated[
        int | None, typer.Option(min=0, metavar="SEED", help="Draw by this seed.  [default: the configuration's]")
    ] = None,
    progress: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=100,
            metavar="PERCENT",
            help="Show this point of the run, for a curriculum.  [default: 100, its end]",
        ),
    ] = None,
    epoch: Annotated[int, typer.Option(min=0, metavar="N", help="Show the epochs from this one.")] = 0,
    rows: Annotated[
        str | None,
        typer.Option(metavar="NUMBERS", help="Show these rows instead of --num, e.g. 0,5,9-12; the first is 0."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help=f"Write the picture of all rows and variants to this file, .png or .jpg.  [default: {SHEET}]",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite existing files.")] = False,
    steps: Annotated[
        bool, typer.Option("--steps", help="Show the first variant of each row after each operation.")
    ] = False,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a page on which targets can be shown and hidden.")
    ] = None,
    report: Annotated[
        bool, typer.Option("--report", help="Measure the effect on targets; pictures only with --output or --html.")
    ] = False,
    max_drift: Annotated[
        float | None, typer.Option(min=0, max=1, metavar="SHARE", help="Fail above this drift; implies --report.")
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

    Next: 'swiftalign train CONFIG' trains on these rows.
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
        tell(open_console(stderr=True), f"note: {note}")
    problems: list[Problem | SwiftalignError] = [Problem("data-not-learned", str(fault)) for fault in result.faults]
    if result.report and max_drift is not None and result.report.drift > max_drift:
        worst = result.report.worst
        blame = f"; {worst.operation} alone takes {100 * worst.drift:.2f}%" if worst else ""
        problems.append(
            SwiftalignError(f"drift is {100 * result.report.drift:.2f}%, above {100 * max_drift:.2f}%{blame}")
        )
    if as_json:
        print_json(as_result(result.to_json(), problems, ok=not problems))
    else:
        for path in files:
            print(f"wrote {short_path(path)}")
        if result.report:
            print_drift(result.report, open_console())
    for problem in problems:
        tell(open_console(stderr=True), f"error: {problem}")
    if problems:
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
