"""Which layers carry adapters and which modules train whole, read from the tuner section and a model's names."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from swiftalign.config.sections import NO_TARGETS, Config
from swiftalign.model.tree import Kind, Model, Module
from swiftalign.problems import Problem, counted
from swiftalign.problems import names as names


@dataclass
class Selection:
    """The outcome of a reading.

    Attributes:
        adapted: layers that carry an adapter, in the model's order.
        saved: modules that train whole.
        passed_over: matched modules that the method can't adapt.
    """

    adapted: list[Module] = field(default_factory=list)
    saved: list[str] = field(default_factory=list)
    passed_over: list[Module] = field(default_factory=list)
    findings: list[Problem] = field(default_factory=list)


def select(config: Config, modules: Model) -> Selection:
    """Read the tuner section against a model."""
    selection = Selection()
    _select_saved(config, modules, selection)
    _select_adapted(config, modules, selection)
    return selection


def aligner_regex(modules: Model) -> str:
    """A regex of exactly the aligner's Linear layers, in the shortest readable form."""
    if modules.architecture.name == "qwen3_vl":
        return r"^model\.visual\.(merger|deepstack_merger_list\.\d+)\.linear_fc[12]$"
    layers = [m.name for m in modules if m.kind is Kind.LINEAR and modules.component(m.name) == "aligner"]
    return "^(" + "|".join(re.escape(name) for name in layers) + ")$"


def _inside(name: str, parents: Iterable[str]) -> bool:
    return any(name == parent or name.startswith(parent + ".") for parent in parents)


# -- modules_to_save ---------------------------------------------------------------------------------------------------


def _select_saved(config: Config, modules: Model, selection: Selection) -> None:
    tuner = config.tuner
    if tuner.train_type == "full":  # freeze flags decide alone
        return
    for index, entry in enumerate(tuner.modules_to_save):
        for name in _matches(index, entry, config, modules, selection):
            if name not in selection.saved:
                selection.saved.append(name)
    outermost = [name for name in selection.saved if not _inside(name, set(selection.saved) - {name})]
    nested = [name for name in selection.saved if name not in outermost]
    if nested:
        outer = next(other for other in outermost if _inside(nested[0], [other]))
        selection.findings.append(
            Problem(
                "saved-nested",
                f"modules_to_save: {names(nested)} {'lies' if len(nested) == 1 else 'lie'} inside {outer}, "
                "which is saved whole already",
                "once is enough:",
                {"tuner": {"modules_to_save": outermost}},
                config.where("tuner", "modules_to_save"),
            )
        )


def _matches(index: int, entry: str, config: Config, modules: Model, selection: Selection) -> list[str]:
    """The modules that peft would wrap for one entry: every name that ends with it, dot or no dot."""
    if entry in ("all-norm", "all-embedding"):  # ms-swift's shorthands
        kinds = (Kind.NORM, Kind.LAYER_NORM) if entry == "all-norm" else (Kind.EMBEDDING,)
        return [module.name for module in modules if module.kind in kinds]
    where = config.where("tuner", "modules_to_save", index)
    matched = [name for name in modules.by_name if entry and name.endswith(entry)]
    if not matched:
        selection.findings.append(_saved_nothing(entry, where, config, modules))
        return []
    accidents = [name for name in matched if name != entry and not name.endswith("." + entry)]
    if accidents:
        wanted = [name for name in matched if name not in accidents]
        selection.findings.append(
            Problem(
                "saved-by-suffix",
                f"modules_to_save: {entry!r} also matches {names(accidents)}: peft compares only the end of a name",
                f"write whole names, e.g. {names(wanted or matched, 2)}",
                where=where,
            )
        )
    # peft can't wrap a module list: it stands for its members.
    lists = {name for name in matched if modules.by_name[name].kind is Kind.MODULE_LIST}
    return [part for name in matched for part in (modules.members(name) if name in lists else [name])]


def _saved_nothing(entry: str, where: str, config: Config, modules: Model) -> Problem:
    tuner = config.tuner
    message = f"modules_to_save: {entry!r} matches no module of {modules.model_type}"
    near = difflib.get_close_matches(entry, list(modules.by_name), n=1, cutoff=0.75)
    if near:
        return Problem("saved-matches-nothing", message, f"did you mean {near[0]}?", where=where)
    if tuner.variant:  # nothing is saved whole with DoRA; its own finding gives the whole correction
        return Problem("saved-matches-nothing", message, "remove it: DoRA trains adapter layers", where=where)
    others = [name for name in tuner.modules_to_save if name != entry and name in modules]
    fix = {"tuner": {"modules_to_save": list(dict.fromkeys([*others, *modules.mergers]))}}
    return Problem("saved-matches-nothing", message, "to train the aligner whole:", fix, where)


# -- adapters ----------------------------------------------------------------------------------------------------------


def _select_adapted(config: Config, modules: Model, selection: Selection) -> None:
    tuner = config.tuner
    if tuner.train_type == "full" or tuner.target_regex in NO_TARGETS:
        return
    if tuner.target_regex is not None:
        matched = _by_regex(config, modules, selection)
    elif tuner.target_modules is not None and "all-linear" not in tuner.target_modules:
        matched = _by_suffix(config, modules, selection)
    else:
        selection.adapted = _by_flags(config, modules, selection)
        return
    able = tuner.method.adapts
    adaptable = [module for module in matched if module.kind in able]
    selection.passed_over = [module for module in matched if module.kind not in able]
    overlap = [module.name for module in adaptable if _inside(module.name, selection.saved)]
    if overlap:
        selection.findings.append(_overlap(config, overlap, adaptable))
    # peft leaves layers of saved modules without an adapter.
    selection.adapted = [module for module in adaptable if module.name not in overlap]
    if selection.passed_over and adaptable:
        shown = names(f"{module.name} ({module.kind})" for module in selection.passed_over)
        selection.findings.append(
            Problem(
                "passed-over",
                f"the target also matches {counted(len(selection.passed_over), 'module')} that {tuner.train_type} "
                f"can't adapt: {shown}",
                "they are left as they are; peft itself would stop at them",
                where=_target_where(config),
            )
        )


def _target_where(config: Config) -> str:
    return config.where("tuner", "target_regex" if config.tuner.target_regex is not None else "target_modules")


def _by_regex(config: Config, modules: Model, selection: Selection) -> list[Module]:
    """Model whose whole name matches, as peft reads a string."""
    text = config.tuner.target_regex or ""
    where = config.where("tuner", "target_regex")
    try:
        pattern = re.compile(text)
    except re.error as error:
        fix = {"tuner": {"target_regex": aligner_regex(modules)}}
        message = f"target_regex {text!r}: {error}"
        selection.findings.append(Problem("regex-invalid", message, "for the aligner:", fix, where))
        return []
    matched = [module for module in modules if pattern.fullmatch(module.name)]
    if not any(module.kind in config.tuner.method.adapts for module in matched):
        selection.findings.append(_target_nothing(config, modules, f"target_regex {text!r}", matched, pattern.search))
    return matched


def _by_suffix(config: Config, modules: Model, selection: Selection) -> list[Module]:
    """Model whose name is an entry or ends with ``.entry``, as peft reads a list."""
    matched: dict[str, Module] = {}
    for index, entry in enumerate(config.tuner.target_modules or []):
        if entry == "all-embedding":  # ms-swift's shorthand
            hits = [m for m in modules if m.kind is Kind.EMBEDDING]
        else:
            hits = [m for m in modules if m.name == entry or m.name.endswith("." + entry)]
        if not any(m.kind in config.tuner.method.adapts for m in hits):
            where = config.where("tuner", "target_modules", index)
            finding = _target_nothing(config, modules, f"target_modules {entry!r}", hits, lambda _name: None)
            selection.findings.append(Problem(finding.code, finding.message, finding.hint, finding.fix, where))
        matched.update({m.name: m for m in hits})
    return [module for module in modules if module.name in matched]


def _target_nothing(
    config: Config, modules: Model, what: str, matched: list[Module], search: Callable[[str], object]
) -> Problem:
    if matched:
        reason = f"it matches only {names(f'{m.name} ({m.kind})' for m in matched)}"
        hint = "name the layers inside:"
    elif any(search(module.name) for module in modules):
        reason = "it matches parts of names, and must match a whole one"
        hint = "for the aligner:"
    else:
        reason = "no name matches it"
        hint = "for the aligner:"
    fix = {"tuner": {"target_regex": aligner_regex(modules)}}
    message = f"{what} adapts no layer of {modules.model_type}: {reason}"
    return Problem("target-matches-nothing", message, hint, fix, _target_where(config))


def _by_flags(config: Config, modules: Model, selection: Selection) -> list[Module]:
    """The Linear layers of every component that is not frozen, as ms-swift expands ``all-linear``: without lm_head.

    References:
        ms-swift `swift/utils/transformers_utils.py`, `get_multimodal_target_regex`.
    """
    tuner = config.tuner
    frozen = {"llm": tuner.freeze_llm, "vit": tuner.freeze_vit, "aligner": tuner.freeze_aligner}
    entries = set(tuner.target_modules or ["all-linear"])
    kinds = {Kind.LINEAR, Kind.EMBEDDING} if "all-embedding" in entries else {Kind.LINEAR}
    ignored = sorted(entries - {"all-linear", "all-embedding"})
    if ignored:
        message = f"target_modules: {names(ignored)}: no effect beside all-linear, which the freeze flags steer"
        where = config.where("tuner", "target_modules")
        selection.findings.append(Problem("setting-unused", message, "leave out all-linear, or these", where=where))
    return [
        module
        for module in modules
        if module.kind in kinds & tuner.method.adapts
        and modules.architecture.covers(module.name)
        and not frozen[modules.component(module.name)]
        and module.name.rpartition(".")[2] != "lm_head"
        and not _inside(module.name, selection.saved)
    ]


def _overlap(config: Config, overlap: list[str], adaptable: list[Module]) -> Problem:
    tuner = config.tuner
    whole = {**tuner.model_dump(exclude_unset=True), "target_regex": "^$"}
    adapters = {**tuner.model_dump(exclude_unset=True), "modules_to_save": []}
    keep_saved = tuner.method.name == "lora" and len(overlap) == len(adaptable)
    return Problem(
        "target-saved-overlap",
        f"{counted(len(overlap), 'layer')} both adapted and in modules_to_save: {names(overlap)}",
        "train them whole:" if keep_saved else "train them with adapters only:",
        {"tuner": whole if keep_saved else adapters},
        config.where("tuner", "modules_to_save"),
    )
