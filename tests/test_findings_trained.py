"""Which findings whole configurations give: the guide's blocks, mixed plans, full tuning, freeze flags, suffixes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from finding_cases import ALIGNER, MERGERS, WHOLE
from swiftalign.checks.preflight import preflight
from swiftalign.config.load import load_config
from swiftalign.config.sections import Config
from swiftalign.model.tree import Model
from swiftalign.plan.resolve import resolve
from swiftalign.problems import Problem

GUIDE = Path(__file__).parent / "guide"
FLAGS = "freeze-flags-ignored"

Find = Callable[[str], tuple[Problem, ...]]


@pytest.fixture
def find(make_config: Callable[[str], Config], demo_modules: Model) -> Find:
    def find(text: str) -> list[Problem]:
        config = make_config(text)
        return preflight(config, demo_modules, resolve(config, demo_modules))

    return find


def codes(findings: tuple[Problem, ...]) -> list[str]:
    return [finding.code for finding in findings]


@pytest.mark.parametrize(
    ("blocks", "expected"),
    [
        pytest.param(["01_full_parameter"], [FLAGS], id="method-1"),
        pytest.param(["02_dora"], ["saved-matches-nothing", "dora-without-layers", FLAGS], id="method-2"),
        pytest.param(["03_adalora"], ["passed-over", "adalora-schedule", FLAGS], id="method-3"),
        pytest.param(["04_boft"], ["passed-over", FLAGS], id="method-4"),
        pytest.param(["05_fourierft"], ["passed-over", FLAGS], id="method-5"),
        pytest.param(["06_augmentation"], [], id="strategy-1"),
        pytest.param(["07_regularization"], ["best-model-without-validation"], id="strategy-2"),
        pytest.param(["10_unfreezing_phase_1"], [], id="strategy-4"),
        pytest.param(["13_critical_settings"], [FLAGS], id="part-4-settings"),
        pytest.param(["13_critical_settings", "14_learning_rates"], ["unused-learning-rate", FLAGS], id="part-4-rates"),
        pytest.param(["13_critical_settings", "15_learning_rates_overfitting"], [FLAGS], id="part-4-overfitting"),
    ],
)
def test_a_block_of_the_guide_gives_these_findings_and_no_other(
    blocks: list[str], expected: list[str], demo: Path, demo_modules: Model
) -> None:
    config = load_config([demo / "config.yaml", *(GUIDE / f"{name}.yaml" for name in blocks)])
    findings = preflight(config, demo_modules, resolve(config, demo_modules))
    assert codes(findings) == expected


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(
            f"tuner:\n  target_regex: .*\\.[qv]_proj\n  modules_to_save: {MERGERS}\n"
            "training: {learning_rate: 1e-5, aligner_lr: 1e-4}\n",
            id="lora-on-the-llm-by-regex",
        ),
        pytest.param(
            f"tuner:\n  freeze_llm: false\n  modules_to_save: {MERGERS}\n"
            "training: {learning_rate: 1e-5, aligner_lr: 1e-4}\n",
            id="lora-on-the-llm-by-flag",
        ),
        pytest.param(f"tuner:\n  modules_to_save: {MERGERS}\n", id="without-target-regex"),
        pytest.param(
            f"tuner:\n  use_dora: true\n  target_regex: .*\\.q_proj\n  modules_to_save: {MERGERS}\n",
            id="dora-on-the-llm",
        ),
        pytest.param(f"tuner:\n  freeze_vit: false\n  modules_to_save: {MERGERS}\n", id="lora-on-the-vit"),
    ],
)
def test_the_whole_aligner_beside_adapters_gives_no_finding(text: str, find: Find) -> None:
    assert codes(find(text)) == []


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        pytest.param("", [], id="aligner"),
        pytest.param("  freeze_llm: false\n", [], id="llm-too"),
        pytest.param("  freeze_vit: false\n", [], id="vit-too"),
        pytest.param("  freeze_llm: false\n  freeze_vit: false\n", [], id="everything"),
        pytest.param("  freeze_aligner: true\n  freeze_llm: false\n", ["aligner-untouched"], id="llm-alone"),
        pytest.param("  freeze_aligner: true\n  freeze_vit: false\n", ["aligner-untouched"], id="vit-alone"),
        pytest.param("  freeze_aligner: true\n", ["nothing-trains"], id="all-frozen"),
    ],
)
@pytest.mark.parametrize("train_type", ["lora", "full"])
def test_freeze_flags_that_decide_are_taken_at_their_word(
    train_type: str, flags: str, expected: list[str], find: Find
) -> None:
    assert codes(find(f"tuner:\n  train_type: {train_type}\n{flags}")) == expected


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        pytest.param("target_modules: [all-linear]", [], id="all-linear"),
        pytest.param(
            "target_modules: [q_proj]\n  modules_to_save: [model.visual.blocks.3]",
            ["aligner-untouched"],
            id="a-named-block",
        ),
        pytest.param("target_modules: [q_proj, proj]", ["vit-by-suffix", "aligner-untouched"], id="proj"),
        pytest.param("target_regex: '.*'", ["lm-head-trained", "embeddings-trained", "vit-by-suffix"], id="all"),
        pytest.param("target_regex: '.*merger.*'", [], id="merger"),
    ],
)
def test_targets_are_read_as_peft_reads_them(target: str, expected: list[str], find: Find) -> None:
    notable = [finding.code for finding in find(f"tuner:\n  {target}\n") if finding.severity != "note"]
    assert sorted(notable) == sorted(expected)


def test_a_missing_merger_beside_adapters_of_the_llm_is_added_to_them(find: Find) -> None:
    findings = find("tuner:\n  target_modules: [q_proj, merger.linear_fc1, deepstack_merger_list.0.linear_fc1]\n")
    [finding] = [finding for finding in findings if finding.code == "aligner-incomplete"]
    assert finding.fix is not None
    assert finding.fix["tuner"]["target_modules"][:2] == ["q_proj", "merger.linear_fc1"]
    assert "model.visual.deepstack_merger_list.2.linear_fc2" in finding.fix["tuner"]["target_modules"]


def test_a_missing_merger_of_a_mixed_plan_is_saved_beside_what_is_saved(find: Find) -> None:
    findings = find("tuner:\n  target_regex: .*\\.q_proj\n  modules_to_save: [lm_head, model.visual.merger]\n")
    [finding] = [finding for finding in findings if finding.code == "aligner-incomplete"]
    parts = [f"model.visual.deepstack_merger_list.{index}" for index in range(3)]
    assert finding.fix == {"tuner": {"modules_to_save": ["lm_head", "model.visual.merger", *parts]}}


def test_settings_of_dora_are_not_called_unused_where_it_has_no_layer(find: Find) -> None:
    found = codes(find(f"{WHOLE}  use_dora: true\n  lora_rank: 16\n"))
    assert "setting-unused" not in found
    assert "setting-unused" in codes(find(f"{WHOLE}  lora_rank: 16\n"))


@pytest.mark.parametrize(
    "saved", ["[model.visual.merger.norm, model.visual.merger]", "[all-norm]", "[model.language_model.embed_tokens]"]
)
def test_what_is_named_may_train(saved: str, find: Find) -> None:
    found = codes(find(f"tuner:\n  target_regex: {ALIGNER[:-2]}|lm_head'\n  modules_to_save: {saved}\n"))
    assert not {"lm-head-trained", "embeddings-trained", "vit-by-suffix"} & set(found)
