"""Weight files keep the names of their publication: checkpoints and exports of families where the model has others."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from families import FAMILIES, config_of, stored_of
from saved_families import SavedRun, build_base, load, save_run
from swiftalign.checkpoint.verify import verify
from swiftalign.cli import main
from swiftalign.exports.export import export
from swiftalign.model.safetensors import StoredTensor, TensorInfo
from swiftalign.model.stored import in_model, stored_tensors, under_model_names
from swiftalign.problems import ExportError
from swiftalign.worker.weights import carry_weights

QUICK = ("llava", "qwen2_5_vl", "qwen3_5_moe")
# ms-swift knows no aligner in the first group. Gemma 3n needs timm to be loaded, and peft rewrites a LoRA config of the
# second group's models.
NO_ALIGNER = {"aria", "aya_vision", "cohere2_vision", "ovis2", "smolvlm", "step3p7"}
REWRITTEN = {"glm4v_moe", "qwen3_omni_moe"}
WITHOUT_LINEAR = {"gemma3"}
TRAINED = sorted(FAMILIES.keys() - NO_ALIGNER - {"gemma3n"})

CASES = [
    pytest.param(family, method, marks=() if family in QUICK else pytest.mark.long, id=f"{family}-{method}")
    for family in TRAINED
    for method in ("modules_to_save", "lora", "full", "full-all")
    if method != "lora" or family not in REWRITTEN | WITHOUT_LINEAR
    if not method.startswith("full") or family != "diffusion_gemma"  # its files and its model name other owners of ties
]


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The tiny model of a family, built once."""
    root = tmp_path_factory.mktemp("bases")

    def base(family: str) -> Path:
        return root / family if (root / family).exists() else build_base(family, root / family)

    return base


@pytest.fixture(scope="module")
def runs(bases: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], SavedRun]:
    """A run of a family by a method, made once; tests copy what they change."""
    made: dict[tuple[str, str], SavedRun] = {}

    def run(family: str, method: str) -> SavedRun:
        if (family, method) not in made:
            folder = tmp_path_factory.mktemp("runs") / method
            made[family, method] = save_run(family, bases(family), method, folder)
        return made[family, method]

    return run


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    return {name: t for file in sorted(folder.glob("*.safetensors")) for name, t in load_file(file).items()}


@pytest.mark.parametrize(("family", "method"), CASES)
def test_a_sound_checkpoint_is_sound_and_becomes_the_model_that_peft_merges(
    family: str, method: str, runs: Callable[[str, str], SavedRun], tmp_path: Path
) -> None:
    run = runs(family, method)
    checked = verify(run.folder)
    assert checked.ok, checked.findings
    assert checked.aligner
    checked = verify(run.folder, base=run.base, deep=True)
    assert checked.ok, checked.findings
    if method != "lora":
        trained = {item.module for item in run.plan.trainables if item.component == "aligner"}
        assert all(row.max_change for row in checked.modules if row.module in trained)
    if method in ("modules_to_save", "lora"):
        shutil.copytree(run.checkpoint, tmp_path / "alone")
        for base in (None, run.base):
            checked = verify(tmp_path / "alone", base=base)
            assert checked.ok, checked.findings
            assert "adapter_config.json" in checked.expectation
    report = export(run.folder, tmp_path / "out")
    model, before, after = load(family, tmp_path / "out"), tensors_of(run.base), tensors_of(tmp_path / "out")
    assert {
        name: tensor for name, tensor in model.state_dict().items() if not torch.equal(tensor, run.state[name])
    } == {}
    assert after.keys() == before.keys()
    assert {name for name in after if not torch.equal(after[name], before[name])} == set(report.changed)


def damaged(run: SavedRun, folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> Path:
    """A copy of a run whose full checkpoint is changed."""
    shutil.copytree(run.folder, folder)
    path = folder / "checkpoint-1/model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})
    return folder


def rename(tensors: dict[str, torch.Tensor], name: str, other: str) -> None:
    tensors[other] = tensors.pop(name)


NORM, EXPERT = "visual.merger.ln_q.weight", "model.language_model.layers.0.mlp.experts.2.down_proj.weight"
DAMAGES = {
    "missing": ("qwen2_5_vl", lambda t: t.pop(NORM), "tensor-missing", "model.visual.merger.ln_q.weight"),
    "renamed": (
        "qwen2_5_vl",
        lambda t: rename(t, NORM, "visual.merger.q.weight"),
        "tensor-unexpected",
        "merger.q.weight",
    ),
    "wrapped": ("qwen2_5_vl", lambda t: rename(t, NORM, f"module.model.{NORM}"), "prefix-wrong", "module.model.visual"),
    "twice": ("qwen2_5_vl", lambda t: t.update({f"model.{NORM}": t[NORM].clone()}), "tensor-unexpected", f" {NORM}"),
    "shape": ("qwen2_5_vl", lambda t: t.update({NORM: t[NORM][:-1].clone()}), "tensor-shape", "model.visual.merger"),
    "part": (
        "qwen2_5_vl",
        lambda t: [t.pop(name) for name in list(t) if "visual.merger" in name],
        "aligner-part-missing",
        "no tensor of model.visual.merger is there",
    ),
    "outside": ("qwen2_5_vl", lambda t: t["model.norm.weight"].add_(1), "changed-outside-plan", "language_model.norm"),
    "untrained": ("qwen2_5_vl", lambda t: None, "", ""),
    "expert missing": ("qwen3_5_moe", lambda t: t.pop(EXPERT), "tensor-shape", "experts.down_proj is [3"),
    "expert's shape": (
        "qwen3_5_moe",
        lambda t: t.update({EXPERT: t[EXPERT][:-1].clone()}),
        "tensor-missing",
        "down_proj",
    ),
    "expert outside": ("qwen3_5_moe", lambda t: t[EXPERT].add_(1), "changed-outside-plan", EXPERT),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_whole_model_is_found(
    damage: str, runs: Callable[[str, str], SavedRun], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    family, change, code, message = DAMAGES[damage]
    run = runs(family, "full")
    folder = damaged(run, tmp_path / "run", change)
    checked = verify(folder, base=run.base)
    found = {finding.code: finding.message for finding in checked.findings if finding.severity == "error"}
    assert found.keys() >= ({code} if code else set())
    assert bool(found) == bool(code)
    assert message in found.get(code, "")
    assert main(["verify-ckpt", str(folder), "--base", str(run.base)]) == bool(code)
    assert "Traceback" not in capsys.readouterr().out


def test_a_pickled_whole_model_is_read_under_the_model_s_names(
    runs: Callable[[str, str], SavedRun], tmp_path: Path
) -> None:
    shutil.copytree(runs("qwen2_5_vl", "full").folder, tmp_path / "run")
    path = tmp_path / "run/checkpoint-1/model.safetensors"
    torch.save(load_file(path), path.with_name("pytorch_model.bin"))
    path.unlink()
    checked = verify(tmp_path / "run", deep=True)
    assert checked.ok, checked.findings
    assert checked.values["model.visual.merger.ln_q.weight"].moved


def test_a_whole_model_without_a_plan_is_compared_with_its_base(
    runs: Callable[[str, str], SavedRun], tmp_path: Path
) -> None:
    run = runs("llava", "full")
    shutil.copytree(run.checkpoint, tmp_path / "alone")
    assert "add --base" in verify(tmp_path / "alone").expectation
    checked = verify(tmp_path / "alone", base=run.base)
    assert checked.ok, checked.findings
    assert "without a plan, only the aligner may differ" in checked.expectation
    change = {row.module: row.max_change for row in checked.modules}
    assert change["model.multi_modal_projector.linear_1"]
    path = tmp_path / "alone/model.safetensors"
    tensors = load_file(path)
    del tensors["language_model.model.norm.weight"]
    save_file(tensors, path, metadata={"format": "pt"})
    assert {"tensor-missing", "base-mismatch"} <= {
        finding.code for finding in verify(path.parent, base=run.base).findings
    }


def test_tensors_for_speculative_decoding_stay_in_an_export(tmp_path: Path) -> None:
    """transformers loads Qwen3.5 without its MTP head, and saves a whole model without it."""
    base = build_base("qwen3_5", tmp_path / "base")
    tensors = load_file(base / "model.safetensors")
    head = {f"mtp.layers.0.{name}.weight": torch.randn(8, 8) for name in ("self_attn.q_proj", "mlp.up_proj")}
    save_file(tensors | head, base / "model.safetensors", metadata={"format": "pt"})
    run = save_run("qwen3_5", base, "full", tmp_path / "run")
    assert not any("mtp" in name for name in load_file(run.checkpoint / "model.safetensors"))
    checked = verify(run.folder, base=base)
    assert checked.ok, checked.findings
    shutil.copytree(run.checkpoint, tmp_path / "alone")
    checked = verify(tmp_path / "alone", base=base)
    assert checked.ok, checked.findings
    export(run.folder, tmp_path / "out")
    after = load_file(tmp_path / "out/model.safetensors")
    assert all(torch.equal(after[name], tensor) for name, tensor in head.items())


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_5_moe"])
def test_the_next_phase_begins_with_a_whole_checkpoint_s_weights(
    family: str, runs: Callable[[str, str], SavedRun]
) -> None:
    run = runs(family, "full")
    model = load(family, run.base)
    carry_weights(run.plan, model, run.checkpoint)
    assert all(torch.equal(tensor, run.state[name]) for name, tensor in model.state_dict().items())


def test_the_aligner_alone_has_the_names_of_the_files(runs: Callable[[str, str], SavedRun], tmp_path: Path) -> None:
    run = runs("qwen2_5_vl", "modules_to_save")
    report = export(run.folder, tmp_path / "out", aligner_only=True)
    tensors = load_file(tmp_path / "out/aligner.safetensors")
    assert tensors.keys() == {name for name in tensors_of(run.base) if name.startswith("visual.merger.")}
    assert sorted(report.changed) == sorted(tensors)
    assert all(torch.equal(tensor, run.state[f"model.{name}"]) for name, tensor in tensors.items())


def test_another_dtype_leaves_whole_numbers_and_reaches_every_config(tmp_path: Path) -> None:
    base = build_base("gemma3", tmp_path / "base")
    run = save_run("gemma3", base, "modules_to_save", tmp_path / "run")
    path, name = base / "model.safetensors", "vision_tower.vision_model.embeddings.position_ids"
    numbers = torch.arange(4)
    save_file(load_file(path) | {name: numbers}, path, metadata={"format": "pt"})
    export(run.folder, tmp_path / "out", dtype="bfloat16")
    after = load_file(tmp_path / "out/model.safetensors")
    assert torch.equal(after.pop(name), numbers)
    assert {tensor.dtype for tensor in after.values()} == {torch.bfloat16}
    text = (tmp_path / "out/config.json").read_text()
    assert '"float32"' not in text
    assert json.loads(text)["dtype"] == "bfloat16"
    assert "import AutoProcessor, Gemma3ForConditionalGeneration" in (tmp_path / "out/README.md").read_text()


def test_a_base_in_several_files_shares_those_that_stay(bases: Callable[[str], Path], tmp_path: Path) -> None:
    base = tmp_path / "base"
    load("llava", bases("llava")).save_pretrained(base, max_shard_size="50KB")
    run = save_run("llava", base, "lora", tmp_path / "run")
    report = export(run.folder, tmp_path / "out", link=True)
    assert report.linked
    model = load("llava", tmp_path / "out")
    assert all(torch.equal(tensor, run.state[name]) for name, tensor in model.state_dict().items())


def test_what_files_hold_in_parts_is_not_written_by_an_adapter(
    bases: Callable[[str], Path], runs: Callable[[str, str], SavedRun], tmp_path: Path
) -> None:
    """Loading makes one matrix of two in the files; what of it belongs into which file is not guessed."""
    base = bases("minimax_m3_vl")
    made = {name for tensor in stored_tensors(base).values() for name in tensor.makes}
    layer = next(name for name in made if name.endswith("gate_up_proj.weight")).removesuffix(".weight")
    run = save_run("minimax_m3_vl", base, "lora", tmp_path / "run", layer.replace(".", r"\."))
    checked = verify(run.folder, base=base)
    assert checked.ok, checked.findings
    with pytest.raises(
        ExportError, match=r"gate_up_proj\.weight lies in the base's files in another form: .*gate_proj"
    ):
        export(run.folder, tmp_path / "out")


def test_a_whole_model_in_another_layout_than_its_base_s_is_refused(
    runs: Callable[[str, str], SavedRun], tmp_path: Path
) -> None:
    run = runs("qwen3_5_moe", "full-all")
    shutil.copytree(run.folder, tmp_path / "run")
    path = tmp_path / "run/checkpoint-1/model.safetensors"
    save_file({name: tensor.clone() for name, tensor in run.state.items()}, path, metadata={"format": "pt"})
    checked = verify(tmp_path / "run", base=run.base)
    assert {finding.code for finding in checked.findings if finding.severity == "error"} == {"base-mismatch"}
    with pytest.raises(ExportError, match=r"lies in the base's files in another form: see .*experts\.0"):
        export(tmp_path / "run", tmp_path / "out")


@pytest.mark.parametrize("family", FAMILIES)
def test_each_tensor_of_the_files_has_one_place_in_the_model(family: str) -> None:
    """Also with tensors left out, renamed or of other shapes, and with a config that makes no sense."""
    draw, config = random.Random(family), config_of(family)
    infos = stored_of(family)
    for damage in range(4):
        made = in_model(infos, config)
        places = {name: StoredTensor(info, Path("f"), 0, 0, name) for name, info in infos.items()}
        found = under_model_names(places, made)
        assert sorted(tensor.name for tensor in found.values()) == sorted(infos)
        assert all(name in made for tensor in found.values() for name in tensor.makes)
        assert all(tensor.info.name == name or tensor.makes for name, tensor in found.items())
        for name in draw.sample(sorted(infos), 5):
            info = infos.pop(name)
            shape = tuple(draw.randrange(1, 9) for _ in info.shape)
            if damage % 2:
                infos[f"model.{name}"] = TensorInfo(f"model.{name}", shape, info.dtype)
            else:
                infos[name] = TensorInfo(name, shape, info.dtype)
        key = draw.choice(sorted(config))
        config = {**config, key: draw.choice([None, 7, "x", [], {}, ["x"], {"model_type": 3}])}


def test_a_family_with_the_same_names_in_its_files_asks_no_rules() -> None:
    script = (
        "from swiftalign.model import conversion, families, stored\n"
        "config = families.published_config('Qwen/Qwen3-VL-4B-Instruct')\n"
        "infos = {weight.name: weight for weight in families.find('qwen3_vl').build(config).parameters()}\n"
        "made = stored.in_model(infos, config)\n"
        "assert all(tensor.files == (name,) for name, tensor in made.items())\n"
        "assert not conversion._rules.cache_info().misses\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
