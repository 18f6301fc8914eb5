"""Suggestions for names that are misspelt."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from swiftalign.problems import SwiftalignError


def did_you_mean(name: str, known: Iterable[str], *, cutoff: float = 0.6) -> str | None:
    """A hint with the known name that is spelt almost like it; None where there is none.

    Args:
        cutoff: how similar they must be, from 0 to 1, as `difflib.get_close_matches` counts.
    """
    near = get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return f"did you mean {near[0]}?" if near else None


def unknown(name: str, known: Iterable[str], what: str, otherwise: str) -> SwiftalignError:
    """The error for a name that is not known.

    Args:
        what: the message.
        otherwise: the hint where no known name is similar.
    """
    return SwiftalignError(what, did_you_mean(name, known) or otherwise)
