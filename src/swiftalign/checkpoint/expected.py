"""What a checkpoint ought to hold: by the run's plan, by a config, by its adapter_config, or by its model's config.

Configuration and plan load where they are needed: a model folder is checked without them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from swiftalign.checkpoint.adapter_config import AdapterConfig, read_adapter_config
from swiftalign.methods.keys import ADAPTER_PREFIX
from swiftalign.model.families import find, in_aligner
from swiftalign.model.safetensors import ITEM_SIZES, MAX_JSON_BYTES, TensorInfo, read_json, stored_tensors
from swiftalign.problems import ModelError, SwiftalignError

if TYPE_CHECKING:
    from swiftalign.config.sections import Config
    from swiftalign.plan.plan import TuningPlan


@dataclass(frozen=True)
class Expectation:
    """What a checkpoint ought to hold.

    Attributes:
        source: in words, for the report.
        tensors: by name; None where nothing says.
        plan: the plan behind it, if there is one.
        dtypes: whether dtypes are part of it.
        optional: tensors that may be there: those of the base that its class does not build, and a tied head.
        adapter: peft's config, where it is the source, or would be if its base could be read.
    """

    source: str
    tensors: dict[str, TensorInfo] | None = None
    plan: TuningPlan | None = None
    dtypes: bool = True
    optional: frozenset[str] = frozenset()
    adapter: AdapterConfig | None = None

    def trains(self, name: str) -> bool:
        """Whether a tensor of the base model, or of the checkpoint, is one that the plan trains."""
        if self.plan is None:
            return in_aligner(name.removeprefix(ADAPTER_PREFIX))
        return name in self._trained

    @cached_property
    def _trained(self) -> frozenset[str]:
        """Keys of the checkpoint, and base tensors that merging changes."""
        assert self.plan is not None
        keys = {item.key for item in self.plan.trainables}
        whole = {base_name(item.key) for item in self.plan.trainables if item.how == "whole"}
        adapted = {f"{name}.weight" for name in self.plan.adapted}
        return frozenset(keys | whole | adapted)


def base_name(name: str) -> str:
    """The name in the base model of a tensor that an adapter holds whole."""
    return name.removeprefix(ADAPTER_PREFIX).replace(".base_layer.", ".")


def expect(folder: Path, kind: str, *, config: Config | None, base: Path | None) -> Expectation:
    """The best expectation there is.

    Args:
        folder: of the weight files.
        kind: adapter, model or file; see `Weights`.
        config: given by the user; it comes before adapter_config.json, and after the run's own plan.
        base: folder of the base model.

    Raises:
        ModelError: the run's plan can't be read.
    """
    beside = plan_beside(folder)
    if beside is not None:
        path, plan = beside
        return _of_plan(plan, f"the run's plan, {path}", kind)
    if config is not None:
        from swiftalign.plan.read import read_model
        from swiftalign.plan.resolve import resolve

        return _of_plan(resolve(_without_data(config), read_model(config)), "the config", kind)
    if kind == "adapter":
        return _of_adapter(folder, base)
    return _of_model(folder, base) if kind == "model" else Expectation("nothing: no plan, and no config is given")


def plan_beside(folder: Path) -> tuple[Path, TuningPlan] | None:
    """The plan that a checkpoint's own folder or its run folder keeps, and its path; None where neither has one.

    Raises:
        ModelError: it can't be read.
    """
    paths = (place / "plan.json" for place in (folder, folder.parent))
    path = next((path for path in paths if path.is_file()), None)
    return None if path is None else (path, _read_plan(path))


def _read_plan(path: Path) -> TuningPlan:
    from swiftalign.plan.plan import read_plan

    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise ValueError(f"larger than {MAX_JSON_BYTES // 1_000_000} MB")
        plan = read_plan(path)
        shapes = [tensor.shape for tensor in plan.tensors] + [item.shape for item in plan.trainables]
        if not all(type(side) is int and side >= 0 for shape in shapes for side in shape):
            raise ValueError("a shape is no list of numbers")
        if not all(isinstance(tensor.name, str) and tensor.dtype in ITEM_SIZES for tensor in plan.tensors):
            raise ValueError("a tensor has no name, or no dtype")
        texts = [plan.model, plan.method, plan.train_type, *plan.adapted]
        texts += [text for item in plan.trainables for text in (item.key, item.how)]
        if not all(isinstance(text, str) for text in texts):
            raise ValueError("a name is no text")
        if not isinstance(plan.trainable_parameters, int):
            raise ValueError("its parameters are not counted")
        return plan
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(
            f"{path}: not a plan of this release ({error})", "give the run's config with --config"
        ) from None


def _without_data(config: Config) -> Config:
    """Steps do not matter to a checkpoint's contents, and the data may be elsewhere by now."""
    return config.model_copy(update={"data": config.data.model_copy(update={"train": [], "val": []})})


def _of_plan(plan: TuningPlan, source: str, kind: str) -> Expectation:
    merged = kind == "model" and plan.train_type != "full"
    if merged:  # a merged model: the base's own tensors
        from swiftalign.model.read import read
        from swiftalign.model.tree import ModelSource

        try:
            modules = read(ModelSource(plan.model))
        except (SwiftalignError, OSError):
            return Expectation(source, None, plan, dtypes=False)
        tensors = {weight.name: weight for weight in modules.parameters()}
        return Expectation(source, tensors, plan, dtypes=False, optional=modules.tied | set(modules.unbuilt))
    return Expectation(source, {tensor.name: tensor for tensor in plan.tensors}, plan)


def _of_adapter(folder: Path, base: Path | None) -> Expectation:
    """By adapter_config.json against the base model, where both can be read."""
    from swiftalign.checkpoint.adapter_plan import plan_of_adapter

    try:
        adapter = read_adapter_config(folder / "adapter_config.json")
    except ModelError:
        return Expectation("nothing: no plan, and no adapter_config.json that can be read")
    if adapter.unplanned:
        reason = f"adapter_config.json sets {', '.join(adapter.unplanned)}, which can't be planned"
        return Expectation(f"nothing: no plan, and {reason}", adapter=adapter)
    try:
        plan, optional = plan_of_adapter(adapter, base)
    except (SwiftalignError, OSError, KeyError, TypeError, ValueError, AttributeError):
        reason = (
            f"the base model of adapter_config.json, {adapter.base or 'unnamed'}, can't be read: give --base FOLDER"
        )
        return Expectation(f"nothing: no plan, and {reason}", adapter=adapter)
    expectation = _of_plan(plan, "adapter_config.json and the base model", "adapter")
    return replace(expectation, dtypes=False, optional=optional, adapter=adapter)


def _of_model(folder: Path, base: Path | None) -> Expectation:
    """By the model's own config; what the class does not build may be there where the base holds it too."""
    try:
        values = read_json(folder / "config.json")
        family = find(values.get("model_type"))
        if family is None:
            return Expectation("nothing: the config is of no known model")
        model = family.build(values)
    except (ModelError, TypeError, AttributeError):
        model = None
    if model is None:
        return Expectation("nothing: the config can't be read, or leaves sizes out")
    tensors = {tensor.name: tensor for tensor in model.parameters()}
    optional = set() if "lm_head.weight" in tensors else {"lm_head.weight"}
    if base is not None and base.is_dir():
        optional |= set(stored_tensors(base)) - set(tensors)
    return Expectation("the model's config.json", tensors, dtypes=False, optional=frozenset(optional))
