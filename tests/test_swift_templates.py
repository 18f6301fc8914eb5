"""How models write coordinates: by ms-swift's templates, read from its sources, and by what is known of families."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from swiftalign.checks.data import coordinates_told
from swiftalign.config.sections import Config
from swiftalign.data.encoding import encoding_of
from swiftalign.model.families import find, published_config
from swiftalign.model.swift_templates import UNITS, unit_of_model, unit_of_template
from swiftalign.plan.read import read_model
from swiftalign.plan.resolve import resolve


def test_the_unit_of_every_template_is_that_of_its_class() -> None:
    from swift.template import TEMPLATE_MAPPING

    assert {name: unit_of_template(name) for name in TEMPLATE_MAPPING} == {
        name: UNITS[meta.template_cls.norm_bbox] for name, meta in TEMPLATE_MAPPING.items()
    }
    assert unit_of_template("no_such_template") is None


def test_the_unit_of_every_type_with_an_aligner_is_told() -> None:
    """Of a model without a known name, by the class alone."""
    from swift.model import MODEL_MAPPING

    untold = [
        model_class
        for meta in MODEL_MAPPING.values()
        if getattr(meta.model_arch, "aligner", None)
        for model_class in meta.architectures
        if model_class != "null"  # ms-swift's word for none, which it adds when it first looks for a model's type
        and unit_of_model({"model_type": "any", "architectures": [model_class]}, "/models/mine", None, None) is None
    ]
    assert untold == UNTOLD


# Classes whose types have templates of both kinds.
UNTOLD: list[str] = []


@pytest.mark.parametrize("model_id", ["Qwen/Qwen3.5-4B", "Qwen/Qwen3.8-27B", "Qwen/Qwen2.5-VL-7B-Instruct"])
def test_a_known_family_writes_as_its_template_does(model_id: str) -> None:
    config = published_config(model_id) or {}
    family = find(config["model_type"])
    assert family is not None
    assert family.coordinates == unit_of_model(config, model_id, None, None)


CASES: dict[str, tuple[dict[str, Any], dict[str, Any], str, int, bool]] = {
    "known": (published_config("Qwen/Qwen2.5-VL-3B-Instruct") or {}, {}, "resized", 28, False),
    "by class": (
        {"model_type": "qwen2_5_omni", "architectures": ["Qwen2_5OmniForConditionalGeneration"]}
        | {"thinker_config": {"vision_config": {"patch_size": 14, "spatial_merge_size": 2}}},
        {},
        "resized",
        28,
        False,
    ),
    "by template": (
        {"model_type": "mine", "architectures": ["Mine"]},
        {"data": {"template": "qwen2_5_vl"}},
        "resized",
        32,
        False,
    ),
    "unknown": ({"model_type": "mine", "architectures": ["Mine"]}, {}, "relative1000", 32, True),
    "malformed": (
        {
            "model_type": "glm4v",
            "architectures": ["Glm4vForConditionalGeneration"],
            "vision_config": {"patch_size": "14"},
        },
        {},
        "relative1000",
        32,
        False,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_unit_of_a_folder_and_its_patches(name: str, tmp_path: Path) -> None:
    values, settings, unit, factor, assumed = CASES[name]
    (tmp_path / "config.json").write_text(json.dumps(values))
    encoding = encoding_of(Config.model_validate({"model": {"path": str(tmp_path)}, **settings}))
    assert (encoding.writing.unit, encoding.limits.factor, encoding.assumed) == (unit, factor, assumed)


def test_a_hub_id_that_is_not_here_is_known_by_its_published_config() -> None:
    encoding = encoding_of(Config.model_validate({"model": {"path": "Qwen/Qwen2.5-VL-7B-Instruct"}}))
    assert (encoding.writing.unit, encoding.limits.factor, encoding.writing.own_boxes) == ("resized", 28, True)


@pytest.mark.parametrize(("model_class", "found"), [("Mine", 1), ("LlavaForConditionalGeneration", 0)])
def test_an_assumed_unit_is_a_warning_where_there_are_rows(model_class: str, found: int, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mine", "architectures": [model_class]}))
    known = read_model(Config.model_validate({"model": {"path": "Qwen/Qwen3.5-0.8B"}}))
    plan = resolve(Config.model_validate({"model": {"path": "Qwen/Qwen3.5-0.8B"}}), known)
    plan = replace(plan, model_type="mine")
    model = {"path": str(tmp_path)}
    without = Config.model_validate({"model": model})
    assert not list(coordinates_told(without, known, plan))
    config = Config.model_validate({"model": model, "data": {"train": [{"path": "rows.jsonl"}]}})
    problems = list(coordinates_told(config, known, plan))
    assert [(problem.code, problem.severity) for problem in problems] == [
        ("data-coordinates-assumed", "warning")
    ] * found


def test_reading_templates_imports_neither_ms_swift_nor_torch() -> None:
    code = (
        "import sys; from swiftalign.model.swift_templates import unit_of_template;"
        "print(unit_of_template('mimo_vl'), {'swift', 'torch', 'transformers'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "resized set()\n"
