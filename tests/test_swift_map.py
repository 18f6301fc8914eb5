"""Ms-swift's map of models, parsed from its sources, is the map that ms-swift has once it is imported."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from swiftalign.model.swift_map import (
    SwiftType,
    architecture,
    model_name,
    type_named,
    type_of_model,
    types_of_class,
)


@pytest.fixture(scope="module")
def swift() -> dict[str, Any]:
    """Ms-swift's own registry: its `ModelMeta` by model type."""
    from swift.model import MODEL_MAPPING

    return dict(MODEL_MAPPING)


def parsed(name: str) -> SwiftType:
    found = type_named(name)
    assert found is not None, name
    return found


def test_every_type_has_the_classes_templates_task_and_loader_of_swift(swift: dict[str, Any]) -> None:
    """The fact relied on: `ModelMeta`'s fields, and a group's template before its type's."""
    assert len(swift) > 200
    for name, meta in swift.items():
        own = parsed(name)
        assert list(own.classes) == [each for each in meta.architectures if each != "null"], name
        assert (own.template, list(own.templates)) == (meta.template, meta.candidate_templates), name
        assert own.task == meta.task_type, name
        assert own.loader in (None, meta.loader.__name__), name
        if meta.model_arch:
            assert own.architecture == meta.model_arch.arch_name, name
        else:  # none, or one that ms-swift names without registering it
            assert own.architecture is None or architecture(own.architecture) is None, name


def test_every_published_id_has_the_type_and_the_template_that_swift_finds(swift: dict[str, Any]) -> None:
    """The fact relied on: `get_matched_model_meta` goes by the last part of an id, in lower case, in its own order."""
    from swift.model.model_meta import get_matched_model_meta

    ids = {
        each
        for meta in swift.values()
        for group in meta.model_groups
        for model in group.models
        for each in (model.ms_model_id, model.hf_model_id, model.model_path)
        if each
    }
    assert len(ids) > 1000
    by_name = {each.rsplit("/", 1)[-1].lower(): each for each in ids}
    for model_id in by_name.values():
        meta, found = get_matched_model_meta(model_id), type_of_model(model_id)
        assert found is not None, model_id
        assert (found[0].name, found[1]) == (meta.model_type, meta.template), model_id


def test_every_class_has_the_types_that_swift_takes_into_account(swift: dict[str, Any]) -> None:
    from swift.model.model_meta import get_matched_model_types

    classes = {each for meta in swift.values() for each in meta.architectures if each != "null"}
    for model_class in classes:
        types = [each.name for each in types_of_class(model_class)]
        assert sorted(types) == sorted(get_matched_model_types([model_class])), model_class


def test_every_architecture_has_the_prefixes_of_swift() -> None:
    from swift.model import MODEL_ARCH_MAPPING, MultiModelKeys

    multimodal = {name: keys for name, keys in MODEL_ARCH_MAPPING.items() if isinstance(keys, MultiModelKeys)}
    assert len(multimodal) > 60
    for name, keys in multimodal.items():
        own = architecture(name)
        assert own is not None, name
        parts = (own.llm, own.vit, own.aligner, own.generator)
        assert [list(part) for part in parts] == [
            keys.language_model,
            keys.vision_tower,
            keys.aligner,
            keys.generator,
        ], name
    assert {name for name in MODEL_ARCH_MAPPING if architecture(name)} == set(multimodal)


@pytest.mark.parametrize(
    "path",
    [
        "Qwen/Qwen3-VL-8B-Instruct",
        "/models/Qwen3-VL-8B-Instruct/",
        "/cache/hub/models--Qwen--Qwen2.5-VL-7B-Instruct/snapshots/0123456789",
        "/cache/modelscope/models/Qwen--Qwen2.5-VL-7B-Instruct/snapshots/master",
        "/cache/modelscope/hub/Qwen/Qwen2___5-VL-7B-Instruct",
        "checkpoint-40",
    ],
)
def test_a_models_name_is_the_one_that_swift_takes(path: str) -> None:
    from swift.model.model_meta import get_model_name

    assert model_name(path) == get_model_name(path)


def test_models_that_embed_or_rank_are_told_from_those_that_write() -> None:
    silent = ["qwen2_gme", "qwen3_5_emb", "wemm_embedding", "qwen3_vl_emb", "qwen3_vl_reranker", "jina_reranker_m0"]
    assert not any(parsed(name).generates for name in silent)
    assert all(parsed(name).generates for name in ("qwen2_vl", "qwen3_5", "qwen3_vl", "ovis_ocr2", "gemma4"))
    assert parsed("qwen2_5_vl").published("mimo_vl") == ("MiMo-VL-7B-SFT", "MiMo-VL-7B-RL")


def test_the_map_is_read_in_a_moment_and_without_torch() -> None:
    code = """
import sys, time
from swiftalign.model.swift_map import architecture, types_of_class, type_of_model
began = time.process_time()
types_of_class("Qwen3_5ForConditionalGeneration"), type_of_model("a/folder"), architecture("qwen3_omni")
assert time.process_time() - began < 2
print(sorted({"torch", "transformers", "swift", "numpy"} & set(sys.modules)))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
