"""Reading weight files: safetensors headers and shard indexes, without torch and without trusting them."""

from __future__ import annotations

import json
import os
import stat
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

from swiftalign.problems import ModelError

# safetensors' dtype names -> torch's name and bytes per element.
_DTYPES: dict[str, tuple[str, int]] = {
    "F64": ("float64", 8),
    "F32": ("float32", 4),
    "F16": ("float16", 2),
    "BF16": ("bfloat16", 2),
    "F8_E4M3": ("float8_e4m3fn", 1),
    "F8_E5M2": ("float8_e5m2", 1),
    "F8_E8M0": ("float8_e8m0fnu", 1),
    "I64": ("int64", 8),
    "I32": ("int32", 4),
    "I16": ("int16", 2),
    "I8": ("int8", 1),
    "U64": ("uint64", 8),
    "U32": ("uint32", 4),
    "U16": ("uint16", 2),
    "U8": ("uint8", 1),
    "BOOL": ("bool", 1),
}
ITEM_SIZES = dict(_DTYPES.values())

MAX_HEADER_BYTES = 100_000_000  # the format's own limit
MAX_JSON_BYTES = 64_000_000
_MAX_SIDE = 2**48
MAX_NAME = 1000

DAMAGED = "the file is damaged or incomplete: fetch or save it again"


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A tensor without its values; ``dtype`` is torch's name, e.g. ``bfloat16``."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def numel(self) -> int:
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.numel * ITEM_SIZES[self.dtype]


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor in a file, at bytes [begin, end) from the file's start."""

    info: TensorInfo
    file: Path
    begin: int
    end: int


@dataclass(frozen=True)
class Fault:
    """One thing wrong with a file; ``code`` is one of `swiftalign.findings.CODES`."""

    code: str
    message: str


@dataclass
class HeaderScan:
    """What a safetensors header lists, and what is wrong with it."""

    tensors: list[StoredTensor] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    metadata: dict[str, str] = field(default_factory=dict)

    def fail(self, code: str, message: str) -> HeaderScan:
        self.faults.append(Fault(code, message))
        return self


def scan_header(path: Path) -> HeaderScan:
    """Read a safetensors header and hold it against the file's size; tensors that don't fit are left out.

    Reads nothing but the header, in time and memory bounded by the file's size and the format's limit.

    References:
        https://github.com/huggingface/safetensors, "Format".
    """
    scan = HeaderScan()
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            data = file.read(length) if length <= min(size - 8, MAX_HEADER_BYTES) else b""
    except OSError as error:
        return scan.fail("file-unreadable", f"{path}: {error.strerror or error}")
    if size == 0:
        return scan.fail("file-empty", f"{path}: has zero bytes")
    if len(start) < 8 or length > size - 8:
        return scan.fail("file-truncated", f"{path}: its header claims {length} bytes, the file has {size}")
    if length > MAX_HEADER_BYTES:
        return scan.fail("header-corrupt", f"{path}: its header claims {length} bytes, more than the format allows")
    try:
        header = json.loads(data, object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        return scan.fail("header-corrupt", f"{path}: its header is not valid JSON ({error})")
    if not isinstance(header, dict):
        return scan.fail("header-corrupt", f"{path}: its header is no mapping")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        return scan.fail("header-corrupt", f"{path}: its header's __metadata__ is no mapping of strings")
    scan.metadata = metadata
    for name, entry in header.items():
        _place(name, entry, path, size - 8 - length, 8 + length, scan)
    _check_layout(path, size, 8 + length, scan)
    return scan


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("a name is given twice")
    return values


def _place(name: str, entry: Any, path: Path, data_size: int, data_start: int, scan: HeaderScan) -> None:
    try:
        dtype, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        sound = isinstance(entry["shape"], list) and name.isprintable()  # a terminal would obey control characters
        sound = sound and all(type(number) is int and 0 <= number < _MAX_SIDE for number in (*shape, begin, end))
    except (KeyError, TypeError, ValueError):
        sound = False
    if not sound or not isinstance(dtype, str) or dtype not in _DTYPES or len(shape) > 16:
        scan.fail("header-corrupt", f"{path}: the header's entry for {name[:200]!r} is malformed")
        return
    info = TensorInfo(name, shape, _DTYPES[dtype][0])
    if begin > end or end - begin != info.nbytes:
        scan.fail("header-corrupt", f"{path}: {name!r} takes {info.nbytes} bytes, its place has {end - begin}")
    elif end > data_size:
        scan.fail("file-truncated", f"{path}: {name!r} ends at byte {end} of {data_size}")
    else:
        scan.tensors.append(StoredTensor(info, path, data_start + begin, data_start + end))


def _check_layout(path: Path, size: int, data_start: int, scan: HeaderScan) -> None:
    """Tensors must fill the file from end to end, without overlap."""
    position, hole = data_start, ""
    for tensor in sorted(scan.tensors, key=lambda item: (item.begin, item.end)):
        if tensor.begin < position:
            scan.fail("header-overlap", f"{path}: {tensor.info.name!r} overlaps the tensor before it")
            return
        if tensor.begin > position and not hole:
            hole = f"{tensor.begin - position} bytes before {tensor.info.name!r} are no tensor's"
        position = tensor.end
    if position < size and not hole:
        hole = f"its last {size - position} bytes are no tensor's"
    if hole and not scan.faults:
        scan.fail("header-holes", f"{path}: {hole}")


def read_stored(path: Path) -> list[StoredTensor]:
    """The tensors of a safetensors file and where each lies, in the header's order.

    Raises:
        ModelError: anything is wrong with the file.
    """
    scan = scan_header(path)
    if scan.faults:
        raise ModelError(scan.faults[0].message, DAMAGED)
    return scan.tensors


def read_header(path: Path) -> list[TensorInfo]:
    """The tensors that a safetensors file lists, in its own order; raises as `read_stored` does."""
    return [tensor.info for tensor in read_stored(path)]


def read_json(path: Path) -> Any:
    """Parse a JSON file of bounded size.

    Raises:
        ModelError: it is missing, too large or malformed.
    """
    try:
        if stat.S_ISFIFO(path.stat().st_mode):  # reading one would wait for a writer
            raise ModelError(f"{path}: a pipe, not a file", DAMAGED)
        if path.stat().st_size > MAX_JSON_BYTES:
            raise ModelError(f"{path}: larger than {MAX_JSON_BYTES // 1_000_000} MB", DAMAGED)
        return json.loads(path.read_bytes())
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path}: not valid JSON ({error})", DAMAGED) from None


def index_names(index: Any, path: Path) -> dict[str, str]:
    """The weight map of a shard index: tensor -> file.

    Raises:
        ModelError: it has none, or names a file outside its own folder.
    """
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise ModelError(f"{path}: has no weight_map", DAMAGED)
    if not all(name.isprintable() and len(name) <= MAX_NAME for pair in weight_map.items() for name in pair):
        raise ModelError(f"{path}: its weight_map holds what can't be a name", DAMAGED)
    for name in set(weight_map.values()):
        if is_outside(path.parent, name):
            raise ModelError(f"{path}: names {name!r}, which lies outside the folder", "do not use this model")
    return weight_map


def is_outside(folder: Path, name: str) -> bool:
    """Whether a file name from an index leaves its folder: by a path, or by a link that leads elsewhere.

    The hub's cache links each file to a blob of its own, beside the snapshots: such links are followed.
    """
    if not name or "\0" in name or Path(name).name != name or name in (".", "..") or len(os.fsencode(name)) > 255:
        return True
    path = folder / name
    if not path.is_symlink():
        return False
    target = path.resolve()
    return folder.resolve() not in target.parents and target.parent.name != "blobs"


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model folder: those that its index names, or the single one, or none.

    Raises:
        ModelError: the index is malformed, names a file outside the folder, or one that is missing.
    """
    index_path = folder / "model.safetensors.index.json"
    if index_path.exists():
        names = sorted(set(index_names(read_json(index_path), index_path).values()))
        for name in names:
            if not (folder / name).is_file():
                raise ModelError(f"{index_path}: names {name}, which is missing", DAMAGED)
        return [folder / name for name in names]
    single = folder / "model.safetensors"
    return [single] if single.exists() else []


def stored_tensors(folder: Path) -> dict[str, StoredTensor]:
    """Every tensor of a model folder, by name.

    Raises:
        ModelError: a file is damaged, or two files hold the same name.
    """
    found: dict[str, StoredTensor] = {}
    for tensor in _all(weight_files(folder)):
        if tensor.info.name in found:
            raise ModelError(f"{tensor.file}: {tensor.info.name!r} is also in {found[tensor.info.name].file}", DAMAGED)
        found[tensor.info.name] = tensor
    return found


def _all(files: Iterable[Path]) -> Iterable[StoredTensor]:
    for file in files:
        yield from read_stored(file)
