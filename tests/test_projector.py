"""docs/projector.md says what its log says, and the log what is counted now, where that is cheap."""

from __future__ import annotations

import os
import re
import sys
from itertools import takewhile
from pathlib import Path
from unittest.mock import patch

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import projector
import projector_probe
import projector_report

LINES = projector_report.logged()
COUNTED = ("setting", "function", "tied", "parts", "trained")


def test_the_page_shows_what_was_logged() -> None:
    text = projector_report.PAGE.read_text(encoding="utf-8")
    assert projector_report.filled(text, LINES) == text


def test_every_framework_was_run() -> None:
    frameworks = set(projector_probe.FRAMEWORKS)
    assert {line["framework"] for line in LINES if line["how"] == "run"} == set(projector.SOURCES) == frameworks


def test_the_cost_is_that_of_the_comparison_of_methods() -> None:
    page, methods = (projector_report.PAGE.with_name(name).read_text() for name in ("projector.md", "methods.md"))
    differences = methods.partition("<!-- differences -->")[2]
    for rows, column in (("2,048", -3), ("2,048", -2), ("64", -2)):  # the mean with the new camera; the known one
        [cells] = re.findall(rf"^\| merger-only \| {rows} \|(.*)\|$", differences, re.MULTILINE)
        assert cells.split("|")[column].strip("* -") in page


@pytest.mark.parametrize("name", ["swiftalign", "ms-swift"])
def test_what_is_counted_now_is_what_was_logged(name: str) -> None:
    logged = [line for line in LINES if line["framework"] == name and not line["tied"]]
    with patch.dict(os.environ):  # ms-swift sets variables, such as the folder of tensorboard's files
        now = list(takewhile(lambda line: not line["tied"], projector_probe.cases(name)))
    assert [[line[key] for key in COUNTED] for line in now] == [[line[key] for key in COUNTED] for line in logged]
