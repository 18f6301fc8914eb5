"""`swiftalign runs --compare`: what differs between runs, what they reached, and their picture."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rich.console import Console

from swiftalign.cli import main
from swiftalign.cli.show_runs import print_comparison
from swiftalign.config.load import load_config
from swiftalign.model.tree import Model
from swiftalign.plan.resolve import resolve
from swiftalign.problems import RunFolderError
from swiftalign.runs.compare import Measured, compare
from swiftalign.runs.folder import phase_folder, write_config, write_run_files

OTHER = """
tuner: {train_type: lora, lora_rank: 4, target_regex: '.*merger.linear_fc1'}
training: {aligner_lr: 2.0e-4, save_steps: 500}  # 500 is the default
custom: {augmentation: {preset: conservative}}
"""


def log(step: int, **values: float) -> dict[str, Any]:
    return {"kind": "log", "step": step, **values}


def write_run(folder: Path, demo: Path, modules: Model, text: str, *events: dict[str, Any]) -> Path:
    folder.mkdir(parents=True)
    (folder / "more.yaml").write_text(text)
    config = load_config([demo / "config.yaml", folder / "more.yaml"], [f"training.output_dir={folder}"])
    write_run_files(folder, config, resolve(config, modules))
    (folder / "events.jsonl").write_text("".join(f"{json.dumps(event)}\n" for event in events))
    return folder


@pytest.fixture
def runs(demo: Path, demo_modules: Model, tmp_path: Path) -> list[Path]:
    """Two runs with other settings: one whose loss on validation rows rises again, and one that has failed."""
    first = [log(10, loss=3.0, rate_aligner=1e-3), log(10, eval_loss=2.0, eval_runtime=1.0), log(20, loss=2.0)]
    first += [log(20, eval_loss=2.5, eval_bbox_acc=0.5, eval_line_distance=0.1), {"kind": "done", "step": 30}]
    second = [log(10, loss=2.5), {"kind": "error", "message": "[oom] out of memory"}]
    return [
        write_run(tmp_path / "runs/a", demo, demo_modules, "{}", *first),
        write_run(tmp_path / "runs/b", demo, demo_modules, OTHER, *second),
    ]


def test_only_what_differs_is_told(runs: list[Path]) -> None:
    found = compare(runs)
    assert found.names == ("a", "b")
    assert not found.same
    assert found.differences["training.aligner_lr"] == (1e-3, 2e-4)
    assert found.differences["tuner.target_regex"] == ("^$", ".*merger.linear_fc1")
    assert found.differences["custom.augmentation.preset"] == (None, "conservative")
    assert found.differences["tuner.lora_rank"] == (8, 4)
    others = {"tuner.modules_to_save", "tuner.lora_alpha"}  # a file that chooses a method replaces the section
    told = {"training.aligner_lr", "tuner.target_regex", "custom.augmentation.preset", "tuner.lora_rank"}
    assert told <= set(found.differences) <= told | others


def test_last_and_best_values_are_told(runs: list[Path]) -> None:
    found = compare(runs)
    assert found.metrics == {
        "loss": (Measured(2.0, 20, 2.0, 20), Measured(2.5, 10, 2.5, 10)),
        "eval_loss": (Measured(2.5, 20, 2.0, 10), None),
        "bbox_acc": (Measured(0.5, 20, 0.5, 20), None),
        "line_distance": (Measured(0.1, 20, 0.1, 20), None),
    }
    assert found.notes == ("b: failed: [oom] out of memory",)


def test_the_same_configuration_is_said_and_other_data_is_not_the_same(runs: list[Path]) -> None:
    again = runs[0].with_name("again")
    shutil.copytree(runs[0], again)
    config = (again / "config.yaml").read_text()
    (again / "config.yaml").write_text(config.replace(str(runs[0]), str(again)))  # another output_dir is no difference
    assert compare([runs[0], again]).same
    for run, digest in ((runs[0], "1" * 64), (again, "2" * 64)):
        (run / "data.json").write_text(json.dumps({"train.jsonl": digest}))
    assert compare([runs[0], again]).differences == {"sha256 of train.jsonl": ("1" * 64, "2" * 64)}


def test_what_is_damaged_or_missing_is_told_in_words(runs: list[Path]) -> None:
    (runs[0] / "config.yaml").write_text("training: [")
    (runs[1] / "events.jsonl").write_text('{"kind": \n{"kind": "log", "step": 1}\n')
    found = compare(runs)
    assert not found.same
    assert found.differences == {}
    assert found.notes[0].startswith(f"a: its settings are not compared: {runs[0] / 'config.yaml'}")
    assert found.notes[1:] == (
        "b: 1 line of its log can't be read",
        "b: nothing is logged yet, so there is nothing to draw",
    )


def test_the_steps_of_phases_are_counted_through(demo: Path, demo_modules: Model, tmp_path: Path) -> None:
    run = tmp_path / "phases"
    for number in (1, 2, 3):
        inner = write_run(phase_folder(run, number), demo, demo_modules, "{}", log(10, loss=3.0), log(20, loss=number))
    write_config(run, load_config([inner / "config.yaml"]))
    other = write_run(tmp_path / "other", demo, demo_modules, "{}", log(5, loss=1.0))
    assert compare([run, other]).metrics["loss"][0] == Measured(3.0, 60, 1.0, 20)


@pytest.mark.parametrize(
    ("names", "message", "hint"),
    [
        (["runs/a"], "two to 10 runs can be compared, not 1", "swiftalign runs --compare"),
        (["runs/a", "runs/../runs/a"], "is named twice", "for example"),
        (["runs/a", "none"], "none: no such folder", "lists the runs"),
        (["runs/a", "runs"], "runs: holds no run", "there are runs below it; name them, e.g. "),
        (["runs/a", "runs/a/checkpoint-5"], "holds no run", "it is a checkpoint; name its run, "),
        (["runs/a", "exported"], "holds no run", "it holds an exported model"),
    ],
)
def test_what_is_no_run_is_refused(names: list[str], message: str, hint: str, runs: list[Path], tmp_path: Path) -> None:
    (runs[0] / "checkpoint-5").mkdir()
    (tmp_path / "exported").mkdir()
    for name in ("plan.json", "export.json"):
        (tmp_path / "exported" / name).write_text("{}")
    with pytest.raises(RunFolderError) as raised:
        compare([tmp_path / name for name in names])
    assert message in raised.value.message
    assert hint in (raised.value.hint or "")


def test_the_command_draws_a_picture_and_overwrites_nothing_unasked(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["runs", "--compare", *map(str, runs)]
    assert main([*command, "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert [run["name"] for run in values["runs"]] == ["a", "b"]
    assert {"key": "training.aligner_lr", "values": [1e-3, 2e-4]} in values["differences"]
    assert values["metrics"][1] == {
        "name": "eval_loss",
        "values": [{"final": 2.5, "final_step": 20, "best": 2.0, "best_step": 10}, None],
    }
    assert values["picture"] == "compare.png"
    drawn = Image.open("compare.png")
    colours = {colour for _, colour in drawn.convert("RGB").getcolors(1 << 20)}
    assert {(0x1F, 0x6F, 0x8B), (0xD1, 0x49, 0x5B)} <= colours  # both runs
    assert main(command) == 2
    assert "compare.png exists already" in capsys.readouterr().err
    assert main([*command, "--output", "new.png"]) == 0
    assert capsys.readouterr().out.endswith("note  b: failed: [oom] out of memory\nwrote new.png\n")
    assert main([*command, "--force"]) == 0
    assert main([*command, "--output", "new.jpg"]) == 2
    assert main(["runs", "--output", "other.png"]) == 2
    assert "--output and --force belong to --compare" in capsys.readouterr().err
    for run in runs:
        (run / "events.jsonl").unlink()
    assert main([*command, "--output", "none.png"]) == 0
    assert capsys.readouterr().out.endswith("no picture: no run has logged a loss\n")
    assert not Path("none.png").exists()


@pytest.mark.parametrize(("width", "count"), [(80, 2), (160, 2), (80, 4)])
def test_tables_hold_every_value_at_any_width(width: int, count: int, runs: list[Path]) -> None:
    for number in range(2, count):
        shutil.copytree(runs[0], runs[0].with_name(f"copy-{number}"))
    found = compare([*runs, *(runs[0].with_name(f"copy-{number}") for number in range(2, count))])
    console = Console(width=width, file=io.StringIO())
    print_comparison(found, console)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert all(len(line) <= width for line in lines)
    told = "".join(line.replace(" ", "") for line in lines)
    for text in ("custom.augmentation.preset", "conservative", "0.0002", "2.5000(best2.0000at10)", "bbox_acc"):
        assert text in told
