"""What answers questions: a model in this process, or a server."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol


@dataclass(frozen=True)
class Request:
    """A row to be answered.

    Attributes:
        row: number of the row, whose image is opened only when it is asked.
        most: number of tokens after which the answer is cut off.
    """

    row: int
    most: int


class Reply(NamedTuple):
    """What came of a request.

    Attributes:
        row: number of the row.
        text: what the model wrote; None where it could not be asked.
        error: why it could not be asked; empty where it was.
        tries: how often it was asked.
    """

    row: int
    text: str | None
    error: str = ""
    tries: int = 1


class RowsAsked(Protocol):
    """The rows in ms-swift's layout; opening one reads its images."""

    def __getitem__(self, index: int) -> dict[str, Any]: ...


class Engine(Protocol):
    """A model that answers rows, greedily."""

    def tokens(self, text: str) -> int:
        """Number of tokens of a text, or more."""

    def answer(self, requests: Iterable[Request], rows: RowsAsked) -> Iterator[Reply]:
        """Replies as they come, in any order.

        Raises:
            SwiftalignError: nothing can be asked at all.
        """
