"""What lies beside the weights: adapter and model configs, trainer state, optimizer, tokenizer and processor."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from swiftalign.checkpoint import TensorInfo, read_json
from swiftalign.errors import ModelError
from swiftalign.findings import Finding
from swiftalign.findings import names as some
from swiftalign.verify.expected import ADAPTER_PREFIX, Expectation, read_adapter_config
from swiftalign.verify.files import PICKLE_ERRORS, Weights, load_pickle
from swiftalign.verify.values import blocks

_PROCESSOR = ("preprocessor_config.json", "processor_config.json")
_TOKENIZER = ("tokenizer.json", "tokenizer.model", "vocab.json")
_TEMPLATE = ("chat_template.jinja", "chat_template.json", "additional_chat_templates")
_ADAPTERS = ("lora", "adalora", "boft", "fourierft")
_OPTIMIZER = ("optimizer.pt", "optimizer.bin", "optimizer.safetensors")
_CHECKPOINT_NAME = re.compile(r"checkpoint-(\d+)")


def check_adapter_config(
    folder: Path, found: dict[str, TensorInfo], expectation: Expectation, *, misnamed: bool = False
) -> Iterator[Finding]:
    """Whether adapter_config.json tells of the tensors that are there, and of the plan's method and base.

    Args:
        misnamed: tensors are missing or under wrong names, so that targets and saved modules can't fit.
    """
    path = folder / "adapter_config.json"
    if not path.exists():
        yield Finding("adapter-config-missing", f"{folder}: has no adapter_config.json", "peft can't load it without")
        return
    try:
        adapter = read_adapter_config(path)
    except ModelError as error:
        yield Finding("adapter-config-malformed", error.message, "take another checkpoint")
        return
    kind = adapter["peft_type"].lower()
    if kind not in _ADAPTERS:
        yield Finding("adapter-method", f"{path}: peft_type {adapter['peft_type']!r:.40} is no method of this toolkit")
        return
    yield from _method(path, adapter, kind, found, expectation)
    yield from _rank(path, adapter, kind, found)
    if not misnamed:
        yield from _targets(path, adapter, found)
        yield from _saved(path, adapter, found)


def _method(
    path: Path, adapter: dict[str, Any], kind: str, found: dict[str, TensorInfo], expectation: Expectation
) -> Iterator[Finding]:
    plan = expectation.plan
    if plan is not None and kind != plan.train_type:
        yield Finding("adapter-method", f"{path}: peft_type {kind}, the plan trains {plan.method}")
    elif kind == "lora" and _layers(found):
        magnitudes = any(".lora_magnitude_vector" in name for name in found)
        if magnitudes != bool(adapter.get("use_dora")):
            has = "hold" if magnitudes else "lack"
            message = f"{path}: use_dora is {str(bool(adapter.get('use_dora'))).lower()}, the tensors {has} magnitudes"
            yield Finding("adapter-method", message, "merged, it would be another method")
    base = adapter.get("base_model_name_or_path")
    if plan is not None and isinstance(base, str) and Path(base).name != Path(plan.model).name:
        yield Finding("adapter-base", f"{path}: names the base {base}, the plan {plan.model}")


def _layers(found: Iterable[str]) -> list[str]:
    """The layers that the tensors adapt, by their names in the base model."""
    pattern = re.compile(r"\.(?:lora_\w+|boft_\w+|fourierft_spectrum)(?:\.weight)?$")
    layers = (pattern.sub("", name).removeprefix(ADAPTER_PREFIX) for name in found if pattern.search(name))
    return list(dict.fromkeys(layers))


def _rank(path: Path, adapter: dict[str, Any], kind: str, found: dict[str, TensorInfo]) -> Iterator[Finding]:
    rank = adapter.get("init_r" if kind == "adalora" else "r")
    patterns = adapter.get("rank_pattern") or {}
    if kind not in ("lora", "adalora") or not isinstance(rank, int) or (kind == "lora" and patterns):
        return
    sides = {name: info.shape[0] for name, info in found.items() if ".lora_A" in name and info.shape}
    wrong = [
        f"{name} has rank {side}" for name, side in sides.items() if side > rank or (kind == "lora" and side != rank)
    ]
    if wrong:
        yield Finding("adapter-rank", f"{path}: rank {rank}, but {some(wrong, 2)}", "peft would refuse to load it")


def _targets(path: Path, adapter: dict[str, Any], found: dict[str, TensorInfo]) -> Iterator[Finding]:
    targets, layers = adapter.get("target_modules"), _layers(found)
    if isinstance(targets, str):
        strangers = [name for name in layers if not re.fullmatch(targets, name)]
    else:
        ends = tuple(f".{target}" for target in targets or ())
        strangers = [name for name in layers if not f".{name}".endswith(ends)]
    if strangers:
        yield Finding(
            "adapter-targets", f"{path}: target_modules does not match {some(strangers)}", "peft would skip them"
        )


def _saved(path: Path, adapter: dict[str, Any], found: dict[str, TensorInfo]) -> Iterator[Finding]:
    entries = [str(entry) for entry in adapter.get("modules_to_save") or []]
    layers = tuple(_layers(found))
    whole = [name.removeprefix(ADAPTER_PREFIX) for name in found if not re.search(r"\.(?:lora|boft|fourierft)_", name)]
    whole = [name for name in whole if not name.startswith(tuple(f"{layer}." for layer in layers)) or not layers]
    owners = {name: name.rpartition(".")[0] for name in whole}
    absent = [entry for entry in entries if not any(f".{owner}.".find(f"{entry}.") >= 0 for owner in owners.values())]
    strangers = [name for name, owner in owners.items() if not any(f".{owner}.".find(f"{e}.") >= 0 for e in entries)]
    if absent:
        yield Finding("adapter-saved", f"{path}: modules_to_save names {some(absent)}, of which no tensor is there")
    if strangers:
        yield Finding("adapter-saved", f"{path}: modules_to_save does not name what holds {some(strangers)}")


def check_state(folder: Path, expectation: Expectation, *, deep: bool) -> Iterator[Finding]:
    """Trainer, optimizer and scheduler state of a checkpoint-N folder."""
    match = _CHECKPOINT_NAME.fullmatch(folder.name)
    path = folder / "trainer_state.json"
    if not path.exists():
        if match:
            yield Finding(
                "state-missing", f"{folder}: has no trainer_state.json", "saving was interrupted, or cleaned up"
            )
        return
    try:
        state = read_json(path)
        step = state["global_step"]
    except (ModelError, KeyError, TypeError) as error:
        reason = error.message if isinstance(error, ModelError) else f"{path}: names no global_step"
        yield Finding("state-malformed", reason, "saving was interrupted: take another checkpoint")
        return
    if match and step != int(match[1]):
        yield Finding("state-step", f"{path}: is of step {str(step)[:20]}, the folder of step {match[1]}")
    yield from _optimizer(folder, expectation, deep=deep)


def _optimizer(folder: Path, expectation: Expectation, *, deep: bool) -> Iterator[Finding]:
    optimizer = next((folder / name for name in _OPTIMIZER if (folder / name).exists()), None)
    missing = [] if optimizer else ["optimizer.pt"]
    missing += [] if (folder / "scheduler.pt").exists() else ["scheduler.pt"]
    if any(folder.glob("global_step*")):  # DeepSpeed keeps both in a folder of its own
        return
    if missing:
        yield Finding("optimizer-missing", f"{folder}: has no {' and no '.join(missing)}", "it can still be exported")
    if deep and optimizer is not None and optimizer.suffix == ".pt" and expectation.plan is not None:
        yield from _optimizer_size(optimizer, expectation.plan.trainable_parameters)


def _optimizer_size(path: Path, expected: int) -> Iterator[Finding]:
    try:
        values = load_pickle(path)
        moments = [entry["exp_avg"].numel() for entry in values["state"].values() if "exp_avg" in entry]
    except PICKLE_ERRORS as error:
        reason = " ".join(str(error).split())[:160]
        yield Finding("pickle-refused", f"{path}: {reason}", "training can't be resumed from here")
        return
    if moments and sum(moments) != expected:
        message = f"{path}: holds state of {sum(moments):,} parameters, the plan trains {expected:,}"
        yield Finding("optimizer-size", message, "training can't be resumed from here")


def check_model_files(folder: Path, weights: Weights, *, deep: bool) -> Iterator[Finding]:
    """Config, tokenizer, processor and chat template of a full model."""
    yield from _config(folder / "config.json", weights, deep=deep)
    kinds = (("processor-missing", _PROCESSOR), ("tokenizer-missing", _TOKENIZER))
    for code, files in kinds:
        if not any((folder / name).exists() for name in files):
            yield Finding(code, f"{folder}: has none of {', '.join(files)}", "copy the base model's: servers need it")
    if not any((folder / name).exists() for name in _TEMPLATE) and not _template_in_tokenizer(folder):
        yield Finding("chat-template-missing", f"{folder}: has no chat template", "copy the base model's")


def _config(path: Path, weights: Weights, *, deep: bool) -> Iterator[Finding]:
    try:
        values = read_json(path)
        if not isinstance(values.get("model_type"), str):
            raise ModelError(f"{path}: names no model_type")
        inner = values.get("text_config") or {}
        tied = bool(values.get("tie_word_embeddings", inner.get("tie_word_embeddings", False)))
    except (ModelError, AttributeError) as error:
        message = error.message if isinstance(error, ModelError) else f"{path}: no mapping"
        yield Finding("config-malformed", message, "copy the base model's")
        return
    embedding = "model.language_model.embed_tokens.weight"
    if embedding not in weights.infos or weights.damaged:
        return
    if not tied and "lm_head.weight" not in weights.infos:
        hint = "set tie_word_embeddings, or add the head: it would start from random values"
        yield Finding("tied-head", f"{path}: tie_word_embeddings is false, and the weights hold no lm_head", hint)
    elif tied and _heads_differ(weights, embedding, deep=deep):
        hint = "loaders drop the head: set tie_word_embeddings to false, or leave the head out"
        yield Finding("tied-head", f"{path}: tie_word_embeddings is true, and lm_head differs from the embedding", hint)


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
