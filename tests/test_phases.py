"""Runs in phases: what each phase is, that weights are carried on, and that a phase is a run like any other."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from swiftalign.checkpoint.choose import checkpoints_of
from swiftalign.checks.preflight import preflight
from swiftalign.cli import main
from swiftalign.config.load import load_config
from swiftalign.config.sections import Config, DataSource
from swiftalign.demo.model import build_model
from swiftalign.model.safetensors import read_stored
from swiftalign.plan.read import read_model
from swiftalign.plan.resolve import resolve
from swiftalign.problems import ConfigError, PlanMismatchError, SwiftalignError
from swiftalign.worker.weights import carry_weights

PHASES = """
data: {dataset_shuffle: false}
training: {train_dataloader_shuffle: false, max_steps: -1, num_train_epochs: 1, save_strategy: epoch}
phases:
  - name: simple
    custom: {train_jsonl: data/train.simple.jsonl}
    training: {num_train_epochs: 0.3}
  - name: medium
    data: {train: data/train.medium.jsonl}
    custom: {augmentation: {preset: progressive-1}}
    training: {aligner_lr: 5.0e-4, per_device_train_batch_size: 5}
  - data: {train: data/train.jsonl}
    training: {num_train_epochs: 0.2}
    custom:
      augmentation:
        ops:
          - rotate: {max_deg: 9}
          - {name: gamma, params: {gamma: [0.5, 2]}}
"""


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory, demo: Path) -> Path:
    """The demo with a curriculum over it."""
    folder = tmp_path_factory.mktemp("phases") / "demo"
    shutil.copytree(demo, folder)
    assert main(["init", str(folder / "made.yaml"), "--curriculum", str(folder / "data/train.jsonl")]) == 0
    (folder / "phases.yaml").write_text(PHASES, encoding="utf-8")
    return folder


def load(workspace: Path, text: str = PHASES, *overrides: str) -> Config:
    path = workspace / "other.yaml"
    path.write_text(text, encoding="utf-8")
    return load_config([workspace / "config.yaml", path], overrides)


# -- configurations ----------------------------------------------------------------------------------------------------


def test_a_phase_is_its_own_keys_laid_over_the_others(workspace: Path) -> None:
    simple, medium, full = load(workspace).runs
    assert [run.phase for run in (simple, medium, full)] == ["simple", "medium", "phase 3"]
    assert [run.data.train for run in (simple, medium, full)] == [
        [DataSource(path=str(workspace / f"data/train{name}.jsonl"))] for name in (".simple", ".medium", "")
    ]
    assert [run.training.num_train_epochs for run in (simple, medium, full)] == [0.3, 1, 0.2]
    assert [run.training.aligner_lr for run in (simple, medium, full)] == [1e-3, 5e-4, 1e-3]
    assert simple.custom.augmentation is None
    assert medium.custom.augmentation is not None
    assert medium.custom.augmentation.preset == "progressive-1"
    assert full.custom.augmentation is not None
    assert [item.name for item in full.custom.augmentation.operations] == ["rotate", "gamma"]
    assert not any(run.phases for run in (simple, medium, full))


def test_a_run_without_phases_is_its_own_and_only_one(demo: Path) -> None:
    config = load_config([demo / "config.yaml"])
    assert config.runs == (config,)
    assert config.phase is None


@pytest.mark.parametrize(
    ("phase", "line", "message"),
    [
        ("{tuner: {lora_rank: 4}}", 2, "a phase can't set tuner"),
        ("{model: other}", 2, "a phase can't set model"),
        ("{training: {output_dir: x}}", 2, "a phase can't set training.output_dir"),
        ("{name: 3}", 2, "a phase's name must be text"),
        ("{training: {aligner_lrr: 1}}", 2, "training.aligner_lrr: unknown key"),
        ("{training: {num_train_epochs: many}}", 2, "training.num_train_epochs"),
        ("{custom: {train_jsonl: a.jsonl}, data: {train: b.jsonl}}", 2, "mean the same, and both are given"),
        ("simple", 2, "phases"),
    ],
)
def test_faults_of_phases_are_named_by_file_and_line(phase: str, line: int, message: str, workspace: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        load(workspace, f"phases:\n  - {phase}\n")
    problem = raised.value.problems[0]
    assert message in problem.message
    assert problem.where == f"{workspace / 'other.yaml'}:{line}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "tuner: {train_type: adalora}\nphases: [{name: a}, {name: b}]\n",
            "AdaLoRA prunes ranks until the end of its run: the next phase would begin with pruned ranks",
        ),
        (
            "phases: [{name: a, training: {save_strategy: 'no'}}, {name: b}]\n",
            "a: nothing is saved (save_strategy: no) for the next phase to begin with",
        ),
    ],
)
def test_phases_that_leave_nothing_to_begin_with_are_refused(text: str, message: str, workspace: Path) -> None:
    config = load(workspace, text)
    model = read_model(config)
    problems = preflight(config.runs[0], model, resolve(config.runs[0], model))
    assert [finding.message for finding in problems if finding.code == "phases-uncarried"] == [message]


def test_inspect_params_shows_the_phases_with_their_steps(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [str(workspace / name) for name in ("config.yaml", "phases.yaml")]
    assert main(["inspect-params", *files]) == 0
    lines = capsys.readouterr().out.split("Phases\n")[1].splitlines()
    assert [line.split()[0] for line in lines[:4]] == ["phase", "simple", "medium", "phase"]
    assert "progressive-1" in lines[2]
    assert "aligner 0.0005" in lines[2]
    assert main(["inspect-params", *files, "--json"]) == 0
    phases = json.loads(capsys.readouterr().out)["phases"]
    assert [phase["schedule"]["steps"] for phase in phases] == [4, 3, 4]


def test_arguments_are_printed_for_each_phase(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [str(workspace / name) for name in ("config.yaml", "phases.yaml")]
    assert main(["train", *files, "--dry-run", "--json"]) == 0
    lowered = json.loads(capsys.readouterr().out)
    assert [Path(arguments["output_dir"]).name for arguments in lowered] == ["phase-1", "phase-2", "phase-3"]


# -- the curriculum ----------------------------------------------------------------------------------------------------


def test_a_curriculum_parts_rows_by_their_objects_in_order(workspace: Path) -> None:
    rows = [json.loads(line) for line in (workspace / "data/train.jsonl").read_text().splitlines()]
    counts = [len(row["objects"]) for row in rows]
    simple = [json.loads(line) for line in (workspace / "data/train.simple.jsonl").read_text().splitlines()]
    medium = [json.loads(line) for line in (workspace / "data/train.medium.jsonl").read_text().splitlines()]
    assert simple == [row for row, count in zip(rows, counts, strict=True) if 1 <= count <= 3]
    assert medium == [row for row, count in zip(rows, counts, strict=True) if 4 <= count <= 8]
    assert simple
    assert medium
    made = load_config([workspace / "config.yaml", workspace / "made.yaml"])
    assert [run.training.num_train_epochs for run in made.runs] == [30, 30, 40]


def test_a_curriculum_overwrites_nothing_unasked(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = str(workspace / "data/train.jsonl")
    assert main(["init", str(workspace / "made.yaml"), "--curriculum", source]) == 2
    assert main(["init", str(workspace / "new.yaml"), "--curriculum", source]) == 2
    assert "train.simple.jsonl exists already" in capsys.readouterr().err
    assert main(["init", str(workspace / "made.yaml"), "--curriculum", source, "--force"]) == 0


@pytest.mark.parametrize(
    ("line", "message"),
    [("{", "rows.jsonl:1"), ('{"images": ["a.png"], "objects": []}', "no row for the simple phase")],
)
def test_a_source_without_a_curriculum_leaves_no_file(line: str, message: str, tmp_path: Path) -> None:
    from swiftalign.init.write import split

    (tmp_path / "rows.jsonl").write_text(line + "\n")
    with pytest.raises(SwiftalignError, match=message):
        split(tmp_path / "rows.jsonl")
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


# Writes down the rows of an epoch in the order in which they are learned.
ORDER = """
import json
from pathlib import Path
from swift.callbacks import callbacks_map
from swift.callbacks.base import TrainerCallback
class Order(TrainerCallback):
    def on_train_begin(self, args, state, control, train_dataloader=None, **kwargs):
        rows = self.trainer.train_dataset.dataset
        order = getattr(rows, "rows", rows).order
        learned = [int(order[index]) for batch in train_dataloader.batch_sampler for index in batch]
        Path(args.output_dir, "order.json").write_text(json.dumps(learned))
callbacks_map["order"] = Order
"""


# -- weights -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_in_phases_trains_each_as_it_says_and_goes_on_where_it_was_cut_off(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (workspace / "order.py").write_text(ORDER, encoding="utf-8")
    probe = workspace / "probe.yaml"
    probe.write_text(f"swift: {{external_plugins: [{workspace / 'order.py'}], callbacks: [order]}}\n", encoding="utf-8")
    files = [str(workspace / name) for name in ("config.yaml", "phases.yaml", "probe.yaml")]
    run = workspace / "runs/config"
    capsys.readouterr()

    assert main(["train", *files]) == 0

    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("phase ")]
    assert told == [
        "phase 1/3   simple: 49 rows of train.simple.jsonl, 4 steps, 0.3 epochs, rates aligner 0.001, augmentation off",
        "phase 2/3   medium: 15 rows of train.medium.jsonl, 3 steps, 1 epochs, rates aligner 0.0005, "
        "augmentation progressive-1",
        "phase 3/3   phase 3: 64 rows of train.jsonl, 4 steps, 0.2 epochs, rates aligner 0.001, "
        "augmentation 2 operations",
    ]
    phases = [run / f"phase-{number}" for number in (1, 2, 3)]
    assert [_state(phase)["global_step"] for phase in phases] == [4, 3, 4]
    assert [json.loads((phase / "plan.json").read_text())["schedule"]["train_rows"] for phase in phases] == [49, 15, 64]
    for phase, rows in zip(phases, (49, 15, 64), strict=True):
        assert json.loads((phase / "order.json").read_text()) == list(range(rows))  # both shuffle flags are off
    for before, after in pairwise(phases):
        digests = json.loads((after / "initial.json").read_text())
        assert digests == _digests(checkpoints_of(before)[-1])
    assert main(["verify-ckpt", str(run), "--base", str(workspace / "model"), "--deep"]) == 0
    assert main(["export", str(run), "--output", str(workspace / "tuned")]) == 0
    assert checkpoints_of(run)[-1] == phases[2] / "checkpoint-4"

    weights = (phases[2] / "checkpoint-4/adapter_model.safetensors").read_bytes()
    shutil.rmtree(phases[2])
    shutil.rmtree(phases[1] / "checkpoint-3")
    events = (phases[1] / "events.jsonl").read_text().splitlines()
    (phases[1] / "events.jsonl").write_text("".join(f"{line}\n" for line in events if '"done"' not in line))
    assert main(["train", *files, "--resume"]) == 0
    assert "has finished already, at step 4" in capsys.readouterr().out
    assert (phases[2] / "checkpoint-4/adapter_model.safetensors").read_bytes() == weights
    assert main(["train", *files, "--resume", "--set", "training.weight_decay=0.3"]) == 2


def _state(phase: Path) -> dict[str, Any]:
    state: dict[str, Any] = json.loads((checkpoints_of(phase)[-1] / "trainer_state.json").read_text())
    return state


def _digests(checkpoint: Path) -> dict[str, str]:
    import hashlib

    tensors = load_file(checkpoint / "adapter_model.safetensors")
    return {
        name: hashlib.sha256(value.contiguous().view(torch.uint8).numpy()).hexdigest()
        for name, value in tensors.items()
    }


@pytest.mark.slow
def test_float32_weights_are_carried_over_a_bf16_base_without_rounding(
    make_config: Callable[[str], Config], tmp_path: Path
) -> None:
    """ms-swift's own `adapters` argument loads them into bf16 first."""
    build_model(tmp_path / "bf16", dtype="bfloat16")
    (tmp_path / "phases.yaml").write_text(
        "training: {max_steps: 1, save_steps: 1}\nphases: [{name: a}, {name: b, training: {aligner_lr: 0.0}}]\n"
    )
    demo_config = tmp_path / "config.yaml"
    make_config("")
    demo_config.write_text(
        f"model: {tmp_path / 'bf16'}\ndata: {{train: {_rows(tmp_path)}}}\n"
        "tuner: {target_regex: '^$', modules_to_save: [model.visual.merger, model.visual.deepstack_merger_list]}\n"
        "training: {aligner_lr: 1.0e-3, gradient_accumulation_steps: 1}\n"
    )
    files = [str(demo_config), str(tmp_path / "phases.yaml")]
    assert main(["train", *files, "--set", f"training.output_dir={tmp_path / 'run'}"]) == 0
    first, second = (tmp_path / f"run/phase-{number}/checkpoint-1/adapter_model.safetensors" for number in (1, 2))
    assert {tensor.info.dtype for tensor in read_stored(first)} == {"float32"}
    assert {name: value.tolist() for name, value in load_file(first).items()} == {
        name: value.tolist() for name, value in load_file(second).items()
    }


def _rows(folder: Path) -> Path:
    from swiftalign.demo.data import write_dataset

    write_dataset(folder / "rows.jsonl", rows=4, seed=1)
    return folder / "rows.jsonl"


def test_a_checkpoint_that_lacks_a_tensor_is_not_carried(demo: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    config = load_config([demo / "config.yaml"])
    plan = resolve(config, read_model(config))
    model = torch.nn.Module()
    save_file({plan.trainables[0].key: torch.zeros(1)}, tmp_path / "adapter_model.safetensors")
    model.named_parameters = lambda: [(item.parameter, torch.zeros(item.shape)) for item in plan.trainables]  # type: ignore[method-assign,assign,return-value]
    with pytest.raises(PlanMismatchError, match="24 of the tensors that train are missing"):
        carry_weights(plan, model, tmp_path)
