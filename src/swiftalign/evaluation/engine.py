"""What answers questions: a model in this process, or a server."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from swiftalign.data.rows import Rows
from swiftalign.evaluation.questions import Question


@dataclass(frozen=True)
class Request:
    """A question to be asked.

    Attributes:
        question: the question.
        most: number of tokens after which the answer is cut off.
    """

    question: Question
    most: int


class Reply(NamedTuple):
    """What came of a request.

    Attributes:
        row: number of the row.
        text: what the model wrote; None where it could not be asked.
        error: why it could not be asked; empty where it was.
        logprob: natural logarithm of the probability that the model gave to the text; None where it is not known.
    """

    row: int
    text: str | None
    error: str = ""
    logprob: float | None = None


class Engine(Protocol):
    """A model that answers greedily."""

    def answer(self, requests: Sequence[Request], rows: Rows) -> Iterator[Reply]:
        """Replies as they come, in any order.

        Args:
            rows: the rows that the questions are from, which hold the images.

        Raises:
            SwiftalignError: nothing can be asked at all.
        """
