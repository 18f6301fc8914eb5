"""Merge a checkpoint into its base: a model folder in which nothing else has changed, to the byte.

The model is never loaded. Weight files are copied as they are, and the merged values are written into their places: the
dtype and shape are the same, so header and index stay. Then the result is compared with the base, tensor by tensor.
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from swiftalign.checkpoint.choose import Chosen
from swiftalign.config.sections import Config
from swiftalign.exports.card import model_card
from swiftalign.exports.folder import output_folder
from swiftalign.exports.logits import largest_difference
from swiftalign.exports.outputs import CARD, PLAN, RECORD, Written, write_adapter, write_aligner, write_model
from swiftalign.exports.source import read_source
from swiftalign.versions import versions

__all__ = ["ExportReport", "export"]


@dataclass(frozen=True, kw_only=True)
class ExportReport(Written):
    """What an export wrote, from what, and where.

    Attributes:
        output: folder that was written.
        base: folder of the base model.
        checkpoint: folder of the checkpoint that was merged.
        chosen: why this checkpoint was taken.
        method: the tuning method, by the name that ``init`` knows.
        seconds: duration of the export.
        max_logit_difference: what ``check_logits`` measured.
    """

    output: Path
    base: Path
    checkpoint: Path
    chosen: Chosen
    method: str
    seconds: float
    max_logit_difference: float | None = None

    def to_json(self) -> dict[str, Any]:
        return json.loads(json.dumps(asdict(self), default=str))  # type: ignore[no-any-return]


def export(
    checkpoint: str | Path,
    output: str | Path,
    *,
    base: Path | None = None,
    config: Config | None = None,
    dtype: str | None = None,
    link: bool = False,
    force: bool = False,
    aligner_only: bool = False,
    adapter_only: bool = False,
    check_logits: bool = False,
    which: str | int | None = None,
) -> ExportReport:
    """Write a deployable model folder, or a part of one.

    Args:
        checkpoint: a checkpoint folder or a run folder.
        output: the folder to write.
        base: folder of the base model; needed where the checkpoint does not name it.
        config: the run's configuration; needed where the checkpoint is no longer in its run folder.
        dtype: float32, bfloat16 or float16: convert all weights to this dtype and merge in it, as peft does with a base
            that was loaded in this dtype.
        link: hard-link the weight files in which nothing changes.
        force: replace the output folder if it exists.
        aligner_only: write only the merged aligner tensors, as one file.
        adapter_only: write only the adapter, without training state.
        check_logits: load both forms in transformers and compare their logits.
        which: the checkpoint of a run folder: ``best``, ``last`` or the number of a step; by default its best one if
            the run keeps the best model, else its newest.

    Raises:
        ModelError: there is no checkpoint, or no base.
        ExportError: the checkpoint is not sound, the output is taken or has no room, or the result is not what it
            should be.
    """
    began = time.monotonic()
    source = read_source(Path(checkpoint), base=base, config=config, which=which)
    output, difference = Path(output).absolute(), None
    part = "adapter" if adapter_only else "aligner" if aligner_only else "model"
    with output_folder(output, force=force, apart_from=(source.base_folder, source.origin.path)) as folder:
        if part == "adapter":
            written = write_adapter(source, folder)
        elif part == "aligner":
            written = write_aligner(source, folder)
        else:
            written = write_model(source, folder, dtype=dtype, link=link)
            difference = largest_difference(source, folder) if check_logits else None
        plan = source.plan.to_json() if source.plan else None
        if plan and part == "model":
            (folder / PLAN).write_text(json.dumps(plan, indent=1) + "\n", encoding="utf-8")
        origin: dict[str, Any] = {
            "base": source.base_folder,
            "checkpoint": source.origin.path,
            "chosen": source.origin.chosen,
            "method": source.method,
        }
        record = {
            "format": 1,
            **origin,
            "chosen": source.origin.chosen.to_json(),
            **asdict(written),
            "max_logit_difference": difference,
            "plan_sha256": hashlib.sha256(json.dumps(plan, sort_keys=True).encode()).hexdigest() if plan else None,
            "versions": versions(),
        }
        (folder / RECORD).write_text(json.dumps(record, indent=2, default=str) + "\n", encoding="utf-8")
        (folder / CARD).write_text(model_card(source, written, output, part), encoding="utf-8")
    return ExportReport(
        output=output,
        seconds=time.monotonic() - began,
        max_logit_difference=difference,
        **origin,
        **vars(written),
    )
