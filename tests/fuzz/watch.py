"""What code does while it reads a file from outside: where it writes, what it starts, how long it takes and how much.

Python's audit hooks see every file that is opened, removed or renamed, every process and every connection.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SECONDS = 5.0  # of CPU time that a case may take
WAITING = 60.0  # seconds by the clock
MEGABYTES = 300  # by which a case may raise the resident memory

# Events that start something, or reach another machine.
_STARTS = {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty", "os.startfile"}
_STARTS |= {"socket.connect", "socket.bind", "socket.getaddrinfo", "socket.sendto", "urllib.Request"}
# Events that change files: the number of their arguments that are paths.
_CHANGES = {"os.remove": 1, "os.rename": 2, "os.mkdir": 1, "os.rmdir": 1, "os.link": 2, "os.symlink": 2}
_CHANGES |= {"os.truncate": 1, "os.chmod": 1, "os.chown": 1, "os.utime": 1, "shutil.rmtree": 1, "os.setxattr": 1}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

_watching: Watch | None = None
_hooked = False


class TookTooLongError(BaseException):
    """A case is not done after `SECONDS`; no ``except Exception`` stops it."""


class Watch:
    """What was done that must not be.

    Args:
        allowed: folders in which files may be written and removed.
        secret: a file that must not be opened, if there is one.
    """

    def __init__(self, *allowed: Path, secret: Path | None) -> None:
        self._allowed = tuple(os.path.realpath(each) for each in allowed)
        self._secret = secret and os.path.realpath(secret)
        self.faults: list[str] = []

    def see(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in _STARTS:
            self.faults.append(f"{event} {arguments!r:.200}")
        elif event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
            path, _, flags = arguments
            if isinstance(flags, int) and flags & _WRITING:
                self._changed(event, path)
            elif self._secret and os.path.realpath(os.fsdecode(path)) == self._secret:
                self.faults.append(f"opened {self._secret}")
        elif event in _CHANGES:
            # A path that is relative to an open folder belongs to `shutil.rmtree`, whose own event is seen.
            relative = any(isinstance(each, int) and each >= 0 for each in arguments[_CHANGES[event] :])
            for path in arguments[: _CHANGES[event]]:
                if isinstance(path, str | bytes | os.PathLike) and not (
                    relative and event in ("os.remove", "os.rmdir")
                ):
                    self._changed(event, path)

    def _changed(self, event: str, path: Any) -> None:
        real = os.path.realpath(os.fsdecode(path))
        if real != "/dev/null" and not any(real == each or real.startswith(f"{each}/") for each in self._allowed):
            self.faults.append(f"{event} {real}")


def _see(event: str, arguments: tuple[Any, ...]) -> None:
    if _watching is not None and (event == "open" or event in _CHANGES or event in _STARTS):
        _watching.see(event, arguments)


@contextmanager
def watched(watch: Watch) -> Iterator[None]:
    """Watch what the block does, and end it after `SECONDS`.

    Raises:
        TookTooLongError: it is not done by then.
    """
    global _watching, _hooked

    def stop(*_: object) -> None:
        raise TookTooLongError

    if not _hooked:
        sys.addaudithook(_see)
        _hooked = True
    before = resident(reset=True)
    handlers = [signal.signal(number, stop) for number in (signal.SIGPROF, signal.SIGALRM)]
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    signal.setitimer(signal.ITIMER_REAL, WAITING)
    _watching = watch
    try:
        yield
    finally:
        _watching = None
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGPROF, handlers[0])
        signal.signal(signal.SIGALRM, handlers[1])
    if (more := resident() - before) > MEGABYTES:
        watch.faults.append(f"took {more:.0f} MB more memory")


def resident(*, reset: bool = False) -> float:
    """The highest resident memory in MB since the last reset."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024
