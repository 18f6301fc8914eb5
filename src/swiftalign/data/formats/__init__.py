"""The layouts of rows. A new one is a file beside these, and an entry here."""

from __future__ import annotations

from typing import Any

from swiftalign.data.formats.own import OWN
from swiftalign.data.formats.phrase import PHRASE
from swiftalign.data.formats.suffix import SUFFIX
from swiftalign.data.formats.swift import SWIFT
from swiftalign.data.records import Reading, Row
from swiftalign.problems import DataError

# Tried in this order. The last one names the fault of a row that none of them recognises.
FORMATS = (SUFFIX, PHRASE, SWIFT, OWN)


def read_row(value: Any, where: str, reading: Reading) -> Row:
    """A row from what a file holds of it.

    Args:
        value: the row as JSON gives it.
        where: file and line, for messages.

    Raises:
        DataError: its layout has a problem.
    """
    layout = next((each for each in FORMATS if isinstance(value, dict) and each.recognise(value)), FORMATS[-1])
    try:
        return layout.read(value, reading)
    except ValueError as fault:
        raise DataError(f"{where}: {fault}", "correct or remove these rows") from None
