"""The plan that an adapter_config.json and its base model stand for, where no run has left one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

from swiftalign.checkpoint.adapter_config import AdapterConfig
from swiftalign.config.sections import NO_TARGETS, Config, ModelSection, TunerSection
from swiftalign.data.files import UNKNOWN
from swiftalign.methods import part_of
from swiftalign.methods.keys import ADAPTER_PREFIX, PeftKey, exactly
from swiftalign.model.safetensors import TensorInfo
from swiftalign.model.tree import Kind, Model, is_inside
from swiftalign.plan.plan import Trainable, TuningPlan
from swiftalign.plan.read import read_model
from swiftalign.plan.resolve import resolve
from swiftalign.problems import ModelError


def plan_of_adapter(adapter: AdapterConfig, base: Path | None) -> tuple[TuningPlan, frozenset[str]]:
    """The plan, and the names of tensors that may be in the checkpoint besides.

    Args:
        base: folder of the base model; by default the one that the adapter names.

    Raises:
        SwiftalignError, ValueError, KeyError, TypeError, AttributeError: no plan can be made.
    """
    named = base or adapter.base
    if named is None:
        raise ModelError(f"{adapter.path}: names no base model")
    place = str(Path(named).absolute()) if Path(named).is_dir() else str(named)
    config = Config(model=ModelSection(path=place))
    model = read_model(config)
    adapted = [module.name for module in model if adapter.adapts(module.name)]
    settings = adapter.method.peft_settings(adapter.values) if adapter.method else {}
    pattern = exactly(adapted) or NO_TARGETS[0]
    tuner = TunerSection(train_type=adapter.kind, modules_to_save=adapter.saved, target_regex=pattern, **settings)
    plan = resolve(config.model_copy(update={"tuner": tuner}), model, rows=UNKNOWN)
    own = {f"{name}.bias" for name in plan.adapted if adapter.saves_own_biases}
    biases = [each for each in model.parameters() if each.name in own or (adapter.saves_biases and "bias" in each.name)]
    extras = _extras(adapter, model, plan, biases)
    trainables = (*(_resized(item, adapter, plan) for item in plan.trainables), *extras)
    tensors = tuple(TensorInfo(item.key, item.shape, item.dtype) for item in trainables)
    # The base is called as the adapter calls it: --base is compared with that name elsewhere.
    whole_plan = replace(plan, model=adapter.base or plan.model, trainables=trainables, tensors=tensors)
    # Embeddings, by ``save_embedding_layers``, and what ``bias: all`` repeats of modules that are saved whole.
    embeddings = [name for name in model.by_name if name.rpartition(".")[2] in ("embed_tokens", "lm_head")]
    optional = {str(PeftKey(name, part)) for name in embeddings for part in ("weight", "base_layer.weight")}
    for saved in plan.saved:
        inside = [weight.name.removeprefix(saved) for weight in biases if is_inside(weight.name, [saved])]
        wrappers = (f"{ADAPTER_PREFIX}{saved}.{part}" for part in ("original_module", "modules_to_save.default"))
        optional |= {f"{wrapper}{name}" for wrapper in wrappers for name in inside}
    return whole_plan, frozenset(optional)


def _resized(item: Trainable, adapter: AdapterConfig, plan: TuningPlan) -> Trainable:
    """The parameter with the rank that the adapter's own pattern gives its layer."""
    part, size = part_of(PeftKey.parse(item.key).factor, adapter.kind), adapter.size_of(item.module)
    if part is None or part.size_side is None or size is None or plan.ranks_may_shrink:
        return item
    return replace(item, shape=(*item.shape[: part.size_side], size, *item.shape[part.size_side + 1 :]))


def _extras(adapter: AdapterConfig, model: Model, plan: TuningPlan, biases: list[TensorInfo]) -> Iterator[Trainable]:
    """What peft trains beyond this toolkit's methods: ``lora_bias``, ``bias: all``, and rows of embeddings."""
    if adapter.kind == "lora" and adapter.values.get("lora_bias"):
        for name in plan.adapted:
            outputs = model.by_name[name].weight.shape[:1]
            yield _extra(PeftKey(name, "lora_B.bias"), "adapter", outputs, model)
    for weight in biases:
        owner, _, last = weight.name.rpartition(".")
        if not is_inside(owner, plan.saved):
            part = f"base_layer.{last}" if owner in plan.adapted else last
            yield _extra(PeftKey(owner, part), "whole", weight.shape, model)
    for end, rows in adapter.tokens.items():
        for module in model:
            if not module.name.endswith(end) or f"{module.name}.weight" in model.tied:
                continue
            if module.kind not in (Kind.EMBEDDING, Kind.LINEAR) or module.name in plan.adapted:
                raise ModelError(f"{adapter.path}: trains rows of {module.name}, which is adapted or holds no rows")
            shape = (len(rows), module.weight.shape[1])
            yield _extra(PeftKey(module.name, "token_adapter.trainable_tokens_delta"), "adapter", shape, model)


def _extra(key: PeftKey, how: Literal["adapter", "whole"], shape: tuple[int, ...], model: Model) -> Trainable:
    """A parameter that trains; nothing in a checkpoint depends on its dtype, or on whether it decays."""
    component = model.component(key.layer)
    return Trainable(str(key), str(key), key.layer, component, how, shape, model.dtype, decays=False)
