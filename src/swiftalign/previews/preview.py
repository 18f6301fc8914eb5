"""Preview a configuration's augmentation: pictures of training rows, and numbers about their targets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from swiftalign.augment.pipeline import Pipeline, run_pipeline
from swiftalign.config.sections import Config
from swiftalign.data.encoded import Encode, NotHereError, as_written, training_encoder
from swiftalign.data.encoding import encoding_of
from swiftalign.data.files import data_sources, require_training_data
from swiftalign.data.records import Row
from swiftalign.data.rows import Rows
from swiftalign.files import write_whole
from swiftalign.previews.contact_sheet import encoded_picture, lacks_letters, render_sheet
from swiftalign.previews.drift import DriftReport, measure_drift
from swiftalign.previews.html import render_page
from swiftalign.previews.strips import Previewer, Strip
from swiftalign.problems import DataError, SwiftalignError

SHOWN_ROWS, REPORTED_ROWS = 6, 200  # unless the caller chooses rows
MOST_PANELS = 240  # held in memory at once


@dataclass(frozen=True)
class PreviewResult:
    """What a preview shows.

    Attributes:
        seed: seed of the draws.
        epochs: epochs that are shown or measured.
        percent: the point of the run whose values are shown; None where no curriculum changes them.
        strips: pictures of each row; None where only the report was wanted.
        encoded: whether the pictures were read back from encoded samples.
        sheet: file of the contact sheet; None where none was written.
        html: file of the HTML page; None where none was written.
        report: effect of augmentation on targets; None where it was not measured.
        notes: what is not shown, or not as in training, each as a sentence.
    """

    seed: int
    epochs: list[int]
    percent: float | None
    strips: list[Strip] | None
    encoded: bool
    sheet: Path | None
    html: Path | None
    report: DriftReport | None
    notes: list[str]

    @property
    def faults(self) -> list[str]:
        """Differences between encoded samples and what the augmentation made, each with its row."""
        panels = [(strip.row, panel) for strip in self.strips or () for panel in strip.panels]
        return [f"row {row}, {panel.title}: {fault}" for row, panel in panels for fault in panel.faults]

    def to_json(self) -> dict[str, Any]:
        """What ``preview-aug --json`` prints; the pictures are left out."""
        values: dict[str, Any] = {"seed": self.seed, "epochs": self.epochs}
        if self.percent is not None:
            values["progress"] = self.percent
        if self.strips is not None:
            names = {"output": self.sheet and str(self.sheet), "html": self.html and str(self.html)}
            values |= {"encoded": self.encoded, **names, "rows": [strip.to_json() for strip in self.strips]}
        return values | ({"report": self.report.to_json()} if self.report else {})


def preview(
    config: Config,
    *,
    rows: Sequence[int] | None = None,
    num: int | None = None,
    epochs: Sequence[int] = (0, 1, 2),
    seed: int | None = None,
    percent: float | None = None,
    steps: bool = False,
    sheet: Path | None = None,
    html: Path | None = None,
    report: bool = False,
    source: str = "",
    progress: Callable[[str], None] = lambda text: None,
) -> PreviewResult:
    """Show training rows after augmentation; without augmentation, as they are.

    Pictures and targets are read back from samples that ms-swift's template encodes, as in training.

    Args:
        config: names the model, the rows and the augmentation.
        rows: numbers of the rows, counted from 0 over all training files.
        num: number of rows, from the first, where ``rows`` is None; by default 6, or 200 for the report.
        epochs: epochs whose draws are shown or measured.
        seed: seed of the draws; by default the configuration's.
        percent: point of the run, 0..100, whose values of the curriculum are shown; by default its end.
        steps: show the first epoch after each of its operations, instead of all epochs.
        sheet: PNG or JPEG file to write the pictures to.
        html: HTML file to write the pictures to.
        report: measure the effect on targets; pictures are then made only if a file is named for them.
        source: name of the configuration, for the heading.
        progress: called with what is being done.

    Returns:
        The pictures and numbers, and the names of the files that were written.

    Raises:
        SwiftalignError: the configuration has no training data, there is no augmentation to measure or to show in
            steps, there is no curriculum for ``percent``, or there are too many rows.
        DataError: a row or an image can't be read.
        OSError: a file can't be written.
    """
    pipeline = _pipeline(config, seed)
    if pipeline is None and (report or steps):
        raise _without(config)
    notes: list[str] = []
    if pipeline and pipeline.settings.curriculum:
        percent = 100.0 if percent is None else percent
        notes.append(f"the values of the curriculum are those at {percent:g}% of the run; choose with --progress")
        pipeline = pipeline.at(percent / 100)
    elif percent is not None:
        raise SwiftalignError(f"--progress {percent:g}: the augmentation has no curriculum", "leave --progress out")
    require_training_data(config)
    writing = encoding_of(config).writing
    reader = Rows(data_sources(config, "train"), writing=writing)
    strips, encoded, measured = None, False, None

    def chosen(default: int) -> dict[int, Row]:
        """The rows whose images are all files on this machine."""
        wanted = read_chosen(reader, range(min(num or default, len(reader))) if rows is None else rows)
        usable = {number: row for number, row in wanted.items() if row.images and all(row.images)}
        if not usable:
            raise SwiftalignError("none of the rows has an image file", "choose other rows with --rows")
        if without := [str(number) for number in wanted if number not in usable]:
            notes.append(f"left out, because there is no image file: row {', '.join(without)}")
        return usable

    if sheet or html or not report:
        shown = list(chosen(SHOWN_ROWS))
        panels = 1 + (len(pipeline.settings.operations) if steps and pipeline else len(epochs) if pipeline else 1)
        if len(shown) * panels > MOST_PANELS:
            message = f"{len(shown):,} rows of up to {panels} images are too many for one sheet"
            raise SwiftalignError(message, f"show {max(MOST_PANELS // panels, 1)} rows at a time, with --rows")
        progress("loading ms-swift and the model's tokenizer")
        encode: Encode = partial(as_written, writing=writing)
        try:
            encode, encoded = training_encoder(config), True
        except NotHereError as error:
            notes.append(f"{error.message}; the rows are shown as written, not as encoded")
        previewer, strips = Previewer(reader, pipeline, encode), []
        for count, row in enumerate(shown, 1):
            progress(f"{'augmenting' if pipeline else 'encoding'} row {row} ({count} of {len(shown)})")
            strips.append(previewer.steps(row, epochs[0]) if steps else previewer.variants(row, epochs))
        progress("drawing")
        how = "read back from encoded samples" if encoded else "as written, not encoded"
        seeded = f"seed {pipeline.settings.seed}" if pipeline else "without augmentation"
        point = "" if percent is None else f"at {percent:g}% of the run"
        heading = " · ".join(part for part in (source, seeded, point, how) if part)
        title = "Augmentation preview" if pipeline else "Rows as they are learned"
        if sheet:
            sheet.parent.mkdir(parents=True, exist_ok=True)
            picture = render_sheet(strips, heading, title=title, with_losses=pipeline is not None)
            write_whole(sheet, encoded_picture(picture, sheet.suffix))
            if lacks_letters(strips):
                notes.append(
                    "no font here has the letters of some labels, and the sheet shows empty boxes for them; install a "
                    "font, for example Debian's fonts-noto-cjk, or look at the page that --html writes"
                )
        if html:
            html.parent.mkdir(parents=True, exist_ok=True)
            write_whole(html, render_page(strips, heading, title))
    if report and pipeline:
        counted = chosen(REPORTED_ROWS)
        measured = measure_drift(
            counted.items(),
            pipeline.settings,
            pipeline.limits,
            epochs,
            progress=lambda count: progress(f"measuring row {count:,} of {len(counted):,}"),
        )
    notes = list(dict.fromkeys(notes))
    used = pipeline.settings.seed if pipeline else 0
    return PreviewResult(used, list(epochs), percent, strips, encoded, sheet, html, measured, notes)


def _pipeline(config: Config, seed: int | None) -> Pipeline | None:
    """The configuration's augmentation; None where it has none, or has switched it off."""
    settings = config.custom.augmentation
    if settings is None or not settings.enabled or not settings.operations:
        return None
    pipeline = run_pipeline(config)
    return pipeline if seed is None else replace(pipeline, settings=settings.model_copy(update={"seed": seed}))


def _without(config: Config) -> SwiftalignError:
    """That there is no augmentation, and why."""
    settings, place = config.custom.augmentation, config.where("custom", "augmentation") or config.where()
    reason, hint = "no augmentation is configured", "e.g. custom: {augmentation: {preset: conservative}}"
    if settings is not None and settings.enabled:
        reason = "augmentation has no operations"
    elif settings is not None:
        reason, hint = "augmentation is off", "set custom.augmentation.enabled: true"
    return SwiftalignError(f"{place}: {reason}" if place else reason, hint)


def read_chosen(rows: Rows, numbers: Sequence[int]) -> dict[int, Row]:
    """Rows by their number over all files.

    Raises:
        DataError: a row is malformed, or does not exist.
    """
    if beyond := [number for number in numbers if not 0 <= number < len(rows)]:
        raise DataError(f"row {min(beyond)}: the training files have {len(rows):,} rows, counted from 0")
    return {number: rows.row(number) for number in numbers}
