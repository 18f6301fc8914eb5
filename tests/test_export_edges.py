"""Exports at the edges: whose folder is replaced, which base is the right one, and how much is in memory at a time."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from swiftalign import files
from swiftalign.cli import main
from swiftalign.config.load import load_config
from swiftalign.demo import model as demo_model
from swiftalign.demo.model import build_model
from swiftalign.exports.export import export
from swiftalign.methods import boft
from swiftalign.plan.read import read_model
from swiftalign.plan.resolve import resolve
from swiftalign.problems import ExportError
from swiftalign.runs.folder import write_run_files
from test_export_against_peft import LINEAR, LLM, METHODS, make_adapter, merge_by_peft, tensors_of


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model in bfloat16."""
    path = tmp_path_factory.mktemp("base") / "model"
    build_model(path, dtype="bfloat16")
    (path / "README.md").write_text("the base's own card")
    return path


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("adapter") / "lora"
    make_adapter(base, "lora", path)
    return path


def test_force_replaces_no_folder_of_other_things(base: Path, adapter: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ExportError, match="holds no model, so --force does not replace it"):
        export(adapter, tmp_path, base=base, force=True)
    assert (tmp_path / "thesis.tex").exists()


@pytest.mark.parametrize("make", [lambda p: p.symlink_to("nowhere"), lambda p: p.write_text("x")], ids=["link", "file"])
def test_only_a_folder_can_be_replaced(
    make: Callable[[Path], object], base: Path, adapter: Path, tmp_path: Path
) -> None:
    make(tmp_path / "out")
    with pytest.raises(ExportError, match="is not a folder"):
        export(adapter, tmp_path / "out", base=base, force=True)


def test_no_module_is_imported_that_an_adapter_names(
    base: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """peft imports ``megatron_core`` if there is a ``megatron_config`` (peft `tuners/lora/tp_layer.py`)."""
    (tmp_path / "planted.py").write_text(f"open({str(tmp_path / 'run')!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    copied = Path(shutil.copytree(adapter, tmp_path / "adapter"))
    config = json.loads((copied / "adapter_config.json").read_text())
    named = config | {"megatron_config": {"hidden_size": 1}, "megatron_core": "planted"}
    (copied / "adapter_config.json").write_text(json.dumps(named))
    with pytest.raises(ExportError, match="megatron_config makes peft import"):
        export(copied, tmp_path / "out", base=base)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("spelling", ["link/inside", "other/../model/inside", "link"])
def test_no_spelling_leads_into_the_base(spelling: str, base: Path, adapter: Path, tmp_path: Path) -> None:
    shutil.copytree(base, tmp_path / "model")
    (tmp_path / "other").mkdir()
    (tmp_path / "link").symlink_to("model")
    before = sorted(path.name for path in (tmp_path / "model").iterdir())
    with pytest.raises(ExportError, match="lies inside"):
        export(adapter, tmp_path / spelling, base=tmp_path / "model", force=True)
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == before


def test_a_folder_around_the_base_is_not_replaced(base: Path, adapter: Path) -> None:
    with pytest.raises(ExportError, match="or holds it"):
        export(adapter, base.parent, base=base, force=True)


def test_replacing_is_one_step_where_the_system_can(
    base: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(adapter, tmp_path / "out", base=base)
    (tmp_path / "out/stale").write_text("x")
    export(adapter, tmp_path / "out", base=base, force=True)
    monkeypatch.setattr(files, "_exchange", lambda *paths: False)
    export(adapter, tmp_path / "out", base=base, force=True)
    assert not (tmp_path / "out/stale").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_disk_that_fills_up_midway_is_an_error_and_leaves_nothing(
    base: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(path: Path) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(files, "sync", fill)
    with pytest.raises(ExportError, match=r"the disk is full: .*out/.* can.t be written .No space left on device."):
        export(adapter, tmp_path / "out", base=base)
    assert not list(tmp_path.iterdir())


def test_an_export_can_be_the_base_of_the_next(base: Path, adapter: Path, tmp_path: Path) -> None:
    export(adapter, tmp_path / "first", base=base)
    (tmp_path / "first/plan.json").write_text("{}")
    make_adapter(tmp_path / "first", "dora", tmp_path / "second-adapter")
    export(tmp_path / "second-adapter", tmp_path / "second", base=tmp_path / "first")
    assert json.loads((tmp_path / "second/export.json").read_text())["base"] == str(tmp_path / "first")
    assert not (tmp_path / "second/plan.json").exists()  # it was the first run's


def test_fourierft_on_a_base_of_another_size_is_refused(
    tmp_path: Path, demo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """peft would merge it: the spectrum of a layer has no shape of its own."""
    run = tmp_path / "run"
    make_adapter(demo / "model", "fourierft", run / "checkpoint-1")
    config_file = tmp_path / "config.yaml"
    tuner = f"{{train_type: fourierft, target_regex: '{LINEAR}', fourier_n_frequency: 200}}"
    config_file.write_text(f"model: {demo / 'model'}\ntuner: {tuner}\n")
    config = load_config([config_file])
    write_run_files(run, config, resolve(config, read_model(config)))
    monkeypatch.setitem(demo_model.VISION, "hidden_size", 64)
    build_model(tmp_path / "wider")
    assert main(["export", str(run), "-o", str(tmp_path / "out"), "--base", str(tmp_path / "wider")]) == 1
    assert "the run's base was a qwen3_vl of 374,176" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_pruned_adalora_merges_as_peft_merges_it(base: Path, tmp_path: Path) -> None:
    make_adapter(base, "adalora", tmp_path / "adapter")
    path = tmp_path / "adapter/adapter_model.safetensors"
    tensors, kept = load_file(path), [True, False, True, True, False, True]
    pattern = {}
    for name, tensor in tensors.items():
        tensors[name] = (tensor[:, kept] if name.endswith("lora_B") else tensor[kept]).contiguous()
        pattern[name.rpartition(".")[0].removeprefix("base_model.model.") + ".lora_E"] = kept
    save_file(tensors, path)
    config_path = tmp_path / "adapter/adapter_config.json"
    config_path.write_text(json.dumps({**json.loads(config_path.read_text()), "rank_pattern": pattern}))
    export(tmp_path / "adapter", tmp_path / "out", base=base)
    expected = merge_by_peft(base, tmp_path / "adapter")
    assert all(torch.equal(tensor, expected[name]) for name, tensor in tensors_of(tmp_path / "out").items())


@pytest.mark.parametrize(
    ("label", "config"),
    [
        ("boft by number", lambda: peft.BOFTConfig(target_modules=LINEAR, boft_block_size=0, boft_block_num=8)),
        ("convolution", lambda: peft.LoraConfig(target_modules=r"model\.visual\.patch_embed\.proj", r=4)),
        ("embedding", lambda: peft.LoraConfig(target_modules=["embed_tokens"], r=4)),
        ("all-linear", lambda: peft.LoraConfig(target_modules="all-linear", r=4)),
        ("own alphas", lambda: peft.LoraConfig(target_modules=LINEAR, r=4, alpha_pattern={"linear_fc1": 3})),
        (
            "own ranks",
            lambda: peft.LoraConfig(target_modules=LINEAR, r=4, rank_pattern={"linear_fc1": 3}, use_dora=True),
        ),
        (
            "no alpha",
            lambda: peft.AdaLoraConfig(target_modules=LINEAR, init_r=6, target_r=2, total_step=9, lora_alpha=0),
        ),
        ("dora of the LLM", lambda: peft.LoraConfig(target_modules=LLM, r=4, use_dora=True)),
    ],
)
def test_other_layers_and_settings_merge_as_in_peft(
    label: str, config: Callable[[], object], base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METHODS, label, config)
    make_adapter(base, label, tmp_path / "adapter")
    export(tmp_path / "adapter", tmp_path / "out", base=base)
    expected = merge_by_peft(base, tmp_path / "adapter")
    assert all(torch.equal(tensor, expected[name]) for name, tensor in tensors_of(tmp_path / "out").items())


@pytest.mark.parametrize(
    "config",
    [
        lambda: peft.LoraConfig(target_modules=LINEAR, r=4, bias="all"),
        lambda: peft.LoraConfig(target_modules=LINEAR, r=4, lora_bias=True),
        lambda: peft.BOFTConfig(target_modules=LINEAR, boft_block_size=4, bias="all"),
        lambda: peft.FourierFTConfig(target_modules=LINEAR, n_frequency=200, bias="all"),
    ],
    ids=["bias-all", "lora_bias", "boft", "fourierft"],
)
def test_trained_biases_are_merged_or_refused_but_never_lost(
    config: Callable[[], object], base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METHODS, "biases", config)
    make_adapter(base, "biases", tmp_path / "adapter")
    try:
        export(tmp_path / "adapter", tmp_path / "out", base=base)
    except ExportError as error:
        assert "bias" in error.message  # noqa: PT017  # either outcome will do
        return
    expected = merge_by_peft(base, tmp_path / "adapter")
    assert all(torch.equal(tensor, expected[name]) for name, tensor in tensors_of(tmp_path / "out").items())


def test_biases_that_peft_does_not_save_are_refused(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METHODS, "biases", lambda: peft.LoraConfig(target_modules=LINEAR, r=4, bias="lora_only"))
    make_adapter(base, "biases", tmp_path / "adapter")
    with pytest.raises(ExportError, match="trains biases that peft does not save"):
        export(tmp_path / "adapter", tmp_path / "out", base=base)


def test_numbers_too_large_for_float16_are_refused(base: Path, adapter: Path, tmp_path: Path) -> None:
    shutil.copytree(base, tmp_path / "model")
    tensors = load_file(tmp_path / "model/model.safetensors")
    tensors["model.language_model.norm.weight"][0] = 1e5
    save_file(tensors, tmp_path / "model/model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ExportError, match=r"norm\.weight holds numbers too large for float16"):
        export(adapter, tmp_path / "out", base=tmp_path / "model", dtype="float16")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("size", [4, 8, 16, 32, 64])
def test_whether_boft_can_be_merged_by_blocks_depends_on_the_shape_alone(size: int) -> None:
    """The merge compares both products for the first layer of a shape, and relies on that for the others."""
    random = torch.Generator().manual_seed(size)
    first, second = (
        (
            torch.linalg.qr(torch.randn(2048 // size, size, size, generator=random))[0],
            torch.randn(256, 2048, generator=random).bfloat16().T.float(),
        )
        for _ in range(2)
    )
    assert boft.adds_alike(*first) == boft.adds_alike(*second)
