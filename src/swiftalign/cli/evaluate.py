"""`swiftalign eval`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from swiftalign.cli.app import AsJson, open_console
from swiftalign.problems import SwiftalignError, counted

if TYPE_CHECKING:
    from swiftalign.evaluation.predictions import Prediction
    from swiftalign.evaluation.summary import Counts

_KINDS = {"bbox": "box"}  # as they are called, where that is not the name of the kind
_MOST_LABELS = 20  # rows of the table of labels


def evaluate(
    model: Annotated[
        Path,
        typer.Argument(metavar="MODEL", help="A model folder, a run, a checkpoint or an adapter; - with --url."),
    ],
    rows: Annotated[
        list[Path], typer.Argument(metavar="ROWS", help="Files or folders of rows, as data.train takes them.")
    ],
    base: Annotated[
        Path | None,
        typer.Option(metavar="MODEL", help="Folder of the base model, if it is no longer where the checkpoint says."),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Ask a server by OpenAI's protocol, e.g. http://localhost:8000/v1."),
    ] = None,
    served_name: Annotated[
        str | None, typer.Option(metavar="NAME", help="The name of the model on that server.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="DIR", help="Folder to write.  [default: eval-MODEL]")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Ask anew, and replace what the folder holds.")] = False,
    as_json: AsJson = False,
) -> None:
    """Ask a model where things are, and compare its answers with the true ones.

    The folder gets each answer in predictions.jsonl and the numbers in summary.json. A call that was stopped goes on
    where it stopped. Exit codes: 0 = done, 1 = some rows could not be asked, 2 = the command fails. Examples:

      swiftalign eval runs/stage4 data/val.jsonl

      swiftalign eval models/stage4 data/val.jsonl --url http://localhost:8000/v1 --served-name stage4
    """
    for path in rows:
        if not path.exists():
            raise SwiftalignError(f"{path}: no such file or folder", "check the path")
    console = open_console(stderr=True)
    with console.status("loading"):
        from swiftalign.config.sections import Config, DataSource
        from swiftalign.data.encoding import encoding_of
        from swiftalign.data.rows import Rows
        from swiftalign.evaluation.evaluate import PREDICTIONS, ask, begin, questions_of
        from swiftalign.evaluation.predictions import PredictionFile
        from swiftalign.evaluation.subject import find_subject
        from swiftalign.evaluation.summary import GROUPS, counts

        subject = find_subject(model, base)
        config = subject.config or Config.model_validate({"model": {"path": str(subject.folder)}})
        encoding = encoding_of(config)
        data = Rows([DataSource(path=str(path)) for path in rows], writing=encoding.writing)
        questions, others = questions_of(data)
        folder = output or Path(f"eval-{model.resolve().name}")
        settings = {
            "model": str(subject.path.resolve()),
            "files": [[str(file), file.stat().st_size, file.stat().st_mtime_ns] for file in subject.files],
            "url": url,
            "rows": [[str(path.resolve()), path.stat().st_mtime_ns] for path in rows],
        }
        begin(folder, settings, anew=force)
        file = PredictionFile(folder / PREDICTIONS, encoding.writing)
        engine: Any
        if url:
            from swiftalign.evaluation.served import ServedModel

            engine = ServedModel(url, served_name or model.name, system=encoding.system)
        else:
            from swiftalign.evaluation.local import LocalModel

            engine = LocalModel(subject.folder, subject.adapter, system=encoding.system)
    found = ask(engine, questions, data, file)
    answered = [each for each in found if not each.error]
    tables = {name: counts(answered, key) for name, key in GROUPS.items()}
    summary = _summary(found, tables, others)
    (folder / "summary.json").write_text(json.dumps(summary, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if as_json:
        print(json.dumps(summary, indent=2, ensure_ascii=False))
    else:
        _print(found, tables, others, open_console())
    if len(answered) < len(found):
        raise typer.Exit(1)


Tables = dict[str, dict[tuple[Any, str], "Counts"]]


def _summary(found: Sequence[Prediction], tables: Tables, others: int) -> dict[str, Any]:
    from swiftalign.data.metrics import BY_DISTANCE

    answered = [each for each in found if not each.error]
    return {
        "rows": len(found),
        "rows_left_out": others,
        "failed": len(found) - len(answered),
        "malformed": sum(not each.answer.sound for each in answered),
        **{
            name: [
                {"kind": kind, **({} if name == "kind" else {name: group})}
                | count.to_json(distance=kind in BY_DISTANCE)
                for (kind, group), count in sorted(table.items())
            ]
            for name, table in tables.items()
        },
    }


def _print(found: Sequence[Prediction], tables: Tables, others: int, console: Console) -> None:
    from swiftalign.data.metrics import BY_DISTANCE

    answered = [each for each in found if not each.error]
    for name, table in tables.items():
        if name != "kind" and len({group for _, group in table}) < 2:
            continue
        shown = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for heading in ("kind", *([name] if name != "kind" else [])):
            shown.add_column(heading)
        for heading in ("true", "recall", "precision", "F1", "F1 at 0.75", "mean IoU", "distance"):
            shown.add_column(heading, justify="right")
        most = sorted(table.items(), key=lambda item: -item[1].true)[:_MOST_LABELS]
        for (kind, group), count in most:
            values = count.to_json(distance=kind in BY_DISTANCE)
            texts = [
                _percent(values.get(key)) for key in ("recall", "precision", "f1", "f1_75", "mean_iou", "mean_distance")
            ]
            shown.add_row(_KINDS.get(kind, kind), *([group] if name != "kind" else []), f"{count.true:,}", *texts)
        console.print(shown)
        console.print()
    malformed = [each for each in answered if not each.answer.sound]
    if malformed:
        console.print(f"malformed  {counted(len(malformed), 'answer')} of {len(answered)}, e.g. {malformed[0].where}:")
        console.print(f"  {(malformed[0].text or '')[:200]}", markup=False)
    if failed := len(found) - len(answered):
        console.print(f"failed     {counted(failed, 'row')} could not be asked")
    if others:
        console.print(f"left out   {counted(others, 'row')} that do not ask where something is")


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"
