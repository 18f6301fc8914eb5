"""A tuning method is one class: a toy, defined here and registered, goes from its config to ms-swift's arguments."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
from pydantic import Field
from rich.console import Console

from finding_cases import ALIGNER
from swiftalign.checks.preflight import preflight
from swiftalign.cli.show import print_plan
from swiftalign.config.load import load_config
from swiftalign.config.schema import config_schema
from swiftalign.config.sections import Config
from swiftalign.methods import METHODS, offered, register, unregister
from swiftalign.methods.base import Method, Part, Shape, Usage
from swiftalign.model.tree import Kind, Model, Module
from swiftalign.plan.resolve import resolve
from swiftalign.problems import CODES, ConfigError, Problem
from swiftalign.problems import register as register_code
from swiftalign.runs.lowering import lower
from swiftalign.speed.choices import Choices

GAIN = Part("toy_gain", start="zero")


class Toy(Method):
    """A gain per output and harmonic."""

    name = "toy"
    adapts = frozenset({Kind.LINEAR})
    parts = (GAIN,)
    summary = "a gain per output"
    aligner_lr = "1.0e-4"
    recipe = f"train_type: toy\ntarget_regex: {ALIGNER}\n"

    toy_harmonics: int = Field(2, gt=0, description="gains per output")
    toy_phase: float = 0.5

    def shapes(self, layer: Module) -> dict[Part, Shape]:
        return {GAIN: (layer.weight.shape[0], self.toy_harmonics)}

    def problems(self, usage: Usage) -> Iterable[Problem]:
        if self.toy_harmonics % 2:
            fix = {"tuner": {"toy_harmonics": self.toy_harmonics + 1}}
            message = f"toy_harmonics {self.toy_harmonics} is odd"
            yield Problem("toy-odd", message, "choose an even number:", fix, usage.where("tuner", "toy_harmonics"))


@pytest.fixture(autouse=True)
def toy() -> Iterator[None]:
    register(Toy)
    register_code("toy-odd", "error", "an odd number of harmonics")
    yield
    unregister("toy")
    del CODES["toy-odd"]


@pytest.fixture
def load(demo: Path, tmp_path: Path) -> Callable[[str], Config]:
    def load(settings: str) -> Config:
        path = tmp_path / "toy.yaml"
        tuner = f"tuner:\n  train_type: toy\n  target_regex: {ALIGNER}\n{settings}"
        path.write_text(f"model: {demo / 'model'}\n{tuner}", encoding="utf-8")
        return load_config([path])

    return load


def test_a_toy_method_is_planned_checked_and_lowered(load: Callable[[str], Config], demo_modules: Model) -> None:
    config = load("  toy_harmonics: 3\n")
    plan = resolve(config, demo_modules)
    assert plan.method == "toy"
    assert {item.key.rpartition(".")[2] for item in plan.trainables} == {"toy_gain"}
    assert {item.shape[1] for item in plan.trainables} == {3}

    console = Console(width=160, record=True)
    print_plan(plan, demo_modules, console)
    assert "method  toy" in console.export_text()

    [problem] = [found for found in preflight(config, demo_modules, plan) if found.severity == "error"]
    assert (problem.code, problem.message) == ("toy-odd", "toy_harmonics 3 is odd")
    assert problem.where.endswith("toy.yaml:5")

    arguments = lower(plan, config, Path("runs/toy"), Choices())
    names = list(arguments)
    assert names[names.index("tuner_type") :][:4] == ["tuner_type", "target_regex", "toy_harmonics", "toy_phase"]
    assert (arguments["tuner_type"], arguments["toy_harmonics"], arguments["toy_phase"]) == ("toy", 3, 0.5)


@pytest.mark.parametrize(
    ("setting", "message", "hint"),
    [
        ("toy_harmonics: 0", "tuner.toy_harmonics must be greater than 0, not 0", ""),
        ("toy_harmonics: a", "tuner.toy_harmonics must be a whole number, not 'a'", ""),
        ("toy_harmonic: 2", "tuner.toy_harmonic: unknown key", "did you mean toy_harmonics?"),
    ],
)
def test_settings_of_a_toy_method_are_checked_like_all_others(
    setting: str, message: str, hint: str, load: Callable[[str], Config]
) -> None:
    with pytest.raises(ConfigError) as caught:
        load(f"  {setting}\n")
    [problem] = caught.value.problems
    assert (problem.message, problem.hint) == (message, hint)
    assert problem.where.endswith("toy.yaml:5")


def test_a_default_written_out_equals_an_absent_one(load: Callable[[str], Config]) -> None:
    assert load("  toy_harmonics: 2\n  lora_alpha: 32\n").model_dump() == load("").model_dump()
    assert load("  toy_harmonics: 2\n").tuner.given("toy_harmonics")
    assert not load("").tuner.given("toy_harmonics")
    assert load("  toy_harmonics: 2\n").handed_through == {}


def test_a_toy_method_is_offered_and_in_the_schema_until_it_is_unregistered() -> None:
    tuner = config_schema()["$defs"]["TunerSection"]["properties"]
    assert "toy" in tuner["train_type"]["enum"]
    assert tuner["toy_harmonics"]["description"] == "gains per output"
    assert "toy" in offered()
    unregister("toy")
    assert "toy" not in METHODS
    register(Toy)
