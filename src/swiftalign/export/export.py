"""Merging a checkpoint into its base: a model folder in which nothing else has changed, to the byte.

The model is never loaded. Weight files are copied as they are, and the merged values written into their place: same
dtype and shape, so header and index stay. Then the result is compared with the base, tensor by tensor.
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from swiftalign.config.sections import Config
from swiftalign.export.card import model_card
from swiftalign.export.convert import declare_dtype
from swiftalign.export.folder import appearing, copy_file, require_space
from swiftalign.export.merge import merged_values
from swiftalign.export.source import Source, plan_digest, read_source
from swiftalign.export.weights import write_weights
from swiftalign.model.safetensors import weight_files
from swiftalign.problems import ExportError

__all__ = ["ExportReport", "export"]

CARD = "README.md"
RECORD = "export.json"
BASE_CARD = "README.base.md"
# Of an export that now is the base: the new one writes its own.
_OWN_FILES = (BASE_CARD, RECORD, "plan.json")
# Other weights of the base would be stale beside the merged ones.
_WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx")


@dataclass(frozen=True)
class ExportReport:
    """What an export wrote.

    Attributes:
        changed: tensors that differ from the base.
        rounded: tensors that were trained, and equal the base after rounding to its dtype.
        copied: tensors that are the base's own.
        linked: files that are hard links to the base's.
        digests: SHA-256 of the bytes of each tensor that was merged, as it was written.
    """

    output: Path
    base: Path
    checkpoint: Path
    method: str
    changed: list[str]
    rounded: list[str]
    copied: int
    linked: list[str]
    digests: dict[str, str]
    total_bytes: int
    seconds: float
    max_logit_difference: float | None = None

    def to_json(self) -> dict[str, Any]:
        return json.loads(json.dumps(asdict(self), default=str))  # type: ignore[no-any-return]


def export(
    checkpoint: Path,
    output: Path,
    *,
    base: Path | None = None,
    config: Config | None = None,
    dtype: str | None = None,
    link: bool = False,
    force: bool = False,
    aligner_only: bool = False,
    adapter_only: bool = False,
    check_logits: bool = False,
) -> ExportReport:
    """Write a deployable model folder, or a part of one.

    Args:
        checkpoint: a checkpoint folder, or a run folder (its newest checkpoint).
        output: the folder to make.
        base: folder of the base model, where the checkpoint does not name it.
        config: of the run, where the checkpoint lies apart from its run folder.
        dtype: convert all weights to float32, bfloat16 or float16, and merge in it: peft's result on a base that was
            loaded in this dtype.
        link: hard-link the weight files in which nothing changes.
        force: replace the output folder, if there is one.
        aligner_only: write just the merged aligner tensors, as one file.
        adapter_only: write just the adapter, without training state.
        check_logits: load both forms in transformers and compare what they compute.

    Raises:
        ModelError: there is no checkpoint, or no base.
        ExportError: the checkpoint is not sound, the output is taken or has no room, or the result is not what it
            ought to be.
    """
    began = time.monotonic()
    source = read_source(checkpoint, base=base, config=config)
    output = output.absolute()
    _refuse_inside(output, source)
    with appearing(output, force=force) as folder:
        if adapter_only:
            report = _write_adapter(source, folder)
        elif aligner_only:
            report = _write_aligner(source, folder)
        else:
            report = _write_model(source, folder, dtype=dtype, link=link)
        report = _finish(report, source, folder, output, began, whole=not (adapter_only or aligner_only))
        if check_logits and not (adapter_only or aligner_only):
            from swiftalign.export.logits import largest_difference

            report = replace(report, max_logit_difference=largest_difference(source, folder))
    return replace(report, seconds=time.monotonic() - began)


def _refuse_inside(output: Path, source: Source) -> None:
    place = output.resolve()  # links and .. lead where they lead
    for folder in (source.base, source.checkpoint):
        real = folder.resolve()
        if place == real or real in place.parents or place in real.parents:
            raise ExportError(f"{output}: lies inside {folder}, or holds it", "name a folder of its own")


def _write_model(source: Source, folder: Path, *, dtype: str | None, link: bool) -> ExportReport:
    files = weight_files(source.base)
    homes = source.homes
    shared = [file for file in files if link and file not in homes and dtype is None]
    total = sum(file.stat().st_size for file in files)
    widest = 2 if dtype == "float32" else 1  # of a 16-bit base
    require_space(folder, sum(file.stat().st_size for file in files if file not in shared) * widest)
    _copy_others(source.base, folder)
    placed = write_weights(source, folder, shared=shared, dtype=dtype)
    rounded = [name for name, item in placed.items() if item.same]
    changed = [name for name, item in placed.items() if not item.same]
    if not changed:
        hint = "the updates were smaller than the base's dtype can hold: train longer, or at a higher rate"
        raise ExportError("the merged model equals the base: nothing changed", hint)
    digests = {name: item.digest for name, item in placed.items()}
    if dtype is not None:
        declare_dtype(folder, dtype)
    copied = len(source.base_tensors) - len(changed)
    linked = [file.name for file in shared]
    return ExportReport(
        folder, source.base, source.checkpoint, source.method, changed, rounded, copied, linked, digests, total, 0.0
    )


def _copy_others(base: Path, folder: Path) -> None:
    """Config, tokenizer, processor, template, licence: the base's own files to the byte."""
    for path in sorted(base.iterdir()):
        if path.name.startswith(".") or not path.is_file() or path.suffix in _WEIGHT_SUFFIXES:
            continue
        if path.name in _OWN_FILES:
            continue
        if path.name.endswith(".index.json") and not path.name.startswith("model.safetensors"):
            continue
        copy_file(path.resolve(), folder / (BASE_CARD if path.name == CARD else path.name))


def _write_adapter(source: Source, folder: Path) -> ExportReport:
    """peft's two files, with the base under the name that it has here."""
    if not source.adapter:
        raise ExportError(f"{source.checkpoint}: full training has no adapter", "leave out --adapter-only")
    from swiftalign.export.source import ADAPTER_FILE

    copy_file(source.checkpoint / ADAPTER_FILE, folder / ADAPTER_FILE)
    values = {**source.adapter, "base_model_name_or_path": str(source.base), "inference_mode": True}
    (folder / "adapter_config.json").write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    size = (folder / ADAPTER_FILE).stat().st_size
    return ExportReport(folder, source.base, source.checkpoint, source.method, source.changed, [], 0, [], {}, size, 0.0)


def _write_aligner(source: Source, folder: Path) -> ExportReport:
    """The merged aligner tensors under the base's names, in the base's dtype."""
    from swiftalign.export.convert import write_safetensors
    from swiftalign.methods.merging import read_bytes
    from swiftalign.model.qwen3_vl import QWEN3_VL

    merged = dict(merged_values(source))
    places = [t for n, t in source.base_tensors.items() if QWEN3_VL.component(n) == "aligner"]
    if not places:
        raise ExportError(f"{source.base}: holds no aligner of Qwen3-VL", "leave out --aligner-only")
    entries = [(t.info, merged.get(t.info.name) or read_bytes(t)) for t in places]
    write_safetensors(folder / "aligner.safetensors", entries)
    size = (folder / "aligner.safetensors").stat().st_size
    names = [info.name for info, _ in entries]
    changed = [name for name in names if name in merged]
    digests = {name: hashlib.sha256(merged[name]).hexdigest() for name in changed}
    copied = len(names) - len(changed)
    return ExportReport(
        folder, source.base, source.checkpoint, source.method, changed, [], copied, [], digests, size, 0.0
    )


def _finish(
    report: ExportReport, source: Source, folder: Path, output: Path, began: float, *, whole: bool
) -> ExportReport:
    """Add the record and the model card."""
    from swiftalign.versions import versions

    report = replace(report, output=output, seconds=time.monotonic() - began)
    record = {
        "format": 1,
        **{key: value for key, value in report.to_json().items() if key not in ("output", "seconds")},
        "plan_sha256": plan_digest(source),
        "versions": versions(),
    }
    (folder / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    if source.plan is not None and whole:
        (folder / "plan.json").write_text(json.dumps(source.plan.to_json(), indent=1) + "\n", encoding="utf-8")
    (folder / CARD).write_text(model_card(report, source), encoding="utf-8")
    return report
