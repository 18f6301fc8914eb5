"""Training in several processes: the same batches, the same weights, and an end that all of them share."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from jobs import srun
from swiftalign.checkpoint.choose import checkpoints_of
from swiftalign.cli import main
from swiftalign.demo.data import write_dataset
from swiftalign.worker.batches import GlobalBatches

ROWS = 33  # 9 batches of 4, of which the last has one row: one of two processes goes without

CONFIG = """
model: MODEL
data: {train: rows.jsonl}
tuner: {target_regex: '^$', modules_to_save: [model.visual.merger, model.visual.deepstack_merger_list]}
training:
  aligner_lr: 1.0e-3
  num_train_epochs: 1
  gradient_accumulation_steps: 1
  logging_steps: 1
  save_steps: 100
custom:
  augmentation:
    preset: guide
    bypass_prob: 1
    curriculum: {phases: [{until_percent: 80, bypass_prob: 0, ops: {rotate: {max_deg: 40, prob: 1}}}]}
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, demo: Path) -> Path:
    folder = tmp_path_factory.mktemp("processes")
    write_dataset(folder / "rows.jsonl", rows=ROWS, seed=6)
    (folder / "config.yaml").write_text(CONFIG.replace("MODEL", str(demo / "model")), encoding="utf-8")
    return folder / "config.yaml"


def words(run: Path, *sets: str) -> list[str]:
    return [word for item in (f"training.output_dir={run}", *sets) for word in ("--set", item)]


def losses(run: Path) -> dict[int, float]:
    state = json.loads((checkpoints_of(run)[-1] / "trainer_state.json").read_text())
    return {entry["step"]: entry["loss"] for entry in state["log_history"] if "loss" in entry}


def weights(run: Path) -> dict[str, Any]:
    return load_file(checkpoints_of(run)[-1] / "adapter_model.safetensors")


def expect_the_same(run: Path, other: Path) -> None:
    """Within what float32 leaves of sums in another order, over the steps of a run."""
    assert losses(run).keys() == losses(other).keys()
    assert all(abs(losses(run)[step] - losses(other)[step]) < 1e-3 for step in losses(run))  # not so with NaN
    ours, theirs = weights(run), weights(other)
    assert max(float((ours[name] - theirs[name]).abs().max()) for name in ours) < 2e-4


@pytest.fixture(scope="module")
def single(config: Path) -> Path:
    run = config.parent / "single"
    assert main(["train", str(config), *words(run, "training.per_device_train_batch_size=4")]) == 0
    return run


# -- batches -----------------------------------------------------------------------------------------------------------


@given(
    rows=st.integers(1, 70),
    batch=st.integers(1, 5),
    world=st.integers(1, 5),
    seed=st.none() | st.integers(0, 9),
    epoch=st.integers(0, 3),
)
def test_global_batches_are_those_of_one_process(
    rows: int, batch: int, world: int, seed: int | None, epoch: int
) -> None:
    def batches(size: int, rank: int, of: int) -> list[list[int]]:
        made = GlobalBatches(rows, size, seed, rank, of)
        made.set_epoch(epoch)
        found = list(made)
        assert len(found) == len(made)
        return found

    together = [batches(batch, rank, world) for rank in range(world)]
    assert len({len(part) for part in together}) == 1
    order = GlobalBatches(rows, batch, seed, 0, world).order(epoch)
    assert [row for one in batches(batch * world, 0, 1) for row in one] == order
    for index, one in enumerate(batches(batch * world, 0, 1)):
        shares = [part[index] for part in together]
        assert all(0 < len(share) <= batch for share in shares)
        assert sorted(row for share in shares for row in share if row >= 0) == sorted(one)
        assert all(~row in one for share in shares for row in share if row < 0)


def test_one_process_has_ms_swifts_own_order() -> None:
    from swift.dataloader.shard import BatchSamplerShard

    for seed, rows in ((0, 31), (42, 64)):
        theirs = BatchSamplerShard(rows, 4, shuffle=True, drop_last=False, data_seed=seed)
        ours = GlobalBatches(rows, 4, seed, 0, 1)
        for epoch in range(3):
            theirs.set_epoch(epoch)
            ours.set_epoch(epoch)
            assert list(ours) == list(theirs)


def test_rows_grouped_by_length_are_ms_swifts_too() -> None:
    from swift.dataloader.shard import BatchSamplerShard

    lengths = [7 * number % 61 for number in range(64)]
    theirs = BatchSamplerShard(
        64, 4, shuffle=True, drop_last=False, data_seed=42, group_by_length=True, lengths=lengths
    )
    ours = GlobalBatches(64, 4, 42, 0, 1, lengths)
    assert list(ours) == list(theirs)
    assert sorted(row for batch in ours for row in batch) == list(range(64))


# -- options -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--nproc", "2"], "--nproc-per-node=2 --standalone"),
        (["--gpus", "0,3,5"], "--nproc-per-node=3 --standalone"),
        (
            ["--nnodes", "2", "--node-rank", "1", "--rdzv-endpoint", "node0:29500", "--nproc", "8"],
            "--nproc-per-node=8 --nnodes=2 --node-rank=1 --rdzv-endpoint=node0:29500 --rdzv-backend=c10d "
            "--rdzv-id=swiftalign --rdzv-conf=join_timeout=600,is_host=0",
        ),
    ],
)
def test_the_torchrun_line_is_shown(
    options: list[str], line: str, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", str(config), *words(tmp_path / "run"), *options, "--dry-run"]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first == f"# torchrun {line} -m swiftalign.worker {tmp_path / 'run'}"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--gpus", "a"], "--gpus a: not a list of numbers"),
        (["--gpus", "1,1"], "a number is given twice"),
        (["--gpus", "0,1", "--nproc", "3"], "--nproc 3, but --gpus names 2"),
        (["--nnodes", "2"], "several machines need --node-rank and --rdzv-endpoint"),
        (["--node-rank", "1"], "are for several machines"),
        (["--nnodes", "2", "--node-rank", "2", "--rdzv-endpoint", "a:1"], "with 2 machines it is at most 1"),
    ],
)
def test_contradicting_options_are_refused(
    options: list[str], message: str, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", str(config), *options, "--dry-run"]) == 2
    assert message in capsys.readouterr().err


# -- two processes -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_processes_train_what_one_does_also_with_an_odd_row(config: Path, single: Path) -> None:
    run = config.parent / "two"
    sets = ("training.per_device_train_batch_size=2", "training.dataloader_num_workers=1")
    assert main(["train", str(config), *words(run, *sets), "--nproc", "2"]) == 0
    assert len(losses(run)) == 9
    expect_the_same(run, single)


@pytest.mark.slow
@pytest.mark.long
def test_two_machines_train_what_one_process_does(config: Path, single: Path) -> None:
    run = config.parent / "machines"
    with socket.create_server(("localhost", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "swiftalign", "train", str(config)]
    command += [*words(run, "training.per_device_train_batch_size=2"), "--nnodes", "2", "--nproc", "1"]
    command += ["--rdzv-endpoint", f"localhost:{port}"]
    machines = [
        subprocess.Popen([*command, "--node-rank", str(rank)], stdout=subprocess.PIPE, text=True) for rank in (0, 1)
    ]
    told = [machine.communicate(timeout=300)[0] for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0]
    assert told[1].startswith("machine     2 of 2")
    assert "step" not in told[1]
    expect_the_same(run, single)


# Ends or holds a process, in the way that is asked for, in its second step; a resumed run is left alone.
DYING = """
import os, signal
from pathlib import Path
import torch
from swift.callbacks import callbacks_map
from swift.callbacks.base import TrainerCallback
class Dying(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        spent = Path(args.output_dir, "spent")
        if args.process_index == {rank} and state.global_step == 2 and not spent.exists():
            spent.touch()
            {act}
callbacks_map["dying"] = Dying
"""
FULL = """folder = Path(args.output_dir, "checkpoint-3")
            folder.mkdir()
            (folder / "adapter_model.safetensors").symlink_to("/dev/full")
            (folder / "optimizer.pt").symlink_to("/dev/full")"""


def expect_no_process(run: Path) -> None:
    until = time.monotonic() + 10
    while living := subprocess.run(["pgrep", "-f", f"worker {run}"], capture_output=True, check=False).stdout:
        assert time.monotonic() < until, living
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rank", "act", "message"),
    [
        pytest.param(
            1, "raise ValueError('no more')", "rank 1: ValueError: no more", id="error", marks=pytest.mark.long
        ),
        pytest.param(1, "os.kill(os.getpid(), 9)", "rank 1 was killed by SIGKILL", id="SIGKILL"),
        pytest.param(
            1,
            "raise torch.cuda.OutOfMemoryError('CUDA out of memory.')",
            "rank 1: the GPU is out of memory: CUDA out of memory.",
            id="memory",
            marks=pytest.mark.long,
        ),
        pytest.param(0, FULL, "rank 0: the disk is full", id="disk", marks=pytest.mark.long),
        pytest.param(
            1,
            "os.kill(os.getpid(), signal.SIGSTOP)",
            "rank 0: waited 5 s for the other processes, without an answer",
            id="SIGSTOP",
            marks=pytest.mark.long,
        ),
    ],
)
def test_a_dead_process_ends_the_run_with_its_message_and_the_run_resumes(
    rank: int, act: str, message: str, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "dying.py").write_text(DYING.format(rank=rank, act=act), encoding="utf-8")
    sets = (f"swift.external_plugins=[{tmp_path / 'dying.py'}]", "training.callbacks=[dying]", "swift.ddp_timeout=5")
    sets += ("training.save_steps=1", "training.max_steps=3")
    command = ["train", str(config), *words(tmp_path / "run", *sets), "--nproc", "2"]
    assert main(command) == 1
    err = capsys.readouterr().err
    assert f"error: {message}" in err
    assert "Traceback" not in err
    expect_no_process(tmp_path / "run")
    assert main([*command, "--resume"]) == 0
    assert losses(tmp_path / "run").keys() == {1, 2, 3}


# -- one command per GPU -----------------------------------------------------------------------------------------------


def start(rank: int, config: Path, run: Path, *sets: str, **environment: str) -> subprocess.Popen[str]:
    """One of the two commands that srun starts."""
    command = [sys.executable, "-m", "swiftalign", "train", str(config), *words(run, *sets), "--join-timeout", "120"]
    variables = os.environ | srun(rank, 2, SLURM_JOB_ID=str(os.getpid())) | environment
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=variables)


@pytest.mark.slow
@pytest.mark.long
def test_two_commands_of_srun_train_what_one_process_does(config: Path, single: Path) -> None:
    run = config.parent / "srun"
    tasks = [start(rank, config, run, "training.per_device_train_batch_size=2") for rank in (1, 0)]
    told = [task.communicate(timeout=300) for task in tasks]
    assert [task.returncode for task in tasks] == [0, 0], told
    assert told[0] == ("", "")
    expect_the_same(run, single)


PHASES = "phases=[{name: a, training: {max_steps: 1}}, {name: b, training: {max_steps: 2}}]"


@pytest.mark.slow
@pytest.mark.long
def test_torchrun_may_start_the_commands_also_of_phases(config: Path) -> None:
    run = config.parent / "torchrun"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "swiftalign", "train", str(config), *words(run, PHASES)]
    first = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert first.returncode == 0, first
    assert first.stdout.count("done  ") == 2
    assert [len(losses(run / f"phase-{number}")) for number in (1, 2)] == [1, 2]
    again = subprocess.run([*command, "--resume"], capture_output=True, text=True, check=False, timeout=300)
    assert again.returncode == 0, again
    assert again.stdout.count("has finished already") == 2


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_end_of_one_command_ends_the_other(rank: int, number: int, config: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    sets = ("training.num_train_epochs=100", "training.per_device_train_batch_size=2")
    tasks = [start(each, config, run, *sets) for each in (0, 1)]
    events = run / "events.jsonl"
    while not (events.exists() and '"kind": "step"' in events.read_text()):
        assert tasks[0].poll() is None, tasks[0].communicate()
        time.sleep(0.1)
    tasks[rank].send_signal(number)
    told = [task.communicate(timeout=120) for task in tasks]
    expect_no_process(run)
    if number == signal.SIGTERM:  # a checkpoint is saved
        assert [task.returncode for task in tasks] == [143, 143]
        assert checkpoints_of(run)
    else:
        assert tasks[rank].returncode == -number
        assert tasks[1 - rank].returncode == 1
        ended = "rank 1 has ended, or" if rank else "rank 1: the command that leads the run has ended, or"
        assert ended in told[1 - rank][1]


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_an_error_before_training_is_told_once(rank: int, config: Path, tmp_path: Path) -> None:
    """Rank 0 stops at pre-flight; rank 1 alone finds nobody."""
    if rank == 0:
        tasks = [start(each, config, tmp_path / "run", "data.train=nowhere.jsonl") for each in (0, 1)]
        told = [task.communicate(timeout=120)[1] for task in tasks]
        assert tasks[0].returncode == tasks[1].returncode != 0
        assert "nowhere.jsonl" in told[0]
        assert told[1] == ""
        return
    command = [sys.executable, "-m", "swiftalign", "train", str(config), "--join-timeout", "1"]
    alone = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | srun(1, 2))
    assert alone.returncode == 1
    assert "error: rank 1: no answer from localhost:" in alone.stderr


@pytest.mark.slow
@pytest.mark.long
def test_two_processes_resume_too(config: Path, single: Path) -> None:
    run = config.parent / "resumed"
    sets = ("training.per_device_train_batch_size=2", "training.save_steps=4")
    assert main(["train", str(config), *words(run, *sets), "--nproc", "2"]) == 0
    for path in (run / "checkpoint-9", run / "checkpoint-8"):
        shutil.rmtree(path)
    events = [line for line in (run / "events.jsonl").read_text().splitlines() if '"done"' not in line]
    (run / "events.jsonl").write_text("".join(f"{line}\n" for line in events))
    assert main(["train", str(config), *words(run, *sets), "--resume"]) == 2  # another number of processes
    assert main(["train", str(config), *words(run, *sets), "--nproc", "2", "--resume"]) == 0
    expect_the_same(run, single)
