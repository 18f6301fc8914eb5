"""SECURITY.md names the tests that hold its promises, and the bounds that they use."""

from __future__ import annotations

import re
from pathlib import Path

from fuzz.test_fuzz import LONG, SHORT
from fuzz.watch import MEGABYTES, SECONDS

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "SECURITY.md").read_text(encoding="utf-8")


def test_every_promise_names_tests_that_are_there() -> None:
    promises = re.findall(r"^\| (?!promise|---)(.*) \| (.*) \|$", PAGE, re.MULTILINE)
    assert len(promises) == PAGE.count("\n| ") - 2
    for promise, held_by in promises:
        files = re.findall(r"`(tests/[\w/]+\.py)`", held_by)
        assert files, promise
        assert [name for name in files if not (ROOT / name).is_file()] == [], promise


def test_the_bounds_of_fuzzing_are_those_of_the_tests() -> None:
    text = " ".join(PAGE.split())
    assert SECONDS == 5
    assert f"each case five seconds of processor time and {MEGABYTES} MB of memory" in text
    assert f"{SHORT} mutations of each kind of file with `make test`, and {LONG:,} with `make test-long`" in text
