"""Problem and reading the weight files of a checkpoint; every fault becomes a finding."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from swiftalign.model.safetensors import (
    ITEM_SIZES,
    MAX_JSON_BYTES,
    MAX_NAME,
    StoredTensor,
    TensorInfo,
    index_names,
    is_outside,
    read_json,
    scan_header,
)
from swiftalign.problems import ModelError, Problem

ADAPTER_FILES = ("adapter_model.safetensors", "adapter_model.bin")
MODEL_FILES = ("model.safetensors", "pytorch_model.bin")
INDEX_FILES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
PICKLES = (".bin", ".pt", ".pth")
_SUFFIXES = (".safetensors", ".bin")
_LEGACY_PICKLES = 5  # magic number, protocol, system, contents, storage keys
# The unpickler of torch meets damaged and hostile bytes with whatever its code stumbles over.
PICKLE_ERRORS = (Exception,)


@dataclass
class Weights:
    """The tensors of a checkpoint.

    Attributes:
        kind: ``adapter``, ``model`` or ``file`` (a lone weight file).
        stored: where each tensor of a safetensors file lies; tensors of a pickle are in `infos` alone.
    """

    kind: str
    files: list[Path] = field(default_factory=list)
    infos: dict[str, TensorInfo] = field(default_factory=dict)
    stored: dict[str, StoredTensor] = field(default_factory=dict)
    findings: list[Problem] = field(default_factory=list)

    @property
    def damaged(self) -> bool:
        """Whether what is there can't be relied on: names and values would only say so again."""
        return any(finding.severity == "error" for finding in self.findings)

    def fail(self, code: str, message: str, hint: str = "") -> None:
        self.findings.append(Problem(code, message, hint))

    def refuse_pickle(self, path: Path, error: Exception) -> None:
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        self.fail("pickle-refused", f"{path}: {reason}", "nothing in it was executed; take a .safetensors file")


def read_weights(path: Path) -> Weights:
    """The tensors of a checkpoint folder, a model folder or a single weight file.

    Raises:
        ModelError: there is nothing of the kind at this path.
    """
    if path.is_file():
        if path.suffix not in (".safetensors", *PICKLES):
            raise ModelError(f"{path}: not a weight file", "name a .safetensors or .bin file, or a checkpoint folder")
        weights = Weights("file")
        _read_all([path], path, weights)
        return weights
    adapter = [path / name for name in ADAPTER_FILES if (path / name).exists()]
    if adapter or (path / "adapter_config.json").exists():
        weights = Weights("adapter")
        _read_all(adapter, path, weights)
        return weights
    indexes = [path / name for name in INDEX_FILES if (path / name).exists()]
    single = [path / name for name in MODEL_FILES if (path / name).exists()]
    if not indexes and not single and not (path / "config.json").exists():
        raise ModelError(f"{path}: neither a checkpoint, nor a run folder, nor a model", "name a checkpoint-N folder")
    weights = Weights("model")
    if indexes:
        _read_index(indexes[0], weights)
    else:
        _read_all(single, path, weights)
    return weights


def _read_all(files: list[Path], folder: Path, weights: Weights) -> None:
    if not files:
        weights.fail("no-weights", f"{folder}: holds no weight file", "saving was interrupted: take another checkpoint")
    for file in files[:1]:  # safetensors before a pickle of the same, as loaders choose
        _read_file(file, weights)
        if not weights.infos and not weights.findings:
            weights.fail("no-weights", f"{file}: holds no tensor", "saving went wrong: take another checkpoint")


def _read_file(path: Path, weights: Weights) -> None:
    weights.files.append(path)
    if is_outside(path.parent, path.name) and weights.kind != "file":
        weights.fail("index-outside", f"{path}: links to a file outside its folder", "do not use this checkpoint")
        return
    if path.exists() and not (path.is_file() or path.is_dir()):  # a pipe or a device: reading might never end
        weights.fail("file-unreadable", f"{path}: is no regular file", "do not use this checkpoint")
        return
    if path.suffix in PICKLES:
        _read_pickle(path, weights)
        return
    scan = scan_header(path)
    for fault in scan.faults:
        weights.fail(fault.code, fault.message, "the file is damaged: take another checkpoint")
    for tensor in scan.tensors:
        name = tensor.info.name
        if len(name) > MAX_NAME:
            weights.fail("header-corrupt", f"{path}: names a tensor of {len(name)} characters: {name[:50]}...")
            return
        if name in weights.stored:
            other = weights.stored[name].file.name
            weights.fail("index-tensor-unlisted", f"{path}: {name} is in {other} too", "which of them is meant?")
        weights.infos[name] = tensor.info
        weights.stored[name] = tensor


def _read_pickle(path: Path, weights: Weights) -> None:
    """Names, shapes and dtypes by torch's weights-only unpickler, which builds tensors and runs nothing else."""
    if not path.stat().st_size:
        weights.fail("file-empty", f"{path}: has zero bytes", "the file is damaged: take another checkpoint")
        return
    try:
        values = load_pickle(path)
        if isinstance(values, dict):
            _list_pickle(path, values, weights)
        else:
            weights.fail("pickle-refused", f"{path}: holds no mapping of tensors", "take a .safetensors file")
    except PICKLE_ERRORS as error:
        weights.refuse_pickle(path, error)


def _list_pickle(path: Path, values: dict[Any, Any], weights: Weights) -> None:
    """Take in its tensors, and refuse what no weight is."""
    for name, tensor in values.items():
        if not hasattr(tensor, "shape") or not hasattr(tensor, "dtype"):
            continue
        dtype = str(tensor.dtype).removeprefix("torch.")
        if tensor.nbytes > tensor.untyped_storage().nbytes():
            weights.fail("pickle-refused", f"{path}: {str(name)[:200]!r} claims more elements than are stored")
            return
        if not isinstance(name, str) or not name.isprintable() or dtype not in ITEM_SIZES:
            weights.fail("pickle-refused", f"{path}: {str(name)[:200]!r} of {dtype} is no weight's name and dtype")
            return
        weights.infos[name] = TensorInfo(name, tuple(tensor.shape), dtype)


def load_pickle(path: Path, device: str = "meta") -> Any:
    """A torch file's contents; on the meta device no values are read where the format allows it."""
    import zipfile

    import torch

    zipped = zipfile.is_zipfile(path)
    _check_globals(path, zipped=zipped)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on pickles of a newer protocol than torch's own
        return torch.load(path, map_location=device, weights_only=True, mmap=zipped)


def _check_globals(path: Path, *, zipped: bool) -> None:
    """Refuse names that no class has: torch takes minutes to word its error about a very long one.

    Raises:
        ValueError: there is such a name, or the pickle is damaged.
    """
    import io
    import pickletools
    import zipfile

    if zipped:
        with zipfile.ZipFile(path) as archive:
            entries = [entry for entry in archive.infolist() if entry.filename.endswith("data.pkl")]
            if sum(entry.file_size for entry in entries) > MAX_JSON_BYTES:
                raise ValueError("its pickle is larger than that of any model")
            pickles = [(archive.read(entry), 1) for entry in entries]
    else:
        with path.open("rb") as file:
            pickles = [(file.read(MAX_JSON_BYTES), _LEGACY_PICKLES)]
    for data, count in pickles:
        stream = io.BytesIO(data)
        for _ in range(count):
            for _, argument, _ in pickletools.genops(stream):
                if isinstance(argument, str) and len(argument) > MAX_NAME:
                    raise ValueError(f"it names {argument[:50]!r}... of {len(argument)} characters")


def _read_index(path: Path, weights: Weights) -> None:
    weights.files.append(path)
    try:
        index = read_json(path)
        listed = index_names(index, path)
    except ModelError as error:
        code = "index-outside" if error.message.endswith("outside the folder") else "index-malformed"
        weights.fail(code, error.message, error.hint or "")
        return
    for name in sorted(set(listed.values())):
        if (path.parent / name).is_file():
            _read_file(path.parent / name, weights)
        else:
            weights.fail("index-shard-missing", f"{path}: names {name}, which is not there", "fetch or save it again")
    _compare_index(path, index, listed, weights)


def _compare_index(path: Path, index: Any, listed: dict[str, str], weights: Weights) -> None:
    """Index and shards must agree in both directions; tensors of pickled shards have no file of their own here."""
    stored = weights.stored
    held = {name: stored[name].file.name if name in stored else listed.get(name, "") for name in weights.infos}
    present = {file.name for file in weights.files} if not weights.damaged else set()
    lacking = [name for name, file in listed.items() if file in present and held.get(name) != file]
    if lacking:
        weights.fail("index-tensor-missing", f"{path}: {_some(lacking)} not in the shard that it names")
    unlisted = [name for name in held if name not in listed]
    if unlisted:
        weights.fail("index-tensor-unlisted", f"{path}: {_some(unlisted)} in the shards, but not in the index")
    beside = (file for file in path.parent.glob("*model*") if file.suffix in _SUFFIXES)
    files = set(listed.values())
    strays = sorted(file.name for file in beside if file.name not in files)
    if strays:
        weights.fail("index-shard-unlisted", f"{path}: does not name {', '.join(strays)}", "left from another save?")
    metadata = index.get("metadata")
    total = metadata.get("total_size") if isinstance(metadata, dict) else None
    size = sum(info.nbytes for info in weights.infos.values())
    if total is not None and total != size and not weights.damaged:
        message = f"{path}: total_size is {json.dumps(total)[:40]}, the tensors take {size} bytes"
        weights.fail("index-total-size", message)


def _some(names: list[str]) -> str:
    rest = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{names[0]}{rest} {'are' if rest else 'is'}"
