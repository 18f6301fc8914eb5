"""The configurations that ``swiftalign init`` writes: one per tuning method, and which method suits which problem."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from swiftalign.model.qwen3_vl import QWEN3_VL
from swiftalign.plan.schedule import adalora_schedule

SCHEMA_FILE = "swiftalign.schema.json"

ALIGNER_LINEAR = f"'{QWEN3_VL.aligner_regex}'"


@dataclass(frozen=True)
class Recipe:
    """One tuning method, ready to write.

    Attributes:
        summary: what it is, in a line.
        tuner: the lines under ``tuner:``, commented.
        aligner_lr: a learning rate to start from.
    """

    summary: str
    tuner: str
    aligner_lr: str


_TARGETS = f"target_regex: {ALIGNER_LINEAR}   # the aligner's Linear layers\n"

RECIPES: dict[str, Recipe] = {
    "modules_to_save": Recipe(
        "the whole aligner trains, everything else is frozen",
        "train_type: lora\n"
        "target_regex: '^$'   # no adapter layers\n"
        "modules_to_save:   # train whole: merger and deepstack mergers\n"
        + "".join(f"  - {name}\n" for name in QWEN3_VL.architecture.aligner),
        "1.0e-4",
    ),
    "lora": Recipe(
        "low-rank updates of the aligner's Linear layers",
        "train_type: lora\n" + _TARGETS + "lora_rank: 16\nlora_alpha: 32\n",
        "2.0e-4",
    ),
    "dora": Recipe(
        "LoRA with a magnitude per output, of the aligner's Linear layers (arXiv:2402.09353)",
        "train_type: lora\nuse_dora: true\n" + _TARGETS + "lora_rank: 16\nlora_alpha: 32\n",
        "2.0e-4",
    ),
    "adalora": Recipe(
        "LoRA whose ranks are pruned where they matter least (arXiv:2303.10512)",
        "train_type: adalora\n" + _TARGETS + "adalora_init_r: 32   # rank at the start\n"
        "adalora_target_r: 16   # mean rank at the end\n"
        "adalora_tinit: {tinit}   # steps before the first pruning\n"
        "adalora_tfinal: {tfinal}   # steps after the last pruning, at the end of the run\n"
        "adalora_deltaT: {delta}   # steps between prunings\n",
        "2.0e-4",
    ),
    "boft": Recipe(
        "orthogonal rotations, block by block, of the aligner's Linear layers (arXiv:2311.06243)",
        "train_type: boft\n" + _TARGETS + "boft_block_size: 4\nboft_dropout: 0.1\n",
        "1.0e-4",
    ),
    "fourierft": Recipe(
        "a sparse spectrum of updates for each of the aligner's Linear layers (arXiv:2405.03003)",
        "train_type: fourierft\n" + _TARGETS + "fourier_n_frequency: 2000\nfourier_scaling: 300.0\n",
        "1.0e-3",
    ),
}


@dataclass(frozen=True)
class Advice:
    """What suits a problem: by the runs of docs/methods.md where they speak to it, else by the literature.

    Attributes:
        reason: why, in a line.
        measured: what those runs show, in a line, or that they don't speak to it.
        training: lines to add under ``training:``.
        extra: further lines at the end of the file.
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

# tests/test_methods.py holds what is said to be measured against the runs.
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
        steps: optimizer steps of the run, for AdaLoRA's schedule; None where the data is not known yet.
        training: settings in place of the recipe's.
        dtype: to load the model in; None for the one it is stored in.
        name: of the file, for the comment that says what to type next.
    """
    recipe, advice = RECIPES[method], PROBLEMS.get(problem or "")
    rate = (advice and advice.aligner_lr) or recipe.aligner_lr
    extra = advice.training if advice else ""
    lines: dict[str, Any] = {"aligner_lr": rate, "num_train_epochs": 3, "per_device_train_batch_size": 4}
    if training is not None:
        lines = dict(training)
    body = "".join(f"{key}: {value}\n" for key, value in lines.items())
    head = f"# {method}: {recipe.summary}.\n"
    if advice:
        head += f"# Chosen for {problem}: {advice.reason}.\n# Measured (docs/methods.md): {advice.measured}.\n"
    return (
        f"# yaml-language-server: $schema={SCHEMA_FILE}\n{head}"
        f"# 'swiftalign inspect-params {name}' shows what will train, 'swiftalign train {name}' trains it.\n"
        f"model: {_model(model, dtype)}\n\n"
        f"data:\n  {_data_line('train', train)}  {_data_line('val', val)}\n"
        f"tuner:\n{_indent(tuner_lines(method, steps))}\n"
        f"training:\n{_indent(body + extra)}" + (advice.extra if advice else "")
    )


def tuner_lines(method: str, steps: int | None) -> str:
    """The lines under ``tuner:``, with AdaLoRA's schedule for that many steps."""
    tinit, tfinal, gap = adalora_schedule(steps or 0)  # zero steps: pruning over the whole run, whatever its length
    return RECIPES[method].tuner.format(tinit=tinit, tfinal=tfinal, delta=min(gap, 200))


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
