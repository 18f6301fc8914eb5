"""The errors a user can meet. Each says what was wrong, what to do next, and with which exit code to leave."""

from __future__ import annotations

from dataclasses import dataclass


class SwiftalignError(Exception):
    """Something the user can mend.

    Args:
        message: what was wrong, and where.
        hint: what to do next.
    """

    exit_code = 2

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


@dataclass(frozen=True)
class Problem:
    """One fault in a configuration file."""

    where: str
    message: str
    hint: str | None = None

    def __str__(self) -> str:
        return f"{self.where}: {self.message}" if self.where else self.message


class ConfigError(SwiftalignError):
    """A configuration that can't be read; carries every problem found, in the order of the file."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems), problems[0].hint)
        self.problems = problems


class ModelError(SwiftalignError):
    """A model that can't be found, read or recognised."""


class DataError(SwiftalignError):
    """Training data that can't be read."""


class RunFolderError(SwiftalignError):
    """A run folder that is taken, in use, or can't be written."""


class PlanMismatchError(SwiftalignError):
    """The real model differs from the plan."""

    exit_code = 1


class ExportError(SwiftalignError):
    """An export that was refused, or whose result is not what it ought to be."""

    exit_code = 1


class TrainingError(SwiftalignError):
    """The training process ended before its last step."""

    exit_code = 1
