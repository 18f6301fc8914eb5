"""Damaged files of a run folder: each is named, and none of them changes what a resumed run trains."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from swiftalign.cli import main
from swiftalign.config.load import load_config
from swiftalign.config.sections import Config
from swiftalign.data.scan import DataReport, read_data
from swiftalign.model.tree import Model
from swiftalign.plan.plan import TuningPlan
from swiftalign.plan.resolve import resolve
from swiftalign.problems import ModelError, RunFolderError
from swiftalign.runs.folder import read_index, read_left_out, read_start, versions_changed, write_run_files
from swiftalign.runs.resume import require_same_run
from swiftalign.speed.choices import read_choices


@pytest.fixture(scope="module")
def parts(demo: Path, demo_modules: Model) -> tuple[Config, TuningPlan, DataReport]:
    config = load_config([demo / "config.yaml"])
    data = read_data(config)
    return config, resolve(config, demo_modules, rows=data.rows), data


@pytest.fixture
def run(parts: tuple[Config, TuningPlan, DataReport], tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    write_run_files(folder, *parts)
    return folder


READERS: dict[str, tuple[Callable[[Path], Any], list[str]]] = {
    ".start": (read_start, ["{", "[]", '"a"', '{"checkpoint": [1]}', '{"weights": true}', "[" * 100_000]),
    "left_out.json": (
        read_left_out,
        ["{", "[1]", '{"rows.jsonl": 3}', '{"rows.jsonl": ["1"]}', '{"rows.jsonl": null}'],
    ),
    "speed.json": (lambda run: read_choices(run / "speed.json"), ["{", "[]", '{"kernelss": "plain"}', "null"]),
    "rows.npz": (read_index, ["", "{", "PK\x03\x04" + "\0" * 40]),
}


@pytest.mark.parametrize("name", READERS)
def test_a_damaged_file_is_named(name: str, run: Path) -> None:
    read, damages = READERS[name]
    read(run)
    for content in damages:
        (run / name).write_text(content)
        with pytest.raises(RunFolderError, match=name) as caught:
            read(run)
        assert caught.value.hint == "'swiftalign train CONFIG --resume' writes it anew"


def test_rows_that_an_older_file_leaves_out_are_trained(
    run: Path, parts: tuple[Config, TuningPlan, DataReport]
) -> None:
    (run / "left_out.json").write_text(json.dumps({parts[0].data.train[0].path: [1, 2, 3]}))
    write_run_files(run, *parts)
    assert read_left_out(run) == {}


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("data.json", '"a"', r"data\.json can't be read"),
        ("data.json", "[]", r"data\.json can't be read"),
        ("data.json", "[" * 100_000, r"data\.json can't be read"),
        ("plan.json", "[" * 100_000, "its plan can't be read"),
        ("plan.json", None, "its plan can't be read"),
    ],
)
def test_a_run_is_not_resumed_from_a_damaged_file(
    name: str, content: str | None, told: str, run: Path, parts: tuple[Config, TuningPlan, DataReport]
) -> None:
    config, plan, data = parts
    require_same_run(run, config, plan, data.digests)
    (run / name).unlink()
    if content is not None:
        (run / name).write_text(content)
    with pytest.raises(RunFolderError, match=told):
        require_same_run(run, config, plan, data.digests)


def test_damaged_versions_are_told_in_text_that_can_be_printed(run: Path) -> None:
    held = json.loads((run / "versions.json").read_text())
    (run / "versions.json").write_text(json.dumps(held | {"trl": "\x1b[2J\ud800"}))
    [told] = versions_changed(run)
    assert told.startswith(r"trl was \x1b[2J\ud800, now ")
    (run / "versions.json").write_text("[" * 100_000)
    assert versions_changed(run) == ["versions.json can't be read"]


def test_numbers_of_parameters_are_numbers(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = json.loads((run / "plan.json").read_text())
    plan["components"]["llm"]["total"] = "x"
    (run / "plan.json").write_text(json.dumps(plan))
    (run / "adapter_config.json").write_text("{}")
    assert main(["verify-ckpt", str(run)]) == 2
    assert f"{run / 'plan.json'}: not a plan of this release" in capsys.readouterr().err


def test_an_error_spells_out_what_a_terminal_would_obey(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    error = ModelError("a\x1b[2J\nb\ud800")
    assert (error.message, str(error)) == ("a\\x1b[2J\nb\\ud800", "a\\x1b[2J\nb\\ud800")
    plan = json.loads((run / "plan.json").read_text())
    plan["trainables"][0]["\x1b[2J"] = 1
    (run / "plan.json").write_text(json.dumps(plan))
    (run / "adapter_config.json").write_text("{}")
    assert main(["verify-ckpt", str(run)]) == 2
    told = capsys.readouterr().err
    assert r"an unexpected keyword argument '\x1b[2J'" in told
    assert "\x1b" not in told
