"""How many tokens and patches the rows of a run's data have."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from swiftalign.config.sections import Config
from swiftalign.data.images import image_size
from swiftalign.data.length_limit import tokenizer_of
from swiftalign.data.records import parse_row, read_lines, to_record
from swiftalign.data.text import to_messages
from swiftalign.data.tokens import Conversation, PixelLimits, RowLength, Size, conversation, pixel_limits, visual_tokens
from swiftalign.model.qwen3_vl import QWEN3_VL
from swiftalign.plan.schedule import LeftOut, count_rows
from swiftalign.problems import DataError
from swiftalign.speed.work import Row

# Rows to look at: evenly spread over the data.
LOOKED_AT = 2000

_BYTES_OF_TOKEN = 3.0  # of text with coordinates, where there is no tokenizer


def rows_of(config: Config, left_out: LeftOut | None = None) -> list[Row]:
    """Up to 2000 training rows as the model sees them, without those that can't be counted.

    Args:
        left_out: rows not to train on.
    """
    sizes, limits = lru_cache(4096)(image_size), pixel_limits(config.data.max_pixels)
    known: list[tuple[Conversation, list[Size]]] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, of images whose faults a scan reports
        for row, folder in _spread(config, left_out or {}):
            try:
                found = [sizes(image) for image in to_record(row, folder).images]
                text = _conversation(row, folder, found, config, limits)
            except (DataError, KeyError, TypeError, ValueError):
                continue  # a scan of the data reports it
            if text is not None:
                known.append((text, found))
    whole = [text for text, _ in known]
    answers = [Conversation(text.texts[1::2], 0) for text in whole]
    counted = zip(known, _count(whole, config), _count(answers, config), strict=True)
    return [
        Row(tokens, tuple(QWEN3_VL.merge**2 * visual_tokens(*size, limits) for size in found), labels)
        for (_, found), tokens, labels in counted
    ]


def _spread(config: Config, left_out: LeftOut) -> Iterator[tuple[dict[str, Any], Path]]:
    files = [Path(name) for name in config.data.train]
    every = max(sum(map(count_rows, files)) // LOOKED_AT, 1)
    number = 0
    for path in files:
        with path.open("rb") as file:
            for line_number, line in read_lines(file):
                if number % every == 0 and line_number not in left_out.get(path, ()):
                    with suppress(DataError):
                        yield parse_row(line, path, line_number), path.parent
                number += 1


def _conversation(
    row: dict[str, Any], folder: Path, sizes: list[Size], config: Config, limits: PixelLimits
) -> Conversation | None:
    if "messages" not in row:
        record = to_record(row, folder).in_pixels(*sizes[0])
        row = {"messages": to_messages(record, *sizes[0], config.data.text)}
    return conversation(row, sizes, limits, config.data.system)


def _count(texts: list[Conversation], config: Config) -> list[int]:
    tokenizer = tokenizer_of(config)
    if tokenizer is not None:
        return RowLength(tokenizer).count(texts)
    return [text.image_tokens + int(sum(map(len, text.texts)) / _BYTES_OF_TOKEN) for text in texts]
