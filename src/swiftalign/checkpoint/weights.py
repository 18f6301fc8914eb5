"""Reading the weight files of a checkpoint without trusting them: faults become problems, not exceptions."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from swiftalign.checkpoint.pickles import pickle_refused, read_pickle
from swiftalign.checkpoint.shards import Shards, find_shards
from swiftalign.methods.keys import ADAPTER_PREFIX
from swiftalign.model.safetensors import (
    DAMAGED,
    StoredTensor,
    TensorInfo,
    read_json,
    scan_header,
    scan_index,
    unfetched,
)
from swiftalign.model.stored import in_model, under_model_names
from swiftalign.problems import ModelError, Problem, about

# Of a safetensors file and a pickle, the first counts, as for loaders.
_ADAPTER_FILES = ("adapter_model.safetensors", "adapter_model.bin")
_MODEL_FILES = (
    *("model.safetensors.index.json", "pytorch_model.bin.index.json"),
    *("model.safetensors", "pytorch_model.bin"),
)
# Modules that train whole beside LoRA, as trainers made from LLaVA's keep them: peft does not load these files.
_WHOLE_MODULES = tuple(
    f"{name}{suffix}" for name in ("non_lora_state_dict", "non_lora_trainables") for suffix in (".safetensors", ".bin")
)
PICKLES = (".bin", ".pt", ".pth", ".ckpt")
_AGAIN = "fetch or save it again"
_INCOMPLETE = "use another checkpoint: this one was not saved completely"

Kind = Literal["adapter", "model", "file", "shards"]


@dataclass
class Weights:
    """The tensors of a checkpoint.

    Attributes:
        kind: ``file`` is a lone weight file; ``shards`` are those of a trainer that must be gathered first.
        files: the index, if there is one, and the weight files.
        infos: every tensor, by its name in the model.
        stored: where each tensor of a safetensors file lies, by its name in the model, or in the file where loading
            does more than rename it (`StoredTensor.makes`); a pickle's tensors are not in it.
        renamed: the name in the file -> the name in the model, where loading renames a tensor.
        problems: what is wrong with the files.
        gathered: a temporary folder that holds an adapter's tensors in one file, where the checkpoint has them in
            shards or in several files; it is removed with this object.
        beside: names of those tensors that peft would not look for in this adapter: other files hold them.
    """

    kind: Kind
    files: list[Path] = field(default_factory=list)
    infos: dict[str, TensorInfo] = field(default_factory=dict)
    stored: dict[str, StoredTensor] = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    gathered: Path | None = None
    beside: tuple[str, ...] = ()

    @property
    def damaged(self) -> bool:
        """Whether the tensors can't be relied on: checks of names and values would only repeat the same problem."""
        return any(problem.severity == "error" for problem in self.problems)


def read_weights(path: Path) -> Weights:
    """The tensors of a checkpoint folder, a model folder or a single weight file.

    Raises:
        ModelError: the path is none of these.
    """
    adapter = [path / name for name in _ADAPTER_FILES if _is_there(path / name)]
    model = [path / name for name in _MODEL_FILES if _is_there(path / name)]
    shards = find_shards(path)
    if path.is_file():
        if path.suffix not in (".safetensors", *PICKLES):
            raise ModelError(f"{path}: not a weight file", "name a .safetensors or .bin file, or a checkpoint folder")
        weights, files = Weights("file"), [path]
    elif shards and shards.weights and not (adapter or model):
        return _gather(path, shards)
    elif adapter or (path / "adapter_config.json").exists():
        weights, files = Weights("adapter"), adapter
        if adapter and (others := [path / name for name in _WHOLE_MODULES if _is_there(path / name)]):
            return _join([adapter[0], *others])
    elif model or (path / "config.json").exists():
        weights, files = Weights("model"), model
    else:
        inside = sorted(child for child in path.iterdir() if (child / "adapter_config.json").is_file())
        hint = f"name the adapter in it: {inside[0]}" if inside else "name a checkpoint-N folder"
        raise ModelError(f"{path}: neither a checkpoint, nor a run folder, nor a model", hint)
    if not files:
        weights.problems.append(Problem("no-weights", f"{path}: holds no weight file", _INCOMPLETE))
        return weights
    for problem in (_read_index if files[0].suffix == ".json" else _read_file)(files[0], weights):
        weights.problems.append(problem)  # at once: the next check may depend on it
    config = (path if weights.kind == "model" else path.parent) / "config.json"
    if weights.kind != "adapter" and config.is_file():
        with suppress(ModelError):  # another check reports a config that can't be read
            made = in_model(weights.infos, read_json(config))
            weights.infos = {name: tensor.info for name, tensor in made.items()}
            weights.stored = under_model_names(weights.stored, made) if weights.stored else {}
            weights.renamed = {each.files[0]: name for name, each in made.items() if each.renamed}
    if not weights.infos and not weights.problems and shards and shards.weights:
        weights.problems.append(shards.not_gathered(path))
    elif not weights.infos and not weights.problems:
        weights.problems.append(Problem("no-weights", f"{files[0]}: holds no tensor", _INCOMPLETE))
    return weights


def _gather(path: Path, shards: Shards) -> Weights:
    """An adapter in FSDP's shards is gathered; all else is left to the tools of its trainer."""
    weights, tensors = Weights("shards"), {}
    try:
        tensors = shards.read()
    except Exception as error:  # of many types, on damaged and hostile bytes
        weights.problems.append(pickle_refused(path, error))
        return weights
    if not tensors or not all(name.startswith(ADAPTER_PREFIX) and ".default." not in name for name in tensors):
        weights.problems.append(shards.not_gathered(path))
        return weights
    _write_gathered(weights, tensors)
    return weights


def _join(files: list[Path]) -> Weights:
    """An adapter, and files of modules that were trained whole beside it, as one adapter that peft can load."""
    from safetensors.torch import load_file

    weights, tensors = Weights("adapter"), dict[str, Any]()
    for file in files:
        weights.problems += _read_file(file, weights)
        if weights.problems:
            return weights
        try:
            held = read_pickle(file, "cpu") if file.suffix in PICKLES else load_file(file)
        except Exception as error:  # of a pickle whose names and shapes alone looked sound
            weights.problems.append(pickle_refused(file, error))
            return weights
        named = {name if name.startswith(ADAPTER_PREFIX) else f"{ADAPTER_PREFIX}{name}": held[name] for name in held}
        for name in sorted(named.keys() & tensors.keys()):
            message = f"{file}: {name} is also in another of {', '.join(each.name for each in files)}"
            weights.problems.append(Problem("tensor-duplicated", message, "keep one of the two: they may differ"))
        tensors |= named
        weights.beside += tuple(named) if file != files[0] else ()
    weights.infos, weights.stored = {}, {}
    _write_gathered(weights, tensors)
    return weights


def _is_there(path: Path) -> bool:
    """Whether a file is at a path, if only as a link or a pointer to content that was not fetched."""
    return os.path.lexists(path) or unfetched(path) is not None


def _write_gathered(weights: Weights, tensors: dict[str, Any]) -> None:
    """Write an adapter's tensors into a temporary folder, and read that in place of the checkpoint's own files."""
    from safetensors.torch import save_file

    weights.kind, weights.gathered = "adapter", Path(tempfile.mkdtemp(prefix="swiftalign-"))
    weakref.finalize(weights, shutil.rmtree, weights.gathered, ignore_errors=True)
    try:
        whole = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}  # none shares memory
        save_file(whole, weights.gathered / _ADAPTER_FILES[0])
    except Exception as error:
        raise ModelError(f"{weights.gathered}: can't be written: {error}", "set TMPDIR to a folder with room") from None
    weights.problems += _read_file(weights.gathered / _ADAPTER_FILES[0], weights)


def _read_file(path: Path, weights: Weights) -> Iterator[Problem]:
    weights.files.append(path)
    if lacking := unfetched(path):
        yield lacking
    elif path.exists() and not (path.is_file() or path.is_dir()):  # a pipe or a device: reading might never end
        yield Problem("file-unreadable", f"{path}: is not a regular file", "do not use this checkpoint")
    elif path.suffix in PICKLES and not path.stat().st_size:
        yield Problem("file-empty", f"{path}: has zero bytes", DAMAGED)
    elif path.suffix in PICKLES:
        try:
            for name, tensor in read_pickle(path).items():
                weights.infos[name] = TensorInfo(name, tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))
        except Exception as error:  # torch's unpickler raises many types on damaged and hostile bytes
            yield pickle_refused(path, error)
    else:
        tensors, problems = scan_header(path)
        yield from problems
        for stored in tensors:
            name = stored.info.name
            if name in weights.stored:
                message = f"{path}: {name} is also in {weights.stored[name].file.name}"
                yield Problem("tensor-duplicated", message, "save the model again: the two copies may differ")
            weights.infos[name] = stored.info
            weights.stored[name] = stored


def _read_index(path: Path, weights: Weights) -> Iterator[Problem]:
    """Read a shard index and its shards, which must agree in both directions."""
    weights.files.append(path)
    index, problems = scan_index(path)
    yield from problems
    if problems:
        return
    listed: dict[str, str] = index["weight_map"]
    for name in sorted(set(listed.values())):
        if (path.parent / name).is_file():
            yield from _read_file(path.parent / name, weights)
        else:
            missing = Problem("index-shard-missing", f"{path}: names {name}, which is not there", _AGAIN)
            yield unfetched(path.parent / name) or missing
    if not weights.damaged:
        # A pickle's tensors count as being in the file that the index names.
        held = listed | {name: tensor.file.name for name, tensor in weights.stored.items()}
        lacking = [name for name, file in listed.items() if name not in weights.infos or held[name] != file]
        yield from about("index-tensor-missing", lacking, "not in the file that the index names", path=path)
    unlisted = [name for name in weights.infos if name not in listed]
    yield from about("index-tensor-unlisted", unlisted, "in the shards, but not in the index", path=path)
    metadata = index.get("metadata")
    total = metadata.get("total_size") if isinstance(metadata, dict) else None
    size = sum(info.nbytes for info in weights.infos.values())
    if total is not None and total != size and not weights.damaged:
        message = f"{path}: total_size is {json.dumps(total)[:40]}, but the tensors take {size} bytes"
        yield Problem("index-total-size", message)
