"""What an evaluation comes to: the numbers as JSON, and the files of its folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from swiftalign.data.metrics import BY_DISTANCE
from swiftalign.data.rows import Rows
from swiftalign.data.targets import KINDS, Kind
from swiftalign.evaluation.kept import PAGE, SHEET, SUMMARY
from swiftalign.evaluation.pictures import render_answers, render_worst
from swiftalign.evaluation.predictions import Prediction
from swiftalign.evaluation.protocols import PROTOCOLS
from swiftalign.evaluation.summary import (
    GROUPS,
    Counts,
    Difference,
    confusion,
    counts,
    counts_json,
    difference,
    metrics,
)
from swiftalign.files import write_whole
from swiftalign.previews.contact_sheet import encoded_picture

EXAMPLES = 3  # malformed answers in the summary
MOST_CONFUSED = 20  # pairs of labels in the summary

KIND_NAMES: dict[Kind, str] = {"bbox": "box"}  # as they are called, where that is not the name of the kind

Table = dict[tuple[Kind, str], Counts]


@dataclass(frozen=True)
class Answered:
    """A model's answers to all questions.

    Attributes:
        name: the model, as it is called in tables and pictures.
        predictions: in the order of the questions; of those that failed, too.
    """

    name: str
    predictions: Sequence[Prediction]

    @cached_property
    def asked(self) -> list[Prediction]:
        """The predictions of the questions that the model could be asked."""
        return [each for each in self.predictions if not each.error]

    @cached_property
    def tables(self) -> dict[str, Table]:
        """The counts by kind, label, size and source."""
        return {name: counts(self.asked, key) for name, key in GROUPS.items()}

    @cached_property
    def malformed(self) -> list[Prediction]:
        """The predictions whose text is not wholly a grounding answer."""
        return [each for each in self.asked if not each.answer.sound]

    @cached_property
    def failed(self) -> list[Prediction]:
        """The questions that the model could not be asked."""
        return [each for each in self.predictions if each.error]


@dataclass(frozen=True)
class Evaluation:
    """One model's answers, and those of another to the same questions.

    Attributes:
        mine: the model that is evaluated.
        theirs: the one that it is compared with, if any.
        left_out: number of rows that do not ask where something is.
        protocol: the name of a public protocol to count by as well; empty for none.
    """

    mine: Answered
    theirs: Answered | None = None
    left_out: int = 0
    protocol: str = ""

    @cached_property
    def both(self) -> list[Answered]:
        """One model or two."""
        return [self.mine, *([self.theirs] if self.theirs else [])]

    @cached_property
    def differences(self) -> dict[Kind, Difference]:
        """By how much the model's F1 is above the other's, over the rows that both were asked."""
        if not self.theirs:
            return {}
        pairs = zip(self.mine.predictions, self.theirs.predictions, strict=True)
        both = [(mine, other) for mine, other in pairs if not mine.error and not other.error]
        return difference([mine for mine, _ in both], [other for _, other in both]) if both else {}

    @cached_property
    def by_protocol(self) -> list[dict[str, Any]]:
        """The protocol's numbers of each model; none without one."""
        return [PROTOCOLS[self.protocol](each.asked) for each in self.both] if self.protocol else []

    def to_json(self) -> dict[str, Any]:
        """All numbers; None for a ratio of nothing."""
        models = [_model_json(each) for each in self.both]
        for values, counted in zip(models, self.by_protocol, strict=False):
            values[self.protocol] = counted
        found: dict[str, Any] = {"left_out": self.left_out, **models[0]}
        if self.theirs:
            found["against"] = models[1]
            found["differences"] = [{"kind": kind, **asdict(each)} for kind, each in self.differences.items()]
        return found

    def write(self, folder: Path, rows: Rows, asked_from: str) -> None:
        """Write the numbers, the page and the contact sheet into the evaluation's folder.

        Args:
            rows: the rows that were asked.
            asked_from: the files of the rows, as one would name them.
        """
        write_whole(folder / SUMMARY, json.dumps(self.to_json(), indent=2, ensure_ascii=False) + "\n")
        answers = {each.name: each.predictions for each in self.both}
        heading = f"{len(self.mine.predictions):,} rows of {asked_from}, the worst first"
        columns = ["model", "kind", *HEADINGS]
        lines = [
            [each.name, KIND_NAMES.get(kind, kind), *cells(kind, count)]
            for each in self.both
            for (kind, _), count in sorted(each.tables["kind"].items(), key=lambda item: KINDS.index(item[0][0]))
        ]
        write_whole(folder / PAGE, render_answers(answers, rows, heading, columns, lines))
        write_whole(folder / SHEET, encoded_picture(render_worst(answers, rows, heading), Path(SHEET).suffix))


def _model_json(answered: Answered) -> dict[str, Any]:
    return {
        "model": answered.name,
        "rows": len(answered.predictions),
        "failed": len(answered.failed),
        "malformed": len(answered.malformed),
        "malformed_examples": [
            {"where": each.question.where, "text": (each.text or "")[:500]} for each in answered.malformed[:EXAMPLES]
        ],
        "metrics": metrics(answered.asked),
        **{
            f"by_{name}": [
                counts_json(kind, count) | ({} if name == "kind" else {name: group})
                for (kind, group), count in sorted(table.items())
            ]
            for name, table in answered.tables.items()
        },
        "confusion": [
            {"true": true, "predicted": written, "count": count}
            for (true, written), count in confusion(answered.asked).most_common(MOST_CONFUSED)
        ],
    }


HEADINGS = ("true", "recall", "precision", "F1", "F1 at 0.75", "mean IoU", "mean distance")


def cells(kind: Kind, count: Counts) -> list[str]:
    """The counts of a kind in the columns of `HEADINGS`."""
    mean = count.mean_cost
    by_distance = kind in BY_DISTANCE
    return [
        f"{count.true:,}",
        *map(percent, (count.recall, count.precision, count.f1)),
        "-" if by_distance else percent(count.f1_75),
        "-" if by_distance or mean is None else percent(1 - mean),
        percent(mean) if by_distance else "-",
    ]


def percent(value: float | None) -> str:
    """A share as it is shown."""
    return "-" if value is None else f"{value:.1%}"
