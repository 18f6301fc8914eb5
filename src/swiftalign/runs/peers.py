"""The commands of one run, on several machines or once per GPU: command 0 leads, the others do what it says.

The others connect to command 0 and send who they are. Before each training it tells them the run folder, and where the
training processes meet; at the end, its exit code. They tell it what ends their processes too early. A command that
ends in any way closes its connection, which the other side notices: none waits for one that is gone.
Each message is one line of JSON.
"""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from types import TracebackType
from typing import Any

from swiftalign.problems import SwiftalignError, TrainingError
from swiftalign.runs.processes import Processes

_GREETING_SECONDS = 5.0
_RETRY_SECONDS = 0.3
_LATE_SECONDS = 15.0
_LONGEST_LINE = 2**16  # bytes


class _Line:
    """A connection that carries messages."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket, self._unread = connection, b""
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # a machine that is gone does not say goodbye
        for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3)):
            if hasattr(socket, name):
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

    def send(self, **values: Any) -> None:
        """Send a message.

        Raises:
            ConnectionError: the other side has ended.
        """
        self._socket.settimeout(_GREETING_SECONDS)
        try:
            self._socket.sendall(json.dumps(values).encode() + b"\n")
        except OSError as error:
            raise ConnectionError(str(error)) from None

    def receive(self, seconds: float) -> dict[str, Any] | None:
        """The next message; None if none comes in time.

        Raises:
            ConnectionError: the other side has ended, or has sent something else than a message.
        """
        until = time.monotonic() + seconds
        while b"\n" not in self._unread:
            self._socket.settimeout(max(until - time.monotonic(), 0.001))
            try:
                got = self._socket.recv(4096)
            except TimeoutError:
                return None
            except OSError as error:
                raise ConnectionError(str(error)) from None
            self._unread += got
            if not got or len(self._unread) > _LONGEST_LINE:
                raise ConnectionError("closed")
        line, _, self._unread = self._unread.partition(b"\n")
        try:
            values = json.loads(line)
        except (ValueError, RecursionError):
            values = None
        if not isinstance(values, dict):
            raise ConnectionError("not a message")
        return values

    def close(self) -> None:
        self._socket.close()


class Peers:
    """The other commands of a run, as command 0 sees them. Leaving the context ends them.

    Attributes:
        code: the exit code that the others end with, unless an exception says another.

    Raises:
        SwiftalignError: command 0 can't listen at its address.
    """

    def __init__(self, processes: Processes) -> None:
        self.code = 0
        self._processes, self._lines = processes, dict[int, _Line]()
        self._server: socket.socket | None = None
        self._begun = False
        if processes.commands == 1:
            return
        job, port = processes.job, int(processes.leader.rpartition(":")[2])
        published = bool(job and job.port_is_taken)
        both = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if both else socket.AF_INET
        address = ("", 0 if published else port)
        try:
            self._server = socket.create_server(
                address, family=family, backlog=processes.commands + 128, dualstack_ipv6=both
            )
        except OSError as error:
            hint = "set MASTER_PORT to a free port" if job else "name a free port in --rdzv-endpoint, on each machine"
            raise SwiftalignError(f"can't listen at port {port}: {error.strerror or error}", hint) from None
        if published:
            _torchrun_store(processes).set(_key(processes), str(self._server.getsockname()[1]))

    def __enter__(self) -> Peers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, traceback: TracebackType | None
    ) -> None:
        code = self.code
        if isinstance(raised, SwiftalignError):
            code = raised.exit_code
        elif raised is not None:
            code = raised.code if isinstance(raised, SystemExit) and isinstance(raised.code, int) else 1
        # Where the checks have ended the run, commands that started later would look for this one in vain.
        at_once = isinstance(raised, (SystemExit, KeyboardInterrupt))
        wait = 0.0 if at_once else min(_LATE_SECONDS, self._processes.join_seconds)
        until = time.monotonic() + wait
        with contextlib.suppress(OSError):  # a time-out too
            while self._server and len(self._lines) + 1 < self._processes.commands and not self._begun:
                self._accept(max(until - time.monotonic(), 0.001))
        for line in self._lines.values():
            with contextlib.suppress(ConnectionError):
                line.send(end=code, orderly=raised is None)
            line.close()
        if self._server:
            self._server.close()

    def begin(self, **order: Any) -> str:
        """Wait until all commands are there, and tell them to start their training processes.

        Args:
            order: what the others need to know.

        Returns:
            HOST:PORT where the training processes meet; empty if this is the only command.

        Raises:
            TrainingError: a command has not come in time.
        """
        if self._server is None:
            return ""
        processes, until = self._processes, time.monotonic() + self._processes.join_seconds
        self._begun = True
        while missing := sorted(set(range(1, processes.commands)) - self._lines.keys()):
            left = until - time.monotonic()
            if left <= 0:
                names = ", ".join(replace(processes, number=number).name for number in missing[:4])
                more = f" and {len(missing) - 4} more" * (len(missing) > 4)
                raise TrainingError(
                    f"after {processes.join_seconds} s still missing: {names}{more}",
                    f"start the same command there; it must reach {processes.leader}. --join-timeout sets the seconds",
                )
            with contextlib.suppress(TimeoutError):
                self._accept(min(left, 1.0))
        with socket.create_server(("", 0)) as free:
            endpoint = f"{processes.leader.rpartition(':')[0]}:{free.getsockname()[1]}"
        for line in self._lines.values():
            with contextlib.suppress(ConnectionError):  # `poll` reports it
                line.send(endpoint=endpoint, **order)
        return endpoint

    def poll(self) -> Iterator[dict[str, Any]]:
        """The messages since the last poll; a command that is gone counts as ``deaths``."""
        for number, line in list(self._lines.items()):
            try:
                while message := line.receive(0.001):
                    yield message
            except ConnectionError:
                del self._lines[number]
                text = f"{replace(self._processes, number=number).name} has ended, or can't be reached any more"
                yield {"deaths": [{"message": text, "hint": "see its output; then --resume", "is_cause": True}]}

    def _accept(self, seconds: float) -> None:
        assert self._server is not None
        self._server.settimeout(seconds)
        line = _Line(self._server.accept()[0])
        try:
            greeting = line.receive(_GREETING_SECONDS) or {}
            number, numbers = greeting.get("number"), range(1, self._processes.commands)
            if greeting.get("run") == _key(self._processes) and isinstance(number, int) and number in numbers:
                known = self._lines.get(number)
                self._lines[number] = line
                if known:
                    known.close()
                return
            line.send(refused=_key(self._processes))
        except ConnectionError:
            pass
        line.close()


def join_leader(processes: Processes) -> _Line:
    """Connect to command 0.

    Raises:
        TrainingError: it does not answer in time, or leads another run.
    """
    until = time.monotonic() + processes.join_seconds
    host, _, port = processes.leader.rpartition(":")
    reason = ""
    if processes.job and processes.job.port_is_taken:
        try:
            port = _torchrun_store(processes).get(_key(processes)).decode()
        except RuntimeError as error:
            reason, until = str(error).splitlines()[0], 0.0
    while time.monotonic() < until:
        try:
            line = _Line(socket.create_connection((host.strip("[]"), int(port)), timeout=_GREETING_SECONDS))
            line.send(run=_key(processes), number=processes.number)
            return line
        except OSError as error:
            reason = error.strerror or str(error)
            time.sleep(_RETRY_SECONDS)
    raise TrainingError(
        f"{processes.name}: no answer from {processes.leader} within {processes.join_seconds} s: {reason}",
        "the command that leads the run must be running there. --join-timeout sets the seconds",
    )


def _key(processes: Processes) -> str:
    """What the commands of one run, and of no other, have in common."""
    name = processes.job.name if processes.job else "machines"
    return f"swiftalign/{name}/{processes.commands}x{processes.each}"


def _torchrun_store(processes: Processes) -> Any:
    """The key-value store of the torchrun that started this command."""
    import torch.distributed as dist

    assert processes.job is not None
    job, timeout = processes.job, timedelta(seconds=processes.join_seconds)
    return dist.TCPStore(  # type: ignore[attr-defined]  # torch does not export it by name
        job.host, job.port, job.size, is_master=False, timeout=timeout, wait_for_workers=False
    )
