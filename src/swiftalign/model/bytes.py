"""Tensors as bytes: blocks, digests, finite values, and the largest difference of two."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from swiftalign.model.safetensors import ITEM_SIZES, StoredTensor
from swiftalign.problems import ExportError

if TYPE_CHECKING:
    import torch

BLOCK_BYTES = 1 << 20  # fits a core's cache: each block is gone over more than once


# Width of a float's bit pattern, the pattern of +infinity, and that of -infinity.
_PATTERNS = {"float16": (2, 0x7C00, 0xFC00), "bfloat16": (2, 0x7F80, 0xFF80), "float32": (4, 0x7F800000, 0xFF800000)}


def blocks(tensor: StoredTensor) -> Iterator[bytes]:
    """The tensor's bytes, in order."""
    with tensor.file.open("rb") as file:
        file.seek(tensor.begin)
        left = tensor.end - tensor.begin
        while left:
            block = file.read(min(left, BLOCK_BYTES))
            if not block:
                return
            left -= len(block)
            yield block


def digest(tensor: StoredTensor) -> str:
    """SHA-256 of the tensor's bytes."""
    state = hashlib.sha256()
    for block in blocks(tensor):
        state.update(block)
    return state.hexdigest()


def is_finite(block: Any, dtype: str) -> bool:
    """Whether a block of bytes [n] of this dtype holds neither NaN nor infinity.

    A float with all exponent bits set is no number: as a signed integer it is at least +infinity's pattern where it is
    positive; as an unsigned one at least -infinity's where it is negative. Two maxima need no temporary array.
    """
    import numpy as np

    if dtype == "float64":
        return bool(np.isfinite(block.view(np.float64)).all())
    pattern = _PATTERNS.get(dtype)
    if pattern is None:
        return True
    width, positive, negative = pattern
    usable = block[: len(block) // width * width]
    signed, unsigned = (np.int16, np.uint16) if width == 2 else (np.int32, np.uint32)
    return not usable.size or bool(usable.view(signed).max() < positive and usable.view(unsigned).max() < negative)


def to_float(data: bytes, dtype: str) -> Any:
    """Bytes of a float dtype as float32 [n]."""
    import numpy as np

    if dtype == "bfloat16":
        return (np.frombuffer(data, dtype=np.uint16).astype(np.uint32) << 16).view(np.float32)
    kinds = {"float16": np.float16, "float32": np.float32, "float64": np.float64}
    return np.frombuffer(data, dtype=kinds[dtype]).astype(np.float32)


def largest_change(tensor: StoredTensor, base: StoredTensor) -> float:
    """max |tensor - base| in float32, for two tensors of one shape; 0 where every byte is the same."""
    import numpy as np

    same_dtype = tensor.info.dtype == base.info.dtype
    floats = {"float16", "bfloat16", "float32", "float64"}
    largest = 0.0
    for mine, theirs in zip(_elements(tensor), _elements(base), strict=True):
        if same_dtype and mine == theirs:
            continue
        if not {tensor.info.dtype, base.info.dtype} <= floats:
            return float("inf")
        with np.errstate(all="ignore"):
            change = np.abs(to_float(mine, tensor.info.dtype) - to_float(theirs, base.info.dtype)).max()
        # NaN, and -0.0 against 0.0, are changes too.
        least = float(np.finfo(np.float32).tiny) if same_dtype else 0.0
        largest = max(largest, least, float("inf") if np.isnan(change) else float(change))
    return largest


def _elements(tensor: StoredTensor, count: int = 1 << 20) -> Iterator[bytes]:
    """The tensor's bytes in pieces of ``count`` elements."""
    size = count * ITEM_SIZES[tensor.info.dtype]
    with tensor.file.open("rb") as file:
        file.seek(tensor.begin)
        for begin in range(tensor.begin, tensor.end, size):
            yield file.read(min(size, tensor.end - begin))


def read_bytes(tensor: StoredTensor) -> bytes:
    """All bytes of a tensor.

    Raises:
        ExportError: the file ends before the tensor does.
    """
    with tensor.file.open("rb") as file:
        file.seek(tensor.begin)
        data = file.read(tensor.end - tensor.begin)
    if len(data) != tensor.end - tensor.begin:
        raise ExportError(f"{tensor.file}: the file ends inside {tensor.info.name!r}")
    return data


def cast(data: bytes, dtype: str, target: str) -> bytes:
    """Float bytes in another dtype, rounded to the nearest, ties to even, as torch casts.

    >>> cast(bytes.fromhex("0000803f"), "float32", "bfloat16").hex()
    '803f'

    Raises:
        ExportError: one of the dtypes is not float16, bfloat16, float32 or float64.
    """
    if dtype == target:
        return data
    if not {dtype, target} <= {"float16", "bfloat16", "float32", "float64"}:
        raise ExportError(f"can't convert {dtype} weights to {target}")
    import numpy as np

    with np.errstate(over="ignore", invalid="ignore"):
        values = to_float(data, dtype)
        if target != "bfloat16":
            converted: bytes = values.astype(target).tobytes()
            return converted
    # bfloat16 is the upper half of float32, rounded by the lower half.
    bits = values.view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) >> 16
    # NaN would overflow into infinity; torch writes this one pattern for every NaN.
    rounded[(bits & 0x7FFFFFFF) > 0x7F800000] = 0x7FC0
    half: bytes = rounded.astype(np.uint16).tobytes()
    return half


def load(tensor: StoredTensor, dtype: str | None = None) -> torch.Tensor:
    """A stored tensor as a torch tensor, cast to ``dtype`` where one is given."""
    import torch

    data = bytearray(read_bytes(tensor))
    stored: torch.dtype = getattr(torch, tensor.info.dtype)
    values = torch.frombuffer(data, dtype=stored).reshape(tensor.info.shape) if data else torch.empty(0, dtype=stored)
    return values if dtype is None else values.to(getattr(torch, dtype))
