"""`swiftalign eval`."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from swiftalign.cli.app import Allowed, AsJson, Base, Dtype, Which, as_result, check_allowed, check_dtype, check_inputs
from swiftalign.cli.complete import one_of
from swiftalign.cli.terminal import bar_column, new_table, open_console, print_table, tell
from swiftalign.problems import SwiftalignError, counted, printable

if TYPE_CHECKING:
    from swiftalign.evaluation.evaluate import Progress as Shown
    from swiftalign.evaluation.report import Evaluation
    from swiftalign.evaluation.session import Start

_MOST_GROUPS = 10  # lines of a table of labels or files
_MOST_CONFUSED = 5  # pairs of labels


def evaluate(
    model: Annotated[
        Path,
        typer.Argument(metavar="MODEL", help="A model folder, a run folder, a checkpoint or an adapter."),
    ],
    rows: Annotated[
        list[Path], typer.Argument(metavar="ROWS", help="Files or folders of rows, as data.train takes them.")
    ],
    against: Annotated[
        Path | None,
        typer.Option(metavar="MODEL", help="Compare with this model, or with the folder of its evaluation."),
    ] = None,
    which: Which = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FOLDER", help="Write this folder.  [default: eval-MODEL]")
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Ask MODEL of a server by OpenAI's protocol: http://localhost:8000/v1."),
    ] = None,
    served_name: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Ask the model of this name, if the server has several."),
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option(
            metavar="BENCHMARK",
            help="Count as a benchmark does, too: refcoco (phrases) or coco (mAP of boxes).",
            autocompletion=one_of("refcoco", "coco"),
        ),
    ] = None,
    configs: Annotated[
        list[Path] | None,
        typer.Option("--config", metavar="CONFIG", help="Ask as this configuration trains.  [default: the run's own]"),
    ] = None,
    base: Base = None,
    limit: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Ask at most N rows, drawn evenly from all.")
    ] = None,
    dtype: Dtype = None,
    device: Annotated[
        str | None,
        typer.Option(
            metavar="DEVICE",
            help="Run the model on cpu, cuda or cuda:1.  [default: a GPU where there is one]",
            autocompletion=one_of("cpu", "cuda"),
        ),
    ] = None,
    allow: Allowed = None,
    force: Annotated[bool, typer.Option("--force", help="Ask anew, and replace the evaluation that is there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Ask a model where things are, and compare its answers with the true ones.

    The folder gets each answer (predictions.jsonl), the numbers (summary.json), the worst answers as a page to look at
    (eval.html), and the very worst as a picture (worst.png). A call that was stopped goes on where it stopped.
    An answer is cut off when it is a quarter longer than the true one.
    With --url, MODEL is the folder that is served, or its id on a hub: it says how the model writes coordinates. A key
    is read from OPENAI_API_KEY.

    Exit codes: 0 = done, 1 = some rows could not be asked, 2 = the command fails.

    Examples:

      swiftalign eval runs/stage4 data/val.jsonl --against Qwen3-VL-4B-Instruct

      swiftalign eval models/stage4 data/val.jsonl --url http://localhost:8000/v1 --served-name stage4

    Next: 'swiftalign docs evaluation' says what the numbers mean.
    """
    from swiftalign.config.load import load_config
    from swiftalign.evaluation.protocols import PROTOCOLS
    from swiftalign.files import short_path

    check_inputs(rows)
    allowed = check_allowed(allow)
    if protocol and protocol not in PROTOCOLS:
        raise SwiftalignError(f"--protocol {protocol}: must be {' or '.join(PROTOCOLS)}")
    check_dtype(dtype)
    if served_name and not url:
        raise SwiftalignError("--served-name names a model of a server", "give the server's address with --url")
    console = open_console(stderr=True)
    with console.status("reading"):
        from swiftalign.evaluation.session import Session, Ways

        ways = Ways(url, served_name, os.environ.get("OPENAI_API_KEY"), protocol == "coco", device, dtype, base)
        config = load_config(configs) if configs else None
        session = Session.open(model, rows, ways, which=which, config=config, limit=limit, allowed=allowed)
    if session.assumed:
        told = f"it is not known how {model} writes coordinates; thousandths of the image's sides are assumed"
        tell(console, f"warning: {told}")
    folder = output or Path(f"eval-{model.resolve().name}")
    with _progress(console) as progress:
        found = session.evaluate(folder, against, protocol=protocol or "", anew=force, progress=progress)
    if as_json:
        files = {"output": str(folder), "page": str(folder / "eval.html")}
        failed = sum(len(each.failed) for each in found.both)
        about = SwiftalignError(f"{counted(failed, 'row')} could not be asked", "the same command asks them again")
        values = as_result(found.to_json() | files, [about] if failed else [], ok=not failed)
        print(json.dumps(values, indent=2, ensure_ascii=False))
    else:
        if session.subject.chosen:
            print(f"{session.subject.name}: {session.subject.chosen}\n")
        for remark in session.subject.remarks:
            print(f"note  {remark}\n")
        _print(found, open_console())
        print(f"answers  {short_path(folder / 'predictions.jsonl')}")
        print(f"page     {short_path(folder / 'eval.html')}")
    if any(each.failed for each in found.both):
        raise typer.Exit(1)


@contextmanager
def _progress(console: Console) -> Iterator[Start]:
    """A bar for each model that is asked, with the time that is left."""
    from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        bar_column(console),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:

        def start(name: str) -> Shown:
            task = bar.add_task(name, total=None)
            return lambda done, total: bar.update(task, description=name, completed=done, total=total)

        yield start


def _print(found: Evaluation, console: Console) -> None:
    from swiftalign.evaluation.report import KIND_NAMES, percent
    from swiftalign.evaluation.summary import GROUPS, confusion

    print_table(_by_kind(found), console)
    for group in GROUPS:
        names = {name for each in found.both for kind, name in each.tables[group] if name != "-"}
        if group != "kind" and len(names) > 1:
            console.print()
            print_table(_by_group(found, group), console)
            true = sum(count.true > 0 for count in found.mine.tables[group].values())
            if true > _MOST_GROUPS:
                tell(console, f"and {true - _MOST_GROUPS} more in summary.json")
    console.print()
    several = len(found.both) > 1
    for kind, each in found.differences.items():
        value, low, high = (f"{100 * number:+.1f}" for number in (each.value, each.low, each.high))
        sure = "" if each.low > 0 or each.high < 0 else ", which may be chance"
        told = f"{value} points against {found.both[1].name} (95% interval {low} to {high}){sure}"
        _tell(f"F1 of {KIND_NAMES.get(kind, kind):8} {told}", console)
    for answered, values in zip(found.both, found.by_protocol, strict=False):
        shown = (f"{name} {percent(each) if isinstance(each, float) else each}" for name, each in values.items())
        _tell(f"{found.protocol:10} {answered.name}: {', '.join(shown)}", console)
    for answered in found.both:
        of = f" of {answered.name}" if several else ""
        if pairs := confusion(answered.asked).most_common(_MOST_CONFUSED):
            told = ", ".join(f"{true} as {written} ({count})" for (true, written), count in pairs)
            _tell(f"mixed up{of}: {told}", console)
        if bad := answered.malformed:
            told = f"{len(bad)} of {len(answered.asked):,} answers{of}, e.g. {bad[0].question.where}:"
            _tell(f"malformed: {told}", console)
            _tell(f"  {' '.join((bad[0].text or '').split())[:200]}", console)
        if answered.failed:
            told = f"{counted(len(answered.failed), 'row')}{of} could not be asked: {answered.failed[0].error[:200]}"
            _tell(f"failed: {told}; the same command asks them again", console)
    if found.left_out:
        tell(console, f"left out: {counted(found.left_out, 'row')} that do not ask where something is")


def _tell(text: str, console: Console) -> None:
    """A line with words of rows and answers, which a terminal must not obey."""
    tell(console, printable(text))


def _by_kind(found: Evaluation) -> Table:
    """All numbers of each kind, of one model or of two."""
    from swiftalign.data.targets import KINDS
    from swiftalign.evaluation.report import HEADINGS, KIND_NAMES, cells

    shown = new_table("kind", "model", *HEADINGS, texts=2)
    for kind in KINDS:
        name = KIND_NAMES.get(kind, kind)
        for answered in found.both:
            if count := answered.tables["kind"].get((kind, "")):
                shown.add_row(name, Text(printable(answered.name)), *cells(kind, count))
                name = ""
    return shown


def _by_group(found: Evaluation, group: str) -> Table:
    """Recall, precision and F1 by kind and label, size or file, the most frequent first; of two models, both F1."""
    from swiftalign.evaluation.report import KIND_NAMES, percent

    mine, *others = found.both
    of_other = [f"F1 of {each.name}" for each in others]
    shown = new_table("kind", group, "true", "recall", "precision", "F1", *of_other, texts=2)
    true = [(key, count) for key, count in mine.tables[group].items() if count.true]
    entries = sorted(true, key=lambda item: (-item[1].true, item[0]))
    for (kind, name), count in entries[:_MOST_GROUPS]:
        values = [count.recall, count.precision, count.f1]
        values += [theirs.f1 if (theirs := each.tables[group].get((kind, name))) else None for each in others]
        shown.add_row(KIND_NAMES.get(kind, kind), Text(printable(name)), f"{count.true:,}", *map(percent, values))
    return shown
