"""Starting the training processes and following their events."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from swiftalign.problems import TrainingError
from swiftalign.runs.events import Event, EventReader
from swiftalign.runs.folder import STOP_FILE
from swiftalign.runs.guard import LAUNCHER
from swiftalign.runs.processes import Processes

LOG_FILE = "train.log"
ONE = Processes()
_POLL_SECONDS = 0.1
_STOP_SECONDS = 20.0


def follow_training(run_folder: Path, *, local_model: bool, processes: Processes = ONE) -> Iterator[Event]:
    """Train in a child process, whose output goes to the run folder's log, and yield its events.

    After SIGTERM or the first Ctrl-C the child finishes its step, saves a checkpoint and ends. Before the first step,
    or after a second signal, it is ended at once.

    Args:
        run_folder: the run folder, as `write_run_files` prepares it.
        local_model: whether the model is a folder; then the child makes no network call.
        processes: number of training processes, and the machines and GPUs that they use.

    Raises:
        TrainingError: the child process ended before its last step.
        SystemExit: after a signal before the first step, or a second one, with the exit code that it stands for.
    """
    events = EventReader(run_folder)
    failure: Event | None = None
    finished = announced = False
    stop = _Stop(run_folder)
    log_file = run_folder / (LOG_FILE if processes.node == 0 else f"train-{processes.node}.log")
    environment = {"PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false", LAUNCHER: str(os.getpid())}
    if processes.gpus:
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(processes.gpus)
    if local_model:
        environment |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    with log_file.open("ab") as log, stop:
        child = subprocess.Popen(
            processes.command(str(run_folder)),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | environment,
            start_new_session=True,  # Ctrl-C then reaches the child and its children only through this process
        )
        try:
            while True:
                ended = child.poll() is not None
                if stop.number and not announced:
                    announced = True
                    yield Event("stopping")
                for event in events.poll():
                    stop.can_wait = stop.can_wait or event.kind == "start"
                    failure = event if event.kind == "error" else failure
                    finished = finished or event.kind in ("done", "stopped")
                    yield event
                if ended:
                    break
                time.sleep(_POLL_SECONDS)
        finally:  # end the child and all processes that it started
            with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
                if child.poll() is None:
                    os.killpg(child.pid, signal.SIGTERM)
                    child.wait(_STOP_SECONDS)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)  # data loader workers may outlive their parent
            child.wait()
    if child.returncode != 0 or not finished:
        raise _failure(log_file, child.returncode, failure)
    if stop.number:
        yield Event("signal", {"number": stop.number})


class _Stop:
    """Turns signals into the stop file of the run folder, which the training process looks for after each step."""

    def __init__(self, run_folder: Path) -> None:
        self.can_wait = False  # whether training has begun, so that a step can end and be saved
        self.number = 0
        self._file = run_folder / STOP_FILE
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> _Stop:
        self._file.unlink(missing_ok=True)
        for number in (signal.SIGTERM, signal.SIGINT):
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._previous[number] = signal.signal(number, self._asked)
        return self

    def __exit__(self, *raised: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._file.unlink(missing_ok=True)

    def _asked(self, number: int, frame: object) -> None:
        again, self.number = bool(self.number), self.number or number
        if again or not self.can_wait:
            raise SystemExit(128 + number)  # unwinds the stack, which ends the child
        self._file.touch()


def _failure(log: Path, code: int, event: Event | None) -> TrainingError:
    if event is not None:
        error = TrainingError(event.values["message"], event.values.get("hint") or f"see {log} for the full output")
        error.exit_code = event.values.get("exit_code", 1)
        return error
    if code < 0:
        name = signal.Signals(-code).name
        hint = "the system may have run out of memory" if name == "SIGKILL" else f"see {log}"
        return TrainingError(f"the training process was killed by {name}", hint)
    with log.open("rb") as file:
        file.seek(max(log.stat().st_size - 20_000, 0))
        killed = re.findall(rb"exitcode +: -(\d+)", file.read())  # torchrun's report on its processes
    if killed:
        name = signal.Signals(int(killed[-1])).name
        return TrainingError(f"one of the training processes was killed by {name}", f"see the end of {log}")
    return TrainingError(f"the training process ended with code {code}", f"see the end of {log}")
