"""The JSON schema that editors check a configuration file against."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from swiftalign.cli import main
from swiftalign.config import spellings
from swiftalign.config.arguments import ARGUMENTS
from swiftalign.config.schema import config_schema
from swiftalign.config.sections import Config, section_fields
from swiftalign.config.spellings import KEYS, is_argument
from swiftalign.config.swift_arguments import swift_arguments
from swiftalign.config.yaml import parse_document, read_document
from swiftalign.init.recipes import PROBLEMS, SCHEMA_FILE, recipes, write_config

GUIDE = sorted((Path(__file__).parent / "guide").glob("*.yaml"))
SECTIONS = ("data", "tuner", "training")


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    return config_schema()


@pytest.fixture(scope="module")
def validator(schema: dict[str, Any]) -> Draft202012Validator:
    return Draft202012Validator(schema)


def keys(schema: dict[str, Any], section: str) -> dict[str, Any]:
    properties: dict[str, Any] = schema["$defs"][f"{section.title()}Section"]["properties"]
    return properties


def faults(validator: Draft202012Validator, text: str) -> list[str]:
    errors = validator.iter_errors(parse_document(text, "f"))
    return [".".join(map(str, error.absolute_path)) for error in errors]


def test_schema_is_a_json_schema(schema: dict[str, Any]) -> None:
    Draft202012Validator.check_schema(schema)
    assert json.loads(json.dumps(schema)) == schema


@pytest.mark.parametrize("path", GUIDE, ids=lambda path: path.stem)
def test_fragment_of_the_guide_is_valid(path: Path, validator: Draft202012Validator) -> None:
    assert list(validator.iter_errors(read_document(path))) == []


@pytest.mark.parametrize("problem", [None, *PROBLEMS])
@pytest.mark.parametrize("method", recipes())
def test_recipe_is_valid(method: str, problem: str | None, validator: Draft202012Validator) -> None:
    usual: dict[str, Any] = {"model": "Qwen/Qwen3-VL-4B-Instruct", "method": method, "problem": problem, "steps": 90}
    phases = "phases:\n  - data: {train: a.jsonl}\n    training: {num_train_epochs: 3}\n"
    for more in ({}, {"val": "val.jsonl"}, {"val": "val.jsonl", "scored": ["line", "bbox"], "phases": phases}):
        assert faults(validator, write_config(train="train.jsonl", **usual, **more)) == []


def test_demo_and_its_schema_are_valid(demo: Path) -> None:
    written = Draft202012Validator(json.loads((demo / SCHEMA_FILE).read_text(encoding="utf-8")))
    assert faults(written, (demo / "config.yaml").read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "text",
    [
        "model: a/b",
        "model: {path: a/b, dtype: bfloat16}",
        "data: {train: a.jsonl}",
        "data: {train: [a.jsonl, b.jsonl], max_length: 2048}",
        "data: {train: {path: a.jsonl, weight: 0.5}, images: images, coordinates: relative1}",
        "data: {train: [a.jsonl, {path: b, name: boxes, images: c, coordinates: pixels}], val: [d.parquet]}",
        "data: {text: {keys: {bbox: box, quad: poly}, shape: numbered, object_key: 'box {n}'}}",
        "custom: {train_jsonl: a.jsonl, val_jsonl: [b.jsonl]}",
        "tuner: {tuner_type: boft}",
        "training: {max_grad_norm: 1.0, save_strategy: no}",
        "swift: {seed: 1, max_grad_norm: 0.5}",
        "training:\ntuner:\n",
        "- hflip: {prob: 0.5}",
        "custom: {augmentation: {preset: mild, fill: grey, bypass_prob: 0.5}}",
        "custom: {augmentation: {fill: 128, curriculum: {phases: [{until_percent: 20}]}}}",
        "custom: {augmentation: {curriculum: {phases: [{until_percent: 20, ops: {rotate: {prob: 0.3}}}]}}}",
        "custom: {augmentation: {curriculum: {phases: [{until_percent: 20, ops: {imgaug.MotionBlur: {prob: 0.3}}}]}}}",
        "custom: {augmentation: {curriculum: {phases: [{until_percent: 20, bypass_prob: 1, ops: }]}}}",
    ],
)
def test_what_the_loader_takes_is_valid(text: str, validator: Draft202012Validator) -> None:
    assert faults(validator, text) == []


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("tunner: {}", ""),
        ("data: {train: {weight: 2}}", "data.train"),
        ("data: {train: [a.jsonl, {path: b.jsonl, wieght: 2}]}", "data.train"),
        ("data: {train: [null]}", "data.train"),
        ("data: {val: ['']}", "data.val"),
        ("data: {val: {path: a.jsonl, coordinates: norm1}}", "data.val"),
        ("data: {text: {keys: {box: bbox}}}", "data.text.keys"),
        ("tuner: {lora_rnk: 16}", "tuner"),
        ("swift: {frobnicate: 1}", "swift"),
        ("custom: {augmentation: {enable: true}}", "custom.augmentation"),
        ("custom: {augmentation: {fill: blue}}", "custom.augmentation"),
        ("custom: {augmentation: {curriculum: {phases: [{until_step: 5}]}}}", "custom.augmentation"),
        ("custom: {augmentation: {curriculum: {phases: [{until_percent: 0}]}}}", "custom.augmentation"),
        (
            "custom: {augmentation: {curriculum: {phases: [{until_percent: 9, ops: {imgaug.Fog: {seed: 1}}}]}}}",
            "custom.augmentation",
        ),
        ("model: ''", "model"),
        ("tuner: {train_type: adapter}", "tuner.train_type"),
        ("tuner: {lora_rank: 0}", "tuner.lora_rank"),
        ("training: {aligner_lr: -1}", "training.aligner_lr"),
        ("training: {max_grad_norm: a}", "training.max_grad_norm"),
        ("- hflip", "0"),
        ("Qwen", ""),
    ],
)
def test_what_the_loader_refuses_is_invalid(text: str, place: str, validator: Draft202012Validator) -> None:
    assert faults(validator, text) == [place]


@pytest.mark.parametrize("section", ["", *spellings.SECTIONS])
def test_other_spellings_are_valid(section: str, validator: Draft202012Validator) -> None:
    own = {key[-1] for key in KEYS if [*key[:-1], ""][0] == section}
    names = ({*own, *ARGUMENTS} | swift_arguments().keys()) - {"model", *section_fields(section)}
    moved = [name for name in names if not is_argument(section, name)]
    taken = [f"{section}: {{{name}: 1}}" if section else f"{name}: 1" for name in moved]
    assert [text for text in taken if faults(validator, text)] == []


@pytest.mark.parametrize("text", ["extends: base.yaml", "extends: [a.yaml, ../b.yaml]", "template: {max_pixels: 1}"])
def test_files_of_the_guides_project_are_valid(text: str, validator: Draft202012Validator) -> None:
    assert faults(validator, text) == []


@pytest.mark.parametrize("section", SECTIONS)
def test_every_declared_key_is_in_the_schema(section: str, schema: dict[str, Any]) -> None:
    assert section_fields(section).keys() - keys(schema, section).keys() == set()
    assert {*Config.model_fields, "extends"} == schema["properties"].keys()


def test_command_prints_the_schema(schema: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "--schema"]) == 0
    assert json.loads(capsys.readouterr().out) == schema
