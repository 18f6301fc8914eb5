"""Reading folders of torch.distributed.checkpoint, as FSDP saves them: pieces of tensors, and where each lies."""

from __future__ import annotations

import io
import pickle
import re
from math import prod
from pathlib import Path
from typing import Any

from swiftalign.checkpoint.pickles import check_names, load_pickle
from swiftalign.model.safetensors import ITEM_SIZES, MAX_JSON_BYTES, MAX_SIDE, is_outside

METADATA = ".metadata"

_OBJECTS = {
    *(("torch.distributed.checkpoint.metadata", name) for name in ("Metadata", "MetadataIndex", "StorageMeta")),
    *(("torch.distributed.checkpoint.metadata", f"{name}StorageMetadata") for name in ("Tensor", "Bytes", "Chunk")),
    *(("torch.distributed.checkpoint.metadata", name) for name in ("TensorProperties", "_MEM_FORMAT_ENCODING")),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("torch.serialization", "_get_layout"),
    *((module, name) for module in ("pathlib", "pathlib._local") for name in ("PosixPath", "WindowsPath")),
}


class _Held:
    """What a pickle says of an object; it stands in for the object's class, whose code never runs."""

    state: Any = ()

    def __init__(self, *args: Any) -> None:
        """Take what the class itself would take."""

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Unpickler(pickle.Unpickler):
    """Makes plain values and `_Held` objects only; a dtype becomes its name."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _OBJECTS:
            return _Held
        if (module, name) == ("torch", "Size"):
            return tuple
        if module == "torch" and name in ITEM_SIZES:
            return name
        raise ValueError(f"it holds {module}.{name}, which does not belong in such a file"[:200])


def read_distributed(folder: Path) -> dict[str, Any]:
    """The tensors of a folder that torch.distributed.checkpoint wrote, by name, on the CPU.

    FSDP divides every tensor by rows. Names lose the key ``model`` under which accelerate puts an adapter's tensors.

    Raises:
        Exception: of any type, where the folder is damaged, or its tensors are divided in another way.

    References:
        torch `torch/distributed/checkpoint/metadata.py`, `filesystem.py`; accelerate `utils/fsdp_utils.py`.
    """
    import torch

    path = folder / METADATA
    if path.stat().st_size > MAX_JSON_BYTES:
        raise ValueError("it is larger than any model needs")
    data = path.read_bytes()
    check_names(data)
    metadata = _Unpickler(io.BytesIO(data)).load().state
    places = {(index.state["fqn"], index.state.get("offset")): info for index, info in metadata["storage_data"].items()}
    tensors: dict[str, Any] = {}
    left = sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
    for key, held in metadata["state_dict_metadata"].items():
        if "size" not in held.state:  # no tensor
            continue
        shape, dtype = held.state["size"], held.state["properties"].state[0]
        name, row, pieces = re.sub(r"^model\.(?=base_model\.)", "", key), 0, []
        if not name.isprintable() or dtype not in ITEM_SIZES or not _is_shape(shape):
            raise ValueError(f"{name[:100]!r} is not a weight by its name, shape and dtype")
        for chunk in sorted((chunk.state for chunk in held.state["chunks"]), key=lambda chunk: chunk["offsets"]):
            offsets, sizes = chunk["offsets"], chunk["sizes"]
            if not _is_shape(sizes) or sizes[1:] != shape[1:] or offsets != (row, *[0] * len(shape))[: len(shape)]:
                raise ValueError(f"{name[:100]!r} is not divided by rows")
            if not prod(sizes):  # a process without rows
                continue
            place = places[key, offsets].state
            file, begin, length = place["relative_path"], place["offset"], place["length"]
            if is_outside(file) or not (folder / file).is_file() or place.get("transform_descriptors"):
                raise ValueError(f"{name[:100]!r} lies in {file[:100]!r}, which is not a plain file of this folder")
            left -= length
            end = (folder / file).stat().st_size
            if left < 0 or min(begin, length) < 0 or begin + length > end or prod(sizes) * ITEM_SIZES[dtype] > length:
                raise ValueError(f"{name[:100]!r} claims more bytes than {file} has")
            pieces.append((folder / file, begin, length, sizes))
            row += sizes[0] if sizes else 1
        if row != (shape[0] if shape else 1):
            raise ValueError(f"{name[:100]!r} has {row} rows, and its shape is {list(shape)}")
        read = []
        for file, begin, length, sizes in pieces:
            with file.open("rb") as stream:
                stream.seek(begin)
                piece = load_pickle(io.BytesIO(stream.read(length)), "cpu")
            if piece.shape != sizes or str(piece.dtype) != f"torch.{dtype}":
                raise ValueError(f"{name[:100]!r} has other rows in {file.name} than {METADATA} says")
            read.append(piece)
        tensors[name] = torch.cat(read) if shape else read[0]
    return tensors


def _is_shape(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) <= 16 and all(type(n) is int and 0 <= n < MAX_SIDE for n in value)
