"""Which layers carry adapters and which modules train whole, read from the tuner section and a model's names."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from swiftalign.config.sections import NO_TARGETS, Config, TunerSection
from swiftalign.config.yaml import Key
from swiftalign.methods.keys import exactly
from swiftalign.model.families import find
from swiftalign.model.tree import COMPONENTS, Kind, Model, Module, is_inside
from swiftalign.plan.plan import Decision, Match


@dataclass(frozen=True)
class Selection:
    """What the tuner section selects, and which setting decided it.

    Attributes:
        adapted: layers that carry an adapter, in the model's order.
        saved: modules that train whole, the outermost and the nested ones.
        decided_by: the kind of setting that decides which layers are adapted.
        decided_at: the key of that setting, e.g. ``("tuner", "target_regex")``.
        matches: what each entry of modules_to_save and of the deciding setting matches.
    """

    adapted: tuple[Module, ...]
    saved: tuple[str, ...]
    decided_by: Decision
    decided_at: Key
    matches: tuple[Match, ...]


def select(config: Config, model: Model) -> Selection:
    """Read the tuner section as peft and ms-swift do; faults do not raise, they show in the matches.

    References:
        ms-swift `swift/utils/transformers_utils.py`, `get_multimodal_target_regex`.
    """
    tuner = config.tuner
    decided_by, decided_at = _decision(tuner)
    if decided_by == "full":  # the freeze flags decide alone
        return Selection((), (), decided_by, decided_at, ())
    whole = tuple(_saved_by(index, entry, model) for index, entry in enumerate(tuner.modules_to_save))
    # peft can't wrap a module list: it stands for its members.
    found = dict.fromkeys(part for match in whole for name in match.modules for part in _parts(name, model))
    saved = tuple(name for name in found if runs_in_training(name, model))
    targets: tuple[Match, ...] = ()
    if decided_by == "target_regex":  # must match the whole name, as peft reads a string
        text = tuner.target_regex or ""
        try:
            pattern = re.compile(text)
            targets = (Match(decided_at, text, tuple(name for name in model.by_name if pattern.fullmatch(name))),)
        except re.error as error:
            targets = (Match(decided_at, text, (), str(error)),)
    elif decided_by == "target_modules":
        targets = tuple(_by_suffix(index, entry, model) for index, entry in enumerate(tuner.target_modules or ()))
    matched = {name for match in targets for name in match.modules}
    kinds, frozen = tuner.method.adapts, tuner.frozen
    if decided_by == "freeze_flags":
        # As ms-swift expands all-linear: the Linear layers of every component that is not frozen, without lm_head.
        kinds &= {Kind.LINEAR, Kind.EMBEDDING} if "all-embedding" in (tuner.target_modules or ()) else {Kind.LINEAR}
        matched = {
            name
            for name in model.by_name
            if not frozen.get(model.component(name), True)  # no flag reaches a module outside all components
            and name.rpartition(".")[2] != "lm_head"
        }
    adapted = tuple(  # peft leaves the layers of saved modules without an adapter
        module
        for module in model
        if module.name in matched
        and module.kind in kinds
        and runs_in_training(module.name, model)
        and not is_inside(module.name, saved)
    )
    return Selection(adapted, saved, decided_by, decided_at, (*whole, *targets))


def runs_in_training(name: str, model: Model) -> bool:
    """Whether training reaches a module: parts that make speech or images never get gradients.

    References:
        ms-swift `swift/arguments/tuner_args.py`, which always freezes them under full training.
    """
    return not is_inside(name, model.architecture.generator)


def _decision(tuner: TunerSection) -> tuple[Decision, Key]:
    """Which setting decides what is adapted: target_regex, then target_modules, then the freeze flags."""
    if tuner.train_type != "full":
        if tuner.target_regex is not None:
            return "nothing" if tuner.target_regex in NO_TARGETS else "target_regex", ("tuner", "target_regex")
        if tuner.target_modules is not None and "all-linear" not in tuner.target_modules:
            return "target_modules", ("tuner", "target_modules")
    flags = [f"freeze_{part}" for part in reversed(COMPONENTS)]
    key = next((flag for flag in flags if tuner.given(flag)), "train_type")
    return "full" if tuner.train_type == "full" else "freeze_flags", ("tuner", key)


def _saved_by(index: int, entry: str, model: Model) -> Match:
    """Modules whose name ends with the entry, with or without a dot before it, as peft reads modules_to_save."""
    if entry in ("all-norm", "all-embedding"):  # ms-swift's shorthands
        kinds = (Kind.NORM, Kind.LAYER_NORM) if entry == "all-norm" else (Kind.EMBEDDING,)
        names = [module.name for module in model if module.kind in kinds]
    else:
        names = [name for name in model.by_name if entry and name.endswith(entry)]
    return Match(("tuner", "modules_to_save", index), entry, tuple(names))


def _parts(name: str, model: Model) -> list[str]:
    return model.members(name) if model.by_name[name].kind is Kind.MODULE_LIST else [name]


def _by_suffix(index: int, entry: str, model: Model) -> Match:
    """Modules whose name is the entry or ends with ``.entry``, as peft reads a list; ms-swift has ``all-embedding``."""
    names = [
        module.name
        for module in model
        if (module.kind is Kind.EMBEDDING if entry == "all-embedding" else f".{module.name}".endswith(f".{entry}"))
    ]
    return Match(("tuner", "target_modules", index), entry, tuple(names))


def aligner_regex(model: Model) -> str:
    """A regex of exactly the aligner's Linear layers, in the shortest readable form."""
    family = find(model.model_type)
    if family and family.aligner_regex:
        return family.aligner_regex
    return f"^({exactly(_aligner_layers(model))})$"


def train_aligner(model: Model) -> dict[str, Any]:
    """Settings of the tuner section that train the aligner: by adapters, or whole if it has no Linear layer."""
    if _aligner_layers(model):
        return {"target_regex": aligner_regex(model)}
    return {"target_regex": "^$", "modules_to_save": list(model.mergers)}


def _aligner_layers(model: Model) -> list[str]:
    return [m.name for m in model if m.kind is Kind.LINEAR and model.component(m.name) == "aligner"]
