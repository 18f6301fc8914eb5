"""The layout of PaliGemma's and Florence's fine-tuning data: ``image``, ``prefix`` and ``suffix``.

    {"image": "1.png", "prefix": "detect cup", "suffix": "<loc0256><loc0100><loc0512><loc0300> cup"}
    {"image": "1.png", "prefix": "<OD>", "suffix": "cup<loc_98><loc_250><loc_293><loc_500>"}

Their location tokens are targets, since Qwen3-VL has no such tokens: PaliGemma's are y and x in 1024ths of the image's
sides, before the label; Florence's are x and y in 1000ths, after it. A suffix without them is an answer in words.

References:
    big_vision's ``paligemma`` readme; transformers' ``processing_florence2.py``, which puts a point in the middle of
    its thousandth.
"""

from __future__ import annotations

import re
from typing import Any

from swiftalign.data.formats.swift import SWIFT, local_path
from swiftalign.data.records import Format, Reading, Row
from swiftalign.data.row_checks import NAMELESS
from swiftalign.data.targets import Kind, ShareTarget
from swiftalign.data.text import Composed

_PALIGEMMA = re.compile(r"((?:<loc\d{4}>){4})\s*([^;<]*)\s*;?\s*")
_FLORENCE = re.compile(r"([^<]*)((?:<loc_\d{1,3}>){4,})")
_KINDS: dict[int, Kind] = {2: "bbox", 4: "quad"}


def _read(row: dict[str, Any], reading: Reading) -> Row:
    prefix, suffix, image = row["prefix"], row["suffix"], row.get("image", row.get("images"))
    image = image[0] if isinstance(image, list) and len(image) == 1 else image
    if not isinstance(image, str) or not isinstance(prefix, str) or not isinstance(suffix, str):
        raise ValueError("needs one 'image', a 'prefix' and a 'suffix', each a text")
    if "<loc" not in suffix:
        return SWIFT.read({"query": prefix, "response": suffix, "images": [image]}, reading)
    targets = []
    pattern = _FLORENCE if "<loc_" in suffix else _PALIGEMMA
    if pattern.sub("", suffix).strip():
        raise ValueError(
            f"the suffix has location tokens that are not understood: {pattern.sub('', suffix).strip()[:60]!r}"
        )
    for match in pattern.finditer(suffix):
        if pattern is _FLORENCE:
            label, numbers = match[1], [(int(n) + 0.5) / 1000 for n in re.findall(r"\d+", match[2])]
        else:
            y1, x1, y2, x2 = (int(n) / 1024 for n in re.findall(r"\d+", match[1]))
            label, numbers = match[2], [x1, y1, x2, y2]
        if len(numbers) % 2:
            raise ValueError(f"{label.strip()!r} has an odd number of location tokens")
        points = tuple(zip(numbers[::2], numbers[1::2], strict=True))
        targets.append(ShareTarget(_KINDS.get(len(points), "polygon"), label.strip(), points))
    nameless = [NAMELESS] if any(not target.label for target in targets) else []
    return Row((reading.images / local_path(image),), tuple(targets), Composed(prefix), remarks=tuple(nameless))


SUFFIX = Format(recognise=lambda row: "suffix" in row and "prefix" in row and "messages" not in row, read=_read)
