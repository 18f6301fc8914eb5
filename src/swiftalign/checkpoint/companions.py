"""The files beside the weights: adapter and model configs, trainer state, optimizer, tokenizer and processor."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from swiftalign.checkpoint.adapter_config import AdapterConfig
from swiftalign.checkpoint.choose import number_of
from swiftalign.checkpoint.pickles import load_pickle, pickle_refused
from swiftalign.checkpoint.read import Checkpoint
from swiftalign.checkpoint.shards import find_shards
from swiftalign.checkpoint.weights import Weights
from swiftalign.methods import part_of
from swiftalign.methods.base import Method
from swiftalign.methods.keys import ADAPTER_PREFIX, PeftKey
from swiftalign.model.bytes import differ
from swiftalign.model.families import find
from swiftalign.model.safetensors import read_json, unfetched
from swiftalign.plan.plan import TuningPlan
from swiftalign.problems import ModelError, Problem, about

_PROCESSOR = ("preprocessor_config.json", "processor_config.json")
_TOKENIZER = ("tokenizer.json", "tokenizer.model", "vocab.json")
_TEMPLATE = ("chat_template.jinja", "chat_template.json", "additional_chat_templates")
_OPTIMIZER = ("optimizer.pt", "optimizer.bin", "optimizer.safetensors")


def check_adapter(checkpoint: Checkpoint, plan: TuningPlan | None, *, misnamed: bool) -> Iterator[Problem]:
    """Whether adapter_config.json fits the tensors that are there, and the plan's method.

    Args:
        misnamed: tensors are missing or under wrong names, so that targets and saved modules can't fit.
    """
    adapter = checkpoint.adapter
    if adapter is None:
        if checkpoint.adapter_problem is not None:
            yield checkpoint.adapter_problem
        return
    if adapter.method is None:
        method = f"{adapter.values['peft_type']!r:.40}"
        yield Problem("adapter-method", f"{adapter.path}: peft_type {method} is not a method of this toolkit")
        return
    uses_dora = bool(adapter.values.get("use_dora"))
    factors = {PeftKey.parse(name).factor for name in checkpoint.weights.infos} - {""}
    if plan is not None and adapter.kind != plan.train_type:
        message = f"{adapter.path}: peft_type is {adapter.kind}, but the plan trains {plan.method}"
        yield Problem("adapter-method", message, "use the adapter_config.json of this checkpoint's run")
    elif adapter.kind == "lora" and factors and ("lora_magnitude_vector" in factors) != uses_dora:
        values = "true, but there are no" if uses_dora else "false, but there are"
        message = f"{adapter.path}: use_dora is {values} magnitude vectors"
        yield Problem("adapter-method", message, "correct use_dora: merging depends on it")
    yield from _check_modules(adapter, adapter.method, checkpoint.weights, misnamed)


def _check_modules(adapter: AdapterConfig, method: type[Method], weights: Weights, misnamed: bool) -> Iterator[Problem]:
    """Whether the config's ranks, target_modules and modules_to_save are those of the tensors."""
    sizes, keys = [], {name: PeftKey.parse(name) for name in weights.infos}
    for name, key in keys.items():
        part = part_of(key.factor, adapter.kind)
        shape, side = weights.infos[name].shape, part.size_side if part else None
        if side is None or side >= len(shape) or (adapter.unplanned and not adapter.adapts(key.layer)):
            continue
        wanted = adapter.size_of(key.layer)
        if wanted is not None and (shape[side] > wanted if method.ranks_may_shrink else shape[side] != wanted):
            sizes.append(f"{name} has {method.size_name} {shape[side]}, expected {wanted}")
    hint = "correct this setting: peft refuses to load such an adapter"
    yield from about("adapter-rank", sizes, f"with another {method.size_name}", hint, limit=2, path=adapter.path)
    if misnamed:
        return
    layers = dict.fromkeys(key.layer for key in keys.values() if key.factor)
    untargeted = [layer for layer in layers if not adapter.unplanned and not adapter.adapts(layer)]
    hint = "correct target_modules: peft would skip these layers"
    yield from about("adapter-targets", untargeted, "outside target_modules", hint, noun="layer", path=adapter.path)
    whole = {name: key for name, key in keys.items() if not key.factor and key.layer not in layers}
    absent = [entry for entry in adapter.saved if not any(f"{entry}." in f"{key.layer}." for key in whole.values())]
    hint = "correct modules_to_save, or use another checkpoint"
    what = "of modules_to_save without a tensor"
    yield from about("adapter-saved", absent, what, hint, noun="module", path=adapter.path)
    unnamed = []
    for name, key in whole.items():  # peft saves biases, rows of embeddings and whole embeddings besides
        bias = adapter.saves_biases and key.part.rpartition(".")[2] == "bias"
        rows = adapter.tokens and key.part == "token_adapter.trainable_tokens_delta"
        embedding = key.base.endswith((".embed_tokens.weight", "lm_head.weight"))
        if not (adapter.saves(key.layer) or bias or rows or embedding):
            unnamed.append(name.removeprefix(ADAPTER_PREFIX))
    hint = "correct modules_to_save: peft would skip these tensors"
    yield from about("adapter-saved", unnamed, "outside modules_to_save", hint, path=adapter.path)


def check_state(folder: Path, plan: TuningPlan | None, *, deep: bool) -> Iterator[Problem]:
    """Trainer, optimizer and scheduler state of a checkpoint-N folder."""
    number = number_of(folder)
    path = folder / "trainer_state.json"
    if not path.exists():
        if number is not None:
            hint = "use another checkpoint to resume: saving was interrupted, or the file was removed"
            yield Problem("state-missing", f"{folder}: has no trainer_state.json", hint)
        return
    try:
        step = read_json(path)["global_step"]
    except (ModelError, KeyError, TypeError) as error:
        reason = error.message if isinstance(error, ModelError) else f"{path}: has no global_step"
        yield Problem("state-malformed", reason, "use another checkpoint: saving was interrupted")
        return
    if number is not None and step != number:
        yield Problem("state-step", f"{path}: its step is {str(step)[:20]}, but the folder's name says {number}")
    shards = find_shards(folder)
    if shards and shards.optimizer and shards.writer == "DeepSpeed":  # its shards may hold the scheduler too
        return
    optimizer = next((folder / name for name in _OPTIMIZER if (folder / name).exists()), None)
    there = {
        "optimizer.pt": optimizer is not None or (shards is not None and shards.optimizer is not None),
        "scheduler.pt": (folder / "scheduler.pt").exists(),
    }
    if missing := [name for name in there if not there[name]]:
        hint = "use another checkpoint to resume; this one can still be exported"
        yield Problem("optimizer-missing", f"{folder}: has no {' and no '.join(missing)}", hint)
    if deep and plan is not None and optimizer is not None and optimizer.suffix == ".pt":
        try:
            states = load_pickle(optimizer)["state"].values()
            moments = [entry["exp_avg"].numel() for entry in states if "exp_avg" in entry]
        except Exception as error:
            yield pickle_refused(optimizer, error)
            return
        held, trained = sum(moments), plan.trainable_parameters
        if moments and held != trained:
            message = f"{optimizer}: holds the state of {held:,} parameters, but the plan trains {trained:,}"
            yield Problem("optimizer-size", message, "use another checkpoint to resume")


def check_model_files(checkpoint: Checkpoint, *, deep: bool) -> Iterator[Problem]:
    """Config, tokenizer, processor and chat template of a full model."""
    folder, weights = checkpoint.folder, checkpoint.weights
    path = folder / "config.json"
    embedding = next((name for name in weights.infos if name.endswith("embed_tokens.weight")), None)
    try:
        values = read_json(path)
        if not isinstance(values.get("model_type"), str):
            raise ModelError(f"{path}: has no model_type")
        inner = values.get("text_config") or {}
        tied = values.get("tie_word_embeddings", inner.get("tie_word_embeddings"))
        if tied is None and find(values["model_type"]):  # of another family, the class decides
            tied = False
    except (ModelError, AttributeError) as error:
        message = error.message if isinstance(error, ModelError) else f"{path}: is not a mapping"
        yield Problem("config-malformed", message, "copy it from the base model")
    else:
        comparable = embedding is not None and tied is not None and not weights.damaged
        head, shared = weights.stored.get("lm_head.weight"), weights.stored.get(embedding or "")
        if comparable and not tied and not any(name.endswith("lm_head.weight") for name in weights.infos):
            hint = "set tie_word_embeddings to true, or add lm_head: it would start from random values"
            yield Problem("tied-head", f"{path}: tie_word_embeddings is false, but the weights hold no lm_head", hint)
        elif comparable and tied and head and shared and differ(head, shared, deep=deep):
            hint = "set tie_word_embeddings to false, or leave out lm_head: loaders ignore it"
            message = f"{path}: tie_word_embeddings is true, but lm_head differs from the embedding"
            yield Problem("tied-head", message, hint)
    for name in (*_PROCESSOR, *_TOKENIZER, *_TEMPLATE):
        if (folder / name).exists() and (lacking := unfetched(folder / name)):
            yield lacking
    hint = "copy it from the base model: servers need it"
    for code, files in (("processor-missing", _PROCESSOR), ("tokenizer-missing", _TOKENIZER)):
        if not any((folder / name).exists() for name in files):
            yield Problem(code, f"{folder}: has none of {', '.join(files)}", hint)
    try:
        inside = read_json(folder / "tokenizer_config.json").get("chat_template")
    except (ModelError, AttributeError):
        inside = None
    if not inside and not any((folder / name).exists() for name in _TEMPLATE):
        yield Problem("chat-template-missing", f"{folder}: has no chat template", hint)
