"""The core: a configuration and a model become one `TuningPlan`, and every command holds to it."""

from __future__ import annotations

import json
import math
import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from swiftalign.config.sections import NO_TARGETS
from swiftalign.methods import METHODS
from swiftalign.model.safetensors import TensorInfo
from swiftalign.problems import Problem


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
    findings: tuple[Problem, ...] = ()

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
        return self.train_type in METHODS and METHODS[self.train_type].ranks_may_shrink and bool(self.adapted)

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
                Problem(f["code"], f["message"], f["hint"], where=f.get("where", "")) for f in values["findings"]
            ),
        )


def read_plan(path: Path) -> TuningPlan:
    """The plan that a run folder keeps as ``plan.json``."""
    return TuningPlan.from_json(json.loads(path.read_text(encoding="utf-8")))


@dataclass(frozen=True)
class OptimizerGroup:
    """Parameters that share a learning rate and a weight decay.

    Attributes:
        component: llm, vit or aligner; ``all`` where the optimizer makes no difference between them.
        parameters: their names in the running model.
    """

    component: str
    learning_rate: float
    weight_decay: float
    parameters: tuple[str, ...]


@dataclass(frozen=True)
class Schedule:
    """The run's length.

    Attributes:
        train_rows: None where no training data is named.
        val_rows: 0 without validation data.
        accumulation: batches per step and process.
        global_batch: rows per optimizer step, over all processes.
        steps: optimizer steps; None where neither data nor max_steps tells.
        epochs: passes over the data; None likewise.
        batch: rows of a batch in each process.
    """

    train_rows: int | None
    val_rows: int
    accumulation: int
    global_batch: int
    steps: int | None
    epochs: float | None
    processes: int = 1
    batch: int = 1

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
