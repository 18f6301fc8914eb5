"""Values that a shell completes: only what is known without a model, and without the packages that train.

A shell waits for these functions at each Tab. Files are completed by the shell itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import typer

from swiftalign import shipped
from swiftalign.problems import CHECKPOINT_CODES

Found = list[tuple[str, str]]  # values, each with what it means


def one_of(*values: str) -> Callable[[], Found]:
    return lambda: [(value, "") for value in values]


def example_names() -> Found:
    return [(name, f"{path.parent.name}: {shipped.summary_of(path)}") for name, path in shipped.examples().items()]


def method_names() -> Found:
    from swiftalign.init.recipes import recipes

    return [(name, recipe.summary) for name, recipe in recipes().items()]


def problem_names() -> Found:
    from swiftalign.init.recipes import PROBLEMS

    return [(name, advice.reason) for name, advice in PROBLEMS.items()]


def allowed_codes() -> Found:
    return [(code, meaning) for code, (_, meaning) in shipped.codes().items() if code not in CHECKPOINT_CODES]


def page_names() -> Found:
    pages = [(name, shipped.first_sentence(path.read_text(encoding="utf-8"))) for name, path in shipped.pages().items()]
    return [*pages, *((code, meaning) for code, (_, meaning) in shipped.codes().items())]


def checkpoints(ctx: typer.Context) -> Found:
    """Of the run folder that the command line names already."""
    folder = Path(next(iter(ctx.args), ""))  # arguments stay here while the option has no value yet
    steps = {int(step) for path in folder.glob("checkpoint-*") if (step := path.name[11:]).isdecimal()}
    named = [("best", "the best, if the run keeps it"), ("last", "the newest")]
    return [*named, *((str(step), "") for step in sorted(steps, reverse=True))]


def settings(incomplete: str) -> Found:
    """Keys of a configuration, by sections; after ``=`` the values of a setting that has a list of them."""
    schema = json.loads(shipped.SCHEMA.read_text(encoding="utf-8"))
    key, equals, _ = incomplete.partition("=")
    known = dict(_keys(schema, schema, ""))
    if equals:
        return [(f"{key}={value}", "") for value in _choices(known.get(key, {}))]
    return [(name, each.get("description", "")) for name, each in known.items()]


def values_of_setting(ctx: typer.Context) -> list[str]:
    """For bash, to which ``KEY=VALUE`` is three words: the values, while ``--set KEY`` is the last that it gives."""
    *_, last = ctx.params.get("overrides") or [""]
    if not last or "=" in last:
        return []  # files, then
    return [value.partition("=")[2] for value, _ in settings(f"{last}=")]


def _keys(schema: Any, node: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """The settings of a part of the schema and the parts below it, by their dotted names."""
    for name, value in node.get("properties", {}).items():
        parts = [part for part in value.get("anyOf", [value]) if part.get("type") != "null"]
        if all("$ref" in part for part in parts):  # a section
            for part in parts:
                yield from _keys(schema, schema["$defs"][part["$ref"].rpartition("/")[2]], f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _choices(setting: Any) -> Iterator[str]:
    for part in (setting, *setting.get("anyOf", ())):
        yield from part.get("enum", ())
        yield from ("true", "false") if part.get("type") == "boolean" else ()
        yield from _choices(part["items"]) if "items" in part else ()
