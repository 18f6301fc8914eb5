"""The files beside the weights: adapter and model configs, trainer state, optimizer, tokenizer and processor."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from swiftalign.checkpoint.adapter_config import AdapterConfig
from swiftalign.checkpoint.read import Checkpoint, number_of
from swiftalign.checkpoint.weights import PICKLE_ERRORS, Weights, load_pickle, pickle_refused
from swiftalign.methods import part_of
from swiftalign.methods.base import Method
from swiftalign.methods.keys import ADAPTER_PREFIX, PeftKey
from swiftalign.model.bytes import blocks
from swiftalign.model.safetensors import TensorInfo, read_json
from swiftalign.problems import ModelError, Problem
from swiftalign.problems import names as some

if TYPE_CHECKING:
    from swiftalign.plan.plan import TuningPlan

_PROCESSOR = ("preprocessor_config.json", "processor_config.json")
_TOKENIZER = ("tokenizer.json", "tokenizer.model", "vocab.json")
_TEMPLATE = ("chat_template.jinja", "chat_template.json", "additional_chat_templates")
_OPTIMIZER = ("optimizer.pt", "optimizer.bin", "optimizer.safetensors")


def check_adapter(
    checkpoint: Checkpoint, plan: TuningPlan | None, *, base: Path | None, misnamed: bool
) -> Iterator[Problem]:
    """Whether adapter_config.json fits the tensors that are there, and the plan's method and base.

    Args:
        base: folder that the user names as the base model.
        misnamed: tensors are missing or under wrong names, so that targets and saved modules can't fit.
    """
    adapter = checkpoint.adapter
    if adapter is None:
        if checkpoint.adapter_problem is not None:
            yield checkpoint.adapter_problem
        return
    if adapter.method is None:
        method = f"{adapter.values['peft_type']!r:.40}"
        yield Problem("adapter-method", f"{adapter.path}: peft_type {method} is no method of this toolkit")
        return
    found = checkpoint.weights.infos
    keys = {name: PeftKey.parse(name) for name in found}
    magnitudes = any(key.factor == "lora_magnitude_vector" for key in keys.values())
    uses_dora = bool(adapter.values.get("use_dora"))
    if plan is not None and adapter.kind != plan.train_type:
        yield Problem("adapter-method", f"{adapter.path}: peft_type {adapter.kind}, the plan trains {plan.method}")
    elif adapter.kind == "lora" and any(key.factor for key in keys.values()) and magnitudes != uses_dora:
        has = "hold" if magnitudes else "lack"
        message = f"{adapter.path}: use_dora is {str(uses_dora).lower()}, the tensors {has} magnitudes"
        yield Problem("adapter-method", message, "merged, it would be another method")
    yield from _check_base_name(adapter, plan, base)
    yield from _check_sizes(adapter, adapter.method, found, keys)
    if not misnamed:
        yield from _check_modules(adapter, keys)


def _check_base_name(adapter: AdapterConfig, plan: TuningPlan | None, given: Path | None) -> Iterator[Problem]:
    """Whether the adapter names the base of the run's plan, and the base that the user names."""
    named = adapter.base
    if named is None:
        return
    if plan is not None and _model_name(named) != _model_name(plan.model):
        yield Problem("adapter-base", f"{adapter.path}: names the base {named}, the plan {plan.model}")
    elif given is not None and _model_name(named) != _model_name(str(given.absolute())):
        try:
            here = (Path(named) / "config.json").is_file()
        except OSError:  # of a name that no file can have
            here = False
        if not here:
            message = f"{adapter.path}: names the base {named}, which is not here; --base is {given}"
            yield Problem("base-renamed", message, "make sure that it is the same model: a name is all that tells")
        elif Path(named).resolve() != given.resolve():
            message = f"{adapter.path}: names the base {named}, which is here; --base is {given}"
            yield Problem("adapter-base", message, "give the base that it was trained from, or leave --base out")


def _model_name(model: str) -> str:
    """The name that a hub id shares with its folder in a cache: models--ORG--NAME/snapshots/HASH, or NAME___PART."""
    path = Path(model)
    if path.parent.name == "snapshots":
        return path.parent.parent.name.rpartition("--")[2]
    return path.name.replace("___", ".")


def _check_sizes(
    adapter: AdapterConfig, method: type[Method], found: dict[str, TensorInfo], keys: dict[str, PeftKey]
) -> Iterator[Problem]:
    wrong = []
    for name, key in keys.items():
        part = part_of(key.factor, adapter.kind)
        shape, side = found[name].shape, part.size_side if part else None
        if side is None or len(shape) <= side or (adapter.unplanned and not adapter.adapts(key.layer)):
            continue
        size, wanted = shape[side], adapter.size_of(key.layer)
        if wanted is not None and (size > wanted if method.ranks_may_shrink else size != wanted):
            wrong.append(f"{name} has {method.size_name} {size} instead of {wanted}")
    if wrong:
        yield Problem("adapter-rank", f"{adapter.path}: by it, {some(wrong, 2)}", "peft would refuse to load it")


def _check_modules(adapter: AdapterConfig, keys: dict[str, PeftKey]) -> Iterator[Problem]:
    """Whether target_modules names the layers that are adapted, and modules_to_save those that are saved whole."""
    layers = dict.fromkeys(key.layer for key in keys.values() if key.factor)
    untargeted = [] if adapter.unplanned else [layer for layer in layers if not adapter.adapts(layer)]
    if untargeted:
        message = f"{adapter.path}: target_modules does not match {some(untargeted)}"
        yield Problem("adapter-targets", message, "peft would skip them")
    whole = {name: key for name, key in keys.items() if not key.factor and key.layer not in layers}
    absent = [entry for entry in adapter.saved if not any(f"{entry}." in f"{key.layer}." for key in whole.values())]
    if absent:
        message = f"{adapter.path}: modules_to_save names {some(absent)}, of which no tensor is there"
        yield Problem("adapter-saved", message)
    named = {name for name, key in whole.items() if adapter.saves(key.layer) or adapter.saves_besides(key)}
    unnamed = [name.removeprefix(ADAPTER_PREFIX) for name in whole if name not in named]
    if unnamed:
        yield Problem("adapter-saved", f"{adapter.path}: modules_to_save does not name what holds {some(unnamed)}")


def check_state(folder: Path, plan: TuningPlan | None, *, deep: bool) -> Iterator[Problem]:
    """Trainer, optimizer and scheduler state of a checkpoint-N folder."""
    number = number_of(folder)
    path = folder / "trainer_state.json"
    if not path.exists():
        if number is not None:
            message = f"{folder}: has no trainer_state.json"
            yield Problem("state-missing", message, "saving was interrupted, or cleaned up")
        return
    try:
        step = read_json(path)["global_step"]
    except (ModelError, KeyError, TypeError) as error:
        reason = error.message if isinstance(error, ModelError) else f"{path}: names no global_step"
        yield Problem("state-malformed", reason, "saving was interrupted: take another checkpoint")
        return
    if number is not None and step != number:
        yield Problem("state-step", f"{path}: is of step {str(step)[:20]}, the folder of step {number}")
    if any(folder.glob("global_step*")):  # DeepSpeed keeps optimizer and scheduler in a folder of its own
        return
    optimizer = next((folder / name for name in _OPTIMIZER if (folder / name).exists()), None)
    missing = [] if optimizer else ["optimizer.pt"]
    missing += [] if (folder / "scheduler.pt").exists() else ["scheduler.pt"]
    if missing:
        yield Problem("optimizer-missing", f"{folder}: has no {' and no '.join(missing)}", "it can still be exported")
    if not deep or plan is None or optimizer is None or optimizer.suffix != ".pt":
        return
    try:
        values = load_pickle(optimizer)
        moments = [entry["exp_avg"].numel() for entry in values["state"].values() if "exp_avg" in entry]
    except PICKLE_ERRORS as error:
        yield pickle_refused(optimizer, error)
        return
    if moments and sum(moments) != plan.trainable_parameters:
        trained = plan.trainable_parameters
        message = f"{optimizer}: holds state of {sum(moments):,} parameters, the plan trains {trained:,}"
        yield Problem("optimizer-size", message, "training can't be resumed from here")


def check_model_files(checkpoint: Checkpoint, *, deep: bool) -> Iterator[Problem]:
    """Config, tokenizer, processor and chat template of a full model."""
    folder = checkpoint.folder
    yield from _check_config(folder / "config.json", checkpoint.weights, deep=deep)
    for code, files in (("processor-missing", _PROCESSOR), ("tokenizer-missing", _TOKENIZER)):
        if not any((folder / name).exists() for name in files):
            yield Problem(code, f"{folder}: has none of {', '.join(files)}", "copy the base model's: servers need it")
    try:
        inside = read_json(folder / "tokenizer_config.json").get("chat_template")
    except (ModelError, AttributeError):
        inside = None
    if not inside and not any((folder / name).exists() for name in _TEMPLATE):
        yield Problem("chat-template-missing", f"{folder}: has no chat template", "copy the base model's")


def _check_config(path: Path, weights: Weights, *, deep: bool) -> Iterator[Problem]:
    try:
        values = read_json(path)
        if not isinstance(values.get("model_type"), str):
            raise ModelError(f"{path}: names no model_type")
        inner = values.get("text_config") or {}
        tied = bool(values.get("tie_word_embeddings", inner.get("tie_word_embeddings", False)))
    except (ModelError, AttributeError) as error:
        message = error.message if isinstance(error, ModelError) else f"{path}: no mapping"
        yield Problem("config-malformed", message, "copy the base model's")
        return
    embedding = "model.language_model.embed_tokens.weight"
    if embedding not in weights.infos or weights.damaged:
        return
    if not tied and "lm_head.weight" not in weights.infos:
        hint = "set tie_word_embeddings, or add the head: it would start from random values"
        yield Problem("tied-head", f"{path}: tie_word_embeddings is false, and the weights hold no lm_head", hint)
    elif tied and _heads_differ(weights, embedding, deep=deep):
        hint = "loaders drop the head: set tie_word_embeddings to false, or leave the head out"
        yield Problem("tied-head", f"{path}: tie_word_embeddings is true, and lm_head differs from the embedding", hint)


def _heads_differ(weights: Weights, embedding: str, *, deep: bool) -> bool:
    """Whether a stored head differs from the embedding; only the first block is compared unless ``deep`` is set."""
    head, other = (weights.stored.get(name) for name in ("lm_head.weight", embedding))
    if head is None or other is None:
        return False
    if head.info.shape != other.info.shape or head.info.dtype != other.info.dtype:
        return True
    pairs = zip(blocks(head), blocks(other), strict=True)
    return any(mine != theirs for mine, theirs in (pairs if deep else islice(pairs, 1)))
