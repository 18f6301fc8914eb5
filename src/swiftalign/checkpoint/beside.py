"""Weight files in a checkpoint's folder that nobody reads: what was trained must not be left out without a word."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from typing import Any

from swiftalign.checkpoint.choose import number_of
from swiftalign.checkpoint.names import canonical
from swiftalign.checkpoint.pickles import load_pickle
from swiftalign.checkpoint.read import Checkpoint
from swiftalign.checkpoint.weights import PICKLES
from swiftalign.methods.keys import ADALORA_STATE
from swiftalign.model.safetensors import scan_header, unfetched
from swiftalign.problems import Problem, counted

WEIGHT_SUFFIXES = (".safetensors", *PICKLES, ".gguf", ".h5", ".msgpack", ".onnx")
NO_WEIGHTS = ("spk_dict.pt",)  # the voices of Qwen2.5-Omni, without which its class does not load
# What trainers keep in order to go on: transformers, accelerate, DeepSpeed, FSDP, and this tool for AdaLoRA.
_STATE = (
    *("optimizer*", "scheduler*", "scaler*", "sampler*", "rng_state*", "dl_state_dict*", "training_args.bin"),
    *("*_states.pt", "pytorch_model_fsdp*", ADALORA_STATE),
)


def check_beside(checkpoint: Checkpoint) -> Iterator[Problem]:
    """Files of the folder, and of the folders in it, whose tensors are not among those that were read."""
    folder, weights = checkpoint.folder, checkpoint.weights
    read = {canonical(name) for name in (*weights.infos, *weights.stored, *weights.renamed)}
    inside = (child for child in folder.iterdir() if child.is_dir() and not child.name.startswith("."))
    places = (folder, *sorted(child for child in inside if number_of(child) is None))
    for file in (file for place in places for file in sorted(place.iterdir())):
        if file in weights.files or file.is_dir() or file.suffix not in WEIGHT_SUFFIXES:
            continue
        if any(fnmatch(file.name, pattern) for pattern in (*_STATE, *NO_WEIGHTS, ".*")):
            continue
        names = None
        if lacking := unfetched(file):
            yield lacking
            continue
        if file.suffix == ".safetensors":
            tensors, problems = scan_header(file)
            names = None if problems else [tensor.name for tensor in tensors]
        elif file.suffix in PICKLES:
            try:
                names = list(_names(load_pickle(file)))
            except Exception:  # of many types, on damaged and hostile bytes
                names = None
        if names is not None and read.issuperset(map(canonical, names)):
            if names:
                message = f"{file}: holds only tensors that other files of the folder hold too, and is not read"
                yield Problem("weights-twice", message, "remove it, or move it out of the folder: the two may differ")
            continue
        hint = (
            "move it out of the folder, if the model does without it; if not, save its tensors with those of the model"
        )
        if (file.parent / "adapter_config.json").is_file() and file.parent != folder:
            hint = (
                f"it is an adapter of its own: move {file.parent} out of the folder, then check and export each alone"
            )
        what = f"{counted(len(names), 'tensor')}, e.g. {names[0]}, which" if names else "weights, which"
        message = f"{file}: holds {what} {'are' if names is None or len(names) > 1 else 'is'} not read"
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
