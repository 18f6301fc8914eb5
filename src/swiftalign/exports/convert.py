"""Writing the base's weights in another float dtype."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterable
from pathlib import Path

from swiftalign.model.bytes import FLOATS, blocks, cast, digest, is_finite
from swiftalign.model.safetensors import DTYPE_NAMES, StoredTensor, TensorInfo, read_stored
from swiftalign.problems import ExportError


def header(tensors: Iterable[TensorInfo]) -> bytes:
    """The first bytes of a safetensors file that holds these tensors one after the other: length and JSON header.

    References:
        https://github.com/huggingface/safetensors, "Format".
    """
    table: dict[str, object] = {"__metadata__": {"format": "pt"}}
    position = 0
    for info in tensors:
        span = [position, position + info.nbytes]
        table[info.name] = {"dtype": DTYPE_NAMES[info.dtype], "shape": list(info.shape), "data_offsets": span}
        position += info.nbytes
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def converted(tensor: StoredTensor, dtype: str) -> TensorInfo:
    """A tensor of a weight file in another float dtype; whole numbers, which count or point to something, stay.

    Raises:
        ExportError: the weight is quantized.
    """
    stored = tensor.info.dtype
    if stored.startswith("float8"):
        raise ExportError(f"{tensor.name}: can't convert {stored} weights to {dtype}", "leave out --dtype")
    return TensorInfo(tensor.name, tensor.info.shape, dtype if stored in FLOATS else stored)


def require_finite(name: str, data: bytes, dtype: str) -> None:
    """Refuse values that this dtype can't hold, which became infinite when they were cast to it.

    Raises:
        ExportError: the data hold NaN or infinity.
    """
    import numpy as np

    if not is_finite(np.frombuffer(data, np.uint8), dtype):
        raise ExportError(f"{name} holds numbers too large for {dtype}", "choose bfloat16 or float32 with --dtype")


def convert_file(source: Path, target: Path, dtype: str) -> dict[str, StoredTensor]:
    """Write a weight file in another float dtype, block by block, and read it back.

    Returns:
        The tensors of the file that was written, by name.

    Raises:
        ExportError: a weight is quantized, or too large for this dtype; or the file read back differs.
    """
    stored = sorted(read_stored(source), key=lambda tensor: tensor.begin)
    infos = [converted(tensor, dtype) for tensor in stored]
    digests = []
    with target.open("xb") as writer:
        writer.write(header(infos))
        for tensor, info in zip(stored, infos, strict=True):
            state = hashlib.sha256()
            for block in blocks(tensor):  # 256 KiB: a whole number of elements of every dtype
                data = cast(block, tensor.info.dtype, info.dtype)
                require_finite(tensor.info.name, data, info.dtype)
                writer.write(data)
                state.update(data)
            digests.append(state.hexdigest())
    written = read_stored(target)
    for tensor, expected in zip(written, digests, strict=True):
        if digest(tensor) != expected:
            raise ExportError(f"{tensor.info.name}: was not written as converted", "check the disk")
    return {tensor.name: tensor for tensor in written}
