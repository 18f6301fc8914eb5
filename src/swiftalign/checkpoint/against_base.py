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
from swiftalign.model.safetensors import StoredTensor
from swiftalign.problems import ModelError, Problem, about, counted

_OTHER_BASE = "check that this is the base model of the training"


def compared_in_words(weights: Weights, expectation: Expectation, base: Path) -> str:
    """How `compare_with_base` compares, for the report, where that is not simply by the plan's whole tensors."""
    if weights.kind != "adapter" and expectation.plan is None and not weights.damaged:
        return f"; without a plan, only the aligner may differ from {base}"
    layers = {key.layer for key in map(PeftKey.parse, weights.stored) if key.factor}
    if not layers or weights.damaged:
        return ""
    return f"; names and shapes of {counted(len(layers), 'adapted layer')} compared with {base}"


def compare_with_base(
    weights: Weights, expectation: Expectation, base: dict[str, StoredTensor], values: dict[str, Values]
) -> Iterator[Problem]:
    """What differs must be what the plan trains, and what it trains must differ; fills `Values.max_change`.

    Raises:
        ModelError: the checkpoint is a pickle.
    """
    if not weights.stored:
        message = f"{weights.files[0]}: only safetensors files can be compared with --base"
        raise ModelError(message, "leave out --base")
    plan, keys = expectation.plan, {name: PeftKey.parse(name) for name in weights.stored}
    made = {name for own in base.values() for name in own.makes}
    modules, others = {name.rpartition(".")[0] for name in (*base, *made)}, []
    absent: dict[str, None] = {}  # each layer once
    for name, key in keys.items():
        layer, shape = key.layer.removesuffix(".base_layer"), weights.stored[name].info.shape
        weight = base.get(f"{layer}.weight")
        if key.factor and layer not in modules:
            absent[layer] = None
        elif weight is not None and (part := part_of(key.factor)) and not part.fits(shape, weight.info.shape):
            others.append(f"{name} is {list(shape)}, its layer is {list(weight.info.shape)}")
    yield from about("base-mismatch", absent, "missing from the base", _OTHER_BASE, noun="adapted layer")
    what = "of shapes that do not fit the base's layers"
    yield from about("base-mismatch", others, what, _OTHER_BASE, noun="adapter tensor", limit=2)
    # Tensors of the checkpoint that the base holds too, under the same name or without the adapter's prefix.
    pairs = {name: base[key.base] for name, key in keys.items() if key.base in base and not key.factor}
    shapes = [name for name, own in pairs.items() if weights.stored[name].info.shape != own.info.shape]
    yield from about("base-mismatch", shapes, "with another shape in the base", _OTHER_BASE)
    if weights.kind == "model":
        dropped = expectation.unbuilt | ({"lm_head.weight"} & expectation.optional)  # savers drop a tied head too
        gone = [name for name, own in base.items() if name not in weights.stored and own.name not in dropped]
        yield from about("base-mismatch", gone, "of the base missing here", _OTHER_BASE)
    changes: dict[str, float] = {}
    for name, own in pairs.items():
        mine = weights.stored[name]
        if mine.info.shape == own.info.shape:
            changes[name] = largest_change(mine, own)
            values.setdefault(name, Values()).max_change = changes[name]
    trains = {name: any(map(expectation.trains, weights.stored[name].makes or (name,))) for name in changes}
    foreign = [name for name, change in changes.items() if change and not trains[name]]
    where, hint = "plan", "do not use this checkpoint: only what the plan trains may differ from the base"
    if plan is None:
        foreign = [] if weights.kind == "adapter" else foreign  # what an adapter holds whole was trained, it seems
        where = "aligner"
        hint = "give the run's config with --config: without a plan, only the aligner may differ from the base"
    yield from about("changed-outside-plan", foreign, f"outside the {where} and different from the base", hint)
    trained = [name for name in changes if trains[name]]
    still = [name for name in trained if not changes[name]]
    # Adapters have nothing to be compared with, and without a plan it may be another part that was trained.
    if trained and len(still) == len(trained) and len(pairs) == len(keys) and (plan is not None or not foreign):
        message = f"all {len(trained)} trained tensors equal the base"
        yield Problem("nothing-moved", message, "train longer, or at a higher rate: this checkpoint changes nothing")
    elif plan:  # without one, nothing says that all of the aligner was to change
        hint = "train longer, or at a higher rate: the changes were smaller than the dtype's precision"
        yield from about("rounded-to-base", still, "equal to the base", hint, noun="trained tensor")
