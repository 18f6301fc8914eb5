"""Export merges to the bit what peft merges on the whole model, for every method."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from swiftalign.demo.model import build_model
from swiftalign.exports.export import export
from swiftalign.methods.merging import SavedAdapter
from swiftalign.methods.merging import merge_by_peft as merge_layers_by_peft
from swiftalign.model.bytes import cast
from swiftalign.model.safetensors import read_stored

MERGERS = ["model.visual.merger", *(f"model.visual.deepstack_merger_list.{index}" for index in range(3))]
LINEAR = r"model\.visual\.(merger|deepstack_merger_list\.\d+)\.linear_fc[12]"
LLM = r"model\.language_model\.layers\.\d+\.self_attn\.[qv]_proj"

METHODS: dict[str, Any] = {
    "modules_to_save": lambda: peft.LoraConfig(target_modules="dummy-target-modules", modules_to_save=MERGERS),
    "lora": lambda: peft.LoraConfig(target_modules=LINEAR, r=4, lora_alpha=16),
    "rslora": lambda: peft.LoraConfig(target_modules=LINEAR, r=4, lora_alpha=16, use_rslora=True),
    "dora": lambda: peft.LoraConfig(target_modules=LINEAR, r=4, use_dora=True),
    "adalora": lambda: peft.AdaLoraConfig(target_modules=LINEAR, init_r=6, target_r=2, total_step=10),
    "boft": lambda: peft.BOFTConfig(target_modules=LINEAR, boft_block_size=4),
    "boft-2": lambda: peft.BOFTConfig(target_modules=LINEAR, boft_block_size=2),
    "fourierft": lambda: peft.FourierFTConfig(target_modules=LINEAR, n_frequency=200),
    "mixed": lambda: peft.LoraConfig(target_modules=LLM, r=4, modules_to_save=MERGERS),
}


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tiny model in float32 as one file, and in bfloat16 as several shards."""
    folder = tmp_path_factory.mktemp("bases")
    build_model(folder / "float32")
    build_model(folder / "one")
    model = AutoModelForImageTextToText.from_pretrained(folder / "one", dtype=torch.bfloat16)
    model.save_pretrained(folder / "bfloat16", max_shard_size="200KB")
    AutoProcessor.from_pretrained(folder / "one").save_pretrained(folder / "bfloat16")
    assert len(list((folder / "bfloat16").glob("*.safetensors"))) > 2
    return {name: folder / name for name in ("float32", "bfloat16")}


def make_adapter(base: Path, method: str, folder: Path) -> None:
    """An adapter whose every tensor has moved, saved by peft."""
    torch.manual_seed(0)
    model = get_peft_model(AutoModelForImageTextToText.from_pretrained(base, dtype="auto"), METHODS[method]())
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data = weight.data.float() + 0.05 * torch.randn(weight.shape)
    model.save_pretrained(folder)


def merge_by_peft(base: Path, adapter: Path, dtype: str = "auto") -> dict[str, torch.Tensor]:
    model = AutoModelForImageTextToText.from_pretrained(base, dtype=dtype)
    return PeftModel.from_pretrained(model, adapter).merge_and_unload().state_dict()  # type: ignore[no-any-return]


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    return {name: t for file in folder.glob("*.safetensors") for name, t in load_file(file).items()}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("method", METHODS)
def test_export_equals_peft_bit_for_bit(method: str, dtype: str, bases: dict[str, Path], tmp_path: Path) -> None:
    base = bases[dtype]
    make_adapter(base, method, tmp_path / "adapter")
    report = export(tmp_path / "adapter", tmp_path / "out", base=base)
    merged, expected, before = tensors_of(tmp_path / "out"), merge_by_peft(base, tmp_path / "adapter"), tensors_of(base)
    assert merged.keys() == expected.keys()
    for name, tensor in merged.items():
        assert tensor.dtype == before[name].dtype
        assert torch.equal(tensor, expected[name]), name
    differing = {name for name in merged if not torch.equal(merged[name], before[name])}
    assert differing == set(report.changed)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("method", METHODS)
def test_dtype_merges_as_peft_does_into_a_base_of_that_dtype(
    method: str, dtype: str, bases: dict[str, Path], tmp_path: Path
) -> None:
    make_adapter(bases["bfloat16"], method, tmp_path / "adapter")
    report = export(tmp_path / "adapter", tmp_path / "out", base=bases["bfloat16"], dtype=dtype)
    merged, expected = tensors_of(tmp_path / "out"), merge_by_peft(bases["bfloat16"], tmp_path / "adapter", dtype)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in merged.items())
    assert set(report.digests) == set(report.changed) | set(report.rounded)
    for name, digest in report.digests.items():
        assert digest == hashlib.sha256(merged[name].contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()


@pytest.mark.parametrize("use_dora", [False, True], ids=["lora", "dora"])
@pytest.mark.parametrize("kernel", [(3,), (3, 2), (2, 3, 2)], ids=["1d", "2d", "3d"])
def test_a_convolution_is_merged_as_peft_merges_it(kernel: tuple[int, ...], use_dora: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    base = torch.nn.Module()
    base.proj = (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)[len(kernel) - 1](4, 6, kernel)
    before = {name: weight.detach().clone() for name, weight in base.named_parameters()}
    model = get_peft_model(base, peft.LoraConfig(target_modules=["proj"], r=3, use_dora=use_dora))
    for weight in model.parameters():
        weight.data += 0.05 * torch.randn(weight.shape) if weight.requires_grad else 0
    model.save_pretrained(tmp_path / "adapter")
    save_file(before, tmp_path / "base.safetensors")
    base_tensors, tensors = (
        {tensor.info.name: tensor for tensor in read_stored(file)}
        for file in (tmp_path / "base.safetensors", tmp_path / "adapter" / "adapter_model.safetensors")
    )
    adapter = SavedAdapter(tmp_path / "adapter", {}, tensors, base_tensors, ("proj",), {"proj.weight"})
    merged = dict(merge_layers_by_peft(adapter, None))
    expected = model.merge_and_unload().proj.weight
    assert merged["proj.weight"] == expected.detach().contiguous().view(torch.uint8).numpy().tobytes()


@pytest.mark.parametrize("method", ["modules_to_save", "dora"])
def test_logits_agree_with_the_unmerged_adapter(method: str, bases: dict[str, Path], tmp_path: Path) -> None:
    make_adapter(bases["float32"], method, tmp_path / "adapter")
    report = export(tmp_path / "adapter", tmp_path / "out", base=bases["float32"], check_logits=True)
    assert report.max_logit_difference is not None
    assert report.max_logit_difference < 5e-6


def test_casting_rounds_as_torch_does() -> None:
    values = torch.randn(200_000) * torch.logspace(-40, 38, 200_000)
    values[:4] = torch.tensor([0.0, -0.0, float("inf"), float("-inf")])
    data = values.numpy().tobytes()
    for dtype in (torch.bfloat16, torch.float16):
        name = str(dtype).removeprefix("torch.")
        assert cast(data, "float32", name) == values.to(dtype).view(torch.uint8).numpy().tobytes()
