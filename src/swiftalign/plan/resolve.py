"""A configuration and a model become one `TuningPlan`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

from swiftalign.config.sections import COMPONENTS, Config, TunerSection
from swiftalign.model.safetensors import TensorInfo
from swiftalign.model.tree import Kind, Model
from swiftalign.plan.optimizer import optimizer_groups
from swiftalign.plan.plan import Count, Trainable, TuningPlan
from swiftalign.plan.schedule import LeftOut, read_schedule
from swiftalign.plan.selection import Selection, select
from swiftalign.preflight.check import check

# transformers decays no bias and no normalisation weight: by name, and LayerNorm by class.
# Source: transformers `Trainer.get_decay_parameter_names`.
_NO_DECAY = re.compile(r"bias|layernorm|rmsnorm|(?:^|\.)norm(?:$|\.)|_norm(?:$|\.)")


def resolve(
    config: Config, modules: Model, *, processes: int = 1, left_out: LeftOut | None = None, fitting: int = 1
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
    method = config.tuner.method
    plan = TuningPlan(
        method=method.name if selection.adapted or not method.adapts else "modules_to_save",
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


def _trainables(tuner: TunerSection, modules: Model, selection: Selection) -> Iterable[Trainable]:
    whole_dtype = "float32" if tuner.trainable_dtype == "float32" else modules.dtype
    if tuner.train_type == "full":
        yield from _unfrozen(tuner, modules, whole_dtype)
        return
    if whole_dtype == "float16":
        whole_dtype = "float32"  # ms-swift casts: gradients in float16 can't be unscaled
    settings = tuner.settings
    for layer in selection.adapted:
        for part, shape in settings.shapes(layer).items():
            name = f"base_model.model.{layer.name}.{part.name}{part.in_model}"
            yield Trainable(
                parameter=name,
                key=f"base_model.model.{layer.name}.{part.name}{part.in_file}",
                module=layer.name,
                component=modules.component(layer.name),
                how="adapter",
                shape=shape,
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


def _unfrozen(tuner: TunerSection, modules: Model, dtype: str) -> Iterable[Trainable]:
    frozen = {"llm": tuner.freeze_llm, "vit": tuner.freeze_vit, "aligner": tuner.freeze_aligner}
    for weight in modules.parameters():
        module = weight.name.rpartition(".")[0]
        component = modules.component(module)
        if not frozen[component] or not modules.architecture.covers(module):
            decays = _whole_decays(weight.name, module, modules)
            yield Trainable(weight.name, weight.name, module, component, "whole", weight.shape, dtype, decays)


def _whole_decays(parameter: str, module: str, modules: Model) -> bool:
    return modules.by_name[module].kind is not Kind.LAYER_NORM and not _NO_DECAY.search(parameter.lower())


def _checkpoint_tensors(
    tuner: TunerSection, modules: Model, selection: Selection, trainables: tuple[Trainable, ...]
) -> Iterable[TensorInfo]:
    if tuner.train_type == "full":  # a whole model, trained or not
        trained = {item.key: item.dtype for item in trainables}
        for weight in modules.parameters():
            yield TensorInfo(weight.name, weight.shape, trained.get(weight.name, weight.dtype))
        return
    for item in trainables:
        yield TensorInfo(item.key, item.shape, item.dtype)
    for layer in selection.adapted:
        if layer.name.rpartition(".")[2] in ("embed_tokens", "lm_head"):  # peft saves their base weights too ("auto")
            name = f"base_model.model.{layer.name}.base_layer.weight"
            yield TensorInfo(name, layer.weight.shape, layer.weight.dtype)


def _count(modules: Model, trainables: tuple[Trainable, ...]) -> dict[str, Count]:
    trainable = dict.fromkeys(COMPONENTS, 0)
    for item in trainables:
        trainable[item.component] += item.numel
    return {name: Count(modules.totals[name], trainable[name]) for name in COMPONENTS}
