"""Rows of any layout as rows of this toolkit's own."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swiftalign.config.sections import DataSource, Unit
from swiftalign.data.formats import read_row
from swiftalign.data.images import image_format, image_size
from swiftalign.data.records import Row
from swiftalign.data.storage import open_file
from swiftalign.data.targets import SPELLINGS, UNITS, Kind, PixelTarget, RowTarget
from swiftalign.data.text import Composed
from swiftalign.data.written import PLACEHOLDER, Written
from swiftalign.files import appearing
from swiftalign.problems import DataError, SwiftalignError

PROGRESS_ROWS = 1000
_UNIT_OF: dict[type[RowTarget], Unit] = {kind: unit for unit, kind in UNITS.items()}


@dataclass(frozen=True)
class Converted:
    """What a conversion wrote.

    Attributes:
        output: the file.
        rows: number of rows.
        kinds: number of objects of each kind.
        left_out: what could not be taken, counted.
    """

    output: Path
    rows: int
    kinds: dict[Kind, int]
    left_out: dict[str, int]

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "output": str(self.output)}


def convert(
    sources: Sequence[DataSource],
    output: Path,
    *,
    force: bool = False,
    progress: Callable[[int], None] = lambda rows: None,
) -> Converted:
    """Write the rows of files in any layout to one JSONL file of this toolkit's rows.

    Image paths become relative to the output where the images lie beside or below it. Images that a file holds itself
    are written to a folder beside the output. Units stay as they are.

    Args:
        force: whether an existing file is replaced.
        progress: called now and then with the number of rows done.

    Raises:
        DataError: a file can't be read, or a row is malformed.
        SwiftalignError: the output exists, or can't be written.
    """
    if output.is_dir():
        raise SwiftalignError(f"{output} is a folder", "name a file, such as rows.jsonl")
    if output.exists() and not force:
        raise SwiftalignError(f"{output} exists already", "name another file, or pass --force to overwrite it")
    kinds, left_out, rows = Counter[Kind](), Counter[str](), 0
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with appearing(output) as path, path.open("w", encoding="utf-8") as file:
            for source in sources:
                data = open_file(source)
                for line, content in data.read():
                    row = read_row(data.value(content, line), data.where(line), data.reading)
                    value = _own_row(row, rows, output, left_out)
                    if value is not None:
                        kinds.update(target.kind for target in row.targets)
                        file.write(json.dumps(value, ensure_ascii=False) + "\n")
                        rows += 1
                        if rows % PROGRESS_ROWS == 0:
                            progress(rows)
                left_out += data.left_out
            if not rows:
                raise DataError(
                    f"{', '.join(source.path for source in sources)}: no row could be taken", "see the notes"
                )
    except OSError as error:
        raise SwiftalignError(f"{error.filename or output}: {error.strerror or error}") from None
    return Converted(output, rows, dict(kinds), dict(left_out))


def _own_row(row: Row, number: int, output: Path, left_out: Counter[str]) -> dict[str, Any] | None:
    """A row in this toolkit's layout; None where it can't hold the row."""
    wording = row.wording
    prompt = system = None
    summaries: tuple[str, ...] = ()
    if isinstance(wording, Written):
        roles = [message["role"] for message in wording.row["messages"]]
        texts = [message.get("content") for message in wording.row["messages"]]
        if roles[-2:] != ["user", "assistant"] or len(roles) - (roles[0] == "system") != 2:
            left_out["conversations of several turns"] += 1
            return None
        if (
            not row.images
            or None in row.images
            or not all(map(wording.answered, range(len(row.targets))))
            or not row.targets
        ):
            left_out["conversations whose answer is not a list of objects"] += 1
            return None
        if loss := _lost(wording, texts[-1]):
            left_out[loss] += 1
        prompt = texts[-2].replace("<image>", "").strip()
        system = texts[0] if roles[0] == "system" else None
    elif isinstance(wording, Composed):
        prompt, system, summaries = wording.prompt, wording.system, wording.summaries
    targets: tuple[RowTarget, ...] = row.targets
    units = {type(target) for target in targets} or {PixelTarget}
    if len(units) > 1:
        targets = row.record([image_size(image) for image in row.images if image is not None]).targets
        units = {PixelTarget}
    images = [image for image in row.images if image is not None]
    names = [
        _name(image, f"{number:06}" if len(images) == 1 else f"{number:06}_{each}", output)
        for each, image in enumerate(images)
    ]
    objects = []
    for target in targets:
        item: dict[str, Any] = {"label": target.label, SPELLINGS[target.kind].row_key: _flat(target.points)}
        if target.outline:
            item["quad"] = _flat(target.outline)
        objects.append(item | ({"image": target.image} if target.image else {}))
    unit = _UNIT_OF[units.pop()]
    words = {"prompt": prompt, "system": system}
    return {
        "images": names,
        **{key: text for key, text in words.items() if text is not None},
        **({"summary": summaries[0] if len(summaries) == 1 else list(summaries)} if summaries else {}),
        "objects": objects,
        **({} if unit == "pixels" else {"coordinates": unit}),
        **(dict(zip(("width", "height"), row.declared, strict=True)) if row.declared else {}),
    }


def _lost(wording: Written, answer: str) -> str:
    """What a row of this toolkit does not keep of an answer; empty where it keeps all of it."""
    rest, keys = list(answer), 0
    for spot in wording.spots:
        begin, end = spot.item or spot.numbers
        keys += spot.item is not None and len(json.loads(answer[begin:end].replace(PLACEHOLDER, "0"))) > 2
        rest[begin:end] = " " * (end - begin)
    words = re.search(r"\w", re.sub(r"```json|\"[^\"]*\"", "", "".join(rest)))
    return "words around the objects of an answer" if words else "further keys of objects in an answer" if keys else ""


def _flat(points: Sequence[tuple[float, float]]) -> list[float]:
    return [number for point in points for number in point]


def _name(image: Path | bytes, stem: str, output: Path) -> str:
    """The path of an image as a row of the output gives it; an image that the source holds is written first."""
    folder = output.absolute().parent
    if isinstance(image, bytes):
        path = folder / f"{output.stem}_images" / f"{stem}.{image_format(image)}"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(image)
        return str(path.relative_to(folder))
    absolute = os.path.abspath(image)  # noqa: PTH100  # links are kept
    return os.path.relpath(absolute, folder) if Path(absolute).is_relative_to(folder) else absolute
