"""The short form of `chaos.py`, and all of it."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

from chaos import chaos
from chaos.commands import SAVE_STEPS, prepare
from chaos.torments import Workshop

RUNS = 1


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workspace, with the run that nobody disturbed."""
    folder = tmp_path_factory.mktemp("chaos")
    prepare(folder)
    return folder


@pytest.mark.slow
def test_killed_and_resumed_runs_end_with_the_bits_of_an_untouched_one(work: Path) -> None:
    rng = random.Random(1)
    outcomes = [chaos.torment(work, work / f"run-{number}", rng, kills=2) for number in range(RUNS)]
    assert all(outcome.signals for outcome in outcomes)
    assert all(outcome.equal for outcome in outcomes)
    assert all(outcome.lost <= SAVE_STEPS for outcome in outcomes)


@pytest.mark.slow
@pytest.mark.parametrize(("command", "kind"), [("export --adapter-only", "killed"), ("convert", "full")])
def test_a_command_that_is_hit_within_its_writes_leaves_nothing_half(command: str, kind: str, work: Path) -> None:
    outcome = Workshop(work).torment(command, kind)
    assert outcome.inside
    assert not outcome.faults, outcome


@pytest.mark.long
def test_all_torments() -> None:
    ended = subprocess.run([sys.executable, chaos.__file__, "--runs", "25"], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
