"""What a checkpoint ought to hold: by its run's plan, by a config, by its adapter_config, or by its model's config."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from swiftalign.checkpoint.adapter_plan import plan_of_adapter
from swiftalign.checkpoint.read import Checkpoint
from swiftalign.checkpoint.weights import Kind
from swiftalign.config.sections import Config
from swiftalign.data.files import UNKNOWN
from swiftalign.methods.keys import PeftKey
from swiftalign.model.families import architecture_of, find, in_aligner
from swiftalign.model.read import read
from swiftalign.model.safetensors import StoredTensor, TensorInfo, read_json
from swiftalign.model.tree import Architecture, ModelSource
from swiftalign.plan.plan import TuningPlan
from swiftalign.plan.read import read_model
from swiftalign.plan.resolve import resolve
from swiftalign.problems import ModelError, SwiftalignError


@dataclass(frozen=True)
class Expectation:
    """What a checkpoint ought to hold.

    Attributes:
        source: where the expectation comes from, in words, for the report.
        tensors: expected tensors by name; None where nothing says what to expect.
        plan: the plan that the expectation was made from, if there is one.
        dtypes: whether the dtypes of `tensors` are expected too.
        optional: names of tensors that may be there: those of the base that its class does not build, and a tied head.
        unbuilt: names in the base's files of the tensors that its class does not build: whoever saves the model leaves
            them out.
        architecture: where the model's components lie; None where nothing says it.
    """

    source: str
    tensors: dict[str, TensorInfo] | None = None
    plan: TuningPlan | None = None
    dtypes: bool = True
    optional: frozenset[str] = frozenset()
    unbuilt: frozenset[str] = frozenset()
    architecture: Architecture | None = None

    @property
    def train_type(self) -> str | None:
        return self.plan.train_type if self.plan else None

    def trains(self, name: str) -> bool:
        """Whether the plan trains a tensor of the base model or of the checkpoint; without one, the aligner trains."""
        return name in self._trained if self.plan else self.in_aligner(name)

    def in_aligner(self, name: str) -> bool:
        """Whether a tensor of the base model or of the checkpoint belongs to a module of the aligner."""
        return in_aligner(PeftKey.parse(name).layer, self.architecture)

    @cached_property
    def _trained(self) -> frozenset[str]:
        """Names in the checkpoint, and names of the base tensors that merging changes."""
        keys = [item.key for item in self.plan.trainables] if self.plan else []
        return frozenset((*keys, *(PeftKey.parse(key).base for key in keys)))


def expect(
    checkpoint: Checkpoint, *, config: Config | None, base: Path | None, base_tensors: dict[str, StoredTensor]
) -> Expectation:
    """The best expectation that can be had.

    Args:
        config: configuration that the user names; it is used where the run's own plan is not there.
        base: folder of the base model.
        base_tensors: tensors of the base model; empty where `base` is None.
    """
    expectation = _expected(checkpoint, config, base, base_tensors)
    plan, values = expectation.plan, None
    names = [PeftKey.parse(name).layer for name in (*checkpoint.weights.infos, *base_tensors)]
    named = plan.model if plan else checkpoint.adapter.base if checkpoint.adapter else None
    for place in (checkpoint.folder, base, named):
        with suppress(ModelError, ValueError):  # a hub id is not a path, and a name from a file may hold anything
            if values is None and place is not None:
                values = read_json(Path(place) / "config.json")
    if not isinstance(values, dict) or not isinstance(values.get("model_type"), str):
        values = {"model_type": plan.model_type if plan else ""}
    unbuilt: tuple[str, ...] = ()
    if checkpoint.weights.kind == "model" and base is not None:
        with suppress(SwiftalignError, OSError):
            unbuilt = read(ModelSource(str(base.absolute()))).unbuilt
    return replace(expectation, unbuilt=frozenset(unbuilt), architecture=architecture_of(values, "", names))


def _expected(
    checkpoint: Checkpoint, config: Config | None, base: Path | None, base_tensors: dict[str, StoredTensor]
) -> Expectation:
    kind = checkpoint.weights.kind
    if kind == "shards":
        return Expectation("nothing: no file holds the weights whole")
    if checkpoint.plan is not None:
        return _of_plan(checkpoint.plan, f"the run's plan, {checkpoint.plan_path}", kind)
    if config is not None:
        return _of_plan(resolve(config, read_model(config), rows=UNKNOWN), "the config", kind)
    if kind == "file":
        return Expectation("nothing: no plan, and no config is given")
    if kind == "model":  # tensors that its class does not build may be there if the base holds them too
        try:
            values, source = read_json(checkpoint.folder / "config.json"), "the model's config.json"
            family = find(values.get("model_type"))
            model = family.build(values) if family else None
            if model is None and base is not None:
                model, source = read(ModelSource(str(base.absolute()))), "the base model"
        except (ModelError, TypeError, AttributeError):
            model = None
        if model is None:
            return Expectation("nothing: only the base model says what the files should hold; add --base FOLDER")
        tensors = {tensor.name: tensor for tensor in model.parameters()}
        optional = {"lm_head.weight", *base_tensors, *model.unbuilt} - set(tensors)
        return Expectation(source, tensors, dtypes=False, optional=frozenset(optional))
    adapter = checkpoint.adapter
    if adapter is None:
        return Expectation("nothing: no plan, and no adapter_config.json that can be read")
    if adapter.unplanned:
        reason = f"adapter_config.json sets {', '.join(adapter.unplanned)}, which can't be planned"
        return Expectation(f"nothing: no plan, and {reason}")
    try:
        plan, besides = plan_of_adapter(adapter, base)
    except (SwiftalignError, OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        named = adapter.base or "unnamed"
        reason = f"the base model of adapter_config.json, {named}, can't be read: give --base FOLDER"
        if base is not None:
            reason = f"no plan can be made of {base}: {error.message if isinstance(error, ModelError) else error}"
        return Expectation(f"nothing: no plan, and {reason}")
    expectation = _of_plan(plan, f"{adapter.path.name} and the base model", kind)
    return replace(expectation, dtypes=False, optional=besides)


def _of_plan(plan: TuningPlan, source: str, kind: Kind) -> Expectation:
    if kind != "model" or plan.train_type == "full":
        return Expectation(source, {tensor.name: tensor for tensor in plan.tensors}, plan)
    try:  # a merged model: the base's own tensors
        model = read(ModelSource(plan.model))
    except (SwiftalignError, OSError):
        return Expectation(source, None, plan, dtypes=False)
    tensors = {weight.name: weight for weight in model.parameters()}
    return Expectation(source, tensors, plan, dtypes=False, optional=model.tied | set(model.unbuilt))
