"""Comparing a checkpoint with the base model: whole tensors byte for byte, adapters by the layers that they fit."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from pathlib import Path

from swiftalign.checkpoint.expected import Expectation, base_name
from swiftalign.checkpoint.values import Values
from swiftalign.checkpoint.weights import Weights
from swiftalign.methods.keys import adapter_part
from swiftalign.model.bytes import largest_change
from swiftalign.model.safetensors import StoredTensor, TensorInfo, stored_tensors
from swiftalign.problems import ModelError, Problem, counted
from swiftalign.problems import names as some

_OTHER_BASE = "is this the base it was trained from?"


def compare_with_base(
    weights: Weights, expectation: Expectation, base: Path, values: dict[str, Values]
) -> list[Problem]:
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
    return [
        *_misfits(weights, own),
        *_strangers(weights, own, pairs, expectation),
        *_differences(weights, pairs, expectation, values),
    ]


def compared_in_words(weights: Weights, expectation: Expectation, base: Path) -> str:
    """How `compare_with_base` compares, for the report, where that is not simply by the plan's whole tensors."""
    if weights.kind != "adapter" and expectation.plan is None and not weights.damaged:
        return f"; without a plan, only the aligner may differ from {base}"
    layers = {found[0] for name in weights.stored if (found := adapter_part(name))}
    if not layers or weights.damaged:
        return ""
    return f"; {counted(len(layers), 'adapted layer')} held against {base} by name and shape"


def _pairs(weights: Weights, own: dict[str, StoredTensor]) -> Iterator[tuple[str, StoredTensor]]:
    """Tensors of the checkpoint and of the base under the same name; an adapter's whole modules with their prefix."""
    for name in weights.stored:
        if base_name(name) in own:
            yield name, own[base_name(name)]


def _misfits(weights: Weights, own: dict[str, StoredTensor]) -> Iterator[Problem]:
    """Adapters whose layer the base lacks, or has in another shape."""
    homeless, misfits = [], []
    modules = {name.rpartition(".")[0] for name in own}
    for name, tensor in weights.stored.items():
        found = adapter_part(name)
        if found is None:
            continue
        layer, part = found[0].removesuffix(".base_layer"), found[1]
        matrix = own.get(f"{layer}.weight")
        if layer not in modules:
            homeless.append(layer)
        elif matrix is not None and not _adapts(part, tensor.info, matrix.info.shape):
            misfits.append(f"{name} is {list(tensor.info.shape)}, its layer {list(matrix.info.shape)}")
    if homeless:
        layers = list(dict.fromkeys(homeless))
        message = f"{counted(len(layers), 'adapted layer')} of which the base holds nothing: {some(layers)}"
        yield Problem("base-mismatch", message, _OTHER_BASE)
    if misfits:
        message = f"{counted(len(misfits), 'adapter tensor')} for layers of another shape: {some(misfits, 2)}"
        yield Problem("base-mismatch", message, _OTHER_BASE)


def _adapts(part: str, info: TensorInfo, layer: tuple[int, ...]) -> bool:
    """Whether a tensor of an adapter fits a weight [out, in, ...]; a spectrum fits any."""
    shape = info.shape
    if part == "lora_A":
        return shape[1:] == layer[1:]
    if part in ("lora_B", "boft_s"):
        return shape[:1] == layer[:1]
    if part == "lora_embedding_A":  # an embedding's weight is [rows, width]
        return shape[1:] == layer[:1]
    if part == "lora_embedding_B":
        return shape[:1] == layer[1:]
    if part == "lora_magnitude_vector":
        return prod(shape) in layer[:2]
    return part != "boft_R" or (len(shape) == 4 and shape[1] * shape[2] == layer[-1])


def _strangers(
    weights: Weights, own: dict[str, StoredTensor], pairs: dict[str, StoredTensor], expectation: Expectation
) -> Iterator[Problem]:
    shapes = [n for n, base in pairs.items() if weights.stored[n].info.shape != base.info.shape]
    if shapes:
        message = f"{counted(len(shapes), 'tensor')} of another shape in the base: {some(shapes)}"
        yield Problem("base-mismatch", message, _OTHER_BASE)
    if weights.kind == "model":
        tied = {"lm_head.weight"} & expectation.optional  # savers drop a tied head that the base may store
        gone = [name for name in own if name not in weights.stored and name not in tied]
        if gone:
            message = f"the base holds {counted(len(gone), 'tensor')} that are not here: {some(gone)}"
            yield Problem("base-mismatch", message, _OTHER_BASE)


def _differences(
    weights: Weights, pairs: dict[str, StoredTensor], expectation: Expectation, values: dict[str, Values]
) -> Iterator[Problem]:
    changes: dict[str, float] = {}
    for name, base in pairs.items():
        mine = weights.stored[name]
        if mine.info.shape == base.info.shape and not _is_cast(mine.info, base.info):
            changes[name] = largest_change(mine, base)
            values.setdefault(name, Values()).max_change = changes[name]
    foreign = [name for name, change in changes.items() if change and not expectation.trains(name)]
    if weights.kind == "adapter" and expectation.plan is None:
        foreign = []  # what an adapter holds whole was trained, as far as anything tells
    if foreign:
        yield _foreign(foreign, expectation)
    trained = [name for name in changes if expectation.trains(name)]
    still = [name for name in trained if not changes[name]]
    # Adapters have nothing to be compared with, and without a plan it may be another part that was trained.
    alone = all(name in pairs for name in weights.stored) and (expectation.plan is not None or not foreign)
    if trained and len(still) == len(trained) and alone:
        yield Problem("nothing-moved", f"all {len(trained)} trained tensors equal the base", "this changes nothing")
    elif still and expectation.plan:  # without one, nothing says that all of the aligner was to change
        message = f"{counted(len(still), 'trained tensor')} equal to the base: {some(still)}"
        yield Problem("rounded-to-base", message, "changes smaller than the dtype's step are rounded away")


def _is_cast(mine: TensorInfo, base: TensorInfo) -> bool:
    """Whether it is a frozen weight that peft has saved beside its adapter, in the dtype that it was loaded in."""
    return ".base_layer." in mine.name and mine.dtype != base.dtype


def _foreign(names: list[str], expectation: Expectation) -> Problem:
    if expectation.plan is not None:
        message = f"{counted(len(names), 'tensor')} outside the plan not as in the base: {some(names)}"
        return Problem("changed-outside-plan", message, "these ought to be the base's own to the byte")
    message = f"{counted(len(names), 'tensor')} outside the aligner not as in the base: {some(names)}"
    hint = "no plan says what was trained, so only the aligner may differ: give the config of the run with --config"
    return Problem("changed-outside-plan", message, hint)
