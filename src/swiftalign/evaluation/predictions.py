"""What a model answered to each row: one line of JSON per row, in a file that a later call goes on with."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from swiftalign.data.accuracy import Pair, pairs
from swiftalign.data.answers import Answer, parse_answer
from swiftalign.data.sizes import Size
from swiftalign.data.targets import TextTarget
from swiftalign.data.text import Writing
from swiftalign.problems import DataError


@dataclass(frozen=True)
class Prediction:
    """A model's answer to a row.

    Attributes:
        index: number of the row, over all files.
        where: file and line of the row.
        source: name of the row's file.
        image: the image's file; empty where the row holds the image itself.
        size: width and height of the image in pixels.
        prompt: the texts before the answer.
        truth: the true targets.
        text: what the model wrote; None where it could not be asked.
        error: why it could not be asked; empty where it was.
        answer: `text`, as it was read.
    """

    index: int
    where: str
    source: str
    image: str
    size: Size
    prompt: str
    truth: tuple[TextTarget, ...]
    text: str | None
    error: str
    answer: Answer

    @cached_property
    def pairs(self) -> list[Pair]:
        """True objects and the predicted ones that they are paired with."""
        return pairs(self.truth, self.answer.targets, *self.size)

    def to_json(self) -> dict[str, Any]:
        """A line of the file: targets in thousandths of the image's sides."""
        return {
            "row": self.index,
            "where": self.where,
            "source": self.source,
            "image": self.image,
            "size": list(self.size),
            "prompt": self.prompt,
            "truth": [_target(target) for target in self.truth],
            "text": self.text,
            "error": self.error,
            "predicted": [_target(target) for target in self.answer.targets],
            "sound": self.answer.sound,
            "pairs": [
                {"true": pair.true, "predicted": pair.predicted, "cost": round(pair.cost, 4)} for pair in self.pairs
            ],
        }

    @classmethod
    def from_json(cls, values: dict[str, Any], writing: Writing) -> Prediction:
        """The prediction of a line; what the model wrote is read again.

        Raises:
            KeyError, TypeError, ValueError: the line is of another form.
        """
        wide, high = (int(side) for side in values["size"])
        text = values["text"]
        return cls(
            int(values["row"]),
            str(values["where"]),
            str(values["source"]),
            str(values["image"]),
            (wide, high),
            str(values["prompt"]),
            tuple(
                TextTarget(each["kind"], each["label"], tuple(map(tuple, each["points"]))) for each in values["truth"]
            ),
            text,
            str(values["error"]),
            Answer(complete=False) if text is None else parse_answer(text, writing, (wide, high)),
        )


def _target(target: TextTarget) -> dict[str, Any]:
    return {"kind": target.kind, "label": target.label, "points": [list(point) for point in target.points]}


class PredictionFile:
    """The file of a model's predictions, to which each batch is added as soon as it is there.

    Args:
        path: the file, which may exist.
        writing: how the model writes coordinates.
    """

    def __init__(self, path: Path, writing: Writing) -> None:
        self.path, self._writing = path, writing

    def read(self) -> dict[int, Prediction]:
        """The predictions by row; of a row that was asked again, the last. A line cut off at the end is removed.

        Raises:
            DataError: a line is not one of this toolkit.
        """
        if not self.path.exists():
            return {}
        content = self.path.read_bytes()
        if cut := len(content) - content.rfind(b"\n") - 1:
            with self.path.open("r+b") as file:
                file.truncate(len(content) - cut)
        found: dict[int, Prediction] = {}
        for number, line in enumerate(content[: len(content) - cut].splitlines(), 1):
            try:
                prediction = Prediction.from_json(json.loads(line), self._writing)
            except (KeyError, TypeError, ValueError, RecursionError) as error:
                raise DataError(
                    f"{self.path}:{number}: not a prediction of this toolkit", "name another --output"
                ) from error
            found[prediction.index] = prediction
        return found

    def add(self, predictions: Sequence[Prediction]) -> None:
        """Append predictions; they are on the disk when this returns."""
        with self.path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(each.to_json(), ensure_ascii=False) + "\n" for each in predictions)


def answered(predictions: Iterator[Prediction]) -> list[Prediction]:
    """Those whose question was answered."""
    return [each for each in predictions if not each.error]
