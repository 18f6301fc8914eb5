"""What trains, against what the settings seem to mean."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from swiftalign.config.sections import COMPONENTS, Config, TunerSection
from swiftalign.methods import METHODS, settings_fields
from swiftalign.model.tree import Kind, Model
from swiftalign.plan.plan import TuningPlan
from swiftalign.plan.selection import aligner_regex, names
from swiftalign.preflight.settings import names_targets, target_key, wants_adapters
from swiftalign.problems import SPOKEN, Problem, counted


def something_trains(config: Config, modules: Model, plan: TuningPlan) -> Iterable[Problem]:
    tuner = config.tuner
    if plan.trainables or tuner.method is tuner.variant:  # dora-without-layers says it then
        return
    fix = {"tuner": _something_to_train(tuner, modules)}
    where = config.where("tuner", target_key(tuner))
    yield Problem("nothing-trains", "no parameter would train", "to train the aligner:", fix, where)


def _something_to_train(tuner: TunerSection, modules: Model) -> dict[str, Any]:
    if tuner.train_type == "full":
        return {"freeze_aligner": False}
    if tuner.train_type == "lora" and not wants_adapters(tuner):
        return {"target_regex": "^$", "modules_to_save": list(modules.mergers)}
    return {"target_regex": aligner_regex(modules)} if names_targets(tuner) else {"freeze_aligner": False}


def whole_aligner(config: Config, modules: Model, plan: TuningPlan) -> Iterable[Problem]:
    if config.tuner.variant and not plan.adapted:
        return  # DoRA's own finding gives the whole correction
    trained = [part for part in modules.mergers if any(_within(item.module, part) for item in plan.trainables)]
    missing = [part for part in modules.mergers if part not in trained]
    key = "modules_to_save" if _saves_aligner(modules, plan) else target_key(config.tuner)
    where = config.where("tuner", key)
    if trained and missing:
        shares = {part: sum(weight.numel for weight in modules.under(part)) for part in modules.mergers}
        percent = round(100 * sum(shares[part] for part in missing) / sum(shares.values()))
        yield Problem(
            "aligner-incomplete",
            f"{names(missing)} would stay frozen: {percent}% of the aligner",
            "the deepstack mergers feed the LLM beside visual.merger; to train all of it:",
            {"tuner": _the_rest_too(config, modules, plan, missing)},
            where,
        )
    elif not trained and plan.trainables:
        yield Problem("aligner-untouched", "nothing in the aligner would train", "is this what you want?", where=where)


def _the_rest_too(config: Config, modules: Model, plan: TuningPlan, missing: list[str]) -> dict[str, Any]:
    """What is adapted or saved outside the aligner stays so."""
    tuner = config.tuner
    if _saves_aligner(modules, plan):
        return {"modules_to_save": [*plan.saved, *missing]}
    if all(modules.component(name) == "aligner" for name in plan.adapted):
        return {"target_regex": aligner_regex(modules)}
    if tuner.target_regex is not None:
        return {"target_regex": f"{tuner.target_regex}|{aligner_regex(modules)}"}
    layers = [m.name for m in modules if m.kind is Kind.LINEAR and any(_within(m.name, part) for part in missing)]
    return {"target_modules": [*(tuner.target_modules or []), *layers]}


def _saves_aligner(modules: Model, plan: TuningPlan) -> bool:
    return any(modules.component(name) == "aligner" for name in plan.saved)


def _within(name: str, parent: str) -> bool:
    return name == parent or name.startswith(parent + ".")


def vit_by_suffix(config: Config, modules: Model, plan: TuningPlan) -> Iterable[Problem]:
    tuner = config.tuner
    if tuner.train_type == "full" or (tuner.given("freeze_vit") and not tuner.freeze_vit):
        return
    targets = [tuner.target_regex] if tuner.target_regex is not None else tuner.target_modules or []
    adapted = _unnamed_vit(plan.adapted, targets, modules)
    if adapted:
        yield Problem(
            "vit-by-suffix",
            f"{target_key(tuner)} also adapts {counted(len(adapted), 'ViT layer')}: {names(adapted)}",
            "if you mean the ViT too, set freeze_vit: false; for the aligner alone:",
            {"tuner": _aligner_alone(tuner, modules, plan)},
            config.where("tuner", target_key(tuner)),
        )
    saved = _unnamed_vit(plan.saved, tuner.modules_to_save, modules)
    if saved:
        kept = [name for name in plan.saved if modules.component(name) == "llm"]
        yield Problem(
            "vit-by-suffix",
            f"modules_to_save also trains {counted(len(saved), 'ViT module')} whole: {names(saved)}",
            "if you mean the ViT too, set freeze_vit: false; for the aligner alone:",
            {"tuner": {"modules_to_save": [*kept, *modules.mergers]}},
            config.where("tuner", "modules_to_save"),
        )


def _unnamed_vit(chosen: Iterable[str], settings: list[str], modules: Model) -> list[str]:
    """ViT modules that no setting names by their part of the ViT, e.g. "blocks", nor by ms-swift's all-norm."""
    hit = [name for name in chosen if modules.component(name) == "vit" and name not in settings]
    named = " ".join(settings)
    if "all-norm" in settings or "all-embedding" in settings:
        return []
    return [name for name in hit if _vit_part(name, modules) not in named]


def _vit_part(name: str, modules: Model) -> str:
    prefix = next((prefix for prefix in modules.architecture.vit if name.startswith(prefix + ".")), "")
    return name.removeprefix(prefix + ".").partition(".")[0]


def _aligner_alone(tuner: TunerSection, modules: Model, plan: TuningPlan) -> dict[str, Any]:
    """By adapters, or as modules_to_save trains it already."""
    if not _saves_aligner(modules, plan):
        return {"target_regex": aligner_regex(modules)}
    if tuner.method.name == "lora":
        return {"target_regex": "^$"}
    return {"target_regex": aligner_regex(modules), "modules_to_save": []}


def head_and_embeddings(config: Config, modules: Model, plan: TuningPlan) -> Iterable[Problem]:
    tuner = config.tuner
    if tuner.train_type == "full" and not tuner.freeze_llm:  # which names them
        return
    named = " ".join([tuner.target_regex or "", *(tuner.target_modules or []), *tuner.modules_to_save])
    for name in sorted({item.module for item in plan.trainables}):
        last = name.rpartition(".")[2]
        if last not in ("lm_head", "embed_tokens"):
            continue
        where = config.where("tuner", target_key(tuner) if name in plan.adapted else "modules_to_save")
        if last not in named and "all-embedding" not in named:
            code = "lm-head-trained" if last == "lm_head" else "embeddings-trained"
            message = f"{name} would train, and no setting names it"
            yield Problem(code, message, "narrow the target to the layers you mean", where=where)
        if modules.tied:
            message = f"{name} would train, but this model ties lm_head to the embedding: both would change, or neither"
            yield Problem("tied-embeddings", message, "leave lm_head and embed_tokens frozen", where=where)


def freeze_flags(config: Config, modules: Model, plan: TuningPlan) -> Iterable[Problem]:
    tuner = config.tuner
    given = [part for part in COMPONENTS if tuner.given(f"freeze_{part}")]
    if tuner.train_type == "full" or not names_targets(tuner) or not given:
        return
    wrong = {part: text for part in given if (text := _contradiction(part, tuner, modules, plan))}
    key = target_key(tuner)
    if wrong:
        where = config.where("tuner", f"freeze_{next(iter(wrong))}")
        hint = f"{key} decides: correct it, or drop the flag"
        yield Problem("freeze-flags-contradicted", "; ".join(wrong.values()), hint, where=where)
    else:
        flags = ", ".join(f"freeze_{part}" for part in given)
        message = f"{flags}: no effect, since {key} decides what gets adapters"
        yield Problem("freeze-flags-ignored", message, where=config.where("tuner", f"freeze_{given[0]}"))


def _contradiction(part: str, tuner: TunerSection, modules: Model, plan: TuningPlan) -> str | None:
    """The guide freezes the aligner from adapters and saves it whole; LLM and ViT are to be frozen altogether."""
    frozen = getattr(tuner, f"freeze_{part}")
    text = f"freeze_{part}: {'true' if frozen else 'false'}, but"
    trains = any(item.component == part for item in plan.trainables)
    if not frozen:
        return None if trains else f"{text} the {SPOKEN[part]} stays frozen"
    if any(modules.component(name) == part for name in plan.adapted):
        return f"{text} the {SPOKEN[part]} gets adapters"
    saved = [name for name in plan.saved if modules.component(name) == part]
    return f"{text} {names(saved)} trains whole" if saved and part != "aligner" else None


def unused_settings(config: Config, modules: Model, plan: TuningPlan) -> Iterable[Problem]:
    tuner = config.tuner
    # With use_dora alone, dora-without-layers gives the correction, and these settings belong to it.
    own = tuner.method if plan.adapted or tuner.variant else METHODS[plan.method]
    foreign = settings_fields().keys() - own.model_fields.keys() - {method.flag for method in METHODS.values()}
    unused = [name for name in foreign if tuner.given(name)]
    if tuner.train_type == "full":
        unused += [n for n in ("modules_to_save", "target_regex", "target_modules") if tuner.given(n)]
    if unused:
        message = f"{', '.join(sorted(unused))}: no effect with {plan.method}"
        hint = METHODS[plan.method].unused_hint
        yield Problem("setting-unused", message, hint, where=config.where("tuner", min(unused)))
    elif tuner.target_regex is not None and tuner.target_modules is not None:
        where = config.where("tuner", "target_modules")
        yield Problem("setting-unused", "target_modules: no effect, since target_regex is given", where=where)
    if tuner.trainable_dtype == "base" and plan.adapted and not any(item.how == "whole" for item in plan.trainables):
        where = config.where("tuner", "trainable_dtype")
        yield Problem("setting-unused", "trainable_dtype: no effect, since adapters are float32", where=where)


def weights_missing(config: Config, modules: Model, plan: TuningPlan) -> Iterable[Problem]:
    """transformers gives missing weights random values, with a warning at most."""
    if modules.missing:
        count = counted(len(modules.missing), "tensor")
        message = f"the weight files lack {count} of what config.json describes: {names(modules.missing)}"
        yield Problem("weights-missing", message, "fetch the model again, or mend its config.json")


def unbuilt(config: Config, modules: Model, plan: TuningPlan) -> Iterable[Problem]:
    if modules.unbuilt:
        count = counted(len(modules.unbuilt), "tensor")
        message = f"the weight files hold {count} outside the model class: {names(modules.unbuilt)}"
        yield Problem("unbuilt-tensors", message, "training leaves them as they are")


def expect_aligner(plan: TuningPlan, modules: Model) -> Iterable[Problem]:
    """For ``--expect aligner``: what trains lies in the aligner, and in each of its mergers."""
    outside = [item.parameter for item in plan.trainables if item.component != "aligner"]
    if outside:
        message = f"{counted(len(outside), 'tensor')} outside the aligner would train: {names(outside, 2)}"
        yield Problem("outside-expected", message)
    idle = [part for part in modules.mergers if not any(_within(item.module, part) for item in plan.trainables)]
    if idle:
        yield Problem("outside-expected", f"nothing would train in {names(idle)}")
