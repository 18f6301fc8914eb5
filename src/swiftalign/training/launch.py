"""Starting the training process and following it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from swiftalign.errors import TrainingError
from swiftalign.training.events import Event, EventReader

LOG_FILE = "train.log"
_POLL_SECONDS = 0.1
_STOP_SECONDS = 20.0


def follow_training(run_folder: Path, *, local_model: bool) -> Iterator[Event]:
    """Train in a child process, which writes its output to the run folder's log, and yield its events.

    Args:
        run_folder: prepared by `write_run_files`.
        local_model: whether the model is a folder; then the child makes no network call.

    Raises:
        TrainingError: the child ended before its last step.
    """
    events = EventReader(run_folder)
    failure: Event | None = None
    finished = False
    with (run_folder / LOG_FILE).open("ab") as log:
        previous = signal.getsignal(signal.SIGTERM)
        child = subprocess.Popen(
            [sys.executable, "-m", "swiftalign.training.worker", str(run_folder)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=_environment(local_model=local_model),
            start_new_session=True,  # so that Ctrl-C reaches it through us alone, with its own children
        )
        try:
            signal.signal(signal.SIGTERM, _raise_terminated)
            while True:
                ended = child.poll() is not None
                for event in events.poll():
                    failure = event if event.kind == "error" else failure
                    finished = finished or event.kind == "done"
                    yield event
                if ended:
                    break
                time.sleep(_POLL_SECONDS)
        finally:
            _stop(child)
            signal.signal(signal.SIGTERM, previous)
    if child.returncode != 0 or not finished:
        raise _failure(run_folder, child.returncode, failure)


def _raise_terminated(number: int, frame: object) -> None:
    raise SystemExit(128 + number)  # unwinds, and so stops the child


def _environment(*, local_model: bool) -> dict[str, str]:
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false"}
    if local_model:
        environment |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    return environment


def _stop(child: subprocess.Popen[Any]) -> None:
    """End the child and everything that it started."""
    if child.poll() is None:
        _signal_group(child, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(_STOP_SECONDS)
    _signal_group(child, signal.SIGKILL)  # data-loader workers may outlive their parent
    child.wait()


def _signal_group(child: subprocess.Popen[Any], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, number)


def _failure(run_folder: Path, code: int, event: Event | None) -> TrainingError:
    log = run_folder / LOG_FILE
    if event is not None:
        error = TrainingError(event.values["message"], event.values.get("hint") or f"the whole story is in {log}")
        error.exit_code = event.values.get("exit_code", 1)
        return error
    if code < 0:
        name = signal.Signals(-code).name
        hint = "the system may have run out of memory" if name == "SIGKILL" else f"see {log}"
        return TrainingError(f"the training process was ended by {name}", hint)
    return TrainingError(f"the training process ended with code {code}", f"see the end of {log}")
