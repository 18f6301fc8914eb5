"""Asking a model every question, and keeping what it answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from swiftalign.data.answers import Answer, parse_answer
from swiftalign.data.rows import Rows
from swiftalign.evaluation.engine import Engine, Reply, Request
from swiftalign.evaluation.predictions import Prediction, PredictionFile
from swiftalign.evaluation.questions import Question, to_question, without_answer
from swiftalign.files import write_whole
from swiftalign.problems import DataError, SwiftalignError

SETTINGS, PREDICTIONS = "eval.json", "predictions.jsonl"
# An answer may be longer than the true one by this factor, and by this many tokens.
LONGER, MORE = 1.25, 32


def questions_of(rows: Rows) -> tuple[list[Question], int]:
    """All rows that ask where something is, and the number of those that do not.

    Raises:
        DataError: none does.
    """
    found = [to_question(rows, index) for index in range(len(rows))]
    questions = [question for question in found if question]
    if not questions:
        hint = "give rows with one image and 'objects', or messages that end with such an answer in JSON"
        raise DataError("no row asks where something is", hint)
    return questions, len(found) - len(questions)


def ask(
    engine: Engine,
    questions: Sequence[Question],
    rows: Rows,
    file: PredictionFile,
    progress: Callable[[int], None] = lambda done: None,
) -> list[Prediction]:
    """The predictions of all questions: those of the file, and what the model answers to the others.

    Args:
        file: gets each prediction as soon as it is there.
        progress: is called with the number of answered questions.
    """
    done = {index: found for index, found in file.read().items() if not found.error}
    left = {question.index: question for question in questions if question.index not in done}
    requests = [Request(index, int(engine.tokens(each.answer) * LONGER) + MORE) for index, each in left.items()]
    progress(len(questions) - len(left))
    for count, reply in enumerate(engine.answer(requests, rows), len(questions) - len(left) + 1):
        prediction = _prediction(left[reply.row], reply, rows)
        file.add([prediction])
        done[reply.row] = prediction
        progress(count)
    return [done[question.index] for question in questions]


def _prediction(question: Question, reply: Reply, rows: Rows) -> Prediction:
    row = without_answer(rows.row(question.index).to_swift([question.size], rows.writing))
    [image] = rows.row(question.index).images
    return Prediction(
        question.index,
        rows.where(question.index),
        rows.source(question.index),
        str(image) if isinstance(image, Path) else "",
        question.size,
        "\n".join(str(message["content"]) for message in row["messages"]),
        question.truth,
        reply.text,
        reply.error,
        Answer(complete=False) if reply.text is None else parse_answer(reply.text, rows.writing, question.size),
    )


def begin(folder: Path, settings: dict[str, Any], *, anew: bool = False) -> None:
    """Make the folder of an evaluation, or take the one of an earlier call with the same settings.

    Args:
        settings: what decides the answers.
        anew: whether an evaluation that is there is replaced.

    Raises:
        SwiftalignError: the folder holds something else.
    """
    file, text = folder / SETTINGS, json.dumps(settings, indent=2, ensure_ascii=False) + "\n"
    if folder.exists() and not folder.is_dir():
        raise SwiftalignError(f"{folder} is a file", "name a folder with --output")
    if file.exists() and not anew:
        if file.read_text(encoding="utf-8") == text:
            return
        message = f"{folder} holds the evaluation of another model, or of other rows"
        raise SwiftalignError(message, "name another folder with --output, or replace it with --force")
    if folder.exists() and not file.exists() and any(folder.iterdir()):
        raise SwiftalignError(f"{folder} exists, and holds no evaluation", "name another folder with --output")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / PREDICTIONS).unlink(missing_ok=True)
    write_whole(file, text)
