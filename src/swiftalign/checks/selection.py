"""Entries of modules_to_save, target_modules and target_regex that match nothing, too much, or the same layer twice."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Any

from swiftalign.config.sections import Config
from swiftalign.model.tree import Model, is_inside
from swiftalign.plan.plan import Match, TuningPlan
from swiftalign.plan.selection import runs_in_training, train_aligner
from swiftalign.problems import Problem, counted, names

# Mixtures of experts among vision-language models for which peft rewrites the targets of LoRA.
# Source: peft `utils/transformers_weight_conversion.py`, `_convert_peft_config_moe`.
REWRITTEN_TYPES = ("glm4v_moe", "qwen3_omni_moe")


def saved(config: Config, model: Model, plan: TuningPlan) -> Iterable[Problem]:
    """Each entry of modules_to_save must match modules, by their whole names, and none inside another."""
    for match in _matches(plan, "modules_to_save"):
        entry, where = match.entry, config.where(*match.key)
        if entry in ("all-norm", "all-embedding"):
            continue
        if not any(runs_in_training(name, model) for name in match.modules):
            others = [name for name in config.tuner.modules_to_save if name != entry and name in model]
            fix: dict[str, Any] | None = {"tuner": {"modules_to_save": list(dict.fromkeys([*others, *model.mergers]))}}
            message = f"modules_to_save: {entry!r} matches no module of {model.model_type}"
            near = difflib.get_close_matches(entry, list(model.by_name), n=1, cutoff=0.75)
            hint = "to train the aligner whole:"
            if match.modules:
                message = (
                    f"modules_to_save: {entry!r} is a part that makes speech or images, and never runs in training"
                )
            elif near:
                hint, fix = f"did you mean {near[0]}?", None
            elif config.tuner.variant:  # nothing is saved whole with DoRA; its own problem gives the whole correction
                hint, fix = "remove it: DoRA trains adapter layers only", None
            yield Problem("saved-matches-nothing", message, hint, fix, where)
        # peft compares only the end of a name, whether a dot comes before it or not.
        accidents = [name for name in match.modules if not f".{name}".endswith(f".{entry}")]
        if accidents:
            wanted = [name for name in match.modules if name not in accidents]
            also = f"{entry!r} also matches {names(accidents)}"
            message = f"modules_to_save: {also}: peft compares only the end of a name"
            hint = f"write whole names, e.g. {names(wanted or match.modules, 2)}"
            yield Problem("saved-by-suffix", message, hint, where=where)
    nested = [name for name in plan.saved if is_inside(name, set(plan.saved) - {name})]
    if nested:
        outermost = [name for name in plan.saved if name not in nested]
        outer = next(name for name in outermost if is_inside(nested[0], [name]))
        verb = "lies" if len(nested) == 1 else "lie"
        message = f"modules_to_save: {names(nested)} {verb} inside {outer}, which is saved whole already"
        fix = {"tuner": {"modules_to_save": outermost}}
        yield Problem(
            "saved-nested", message, "name only the outer module:", fix, config.where("tuner", "modules_to_save")
        )


def targets(config: Config, model: Model, plan: TuningPlan) -> Iterable[Problem]:
    """Each target must match layers that the method can adapt, and none that is saved whole."""
    tuner, able = config.tuner, config.tuner.method.adapts
    matches = _matches(plan, "target_regex") + _matches(plan, "target_modules")
    aligner = {"tuner": train_aligner(model)}

    def kind(name: str) -> str:
        return model.by_name[name].kind if runs_in_training(name, model) else "never runs in training"

    for match in matches:
        if match.fault:
            message = f"target_regex {match.entry!r}: {match.fault}"
            yield Problem("regex-invalid", message, "to adapt the aligner:", aligner, config.where(*match.key))
        elif not any(kind(name) in able for name in match.modules):
            what, hint, reason = str(match.key[1]), "to adapt the aligner:", "no name matches it"
            if match.modules:
                reason = f"it matches only {names(f'{name} ({kind(name)})' for name in match.modules)}"
                hint = "name the layers inside it:"
            elif what == "target_regex" and any(re.search(match.entry, name) for name in model.by_name):
                reason = "it matches parts of names, but it must match a whole name"
            message = f"{what} {match.entry!r} adapts no layer of {model.model_type}: {reason}"
            yield Problem("target-matches-nothing", message, hint, aligner, config.where(*match.key))
    named = {name for match in matches for name in match.modules}
    matched = [module.name for module in model if module.name in named]
    adaptable = [name for name in matched if kind(name) in able]
    overlap = [name for name in adaptable if is_inside(name, plan.saved)]
    if overlap:
        settings = tuner.model_dump(exclude_unset=True)
        keep_saved = tuner.method.name == "lora" and len(overlap) == len(adaptable)
        change: dict[str, Any] = {"target_regex": "^$"} if keep_saved else {"modules_to_save": []}
        fix = {"tuner": {**settings, **change}}
        message = f"modules_to_save also holds {counted(len(overlap), 'adapted layer')}: {names(overlap)}"
        hint = "train them whole:" if keep_saved else "train them with adapters only:"
        yield Problem("target-saved-overlap", message, hint, fix, config.where("tuner", "modules_to_save"))
    others = [f"{name} ({kind(name)})" for name in matched if name not in adaptable]
    if others and adaptable:
        count = counted(len(others), "module")
        message = f"the target also matches {count} that {plan.train_type} can't adapt: {names(others)}"
        hint = "these modules stay frozen; given to peft itself, most of them are an error"
        yield Problem("passed-over", message, hint, where=config.where(*plan.decided_at))
    if plan.decided_by == "freeze_flags":
        ignored = sorted({*(tuner.target_modules or ())} - {"all-linear", "all-embedding"})
        if ignored:
            message = (
                f"target_modules: {names(ignored)}: no effect beside all-linear, for which the freeze flags decide"
            )
            where = config.where("tuner", "target_modules")
            yield Problem("setting-unused", message, "remove all-linear, or these entries", where=where)


def reloading(config: Config, model: Model, plan: TuningPlan) -> Iterable[Problem]:
    """Whether peft puts an adapter into the layers that it was trained in."""
    if plan.adapted and plan.method in ("lora", "dora") and model.model_type in REWRITTEN_TYPES:
        message = (
            f"peft can't load this adapter into a {model.model_type} model: of each target it takes only the last part "
            "of the name, and for gate_proj, up_proj and down_proj it takes the LLM's experts"
        )
        hint = "training and 'swiftalign export' are right; use the exported model, or train the modules whole"
        yield Problem("adapter-not-reloadable", message, hint, where=config.where(*plan.decided_at))


def _matches(plan: TuningPlan, key: str) -> list[Match]:
    return [match for match in plan.matches if match.key[1] == key]
