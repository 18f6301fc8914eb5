"""The Typer application, and the options that several commands share."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from swiftalign.problems import CODES, DATA_CODES, SwiftalignError

app = typer.Typer(
    name="swiftalign",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Configs = Annotated[
    list[Path],
    typer.Argument(metavar="CONFIG", help="YAML files. Settings in later files replace those in earlier ones."),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="SECTION.KEY=VALUE",
        help="Set one value, e.g. --set tuner.lora_rank=32. It replaces what the files say.",
    ),
]
Allowed = Annotated[
    list[str] | None,
    typer.Option(
        "--allow", metavar="CODE", help="Accept a problem that would be an error, by its code in docs/findings.md."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON to stdout, for scripts.")]


@app.callback(
    invoke_without_command=True,
    epilog="New here? 'swiftalign init --demo demo' writes a small workspace in which to try every command.",
)
def options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)] = False,
) -> None:
    """Fine-tune the aligner of a vision-language model with ms-swift. What it says will train is what trains."""
    if version:
        from swiftalign import __version__

        print(f"swiftalign {__version__}")
        raise typer.Exit


def open_console(*, stderr: bool = False) -> Console:
    console = Console(stderr=stderr, highlight=False)
    return console if console.is_terminal else Console(stderr=stderr, highlight=False, width=160)


def check_output(path: Path, *, force: bool) -> None:
    """Raise where a file that a command is to write would replace a folder, or a file without ``--force``."""
    if path.is_dir():
        raise SwiftalignError(f"{path} is a folder", f"name a file, e.g. {path / 'picture.png'}")
    if path.exists() and not force:
        raise SwiftalignError(f"{path} exists already", "name another file, or pass --force to overwrite it")


def check_inputs(paths: Iterable[Path]) -> None:
    """Raise where a file or folder that a command is to read is missing."""
    from swiftalign.files import not_fetched

    for path in paths:
        if not path.exists():
            what, hint = not_fetched(path) or ("no such file or folder", "check the path")
            raise SwiftalignError(f"{path}: {what}", hint)


def check_dtype(dtype: str | None) -> None:
    """Raises SwiftalignError unless `--dtype` names one of torch's three common dtypes, or is left out."""
    if dtype not in (None, "float32", "bfloat16", "float16"):
        raise SwiftalignError(f"--dtype {dtype}: must be float32, bfloat16 or float16")


def check_allowed(allowed: list[str] | None) -> list[str]:
    import swiftalign.methods  # noqa: F401  # registers the codes of the methods

    known = {**CODES, **DATA_CODES}
    for code in allowed or []:
        if code not in known:
            import difflib

            near = difflib.get_close_matches(code, known, n=1)
            hint = f"did you mean {near[0]}?" if near else "docs/findings.md lists the codes"
            raise SwiftalignError(f"--allow {code}: no problem has this code", hint)
    return allowed or []
