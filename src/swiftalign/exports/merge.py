"""The merged values of the tensors that change: whole modules are cast, and adapters are merged by their method."""

from __future__ import annotations

from collections.abc import Iterator

from swiftalign.exports.source import Source
from swiftalign.methods import of_adapter
from swiftalign.methods.merging import SavedAdapter
from swiftalign.model.bytes import cast, read_bytes


def merged_values(source: Source, dtype: str | None = None) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of every tensor that changes, as peft merges into a base model loaded in ``dtype``."""
    for name, tensor in source.whole.items():
        yield name, cast(read_bytes(tensor), tensor.info.dtype, dtype or source.base_tensors[name].info.dtype)
    if source.adapted:
        method = of_adapter(source.adapter)
        assert method is not None, "verify() refuses adapters of other methods"
        tensors, base = source.tensors, source.base_tensors
        adapter = SavedAdapter(source.checkpoint, source.adapter, tensors, base, source.adapted, source.merged)
        yield from method.merge(adapter, dtype)
