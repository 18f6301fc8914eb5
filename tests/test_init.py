"""`swiftalign init`: what it writes loads, plans, and is never written over."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from swiftalign.checks.preflight import preflight
from swiftalign.cli import main
from swiftalign.config.load import load_config
from swiftalign.config.sections import DataSource
from swiftalign.init.recipes import PROBLEMS
from swiftalign.methods import offered
from swiftalign.model.tree import Model
from swiftalign.plan.resolve import resolve
from swiftalign.problems import blocking


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("choice", [f"--method={m}" for m in offered()] + [f"--problem={p}" for p in PROBLEMS])
def test_what_init_writes_plans_without_errors(choice: str, demo: Path, demo_modules: Model) -> None:
    train = demo / "data/train.jsonl"
    assert main(["init", f"--model={demo / 'model'}", choice, f"--train={train}"]) == 0
    config = load_config([Path("config.yaml")])
    assert config.data.train == [DataSource(path=str(train))]
    plan = resolve(config, demo_modules)
    problems = preflight(config, demo_modules, plan)
    assert not [problem for problem in problems if problem.severity in ("error", "warning")]
    method = choice.removeprefix("--method=") if "method" in choice else PROBLEMS[choice.split("=")[1]].method
    assert plan.method == method


def test_a_problem_comes_with_what_was_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "--model=Qwen/Qwen3-VL-4B-Instruct", "--problem=coordinate-space"]) == 0
    measured = PROBLEMS["coordinate-space"].measured
    assert f"measured (docs/methods.md): {measured}" in capsys.readouterr().out
    assert f"# Measured (docs/methods.md): {measured}.\n" in Path("config.yaml").read_text()


def test_the_schedule_of_adalora_fits_the_data(demo: Path, demo_modules: Model) -> None:
    main(["init", f"--model={demo / 'model'}", "--method=adalora", f"--train={demo / 'data/train.jsonl'}"])
    config = load_config([Path("config.yaml")])
    plan = resolve(config, demo_modules)
    assert plan.schedule.steps == 12
    assert not blocking(preflight(config, demo_modules, plan))


def test_paths_are_written_from_the_files_own_folder(demo: Path) -> None:
    Path("data").mkdir()
    Path("data/train.jsonl").write_text("{}\n")
    main(["init", "configs/new.yaml", "--model=Qwen/Qwen3-VL-4B-Instruct", "--method=lora", "--train=data/train.jsonl"])
    assert "train: ../data/train.jsonl" in Path("configs/new.yaml").read_text()
    assert load_config([Path("configs/new.yaml")]).data.train == [
        DataSource(path=str(Path("data/train.jsonl").absolute()))
    ]


def test_an_existing_file_is_kept_unless_forced(capsys: pytest.CaptureFixture[str]) -> None:
    Path("config.yaml").write_text("mine")
    argv = ["init", "--model=Qwen/Qwen3-VL-4B-Instruct", "--method=lora"]
    assert main(argv) == 2
    assert Path("config.yaml").read_text() == "mine"
    assert "error: config.yaml exists already" in capsys.readouterr().err
    assert main([*argv, "--force"]) == 0
    assert load_config([Path("config.yaml")]).tuner.lora_rank == 16


@pytest.mark.parametrize(
    ("argv", "message", "hint"),
    [
        (["--method=lora"], "no model is named", "e.g. --model Qwen/Qwen3-VL-4B-Instruct, or the folder of a model"),
        (["--model=x", "--method=doora"], "--method doora: not one of", "did you mean dora?"),
        (["--model=x", "--problem=overfit"], "--problem overfit: not one of", "did you mean overfitting?"),
        (
            ["--model=x", "--method=lora", "--problem=capacity"],
            "--method and --problem both choose",
            "keep one of the two",
        ),
        (
            ["--demo=x", "--model=y", "--val=z"],
            "--demo has its own model and data, so it can't be combined with --model, --val",
            "remove one of them",
        ),
        (
            ["--model=x"],
            "no method is named",
            "--method modules_to_save|lora|dora|",
        ),
    ],
    ids=["no model", "method typo", "problem typo", "two methods", "demo of a model", "no method"],
)
def test_what_is_missing_or_mistyped_is_said(
    argv: list[str], message: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["init", *argv]) == 2
    error, advice = capsys.readouterr().err.splitlines()
    assert error.startswith(f"error: {message}")
    assert advice.startswith(f"hint: {hint}")
    assert not Path("config.yaml").exists()


def test_init_asks_for_what_is_missing_on_a_terminal(run_in_terminal: Callable[..., tuple[int, str]]) -> None:
    code, screen = run_in_terminal("init", keys="Qwen/Qwen3-VL-8B-Instruct\nboft\ndata/mine.jsonl\n")
    assert code == 0, screen
    config = load_config([Path("config.yaml")])
    assert config.model.path == "Qwen/Qwen3-VL-8B-Instruct"
    assert config.tuner.train_type == "boft"
    assert config.data.train[0].path.endswith("data/mine.jsonl")


def test_the_schema_is_printed_and_written_beside_the_config(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "--schema"]) == 0
    printed = json.loads(capsys.readouterr().out)
    main(["init", "--model=Qwen/Qwen3-VL-4B-Instruct", "--method=lora"])
    assert Path("config.yaml").read_text().startswith("# yaml-language-server: $schema=swiftalign.schema.json\n")
    assert json.loads(Path("swiftalign.schema.json").read_text()) == printed


def test_tiny_is_for_a_demo_workspace(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "--model=Qwen/Qwen3-VL-4B-Instruct", "--method=lora", "--tiny"]) == 2
    assert "--demo DIR --tiny" in capsys.readouterr().err


def test_a_demo_workspace_is_not_made_over_other_files(capsys: pytest.CaptureFixture[str]) -> None:
    Path("work").mkdir()
    Path("work/notes.txt").write_text("mine")
    assert main(["init", "--demo", "work"]) == 2
    assert "error: work exists and is not empty" in capsys.readouterr().err
    assert [path.name for path in Path("work").iterdir()] == ["notes.txt"]
