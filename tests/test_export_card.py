"""The card of an export is true: its lines are run, and what it says is compared with the run's files."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import yaml
from peft import PeftModel
from safetensors.torch import load_file, save_file

from swiftalign.config.load import load_config
from swiftalign.demo.model import build_model
from swiftalign.evaluation.kept import stamps
from swiftalign.exports.card import metrics_table
from swiftalign.exports.export import export
from swiftalign.plan.read import read_model
from swiftalign.plan.resolve import resolve
from swiftalign.problems import ExportError
from swiftalign.runs.folder import write_run_files
from test_export_against_peft import LINEAR, METHODS, make_adapter, merge_by_peft, tensors_of

DIGEST = "ff" * 32
BASE_CARD = "---\nlicense: apache-2.0\npipeline_tag: image-text-to-text\nlibrary_name: other\n---\n# The base\n"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the base, and a run of modules_to_save with one checkpoint and its trainer's state."""
    folder = tmp_path_factory.mktemp("cards")
    build_model(folder / "base", dtype="bfloat16")
    (folder / "base/README.md").write_text(BASE_CARD)
    checkpoint = folder / "run/checkpoint-7"
    make_adapter(folder / "base", "modules_to_save", checkpoint)
    log = [
        {"step": 5, "eval_loss": 0.9, "eval_bbox_acc": 0.1},
        {"step": 7, "loss": 0.4},
        {"step": 7, "eval_loss": 0.51234, "eval_bbox_acc": 0.75, "eval_runtime": 3.0, "eval_samples_per_second": 9.0},
    ]
    state = {"global_step": 7, "best_global_step": 7, "epoch": 0.875, "log_history": log}
    (checkpoint / "trainer_state.json").write_text(json.dumps(state))
    config_file = folder / "run/config.yaml"
    tuner = "{target_regex: '^$', modules_to_save: [model.visual.merger, model.visual.deepstack_merger_list]}"
    config_file.write_text(f"model: {folder / 'base'}\ntuner: {tuner}\n")
    config = load_config([config_file])
    write_run_files(folder / "run", config, resolve(config, read_model(config)))
    (folder / "run/data.json").write_text(json.dumps({"/home/someone/rows/train.jsonl": DIGEST}))
    return folder


def card_of(folder: Path) -> tuple[dict[str, Any], str]:
    """Front matter and text."""
    _, front, text = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(front), text


def run_lines(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Run the Python lines of a card beside its folder, as it says; returns the names that they define."""
    monkeypatch.chdir(folder.parent)
    blocks = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, Any] = {}
    for block in blocks:
        exec(block, names)
    assert blocks
    return names


def test_the_front_matter_has_what_the_hub_reads(made: Path, tmp_path: Path) -> None:
    export(made / "run", tmp_path / "out")
    front, text = card_of(tmp_path / "out")
    assert front == {
        "base_model": "base",
        "base_model_relation": "finetune",
        "library_name": "transformers",
        "pipeline_tag": "image-text-to-text",
        "license": "apache-2.0",
        "tags": ["swiftalign", "ms-swift", "modules_to_save"],
    }
    assert "vllm serve out\n" in text


def test_it_says_how_the_checkpoint_was_trained_and_measured(made: Path, tmp_path: Path) -> None:
    export(made / "run", tmp_path / "out")
    _, text = card_of(tmp_path / "out")
    rows = dict(re.findall(r"^\| (.*?) \| (.*?) \|$", text, re.M))
    assert rows["base"] == "`base`"
    assert rows["trained"] == "99,904 of 374,176 parameters: 99,904 for the aligner"
    assert rows["checkpoint"] == "`checkpoint-7` of the run `run`, the newest"
    assert rows["length"].startswith("7 steps")
    assert rows["length"].endswith("0.875 epochs")
    assert rows["`train.jsonl`"] == f"`{DIGEST}`"
    assert "## Evaluation after step 7, the best of the run until then" in text
    assert (rows["`eval_loss`"], rows["`eval_bbox_acc`"]) == ("0.5123", "0.75")
    assert "eval_runtime" not in text


def test_it_has_the_numbers_of_an_evaluation_of_this_checkpoint_alone(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    [weights] = (made / "run/checkpoint-7").glob("*.safetensors")

    def write(name: str, files: list[Any], *, limit: int | None = None, **numbers: float) -> None:
        folder = tmp_path / name
        folder.mkdir()
        asked = {"files": files, "rows": [["/home/someone/rows/val.jsonl", 1, 1]], "limit": limit}
        (folder / "eval.json").write_text(json.dumps(asked))
        (folder / "summary.json").write_text(json.dumps({"rows": 9, "failed": 1, "metrics": numbers}))

    write("of-another", [["/home/someone/adapter.safetensors", 1, 1]], bbox_acc=0.11)
    write("of-a-part", stamps([weights]), limit=3, bbox_acc=0.22)
    write("of-this", stamps([weights]), bbox_acc=0.8125)
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged/eval.json").write_text("{")
    export(made / "run", tmp_path / "out")
    _, text = card_of(tmp_path / "out")
    assert "By `swiftalign eval`, on 8 rows of `val.jsonl`:\n\n| metric | value |" in text
    assert "| `bbox_acc` | 0.8125 |" in text
    assert "0.11" not in text
    assert "0.22" not in text


@pytest.mark.parametrize("part", ["model", "aligner_only", "adapter_only", "mmproj"])
def test_no_path_of_this_machine_is_in_a_card(part: str, made: Path, tmp_path: Path) -> None:
    export(made / "run", tmp_path / "out", **({} if part == "model" else {part: True}))
    text = (tmp_path / "out/README.md").read_text()
    assert str(tmp_path) not in text
    assert str(made) not in text
    assert "/home/someone" not in text


def test_a_phase_counts_the_data_of_the_phases_before_it(made: Path, tmp_path: Path) -> None:
    for number in (1, 2):
        shutil.copytree(made / "run", tmp_path / f"run/phase-{number}")
        (tmp_path / f"run/phase-{number}/data.json").write_text(json.dumps({f"/rows/{number}.jsonl": DIGEST}))
    export(tmp_path / "run/phase-2/checkpoint-7", tmp_path / "out")
    _, text = card_of(tmp_path / "out")
    assert re.findall(r"`(\d\.jsonl)`", text) == ["1.jsonl", "2.jsonl"]
    assert "of phase 2; the phases before it have trained the same weights" in text


def test_the_lines_for_a_merged_model_load_it(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export(made / "run", tmp_path / "out")
    names = run_lines(tmp_path / "out", monkeypatch)
    expected = merge_by_peft(made / "base", made / "run/checkpoint-7")
    assert all(torch.equal(tensor, expected[name]) for name, tensor in names["model"].state_dict().items())
    assert names["processor"].image_processor is not None


LONGER = [pytest.param(name, marks=pytest.mark.long) for name in ("adalora", "boft", "fourierft")]


@pytest.mark.parametrize("method", ["modules_to_save", "lora", "dora", *LONGER])
def test_the_lines_for_an_adapter_load_it(
    method: str, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(made / "base", tmp_path / "base")
    make_adapter(made / "base", method, tmp_path / "adapter")
    export(tmp_path / "adapter", tmp_path / "out", base=tmp_path / "base", adapter_only=True)
    front, text = card_of(tmp_path / "out")
    assert (front["library_name"], front["base_model_relation"]) == ("peft", "adapter")
    model = run_lines(tmp_path / "out", monkeypatch)["model"]
    assert isinstance(model, PeftModel)
    expected = merge_by_peft(made / "base", tmp_path / "adapter")
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.merge_and_unload().state_dict().items())
    served = method == "lora"
    assert ("vLLM can't use it" in text) != served
    assert ("--enable-tower-connector-lora" in text) == served


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"r": 4}, "--max-lora-rank 8 --lora-modules out=out"),
        ({"r": 4, "rank_pattern": {"linear_fc1": 20}}, "--max-lora-rank 32"),
        ({"r": 600}, "vLLM can't use it: it knows ranks up to 512"),
        ({"r": 4, "bias": "all"}, "vLLM can't use it: it refuses adapters that train biases"),
    ],
)
def test_the_line_for_vllm_fits_the_adapter(
    settings: dict[str, Any], line: str, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METHODS, "own", lambda: peft.LoraConfig(target_modules=LINEAR, **settings))
    make_adapter(made / "base", "own", tmp_path / "adapter")
    export(tmp_path / "adapter", tmp_path / "out", base=made / "base", adapter_only=True)
    assert line in (tmp_path / "out/README.md").read_text()


def test_the_lines_for_an_aligner_put_it_into_a_copy_of_the_base(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(made / "base", tmp_path / "base")
    export(made / "run", tmp_path / "out", aligner_only=True)
    run_lines(tmp_path / "out", monkeypatch)
    export(made / "run", tmp_path / "merged")
    expected, found = tensors_of(tmp_path / "merged"), tensors_of(tmp_path / "base")
    assert expected.keys() == found.keys()
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("base/README.md", "---\nlicense: [*unknown\n---\n"),
        ("base/README.md", "---\n" + "a" * 300_000),
        ("run/data.json", '["x"]'),
        ("run/data.json", '{"a": 1}'),
        ("run/checkpoint-7/trainer_state.json", "{"),
        (
            "run/checkpoint-7/trainer_state.json",
            '{"global_step": "x", "log_history": [1, {"eval_x": "y"}]}',
        ),
    ],
    ids=["yaml", "long", "list", "digest", "json", "types"],
)
def test_files_of_another_form_leave_their_part_out(name: str, content: str, made: Path, tmp_path: Path) -> None:
    shutil.copytree(made, tmp_path / "made")
    (tmp_path / "made" / name).write_text(content)
    export(tmp_path / "made/run/checkpoint-7", tmp_path / "out", base=tmp_path / "made/base")
    front, text = card_of(tmp_path / "out")
    assert ("license" in front) == (not name.startswith("base"))
    assert (DIGEST in text) == (name != "run/data.json")
    assert ("## Evaluation" in text) == ("trainer_state" not in name)


def test_a_name_from_a_file_does_not_break_the_table() -> None:
    assert metrics_table({"a|b`\n": 1.0}).splitlines()[2] == "| `a_b__` | 1 |"


@pytest.mark.parametrize(
    ("named", "expected"), [("Qwen/Qwen3-VL-4B-Instruct", "Qwen/Qwen3-VL-4B-Instruct"), ("../models/base", "base")]
)
def test_a_base_of_a_hub_keeps_its_id(named: str, expected: str, made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "run", tmp_path / "run")
    for name, key in (("plan.json", "model"), ("checkpoint-7/adapter_config.json", "base_model_name_or_path")):
        path = tmp_path / "run" / name
        path.write_text(json.dumps(json.loads(path.read_text()) | {key: named}))
    export(tmp_path / "run", tmp_path / "out", base=made / "base")
    assert card_of(tmp_path / "out")[0]["base_model"] == expected


def test_a_base_in_the_hubs_cache_keeps_its_id(made: Path, tmp_path: Path) -> None:
    base = tmp_path / "models--Qwen--Qwen3-VL-4B-Instruct/snapshots/abc"
    shutil.copytree(made / "base", base)
    export(made / "run", tmp_path / "out", base=base)
    assert card_of(tmp_path / "out")[0]["base_model"] == "Qwen/Qwen3-VL-4B-Instruct"


@pytest.mark.parametrize("part", ["adapter", "aligner"])
def test_dtype_converts_the_tensors_of_a_part(part: str, made: Path, tmp_path: Path) -> None:
    kind = {f"{part}_only": True}
    export(made / "run", tmp_path / "out", dtype="float16", **kind)
    export(made / "run", tmp_path / "wide", dtype="float32", **kind)
    found, wide = (load_file(next((tmp_path / name).glob("*.safetensors"))) for name in ("out", "wide"))
    assert {tensor.dtype for tensor in found.values()} == {torch.float16}
    assert {tensor.dtype for tensor in wide.values()} == {torch.float32}
    assert all(torch.equal(tensor.half(), found[name]) for name, tensor in wide.items())
    assert "converted to float16" in (tmp_path / "out/README.md").read_text()
    assert json.loads((tmp_path / "out/export.json").read_text())["dtype"] == "float16"


@pytest.mark.parametrize("part", ["adapter", "aligner"])
def test_a_part_that_does_not_fit_the_dtype_is_refused(part: str, made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "run", tmp_path / "run")
    path = tmp_path / "run/checkpoint-7/adapter_model.safetensors"
    tensors = load_file(path)
    next(iter(tensors.values())).view(-1)[0] = 1e30
    save_file(tensors, path)
    with pytest.raises(ExportError, match="numbers too large for float16"):
        export(tmp_path / "run", tmp_path / "out", dtype="float16", **{f"{part}_only": True})
    assert not (tmp_path / "out").exists()
