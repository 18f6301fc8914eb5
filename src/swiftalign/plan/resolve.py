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
from swiftalign.model.tree import COMPONENTS, Kind, Model
from swiftalign.plan.optimizer import learning_rates, optimizer_groups, optimizer_name
from swiftalign.plan.plan import Count, Trainable, TuningPlan
from swiftalign.plan.schedule import read_schedule
from swiftalign.plan.selection import Selection, runs_in_training, select

# transformers decays no bias and no normalisation weight: by name, and LayerNorm by class.
# Source: transformers `Trainer.get_decay_parameter_names`.
_NO_DECAY = re.compile(r"bias|layernorm|rmsnorm|(?:^|\.)norm(?:$|\.)|_norm(?:$|\.)")

# peft saves the base weights of an adapted embedding and head too, where the model's class tells them: of embeddings
# that share their memory only one, and the head of Qwen's omni models not.
# Source: peft `get_peft_model_state_dict`; transformers `EmbeddingAccessMixin`.
_WITH_BASE = re.compile(r"(?:.*\.)?embed_tokens|(?!thinker\.)(?:.*\.)?lm_head")


def resolve(
    config: Config, model: Model, *, rows: RowCounts | None = None, processes: int = 1, fitting: int = 1
) -> TuningPlan:
    """Turn a configuration and a model into the plan.

    Faults in the configuration do not raise: the plan shows what would train in spite of them, and
    `swiftalign.preflight` names them.

    Args:
        config: what `load_config` has read.
        model: what `read_model` has read for it.
        rows: numbers of rows to train and validate on; None to count them in the configuration's data files.
        processes: number of training processes, from which the number of steps follows.
        fitting: rows per batch that fit the GPU's memory, for ``per_device_train_batch_size: auto``.

    Returns:
        The plan that ``inspect-params`` prints, ``train`` follows, and ``verify-ckpt`` and ``export`` go by. What an
        adapter adds, its names in a checkpoint and the optimizer's groups are those of peft and ms-swift.

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
    as_float32 = tuner.trainable_dtype == "float32"
    if tuner.train_type == "full":
        for weight in model.parameters():
            module = weight.name.rpartition(".")[0]
            component = model.component(module)
            if runs_in_training(module, model) and not tuner.frozen.get(component, False):
                dtype = "float32" if as_float32 else weight.dtype
                decays = _whole_decays(weight.name, module, model)
                yield Trainable(weight.name, weight.name, module, component, "whole", weight.shape, dtype, decays)
        return
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
                # ms-swift casts float16: gradients in it can't be unscaled.
                dtype="float32" if as_float32 or weight.dtype == "float16" else weight.dtype,
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
        if _WITH_BASE.fullmatch(layer.name) and not (layer.kind is Kind.EMBEDDING and layer.weight.name in model.tied):
            yield TensorInfo(str(PeftKey(layer.name, "base_layer.weight")), layer.weight.shape, layer.weight.dtype)
