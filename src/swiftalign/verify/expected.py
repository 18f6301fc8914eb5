"""What a checkpoint ought to hold: by the run's plan, by a config, by its adapter_config, or by its model's config."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from swiftalign.architectures import NAME_TABLES, QWEN3_VL
from swiftalign.checkpoint import TensorInfo, read_json
from swiftalign.config import NO_TARGETS, Config, ModelSection, TunerSection
from swiftalign.errors import ModelError, SwiftalignError
from swiftalign.modules import read_modules
from swiftalign.plan import TuningPlan, read_plan, resolve_plan
from swiftalign.qwen3_vl import tensors_of_config

ADAPTER_PREFIX = "base_model.model."


@dataclass(frozen=True)
class Expectation:
    """What a checkpoint ought to hold.

    Attributes:
        source: in words, for the report.
        tensors: by name; None where nothing says.
        plan: the plan behind it, if there is one.
        dtypes: whether dtypes are part of it.
    """

    source: str
    tensors: dict[str, TensorInfo] | None = None
    plan: TuningPlan | None = None
    dtypes: bool = True

    def trains(self, name: str) -> bool:
        """Whether a tensor of the base model, or of the checkpoint, is one that the plan trains."""
        if self.plan is None:
            return QWEN3_VL.component(name.removeprefix(ADAPTER_PREFIX)) == "aligner"
        return name in self._trained

    @property
    def _trained(self) -> frozenset[str]:
        """Keys of the checkpoint, and base tensors that merging changes."""
        assert self.plan is not None
        keys = {item.key for item in self.plan.trainables}
        whole = {item.key.removeprefix(ADAPTER_PREFIX) for item in self.plan.trainables if item.how == "whole"}
        adapted = {f"{name}.weight" for name in self.plan.adapted}
        return frozenset(keys | whole | adapted)


def expect(folder: Path, kind: str, *, config: Config | None, base: Path | None) -> Expectation:
    """The best expectation there is.

    Args:
        folder: of the weight files.
        kind: adapter, model or file; see `Weights`.
        config: given by the user; it comes before adapter_config.json, and after the run's own plan.
        base: folder of the base model.

    Raises:
        ModelError: the run's plan can't be read.
    """
    for place in (folder, folder.parent):
        if (place / "plan.json").is_file():
            return _of_plan(_read_plan(place / "plan.json"), f"the run's plan, {place / 'plan.json'}", kind)
    if config is not None:
        return _of_plan(resolve_plan(_without_data(config), read_modules(config)), "the config", kind)
    if kind == "adapter":
        return _of_adapter(folder, base)
    return _of_model(folder) if kind == "model" else Expectation("nothing: no plan, and no config is given")


def _read_plan(path: Path) -> TuningPlan:
    try:
        return read_plan(path)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{path}: not a plan of this release ({error})", "give the run's config with --config"
        ) from None


def _without_data(config: Config) -> Config:
    """Steps do not matter to a checkpoint's contents, and the data may be elsewhere by now."""
    return config.model_copy(update={"data": config.data.model_copy(update={"train": [], "val": []})})


def _of_plan(plan: TuningPlan, source: str, kind: str) -> Expectation:
    merged = kind == "model" and plan.train_type != "full"
    if merged:  # a merged model: the base's own tensors
        try:
            config = Config(model=ModelSection(path=plan.model))
            tensors = {weight.name: weight for weight in read_modules(config).parameters()}
        except SwiftalignError:
            return Expectation(source, None, plan, dtypes=False)
        return Expectation(source, tensors, plan, dtypes=False)
    return Expectation(source, {tensor.name: tensor for tensor in plan.tensors}, plan)


def _of_adapter(folder: Path, base: Path | None) -> Expectation:
    """By adapter_config.json against the base model, where both can be read."""
    try:
        adapter = read_json(folder / "adapter_config.json")
        model = str(base or adapter["base_model_name_or_path"])
        config = Config(model=ModelSection(path=model), tuner=tuner_of_adapter(adapter))
        plan = resolve_plan(config, read_modules(config))
    except (SwiftalignError, KeyError, TypeError, ValueError, AttributeError):
        return Expectation("nothing: no plan, and adapter_config.json with its base model can't be read")
    return replace(_of_plan(plan, "adapter_config.json and the base model", "adapter"), dtypes=False)


def tuner_of_adapter(adapter: dict[str, Any]) -> TunerSection:
    """The tuner settings that peft's own config stands for.

    Raises:
        ValueError: it is of a method that this toolkit does not know, or malformed (pydantic's errors are ValueErrors).
    """
    targets = adapter.get("target_modules")
    values: dict[str, Any] = {
        "train_type": str(adapter["peft_type"]).lower(),
        "modules_to_save": list(adapter.get("modules_to_save") or []),
        "target_regex": targets if isinstance(targets, str) else None,
        "target_modules": sorted(targets) if isinstance(targets, list) and targets else None,
    }
    if not targets:
        values["target_regex"] = NO_TARGETS[0]
    names = {
        "r": "lora_rank",
        "lora_alpha": "lora_alpha",
        "use_dora": "use_dora",
        "use_rslora": "use_rslora",
        "init_r": "adalora_init_r",
        "target_r": "adalora_target_r",
        "boft_block_size": "boft_block_size",
        "boft_block_num": "boft_block_num",
        "boft_n_butterfly_factor": "boft_n_butterfly_factor",
        "n_frequency": "fourier_n_frequency",
    }
    values |= {ours: adapter[theirs] for theirs, ours in names.items() if adapter.get(theirs) is not None}
    return TunerSection(**values)


def _of_model(folder: Path) -> Expectation:
    try:
        values = read_json(folder / "config.json")
        if values.get("model_type") in NAME_TABLES:
            return Expectation("the model's config.json", {t.name: t for t in tensors_of_config(values)}, dtypes=False)
    except (ModelError, KeyError, TypeError, AttributeError):
        pass
    return Expectation("nothing: the config is of no known model")
