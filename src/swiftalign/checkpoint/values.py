"""Looking at a checkpoint's values: finite, non-zero, moved from where training began, different from the base.

Works on raw bytes in blocks, so that memory stays bounded whatever the size of a file. numpy loads only where every
byte is read.
"""

from __future__ import annotations

import hashlib
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swiftalign.model.bytes import _PATTERNS, BLOCK_BYTES, blocks, digest, is_finite
from swiftalign.model.safetensors import StoredTensor, read_json
from swiftalign.problems import ModelError

# Tensors up to this size are digested without --deep too.
CHEAP_BYTES = 1 << 20
INITIAL_FILE = "initial.json"

# Parameters that begin at zero, so that an untrained adapter changes nothing.
ZERO_AT_START = (".lora_B.weight", ".lora_B", ".lora_E", ".lora_embedding_A", ".boft_R", ".fourierft_spectrum")


@dataclass
class Values:
    """What a look at one tensor's bytes found.

    Attributes:
        finite: None where the dtype has no infinities, or it was not looked at.
        zero: whether every byte is zero; None where it was not looked at.
        moved: whether it differs from its initial value; None where that is not known.
    """

    finite: bool | None = None
    zero: bool | None = None
    moved: bool | None = None
    max_change: float | None = None


def starts_at_zero(name: str, method: str | None) -> bool:
    """Whether a parameter of an adapter begins at zero; AdaLoRA's B does not, its E does."""
    if method == "adalora":
        return name.endswith(".lora_E")
    return name.endswith(ZERO_AT_START)


def is_inert(name: str, method: str | None) -> bool:
    """Whether a parameter changes nothing while its zero partner stays zero."""
    return ".lora_A" in name or ".lora_embedding_B" in name or (method == "adalora" and ".lora_B" in name)


def read_initial(folder: Path) -> dict[str, str]:
    """The digests of what trained, before it did, which the run folder keeps; empty where there are none."""
    for place in (folder, folder.parent):
        try:
            values = read_json(place / INITIAL_FILE)
        except ModelError:
            continue
        if isinstance(values, dict):
            return {str(name): str(digest) for name, digest in values.items()}
    return {}


def look_cheaply(tensor: StoredTensor, initial: dict[str, str], method: str | None) -> Values:
    """Whether a tensor has moved, as far as that can be told from few bytes."""
    name, size = tensor.info.name, tensor.end - tensor.begin
    if starts_at_zero(name, method) and size <= 64 * CHEAP_BYTES:
        zero = all(not block.strip(b"\0") for block in blocks(tensor))
        return Values(zero=zero, moved=not zero)
    if name in initial and size <= CHEAP_BYTES:
        return Values(moved=digest(tensor) != initial[name])
    return Values()


def look_deeply(tensors: list[StoredTensor], initial: dict[str, str], method: str | None) -> dict[str, Values]:
    """Every byte of every tensor, on two threads (numpy and the hash release the interpreter lock)."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(max_workers=min(2, os.cpu_count() or 1)) as pool:
        found = pool.map(lambda tensor: _look(tensor, initial, method), tensors)
        return {tensor.info.name: values for tensor, values in zip(tensors, found, strict=True)}


_local = threading.local()


def _buffer() -> Any:
    """Each thread's own block: a new one for each tensor would be cleared by the system each time."""
    import numpy as np

    if not hasattr(_local, "buffer"):
        _local.buffer = np.empty(BLOCK_BYTES, dtype=np.uint8)
    return _local.buffer


def _look(tensor: StoredTensor, initial: dict[str, str], method: str | None) -> Values:
    name = tensor.info.name
    state = hashlib.sha256() if name in initial else None
    pattern = _PATTERNS.get(tensor.info.dtype)
    finite, zero = True, True
    buffer = _buffer()
    with tensor.file.open("rb", buffering=0) as file:
        position = tensor.begin
        while position < tensor.end:
            view = buffer.data[: min(tensor.end - position, BLOCK_BYTES)]
            count = os.preadv(file.fileno(), [view], position)
            if count <= 0:
                break
            block = buffer[:count]
            zero = zero and not block.any()
            finite = finite and is_finite(block, tensor.info.dtype)
            if state is not None:
                state.update(block.data)
            position += count
    moved = None if state is None else state.hexdigest() != initial[name]
    if moved is None and starts_at_zero(name, method):
        moved = not zero
    return Values(finite if pattern or tensor.info.dtype == "float64" else None, zero, moved)


def look_at_pickle(tensors: dict[str, Any], initial: dict[str, str], method: str | None) -> dict[str, Values]:
    """What `look_deeply` finds, for the tensors of a torch file."""
    import torch

    found = {}
    for name, tensor in tensors.items():
        if hasattr(tensor, "shape") and hasattr(tensor, "dtype"):
            data = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
            zero = not data.any()
            moved = hashlib.sha256(data).hexdigest() != initial[name] if name in initial else None
            moved = not zero if moved is None and starts_at_zero(name, method) else moved
            found[name] = Values(is_finite(data, str(tensor.dtype).removeprefix("torch.")), zero, moved)
    return found
