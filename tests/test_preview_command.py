"""`swiftalign preview-aug` as it is called."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from swiftalign.cli import main
from swiftalign.cli.preview import row_numbers
from swiftalign.previews.contact_sheet import SCALE
from swiftalign.problems import SwiftalignError

GUIDE = Path(__file__).parent / "guide/06_augmentation.yaml"


def run(demo: Path, *argv: str, config: Path = GUIDE) -> int:
    return main(["preview-aug", str(demo / "config.yaml"), str(config), *argv])


def test_the_guides_augmentation_runs_unchanged(demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sheet = tmp_path / "preview.png"
    assert run(demo, "--output", str(sheet)) == 0
    told = capsys.readouterr()
    assert told.out == f"wrote {sheet}\n"
    assert told.err == ""
    assert Image.open(sheet).width > 4 * 270 * SCALE


def test_the_whole_of_it_as_json(demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["--rows", "3,0", "--variants", "2", "--epoch", "4", "--seed", "7", "--json", "-o", str(tmp_path / "a.png")]
    assert run(demo, *argv) == 0
    values = json.loads(capsys.readouterr().out)
    assert (values["seed"], values["epochs"], values["encoded"], values["html"]) == (7, [4, 5], True, None)
    assert [row["row"] for row in values["rows"]] == [3, 0]
    assert [panel["title"] for panel in values["rows"][0]["panels"]] == ["original", "epoch 4", "epoch 5"]
    assert values["rows"][0]["panels"][1]["replay"]["steps"]
    assert all(panel["faults"] == [] for row in values["rows"] for panel in row["panels"])


def test_another_seed_or_epoch_shows_other_draws(
    demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = []
    for argv in ([], ["--seed", "1"], ["--epoch", "1"], ["--seed", "42"]):
        sheet = ["-o", str(tmp_path / "a.png"), "--force"]
        assert run(demo, "--rows", "0", "--variants", "1", "--json", *sheet, *argv) == 0
        seen.append(json.dumps(json.loads(capsys.readouterr().out)["rows"][0]["panels"][1]["replay"]))
    assert len(set(seen)) == 3
    assert seen[0] == seen[3]


def test_files_are_not_overwritten_unless_forced(
    demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.png").write_bytes(b"mine")
    (tmp_path / "b.html").write_bytes(b"mine")
    assert run(demo, "-o", str(tmp_path / "a.png")) == 2
    assert run(demo, "-o", str(tmp_path / "new.png"), "--html", str(tmp_path / "b.html")) == 2
    assert "--force" in capsys.readouterr().err
    assert [path.read_bytes() for path in sorted(tmp_path.iterdir())] == [b"mine", b"mine"]
    assert run(demo, "--num", "1", "-o", str(tmp_path / "a.png"), "--html", str(tmp_path / "b.html"), "--force") == 0
    assert (tmp_path / "b.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_a_curriculum_is_shown_at_a_point_of_the_run(
    demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rising.yaml").write_text(
        "custom: {augmentation: {ops: [{rotate: {max_deg: 0}}], bypass_prob: 1, rotated_boxes: grow, curriculum: "
        "{phases: [{until_percent: 50, bypass_prob: 0, ops: {rotate: {max_deg: 20}}}]}}}"
    )

    def shown(*argv: str) -> tuple[dict[str, Any], str]:
        options = ["--rows", "0", "--variants", "1", "--json", "-o", str(tmp_path / "a.png"), "--force", *argv]
        assert run(demo, *options, config=tmp_path / "rising.yaml") == 0
        told = capsys.readouterr()
        return json.loads(told.out), told.err

    values, told = shown()
    assert told == "note: the values of the curriculum are those at 100% of the run; choose with --progress\n"
    assert values["progress"] == 100
    (end,) = values["rows"][0]["panels"][1]["replay"]["steps"]
    values, told = shown("--progress", "25", "--seed", "2")  # a row that is not bypassed with this seed
    assert (values["progress"], "at 25% of the run" in told) == (25, True)
    (half,) = values["rows"][0]["panels"][1]["replay"]["steps"]
    values, _ = shown("--seed", "2")
    assert values["rows"][0]["panels"][1]["replay"]["steps"][0]["degrees"] == pytest.approx(2 * half["degrees"])
    assert end["name"] == "rotate"
    values, _ = shown("--progress", "0", "--steps")
    panel = values["rows"][0]["panels"][1]
    assert (panel["operations"], panel["replay"]["bypassed"]) == (["left as it is"], True)
    values, _ = shown("--progress", "0", "--report")
    assert values["report"]["bypassed"] == values["report"]["samples"] > 0


@pytest.mark.parametrize("text", ["", "a", "1,", "3-1", "-2", "1-", "1.5", "0-99999999"])
def test_what_is_no_row_number_is_refused(text: str) -> None:
    with pytest.raises(SwiftalignError, match="--rows"):
        row_numbers(text)


def test_a_file_is_written_whole_or_not_at_all(demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(demo, "--num", "1", "-o", str(tmp_path / "new/a.png")) == 0
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.png"]
    (tmp_path / "file").write_bytes(b"mine")
    capsys.readouterr()
    assert run(demo, "--num", "1", "-o", str(tmp_path / "file/a.png")) == 2
    assert f"error: can't write {tmp_path / 'file/a.png'}: " in capsys.readouterr().err
    (tmp_path / "folder.png").mkdir()
    assert run(demo, "--num", "1", "-o", str(tmp_path / "folder.png"), "--force") == 2
    assert f"{tmp_path / 'folder.png'} is a folder" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.png", "new"]
    assert (tmp_path / "file").read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("argv", "message", "hint"),
    [
        (["--rows", "64"], "row 64: the training files have 64 rows", ""),
        (["--rows", "x"], "--rows x: not row numbers", "--rows 0,5,9-12"),
        (["-o", "a.gif"], "--output a.gif: the sheet is a PNG or a JPEG", "--output a.png"),
        (["--num", "64", "--variants", "30"], "64 rows of up to 31 images are too many", "--rows"),
        (["--report", "--set", "custom.augmentation.enabled=false"], "augmentation is off", "enabled: true"),
        (["--steps", "--set", "custom.augmentation.ops=[]"], "augmentation has no operations", "preset: conservative"),
        (["--progress", "5"], "--progress 5: the augmentation has no curriculum", "leave --progress out"),
        (["--set", "data.train=[]"], "no training data is named", "data: {train:"),
        (["--set", "data.train=nowhere.jsonl"], "no such file", ""),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_can_not_be_shown_is_explained(
    argv: list[str], message: str, hint: str, demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = [] if "-o" in argv else ["-o", str(tmp_path / "a.png")]
    assert run(demo, *argv, *output) == 2
    told = capsys.readouterr().err
    assert message in told
    assert hint in told
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("argv", [["--report"], ["--steps"], ["--max-drift", "0.1"]], ids=" ".join)
def test_without_augmentation_a_hint_says_how_to_have_some(
    argv: list[str], demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["preview-aug", str(demo / "config.yaml"), "-o", str(tmp_path / "a.png"), *argv]) == 2
    told = capsys.readouterr().err
    assert "no augmentation is configured" in told
    assert "hint: e.g. custom: {augmentation: {preset: conservative}}" in told
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "sets", [[], ["custom.augmentation={preset: conservative, enabled: false}"], ["custom.augmentation={ops: []}"]]
)
def test_without_augmentation_rows_are_shown_as_they_are_learned(
    sets: list[str], demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sheet, page = tmp_path / "a.png", tmp_path / "a.html"
    options = [word for item in sets for word in ("--set", item)]
    argv = ["--rows", "3,0", "-o", str(sheet), "--html", str(page), "--json", *options]
    assert main(["preview-aug", str(demo / "config.yaml"), *argv]) == 0
    told = capsys.readouterr()
    assert told.err == ""
    values = json.loads(told.out)
    assert (values["encoded"], [row["row"] for row in values["rows"]]) == (True, [3, 0])
    for row in values["rows"]:
        original, learned = row["panels"]
        assert (original["title"], learned["title"]) == ("original", "as it is learned")
        assert learned["faults"] == []
        assert len(learned["targets"]) == len(original["targets"]) > 0
    assert Image.open(sheet).width > 2 * 270 * SCALE
    assert "Rows as they are learned" in page.read_text(encoding="utf-8")


def test_a_model_that_only_a_hub_has_is_no_hindrance(
    demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [
        "--set",
        "model.path=Qwen/Qwen3-VL-235B-A22B-Instruct",
        "--num",
        "1",
        "-o",
        str(tmp_path / "a.png"),
        "--json",
    ]
    assert run(demo, *argv) == 0
    told = capsys.readouterr()
    [line] = told.err.splitlines()
    assert line.startswith(
        "note: model Qwen/Qwen3-VL-235B-A22B-Instruct: nothing in the cache of huggingface; the rows are shown as"
    )
    values = json.loads(told.out)
    assert values["encoded"] is False
    assert len(values["rows"][0]["panels"][1]["targets"]) == 4


def test_a_sample_that_differs_from_its_targets_fails(
    demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--set", "data.max_length=100", "--num", "1", "--variants", "1", "-o", str(tmp_path / "a.png")]
    assert run(demo, *argv) == 1
    assert "error: row 0, epoch 0: ms-swift can't encode it" in capsys.readouterr().err
    assert (tmp_path / "a.png").exists()


def test_rows_without_an_image_file_are_passed_over(
    demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    cup = {"label": "cup", "bbox_2d": [8, 8, 90, 90]}
    image = str(demo / "data/images/train/00000.png")
    own = {"images": [image], "objects": [cup]}
    web = {"messages": messages, "images": [image, "https://example.invalid/a.png"]}
    rows = ({"messages": messages}, own, web)
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    data = ["--set", f"data.train={tmp_path / 'rows.jsonl'}", "-o", str(tmp_path / "a.png"), "--json"]
    assert run(demo, *data) == 0
    told = capsys.readouterr()
    assert told.err == "note: left out, because there is no image file: row 0, 2\n"
    assert [row["row"] for row in json.loads(told.out)["rows"]] == [1]
    assert run(demo, *data, "--rows", "0", "--force") == 2
    assert "none of the rows has an image file" in capsys.readouterr().err
