"""Runs that are killed at random moments and resumed until they end: is the result the uninterrupted run's?

    python tests/chaos/chaos.py --runs 25

Each run is killed by SIGKILL, SIGTERM or SIGINT after a random time, in the middle of saving too, and resumed; up to
three times. Its last checkpoint must then have the bits of a run that nobody touched, and no kill may cost more than
the steps since the last checkpoint.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from swiftalign.demo.data import write_dataset
from swiftalign.demo.model import build_model

STEPS, SAVE_STEPS = 12, 2
KILLS = 3  # at most, of a run
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)

CONFIG = f"""
model: ./model
data: {{train: rows.jsonl}}
tuner:
  lora_rank: 4
  lora_dropout: 0.1
  modules_to_save: [model.visual.merger]
  target_regex: '^model\\.visual\\.deepstack_merger_list\\.\\d+\\.linear_fc[12]$'
training:
  aligner_lr: 1.0e-3
  max_steps: {STEPS}
  save_steps: {SAVE_STEPS}
  save_total_limit: 2
  per_device_train_batch_size: 1
  gradient_accumulation_steps: 1
  logging_steps: 1
  dataloader_num_workers: 1
custom: {{augmentation: {{preset: conservative}}}}
"""


@dataclass(frozen=True)
class Outcome:
    """What became of one run.

    Attributes:
        signals: that it was hit by, each with the step that it had told before.
        equal: whether it ended with the bits of the uninterrupted run.
        lost: the most steps that a kill cost.
    """

    signals: tuple[str, ...]
    equal: bool
    lost: int


def prepare(folder: Path) -> Path:
    """A workspace, and the uninterrupted run in it; returns that run's folder."""
    build_model(folder / "model")
    write_dataset(folder / "rows.jsonl", rows=8, seed=9)
    (folder / "config.yaml").write_text(CONFIG, encoding="utf-8")
    started = start(folder, folder / "straight")
    if started.wait():
        raise SystemExit(f"the uninterrupted run failed: see {folder / 'straight.out'}")
    return folder / "straight"


def start(folder: Path, run: Path) -> subprocess.Popen[bytes]:
    """`train --resume`, which begins a run where there is none."""
    words = ["train", str(folder / "config.yaml"), "--set", f"training.output_dir={run}", "--resume"]
    return subprocess.Popen(
        [sys.executable, "-m", "swiftalign", *words],
        stdout=run.with_suffix(".out").open("ab"),
        stderr=subprocess.STDOUT,
        # A shell starts its background jobs with SIGINT ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def weights(run: Path) -> bytes:
    return (run / f"checkpoint-{STEPS}/adapter_model.safetensors").read_bytes()


def told(run: Path) -> list[int]:
    """The steps that a run has told of, in their order."""
    path = run / "events.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [event["step"] for line in lines if (event := json.loads(line))["kind"] == "step"]


def torment(folder: Path, run: Path, rng: random.Random, kills: int = KILLS) -> Outcome:
    """Kill a run now and then, and resume it to its end."""
    signals, lost = [], 0
    for _ in range(rng.randint(1, kills)):
        reached = max(told(run), default=0)
        process = start(folder, run)
        if not _wait_for(process, run, rng.randint(min(reached, STEPS - 1), STEPS - 1)):
            break  # it has ended
        time.sleep(rng.random() * 0.3)  # within a step, or within the saving after it
        number = rng.choice(SIGNALS)
        before = max(told(run), default=0)
        process.send_signal(number)
        process.wait()
        signals.append(f"{number.name} at {before}")
        lost = max(lost, before - _newest(run) if number == signal.SIGKILL else 0)
    code = start(folder, run).wait()
    return Outcome(tuple(signals), code == 0 and weights(run) == weights(folder / "straight"), lost)


def _wait_for(process: subprocess.Popen[bytes], run: Path, step: int) -> bool:
    """Until the run has told of a step; False where it ended before."""
    while process.poll() is None:
        if max(told(run), default=0) >= step and step:
            return True
        if not step and run.exists():
            return True
        time.sleep(0.02)
    return False


def _newest(run: Path) -> int:
    """The newest checkpoint that was written to its end."""
    whole = [path.parent.name for path in run.glob("checkpoint-*/trainer_state.json")]
    return max((int(name.removeprefix("checkpoint-")) for name in whole), default=0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=25)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng, equal, worst = random.Random(options.seed), 0, 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder)
        for number in range(options.runs):
            outcome = torment(folder, folder / f"run-{number}", rng)
            equal, worst = equal + outcome.equal, max(worst, outcome.lost)
            verdict = "equal" if outcome.equal else "DIFFERS"
            print(f"run {number + 1:2}  {verdict}  lost {outcome.lost}  {', '.join(outcome.signals)}", flush=True)
    print(f"{equal} of {options.runs} bit-equal; at most {worst} steps lost of {SAVE_STEPS} between checkpoints")
    return 0 if equal == options.runs and worst <= SAVE_STEPS else 1


if __name__ == "__main__":
    raise SystemExit(main())
