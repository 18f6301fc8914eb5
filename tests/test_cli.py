"""The command line: exit codes, JSON, and what a script or a hurried person meets."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from swiftalign.cli import main

HEAVY = ("torch", "transformers", "swift", "peft", "imgaug", "matplotlib", "numpy")


def in_subprocess(code: str, *argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("command", ["init", "inspect-params", "train"])
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    assert "Usage: swiftalign " + command in capsys.readouterr().out


def test_without_a_command_the_help_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "inspect-params" in "".join(capsys.readouterr())


@pytest.mark.parametrize(
    "argv", [["inspect-parms"], ["inspect-params"], ["train", "x.yaml", "--dryrun"], ["init", "--model"]], ids=" ".join
)
def test_a_mistyped_command_line_exits_with_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_help_and_planning_load_nothing_heavy(demo: Path) -> None:
    code = (
        "import sys; from swiftalign.cli import main\n"
        "main(sys.argv[1:])\n"
        f"sys.exit(' '.join(m for m in {HEAVY} if m in sys.modules) or 0)"
    )
    for argv in (["--help"], ["inspect-params", str(demo / "config.yaml")]):
        done = in_subprocess(code, *argv)
        assert done.returncode == 0, done.stderr


def test_json_holds_the_promised_keys(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect-params", str(demo / "config.yaml"), "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["total_parameters"] == 374_176
    assert values["trainable_parameters"] == 99_904
    assert values["components"]["aligner"] == {"total": 99_904, "trainable": 99_904}
    assert values["components"]["llm"]["trainable"] == values["components"]["vit"]["trainable"] == 0
    assert len(values["tensors"]) == 24
    assert values["findings"] == []


def test_findings_in_json_say_code_severity_message_and_hint(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect-params", str(demo / "config.yaml"), "--set", "training.vit_lr=1e-4", "--json"]) == 0
    [finding] = json.loads(capsys.readouterr().out)["findings"]
    assert (finding["code"], finding["severity"]) == ("unused-learning-rate", "note")
    assert {"message", "hint"} <= finding.keys()


def test_an_error_finding_exits_with_1_and_allow_lets_it_through(
    demo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["inspect-params", str(demo / "config.yaml"), "--set", "tuner.modules_to_save=[model.visual.merger]"]
    assert main(argv) == 1
    assert "error [aligner-incomplete]" in capsys.readouterr().out
    assert main([*argv, "--allow", "aligner-incomplete"]) == 0
    assert "allowed [aligner-incomplete]" in capsys.readouterr().out


def test_train_refuses_error_findings_before_it_makes_a_run_folder(
    demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sets = ["--set", "tuner.modules_to_save=[]", "--set", f"training.output_dir={tmp_path / 'run'}"]
    assert main(["train", str(demo / "config.yaml"), *sets]) == 1
    assert "error [nothing-trains]" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_an_unknown_code_is_not_allowed(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(demo / "config.yaml"), "--allow", "aligner-incomplet"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "error: --allow aligner-incomplet: no problem has this code",
        "hint: did you mean aligner-incomplete?",
    ]


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ([], 0),
        (["tuner.modules_to_save=[model.visual.merger]"], 1),
        (["tuner.target_regex=lm_head"], 1),
        ([r"tuner.target_regex=model\.language_model\.layers\.\d+\.self_attn\.q_proj"], 1),
    ],
    ids=["whole aligner", "part of it", "lm_head too", "LLM too"],
)
def test_expect_aligner_passes_only_the_whole_aligner_alone(
    settings: list[str], code: int, demo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sets = [word for setting in settings for word in ("--set", setting)]
    assert main(["inspect-params", str(demo / "config.yaml"), "--expect", "aligner", *sets]) == code
    assert ("outside-expected" in capsys.readouterr().out) == bool(code)


def test_dry_run_prints_the_arguments_and_makes_no_folder(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(demo / "config.yaml"), "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "--target_regex dummy-target-modules" in lines
    assert f"--model {demo / 'model'}" in lines
    assert not (demo / "runs").exists()


def test_dry_run_arguments_as_json(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(demo / "config.yaml"), "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tuner_type"] == "lora"


def test_train_without_data_says_so(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(demo / "config.yaml"), "--set", "data.train=[]"]) == 2
    assert f"error: {demo / 'config.yaml'}: no training data is named" in capsys.readouterr().err


def test_inspect_works_without_data(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sets = ["--set", "data.train=[]", "--set", "training.max_steps=-1"]
    assert main(["inspect-params", str(demo / "config.yaml"), *sets]) == 0
    assert "steps are known once data.train is named" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ("not json", "not JSON: Expecting value: line 1 column 1 (char 0)"),
        ("[1]", "not a JSON object"),
        ('{"images": [5]}', "'images' must be a list of paths"),
        ('{"images": ["a.png"], "objects": []}', "image a.png: no such file (paths are relative to {folder})"),
        ('{"objects": []}', "needs 'images' and 'objects', or 'messages'"),
        ('{"messages": ["hello"]}', "'messages' must be a list of {{role, content}}"),
        ('{"images": ["x.png"], "objects": [{"bbox_2d": [1, 2, 3, 4]}]}', "an object needs a 'label'"),
        (
            '{"images": ["x.png"], "objects": [{"label": "a"}]}',
            "object 'a' needs one of bbox_2d, quad, line, point_2d, polygon "
            "(a box may have its object's quad beside it)",
        ),
        (
            '{"images": ["x.png"], "objects": [{"label": "a", "quad": [1, 2, 3]}]}',
            "object 'a': quad must be 8 numbers",
        ),
    ],
)
def test_a_bad_row_is_named_by_file_and_line_before_training(
    row: str, fault: str, demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.png").touch()
    data = tmp_path / "train.jsonl"
    data.write_text(f"\n{row}\n", encoding="utf-8")
    assert main(["train", str(demo / "config.yaml"), "--set", f"data.train={data}"]) == 1
    told = capsys.readouterr().err
    assert f"{data}:2: " in told
    assert fault.format(folder=tmp_path).partition(": no such file")[0].removeprefix("image ") in told


def test_output_into_a_closed_pipe_is_no_traceback(demo: Path) -> None:
    command = f"{sys.executable} -m swiftalign inspect-params {demo / 'config.yaml'} --json | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert done.stderr == ""


def test_the_module_runs_as_the_command_does() -> None:
    done = subprocess.run([sys.executable, "-m", "swiftalign", "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "Usage: swiftalign" in done.stdout
