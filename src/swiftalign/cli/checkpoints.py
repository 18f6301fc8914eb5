"""`swiftalign verify-ckpt` and `swiftalign export`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from swiftalign.cli.app import DTYPES, AsJson, Base, Which, as_result, check_dtype, print_json
from swiftalign.cli.complete import one_of
from swiftalign.cli.terminal import open_console
from swiftalign.problems import SwiftalignError, counted


def verify_ckpt(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="RUN_OR_CHECKPOINT",
            help="A run folder, a checkpoint of it, a model folder or a weight file.",
        ),
    ],
    which: Which = None,
    configs: Annotated[
        list[Path] | None,
        typer.Option(
            "--config", metavar="CONFIG", help="Take the run's config, if there is no plan.json beside the checkpoint."
        ),
    ] = None,
    base: Annotated[
        Path | None,
        typer.Option(metavar="MODEL", help="Compare with this base model: only what the plan trains may differ."),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Check every checkpoint of a run.")] = False,
    deep: Annotated[
        bool, typer.Option("--deep", help="Read every byte: values must be finite, and trained ones must have changed.")
    ] = False,
    table: Annotated[bool, typer.Option("--table", help="List the keys and shapes of the aligner's mergers.")] = False,
    as_json: AsJson = False,
) -> None:
    """Check that a checkpoint holds what its run was to train.

    The expected tensors come from the run's plan.json, or from --config. Without both, they come from
    adapter_config.json and the base model that it names, or for a model folder from its config.json.

    Exit codes: 0 = sound, 1 = a problem is an error, 2 = the checkpoint can't be checked.

    Examples:

      swiftalign verify-ckpt runs/stage4

      swiftalign verify-ckpt runs/stage4 --checkpoint last

      swiftalign verify-ckpt checkpoint-500 --deep --base Qwen3-VL-4B-Instruct

    Next: 'swiftalign export RUN --output FOLDER' merges the checkpoint into its base model.
    """
    if every and which is not None:
        raise SwiftalignError("--all and --checkpoint exclude each other")
    from swiftalign.checkpoint.choose import checkpoints_of
    from swiftalign.checkpoint.verify import verify
    from swiftalign.cli.show import print_verification
    from swiftalign.config.load import load_config

    config = load_config(configs) if configs else None
    paths = (checkpoints_of(path) if every else []) or [path]
    with open_console(stderr=True).status("reading every byte" if deep else "reading headers"):
        results = [verify(item, config=config, base=base, deep=deep, which=which) for item in paths]
    if as_json:
        values = [
            as_result({**result.to_json(), "checkpoint": str(result.checkpoint.path)}, result.findings, ok=result.ok)
            for result in results
        ]
        print_json(values if every else values[0])
    else:
        for result in results:
            print_verification(result, open_console(), keys=table)
    if not all(result.ok for result in results):
        raise typer.Exit(1)


def export(
    checkpoint: Annotated[
        Path,
        typer.Argument(metavar="RUN_OR_CHECKPOINT", help="A run folder, or a checkpoint folder."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="Write this folder.")],
    which: Which = None,
    base: Base = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            metavar="DTYPE",
            help="Convert what is written to float32, bfloat16 or float16, and merge in this dtype.",
            autocompletion=one_of(*DTYPES),
        ),
    ] = None,
    link: Annotated[bool, typer.Option("--link", help="Hard-link the weight files that do not change.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the output folder or file.")] = False,
    adapter_only: Annotated[
        bool,
        typer.Option("--adapter-only", help="Write only the adapter, without the optimizer's and the trainer's state."),
    ] = False,
    aligner_only: Annotated[
        bool, typer.Option("--aligner-only", help="Write only the merged tensors of the aligner.")
    ] = False,
    mmproj: Annotated[
        bool,
        typer.Option(
            "--mmproj",
            help="Write only llama.cpp's vision file (GGUF): FOLDER is a folder, or a file that ends in .gguf. "
            "--dtype is the type of its matrices.",
        ),
    ] = False,
    check_logits: Annotated[
        bool,
        typer.Option(
            "--check-logits", help="Load both the base with the adapter and the result, and compare their logits."
        ),
    ] = False,
    scale: Annotated[
        float,
        typer.Option(
            metavar="SHARE",
            help="Go this share of the way from the base to the trained values: at 0.8, less is learnt and less "
            "forgotten.",
        ),
    ] = 1.0,
    push: Annotated[
        str | None,
        typer.Option(
            metavar="OWNER/NAME",
            help="Upload the folder to this repository of the Hugging Face hub, which then holds these files and no "
            "others. A new repository is private.",
        ),
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="Let everybody see what --push uploads.")] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="Let --push replace the files of a repository without a question.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Merge a checkpoint into its base model, for serving.

    The result is a model folder. Tensors that the run did not train stay equal to the base's, byte for byte,
    unless --dtype converts them. The folder is checked before it gets its name. Its README.md says which checkpoint
    it was made of, and why this one.

    Exit codes: 0 = written, 1 = the checkpoint is refused or the upload failed, 2 = there is no checkpoint, no base or
    no access to the hub.

    Examples:

      swiftalign export runs/stage4 --output models/stage4

      swiftalign export runs/stage4 --checkpoint 300 -o models/stage4-early

      swiftalign export runs/stage4 -o models/stage4-averaged --scale 0.8

      swiftalign export checkpoint-500 -o models/stage4 --base Qwen3-VL-4B-Instruct --link

      swiftalign export runs/stage4 -o mmproj-stage4-F16.gguf --mmproj --dtype float16

      swiftalign export runs/stage4 -o models/stage4 --push my-name/stage4

    Next: 'swiftalign eval FOLDER ROWS' measures the model, and 'swiftalign docs serving' has servers for it.
    """
    check_dtype(dtype)
    parts = {"--adapter-only": adapter_only, "--aligner-only": aligner_only, "--mmproj": mmproj}
    asked = [name for name, is_asked in parts.items() if is_asked]
    if len(asked) > 1:
        raise SwiftalignError(f"{' and '.join(asked)} exclude each other")
    if asked and (link or check_logits):
        raise SwiftalignError(f"{'--link' if link else '--check-logits'} is for a whole model, not for a part of it")
    if (public or yes) and push is None:
        raise SwiftalignError(f"{'--public' if public else '--yes'} is for --push", "name the repository with --push")
    if push is not None and mmproj and output.suffix == ".gguf":
        raise SwiftalignError("--push uploads a folder", "name a folder with --output, in which the GGUF file will lie")
    if output.suffix == ".gguf" and not mmproj:
        hint = "pass --mmproj to write llama.cpp's vision file, or name a folder"
        raise SwiftalignError(f"--output {output}: a model is written as a folder", hint)
    from swiftalign.cli.show import print_export
    from swiftalign.exports.export import export as write_export
    from swiftalign.exports.push import find_repository, push_folder

    repository, pushed = find_repository(push, public=public) if push is not None else None, None
    if repository and repository.files and not yes:
        about = f"{repository.hub_id} holds {counted(len(repository.files), 'file')}, which the upload replaces"
        if not sys.stdin.isatty():
            raise SwiftalignError(about, "pass --yes to replace them, or name another repository")
        typer.confirm(f"{about}. Go on?", abort=True, err=True)
    console = open_console(stderr=True)
    with console.status("merging"):
        report = write_export(
            checkpoint,
            output,
            base=base,
            dtype=dtype,
            link=link,
            force=force,
            adapter_only=adapter_only,
            aligner_only=aligner_only,
            mmproj=mmproj,
            check_logits=check_logits,
            hub_id=repository.hub_id if repository else None,
            which=which,
            scale=scale,
        )
    if repository:
        if not console.is_terminal:
            from huggingface_hub.utils.tqdm import disable_progress_bars

            disable_progress_bars()
        pushed = push_folder(report.output, repository)
    if as_json:
        print_json(as_result(report.to_json() | {"pushed": pushed}))
    else:
        print_export(report, open_console())
        if repository and pushed:
            print(f"{'pushed':12}{pushed}  ({'private' if repository.private else 'public'})")
