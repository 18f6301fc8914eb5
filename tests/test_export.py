"""`swiftalign export`: what it refuses, what it leaves alone, and that a folder appears whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from swiftalign.checkpoint.verify import verify
from swiftalign.cli import main
from swiftalign.config.load import load_config
from swiftalign.demo.model import build_model
from swiftalign.exports import weights
from swiftalign.exports.export import export
from swiftalign.exports.source import Source
from swiftalign.model.safetensors import read_stored
from swiftalign.plan.read import read_model
from swiftalign.plan.resolve import resolve
from swiftalign.problems import ExportError
from swiftalign.runs.folder import write_run_files
from swiftalign.runs.history import find_runs
from test_export_against_peft import make_adapter, tensors_of


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model in bfloat16, in several shards."""
    folder = tmp_path_factory.mktemp("base")
    build_model(folder / "one")
    model = AutoModelForImageTextToText.from_pretrained(folder / "one", dtype=torch.bfloat16)
    model.save_pretrained(folder / "base", max_shard_size="200KB")
    for path in (folder / "one").iterdir():  # tokenizer and processor as a published model has them
        if path.suffix != ".safetensors" and not (folder / "base" / path.name).exists():
            shutil.copy(path, folder / "base" / path.name)
    (folder / "base/README.md").write_text("the base's own card")
    return folder / "base"


@pytest.fixture(scope="module")
def run(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of modules_to_save with one checkpoint."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    make_adapter(base, "modules_to_save", folder / "checkpoint-7")
    config_file = folder / "config.yaml"
    tuner = "{target_regex: '^$', modules_to_save: [model.visual.merger, model.visual.deepstack_merger_list]}"
    config_file.write_text(f"model: {base}\ntuner: {tuner}\n")
    config = load_config([config_file])
    write_run_files(folder, config, resolve(config, read_model(config)))
    return folder


@pytest.fixture
def lora(base: Path, tmp_path: Path) -> Path:
    make_adapter(base, "lora", tmp_path / "adapter")
    return tmp_path / "adapter"


def edit(
    folder: Path,
    change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]],
    file: str = "adapter_model.safetensors",
) -> None:
    save_file(change(load_file(folder / file)), folder / file, metadata={"format": "pt"})


def with_nan(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    next(iter(tensors.values())).view(-1)[3] = float("nan")
    return tensors


DAMAGES: dict[str, tuple[Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]], str]] = {
    "wrong prefix": (lambda t: {n.replace("model.visual", "visual"): v for n, v in t.items()}, "prefix-wrong"),
    "deepstack missing": (lambda t: {n: v for n, v in t.items() if "deepstack" not in n}, "aligner-part-missing"),
    "one tensor missing": (lambda t: dict(list(t.items())[1:]), "tensor-missing"),
    "extra tensor": (lambda t: t | {"base_model.model.model.visual.x.lora_A.weight": torch.ones(4, 4)}, "unexpected"),
    "other shape": (
        lambda t: {n: v[:, :-1].contiguous() if "lora_A" in n else v for n, v in t.items()},
        "tensor-shape",
    ),
    "NaN": (with_nan, "not-finite"),
    "untrained": (lambda t: {n: v.new_zeros(v.shape) if "lora_B" in n else v for n, v in t.items()}, "nothing-moved"),
    "empty": (lambda t: {n: torch.empty(0) for n in t}, "tensor-empty"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_refused_and_leaves_no_folder(
    damage: str, base: Path, lora: Path, tmp_path: Path
) -> None:
    change, code = DAMAGES[damage]
    edit(lora, change)
    with pytest.raises(ExportError, match=code):
        export(lora, tmp_path / "out", base=base)
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_a_truncated_adapter_is_refused(base: Path, lora: Path, tmp_path: Path) -> None:
    path = lora / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ExportError, match="file-truncated"):
        export(lora, tmp_path / "out", base=base)


@pytest.mark.parametrize(
    ("place", "message"),
    [("taken", "exists already"), ("base/inside", "lies inside"), ("adapter", "exists already|lies inside")],
)
def test_the_output_must_be_a_place_of_its_own(
    place: str, message: str, base: Path, lora: Path, tmp_path: Path
) -> None:
    (tmp_path / "taken").mkdir()
    output = base / "inside" if place == "base/inside" else tmp_path / place
    with pytest.raises(ExportError, match=message):
        export(lora, output, base=base)


def test_a_full_disk_is_told_before_anything_is_written(
    base: Path, lora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(ExportError, match=r"it needs \d+ kB, and the disk has 1 kB free; --link"):
        export(lora, tmp_path / "out", base=base)
    assert not (tmp_path / "out").exists()


def _nan_in_the_base(base: Path, lora: Path) -> None:
    edit(base, lambda t: t | {"model.language_model.norm.weight": torch.full((64,), float("nan"))}, "model.safetensors")


def _too_much_for_float32(base: Path, lora: Path) -> None:
    """Finite values whose products are not."""
    edit(lora, lambda t: {n: v * 1e18 if "lora_" in n else v for n, v in t.items()})


@pytest.mark.parametrize("harm", [_nan_in_the_base, _too_much_for_float32])
def test_logits_that_are_no_numbers_are_refused(
    harm: Callable[[Path, Path], None], lora: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build_model(tmp_path / "base")
    harm(tmp_path / "base", lora)
    options = [str(lora), "--output", str(tmp_path / "out"), "--base", str(tmp_path / "base"), "--check-logits"]
    assert main(["export", *options]) == 1
    said = capsys.readouterr().err
    assert "the logits of the base with its adapter and of the merged model hold NaN or infinity" in said
    assert f"swiftalign verify-ckpt {tmp_path}/base --deep" in said
    assert not (tmp_path / "out").exists()


def test_force_replaces_the_folder_whole(run: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/model.safetensors").write_text("stale")
    export(run, tmp_path / "out", force=True)
    assert not (tmp_path / "out/model.safetensors").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_all_other_files_are_the_bases_own_to_the_byte_with_usual_modes(base: Path, run: Path, tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        export(run, tmp_path / "out")
    finally:
        os.umask(old)
    for path in base.iterdir():
        if path.suffix not in (".safetensors", ".md"):
            assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes(), path.name
    assert (tmp_path / "out/README.base.md").read_text() == "the base's own card"
    assert {oct(path.stat().st_mode & 0o777) for path in (tmp_path / "out").iterdir()} == {"0o640"}


def test_the_base_is_not_written(base: Path, run: Path, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in base.iterdir()}
    export(run, tmp_path / "out", link=True)
    assert {path.name: path.read_bytes() for path in base.iterdir()} == before


def test_links_share_the_shards_in_which_nothing_changes(base: Path, run: Path, tmp_path: Path) -> None:
    report = export(run, tmp_path / "out", link=True)
    assert report.linked
    for path in (tmp_path / "out").glob("*.safetensors"):
        assert ((base / path.name).stat().st_ino == path.stat().st_ino) == (path.name in report.linked)


def test_a_shard_that_can_not_be_linked_is_told(
    base: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(path: Path, target: Path) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link", str(target))

    monkeypatch.setattr(Path, "hardlink_to", link)
    with pytest.raises(ExportError, match=r"/base/.*: can't be hard-linked into the output: Invalid cross-device link"):
        export(run, tmp_path / "out", link=True)
    assert not list(tmp_path.iterdir())


def test_the_result_loads_offline_answers_and_verifies(base: Path, run: Path, tmp_path: Path) -> None:
    report = export(run, tmp_path / "out")
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "out", dtype="auto")
    assert model.dtype == torch.bfloat16
    AutoProcessor.from_pretrained(tmp_path / "out")
    checked = verify(tmp_path / "out", base=base, deep=True)
    assert checked.ok, checked.findings
    record = json.loads((tmp_path / "out/export.json").read_text())
    assert record["base"] == str(base)
    assert record["changed"] == report.changed
    assert record["plan_sha256"]
    assert "Qwen3VLForConditionalGeneration" in (tmp_path / "out/README.md").read_text()


def test_tensors_that_the_class_does_not_build_are_kept(base: Path, lora: Path, tmp_path: Path) -> None:
    other = tmp_path / "base"
    shutil.copytree(base, other)
    save_file({"mtp.fc.weight": torch.ones(3, 3)}, other / "mtp.safetensors")
    index = json.loads((other / "model.safetensors.index.json").read_text())
    index["weight_map"]["mtp.fc.weight"] = "mtp.safetensors"
    index["metadata"]["total_size"] += 36
    (other / "model.safetensors.index.json").write_text(json.dumps(index))
    export(lora, tmp_path / "out", base=other)
    assert torch.equal(tensors_of(tmp_path / "out")["mtp.fc.weight"], torch.ones(3, 3))


@pytest.mark.parametrize("variant", ["tied", "moe"])
def test_tied_and_mixture_of_experts_models_export(variant: str, tmp_path: Path) -> None:
    build_model(tmp_path / "base", **{variant: True})
    make_adapter(tmp_path / "base", "dora", tmp_path / "adapter")
    report = export(tmp_path / "adapter", tmp_path / "out", base=tmp_path / "base", check_logits=True)
    assert len(report.changed) == 8
    assert report.max_logit_difference is not None
    assert report.max_logit_difference < 5e-6


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_dtype_converts_every_weight_and_says_so_in_the_config(dtype: str, run: Path, tmp_path: Path) -> None:
    report = export(run, tmp_path / "out", dtype=dtype)
    kept, converted = tensors_of(report.base), tensors_of(tmp_path / "out")
    trained = load_file(report.checkpoint / "adapter_model.safetensors")
    for name, tensor in converted.items():
        # What trained in float32 is not rounded to the base's bfloat16 on its way.
        source = trained[f"base_model.model.{name}"] if name in report.changed else kept[name]
        assert torch.equal(tensor, source.to(getattr(torch, dtype))), name
    assert json.loads((tmp_path / "out/config.json").read_text())["dtype"] == dtype
    AutoModelForImageTextToText.from_pretrained(tmp_path / "out")


@pytest.mark.parametrize("method", ["modules_to_save", "lora", "dora"])
def test_a_scale_averages_base_and_trained_values_and_rounds_once(method: str, base: Path, tmp_path: Path) -> None:
    make_adapter(base, method, tmp_path / "adapter")
    export(tmp_path / "adapter", tmp_path / "whole", base=base, dtype="float32")
    report = export(tmp_path / "adapter", tmp_path / "part", base=base, scale=0.3)
    start, whole, part = (tensors_of(folder) for folder in (base, tmp_path / "whole", tmp_path / "part"))
    assert report.changed
    for name, tensor in part.items():
        averaged = start[name].float() + 0.3 * (whole[name] - start[name].float())
        assert torch.equal(tensor, averaged.to(torch.bfloat16) if name in report.changed else start[name]), name
    assert json.loads((tmp_path / "part/export.json").read_text())["scale"] == 0.3
    assert "| scale | 0.3 of the way from the base to the trained values |" in (tmp_path / "part/README.md").read_text()


def test_a_scale_of_an_aligner_alone_is_that_of_the_whole(base: Path, run: Path, tmp_path: Path) -> None:
    export(run, tmp_path / "whole", scale=0.5)
    export(run, tmp_path / "part", scale=0.5, aligner_only=True)
    whole = tensors_of(tmp_path / "whole")
    assert all(torch.equal(t, whole[name]) for name, t in load_file(tmp_path / "part/aligner.safetensors").items())


def test_aligner_only_writes_the_24_merged_tensors(run: Path, tmp_path: Path) -> None:
    export(run, tmp_path / "whole")
    export(run, tmp_path / "part", aligner_only=True)
    part = load_file(tmp_path / "part/aligner.safetensors")
    assert len(part) == 24
    whole = tensors_of(tmp_path / "whole")
    assert all(torch.equal(tensor, whole[name]) for name, tensor in part.items())


def test_adapter_only_writes_what_peft_loads(base: Path, run: Path, tmp_path: Path) -> None:
    (run / "checkpoint-7/optimizer.pt").write_bytes(b"state")
    export(run, tmp_path / "adapter-out", adapter_only=True)
    assert not (tmp_path / "adapter-out/optimizer.pt").exists()
    model = AutoModelForImageTextToText.from_pretrained(base, dtype="auto")
    PeftModel.from_pretrained(model, tmp_path / "adapter-out")


def test_changes_too_small_for_the_base_are_counted_and_all_of_them_refused(
    base: Path, lora: Path, tmp_path: Path
) -> None:
    edit(lora, lambda tensors: {n: v * (1e-9 if "lora_B" in n else 1) for n, v in tensors.items()})
    with pytest.raises(ExportError, match="nothing changed"):
        export(lora, tmp_path / "out", base=base)


def test_a_killed_export_leaves_nothing_or_a_sound_folder_and_the_next_one_cleans_up(run: Path, tmp_path: Path) -> None:
    choose = random.Random(0)
    output = tmp_path / "out"
    command = [sys.executable, "-m", "swiftalign", "export", str(run), "--output", str(output), "--force"]
    for _ in range(int(os.environ.get("SWIFTALIGN_KILLS", "6"))):
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        time.sleep(choose.uniform(0.1, 0.6))
        child.send_signal(signal.SIGKILL)
        child.wait()
        if output.exists():
            assert verify(output, deep=True).ok
    assert subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode == 0
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        (["nowhere", "-o", "out"], 2, "error: nowhere: no such file or folder"),
        (["{base}", "-o", "out"], 2, "has no adapter_config.json, and its run did not train a whole model"),
        (["{run}/..", "-o", "out"], 2, "holds runs, but is not a run itself"),
        (["{run}", "-o", "out", "--base", "nowhere"], 2, "error: base model nowhere: not a folder here"),
        (["{run}", "-o", "out", "--dtype", "int8"], 2, "error: --dtype int8: must be float32, bfloat16 or float16"),
        (["{run}", "-o", "{base}"], 1, "lies inside"),
        (["{run}", "-o", "out", "--scale", "0"], 2, "error: scale 0: it is a share of the way"),
        (["{run}", "-o", "out", "--scale", "80"], 2, "hint: choose a number above 0 and at most 1"),
        (["{run}", "-o", "out", "--scale", "0.8", "--adapter-only"], 2, "an adapter alone is not averaged"),
        (["{run}", "-o", "out", "--scale", "0.8", "--check-logits"], 2, "hint: leave out --scale or --check-logits"),
    ],
)
def test_exit_codes(
    argv: list[str],
    code: int,
    message: str,
    base: Path,
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["export", *(word.format(base=base, run=run) for word in argv)]) == code
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_whole_module_checkpoint_needs_no_torch(run: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from swiftalign.exports.export import export\n"
        "export(Path(sys.argv[1]), Path(sys.argv[2]))\nsys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(run), str(tmp_path / "out")], check=True)


def test_adapters_of_linear_layers_are_merged_without_importing_peft(base: Path, tmp_path: Path) -> None:
    methods = ("lora", "dora", "adalora", "boft", "fourierft")
    for method in methods:
        make_adapter(base, method, tmp_path / method)
    code = (
        "import sys; from pathlib import Path; from swiftalign.exports.export import export\n"
        "for folder in sys.argv[1:]: export(Path(folder), Path(folder + '-out'))\n"
        "sys.exit(any(name in sys.modules for name in ('peft', 'transformers')))"
    )
    subprocess.run([sys.executable, "-c", code, *(str(tmp_path / method) for method in methods)], check=True)


@pytest.mark.parametrize("link", [False, True], ids=["copied", "linked"])
@pytest.mark.parametrize("part", ["base", "merged"])
def test_a_byte_that_is_not_written_as_it_should_be_is_noticed(
    part: str, link: bool, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy, merge = weights.copy_range, Source.merged_values

    def flip(file: int, place: int) -> None:
        os.pwrite(file, bytes([os.pread(file, 1, place)[0] ^ 1]), place)

    def copy_wrongly(source: int, target: int, begin: int, end: int) -> None:
        copy(source, target, begin, end)
        flip(target, end - 1)

    def merge_and_damage(source: Source, dtype: str | None) -> Iterator[tuple[str, bytes]]:
        yield from merge(source, dtype)
        tensor = source.base[next(iter(source.whole))]
        (written,) = tmp_path.rglob(tensor.file.name)
        with written.open("r+b") as file:
            flip(file.fileno(), tensor.begin)

    if part == "base":
        monkeypatch.setattr(weights, "copy_range", copy_wrongly)
    else:
        monkeypatch.setattr(Source, "merged_values", merge_and_damage)
    expected = "differs from the base between bytes" if part == "base" else "was not written as merged"
    with pytest.raises(ExportError, match=expected):
        export(run, tmp_path / "out", link=link)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("piece", [7, 4096])
def test_files_of_many_pieces_are_copied_whole(
    piece: int, base: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pieces and parts may end anywhere, also within a header or right beside a merged tensor."""
    monkeypatch.setattr(weights, "_PIECE_BYTES", piece)
    monkeypatch.setattr(weights, "_PART_BYTES", 3 * piece if piece > 4000 else 50_001)
    changed = export(run, tmp_path / "out").changed
    for file in base.glob("*.safetensors"):
        places = [tensor for tensor in read_stored(file) if tensor.name in changed]
        mine, theirs = bytearray((tmp_path / "out" / file.name).read_bytes()), bytearray(file.read_bytes())
        for place in places:
            assert mine[place.begin : place.end] != theirs[place.begin : place.end]
            mine[place.begin : place.end] = theirs[place.begin : place.end]
        assert mine == theirs


@pytest.mark.slow
def test_full_training_exports_in_the_bases_layout(base: Path, demo: Path, tmp_path: Path) -> None:
    overlay = tmp_path / "full.yaml"
    overlay.write_text("tuner: {train_type: full}\ntraining: {max_steps: 2, aligner_lr: 1e-2}\n")
    sets = ["--set", f"training.output_dir={tmp_path / 'run'}", "--set", f"model.path={base}"]
    assert main(["train", str(demo / "config.yaml"), str(overlay), *sets]) == 0
    report = export(tmp_path / "run", tmp_path / "out", check_logits=True)
    assert all("merger" in name for name in report.changed)
    assert tensors_of(tmp_path / "out").keys() == tensors_of(base).keys()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["modules_to_save", "lora"])
def test_stock_swift_export_gives_the_same_weights(method: str, tmp_path: Path) -> None:
    build_model(tmp_path / "base")
    make_adapter(tmp_path / "base", method, tmp_path / "adapter")
    export(tmp_path / "adapter", tmp_path / "ours", base=tmp_path / "base")
    words = f"--adapters {tmp_path / 'adapter'} --model {tmp_path / 'base'} --model_type qwen3_vl --merge_lora true"
    command = [sys.executable, "-m", "swift.cli.export", *words.split(), "--output_dir", str(tmp_path / "stock")]
    command += ["--torch_dtype", "float32", "--load_args", "false"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "USE_HF": "1"}
    subprocess.run(command, check=True, capture_output=True, env=environment)
    ours, stock = tensors_of(tmp_path / "ours"), tensors_of(tmp_path / "stock")
    assert ours.keys() == stock.keys()
    assert all(torch.equal(tensor, stock[name]) for name, tensor in ours.items())


def test_an_exported_model_is_no_run(run: Path, tmp_path: Path) -> None:
    out = export(run, tmp_path / "model").output
    assert (out / "plan.json").exists()
    assert find_runs(tmp_path) == []
