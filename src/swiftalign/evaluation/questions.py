"""Rows that ask where something is, and the scores of answers to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from PIL import Image

from swiftalign.data.accuracy import Scores
from swiftalign.data.answers import parse_answer
from swiftalign.data.metrics import METRICS
from swiftalign.data.rows import Rows
from swiftalign.data.targets import TextTarget
from swiftalign.data.text import DEFAULT_WRITING, Writing
from swiftalign.problems import DataError


@dataclass(frozen=True)
class Question:
    """A validation row that asks for targets, and its true answer.

    Attributes:
        index: number of the row, whose image is opened only when the question is asked.
        answer: the true answer's text, as the model is trained to write it.
        truth: the true answer's targets.
        size: width and height of the image in pixels.
        source: name of the data file, where there are several.
    """

    index: int
    answer: str
    truth: tuple[TextTarget, ...]
    size: tuple[int, int]
    source: str = ""


def to_question(rows: Rows | Sequence[dict[str, Any]], index: int) -> Question | None:
    """A row in ms-swift's layout as a question; None unless it has one image and ends with a grounding answer."""
    row = rows[index]  # opens the image
    last, images = row["messages"][-1], row.get("images") or []
    answer, has_image = last.get("content"), len(images) == 1 and isinstance(images[0], Image.Image)
    if last["role"] != "assistant" or not isinstance(answer, str) or not has_image:
        return None
    truth = parse_answer(answer, writing_of(rows), images[0].size)
    source = rows.source(index) if isinstance(rows, Rows) and len(rows.files) > 1 else ""
    return Question(index, answer, truth.targets, images[0].size, source) if truth.sound else None


def writing_of(rows: Rows | Sequence[dict[str, Any]]) -> Writing:
    """How the model of these rows writes coordinates."""
    return rows.writing if isinstance(rows, Rows) else DEFAULT_WRITING


def without_answer(row: dict[str, Any]) -> dict[str, Any]:
    """A row without its answer."""
    return {**row, "messages": row["messages"][:-1]}


def choose_questions(rows: Sequence[dict[str, Any]], count: int) -> list[Question]:
    """Up to `count` questions, drawn at random from all rows; every call draws the same ones.

    Raises:
        DataError: no row is a question.
    """
    order = np.random.default_rng(seed=0).permutation(len(rows)).tolist()
    questions = list(islice(filter(None, (to_question(rows, index) for index in order)), count))
    if not questions:
        hint = "give grounding_eval rows with 'objects', or messages that end with such an answer in JSON"
        raise DataError("no validation row asks where something is", hint)
    return questions


def require_kind(metric: str | None, questions: Sequence[Question]) -> None:
    """Check that the metric that chooses the best model can be measured.

    Raises:
        DataError: the metric is the accuracy of a kind of target that no question asks for.
    """
    kind = METRICS.get((metric or "").removeprefix("eval_"))
    if kind and not any(target.kind == kind for question in questions for target in question.truth):
        message = f"metric_for_best_model: {metric}, but none of the {len(questions)} rows to answer holds a {kind}"
        raise DataError(message, "raise custom.grounding_eval.rows, or name another metric")


def add_answers(
    scores: dict[str, Scores],
    batch: Sequence[tuple[Question, bool]],
    texts: Sequence[str],
    writing: Writing = DEFAULT_WRITING,
) -> None:
    """Score the answers to the questions that count, in all and by data file."""
    for (question, counts), text in zip(batch, texts, strict=True):
        for source in {"", question.source} if counts else ():
            answer = parse_answer(text, writing, question.size)
            scores.setdefault(source, Scores()).add(answer, question.truth, *question.size)
