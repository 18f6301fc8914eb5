"""Mutated files of every kind end in findings, in an error for the user, or are read as what they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from fuzz.commands import COMMANDS, QUICK, Commands
from fuzz.fuzz import run
from fuzz.kinds import KINDS

SHORT, LONG = 200, 10_000
COMMANDS_RUN = 100


@pytest.mark.parametrize("name", KINDS)
def test_mutated_files(name: str, tmp_path: Path) -> None:
    check(name, tmp_path, SHORT)


@pytest.mark.long
@pytest.mark.parametrize("name", KINDS)
def test_many_mutated_files(name: str, tmp_path: Path) -> None:
    check(name, tmp_path, LONG)


def check(name: str, folder: Path, cases: int) -> None:
    faults, read = run(name, KINDS[name](folder), range(cases))
    assert not faults, f"python -m fuzz {name} --only CASE repeats one:\n" + "\n".join(faults)
    assert cases / 10 < read < cases, "the mutations are too harsh or too gentle to show anything"


@pytest.mark.slow
def test_commands_on_mutated_files(tmp_path: Path) -> None:
    commands = Commands(tmp_path)
    assert not [fault for number in range(QUICK) for fault in commands.case(number)]


@pytest.mark.long
def test_many_commands_on_mutated_files(tmp_path: Path) -> None:
    commands = Commands(tmp_path)
    assert not [fault for number in range(COMMANDS_RUN) for fault in commands.case(number)]
    assert len(COMMANDS) <= COMMANDS_RUN
