"""Which base models verify-ckpt, export and eval take, and that what they say of the others leads to one that fits."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from corruptions.sound import build_run
from swiftalign.checkpoint.verify import verify
from swiftalign.cli import main
from swiftalign.demo import model as demo_model
from swiftalign.demo.model import build_model
from swiftalign.evaluation.subject import find_subject
from swiftalign.exports.export import export
from swiftalign.model.stored import quantised_by
from swiftalign.problems import ExportError, ModelError
from test_export_against_peft import make_adapter

Tensors = dict[str, torch.Tensor]
WEIGHT = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def mixed(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LoRA on the LLM, and the whole aligner."""
    path = tmp_path_factory.mktemp("adapter") / "mixed"
    make_adapter(base, "mixed", path)
    return path


@pytest.fixture
def adapter(mixed: Path, tmp_path: Path) -> Path:
    return shutil.copytree(mixed, tmp_path / "adapter")


def names_base(adapter: Path, named: str | Path) -> Path:
    values = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(values | {"base_model_name_or_path": str(named)}))
    return adapter


# The layouts of packed matrices, without values that a kernel could use: none is run here.
def _bitsandbytes(name: str, weight: torch.Tensor) -> Tensors:
    packed = {name: torch.zeros(weight.numel() // 2, 1, dtype=torch.uint8)}
    return packed | {f"{name}.absmax": torch.zeros(weight.numel() // 64), f"{name}.quant_map": torch.zeros(16)}


def _gptq(name: str, weight: torch.Tensor) -> Tensors:
    layer, (rows, columns) = name.removesuffix(".weight"), weight.shape
    scales = torch.zeros(1, rows, dtype=torch.float16)
    return {f"{layer}.qweight": torch.zeros(columns // 8, rows, dtype=torch.int32), f"{layer}.scales": scales}


def _fp8(name: str, weight: torch.Tensor) -> Tensors:
    return {name: weight.to(torch.float8_e4m3fn), f"{name}_scale_inv": torch.ones(1, 1)}


QUANTISED: dict[str, tuple[dict[str, Any], Callable[[str, torch.Tensor], Tensors]]] = {
    "bitsandbytes, 4 bits": ({"quant_method": "bitsandbytes", "load_in_4bit": True}, _bitsandbytes),
    "GPTQ, 4 bits": ({"quant_method": "gptq", "bits": 4}, _gptq),
    "AWQ, 4 bits": ({"quant_method": "awq", "bits": 4}, _gptq),
    "FP8": ({"quant_method": "fp8", "weight_block_size": [128, 128]}, _fp8),
}


def quantise(base: Path, folder: Path, words: str) -> Path:
    """A copy of the base whose matrices in the LLM's layers are packed, as published quantised models have them."""
    settings, pack = QUANTISED[words]
    shutil.copytree(base, folder)
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | {"quantization_config": settings}))
    tensors: Tensors = {}
    for name, weight in load_file(base / "model.safetensors").items():
        packed = weight.dim() == 2 and ".language_model.layers." in name
        tensors |= pack(name, weight) if packed else {name: weight}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert quantised_by(folder) == words
    return folder


def codes(*arguments: Any, **options: Any) -> list[str]:
    return [finding.code for finding in verify(*arguments, **options).findings]


def test_a_copy_of_the_base_is_the_base(adapter: Path, base: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(base, tmp_path / "another-name")
    assert codes(adapter, base=copy) == codes(adapter, base=copy, deep=True) == []
    own = export(adapter, tmp_path / "own")
    assert export(adapter, tmp_path / "out", base=copy).digests == own.digests
    assert find_subject(adapter, copy).folder == copy


@pytest.mark.parametrize(("place", "deep"), [(0, False), (-1, True)])
def test_other_values_than_those_of_training_are_told(
    place: int, deep: bool, adapter: Path, base: Path, tmp_path: Path
) -> None:
    other = shutil.copytree(base, tmp_path / "other")
    tensors = load_file(base / "model.safetensors")
    tensors["lm_head.weight"].view(-1)[place] += 1
    save_file(tensors, other / "model.safetensors", metadata={"format": "pt"})
    assert codes(adapter, base=other, deep=deep) == ["base-renamed"]
    [note] = export(adapter, tmp_path / "out", base=other).notes
    assert f"1 tensor of {other} not as in the base that it names, {base}: lm_head.weight" in note


def test_a_run_takes_its_base_from_another_place(base: Path, tmp_path: Path) -> None:
    own = shutil.copytree(base, tmp_path / "own")
    checkpoint = build_run("mixed", own, tmp_path / "run")
    moved = own.rename(tmp_path / "moved")
    with pytest.raises(ModelError, match=r"base model .*own: not a folder here") as refused:
        export(checkpoint, tmp_path / "out")
    assert refused.value.hint == "name the base model's folder with --base FOLDER"
    [note] = export(checkpoint, tmp_path / "out", base=moved).notes
    assert f"names the base {own}, whose weights are not here, but --base is {moved}" in note
    assert str(tmp_path) not in (tmp_path / "out/README.md").read_text()


@pytest.mark.parametrize("words", QUANTISED)
def test_a_quantised_base_is_named_and_its_16_bit_model_is_taken(
    words: str, adapter: Path, base: Path, tmp_path: Path
) -> None:
    packed = quantise(base, tmp_path / "packed", words)
    names_base(adapter, packed)
    assert codes(adapter) == []
    [finding] = verify(adapter, base=packed).findings
    assert (finding.code, finding.severity) == ("base-quantised", "warning")
    assert f"8 tensors packed in the base, which is quantised ({words}): model.language_model" in finding.message
    assert "name the model that it was made from, in 16 bits, with --base" in finding.hint
    message = (
        rf"packed: is quantised \({words}\), and nothing can be merged into 8 tensors, e\.g\. model\.language_model"
    )
    with pytest.raises(ExportError, match=message) as refused:
        export(adapter, tmp_path / "out")
    assert "in 16 bits, with --base" in (refused.value.hint or "")
    [finding] = verify(adapter, base=base).findings
    assert (finding.code, finding.severity) == ("base-quantised", "warning")
    report = export(adapter, tmp_path / "out", base=base)
    assert len(report.changed) == 24 + 8
    assert report.notes == [finding.message]
    assert find_subject(adapter, base).remarks == (finding.message,)
    assert f"which is quantised ({words}), and {base} is not" in finding.message


def test_what_a_quantised_base_holds_in_16_bits_is_merged(base: Path, tmp_path: Path) -> None:
    """Published FP8 models keep the aligner as it is."""
    packed = quantise(base, tmp_path / "packed", "FP8")
    make_adapter(base, "modules_to_save", tmp_path / "adapter")
    report = export(names_base(tmp_path / "adapter", packed), tmp_path / "out")
    assert (len(report.changed), report.notes) == (24, [])
    assert quantised_by(tmp_path / "out") == "FP8"


def _moved(adapter: Path, folder: Path) -> None:
    names_base(adapter, "/gone/model")


def _moved_and_renamed(adapter: Path, folder: Path) -> None:
    names_base(adapter, "/gone/another")


def _relative_with_folders(adapter: Path, folder: Path) -> None:
    names_base(adapter, "a/b/c")


def _on_the_hub(adapter: Path, folder: Path) -> None:
    names_base(adapter, "Qwen/Qwen3-VL-4B-Instruct-of-nobody")


def _unnamed(adapter: Path, folder: Path) -> None:
    names_base(adapter, "")


def _a_wider_model(adapter: Path, folder: Path) -> None:
    names_base(adapter, folder / "wider")


def _without_safetensors(adapter: Path, folder: Path) -> None:
    names_base(adapter, folder / "pickled")


def _an_adapter(adapter: Path, folder: Path) -> None:
    names_base(adapter, folder / "unmerged")


@pytest.fixture
def folder(base: Path, mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Bases that are none."""
    (tmp_path / "pickled").mkdir()
    shutil.copy(base / "config.json", tmp_path / "pickled")
    torch.save(load_file(base / "model.safetensors"), tmp_path / "pickled/pytorch_model.bin")
    shutil.copytree(base, tmp_path / "unmerged")
    for name in ("adapter_config.json", WEIGHT):
        shutil.copy(mixed / name, tmp_path / "unmerged")
    monkeypatch.setitem(demo_model.VISION, "hidden_size", 64)
    monkeypatch.setitem(demo_model.TEXT, "hidden_size", 128)
    build_model(tmp_path / "wider", dtype="bfloat16")
    return tmp_path


@pytest.mark.parametrize(
    "wrong",
    [
        _moved,
        _moved_and_renamed,
        _relative_with_folders,
        _on_the_hub,
        _unnamed,
        _a_wider_model,
        _without_safetensors,
        _an_adapter,
    ],
)
def test_every_hint_about_a_base_leads_to_an_export(
    wrong: Callable[[Path, Path], None],
    adapter: Path,
    base: Path,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Without --base, each command works or asks for --base; with it, each works, and none asks to leave it out."""
    wrong(adapter, folder)
    code = main(["verify-ckpt", str(adapter)])
    said = capsys.readouterr()
    assert code == 0 or "--base" in said.out
    assert main(["export", str(adapter), "-o", str(folder / "out")]) in (1, 2)
    said = capsys.readouterr()
    assert re.search(r"hint: .*(--base|base model)", said.err)
    assert main(["verify-ckpt", str(adapter), "--base", str(base), "--deep"]) == 0
    said = capsys.readouterr()
    assert "leave out" not in said.out + said.err
    assert main(["export", str(adapter), "-o", str(folder / "out"), "--base", str(base)]) == 0
    assert find_subject(adapter, base).folder == base


@pytest.mark.parametrize("given", ["/gone", "Qwen/Qwen3-VL-of-nobody", "a/b/c", "wider", "pickled", "unmerged"])
def test_a_wrong_base_that_the_user_gives_is_told_by_every_command(
    given: str, adapter: Path, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    message = "base-mismatch" if given == "wider" else rf"base model (\S*/)?{given}: (not a folder here|holds)"
    for command in (["verify-ckpt", str(adapter)], ["export", str(adapter), "-o", "out"]):
        assert main([*command, "--base", given]) == (1 if given == "wider" else 2)
        said = capsys.readouterr()
        assert re.search(message, said.out + said.err)
        assert "leave out" not in said.out + said.err
    with pytest.raises(ModelError, match="base"):
        find_subject(adapter, Path(given))


def test_a_path_that_is_no_id_either_is_no_traceback(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "no/such/model", str(demo / "data/val.jsonl")]) == 2
    assert "no/such/model: no such file or folder" in capsys.readouterr().err


def test_a_base_in_the_cache_of_the_hub_is_named_by_its_id(
    adapter: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the hub's client lays it out."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    cached = tmp_path / "hub/models--Qwen--tiny"
    shutil.copytree(base, cached / "snapshots/0123abc")
    (cached / "refs").mkdir()
    (cached / "refs/main").write_text("0123abc")
    names_base(adapter, "Qwen/tiny")
    assert export(adapter, tmp_path / "out").base == cached / "snapshots/0123abc"
    assert codes(adapter, base=Path("Qwen/tiny")) == codes(adapter, base=base) == []


def test_of_a_pickle_names_and_shapes_are_compared(adapter: Path, base: Path, folder: Path) -> None:
    torch.save(load_file(adapter / WEIGHT), adapter / "adapter_model.bin")
    (adapter / WEIGHT).unlink()
    result = verify(names_base(adapter, "/gone/model"), base=base)
    assert result.findings == ()
    assert result.expectation.endswith("but no values, which lie in a pickle")
    assert "base-mismatch" in codes(adapter, base=folder / "wider")
