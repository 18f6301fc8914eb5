"""The bytes of tensors: blocks, digests, finite values, and the largest difference between two tensors."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import islice, zip_longest
from typing import TYPE_CHECKING, Any

from swiftalign.model.safetensors import ITEM_SIZES, StoredTensor
from swiftalign.problems import ExportError

if TYPE_CHECKING:
    import torch

BLOCK_BYTES = 1 << 18  # two fit into a core's cache, and each is read more than once
FLOATS = frozenset({"float16", "bfloat16", "float32", "float64"})

# Bytes per element, and the bit patterns of +infinity and -infinity.
_PATTERNS = {"float16": (2, 0x7C00, 0xFC00), "bfloat16": (2, 0x7F80, 0xFF80), "float32": (4, 0x7F800000, 0xFF800000)}


def blocks(tensor: StoredTensor, size: int = BLOCK_BYTES) -> Iterator[bytes]:
    """The tensor's bytes in order, in blocks of ``size`` bytes; the last block may be shorter."""
    with tensor.file.open("rb", buffering=0) as file:  # a buffer would move what is read by some bytes, and copy slower
        file.seek(tensor.begin)
        left = tensor.end - tensor.begin
        while left and (block := file.read(min(left, size))):
            left -= len(block)
            yield block


def digest(tensor: StoredTensor) -> str:
    """SHA-256 of the tensor's bytes."""
    state = hashlib.sha256()
    for block in blocks(tensor):
        state.update(block)
    return state.hexdigest()


def holds(tensor: StoredTensor, data: bytes) -> bool:
    """Whether the tensor's bytes are these; reading ends at the first block that differs."""
    places = range(0, len(data), BLOCK_BYTES)
    pairs = zip_longest(blocks(tensor), (data[place : place + BLOCK_BYTES] for place in places))
    return all(block == part for block, part in pairs)


def is_finite(block: Any, dtype: str) -> bool:
    """Whether a block of bytes [n] of this dtype holds neither NaN nor infinity.

    In a float that is NaN or infinite, all exponent bits are set. The highest of them is zero in every number between
    -2 and 2, so that one pass settles most blocks of weights. For others: as a signed integer, a positive one that is
    not finite is at least the pattern of +infinity; as an unsigned integer, a negative one is at least that of
    -infinity. None of it needs a temporary array.
    """
    import numpy as np

    if dtype == "float64":
        return bool(np.isfinite(block.view(np.float64)).all())
    if dtype not in _PATTERNS:
        return True
    width, positive, negative = _PATTERNS[dtype]
    bits = block[: len(block) // width * width].view(f"u{width}")
    if not int(np.bitwise_or.reduce(bits)) >> (8 * width - 2) & 1:
        return True
    return bool(bits.view(f"i{width}").max() < positive and bits.max() < negative)


def to_float(data: bytes, dtype: str) -> Any:
    """Bytes of a float dtype as float32 [n]."""
    import numpy as np

    if dtype == "bfloat16":
        return (np.frombuffer(data, dtype=np.uint16).astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(data, dtype=dtype).astype(np.float32)


def differ(one: StoredTensor, other: StoredTensor, size: int = BLOCK_BYTES, *, deep: bool = True) -> bool:
    """Whether two tensors differ in shape, dtype or bytes; without ``deep``, only the first ``size`` bytes are read."""
    if (one.info.shape, one.info.dtype) != (other.info.shape, other.info.dtype):
        return True
    pairs = zip(blocks(one, size), blocks(other, size), strict=True)
    return any(mine != theirs for mine, theirs in (pairs if deep else islice(pairs, 1)))


def largest_change(tensor: StoredTensor, base: StoredTensor) -> float:
    """max |tensor - base| in float32, for two tensors of the same shape; 0 if all bytes are equal.

    A base of another dtype is cast to the tensor's first, as it was when it was loaded for training.
    """
    import numpy as np

    dtypes, largest = (tensor.info.dtype, base.info.dtype), 0.0
    least = float(np.finfo(np.float32).tiny)  # NaN, and -0.0 in place of 0.0, are changes too
    pieces = (blocks(each, BLOCK_BYTES * ITEM_SIZES[each.info.dtype]) for each in (tensor, base))
    floats = FLOATS.issuperset(dtypes)
    comparable = floats or dtypes[0] == dtypes[1]
    for mine, theirs in zip(*pieces, strict=True):
        loaded = cast(theirs, dtypes[1], dtypes[0]) if floats else theirs
        if comparable and mine == loaded:
            continue
        if not floats:
            return float("inf")
        with np.errstate(all="ignore"):
            change = np.abs(to_float(mine, dtypes[0]) - to_float(loaded, dtypes[0])).max()
        largest = max(largest, least, float("inf") if np.isnan(change) else float(change))
    return largest


def read_bytes(tensor: StoredTensor) -> bytes:
    """All bytes of a tensor.

    Raises:
        ExportError: the file ends before the tensor does.
    """
    data = b"".join(blocks(tensor, tensor.end - tensor.begin))
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
    if not {dtype, target} <= FLOATS:
        raise ExportError(f"can't convert {dtype} weights to {target}")
    import numpy as np

    with np.errstate(over="ignore", invalid="ignore"):
        values = to_float(data, dtype)
        if target != "bfloat16":
            return bytes(values.astype(target).tobytes())
    # bfloat16 is the upper half of float32, rounded by the lower half.
    bits = values.view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) >> 16
    # NaN would overflow into infinity; torch writes this one pattern for every NaN.
    rounded[(bits & 0x7FFFFFFF) > 0x7F800000] = 0x7FC0
    return bytes(rounded.astype(np.uint16).tobytes())


def load(tensor: StoredTensor, dtype: str | None = None) -> torch.Tensor:
    """A stored tensor as a torch tensor, cast to ``dtype`` where one is given."""
    import torch

    data = bytearray(read_bytes(tensor))
    stored = getattr(torch, tensor.info.dtype)
    values = torch.frombuffer(data, dtype=stored).reshape(tensor.info.shape) if data else torch.empty(0, dtype=stored)
    return values if dtype is None else values.to(getattr(torch, dtype))
