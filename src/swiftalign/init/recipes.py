"""The configurations that ``swiftalign init`` writes, and which method suits which problem."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from swiftalign.methods import offered

SCHEMA_FILE = "swiftalign.schema.json"


@dataclass(frozen=True)
class Advice:
    """The method that suits a problem, by the runs of docs/methods.md, or by the literature where they do not cover it.

    Attributes:
        reason: why it suits the problem, in one line.
        measured: what those runs show, in one line, or that they do not cover the problem.
        training: lines to add to the training section.
        extra: lines to add at the end of the file.
    """

    method: str
    reason: str
    measured: str
    aligner_lr: str | None = None
    training: str = ""
    extra: str = ""


_CONSERVATIVE = """
custom:
  augmentation:
    preset: conservative   # little geometry, much appearance; 'swiftalign preview-aug' shows what it does
"""

# tests/test_methods.py compares every `measured` with the runs.
PROBLEMS: dict[str, Advice] = {
    "overfitting": Advice(
        "modules_to_save",
        "a low rate, more weight decay and a longer warm-up hold full-parameter training back",
        "with few rows no other surely recovered or kept more; lower rates and weight decay were not compared",
        "1.0e-4",
        "weight_decay: 0.2\nwarmup_ratio: 0.3\n",
    ),
    "grounding-drift": Advice(
        "modules_to_save",
        "quads and lines drift under strong geometric augmentation",
        "rotation cost accuracy, quads and lines most; with many rows changed colours cost some too",
        extra=_CONSERVATIVE,
    ),
    "capacity": Advice(
        "adalora",
        "AdaLoRA finds out which layers need more rank",
        "adalora forgot least on average; it recovered less than modules_to_save",
    ),
    "optimization": Advice(
        "modules_to_save",
        "full-parameter training has no rank to limit it",
        "with many rows it recovered more than dora, which can't be told apart from lora",
    ),
    "coordinate-space": Advice(
        "boft",
        "rotations keep the geometry of the features",
        "no other adapter surely recovered more; with few rows boft forgot more than modules_to_save",
    ),
    "spatial-patterns": Advice(
        "fourierft",
        "FourierFT learns in the frequency domain",
        "nothing on spatial patterns; fourierft recovered less than modules_to_save",
    ),
}


def write_config(
    *,
    model: str,
    method: str,
    train: str | None = None,
    val: str | None = None,
    problem: str | None = None,
    steps: int | None = None,
    training: Mapping[str, Any] | None = None,
    dtype: str | None = None,
    name: str = "config.yaml",
) -> str:
    """A commented configuration as YAML text.

    Args:
        steps: optimizer steps of the run, for AdaLoRA's schedule; None if the data is not known yet.
        training: settings of the training section, in place of the default ones.
        dtype: dtype to load the model in; None for the dtype that it is stored in.
        name: file name, for the comment that says what to run next.
    """
    chosen, advice = offered()[method], PROBLEMS.get(problem or "")
    rate = (advice and advice.aligner_lr) or chosen.aligner_lr
    extra = advice.training if advice else ""
    lines: dict[str, Any] = {"aligner_lr": rate, "num_train_epochs": 3, "per_device_train_batch_size": 4}
    if training is not None:
        lines = dict(training)
    body = "".join(f"{key}: {value}\n" for key, value in lines.items())
    head = f"# {method}: {chosen.summary}.\n"
    if advice:
        head += f"# Chosen for {problem}: {advice.reason}.\n# Measured (docs/methods.md): {advice.measured}.\n"
    return (
        f"# yaml-language-server: $schema={SCHEMA_FILE}\n{head}"
        f"# 'swiftalign inspect-params {name}' shows what will train, 'swiftalign train {name}' trains it.\n"
        f"model: {_model(model, dtype)}\n\n"
        f"data:\n  {_data_line('train', train)}  {_data_line('val', val)}\n"
        f"tuner:\n{_indent(chosen.recipe_for(steps or 0))}\n"
        f"training:\n{_indent(body + extra)}" + (advice.extra if advice else "")
    )


def _model(path: str, dtype: str | None) -> str:
    return f"{{path: {_quote(path)}, dtype: {dtype}}}" if dtype else _quote(path)


def _data_line(key: str, path: str | None) -> str:
    if path:
        return f"{key}: {_quote(path)}\n"
    return f"# {key}: data/{key}.jsonl   # JSONL: images, objects with bbox_2d, quad or line\n"


def _quote(text: str) -> str:
    from swiftalign.yaml12 import dump_yaml

    return dump_yaml({"x": text}).removeprefix("x:").strip()


def _indent(text: str) -> str:
    return "".join(f"  {line}\n" for line in text.splitlines())
