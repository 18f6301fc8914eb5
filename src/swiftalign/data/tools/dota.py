"""DOTA: a text file for each image, in ``labelTxt/`` beside ``images/``; each line is a quad in pixels.

    imagesource:GoogleEarth
    gsd:0.146
    8 8 40 10 38 30 6 28 small-vehicle 0

The corners keep their order. The last number says whether the object is difficult; it may be missing. Images without
a text file are not part of the data; one whose file has no lines has no objects.

References:
    https://captain-whu.github.io/DOTA/dataset.html
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from swiftalign.data.tools.reading import (
    NUMBER,
    Images,
    Placed,
    Tool,
    any_head,
    fail,
    files_at,
    read_bytes,
    target,
)

_LINE = re.compile(rf"((?:{NUMBER}\s+){{8}})(\S+)(?:\s+\d+)?", re.ASCII)
_HEADER = re.compile(r"(?:imagesource|gsd)\s*:", re.ASCII)
_BEGINS = re.compile(rf"(?:{NUMBER}\s+){{8}}[^\s\d.+-]".encode())


def _begins(start: bytes) -> bool:
    line = next((line.strip() for line in start.splitlines() if line.strip()), b"")
    return bool(_BEGINS.match(line) or _HEADER.match(line.decode("latin-1")))


def _folder(path: Path) -> Path:
    """The folder of the text files: of a data set's folder, the one called labelTxt."""
    return path / "labelTxt" if (path / "labelTxt").is_dir() else path


def read(path: Path, images: Path | None, left_out: Counter[str]) -> Iterator[Placed]:
    path = _folder(path)
    finder = Images(path if path.is_dir() else path.parent, images)
    for file in files_at(path, ".txt"):
        try:
            lines = read_bytes(file).decode("utf-8-sig").split("\n")
        except UnicodeDecodeError:
            fail(file, "is not UTF-8", "write the file as UTF-8")
        objects = []
        for number, line in enumerate(lines, 1):
            where, found = f"{file}:{number}", _LINE.fullmatch(line.strip())
            if found:
                objects.append(target(found[2], "quad", [float(each) for each in found[1].split()], where))
            elif line.strip() and not _HEADER.match(line):
                fail(where, f"needs eight numbers, a class and a difficulty: {line[:60]!r}")
        stem = os.path.splitext(os.path.basename(file))[0]
        yield file, {"images": [finder.of_stem(stem, file)], "objects": objects}


DOTA = Tool("DOTA", lambda path: any_head(_folder(path), ".txt", _begins), read)
