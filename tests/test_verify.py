"""verify-ckpt names the damage in each damaged checkpoint, and is silent on sound ones of every kind."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

from corruptions import DAMAGED, FOREIGN, PLANTED, SOUND, Damage, Sound, build_all
from corruptions.files import Harm, read_tensors, write_tensors
from corruptions.sound import BASES
from swiftalign.checkpoint.names import canonical
from swiftalign.checkpoint.verify import verify
from swiftalign.cli import main
from swiftalign.config.load import load_config
from swiftalign.plan.plan import read_plan
from swiftalign.problems import CHECKPOINT_CODES
from swiftalign.runs.resume import checkpoint_fault

pytestmark = pytest.mark.filterwarnings("ignore:.*embedding layers|.*CUDA extension|.*butterfly:UserWarning")

DOCS = Path(__file__).parents[1] / "docs" / "findings.md"
PEFT = "base_model.model."

each_sound = pytest.mark.parametrize("name", SOUND)
each_damage = pytest.mark.parametrize("name", DAMAGED)


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Sound]:
    """Every sound checkpoint, by name. Tests read them, and damage copies."""
    return build_all(tmp_path_factory.mktemp("sound"))


@pytest.fixture
def damaged(checkpoints: dict[str, Sound], tmp_path: Path) -> Callable[[Damage], Path]:
    """A damaged copy of a sound checkpoint; gives what is to be checked."""

    def make(damage: Damage) -> Path:
        path = checkpoints[damage.sound].copy(tmp_path / "copy")
        return damage.harm(path) or path

    return make


def options_of(damage: Damage, checkpoints: dict[str, Sound]) -> list[str]:
    own = checkpoints[damage.sound].base
    folders = {"BASE": own, **{name.upper(): own.with_name(name) for name in BASES}}
    return [str(folders.get(option, option)) for option in damage.options]


def found_in(path: Path, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, list[dict[str, str]]]:
    """Exit code and findings of verify-ckpt in this process."""
    code = main(["verify-ckpt", str(path), "--json", *options])
    return code, json.loads(capsys.readouterr().out)["findings"]


@each_sound
@pytest.mark.parametrize("options", [(), ("--deep",)], ids=["headers", "deep"])
def test_sound_checkpoints_give_no_finding(
    name: str, options: tuple[str, ...], checkpoints: dict[str, Sound], capsys: pytest.CaptureFixture[str]
) -> None:
    assert found_in(checkpoints[name].path, capsys, *options) == (0, [])


# Without a plan only the aligner may differ from the base; a base under another name is a warning; and
# a base in another layout can't be compared.
NOT_COMPARED = {
    "merged-bf16",
    "alone-without-base",
    "alone-in-part-without-base",
    "merged-moe-hub-layout",
}


@pytest.mark.parametrize("name", [name for name in SOUND if name not in NOT_COMPARED])
def test_sound_checkpoints_agree_with_their_base(
    name: str, checkpoints: dict[str, Sound], capsys: pytest.CaptureFixture[str]
) -> None:
    sound = checkpoints[name]
    assert found_in(sound.path, capsys, "--base", str(sound.base)) == (0, [])


@pytest.mark.parametrize("name", FOREIGN)
def test_what_an_adapter_of_peft_must_hold_follows_from_its_config(name: str, checkpoints: dict[str, Sound]) -> None:
    result = verify(checkpoints[name].path)
    expected = sum(row.expected or 0 for row in result.modules)
    assert result.expectation.startswith("adapter_config.json and the base" if FOREIGN[name].planned else "nothing:")
    assert 0 < expected <= len(result.checkpoint.weights.infos) or not FOREIGN[name].planned


@pytest.mark.parametrize("name", FOREIGN)
def test_an_adapter_of_peft_is_sound_without_its_base_too(
    name: str, checkpoints: dict[str, Sound], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = checkpoints[name].copy(tmp_path / "copy")
    values = json.loads((path / "adapter_config.json").read_text())
    (path / "adapter_config.json").write_text(json.dumps(values | {"base_model_name_or_path": "/gone"}))
    assert found_in(path, capsys) == (0, [])


def test_biases_that_lora_only_trains_are_expected_of_the_peft_that_saves_them(
    checkpoints: dict[str, Sound], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The fact relied on: peft 0.20 leaves these biases out, and 0.21 saves them."""
    sound = checkpoints["peft-bias-lora-only"]
    path = sound.copy(tmp_path / "copy")
    values, held = (
        json.loads((path / "adapter_config.json").read_text()),
        read_tensors(path / "adapter_model.safetensors"),
    )
    layers = {name.partition(".lora_")[0] for name in held if ".lora_" in name}
    biases = {f"{layer}.base_layer.bias" for layer in layers}
    model = read_tensors(sound.base / "model.safetensors")
    of_base = {name: model[name.removeprefix(PEFT).replace(".base_layer", "")] for name in biases}
    without = {name: tensor for name, tensor in held.items() if name not in biases}
    for release, tensors, code in (
        ("0.20.0", without, None),
        ("0.20.0", without | of_base, "tensor-unexpected"),
        ("0.21.2", without, "tensor-missing"),
        ("0.21.2", without | of_base, None),
    ):
        (path / "adapter_config.json").write_text(json.dumps(values | {"peft_version": release}))
        write_tensors(path / "adapter_model.safetensors", tensors)
        exit_code, findings = found_in(path, capsys)
        assert (exit_code, [each["code"] for each in findings]) == ((1, [code]) if code else (0, []))


def test_a_merged_model_is_held_against_the_config_of_its_run(
    checkpoints: dict[str, Sound], capsys: pytest.CaptureFixture[str]
) -> None:
    sound = checkpoints["merged-bf16"]
    config = str(sound.root / "run/config.yaml")
    assert found_in(sound.path, capsys, "--base", str(sound.base), "--config", config) == (0, [])


@each_damage
def test_the_damage_is_named_and_nothing_else_and_printed_without_a_traceback(
    name: str,
    damaged: Callable[[Damage], Path],
    checkpoints: dict[str, Sound],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    damage = DAMAGED[name]
    path = damaged(damage)
    monkeypatch.chdir(tmp_path)
    code, findings = found_in(path, capsys, *options_of(damage, checkpoints))
    assert {finding["code"] for finding in findings} == set(damage.codes)
    assert code == any(CHECKPOINT_CODES[code][0] == "error" for code in damage.codes)
    messages = [finding["message"].replace(str(path), "PATH") for finding in findings]
    assert not damage.message or damage.message in messages
    main(["verify-ckpt", str(path), *options_of(damage, checkpoints)])
    text = capsys.readouterr().out
    assert all(f"[{code}]" in text for code in damage.codes)
    assert "\x1b" not in text
    assert not (tmp_path / PLANTED).exists()


def test_every_code_has_a_damage_that_makes_it_fire() -> None:
    assert {code for damage in DAMAGED.values() for code in damage.codes} == set(CHECKPOINT_CODES)
    assert len(DAMAGED) >= 60
    assert len(SOUND) >= 20


def test_the_planted_pickle_would_create_its_file(damaged: Callable[[Damage], Path], tmp_path: Path) -> None:
    path = damaged(DAMAGED["pickle-planted-bare"]) / "adapter_model.bin"
    subprocess.run([sys.executable, "-c", f"import pickle; pickle.load(open({str(path)!r}, 'rb'))"], cwd=tmp_path)
    assert (tmp_path / PLANTED).exists()


def test_docs_list_exactly_the_checkpoint_codes() -> None:
    rows = [f"| `{code}` | {severity} | {meaning} |" for code, (severity, meaning) in CHECKPOINT_CODES.items()]
    text = DOCS.read_text(encoding="utf-8").partition("\n## Checkpoints\n")[2]
    assert [line for line in text.splitlines() if line.startswith("| `")] == rows


def test_the_newest_checkpoint_of_a_run_counts_and_all_checks_each(
    checkpoints: dict[str, Sound], capsys: pytest.CaptureFixture[str]
) -> None:
    run = checkpoints["run-folder"].path
    assert verify(run).checkpoint.path == run / "checkpoint-30"
    assert main(["verify-ckpt", str(run), "--json", "--all"]) == 0
    names = [Path(values["path"]).name for values in json.loads(capsys.readouterr().out)]
    assert names == ["checkpoint-9", "checkpoint-10", "checkpoint-30"]


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda path: path / "missing", "no such file or folder"),
        (lambda path: path.parent / "config.yaml", "not a weight file"),
        (lambda path: [file.unlink() for file in path.iterdir()] and path, "neither a checkpoint, nor a run folder"),
        (lambda path: (path.parent / "plan.json").write_text("{}") and path, "not a plan of this release"),
        (lambda path: (path.parent / "plan.json").write_text("[" * 9999) and path, "not a plan of this release"),
    ],
    ids=["missing", "yaml", "empty", "plan-of-nothing", "plan-nested-deeply"],
)
def test_what_cannot_be_checked_is_exit_code_two(
    harm: Harm, message: str, damaged: Callable[[Damage], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = damaged(Damage("saved", lambda _: None, ()))
    assert main(["verify-ckpt", str(harm(path))]) == 2
    assert message in capsys.readouterr().err


def test_a_base_that_is_not_there_is_exit_code_two(
    checkpoints: dict[str, Sound], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify-ckpt", str(checkpoints["alone"].path), "--base", "/gone/base"]) == 2
    assert "base model /gone/base: not a folder here" in capsys.readouterr().err


def test_a_base_without_weights_is_exit_code_two(
    checkpoints: dict[str, Sound], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["verify-ckpt", str(checkpoints["saved"].path), "--base", str(tmp_path)]) == 2
    assert "holds no safetensors file" in capsys.readouterr().err


def test_the_table_counts_what_is_expected_found_and_moved(checkpoints: dict[str, Sound]) -> None:
    sound = checkpoints["saved"]
    rows = verify(sound.path, base=sound.base, deep=True).modules
    assert [row.module for row in rows][:2] == ["model.visual.merger.norm", "model.visual.merger.linear_fc1"]
    assert all((row.expected, row.found, row.moved) == (2, 2, 2) for row in rows)
    assert all(row.max_change == pytest.approx(0.01, rel=0.2) for row in rows)


def test_keys_and_shapes_of_the_mergers_are_listed(
    checkpoints: dict[str, Sound], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify-ckpt", str(checkpoints["merged"].path), "--table"]) == 0
    keys = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.startswith("model.visual")]
    assert len(keys) == 24
    assert all("merger" in key for key in keys)


@pytest.mark.parametrize("deep", [False, True])
def test_the_report_says_whether_the_values_were_read(
    deep: bool, damaged: Callable[[Damage], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path, options = damaged(DAMAGED["nan-in-float32"]), ["--deep"] if deep else []
    assert main(["verify-ckpt", str(path), *options]) == deep
    unread = "values      not checked for NaN, infinity and zeros: --deep reads them all\n"
    assert (unread in capsys.readouterr().out) is not deep
    assert main(["verify-ckpt", str(path), "--json", *options]) == deep
    assert json.loads(capsys.readouterr().out)["values_read"] is deep


def test_weights_that_others_lay_beside_a_checkpoint_do_not_keep_a_run_from_going_on(
    damaged: Callable[[Damage], Path],
) -> None:
    path = damaged(DAMAGED["aligner-beside-an-adapter"])
    assert checkpoint_fault(path, read_plan(path.parent / "plan.json")) is None


def test_the_report_says_what_was_held_against_the_base(checkpoints: dict[str, Sound]) -> None:
    lora, merged, saved = (checkpoints[name] for name in ("alone", "merged", "saved"))
    told = verify(lora.path, base=lora.base).expectation
    adapted = f"names and shapes of 8 adapted layers compared with {lora.base}"
    assert told == f"adapter_config.json and the base model; {adapted}"
    told = verify(merged.path, base=merged.base).expectation
    assert told == f"the model's config.json; without a plan, only the aligner may differ from {merged.base}"
    assert verify(saved.path, base=saved.base).expectation == verify(saved.path).expectation


def test_what_differs_outside_the_aligner_asks_for_the_config(
    checkpoints: dict[str, Sound], capsys: pytest.CaptureFixture[str]
) -> None:
    sound = checkpoints["merged-bf16"]  # of adapters in the LLM too
    code, [finding] = found_in(sound.path, capsys, "--base", str(sound.base))
    assert (code, finding["code"]) == (1, "changed-outside-plan")
    assert finding["hint"].startswith("give the run's config with --config")


def test_a_base_is_read_by_a_relative_path(
    checkpoints: dict[str, Sound],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = checkpoints["peft-rank-pattern"].copy(tmp_path / "copy")
    base = checkpoints["peft-rank-pattern"].base
    values = json.loads((path / "adapter_config.json").read_text())
    (path / "adapter_config.json").write_text(json.dumps(values | {"base_model_name_or_path": f"bases/{base.name}"}))
    monkeypatch.chdir(base.parents[1])
    assert verify(path).expectation == "adapter_config.json and the base model"
    assert found_in(path, capsys, "--base", f"bases/{base.name}") == (0, [])


@pytest.mark.parametrize(
    "named", ["Qwen/{}", "/old/place/{}", "/cache/models--Qwen--{}/snapshots/0123abc"], ids=["hub", "folder", "cache"]
)
def test_a_base_of_the_same_name_is_the_same_wherever_it_lies(
    named: str, checkpoints: dict[str, Sound], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = checkpoints["alone-saved"].copy(tmp_path / "copy")
    base = checkpoints["alone-saved"].base
    values = json.loads((path / "adapter_config.json").read_text())
    (path / "adapter_config.json").write_text(json.dumps(values | {"base_model_name_or_path": named.format(base.name)}))
    assert found_in(path, capsys, "--base", str(base)) == (0, [])


def test_a_link_to_the_base_is_the_base(
    checkpoints: dict[str, Sound], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "link").symlink_to(checkpoints["alone"].base)
    assert found_in(checkpoints["alone"].path, capsys, "--base", str(tmp_path / "link")) == (0, [])


def test_a_tied_head_that_only_the_base_stores_is_not_missed(
    checkpoints: dict[str, Sound], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sound = checkpoints["merged-tied"]
    base = tmp_path / "base"
    base.mkdir()
    held = read_tensors(sound.base / "model.safetensors")
    head = held["model.language_model.embed_tokens.weight"]
    write_tensors(base / "model.safetensors", held | {"lm_head.weight": head})
    assert found_in(sound.path, capsys, "--base", str(base)) == (0, [])


@pytest.mark.parametrize("change", [0, 1])
def test_embeddings_beside_their_adapter_are_the_base_s_in_the_dtype_of_training(
    change: int, demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = AutoModelForImageTextToText.from_pretrained(demo / "model", dtype=torch.bfloat16)  # the base is in float32
    settings = peft.LoraConfig(r=4, target_modules=r"model\.language_model\.embed_tokens", init_lora_weights=False)
    peft.get_peft_model(model, settings).save_pretrained(tmp_path)
    held = load_file(tmp_path / "adapter_model.safetensors")
    held[f"{PEFT}model.language_model.embed_tokens.base_layer.weight"][3] += change
    save_file(held, tmp_path / "adapter_model.safetensors")
    code, findings = found_in(tmp_path, capsys, "--deep", "--base", str(demo / "model"))
    assert (code, [each["code"] for each in findings]) == ((1, ["changed-outside-plan"]) if change else (0, []))


def test_adapters_that_moved_are_no_standstill_of_what_is_saved_whole(
    damaged: Callable[[Damage], Path], checkpoints: dict[str, Sound], capsys: pytest.CaptureFixture[str]
) -> None:
    path = damaged(Damage("mixed", lambda _: None, ()))
    (path.parent / "initial.json").unlink()
    sound = checkpoints["mixed"]
    own = read_tensors(sound.base / "model.safetensors")
    held = read_tensors(path / "adapter_model.safetensors")
    bare = {name: own.get(name.removeprefix(PEFT), tensor) for name, tensor in held.items()}
    write_tensors(path / "adapter_model.safetensors", bare)
    (path.parent / "plan.json").unlink()  # whose dtypes these are not
    code, findings = found_in(path, capsys, "--base", str(sound.base))
    assert (code, [finding["code"] for finding in findings]) == (0, ["rounded-to-base"])


def test_names_in_a_plan_are_printed_without_terminal_codes(
    damaged: Callable[[Damage], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = damaged(Damage("saved", lambda _: None, ()))
    text = (path.parent / "plan.json").read_text().replace("visual.merger.norm", "visual.\\u001b[2J.norm")
    (path.parent / "plan.json").write_text(text)
    assert main(["verify-ckpt", str(path)]) == 1
    assert "\x1b" not in capsys.readouterr().out


def test_unbuilt_tensors_of_the_base_are_no_finding(
    checkpoints: dict[str, Sound], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = checkpoints["merged"].copy(tmp_path / "copy")
    base = tmp_path / "base"
    base.mkdir()
    for folder, source in ((path, path), (base, checkpoints["merged"].base)):
        held = read_tensors(source / "model.safetensors")
        write_tensors(folder / "model.safetensors", held | {"mtp.head.weight": held["lm_head.weight"]})
    assert found_in(path, capsys, "--base", str(base)) == (0, [])


@pytest.mark.parametrize(
    ("name", "bare"),
    [
        (f"{PEFT}model.visual.merger.norm.weight", "visual.merger.norm.weight"),
        (f"{PEFT}{PEFT}model.visual.merger.norm.weight", "visual.merger.norm.weight"),
        ("module.visual.merger.norm.weight", "visual.merger.norm.weight"),
        ("model._orig_mod.visual.merger.norm.weight", "visual.merger.norm.weight"),
        ("model.visual.merger.modules_to_save.default.norm.bias", "visual.merger.norm.bias"),
        ("model.visual.merger.linear_fc1.boft_R.default", "visual.merger.linear_fc1.boft_R"),
        ("model.model.language_model.layers.0.mlp.up_proj.weight", "language_model.layers.0.mlp.up_proj.weight"),
        ("model.lm_head.weight", "lm_head.weight"),
    ],
)
def test_prefixes_are_taken_off_to_find_the_tensor_that_is_meant(name: str, bare: str) -> None:
    assert canonical(name) == bare


def test_a_look_at_headers_imports_neither_torch_nor_numpy(checkpoints: dict[str, Sound]) -> None:
    code = (
        "import sys; from swiftalign.cli import main\n"
        "assert main(['verify-ckpt', *sys.argv[1:]]) == 0\n"
        "print(sorted({'torch', 'numpy', 'transformers', 'peft', 'swift'} & set(sys.modules)))"
    )
    for name in ("saved", "merged-in-shards", "alone", "peft-bias-all", "lone-file"):
        command = [sys.executable, "-c", code, str(checkpoints[name].path)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == "[]"


def test_a_config_of_the_run_is_read_where_the_plan_is_not_there(checkpoints: dict[str, Sound], tmp_path: Path) -> None:
    path = checkpoints["adalora"].copy(tmp_path / "copy")
    config = load_config([path.parent / "config.yaml"])
    (path.parent / "plan.json").unlink()
    result = verify(path, config=config)
    assert (result.expectation, result.findings) == ("the config", ())
