"""Damaged files of every kind end in findings or in an error for the user: no traceback, no hang, nothing executed."""

from __future__ import annotations

import io
import json
import pickle
import random
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from corruptions import PLANTED
from corruptions.damaged_files import INDEX, Planted
from corruptions.files import WEIGHTS, write_parts
from corruptions.sound import build_run, merge
from swiftalign.checkpoint.verify import verify
from swiftalign.cli.show import print_verification
from swiftalign.demo.model import build_model
from swiftalign.problems import ModelError, SwiftalignError

SECONDS = 2.0
MEGABYTES = 200


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A LoRA and a whole-module checkpoint in their run folders, and a merged model in shards."""
    root = tmp_path_factory.mktemp("fuzz")
    build_model(root / "base")
    found = {name: build_run(name, root / "base", root / name) for name in ("lora", "saved")}
    found["alone"] = shutil.copytree(found["lora"], root / "alone/adapter")
    return found | {"model": merge(found["saved"], root / "base", root / "merged", max_shard_size="300KB")}


@pytest.fixture(autouse=True)
def without_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """A damaged base is no hub id to ask for."""

    def refuse(model_id: str, revision: str | None, hub: str) -> Any:
        raise ModelError(f"{model_id}: not asked for")

    monkeypatch.setattr("swiftalign.model.hub.fetch_config", refuse)


def look(path: Path, *, deep: bool) -> None:
    """Verify, and print as text and as JSON; what the user can mend may be raised, and nothing else."""
    begin = time.perf_counter()
    try:
        result = verify(path, deep=deep)
        json.dumps(result.to_json())
        text = io.StringIO()
        print_verification(result, Console(file=text, width=160), keys=True)
        text.getvalue().encode()
        assert "\x1b" not in text.getvalue()
    except SwiftalignError:
        pass
    assert time.perf_counter() - begin < SECONDS


# -- Mutations of sound files -----------------------------------------------------------------------------------------

JUNK = (b"[" * 20_000, b'{"a":' * 20_000, b"9" * 5_000, b"1e999", b"-1", b"null", b"18446744073709551615", b'"\\ud800"')
JUNK += (b"true", b"[]", b"{}", b'"\\u001b[2J"', b"NaN", b"0.5", b"\xff\xfe", b"\0" * 9)


def _flip(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.randint(1, 8)):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _cut(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(len(data)) :]


def _splice(data: bytearray, rng: random.Random) -> None:
    start, place = rng.randrange(len(data)), rng.randrange(len(data))
    data[place : place + rng.randint(0, 40)] = data[start : start + rng.randint(1, 400)]


def _junk(data: bytearray, rng: random.Random) -> None:
    place = rng.randrange(len(data))
    data[place : place + rng.randint(0, 6)] = rng.choice(JUNK)


def _value(data: bytearray, rng: random.Random) -> None:
    """Put junk in the place of a JSON value: behind a colon, up to the next comma or bracket."""
    colons = [place for place, sign in enumerate(data) if sign == ord(":")]
    if colons:
        start = rng.choice(colons) + 1
        end = min((e for e in (data.find(sign, start) for sign in b",}") if e >= 0), default=len(data))
        data[start:end] = rng.choice(JUNK)


MUTATIONS = (_flip, _cut, _splice, _junk, _value)


def mutated(data: bytes, rng: random.Random) -> bytes:
    """One to three mutations."""
    held = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 3))):
        if held:
            rng.choice(MUTATIONS)(held, rng)
    return bytes(held)


def mutated_header(data: bytes, rng: random.Random) -> bytes:
    """Mutate a safetensors header and keep its length true, so that more than the length is looked at."""
    start = 8 + int.from_bytes(data[:8], "little")
    header = mutated(data[8:start], rng)
    return len(header).to_bytes(8, "little") + header + data[start:]


def mutated_weights(data: bytes, rng: random.Random) -> bytes:
    return (mutated_header if rng.random() < 0.7 else mutated)(data, rng)


Mutate = Callable[[bytes, random.Random], bytes]
# Folder, file, how it is mutated, and how many times: 5,000 in all.
TARGETS: list[tuple[str, str, Mutate, int]] = [
    ("lora", WEIGHTS, mutated_weights, 1000),
    ("saved", WEIGHTS, mutated_weights, 700),
    ("model", "model-00002-of-00006.safetensors", mutated_weights, 400),
    ("model", INDEX, mutated, 700),
    ("lora", "adapter_config.json", mutated, 300),
    ("alone", "adapter_config.json", mutated, 400),
    ("saved", "trainer_state.json", mutated, 200),
    ("model", "config.json", mutated, 500),
    ("saved", "../plan.json", mutated, 200),
    ("saved", "../initial.json", mutated, 100),
    ("model", "tokenizer_config.json", mutated, 100),
    ("lora", "optimizer.pt", mutated, 100),
    ("lora", "adapter_model.bin", mutated, 300),
]


def peak_memory(*, reset: bool = False) -> float:
    """The highest resident memory in MB since the last reset."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def pickles() -> Iterator[bytes]:
    """State dicts in both of torch's formats, alone and beside what would create a file; and bare pickles of that."""
    sound = {"a.weight": torch.ones(2, 3), "b.weight": torch.ones(4, dtype=torch.bfloat16)}
    for zipped in (True, False):
        for held in (sound, sound, sound | {"c": Planted()}):
            buffer = io.BytesIO()
            torch.save(held, buffer, _use_new_zipfile_serialization=zipped)
            yield buffer.getvalue()
    for protocol in range(0, pickle.HIGHEST_PROTOCOL + 1, 2):
        yield pickle.dumps({"a": [Planted()]}, protocol=protocol)


def sources(folder: Path, file: str) -> list[bytes]:
    return list(pickles()) if file.endswith(".bin") else [(folder / file).read_bytes()]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "file", "mutate", "count"), TARGETS, ids=[f"{t[0]}-{t[1]}" for t in TARGETS])
def test_mutated_files_end_in_findings_or_an_error(
    name: str,
    file: str,
    mutate: Mutate,
    count: int,
    folders: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    folder, rng = folders[name], random.Random(f"{name}/{file}")
    originals = sources(folder, file)
    path = folder / file if not file.endswith(".bin") else tmp_path / file
    look(folder, deep=True)
    before = peak_memory(reset=True)
    try:
        for number in range(count):
            path.write_bytes(mutate(rng.choice(originals), rng))
            look(path if file.endswith(".bin") else folder, deep=number % 3 == 0 or file == "optimizer.pt")
    finally:
        path.write_bytes(originals[0])
    assert peak_memory() - before < MEGABYTES
    assert not (tmp_path / PLANTED).exists()


def test_there_are_5000_mutated_files() -> None:
    assert sum(count for *_, count in TARGETS) == 5000


# -- Values that are valid JSON ---------------------------------------------------------------------------------------

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
    look(path, deep=deep)


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
    def check(key: str, value: Any) -> None:
        path.write_text(json.dumps(json.loads(original) | {key: value}))
        look(folders[name], deep=False)

    try:
        check()
    finally:
        path.write_bytes(original)
