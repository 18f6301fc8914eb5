"""Rows of any layout as rows of this toolkit's own."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from swiftalign.config.sections import DataSource, Unit
from swiftalign.data.images import image_format, image_size
from swiftalign.data.records import Row
from swiftalign.data.rows import Rows
from swiftalign.data.targets import SPELLINGS, UNITS, Kind, PixelTarget, RowTarget
from swiftalign.data.text import Composed
from swiftalign.data.written import PLACEHOLDER, Written
from swiftalign.files import appearing, file_error, naming
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
    join: int = 1,
    shuffle: int | None = None,
    force: bool = False,
    progress: Callable[[int], None] = lambda rows: None,
) -> Converted:
    """Write the rows of files in any layout to one JSONL file of this toolkit's rows.

    Image paths become relative to the output where the images lie beside or below it. Images that a file holds itself
    are written to a folder beside the output. Units stay as they are.

    Args:
        join: number of rows that become one, with the images and objects of all of them; the last row may have fewer.
        shuffle: seed of the order of the rows; None for that of the files.
        force: whether an existing file is replaced.
        progress: called now and then with the number of rows done.

    Raises:
        DataError: a file can't be read, a row is malformed, or rows can't be joined.
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
            images, read = path.with_name(f"{output.stem}_images"), Rows(sources)
            order = np.arange(len(read)) if shuffle is None else np.random.default_rng(shuffle).permutation(len(read))
            for start in range(0, len(order), join):
                group = [(read.where(index), read.row(index)) for index in order[start : start + join]]
                row = joined(group) if join > 1 else group[0][1]
                value = _own_row(row, rows, output, images, left_out)
                if value is not None:
                    kinds.update(target.kind for target in row.targets)
                    file.write(json.dumps(value, ensure_ascii=False) + "\n")
                    rows += 1
                    if rows % PROGRESS_ROWS == 0:
                        progress(rows)
            for each in read.files:
                left_out += each.left_out
            if not rows:
                raise DataError(
                    f"{', '.join(source.path for source in sources)}: no row could be taken", "see the notes"
                )
            file.flush()
            if images.exists():
                output.with_name(images.name).mkdir(exist_ok=True)
                for image in images.iterdir():
                    image.replace(output.with_name(images.name) / image.name)
    except OSError as error:
        raise file_error(error) from None
    return Converted(output, rows, dict(kinds), dict(left_out))


def joined(rows: Sequence[tuple[str, Row]]) -> Row:
    """One row with the images of several, one after another, and their objects on them.

    Args:
        rows: file and line of each row, and the row.

    Raises:
        DataError: a row has words that are not those of the others: messages, another prompt, no summary.
    """
    images, targets, summaries = list[Path | bytes | None](), list[RowTarget](), list[str]()
    (first, leader), words = rows[0], list[Composed]()
    for where, row in rows:
        if not isinstance(row.wording, Composed):
            hint = "convert the file without --join, and join the rows that this writes"
            raise DataError(f"{where}: its messages can't be joined with those of other rows", hint)
        targets += (replace(target, image=target.image + len(images)) for target in row.targets)
        images += row.images
        summaries += row.wording.summaries
        words.append(row.wording)
        for name in ("prompt", "system"):
            if getattr(row.wording, name) != getattr(words[0], name):
                message = f"{where}: its '{name}' is not that of {first}, with which it is to be joined"
                raise DataError(message, f"give all rows one {name}, or none and write it as data.text.{name}")
        if len(rows) > 1 and len(summaries) not in (0, len(images)):
            message = f"{where}: can't be joined, as not every image of the rows from {first} on has its own 'summary'"
            raise DataError(message, "give every row one, as a list where a row has several images, or none to any row")
    return Row(
        tuple(images),
        tuple(targets),
        Composed(words[0].prompt, words[0].system, tuple(summaries), len(images)),
        leader.declared,
    )


def _own_row(row: Row, number: int, output: Path, place: Path, left_out: Counter[str]) -> dict[str, Any] | None:
    """A row in this toolkit's layout; None where it can't hold the row.

    Args:
        place: the folder to write images to that the row holds itself.
    """
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
        _name(image, f"{number:06}" if len(images) == 1 else f"{number:06}_{each}", output, place)
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


def _name(image: Path | bytes, stem: str, output: Path, place: Path) -> str:
    """The path of an image as a row of the output gives it; an image that the source holds is written first.

    Its name has a part of its digest: an image of an earlier output is never overwritten by another one.
    """
    folder = output.absolute().parent
    if isinstance(image, bytes):
        digest = hashlib.sha256(image).hexdigest()
        path = place / f"{stem}-{digest[:8]}.{image_format(image)}"
        place.mkdir(exist_ok=True)
        with naming(path):
            path.write_bytes(image)
        return str(path.relative_to(place.parent))
    absolute = os.path.abspath(image)  # noqa: PTH100  # links are kept
    return os.path.relpath(absolute, folder) if Path(absolute).is_relative_to(folder) else absolute
