"""Every file under configs/ loads, plans without errors, and lowers to the arguments kept in tests/golden/."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from swiftalign.checks.preflight import preflight
from swiftalign.config.load import load_config
from swiftalign.config.schema import config_schema
from swiftalign.config.sections import Config
from swiftalign.demo.data import write_dataset
from swiftalign.init.recipes import recipes
from swiftalign.model.tree import Model
from swiftalign.plan.read import read_model
from swiftalign.plan.resolve import resolve
from swiftalign.problems import blocking
from swiftalign.runs.lowering import lower, to_argv
from swiftalign.speed.choices import Choices

ROOT = Path(__file__).parent.parent
CONFIGS = ROOT / "configs"
GOLDEN = Path(__file__).parent / "golden"
METHODS = sorted((CONFIGS / "methods").glob("*.yaml"))
STRATEGIES = sorted((CONFIGS / "strategies").glob("*.yaml"))
# The data that the files name is the user's own.
WITHOUT_DATA = ["data.train=[]", "data.val=[]", "training.max_steps=3000"]


@cache
def qwen3_vl_4b() -> Model:
    return read_model(load_config([CONFIGS / "methods/lora.yaml"]))


@pytest.fixture
def load(tmp_path: Path) -> Callable[[Path], Config]:
    """A worked example where it finds the data that it names, twenty rows each."""
    write_dataset(tmp_path / "data/train.jsonl", rows=20, seed=1)
    for name in ("train.simple", "train.medium"):
        shutil.copy(tmp_path / "data/train.jsonl", tmp_path / f"data/{name}.jsonl")

    def load(path: Path) -> Config:
        if "phases:" not in path.read_text():
            return load_config(layers(path), WITHOUT_DATA)
        copied = shutil.copy(path, tmp_path / path.name)
        data = [f"data.train={tmp_path / 'data/train.jsonl'}", "data.val=[]"]
        return load_config([*layers(path)[:-1], Path(copied)], data)

    return load


def layers(path: Path) -> list[Path]:
    """The config files of one worked example: a strategy lies over the recommended method."""
    return [path] if path in METHODS else [CONFIGS / "methods/modules_to_save.yaml", path]


@pytest.mark.parametrize("path", METHODS + STRATEGIES, ids=lambda path: path.stem)
def test_a_worked_config_plans_without_errors_or_warnings(path: Path, load: Callable[[Path], Config]) -> None:
    for run in load(path).runs:
        plan = resolve(run, qwen3_vl_4b())
        problems = preflight(run, qwen3_vl_4b(), plan)
        assert not blocking(problems)
        assert not [problem for problem in problems if problem.severity == "warning"]


@pytest.mark.parametrize("path", METHODS + STRATEGIES, ids=lambda path: path.stem)
def test_a_worked_config_lowers_to_its_golden_arguments(
    path: Path, load: Callable[[Path], Config], tmp_path: Path
) -> None:
    text = ""
    for run in load(path).runs:
        text += f"# {run.phase}\n" if run.phase else ""
        arguments = lower(
            (plan := resolve(run, qwen3_vl_4b())), run, Path("runs/example"), Choices(plan.schedule.batch)
        )
        text += "".join(" ".join(to_argv({name: value})) + "\n" for name, value in arguments.items())
    text = text.replace(str(tmp_path), "FOLDER")
    golden = GOLDEN / f"{path.stem}.txt"
    if os.environ.get("SWIFTALIGN_UPDATE_GOLDEN"):
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(text, encoding="utf-8")
    assert text == golden.read_text(encoding="utf-8")


def test_every_method_of_init_has_a_worked_file() -> None:
    assert set(recipes()) <= {path.stem for path in METHODS}


def test_the_schema_beside_the_configs_is_the_published_one() -> None:
    assert json.loads((CONFIGS / "swiftalign.schema.json").read_text()) == json.loads(json.dumps(config_schema()))


@pytest.mark.parametrize("path", METHODS + STRATEGIES, ids=lambda path: path.stem)
def test_a_worked_config_names_its_schema_for_editors(path: Path) -> None:
    assert path.read_text().startswith("# yaml-language-server: $schema=../swiftalign.schema.json\n")
