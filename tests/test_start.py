"""The session of docs/start.md: what its commands print, and that training brings back what a camera costs."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from docs_examples import START, TERMINALS, rerun, terminal_text, without_variables
from swiftalign.cli import main
from swiftalign.demo.recovery import mean_accuracy

pytestmark = pytest.mark.slow

RECOVERED = 0.7  # the page shows over 0.8; kernels of other processors round otherwise


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder in which the commands ran, and docs/start.md with what they printed."""
    folder = tmp_path_factory.mktemp("start")
    return folder, rerun(START, folder)


def summary_of(evaluation: Path) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads((evaluation / "summary.json").read_text())
    return summary


def test_the_session_shown_is_what_the_commands_print(session: tuple[Path, str]) -> None:
    assert without_variables(session[1]) == without_variables(START.read_text())


@pytest.mark.parametrize("line", TERMINALS, ids=lambda line: line.split()[2])
def test_the_terminals_in_the_readme_show_what_the_page_shows(line: str) -> None:
    printed = START.read_text().partition(f"{line}\n")[2].partition("```")[0].partition("\n\n$ ")[0]
    assert terminal_text(TERMINALS[line].read_text()) == "".join((line + printed).split())


def test_training_the_aligner_brings_back_what_a_new_camera_costs(
    session: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, printed = session
    monkeypatch.chdir(folder)
    kept = Path("demo/eval/new-camera")
    known_camera, new_camera = summary_of(Path("demo/eval/known-camera")), summary_of(kept)
    known, before = (mean_accuracy(each["against"]["metrics"]) for each in (known_camera, new_camera))
    after = mean_accuracy(new_camera["metrics"])
    assert min(known_camera["against"]["metrics"][f"{kind}_acc"] for kind in ("bbox", "quad", "line")) >= 0.98
    assert before < known / 2
    assert after > before + RECOVERED * (known - before)
    assert f"recovered: {(after - before) / (known - before):.0%} of the accuracy" in printed
    with Image.open("recovery.jpg") as picture:
        assert picture.format == "JPEG"
    # `eval` takes the answers that are there, and comes to the same numbers.
    asked = (kept / "predictions.jsonl").read_bytes()
    val = "demo/data/val.jsonl"
    assert main(["eval", "demo/tuned", val, "--against", "demo/model", "--output", str(kept)]) == 0
    assert (kept / "predictions.jsonl").read_bytes() == asked
    assert summary_of(kept) == new_camera
    # Of the run, whose weights the export rounds to bfloat16, a few answers differ.
    assert main(["eval", "demo/runs/config", val, "--against", str(kept), "--output", "of-run"]) == 0
    of_run = summary_of(Path("of-run"))
    assert mean_accuracy(of_run["metrics"]) == pytest.approx(after, abs=0.02)
    assert all(abs(each["value"]) < 0.03 for each in of_run["differences"])


def test_what_came_back_is_also_given_as_json(session: tuple[Path, str], tmp_path: Path) -> None:
    """Of a few rows of the workspace."""
    demo = session[0] / "demo"
    shutil.copytree(demo / "model", tmp_path / "model")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/images").symlink_to(demo / "data/images")
    for name in ("original.jsonl", "val.jsonl"):
        rows = (demo / "data" / name).read_text().splitlines(keepends=True)
        (tmp_path / "data" / name).write_text("".join(rows[:8]))
    command = [sys.executable, "-m", "swiftalign.demo.recovery", str(tmp_path), str(demo / "tuned"), "--json"]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    for camera in ("known", "new"):
        summary = summary_of(tmp_path / f"eval/{camera}-camera")
        assert summary["metrics"] == found[f"{camera}_after"]
        assert summary["against"]["metrics"] == found[f"{camera}_before"]
    known, before, after = (mean_accuracy(found[name]) for name in ("known_before", "new_before", "new_after"))
    assert before < known
    assert found["recovered"] == pytest.approx((after - before) / (known - before))
