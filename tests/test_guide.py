"""The aligner training guide over the demo's configuration: each method trains, or says what would."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from swiftalign.cli import main
from swiftalign.demo.workspace import TINY_TRAINING
from swiftalign.model.safetensors import read_stored
from swiftalign.plan.plan import read_plan

GUIDE = Path(__file__).parent / "guide"
STEPS = TINY_TRAINING["max_steps"]


def train(run: Path, *configs: Path) -> int:
    return main(["train", *map(str, configs), "--set", f"training.output_dir={run}"])


def error_findings(capsys: pytest.CaptureFixture[str], *configs: Path) -> list[dict[str, str]]:
    code = main(["inspect-params", *map(str, configs), "--json"])
    findings = [f for f in json.loads(capsys.readouterr().out)["findings"] if f["severity"] == "error"]
    assert code == (1 if findings else 0)
    return findings


def yaml_of_hints(findings: list[dict[str, str]], folder: Path) -> list[Path]:
    """Each hint's YAML, as a user would paste it into a file."""
    files = []
    for finding in findings:
        lines = finding["hint"].splitlines()[1:]
        if lines:
            files.append(folder / f"{finding['code']}.yaml")
            files[-1].write_text("\n".join(lines) + "\n", encoding="utf-8")
    return files


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "method", "tensors"),
    [("01_full_parameter", "modules_to_save", 24), ("04_boft", "boft", 16), ("05_fourierft", "fourierft", 8)],
)
def test_methods_1_4_and_5_train_unchanged(name: str, method: str, tensors: int, demo: Path, tmp_path: Path) -> None:
    assert train(tmp_path / "run", demo / "config.yaml", GUIDE / f"{name}.yaml") == 0
    assert read_plan(tmp_path / "run/plan.json").method == method
    assert len(read_stored(tmp_path / f"run/checkpoint-{STEPS}/adapter_model.safetensors")) == tensors


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "code", "method"),
    [
        ("02_dora", "dora-without-layers", "dora"),
        ("03_adalora", "adalora-schedule", "adalora"),
        ("07_regularization", "best-model-without-validation", "modules_to_save"),
    ],
)
def test_what_can_not_train_gives_a_hint_that_trains_when_applied(
    name: str, code: str, method: str, demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    configs = [demo / "config.yaml", GUIDE / f"{name}.yaml"]
    assert train(tmp_path / "run", *configs) == 1
    assert f"error [{code}]" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()

    findings = error_findings(capsys, *configs)
    assert code in [finding["code"] for finding in findings]
    mended = [*configs, *yaml_of_hints(findings, tmp_path)]
    assert error_findings(capsys, *mended) == []
    assert train(tmp_path / "run", *mended) == 0
    assert read_plan(tmp_path / "run/plan.json").method == method
