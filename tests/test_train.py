"""Training through the real ms-swift: what the plan says trains is what trains, and is what is saved."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from swiftalign.cli import main
from swiftalign.config.load import load_config
from swiftalign.demo.model import build_model
from swiftalign.demo.workspace import TINY_TRAINING
from swiftalign.init.recipes import write_config
from swiftalign.methods import offered
from swiftalign.model.safetensors import read_stored
from swiftalign.plan.plan import TuningPlan, read_plan
from swiftalign.plan.read import read_model
from swiftalign.plan.resolve import resolve
from swiftalign.problems import PlanMismatchError, RunFolderError, TrainingError
from swiftalign.runs.folder import locked, write_run_files
from swiftalign.runs.launch import follow_training

pytestmark = pytest.mark.slow

TINY_STEPS = TINY_TRAINING["max_steps"]
LOADING = "dataset_info.json"  # ms-swift says that it has read this file when it is imported

# A trainer callback that digests every parameter before the first step and after the last one.
PROBE = """
import hashlib, json
from pathlib import Path
from swift.callbacks import callbacks_map
from swift.callbacks.base import TrainerCallback

def digests(model):
    return {n: hashlib.sha256(p.detach().float().numpy().tobytes()).hexdigest() for n, p in model.named_parameters()}

class Probe(TrainerCallback):
    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self.before = digests(model)
    def on_train_end(self, args, state, control, model=None, **kwargs):
        after = digests(model)
        moved = [name for name in after if after[name] != self.before[name]]
        Path(args.output_dir, "probe.json").write_text(json.dumps({"moved": moved, "all": list(after)}))

callbacks_map["probe"] = Probe
"""


@pytest.fixture
def probe(tmp_path: Path) -> list[str]:
    """Overrides that load the probe into the training process, through ms-swift's own plugin argument."""
    plugin = tmp_path / "probe.py"
    plugin.write_text(PROBE, encoding="utf-8")
    return ["--set", f"swift.external_plugins=[{plugin}]", "--set", "training.callbacks=[probe]"]


def train(config: Path, run: Path, *options: str, overlay: Path | None = None) -> int:
    configs = [str(config), *([str(overlay)] if overlay else [])]
    return main(["train", *configs, "--set", f"training.output_dir={run}", *options])


def expect_saved(run: Path, plan: TuningPlan) -> None:
    """The newest checkpoint holds the plan's tensors and no other, AdaLoRA's with ranks within the plan's."""
    checkpoint = max(run.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    saved = {t.info.name: (t.info.shape, t.info.dtype) for t in read_stored(checkpoint / "adapter_model.safetensors")}
    planned = {t.name: (t.shape, t.dtype) for t in plan.tensors}
    if not plan.ranks_may_shrink:
        assert saved == planned
        return
    assert saved.keys() == planned.keys()
    for name, (shape, dtype) in saved.items():
        assert dtype == planned[name][1]
        assert len(shape) == len(planned[name][0])
        assert all(side <= most for side, most in zip(shape, planned[name][0], strict=True)), name


@pytest.mark.parametrize("method", offered())
def test_exactly_the_planned_parameters_move_and_exactly_the_planned_tensors_are_saved(
    method: str, demo: Path, tmp_path: Path, probe: list[str]
) -> None:
    config = tmp_path / "config.yaml"
    text = write_config(
        model=str(demo / "model"),
        method=method,
        train=str(demo / "data/train.jsonl"),
        steps=TINY_STEPS,
        training=TINY_TRAINING,
    )
    config.write_text(text, encoding="utf-8")
    run = tmp_path / "run"

    assert train(config, run, *probe) == 0

    plan = read_plan(run / "plan.json")
    assert plan.method == method
    seen = json.loads((run / "probe.json").read_text())
    assert sorted(seen["moved"]) == sorted(item.parameter for item in plan.trainables)
    assert len(seen["all"]) > len(seen["moved"])
    expect_saved(run, plan)


def test_lora_on_the_llm_with_the_aligner_whole_trains_with_a_rate_each(
    demo: Path, tmp_path: Path, probe: list[str]
) -> None:
    overlay = tmp_path / "mixed.yaml"
    overlay.write_text(
        "tuner:\n  train_type: lora\n  freeze_llm: false\n  modules_to_save: [model.visual.merger, "
        "model.visual.deepstack_merger_list]\ntraining: {learning_rate: 1e-4, aligner_lr: 5e-4, max_steps: 4}\n"
    )
    run = tmp_path / "run"

    assert train(demo / "config.yaml", run, *probe, overlay=overlay) == 0

    plan = read_plan(run / "plan.json")
    rates = {group.component: group.learning_rate for group in plan.groups}
    assert rates == {"aligner": 5e-4, "llm": 1e-4}
    logged = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    first = next(event for event in logged if event["kind"] == "log" and "loss" in event)
    # The rates are logged after the step: of the four steps' cosine, the first is behind.
    shares = [first[f"rate_{name}"] / rate for name, rate in rates.items()]
    assert shares[0] == pytest.approx(shares[1])
    assert 0.8 < shares[0] < 1
    seen = json.loads((run / "probe.json").read_text())
    assert sorted(seen["moved"]) == sorted(item.parameter for item in plan.trainables)
    expect_saved(run, plan)


@pytest.mark.parametrize(("trainable", "expected"), [("float32", "float32"), ("base", "bfloat16")])
def test_saved_modules_of_a_bf16_base_train_and_are_saved_in_the_configured_dtype(
    trainable: str, expected: str, demo: Path, tmp_path: Path
) -> None:
    build_model(tmp_path / "model", dtype="bfloat16")
    run = tmp_path / "run"
    options = [f"model.path={tmp_path / 'model'}", f"tuner.trainable_dtype={trainable}", "training.max_steps=2"]

    assert train(demo / "config.yaml", run, *[word for option in options for word in ("--set", option)]) == 0

    plan = read_plan(run / "plan.json")
    assert {tensor.dtype for tensor in plan.tensors} == {expected}
    expect_saved(run, plan)


def test_full_training_follows_the_freeze_flags(demo: Path, tmp_path: Path, probe: list[str]) -> None:
    overlay = tmp_path / "full.yaml"
    overlay.write_text("tuner: {train_type: full}\ntraining: {max_steps: 2}\n")
    run = tmp_path / "run"

    assert train(demo / "config.yaml", run, *probe, overlay=overlay) == 0

    plan = read_plan(run / "plan.json")
    moved = json.loads((run / "probe.json").read_text())["moved"]
    assert sorted(moved) == sorted(item.parameter for item in plan.trainables)
    saved = {t.info.name: (t.info.shape, t.info.dtype) for t in read_stored(run / "checkpoint-2/model.safetensors")}
    assert saved == {t.name: (t.shape, t.dtype) for t in plan.tensors}


def test_validation_rows_are_scored_and_the_best_model_is_kept(demo: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    sets = [
        f"data.val={demo / 'data/val.jsonl'}",
        "training.max_steps=4",
        "training.save_steps=2",
        "training.load_best_model_at_end=true",
    ]
    assert train(demo / "config.yaml", run, *[word for item in sets for word in ("--set", item)]) == 0
    state = json.loads((run / "checkpoint-4/trainer_state.json").read_text())
    assert state["best_model_checkpoint"].startswith(str(run))
    assert sum("eval_loss" in entry for entry in state["log_history"]) == 2


def test_the_run_folder_keeps_config_plan_versions_log_and_loss_picture(demo: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert train(demo / "config.yaml", run, "--set", "training.max_steps=2") == 0
    assert load_config([run / "config.yaml"]).training.max_steps == 2
    assert json.loads((run / "versions.json").read_text())["ms-swift"]
    assert (run / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert not (run / "images").exists()  # ms-swift's pictures
    log = (run / "train.log").read_text()
    assert "End time of running main" in log
    assert LOADING not in log  # the test's process has forked the training process: tests/warm.py
    assert read_plan(run / "plan.json").method == "modules_to_save"


def test_the_planned_number_of_steps_is_the_trainers(demo: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    sets = ["training.max_steps=-1", "training.num_train_epochs=1", "training.per_device_train_batch_size=3"]
    assert train(demo / "config.yaml", run, *[word for item in sets for word in ("--set", item)]) == 0
    plan = read_plan(run / "plan.json")
    assert plan.schedule.steps == 22  # 64 rows, 3 a batch, the last batch smaller
    assert (run / f"checkpoint-{plan.schedule.steps}").is_dir()


def test_a_local_model_makes_no_network_call(demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\n"
        "def hook(event, args):\n"
        "    if event == 'socket.getaddrinfo' or event == 'socket.connect' and isinstance(args[1], tuple):\n"
        f"        open({str(tmp_path / 'calls')!r}, 'a').write(f'{{event}} {{args}}\\n')\n"
        "sys.addaudithook(hook)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.warns(UserWarning, match="loads ms-swift anew, as the environment differs in PYTHONPATH"):
        assert train(demo / "config.yaml", tmp_path / "run", "--set", "training.max_steps=2") == 0
    assert not (tmp_path / "calls").exists(), (tmp_path / "calls").read_text()
    assert LOADING in (tmp_path / "run/train.log").read_text()


def test_a_model_that_differs_from_the_plan_is_refused_before_the_first_step(demo: Path, tmp_path: Path) -> None:
    config = load_config([demo / "config.yaml"])
    plan = resolve(config, read_model(config))
    run = tmp_path / "run"
    run.mkdir()
    write_run_files(run, config, plan)
    values = json.loads((run / "plan.json").read_text())
    dropped = values["trainables"].pop()
    (run / "plan.json").write_text(json.dumps(values))

    with pytest.raises(TrainingError, match="differs from the plan: 1 there but not planned") as raised:
        list(follow_training(run, local_model=True))

    assert dropped["parameter"] in raised.value.message
    assert raised.value.exit_code == PlanMismatchError.exit_code
    assert not list(run.glob("checkpoint-*"))


def test_a_killed_training_process_is_reported(demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plugin = tmp_path / "killer.py"
    plugin.write_text(
        "import os\nfrom swift.callbacks import callbacks_map\nfrom swift.callbacks.base import TrainerCallback\n"
        "class Killer(TrainerCallback):\n"
        "    def on_step_end(self, *args, **kwargs):\n        os.kill(os.getpid(), 9)\n"
        "callbacks_map['killer'] = Killer\n"
    )
    sets = ["--set", f"swift.external_plugins=[{plugin}]", "--set", "training.callbacks=[killer]"]
    assert train(demo / "config.yaml", tmp_path / "run", *sets) == 1
    assert "error: the training process was killed by SIGKILL" in capsys.readouterr().err


def test_an_error_of_a_row_inside_training_ends_in_its_message(
    demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = json.loads((demo / "data/train.jsonl").read_text().splitlines()[0])
    (tmp_path / "not-an-image.png").write_text("text")
    data = tmp_path / "train.jsonl"
    data.write_text(json.dumps({**row, "images": ["not-an-image.png"]}) + "\n")
    run = tmp_path / "run"
    options = ["--set", f"data.train={data}", "--allow", "data-image-unreadable"]
    assert train(demo / "config.yaml", run, *options) == 1
    error = capsys.readouterr().err
    assert f"error: {data}:1: image {tmp_path / 'not-an-image.png'}: not an image" in error
    assert "Traceback" not in error + (run / "train.log").read_text()


def test_two_runs_cannot_write_one_folder_at_a_time(
    demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    with locked(run):
        assert train(demo / "config.yaml", run) == 2
    assert "another run is writing to this folder now" in capsys.readouterr().err


def test_a_used_run_folder_is_not_written_again(demo: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "checkpoint-5").mkdir(parents=True)
    with pytest.raises(RunFolderError, match="holds a run already"), locked(run):
        pass


def test_files_of_others_are_not_overwritten(demo: Path, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("mine")
    for used in (False, True):
        with pytest.raises(RunFolderError, match=r"would overwrite: config\.yaml"), locked(tmp_path, used=used):
            pass
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


def test_a_run_that_was_killed_as_it_began_may_begin_again(tmp_path: Path) -> None:
    (tmp_path / ".lock").touch()
    (tmp_path / "config.yaml").write_text("half")
    with locked(tmp_path, used=True):
        pass


def test_progress_is_drawn_on_a_terminal(
    demo: Path, tmp_path: Path, run_in_terminal: Callable[..., tuple[int, str]]
) -> None:
    code, screen = run_in_terminal(
        "train", str(demo / "config.yaml"), "--set", f"training.output_dir={tmp_path / 'run'}"
    )
    assert code == 0
    assert f"/{TINY_STEPS}" in screen
    assert "━" in screen
    assert "done" in screen


def test_plain_lines_stand_for_the_bar_elsewhere(
    demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(demo / "config.yaml", tmp_path / "run", "--set", "training.max_steps=2") == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("step 1/2  loss ") for line in lines)
    assert not any(os.linesep in line or "\x1b" in line for line in lines)
