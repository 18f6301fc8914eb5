"""Comparing a checkpoint with the base model: whole tensors byte for byte, adapters by the layers that they fit."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from swiftalign.checkpoint.adapter_config import AdapterConfig
from swiftalign.checkpoint.expected import Expectation
from swiftalign.checkpoint.values import Values
from swiftalign.checkpoint.weights import Weights
from swiftalign.methods import part_of
from swiftalign.methods.keys import PeftKey
from swiftalign.model.bytes import FLOATS, differ, largest_change
from swiftalign.model.hub import local_folder
from swiftalign.model.safetensors import StoredTensor
from swiftalign.model.stored import quantised_by, stored_tensors
from swiftalign.plan.plan import TuningPlan
from swiftalign.problems import ModelError, Problem, about, counted

_OTHER_BASE = "name the base model of the training with --base"
_QUANTISED = re.compile(r"(?i)(?:^|[-_.])(?:bnb|gptq|awq|fp8|nf4|int[48]|[48][-_]?bits?)(?:$|[-_.])")  # in names


def check_base(
    adapter: AdapterConfig, plan: TuningPlan | None, base: Path | None, tensors: dict[str, StoredTensor], *, deep: bool
) -> Iterator[Problem]:
    """Whether the base that adapter_config.json names is that of the plan, and the one that the user gives.

    Args:
        base: the folder that the user gives; whatever fits the adapter's names and shapes is taken.
        tensors: those of `base`.
        deep: compare every byte with the base that the adapter names, and not only the beginning of each tensor.
    """
    named = adapter.base
    if named and plan is not None and _model_name(named) != _model_name(plan.model):
        hint = "use the adapter_config.json of this checkpoint's run, or correct its base_model_name_or_path"
        message = f"{adapter.path}: names the base {named}, but the plan names {plan.model}"
        yield Problem("adapter-base", message, hint)
        return
    if not named or base is None:
        return
    own = local_folder(named)
    quantised = quantised_by(own) if own else _QUANTISED.search(named) and "by its name"
    others: dict[str, StoredTensor] = {}
    with suppress(ModelError):  # a base that can't be read can't be compared
        others = stored_tensors(own) if own and own.resolve() != base.resolve() else {}
    if quantised and not quantised_by(base):
        hint = "the adapter was trained beside quantised values: measure what it is worth beside others, e.g. with eval"
        message = f"{adapter.path}: names the base {named}, which is quantised ({quantised}), and {base} is not"
        yield Problem("base-quantised", message, hint)
    elif others:
        pairs = ((name, tensors[name], others.get(name)) for name in tensors)
        unlike = [name for name, mine, theirs in pairs if theirs is None or differ(mine, theirs, 4096, deep=deep)]
        what = f"of {base} not as in the base that it names, {named}"
        yield from about("base-renamed", unlike, what, "make sure that --base is the one you mean", path=adapter.path)
    elif _model_name(named) != _model_name(str(base)) and not (own and own.resolve() == base.resolve()):
        message = f"{adapter.path}: names the base {named}, whose weights are not here, but --base is {base}"
        yield Problem("base-renamed", message, "make sure that both are the same model: only names are compared")


def _model_name(model: str) -> str:
    """The name that a hub id shares with its folder in a cache: models--ORG--NAME/snapshots/HASH, or NAME___PART."""
    path = Path(model)
    if path.parent.name == "snapshots":
        return path.parent.parent.name.rpartition("--")[2]
    return path.name.replace("___", ".")


def packed_in(base: Mapping[str, StoredTensor], names: Iterable[str]) -> list[str]:
    """Those of the tensors that a quantised base does not hold as floats of 16 bits or more."""
    return [name for name in names if name not in base or base[name].info.dtype not in FLOATS]


def compared_in_words(weights: Weights, expectation: Expectation, base: Path) -> str:
    """How `compare_with_base` compares, for the report, where that is not simply by the plan's whole tensors."""
    if weights.kind != "adapter" and expectation.plan is None and weights.stored and not weights.damaged:
        return f"; without a plan, only the aligner may differ from {base}"
    if weights.damaged:
        return ""
    if not weights.stored:
        return f"; names and shapes compared with {base}, but no values, which lie in a pickle"
    layers = {key.layer for key in map(PeftKey.parse, weights.stored) if key.factor}
    return f"; names and shapes of {counted(len(layers), 'adapted layer')} compared with {base}" if layers else ""


def compare_with_base(
    weights: Weights,
    expectation: Expectation,
    base: dict[str, StoredTensor],
    values: dict[str, Values],
    *,
    quantised: str,
) -> Iterator[Problem]:
    """What differs must be what the plan trains, and what it trains must differ; fills `Values.max_change`.

    Of a pickle only names and shapes are compared.

    Args:
        quantised: how the base is quantised, in words; empty where it is not.
    """
    infos = {name: tensor.info for name, tensor in weights.stored.items()} or weights.infos
    plan, keys = expectation.plan, {name: PeftKey.parse(name) for name in infos}
    made = {name for own in base.values() for name in own.makes}
    modules, others = {name.rpartition(".")[0] for name in (*base, *made)}, []
    absent: dict[str, None] = {}  # each layer once
    packed = packed_in(base, dict.fromkeys(key.base for key in keys.values())) if quantised else []
    hint = "name the model that it was made from, in 16 bits, with --base: only that can be compared and merged into"
    what = f"packed in the base, which is quantised ({quantised})"
    yield from about("base-quantised", packed, what, hint)
    for name, key in keys.items():
        layer, shape = key.layer.removesuffix(".base_layer"), infos[name].shape
        weight = base.get(f"{layer}.weight")
        if key.factor and layer not in modules:
            absent[layer] = None
        elif weight is None or weight.info.name in packed or not (part := part_of(key.factor)):
            continue
        elif not part.fits(shape, weight.info.shape):
            others.append(f"{name} is {list(shape)}, its layer is {list(weight.info.shape)}")
    yield from about("base-mismatch", absent, "missing from the base", _OTHER_BASE, noun="adapted layer")
    what = "of shapes that do not fit the base's layers"
    yield from about("base-mismatch", others, what, _OTHER_BASE, noun="adapter tensor", limit=2)
    # Tensors of the checkpoint that the base holds too, under the same name or without the adapter's prefix.
    pairs = {name: base[key.base] for name, key in keys.items() if key.base in base and not key.factor}
    pairs = {name: own for name, own in pairs.items() if own.info.name not in packed}
    shapes = [name for name, own in pairs.items() if infos[name].shape != own.info.shape]
    yield from about("base-mismatch", shapes, "with another shape in the base", _OTHER_BASE)
    if weights.kind == "model":
        dropped = expectation.unbuilt | ({"lm_head.weight"} & expectation.optional)  # savers drop a tied head too
        gone = [name for name, own in base.items() if name not in infos and own.name not in dropped]
        yield from about("base-mismatch", gone, "of the base missing here", _OTHER_BASE)
    changes: dict[str, float] = {}
    for name, own in pairs.items():
        mine = weights.stored.get(name)
        if mine and mine.info.shape == own.info.shape:
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
