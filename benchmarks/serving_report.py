"""The tables of ``docs/serving.md``, and the one in ``RESULTS.md``, from the lines that ``serving.py`` has logged.

    python benchmarks/serving_report.py

Replaces what stands between the pages' markers; the prose around them stays.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from common import with_tables
from serving_engines import ENGINES, Engine, Form
from swiftalign.methods import offered

HERE = Path(__file__).resolve().parent
LOG, PAGE, RESULTS = HERE / "serving.jsonl", HERE.parent / "docs/serving.md", HERE / "RESULTS.md"

Line = dict[str, Any]
SHOWN = {"modules_to_save": "modules_to_save", "lora": "LoRA", "dora": "DoRA", "adalora": "AdaLoRA"} | {
    "boft": "BOFT",
    "fourierft": "FourierFT",
}
EXPORTS = {"merged": "merged export", "adapter": "adapter as it is"}
# What to do where an engine refuses an adapter.
CURES = {
    "vLLM": "serve the merged export",
    "transformers serve": "serve the merged export, or load base and adapter with peft in Python",
    "llama.cpp": "serve the file of `swiftalign export RUN --mmproj`",
    "MLX": "serve the merged export",
}


def logged() -> list[Line]:
    return [json.loads(text) for text in LOG.read_text(encoding="utf-8").splitlines()]


def filled(text: str, lines: list[Line]) -> str:
    """A page, with what stands between its markers made anew."""
    cells = [line for line in lines if line["part"] == "matrix"]
    made: dict[str, Iterator[str]] = {
        "matrix": matrix(cells),
        "refusals": refusals(cells),
        "releases": used(cells),
        "flag": flag(lines),
        "speed": speed(lines),
        **{name: commands(name, engine, cells) for name, engine in ENGINES.items()},
    }
    return with_tables(text, {name: rows for name, rows in made.items() if f"<!-- {name} -->\n" in text})


def matrix(cells: list[Line]) -> Iterator[str]:
    """A row for each kind of export and method, a column for each engine."""
    engines = list(dict.fromkeys(line["engine"] for line in cells))
    yield f"| served | method | {' | '.join(engines)} |"
    yield f"|---|---|{'---|' * len(engines)}"
    found = {(line["export"], line["method"], line["engine"]): line for line in cells}
    for form in get_args(Form):
        for method in offered():
            told = (outcome(found.get((form, method, engine))) for engine in engines)
            yield f"| {EXPORTS[form]} | {SHOWN[method]} | {' | '.join(told)} |"


def outcome(line: Line | None) -> str:
    match line:
        case None:
            return "not tried"
        case {"outcome": "same", "gaps": gaps}:
            return f"the same answers but for {'a tie' if len(gaps) == 1 else f'{len(gaps)} ties'}"
        case {"outcome": "same"}:
            return "the same answers"
        case {"outcome": "other"}:
            return f"{line['equal']} of {line['rows']} answers the same"
        case _:
            return str(line["outcome"])


def refusals(cells: list[Line]) -> Iterator[str]:
    """What the engines say, and what to do; one row for the methods of which an engine says the same."""
    said: dict[tuple[str, str], list[str]] = {}
    for line in cells:
        if line["outcome"] == "refused":
            said.setdefault((line["engine"], line["words"]), []).append(SHOWN[line["method"]])
    yield "| server | adapter of | what it says | instead |"
    yield "|---|---|---|---|"
    for (engine, words), methods in said.items():
        quoted = words.replace("|", "\\|")
        yield f"| {engine} | {', '.join(methods)} | `` {quoted} `` | {CURES[engine]} |"


def used(cells: list[Line]) -> Iterator[str]:
    yield "| server | releases | tried on |"
    yield "|---|---|---|"
    for engine in dict.fromkeys(line["engine"] for line in cells):
        last = max((line for line in cells if line["engine"] == engine), key=lambda line: str(line["date"]))
        packages = ", ".join(f"{name} {release}" for name, release in last["versions"].items())
        yield f"| {engine} | {packages} | {last['date']} |"


def flag(lines: list[Line]) -> Iterator[str]:
    for line in lines:
        if line["part"] == "flag":
            yield f"| answers that are those of the tuned model | {line['equal']} of {line['rows']} |"
            yield "|---|--:|"
            yield f"| answers that are those of the base | {line['equal_to_base']} of {line['rows']} |"


def speed(lines: list[Line]) -> Iterator[str]:
    measured = [line for line in lines if line["part"] == "speed"]
    yield "| answered by | requests at a time | rows a second | against in process | the same answers |"
    yield "|---|--:|--:|--:|--:|"
    for line in measured:
        ratio = line["rows_a_second"] / measured[0]["rows_a_second"]
        name = "transformers in process" if line is measured[0] else line["engine"]
        same = f"{line['equal']} of {line['rows']}" if line is not measured[0] else ""
        yield f"| {name} | {line['together']} | {line['rows_a_second']:.1f} | {ratio:.2f}x | {same} |"


def commands(name: str, engine: Engine, cells: list[Line]) -> Iterator[str]:
    """The lines that start a server and ask it, for each kind of export that it takes of any method."""
    yield "```bash"
    for form in get_args(Form):
        taken = [line for line in cells if line["engine"] == name and line["export"] == form and "equal" in line]
        if taken:
            yield f"{engine.line(form)} --port 8000"
            yield engine.question(form)
    yield "```"


def main() -> None:
    for page in (PAGE, RESULTS):
        page.write_text(filled(page.read_text(encoding="utf-8"), logged()), encoding="utf-8")


if __name__ == "__main__":
    main()
