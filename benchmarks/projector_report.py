"""The tables of ``docs/projector.md``, from the lines that ``projector.py`` has logged.

    python benchmarks/projector_report.py

Replaces what stands between the page's markers; the prose around them stays.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common import with_tables

HERE = Path(__file__).resolve().parent
LOG, PAGE = HERE / "projector.jsonl", HERE.parent / "docs/projector.md"

Line = dict[str, Any]


def logged(log: Path = LOG) -> list[Line]:
    return [json.loads(text) for text in log.read_text(encoding="utf-8").splitlines()]


def filled(text: str, lines: list[Line]) -> str:
    """The page, with what stands between its markers made anew."""
    asked = [line for line in lines if not line["chosen"]]
    made = {
        "projector": table(asked),
        "whole": table([line for line in lines if line["chosen"]]),
        "refusals": refusals(asked),
        "releases": releases(lines),
    }
    return with_tables(text, made)


def table(lines: list[Line]) -> Iterator[str]:
    """A row for each setting, with all releases in which it trains the same.

    The cells say what trains with an output layer of its own, and with a tied one where that differs.
    """
    yield "| framework | setting | merger | deepstack mergers | rest of the ViT | LLM |"
    yield "|---|---|---|---|---|---|"
    tied = {key(line): line for line in lines if line["tied"]}
    rows: dict[tuple[str, ...], list[str]] = {}
    for line in lines:
        if not line["tied"]:
            cells = cells_of(line, tied.get(key(line), line))
            rows.setdefault((line["framework"], line["setting"], *cells), []).append(shown(line))
    for (framework, setting, *cells), found in rows.items():
        escaped = setting.replace("|", "\\|")
        yield f"| {framework} {'; '.join(found)} | `{escaped}` | {' | '.join(cells)} |"


def key(line: Line) -> tuple[str, ...]:
    return tuple(line[name] for name in ("framework", "release", "setting"))


def shown(line: Line) -> str:
    return f"{line['release']}{' (read)' if line['how'] == 'read' else ''}"


def cells_of(line: Line, tied: Line) -> Iterator[str]:
    if "refused" in line:
        yield from ("refused", "", "", "")
        return
    for part in line["parts"]:
        said, otherwise = (told(each["parts"][part]) for each in (line, tied))
        if said == otherwise:
            yield said
        else:
            names = [name for name in line["trained"] if name not in tied["trained"]]
            yield f"{said} (`{'`, `'.join(names)}`); tied: {otherwise}"


def told(count: dict[str, int] | str) -> str:
    """Whether a part trains: all of its tensors, some, none, or adapters on its layers; as it stands if it was read."""
    if isinstance(count, str):
        return count
    trained, tensors, adapted = count["trained"], count["tensors"], count["adapted"]
    whole = "yes" if trained == tensors else f"{trained} of {tensors} tensors" if trained else ""
    lora = f"LoRA on {adapted} layer{'s' if adapted > 1 else ''}" if adapted else ""
    return ", ".join(filter(None, [whole, lora])) or "no"


def refusals(lines: list[Line]) -> Iterator[str]:
    said: dict[tuple[str, ...], list[str]] = {}
    for line in lines:
        if "refused" in line and not line["tied"]:
            said.setdefault((line["framework"], line["setting"], line["refused"]), []).append(shown(line))
    for (framework, setting, words), found in said.items():
        yield f"- {framework} {'; '.join(found)}, `{setting}`: `` {words} ``"


def releases(lines: list[Line]) -> Iterator[str]:
    """What was called in which release, among which packages."""
    yield "| framework | function | torch | transformers | peft | how | date |"
    yield "|---|---|---|---|---|---|---|"
    rows = {}
    for line in lines:
        versions = [line["versions"].get(name, "") for name in ("torch", "transformers", "peft")]
        how = "run" if line["how"] == "run" else f"read: {line['place']}; {line['reason']}"
        rest = f"{' | '.join(versions)} | {how} | {line['date']} |"
        rows[f"| {line['framework']} {line['release']} | `{line['function']}` | {rest}"] = True
    yield from rows


def main() -> None:
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), logged()), encoding="utf-8")


if __name__ == "__main__":
    main()
