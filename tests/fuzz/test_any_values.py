"""Any values that are valid JSON, in a weight file's header or beside it, end in findings or in an error."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from corruptions.files import write_parts
from corruptions.sound import build_run, merge
from fuzz.fuzz import no_hub, show_error
from fuzz.weights import INDEX, look
from swiftalign.demo.model import build_model
from swiftalign.problems import SwiftalignError


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """A LoRA checkpoint in its run folder and alone, and a merged model in shards."""
    root = tmp_path_factory.mktemp("any")
    build_model(root / "base")
    found = {"lora": build_run("lora", root / "base", root / "lora")}
    found["alone"] = shutil.copytree(found["lora"], root / "alone/adapter")
    with patch("swiftalign.model.hub.fetch_config", no_hub):
        yield found | {"model": merge(found["lora"], root / "base", root / "merged", max_shard_size="300KB")}


def check(path: Path, *, deep: bool) -> None:
    try:
        look(path, deep=deep)
    except SwiftalignError as error:
        show_error(error)


NUMBERS = st.integers(-(2**70), 2**70) | st.floats() | st.sampled_from([0, 1, 2, 8, 2**31, 2**48, 2**63, 2**64])
SCALARS = st.none() | st.booleans() | NUMBERS | st.text(max_size=8)
ANY = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
)
NAMES = st.sampled_from(
    [
        "base_model.model.model.visual.merger.norm.weight",
        "base_model.model.model.visual.merger.linear_fc1.lora_A.weight",
        "lm_head.weight",
        "__metadata__",
    ]
)
ENTRIES = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "BF16", "U8", "F8_E8M0", "F4"]) | ANY,
        "shape": st.lists(st.integers(0, 9), max_size=3) | st.lists(NUMBERS, max_size=20) | ANY,
        "data_offsets": st.lists(st.integers(0, 64), min_size=2, max_size=2) | ANY,
    }
)
HEADERS = st.dictionaries(NAMES | st.text(max_size=8), ENTRIES | ANY, max_size=5) | ANY

quick = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


@quick
@given(header=HEADERS, data=st.binary(max_size=64), deep=st.booleans())
def test_any_header_ends_in_findings_or_an_error(
    header: Any, data: bytes, deep: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    write_parts(path, json.dumps(header).encode(), data)
    check(path, deep=deep)


KEYS: dict[tuple[str, str], list[str]] = {
    ("alone", "adapter_config.json"): [
        "base_model_name_or_path",
        "r",
        "target_modules",
        "exclude_modules",
        "layers_to_transform",
        "layers_pattern",
        "rank_pattern",
        "bias",
        "lora_bias",
        "modules_to_save",
        "trainable_token_indices",
        "target_parameters",
    ],
    ("lora", "adapter_config.json"): [
        "peft_type",
        "r",
        "target_modules",
        "modules_to_save",
        "use_dora",
        "rank_pattern",
    ],
    ("lora", "trainer_state.json"): ["global_step"],
    ("model", INDEX): ["weight_map", "metadata"],
    ("model", "config.json"): ["model_type", "text_config", "vision_config", "tie_word_embeddings", "dtype"],
}


@pytest.mark.parametrize(("name", "file"), KEYS, ids=[f"{name}-{file}" for name, file in KEYS])
def test_any_values_in_a_json_file_end_in_findings_or_an_error(name: str, file: str, folders: dict[str, Path]) -> None:
    path = folders[name] / file
    original = path.read_bytes()

    @quick
    @given(key=st.sampled_from(KEYS[name, file]), value=ANY | st.dictionaries(st.text(max_size=5), st.text()))
    def put(key: str, value: Any) -> None:
        path.write_text(json.dumps(json.loads(original) | {key: value}))
        check(folders[name], deep=False)

    try:
        put()
    finally:
        path.write_bytes(original)
