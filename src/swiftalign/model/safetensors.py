"""Reading weight files: safetensors headers and shard indexes, without torch and without trusting them."""

from __future__ import annotations

import json
import os
import stat
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from swiftalign.files import not_fetched
from swiftalign.problems import ModelError, Problem, size_text

# safetensors' dtype names -> torch's name and bytes per element.
_DTYPES: dict[str, tuple[str, int]] = {
    "F16": ("float16", 2),
    "F32": ("float32", 4),
    "F64": ("float64", 8),
    "I8": ("int8", 1),
    "I16": ("int16", 2),
    "I32": ("int32", 4),
    "I64": ("int64", 8),
    "U8": ("uint8", 1),
    "U16": ("uint16", 2),
    "U32": ("uint32", 4),
    "U64": ("uint64", 8),
    "BF16": ("bfloat16", 2),
    "F8_E4M3": ("float8_e4m3fn", 1),
    "F8_E5M2": ("float8_e5m2", 1),
    "F8_E8M0": ("float8_e8m0fnu", 1),
    "BOOL": ("bool", 1),
}
ITEM_SIZES = dict(_DTYPES.values())
DTYPE_NAMES = {dtype: name for name, (dtype, _) in _DTYPES.items()}  # torch's name -> safetensors' name

MAX_HEADER_BYTES = 100_000_000  # the format's own limit
MAX_JSON_BYTES = 64_000_000
MAX_SIDE = 2**48
MAX_NAME = 1000

DAMAGED = "fetch or save the file again: it is damaged or incomplete"


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
    """A tensor in a file, at bytes [begin, end) from the file's start.

    Attributes:
        info: its name in the model, which `swiftalign.model.stored` finds; until then, its name in the file.
        name: its name in the file.
        makes: the model's tensors that loading makes of it, where it does more than rename it: it may merge the
            matrices of experts, for example. `info` then has the name in the file.
    """

    info: TensorInfo
    file: Path
    begin: int
    end: int
    name: str
    makes: tuple[str, ...] = ()


def scan_header(path: Path) -> tuple[list[StoredTensor], list[Problem]]:
    """Read the header of a safetensors file and check it against the file's size.

    Only the header is read, in time and memory bounded by the file's size and by the format's limit.

    Returns:
        The sound tensors, in the header's order, and what is wrong with the file.

    References:
        https://github.com/huggingface/safetensors, "Format".
    """
    if lacking := unfetched(path):
        return [], [lacking]
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            first = file.read(8)
            length = struct.unpack("<Q", first)[0] if len(first) == 8 else 0
            data = file.read(length) if length <= min(size - 8, MAX_HEADER_BYTES) else b""
        # From bytes, `json` would also take UTF-16, and surrogates, which loaders refuse.
        header = json.loads(data.decode(), object_pairs_hook=_without_duplicates) if data else None
    except OSError as error:
        return [], [_damage("file-unreadable", path, error.strerror or str(error))]
    except (ValueError, RecursionError) as error:
        return [], [_damage("header-corrupt", path, f"its header is not valid JSON ({error})")]
    if size == 0:
        return [], [_damage("file-empty", path, "has zero bytes")]
    if len(first) < 8 or length > size - 8:
        return [], [_damage("file-truncated", path, f"its header claims {length} bytes, but the file has {size}")]
    if length > MAX_HEADER_BYTES:
        return [], [_damage("header-corrupt", path, f"its header claims {length} bytes, more than the format allows")]
    if not isinstance(header, dict):
        return [], [_damage("header-corrupt", path, "its header is not a mapping")]
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        return [], [_damage("header-corrupt", path, "its header's __metadata__ is not a mapping of strings")]
    return _place(path, header, 8 + length, size)


def unfetched(path: Path) -> Problem | None:
    """The problem of a link, a pointer or a missing file whose content must be fetched first; None for all else."""
    found = not_fetched(path)
    return Problem("file-not-fetched", f"{path}: {found[0]}", found[1]) if found else None


def _damage(code: str, path: Path, what: str) -> Problem:
    return Problem(code, f"{path}: {what}", DAMAGED)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("a name occurs twice")
    return values


def _place(path: Path, header: dict[str, Any], start: int, size: int) -> tuple[list[StoredTensor], list[Problem]]:
    """Check that the tensors fill the file's bytes [start, size) from end to end, without overlap."""
    tensors: list[StoredTensor] = []
    found: list[tuple[str, str]] = []  # code, and what is wrong
    for name, entry in header.items():
        try:
            shape, (begin, end) = entry["shape"], entry["data_offsets"]
            # Loaders pass over other keys, but not over all that may be in them.
            sound = len(entry) == 3 and isinstance(shape, list) and len(shape) <= 16 and len(name) <= MAX_NAME
            sound = sound and name.isprintable()  # a terminal would obey control characters
            sound = sound and all(type(number) is int and 0 <= number < MAX_SIDE for number in (*shape, begin, end))
            info = TensorInfo(name, tuple(shape), _DTYPES[entry["dtype"]][0])
        except (KeyError, TypeError, ValueError):
            sound = False
        if not sound:
            found.append(("header-corrupt", f"the header's entry for {name[:200]!r} is malformed"))
        elif end - begin != info.nbytes:
            what = f"{name!r} takes {info.nbytes} bytes, but its data_offsets span {end - begin}"
            found.append(("header-corrupt", what))
        elif start + end > size:
            what = f"{name!r} ends at byte {end}, but the file has {size - start} bytes of data"
            found.append(("file-truncated", what))
        else:
            tensors.append(StoredTensor(info, path, start + begin, start + end, name))
    placed = sorted(tensors, key=lambda tensor: (tensor.begin, tensor.end))
    ends = [start, *(tensor.end for tensor in placed)]
    gaps = [(tensor.begin - end, tensor.info.name) for tensor, end in zip(placed, ends, strict=False)]
    overlapping = next((name for gap, name in gaps if gap < 0), None)
    hole = next((f"{gap} bytes before {name!r}" for gap, name in gaps if gap > 0), None)
    if overlapping is not None:
        found.append(("header-overlap", f"{overlapping!r} overlaps the tensor before it"))
    elif len(tensors) == len(header) and hole:
        found.append(("header-holes", f"{hole} belong to no tensor"))
    elif len(tensors) == len(header) and ends[-1] < size:
        found.append(("header-holes", f"its last {size - ends[-1]} bytes belong to no tensor"))
    return tensors, [_damage(code, path, what) for code, what in found]


def read_stored(path: Path) -> list[StoredTensor]:
    """The tensors of a safetensors file and where each lies, in the header's order.

    Raises:
        ModelError: anything is wrong with the file.
    """
    tensors, problems = scan_header(path)
    _refuse(problems)
    return tensors


def _refuse(problems: Iterable[Problem]) -> None:
    """Raise the first problem, if there is any."""
    for problem in problems:
        raise ModelError(problem.message, problem.hint)


def read_json(path: Path) -> Any:
    """Parse a JSON file of bounded size.

    Raises:
        ModelError: it is missing, too large or malformed.
    """
    try:
        if stat.S_ISFIFO(path.stat().st_mode):  # reading one would wait for a writer
            raise ModelError(f"{path}: a pipe, not a file", DAMAGED)
        if path.stat().st_size > MAX_JSON_BYTES:
            raise ModelError(f"{path}: larger than {size_text(MAX_JSON_BYTES)}", DAMAGED)
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        _refuse([lacking] if (lacking := unfetched(path)) else [])
        if isinstance(error, OSError):
            raise ModelError(f"{path}: {error.strerror or error}") from None
        raise ModelError(f"{path}: not valid JSON ({error})", DAMAGED) from None


def scan_index(path: Path) -> tuple[dict[str, Any], list[Problem]]:
    """Read a shard index.

    Returns:
        The index, and what is wrong with it; if nothing is, its ``weight_map`` names a file of the folder per tensor.
    """
    try:
        index = read_json(path)
    except ModelError as error:
        return {}, [Problem("index-malformed", error.message, error.hint or "")]
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        return {}, [_damage("index-malformed", path, "has no weight_map")]
    if not all(name.isprintable() and len(name) <= MAX_NAME for pair in weight_map.items() for name in pair):
        return {}, [_damage("index-malformed", path, "its weight_map holds an invalid name")]
    outside = sorted(filter(is_outside, set(weight_map.values())))
    messages = (f"{path}: names {name!r}, which lies outside the folder" for name in outside)
    return index, [Problem("index-outside", message, "do not use this model") for message in messages]


def is_outside(name: str) -> bool:
    """Whether a file name that a file gives is more than a name in the same folder, such as an absolute path or "../x".

    A link of that name is followed, wherever it leads: it does not come from the file, but from who laid it there, such
    as the hub's cache, DVC or git-annex.
    """
    return not name or "\0" in name or Path(name).name != name or name == ".." or len(os.fsencode(name)) > 255


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model folder: those that its index names, or the single one, or none.

    Raises:
        ModelError: the index is malformed, names a file outside the folder, or one that is missing.
    """
    index_path = folder / "model.safetensors.index.json"
    if os.path.lexists(index_path):
        index, problems = scan_index(index_path)
        _refuse(problems)
        files = [folder / name for name in sorted(set(index["weight_map"].values()))]
        missing = (file for file in files if not file.is_file())
        _refuse(
            unfetched(file) or _damage("index-shard-missing", index_path, f"names {file.name}, which is missing")
            for file in missing
        )
        return files
    single = folder / "model.safetensors"
    return [single] if os.path.lexists(single) or unfetched(single) else []
