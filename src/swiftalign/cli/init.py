"""`swiftalign init`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from swiftalign.cli.app import AsJson, as_result, print_json
from swiftalign.cli.complete import example_names, method_names, problem_names
from swiftalign.cli.terminal import open_console, tell
from swiftalign.problems import SwiftalignError


def init(
    path: Annotated[Path, typer.Argument(metavar="CONFIG", help="The file to write.")] = Path("config.yaml"),
    model: Annotated[str | None, typer.Option(metavar="MODEL", help="Train this model: a hub id or a folder.")] = None,
    method: Annotated[
        str | None,
        typer.Option(
            metavar="METHOD",
            autocompletion=method_names,
            help="Choose what trains: the aligner whole (modules_to_save, or full, without an adapter file), adapters "
            "on it (lora, dora, adalora, boft, fourierft), or mixed: it trains whole, with LoRA on the last layers of "
            "LLM and ViT.",
        ),
    ] = None,
    problem: Annotated[
        str | None,
        typer.Option(
            metavar="PROBLEM",
            autocompletion=problem_names,
            help="Choose the method by the problem to solve: overfitting (few rows), grounding-drift (targets move), "
            "forgetting (of what the model knew), capacity (which layers need more rank), optimization (rank limits "
            "the fit), coordinate-space (keep the features' geometry) or spatial-patterns. The file says why, and what "
            "was measured.",
        ),
    ] = None,
    train_file: Annotated[str | None, typer.Option("--train", metavar="ROWS", help="Train on this file.")] = None,
    val_file: Annotated[
        str | None,
        typer.Option(
            "--val",
            metavar="ROWS",
            help="Validate on this file. The config then measures accuracy by kind of target, keeps the best model and "
            "stops early.",
        ),
    ] = None,
    replay_file: Annotated[
        str | None,
        typer.Option(
            "--replay",
            metavar="ROWS",
            help="Mix in rows of what the model must not forget, such as those it was trained on before: a quarter of "
            "the training rows are drawn from them.",
        ),
    ] = None,
    demo: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Write a demo workspace instead: a small Qwen3-VL, and images of a camera that it was not trained on.",
        ),
    ] = None,
    tiny: Annotated[
        bool,
        typer.Option("--tiny", help="With --demo, write a tiny random model and few rows, which train in seconds."),
    ] = False,
    curriculum: Annotated[
        Path | None,
        typer.Option(
            metavar="ROWS",
            help="Split rows by objects per image, and write a config with one phase per group: complete with --model "
            "and --method or --problem, else one to lay over another config.",
        ),
    ] = None,
    origin: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="SOURCE",
            help="Move a run of another tool here: ms-swift's args.json or the folder of its run or checkpoint, a YAML "
            "file for 'swift sft', a script with a 'swift sft' command line, a YAML file of LLaMA-Factory, or a config "
            "and the files that it extends. --model, --train and --val replace what it names.",
        ),
    ] = None,
    example: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Write one of the worked configurations. A name that there is not, such as 'list', lists them all.",
            autocompletion=example_names,
        ),
    ] = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema of config files, and exit.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite existing files.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write a configuration with comments, or a demo workspace.

    On a terminal, it asks for options that are missing, and checks each answer. Comments in the file say why its
    settings are there.

    Examples:

      swiftalign init

      swiftalign init --model Qwen/Qwen3-VL-4B-Instruct --method dora --train data/train.jsonl --val data/val.jsonl

      swiftalign init --model Qwen/Qwen3.5-4B --method modules_to_save --train data/train.jsonl

      swiftalign init stage4.yaml --model models/stage3 --method mixed --train data/train.jsonl

      swiftalign init phases.yaml --model Qwen/Qwen3-VL-4B-Instruct --method lora --curriculum data/train.jsonl

      swiftalign init stage4.yaml --example anti_overfitting

      swiftalign init --demo demo

      swiftalign init config.yaml --from output/v0-20260101-120000

    Next: 'swiftalign inspect-params CONFIG' shows what the configuration would train.
    """
    if schema:
        from swiftalign.config.schema import config_schema

        print(json.dumps(config_schema(), indent=2))
        return
    from swiftalign.demo.workspace import write_demo
    from swiftalign.init.recipes import recipes
    from swiftalign.init.write import check_first_row, choose_method, source_of, write_curriculum, write_init
    from swiftalign.model.read import read

    console = open_console(stderr=as_json)
    if tiny and demo is None:
        raise SwiftalignError("--tiny works only with --demo", "write --demo DIR --tiny")
    if curriculum is not None and train_file is not None:
        raise SwiftalignError("--curriculum and --train both name the training rows", "remove --train")
    options: dict[str, object] = {"model": model, "method": method, "problem": problem, "train": train_file}
    options |= {"val": val_file, "demo": demo, "curriculum": curriculum, "replay": replay_file, "from": origin}

    def besides(*taken: str) -> str:
        """The options that are given, but for these."""
        return ", ".join(f"--{name}" for name, value in options.items() if value is not None and name not in taken)

    if example is not None:
        from swiftalign.init.examples import write_example

        if given := besides():
            message = f"--example writes a file as it is, so it can't be combined with {given}"
            raise SwiftalignError(message, "leave it out, and change the file that is written")
        written = write_example(path, example, force=force)
    elif origin is not None:
        from swiftalign.init.moved import write_moved

        if given := besides("from", "model", "train", "val"):
            message = f"--from takes the run as its source describes it, so it can't be combined with {given}"
            raise SwiftalignError(message, "leave it out, and change the file that is written")
        written = write_moved(path, origin, model=model, train=train_file, val=val_file, force=force)
    elif demo is not None:
        if given := besides("demo", "method"):
            message = f"--demo has its own model and data, so it can't be combined with {given}"
            raise SwiftalignError(message, "remove one of them")
        with console.status("writing a small Qwen3-VL and drawing its data"):
            written = write_demo(demo, method=method or "modules_to_save", force=force, tiny=tiny)
    elif curriculum is not None and not (model or method or problem or val_file):
        with console.status("reading rows") as status:
            written = write_curriculum(
                path, curriculum, force=force, progress=lambda rows: status.update(f"reading rows: {rows:,}")
            )
    else:
        if sys.stdin.isatty() and not as_json:  # ask for what is missing
            if model is None:
                model = _ask(
                    "Model (hub id or folder)", lambda answer: read(source_of(answer)), "Qwen/Qwen3-VL-4B-Instruct"
                )
            if method is None and problem is None:
                for name, recipe in recipes().items():
                    print(f"  {name:16} {recipe.summary}")
                method = _ask("Method", choose_method, "modules_to_save")
            if train_file is None and curriculum is None:
                train_file = _ask("Training data (empty if there is none yet)", check_first_row)
                if train_file and val_file is None:
                    val_file = _ask("Validation data, to keep the best model (empty for none)", check_first_row)
        with console.status("reading rows") as status:
            written = write_init(
                path,
                model=model,
                method=method,
                problem=problem,
                train=train_file or None,
                val=val_file or None,
                replay=replay_file,
                curriculum=curriculum,
                force=force,
                progress=lambda rows: status.update(f"reading rows: {rows:,}"),
            )
    if as_json:
        print_json(as_result({"config": str(demo / "config.yaml" if demo else path), "lines": written}))
    else:
        for line in written:
            tell(console, line)


def _ask(question: str, check: Callable[[str], object], default: str = "") -> str:
    """Ask until the check accepts the answer; where nothing is the default, it is always accepted."""

    def checked(answer: str) -> str:
        try:
            if answer:
                check(answer)
        except SwiftalignError as error:
            raise typer.BadParameter(f"{error.message}\nHint: {error.hint}" if error.hint else error.message) from None
        return answer

    answer: str = typer.prompt(question, default=default, show_default=bool(default), value_proc=checked)
    return answer
