"""Comparing a checkpoint with the base model, byte for byte."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from swiftalign.checkpoint import StoredTensor, stored_tensors
from swiftalign.errors import ModelError
from swiftalign.findings import Finding, counted
from swiftalign.findings import names as some
from swiftalign.verify.expected import ADAPTER_PREFIX, Expectation
from swiftalign.verify.files import Weights
from swiftalign.verify.values import Values, largest_change


def compare_with_base(
    weights: Weights, expectation: Expectation, base: Path, values: dict[str, Values]
) -> list[Finding]:
    """What differs must be what the plan trains, and what it trains must differ; fills `Values.max_change`.

    Raises:
        ModelError: the base is no folder of safetensors.
    """
    if not weights.stored:
        raise ModelError(f"{weights.files[0]}: only safetensors can be compared with --base", "leave --base out")
    own = stored_tensors(base) if base.is_dir() else {}
    if not own:
        raise ModelError(f"--base {base}: not a folder with safetensors files", "name the base model's folder")
    pairs = dict(_pairs(weights, own))
    return [*_strangers(weights, own, pairs), *_differences(weights, pairs, expectation, values)]


def _pairs(weights: Weights, own: dict[str, StoredTensor]) -> Iterator[tuple[str, StoredTensor]]:
    """Tensors of the checkpoint and of the base under the same name; an adapter's whole modules with their prefix."""
    for name in weights.stored:
        bare = name.removeprefix(ADAPTER_PREFIX)
        if bare in own:
            yield name, own[bare]


def _strangers(weights: Weights, own: dict[str, StoredTensor], pairs: dict[str, StoredTensor]) -> Iterator[Finding]:
    shapes = [n for n, base in pairs.items() if weights.stored[n].info.shape != base.info.shape]
    if shapes:
        message = f"{counted(len(shapes), 'tensor')} of another shape in the base: {some(shapes)}"
        yield Finding("base-mismatch", message, "is this the base it was trained from?")
    if weights.kind == "model":
        gone = [name for name in own if name not in weights.stored]
        if gone:
            message = f"the base holds {counted(len(gone), 'tensor')} that are not here: {some(gone)}"
            yield Finding("base-mismatch", message, "is this the base it was trained from?")


def _differences(
    weights: Weights, pairs: dict[str, StoredTensor], expectation: Expectation, values: dict[str, Values]
) -> Iterator[Finding]:
    changes: dict[str, float] = {}
    for name, base in pairs.items():
        mine = weights.stored[name]
        if mine.info.shape == base.info.shape:
            changes[name] = largest_change(mine, base)
            values.setdefault(name, Values()).max_change = changes[name]
    foreign = [name for name, change in changes.items() if change and not expectation.trains(name)]
    if foreign:
        what = "plan" if expectation.plan else "aligner"
        message = f"{counted(len(foreign), 'tensor')} outside the {what} differ from the base: {some(foreign)}"
        yield Finding("changed-outside-plan", message, "these ought to be the base's own to the byte")
    trained = [name for name in changes if expectation.trains(name)]
    still = [name for name in trained if not changes[name]]
    if trained and len(still) == len(trained):
        yield Finding("nothing-moved", f"all {len(trained)} trained tensors equal the base", "this changes nothing")
    elif still and expectation.plan:  # without one, nothing says that all of the aligner was to change
        message = f"{counted(len(still), 'trained tensor')} equal to the base: {some(still)}"
        yield Finding("rounded-to-base", message, "changes smaller than the dtype's step are rounded away")
