"""What scripts read: one JSON value on stdout, with the keys of docs/scripts.md, and the exit codes of that page."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from swiftalign import shipped
from swiftalign.cli import _command, main
from swiftalign.problems import SwiftalignError

CODES_OF_ALL = {*shipped.codes(), "config"} | {
    kind.code for kind in (SwiftalignError, *SwiftalignError.__subclasses__())
}
PAGE = (Path(__file__).parents[1] / "docs/scripts.md").read_text(encoding="utf-8")
# The command lines, in a folder with the tiny demo and two runs of it.
CALLS = {
    "init": "init demo/written.yaml --example lora",
    "inspect-params": "inspect-params demo/config.yaml",
    "train": "train demo/config.yaml --set training.max_steps=2 --set training.output_dir=demo/runs/one",
    "train, in phases": "train demo/phases.yaml",
    "verify-ckpt": "verify-ckpt demo/runs/one",
    "verify-ckpt --all": "verify-ckpt demo/runs/one --all",
    "export": "export demo/runs/one -o demo/tuned",
    "eval": "eval demo/model demo/data/val.jsonl -o demo/eval --limit 2",
    "eval --against": "eval demo/model demo/data/val.jsonl -o demo/eval --limit 2 --against demo/model",
    "preview-aug": "preview-aug demo/config.yaml --num 1 -o demo/preview.png",
    "preview-aug --report": "preview-aug demo/config.yaml --num 1 --report --set custom.augmentation.preset=guide",
    "convert": "convert demo/data/val.jsonl -o demo/rows.jsonl",
    "runs": "runs demo",
    "runs --compare": "runs --compare demo/runs/one demo/runs/two -o demo/compare.png",
    "docs": "docs",
    "docs PAGE": "docs data",
}
ERRORS = {
    "init --example nothing": 2,
    "inspect-params missing.yaml": 2,
    "inspect-params demo/config.yaml --set training.learning_rat=1": 2,
    "inspect-params demo/config.yaml --set tuner.modules_to_save=[model.visual.merger]": 1,
    "train demo/config.yaml --set tuner.modules_to_save=[]": 1,
    "train demo/config.yaml --dry-run --set tuner.modules_to_save=[]": 1,
    "train demo/config.yaml --dryrun": 2,
    "verify-ckpt missing": 2,
    "export missing -o demo/no": 2,
    "eval missing demo/data/val.jsonl": 2,
    "preview-aug demo/config.yaml --rows x": 2,
    "preview-aug demo/config.yaml demo/zoom.yaml --num 2 --max-drift 0": 1,
    "convert demo/broken.jsonl -o demo/no.jsonl": 1,
    "runs missing": 2,
    "docs missing": 2,
    "unknown": 2,
}


def keys_of_page() -> dict[str, set[str]]:
    """The keys of each command by the table of the page; those of the problems under their own name."""
    rows = re.findall(r"^\| `([^`]+)` \| .*? \| (.*) \|$", PAGE, re.MULTILINE)
    return {name: set(re.findall(r"`(\w+)`", keys)) for name, keys in rows}


@pytest.fixture(scope="module")
def workspace(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scripts")
    shutil.copytree(demo, folder / "demo")
    phases = "phases:\n- {name: a, training: {max_steps: 1}}\n- {name: b, training: {max_steps: 1}}\n"
    (folder / "demo/phases.yaml").write_text((folder / "demo/config.yaml").read_text() + phases)
    zoom = "custom: {augmentation: {ops: [{scale: {lo: 2, hi: 2, prob: 1}}]}}\n"
    (folder / "demo/zoom.yaml").write_text(zoom)
    (folder / "demo/broken.jsonl").write_text("no JSON\n")
    return folder


def value_of(command: str, capfd: pytest.CaptureFixture[str]) -> tuple[int, Any]:
    """The exit code, and the value; whatever else is printed is on stderr."""
    code = main([*command.split(), "--json"])
    return code, json.loads(capfd.readouterr().out)


def test_every_command_has_json() -> None:
    for name, command in _command().commands.items():
        assert any("--json" in param.opts for param in command.params), name
    assert {re.split("[ ,]", name)[0] for name in CALLS} == {*_command().commands}


@pytest.mark.slow
def test_each_result_has_the_keys_of_the_page(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(workspace)
    shown = {}
    for name, command in CALLS.items():
        if name == "verify-ckpt":
            shutil.copytree("demo/runs/one", "demo/runs/two")
        code, value = value_of(command, capfd)
        first = value[0] if isinstance(value, list) else value
        assert (code, first.get("ok", True), first.get("problems", [])) == (0, True, [])
        shown[name] = {*first}
    assert shown == keys_of_page()


@pytest.mark.parametrize(("command", "exit_code"), ERRORS.items(), ids=ERRORS.keys())
def test_an_error_is_a_json_value_too(
    command: str,
    exit_code: int,
    workspace: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(workspace)
    code, value = value_of(command, capfd)
    assert (code, value["ok"]) == (exit_code, False)
    errors = [problem for problem in value["problems"] if problem["severity"] == "error"]
    assert errors
    for problem in value["problems"]:
        assert {"code", "severity", "message", "hint", "where"} <= problem.keys()
        assert problem["message"]
    assert {problem["code"] for problem in errors} <= {*CODES_OF_ALL}


def test_the_page_names_the_codes_of_errors_that_are_no_findings() -> None:
    own = {kind.code for kind in (SwiftalignError, *SwiftalignError.__subclasses__())}
    assert all(f"`{code}`" in PAGE.partition("## Errors")[2] for code in own)


def test_the_error_on_the_page_is_what_the_code_prints() -> None:
    [shown] = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    assert json.loads(shown) == SwiftalignError("no such command").to_json()


def test_without_json_nothing_is_json(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["verify-ckpt", "missing"]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("error: missing")
