"""What would go wrong with the data and its augmentation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from swiftalign.checks.best_model import metric_place
from swiftalign.config.augmentation import ImgaugParameters
from swiftalign.config.sections import Config, best_metric
from swiftalign.data.metrics import METRICS
from swiftalign.data.targets import Kind
from swiftalign.model.families import find
from swiftalign.model.tree import Model
from swiftalign.plan.plan import TuningPlan
from swiftalign.problems import ConfigError, Problem, counted

if TYPE_CHECKING:  # it imports numpy, which a plan does not need
    from swiftalign.data.scan import DataReport


def scored_kind(config: Config, kinds: Sequence[frozenset[Kind]]) -> Iterable[Problem]:
    """Whether the validation rows have the kind of target that the best model is told by.

    Args:
        kinds: of the training files and then of the validation files.
    """
    metric = best_metric(config)
    kind = METRICS.get(metric)
    validation = kinds[len(config.data.train) :] or kinds  # split off from the training rows
    if kind and not any(kind in found for found in validation):
        present = sorted({f"{other}_acc" for found in validation for other in found}) or ["loss"]
        message = f"metric_for_best_model: {metric}, but no validation row holds a {kind}"
        hint = f"choose one that the rows have: {', '.join(present)}"
        yield Problem("data-metric-absent", message, hint, where=metric_place(config))


def images_to_learn_from(config: Config, plan: TuningPlan, data: DataReport) -> Iterable[Problem]:
    """Whether the rows have images, where what trains learns from images only."""
    if any(item.component == "llm" for item in plan.trainables) or not data.without_image:
        return
    rows = data.rows.train or 0
    message = f"{counted(data.without_image, 'training row')} of {rows:,} without an image"
    hint = "remove these rows, or train the LLM too"
    code = "data-rows-without-image" if data.without_image < rows else "data-nothing-to-train"
    yield Problem(code, message, hint, where=config.where("data", "train"))


def coordinates_told(config: Config, model: Model, plan: TuningPlan) -> Iterable[Problem]:
    """Whether anything tells in which unit the model writes coordinates."""
    if find(plan.model_type) or not config.data.train:
        return
    from swiftalign.data.encoding import encoding_of

    if encoding_of(config).assumed:
        message = "neither this toolkit nor ms-swift tells how this model writes coordinates: 0..1000 is assumed"
        hint = "name the template: data: {template: ...}"
        yield Problem("data-coordinates-assumed", message, hint, where=config.where("model", "path"))


def scored_rows(config: Config, data: DataReport) -> Iterable[Problem]:
    """Whether grounding_eval finds an answer that it can score."""
    settings, kinds = config.custom.grounding_eval, data.kinds[len(config.data.train) :] or data.kinds
    if settings and config.data.train and not any(kinds):
        message = "no validation row has objects, or an answer in JSON that can be read"
        yield Problem(
            "data-nothing-to-score",
            message,
            "remove custom.grounding_eval, or give such rows",
            where=config.where("custom", "grounding_eval"),
        )


def geometry_kept(config: Config, data: DataReport) -> Iterable[Problem]:
    """The rows that augmentation can't move."""
    settings = config.custom.augmentation
    if settings and settings.operations and (settings.curriculum or settings.bypass_prob < 1):
        for reason, rows in data.in_place.items():
            yield Problem("data-geometry-kept", f"only the colours of {counted(rows, 'row')} change: {reason}")


def curriculum_order(config: Config, model: Model, plan: TuningPlan) -> Iterable[Problem]:
    """Whether the order of the rows is known, from which a curriculum of augmentation follows."""
    settings, given = config.custom.augmentation, config.handed_through
    if not settings or not settings.enabled or not settings.curriculum:
        return
    others = [name for name in ("dataloader_drop_last", "dataloader_multiprocessing_context") if given.get(name)]
    if (given.get("sequence_parallel_size") or 1) > 1:
        others.append("sequence_parallel_size")
    if isinstance(config.training.deepspeed, dict) and "tensor_parallel" in config.training.deepspeed:
        others.append("DeepSpeed's tensor_parallel")
    for name in others:
        message = f"custom.augmentation.curriculum: with {name}, ms-swift orders the rows in its own way"
        where = config.where("custom", "augmentation", "curriculum")
        yield Problem("augmentation-curriculum-order", message, f"remove {name}, or the curriculum", where=where)


def imgaug_operations(config: Config, model: Model, plan: TuningPlan) -> Iterable[Problem]:
    """Build each augmenter of imgaug, which tries it on a small image."""
    section = config.custom.augmentation
    for index, operation in enumerate(section.operations if section else []):
        if isinstance(operation.params, ImgaugParameters):
            from swiftalign.augment.imgaug_ops import build

            try:
                build(operation.name, operation.params.model_extra or {})
            except ConfigError as error:
                (problem,) = error.problems
                where = config.where("custom", "augmentation", "ops", index)
                yield Problem("augmentation-imgaug", problem.message, problem.hint or "", where=where)
