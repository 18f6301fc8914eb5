"""Writing the base's weights in another float dtype."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterable
from pathlib import Path

from swiftalign.model.bytes import blocks, cast, digest, is_finite
from swiftalign.model.safetensors import TensorInfo, read_stored
from swiftalign.problems import ExportError

_NAMES = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}


def header(tensors: Iterable[TensorInfo]) -> bytes:
    """The first bytes of a safetensors file that holds these tensors one after the other: length and JSON header.

    References:
        https://github.com/huggingface/safetensors, "Format".
    """
    table: dict[str, object] = {"__metadata__": {"format": "pt"}}
    position = 0
    for info in tensors:
        if info.dtype not in _NAMES:
            raise ExportError(f"{info.name}: can't write {info.dtype} weights")
        span = [position, position + info.nbytes]
        table[info.name] = {"dtype": _NAMES[info.dtype], "shape": list(info.shape), "data_offsets": span}
        position += info.nbytes
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def convert_file(source: Path, target: Path, dtype: str) -> None:
    """Write a weight file in another float dtype, block by block, and read it back.

    Raises:
        ExportError: a weight is not of a float dtype, or is too large for this one; or the file read back differs.
    """
    import numpy as np

    stored = sorted(read_stored(source), key=lambda tensor: tensor.begin)
    digests = []
    with target.open("xb") as writer:
        writer.write(header(TensorInfo(tensor.info.name, tensor.info.shape, dtype) for tensor in stored))
        for tensor in stored:
            written = hashlib.sha256()
            for block in blocks(tensor):  # 1 MiB: a whole number of elements of every dtype
                data = cast(block, tensor.info.dtype, dtype)
                if not is_finite(np.frombuffer(data, np.uint8), dtype):
                    name = tensor.info.name
                    raise ExportError(f"{name} holds numbers too large for {dtype}", "choose bfloat16 or float32")
                writer.write(data)
                written.update(data)
            digests.append(written.hexdigest())
    for tensor, expected in zip(read_stored(target), digests, strict=True):
        if digest(tensor) != expected:
            raise ExportError(f"{tensor.info.name}: was not written as converted", "check the disk")
