"""The commands: options, printing and exit codes."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from functools import cache
from typing import Any, NoReturn

import typer
import typer.main
from rich.text import Text

from swiftalign.cli.app import app, print_json
from swiftalign.cli.checkpoints import export, verify_ckpt
from swiftalign.cli.convert import convert
from swiftalign.cli.docs import docs
from swiftalign.cli.evaluate import evaluate
from swiftalign.cli.help import Command
from swiftalign.cli.init import init
from swiftalign.cli.inspect import inspect_params
from swiftalign.cli.preview import preview_aug
from swiftalign.cli.runs import runs
from swiftalign.cli.terminal import open_console, tell
from swiftalign.cli.train import train
from swiftalign.problems import SwiftalignError

app.command(cls=Command)(init)
app.command("inspect-params", cls=Command)(inspect_params)
app.command(cls=Command)(train)
app.command("verify-ckpt", cls=Command)(verify_ckpt)
app.command(cls=Command)(export)
app.command("eval", cls=Command)(evaluate)
app.command("preview-aug", cls=Command)(preview_aug)
app.command(cls=Command)(convert)
app.command(cls=Command)(runs)
app.command(cls=Command)(docs)

_UsageError: Any = typer.BadParameter.__base__  # of a command line; Typer does not export it


def main(argv: list[str] | None = None) -> int:
    """Run a command line and return its exit code: 0 = success, 1 = a check or the run failed, 2 = it could not run."""
    # SIGTERM would end the process at once and leave what is half written; Typer ends without a word after Ctrl-C.
    numbers = [each for each in (signal.SIGTERM, signal.SIGINT) if signal.getsignal(each) is not signal.SIG_IGN]
    is_main_thread = threading.current_thread() is threading.main_thread()  # no other may handle signals
    before = {number: signal.signal(number, _end) for number in numbers if is_main_thread}
    arguments = sys.argv[1:] if argv is None else argv
    try:
        if "_SWIFTALIGN_COMPLETE" in os.environ:
            return _complete()
        code = _command()(args=arguments, prog_name="swiftalign", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 2
    except SwiftalignError as error:
        return _told(error, arguments)
    except typer.Abort:
        return _told(SwiftalignError("stopped, as the answer was no, or there was none"), arguments, exit_code=1)
    except _UsageError as error:
        if not arguments:  # the help is the message
            print(error.format_message(), file=sys.stderr)
            return 2
        usage, path = (error.ctx.get_usage(), error.ctx.command_path) if error.ctx else ("", "swiftalign")
        print(usage, file=sys.stderr)
        return _told(SwiftalignError(error.format_message(), f"{path} --help says what it takes"), arguments)
    except BrokenPipeError:  # the reader of our output has gone, e.g. `| head`
        sys.stderr.close()
        return 1
    except OSError as error:
        from swiftalign.files import file_error

        return _told(file_error(error), arguments)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _complete() -> int:
    """Write what a shell offers for the line that it holds: no error may come between the words."""
    os.environ["COLUMNS"] = "1000"  # Typer wraps what a value means, and fish would take each line for a value
    with contextlib.suppress(Exception):
        _command()(args=[], prog_name="swiftalign")
    return 1


@cache
def _command() -> Any:
    """All commands with their options, which take Typer longer to build than most commands take to run."""
    return typer.main.get_command(app)


def _end(number: int, frame: object) -> NoReturn:
    with contextlib.suppress(OSError):
        os.write(2, b"stopped\n")  # print may just be at work
    raise SystemExit(128 + number)


def _told(error: SwiftalignError, arguments: list[str], *, exit_code: int = 0) -> int:
    """Print an error and its hint, with --json also as the result, and give the exit code."""
    if "--json" in arguments:
        print_json(error.to_json())
    console = open_console(stderr=True)
    told = [(str(problem), problem.hint) for problem in error.problems] or [(error.message, error.hint or "")]
    for message, hint in told:
        for line in message.splitlines() or [""]:
            tell(console, Text.assemble(("error", "bold red"), f": {line}"))
        if hint:
            tell(console, f"hint: {hint}")
    return exit_code or error.exit_code
