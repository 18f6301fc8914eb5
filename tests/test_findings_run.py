"""Findings about the run: AdaLoRA's shortest schedules, BOFT's widths, DeepSpeed files, checkpoints to resume from."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from finding_cases import ALIGNER, MERGERS, WHOLE
from swiftalign.checks import training
from swiftalign.checks.preflight import preflight
from swiftalign.config.sections import Config
from swiftalign.config.sharding import GATHER
from swiftalign.model.tree import Model
from swiftalign.plan.resolve import resolve
from swiftalign.problems import ConfigError, Problem
from swiftalign.runs.lowering import lower
from swiftalign.speed.choose import choose

Find = Callable[[str], list[Problem]]


@pytest.fixture
def find(make_config: Callable[[str], Config], demo_modules: Model) -> Find:
    def find(text: str) -> list[Problem]:
        config = make_config(text)
        return preflight(config, demo_modules, resolve(config, demo_modules))

    return find


@pytest.mark.parametrize("steps", range(1, 6))
def test_adalora_has_a_schedule_that_fits_the_shortest_run(steps: int, find: Find) -> None:
    [finding] = find(f"tuner: {{train_type: adalora, adalora_tinit: {steps}}}\ntraining: {{max_steps: {steps}}}\n")
    assert finding.code == "adalora-schedule"
    assert finding.fix is not None
    settings = ", ".join(f"{name}: {value}" for name, value in finding.fix["tuner"].items())
    assert not find(f"tuner: {{train_type: adalora, {settings}}}\ntraining: {{max_steps: {steps}}}\n")


@pytest.mark.parametrize("steps", range(1, 6))
def test_adalora_prunes_a_short_run_without_a_schedule(steps: int, find: Find) -> None:
    assert not find(f"tuner: {{train_type: adalora}}\ntraining: {{max_steps: {steps}}}\n")


@pytest.mark.parametrize(
    ("size", "suggested"),
    [(3, 2), (5, 4), (9, 8), (31, 32), (33, 32), (100, 128), (1000, 128)],
)
def test_boft_suggests_the_nearest_block_size_that_divides(size: int, suggested: int, find: Find) -> None:
    [finding] = find(f"tuner: {{train_type: boft, boft_block_size: {size}}}\n")
    assert finding.fix == {"tuner": {"boft_block_size": suggested, "boft_block_num": 0}}


def test_boft_with_both_block_settings_points_at_the_number(find: Find) -> None:
    [finding] = find("tuner:\n  train_type: boft\n  boft_block_size: 4\n  boft_block_num: 4\n")
    assert finding.where.endswith("config.yaml:5")
    assert finding.message.endswith("exactly one of boft_block_size and boft_block_num must be non-zero")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param('{"zero_optimization": {"stage": 3}}', [], id="zero3"),
        pytest.param('{"zero_optimization": {"stage": 2}}', ["sharding-brings-little"], id="zero2"),
        pytest.param("{}", [], id="without-section"),
        pytest.param("{", ["deepspeed-unreadable"], id="not-json"),
        pytest.param("[3]", ["deepspeed-unreadable"], id="not-a-mapping"),
    ],
)
def test_a_deepspeed_file_is_read(content: str, expected: list[str], tmp_path: Path, find: Find) -> None:
    path = tmp_path / "zero3_mine.json"  # begins like a preset
    path.write_text(content, encoding="utf-8")
    findings = find(f"training: {{deepspeed: {path}}}\n")
    assert [finding.code for finding in findings] == expected
    assert all(str(path) in finding.message for finding in findings if finding.code == "deepspeed-unreadable")


@pytest.mark.parametrize("setting", ["{stage: 3}", f"{{stage: 3, {GATHER}: false}}"])
def test_zero3_gathers_what_it_saves(setting: str, make_config: Callable[[str], Config], demo_modules: Model) -> None:
    """Otherwise DeepSpeed saves tensors without elements."""
    config = make_config(f"training: {{deepspeed: {{zero_optimization: {setting}}}}}\n")
    plan = resolve(config, demo_modules)
    arguments = lower(plan, config, Path("run"), choose(config, plan, None, "zero3"))
    assert arguments["deepspeed"]["zero_optimization"][GATHER] is True


# -- resuming ----------------------------------------------------------------------------------------------------------

LORA_16 = f"tuner: {{target_regex: {ALIGNER}, lora_rank: 16}}\n"


@pytest.fixture
def checkpoint(tmp_path: Path, demo_modules: Model) -> Callable[..., Path]:
    """A checkpoint folder at step 10, of LoRA at rank 16 on the aligner unless told otherwise."""

    def write(**changes: Any) -> Path:
        folder = tmp_path / "checkpoint-10"
        folder.mkdir()
        values = {"peft_type": "LORA", "r": 16, "lora_alpha": 32, "lora_dropout": 0.05, "use_rslora": False}
        values |= {
            "target_modules": ALIGNER[1:-1],
            "base_model_name_or_path": f"/elsewhere/{Path(demo_modules.source).name}",
        }
        (folder / "adapter_config.json").write_text(json.dumps(values | changes), encoding="utf-8")
        (folder / "trainer_state.json").write_text('{"global_step": 10}', encoding="utf-8")
        return folder

    return write


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        pytest.param({}, LORA_16, id="same"),
        pytest.param({"target_modules": r".*merger.*\.linear_fc\d"}, LORA_16, id="same-layers-by-another-regex"),
        pytest.param({"target_modules": ["merger.linear_fc1"]}, "tuner: {target_modules: [merger.linear_fc1], "
                     "lora_rank: 16}\n", id="suffixes"),
        pytest.param({"modules_to_save": ["visual.merger", "list.0", "list.1", "list.2"], "target_modules": []}, WHOLE,
                     id="saved-modules-by-their-ends"),
    ],
)  # fmt: skip
def test_a_checkpoint_of_the_same_run_resumes(
    changes: dict[str, Any], text: str, checkpoint: Callable[..., Path], find: Find
) -> None:
    findings = find(f"{text}training: {{resume_from_checkpoint: {checkpoint(**changes)}}}\n")
    assert "resume-mismatch" not in {finding.code for finding in findings}


@pytest.mark.parametrize(
    ("changes", "text", "difference"),
    [
        pytest.param({"use_dora": True}, LORA_16, "method dora, here lora", id="dora"),
        pytest.param({"peft_type": "BOFT"}, LORA_16, "method boft, here lora", id="boft"),
        pytest.param({"r": 8}, LORA_16, "lora_rank 8, here 16", id="rank"),
        pytest.param({"lora_alpha": 64, "use_rslora": True}, LORA_16,
                     "lora_alpha 64, here 32; use_rslora true, here false", id="scaling"),
        pytest.param({"target_modules": ["q_proj"]}, LORA_16, "adapters on 4 layers, here on 8 or on others",
                     id="layers"),
        pytest.param({"modules_to_save": ["lm_head"]}, LORA_16, "modules_to_save lm_head, here none", id="saved"),
        pytest.param({"base_model_name_or_path": "/models/other"}, LORA_16, "base /models/other, here BASE", id="base"),
        pytest.param({"peft_type": "FOURIERFT", "n_frequency": 100, "scaling": 300.0},
                     f"tuner: {{train_type: fourierft, target_regex: {ALIGNER}}}\n",
                     "fourier_n_frequency 100, here 2000", id="frequencies"),
    ],
)  # fmt: skip
def test_a_checkpoint_of_another_run_is_refused(
    changes: dict[str, Any],
    text: str,
    difference: str,
    checkpoint: Callable[..., Path],
    find: Find,
    demo_modules: Model,
) -> None:
    folder = checkpoint(**changes)
    findings = find(f"{text}training: {{resume_from_checkpoint: {folder}}}\n")
    [finding] = [finding for finding in findings if finding.code == "resume-mismatch"]
    expected = difference.replace("BASE", demo_modules.source)
    assert finding.message == f"{folder} differs from this config: {expected}"


@pytest.mark.parametrize("name", ["adapter_config.json", "trainer_state.json"])
def test_a_folder_that_lacks_a_file_is_no_checkpoint(name: str, checkpoint: Callable[..., Path], find: Find) -> None:
    folder = checkpoint()
    (folder / name).unlink()
    [finding] = find(f"{LORA_16}training: {{resume_from_checkpoint: {folder}}}\n")
    assert (finding.code, finding.message) == (
        "resume-mismatch",
        f"{folder} is not a checkpoint of such a run: it has no {name}",
    )


@pytest.mark.parametrize(("content", "fault"), [("[]", "not a mapping"), ("{", "not valid JSON")])
def test_a_damaged_checkpoint_is_named(content: str, fault: str, checkpoint: Callable[..., Path], find: Find) -> None:
    folder = checkpoint()
    (folder / "trainer_state.json").write_text(content, encoding="utf-8")
    [finding] = find(f"{LORA_16}training: {{resume_from_checkpoint: {folder}}}\n")
    assert finding.code == "resume-mismatch"
    assert finding.message.startswith(f"{folder / 'trainer_state.json'}: {fault}")


def test_a_full_checkpoint_needs_no_adapter_config(checkpoint: Callable[..., Path], find: Find) -> None:
    folder = checkpoint()
    (folder / "adapter_config.json").unlink()
    findings = find(f"tuner: {{train_type: full}}\ntraining: {{max_steps: 10, resume_from_checkpoint: {folder}}}\n")
    assert [finding.code for finding in findings] == ["resume-finished"]


def test_a_missing_checkpoint_is_named(tmp_path: Path, find: Find) -> None:
    [finding] = find(
        f"tuner: {{modules_to_save: {MERGERS}}}\ntraining: {{resume_from_checkpoint: {tmp_path / 'no'}}}\n"
    )
    assert finding.message == f"{tmp_path / 'no'}: no such folder"


def test_packing_concatenates_rows_in_known_families_only(
    make_config: Callable[[str], Config], demo_modules: Model
) -> None:
    config = make_config("training: {packing: true}\n")
    known = resolve(config, demo_modules)
    unknown = replace(known, model_type="llava")
    assert choose(config, known, None).padding_free
    assert not choose(config, unknown, None).padding_free
    messages = [found.message for found in preflight(config, demo_modules, unknown) if found.code == "packing"]
    assert messages == ["packing: no effect for a llava; a step has 16 rows"]
    assert "packing" not in config.handed_through


@pytest.mark.parametrize(
    ("text", "padding_free", "mixes"),
    [
        ({"model_type": "gemma3_text", "layer_types": ["full_attention", "sliding_attention"]}, True, True),
        ({"model_type": "gemma3_text", "layer_types": ["full_attention", "sliding_attention"]}, None, False),
        ({"model_type": "gemma3_text", "layer_types": ["full_attention"]}, True, False),
        ({"model_type": "qwen3_next", "layer_types": ["linear_attention"]}, True, True),
        ({"model_type": "qwen3_5_text", "layer_types": ["linear_attention", "full_attention"]}, True, False),
    ],
    ids=str,
)
def test_layers_that_would_mix_rows_are_found_before_training(
    text: dict[str, Any],
    padding_free: bool | None,
    mixes: bool,
    make_config: Callable[[str], Config],
    demo_modules: Model,
) -> None:
    config = make_config(f"training: {json.dumps({'padding_free': padding_free})}\n")
    model = replace(demo_modules, config={"text_config": text})
    found = list(training.rows_kept_apart(config, model, resolve(config, demo_modules)))
    assert [problem.code for problem in found] == ["padding-free-mixes-rows"] * mixes
    assert all("sliding_attention" in each.message or "linear_attention" in each.message for each in found)


def test_layers_that_would_mix_packed_rows_are_told_by_the_users_own_key(
    make_config: Callable[[str], Config], demo_modules: Model
) -> None:
    config = make_config("swift:\n  packing: true\n")
    text = {"model_type": "gemma3_text", "layer_types": ["sliding_attention"]}
    model = replace(demo_modules, config={"text_config": text})
    [found] = training.rows_kept_apart(config, model, resolve(config, demo_modules))
    assert found.message.startswith("packing: this LLM has layers of the kind sliding_attention")
    assert found.fix == {"training": {"packing": False}}


def test_one_value_stands_for_a_list_of_ms_swift(make_config: Callable[[str], Config]) -> None:
    text = "training: {report_to: wandb, callbacks: mine}\ndata: {agent_template: hermes}\n"
    assert make_config(text).handed_through == {"report_to": "wandb", "callbacks": "mine", "agent_template": "hermes"}
    with pytest.raises(ConfigError, match="report_to must be a list or text, not 3"):
        make_config("training: {report_to: 3}\n")
    with pytest.raises(ConfigError, match=r"report_to\.0 must be text, not true"):
        make_config("training: {report_to: [true]}\n")


@pytest.mark.parametrize(
    ("text", "message", "fix"),
    [
        (
            "training:\n  report_to: [tensorboard, dvclive]",
            "training.report_to: dvclive needs the package dvclive, which is not installed",
            {"training": {"report_to": "none"}},
        ),
        (
            "deepspeed:\n  config: zero2",
            "training.deepspeed: zero2 needs the package deepspeed, which is not installed",
            {"training": {"deepspeed": None}},
        ),
        (
            "training:\n  sharding: zero3",
            "training.sharding: zero3 needs the package deepspeed, which is not installed",
            {"training": {"sharding": "auto"}},
        ),
    ],
)
def test_package_of_a_run_that_is_missing_here(
    text: str,
    message: str,
    fix: dict[str, Any],
    make_config: Callable[[str], Config],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = find_spec
    monkeypatch.setattr(training, "find_spec", lambda name: None if name in ("dvclive", "deepspeed") else found(name))
    [problem] = training.packages(make_config(f"{text}\n"))
    assert (problem.code, problem.message, problem.fix) == ("package-missing", message, fix)
    assert problem.where.endswith(":2") or problem.where.endswith(":3")
    assert list(training.packages(make_config("training: {report_to: none}\n"))) == []


@pytest.mark.parametrize("text", ["[]", "none", "[none]"])
def test_a_run_that_reports_to_nothing_says_so_to_ms_swift(
    text: str, make_config: Callable[[str], Config], demo_modules: Model
) -> None:
    config = make_config(f"training: {{report_to: {text}}}\n")
    plan = resolve(config, demo_modules)
    assert lower(plan, config, Path("run"), choose(config, plan, None))["report_to"] in ("none", ["none"])
    assert list(training.packages(config)) == []
