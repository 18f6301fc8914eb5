"""Asking a model every question, and keeping what it answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from swiftalign.data.rows import Rows
from swiftalign.data.tokens import read_tokenizer
from swiftalign.evaluation.engine import Engine, Request
from swiftalign.evaluation.kept import PREDICTIONS, RESULTS, SETTINGS
from swiftalign.evaluation.predictions import Prediction, PredictionFile
from swiftalign.evaluation.questions import Question
from swiftalign.files import write_whole
from swiftalign.problems import SwiftalignError

# An answer may be longer than the true one by this factor, and by this many tokens.
LONGER, MORE = 1.25, 32


def most_tokens(true: int) -> int:
    """Number of tokens after which an answer is cut off, from that of the true answer."""
    return int(true * LONGER) + MORE


Progress = Callable[[int, int], None]
"""Is called with the number of answered questions, and that of all."""


def ask(
    engine: Callable[[], Engine],
    questions: Sequence[Question],
    rows: Rows,
    folder: Path,
    tokenizer: Path | None = None,
    progress: Progress = lambda done, total: None,
) -> list[Prediction]:
    """The predictions of all questions: those that the folder has, and what the model answers to the others.

    Args:
        engine: makes the model ready; is called only where a question is left.
        rows: the rows that the questions are from.
        folder: made by `begin`; gets each prediction as soon as it is there.
        tokenizer: the model's ``tokenizer.json``; without it, an answer may have as many tokens as bytes.
    """
    file = PredictionFile(folder / PREDICTIONS, rows.writing)
    done = {index: found for index, found in file.read(questions).items() if not found.error}
    left = [question for question in questions if question.index not in done]
    if left:
        texts = [question.answer for question in left]
        if tokenizer and tokenizer.is_file():
            encoded = read_tokenizer(tokenizer).encode_batch_fast(texts, add_special_tokens=False)
            lengths = [len(each) for each in encoded]
        else:
            lengths = [len(text.encode()) for text in texts]
        model, asked = engine(), {question.index: question for question in left}
        requests = [Request(each, most_tokens(length)) for each, length in zip(left, lengths, strict=True)]
        progress(before := len(done), len(questions))
        for count, reply in enumerate(model.answer(requests, rows), before + 1):
            prediction = Prediction.of(
                asked[reply.row], reply.text, rows.writing, error=reply.error, logprob=reply.logprob
            )
            file.add(prediction)
            done[reply.row] = prediction
            progress(count, len(questions))
    return [done[question.index] for question in questions]


def begin(folder: Path, settings: dict[str, Any], *, anew: bool = False) -> None:
    """Make the folder of an evaluation, or take the one of an earlier call with the same settings.

    Args:
        settings: what decides the answers.
        anew: whether an evaluation that is there is replaced.

    Raises:
        SwiftalignError: the folder holds something else.
    """
    if folder.exists() and not folder.is_dir():
        raise SwiftalignError(f"{folder} is a file", "name a folder with --output")
    file = folder / SETTINGS
    if file.exists() and not anew:
        before = read_settings(folder)
        if before == settings:
            return
        changed = ", ".join(sorted(key for key in before.keys() | settings if before.get(key) != settings.get(key)))
        message = f"{folder} holds an evaluation that differs in: {changed}"
        raise SwiftalignError(message, "name another folder with --output, or replace the evaluation with --force")
    # What a killed call has left of the settings is hidden.
    if folder.exists() and not file.exists() and any(not each.name.startswith(".") for each in folder.iterdir()):
        raise SwiftalignError(f"{folder} exists, and holds no evaluation", "name another folder with --output")
    folder.mkdir(parents=True, exist_ok=True)
    for earlier in (*RESULTS, PREDICTIONS):  # numbers are never those of other answers
        (folder / earlier).unlink(missing_ok=True)
    write_whole(file, json.dumps(settings, indent=2, ensure_ascii=False) + "\n")


def read_settings(folder: Path) -> dict[str, Any]:
    """What decided the answers of an evaluation.

    Raises:
        SwiftalignError: the file is damaged.
    """
    try:
        settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        settings = None
    if not isinstance(settings, dict):
        raise SwiftalignError(f"{folder / SETTINGS} is damaged", "evaluate anew with --force")
    return settings
