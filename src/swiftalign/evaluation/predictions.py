"""What a model answered to each question: one line of JSON per row, in a file that a later call goes on with."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from swiftalign.data.accuracy import Pair, pairs
from swiftalign.data.answers import Answer, parse_answer
from swiftalign.data.targets import TextTarget
from swiftalign.data.text import DEFAULT_WRITING, Writing
from swiftalign.evaluation.questions import Question
from swiftalign.files import naming
from swiftalign.problems import DataError


@dataclass(frozen=True)
class Prediction:
    """A model's answer to a question.

    Attributes:
        question: the row, and its true targets.
        answer: what the model wrote, as it was read.
        text: what the model wrote; None where it could not be asked.
        error: why it could not be asked; empty where it was.
        logprob: natural logarithm of the probability that the model gave to the text; None where it is not known.
    """

    question: Question
    answer: Answer
    text: str | None = ""
    error: str = ""
    logprob: float | None = None

    @classmethod
    def of(
        cls,
        question: Question,
        text: str | None,
        writing: Writing = DEFAULT_WRITING,
        *,
        error: str = "",
        logprob: float | None = None,
    ) -> Prediction:
        """The prediction of what a model wrote.

        Args:
            writing: how the model writes coordinates.
        """
        answer = Answer(complete=False) if text is None else parse_answer(text, writing, question.size)
        return cls(question, answer, text, error, logprob)

    @cached_property
    def pairs(self) -> list[Pair]:
        """True objects and the predicted ones that they are paired with."""
        return pairs(self.question.truth, self.answer.targets, *self.question.size)

    def to_json(self) -> dict[str, Any]:
        """A line of the file: targets in thousandths of the image's sides."""
        question = self.question
        return {
            "row": question.index,
            "where": question.where,
            "source": question.source,
            "image": question.image,
            "size": list(question.size),
            "prompt": question.prompt,
            "true_text": question.answer,
            "true": [target_json(target) for target in question.truth],
            "text": self.text,
            "error": self.error,
            "logprob": self.logprob,
            "predicted": [target_json(target) for target in self.answer.targets],
            "sound": self.answer.sound,
            # The cost is 1 - IoU, or the distance of lines and points.
            "pairs": [
                {"true": pair.true, "predicted": pair.predicted, "cost": round(pair.cost, 4)} for pair in self.pairs
            ],
        }


def target_json(target: TextTarget) -> dict[str, Any]:
    """Kind, label and points of a target."""
    return {"kind": target.kind, "label": target.label, "points": [list(point) for point in target.points]}


class PredictionFile:
    """The file of a model's predictions, to which each is added as soon as it is there.

    Args:
        path: the file, which may exist.
        writing: how the model writes coordinates.
    """

    def __init__(self, path: Path, writing: Writing = DEFAULT_WRITING) -> None:
        self.path, self._writing = path, writing

    def read(self, questions: Sequence[Question]) -> dict[int, Prediction]:
        """The predictions that the file has for these questions, by row; of a row asked again, the last.

        What the model wrote is read anew. A line that was cut off at the end is removed.

        Raises:
            DataError: a line is not one of this toolkit.
        """
        if not self.path.exists():
            return {}
        content, asked = self.path.read_bytes(), {question.index: question for question in questions}
        if cut := len(content) - content.rfind(b"\n") - 1:
            with self.path.open("r+b") as file:
                file.truncate(len(content) - cut)
        found: dict[int, Prediction] = {}
        for number, line in enumerate(content[: len(content) - cut].splitlines(), 1):
            try:
                values = json.loads(line)
                row, text, error, logprob = (values[name] for name in ("row", "text", "error", "logprob"))
                sound = (
                    type(row) is int
                    and isinstance(error, str)
                    and (text is None or isinstance(text, str))
                    and (logprob is None or (isinstance(logprob, float | int) and math.isfinite(logprob)))
                )
            except (KeyError, TypeError, ValueError, RecursionError):
                sound = False
            if not sound:
                raise DataError(f"{self.path}:{number}: not a prediction of this toolkit", "name another --output")
            if row in asked:
                found[row] = Prediction.of(asked[row], text, self._writing, error=error, logprob=logprob)
        return found

    def add(self, *predictions: Prediction) -> None:
        """Append predictions."""
        with naming(self.path), self.path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(each.to_json(), ensure_ascii=False) + "\n" for each in predictions)
