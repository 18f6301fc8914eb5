"""What ms-swift and peft make of a plan: how tests hold plans against live models, and short forms of settings."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import MISSING, fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from swift.arguments import SftArguments
from swift.arguments.tuner_args import TunerArguments
from swift.optimizers import optimizers_map
from swift.pipelines.train.tuner import TunerMixin
from swift.trainers import TrainingArguments
from transformers import Trainer

from swiftalign.config.sections import Config
from swiftalign.model.safetensors import TensorInfo
from swiftalign.plan.plan import TuningPlan
from swiftalign.runs.lowering import lower
from swiftalign.speed.choices import Choices
from swiftalign.worker.targets import exact_targets, freeze_rank_numbers

Described = dict[str, tuple[tuple[int, ...], str]]
Groups = list[tuple[float, float, set[str]]]


def swift_arguments(config: Config, plan: TuningPlan, meta: Any) -> Any:
    """ms-swift's arguments as the worker passes them, the rest at ms-swift's defaults; nothing is loaded for them."""
    args = object.__new__(SftArguments)
    for item in fields(SftArguments):
        vars(args)[item.name] = item.default_factory() if item.default_factory is not MISSING else item.default
    vars(args).update(lower(plan, config, Path("runs"), Choices()))
    args.task_type, args.model_meta = "causal_lm", meta
    args.training_args = SimpleNamespace(max_steps=100)
    TunerArguments.__post_init__(args)
    return args


def as_trained(config: Config, plan: TuningPlan, model: Any) -> Any:
    """A model as it trains: wrapped by ms-swift, what trains whole in float32 where the config asks for it.

    Args:
        model: a model with ms-swift's ``model_meta``, which is changed in place.
    """
    with exact_targets(model):
        model = TunerMixin.prepare_model(swift_arguments(config, plan, model.model_meta), model)
    freeze_rank_numbers(model)
    for name, weight in model.named_parameters():
        whole = plan.train_type == "full" or ".modules_to_save." in name
        if whole and weight.requires_grad and config.tuner.trainable_dtype == "float32":
            weight.data = weight.data.float()
    return model


def described(tensors: Iterable[tuple[str, Any]]) -> Described:
    return {name: (tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")) for name, tensor in tensors}


def trainable(model: Any) -> Described:
    return described((name, weight) for name, weight in model.named_parameters() if weight.requires_grad)


def planned(plan: TuningPlan) -> Described:
    assert len({item.parameter for item in plan.trainables}) == len(plan.trainables)
    return {item.parameter: (item.shape, item.dtype) for item in plan.trainables}


def listed(tensors: tuple[TensorInfo, ...] | list[TensorInfo]) -> Described:
    assert len({tensor.name for tensor in tensors}) == len(tensors)
    return {tensor.name: (tensor.shape, tensor.dtype) for tensor in tensors}


def real_groups(arguments: dict[str, Any], model: Any) -> Groups:
    """Rate, weight decay and parameters of each group of ms-swift's own optimizer."""
    names = ("learning_rate", "vit_lr", "aligner_lr", "weight_decay")
    rates = {name: arguments[name] for name in names if name in arguments}
    args = TrainingArguments(tempfile.gettempdir(), optim="adamw_torch", use_cpu=True, report_to=[], **rates)
    trainer = SimpleNamespace(model=model)
    if arguments["optimizer"] == "default":  # the Trainer's own, which moves the model
        trainer = Trainer(model.to_empty(device="cpu"), args)
    optimizer = optimizers_map[arguments["optimizer"]](args, trainer).create_optimizer()
    owners = {id(weight): name for name, weight in model.named_parameters()}
    return [
        (g["lr"], g["weight_decay"], {owners[id(weight)] for weight in g["params"]}) for g in optimizer.param_groups
    ]


def planned_groups(plan: TuningPlan) -> Groups:
    return [(group.learning_rate, group.weight_decay, set(group.parameters)) for group in plan.groups]


# -- Short forms of the tuner section ---------------------------------------------------------------------------------


def lora(target: str | None, **settings: Any) -> dict[str, Any]:
    return {"train_type": "lora", "target_regex": target, **settings}


def dora(target: str | None, **settings: Any) -> dict[str, Any]:
    return lora(target, use_dora=True, **settings)


def saved(*names: str, **settings: Any) -> dict[str, Any]:
    return lora("^$", modules_to_save=list(names), **settings)


def adalora(target: str | None, **settings: Any) -> dict[str, Any]:
    return {"train_type": "adalora", "target_regex": target, **settings}


def boft(target: str | None, **settings: Any) -> dict[str, Any]:
    return {"train_type": "boft", "target_regex": target, **settings}


def fourierft(target: str | None, **settings: Any) -> dict[str, Any]:
    return {"train_type": "fourierft", "target_regex": target, "fourier_n_frequency": 100, **settings}


def flags(train_type: str, *unfrozen: str, **settings: Any) -> dict[str, Any]:
    """Freeze flags alone decide: nothing names a target."""
    frozen = {f"freeze_{part}": part not in unfrozen for part in ("llm", "vit", "aligner")}
    return {"train_type": train_type, **frozen, **settings}
