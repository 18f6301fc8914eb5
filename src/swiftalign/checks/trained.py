"""What trains, against what the settings seem to mean."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from swiftalign.config.sections import Config, TunerSection
from swiftalign.methods import METHODS, settings_fields
from swiftalign.model.tree import COMPONENTS, Component, Kind, Model, is_inside
from swiftalign.plan.plan import TuningPlan
from swiftalign.plan.selection import aligner_regex, train_aligner
from swiftalign.problems import SPOKEN, Problem, about, counted, names


def something_trains(config: Config, model: Model, plan: TuningPlan) -> Iterable[Problem]:
    tuner = config.tuner
    if plan.trainables or tuner.method is tuner.variant:  # dora-without-layers says it then
        return
    cure = train_aligner(model)
    if plan.train_type == "lora" and plan.decided_by in ("nothing", "freeze_flags"):
        cure = {"target_regex": "^$", "modules_to_save": list(model.mergers)}
    elif plan.decided_by == "full" or (plan.decided_by == "freeze_flags" and tuner.frozen["aligner"]):
        cure = {"freeze_aligner": False}
    where = config.where(*plan.decided_at)
    yield Problem("nothing-trains", "no parameter would train", "train the aligner:", {"tuner": cure}, where)


def whole_aligner(config: Config, model: Model, plan: TuningPlan) -> Iterable[Problem]:
    if config.tuner.variant and not plan.adapted:
        return  # DoRA's own finding gives the whole correction
    parts = _parts_for_images(model)
    missing = _idle(parts, plan)
    trained = len(missing) < len(parts)
    tuner, saves = config.tuner, _saves_aligner(model, plan)
    where = config.where(*(("tuner", "modules_to_save") if saves else plan.decided_at))
    if trained and missing:
        # What is adapted or saved outside the aligner stays so.
        if saves:
            cure: dict[str, Any] = {"modules_to_save": [*plan.saved, *missing]}
        elif all(model.component(name) == "aligner" for name in plan.adapted):
            cure = train_aligner(model)
        elif tuner.target_regex is not None:
            cure = {"target_regex": f"{tuner.target_regex}|{aligner_regex(model)}"}
        else:
            layers = [m.name for m in model if m.kind is Kind.LINEAR and is_inside(m.name, missing)]
            cure = {"target_modules": [*(tuner.target_modules or []), *layers]}
        shares = {part: sum(weight.numel for weight in model.under(part)) for part in parts}
        percent = round(100 * sum(shares[part] for part in missing) / sum(shares.values()))
        yield Problem(
            "aligner-incomplete",
            f"{names(missing)} would stay frozen: {percent}% of the aligner",
            f"{'they feed' if len(missing) > 1 else 'it feeds'} the LLM too; train all of the aligner:",
            {"tuner": cure},
            where,
        )
    elif not trained and plan.trainables:
        yield Problem(
            "aligner-untouched",
            "nothing in the aligner would train",
            "train the aligner, or ignore this if you mean to train other parts only",
            where=where,
        )


def _parts_for_images(model: Model) -> list[str]:
    """The parts of the aligner; without those for sound, where there are others."""
    return [part for part in model.mergers if "audio" not in part] or list(model.mergers)


def _idle(parts: list[str], plan: TuningPlan) -> list[str]:
    return [part for part in parts if not any(is_inside(item.module, [part]) for item in plan.trainables)]


def _saves_aligner(model: Model, plan: TuningPlan) -> bool:
    return any(model.component(name) == "aligner" for name in plan.saved)


def vit_by_suffix(config: Config, model: Model, plan: TuningPlan) -> Iterable[Problem]:
    tuner = config.tuner
    if tuner.train_type == "full" or (tuner.given("freeze_vit") and not tuner.freeze_vit):
        return
    targets = [tuner.target_regex] if tuner.target_regex is not None else tuner.target_modules or []
    code, hint = "vit-by-suffix", "set freeze_vit: false if you mean the ViT too; to train the aligner alone:"
    adapted = _unnamed_vit(plan.adapted, targets, model)
    if adapted:
        cure = train_aligner(model)
        if _saves_aligner(model, plan):  # it trains whole already
            cure = {"target_regex": "^$"} if tuner.method.name == "lora" else {**cure, "modules_to_save": []}
        message = f"{plan.decided_at[1]} also adapts {counted(len(adapted), 'ViT layer')}: {names(adapted)}"
        yield Problem(code, message, hint, {"tuner": cure}, config.where(*plan.decided_at))
    saved = _unnamed_vit(plan.saved, tuner.modules_to_save, model)
    if saved:
        kept = [name for name in plan.saved if model.component(name) == "llm"]
        cure = {"modules_to_save": [*kept, *model.mergers]}
        message = f"modules_to_save also trains {counted(len(saved), 'ViT module')} whole: {names(saved)}"
        yield Problem(code, message, hint, {"tuner": cure}, config.where("tuner", "modules_to_save"))


def _unnamed_vit(chosen: Iterable[str], settings: list[str], model: Model) -> list[str]:
    """ViT modules that no setting names by their part of the ViT, e.g. "blocks", nor by ms-swift's all-norm."""
    hit = [name for name in chosen if model.component(name) == "vit" and name not in settings]
    named = " ".join(settings)
    if "all-norm" in settings or "all-embedding" in settings:
        return []
    return [name for name in hit if _vit_part(name, model) not in named]


def _vit_part(name: str, model: Model) -> str:
    prefix = next((prefix for prefix in model.architecture.vit if is_inside(name, [prefix])), "")
    return name.removeprefix(prefix + ".").partition(".")[0]


def head_and_embeddings(config: Config, model: Model, plan: TuningPlan) -> Iterable[Problem]:
    tuner = config.tuner
    if tuner.train_type == "full" and not tuner.freeze_llm:  # which names them
        return
    named = " ".join([tuner.target_regex or "", *(tuner.target_modules or []), *tuner.modules_to_save])
    for name in sorted({item.module for item in plan.trainables}):
        last = name.rpartition(".")[2]
        if last not in ("lm_head", "embed_tokens"):
            continue
        where = config.where(*(plan.decided_at if name in plan.adapted else ("tuner", "modules_to_save")))
        if last not in named and "all-embedding" not in named:
            code = "lm-head-trained" if last == "lm_head" else "embeddings-trained"
            message = f"{name} would train, and no setting names it"
            yield Problem(code, message, "narrow the target to the layers that you mean", where=where)
        if model.tied:
            message = f"{name} would train, but this model ties lm_head to the embedding: both would change"
            yield Problem("tied-embeddings", message, "leave lm_head and embed_tokens frozen", where=where)


def freeze_flags(config: Config, model: Model, plan: TuningPlan) -> Iterable[Problem]:
    tuner = config.tuner
    given = [part for part in COMPONENTS if tuner.given(f"freeze_{part}")]
    if plan.decided_by in ("full", "freeze_flags") or not given:
        return
    wrong = {part: text for part in given if (text := _contradiction(part, tuner, model, plan))}
    key = plan.decided_at[1]
    if wrong:
        where = config.where("tuner", f"freeze_{next(iter(wrong))}")
        hint = f"{key} decides what gets adapters: correct it, or remove the flag"
        yield Problem("freeze-flags-contradicted", "; ".join(wrong.values()), hint, where=where)
    else:
        flags = ", ".join(f"freeze_{part}" for part in given)
        message = f"{flags}: no effect, since {key} decides what gets adapters"
        yield Problem("freeze-flags-ignored", message, where=config.where("tuner", f"freeze_{given[0]}"))


def _contradiction(part: Component, tuner: TunerSection, model: Model, plan: TuningPlan) -> str | None:
    """The guide freezes the aligner from adapters and saves it whole; LLM and ViT are to be frozen altogether."""
    frozen = tuner.frozen[part]
    text = f"freeze_{part}: {'true' if frozen else 'false'}, but"
    trains = any(item.component == part for item in plan.trainables)
    if not frozen:
        return None if trains else f"{text} the {SPOKEN[part]} stays frozen"
    if any(model.component(name) == part for name in plan.adapted):
        return f"{text} the {SPOKEN[part]} gets adapters"
    saved = [name for name in plan.saved if model.component(name) == part]
    return f"{text} {names(saved)} trains whole" if saved and part != "aligner" else None


def unused_settings(config: Config, model: Model, plan: TuningPlan) -> Iterable[Problem]:
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


def weights_missing(config: Config, model: Model, plan: TuningPlan) -> Iterable[Problem]:
    """transformers gives missing weights random values, with a warning at most."""
    if model.missing:
        count = counted(len(model.missing), "tensor")
        message = f"the weight files lack {count} that config.json describes: {names(model.missing)}"
        yield Problem("weights-missing", message, "download the model again, or correct its config.json")


def unbuilt(config: Config, model: Model, plan: TuningPlan) -> Iterable[Problem]:
    if model.unbuilt:
        count = counted(len(model.unbuilt), "tensor")
        message = f"the weight files hold {count} outside the model class: {names(model.unbuilt)}"
        yield Problem("unbuilt-tensors", message, "training leaves them as they are")


def expect_aligner(plan: TuningPlan, model: Model) -> Iterable[Problem]:
    """For ``--expect aligner``: what trains lies in the aligner, and in each of its parts for images."""
    outside = [item.parameter for item in plan.trainables if item.component != "aligner"]
    yield from about("outside-expected", outside, "outside the aligner would train", limit=2)
    if idle := _idle(_parts_for_images(model), plan):
        yield Problem("outside-expected", f"nothing would train in {names(idle)}")
