"""How many tokens and patches the rows of a run's data have."""

from __future__ import annotations

import warnings
from contextlib import suppress

from swiftalign.data.encoding import Encoding
from swiftalign.data.images import remembered_sizes
from swiftalign.data.rows import Rows
from swiftalign.data.sizes import Size, visual_tokens
from swiftalign.data.tokens import Conversation
from swiftalign.model.family import Family
from swiftalign.problems import DataError
from swiftalign.speed.work import Row


def rows_of(rows: Rows, encoding: Encoding) -> list[Row]:
    """About 2000 training rows as the model sees them, without those that can't be counted."""
    size_of = remembered_sizes()
    known: list[tuple[Conversation, list[Size]]] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, about images whose faults the scan reports
        for index in range(0, len(rows), max(len(rows) // 2000, 1)):  # evenly spread over the data
            with suppress(DataError):  # the scan reports it
                row = rows.row(index)
                sizes = [size_of(image) for image in row.images if image]
                if text := encoding.conversation(row, sizes):
                    known.append((text, sizes))
    tokens = encoding.lengths([text for text, _ in known])
    labels = encoding.lengths([Conversation(text.texts[1::2], 0) for text, _ in known])
    return [
        Row(whole, tuple(Family.merge**2 * visual_tokens(*size, encoding.limits) for size in sizes), answers)
        for (_, sizes), whole, answers in zip(known, tokens, labels, strict=True)
    ]
