"""The core: a configuration and a model become one `TuningPlan`, and every command holds to it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from swiftalign.architectures import Kind
from swiftalign.checkpoint import TensorInfo
from swiftalign.checks import check
from swiftalign.config import COMPONENTS, NO_TARGETS, Config, TunerSection
from swiftalign.findings import Finding
from swiftalign.methods import adapter_tensors, extra_checkpoint_tensor, method_of
from swiftalign.modules import Modules
from swiftalign.optimizer import OptimizerGroup, optimizer_groups
from swiftalign.schedule import LeftOut, Schedule, read_schedule
from swiftalign.targets import Selection, select

# transformers decays no bias and no normalisation weight: by name, and LayerNorm by class.
# Source: transformers `Trainer.get_decay_parameter_names`.
_NO_DECAY = re.compile(r"bias|layernorm|rmsnorm|(?:^|\.)norm(?:$|\.)|_norm(?:$|\.)")


@dataclass(frozen=True, slots=True)
class Trainable:
    """One parameter that trains.

    Attributes:
        parameter: its name in the running model, as peft names it.
        key: its name in a checkpoint.
        module: the module of the base model that it belongs to.
        how: ``adapter`` or ``whole``.
    """

    parameter: str
    key: str
    module: str
    component: str
    how: str
    shape: tuple[int, ...]
    dtype: str
    decays: bool

    @property
    def numel(self) -> int:
        return TensorInfo(self.key, self.shape, self.dtype).numel


@dataclass(frozen=True)
class Count:
    """Parameters of a component of the base model, and those that train for it (adapters included)."""

    total: int
    trainable: int


@dataclass(frozen=True)
class TuningPlan:
    """What trains, what stays, and what a checkpoint of the run must hold.

    Attributes:
        method: modules_to_save, lora, dora, adalora, boft, fourierft or full.
        adapted: layers of the base model that carry an adapter.
        saved: modules of the base model that train whole.
        trainables: every parameter that trains.
        tensors: name, shape and dtype of everything in a checkpoint; AdaLoRA's ranks are upper bounds.
        groups: the optimizer's groups; empty where the optimizer makes its own.
        schedule: steps and epochs, as far as they are known.
    """

    method: str
    train_type: str
    model: str
    model_type: str
    dtype: str
    adapted: tuple[str, ...]
    saved: tuple[str, ...]
    trainables: tuple[Trainable, ...]
    tensors: tuple[TensorInfo, ...]
    components: dict[str, Count]
    groups: tuple[OptimizerGroup, ...]
    schedule: Schedule
    findings: tuple[Finding, ...] = ()

    @property
    def total_parameters(self) -> int:
        return sum(count.total for count in self.components.values())

    @property
    def trainable_parameters(self) -> int:
        return sum(count.trainable for count in self.components.values())

    @property
    def rates(self) -> dict[str, float]:
        """The learning rate of each component that trains; empty where the optimizer makes its own groups."""
        return {group.component: group.learning_rate for group in self.groups}

    @property
    def checkpoint_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors)

    @property
    def target_regex(self) -> str:
        """A regex that matches exactly the adapted layers; peft's word for none where there is none."""
        if not self.adapted:
            return NO_TARGETS[1]
        return "|".join(re.escape(name) for name in self.adapted)

    @property
    def ranks_may_shrink(self) -> bool:
        """AdaLoRA prunes ranks as it trains: the first or last side of its factors is an upper bound."""
        return self.train_type == "adalora" and bool(self.adapted)

    def to_json(self) -> dict[str, Any]:
        """Plain values, complete enough for `from_json`."""
        values = asdict(replace(self, findings=()))
        values["findings"] = [finding.to_json() for finding in self.findings]
        totals = {"total_parameters": self.total_parameters, "trainable_parameters": self.trainable_parameters}
        return {"format": 1, **totals, "ranks_may_shrink": self.ranks_may_shrink, **values}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> TuningPlan:
        return cls(
            **{name: values[name] for name in ("method", "train_type", "model", "model_type", "dtype")},
            adapted=tuple(values["adapted"]),
            saved=tuple(values["saved"]),
            trainables=tuple(Trainable(**{**item, "shape": tuple(item["shape"])}) for item in values["trainables"]),
            tensors=tuple(TensorInfo(t["name"], tuple(t["shape"]), t["dtype"]) for t in values["tensors"]),
            components={name: Count(**count) for name, count in values["components"].items()},
            groups=tuple(OptimizerGroup(**{**g, "parameters": tuple(g["parameters"])}) for g in values["groups"]),
            schedule=Schedule(**values["schedule"]),
            findings=tuple(
                Finding(f["code"], f["message"], f["hint"], where=f.get("where", "")) for f in values["findings"]
            ),
        )


def read_plan(path: Path) -> TuningPlan:
    """The plan that a run folder keeps as ``plan.json``."""
    return TuningPlan.from_json(json.loads(path.read_text(encoding="utf-8")))


def resolve_plan(
    config: Config, modules: Modules, *, processes: int = 1, left_out: LeftOut | None = None, fitting: int = 1
) -> TuningPlan:
    """Turn a configuration and a model into the plan.

    Faults do not raise: they become findings, and the plan shows what would train in spite of them.

    Args:
        processes: how many processes train, for the number of steps.
        left_out: rows of the data that are not used.
        fitting: rows of a batch that the GPU's memory holds.

    Raises:
        DataError: a data file that the configuration names is missing.
    """
    selection = select(config, modules)
    trainables = tuple(_trainables(config.tuner, modules, selection))
    schedule = read_schedule(config, processes=processes, left_out=left_out, fitting=fitting)
    plan = TuningPlan(
        method=method_of(config.tuner, has_layers=bool(selection.adapted)),
        train_type=config.tuner.train_type,
        model=modules.source,
        model_type=modules.model_type,
        dtype=modules.dtype,
        adapted=tuple(layer.name for layer in selection.adapted),
        saved=tuple(selection.saved) if config.tuner.train_type != "full" else (),
        trainables=trainables,
        tensors=tuple(_checkpoint_tensors(config.tuner, modules, selection, trainables)),
        components=_count(modules, trainables),
        groups=tuple(optimizer_groups(config, trainables)),
        schedule=schedule,
    )
    return replace(plan, findings=(*selection.findings, *check(config, modules, plan)))


def _trainables(tuner: TunerSection, modules: Modules, selection: Selection) -> Iterable[Trainable]:
    whole_dtype = "float32" if tuner.trainable_dtype == "float32" else modules.dtype
    if tuner.train_type == "full":
        yield from _unfrozen(tuner, modules, whole_dtype)
        return
    if whole_dtype == "float16":
        whole_dtype = "float32"  # ms-swift casts: gradients in float16 can't be unscaled
    for layer in selection.adapted:
        for tensor in adapter_tensors(layer, tuner):
            name = f"base_model.model.{layer.name}.{tensor.parameter}"
            yield Trainable(
                parameter=name,
                key=f"base_model.model.{layer.name}.{tensor.key}",
                module=layer.name,
                component=modules.component(layer.name),
                how="adapter",
                shape=tensor.shape,
                dtype="float32",  # peft keeps adapters of a 16-bit base in float32 (autocast_adapter_dtype)
                decays=not _NO_DECAY.search(name.lower()),
            )
    for saved in selection.saved:
        for weight in modules.under(saved):
            inner = weight.name.removeprefix(saved)
            name = f"base_model.model.{saved}.modules_to_save.default{inner}"
            module = weight.name.rpartition(".")[0]
            yield Trainable(
                parameter=name,
                key=f"base_model.model.{weight.name}",
                module=module,
                component=modules.component(module),
                how="whole",
                shape=weight.shape,
                dtype=whole_dtype,
                decays=_whole_decays(name, module, modules),
            )


def _unfrozen(tuner: TunerSection, modules: Modules, dtype: str) -> Iterable[Trainable]:
    frozen = {"llm": tuner.freeze_llm, "vit": tuner.freeze_vit, "aligner": tuner.freeze_aligner}
    for weight in modules.parameters():
        module = weight.name.rpartition(".")[0]
        component = modules.component(module)
        if not frozen[component] or not modules.architecture.covers(module):
            decays = _whole_decays(weight.name, module, modules)
            yield Trainable(weight.name, weight.name, module, component, "whole", weight.shape, dtype, decays)


def _whole_decays(parameter: str, module: str, modules: Modules) -> bool:
    return modules.by_name[module].kind is not Kind.LAYER_NORM and not _NO_DECAY.search(parameter.lower())


def _checkpoint_tensors(
    tuner: TunerSection, modules: Modules, selection: Selection, trainables: tuple[Trainable, ...]
) -> Iterable[TensorInfo]:
    if tuner.train_type == "full":  # a whole model, trained or not
        trained = {item.key: item.dtype for item in trainables}
        for weight in modules.parameters():
            yield TensorInfo(weight.name, weight.shape, trained.get(weight.name, weight.dtype))
        return
    for item in trainables:
        yield TensorInfo(item.key, item.shape, item.dtype)
    for layer in selection.adapted:
        extra = extra_checkpoint_tensor(layer)
        if extra:
            yield TensorInfo(f"base_model.model.{extra.name}", extra.shape, extra.dtype)


def _count(modules: Modules, trainables: tuple[Trainable, ...]) -> dict[str, Count]:
    trainable = dict.fromkeys(COMPONENTS, 0)
    for item in trainables:
        trainable[item.component] += item.numel
    return {name: Count(modules.totals[name], trainable[name]) for name in COMPONENTS}
