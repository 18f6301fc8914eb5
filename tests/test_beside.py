"""Weights that a trainer keeps beside an adapter are merged with it, and those that nobody reads are refused."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

from corruptions.damaged_files import PLANTED, Planted
from swiftalign.checkpoint.verify import verify
from swiftalign.cli import main
from swiftalign.evaluation.local import LocalModel
from swiftalign.evaluation.subject import find_subject
from swiftalign.exports.export import export
from swiftalign.problems import ExportError
from test_export_against_peft import LLM, tensors_of

BESIDE = "non_lora_state_dict.bin"
PEFT = "base_model.model."


@pytest.fixture(scope="module")
def model(base: Path) -> Any:
    """LoRA on the LLM, and the aligner that trains whole without being one of peft's modules_to_save."""
    torch.manual_seed(0)
    loaded = AutoModelForImageTextToText.from_pretrained(base, dtype="auto")
    loaded = peft.get_peft_model(loaded, peft.LoraConfig(target_modules=LLM, r=4))
    for name, weight in loaded.named_parameters():
        if "merger" in name or "lora_" in name:
            weight.requires_grad_(True)
            weight.data = weight.data + 0.05 * torch.randn_like(weight)
    return loaded


@pytest.fixture
def saved(model: Any, tmp_path: Path) -> Path:
    """The folder that the trainers write which keep such modules in a file of their own."""
    model.save_pretrained(tmp_path / "saved")
    trained = {name: weight.detach() for name, weight in model.named_parameters() if weight.requires_grad}
    whole = {name: weight for name, weight in trained.items() if "lora_" not in name}
    assert len(whole) == 24
    torch.save(whole, tmp_path / "saved" / BESIDE)
    return tmp_path / "saved"


def _as_it_is(saved: Path) -> None:
    assert (saved / BESIDE).exists()


def _in_safetensors(saved: Path) -> None:
    save_file(torch.load(saved / BESIDE), saved / "non_lora_state_dict.safetensors")
    (saved / BESIDE).unlink()


def _of_llava(saved: Path) -> None:
    """Another name, and names of the model without peft's prefix."""
    held = torch.load(saved / BESIDE)
    torch.save({name.removeprefix(PEFT): tensor for name, tensor in held.items()}, saved / "non_lora_trainables.bin")
    (saved / BESIDE).unlink()


def _adapter_in_a_pickle(saved: Path) -> None:
    torch.save(load_file(saved / "adapter_model.safetensors"), saved / "adapter_model.bin")
    (saved / "adapter_model.safetensors").unlink()


@pytest.mark.parametrize("form", [_as_it_is, _in_safetensors, _of_llava, _adapter_in_a_pickle])
def test_modules_beside_an_adapter_are_merged_with_it(
    form: Callable[[Path], None], saved: Path, base: Path, model: Any, tmp_path: Path
) -> None:
    form(saved)
    report = export(saved, tmp_path / "out")
    assert len(report.changed) == 24 + 8
    loaded = AutoModelForImageTextToText.from_pretrained(base, dtype="auto")
    expected = {name: tensor.clone() for name, tensor in loaded.state_dict().items()}
    merged = peft.PeftModel.from_pretrained(loaded, saved).merge_and_unload()
    trained = {name.removeprefix(PEFT): weight for name, weight in model.named_parameters() if "merger" in name}
    expected |= {name: tensor for name, tensor in merged.state_dict().items() if "self_attn" in name}
    expected |= {name: weight.detach().to(expected[name].dtype) for name, weight in trained.items()}
    assert all(torch.equal(tensor, expected[name]) for name, tensor in tensors_of(tmp_path / "out").items())


def test_the_logits_and_the_adapter_alone_have_them_too(saved: Path, base: Path, tmp_path: Path) -> None:
    assert (export(saved, tmp_path / "out", check_logits=True).max_logit_difference or 1) < 0.1
    export(saved, tmp_path / "alone", adapter_only=True)
    result = verify(tmp_path / "alone", base=base, deep=True)
    assert (len(result.checkpoint.weights.infos), result.findings) == (24 + 16, ())
    assert result.expectation.startswith("adapter_config.json and the base model")


def test_the_report_names_the_files_that_were_read(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify-ckpt", str(saved)]) == 0
    told = capsys.readouterr().out
    assert "read        adapter_model.safetensors and non_lora_state_dict.bin, as one adapter\n" in told
    assert "sound: 40 tensors" in told


def test_an_evaluation_loads_them(saved: Path, base: Path) -> None:
    subject = find_subject(saved)
    assert subject.adapter is not None
    assert (
        load_file(subject.adapter / "adapter_model.safetensors").keys() == verify(saved).checkpoint.weights.infos.keys()
    )
    assert {file.name for file in subject.files} >= {"model.safetensors", BESIDE, "adapter_model.safetensors"}
    assert str(subject.adapter) not in {str(file.parent) for file in subject.files}
    assert find_subject(saved, base).files == subject.files
    LocalModel(subject.folder, subject.adapter, device="cpu")


def test_a_tensor_in_both_files_is_refused(saved: Path, tmp_path: Path) -> None:
    held = load_file(saved / "adapter_model.safetensors")
    torch.save(torch.load(saved / BESIDE) | dict([held.popitem()]), saved / BESIDE)
    with pytest.raises(ExportError, match="tensor-duplicated"):
        export(saved, tmp_path / "out")


def test_a_module_that_is_not_all_there_is_refused(saved: Path, tmp_path: Path) -> None:
    held = torch.load(saved / BESIDE)
    del held[f"{PEFT}model.visual.merger.linear_fc1.bias"]
    torch.save(held, saved / BESIDE)
    with pytest.raises(ExportError, match=r"1 tensor missing: .*linear_fc1\.bias \[tensor-missing\]"):
        export(saved, tmp_path / "out")


def test_a_pickle_beside_an_adapter_runs_no_code(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"a": Planted()}, saved / BESIDE)
    assert [finding.code for finding in verify(saved).findings] == ["pickle-refused"]
    assert not (tmp_path / PLANTED).exists()


@pytest.mark.parametrize(
    ("file", "hint"),
    [
        ("mm_projector.bin", "move it out of the folder if the model does without it"),
        ("second/adapter_model.safetensors", "it is an adapter of its own: move .*second elsewhere"),
    ],
)
def test_what_nobody_reads_is_refused_with_the_way_out(file: str, hint: str, saved: Path, tmp_path: Path) -> None:
    place = saved / file
    place.parent.mkdir(exist_ok=True)
    torch.save({"x": torch.ones(2)}, place) if place.suffix == ".bin" else save_file({"x": torch.ones(2)}, place)
    if place.parent != saved:
        shutil.copy(saved / "adapter_config.json", place.parent)
    with pytest.raises(ExportError, match=f"{file}: holds 1 tensor, e.g. x, which is not read") as refused:
        export(saved, tmp_path / "out")
    assert refused.match("weights-left-out")
    assert re.match(hint, refused.value.hint or "")
    assert not (tmp_path / "out").exists()


def test_links_back_to_the_folder_hold_nothing_else(saved: Path) -> None:
    (saved / "latest").symlink_to(".")
    (saved / "run").symlink_to("..")
    assert verify(saved).findings == ()


def test_a_folder_of_adapters_names_one(saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "both").mkdir()
    saved.rename(tmp_path / "both/vision")
    assert main(["verify-ckpt", str(tmp_path / "both")]) == 2
    assert f"name the adapter in it: {tmp_path}/both/vision" in capsys.readouterr().err


def test_weights_beside_the_checkpoints_of_a_run_are_told(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(saved, saved / "checkpoint-5")
    (saved / "checkpoint-5/trainer_state.json").write_text(json.dumps({"global_step": 5}))
    assert main(["verify-ckpt", str(saved)]) == 0
    assert f"(the newest; the weights in {saved} itself are not read" in capsys.readouterr().out
