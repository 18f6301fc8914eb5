"""What is to be exported: a checkpoint, its base model, and the tensors of the base that it changes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from swiftalign.checkpoint.against_base import packed_in
from swiftalign.checkpoint.read import Checkpoint, base_of, read_checkpoint, tensors_of_base
from swiftalign.checkpoint.verify import verify
from swiftalign.config.sections import Config
from swiftalign.methods import of_adapter
from swiftalign.methods.keys import PeftKey
from swiftalign.methods.merging import SavedAdapter
from swiftalign.model.bytes import cast, read_bytes, to_float
from swiftalign.model.families import find
from swiftalign.model.read import read
from swiftalign.model.safetensors import StoredTensor, read_json
from swiftalign.model.stored import quantised_by
from swiftalign.model.tree import ModelSource
from swiftalign.plan.plan import TuningPlan
from swiftalign.problems import ExportError, ModelError, blocking, counted

_OWN_BASE = "name the run's own base with --base"
ADAPTER_FILE = "adapter_model.safetensors"


@dataclass(frozen=True)
class Source(SavedAdapter):
    """A checked checkpoint and the base that it belongs to; for full training its `config` and `layers` are empty.

    Attributes:
        origin: the checkpoint as it was named; `checkpoint` is its folder, or that of the adapter gathered from it.
        base_folder: folder of the base model.
        plan: the plan of the run; None where the checkpoint has none.
        whole: base tensor -> the checkpoint's tensor that replaces it.
        remarks: what a reader should know of the base.
        scale: how much of the way from the base to the trained values is gone; 1 is all of it.
    """

    origin: Checkpoint
    base_folder: Path
    plan: TuningPlan | None
    whole: dict[str, StoredTensor]
    remarks: tuple[str, ...]
    scale: float = 1.0

    @property
    def files(self) -> list[Path]:
        """The base's weight files."""
        return sorted({tensor.file for tensor in self.base.values()})

    @property
    def changed_files(self) -> set[Path]:
        """The base's weight files that hold a tensor which changes."""
        return {self.base[name].file for name in (*self.whole, *self.changed)}

    @property
    def base_name(self) -> str:
        """What others know the base by: its id on a hub where the run names it, or where it lies in the hub's cache.

        Otherwise the name of its folder.
        """
        named = self.plan.model if self.plan else self.config.get("base_model_name_or_path")
        if isinstance(named, str) and re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", named):
            return named
        cached = re.search(r"/models--([^/]+)--([^/]+)/snapshots/[^/]+$", str(self.base_folder))
        return "/".join(cached.groups()) if cached else self.base_folder.name

    @property
    def method(self) -> str:
        if self.plan is not None:
            return self.plan.method
        method = of_adapter(self.config)
        return method.name if method and self.layers else "modules_to_save"

    def merged_values(self, dtype: str | None = None) -> Iterator[tuple[str, bytes]]:
        """Name and bytes of every tensor that changes, as peft merges into a base model loaded in ``dtype``.

        With a `scale` below 1, peft's merge into a base in float32 is averaged with the base, and rounded once.

        Raises:
            ExportError: one that was trained is of a kind that the method does not merge.
        """
        if self.scale == 1:
            yield from self._trained_values(dtype)
            return
        for name, data in self._trained_values("float32"):
            base = self.base[name]
            start = to_float(read_bytes(base), base.info.dtype)
            averaged = start + self.scale * (to_float(data, "float32") - start)
            yield name, cast(averaged.tobytes(), "float32", dtype or base.info.dtype)

    def _trained_values(self, dtype: str | None) -> Iterator[tuple[str, bytes]]:
        left = set(self.changed)
        for name, tensor in self.whole.items():
            yield name, cast(read_bytes(tensor), tensor.info.dtype, dtype or self.base[name].info.dtype)
        if self.layers:
            method = of_adapter(self.config)
            assert method is not None, "verify() refuses adapters of other methods"
            for name, data in method.merge(self, dtype):
                left.discard(name)
                yield name, data
        if left:
            message = f"{min(left)} was trained, and the method {self.method} has no merge for it"
            raise ExportError(message, "use the adapter beside its base instead: --adapter-only")


def read_source(
    path: Path,
    *,
    base: Path | None = None,
    config: Config | None = None,
    which: str | int | None = None,
    scale: float = 1.0,
) -> Source:
    """Find, read and check a checkpoint and its base; `export` says what the arguments are.

    Raises:
        ModelError: there is no checkpoint here, or its base is not a folder.
        ExportError: the checkpoint is damaged, incomplete, or of another base.
    """
    checkpoint = read_checkpoint(path, which)
    folder, kind, plan, problem = checkpoint.path, checkpoint.weights.kind, checkpoint.plan, checkpoint.adapter_problem
    if kind == "file":
        raise ModelError(f"{folder}: not a checkpoint folder", "name a checkpoint-N folder or a run folder")
    if kind == "shards":
        problem = checkpoint.weights.problems[0]
    elif kind != "adapter" and (plan is None or plan.train_type != "full"):
        message = f"{folder}: has no adapter_config.json, and its run did not train a whole model"
        raise ModelError(message, "name a checkpoint-N folder or a run folder")
    if problem:
        raise ExportError(f"{folder} is not sound:\n{problem.message} [{problem.code}]", problem.hint)
    adapter = checkpoint.adapter.values if checkpoint.adapter else {}
    if adapter.get("bias") == "lora_only":
        hint = "train with bias: none or bias: all"
        raise ExportError(f"{folder}: bias: lora_only trains biases that peft does not save", hint)
    given, base = base, base_of(checkpoint, base)
    # Without a plan, what to expect comes from the base; what differs from it is checked after the merge anyway.
    compared = base if (given and adapter) or not (plan or config) else None
    checked = verify(checkpoint, base=compared, config=config, deep=True, resumable=False)
    if errors := blocking(checked.findings):
        lines = "\n".join(f"{finding.message} [{finding.code}]" for finding in errors)
        raise ExportError(f"{folder} is not sound:\n{lines}", errors[0].hint or None)
    tensors, base_tensors = checkpoint.weights.stored, checked.base_tensors or tensors_of_base(base)
    if not tensors:
        raise ExportError(f"{folder}: has no safetensors file", "save it again: only safetensors files are merged")
    keys = {PeftKey.parse(name): tensor for name, tensor in tensors.items()}
    adapted = dict.fromkeys(key.layer for key in keys if key.factor)
    merged = dict.fromkeys(key.base for key in keys if key.layer in adapted)
    whole = {key.base: tensor for key, tensor in keys.items() if key.layer not in adapted}
    if not adapter and plan:
        trained = {item.key for item in plan.trainables}
        whole = {name: tensor for name, tensor in whole.items() if not trained.isdisjoint(tensor.makes or (name,))}
    if (quantised := quantised_by(base)) and (packed := packed_in(base_tensors, (*whole, *merged))):
        what = f"nothing can be merged into {counted(len(packed), 'tensor')}, e.g. {packed[0]}"
        hint = "name the model that it was made from, in 16 bits, with --base FOLDER"
        raise ExportError(f"{base}: is quantised ({quantised}), and {what}", hint)
    if lacking := [name for name in (*whole, *merged) if name not in base_tensors]:
        parts = [each.name for each in base_tensors.values() if lacking[0] in each.makes]
        parts += whole[lacking[0]].makes if lacking[0] in whole else ()
        if parts:  # the files of base and checkpoint divide it in different ways
            message = f"{lacking[0]} lies in the base's files in another form: see {parts[0]}"
            raise ExportError(message, "leave it out of training, or use the adapter without merging it")
        others = f" and {counted(len(lacking) - 1, 'more tensor')}" if len(lacking) > 1 else ""
        raise ExportError(f"the base lacks {lacking[0]}{others}", _OWN_BASE)
    for name, tensor in whole.items():
        mine, theirs = list(tensor.info.shape), list(base_tensors[name].info.shape)
        if mine != theirs:
            raise ExportError(f"{name} has the shape {mine}, in the base {theirs}", _OWN_BASE)
    if plan:
        _refuse_other_base(base, base_tensors, plan)
    files = checkpoint.weights.gathered or folder
    layers, remarks = tuple(adapted), checked.about_base
    return Source(
        files, adapter, tensors, base_tensors, layers, tuple(merged), checkpoint, base, plan, whole, remarks, scale
    )


def _refuse_other_base(folder: Path, tensors: dict[str, StoredTensor], plan: TuningPlan) -> None:
    """Compare the base's size with the plan's: a FourierFT spectrum fits layers of any shape."""
    values, total = read_json(folder / "config.json"), None
    model_type = str(values.get("model_type")) if isinstance(values, dict) else ""
    if family := find(model_type):
        if model := family.build(values, str(folder)):
            names = {weight.name for weight in model.parameters()}
            used = (tensor for name, tensor in tensors.items() if not names.isdisjoint(tensor.makes or (name,)))
            total = sum(tensor.info.numel for tensor in used)
    else:
        with suppress(ModelError):  # without the run's settings it may not be found out what the model is
            total = sum(weight.numel for weight in read(ModelSource(str(folder))).parameters())
    if total is not None and (model_type, total) != (plan.model_type, plan.total_parameters):
        theirs = f"the run's base was a {plan.model_type} of {plan.total_parameters:,}"
        raise ExportError(f"{folder}: a {model_type} of {total:,} parameters; {theirs}", _OWN_BASE)
