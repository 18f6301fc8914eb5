"""What a checkpoint's values say: finite, non-zero, and moved from where training began.

Bytes are read in blocks, so that memory stays bounded whatever the size of a file. numpy is imported only where every
byte is read.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from swiftalign.checkpoint.expected import Expectation
from swiftalign.checkpoint.weights import Weights
from swiftalign.methods import part_of
from swiftalign.methods.keys import PeftKey
from swiftalign.model.bytes import FLOATS, blocks, digest, is_finite
from swiftalign.model.headers import is_buffer
from swiftalign.model.safetensors import StoredTensor, TensorInfo, read_json
from swiftalign.problems import ModelError, Problem, about

# Tensors up to this size are digested without --deep too.
CHEAP_BYTES = 1 << 20
INITIAL_FILE = "initial.json"


@dataclass
class Values:
    """What is known of the values of one tensor.

    Attributes:
        finite: None where the dtype has no infinities, or the values were not read.
        zero: whether every byte is zero; None where the bytes were not read.
        moved: whether the tensor differs from its initial value; None where that is not known.
        max_change: largest absolute difference from the base model; None without --base.
    """

    finite: bool | None = None
    zero: bool | None = None
    moved: bool | None = None
    max_change: float | None = None


def _start_of(name: str, method: str | None) -> str | None:
    """How a parameter of an adapter begins, as `Part.start` says it; None for any other tensor."""
    part = None if name.endswith(".bias") else part_of(PeftKey.parse(name).factor, method)
    return part.start if part else None


def read_initial(folder: Path) -> dict[str, str]:
    """SHA-256 of each trained tensor before training, which the run folder keeps; empty where there are none."""
    for place in (folder, folder.parent):
        try:
            values = read_json(place / INITIAL_FILE)
        except ModelError:
            continue
        if isinstance(values, dict):
            return {str(name): str(digest) for name, digest in values.items()}
    return {}


def look_cheaply(tensor: StoredTensor, initial: dict[str, str], method: str | None) -> Values:
    """Whether a tensor has moved, as far as that can be known from few bytes."""
    name, size = tensor.info.name, tensor.end - tensor.begin
    if _start_of(name, method) == "zero" and size <= 64 * CHEAP_BYTES:
        zero = all(not block.strip(b"\0") for block in blocks(tensor))
        return Values(zero=zero, moved=not zero)
    if name in initial and size <= CHEAP_BYTES:
        return Values(moved=digest(tensor) != initial[name])
    return Values()


def look_deeply(tensors: list[StoredTensor], initial: dict[str, str], method: str | None) -> dict[str, Values]:
    """Read every byte of every tensor, on two threads (numpy and the hash release the interpreter lock)."""
    from concurrent.futures import ThreadPoolExecutor

    # Both threads take their next tensor from it: a job for each tensor would take longer than small tensors do.
    left = iter(tensors)

    def look_at_rest() -> dict[str, Values]:
        return {tensor.info.name: look(tensor.info, blocks(tensor), initial, method) for tensor in left}

    threads = min(2, os.cpu_count() or 1)
    with ThreadPoolExecutor(max_workers=threads) as pool:
        found = [pool.submit(look_at_rest) for _ in range(threads)]
        values = {name: each for job in found for name, each in job.result().items()}
    return {tensor.info.name: values[tensor.info.name] for tensor in tensors}


def look(info: TensorInfo, data: Iterable[bytes], initial: dict[str, str], method: str | None) -> Values:
    """Read a tensor's bytes, given in blocks."""
    import numpy as np

    known, state, finite, zero = info.name in initial, hashlib.sha256(), True, True
    for part in data:
        block = np.frombuffer(part, dtype=np.uint8)
        zero = zero and not np.bitwise_or.reduce(block)  # faster than any()
        finite = finite and is_finite(block, info.dtype)
        if known:
            state.update(part)
    values = Values(finite if info.dtype in FLOATS else None, zero)
    if known:
        values.moved = state.hexdigest() != initial[info.name]
    elif _start_of(info.name, method) == "zero":
        values.moved = not zero
    return values


def check_values(weights: Weights, values: dict[str, Values], expectation: Expectation) -> Iterator[Problem]:
    """Tensors that are not finite, zero throughout, or as they were before training."""
    found = weights.infos | {name: tensor.info for name, tensor in weights.stored.items()}
    method = expectation.train_type
    infinite = [name for name, value in values.items() if value.finite is False and not is_buffer(name)]
    hint = "use an earlier checkpoint and lower the learning rate: training diverged"
    yield from about("not-finite", infinite, "with NaN or infinity", hint)
    # A bias may be zero; a matrix that did not begin at zero may not.
    matrices = [name for name in values if found[name].numel and len(found[name].shape) > 1 and not is_buffer(name)]
    zero = [name for name in matrices if values[name].zero and _start_of(name, method) != "zero"]
    yield from about("all-zero", zero, "with only zeros")
    moved = {name: v.moved for name, v in values.items() if v.moved is not None and expectation.trains(name)}
    what, effective = "that were compared", list(moved)
    if any(moved.values()):  # an inert parameter changes nothing while its zero partner stays zero
        what = "that make the adapters change their layers"
        effective = [name for name in moved if _start_of(name, method) != "inert"]
    if effective and not any(moved[name] for name in effective):
        message = f"all {len(effective)} tensors {what} still have their initial value"
        yield Problem("nothing-moved", message, "check the learning rate: this checkpoint changes nothing")
    else:
        still = [name for name in moved if not moved[name]]
        hint = "check that gradients reach these tensors, unless the run was very short"
        yield from about("untouched", still, "still with the initial value", hint)
