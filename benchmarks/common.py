"""What several benchmarks share: the command to time, and how a process is timed."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

# As the console script runs it.
SWIFTALIGN = [sys.executable, "-c", "import sys; from swiftalign.cli import main; sys.exit(main())"]


@dataclass(frozen=True)
class Measured:
    """Wall time in seconds and peak resident memory in MB of one process."""

    seconds: float
    megabytes: float


def measure(command: list[str]) -> Measured:
    # As an installed package, which is compiled once: here by the first round.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    begin = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - begin
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed with code {process.returncode}")
    return Measured(seconds, usage.ru_maxrss / 1024)


def compare(label: str, command: list[str], peer: list[str], limit: float, rounds: int) -> bool:
    """Time a command and its peer, alternating; print the ratio of the medians, and return whether it is within limits.

    Args:
        limit: the largest ratio that is accepted.
        rounds: number of timed rounds.
    """
    pairs = [(measure(command), measure(peer)) for _ in range(rounds + 1)][1:]  # the first round warms the disk cache
    mine = statistics.median(pair[0].seconds for pair in pairs)
    theirs = statistics.median(pair[1].seconds for pair in pairs)
    memory = max(pair[0].megabytes for pair in pairs)
    kept = mine / theirs <= limit
    verdict = "" if kept else "  ABOVE THE LIMIT"
    print(f"{label:44} {mine:6.2f} s  {mine / theirs:5.2f}x  (limit {limit}x)  {memory:6.0f} MB{verdict}")
    return kept


def accuracies(model: Path, rows: Path) -> dict[str, float]:
    """What a model's answers to all rows of a file come to, on a GPU where there is one."""
    from swiftalign.evaluation.session import Session
    from swiftalign.evaluation.summary import metrics

    with tempfile.TemporaryDirectory() as folder:
        return metrics(Session.open(model, [rows]).answers(Path(folder)))


def with_tables(text: str, tables: Mapping[str, Iterable[str]]) -> str:
    """A page, with the lines between ``<!-- NAME -->`` and ``<!-- end -->`` made anew.

    Raises:
        SystemExit: the page has no such place.
    """
    for marker, rows in tables.items():
        before, opening, rest = text.partition(f"<!-- {marker} -->\n")
        _, closing, after = rest.partition("<!-- end -->")
        if not closing:
            raise SystemExit(f"the page has no place for a table: <!-- {marker} --> ... <!-- end -->")
        text = "".join([before, opening, *(f"{row}\n" for row in rows), closing, after])
    return text
