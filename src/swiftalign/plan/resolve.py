"""A configuration and a model become one `TuningPlan`."""

from __future__ import annotations

import re
from collections.abc import Iterable

from swiftalign.config.sections import Config, TunerSection
from swiftalign.data.count import count_rows
from swiftalign.data.files import RowCounts
from swiftalign.methods.keys import PeftKey
from swiftalign.model.safetensors import TensorInfo
from swiftalign.model.swift_choice import choose
from swiftalign.model.tree import COMPONENTS, Kind, Model, is_inside
from swiftalign.plan.optimizer import learning_rates, optimizer_groups, optimizer_name
from swiftalign.plan.plan import Count, Trainable, TuningPlan
from swiftalign.plan.schedule import read_schedule
from swiftalign.plan.selection import Selection, select

# transformers decays no bias and no normalisation weight: by name, and LayerNorm by class.
# Source: transformers `Trainer.get_decay_parameter_names`.
_NO_DECAY = re.compile(r"bias|layernorm|rmsnorm|(?:^|\.)norm(?:$|\.)|_norm(?:$|\.)")


def resolve(
    config: Config, model: Model, *, rows: RowCounts | None = None, processes: int = 1, fitting: int = 1
) -> TuningPlan:
    """Turn a configuration and a model into the plan.

    Faults in the configuration do not raise: the plan shows what would train in spite of them, and
    `swiftalign.checks.preflight` names them.

    Args:
        rows: numbers of rows to train and validate on; None to count them in the configuration's data files.
        processes: number of training processes, from which the number of steps follows.
        fitting: rows per batch that fit the GPU's memory, for ``per_device_train_batch_size: auto``.

    Raises:
        DataError: a data file that the configuration names is missing, and the rows are to be counted.
    """
    tuner, selection = config.tuner, select(config, model)
    trainables = tuple(_trainables(tuner, model, selection))
    rates = learning_rates(config)
    return TuningPlan(
        method=tuner.method.name if selection.adapted or not tuner.method.adapts else "modules_to_save",
        train_type=tuner.train_type,
        model=model.source,
        model_type=model.model_type,
        dtype=model.dtype,
        adapted=tuple(layer.name for layer in selection.adapted),
        saved=selection.saved,
        decided_by=selection.decided_by,
        decided_at=selection.decided_at,
        matches=selection.matches,
        trainables=trainables,
        tensors=tuple(_checkpoint_tensors(tuner, model, selection, trainables)),
        components={
            name: Count(model.totals[name], sum(item.numel for item in trainables if item.component == name))
            for name in model.totals
            if name in COMPONENTS or model.totals[name]
        },
        optimizer=optimizer_name(config),
        rates=rates,
        groups=tuple(optimizer_groups(config, rates, trainables)),
        schedule=read_schedule(config, rows or count_rows(config), processes=processes, fitting=fitting),
        swift=choose(model.config, config.source, config.handed_through.get("template")),
    )


def _trainables(tuner: TunerSection, model: Model, selection: Selection) -> Iterable[Trainable]:
    whole_dtype = "float32" if tuner.trainable_dtype == "float32" else model.dtype
    if tuner.train_type == "full":
        for weight in model.parameters():
            module = weight.name.rpartition(".")[0]
            component = model.component(module)
            generates = is_inside(module, model.architecture.generator)  # ms-swift always freezes these parts
            if not tuner.frozen.get(component, generates):
                decays = _whole_decays(weight.name, module, model)
                yield Trainable(weight.name, weight.name, module, component, "whole", weight.shape, whole_dtype, decays)
        return
    if whole_dtype == "float16":
        whole_dtype = "float32"  # ms-swift casts: gradients in float16 can't be unscaled
    settings = tuner.settings
    for layer in selection.adapted:
        for part, shape in settings.shapes(layer).items():
            name = str(PeftKey(layer.name, f"{part.name}{part.in_model}"))
            yield Trainable(
                parameter=name,
                key=str(PeftKey(layer.name, f"{part.name}{part.in_file}")),
                module=layer.name,
                component=model.component(layer.name),
                how="adapter",
                shape=shape,
                dtype="float32",  # peft keeps adapters of a 16-bit base in float32 (autocast_adapter_dtype)
                decays=not _NO_DECAY.search(name.lower()),
            )
    for saved in selection.saved:
        for weight in model.under(saved):
            inner = weight.name.removeprefix(saved)
            name = str(PeftKey(saved, f"modules_to_save.default{inner}"))
            module, _, last = weight.name.rpartition(".")
            yield Trainable(
                parameter=name,
                key=str(PeftKey(module, last)),
                module=module,
                component=model.component(module),
                how="whole",
                shape=weight.shape,
                dtype=whole_dtype,
                decays=_whole_decays(name, module, model),
            )


def _whole_decays(parameter: str, module: str, model: Model) -> bool:
    return model.by_name[module].kind is not Kind.LAYER_NORM and not _NO_DECAY.search(parameter.lower())


def _checkpoint_tensors(
    tuner: TunerSection, model: Model, selection: Selection, trainables: tuple[Trainable, ...]
) -> Iterable[TensorInfo]:
    if tuner.train_type == "full":  # a whole model, trained or not
        trained = {item.key: item.dtype for item in trainables}
        for weight in model.parameters():
            yield TensorInfo(weight.name, weight.shape, trained.get(weight.name, weight.dtype))
        return
    for item in trainables:
        yield TensorInfo(item.key, item.shape, item.dtype)
    for layer in selection.adapted:
        if layer.name.rpartition(".")[2] in ("embed_tokens", "lm_head"):  # peft saves their base weights too ("auto")
            yield TensorInfo(str(PeftKey(layer.name, "base_layer.weight")), layer.weight.shape, layer.weight.dtype)
