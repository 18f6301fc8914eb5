"""Reading configuration files: layers, overrides, aliases, paths, and the arguments that are handed through."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from swiftalign.config.arguments import ARGUMENTS
from swiftalign.config.load import load_config
from swiftalign.config.sections import Config, DataSource, ModelSection, section_fields
from swiftalign.config.swift_arguments import megatron_arguments, swift_arguments, swift_defaults
from swiftalign.problems import ConfigError, SwiftalignError
from swiftalign.yaml12 import dump_yaml

GUIDE = sorted((Path(__file__).parent / "guide").glob("*.yaml"))

BASE = """\
model: Qwen/Qwen3-VL-4B-Instruct
tuner:
  train_type: lora
  target_regex: merger
  lora_rank: 16
training:
  aligner_lr: 1e-4
  weight_decay: 0.2
"""

Write = Callable[..., list[Path]]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Files `0.yaml`, `1.yaml`, ... with these texts."""

    def write_texts(*texts: str) -> list[Path]:
        paths = [tmp_path / f"{number}.yaml" for number in range(len(texts))]
        for path, text in zip(paths, texts, strict=True):
            path.write_text(text, encoding="utf-8")
        return paths

    return write_texts


def load(write: Write, *texts: str, overrides: list[str] | None = None) -> Config:
    return load_config(write(BASE, *texts), overrides or [])


def paths(sources: list[DataSource]) -> list[str]:
    """The paths of data files that are named by their path alone."""
    assert sources == [DataSource(path=source.path) for source in sources]
    return [source.path for source in sources]


def faults(write: Write, *texts: str) -> list[str]:
    paths = write(BASE, *texts)
    with pytest.raises(ConfigError) as caught:
        load_config(paths)
    return [str(problem).replace(f"{paths[0].parent}/", "") for problem in caught.value.problems]


# Layers


def test_later_file_is_merged_key_by_key(write: Write) -> None:
    config = load(write, "training: {aligner_lr: 2e-4, vit_lr: 1e-5}")
    training = config.training
    assert (training.aligner_lr, training.vit_lr, training.weight_decay) == (2e-4, 1e-5, 0.2)


def test_later_list_replaces_the_earlier(write: Write) -> None:
    config = load(write, "tuner: {modules_to_save: [a, b]}", "tuner: {modules_to_save: [c]}")
    assert config.tuner.modules_to_save == ["c"]
    assert config.tuner.lora_rank == 16


@pytest.mark.parametrize("key", ["train_type", "tuner_type"])
def test_file_that_names_a_method_replaces_the_tuner(key: str, write: Write) -> None:
    tuner = load(write, f"tuner: {{{key}: boft, boft_block_size: 8}}").tuner
    assert (tuner.train_type, tuner.boft_block_size) == ("boft", 8)
    assert not tuner.given("target_regex")
    assert not tuner.given("lora_rank")


def test_override_of_the_method_keeps_the_tuner(write: Write) -> None:
    tuner = load(write, overrides=["tuner.train_type=adalora"]).tuner
    assert (tuner.train_type, tuner.target_regex) == ("adalora", "merger")


def test_empty_section_changes_nothing(write: Write) -> None:
    assert load(write, "tuner:\ntraining: # aligner_lr: 1\n").tuner.lora_rank == 16


def test_empty_file_changes_nothing(write: Write) -> None:
    assert load(write, "", "# nothing\n").values == load(write).values


def test_each_value_remembers_its_file(write: Write, tmp_path: Path) -> None:
    config = load(write, "training:\n  vit_lr: 1e-5\n  aligner_lr: 2e-4\n", overrides=["tuner.lora_rank=8"])
    assert config.where("training", "aligner_lr") == f"{tmp_path}/1.yaml:3"
    assert config.where("training", "weight_decay") == f"{tmp_path}/0.yaml:8"
    assert config.where("tuner", "lora_rank") == "--set tuner.lora_rank=8"
    assert config.where("model", "path") == f"{tmp_path}/0.yaml:1"


def test_item_of_a_replaced_list_stands_where_the_new_list_does(write: Write, tmp_path: Path) -> None:
    config = load(write, "data: {train: [a.jsonl, b.jsonl]}", "data:\n  train:\n    - c.jsonl\n    - d.jsonl\n")
    assert config.where("data", "train", 1) == f"{tmp_path}/2.yaml:4"
    config = load(write, "data: {train: [a.jsonl, b.jsonl]}", overrides=["data.train=[c.jsonl, d.jsonl]"])
    assert config.where("data", "train", 1) == "--set data.train=[c.jsonl, d.jsonl]"


def test_phase_knows_where_its_own_keys_stand(write: Write, tmp_path: Path) -> None:
    config = load(write, "training: {vit_lr: 1e-5}\nphases:\n  - name: a\n  - training:\n      vit_lr: 2e-5\n")
    assert [run.where("training", "vit_lr") for run in config.runs] == [f"{tmp_path}/1.yaml:1", f"{tmp_path}/1.yaml:5"]


def test_faults_come_in_the_order_of_the_files(write: Write) -> None:
    [base, layer] = write("model: a/b\ntuner: {x: 1}\n", "training: {lora_rank: 1}\ntuner: {lora_rank: a}\n")
    with pytest.raises(ConfigError) as caught:
        load_config([layer, base], ["swift.y=1"])
    assert [problem.where for problem in caught.value.problems] == [
        f"{layer}:1",
        f"{layer}:2",
        f"{base}:2",
        "--set swift.y=1",
    ]


def test_replaced_fault_is_no_fault(write: Write) -> None:
    assert load(write, "tuner: {lora_rank: many}", overrides=["tuner.lora_rank=8"]).tuner.lora_rank == 8


# Overrides


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("tuner.lora_rank=32", ("tuner", "lora_rank"), 32),
        ("training.aligner_lr=1e-4", ("training", "aligner_lr"), 1e-4),
        ("tuner.use_dora=true", ("tuner", "use_dora"), True),
        (r"tuner.target_regex=^a\.b=c$", ("tuner", "target_regex"), r"^a\.b=c$"),
        ("tuner.target_regex='007'", ("tuner", "target_regex"), "007"),
        ("tuner.modules_to_save=[a, b.0]", ("tuner", "modules_to_save"), ["a", "b.0"]),
        ("training.save_strategy=no", ("training", "save_strategy"), "no"),
        ("custom.augmentation.enabled=false", ("custom", "augmentation", "enabled"), False),
        ("model=Qwen/Qwen3-VL-8B-Instruct", ("model", "path"), "Qwen/Qwen3-VL-8B-Instruct"),
        (" tuner.lora_rank = 32", ("tuner", "lora_rank"), 32),
        ("swift.seed=7", ("swift", "seed"), 7),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_override_is_read_as_yaml(override: str, key: tuple[str, ...], value: Any, write: Write) -> None:
    values = load(write, overrides=[override]).values
    for part in key:
        values = values[part]
    assert values == value


def test_last_override_wins(write: Write) -> None:
    assert load(write, overrides=["tuner.lora_rank=8", "tuner.lora_rank=4"]).tuner.lora_rank == 4


def test_override_of_the_model_keeps_its_settings(write: Write) -> None:
    config = load(write, "model: {path: a/b, dtype: float32}", overrides=["model=c/d"])
    assert (config.model.path, config.model.dtype) == ("c/d", "float32")


@pytest.mark.parametrize("override", ["tuner.lora_rank", "=1", "tuner.=1", ".lora_rank=1", "", "tuner..x=1"])
def test_malformed_override_is_refused(override: str, write: Write) -> None:
    with pytest.raises(SwiftalignError, match=r"expected section\.key=value"):
        load(write, overrides=[override])


# Aliases


def test_guide_names_its_training_data_under_custom(write: Write, tmp_path: Path) -> None:
    config = load(write, "custom: {train_jsonl: data/train.jsonl, val_jsonl: [a.jsonl, b.jsonl]}")
    assert paths(config.data.train) == [f"{tmp_path}/data/train.jsonl"]
    assert paths(config.data.val) == [f"{tmp_path}/a.jsonl", f"{tmp_path}/b.jsonl"]
    assert config.where("data", "train") == f"{tmp_path}/1.yaml:1"


def test_alias_lies_over_the_earlier_files_own_name(write: Write, tmp_path: Path) -> None:
    config = load(write, "data: {train: [a.jsonl, b.jsonl]}", "custom: {train_jsonl: c.jsonl}")
    assert paths(config.data.train) == [f"{tmp_path}/c.jsonl"]


def test_alias_works_beside_an_empty_section(write: Write, tmp_path: Path) -> None:
    assert paths(load(write, "data:\ncustom: {train_jsonl: c.jsonl}").data.train) == [f"{tmp_path}/c.jsonl"]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("custom: {train_jsonl: 4}", "1.yaml:1: custom.train_jsonl must be a file or a list of files, not 4"),
        ("data: {train: 4}", "1.yaml:1: data.train must be a file or a list of files, not 4"),
        ("model: 4", "1.yaml:1: model must be a hub id, a folder or a mapping, not 4"),
        ("model: ''", "1.yaml:1: model must be a hub id or a folder, not ''"),
    ],
)
def test_fault_names_the_key_as_the_file_spells_it(text: str, fault: str, write: Write) -> None:
    assert faults(write, text) == [fault]


def test_two_spellings_are_a_fault_beside_others(write: Write) -> None:
    assert faults(write, "data: {train: a}\ncustom: {train_jsonl: b}\ntuner: {lora_rank: 0}\n") == [
        "1.yaml:2: custom.train_jsonl and data.train mean the same, and both are given",
        "1.yaml:3: tuner.lora_rank must be greater than 0, not 0",
    ]


# Paths


def test_paths_count_from_the_files_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "configs").mkdir()
    base, layer = tmp_path / "base.yaml", tmp_path / "configs" / "layer.yaml"
    base.write_text("model: ./model\ndata: {train: train.jsonl, val: ~/val.jsonl}\n", encoding="utf-8")
    layer.write_text("data: {train: [../a.jsonl, b.jsonl]}\ntraining: {output_dir: run}\n", encoding="utf-8")
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.chdir(tmp_path / "configs")
    config = load_config([Path("../base.yaml"), Path("layer.yaml")], ["training.resume_from_checkpoint=run/last"])
    assert config.model.path == f"{tmp_path}/model"
    assert paths(config.data.train) == [f"{tmp_path}/a.jsonl", f"{tmp_path}/configs/b.jsonl"]
    assert paths(config.data.val) == ["/home/me/val.jsonl"]
    assert config.training.output_dir == f"{tmp_path}/configs/run"
    assert config.training.resume_from_checkpoint == f"{tmp_path}/configs/run/last"


def test_paths_of_a_data_source_count_from_the_files_own_folder(write: Write, tmp_path: Path) -> None:
    text = (
        "data: {train: {path: a.jsonl, images: ../b}, val: [{path: /c, weight: 2}], images: d, coordinates: relative1}"
    )
    data = load(write, text).data
    assert data.train == [DataSource(path=f"{tmp_path}/a.jsonl", images=f"{tmp_path.parent}/b")]
    assert data.sources("train") == [
        DataSource(path=f"{tmp_path}/a.jsonl", images=f"{tmp_path.parent}/b", coordinates="relative1")
    ]
    assert data.sources("val") == [DataSource(path="/c", weight=2, images=f"{tmp_path}/d", coordinates="relative1")]


def test_path_in_an_override_counts_from_the_current_folder(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert paths(load(write, overrides=["data.train=a.jsonl"]).data.train) == [f"{tmp_path}/here/a.jsonl"]


@pytest.mark.parametrize(
    ("name", "local"),
    [
        ("org/name", False),
        ("org/there", True),
        ("./org/name", True),
        ("../name", True),
        ("/models/name", True),
        ("~/name", True),
        ("name", True),
        ("Qwen/Qwen3-VL-4B-Instruct", False),
    ],
)
def test_model_is_a_folder_where_it_looks_like_one_or_is_one(
    name: str, local: bool, write: Write, tmp_path: Path
) -> None:
    (tmp_path / "org" / "there").mkdir(parents=True)
    path = load(write, f"model: {name}").model.path
    assert Path(path).is_absolute() is local
    assert local or path == name


def test_folder_of_the_current_folder_is_a_model_if_it_has_a_config(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "elsewhere" / "org" / "name"
    folder.mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert load(write, "model: org/name").model.path == "org/name"
    (folder / "config.json").touch()
    assert load(write, "model: org/name").model.path == str(folder)


def test_path_is_meant_in_the_current_folder_if_it_is_only_there(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    text = "data: {train: rows.jsonl}\ntraining: {output_dir: out}\n"
    assert paths(load(write, text).data.train) == [str(tmp_path / "rows.jsonl")]  # it is nowhere
    for folder in (tmp_path / "elsewhere", tmp_path):
        (folder / "rows.jsonl").touch()
        (folder / "out").mkdir()
        assert paths(load(write, text).data.train) == [str(folder / "rows.jsonl")]
        assert load(write, text).training.output_dir == str(tmp_path / "out")


# The guide


def test_guide_has_all_its_fragments() -> None:
    assert len(GUIDE) == 15


@pytest.mark.parametrize("path", GUIDE, ids=lambda path: path.stem)
def test_fragment_of_the_guide_loads_over_a_base(path: Path, write: Write) -> None:
    [base] = write("model: Qwen/Qwen3-VL-4B-Instruct\n")
    assert load_config([base, path]).model.path == "Qwen/Qwen3-VL-4B-Instruct"


def test_fragments_of_the_guide_lie_over_one_another(write: Write) -> None:
    chosen = [path for path in GUIDE if path.stem[:2] in ("01", "06", "07", "08", "14", "15")]
    config = load_config([*write(BASE), *chosen])
    assert config.tuner.modules_to_save[0] == "model.visual.merger"
    assert (config.training.optimizer, config.training.aligner_lr) == ("multimodal", 1e-4)
    assert config.training.warmup_ratio == 0.3
    assert config.custom.augmentation is not None
    assert len(config.custom.augmentation.ops) == 12


def test_bare_list_is_the_augmentation_operations(write: Write) -> None:
    [path] = [path for path in GUIDE if path.stem == "11_unfreezing_phase_2"]
    config = load_config([*write(BASE), path])
    assert config.custom.augmentation is not None
    assert config.custom.augmentation.ops[1].model_dump() == {
        "name": "scale",
        "params": {"lo": 1.02, "hi": 1.15, "prob": 0.2},
    }
    assert config.where("custom", "augmentation", "ops", 1) == f"{path}:2"


# Arguments that are handed through


def test_other_arguments_are_handed_through(write: Write) -> None:
    config = load(write, "data: {max_length: 2048}\ntraining: {max_grad_norm: 0.5}\nswift: {seed: 1}\n")
    assert config.data.passed_through == {"max_length": 2048}
    assert config.training.passed_through == {"max_grad_norm": 0.5}
    assert config.swift == {"seed": 1}


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("data: {max_length: long}", "data.max_length must be a whole number, not 'long'"),
        ("training: {max_grad_norm: '1,5'}", "training.max_grad_norm must be a number, not '1,5'"),
        ("training: {max_grad_norm: .inf}", "training.max_grad_norm must be a finite number, not inf"),
        ("training: {gradient_checkpointing: 1}", "training.gradient_checkpointing must be true or false, not 1"),
        ("swift: {max_length: long}", "swift.max_length must be a whole number, not 'long'"),
        ("swift: {max_grad_norm: a}", "swift.max_grad_norm must be a number, not 'a'"),
        ("swift: {padding_side: up}", "swift.padding_side must be one of left, right, not 'up'"),
    ],
)
def test_argument_is_type_checked(text: str, fault: str, write: Write) -> None:
    assert faults(write, text) == [f"1.yaml:1: {fault}"]


ODD_VALUES = [True, -1.5, 3, "odd", [1], ["odd"], [None], {"odd": 1}, float("inf"), float("nan")]


def passed_through() -> list[tuple[str, str]]:
    declared = {name for section in ("data", "tuner", "training") for name in section_fields(section)}
    return [(section, name) for name, (section, _) in swift_arguments().items() if name not in {*ARGUMENTS, *declared}]


@pytest.mark.parametrize("value", ODD_VALUES, ids=repr)
def test_every_argument_is_faulted_in_plain_words(value: Any, write: Write) -> None:
    sections: dict[str, dict[str, Any]] = {}
    for section, name in passed_through():
        sections.setdefault(section, {})[name] = value
    assert [fault for fault in faults(write, dump_yaml(sections)) if " must be " not in fault] == []


def test_argument_of_a_section_is_taken_under_swift_too(write: Write) -> None:
    assert load(write, "swift: {max_grad_norm: 0.5}").swift == {"max_grad_norm": 0.5}


DECLARED: dict[str, dict[str, Any]] = {
    "data": {
        "max_length": 512,
        "truncation_strategy": "left",
        "max_pixels": 65536,
        "system": "Answer in JSON.",
        "sequence_parallel_size": 2,
    },
    "training": {"metric_for_best_model": "eval_bbox_acc", "greater_is_better": True},
}


@pytest.mark.parametrize("section", ["swift", *DECLARED])
def test_declared_arguments_are_typed_and_handed_through(section: str, write: Write) -> None:
    arguments = {**DECLARED["data"], **DECLARED["training"]}
    config = load(write, dump_yaml({"swift": arguments} if section == "swift" else DECLARED))
    assert config.data.model_dump(include=set(DECLARED["data"])) == DECLARED["data"]
    assert config.training.model_dump(include=set(DECLARED["training"])) == DECLARED["training"]
    assert config.handed_through == arguments


def test_declared_argument_under_swift_goes_before_that_of_its_section(write: Write) -> None:
    config = load(write, "data: {max_length: 1}\nswift: {max_length: 2}\n", "data: {max_length: 3}")
    assert (config.data.max_length, config.handed_through["max_length"]) == (2, 2)


def test_declared_argument_under_swift_is_typed_without_a_file() -> None:
    config = Config(model=ModelSection(path="a/b"), swift={"max_length": 2})
    assert (config.data.max_length, config.handed_through) == (2, {"max_length": 2})
    assert Config(model=ModelSection(path="a/b")).data.max_length is None


@pytest.mark.parametrize("section", ["data", "swift"])
def test_declared_argument_that_is_empty_is_handed_through_as_such(section: str, write: Write) -> None:
    config = load(write, f"{section}: {{max_length: }}")
    assert (config.data.max_length, config.handed_through) == (None, {"max_length": None})


@pytest.mark.parametrize("name", ["context_parallel_size", "moe_grouped_gemm", "recompute_granularity"])
def test_argument_of_megatron_alone_is_refused(name: str, write: Write) -> None:
    assert name in megatron_arguments()
    expected = f"1.yaml:1: swift.{name} is an argument for Megatron training only"
    assert faults(write, f"swift: {{{name}: 1}}") == [expected]


# What the installed releases say, and what loading costs


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1]


@pytest.mark.slow
def test_argument_table_is_that_of_ms_swift() -> None:
    printed = run_python(
        "import dataclasses, json; from swift.arguments import SftArguments\n"
        "made = [(field, field.default_factory) for field in dataclasses.fields(SftArguments)]\n"
        "defaults = {f.name: f.default if make is dataclasses.MISSING else make() for f, make in made}\n"
        "print(json.dumps(defaults, default=str))"
    )
    defaults = json.loads(printed)
    assert sorted(swift_arguments()) == sorted(defaults)
    known = json.loads(json.dumps(swift_defaults()))
    assert known == {name: defaults[name] for name in known}
    assert defaults.keys() - known.keys() == {"optim"}  # it depends on the release of torch


def test_loading_imports_nothing_heavy(write: Write) -> None:
    [path] = write(BASE + "swift: {seed: 1}\n")
    code = (
        "import sys; from pathlib import Path; from swiftalign.config.load import load_config\n"
        f"load_config([Path({str(path)!r})])\n"
        "print([name for name in ('torch', 'transformers', 'swift', 'peft') if name in sys.modules])"
    )
    assert run_python(code) == "[]"
