"""Weight files in a checkpoint's folder that nobody reads: what was trained must not be left out without a word."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from fnmatch import fnmatch
from typing import Any

from swiftalign.checkpoint.choose import number_of
from swiftalign.checkpoint.names import canonical
from swiftalign.checkpoint.pickles import load_pickle
from swiftalign.checkpoint.read import Checkpoint
from swiftalign.checkpoint.weights import PICKLES
from swiftalign.methods.keys import ADALORA_STATE
from swiftalign.model.bytes import differ
from swiftalign.model.safetensors import StoredTensor, scan_header, unfetched
from swiftalign.problems import Problem, counted

WEIGHT_SUFFIXES = (".safetensors", *PICKLES, ".gguf", ".h5", ".msgpack", ".onnx")
NO_WEIGHTS = ("spk_dict.pt",)  # the voices of Qwen2.5-Omni, without which its class does not load
# What trainers keep in order to go on: transformers, accelerate, DeepSpeed, FSDP, and this tool for AdaLoRA.
_STATE = (
    *("optimizer*", "scheduler*", "scaler*", "sampler*", "rng_state*", "dl_state_dict*", "training_args.bin"),
    *("*_states.pt", "pytorch_model_fsdp*", ADALORA_STATE),
)


def check_beside(checkpoint: Checkpoint, *, deep: bool) -> Iterator[Problem]:
    """Weight files in the checkpoint's folder, and in folders in it, that are not read; copies of what is are less bad.

    Args:
        deep: compare every byte of a copy, and not only the beginning of each tensor.
    """
    folder, weights = checkpoint.folder, checkpoint.weights
    read: dict[str, StoredTensor | None] = dict.fromkeys(map(canonical, (*weights.infos, *weights.renamed)))
    read |= {canonical(name): own for own in weights.stored.values() for name in (own.name, own.info.name)}
    inside = (child for child in folder.iterdir() if child.is_dir() and not child.name.startswith("."))
    above = (folder.resolve(), *folder.resolve().parents)  # where links may lead back to
    places = (folder, *sorted(each for each in inside if number_of(each) is None and each.resolve() not in above))
    for file in (file for place in places for file in sorted(place.iterdir())):
        if file in weights.files or file.is_dir() or file.suffix not in WEIGHT_SUFFIXES:
            continue
        if any(fnmatch(file.name, pattern) for pattern in (*_STATE, *NO_WEIGHTS, ".*")):
            continue
        if lacking := unfetched(file):
            yield lacking
            continue
        held: dict[str, StoredTensor | None] | None = None  # until it can be read
        if file.suffix == ".safetensors":
            tensors, problems = scan_header(file)
            held = {tensor.name: tensor for tensor in tensors} if not problems else None
        elif file.suffix in PICKLES:
            with suppress(Exception):  # of many types, on damaged and hostile bytes
                held = dict.fromkeys(_names(load_pickle(file)))
        if held == {}:
            continue
        pairs = [(theirs, read[canonical(name)]) for name, theirs in (held or {}).items() if canonical(name) in read]
        same = [
            not differ(theirs, own, 4096, deep=deep) if theirs and own else file.parent == folder
            for theirs, own in pairs
        ]
        if held and len(same) == len(held) and all(same):
            message = f"{file}: repeats tensors of another file, which is read in its place"
            yield Problem("weights-twice", message, "remove it, or move it out of the folder")
            continue
        hint = "move it out of the folder if the model does without it, else save its tensors with those of the model"
        if (file.parent / "adapter_config.json").is_file() and file.parent != folder:
            hint = f"it is an adapter of its own: move {file.parent} elsewhere, then check and export each alone"
        what = f"{counted(len(held), 'tensor')}, e.g. {next(iter(held))}, which" if held else "weights, which"
        message = f"{file}: holds {what} {'is' if held and len(held) == 1 else 'are'} not read"
        yield Problem("weights-left-out", message, hint)


def _names(value: Any, name: str = "") -> Iterator[str]:
    """The names of the tensors in the contents of a torch file, at any depth."""
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        yield name
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _names(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, (list, tuple)):
        for number, inner in enumerate(value):
            yield from _names(inner, f"{name}.{number}" if name else str(number))
