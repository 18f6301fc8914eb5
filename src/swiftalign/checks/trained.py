"""What trains, against what the settings seem to mean."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from swiftalign.config import COMPONENTS, Config
from swiftalign.findings import Finding
from swiftalign.modules import Modules
from swiftalign.targets import aligner_regex, names

if TYPE_CHECKING:
    from swiftalign.plan import TuningPlan


def something_trains(config: Config, modules: Modules, plan: TuningPlan) -> Iterable[Finding]:
    if not plan.trainables and not config.tuner.use_dora:
        fix = {"tuner": {"target_regex": "^$", "modules_to_save": list(modules.mergers)}}
        if config.tuner.train_type != "lora":
            fix = {"tuner": {"target_regex": aligner_regex(modules)}}
        yield Finding("nothing-trains", "no parameter would train", "to train the aligner:", fix)


def whole_aligner(config: Config, modules: Modules, plan: TuningPlan) -> Iterable[Finding]:
    trained = [part for part in modules.mergers if any(_within(item.module, part) for item in plan.trainables)]
    missing = [part for part in modules.mergers if part not in trained]
    if trained and missing:
        shares = {part: sum(weight.numel for weight in modules.under(part)) for part in modules.mergers}
        percent = round(100 * sum(shares[part] for part in missing) / sum(shares.values()))
        tuner: dict[str, Any] = {"modules_to_save": list(dict.fromkeys([*plan.saved, *modules.mergers]))}
        if any(_within(name, part) for name in plan.adapted for part in modules.mergers):
            tuner = {"target_regex": aligner_regex(modules)}
        yield Finding(
            "aligner-incomplete",
            f"{names(missing)} would stay frozen: {percent}% of the aligner",
            "the deepstack mergers feed the LLM beside visual.merger; to train all of it:",
            {"tuner": tuner},
            config.where("tuner", "modules_to_save" if plan.saved else "target_regex"),
        )
    elif not trained and plan.trainables:
        yield Finding("aligner-untouched", "nothing in the aligner would train", "is this what you want?")


def _within(name: str, parent: str) -> bool:
    return name == parent or name.startswith(parent + ".")


def vit_by_suffix(config: Config, modules: Modules, plan: TuningPlan) -> Iterable[Finding]:
    tuner = config.tuner
    hit = [name for name in plan.adapted if modules.component(name) == "vit"]
    wanted = tuner.given("freeze_vit") and not tuner.freeze_vit
    if hit and not wanted:
        key = "target_regex" if tuner.target_regex is not None else "target_modules"
        yield Finding(
            "vit-by-suffix",
            f"{key} also adapts {len(hit)} ViT layers: {names(hit)}",
            "if you mean the ViT too, set freeze_vit: false; for the aligner alone:",
            {"tuner": {"target_regex": aligner_regex(modules)}},
            config.where("tuner", key),
        )


def head_and_embeddings(config: Config, modules: Modules, plan: TuningPlan) -> Iterable[Finding]:
    tuner = config.tuner
    named = " ".join([tuner.target_regex or "", *(tuner.target_modules or []), *tuner.modules_to_save])
    full_llm = tuner.train_type == "full" and not tuner.freeze_llm
    trained = {item.module for item in plan.trainables}
    heads = {name: name.rpartition(".")[2] for name in trained}
    for name, last in sorted(heads.items()):
        if last not in ("lm_head", "embed_tokens"):
            continue
        code = "lm-head-trained" if last == "lm_head" else "embeddings-trained"
        if last not in named and "all-embedding" not in named and not full_llm:
            yield Finding(
                code, f"{name} would train, and no setting names it", "narrow the target to the layers you mean"
            )
        if modules.tied and not full_llm:
            message = f"{name} would train, but this model ties lm_head to the embedding: both would change, or neither"
            yield Finding("tied-embeddings", message, "leave lm_head and embed_tokens frozen")


def freeze_flags(config: Config, modules: Modules, plan: TuningPlan) -> Iterable[Finding]:
    tuner = config.tuner
    given = [f"freeze_{part}" for part in COMPONENTS if tuner.given(f"freeze_{part}")]
    explicit = tuner.target_regex is not None or tuner.target_modules not in (None, ["all-linear"])
    if tuner.train_type == "full" or not explicit or not given:
        return
    adapted = {modules.component(name) for name in plan.adapted}
    trained = {item.component for item in plan.trainables}
    wrong = [
        f"freeze_{part}: {'true' if getattr(tuner, f'freeze_{part}') else 'false'}, but the {part} "
        f"{'gets adapters' if part in adapted else 'stays frozen'}"
        for part in COMPONENTS
        if f"freeze_{part}" in given and (part in adapted if getattr(tuner, f"freeze_{part}") else part not in trained)
    ]
    key = "target_regex" if tuner.target_regex is not None else "target_modules"
    where = config.where("tuner", given[0])
    if wrong:
        yield Finding(
            "freeze-flags-contradicted", "; ".join(wrong), f"{key} decides; drop the flag, or {key}", where=where
        )
    else:
        message = f"{', '.join(given)}: no effect, since {key} decides what gets adapters"
        yield Finding("freeze-flags-ignored", message, "they agree with what trains; nothing to do", where=where)


def unused_settings(config: Config, modules: Modules, plan: TuningPlan) -> Iterable[Finding]:
    tuner = config.tuner
    prefixes = {"lora": ("lora_", "use_"), "adalora": ("adalora_", "lora_alpha", "lora_dropout", "use_")}
    own = prefixes.get(
        tuner.train_type, ("boft_", "fourier_") if tuner.train_type == "full" else (tuner.train_type[:4],)
    )
    if not plan.adapted:
        own = ()
    settings = ("lora_", "adalora_", "boft_", "fourier_", "use_rslora")
    unused = [name for name in tuner.model_fields_set if name.startswith(settings) and not name.startswith(own)]
    if tuner.target_regex is not None and tuner.target_modules is not None:
        unused.append("target_modules")
    if tuner.train_type == "full":
        unused += [n for n in ("modules_to_save", "target_regex", "target_modules") if tuner.given(n)]
    if unused and not tuner.use_dora:
        where = config.where("tuner", min(unused))
        yield Finding("setting-unused", f"{', '.join(sorted(unused))}: no effect with {plan.method}", "", where=where)


def unbuilt(config: Config, modules: Modules, plan: TuningPlan) -> Iterable[Finding]:
    if modules.unbuilt:
        message = (
            f"the weight files hold {len(modules.unbuilt)} tensors outside the model class: {names(modules.unbuilt)}"
        )
        yield Finding("unbuilt-tensors", message, "training leaves them as they are")


def expect_aligner(plan: TuningPlan, modules: Modules) -> Iterable[Finding]:
    """For ``--expect aligner``: what trains lies in the aligner, and in each of its mergers."""
    outside = [item.parameter for item in plan.trainables if item.component != "aligner"]
    if outside:
        message = f"{len(outside)} tensors outside the aligner would train: {names(outside, 2)}"
        yield Finding("outside-expected", message)
    idle = [part for part in modules.mergers if not any(_within(item.module, part) for item in plan.trainables)]
    if idle:
        yield Finding("outside-expected", f"nothing would train in {names(idle)}")
