"""`swiftalign runs`: how runs stand, by what their folders hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from swiftalign.cli import main
from swiftalign.config.load import load_config
from swiftalign.model.tree import Model
from swiftalign.plan.resolve import resolve
from swiftalign.runs.events import Event
from swiftalign.runs.folder import locked, phase_folder, write_config, write_run_files
from swiftalign.runs.history import RunState, find_runs, run_state
from swiftalign.runs.picture import draw_run

START = {"kind": "start", "steps": 30, "step": 0}
LOG = {"kind": "log", "step": 20, "loss": 1.5, "rate_aligner": 1e-3}
SCORES = {"kind": "log", "step": 20, "eval_quad_acc": 0.25, "eval_token_acc": 0.9}


def write_run(folder: Path, demo: Path, modules: Model, *events: dict[str, Any]) -> Path:
    config = load_config([demo / "config.yaml"])
    folder.mkdir(parents=True)
    write_run_files(folder, config, resolve(config, modules))
    lines = [json.dumps({"time": 1000.0 + number, **event}) for number, event in enumerate(events)]
    (folder / "events.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return folder


@pytest.mark.parametrize(
    ("events", "status", "step"),
    [
        ([START, LOG], "cut off", 20),
        ([START, LOG, {"kind": "stopped", "step": 21}], "stopped", 21),
        ([START, LOG, {"kind": "error", "message": "no"}], "failed", 20),
        ([START, LOG, {"kind": "done", "step": 30, "best_metric": 0.5}], "done", 30),
        ([START, {"kind": "error", "message": "no"}, START, LOG], "cut off", 20),
        ([], "cut off", 0),
    ],
)
def test_the_last_event_says_how_a_run_stands(
    events: list[dict[str, Any]], status: str, step: int, demo: Path, demo_modules: Model, tmp_path: Path
) -> None:
    run = run_state(write_run(tmp_path / "run", demo, demo_modules, *events))
    assert (run.status, run.step, run.steps, run.method) == (status, step, 30, "modules_to_save")


def test_a_run_that_is_held_is_running(demo: Path, demo_modules: Model, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", demo, demo_modules, START, LOG, SCORES)
    with locked(run, used=True):
        assert run_state(run).status == "running"
    state = run_state(run)
    assert (state.loss, state.accuracies) == (1.5, {"quad_acc": 0.25, "token_acc": 0.9})


def test_a_run_in_phases_is_one_run(demo: Path, demo_modules: Model, tmp_path: Path) -> None:
    done = {"kind": "done", "step": 30}
    overlay = tmp_path / "phases.yaml"
    overlay.write_text("phases: [{name: a}, {name: b}]\n")
    run = tmp_path / "runs/run"
    write_run(phase_folder(run, 1), demo, demo_modules, START, done)
    write_config(run, load_config([demo / "config.yaml", overlay]))
    assert [(state.folder, state.phase, state.status) for state in find_runs(tmp_path)] == [(run, "1", "cut off")]
    write_run(phase_folder(run, 2), demo, demo_modules, START, done)
    assert [(state.phase, state.status) for state in find_runs(tmp_path)] == [("2", "done")]


def test_runs_are_listed_the_newest_first(
    demo: Path, demo_modules: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = write_run(tmp_path / "a/old", demo, demo_modules, START)
    new = write_run(tmp_path / "b/runs/new", demo, demo_modules, START, LOG, SCORES)
    assert main(["runs", str(tmp_path), "--json"]) == 0
    assert [run["folder"] for run in json.loads(capsys.readouterr().out)] == [str(new), str(old)]
    assert main(["runs", str(tmp_path)]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].split() == ["run", "method", "status", "step", "loss", "best", "accuracies", "when"]
    assert "20/30" in out[1]


def test_damaged_files_are_no_traceback(demo: Path, demo_modules: Model, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", demo, demo_modules, START)
    (run / "events.jsonl").write_bytes(b'{"kind": "log", "step": [], "loss": "x"}\n[]\n\xff\n{"kind": 3}\n{"step": 1')
    for plan in ("{", "[]", '{"schedule": 3}', '{"schedule": {"steps": "many"}}'):
        (run / "plan.json").write_text(plan)
        state = run_state(run)
        assert isinstance(state, RunState)
        assert state.step == 0


def test_no_runs_and_no_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"no runs in {tmp_path}\n"
    assert main(["runs", str(tmp_path / "none")]) == 2
    assert "no such folder" in capsys.readouterr().err


def test_the_picture_has_a_panel_for_what_was_logged(tmp_path: Path) -> None:
    logs = [Event("log", {"step": step, "loss": 3.0 - step, "rate_aligner": 1e-3, "rate_llm": 1e-5}) for step in (1, 2)]
    draw_run(tmp_path / "plain.png", logs, title="plain")
    draw_run(tmp_path / "scored.png", [*logs, Event("log", {"step": 2, "eval_bbox_acc": 0.5})], title="scored")
    heights = [Image.open(tmp_path / f"{name}.png").height for name in ("plain", "scored")]
    assert heights[0] < heights[1]
