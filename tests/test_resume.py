"""Runs that were cut off go on as if nothing had happened, or say why they can't."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from swiftalign.checkpoint.choose import checkpoints_of
from swiftalign.cli import main
from swiftalign.config.load import load_config
from swiftalign.init.recipes import write_config
from swiftalign.methods import offered
from swiftalign.runs.folder import choose_run_folder
from swiftalign.runs.history import run_state

pytestmark = pytest.mark.slow

STEPS = 6
TRAINING: dict[str, Any] = {
    "aligner_lr": 1e-3,
    "max_steps": STEPS,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 1,
    "save_steps": 2,
    "logging_steps": 1,
}


def write_run(folder: Path, demo: Path, method: str = "modules_to_save") -> Path:
    text = write_config(
        model=str(demo / "model"),
        method=method,
        train=str(demo / "data/train.jsonl"),
        steps=STEPS,  # for AdaLoRA's schedule
        training=TRAINING,
    )
    folder.mkdir(exist_ok=True)
    (folder / "config.yaml").write_text(text, encoding="utf-8")
    return folder / "config.yaml"


def train(config: Path, run: Path, *options: str) -> int:
    return main(["train", str(config), "--set", f"training.output_dir={run}", *options])


def adapter(run: Path, step: int = STEPS) -> bytes:
    return (run / f"checkpoint-{step}/adapter_model.safetensors").read_bytes()


def cut(run: Path, to: Path, *, after: int) -> Path:
    """The run as it would be had it been killed after a step."""
    shutil.copytree(run, to, symlinks=True)
    for checkpoint in checkpoints_of(to):
        if int(checkpoint.name.split("-")[1]) > after:
            shutil.rmtree(checkpoint)
    events = [line for line in (to / "events.jsonl").read_text().splitlines() if '"done"' not in line]
    (to / "events.jsonl").write_text("".join(f"{line}\n" for line in events))
    return to


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, demo: Path) -> Path:
    return write_run(tmp_path_factory.mktemp("resume"), demo)


@pytest.fixture(scope="module")
def straight(config: Path) -> Path:
    assert train(config, config.parent / "straight") == 0
    return config.parent / "straight"


# -- the same weights --------------------------------------------------------------------------------------------------


SHORT = ("dora", "adalora")  # dropout, and a state of its own


@pytest.mark.parametrize(
    "method",
    [
        pytest.param(method, marks=() if method in SHORT else pytest.mark.long)
        for method in offered()
        if method != "modules_to_save"
    ],
)
def test_a_resumed_run_ends_with_the_same_bits(method: str, demo: Path, tmp_path: Path) -> None:
    config = write_run(tmp_path, demo, method)
    assert train(config, tmp_path / "straight") == 0
    resumed = cut(tmp_path / "straight", tmp_path / "cut", after=2)
    assert train(config, resumed, "--resume") == 0
    assert adapter(resumed) == adapter(tmp_path / "straight")
    assert adapter(resumed) != adapter(resumed, 2)


@pytest.mark.long
def test_a_curriculum_of_augmentation_goes_on_where_it_was(demo: Path, tmp_path: Path) -> None:
    """With another number of data loader workers, too."""
    config = write_run(tmp_path, demo)
    phase = "{until_percent: 90, bypass_prob: 0, ops: {gamma: {gamma: [0.2, 4]}, rotate: {prob: 1, max_deg: 40}}}"
    section = f"{{preset: guide, bypass_prob: 0.8, curriculum: {{phases: [{phase}]}}}}"
    sets = ("--set", f"custom.augmentation={section}")
    assert train(config, tmp_path / "straight", *sets, "--set", "training.dataloader_num_workers=0") == 0
    resumed = cut(tmp_path / "straight", tmp_path / "cut", after=2)
    assert train(config, resumed, *sets, "--set", "training.dataloader_num_workers=3", "--resume") == 0
    assert adapter(resumed) == adapter(tmp_path / "straight")
    without = ("--set", "custom.augmentation={preset: guide, bypass_prob: 0.8}")
    assert train(config, tmp_path / "without", *without) == 0
    assert adapter(tmp_path / "without") != adapter(tmp_path / "straight")


def test_damaged_checkpoints_are_passed_over_with_a_line_each(
    config: Path, straight: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = cut(straight, config.parent / "damaged", after=6)
    (run / "checkpoint-6/trainer_state.json").unlink()  # killed while saving
    weights = run / "checkpoint-4/adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    capsys.readouterr()

    assert train(config, run, "--resume") == 0

    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("resume")]
    assert told[0].startswith("resume      skipping checkpoint-6: ")
    assert told[0].endswith("[state-missing]")
    assert told[1].startswith("resume      skipping checkpoint-4: ")
    assert told[2] == "resume      from checkpoint-2"
    assert adapter(run) == adapter(straight)
    assert {path.name for path in run.glob("damaged-*")} == {"damaged-checkpoint-4", "damaged-checkpoint-6"}


def test_what_can_not_be_resumed_is_not_taken_for_damaged(
    config: Path, straight: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = cut(straight, config.parent / "weights-only", after=4)
    for checkpoint in checkpoints_of(run):  # as save_only_model leaves them
        (checkpoint / "optimizer.pt").unlink()
        (checkpoint / "scheduler.pt").unlink()
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}

    assert train(config, run, "--resume") == 2

    err = capsys.readouterr().err
    assert f"error: {run}/checkpoint-4 is sound, but the run can't be resumed from it: " in err
    assert f"swiftalign export {run}/checkpoint-4 --output MODEL" in err
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


@pytest.mark.long
def test_an_older_checkpoint_with_its_state_is_taken_and_no_sound_one_renamed(config: Path, straight: Path) -> None:
    run = cut(straight, config.parent / "one-with-state", after=4)
    (run / "checkpoint-4/optimizer.pt").unlink()
    assert train(config, run, "--resume") == 0
    assert adapter(run) == adapter(straight)
    assert not [*run.glob("damaged-*")]


@pytest.mark.parametrize("moved_alone", [False, pytest.param(True, marks=pytest.mark.long)], ids=["all", "the rows"])
def test_a_moved_workspace_resumes(moved_alone: bool, demo: Path, tmp_path: Path) -> None:
    """All of it is moved, or, where relative paths no longer fit, the rows alone, whose digests are the same."""
    shutil.copytree(demo, tmp_path / "before/demo")
    write_run(tmp_path / "before/project", tmp_path / "before/demo")
    kept = ["--set", "training.load_best_model_at_end=true", "--set", "training.eval_steps=2"]
    kept += ["--set", f"data.val={tmp_path / 'before/demo/data/val.jsonl'}"]
    run = tmp_path / "before/project/runs/config"
    assert main(["train", str(tmp_path / "before/project/config.yaml"), *kept]) == 0
    expected = adapter(run)
    cut(run, tmp_path / "cut", after=4)
    shutil.rmtree(run)
    (tmp_path / "cut").rename(run)
    (tmp_path / "before").rename(tmp_path / "after")
    demo_now = tmp_path / "after/demo"
    if moved_alone:
        shutil.copytree(demo_now / "data", tmp_path / "elsewhere/data")
        shutil.rmtree(demo_now / "data")
    data = tmp_path / "elsewhere/data" if moved_alone else demo_now / "data"
    moved = tmp_path / "after/project/runs/config"
    assert main(["export", str(moved), "--output", str(tmp_path / "model"), "--checkpoint", "4"]) == 0  # finds its base
    config = tmp_path / "after/project/config.yaml"
    config.write_text(config.read_text().replace(str(tmp_path / "before"), str(tmp_path / "after")))
    kept[-1] = f"data.val={data / 'val.jsonl'}"
    rows = ["--set", f"data.train={data / 'train.jsonl'}"]
    assert main(["train", str(config), *kept, *rows, "--resume"]) == 0
    assert adapter(tmp_path / "after/project/runs/config") == expected
    assert not (tmp_path / "before").exists()


@pytest.mark.long
def test_without_a_sound_checkpoint_a_run_begins_anew(config: Path, straight: Path) -> None:
    run = cut(straight, config.parent / "begun", after=0)
    assert train(config, run, "--resume") == 0
    assert adapter(run) == adapter(straight)


@pytest.mark.long
def test_resuming_what_has_not_begun_begins_it(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(config, tmp_path / "run", "--resume", "--set", "training.max_steps=1") == 0
    assert "it begins now" in capsys.readouterr().out


def test_a_finished_run_has_nothing_to_resume(config: Path, straight: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = adapter(straight)
    assert train(config, straight, "--resume") == 0
    assert "finished already, at step 6" in capsys.readouterr().out
    assert adapter(straight) == before


# -- the same run ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("training.aligner_lr=5e-4", "training.aligner_lr: 0.001, now 0.0005"),
        ("training.max_steps=9", "training.max_steps: 6, now 9"),
        ("swift.seed=7", "swift.seed: null, now 7"),
        ("custom.augmentation.preset=conservative", "custom.augmentation: null, now "),
    ],
)
def test_what_may_not_change_is_refused(
    change: str, message: str, config: Path, straight: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = straight.with_name(f"changed-{change}")
    cut(straight, run, after=2)
    assert train(config, run, "--resume", "--set", change) == 2
    err = capsys.readouterr().err
    assert "the run began with another config" in err
    assert message in err
    assert "undo the change" in err


def test_how_often_is_saved_and_logged_may_change(config: Path, straight: Path) -> None:
    run = cut(straight, config.parent / "otherwise", after=4)
    sets = ("training.save_steps=1", "training.save_total_limit=1", "training.dataloader_num_workers=1")
    assert train(config, run, "--resume", *(word for item in sets for word in ("--set", item))) == 0
    assert adapter(run) == adapter(straight)


def test_other_rows_are_another_run(
    demo: Path, tmp_path: Path, straight: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(demo / "data", tmp_path / "data")
    config = write_run(tmp_path, demo)
    config.write_text(config.read_text().replace(str(demo / "data/train.jsonl"), "data/train.jsonl"))
    run = cut(straight, tmp_path / "run", after=2)
    kept = (run / "config.yaml").read_text().replace(str(demo / "data/train.jsonl"), str(tmp_path / "data/train.jsonl"))
    (run / "config.yaml").write_text(kept)
    rows = (tmp_path / "data/train.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "data/train.jsonl").write_text("".join([*rows[1:], rows[0]]))
    assert train(config, run, "--resume") == 2
    assert "has changed since the run began" in capsys.readouterr().err


def test_the_last_of_the_configs_runs_is_the_one_to_resume(config: Path, tmp_path: Path) -> None:
    path = tmp_path / "stage[4].yaml"
    path.write_text(config.read_text(encoding="utf-8"), encoding="utf-8")
    loaded = load_config([path])
    assert choose_run_folder(loaded, resume=True) == tmp_path / "runs/stage[4]"
    for name in ("stage[4]", "stage[4]-2", "stage[4]-10", "stage[4]-x", "other-11"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "plan.json").touch()
    (tmp_path / "runs/stage[4]-12").mkdir()  # holds no run
    assert choose_run_folder(loaded, resume=True) == tmp_path / "runs/stage[4]-10"


# -- signals -----------------------------------------------------------------------------------------------------------


def heed_signals() -> None:
    """In a new process: a shell starts its background jobs with SIGINT ignored, nohup ignores SIGHUP, and so may CI."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


@pytest.fixture
def started(config: Path, tmp_path: Path) -> Any:
    """A long run in a process of its own, at its fifth step."""
    sets = (f"training.output_dir={tmp_path / 'run'}", "training.max_steps=100000", "training.save_steps=100000")
    command = [sys.executable, "-m", "swiftalign", "train", str(config), *(w for s in sets for w in ("--set", s))]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=heed_signals)
    assert parent.stdout is not None
    next(line for line in parent.stdout if line.startswith("step 5/"))
    yield parent
    parent.kill()
    parent.wait()


def children_of(process: subprocess.Popen[str]) -> list[str]:
    return Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()


def gone(processes: list[str], seconds: float = 10) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if not [process for process in processes if _runs(process)]:
            return True
        time.sleep(0.05)
    return False


def _runs(process: str) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize(
    ("number", "code"),
    [
        pytest.param(signal.SIGTERM, 143, id="SIGTERM", marks=pytest.mark.long),
        pytest.param(signal.SIGINT, 130, id="Ctrl-C"),
        pytest.param(signal.SIGHUP, 129, id="SIGHUP", marks=pytest.mark.long),
        pytest.param(signal.SIGUSR1, 138, id="SIGUSR1"),
        pytest.param(signal.SIGUSR2, 140, id="SIGUSR2", marks=pytest.mark.long),
    ],
)
def test_a_stopped_run_saves_and_takes_its_training_process_along(
    number: signal.Signals, code: int, started: subprocess.Popen[str], tmp_path: Path
) -> None:
    children = children_of(started)
    if number not in (signal.SIGTERM, signal.SIGINT):
        os.kill(int(children[0]), number)  # Slurm sends it to every process of the job
    started.send_signal(number)
    told, _ = started.communicate(timeout=60)
    assert started.returncode == code
    assert children
    assert gone(children)
    [checkpoint] = checkpoints_of(tmp_path / "run")
    assert f"saved {checkpoint.name}" in told
    assert "--resume" in told
    assert main(["verify-ckpt", str(checkpoint), "--deep"]) == 0
    assert not (tmp_path / "run/.stop").exists()
    state = run_state(tmp_path / "run")
    assert (state.status, state.reason) == ("stopped", number.name)


# A callback that stops the run when the others, such as tensorboard's, have begun, and none has said that it began.
STOPPING = """
import os, signal, time
from swift.callbacks import callbacks_map
from swift.callbacks.base import TrainerCallback
class Stopping(TrainerCallback):
    def on_train_begin(self, args, state, control, **kwargs):
        assert os.listdir(args.logging_dir)
        os.kill(int(os.environ["SWIFTALIGN_LAUNCHER"]), signal.SIGINT)
        time.sleep(60)
callbacks_map["stopping"] = Stopping
"""


@pytest.mark.parametrize("used", [False, pytest.param(True, marks=pytest.mark.long)], ids=["new", "with other files"])
@pytest.mark.parametrize("moment", ["loading", "beginning", pytest.param("phase", marks=pytest.mark.long)])
def test_ctrl_c_before_the_first_step_leaves_no_run(moment: str, used: bool, config: Path, tmp_path: Path) -> None:
    folder, plugin = tmp_path / "run", tmp_path / "plugin.py"
    plugin.write_text(STOPPING)
    if used:
        folder.mkdir()
        (folder / "notes.txt").write_text("mine")
    sets = [f"training.output_dir={folder}", "training.report_to=tensorboard", f"swift.external_plugins=[{plugin}]"]
    sets += [] if moment == "loading" else ["training.callbacks=[stopping]"]
    sets += ["phases=[{name: a}, {name: b}]"] if moment == "phase" else []
    command = [sys.executable, "-m", "swiftalign", "train", str(config), *(w for s in sets for w in ("--set", s))]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=heed_signals)
    assert process.stdout is not None
    if moment == "loading":
        next(line for line in process.stdout if line.startswith("loading the model"))
        process.send_signal(signal.SIGINT)
    told = process.stdout.read()
    assert process.wait(60) == 130
    assert "stopped     before the first step: nothing was trained, and nothing of the run is left" in told
    assert [path.name for path in folder.glob("*")] == (["notes.txt"] if used else [])
    assert folder.exists() == used


@pytest.mark.parametrize("hangs", [False, pytest.param(True, marks=pytest.mark.long)], ids=["busy", "hanging"])
def test_the_second_ctrl_c_stops_at_once(hangs: bool, started: subprocess.Popen[str], tmp_path: Path) -> None:
    """A training process that does not end either is killed half a minute later."""
    children = children_of(started)
    for child in children:
        os.kill(int(child), signal.SIGSTOP)  # it will not end its step
    started.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert started.poll() is None
    started.send_signal(signal.SIGINT)
    for child in children if not hangs else ():
        os.kill(int(child), signal.SIGCONT)
    assert started.wait(60 if hangs else 20) == 130
    assert gone(children)


def test_a_killed_run_takes_its_training_process_along(started: subprocess.Popen[str]) -> None:
    children = children_of(started)
    started.kill()
    assert gone(children)


# -- disks -------------------------------------------------------------------------------------------------------------


def test_a_full_disk_is_one_message_and_the_last_checkpoint_stays(
    config: Path, straight: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = cut(straight, config.parent / "full", after=2)
    (run / "checkpoint-4").mkdir()
    (run / "checkpoint-4/optimizer.pt").symlink_to("/dev/full")
    assert train(config, run) == 2  # it holds a run
    capsys.readouterr()
    (run / "checkpoint-4").rename(run / "waiting")
    plugin = config.parent / "plugin.py"
    plugin.write_text(FULL_DISK.format(waiting=run / "waiting", checkpoint=run / "checkpoint-4"))
    kept = (run / "config.yaml").read_text() + f"swift: {{external_plugins: [{plugin}], callbacks: [full]}}\n"
    (run / "config.yaml").write_text(kept)
    sets = ("--set", f"swift.external_plugins=[{plugin}]", "--set", "swift.callbacks=[full]")
    assert train(config, run, "--resume", *sets) == 1
    err = capsys.readouterr().err
    assert "error: the disk is full" in err
    assert "Traceback" not in err
    assert main(["verify-ckpt", str(run / "checkpoint-2"), "--deep"]) == 0


# Puts a checkpoint folder in place whose files can't be written.
FULL_DISK = """
import os
from swift.callbacks import callbacks_map
from swift.callbacks.base import TrainerCallback
class Full(TrainerCallback):
    def on_step_begin(self, args, state, control, **kwargs):
        if os.path.exists("{waiting}"):
            os.rename("{waiting}", "{checkpoint}")
callbacks_map["full"] = Full
"""


# -- early stopping ----------------------------------------------------------------------------------------------------

# A metric that is known to turn: the best is the second evaluation.
TURNING = """
from swift.callbacks import callbacks_map
from swift.callbacks.base import TrainerCallback
VALUES = [0.5, 0.7, 0.65, 0.69, 0.6, 0.9, 0.95, 0.99, 1.0, 1.0, 1.0, 1.0]
class Turning(TrainerCallback):
    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        metrics["eval_known"] = VALUES[state.global_step - 1]
        metrics["eval_nought"] = 0.0
        self.trainer.log({"eval_nought": 0.0})
callbacks_map["turning"] = Turning
"""


@pytest.fixture(scope="module")
def turning(config: Path, demo: Path) -> Callable[..., int]:
    plugin = config.parent / "turning.py"
    plugin.write_text(TURNING, encoding="utf-8")
    sets = (
        f"swift.external_plugins=[{plugin}]",
        "training.callbacks=[turning]",
        f"data.val={demo / 'data/val.jsonl'}",
        "training.max_steps=12",
        "training.save_steps=1",
        "training.eval_steps=1",
        "training.load_best_model_at_end=true",
        "training.save_total_limit=2",
        "training.early_stopping={patience: 3, metric: known}",
        "training.per_device_eval_batch_size=16",
    )

    def run(folder: Path, *options: str) -> int:
        return train(config, folder, *(word for item in sets for word in ("--set", item)), *options)

    return run


def state_of(checkpoint: Path) -> dict[str, Any]:
    state: dict[str, Any] = json.loads((checkpoint / "trainer_state.json").read_text())
    return state


def test_training_stops_where_the_metric_turns_and_the_best_is_kept(
    turning: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert turning(run) == 0
    assert "early stop  known did not get better than 0.7000 in 3 evaluations" in capsys.readouterr().out
    kept = checkpoints_of(run)
    assert [checkpoint.name for checkpoint in kept] == ["checkpoint-2", "checkpoint-5"]  # the best and the last
    state = state_of(kept[-1])
    assert (state["best_metric"], state["best_model_checkpoint"]) == (0.7, str(run / "checkpoint-2"))
    done = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()][-1]
    assert (done["kind"], done["step"], done["best_metric"]) == ("done", 5, 0.7)
    shown = run_state(run)
    assert (shown.status, shown.reason, shown.step) == ("done", "early stopping", 5)
    assert (shown.best, shown.best_metric, shown.best_step) == (0.7, "known", 2)

    cut_off = tmp_path / "cut"
    shutil.copytree(run, cut_off)
    shutil.rmtree(cut_off / "checkpoint-5")
    for path in (cut_off / "checkpoint-2/trainer_state.json", cut_off / "events.jsonl"):
        path.write_text(path.read_text().replace(str(run), str(cut_off)).replace('"kind": "done"', '"kind": "cut"'))
    assert turning(cut_off, "--resume") == 0
    assert state_of(checkpoints_of(cut_off)[-1])["global_step"] == 5  # patience was counted on


def test_a_metric_that_is_nought_throughout_is_said(
    turning: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert turning(tmp_path / "run", "--set", "training.early_stopping={patience: 1, metric: nought}") == 0
    told = capsys.readouterr().out
    assert "warning [best-metric-zero] " in told
    assert "nought was 0.000 in 2 evaluations: it does not tell which checkpoint is the best" in told
    done = [json.loads(line) for line in (tmp_path / "run/events.jsonl").read_text().splitlines()][-1]
    assert done["early_stop"] == {"metric": "nought", "best": 0.0, "evaluations": 1}
