"""`swiftalign convert`."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from swiftalign.cli.app import Allowed, AsJson, as_result, check_allowed, check_inputs, print_json
from swiftalign.cli.complete import one_of
from swiftalign.cli.terminal import open_console
from swiftalign.problems import SwiftalignError

_DECLARE = re.compile(r"declare it beside the file: data: \{train: \[\{path: .*, coordinates: (\w+)\}\]\}")


def convert(
    sources: Annotated[
        list[Path], typer.Argument(metavar="ROWS", help="Files or folders of rows, or of an annotation tool.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="Write the rows to this JSONL file.")],
    images: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Find the images in this folder.  [default: beside the rows]"),
    ] = None,
    coordinates: Annotated[
        str | None,
        typer.Option(
            metavar="UNIT",
            help="Read the coordinates in this unit: pixels, relative1000, relative1 or resized.",
            autocompletion=one_of("pixels", "relative1000", "relative1", "resized"),
        ),
    ] = None,
    join: Annotated[
        int, typer.Option(metavar="N", min=1, help="Make one row of N, with the images and objects of all of them.")
    ] = 1,
    shuffle: Annotated[
        int | None,
        typer.Option(metavar="SEED", min=0, help="Shuffle the rows by this seed.  [default: no shuffling]"),
    ] = None,
    allow: Allowed = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write rows of any layout as rows of this toolkit.

    'swiftalign train' reads all these layouts itself: convert to look at rows, to correct them, or to keep them.
    Annotation tools: COCO, LabelMe, CVAT, Label Studio, YOLO, DOTA, Pascal VOC, VIA, Supervisely; RefCOCO (Parquet).

    Exit codes: 0 = written, 1 = the rows have errors, so that nothing is written, 2 = the command fails.

    Examples:

      swiftalign convert instances.json --images photos --output data/train.jsonl

      swiftalign convert yolo/data.yaml more/annotations.xml -o rows.jsonl

      swiftalign convert data/train.jsonl --join 2 --shuffle 0 -o data/pairs.jsonl

    Next: 'swiftalign preview-aug CONFIG' shows the rows as the model gets them, once data.train names the file.
    """
    allowed = check_allowed(allow)
    from pydantic import ValidationError

    from swiftalign.cli.show import print_findings
    from swiftalign.config.sections import DataSource
    from swiftalign.data.convert import convert as run
    from swiftalign.data.scan import scan
    from swiftalign.files import short_path
    from swiftalign.problems import blocking, counted

    check_inputs(sources)
    if images and not images.is_dir():
        raise SwiftalignError(f"--images {images}: no such folder", "name the folder of the images")
    try:
        named = [
            DataSource.model_validate({"path": str(path), "images": images and str(images), "coordinates": coordinates})
            for path in sources
        ]
    except ValidationError:
        units = "pixels, relative1000, relative1 or resized"
        raise SwiftalignError(f"--coordinates {coordinates}: not a unit", f"write {units}") from None
    with open_console(stderr=True).status("reading") as status:  # drawn on a terminal only
        report = scan(named, progress=lambda rows: status.update(f"checking the rows: {rows:,}"))
        # No configuration is at hand, in which the unit could be declared.
        findings = [
            replace(each, hint=each.hint and _DECLARE.sub(r"pass --coordinates \1", each.hint))
            for each in report.findings
        ]
        problems = [each for each in findings if each.severity != "note"]
        errors = blocking(problems, allowed)
        written = (
            None
            if errors
            else run(
                named, output, join=join, shuffle=shuffle, force=force, progress=lambda n: status.update(f"{n:,} rows")
            )
        )
    if as_json:
        values = written.to_json() if written else {"output": None}
        told = {"findings": [problem.to_json() for problem in findings]}
        print_json(as_result(values | told, findings, ok=not errors))
    else:
        print_findings(problems, open_console(stderr=True), allowed=allowed)
    for what, number in written.left_out.items() if written else ():
        print(f"note: left out: {what} ({number:,})", file=sys.stderr)
    if errors:
        raise typer.Exit(1)
    if written and not as_json:
        kinds = ", ".join(f"{number:,} {kind}" for kind, number in written.kinds.items()) or "no objects"
        print(f"wrote {short_path(output)}: {counted(written.rows, 'row')}, {kinds}")
