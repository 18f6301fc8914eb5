"""What docs/serving.md says of servers is what they do."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import serving_report
from serving_engines import ENGINES, Form
from swiftalign.methods import offered

LINES = serving_report.logged()
SCRIPT = serving_report.HERE / "serving.py"


@pytest.mark.parametrize("page", [serving_report.PAGE, serving_report.RESULTS], ids=lambda page: page.name)
def test_the_pages_show_what_was_logged(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert "<!-- matrix -->" in text
    assert serving_report.filled(text, LINES) == text


def test_every_cell_was_tried_and_none_failed() -> None:
    cells = {(line["engine"], line["export"], line["method"]): line for line in LINES if line["part"] == "matrix"}
    assert set(cells) == {
        (engine, form, method)
        for engine in ("transformers", *ENGINES)
        for form in get_args(Form)
        for method in offered()
    }
    assert {line["outcome"] for line in cells.values()} <= {"same", "refused"}
    assert all(line["equal_to_base"] < line["rows"] / 2 for line in cells.values() if "equal" in line)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of the trained models and the environments, of more than a gigabyte."""
    folder = tmp_path_factory.mktemp("serving")
    yield folder
    shutil.rmtree(folder)


@pytest.mark.long
@pytest.mark.parametrize("engine", ["transformers", *ENGINES])
def test_an_engine_answers_or_refuses_as_logged(engine: str, work: Path) -> None:
    log = work / f"{engine}.jsonl"
    command = [sys.executable, str(SCRIPT), "--only", engine, "--work", str(work), "--log", str(log)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=5400)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    found = [json.loads(text) for text in log.read_text(encoding="utf-8").splitlines()]
    assert [_outcome(line) for line in found] == [
        _outcome(line) for line in LINES if line["engine"] == engine and line["part"] != "speed"
    ]


def _outcome(line: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(line.get(name) for name in ("part", "export", "method", "outcome", "words"))
