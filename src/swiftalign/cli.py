"""The commands: options, printing and exit codes; nothing else."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from swiftalign.errors import ConfigError, SwiftalignError

if TYPE_CHECKING:
    from rich.console import Console

    from swiftalign.config import Config
    from swiftalign.modules import Modules
    from swiftalign.plan import TuningPlan

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


def main(argv: list[str] | None = None) -> int:
    """Run a command line and return its exit code: 0 yes, 1 a checked no, 2 could not answer."""
    try:
        app(args=argv, prog_name="swiftalign")
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 2
    except SwiftalignError as error:
        _print_error(error)
        return error.exit_code
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has gone, e.g. `| head`
        sys.stderr.close()
        return 1
    return 0


def _print_error(error: SwiftalignError) -> None:
    if isinstance(error, ConfigError):
        for problem in error.problems:
            print(f"error: {problem}", file=sys.stderr)
            if problem.hint:
                print(f"hint: {problem.hint}", file=sys.stderr)
        return
    for line in error.message.splitlines() or [""]:
        print(f"error: {line}", file=sys.stderr)
    if error.hint:
        print(f"hint: {error.hint}", file=sys.stderr)


def _console(*, stderr: bool = False) -> Console:
    from rich.console import Console

    console = Console(stderr=stderr, highlight=False)
    if not console.is_terminal:
        console = Console(stderr=stderr, highlight=False, width=160)
    return console


def _resolve(configs: list[Path], overrides: list[str] | None) -> tuple[Config, Modules, TuningPlan]:
    from swiftalign.config_files import load_config
    from swiftalign.modules import read_modules
    from swiftalign.plan import resolve_plan

    config = load_config(configs, overrides or [])
    with _console(stderr=True).status("reading the model"):  # drawn on a terminal only
        modules = read_modules(config)
    return config, modules, resolve_plan(config, modules)


def _check_allowed(allowed: list[str] | None) -> list[str]:
    from swiftalign.findings import CODES

    for code in allowed or []:
        if code not in CODES:
            import difflib

            near = difflib.get_close_matches(code, CODES, n=1)
            raise SwiftalignError(f"--allow {code}: no such finding", f"did you mean {near[0]}?" if near else None)
    return allowed or []


@app.command()
def init(
    path: Annotated[Path, typer.Argument(help="The file to write.")] = Path("config.yaml"),
    model: Annotated[str | None, typer.Option(help="Hub id, or folder of a local model.")] = None,
    method: Annotated[str | None, typer.Option(help="modules_to_save, lora, dora, adalora, boft or fourierft.")] = None,
    problem: Annotated[
        str | None,
        typer.Option(
            help="Choose the method by problem: overfitting, grounding-drift, capacity, optimization, "
            "coordinate-space or spatial-patterns."
        ),
    ] = None,
    train_file: Annotated[str | None, typer.Option("--train", help="JSONL file to train on.")] = None,
    val_file: Annotated[str | None, typer.Option("--val", help="JSONL file to validate on.")] = None,
    demo: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Make a workspace with a tiny Qwen3-VL and drawn data instead.")
    ] = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema of config files, and stop.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite what is there.")] = False,
) -> None:
    """Write a commented configuration, or a demo workspace.

    Asks for what is missing on a terminal. Examples:

      swiftalign init --model Qwen/Qwen3-VL-4B-Instruct --method dora --train data/train.jsonl

      swiftalign init --demo demo
    """
    if schema:
        from swiftalign.schema import config_schema

        print(json.dumps(config_schema(), indent=2))
        return
    from swiftalign.setup import DemoRequest, InitRequest, write_demo, write_init

    console = _console()
    if demo is not None:
        with console.status("building a tiny Qwen3-VL and drawing its data"):
            written = write_demo(DemoRequest(demo, method or "modules_to_save", force))
    else:
        request = InitRequest(path, model, method, problem, train_file, val_file, force)
        written = write_init(_ask_for_missing(request) if sys.stdin.isatty() else request)
    for line in written:
        console.print(line, soft_wrap=True)


def _ask_for_missing(request: Any) -> Any:
    from dataclasses import replace

    from swiftalign.recipes import RECIPES

    if request.model is None:
        request = replace(request, model=typer.prompt("Model (hub id or folder)", default="Qwen/Qwen3-VL-4B-Instruct"))
    if request.method is None and request.problem is None:
        for name, recipe in RECIPES.items():
            print(f"  {name:16} {recipe.summary}")
        request = replace(request, method=typer.prompt("Method", default="modules_to_save"))
    if request.train is None:
        request = replace(request, train=typer.prompt("Training data (JSONL)", default="data/train.jsonl"))
    return request


@app.command("inspect-params")
def inspect_params(
    configs: Configs,
    overrides: Overrides = None,
    allowed: Allowed = None,
    expect: Annotated[
        str | None, typer.Option(metavar="aligner", help="Fail unless all of the aligner trains, and nothing else.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what a configuration would train.

    Reads names, shapes and dtypes only; the model is not loaded.
    Exit code 0, or 1 with error findings, or 2 where there is no answer. Examples:

      swiftalign inspect-params stage4.yaml

      swiftalign inspect-params stage4.yaml --expect aligner --json
    """
    if expect not in (None, "aligner"):
        raise SwiftalignError(f"--expect {expect}: only 'aligner' can be expected")
    allowed = _check_allowed(allowed)
    _config, modules, plan = _resolve(configs, overrides)
    from dataclasses import replace

    from swiftalign.checks.trained import expect_aligner
    from swiftalign.findings import blocking
    from swiftalign.report import plan_json, print_findings, print_plan

    if expect:
        plan = replace(plan, findings=(*plan.findings, *expect_aligner(plan, modules)))
    if as_json:
        print(json.dumps(plan_json(plan), indent=2))
    else:
        console = _console()
        print_plan(plan, modules, console)
        if plan.findings:
            console.print()
            print_findings(plan.findings, console, allowed=allowed)
    if blocking(plan.findings, allowed):
        raise typer.Exit(1)


@app.command("verify-ckpt")
def verify_ckpt(
    path: Annotated[
        Path, typer.Argument(help="A checkpoint, a run (its newest checkpoint), a model folder or a weight file.")
    ],
    configs: Annotated[
        list[Path] | None,
        typer.Option("--config", metavar="FILE", help="The run's config, where no plan.json lies beside it."),
    ] = None,
    base: Annotated[
        Path | None, typer.Option(metavar="MODEL", help="Base model: only what the plan trains may differ from it.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Check every checkpoint of a run.")] = False,
    deep: Annotated[bool, typer.Option("--deep", help="Read every byte: finite, moved.")] = False,
    table: Annotated[bool, typer.Option("--table", help="List the merger's keys and shapes.")] = False,
    as_json: AsJson = False,
) -> None:
    """Check that a checkpoint is what its run promised.

    What is expected comes from the run's plan.json, else from --config, else from adapter_config.json and its base.
    Exit code 0, or 1 with error findings, or 2 where it can't be checked. Examples:

      swiftalign verify-ckpt runs/stage4

      swiftalign verify-ckpt checkpoint-500 --deep --base Qwen3-VL-4B-Instruct
    """
    from swiftalign.verify import checkpoints_of, verify

    config = None
    if configs:
        from swiftalign.config_files import load_config

        config = load_config(configs)
    paths = (checkpoints_of(path) if every else []) or [path]
    with _console(stderr=True).status("reading every byte" if deep else "reading headers"):
        results = [verify(item, config=config, base=base, deep=deep) for item in paths]
    if as_json:
        values = [result.to_json() for result in results]
        print(json.dumps(values if every else values[0], indent=2))
    else:
        from swiftalign.report import print_verification

        for result in results:
            print_verification(result, _console(), keys=table)
    if not all(result.ok for result in results):
        raise typer.Exit(1)


@app.command()
def export(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint folder, or a run folder (its newest checkpoint).")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="The folder to make.")],
    base: Annotated[Path | None, typer.Option(metavar="MODEL", help="Base model, where it has moved.")] = None,
    dtype: Annotated[str | None, typer.Option(help="Convert to float32, bfloat16 or float16, and merge in it.")] = None,
    link: Annotated[bool, typer.Option("--link", help="Hard-link weight files in which nothing changes.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the output folder.")] = False,
    adapter_only: Annotated[bool, typer.Option("--adapter-only", help="Just the adapter, cleaned.")] = False,
    aligner_only: Annotated[bool, typer.Option("--aligner-only", help="Just the merged aligner tensors.")] = False,
    check_logits: Annotated[
        bool, typer.Option("--check-logits", help="Load base with adapter and the result, and compare.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Merge a checkpoint into its base: a model folder to serve.

    Everything that the run did not train stays the base's own, to the byte; the result is checked before it appears.
    Exit code 0, or 1 where the checkpoint is refused, or 2 where there is none. Examples:

      swiftalign export runs/stage4 --output models/stage4

      swiftalign export checkpoint-500 -o models/stage4 --base Qwen3-VL-4B-Instruct --link
    """
    if dtype not in (None, "float32", "bfloat16", "float16"):
        raise SwiftalignError(f"--dtype {dtype}: must be float32, bfloat16 or float16")
    if adapter_only and aligner_only:
        raise SwiftalignError("--adapter-only and --aligner-only exclude each other")
    from swiftalign.export import export as write_export
    from swiftalign.report import print_export

    with _console(stderr=True).status("merging"):
        report = write_export(
            checkpoint,
            output,
            base=base,
            dtype=dtype,
            link=link,
            force=force,
            adapter_only=adapter_only,
            aligner_only=aligner_only,
            check_logits=check_logits,
        )
    if as_json:
        print(json.dumps(report.to_json(), indent=2))
    else:
        print_export(report, _console())


@app.command()
def train(
    configs: Configs,
    overrides: Overrides = None,
    allowed: Allowed = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the arguments for ms-swift, and stop.")] = False,
    as_json: AsJson = False,
) -> None:
    """Check a configuration, then train it with ms-swift.

    Exit code 0, or 1 where pre-flight finds an error or training fails, or 2 where the configuration can't be read.
    Examples:

      swiftalign train stage4.yaml

      swiftalign train base.yaml stage4.yaml --set training.aligner_lr=5e-5

      swiftalign train stage4.yaml --dry-run
    """
    allowed = _check_allowed(allowed)
    config, _, plan = _resolve(configs, overrides)
    from swiftalign.findings import blocking
    from swiftalign.report import print_findings
    from swiftalign.training.run_folder import choose_run_folder

    print_findings(plan.findings, _console(stderr=True), allowed=allowed)
    if blocking(plan.findings, allowed):
        raise typer.Exit(1)
    _require_data(config)
    folder = choose_run_folder(config, configs[0])
    if dry_run:
        _print_arguments(config, plan, folder, as_json=as_json)
        return
    _train(config, plan, folder, as_json=as_json)


def _require_data(config: Config) -> None:
    from swiftalign.grounding.records import check_rows

    if not config.data.train:
        file = config.where().rpartition(":")[0] or config.where()
        raise SwiftalignError(f"{file}: no training data is named", "add a line 'data: {train: data/train.jsonl}'")
    for name in (*config.data.train, *config.data.val):
        check_rows(Path(name))


def _print_arguments(config: Config, plan: TuningPlan, folder: Path, *, as_json: bool) -> None:
    from swiftalign.training.lowering import lower, to_argv

    arguments = lower(config, plan, folder)
    if as_json:
        print(json.dumps(arguments, indent=2))
        return
    for name, value in arguments.items():
        print(" ".join(to_argv({name: value})))


def _train(config: Config, plan: TuningPlan, folder: Path, *, as_json: bool) -> None:
    from swiftalign.report import short_path
    from swiftalign.training.launch import follow_training
    from swiftalign.training.progress import RunProgress
    from swiftalign.training.run_folder import locked, write_run_files

    console = _console(stderr=as_json)
    with locked(folder):
        write_run_files(folder, config, plan)
        console.print(f"run folder  {short_path(folder)}", soft_wrap=True)
        console.print(
            f"training    {plan.method}: {len(plan.trainables)} tensors, {plan.trainable_parameters:,} of "
            f"{plan.total_parameters:,} parameters"
        )
        with RunProgress(console) as progress:
            for event in follow_training(folder, local_model=Path(config.model.path).is_absolute()):
                progress.show(event)
        result = progress.finish(folder, plan)
    if as_json:
        print(json.dumps(result, indent=2))
