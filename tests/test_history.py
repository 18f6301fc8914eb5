"""`swiftalign runs`: how runs stand, by what their folders hold."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rich.console import Console

from swiftalign.cli import main
from swiftalign.cli.show_runs import print_runs
from swiftalign.config.load import load_config
from swiftalign.demo.workspace import TINY_TRAINING
from swiftalign.model.tree import Model
from swiftalign.plan.resolve import resolve
from swiftalign.runs.events import Event
from swiftalign.runs.folder import locked, phase_folder, write_config, write_run_files
from swiftalign.runs.history import find_runs, run_state
from swiftalign.runs.picture import draw_run

START = {"kind": "start", "steps": 30, "step": 0}
LOG = {"kind": "log", "step": 20, "loss": 1.5, "rate_aligner": 1e-3}
SCORES = {"kind": "log", "step": 20, "eval_quad_acc": 0.25, "eval_token_acc": 0.9}


def write_run(folder: Path, demo: Path, modules: Model, *events: dict[str, Any], more: Path | None = None) -> Path:
    config = load_config([demo / "config.yaml", *([more] if more else [])])
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
    steps = 30 if events else TINY_TRAINING["max_steps"]
    assert (run.status, run.step, run.steps, run.method) == (status, step, steps, "modules_to_save")


@pytest.mark.parametrize(
    ("more", "events", "status", "reason"),
    [
        ("{training: {early_stopping: {patience: 1}}}", [{"kind": "done", "step": 20}], "done", "early stopping"),
        ("{}", [{"kind": "done", "step": 20}], "done", "before its last step"),
        ("{}", [{"kind": "done", "step": 30}], "done", ""),
        ("{}", [{"kind": "stopped", "step": 20, "signal": "SIGTERM"}], "stopped", "SIGTERM"),
        ("{}", [{"kind": "stopped", "step": 20}], "stopped", ""),
        ("{}", [{"kind": "error", "message": "the disk\x1b[2J is\nfull"}], "failed", r"the disk\x1b[2J is full"),
        ("{}", [], "cut off", ""),
        (
            "{}",
            [{"kind": "error", "message": message, "follows": message != "first"} for message in ("a", "first", "b")],
            "failed",
            "first",
        ),
    ],
)
def test_the_reason_says_why_a_run_ended(
    more: str,
    events: list[dict[str, Any]],
    status: str,
    reason: str,
    demo: Path,
    demo_modules: Model,
    tmp_path: Path,
) -> None:
    (tmp_path / "more.yaml").write_text(more)
    run = write_run(tmp_path / "run", demo, demo_modules, START, LOG, *events, more=tmp_path / "more.yaml")
    state = run_state(run)
    assert (state.status, state.reason) == (status, reason)


def test_the_settings_of_a_run_are_shown(demo: Path, demo_modules: Model, tmp_path: Path) -> None:
    lora = tmp_path / "lora.yaml"
    lora.write_text(
        "tuner: {train_type: lora, lora_rank: 4, target_regex: '.*merger.linear_fc1'}\n"
        "training: {aligner_lr: 2.0e-4}\ncustom: {augmentation: {preset: mild}}\n"
    )
    state = run_state(write_run(tmp_path / "lora", demo, demo_modules, more=lora))
    assert (state.method, state.rank, state.rates, state.augmentation) == ("lora", 4, {"aligner": 2e-4}, "mild")
    state = run_state(write_run(tmp_path / "whole", demo, demo_modules))
    assert (state.method, state.rank, state.rates, state.augmentation) == (
        *("modules_to_save", None, {"aligner": 1e-3}),
        "off",
    )


def test_a_narrow_terminal_gets_lines_for_each_run(demo: Path, demo_modules: Model, tmp_path: Path) -> None:
    error = {"kind": "error", "message": "train.jsonl:3: [row-malformed] no objects"}
    run = write_run(tmp_path / "run", demo, demo_modules, START, LOG, SCORES, error)
    for width, expected in (
        (80, "\nmodules_to_save, rates aligner 0.001, augmentation off\n"),
        (320, "  aligner 0.001  "),
    ):
        console = Console(width=width, file=io.StringIO())
        print_runs(find_runs(run), console)
        out = console.file.getvalue()  # type: ignore[attr-defined]
        assert expected in out
        assert f"{run} failed: train.jsonl:3: [row-malformed] no objects" in " ".join(out.split())
        assert "quad_acc 0.250, token_acc 0.900" in out
        assert all(len(line) <= width or " " not in line.strip() for line in out.splitlines())


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
    columns = ["run", "method", "rates", "augmentation", "status", "step", "loss", "accuracies", "when"]
    assert out[0].split() == columns  # no rank, no loss on validation rows and no checkpoint in either run
    assert "aligner 0.001  off           cut off  20/30  1.5000  quad_acc 0.250, token_acc 0.900" in out[1]


def test_damaged_files_are_no_traceback(demo: Path, demo_modules: Model, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", demo, demo_modules, START)
    numbers = b'{"kind": "log", "step": NaN, "loss": Infinity, "eval_loss": 1%s}' % (b"0" * 400)
    deep = b"[" * 100_000
    lines = [b'{"kind": "log", "step": [], "loss": "x"}', numbers, b"[]", b"\xff", b'{"kind": 3}', deep, b'{"step": 1']
    (run / "events.jsonl").write_bytes(b"\n".join(lines))
    for plan in ("{", "[]", '{"schedule": 3}', '{"schedule": {"steps": "many"}}'):
        (run / "plan.json").write_text(plan)
        state = run_state(run)
        assert (state.method, state.step, state.loss, state.damaged_lines) == ("?", 0, None, 4)


def test_no_runs_and_no_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"no runs in {tmp_path}\n"
    assert main(["runs", str(tmp_path / "none")]) == 2
    assert "no such folder" in capsys.readouterr().err


def test_the_picture_has_a_panel_for_what_was_logged(tmp_path: Path) -> None:
    logs = [Event("log", {"step": step, "loss": 3.0 - step, "rate_aligner": 1e-3, "rate_llm": 1e-5}) for step in (1, 2)]
    draw_run(tmp_path / "plain.png", logs, title="plain")
    draw_run(tmp_path / "scored.png", [*logs, Event("log", {"step": 2, "eval_bbox_acc": 0.5})], title="a $ scored")
    heights = [Image.open(tmp_path / f"{name}.png").height for name in ("plain", "scored")]
    assert heights[0] < heights[1]
