"""The plan as data: what trains and why, what a checkpoint must hold, the optimizer's groups and the run's length."""

from __future__ import annotations

import html
import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from swiftalign.config.sections import NO_TARGETS
from swiftalign.config.yaml import Key
from swiftalign.files import short_path
from swiftalign.methods import METHODS
from swiftalign.methods.keys import exactly
from swiftalign.model.safetensors import TensorInfo
from swiftalign.model.swift_choice import SwiftChoice
from swiftalign.model.tree import COMPONENTS, Component

Decision = Literal["target_regex", "target_modules", "freeze_flags", "full", "nothing"]


@dataclass(frozen=True, slots=True)
class Match:
    """What one entry of modules_to_save, target_modules or target_regex matches.

    Attributes:
        key: the entry's place in the configuration, e.g. ``("tuner", "modules_to_save", 0)``.
        entry: the entry itself: a name, the end of a name, or a regex.
        modules: names of the modules that it matches, in the model's order.
        fault: why a regex can't be compiled; empty otherwise.
    """

    key: Key
    entry: str
    modules: tuple[str, ...]
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Trainable:
    """One parameter that trains.

    Attributes:
        parameter: its name in the running model, as peft names it.
        key: its name in a checkpoint.
        module: the module of the base model that it belongs to.
        component: ``llm``, ``vit``, ``aligner`` or ``other``.
        how: whether it belongs to an adapter, or to a module that trains whole.
        shape: its sizes, as torch gives them; AdaLoRA's ranks are those at the start.
        dtype: the dtype in which it trains, e.g. ``float32``.
        decays: whether weight decay applies to it.
    """

    parameter: str
    key: str
    module: str
    component: Component
    how: Literal["adapter", "whole"]
    shape: tuple[int, ...]
    dtype: str
    decays: bool

    @property
    def numel(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Count:
    """Number of parameters of a component.

    Attributes:
        total: those of the base model.
        trainable: those that train for it, adapters included.
    """

    total: int
    trainable: int


@dataclass(frozen=True)
class OptimizerGroup:
    """Parameters that share a learning rate and a weight decay.

    Attributes:
        component: the component that they belong to; ``all`` where the optimizer makes no difference between them.
        learning_rate: their learning rate at the top of the schedule.
        weight_decay: their weight decay.
        parameters: their names in the running model.
    """

    component: Component | Literal["all"]
    learning_rate: float
    weight_decay: float
    parameters: tuple[str, ...]


@dataclass(frozen=True)
class Schedule:
    """The run's length.

    Attributes:
        train_rows: rows to train on; None where no training data is named, or where it has not been read.
        val_rows: rows to validate on; None where the data has not been read.
        accumulation: batches per step and process.
        global_batch: rows per optimizer step, over all processes.
        steps: optimizer steps; None where neither rows nor max_steps are known.
        epochs: passes over the data; None where they are not known.
        processes: number of training processes.
        batch: rows per batch and process.
    """

    train_rows: int | None
    val_rows: int | None
    accumulation: int
    global_batch: int
    steps: int | None
    epochs: float | None
    processes: int = 1
    batch: int = 1

    @property
    def samples(self) -> int | None:
        """Rows that all steps together train on; None where steps or rows are not known.

        The last step of an epoch has the rows that are left, which may be fewer.
        """
        if self.train_rows is None or self.steps is None:
            return None
        epochs, steps = divmod(self.steps, math.ceil(self.train_rows / self.global_batch))
        return epochs * self.train_rows + steps * self.global_batch

    @property
    def adalora_steps(self) -> int | None:
        """The total that ms-swift gives AdaLoRA, which leaves out an epoch's last, incomplete step.

        References:
            ms-swift `swift/trainers/utils.py`, `calculate_max_steps`.
        """
        if self.train_rows is None or self.epochs is None or self.steps is None:
            return self.steps
        whole = max(self.train_rows // self.global_batch, 1)
        return min(self.steps, math.ceil(self.epochs * whole)) if self.epochs else self.steps


@dataclass(frozen=True, repr=False)
class TuningPlan:
    """What trains and why, what stays frozen, and what a checkpoint of the run must hold.

    Attributes:
        method: modules_to_save, full, or the name of the tuning method, as ``init --method`` knows it.
        train_type: ``tuner.train_type`` of the configuration.
        model: folder or hub id of the base model.
        model_type: ``model_type`` of the base model's config.json.
        dtype: dtype of the base model's weights once loaded.
        adapted: layers of the base model that carry an adapter.
        saved: modules of the base model that train whole; empty for full training.
        decided_by: which setting decided what is adapted; ``nothing`` is a target_regex that means no layer.
        decided_at: the key of that setting, e.g. ``("tuner", "target_regex")``.
        matches: what each entry of modules_to_save and of the deciding setting matches.
        trainables: every parameter that trains.
        tensors: name, shape and dtype of everything in a checkpoint; AdaLoRA's ranks are upper bounds.
        components: number of parameters by component: ``llm``, ``vit``, ``aligner``, and ``other`` if there are any.
        optimizer: name of the optimizer among ms-swift's.
        rates: learning rate of each component, whether it trains or not.
        groups: the optimizer's groups; empty where the optimizer makes its own.
        schedule: steps and epochs, as far as they are known.
        swift: by which type ms-swift loads the model, and by which template it writes rows.
    """

    method: str
    train_type: str
    model: str
    model_type: str
    dtype: str
    adapted: tuple[str, ...]
    saved: tuple[str, ...]
    decided_by: Decision
    decided_at: Key
    matches: tuple[Match, ...]
    trainables: tuple[Trainable, ...]
    tensors: tuple[TensorInfo, ...]
    components: dict[Component, Count]
    optimizer: str
    rates: dict[Component, float]
    groups: tuple[OptimizerGroup, ...]
    schedule: Schedule
    swift: SwiftChoice = field(default_factory=SwiftChoice)

    @property
    def total_parameters(self) -> int:
        """Number of parameters of the base model."""
        return sum(count.total for count in self.components.values())

    @property
    def trainable_parameters(self) -> int:
        """Number of parameters that train, adapters included."""
        return sum(count.trainable for count in self.components.values())

    @property
    def trained_rates(self) -> dict[Component, float]:
        """The learning rate of each component that trains; empty where the optimizer makes its own groups."""
        return {name: rate for name, rate in self.rates.items() if self.groups and self.components[name].trainable}

    @property
    def checkpoint_bytes(self) -> int:
        """Size of a checkpoint's tensors in bytes, without the optimizer's state."""
        return sum(tensor.nbytes for tensor in self.tensors)

    @property
    def adapted_pattern(self) -> str:
        """A regex that matches exactly the adapted layers, or peft's word for no layer."""
        return exactly(self.adapted) or NO_TARGETS[1]

    @property
    def ranks_may_shrink(self) -> bool:
        """Whether the ranks among the planned shapes are upper bounds: AdaLoRA prunes ranks as it trains."""
        return self.train_type in METHODS and METHODS[self.train_type].ranks_may_shrink and bool(self.adapted)

    def rate_of(self, component: Component) -> float:
        """The learning rate of a component; what lies in none trains at the LLM's."""
        return self.rates["llm" if component == "other" else component]

    def __repr__(self) -> str:
        parts = [f"{name} {self._share(name)}" for name, count in self.components.items() if count.trainable]
        steps = "unknown" if self.schedule.steps is None else f"{self.schedule.steps:,}"
        decided_at = ".".join(map(str, self.decided_at))
        return (
            f"<TuningPlan: {self.method} on {short_path(self.model)}, decided by {decided_at}\n"
            f"  trains      {self.trainable_parameters:,} of {self.total_parameters:,} parameters"
            f" ({', '.join(parts) or 'nothing'})\n"
            f"  checkpoint  {len(self.tensors)} tensors, {self.checkpoint_bytes:,} bytes\n"
            f"  steps       {steps}>"
        )

    def _repr_html_(self) -> str:
        """The plan as a notebook shows it."""
        rows = "".join(
            f"<tr><td>{name}</td><td>{count.total:,}</td><td>{count.trainable:,}</td><td>{self._share(name)}</td>"
            f"<td>{self.rate_of(name):g}</td></tr>"
            for name, count in self.components.items()
        )
        columns = "".join(f"<th>{name}</th>" for name in ("component", "parameters", "trainable", "share", "rate"))
        return f"<table><tr>{columns}</tr>{rows}</table><pre>{html.escape(repr(self))}</pre>"

    def _share(self, component: Component) -> str:
        count = self.components[component]
        return f"{100 * count.trainable / count.total:.2f}%" if count.total else "-"

    def to_json(self) -> dict[str, Any]:
        """Plain values, complete enough for `from_json`."""
        totals = {"total_parameters": self.total_parameters, "trainable_parameters": self.trainable_parameters}
        return {"format": 2, **totals, "ranks_may_shrink": self.ranks_may_shrink, **asdict(self)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> TuningPlan:
        """Read what `to_json` wrote, and plans of format 1, which do not say why.

        Raises:
            KeyError, TypeError, ValueError, AttributeError: the values are not those of a plan.
        """
        if values["format"] == 1:
            rates = {group["component"]: group["learning_rate"] for group in values["groups"]}
            general = rates.get("all", rates.get("llm", 0.0))
            decided_by = (
                "full" if values["train_type"] == "full" else "target_regex" if values["adapted"] else "nothing"
            )
            values = {
                **values,
                "decided_by": decided_by,
                "decided_at": ["tuner", "train_type" if decided_by == "full" else "target_regex"],
                "matches": [],
                "optimizer": "multimodal" if values["groups"] and "all" not in rates else "default",
                "rates": {name: rates.get(name, general) for name in COMPONENTS},
            }
        swift = values.get("swift") or asdict(SwiftChoice())  # older plans do not say it
        plain = ("method", "train_type", "model", "model_type", "dtype", "decided_by", "optimizer")
        return cls(
            **{name: values[name] for name in plain},
            adapted=tuple(values["adapted"]),
            saved=tuple(values["saved"]),
            decided_at=tuple(values["decided_at"]),
            matches=tuple(
                Match(tuple(item["key"]), item["entry"], tuple(item["modules"]), item["fault"])
                for item in values["matches"]
            ),
            trainables=tuple(Trainable(**{**item, "shape": tuple(item["shape"])}) for item in values["trainables"]),
            tensors=tuple(TensorInfo(t["name"], tuple(t["shape"]), t["dtype"]) for t in values["tensors"]),
            components={name: Count(**count) for name, count in values["components"].items()},
            rates=dict(values["rates"]),
            groups=tuple(OptimizerGroup(**{**g, "parameters": tuple(g["parameters"])}) for g in values["groups"]),
            schedule=Schedule(**values["schedule"]),
            swift=SwiftChoice(**{**swift, "candidates": tuple(map(tuple, swift["candidates"]))}),
        )


def read_plan(path: Path) -> TuningPlan:
    """The plan that a run folder keeps as ``plan.json``."""
    return TuningPlan.from_json(json.loads(path.read_text(encoding="utf-8")))
