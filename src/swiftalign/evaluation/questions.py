"""Rows that ask where something is."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from swiftalign.data.answers import parse_answer
from swiftalign.data.images import image_size
from swiftalign.data.metrics import METRICS
from swiftalign.data.records import Row
from swiftalign.data.rows import Rows
from swiftalign.data.sizes import Size
from swiftalign.data.targets import TextTarget
from swiftalign.problems import DataError, blocking


@dataclass(frozen=True)
class Question:
    """A row that asks for targets, and its true answer.

    Attributes:
        index: number of the row, whose image is opened only when the question is asked.
        size: width and height of the image in pixels.
        truth: the true answer's targets.
        answer: the true answer's text, as the model is trained to write it.
        prompt: the texts before the answer.
        where: file and line of the row.
        source: the name of the row's file in metrics.
        image: the image's file; empty where the row holds the image itself.
    """

    index: int
    size: Size
    truth: tuple[TextTarget, ...]
    answer: str = ""
    prompt: str = ""
    where: str = ""
    source: str = ""
    image: str = ""


def to_question(rows: Rows, index: int) -> Question | None:
    """A row as a question; None unless it has one image here and ends with a grounding answer.

    Raises:
        RowError: the row can't be read.
    """
    with rows.naming(index):
        return _asking(rows, index, rows.row(index))


def _asking(rows: Rows, index: int, row: Row) -> Question | None:
    image = row.images[0] if len(row.images) == 1 else None
    if image is None:
        return None
    size = image_size(image)
    *before, last = row.to_swift([size], rows.writing)["messages"]
    answer = last.get("content")
    if last["role"] != "assistant" or not isinstance(answer, str):
        return None
    truth = parse_answer(answer, rows.writing, size)
    prompt = "\n".join(str(message["content"]) for message in before)
    place = rows.where(index), rows.source(index), str(image) if isinstance(image, Path) else ""
    return Question(index, size, truth.targets, answer, prompt, *place) if truth.sound else None


def questions_of(rows: Rows, allowed: Collection[str] = ()) -> list[Question]:
    """All rows that are questions, in their order.

    Args:
        allowed: the codes of errors that a row may have.

    Raises:
        DataError: none is, or one spells out a special token, which would not be read as text.
    """
    found = []
    for index in range(len(rows)):
        with rows.naming(index):
            row = rows.row(index)
            if not (question := _asking(rows, index, row)):
                continue
            for problem in blocking(row.wording.problems(row.targets), allowed):
                if problem.code == "data-special-text":
                    hint = f"{problem.hint}; to ask all the same: --allow {problem.code}"
                    raise DataError(f"{problem.message} would not be read as text", hint)
        found.append(question)
    if not found:
        hint = "give rows with one image and 'objects', or messages that end with such an answer in JSON"
        raise DataError("no row asks where something is", hint)
    return found


def choose_questions(rows: Rows, count: int) -> list[Question]:
    """Up to `count` questions, drawn at random from all rows; every call draws the same ones.

    Raises:
        DataError: no row is a question.
    """
    order: list[int] = np.random.default_rng(seed=0).permutation(len(rows)).tolist()
    questions = list(islice(filter(None, (to_question(rows, index) for index in order)), count))
    if not questions:
        hint = "give grounding_eval rows with 'objects', or messages that end with such an answer in JSON"
        raise DataError("no validation row asks where something is", hint)
    return questions


def without_answer(row: dict[str, Any]) -> dict[str, Any]:
    """A row in ms-swift's layout without its answer."""
    return {**row, "messages": row["messages"][:-1]}


def require_kind(metric: str | None, questions: Sequence[Question]) -> None:
    """Check that the metric that chooses the best model can be measured.

    Raises:
        DataError: the metric is the accuracy of a kind of target that no question asks for.
    """
    kind = METRICS.get((metric or "").removeprefix("eval_"))
    if kind and not any(target.kind == kind for question in questions for target in question.truth):
        message = f"metric_for_best_model: {metric}, but none of the {len(questions)} rows to answer holds a {kind}"
        raise DataError(message, "raise custom.grounding_eval.rows, or name another metric")
