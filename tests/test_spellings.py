"""Keys of ms-swift and of the guide's project: taken, left out, or refused; and files that extend others."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import swiftalign
from swiftalign.checks.spellings import unknown_arguments
from swiftalign.config.arguments import ARGUMENTS, HARMLESS, PLANNED, Implied, Names, Noted, Renamed
from swiftalign.config.load import load_config
from swiftalign.config.sections import section_fields
from swiftalign.config.spellings import KEYS, PASS_THROUGH, SECTIONS, translate
from swiftalign.config.swift_arguments import swift_arguments, swift_defaults
from swiftalign.config.yaml import Place, holds, lookup, nested, parse_document
from swiftalign.model.tree import Model
from swiftalign.plan.resolve import resolve
from swiftalign.problems import ConfigError, Problem
from swiftalign.yaml12 import dump_yaml

MODEL = "model: Qwen/Qwen3-VL-4B-Instruct\n"
GUIDE_PROJECT = Path(__file__).with_name("guide_project")

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_text(text: str, name: str = "config.yaml") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return write_text


def faults(path: Path, overrides: list[str] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides or [])
    return [str(problem).replace(f"{path.parent}/", "") for problem in caught.value.problems]


# One spelling and another: both give the same configuration.
SAME = [
    ("model: {model: a/b, torch_dtype: float32, attn_impl: sdpa, model_revision: main}",
     "model: {path: a/b, dtype: float32, attention: sdpa, revision: main}"),
    ("model: {path: a/b, torch_dtype: torch.bfloat16}", "model: {path: a/b, dtype: bfloat16}"),
    ("model: {path: a/b, torch_dtype: auto}", "model: a/b"),
    ("model: {model_name_or_path: a/b, attn_implementation: eager}", "model: {path: a/b, attention: eager}"),
    ("use_hf: false", "hub: modelscope"),
    ("swift: {use_hf: true}", "hub: huggingface"),
    ("use_hf:", ""),
    ("template: {template: qwen3_vl, truncation_strategy: right, max_pixels: 1024}",
     "data: {template: qwen3_vl, truncation_strategy: right, max_pixels: 1024}"),
    ("template: qwen3_vl", "data: {template: qwen3_vl}"),
    ("global_max_length: 100", "data: {max_length: 100}"),
    ("deepspeed: {enabled: true, config: zero2}", "training: {deepspeed: zero2}"),
    ("deepspeed: {enabled: true}", "training: {deepspeed: zero2}"),
    ("deepspeed: {config: zero3}", "training: {deepspeed: zero3}"),
    ("deepspeed: {enabled: false, config: zero2}", ""),
    ("deepspeed: {enabled: off}", ""),
    ("deepspeed: zero1", "training: {deepspeed: zero1}"),
    ("training: {fsdp: fsdp2}", "training: {sharding: fsdp2}"),
    ("swift: {fsdp: full_shard auto_wrap offload}", "training: {sharding: fsdp2_offload}"),
    ("training: {fsdp: []}", ""),
    ("device_map: auto", "training: {sharding: device_map}"),
    ("deepspeed: {zero_optimization: {stage: 2}}", "training: {deepspeed: {zero_optimization: {stage: 2}}}"),
    ("data: {dataset: [placeholder], val_dataset: dummy, eval_dataset: [placeholder]}", ""),
    ("data: {dataset: a.jsonl, val_dataset: [b.jsonl]}", "data: {train: [a.jsonl], val: b.jsonl}"),
    ("data: {eval_dataset: b.jsonl}", "data: {val: b.jsonl}"),
    ("dataset: [placeholder]\ncustom: {train_jsonl: a.jsonl}", "data: {train: a.jsonl}"),
    ("custom: {train_jsonl: a.jsonl, val_jsonl: [b.jsonl]}", "data: {train: a.jsonl, val: [b.jsonl]}"),
    ("data: {dataloader_num_workers: 2, dataloader_pin_memory: false}",
     "training: {dataloader_num_workers: 2, dataloader_pin_memory: false}"),
    ("training: {lora_rank: 4, max_length: 9}", "tuner: {lora_rank: 4}\ndata: {max_length: 9}"),
    ("swift: {lora_rank: 4, learning_rate: 1e-4}", "tuner: {lora_rank: 4}\ntraining: {learning_rate: 1e-4}"),
    ("lora_rank: 4\nlearning_rate: 1e-4\nfreeze_vit: false\ntuner_type: lora\nseed: 3",
     "tuner: {lora_rank: 4, train_type: lora, freeze_vit: false}\ntraining: {learning_rate: 1e-4, seed: 3}"),
    ("train_type: full", "tuner: {train_type: full}"),
    ("model: {path: a/b, device_map: auto}", "model: a/b\nswift: {device_map: auto}"),
    ("training: {bf16: true}", "model: {path: Qwen/Qwen3-VL-4B-Instruct, dtype: bfloat16}"),
    ("bf16: on\nfp16: 'off'", "model: {path: Qwen/Qwen3-VL-4B-Instruct, dtype: bfloat16}"),
    ("custom: {train_jsonl: a.jsonl, val_jsonl: null, summary_ratio: null, object_ordering_policy: null}",
     "data: {train: a.jsonl}"),
    ("custom: {sample_limit: 8}", ""),
    ("bf16: true\nfp16: false", "model: {path: Qwen/Qwen3-VL-4B-Instruct, dtype: bfloat16}"),
    ("swift: {fp16: true}", "model: {path: Qwen/Qwen3-VL-4B-Instruct, dtype: float16}"),
    ("training: {bf16: false}", ""),
    ("model: {path: a/b, dtype: bfloat16}\nbf16: true", "model: {path: a/b, dtype: bfloat16}"),
    ("model: {path: a/b, dtype: float32}\nbf16: false", "model: {path: a/b, dtype: float32}"),
    ("tuner: {use_swift_lora: false, lora_bias: none, tuner_backend: peft, init_weights: true}", ""),
    ("save_safetensors: true\nfreeze_parameters: []\nfreeze_parameters_ratio: 0.0\nlora_dtype:\nadapters: []", ""),
    ("custom: {emit_norm: norm1000, images_per_user_turn: 1, json_format: standard, use_summary: false}", ""),
    ("custom: {augment_prob: 0.0, fusion_config: null, token_type_metrics: {enabled: false}}", ""),
    ("prompts: {}\nrlhf:\n", ""),
    ("custom: {summary_ratio: 1.0}", "data: {text: {answer: summary}}"),
    ("custom: {object_ordering_policy: reference_tlbr}", "data: {text: {order: reference_top_to_bottom}}"),
    # Values of another type that can mean one thing only.
    ("tuner: {use_dora: yes, freeze_llm: Off}", "tuner: {use_dora: true, freeze_llm: false}"),
    ("training: {aligner_lr: '1e-4', max_steps: 1e3, max_grad_norm: '0.5'}",
     "training: {aligner_lr: 1e-4, max_steps: 1000, max_grad_norm: 0.5}"),
    ("tuner: {modules_to_save: merger, train_type: LoRA}", "tuner: {modules_to_save: [merger], train_type: lora}"),
    ("custom: {augmentation: {enabled: off, ops: [hflip]}}", "custom: {augmentation: {enabled: false, ops: [hflip]}}"),
    ("training: {per_device_train_batch_size: '4', early_stopping: {patience: 3.0}}",
     "training: {per_device_train_batch_size: 4, early_stopping: {patience: 3}}"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "same"), SAME, ids=[text for text, _ in SAME])
def test_what_means_the_same_is_taken(text: str, same: str, write: Write) -> None:
    one, other = (load_config([write(MODEL, "base.yaml"), write(each)]) for each in (text, same))
    assert one.model_dump() == other.model_dump()


@pytest.mark.parametrize("text", [text for text, _ in SAME])
def test_what_a_run_keeps_of_it_is_the_same_configuration(text: str, write: Write) -> None:
    config = load_config([write(MODEL, "base.yaml"), write(text)])
    assert load_config(write(dump_yaml(config.values), "kept.yaml")).model_dump() == config.model_dump()


@pytest.mark.parametrize("section", ["", *SECTIONS])
@pytest.mark.parametrize("name", sorted(ARGUMENTS))
def test_argument_of_ms_swift_is_understood_in_every_section(section: str, name: str) -> None:
    rule, key = ARGUMENTS[name], (section, name) if section else (name,)
    given: Any = "auto" if name == "device_map" else "x"
    if isinstance(rule, Implied):
        given = rule.values[0] if rule.values else []
    problems, notes = list[Problem](), list[Problem]()
    values = parse_document(dump_yaml(nested(key, given, Place())), "file")
    translate(values, problems, notes)
    assert problems == []
    assert len(notes) == isinstance(rule, Noted)
    if isinstance(rule, Renamed):
        converted = {"fsdp": "fsdp2", "device_map": "device_map"}.get(name, given)
        converted = "top" if name == "model" and not section else converted
        assert lookup(values, rule.to, "top") == converted
        assert values.name(*rule.to) in (".".join(key), ".".join(rule.to))
    else:
        assert not holds(values, key)


def test_every_argument_of_ms_swift_is_in_one_class() -> None:
    harmless = [name for listed in HARMLESS.values() for name in listed.split()]
    declared = {name for section in PASS_THROUGH for name in section_fields(section)}
    classes = [*declared - ARGUMENTS.keys(), *ARGUMENTS, *PLANNED.split(), *harmless]
    assert [name for name, count in Counter(classes).items() if count > 1] == []
    assert swift_arguments().keys() - set(classes) == set()
    assert {*PLANNED.split(), *harmless} <= swift_arguments().keys()


def test_a_planned_argument_is_read_somewhere() -> None:
    root = Path(swiftalign.__file__).parent
    code = "".join(path.read_text() for path in root.rglob("*.py") if path.name != "arguments.py")
    assert [name for name in PLANNED.split() if not re.search(rf"\b{name}\b", code)] == []


def test_what_ms_swift_does_not_read_by_default_is_what_the_rule_takes() -> None:
    """A value that changes nothing is ms-swift's own default: a run moved here may spell it out."""
    defaults = swift_defaults()
    wrong = [
        name
        for name, rule in ARGUMENTS.items()
        if isinstance(rule, Implied) and defaults.get(name) not in (None, "", [], {}, *rule.values)
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("new_special_tokens: ['<box>']", "the tokenizer and the embeddings would change"),
        ("training: {quant_bits: 4}", "base models that are not quantized on loading"),
        ("swift: {lisa_activated_layers: 2}", "LISA trains other layers in every interval"),
        ("model_kwargs: '{\"max_pixels\": 1}'", "environment variables"),
        ("training: {vera_rank: 8}", "it belongs to a tuning method that is not offered here"),
        ("push_to_hub: true", "a run writes to its own folder only"),
        ("resume_only_model: true", "a resumed run continues optimizer"),
    ],
)
def test_argument_that_works_behind_the_plans_back_is_refused(text: str, why: str, write: Write) -> None:
    [fault] = faults(write(MODEL + text))
    assert fault.startswith("config.yaml:2: ")
    assert " is not supported: " in fault
    assert why in fault


def test_argument_of_a_later_ms_swift_is_handed_through_with_a_warning(
    write: Write, demo_modules: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config(write(MODEL + "training:\n  seed: 3\n  max_grad_norm: 2\n"))
    plan = resolve(config, demo_modules)
    assert not list(unknown_arguments(config, demo_modules, plan))
    monkeypatch.setattr("swiftalign.checks.spellings._CLASSED", {"seed"})
    [found] = unknown_arguments(config, demo_modules, plan)
    assert (found.code, found.severity) == ("argument-unknown", "warning")
    assert found.where.endswith("config.yaml:4")
    assert found.message.startswith("max_grad_norm: ")


@pytest.mark.parametrize("key", [key for key, rule in KEYS.items() if isinstance(rule, Implied)], ids=".".join)
def test_key_whose_meaning_is_not_known_names_what_to_write(key: Names, write: Write) -> None:
    rule = KEYS[key]
    path = write(MODEL + dump_yaml(nested(key, "something", Place())))
    [fault] = faults(path)
    assert fault.endswith(f': {".".join(key)}: "something" is not supported: {rule.why}')
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert caught.value.problems[0].hint == (rule.hint if isinstance(rule, Implied) else None)


@pytest.mark.parametrize("key", [key for key, rule in KEYS.items() if isinstance(rule, Noted)], ids=".".join)
def test_key_of_mere_logging_is_a_note(key: Names, write: Write) -> None:
    path = write(MODEL + dump_yaml(nested(key, True, Place())))
    [note] = load_config(path).notes
    assert (note.severity, note.where) == ("note", f"{path}:3")
    assert note.message.startswith(f"{'.'.join(key)} has no effect: ")


def test_notes_belong_to_each_phase(write: Write) -> None:
    config = load_config(
        write(f"{MODEL}custom: {{dump_conversation_text: true}}\nphases: [{{name: a}}, {{name: b}}]\n")
    )
    assert [len(part.notes) for part in (config, *config.runs)] == [1, 1, 1]


TWICE = "mean the same, and both are given"
HELD = "which makes the model"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("template: {max_pixels: 1}\ndata: {max_pixels: 2}", f"1: template.max_pixels and data.max_pixels {TWICE}"),
        ("global_max_length: 1\ntemplate: {max_length: 2}", f"1: global_max_length and template.max_length {TWICE}"),
        ("custom: {train_jsonl: a}\ndata: {train: b}", f"1: custom.train_jsonl and data.train {TWICE}"),
        ("template: {template: a}\ntemplate: {max_pixels: 1}", "2: template is given twice"),
        ("model: {path: a/b, dtype: float32}\nbf16: true", f"2: bf16: true contradicts model.dtype, {HELD} float32"),
        ("model: {model: a/b, dtype: float16}\nfp16: false", f"2: fp16: false contradicts model.dtype, {HELD} float16"),
        ("training: {bf16: maybe}", "1: training.bf16 must be true or false, not 'maybe'"),
        ("bf16: true\nfp16: true", "2: fp16: true contradicts bf16, which makes the model bfloat16"),
        ("template: {max_pixelz: 1}", "1: template.max_pixelz: unknown key"),
        ("tuner: {use_swift_lora: true}", "1: tuner.use_swift_lora: true is not supported: adapters are peft's"),
        ("tuner: {lora_bias: all}", '1: tuner.lora_bias: "all" is not supported: biases of adapted layers stay frozen'),
        ("dataset: 'a.jsonl#50'", "1: dataset: 'a.jsonl#50' draws 50 rows at random"),
        ("custom: {summary_ratio: 0.6}", "1: custom.summary_ratio: a share of the rows answers with summaries"),
        ("extends: {a: b}", "1: extends must be a file or a list of files"),
        ("extends: missing.yaml", "1: extends names a file that does not exist: missing.yaml"),
        (f"extends: {300 * 'a'}", f"1: extends names a file that does not exist: {300 * 'a'}"),
        ("training: {learning_rate: '.inf'}", "1: training.learning_rate must be a number, not '.inf'"),
        ("training: {max_steps: '.nan'}", "1: training.max_steps must be a whole number, not '.nan'"),
        ("phases: [{bf16: false}]", "1: a phase can't set training.bf16"),
    ],
)  # fmt: skip
def test_what_contradicts_is_a_fault(text: str, fault: str, write: Write) -> None:
    base = write(MODEL, "base.yaml")
    path = write(text)
    with pytest.raises(ConfigError) as caught:
        load_config([base, path])
    assert [str(each).replace(f"{path.parent}/", "") for each in caught.value.problems] == [f"config.yaml:{fault}"]


def test_message_spells_a_key_as_the_file_does(write: Write) -> None:
    assert faults(write(f"{MODEL}deepspeed: {{enabled: true, config: 1.5}}\nglobal_max_length: long\n")) == [
        "config.yaml:2: deepspeed must be text or a mapping, not 1.5",
        "config.yaml:3: global_max_length must be a whole number, not 'long'",
    ]


def test_value_that_is_wrong_after_all_is_told_as_it_is(write: Write) -> None:
    assert faults(write(f"{MODEL}training: {{aligner_lr: '-1'}}\ntuner: {{target_modules: 3}}\n")) == [
        "config.yaml:2: training.aligner_lr must be a number, not '-1'",
        "config.yaml:3: tuner.target_modules must be a list, not 3",
    ]


def test_limits_of_the_guides_project_belong_to_the_files(write: Write) -> None:
    files = "data: {train: [a, {path: b, limit: 1}], val: c}\n"
    data = load_config(write(f"{MODEL}{files}custom: {{train_sample_limit: 8, sample_limit: 3}}\n")).data
    assert [source.limit for source in (*data.train, *data.val)] == [8, 1, 3]


def test_limits_hold_for_the_files_of_each_phase_and_phases_have_their_own(write: Write) -> None:
    phases = "phases: [{name: a}, {data: {train: b}}, {custom: {sample_limit: 3}}]\n"
    config = load_config(write(f"{MODEL}data: {{train: a, val: c}}\ncustom: {{sample_limit: 8}}\n{phases}"))
    kept = load_config(write(dump_yaml(config.values), "kept.yaml"))
    for runs in (config.runs, kept.runs):
        limits = [[source.limit for source in (*run.data.train, *run.data.val)] for run in runs]
        assert limits == [[8, 8], [8, 8], [3, 3]]


def test_null_for_files_replaces_those_of_an_extended_file(write: Write) -> None:
    write(f"{MODEL}custom: {{train_jsonl: a, val_jsonl: b}}\n", "base.yaml")
    assert load_config(write("extends: base.yaml\ncustom: {val_jsonl: null}\n")).data.val == []


def test_circle_of_links_is_a_file_that_does_not_exist(write: Write, tmp_path: Path) -> None:
    (tmp_path / "link.yaml").symlink_to("link.yaml")
    assert faults(write("extends: link.yaml")) == ["config.yaml:1: extends names a file that does not exist: link.yaml"]


# Files that extend others


def test_extended_files_are_merged_in_order_below_the_file(write: Write) -> None:
    write(
        f"{MODEL}training: {{vit_lr: 1, aligner_lr: 1, weight_decay: 1}}\ntuner: {{train_type: lora, lora_rank: 4}}\n",
        "shared/a.yaml",
    )
    write("training: {aligner_lr: 2, weight_decay: 2}\ndata: {train: rows.jsonl}\n", "shared/b.yaml")
    own = "training: {weight_decay: 3}\ntuner: {train_type: lora, lora_alpha: 9}\n"
    path = write(f"extends: [shared/a.yaml, shared/b.yaml]\n{own}")
    config = load_config(path)
    assert (config.training.vit_lr, config.training.aligner_lr, config.training.weight_decay) == (1, 2, 3)
    assert (config.tuner.lora_rank, config.tuner.lora_alpha) == (4, 9)  # unlike a file that is laid over another
    assert config.data.train[0].path == str(path.parent / "shared/rows.jsonl")
    assert config.where("training", "vit_lr") == f"{path.parent}/shared/a.yaml:2"


def test_files_are_extended_before_they_are_layered(write: Write) -> None:
    write(f"{MODEL}training: {{vit_lr: 1, aligner_lr: 1}}\n", "base.yaml")
    first, second = write("training: {vit_lr: 2}\n", "first.yaml"), write("extends: base.yaml\n", "second.yaml")
    assert load_config([first, second]).training.vit_lr == 1
    assert load_config([second, first]).training.vit_lr == 2


def test_file_may_be_extended_by_two(write: Write) -> None:
    write(MODEL, "base.yaml")
    write("extends: base.yaml\ntraining: {vit_lr: 1}\n", "a.yaml")
    write("extends: base.yaml\ntraining: {aligner_lr: 2}\n", "b.yaml")
    training = load_config(write("extends: [a.yaml, b.yaml]\n")).training
    assert (training.vit_lr, training.aligner_lr) == (1, 2)


def test_circle_of_files_is_named(write: Write) -> None:
    write("extends: sub/b.yaml\n", "a.yaml")
    path = write("extends: ../a.yaml\n", "sub/b.yaml")
    [fault] = faults(path)
    assert fault.partition(": ")[2] == (
        f"files extend each other in a circle: b.yaml extends {path.parent.parent}/a.yaml extends b.yaml"
    )


def test_number_of_extended_files_is_limited(write: Write) -> None:
    write(MODEL, "0.yaml")
    for number in range(1, 20):  # 2^20 files, if each is read as often as it is named
        path = write(f"extends: [{number - 1}.yaml, {number - 1}.yaml]\n", f"{number}.yaml")
    [fault] = faults(path)
    assert fault.endswith(": more than 100 files are extended")


def test_faults_of_all_files_come_in_their_order(write: Write) -> None:
    write("training: {vit_lr: a}\n", "base.yaml")
    assert faults(write(f"extends: base.yaml\n{MODEL}training: {{aligner_lr: b}}\n")) == [
        "base.yaml:1: training.vit_lr must be a number, not 'a'",
        "config.yaml:3: training.aligner_lr must be a number, not 'b'",
    ]


NAMES = st.sampled_from(
    sorted({*swift_arguments(), *ARGUMENTS, *(key[-1] for key in KEYS), "enabled", "config", "zzz"})
)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.floats(-2, 2)
    | st.sampled_from(["", "on", "dummy", "x#1", "zero2"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(NAMES, inner, max_size=2),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(["model", "data", "tuner", "training", "custom", "swift", "template"]) | NAMES,
                       VALUES | st.dictionaries(NAMES, VALUES, max_size=4), max_size=6))  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_any_keys_are_a_configuration_or_have_faults(tmp_path_factory: pytest.TempPathFactory, values: Any) -> None:
    path = tmp_path_factory.mktemp("any") / "config.yaml"
    path.write_text(dump_yaml(values), encoding="utf-8")
    with suppress(ConfigError):  # any other exception is a defect
        load_config(path)
