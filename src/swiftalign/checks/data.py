"""What would go wrong with the data's augmentation."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from swiftalign.augment.settings import ImgaugParameters
from swiftalign.config import Config
from swiftalign.errors import ConfigError
from swiftalign.findings import Finding
from swiftalign.modules import Modules

if TYPE_CHECKING:
    from swiftalign.plan import TuningPlan


def imgaug_operations(config: Config, modules: Modules, plan: TuningPlan) -> Iterable[Finding]:
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
                yield Finding("augmentation-imgaug", problem.message, problem.hint or "", where=where)
