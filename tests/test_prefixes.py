"""Where ms-swift's prefixes do not fit a class, the training process corrects them, and pre-flight says so."""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from swift.arguments.tuner_args import TunerArguments
from swift.model import MODEL_ARCH_MAPPING, MODEL_MAPPING
from swift.utils import activate_parameters, freeze_parameters

from swiftalign.checks.base_model import prefixes
from swiftalign.config.load import load_config
from swiftalign.config.sections import Config
from swiftalign.model.components import CORRECTIONS
from swiftalign.model.meta import build_on_meta
from swiftalign.model.swift_map import architecture, types_of_class
from swiftalign.model.tree import Model
from swiftalign.plan.read import read_model
from swiftalign.plan.resolve import resolve
from swiftalign.worker.pipeline import correct_prefixes

ERNIE = {
    "architectures": ["Ernie4_5_VLMoeForConditionalGeneration"],
    "model_type": "ernie4_5_vl_moe",
    "text_config": {
        "model_type": "ernie4_5_vl_moe_text",
        "hidden_size": 128,
        "intermediate_size": 96,
        "mlp_layer_types": ["dense", "sparse"],
        "moe_intermediate_size": [32, 16],
        "moe_k": 2,
        "moe_num_experts": 4,
        "moe_num_shared_experts": 2,
        "num_attention_heads": 1,
        "num_hidden_layers": 2,
        "num_key_value_heads": 1,
        "vocab_size": 512,
    },
    "vision_config": {
        "model_type": "ernie4_5_vl_moe_vision",
        "depth": 2,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_heads": 4,
    },
}


@pytest.fixture(autouse=True)
def registry() -> Iterator[None]:
    """Ms-swift's registry, as it was."""
    before = {name: copy.deepcopy(vars(keys)) for name, keys in MODEL_ARCH_MAPPING.items()}
    yield
    for name, values in before.items():
        vars(MODEL_ARCH_MAPPING[name]).update(values)


@pytest.mark.parametrize("model_class", [name for name, fault in CORRECTIONS.items() if not fault.unloadable])
def test_swifts_registry_gets_the_prefixes_of_the_table(model_class: str) -> None:
    types = [each for each in types_of_class(model_class) if architecture(each.architecture)]
    assert types, "a correction of a class that ms-swift does not know"
    for each in types:
        keys, theirs = MODEL_MAPPING[each.name].model_arch, architecture(each.architecture)
        assert theirs is not None
        right = CORRECTIONS[model_class].applied(theirs)
        assert right != theirs, "a correction that changes nothing"
        correct_prefixes(keys, CORRECTIONS[model_class])
        found = (keys.language_model, keys.vision_tower, keys.aligner, keys.generator)
        assert found == (list(right.llm), list(right.vit), list(right.aligner), list(right.generator))


@pytest.fixture
def ernie(tmp_path: Path) -> Callable[[str], Config]:
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text(json.dumps(ERNIE), encoding="utf-8")

    def make(text: str) -> Config:
        path = tmp_path / "config.yaml"
        path.write_text(f"model: ./model\n{text}", encoding="utf-8")
        return load_config([path])

    return make


def trained_by_swift(**flags: bool) -> set[str]:
    """The names of what trains in full training, by ms-swift's own arguments and functions."""

    class Arguments(TunerArguments):  # type: ignore[misc]  # ms-swift ships no types
        tuner_type, model_meta = "full", MODEL_MAPPING["ernie_vl"]

    arguments, model = Arguments(**flags), build_on_meta(ERNIE)
    model.requires_grad_(True)
    freeze_parameters(model, 0.0, arguments.freeze_parameters)
    activate_parameters(model, arguments.trainable_parameters)
    return {name for name, weight in model.named_parameters() if weight.requires_grad}


@pytest.mark.parametrize("frozen", [flags for flags in itertools.product([True, False], repeat=3) if not all(flags)])
def test_swifts_freeze_flags_then_train_what_the_plan_says(
    frozen: tuple[bool, ...], ernie: Callable[[str], Config]
) -> None:
    flags = dict(zip(("freeze_llm", "freeze_vit", "freeze_aligner"), frozen, strict=True))
    config = ernie(f"tuner: {json.dumps({'train_type': 'full', **flags})}\n")
    planned = {item.parameter for item in resolve(config, read_model(config)).trainables}
    correct_prefixes(MODEL_MAPPING["ernie_vl"].model_arch, CORRECTIONS[ERNIE["architectures"][0]])
    assert trained_by_swift(**flags) == planned


def test_swift_alone_would_train_something_else() -> None:
    """Otherwise the correction could go: with the ViT alone unfrozen, ms-swift trains nothing of it."""
    names = trained_by_swift(freeze_llm=True, freeze_vit=False, freeze_aligner=True)
    assert not any(name.startswith("model.vision_tower") for name in names)


def test_preflight_says_what_swift_alone_would_do(ernie: Callable[[str], Config], demo_modules: Model) -> None:
    """A class that ms-swift can't load at all has an error of its own, and nothing is corrected for it."""
    config = ernie("")
    model = read_model(config)
    plan, other = resolve(config, model), "Glm4vForConditionalGeneration"
    assert not list(prefixes(config, model, plan))
    [problem] = prefixes(
        config, replace(model, config={**model.config, "architectures": [other], "model_type": "glm4v"}), plan
    )
    assert (problem.code, problem.severity) == ("swift-prefixes-wrong", "warning")
    assert CORRECTIONS[other].reason in problem.message
    assert not list(prefixes(config, demo_modules, resolve(config, demo_modules)))
