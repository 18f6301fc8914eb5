"""`swiftalign preview-aug`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from swiftalign.cli.app import AsJson, Configs, Overrides, open_console
from swiftalign.problems import SwiftalignError

if TYPE_CHECKING:
    from rich.console import Console

    from swiftalign.augment.pipeline import Pipeline
    from swiftalign.config.sections import Config
    from swiftalign.data.records import Record
    from swiftalign.preview.drift import DriftReport, Toll
    from swiftalign.preview.encoded import Encode
    from swiftalign.preview.strips import Strip

SHOWN_ROWS, REPORTED_ROWS = 6, 200  # without --num and --rows
SHEET = "preview.png"


@dataclass(frozen=True)
class _Request:
    """What is to be shown, and where."""

    num: int | None
    rows: str | None
    epochs: tuple[int, ...]
    steps: bool
    sheet: Path | None
    html: Path | None

    def chosen(self, total: int, default: int) -> list[int]:
        """Row numbers."""
        from swiftalign.preview.strips import parse_numbers

        if self.rows is not None:
            return parse_numbers(self.rows, "--rows")
        return list(range(min(self.num or default, total)))


def preview_aug(
    configs: Configs,
    overrides: Overrides = None,
    num: Annotated[
        int | None, typer.Option(min=1, help="How many rows, from the first.  [default: 6; with --report 200]")
    ] = None,
    variants: Annotated[int, typer.Option(min=1, metavar="K", help="Epochs to show of each row.")] = 3,
    seed: Annotated[int | None, typer.Option(min=0, help="Of the draws.  [default: the configuration's]")] = None,
    epoch: Annotated[int, typer.Option(min=0, help="The first epoch that is shown.")] = 0,
    rows: Annotated[str | None, typer.Option(metavar="0,5,9-12", help="Rows by number, instead of --num.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="PNG", help=f"Contact sheet.  [default: {SHEET}]")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite files.")] = False,
    steps: Annotated[bool, typer.Option("--steps", help="Add the first epoch's operations one at a time.")] = False,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Also one HTML page, to switch targets on.")] = None,
    report: Annotated[
        bool, typer.Option("--report", help="What becomes of targets, in numbers; pictures only where named.")
    ] = False,
    max_drift: Annotated[
        float | None, typer.Option(min=0, max=1, metavar="X", help="Fail above this drift, e.g. 0.05; with --report.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what augmentation makes of training rows: images, targets, and why some are gone.

    Pictures and targets are read back from the samples that ms-swift's template encodes, as training does.
    Drift is the mean share of a target's area, or of a line's length, that comes to lie outside the image.
    Exit code 0, or 1 where a sample differs from its targets or drift exceeds --max-drift, or 2 without an answer.
    Examples:

      swiftalign preview-aug stage4.yaml --rows 0,5,9-12 --html preview.html

      swiftalign preview-aug stage4.yaml --num 3 --steps --output steps.png

      swiftalign preview-aug stage4.yaml --report --max-drift 0.05
    """
    from swiftalign.config.load import load_config

    report = report or max_drift is not None
    sheet = output or (None if report else Path(SHEET))
    _check_outputs(sheet, html, force)
    config = load_config(configs, overrides or [])
    pipeline = _pipeline(config, seed)
    request = _Request(num, rows, tuple(range(epoch, epoch + variants)), steps, sheet, html)
    total = _count_rows(config)
    heading = f"{' + '.join(path.name for path in configs)} · seed {pipeline.settings.seed}"
    shown = _show(config, pipeline, request, total, heading) if sheet or html else {}
    numbers = _measure(config, pipeline, request, total) if report else None
    if as_json:
        values = {"seed": pipeline.settings.seed, "epochs": list(request.epochs), **shown}
        print(json.dumps(values | ({"report": numbers.to_json()} if numbers else {}), indent=2))
    else:
        _print_written(sheet, html)
        _print_report(numbers, open_console())
    faults = [fault for strip in shown.get("rows", []) for panel in strip["panels"] for fault in panel["faults"]]
    if _exceeds(numbers, max_drift) or faults:
        raise typer.Exit(1)


def _check_outputs(sheet: Path | None, html: Path | None, force: bool) -> None:
    if sheet and sheet.suffix.lower() != ".png":
        raise SwiftalignError(f"--output {sheet}: the sheet is a PNG", f"e.g. --output {sheet.with_suffix('.png')}")
    for path in (sheet, html):
        if path and path.is_dir():
            raise SwiftalignError(f"{path} is a folder", f"name a file, e.g. {path / 'preview.png'}")
        if path and path.exists() and not force:
            raise SwiftalignError(f"{path} exists already", "name another file, or pass --force to overwrite it")


def _pipeline(config: Config, seed: int | None) -> Pipeline:
    settings = config.custom.augmentation
    where = config.where("custom", "augmentation") or config.where()
    place = f"{where}: " if where else ""
    hint = "e.g. custom: {augmentation: {preset: conservative}}"
    if settings is None:
        raise SwiftalignError(f"{place}no augmentation is configured", hint)
    if not settings.enabled:
        raise SwiftalignError(f"{place}augmentation is off", "set custom.augmentation.enabled: true")
    if not settings.operations:
        raise SwiftalignError(f"{place}augmentation has no operations", hint)
    from swiftalign.augment.pipeline import run_pipeline

    pipeline = run_pipeline(config)
    return pipeline if seed is None else replace(pipeline, settings=settings.model_copy(update={"seed": seed}))


def _count_rows(config: Config) -> int:
    from swiftalign.plan.schedule import count_rows, count_rows_of, require_training_data

    require_training_data(config)

    count_rows_of(config)  # says what is wrong with the files
    return sum(count_rows(Path(name)) for name in config.data.train)


def _files(config: Config) -> list[Path]:
    return [Path(name) for name in config.data.train]


def _records(config: Config, rows: Sequence[int]) -> dict[int, Record]:
    """Rows with an image on this machine; others are named on stderr."""
    from swiftalign.preview.strips import read_records

    records = read_records(_files(config), rows)
    without = [str(row) for row, record in records.items() if not record.images]
    if len(without) == len(records):
        raise SwiftalignError("none of the rows has an image file", "choose others with --rows")
    if without:
        print(f"note: passed over, without an image file: row {', '.join(without)}", file=sys.stderr)
    return {row: record for row, record in records.items() if record.images}


def _show(config: Config, pipeline: Pipeline, request: _Request, total: int, heading: str) -> dict[str, Any]:
    """Draw rows, write the files, and say so; what was drawn is given back for JSON."""
    from swiftalign.preview.contact_sheet import png, render_sheet
    from swiftalign.preview.html import render_page
    from swiftalign.preview.strips import write_file

    rows = list(_records(config, request.chosen(total, SHOWN_ROWS)))
    _check_count(pipeline, request, len(rows))
    encode, note = _encoder(config)
    if note:
        print(f"note: {note}; shown are the rows' own words and images, not what is encoded", file=sys.stderr)
    strips = _strips(config, pipeline, encode, request, rows)
    heading = f"{heading} · {'as written, not encoded' if note else 'read back from encoded samples'}"
    with open_console(stderr=True).status("drawing"):
        if request.sheet:
            write_file(request.sheet, png(render_sheet(strips, heading)))
        if request.html:
            write_file(request.html, render_page(strips, heading).encode())
    for strip in strips:
        for panel in strip.panels:
            for fault in panel.faults:
                print(f"error: row {strip.row}, {panel.title}: {fault}", file=sys.stderr)
    names = {name: path and str(path) for name, path in (("output", request.sheet), ("html", request.html))}
    return {"encoded": note is None, **names, "rows": [strip.to_json() for strip in strips]}


def _check_count(pipeline: Pipeline, request: _Request, rows: int) -> None:
    from swiftalign.preview.strips import MOST_PANELS

    each = 1 + (len(pipeline.settings.operations) if request.steps else len(request.epochs))
    if rows * each > MOST_PANELS:
        most = max(MOST_PANELS // each, 1)
        raise SwiftalignError(
            f"{rows:,} rows of up to {each} images are too many for one sheet",
            f"show {most} rows at a time, with --rows",
        )


def _encoder(config: Config) -> tuple[Encode, str | None]:
    """What reads samples back, and why that can't be done as in training."""
    from swiftalign.preview.encoded import NotHereError, as_written, training_encoder

    with open_console(stderr=True).status("loading ms-swift and the model's tokenizer"):
        try:
            return training_encoder(config), None
        except NotHereError as error:
            return as_written, error.message


def _strips(config: Config, pipeline: Pipeline, encode: Encode, request: _Request, rows: list[int]) -> list[Strip]:
    from swiftalign.data.rows import JsonlRows
    from swiftalign.preview.strips import Previewer

    previewer = Previewer(JsonlRows(_files(config), text=config.data.text), pipeline, encode)
    strips = []
    with open_console(stderr=True).status("augmenting") as status:
        for count, row in enumerate(rows, 1):
            status.update(f"augmenting row {row} ({count} of {len(rows)})")
            strip = (
                previewer.steps(row, request.epochs[0]) if request.steps else previewer.variants(row, request.epochs)
            )
            strips.append(strip)
    return strips


def _measure(config: Config, pipeline: Pipeline, request: _Request, total: int) -> DriftReport:
    from swiftalign.preview.drift import measure_drift

    records = _records(config, request.chosen(total, REPORTED_ROWS))
    with open_console(stderr=True).status("measuring") as status:

        def show(done: int) -> None:
            status.update(f"measuring row {done:,} of {len(records):,}")

        return measure_drift(records.items(), pipeline.settings, pipeline.limits, request.epochs, progress=show)


def _print_written(*paths: Path | None) -> None:
    from swiftalign.files import short_path

    for path in paths:
        if path:
            print(f"wrote {short_path(path)}")


def _print_report(report: DriftReport | None, console: Console) -> None:
    """Operations by kind of target where they took something."""
    from rich.table import Table

    from swiftalign.problems import counted

    if report is None:
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("operation", "kind"):
        table.add_column(column)
    for column in ("samples", "targets", "clipped", "dropped", "inflated", "mean", "max", "drift"):
        table.add_column(column, justify="right")
    for toll in report.tolls:
        if toll.kind == "all" or toll.drift or toll.inflated:
            table.add_row(*_cells(toll), style="bold" if toll.operation == toll.kind == "all" else None)
    console.print(f"{report.rows:,} rows, {report.samples:,} samples", style="dim")
    console.print(table)
    for operation, reasons in report.left_out.items():
        for reason, count in reasons.items():
            console.print(f"not applied  {operation}: {reason} ({counted(count, 'sample')})", soft_wrap=True)
    if report.passed_over:
        console.print(f"passed over  {report.passed_over:,} rows in ms-swift's layout: nothing moves in them")
    if report.seconds_per_image is not None:
        console.print(f"time         {1000 * report.seconds_per_image:.1f} ms to open and augment an image")


def _cells(toll: Toll) -> list[str]:
    inflation = ["-" if value is None else f"{value:.2f}" for value in (toll.mean_inflation, toll.max_inflation)]
    counts = (toll.samples, toll.targets, toll.clipped, toll.dropped)
    inflated = "-" if toll.mean_inflation is None else f"{toll.inflated:,}"
    return [
        toll.operation,
        toll.kind,
        *(f"{count:,}" for count in counts),
        inflated,
        *inflation,
        f"{100 * toll.drift:.2f}%",
    ]


def _exceeds(report: DriftReport | None, most: float | None) -> bool:
    if report is None or most is None or report.drift <= most:
        return False
    worst = report.worst
    blame = f"; {worst.operation} alone takes {100 * worst.drift:.2f}%" if worst else ""
    print(f"error: drift is {100 * report.drift:.2f}%, above {100 * most:.2f}%{blame}", file=sys.stderr)
    return True
