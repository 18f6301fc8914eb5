"""Whether the text that the model learns says where the rows' targets are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from swiftalign.config.sections import Config
from swiftalign.data.encoded import NotHereError, TemplateEncoder, learned_faults, training_encoder
from swiftalign.data.encoding import encoding_of
from swiftalign.data.rows import Rows, open_images, sizes_of, with_images
from swiftalign.data.scan import DataReport
from swiftalign.model.swift_templates import UNITS
from swiftalign.problems import DataError, Problem

FIRST_ROWS, SAMPLED_ROWS = 2, 12  # of each file, and of all
_NAMED = 3


class NotLearnedError(DataError):
    """The text that the model would learn does not say what the rows say."""

    exit_code = 1


def learned(config: Config, data: DataReport) -> Iterable[Problem]:
    """Encode a few rows as training does and read them back; imports ms-swift, which takes seconds."""
    try:
        encoder = training_encoder(config)
    except NotHereError as error:
        yield Problem("data-unchecked", f"what the model learns to write: {error.message}")
        return
    for part in ("train", "val"):
        if sources := config.data.sources(part):
            yield from sampled(Rows(sources, data.left_out, encoding_of(config).writing, data.files), encoder)


def sampled(rows: Rows, encode: TemplateEncoder) -> Iterator[Problem]:
    """What is learnt of the first rows of each file and of some others, where that differs from what is meant."""
    numbers = rows.file_numbers()
    first = [
        int(index) for number in range(len(rows.files)) for index in np.flatnonzero(numbers == number)[:FIRST_ROWS]
    ]
    others = np.random.default_rng(0).permutation(len(rows))[:SAMPLED_ROWS].tolist()
    unit = UNITS.get(getattr(encode.template, "norm_bbox", None) or "")
    found = 0
    if getattr(encode.template, "truncation_strategy", None) in ("left", "right", "split"):
        yield Problem("data-unchecked", "what the model learns to write, as long rows are cut")
        return
    for index in dict.fromkeys([*first, *others]):
        with rows.naming(index):
            row = rows.row(index)
        if not row.images or None in row.images:
            continue
        if row.targets and unit and unit != rows.writing.unit:
            message = (
                f"ms-swift's template for this model writes {unit}, but the coordinates would be {rows.writing.unit}"
            )
            yield Problem("data-not-learned", message, "name the model's type: model.type", where=rows.where(index))
            return
        try:
            images = open_images(row)
        except DataError:  # the check of images tells, or the run where its turn comes
            continue
        sizes = sizes_of(images)
        try:
            encoded = encode(with_images(row.to_swift(sizes, rows.writing), images))
        except Exception as error:  # ms-swift raises errors of many types
            reason = " ".join(str(error).split())[:160] or type(error).__name__
            faults = [f"ms-swift can't encode it: {reason}"]
        else:
            faults = learned_faults(encoded.learned, row.record(sizes, rows.writing.limits), sizes, rows.writing)
        for fault in faults:
            yield Problem("data-not-learned", fault, "report this row, or leave it out", where=rows.where(index))
            found += 1
        if found >= _NAMED:
            return
