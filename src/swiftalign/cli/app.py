"""The application, and what its commands share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from swiftalign.problems import SwiftalignError

if TYPE_CHECKING:
    from rich.console import Console

    from swiftalign.config.sections import Config
    from swiftalign.model.tree import Model
    from swiftalign.plan.plan import TuningPlan

app = typer.Typer(
    name="swiftalign",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Configs = Annotated[
    list[Path], typer.Argument(metavar="CONFIG", help="YAML files; later ones are laid over earlier ones.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Override a setting, e.g. --set tuner.lora_rank=32."),
]
Allowed = Annotated[
    list[str] | None, typer.Option("--allow", metavar="CODE", help="Let an error finding through by its code.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]


@app.callback(
    invoke_without_command=True,
    epilog="New here? 'swiftalign init --demo demo' makes a small workspace to try everything in.",
)
def options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)] = False,
) -> None:
    """Fine-tune the aligner of Qwen3-VL with ms-swift. What it says will train is what trains."""
    if version:
        from swiftalign import __version__

        print(f"swiftalign {__version__}")
        raise typer.Exit


def open_console(*, stderr: bool = False) -> Console:
    from rich.console import Console

    console = Console(stderr=stderr, highlight=False)
    if not console.is_terminal:
        console = Console(stderr=stderr, highlight=False, width=160)
    return console


def read_plans(
    configs: list[Path], overrides: list[str] | None, *, processes: int = 1
) -> tuple[Config, Model, list[TuningPlan]]:
    """The configuration, its model, and the plan of each of its phases, or of the one run that it is."""
    from swiftalign.config.load import load_config
    from swiftalign.model.read import read_model
    from swiftalign.plan.resolve import resolve

    config = load_config(configs, overrides or [])
    with open_console(stderr=True).status("reading the model"):  # drawn on a terminal only
        modules = read_model(config)
    return config, modules, [resolve(part, modules, processes=processes) for part in config.runs]


def require_training_data(config: Config) -> None:
    if not config.data.train:
        file = config.where().rpartition(":")[0] or config.where()
        file = f"{file}: {config.phase}" if config.phase else file
        raise SwiftalignError(f"{file}: no training data is named", "add a line 'data: {train: data/train.jsonl}'")


def check_allowed(allowed: list[str] | None) -> list[str]:
    import swiftalign.methods  # noqa: F401  # registers the codes of the methods
    from swiftalign.problems import CODES, DATA_CODES

    known = {**CODES, **DATA_CODES}

    for code in allowed or []:
        if code not in known:
            import difflib

            near = difflib.get_close_matches(code, known, n=1)
            raise SwiftalignError(f"--allow {code}: no such finding", f"did you mean {near[0]}?" if near else None)
    return allowed or []
