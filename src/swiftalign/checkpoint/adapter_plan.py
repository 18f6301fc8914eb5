"""The plan that an adapter_config.json and its base model stand for, where no run has left one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from swiftalign.checkpoint.adapter_config import AdapterConfig
from swiftalign.config.sections import Config, ModelSection
from swiftalign.methods.keys import ADAPTER_PREFIX
from swiftalign.model.safetensors import TensorInfo
from swiftalign.model.tree import Kind, Model
from swiftalign.plan.plan import Trainable, TuningPlan
from swiftalign.plan.read import read_model
from swiftalign.plan.resolve import resolve
from swiftalign.problems import ModelError

# The side of a factor that is its rank, or all that a spectrum has.
_RANK_SIDES = {"lora_A": 0, "lora_B": 1, "lora_embedding_A": 0, "lora_embedding_B": 1, "fourierft_spectrum": 0}


def plan_of_adapter(adapter: AdapterConfig, base: Path | None) -> tuple[TuningPlan, frozenset[str]]:
    """The plan, and the tensors that may be there besides.

    Args:
        base: folder of the base model, where it is not to be the one that the config names.

    Raises:
        SwiftalignError, ValueError, KeyError, TypeError, AttributeError: there is no making one.
    """
    config = Config(model=ModelSection(path=_model(adapter, base)))
    modules = read_model(config)
    adapted = [module.name for module in modules if adapter.adapts(module.name)]
    plan = resolve(config.model_copy(update={"tuner": adapter.tuner(adapted)}), modules)
    trainables = (
        *(_resized(item, adapter) for item in plan.trainables),
        *_own_biases(adapter, modules, plan),
        *(_bias(name, modules, plan) for name in _biases(adapter, modules) if not _inside(name, plan.saved)),
        *_token_rows(adapter, modules, plan),
    )
    tensors = tuple(TensorInfo(item.key, item.shape, item.dtype) for item in trainables)
    return replace(plan, trainables=trainables, tensors=tensors), frozenset(_optional(adapter, modules, plan))


def _model(adapter: AdapterConfig, base: Path | None) -> str:
    named = base or adapter.base
    if named is None:
        raise ModelError(f"{adapter.path}: names no base model")
    return str(Path(named).absolute()) if Path(named).is_dir() else str(named)


def _resized(item: Trainable, adapter: AdapterConfig) -> Trainable:
    """The rank that the layer's own pattern gives it."""
    part = item.key.removeprefix(f"{ADAPTER_PREFIX}{item.module}.").removesuffix(".weight")
    size = adapter.size_of(item.module)
    if item.how != "adapter" or part not in _RANK_SIDES or size is None or adapter.kind == "adalora":
        return item
    shape = list(item.shape)
    shape[_RANK_SIDES[part]] = size
    return replace(item, shape=tuple(shape))


def _extra(key: str, module: str, how: str, shape: tuple[int, ...], modules: Model) -> Trainable:
    """What a plan does not hold by itself; nothing in a checkpoint depends on its dtype or decay."""
    return Trainable(
        f"{ADAPTER_PREFIX}{key}",
        f"{ADAPTER_PREFIX}{key}",
        module,
        modules.component(module),
        how,
        shape,
        modules.dtype,
        decays=False,
    )


def _own_biases(adapter: AdapterConfig, modules: Model, plan: TuningPlan) -> Iterator[Trainable]:
    """``lora_bias``: one on the second factor."""
    if adapter.kind == "lora" and adapter.values.get("lora_bias"):
        for name in plan.adapted:
            outputs = modules.by_name[name].weight.shape[:1]
            yield _extra(f"{name}.lora_B.bias", name, "adapter", outputs, modules)


def _biases(adapter: AdapterConfig, modules: Model) -> list[TensorInfo]:
    return [weight for weight in modules.parameters() if adapter.saves_biases and "bias" in weight.name]


def _inside(weight: TensorInfo, saved: tuple[str, ...]) -> bool:
    return any(weight.name.startswith(f"{name}.") for name in saved)


def _bias(weight: TensorInfo, modules: Model, plan: TuningPlan) -> Trainable:
    owner, _, last = weight.name.rpartition(".")
    name = f"{owner}.base_layer.{last}" if owner in plan.adapted else weight.name
    return _extra(name, owner, "whole", weight.shape, modules)


def _token_rows(adapter: AdapterConfig, modules: Model, plan: TuningPlan) -> Iterator[Trainable]:
    for end, rows in adapter.tokens.items():
        for module in modules:
            if not module.name.endswith(end) or f"{module.name}.weight" in modules.tied:
                continue
            if module.kind not in (Kind.EMBEDDING, Kind.LINEAR) or module.name in plan.adapted:
                raise ModelError(f"{adapter.path}: trains rows of {module.name}, which is adapted or holds no rows")
            shape = (len(rows), module.weight.shape[1])
            yield _extra(f"{module.name}.token_adapter.trainable_tokens_delta", module.name, "adapter", shape, modules)


def _optional(adapter: AdapterConfig, modules: Model, plan: TuningPlan) -> Iterator[str]:
    """Embeddings, as `save_embedding_layers` has it, and what ``bias: all`` repeats of modules that are saved whole."""
    for name in modules.by_name:
        if name.rpartition(".")[2] in ("embed_tokens", "lm_head"):
            yield from (f"{ADAPTER_PREFIX}{name}.weight", f"{ADAPTER_PREFIX}{name}.base_layer.weight")
    for weight in _biases(adapter, modules):
        for saved in plan.saved:
            if weight.name.startswith(f"{saved}."):
                inner = weight.name.removeprefix(f"{saved}.")
                yield from (
                    f"{ADAPTER_PREFIX}{saved}.{part}.{inner}" for part in ("original_module", "modules_to_save.default")
                )
