"""`swiftalign init --from`: what it writes gives ms-swift the arguments of the run that it was made from.

ms-swift's own parser reads both: the source, and what the written config hands to ms-swift.
"""

from __future__ import annotations

import copy
import json
import os
import random
import re
import shlex
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args, get_origin
from unittest.mock import patch

import pytest
import yaml

from swiftalign.cli import main
from swiftalign.config.arguments import ARGUMENTS, Renamed
from swiftalign.config.load import load_config
from swiftalign.config.swift_arguments import swift_arguments, swift_defaults
from swiftalign.data.files import RowCounts
from swiftalign.init.moved import move, write_moved, written
from swiftalign.init.shell import swift_commands
from swiftalign.init.sources import read_source
from swiftalign.plan.read import read_model
from swiftalign.plan.resolve import resolve
from swiftalign.problems import SwiftalignError
from swiftalign.runs.lowering import lower, to_argv
from swiftalign.speed.choose import choose

MERGERS = ["model.visual.merger", *(f"model.visual.deepstack_merger_list.{index}" for index in range(3))]
LAYERS = r"model\.visual\.(merger|deepstack_merger_list\.\d)\.linear_fc[12]"
ONLY_ALIGNER = "--freeze_llm true --freeze_aligner false"

# The methods as stock ms-swift spells them.
STOCK = {
    "modules_to_save": f"--target_regex dummy-target-modules --modules_to_save {' '.join(MERGERS)}",
    "lora": f"{ONLY_ALIGNER} --lora_rank 16 --lora_dropout 0",
    "lora-by-regex": f"--target_regex '{LAYERS}' --lora_alpha 8 --use_rslora true",
    "lora-and-saved": f"--target_modules q_proj v_proj --modules_to_save {' '.join(MERGERS)}",
    "lora-of-the-llm": "--lora_rank 4",
    "dora": f"{ONLY_ALIGNER} --use_dora true",
    "adalora": f"--tuner_type adalora --target_regex '{LAYERS}' --adalora_tinit 1 --adalora_tfinal 1",
    "boft": f"--tuner_type boft {ONLY_ALIGNER} --boft_block_size 8",
    "fourierft": f"--train_type fourierft {ONLY_ALIGNER} --fourier_n_frequency 50",
    "full": f"--tuner_type full {ONLY_ALIGNER} --learning_rate 2e-5",
    "full-of-all": "--tuner_type full --freeze_vit false --freeze_aligner false",
}
# Other settings, some of which ms-swift and this toolkit give other defaults.
OTHERS = {
    "as it comes": "",
    "rates": "--vit_lr 1e-5 --aligner_lr 1e-3 --learning_rate 1e-4 --weight_decay 0 --warmup_ratio 0.05",
    "schedule": "--max_steps 7 --lr_scheduler_type cosine_with_min_lr --lr_scheduler_kwargs '{\"min_lr\": 1e-6}'",
    "numbers": "--seed 7 --data_seed 8 --max_grad_norm 0.5 --adam_beta2 0.999 --neftune_noise_alpha 5",
    "batches": "--per_device_train_batch_size 3 --gradient_accumulation_steps 2 --train_dataloader_shuffle false",
    "validation": "--split_dataset_ratio 0.2 --eval_strategy epoch --save_strategy epoch --save_total_limit 2",
    "evaluation": "--val_dataset DATA --eval_steps 5 --save_steps 10 --metric_for_best_model token_acc",
    "speed": "--gradient_checkpointing false --dataloader_num_workers 0 --vit_gradient_checkpointing false",
    "rows": "--max_length 900 --max_pixels 50000 --dataset_shuffle false --system 'You see.'",
}

# Where the arguments differ, and why that changes nothing of what is learnt.
DIFFERENT = {
    "output_dir": "the new run has a folder of its own",
    "logging_dir": "it lies in the run folder",
    "run_name": "it is named after the run folder",
    "add_version": "the run folder is the one that was named",
    "training_args": "its values are among those that are compared",
    "callbacks": "this toolkit's own",
    "check_model": "no hub is asked for the latest model",
    "logging_nan_inf_filter": "a matter of the log",
    "strict": "a row that can't be used is an error, not replaced",
    "vit_gradient_checkpointing": "no gradients run through a frozen ViT",
    "target_modules": "the layers' exact names",
    "target_regex": "the layers' exact names",
    "freeze_llm": "the layers' exact names say it",
    "freeze_aligner": "the layers' exact names say it",
    "optimizer": "'default' is what ms-swift takes for none",
    "use_hf": "the model is a folder",
    "hub": "the model is a folder",
}


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("TENSORBOARD_LOGGING_DIR", "USE_HF", "SWIFT_CONFIG_FILE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def stock(demo: Path) -> Callable[[str], list[str]]:
    """The arguments of ``swift sft`` on the demo's model and rows, which are in float32 without mixed precision."""

    def arguments(words: str) -> list[str]:
        rows = str(demo / "data/train.jsonl")
        model = f"--model {demo / 'model'} --model_type qwen3_vl --torch_dtype float32 --fp16 false --bf16 false"
        return shlex.split(f"{model} --use_cpu true --dataset {rows} {words.replace('DATA', rows)}")

    return arguments


def parsed(argv: list[str], output: str) -> Any:
    """What ms-swift makes of arguments."""
    from swift.arguments import SftArguments
    from swift.utils.utils import parse_args

    words = [word if word != "--train_type" else "--tuner_type" for word in argv]  # the name in ms-swift 3
    with patch.dict(os.environ):  # ms-swift sets variables, such as the folder of tensorboard's files
        arguments, others = parse_args(
            SftArguments, [*words, *([] if "--output_dir" in argv else ["--output_dir", output])]
        )
    assert others == []
    return arguments


def differences(one: Any, other: Any) -> dict[str, tuple[Any, Any]]:
    """What differs between two objects of ms-swift's arguments; what it hands to its trainer is compared there."""
    from swift.utils import check_json_format

    left, right = (
        check_json_format({**vars(each), **vars(each.training_args)}) for each in (copy.copy(one), copy.copy(other))
    )
    names = (left.keys() | right.keys()) - DIFFERENT.keys()
    return {name: (left.get(name), right.get(name)) for name in names if left.get(name) != right.get(name)}


def lowered(file: Path) -> list[str]:
    config = load_config([file])
    plan = resolve(config, read_model(config))
    return to_argv(lower(plan, config, Path("run").absolute(), choose(config, plan, None)))


def write_source(kind: str, argv: list[str], arguments: Any) -> Path:
    """The same run as ms-swift's args.json, as a YAML file, or as a script."""
    if kind == "args.json":
        arguments.save_args("source")
        return Path("source")
    if kind == "script":
        file = Path("train.sh")
        words = [shlex.quote(word) for word in argv]
        file.write_text("#!/bin/bash\nset -e\nswift sft \\\n    " + " \\\n    ".join(words) + "\n")
        return file
    values: dict[str, Any] = {}
    for word in argv:
        if word.startswith("--"):
            values[name := word[2:]] = []
        else:
            values[name].append(word)
    file = Path("train.yaml")
    plain = {name: given[0] if len(given) == 1 else given for name, given in values.items()}
    file.write_text(yaml.safe_dump({name: yaml.safe_load(v) if isinstance(v, str) else v for name, v in plain.items()}))
    return file


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["args.json", "script", pytest.param("yaml", marks=pytest.mark.long)])
@pytest.mark.parametrize("method", STOCK)
def test_every_method_reaches_ms_swift_with_its_arguments(
    method: str, kind: str, stock: Callable[[str], list[str]]
) -> None:
    argv = stock(STOCK[method])
    arguments = parsed(argv, "stock")
    write_moved(Path("config.yaml"), write_source(kind, argv, arguments))
    assert differences(arguments, parsed(lowered(Path("config.yaml")), "own")) == {}


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", ["args.json", *(pytest.param(kind, marks=pytest.mark.long) for kind in ("yaml", "script"))]
)
@pytest.mark.parametrize("words", OTHERS.values(), ids=OTHERS)
def test_other_settings_reach_ms_swift(words: str, kind: str, stock: Callable[[str], list[str]]) -> None:
    argv = stock(f"{STOCK['lora']} {words}")
    arguments = parsed(argv, "stock")
    write_moved(Path("config.yaml"), write_source(kind, argv, arguments))
    assert differences(arguments, parsed(lowered(Path("config.yaml")), "own")) == {}


# Nothing is lost


def other_value(name: str) -> Any:
    """A value of an argument that differs from its default, by the argument's type."""
    kind, default = swift_arguments()[name][1], swift_defaults().get(name)
    kinds = [kind, *get_args(kind)]
    if choices := [choice for each in kinds if get_origin(each) is Literal for choice in get_args(each)]:
        return next(choice for choice in choices if choice not in (default, None))
    if bool in kinds and str not in kinds:
        return not default
    if int in kinds:
        return 7
    if float in kinds:
        return 0.25
    if any(get_origin(each) is list or each is list for each in kinds):
        return ["zzz"]
    return {"zzz": 1} if dict in kinds and str not in kinds else "zzz"


@pytest.mark.parametrize("kind", ["args.json", "train.sh"])
def test_every_argument_is_in_the_config_or_in_a_comment(kind: str) -> None:
    lost = []
    for name in sorted(swift_arguments().keys() - {"model", "dataset"}):
        value = other_value(name)
        given = {"model": "Qwen/Qwen3-VL-4B-Instruct", "dataset": ["rows.jsonl"], "learning_rate": 0.01, name: value}
        words = " ".join(shlex.quote(word) for word in to_argv(given))
        Path(kind).write_text(json.dumps(given) if kind == "args.json" else f"swift sft {words}")
        source = read_source(Path(kind))
        try:
            text = written(*move(source), source, Path("config.yaml"))
        except SwiftalignError as error:
            if name not in str(error):
                lost.append(name)
            continue
        rule = ARGUMENTS.get(name)
        key = rule.to[-1] if isinstance(rule, Renamed) else name
        spelled = (
            "true" if value is True else "false" if value is False else "zzz" if "zzz" in str(value) else str(value)
        )
        found = re.search(
            rf"\b({name}|{key})\b[^:]*(:[^#]*?({re.escape(spelled)}|\*\*\*)| - worked out by ms-swift)", text
        )
        if not found and name not in SPELLED_OTHERWISE:
            lost.append(name)
    assert lost == []


SPELLED_OTHERWISE = ("use_hf", "bf16", "fp16", "fsdp")  # hub, model.dtype and training.sharding


# What can't be moved


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("swift sft --model M --tuner_type vera", "train.sh:1: tuner_type must be one of"),
        ("swift sft --model M --tuner_type adapter", "train.sh:1: tuner_type: 'adapter' puts bottleneck layers"),
        ("swift sft --model M \\\n --use_galore", "train.sh:2: use_galore: true is not supported: GaLore projects"),
        ("swift sft --model M --quant_bits 4", "train.sh:1: quant_bits: 4 is not supported: plan, predictions"),
        ("swift sft --model M --init_weights lora-ga", 'train.sh:1: init_weights: "lora-ga" is not supported'),
        ("swift sft --model M --freeze_parameters a", "train.sh:1: freeze_parameters is not supported"),
        ("swift sft --model M --adapters old", "train.sh:1: adapters is not supported"),
        ("swift sft --model M --lora_rnk 4", "train.sh:1: lora_rnk: unknown"),
        ("swift sft --model M --max_steps x", "train.sh:1: max_steps must be a whole number"),
        ("swift sft --model $MODEL", "train.sh:1: $MODEL has no value in this file"),
        ("M=`cat name`\nswift sft --model $M", "train.sh:1: `cat name` is the output of a command"),
        ("swift sft --model $1", "train.sh:1: $1 begins something that only a shell can work out"),
        ("swift sft --model 'M", "train.sh:1: ' is not closed"),
        ("swift sft M", "train.sh:1: 'M' stands before any --ARGUMENT"),
        ("swift rlhf --model M", "train.sh:1: this is 'rlhf'"),
        ("megatron sft --model M", "train.sh:1: this is 'megatron sft'"),
        ("swift sft --model M\nswift sft --model N", "train.sh: 2 commands of ms-swift, in lines 1, 2"),
        ("swift sft none.yaml --model M", "train.sh:1: none.yaml does not exist"),
        ("ls -l", "train.sh: not a file that describes a run"),
        ("{", "train.sh: no 'swift sft' command in it"),
        ("", "train.sh: not a file that describes a run"),
    ],
)
def test_what_a_script_asks_for_in_vain_is_said(text: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("train.sh").write_text(text)
    assert main(["init", "--from", "train.sh"]) == 2
    assert capsys.readouterr().err.startswith(f"error: {message}")
    assert not Path("config.yaml").exists()


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("missing.yaml", None, "missing.yaml: no such file or folder"),
        (
            "args.json",
            '{"rlhf_type": "grpo", "learning_rate": 1}',
            "args.json: the arguments of a run of reinforcement",
        ),
        ("args.json", '{"model": "M", "swift_version": "4"}', "args.json: the arguments of a run of another command"),
        ("args.json", '{"model": "M", ', "args.json:1: not valid YAML"),
        ("notes.yaml", "a: 1", "notes.yaml: not a file that describes a run"),
        ("list.yaml", "- 1", "list.yaml: not a file that describes a run"),
        ("model.bin", b"\xff\x00", "model.bin:1: the file is not UTF-8 text"),
        ("sft.yaml", "model: !!python/object:os.system ls\nstage: 1", "sft.yaml:1: the tag"),
        ("lf.yaml", "model_name_or_path: M\nstage: dpo\n", 'lf.yaml:2: stage: "dpo" can\'t be moved here'),
        ("lf.yaml", "model_name_or_path: M\nfinetuning_type: freeze\n", 'lf.yaml:2: finetuning_type: "freeze" can'),
        (
            "lf.yaml",
            "model_name_or_path: M\nfinetuning_type: full\nfreeze_multi_modal_projector: false\n",
            "lf.yaml:3: freeze_multi_modal_projector: false, finetuning_type",
        ),
    ],
)
def test_what_is_no_run_is_said(
    file: str, text: str | bytes | None, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if text is not None:
        Path(file).write_bytes(text if isinstance(text, bytes) else text.encode())
    assert main(["init", "--from", file]) == 2
    assert capsys.readouterr().err.startswith(f"error: {message}")


def test_a_folder_without_arguments_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    Path("empty").mkdir()
    assert main(["init", "--from", "empty"]) == 2
    assert capsys.readouterr().err.startswith("error: empty holds no args.json")


def test_a_file_that_is_too_large_is_not_read(capsys: pytest.CaptureFixture[str]) -> None:
    Path("train.sh").write_text("#" * 2_000_001)
    assert main(["init", "--from", "train.sh"]) == 2
    assert "larger than 2 MB" in capsys.readouterr().err


def test_values_that_double_are_stopped() -> None:
    doubling = "".join(f"A{n}=$A{n - 1}$A{n - 1}\n" for n in range(1, 60))
    with pytest.raises(SwiftalignError, match="longer than 100,000 characters"):
        list(swift_commands(f"A0=aaaa\n{doubling}swift sft --model $A59", "train.sh"))
    assert len(list(swift_commands(f"A0=\n{doubling}swift sft --model x$A59", "train.sh"))) == 1


def test_damaged_scripts_end_in_a_message() -> None:
    dice = random.Random(0)
    whole = "A=1 # x\nexport B=\"$A\"\nFOO='x y' swift sft --model ${A:-b} \\\n --dataset `x` $(y) a\\ b > log 2>&1 &\n"
    messages = []
    for _ in range(500):
        text = list(whole)
        for _ in range(dice.randint(1, 6)):
            text[dice.randrange(len(text))] = dice.choice("'\"`$\\(){}#\n&|;>< =-a")
        try:
            list(swift_commands("".join(text), "train.sh"))
        except SwiftalignError as error:
            messages.append(str(error))
    assert messages
    assert all(message.startswith("train.sh:") for message in messages)


ANYTHING: tuple[Any, ...] = (
    None,
    True,
    -1,
    1.5,
    "x",
    "a,b",
    "./x.txt",
    [],
    ["a", 1],
    [None],
    {},
    {"a": [1]},
    [{"path": "x"}],
)


@pytest.mark.parametrize("name", ["args.json", "sft.yaml", "lf.yaml"])
def test_values_of_any_type_end_in_a_config_or_a_message(name: str, llama_factory_data: None) -> None:
    dice = random.Random(0)
    whole: dict[str, Any] = {**swift_defaults(), "model": "M/N", "dataset": ["rows.jsonl"], "learning_rate": 1.0}
    if name == "args.json":
        whole |= {
            "model_info": "max_model_len=5",
            "model_meta": "aligner=['a'], template='t'",
            "callbacks": ["adalora"],
        }
    elif name == "lf.yaml":
        optional = (
            "lora_rank",
            "lora_target",
            "additional_target",
            "media_dir",
            "val_size",
            "eval_dataset",
            "flash_attn",
        )
        flags = ("freeze_vision_tower", "freeze_multi_modal_projector", "freeze_language_model", "finetuning_type")
        whole = {**yaml.safe_load(LLAMA_FACTORY), **dict.fromkeys((*optional, *flags))}
    else:
        whole = {key: value for key, value in whole.items() if value not in (None, [])}
    configs = 0
    for _ in range(150):
        changed = {**whole, **{key: dice.choice(ANYTHING) for key in dice.sample(sorted(whole), dice.randint(1, 3))}}
        Path(name).write_text(json.dumps(changed))
        try:
            source = read_source(Path(name))
            written(*move(source), source, Path("config.yaml"))
            configs += 1
        except SwiftalignError:
            continue
    assert configs > 10


def test_a_value_can_not_end_a_comment() -> None:
    Path("args.json").write_text(
        json.dumps({"model": "M/N", "learning_rate": 1, "evil": 1, "vera_dropout": "x\ny: 1\u2028z: 2\x85"})
    )
    source = read_source(Path("args.json"))
    text = written(*move(source), source, Path("config.yaml"))
    assert {"y", "z"}.isdisjoint(yaml.safe_load(text))
    Path("config.yaml").write_text(text)
    assert load_config(["config.yaml"]).model.path == "M/N"


# The command


def script(text: str) -> Path:
    Path("rows.jsonl").write_text("{}\n")
    file = Path("train.sh")
    file.write_text(f"swift sft --model Qwen/Qwen3-VL-4B-Instruct --dataset rows.jsonl {text}\n")
    return file


def test_it_says_what_was_taken_and_what_is_next(capsys: pytest.CaptureFixture[str]) -> None:
    file = script("--vera_rank 4")
    file.write_text(f"NPROC_PER_NODE=2 MAX_PIXELS=50176 OMP_NUM_THREADS=4 {file.read_text()}")
    assert main(["init", "configs/new.yaml", "--from", str(file)]) == 0
    wrote, train, following = capsys.readouterr().out.splitlines()
    assert re.fullmatch(
        r"wrote configs/new.yaml: lora, \d+ settings from arguments of ms-swift \(train.sh\); "
        "its last lines name 2 settings left out",
        wrote,
    )
    assert train == "train with: MAX_PIXELS=50176 swiftalign train configs/new.yaml --nproc 2"
    assert following == "next: swiftalign inspect-params configs/new.yaml"
    text = Path("configs/new.yaml").read_text()
    assert "  train: ../rows.jsonl\n" in text
    assert "#   vera_rank: 4 - " in text
    assert "#   OMP_NUM_THREADS=4 - " in text


def test_an_existing_file_is_kept_unless_forced(capsys: pytest.CaptureFixture[str]) -> None:
    Path("config.yaml").write_text("mine")
    argv = ["init", "--from", str(script(""))]
    assert main(argv) == 2
    assert capsys.readouterr().err.startswith("error: config.yaml exists already")
    assert Path("config.yaml").read_text() == "mine"
    assert main([*argv, "--force"]) == 0
    assert load_config(["config.yaml"]).training.optimizer == "default"


def test_model_and_files_can_be_named_anew() -> None:
    file = script("--val_dataset old.jsonl")
    Path("new.jsonl").write_text("{}\n")
    options = ["--model", "Qwen/Qwen3-VL-8B-Instruct", "--train", "new.jsonl", "--val", "rows.jsonl"]
    assert main(["init", "--from", str(file), *options]) == 0
    config = load_config(["config.yaml"])
    assert config.model.path == "Qwen/Qwen3-VL-8B-Instruct"
    assert [Path(source.path).name for source in (*config.data.train, *config.data.val)] == ["new.jsonl", "rows.jsonl"]
    assert '#   model: "Qwen/Qwen3-VL-4B-Instruct" - ' in Path("config.yaml").read_text()


@pytest.mark.parametrize("option", ["--method=lora", "--problem=capacity", "--demo=x", "--curriculum=x.jsonl"])
def test_the_source_names_the_method(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "--from", str(script("")), option]) == 2
    assert f"can't be combined with {option.partition('=')[0]}" in capsys.readouterr().err


# Other sources


def moved_from(name: str, text: str) -> str:
    """The text of the config that a source becomes, which loads."""
    Path(name).write_text(text)
    assert main(["init", "--force", "--from", name]) == 0
    return Path("config.yaml").read_text()


def test_data_sets_of_a_hub_are_named_and_sampled_files_limited() -> None:
    Path("rows.jsonl").write_text("{}\n")
    text = moved_from("train.sh", "swift sft --model M/N --dataset rows.jsonl#5 org/set:part#50 gone.jsonl")
    assert [(Path(s.path).name, s.limit) for s in load_config(["config.yaml"]).data.train] == [
        ("rows.jsonl", 5),
        ("gone.jsonl", None),
    ]
    assert "  # not found here: gone.jsonl\n" in text
    assert '#   dataset: "org/set:part#50" - a data set of a hub: download it' in text
    assert '#   dataset: "rows.jsonl#5" - ms-swift draws 5 rows of the file at random' in text


def test_variables_of_a_yaml_file_are_read() -> None:
    Path("images").mkdir()
    text = moved_from(
        "sft.yaml",
        "model: M/N\ndataset: rows.jsonl\nlearning_rate: 1e-4\nsystem: null\n"
        "ENV: {MAX_PIXELS: 50176, USE_HF: 1, ROOT_IMAGE_DIR: images, QWENVL_BBOX_FORMAT: new, HF_TOKEN: abc}\n",
    )
    config = load_config(["config.yaml"])
    assert config.hub == "huggingface"
    assert Path(str(config.data.images)) == Path("images").absolute()
    assert "# Set MAX_PIXELS=50176 in the environment when you train.\n" in text
    assert "abc" not in text
    assert "#   system: null - " in text


def test_the_legacy_format_of_boxes_is_told() -> None:
    Path("rows.jsonl").write_text('{"messages": [{"role": "assistant", "content": "<bbox>"}]}\n')
    command = "swift sft --model M/N --dataset rows.jsonl"
    assert "QWENVL_BBOX_FORMAT=legacy when you train" in moved_from("train.sh", command)
    assert "legacy" not in moved_from("train.sh", f"QWENVL_BBOX_FORMAT=new {command}")


def test_the_processes_of_a_run_and_its_deepspeed_preset_are_kept(capsys: pytest.CaptureFixture[str]) -> None:
    preset = json.loads((Path(swift_folder()) / "config/zero2.json").read_text())
    values = {"model": "M/N", "dataset": [], "learning_rate": 1e-4, "global_world_size": 4, "deepspeed": preset}
    Path("args.json").write_text(json.dumps(values))
    assert main(["init", "--from", "."]) == 0
    assert "train with: swiftalign train config.yaml --nproc 4\n" in capsys.readouterr().out
    assert load_config(["config.yaml"]).training.deepspeed == "zero2"


def swift_folder() -> str:
    spec = find_spec("swift")
    assert spec is not None
    return str(Path(str(spec.origin)).parent)


def test_a_run_folder_of_this_toolkit_gives_its_configuration() -> None:
    Path("run/checkpoint-3").mkdir(parents=True)
    Path("run/plan.json").write_text("{}")
    Path("run/config.yaml").write_text("model: Qwen/Qwen3-VL-4B-Instruct\ntraining: {aligner_lr: 0.5}\n")
    for name in ("run", "run/checkpoint-3"):
        assert main(["init", "--force", "--from", name]) == 0
        assert load_config(["config.yaml"]).training.aligner_lr == 0.5


def test_files_that_extend_others_become_one() -> None:
    Path("rows.jsonl").write_text("{}\n")
    Path("base.yaml").write_text(
        "global_max_length: 900\nmodel: {model: Qwen/Qwen3-VL-4B-Instruct, torch_dtype: bfloat16}\n"
        "template: {max_pixels: 50000}\ncustom: {train_jsonl: rows.jsonl, emit_norm: norm1000}\n"
        "training: {bf16: true, add_version: true, learning_rate: 1e-4}\n"
    )
    text = moved_from("stage.yaml", "extends: base.yaml\ntuner: {train_type: lora, target_regex: '.*merger.*fc1'}\n")
    assert load_config(["config.yaml"]).model_dump() == load_config(["stage.yaml"]).model_dump()
    assert "extends" not in yaml.safe_load(text)
    assert "#   custom.emit_norm - coordinates are written in the unit that the model's family reads\n" in text
    assert "#   training.add_version - " in text


LLAMA_FACTORY = """
model_name_or_path: Qwen/Qwen3-VL-4B-Instruct
stage: sft
do_train: true
dataset: boxes
dataset_dir: lf
template: qwen3_vl_nothink
image_max_pixels: 262144
output_dir: saves/x
bf16: true
plot_loss: true
"""


@pytest.fixture
def llama_factory_data() -> None:
    Path("lf").mkdir()
    Path("lf/rows.json").write_text("[]")
    info = {"boxes": {"file_name": "rows.json", "formatting": "sharegpt", "columns": {"images": "images"}}}
    Path("lf/dataset_info.json").write_text(json.dumps(info))


def layers(config: Any) -> set[str]:
    plan = resolve(config, read_model(config), rows=RowCounts(1, 0))
    return {*plan.adapted, *plan.saved} or {name.parameter for name in plan.trainables}


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        ("finetuning_type: lora\nlora_target: all", {"language_model"}),
        ("finetuning_type: lora\nlora_target: q_proj,v_proj\nuse_dora: true", {"language_model"}),
        ("finetuning_type: lora\nfreeze_vision_tower: false", {"language_model", "blocks", "deepstack_merger_list"}),
        (
            "finetuning_type: lora\nfreeze_vision_tower: false\nfreeze_multi_modal_projector: false\n"
            "freeze_language_model: true",
            {"blocks", "deepstack_merger_list", "merger"},
        ),
        (
            "finetuning_type: lora\nlora_target: linear_fc1,linear_fc2\nfreeze_multi_modal_projector: false",
            {"merger"},
        ),
        ("finetuning_type: full\nfreeze_language_model: true\nfreeze_multi_modal_projector: false", {"merger"}),
    ],
)
def test_what_llama_factory_trains_is_trained(flags: str, parts: set[str], llama_factory_data: None) -> None:
    text = moved_from("lf.yaml", LLAMA_FACTORY + flags)
    config = load_config(["config.yaml"])
    names = layers(config)
    assert {
        part
        for part in ("language_model", "blocks", "deepstack_merger_list", "merger")
        for name in names
        if f".{part}" in name
    } == parts
    assert config.training.learning_rate == 5e-5
    assert config.training.per_device_train_batch_size == 8
    assert config.data.max_pixels == 262144
    assert config.data.max_length == 2048
    assert [Path(source.path).parts[-2:] for source in config.data.train] == [("lf", "rows.json")]
    assert "#   plot_loss: true - every run folder gets loss.png\n" in text
    if "full" in flags:
        assert "leaves the three deepstack mergers frozen, and so does this file" in text


def test_whole_parts_of_llama_factory_become_freeze_flags(llama_factory_data: None) -> None:
    moved_from("lf.yaml", LLAMA_FACTORY + "finetuning_type: full")
    tuner = load_config(["config.yaml"]).tuner
    assert (tuner.train_type, tuner.freeze_llm, tuner.freeze_vit, tuner.freeze_aligner) == ("full", False, True, True)
