"""Reading weight files: safetensors headers and shard indexes, without torch and without trusting them."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swiftalign.errors import ModelError

# Bytes per element, by the dtype names of the safetensors format.
_SIZES = {
    "F64": 8,
    "I64": 8,
    "U64": 8,
    "F32": 4,
    "I32": 4,
    "U32": 4,
    "F16": 2,
    "BF16": 2,
    "I16": 2,
    "U16": 2,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "F8_E8M0": 1,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
}
# torch's names of the dtypes that weights have.
DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}

MAX_HEADER_BYTES = 100_000_000  # the format's own limit
MAX_JSON_BYTES = 64_000_000


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A tensor without its values.

    Attributes:
        dtype: torch's name, e.g. ``bfloat16``; safetensors' own name where torch has no weights of that kind.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def numel(self) -> int:
        count = 1
        for side in self.shape:
            count *= side
        return count

    @property
    def nbytes(self) -> int:
        return self.numel * {"float64": 8, "float32": 4, "int64": 8, "int32": 4}.get(
            self.dtype, _SIZES.get(self.dtype, 2)
        )


def read_header(path: Path) -> list[TensorInfo]:
    """The tensors that a safetensors file lists, in its own order.

    Raises:
        ModelError: the file is missing, truncated, or its header is malformed or disagrees with the file's size.

    References:
        https://github.com/huggingface/safetensors, "Format".
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
            if len(start) < 8:
                raise ModelError(f"{path}: too short to be a safetensors file ({size} bytes)", _DAMAGED)
            (length,) = struct.unpack("<Q", start)
            if length > min(size - 8, MAX_HEADER_BYTES):
                raise ModelError(f"{path}: its header claims {length} bytes, the file has {size}", _DAMAGED)
            data = file.read(length)
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror or error}") from None
    header = _parse_json(data, path)
    if not isinstance(header, dict):
        raise ModelError(f"{path}: its header is no mapping", _DAMAGED)
    header.pop("__metadata__", None)
    return [_tensor_info(name, entry, size - 8 - length, path) for name, entry in header.items()]


_DAMAGED = "the file is damaged or incomplete: fetch it again"


def _tensor_info(name: str, entry: Any, data_size: int, path: Path) -> TensorInfo:
    try:
        dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        sound = all(type(side) is int and side >= 0 for side in shape) and type(begin) is int and type(end) is int
    except (KeyError, TypeError, ValueError):
        sound = False
    if not sound or dtype not in _SIZES:
        raise ModelError(f"{path}: the header's entry for {name!r} is malformed", _DAMAGED)
    info = TensorInfo(name, tuple(shape), DTYPES.get(dtype, dtype))
    if not 0 <= begin <= end <= data_size or end - begin != info.numel * _SIZES[dtype]:
        raise ModelError(
            f"{path}: {name!r} lies at bytes {begin}..{end} of {data_size}: truncated or corrupt", _DAMAGED
        )
    return info


def read_json(path: Path) -> Any:
    """Parse a JSON file of bounded size.

    Raises:
        ModelError: it is missing, too large or malformed.
    """
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise ModelError(f"{path}: larger than {MAX_JSON_BYTES // 1_000_000} MB", _DAMAGED)
        return _parse_json(path.read_bytes(), path)
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror or error}") from None


def _parse_json(data: bytes, path: Path) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path}: not valid JSON ({error})", _DAMAGED) from None


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model folder: those that its index names, or the single one, or none.

    Raises:
        ModelError: the index is malformed, names a file outside the folder, or one that is missing.
    """
    index_path = folder / "model.safetensors.index.json"
    if index_path.exists():
        index = read_json(index_path)
        weight_map = index.get("weight_map") if isinstance(index, dict) else None
        if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
            raise ModelError(f"{index_path}: has no weight_map", _DAMAGED)
        names = sorted(set(weight_map.values()))
        for name in names:
            if Path(name).name != name or name in (".", ".."):
                raise ModelError(
                    f"{index_path}: names {name!r}, which lies outside the folder", "do not use this model"
                )
            if not (folder / name).is_file():
                raise ModelError(f"{index_path}: names {name}, which is missing", _DAMAGED)
        return [folder / name for name in names]
    single = folder / "model.safetensors"
    return [single] if single.exists() else []
