"""What is to be exported: a checkpoint, its base model, and the tensors of the base that it changes."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swiftalign.checkpoint.expected import plan_beside
from swiftalign.checkpoint.verify import Verification, checkpoints_of, verify
from swiftalign.config.sections import Config
from swiftalign.methods import of_adapter
from swiftalign.methods.keys import ADAPTER_PREFIX
from swiftalign.model.hub import cached_folder
from swiftalign.model.qwen3_vl import NAME_TABLES
from swiftalign.model.read import modules_from_tensors
from swiftalign.model.safetensors import StoredTensor, read_json, stored_tensors
from swiftalign.plan.plan import TuningPlan
from swiftalign.problems import ExportError, ModelError, counted

ADAPTER_FILE = "adapter_model.safetensors"


@dataclass(frozen=True)
class Source:
    """A checked checkpoint and the base that it belongs to.

    Attributes:
        adapter: peft's own config; empty for a checkpoint of full training.
        tensors: of the checkpoint, under its own names.
        whole: base tensor -> the checkpoint's tensor that replaces it.
        adapted: layers of the base whose weight an adapter changes.
    """

    checkpoint: Path
    base: Path
    base_tensors: dict[str, StoredTensor]
    verification: Verification
    adapter: dict[str, Any]
    plan: TuningPlan | None
    tensors: dict[str, StoredTensor]
    whole: dict[str, StoredTensor]
    adapted: tuple[str, ...]

    @property
    def merged(self) -> list[str]:
        """Names of the base tensors that the adapters change: weights, and biases where they were trained too."""
        layers = set(self.adapted)
        biases = (name for name in self.tensors if name.endswith(".bias"))
        bare = (re.sub(r"\.(?:base_layer|lora_B)\.bias$", "", name.removeprefix(ADAPTER_PREFIX)) for name in biases)
        return [f"{layer}.weight" for layer in self.adapted] + [f"{name}.bias" for name in bare if name in layers]

    @property
    def changed(self) -> list[str]:
        """Names of the base tensors that merging changes."""
        return [*self.whole, *self.merged]

    @property
    def homes(self) -> set[Path]:
        """The base's files that hold a tensor which changes."""
        return {self.base_tensors[name].file for name in self.changed}

    @property
    def method(self) -> str:
        if self.plan is not None:
            return self.plan.method
        method = of_adapter(self.adapter)
        return method.name if method and self.adapted else "modules_to_save"


def read_source(path: Path, *, base: Path | None = None, config: Config | None = None) -> Source:
    """Find, read and check a checkpoint and its base.

    Raises:
        ModelError: there is no checkpoint here, or its base is no folder.
        ExportError: the checkpoint is damaged, incomplete, or of another base.
    """
    checkpoints = checkpoints_of(path)
    checkpoint = checkpoints[-1] if checkpoints else path
    if not checkpoint.is_dir():
        raise ModelError(f"{checkpoint}: not a checkpoint folder", "name a checkpoint-N folder or a run folder")
    beside = plan_beside(checkpoint)
    plan = beside[1] if beside else None
    adapter = _adapter_of(checkpoint)
    if not adapter and (plan is None or plan.train_type != "full"):
        raise ModelError(f"{checkpoint}: has no adapter_config.json, and its run trained no whole model")
    if adapter.get("bias") == "lora_only":
        hint = "train with bias: none or bias: all"
        raise ExportError(f"{checkpoint}: bias: lora_only trains biases that peft does not save", hint)
    folder = _base_folder(base, plan, adapter)
    # Without a plan, what to expect comes from the base; what differs from it is checked after the merge anyway.
    against = folder if plan is None and config is None else None
    checked = verify(checkpoint, base=against, config=config, deep=True, resumable=False)
    _refuse(checkpoint, checked)
    base_tensors = stored_tensors(folder)
    found = {tensor.info.name: tensor for tensor in _stored(checkpoint, adapter)}
    if adapter:
        adapted = _adapted_layers(found)
        inside = tuple(f"{layer}." for layer in adapted)
        bare = {name.removeprefix(ADAPTER_PREFIX): tensor for name, tensor in found.items()}
        whole = {name: tensor for name, tensor in bare.items() if not name.startswith(inside) or not inside}
    else:
        assert plan is not None
        trained = {item.key for item in plan.trainables}
        adapted, whole = (), {name: tensor for name, tensor in found.items() if name in trained}
    _fit(whole, adapted, base_tensors)
    _refuse_other_base(folder, base_tensors, plan)
    return Source(checkpoint, folder, base_tensors, checked, adapter, plan, found, whole, adapted)


def _adapter_of(checkpoint: Path) -> dict[str, Any]:
    path = checkpoint / "adapter_config.json"
    if not path.exists():
        return {}
    values = read_json(path)
    if not isinstance(values, dict):
        raise ExportError(f"{path}: not a config of peft", "take another checkpoint")
    return values


def _base_folder(given: Path | None, plan: TuningPlan | None, adapter: dict[str, Any]) -> Path:
    named = given or (plan.model if plan else None) or adapter.get("base_model_name_or_path")
    if not named:
        raise ModelError("the checkpoint names no base model", "name it with --base FOLDER")
    folder = Path(str(named)).expanduser()
    if not folder.is_dir() and given is None and not folder.is_absolute():
        folder = cached_folder(str(named), None, "huggingface") or folder
    if not folder.is_dir():
        raise ModelError(f"base model {named}: not a folder here", "name the base model's folder with --base FOLDER")
    return folder.absolute()


def _refuse(checkpoint: Path, checked: Verification) -> None:
    errors = [finding for finding in checked.findings if finding.severity == "error"]
    if errors:
        lines = "\n".join(f"{finding.message} [{finding.code}]" for finding in errors)
        raise ExportError(f"{checkpoint} is not sound:\n{lines}", errors[0].hint or None)


def _stored(checkpoint: Path, adapter: dict[str, Any]) -> list[StoredTensor]:
    from swiftalign.model.safetensors import read_stored

    if not adapter:
        return list(stored_tensors(checkpoint).values())
    path = checkpoint / ADAPTER_FILE
    if not path.exists():
        raise ExportError(f"{checkpoint}: has no {ADAPTER_FILE}", "only safetensors adapters are merged: save it again")
    return read_stored(path)


def _adapted_layers(found: dict[str, StoredTensor]) -> tuple[str, ...]:
    marks = (".lora_", ".boft_", ".fourierft_")
    layers = [name[: name.index(mark)] for name in found for mark in marks if mark in name]
    return tuple(dict.fromkeys(layer.removeprefix(ADAPTER_PREFIX) for layer in layers))


def _fit(whole: dict[str, StoredTensor], adapted: tuple[str, ...], base: dict[str, StoredTensor]) -> None:
    """Every changed tensor must have its place in the base."""
    homeless = [name for name in whole if name not in base] + [n for n in adapted if f"{n}.weight" not in base]
    if homeless:
        others = f" and {counted(len(homeless) - 1, 'more tensor')}" if len(homeless) > 1 else ""
        raise ExportError(f"the base lacks {homeless[0]}{others}", "is this the right base?")
    other = [name for name, tensor in whole.items() if tensor.info.shape != base[name].info.shape]
    if other:
        shapes = f"{list(whole[other[0]].info.shape)}, the base's is {list(base[other[0]].info.shape)}"
        raise ExportError(f"{other[0]} is {shapes}", "is this the right base?")


def _refuse_other_base(folder: Path, tensors: dict[str, StoredTensor], plan: TuningPlan | None) -> None:
    """A FourierFT spectrum fits layers of any shape; the run's plan knows how large its base was."""
    values = read_json(folder / "config.json")
    model_type = str(values.get("model_type")) if isinstance(values, dict) else ""
    table = NAME_TABLES.get(model_type)
    if plan is None or table is None:
        return
    infos = [tensor.info for tensor in tensors.values()]
    total = sum(modules_from_tensors(infos, values, table, source=str(folder)).totals.values())
    if (model_type, total) != (plan.model_type, plan.total_parameters):
        theirs = f"the run's base was a {plan.model_type} of {plan.total_parameters:,}"
        hint = "name the run's own base with --base"
        raise ExportError(f"{folder}: a {model_type} of {total:,} parameters; {theirs}", hint)


def plan_digest(source: Source) -> str | None:
    """SHA-256 of the run's plan, as export.json records it."""
    import hashlib

    if source.plan is None:
        return None
    return hashlib.sha256(json.dumps(source.plan.to_json(), sort_keys=True).encode()).hexdigest()
