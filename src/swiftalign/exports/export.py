"""Merge a checkpoint into its base: a model folder in which nothing else has changed, to the byte.

The model is never loaded. Weight files are copied as they are, and the merged values are written into their places: the
dtype and shape are the same, so header and index stay. All that was written is read back and compared.
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from swiftalign.checkpoint.choose import Chosen
from swiftalign.config.sections import Config
from swiftalign.evaluation.kept import find_evaluation
from swiftalign.exports.card import model_card
from swiftalign.exports.folder import output_file, output_folder
from swiftalign.exports.logits import largest_difference
from swiftalign.exports.mmproj import load_gguf, mmproj_dtype, mmproj_file, model_name, write_mmproj
from swiftalign.exports.outputs import CARD, PLAN, RECORD, Part, Written, write_adapter, write_aligner, write_model
from swiftalign.exports.source import read_source
from swiftalign.exports.training import read_training
from swiftalign.problems import SwiftalignError
from swiftalign.versions import versions

__all__ = ["ExportReport", "export"]


@dataclass(frozen=True, kw_only=True)
class ExportReport(Written):
    """What an export wrote, from what, and where.

    Attributes:
        output: folder, or GGUF file, that was written.
        base: folder of the base model.
        checkpoint: folder of the checkpoint that was merged.
        chosen: why this checkpoint was taken.
        method: the tuning method, by the name that ``init`` knows.
        seconds: duration of the export, in seconds.
        max_logit_difference: the largest absolute difference of a logit that ``check_logits`` found; None without it.
        scale: how much of the way from the base to the trained values was gone.
    """

    output: Path
    base: Path
    checkpoint: Path
    chosen: Chosen
    method: str
    seconds: float
    max_logit_difference: float | None = None
    scale: float = 1.0

    def to_json(self) -> dict[str, Any]:
        """All attributes as plain values; paths are texts."""
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
    mmproj: bool = False,
    check_logits: bool = False,
    hub_id: str | None = None,
    which: str | int | None = None,
    scale: float = 1.0,
) -> ExportReport:
    """Write a deployable model folder, or a part of one.

    The checkpoint is verified first. Without ``dtype``, only the planned tensors of the result differ from the base's
    files, in their bytes; what was written is read back and compared.

    Args:
        checkpoint: a checkpoint folder or a run folder.
        output: the folder to write; with ``mmproj``, a folder or a file.
        base: folder of the base model; needed where the checkpoint does not name it.
        config: the run's configuration; needed where the checkpoint is no longer in its run folder.
        dtype: float32, bfloat16 or float16: convert all that is written to this dtype and merge in it, as peft does
            with a base that was loaded in this dtype.
        link: hard-link the weight files in which nothing changes.
        force: replace the output folder if it exists.
        aligner_only: write only the merged aligner tensors, as one file.
        adapter_only: write only the adapter, without training state.
        mmproj: write only the vision file of llama.cpp, whose matrices get this dtype: into a folder with its card, or,
            where ``output`` ends in .gguf, as that file.
        check_logits: load both forms in transformers and compare their logits.
        hub_id: the id under which the folder will be on a hub: its card loads it by this id, and none of its files
            holds a path of this machine.
        which: the checkpoint of a run folder: ``best``, ``last`` or the number of a step; by default its best one if
            the run keeps the best model, else its newest.
        scale: how much of the way from the base's values to the trained ones to go, above 0 and at most 1: below 1, the
            result is their weighted average, which forgets less.

    Returns:
        What was written, from what, and where.

    Raises:
        SwiftalignError: the scale is out of range, or does not go with what is to be written.
        ModelError: there is no checkpoint, or no base.
        ExportError: the checkpoint is not sound, the output is taken or has no room, or the result is not what it
            should be.
    """
    began = time.monotonic()
    if not 0 < scale <= 1:
        raise SwiftalignError(f"scale {scale:g}: it is a share of the way", "choose a number above 0 and at most 1")
    if scale != 1 and (adapter_only or check_logits):
        what = "an adapter alone is not averaged" if adapter_only else "the logits are compared for a scale of 1 only"
        other = "--adapter-only" if adapter_only else "--check-logits"
        raise SwiftalignError(f"scale {scale:g}: {what}", f"leave out --scale or {other}")
    output, difference = Path(output).absolute(), None
    part: Part = "mmproj" if mmproj else "adapter" if adapter_only else "aligner" if aligner_only else "model"
    alone = part == "mmproj" and output.suffix == ".gguf"
    if part == "mmproj":
        load_gguf()  # whether it is there is told before a long check
    source = read_source(Path(checkpoint), base=base, config=config, which=which, scale=scale)
    training, place = read_training(source.origin), output_file if alone else output_folder
    with place(output, force=force, apart_from=(source.base_folder, source.origin.path)) as folder:
        if part == "mmproj":
            kind, name = mmproj_dtype(source, dtype), (hub_id or model_name(output)).rpartition("/")[2]
            card = model_card(source, Written(changed=[]), training, part="model", name=name)
            file = folder if alone else folder / mmproj_file(name, kind)
            written = write_mmproj(source, file, dtype=kind, name=name, card=card)
        elif part == "adapter":
            written = write_adapter(source, folder, dtype=dtype, base=source.base_name if hub_id else None)
        elif part == "aligner":
            written = write_aligner(source, folder, dtype=dtype)
        else:
            written = write_model(source, folder, dtype=dtype, link=link)
            difference = largest_difference(source, folder) if check_logits else None
        plan = source.plan.to_json() if source.plan else None
        if plan and hub_id:
            plan["model"] = source.base_name
        if plan and part == "model":
            (folder / PLAN).write_text(json.dumps(plan, indent=1) + "\n", encoding="utf-8")
        origin: dict[str, Any] = {
            "base": source.base_folder,
            "checkpoint": source.origin.path,
            "chosen": source.origin.chosen,
            "method": source.method,
            "scale": scale,
        }
        run = source.origin.path.parent.name
        record = {
            "format": 1,
            **origin,
            "chosen": {key: value for key, value in asdict(source.origin.chosen).items() if key != "path"},
            **({"base": source.base_name, "checkpoint": f"{run}/{source.origin.path.name}"} if hub_id else {}),
            **asdict(written),
            "max_logit_difference": difference,
            "plan_sha256": hashlib.sha256(json.dumps(plan, sort_keys=True).encode()).hexdigest() if plan else None,
            "versions": versions(),
        }
        if not alone:
            (folder / RECORD).write_text(json.dumps(record, indent=2, default=str) + "\n", encoding="utf-8")
            places = dict.fromkeys((Path.cwd(), source.origin.path.parent, source.origin.path.parent.parent))
            evaluated = find_evaluation(source.origin.path.glob("*.safetensors"), places)
            name = hub_id or output.name
            card = model_card(source, written, training, part=part, name=name, evaluated=evaluated)
            (folder / CARD).write_text(card, encoding="utf-8")
    return ExportReport(
        output=output,
        seconds=time.monotonic() - began,
        max_logit_difference=difference,
        **origin,
        **vars(replace(written, notes=[*source.remarks, *written.notes])),
    )
