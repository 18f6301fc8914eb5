"""What is done to a command while it runs, and what must hold afterwards.

A command is stopped for a moment (SIGSTOP) where it is to be hit, so that it is known where that was: within what it
writes, as the part of the output that lies beside its place shows, or within its answers.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from chaos.commands import (
    ASKED,
    COMMANDS,
    SAVE_STEPS,
    STEPS,
    Command,
    State,
    outliving,
    start,
    start_training,
)

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
CODES = {signal.SIGKILL: (-9,), signal.SIGTERM: (143,), signal.SIGINT: (130,)}
SECONDS = 90.0  # within which a command must have ended
TRIES = 8  # to hit a command within its writes
TMPFS = 256 << 20
FULL = ("full", "full disk", "hardly any disk")


@dataclass
class Outcome:
    """What became of a torment.

    Attributes:
        what: the command and what was done to it, and when.
        inside: whether it was hit within its writes.
        faults: what did not hold.
        told: the command's last words, and its exit code.
        seconds: from the hit to the end.
    """

    what: str
    inside: bool = False
    faults: list[str] = field(default_factory=list)
    told: str = ""
    seconds: float = 0.0

    def __str__(self) -> str:
        verdict = "; ".join(self.faults) or "sound"
        place = " (within its writes)" if self.inside else ""
        return f"{self.what}{place}: {verdict}  [{self.seconds:.1f} s: {self.told}]"


@dataclass
class Cause:
    """Something that is done to a command, and undone.

    Attributes:
        name: what it is.
        act: does it.
        undo: takes it away.
        words: what the command must say of it, as a pattern; empty where it may say nothing.
        codes: the exit codes that it may have; with 0, its output must be the new one.
        obeys: whether permissions stop the command, even if it is root's.
        limit: bytes of the largest file that the command may write.
    """

    name: str
    act: Callable[[Any], None] = lambda process: None
    undo: Callable[[], None] = lambda: None
    words: str = ""
    codes: tuple[int, ...] = (0, 1, 2)
    obeys: bool = False
    limit: int | None = None


# -- causes ------------------------------------------------------------------------------------------------------------


def killed(rng: random.Random) -> Cause:
    number = rng.choice(SIGNALS)
    return Cause(number.name, lambda process: process.send_signal(number), codes=CODES[number])


def full(place: Path, left: int = 0) -> Cause:
    """The disk of a place becomes full, up to some bytes."""
    ballast = place / "ballast"

    def fill(process: object) -> None:
        with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(1 << 12))
        os.truncate(ballast, max(0, ballast.stat().st_size - left))

    name = f"full disk, but for {left:,} bytes" if left else "full disk"
    return Cause(name, fill, ballast.unlink, rf"the disk is full: .*{place}")


def limited(size: int) -> Cause:
    """A limit of the size of files, where there is no disk to fill."""
    return Cause(f"files of at most {size:,} bytes", words="File too large", limit=size)


def denied(place: Path) -> Cause:
    """The folder may not be written any more."""
    act = partial(place.chmod, 0o555)
    return Cause("permission taken away", lambda process: act(), partial(place.chmod, 0o777), "denied", obeys=True)


def removed(path: Path, words: str) -> Cause:
    """A file or folder is moved away, and comes back."""
    hidden = path.with_name(f"{path.name}.hidden")

    def restore() -> None:
        if path.is_dir():
            shutil.rmtree(path)  # what the command has made anew
        hidden.rename(path)

    def hide(process: object) -> None:
        path.rename(hidden)

    return Cause(f"{path.name} removed", hide, restore, words)


def gone(what: str, find: Callable[[], list[Path]]) -> Cause:
    """Folders are removed for ever."""

    def remove(process: object) -> None:
        for folder in find():
            away = folder.rename(f"{folder}.hidden")  # the command may be writing into it
            shutil.rmtree(away, ignore_errors=True)

    return Cause(f"{what} removed", remove, words="No such file|removed")


@contextlib.contextmanager
def disk(place: Path) -> Iterator[bool]:
    """A disk of its own at a folder, and whether there is one: only root may mount it."""
    options = ["-t", "tmpfs", "-o", f"size={TMPFS}", "none"]
    mounted = os.geteuid() == 0 and not subprocess.run(["mount", *options, place], capture_output=True).returncode
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", place], check=True)


# -- moments -----------------------------------------------------------------------------------------------------------


def parts(out: Path) -> list[Path]:
    """What lies beside an output while it is written, or was left there."""
    return [path for path in out.parent.glob(f".{out.name}.*") if not path.name.endswith(".hidden")]


def written(out: Path) -> int | None:
    """Number of bytes of an output that is being written; None where none is."""
    found = parts(out)
    with contextlib.suppress(OSError):
        files = [file for part in found for file in (part, *part.rglob("*")) if file.is_file()]
        return sum(file.stat().st_size for file in files) if found else None
    return 0 if found else None


def answered(out: Path) -> int | None:
    """Number of answers of an evaluation that is going on; None where none is."""
    count = len(answers_in(out))
    return count if 0 < count < ASKED and not (out / "summary.json").exists() else None


def stopped(process: subprocess.Popen[bytes], done: Callable[[], int | None], least: float) -> bool:
    """Stop a process once it has written so much; False where it was faster.

    Args:
        done: how much it has written of what it is writing; None where it is not writing.
    """
    while process.poll() is None:
        if (so_far := done()) is not None and so_far >= least:
            process.send_signal(signal.SIGSTOP)
            state = Path(f"/proc/{process.pid}/stat")
            while process.poll() is None and state.read_text().rpartition(")")[2].split()[0] not in "Tt":
                time.sleep(0.0005)
            return process.poll() is None and done() is not None
        time.sleep(0.0002)
    return False


# -- torments ----------------------------------------------------------------------------------------------------------


class Workshop:
    """Torments commands in a workspace, each in a folder of its own.

    Args:
        work: the workspace, as `commands.prepare` makes it.

    Attributes:
        rng: what is random comes from it.
    """

    def __init__(self, work: Path) -> None:
        self.work, self.rng, self._number = work, random.Random(0), 0
        self._new: dict[str, State] = {}
        self._sizes: dict[str, int] = {}

    @contextlib.contextmanager
    def place(self, kind: str = "") -> Iterator[tuple[Path, bool]]:
        """A new folder, and whether it is a disk of its own, as it is where that is to become full."""
        self._number += 1
        folder = self.work / f"place-{self._number}"
        folder.mkdir()
        with disk(folder) if kind in FULL else contextlib.nullcontext(False) as mounted:
            yield folder, mounted
            shutil.rmtree(folder, ignore_errors=True)

    def undisturbed(self, name: str) -> State:
        """What a command leaves that nobody disturbs."""
        if name not in self._new:
            command = COMMANDS[name]
            with self.place() as (place, _):
                out = place / command.output
                code, told = self._run(command.argv(self.work, out), place)
                assert code == 0, told
                self._new[name], self._sizes[name] = command.state(out), _size(out)
        return self._new[name]

    def torment(self, name: str, kind: str) -> Outcome:
        """Disturb a command other than `train`, and judge what it leaves."""
        command, new = COMMANDS[name], self.undisturbed(name)
        for attempt in range(TRIES):
            with self.place(kind) as (place, mounted):
                outcome = self._torment(name, command, new, kind, place, mounted, attempt)
            if outcome.inside or outcome.faults:
                return outcome
        outcome.faults.append(f"it was not hit within its writes in {TRIES} tries")
        return outcome

    def _torment(
        self, name: str, command: Command, new: State, kind: str, place: Path, mounted: bool, attempt: int
    ) -> Outcome:
        rng, out, told = self.rng, place / command.output, self.work / f"{place.name}.out"
        before: State = {}
        if command.force and rng.random() < 0.5:
            code, words = self._run(command.argv(self.work, out, "old"), place)
            assert code == 0, words
            before = command.state(out)
        share = rng.uniform(0, 0.7) / (1 + attempt)  # a later try hits earlier
        done, whole = (answered, ASKED) if name == "eval" else (written, self._sizes[name])
        cause = self._cause(kind, command, place, mounted, out)
        outcome = Outcome(f"{name}{', replacing an old one' if before else ''}: {cause.name}")
        process = start(command.argv(self.work, out), told, obeys=cause.obeys, largest=cause.limit)
        if cause.limit is None:
            outcome.inside = stopped(process, partial(done, out), share * whole)
            if process.poll() is None:
                cause.act(process)
                process.send_signal(signal.SIGCONT)
            else:
                return outcome  # it was faster
        else:
            outcome.inside = True  # where a file becomes too large
        self._end(process, cause, outcome, told)
        left, hidden = command.state(out), parts(out)
        self._judge_state(command, outcome, process.returncode, before, new, left, out)
        if hidden and kind not in ("denied", "removed") and process.returncode != -signal.SIGKILL:
            outcome.faults.append(f"left {hidden[0].name}")
        cause.undo()
        code, words = self._run(command.argv(self.work, out), place, obeys=cause.obeys)
        if code:
            outcome.faults.append(f"the next call ended with {code}: {words[-300:]}")
        elif command.state(out) != new:
            outcome.faults.append("the next call left something else than an undisturbed one")
        if extra := [path.name for path in place.iterdir() if path != out and path.name != f"{out.stem}_images"]:
            outcome.faults.append(f"the next call left {', '.join(extra)}")
        return outcome

    def _cause(self, kind: str, command: Command, place: Path, mounted: bool, out: Path) -> Cause:
        if kind == "killed":
            return killed(self.rng)
        if kind == "full":
            name = next(name for name, each in COMMANDS.items() if each is command)
            return full(place) if mounted else limited(int(self._sizes[name] * self.rng.uniform(0.1, 0.4)))
        if kind == "denied":
            return denied(out if command.output == "out" and not command.force else place)
        source = self.work / self.rng.choice(command.sources)
        if self.rng.random() < 0.3:
            return gone("its output", lambda: parts(out) if command.force else [out])
        return removed(source, "No such file|restore|missing|can't load|can't answer|not a")

    def _judge_state(
        self, command: Command, outcome: Outcome, code: int, before: State, new: State, left: State, out: Path
    ) -> None:
        if not command.force:  # an evaluation goes on with the answers that it has
            if any(new.get(key) != value for key, value in left.items()):
                outcome.faults.append("an answer or a number differs")
            return
        if left not in (before, new):
            outcome.faults.append("the output is neither the old one nor the new one")
        elif code == 0 and left != new:
            outcome.faults.append("it says that it has written, and has not")

    def _end(self, process: subprocess.Popen[bytes], cause: Cause, outcome: Outcome, told: Path) -> None:
        """Wait for the end of a command, and judge what it says."""
        began = time.monotonic()
        try:
            code = process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            outcome.faults.append(f"it had not ended after {SECONDS:.0f} s")
            return
        outcome.seconds = time.monotonic() - began
        text = told.read_text(errors="replace")
        last = [line for line in text.splitlines() if line.startswith("error: ")] or text.splitlines()[-1:] or [""]
        outcome.told = f"exit code {code}" + (f", {last[-1]}" if code not in (0, -9) else "")
        if code not in cause.codes:
            outcome.faults.append(f"exit code {code}")
        if "Traceback" in text:
            outcome.faults.append("a traceback")
        if code in (1, 2) and not re.search(cause.words, text):
            outcome.faults.append("it does not say why")
        if code in (130, 143) and "stopped" not in text:
            outcome.faults.append("it does not say that it was stopped")
        deadline = time.monotonic() + 5  # a training process ends when it sees that its parent has
        while (alive := outliving(told)) and time.monotonic() < deadline:
            time.sleep(0.1)
        if alive:
            outcome.faults.append(f"process {alive[0]} outlives it")
            for pid in alive:
                os.kill(pid, signal.SIGKILL)

    def _run(self, argv: list[str], place: Path, *, obeys: bool = False) -> tuple[int, str]:
        told = self.work / f"{place.name}-whole.out"
        process = start(argv, told, obeys=obeys)
        return process.wait(), told.read_text(errors="replace")

    # -- train ---------------------------------------------------------------------------------------------------------

    def torment_training(self, kind: str) -> Outcome:
        """Disturb a run, resume it, and compare its end with that of the uninterrupted one."""
        with self.place(kind) as (place, mounted):
            run = place / "run"
            # By then there is a checkpoint.
            step = 0 if kind == "hardly any disk" else self.rng.randint(SAVE_STEPS + 1, STEPS - 3)
            cause = self._training_cause(kind, place, mounted, run)
            outcome = Outcome(f"train: {cause.name} {f'at step {step}' if step else 'from the beginning'}")
            told = self.work / "run.out"
            told.unlink(missing_ok=True)
            if not step:
                cause.act(None)
            process = start_training(self.work, run, obeys=cause.obeys)
            while process.poll() is None and told_step(run) < step:
                time.sleep(0.01)
            if process.poll() is None and step:
                cause.act(process)
            self._end(process, cause, outcome, told)
            cause.undo()
            code = start_training(self.work, run, obeys=cause.obeys).wait()
            if code:
                outcome.faults.append(f"--resume ended with {code}: {told.read_text()[-300:]}")
            elif weights(run) != weights(self.work / "straight"):
                outcome.faults.append("--resume ended with other weights")
        return outcome

    def _training_cause(self, kind: str, place: Path, mounted: bool, run: Path) -> Cause:
        if kind == "full disk":
            return full(place) if mounted else limited(200_000)
        if kind == "hardly any disk":
            return full(place, self.rng.randrange(0, 200_000)) if mounted else limited(self.rng.randrange(1, 200_000))
        if kind == "denied":
            return denied(run)
        if kind == "the run folder":
            return gone(kind, lambda: [run])
        if kind == "a checkpoint":
            return gone(kind, lambda: sorted(run.glob("checkpoint-*"))[:1])
        return removed(self.work / {"the images": "images/rows", "the rows": "rows.jsonl"}[kind], "restore")


def weights(run: Path) -> bytes:
    path = run / f"checkpoint-{STEPS}/adapter_model.safetensors"
    return path.read_bytes() if path.exists() else b""


def told_step(run: Path) -> int:
    """The last step that a run has told of."""
    text = (run / "events.jsonl").read_text(errors="replace") if (run / "events.jsonl").exists() else ""
    return max(map(int, re.findall(r'"kind": "step", "step": (\d+)', text)), default=0)


def answers_in(out: Path) -> list[str]:
    path = out / "predictions.jsonl"
    return path.read_text(errors="replace").split("\n")[:-1] if path.exists() else []


def _size(out: Path) -> int:
    files = [out] if out.is_file() else [path for path in out.rglob("*") if path.is_file()]
    return sum(file.stat().st_size for file in files)
