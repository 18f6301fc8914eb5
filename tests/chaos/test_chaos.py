"""The short form of `chaos.py`."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from chaos import chaos

RUNS = 1


@pytest.mark.slow
def test_killed_and_resumed_runs_end_with_the_bits_of_an_untouched_one(tmp_path: Path) -> None:
    chaos.prepare(tmp_path)
    rng = random.Random(1)
    outcomes = [chaos.torment(tmp_path, tmp_path / f"run-{number}", rng, kills=2) for number in range(RUNS)]
    assert all(outcome.signals for outcome in outcomes)
    assert all(outcome.equal for outcome in outcomes)
    assert all(outcome.lost <= chaos.SAVE_STEPS for outcome in outcomes)
