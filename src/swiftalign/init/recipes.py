"""The configurations that ``swiftalign init`` writes, and which method suits which problem."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from textwrap import indent
from typing import Any

from swiftalign.methods import offered

SCHEMA_FILE = "swiftalign.schema.json"


@dataclass(frozen=True)
class Advice:
    """The method that suits a problem, by the runs of docs/methods.md, or by the literature where they do not cover it.

    Attributes:
        reason: why it suits the problem, in one line.
        measured: what those runs show, in one line, or that they do not cover the problem.
        extra: lines to add at the end of the file, which ends with the training section.
    """

    method: str
    reason: str
    measured: str
    extra: str = ""


# tests/test_methods.py compares every `measured` with the runs.
PROBLEMS: dict[str, Advice] = {
    "overfitting": Advice(
        "modules_to_save",
        "a low rate, more weight decay and a longer warm-up hold full-parameter training back",
        "with few rows no other surely recovered or kept more; lower rates and weight decay were not compared",
        "  weight_decay: 0.2\n  warmup_ratio: 0.3\n",
    ),
    "grounding-drift": Advice(
        "modules_to_save",
        "quads and lines drift under strong geometric augmentation",
        "rotation cost accuracy, quads and lines most; with many rows changed colours cost some too",
        "\ncustom:\n  augmentation:\n"
        "    preset: conservative   # little geometry, much appearance; 'swiftalign preview-aug' shows what it does\n",
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
    steps: int = 0,
    training: Mapping[str, Any] | None = None,
    dtype: str | None = None,
    name: str = "config.yaml",
) -> str:
    """A configuration with comments, as YAML text.

    Args:
        steps: optimizer steps of the run, for AdaLoRA's schedule; 0 if the data is not known yet.
        training: settings of the training section, in place of the default ones.
        dtype: dtype to load the model in; None for the dtype that it is stored in.
        name: file name, for the comment that says what to run next.
    """
    chosen, advice = offered()[method], PROBLEMS.get(problem or "")
    training = training or {"aligner_lr": chosen.aligner_lr, "num_train_epochs": 3, "per_device_train_batch_size": 4}
    source = f"{{path: {_quote(model)}, dtype: {dtype}}}" if dtype else _quote(model)
    head = f"# {method}: {chosen.summary}.\n"
    if advice:
        head += f"# Chosen for {problem}: {advice.reason}.\n# Measured (docs/methods.md): {advice.measured}.\n"
    return (
        f"# yaml-language-server: $schema={SCHEMA_FILE}\n{head}"
        f"# 'swiftalign inspect-params {name}' shows what will train, 'swiftalign train {name}' trains it.\n"
        f"model: {source}\n\n"
        f"data:\n  {_data_line('train', train)}  {_data_line('val', val)}\n"
        f"tuner:\n{indent(chosen.recipe_for(steps), '  ')}\n"
        "training:\n" + "".join(f"  {key}: {value}\n" for key, value in training.items())
    ) + (advice.extra if advice else "")


def _data_line(key: str, path: str | None) -> str:
    if path:
        return f"{key}: {_quote(path)}\n"
    return f"# {key}: data/{key}.jsonl   # JSONL: images, objects with bbox_2d, quad, line, point_2d or polygon\n"


def _quote(text: str) -> str:
    from swiftalign.yaml12 import dump_yaml

    return dump_yaml({"x": text}).removeprefix("x:").strip()
