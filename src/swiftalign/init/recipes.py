"""The configurations that ``swiftalign init`` writes, and which method suits which problem."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from textwrap import indent
from typing import Any

from swiftalign.data.targets import Kind
from swiftalign.methods import offered
from swiftalign.methods.base import ALIGNER_LINEAR, ALIGNER_WHOLE, Method
from swiftalign.model.families import find
from swiftalign.model.qwen3_vl import QWEN3_VL
from swiftalign.model.swift_map import type_of_model
from swiftalign.model.tree import Component, Model, is_inside
from swiftalign.model.tree import Kind as LayerKind
from swiftalign.plan.selection import aligner_regex

SCHEMA_FILE = "swiftalign.schema.json"

REPLAYED = 0.25  # share of the training rows that `init --replay` draws from the file of what must not be forgotten

# Of the mixed recipe: how many of the last layers get adapters.
LLM_LAYERS, VIT_BLOCKS = 4, 6


# Settings of a run, as YAML with comments. Shares of a run stay right for any number of rows, epochs and processes.
RUN: dict[str, str] = {
    "warmup_ratio": "0.05   # share of the run in which the rate rises: Adam's first steps rest on few gradients",
    "lr_scheduler_type": "cosine   # then the rate falls to zero, so that the weights settle",
    "save_steps": "0.1   # share of the run: ten checkpoints, so that little is lost if it is cut off",
    "save_total_limit": "2   # older checkpoints are deleted, as each takes space; the best one never is",
}
EVALUATION: dict[str, str] = {
    "eval_steps": "0.1   # as often as it saves, so that the best model is a saved one",
    "per_device_eval_batch_size": "4",
    "load_best_model_at_end": "true   # later ones may have learned rows by heart; 'export' takes the best one",
}
PATIENCE = "{patience: 4}   # evaluations without an improvement, after which more steps would be wasted"
WITHOUT_EVALUATION = "  # With validation rows (init --val FILE), the best of ten evaluated models would be kept.\n"


@dataclass(frozen=True)
class Recipe:
    """What ``init --method`` writes.

    Attributes:
        summary: what trains, in one line.
        rates: the learning rates of the training section, as YAML with comments.
        tuner: the commented tuner section, for a run of this many steps (0 where the number is not known yet) of this
            model (None where it can't be read).
    """

    summary: str
    rates: Mapping[str, str]
    tuner: Callable[[int, Model | None], str]

    @classmethod
    def of(cls, method: type[Method]) -> Recipe:
        """A tuning method's own recipe, on the aligner."""
        return cls(method.summary, {"aligner_lr": method.aligner_lr}, lambda steps, _: method.recipe_for(steps))


def recipes() -> dict[str, Recipe]:
    """By the names that ``init --method`` takes: each tuning method on the aligner, and plans made of them."""
    return {name: Recipe.of(method) for name, method in offered().items()} | {
        "full": Recipe(
            "the whole aligner trains, without an adapter file: every checkpoint is a whole model",
            {"aligner_lr": "1.0e-4"},
            lambda *_: (
                "train_type: full   # trains what no flag freezes\n"
                "freeze_llm: true\nfreeze_vit: true\nfreeze_aligner: false\n"
            ),
        ),
        "mixed": Recipe(
            "the whole aligner trains, with LoRA on the last layers of the LLM and of the ViT",
            {
                "learning_rate": "1.0e-4   # the LLM's adapters",
                "vit_lr": "1.0e-4   # the ViT's adapters",
                "aligner_lr": "1.0e-4",
            },
            lambda _, model: f"train_type: lora\n{_last_layers(model)}{ALIGNER_WHOLE}lora_rank: 16\nlora_alpha: 32\n",
        ),
    }


@dataclass(frozen=True)
class Aligner:
    """How a configuration names a model's aligner.

    Attributes:
        regex: of the names of its Linear layers.
        parts: the modules that it consists of.
    """

    regex: str
    parts: tuple[str, ...]

    def in_recipe(self, tuner: str) -> str:
        """A recipe's tuner section, with the names of this aligner."""
        many = "merger and deepstack mergers" if len(self.parts) > 1 else "the aligner"
        whole = f"modules_to_save:   # train whole: {many}\n" + "".join(f"  - {part}\n" for part in self.parts)
        layers = f"target_regex: '{self.regex}'   # the aligner's Linear layers\n"
        return tuner.replace(ALIGNER_LINEAR, layers).replace(ALIGNER_WHOLE, whole)


def aligner_of(path: str, model: Model | None) -> Aligner | None:
    """The aligner of a model; without the model, of its family, where its id tells it; else None.

    Args:
        path: folder or hub id of the model.
        model: the model without its weights; None where it can't be read.
    """
    if model:
        return Aligner(aligner_regex(model), tuple(part for part in model.architecture.aligner if part in model))
    published = type_of_model(path)
    family = find(published[0].name) if published else None
    if family is None or family.aligner_regex is None:
        return None
    return Aligner(family.aligner_regex, family.architecture.aligner)


_ENDS = "proj|qkv|fc[12]"  # of the names of a Qwen3-VL's Linear layers
_NARROW = 64  # outputs; an adapter of a layer with fewer would hardly be smaller than the layer


def _last_layers(model: Model | None) -> str:
    """The target_regex of the Linear layers in the last LLM layers and ViT blocks; in all of an unknown model."""
    if model is None:
        return (
            r"# every LLM layer and ViT block, as the model can't be read here; (34|35) for \d+ would name two of them"
            f"\ntarget_regex: '^model\\.(language_model\\.layers\\.\\d+|visual\\.blocks\\.\\d+)\\..*({_ENDS})$'\n"
        )
    parts: tuple[tuple[Component, int], ...] = (("llm", LLM_LAYERS), ("vit", VIT_BLOCKS))
    stacks, counts, others, narrow = [], [], dict[str, None](), dict[str, None]()
    for component, last in parts:
        lists = [m.name for m in model if m.kind is LayerKind.MODULE_LIST and model.component(m.name) == component]
        if not lists:  # e.g. a ViT of another library
            continue
        stack = max(lists, key=lambda name: (-name.count("."), len(model.members(name))))  # the outermost, the longest
        members = model.members(stack)[-last:]
        stacks.append(f"{re.escape(stack)}\\.({'|'.join(name.rpartition('.')[2] for name in members)})")
        counts.append(f"the last {len(members)} {'LLM layers' if component == 'llm' else 'ViT blocks'}")
        inside = (m for m in model if m.kind is LayerKind.LINEAR and is_inside(m.name, members))
        for layer in (layer for layer in inside if not re.search(f"({_ENDS})$", layer.name)):
            (others if layer.weight.shape[0] >= _NARROW else narrow)[layer.name.rpartition(".")[2]] = None
    head = r"model\." if all(stack.startswith(r"model\.") for stack in stacks) else ""
    named = "|".join(stack.removeprefix(head) for stack in stacks)
    ends = "|".join((_ENDS, *map(re.escape, others)))
    without = f", without the narrow {', '.join(narrow)}" if narrow else ""
    return f"# the Linear layers of {' and '.join(counts)}{without}\ntarget_regex: '^{head}({named})\\..*({ends})$'\n"


@dataclass(frozen=True)
class Advice:
    """The method that suits a problem, by the runs that were compared, or by the literature where they do not cover it.

    Attributes:
        reason: why it suits the problem, in one line.
        measured: what those runs show, in one line, or that they do not cover the problem.
        training: settings of the training section, in place of the usual ones.
        custom: lines of the custom section.
        replay: whether rows of what the model must not forget belong into the training rows.
        page: the page of the documentation that describes the runs.
    """

    method: str
    reason: str
    measured: str
    training: Mapping[str, str] = field(default_factory=dict)
    custom: str = ""
    replay: bool = False
    page: str = "methods"


CAMERAS = "cameras"
# tests/test_methods.py and tests/test_cameras.py compare what `measured` says with the runs.
PROBLEMS: dict[str, Advice] = {
    "overfitting": Advice(
        "modules_to_save",
        "a low rate, more weight decay and a longer warm-up hold full-parameter training back",
        "with few rows no other surely recovered or kept more; lower rates and weight decay were not compared",
        {"weight_decay": "0.2", "warmup_ratio": "0.3"},
    ),
    "grounding-drift": Advice(
        "modules_to_save",
        "quads and lines drift under strong geometric augmentation",
        "rotation cost accuracy whatever filled the corners; changed colours helped on cameras not trained on",
        custom="augmentation:\n  preset: conservative   # colours alone; 'swiftalign preview-aug' shows what it does\n",
        page=CAMERAS,
    ),
    "forgetting": Advice(
        "modules_to_save",
        "rows of what the model must not forget are mixed in, a quarter of all (--replay FILE)",
        "replay kept most of what was known; what is left can be traded for what is learnt by 'export --scale'",
        replay=True,
        page=CAMERAS,
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
    replay: tuple[str, float] | None = None,
    problem: str | None = None,
    steps: int = 0,
    training: Mapping[str, Any] | None = None,
    dtype: str | None = None,
    name: str = "config.yaml",
    layers: Model | None = None,
    scored: Sequence[Kind] | None = None,
    phases: str = "",
) -> str:
    """A configuration with comments, as YAML text.

    Args:
        replay: a file of rows that the model must not forget, and its weight beside the training rows.
        steps: optimizer steps of the run, for AdaLoRA's schedule; 0 if the data is not known yet.
        training: settings of the training section, in place of the default ones.
        dtype: dtype to load the model in; None for the dtype that it is stored in.
        name: file name, for the comment that says what to run next.
        layers: the model without its weights, for the names of its aligner and the numbers of its last layers; None
            where it can't be read.
        scored: kinds of target in the validation rows, the one that most rows hold first; None for rows not there yet.
        phases: the phases section of a curriculum; empty for a single run.
    """
    recipe, advice = recipes()[method], PROBLEMS.get(problem or "")
    custom = advice.custom if advice else ""
    settings = dict(training or {**recipe.rates, "num_train_epochs": 3, "per_device_train_batch_size": 4, **RUN})
    if phases:  # each has its own number of epochs
        del settings["num_train_epochs"]
        settings["train_dataloader_shuffle"] = "false"
    if val:
        why = "init did not find the file" if scored is None else "no validation row holds a target that can be scored"
        metric = f"eval_loss   # an accuracy would tell more, but {why}"
        if scored:
            others = [f"eval_{kind}_acc" for kind in scored[1:]]
            why = f"also measured: {', '.join(others)}" if others else "the loss says little about places"
            metric = f"eval_{scored[0]}_acc   # most rows hold a {scored[0]}; {why}"
            custom += "grounding_eval: {rows: 64}   # so many validation rows are answered at each evaluation\n"
        settings |= {**EVALUATION, "metric_for_best_model": metric, "early_stopping": PATIENCE}
    settings |= advice.training if advice else {}
    aligner = aligner_of(model, layers) or Aligner(QWEN3_VL.aligner_regex or "", QWEN3_VL.architecture.aligner)
    source = f"{{path: {_quote(model)}, dtype: {dtype}}}" if dtype else _quote(model)
    head = f"# {method}: {recipe.summary}.\n"
    if advice:
        head += f"# Chosen for {problem}: {advice.reason}.\n"
        head += f"# Measured (swiftalign docs {advice.page}): {advice.measured}.\n"
    return (
        f"# yaml-language-server: $schema={SCHEMA_FILE}\n{head}"
        f"# 'swiftalign inspect-params {name}' shows what will train, 'swiftalign train {name}' trains it.\n"
        f"model: {source}\n\n"
        f"data:\n{_train_lines(train, replay, advised=bool(advice and advice.replay))}  {_data_line('val', val)}"
        + ("  dataset_shuffle: false   # the rows come in the order of the file\n" if phases else "")
        + f"\ntuner:\n{indent(aligner.in_recipe(recipe.tuner(steps, layers)), '  ')}\n"
        "training:\n"
        + "".join(f"  {key}: {value}\n" for key, value in settings.items())
        + ("" if val or training else WITHOUT_EVALUATION)
        + (f"\ncustom:\n{indent(custom, '  ')}" if custom else "")
        + (f"\n{phases}" if phases else "")
    )


def _train_lines(train: str | None, replay: tuple[str, float] | None, *, advised: bool) -> str:
    """The training rows, and those of what the model must not forget: their file, or where it would belong."""
    if train is None or not (replay or advised):
        return f"  {_data_line('train', train)}"
    path, weight = (_quote(replay[0]), replay[1]) if replay else ("data/old.jsonl", REPLAYED / (1 - REPLAYED))
    mark, condition = ("-", "") if replay else ("# -", ", if it has as many rows")
    what = f"{REPLAYED:.0%} of the rows, so that the model does not forget them{condition}"
    return f"  train:\n    - {_quote(train)}\n    {mark} {{path: {path}, weight: {weight:.3g}, name: old}}   # {what}\n"


def _data_line(key: str, path: str | None) -> str:
    if path:
        return f"{key}: {_quote(path)}\n"
    return f"# {key}: data/{key}.jsonl   # JSONL: images, objects with bbox_2d, quad, line, point_2d or polygon\n"


def _quote(text: str) -> str:
    from swiftalign.yaml12 import dump_yaml

    return dump_yaml({"x": text}).removeprefix("x:").strip()
