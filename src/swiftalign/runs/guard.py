"""Ends a training process when the command that started it has ended."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
import time
from collections.abc import Iterable

LAUNCHER = "SWIFTALIGN_LAUNCHER"  # environment variable: process id of `swiftalign train`
_POLL_SECONDS = 0.5


def end_with_launcher() -> None:
    """Watch the process that started training, and torchrun if it is the parent; end when either of them ends."""
    launcher = os.environ.get(LAUNCHER, "")
    if launcher.isdigit():
        processes = {int(launcher), os.getppid()}
        threading.Thread(target=_end_with, args=(processes,), daemon=True, name="guard").start()


def _end_with(processes: Iterable[int]) -> None:
    try:
        poll = select.poll()
        for process in processes:
            poll.register(os.pidfd_open(process), select.POLLIN)
        poll.poll()
    except ProcessLookupError:  # it has ended already
        pass
    except (AttributeError, OSError):  # the system does not support pidfd
        with contextlib.suppress(ProcessLookupError):
            while True:
                for process in processes:
                    with contextlib.suppress(PermissionError):  # it belongs to another user, so it exists
                        os.kill(process, 0)
                time.sleep(_POLL_SECONDS)
    os.killpg(0, signal.SIGKILL)  # data loader workers too
