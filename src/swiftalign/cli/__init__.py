"""The commands: options, printing and exit codes."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from functools import cache
from typing import Any, NoReturn

import typer.main

from swiftalign.cli.app import app
from swiftalign.cli.checkpoints import export, verify_ckpt
from swiftalign.cli.convert import convert
from swiftalign.cli.evaluate import evaluate
from swiftalign.cli.init import init
from swiftalign.cli.inspect import inspect_params
from swiftalign.cli.preview import preview_aug
from swiftalign.cli.runs import runs
from swiftalign.cli.train import train
from swiftalign.problems import ConfigError, SwiftalignError

app.command()(init)
app.command("inspect-params")(inspect_params)
app.command()(train)
app.command("verify-ckpt")(verify_ckpt)
app.command()(export)
app.command("eval")(evaluate)
app.command("preview-aug")(preview_aug)
app.command()(convert)
app.command()(runs)


def main(argv: list[str] | None = None) -> int:
    """Run a command line and return its exit code: 0 = success, 1 = a check or the run failed, 2 = it could not run."""
    # SIGTERM would end the process at once and leave what is half written; Typer ends without a word after Ctrl-C.
    numbers = [each for each in (signal.SIGTERM, signal.SIGINT) if signal.getsignal(each) is not signal.SIG_IGN]
    is_main_thread = threading.current_thread() is threading.main_thread()  # no other may handle signals
    before = {number: signal.signal(number, _end) for number in numbers if is_main_thread}
    try:
        _command()(args=argv, prog_name="swiftalign")
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 2
    except ConfigError as error:
        for problem in error.problems:
            print(f"error: {problem}", file=sys.stderr)
            if problem.hint:
                print(f"hint: {problem.hint}", file=sys.stderr)
        return error.exit_code
    except SwiftalignError as error:
        return _told(error)
    except BrokenPipeError:  # the reader of our output has gone, e.g. `| head`
        sys.stderr.close()
        return 1
    except OSError as error:
        from swiftalign.files import file_error

        return _told(file_error(error))
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return 0


@cache
def _command() -> Any:
    """All commands with their options, which take Typer longer to build than most commands take to run."""
    return typer.main.get_command(app)


def _end(number: int, frame: object) -> NoReturn:
    with contextlib.suppress(OSError):
        os.write(2, b"stopped\n")  # print may just be at work
    raise SystemExit(128 + number)


def _told(error: SwiftalignError) -> int:
    """Print an error and its hint, and give the exit code."""
    for line in error.message.splitlines() or [""]:
        print(f"error: {line}", file=sys.stderr)
    if error.hint:
        print(f"hint: {error.hint}", file=sys.stderr)
    return error.exit_code
