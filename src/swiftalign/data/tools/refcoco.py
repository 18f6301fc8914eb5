"""RefCOCO, RefCOCO+ and RefCOCOg in Parquet files, as LMMs-Lab publishes them: an object, and all phrases for it.

    {"question_id": "1719310", "image": {"bytes": ..., "path": ...}, "file_name": "COCO_train2014_000000581857_16.jpg",
     "answer": ["the lady with the blue shirt", "woman on the left"], "bbox": [x, y, width, height], ...}

Each phrase becomes a row with one box, whose label is the phrase.

References:
    https://huggingface.co/datasets/lmms-lab/RefCOCO; lmms-eval `tasks/refcoco/utils_rec.py` for what ``bbox`` means.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from swiftalign.data.tables import columns_of, read_table
from swiftalign.data.tools.reading import Placed, Tool, numbers, target, typed

_READ = ("image", "answer", "bbox")
_COLUMNS = {*_READ, "question_id", "file_name", "segmentation"}


def _recognise(path: Path) -> bool:
    return path.suffix == ".parquet" and columns_of(path) >= _COLUMNS


def read(path: Path, images: Path | None, left_out: Counter[str]) -> Iterator[Placed]:
    """The phrases of a file, each with the image and the box of its object."""
    for where, held in read_table(path, _READ):
        image = typed(held.get("image"), dict, where, "'image'")
        x, y, width, height = numbers(held.get("bbox"), 4, where, "'bbox'")
        for phrase in typed(held.get("answer"), list, where, "'answer'"):
            box = target(phrase, "bbox", [x, y, x + width, y + height], where)
            yield where, {"images": [image], "objects": [box]}


REFCOCO = Tool("RefCOCO", _recognise, read)
