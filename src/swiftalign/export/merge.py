"""The merged values of the tensors that change: whole modules are cast, adapters are merged by their method."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from swiftalign.export.source import Source
from swiftalign.methods import of_adapter
from swiftalign.methods.merging import SavedAdapter, read_bytes
from swiftalign.model.bytes import to_float
from swiftalign.problems import ExportError


def merged_values(source: Source, dtype: str | None = None) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of every tensor that changes, as peft merges into a base loaded in ``dtype``."""
    for name, tensor in source.whole.items():
        yield name, cast(read_bytes(tensor), tensor.info.dtype, dtype or source.base_tensors[name].info.dtype)
    if source.adapted:
        method, changed = of_adapter(source.adapter), frozenset(source.merged)
        assert method is not None, "verify() refuses adapters of other methods"
        tensors, base = source.tensors, source.base_tensors
        adapter = SavedAdapter(source.checkpoint, source.adapter, tensors, base, source.adapted, changed)
        yield from method.merge(adapter, dtype)


def cast(data: bytes, dtype: str, target: str) -> bytes:
    """Float bytes in another dtype, rounded to the nearest, ties to even, as torch casts.

    >>> cast(bytes.fromhex("0000803f"), "float32", "bfloat16").hex()
    '803f'
    """
    if dtype == target:
        return data
    import numpy as np

    plain = {"float16": np.float16, "float32": np.float32, "float64": np.float64}
    if dtype == "bfloat16":
        values = to_float(data, dtype)
    elif dtype in plain:
        values = np.frombuffer(data, dtype=plain[dtype])
    else:
        raise ExportError(f"can't convert {dtype} weights to {target}")
    if target in plain:
        with np.errstate(over="ignore", invalid="ignore"):
            converted: bytes = values.astype(plain[target]).tobytes()
            return converted
    if target != "bfloat16":
        raise ExportError(f"can't convert weights to {target}")
    return _to_bfloat16(values)


def _to_bfloat16(values: Any) -> bytes:
    """The upper half of each float32 [n], rounded to nearest by its lower half, ties to even."""
    import numpy as np

    with np.errstate(over="ignore", invalid="ignore"):
        bits = values.astype(np.float32).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) >> 16
    # NaN would overflow into infinity: torch has one pattern for all.
    rounded[(bits & 0x7FFFFFFF) > 0x7F800000] = 0x7FC0
    half: bytes = rounded.astype(np.uint16).tobytes()
    return half
