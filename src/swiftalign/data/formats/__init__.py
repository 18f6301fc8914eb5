"""The layouts of rows. A new one is a file beside these, and an entry here."""

from __future__ import annotations

from pathlib import Path

from swiftalign.data.files import parse_json
from swiftalign.data.formats.own import OWN
from swiftalign.data.formats.swift import SWIFT
from swiftalign.data.records import Row
from swiftalign.problems import DataError

# Tried in this order. The last one names the fault of a row that none of them recognises.
FORMATS = (SWIFT, OWN)


def read_row(content: bytes, path: Path, line: int) -> Row:
    """A row from what a file holds of it.

    Args:
        path: the file; the row's image paths are relative to its folder.
        line: number of the row's line, from 1, for messages.

    Raises:
        DataError: it is not JSON, or its layout has a problem.
    """
    value = parse_json(content, path, line)
    layout = next((each for each in FORMATS if isinstance(value, dict) and each.recognise(value)), FORMATS[-1])
    if fault := layout.fault(value):
        raise DataError(f"{path}:{line}: {fault}", "correct or remove these rows")
    return layout.read(value, path.parent)
