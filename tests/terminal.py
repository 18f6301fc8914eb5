"""A pseudo-terminal for commands that run in this process."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import threading
from pathlib import Path
from unittest.mock import patch

from swiftalign.cli import main

CONTROL = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x1b]*\x1b\\")


def on_terminal(*argv: str, columns: int = 120, **environment: str) -> tuple[int, str]:
    """The exit code of a command, and all that it wrote to a terminal of so many columns."""
    master, slave = pty.openpty()
    chunks: list[bytes] = []

    def read() -> None:
        with contextlib.suppress(OSError):  # Linux reports the closed terminal as an error
            while chunk := os.read(master, 65536):
                chunks.append(chunk)

    reader = threading.Thread(target=read)
    reader.start()
    values = {"TERM": "xterm-256color", "COLUMNS": str(columns), "LINES": "50", "PAGER": "cat", **environment}
    with (
        Path(f"/dev/fd/{slave}").open("w", buffering=1) as terminal,
        patch.dict(os.environ, values),
        contextlib.redirect_stdout(terminal),
        contextlib.redirect_stderr(terminal),
    ):
        code = main(list(argv))
    os.close(slave)
    reader.join()
    os.close(master)
    return code, b"".join(chunks).decode()


def lines_of(drawn: str) -> list[str]:
    """What stays on the screen, without colours: of a line that is drawn again and again, the last state."""
    return [line.rpartition("\r")[2].rstrip() for line in CONTROL.sub("", drawn.replace("\r\n", "\n")).split("\n")]
