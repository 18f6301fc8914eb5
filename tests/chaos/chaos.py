"""Commands that are disturbed at random moments: is what they leave whole, and does the next call put it right?

    python tests/chaos/chaos.py --runs 25

`train`, `export`, `eval` and `convert` are killed (SIGKILL, SIGTERM, SIGINT), or their disk becomes full, the
permission to write is taken away, or files are removed while they run: at a random moment of a run, else within what
is written. Afterwards the output must be the old one or the new one, the command must have said why it ended and
where, nothing that it started may still run, and the same command must then leave what an undisturbed one leaves.

A run of `train` that is killed is resumed, up to three times. Its last checkpoint must then have the bits of a run that
nobody touched, and no kill may cost more than the steps since the last checkpoint.
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

sys.path.insert(0, str(Path(__file__).parent.parent))

from chaos.commands import SAVE_STEPS, STEPS, prepare, start_training
from chaos.torments import SIGNALS, Workshop, weights

KILLS = 3  # at most, of a run
# Command and disturbance; those of `export` and `convert` fall within their writes.
TORMENTS = (
    *(("train", kind) for kind in ("killed", "killed", "full disk", "hardly any disk", "denied")),
    *(("train", kind) for kind in ("the images", "the rows", "a checkpoint", "the run folder")),
    *(("export", kind) for kind in ("killed", "full", "denied", "removed")),
    *(("export --link", kind) for kind in ("killed", "removed")),
    *(("export --adapter-only", kind) for kind in ("killed",)),
    *(("export --mmproj", kind) for kind in ("killed", "full")),
    *(("convert", kind) for kind in ("killed", "full", "removed")),
    *(("convert a table", kind) for kind in ("killed",)),
    *(("eval", kind) for kind in ("killed", "full", "removed")),
)


@dataclass(frozen=True)
class Outcome:
    """What became of one run that was killed.

    Attributes:
        signals: that it was hit by, each with the step that it had told before.
        equal: whether it ended with the bits of the uninterrupted run.
        lost: the most steps that a kill cost.
    """

    signals: tuple[str, ...]
    equal: bool
    lost: int

    @property
    def faults(self) -> list[str]:
        """What did not hold."""
        lost = [f"a kill cost {self.lost} steps"] if self.lost > SAVE_STEPS else []
        return lost + ([] if self.equal else ["--resume ended with other weights"])

    def __str__(self) -> str:
        return f"train: {', '.join(self.signals)}: {'; '.join(self.faults) or 'sound'}  [lost {self.lost} steps]"


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
        process = start_training(folder, run)
        if not _wait_for(process, run, rng.randint(min(reached, STEPS - 1), STEPS - 1)):
            break  # it has ended
        time.sleep(rng.random() * 0.3)  # within a step, or within the saving after it
        number = rng.choice(SIGNALS)
        before = max(told(run), default=0)
        process.send_signal(number)
        process.wait()
        signals.append(f"{number.name} at {before}")
        lost = max(lost, before - _newest(run) if number == signal.SIGKILL else 0)
    code = start_training(folder, run).wait()
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
    parser.add_argument("--only", type=int, nargs="+", help="numbers of the torments to repeat, as they were printed")
    options = parser.parse_args()
    numbers = [number - 1 for number in options.only] if options.only else range(options.runs)
    faulty = inside = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder)
        workshop = Workshop(folder)
        for number in numbers:
            command, kind = TORMENTS[number % len(TORMENTS)]
            rng = random.Random(f"{options.seed} {number}")  # so that one can be repeated alone
            if (command, kind) == ("train", "killed"):
                outcome = torment(folder, folder / f"run-{number}", rng)
            else:
                workshop.rng = rng
                outcome = workshop.torment_training(kind) if command == "train" else workshop.torment(command, kind)
                inside += outcome.inside and command != "eval"
            faulty += bool(outcome.faults)
            print(f"{number + 1:2}  {outcome}", flush=True)
    print(f"{len(numbers) - faulty} of {len(numbers)} sound; {inside} within the writes of export and convert")
    return 1 if faulty else 0


if __name__ == "__main__":
    raise SystemExit(main())
