"""Comparing a checkpoint with the base model: whole tensors byte for byte, adapters by the layers that they fit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from swiftalign.checkpoint.expected import Expectation
from swiftalign.checkpoint.values import Values
from swiftalign.checkpoint.weights import Weights
from swiftalign.methods import part_of
from swiftalign.methods.keys import PeftKey
from swiftalign.model.bytes import largest_change
from swiftalign.model.safetensors import StoredTensor, stored_tensors
from swiftalign.problems import ModelError, Problem, counted
from swiftalign.problems import names as some

_OTHER_BASE = "is this the base it was trained from?"


def read_base(folder: Path) -> dict[str, StoredTensor]:
    """The tensors of the base model.

    Raises:
        ModelError: the folder holds no sound safetensors files.
    """
    tensors = stored_tensors(folder) if folder.is_dir() else {}
    if not tensors:
        raise ModelError(f"--base {folder}: not a folder with safetensors files", "name the base model's folder")
    return tensors


def compared_in_words(weights: Weights, expectation: Expectation, base: Path) -> str:
    """How `compare_with_base` compares, for the report, where that is not simply by the plan's whole tensors."""
    if weights.kind != "adapter" and expectation.plan is None and not weights.damaged:
        return f"; without a plan, only the aligner may differ from {base}"
    layers = {key.layer for key in map(PeftKey.parse, weights.stored) if key.factor}
    if not layers or weights.damaged:
        return ""
    return f"; {counted(len(layers), 'adapted layer')} held against {base} by name and shape"


def compare_with_base(
    weights: Weights, expectation: Expectation, base: dict[str, StoredTensor], values: dict[str, Values]
) -> Iterator[Problem]:
    """What differs must be what the plan trains, and what it trains must differ; fills `Values.max_change`.

    Raises:
        ModelError: the checkpoint is a pickle.
    """
    if not weights.stored:
        raise ModelError(f"{weights.files[0]}: only safetensors can be compared with --base", "leave --base out")
    keys = {name: PeftKey.parse(name) for name in weights.stored}
    yield from _check_layers(weights, keys, base)
    # Tensors of the checkpoint that the base holds too, under the same name or without the adapter's prefix.
    pairs = {name: base[key.base] for name, key in keys.items() if key.base in base and not key.factor}
    shapes = [name for name, own in pairs.items() if weights.stored[name].info.shape != own.info.shape]
    if shapes:
        message = f"{counted(len(shapes), 'tensor')} of another shape in the base: {some(shapes)}"
        yield Problem("base-mismatch", message, _OTHER_BASE)
    if weights.kind == "model":
        tied = {"lm_head.weight"} & expectation.optional  # savers drop a tied head that the base may store
        gone = [name for name in base if name not in weights.stored and name not in tied]
        if gone:
            message = f"the base holds {counted(len(gone), 'tensor')} that are not here: {some(gone)}"
            yield Problem("base-mismatch", message, _OTHER_BASE)
    changes: dict[str, float] = {}
    for name, own in pairs.items():
        mine = weights.stored[name]
        # peft saves frozen weights beside their adapters in the dtype in which they were loaded.
        cast = keys[name].part.startswith("base_layer.") and mine.info.dtype != own.info.dtype
        if mine.info.shape == own.info.shape and not cast:
            changes[name] = largest_change(mine, own)
            values.setdefault(name, Values()).max_change = changes[name]
    complete = len(pairs) == len(weights.stored)
    yield from _check_changes(changes, expectation, is_adapter=weights.kind == "adapter", complete=complete)


def _check_layers(weights: Weights, keys: dict[str, PeftKey], base: dict[str, StoredTensor]) -> Iterator[Problem]:
    """Adapters whose layer the base does not have, or has in another shape."""
    absent, others = [], []
    modules = {name.rpartition(".")[0] for name in base}
    for name, key in keys.items():
        if not key.factor:
            continue
        layer, shape = key.layer.removesuffix(".base_layer"), weights.stored[name].info.shape
        weight = base.get(f"{layer}.weight")
        if layer not in modules:
            absent.append(layer)
        elif weight is not None and not ((part := part_of(key.factor)) is None or part.fits(shape, weight.info.shape)):
            others.append(f"{name} is {list(shape)}, its layer {list(weight.info.shape)}")
    if absent:
        layers = list(dict.fromkeys(absent))
        message = f"{counted(len(layers), 'adapted layer')} of which the base holds nothing: {some(layers)}"
        yield Problem("base-mismatch", message, _OTHER_BASE)
    if others:
        message = f"{counted(len(others), 'adapter tensor')} for layers of another shape: {some(others, 2)}"
        yield Problem("base-mismatch", message, _OTHER_BASE)


def _check_changes(
    changes: dict[str, float], expectation: Expectation, *, is_adapter: bool, complete: bool
) -> Iterator[Problem]:
    """Only what the plan trains may differ from the base.

    Args:
        changes: largest difference from the base, by name of the tensor.
        complete: whether the base holds every tensor of the checkpoint, so that all are in `changes`.
    """
    plan = expectation.plan
    foreign = [name for name, change in changes.items() if change and not expectation.trains(name)]
    if is_adapter and plan is None:
        foreign = []  # what an adapter holds whole was trained, as far as anything tells
    if foreign and plan is not None:
        message = f"{counted(len(foreign), 'tensor')} outside the plan not as in the base: {some(foreign)}"
        yield Problem("changed-outside-plan", message, "these ought to be the base's own to the byte")
    elif foreign:
        message = f"{counted(len(foreign), 'tensor')} outside the aligner not as in the base: {some(foreign)}"
        hint = "no plan says what was trained, so only the aligner may differ: give the config of the run with --config"
        yield Problem("changed-outside-plan", message, hint)
    trained = [name for name in changes if expectation.trains(name)]
    still = [name for name in trained if not changes[name]]
    # Adapters have nothing to be compared with, and without a plan it may be another part that was trained.
    if trained and len(still) == len(trained) and complete and (plan is not None or not foreign):
        yield Problem("nothing-moved", f"all {len(trained)} trained tensors equal the base", "this changes nothing")
    elif still and plan:  # without one, nothing says that all of the aligner was to change
        message = f"{counted(len(still), 'trained tensor')} equal to the base: {some(still)}"
        yield Problem("rounded-to-base", message, "changes smaller than the dtype's step are rounded away")
