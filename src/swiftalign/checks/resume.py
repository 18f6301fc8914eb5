"""Whether the checkpoint to resume from fits the plan."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from swiftalign.checkpoint.adapter_config import AdapterConfig, checked_adapter_config
from swiftalign.config.sections import Config
from swiftalign.methods import METHODS, of_adapter
from swiftalign.model.safetensors import read_json
from swiftalign.model.tree import Model, is_inside
from swiftalign.plan.plan import TuningPlan
from swiftalign.problems import ModelError, Problem, counted, names


def resume(config: Config, model: Model, plan: TuningPlan) -> Iterable[Problem]:
    checkpoint = config.training.resume_from_checkpoint
    if checkpoint is None:
        return
    where = config.where("training", "resume_from_checkpoint")
    adapter, name = None, "adapter_config.json"
    try:
        if plan.train_type != "full":
            adapter = checked_adapter_config(Path(checkpoint) / name, _read_mapping(checkpoint, name))
        state = _read_mapping(checkpoint, "trainer_state.json")
    except ModelError as error:
        yield Problem(
            "resume-mismatch", error.message, "name a checkpoint-N folder of a run of this method", where=where
        )
        return
    differences = _differences(adapter, config, model, plan) if adapter else []
    if differences:
        message = f"{checkpoint} differs from this config: {'; '.join(differences)}"
        yield Problem("resume-mismatch", message, "resume with the run's own config", where=where)
    step, total = state.get("global_step"), plan.schedule.steps
    if isinstance(step, int) and total is not None and step >= total:
        message = f"{checkpoint} is at step {step}, and the run ends at step {total}: no steps are left to train"
        yield Problem("resume-finished", message, "raise num_train_epochs or max_steps", where=where)


def _read_mapping(checkpoint: str, name: str) -> dict[str, Any]:
    path = Path(checkpoint) / name
    if not Path(checkpoint).is_dir():
        raise ModelError(f"{checkpoint}: no such folder")
    if not path.is_file():
        raise ModelError(f"{checkpoint} is not a checkpoint of such a run: it has no {name}")
    values = read_json(path)
    if not isinstance(values, dict):
        raise ModelError(f"{path}: not a mapping")
    return values


def _differences(adapter: AdapterConfig, config: Config, model: Model, plan: TuningPlan) -> list[str]:
    found = of_adapter(adapter.values)
    method = found.name if found else adapter.kind
    expected = plan.method if plan.method != "modules_to_save" else plan.train_type
    if method != expected:
        return [f"method {method}, here {plan.method}"]
    differences = []
    saved = [module.name for module in model if module.name.endswith(tuple(adapter.saved))]
    if set(saved) != set(plan.saved):
        differences.append(f"modules_to_save {names(saved) or 'none'}, here {names(plan.saved) or 'none'}")
    matched = [m.name for m in model if m.kind in METHODS[plan.train_type].adapts and adapter.adapts(m.name)]
    layers = [name for name in matched if not is_inside(name, saved)]
    if set(layers) != set(plan.adapted):
        differences.append(f"adapters on {counted(len(layers), 'layer')}, here on {len(plan.adapted)} or on others")
    elif layers and not config.tuner.method.ranks_may_shrink:
        settings = config.tuner.settings  # the checkpoint brings its own along: the config's would have no effect
        differences += [
            f"{name} {_spelled(value)}, here {_spelled(getattr(settings, name))}"
            for name, value in settings.peft_settings(adapter.values).items()
            if value != getattr(settings, name)
        ]
    if adapter.base and Path(adapter.base).name != Path(plan.model).name:
        differences.append(f"base {adapter.base}, here {plan.model}")
    return differences


def _spelled(value: object) -> str:
    """As YAML has it: true, and 32 for 32.0."""
    return f"{value:g}" if isinstance(value, float) else str(value).lower()
