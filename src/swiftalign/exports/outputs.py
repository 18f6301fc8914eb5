"""What an export can write: a whole model, the merged aligner alone, or the adapter alone. A new output goes here."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from swiftalign.checkpoint.beside import NO_WEIGHTS, WEIGHT_SUFFIXES
from swiftalign.exports.convert import convert_file, converted, header, require_finite
from swiftalign.exports.folder import copy_file, require_space
from swiftalign.exports.source import ADAPTER_FILE, Source
from swiftalign.exports.weights import write_weights
from swiftalign.model.bytes import cast, read_bytes
from swiftalign.model.families import architecture_of
from swiftalign.model.safetensors import read_json, unfetched
from swiftalign.problems import ExportError

Part = Literal["model", "aligner", "adapter", "mmproj"]
CARD, BASE_CARD = "README.md", "README.base.md"
RECORD, PLAN = "export.json", "plan.json"
# A base that is itself an export holds these; the new export writes its own.
_OWN_FILES = (BASE_CARD, RECORD, PLAN)


@dataclass(frozen=True)
class Written:
    """What an output holds.

    Attributes:
        changed: names, in the base's files, of the tensors that differ from the base.
        rounded: names of the tensors that were trained, but equal the base after rounding to its dtype.
        copied: number of tensors that are the base's own.
        linked: names of the files that are hard links to the base's.
        digests: SHA-256 of the bytes of each merged tensor, as it was written and under the name it was given.
        total_bytes: size of the weight files.
        dtype: the float dtype that everything was converted to; None where the tensors kept theirs.
        notes: what the user should know of it besides.
    """

    changed: list[str]
    rounded: list[str] = field(default_factory=list)
    copied: int = 0
    linked: list[str] = field(default_factory=list)
    digests: dict[str, str] = field(default_factory=dict)
    total_bytes: int = 0
    dtype: str | None = None
    notes: list[str] = field(default_factory=list)


def write_model(source: Source, folder: Path, *, dtype: str | None = None, link: bool = False) -> Written:
    """The base's folder, with the merged values in their places; see `export` for the arguments."""
    shared = [file for file in source.files if link and dtype is None and file not in source.changed_files]
    widest = 2 if dtype == "float32" else 1  # of a 16-bit base
    instead = "" if link or dtype else "; --link shares the files that do not change"
    require_space(folder, sum(file.stat().st_size for file in source.files if file not in shared) * widest, instead)
    for path in sorted(source.base_folder.iterdir()):  # config, tokenizer, processor, template, licence
        other_index = path.name.endswith(".index.json") and not path.name.startswith("model.safetensors")
        # Weights of the base in other formats would be stale beside the merged ones.
        stale = path.suffix in WEIGHT_SUFFIXES and path.name not in NO_WEIGHTS
        passed_over = other_index or stale or path.name in _OWN_FILES
        if not passed_over and (lacking := unfetched(path)):
            raise ExportError(lacking.message, lacking.hint)
        if path.is_file() and not path.name.startswith(".") and not passed_over:
            copy_file(path.resolve(), folder / (BASE_CARD if path.name == CARD else path.name))
    placed = write_weights(source, folder, shared=shared, dtype=dtype)
    changed = [name for name, item in placed.items() if not item.same]
    if not changed:
        hint = "train longer, or at a higher learning rate: the updates are smaller than the base's dtype can hold"
        raise ExportError("the merged model equals the base: nothing changed", hint)
    if dtype is not None:
        index_path, config_path = folder / "model.safetensors.index.json", folder / "config.json"
        if index_path.exists():
            index = read_json(index_path)
            sizes = (converted(tensor, dtype).nbytes for tensor in source.base.values())
            index.setdefault("metadata", {})["total_size"] = sum(sizes)
            index_path.write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
        parts = [values := read_json(config_path)]
        for part in parts:  # and the configs of its sub-models, at any depth
            part.update({key: dtype for key in ("dtype", "torch_dtype") if part.get(key) is not None})
            parts += [value for key, value in part.items() if key.endswith("_config") and isinstance(value, dict)]
        config_path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    return Written(
        changed=changed,
        rounded=[name for name, item in placed.items() if item.same],
        copied=len(source.base) - len(changed),
        linked=[file.name for file in shared],
        digests={name: item.digest for name, item in placed.items()},
        total_bytes=sum((folder / file.name).stat().st_size for file in source.files),
        dtype=dtype,
    )


def write_aligner(source: Source, folder: Path, *, dtype: str | None = None) -> Written:
    """The merged aligner tensors as one file, named as in the base's files, in the base's dtype or in another."""
    aligner = architecture_of(read_json(source.base_folder / "config.json"), str(source.base_folder), source.base)
    places = {name: tensor for name, tensor in source.base.items() if aligner and aligner.component(name) == "aligner"}
    if not places:
        where = f": no name in it begins with {' or '.join(aligner.aligner)}" if aligner else " that ms-swift knows"
        raise ExportError(f"{source.base_folder}: holds no aligner{where}", "leave out --aligner-only")
    infos = {name: converted(tensor, dtype) if dtype else tensor.info for name, tensor in places.items()}
    merged = {name: data for name, data in source.merged_values(dtype) if name in places}
    path, digests, rounded = folder / "aligner.safetensors", {}, []
    with path.open("xb") as file:
        file.write(header(replace(info, name=places[name].name) for name, info in infos.items()))
        for name, tensor in places.items():
            bases = cast(read_bytes(tensor), tensor.info.dtype, infos[name].dtype)
            data = merged.get(name, bases)
            require_finite(name, data, infos[name].dtype)
            file.write(data)
            if name in merged:
                digests[tensor.name] = hashlib.sha256(data).hexdigest()
                rounded += [tensor.name] if data == bases else []
    return Written(
        changed=[name for name in digests if name not in rounded],
        rounded=rounded,
        copied=len(places) - len(digests) + len(rounded),
        digests=digests,
        total_bytes=path.stat().st_size,
        dtype=dtype,
    )


def write_adapter(source: Source, folder: Path, *, dtype: str | None = None, base: str | None = None) -> Written:
    """peft's two files, the tensors in another dtype if one is named.

    Args:
        base: what adapter_config.json calls the base; by default its folder on this machine.
    """
    if not source.config:
        raise ExportError(f"{source.origin.path}: full training has no adapter", "leave out --adapter-only")
    path = folder / ADAPTER_FILE
    if dtype:
        convert_file(source.checkpoint / ADAPTER_FILE, path, dtype)
    else:
        copy_file(source.checkpoint / ADAPTER_FILE, path)
    values = {**source.config, "base_model_name_or_path": base or str(source.base_folder), "inference_mode": True}
    (folder / "adapter_config.json").write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    changed = [source.base[name].name for name in (*source.whole, *source.changed)]
    return Written(changed=changed, total_bytes=path.stat().st_size, dtype=dtype)
