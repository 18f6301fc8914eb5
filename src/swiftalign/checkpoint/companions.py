"""What lies beside the weights: adapter and model configs, trainer state, optimizer, tokenizer and processor."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from swiftalign.checkpoint.adapter_config import METHODS, AdapterConfig, read_adapter_config
from swiftalign.checkpoint.expected import Expectation
from swiftalign.checkpoint.weights import PICKLE_ERRORS, Weights, load_pickle
from swiftalign.methods.keys import ADAPTER_PREFIX, adapter_part
from swiftalign.model.bytes import blocks
from swiftalign.model.safetensors import TensorInfo, read_json
from swiftalign.problems import ModelError, Problem
from swiftalign.problems import names as some

_PROCESSOR = ("preprocessor_config.json", "processor_config.json")
_TOKENIZER = ("tokenizer.json", "tokenizer.model", "vocab.json")
_TEMPLATE = ("chat_template.jinja", "chat_template.json", "additional_chat_templates")
_OPTIMIZER = ("optimizer.pt", "optimizer.bin", "optimizer.safetensors")
_RANK_SIDES = {"lora_A": 0, "lora_embedding_A": 0, "lora_B": 1, "lora_embedding_B": 1}
_CHECKPOINT_NAME = re.compile(r"checkpoint-(\d+)")


def check_adapter_config(
    folder: Path,
    found: dict[str, TensorInfo],
    expectation: Expectation,
    *,
    base: Path | None = None,
    misnamed: bool = False,
) -> Iterator[Problem]:
    """Whether adapter_config.json tells of the tensors that are there, and of the plan's method and base.

    Args:
        base: folder that the user gives as the base model.
        misnamed: tensors are missing or under wrong names, so that targets and saved modules can't fit.
    """
    path = folder / "adapter_config.json"
    if not path.exists():
        yield Problem("adapter-config-missing", f"{folder}: has no adapter_config.json", "peft can't load it without")
        return
    try:
        adapter = read_adapter_config(path)
    except ModelError as error:
        yield Problem("adapter-config-malformed", error.message, "take another checkpoint")
        return
    if adapter.kind not in METHODS:
        method = f"{adapter.values['peft_type']!r:.40}"
        yield Problem("adapter-method", f"{path}: peft_type {method} is no method of this toolkit")
        return
    yield from _method(adapter, found, expectation)
    yield from _base(adapter, expectation, base)
    yield from _rank(adapter, found)
    if not misnamed:
        yield from _targets(adapter, found)
        yield from _saved(adapter, found)


def _method(adapter: AdapterConfig, found: dict[str, TensorInfo], expectation: Expectation) -> Iterator[Problem]:
    plan = expectation.plan
    if plan is not None and adapter.kind != plan.train_type:
        yield Problem("adapter-method", f"{adapter.path}: peft_type {adapter.kind}, the plan trains {plan.method}")
    elif adapter.kind == "lora" and _layers(found):
        dora = bool(adapter.values.get("use_dora"))
        magnitudes = any(".lora_magnitude_vector" in name for name in found)
        if magnitudes != dora:
            has = "hold" if magnitudes else "lack"
            message = f"{adapter.path}: use_dora is {str(dora).lower()}, the tensors {has} magnitudes"
            yield Problem("adapter-method", message, "merged, it would be another method")


def _base(adapter: AdapterConfig, expectation: Expectation, given: Path | None) -> Iterator[Problem]:
    """Whether the adapter names the base of the run's plan, and the one that is given."""
    plan, named = expectation.plan, adapter.base
    if named is None:
        return
    if plan is not None and expectation.adapter is None and _model_name(named) != _model_name(plan.model):
        yield Problem("adapter-base", f"{adapter.path}: names the base {named}, the plan {plan.model}")
    elif given is not None and _model_name(named) != _model_name(str(given.absolute())):
        if not _is_model(named):
            message = f"{adapter.path}: names the base {named}, which is not here; --base is {given}"
            yield Problem("base-renamed", message, "make sure that it is the same model: a name is all that tells")
        elif Path(named).resolve() != given.resolve():
            message = f"{adapter.path}: names the base {named}, which is here; --base is {given}"
            yield Problem("adapter-base", message, "give the base that it was trained from, or leave --base out")


def _is_model(path: str) -> bool:
    try:
        return (Path(path) / "config.json").is_file()
    except OSError:  # of a name that no file can have
        return False


def _model_name(model: str) -> str:
    """What a hub id and its folder in a cache have in common: models--ORG--NAME/snapshots/HASH, or NAME___PART."""
    path = Path(model)
    if path.parent.name == "snapshots":
        return path.parent.parent.name.rpartition("--")[2]
    return path.name.replace("___", ".")


def _layers(found: Iterable[str]) -> list[str]:
    """The layers that the tensors adapt, by their names in the base model."""
    parts = (adapter_part(name) for name in found)
    return list(dict.fromkeys(part[0] for part in parts if part))


def _rank(adapter: AdapterConfig, found: dict[str, TensorInfo]) -> Iterator[Problem]:
    if adapter.kind not in ("lora", "adalora") or adapter.rank is None:
        return
    wrong = []
    for name, info in found.items():
        layer, part = adapter_part(name) or ("", "")
        side = _RANK_SIDES.get(part)
        foreseen = not adapter.unplanned or adapter.adapts(layer)
        if side is None or len(info.shape) <= side or not foreseen:
            continue
        rank, wanted = info.shape[side], adapter.size_of(layer)
        if wanted is not None and (rank > wanted if adapter.kind == "adalora" else rank != wanted):
            wrong.append(f"{name} has rank {rank} instead of {wanted}")
    if wrong:
        yield Problem("adapter-rank", f"{adapter.path}: by it, {some(wrong, 2)}", "peft would refuse to load it")


def _targets(adapter: AdapterConfig, found: dict[str, TensorInfo]) -> Iterator[Problem]:
    strangers = [] if adapter.unplanned else [name for name in _layers(found) if not adapter.adapts(name)]
    if strangers:
        message = f"{adapter.path}: target_modules does not match {some(strangers)}"
        yield Problem("adapter-targets", message, "peft would skip them")


def _saved(adapter: AdapterConfig, found: dict[str, TensorInfo]) -> Iterator[Problem]:
    """Whether what is saved whole is what modules_to_save names."""
    layers = set(_layers(found))
    bare = (name.removeprefix(ADAPTER_PREFIX) for name in found if not adapter_part(name))
    owners = {name: name.rpartition(".")[0] for name in bare if not _within(name, layers)}
    absent = [entry for entry in adapter.saved if not any(f"{entry}." in f"{owner}." for owner in owners.values())]
    if absent:
        message = f"{adapter.path}: modules_to_save names {some(absent)}, of which no tensor is there"
        yield Problem("adapter-saved", message)
    strangers = [
        name
        for name, owner in owners.items()
        if not any(f"{entry}." in f"{owner}." for entry in adapter.saved) and not _saved_besides(name, adapter)
    ]
    if strangers:
        yield Problem("adapter-saved", f"{adapter.path}: modules_to_save does not name what holds {some(strangers)}")


def _within(name: str, layers: set[str]) -> bool:
    """Whether a tensor lies in one of the layers."""
    return any(name[:place] in layers for place, sign in enumerate(name) if sign == ".")


def _saved_besides(name: str, adapter: AdapterConfig) -> bool:
    """What peft saves of modules that modules_to_save does not name: biases, rows and embeddings."""
    biases = adapter.saves_biases and name.endswith(".bias")
    rows = bool(adapter.tokens) and name.endswith(".token_adapter.trainable_tokens_delta")
    return biases or rows or name.endswith((".embed_tokens.weight", "lm_head.weight"))


def check_state(folder: Path, expectation: Expectation, *, deep: bool) -> Iterator[Problem]:
    """Trainer, optimizer and scheduler state of a checkpoint-N folder."""
    match = _CHECKPOINT_NAME.fullmatch(folder.name)
    path = folder / "trainer_state.json"
    if not path.exists():
        if match:
            yield Problem(
                "state-missing", f"{folder}: has no trainer_state.json", "saving was interrupted, or cleaned up"
            )
        return
    try:
        state = read_json(path)
        step = state["global_step"]
    except (ModelError, KeyError, TypeError) as error:
        reason = error.message if isinstance(error, ModelError) else f"{path}: names no global_step"
        yield Problem("state-malformed", reason, "saving was interrupted: take another checkpoint")
        return
    if match and step != int(match[1]):
        yield Problem("state-step", f"{path}: is of step {str(step)[:20]}, the folder of step {match[1]}")
    yield from _optimizer(folder, expectation, deep=deep)


def _optimizer(folder: Path, expectation: Expectation, *, deep: bool) -> Iterator[Problem]:
    optimizer = next((folder / name for name in _OPTIMIZER if (folder / name).exists()), None)
    missing = [] if optimizer else ["optimizer.pt"]
    missing += [] if (folder / "scheduler.pt").exists() else ["scheduler.pt"]
    if any(folder.glob("global_step*")):  # DeepSpeed keeps both in a folder of its own
        return
    if missing:
        yield Problem("optimizer-missing", f"{folder}: has no {' and no '.join(missing)}", "it can still be exported")
    if deep and optimizer is not None and optimizer.suffix == ".pt" and expectation.plan is not None:
        yield from _optimizer_size(optimizer, expectation.plan.trainable_parameters)


def _optimizer_size(path: Path, expected: int) -> Iterator[Problem]:
    try:
        values = load_pickle(path)
        moments = [entry["exp_avg"].numel() for entry in values["state"].values() if "exp_avg" in entry]
    except PICKLE_ERRORS as error:
        reason = " ".join(str(error).split())[:160]
        yield Problem("pickle-refused", f"{path}: {reason}", "training can't be resumed from here")
        return
    if moments and sum(moments) != expected:
        message = f"{path}: holds state of {sum(moments):,} parameters, the plan trains {expected:,}"
        yield Problem("optimizer-size", message, "training can't be resumed from here")


def check_model_files(folder: Path, weights: Weights, *, deep: bool) -> Iterator[Problem]:
    """Config, tokenizer, processor and chat template of a full model."""
    yield from _config(folder / "config.json", weights, deep=deep)
    kinds = (("processor-missing", _PROCESSOR), ("tokenizer-missing", _TOKENIZER))
    for code, files in kinds:
        if not any((folder / name).exists() for name in files):
            yield Problem(code, f"{folder}: has none of {', '.join(files)}", "copy the base model's: servers need it")
    if not any((folder / name).exists() for name in _TEMPLATE) and not _template_in_tokenizer(folder):
        yield Problem("chat-template-missing", f"{folder}: has no chat template", "copy the base model's")


def _config(path: Path, weights: Weights, *, deep: bool) -> Iterator[Problem]:
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
    """Whether a stored head is not the embedding; by its first block alone, unless every byte is asked for."""
    head, other = (weights.stored.get(name) for name in ("lm_head.weight", embedding))
    if head is None or other is None:
        return False
    if head.info.shape != other.info.shape or head.info.dtype != other.info.dtype:
        return True
    pairs = zip(blocks(head), blocks(other), strict=True)
    return any(mine != theirs for mine, theirs in (pairs if deep else islice(pairs, 1)))


def _template_in_tokenizer(folder: Path) -> bool:
    try:
        return bool(read_json(folder / "tokenizer_config.json").get("chat_template"))
    except (ModelError, AttributeError):
        return False
