"""Worked configurations, as ``swiftalign init --example`` writes them."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

from swiftalign import shipped
from swiftalign.files import write_whole
from swiftalign.init.recipes import SCHEMA_FILE
from swiftalign.init.write import write_schema, writing
from swiftalign.problems import SwiftalignError
from swiftalign.suggest import did_you_mean


def write_example(path: Path, name: str, *, force: bool = False) -> list[str]:
    """Write a worked configuration and its schema; returns lines that say what was written and what to type next.

    Its comments name the file as it is called here, and the files of other examples without their folders.

    Raises:
        SwiftalignError: there is no example of this name, or the file exists already.
    """
    examples = shipped.examples()
    if name not in examples:
        hints = filter(None, (did_you_mean(name, examples), f"these are known:\n{listed()}"))
        raise SwiftalignError(f"--example {name}: no example has this name", " ".join(hints))
    text = examples[name].read_text(encoding="utf-8").replace("../swiftalign.schema.json", SCHEMA_FILE)
    text = re.sub(rf"(configs/\w+/)?\b{name}\.yaml", path.name, text)
    text = re.sub(r"configs/\w+/(\w+\.yaml)", r"\1", text)
    with writing(path, force=force):
        write_whole(path, text)
        write_schema(path.absolute().parent)
    if examples[name].parent.name == "strategies":
        told = f"wrote {path}: {name}, to be laid over the configuration of a method"
        return [told, f"next: swiftalign inspect-params METHOD.yaml {path}"]
    return [f"wrote {path}: {name}; name your rows in its data section", f"next: swiftalign inspect-params {path}"]


def listed() -> str:
    """The examples by group, a line each."""
    examples = shipped.examples()
    width, groups = max(map(len, examples)) + 2, defaultdict[str, list[str]](list)
    for name, path in examples.items():
        groups[path.parent.name].append(f"  {name:{width}}{shipped.summary_of(path)}")
    return "\n".join(line for group, lines in groups.items() for line in (group, *lines))
