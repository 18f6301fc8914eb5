"""The Typer application, and the options that several commands share."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from swiftalign.cli.complete import allowed_codes, checkpoints, one_of, settings, values_of_setting
from swiftalign.cli.help import Group
from swiftalign.problems import CODES, DATA_CODES, Problem, SwiftalignError

app = typer.Typer(
    name="swiftalign",
    cls=Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

DTYPES = ("float32", "bfloat16", "float16")

Configs = Annotated[
    list[Path],
    typer.Argument(
        metavar="CONFIG",
        help="YAML files. Settings in later files replace those in earlier ones.",
        autocompletion=values_of_setting,
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="SECTION.KEY=VALUE",
        help="Set one value, e.g. --set tuner.lora_rank=32. It replaces what the files say.",
        autocompletion=settings,
    ),
]
Allowed = Annotated[
    list[str] | None,
    typer.Option(
        "--allow",
        metavar="CODE",
        help="Accept a problem that would be an error, by its code: 'swiftalign docs findings' lists the codes.",
        autocompletion=allowed_codes,
    ),
]
Which = Annotated[
    str | None,
    typer.Option(
        "--checkpoint",
        metavar="best|last|N",
        help="Take this checkpoint of a run folder; N is its step.  [default: best if the run keeps the best, else "
        "last]",
        autocompletion=checkpoints,
    ),
]
Base = Annotated[
    Path | None,
    typer.Option(metavar="MODEL", help="Take the base model from this folder, not from where the checkpoint says."),
]
Dtype = Annotated[
    str | None,
    typer.Option(
        metavar="DTYPE",
        help="Load the model in float32, bfloat16 or float16.  [default: the model's; on a CPU float32]",
        autocompletion=one_of(*DTYPES),
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON to stdout, for scripts.")]


@app.callback(
    invoke_without_command=True,
    epilog="New here? 'swiftalign init --demo demo' writes a small workspace in which to try every command, and "
    "'swiftalign docs' lists the pages of the documentation.",
)
def options(
    version: Annotated[
        bool, typer.Option("--version", "-V", help="Print the version and exit.", is_eager=True)
    ] = False,
) -> None:
    """Fine-tune the aligner of a vision-language model with ms-swift. What it says will train is what trains."""
    if version:
        from swiftalign import __version__

        print(f"swiftalign {__version__}")
        raise typer.Exit


def print_json(values: Any) -> None:
    """The one JSON value that a command with --json prints to stdout."""
    print(json.dumps(values, indent=2))


def as_result(values: dict[str, Any], problems: Iterable[Problem | SwiftalignError] = (), *, ok: bool = True) -> Any:
    """A command's values for --json, with the keys that all commands have: ``ok`` and ``problems``."""
    told: list[Any] = []
    for each in problems:
        told += each.to_json()["problems"] if isinstance(each, SwiftalignError) else [each.to_json()]
    return values | {"ok": ok, "problems": told}


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
    if dtype not in (None, *DTYPES):
        raise SwiftalignError(f"--dtype {dtype}: must be float32, bfloat16 or float16")


def check_allowed(allowed: list[str] | None) -> list[str]:
    import swiftalign.methods  # noqa: F401  # registers the codes of the methods
    from swiftalign.suggest import unknown

    known = {**CODES, **DATA_CODES}
    for code in allowed or []:
        if code not in known:
            about = f"--allow {code}: no problem has this code"
            raise unknown(code, known, about, "'swiftalign docs findings' lists the codes")
    return allowed or []
