"""Imports run down the list of rooms in docs/how-it-works.md, and never in a circle."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src/swiftalign"
HEAVY = ("torch", "swift", "transformers", "peft", "accelerate")


def listed_rooms() -> list[str]:
    """The rooms of the table in docs/how-it-works.md, from top to bottom."""
    text = (ROOT / "docs/how-it-works.md").read_text(encoding="utf-8")
    table = text.partition("## The rooms")[2].partition("\n## ")[0]
    return [
        name for row in re.findall(r"^\| (`[^|]+) \|", table, re.M) for name in re.findall(r"`(\w+)(?:/|\.py)`", row)
    ]


def module_name(path: Path, root: Path) -> str:
    return ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")


def imported(path: Path, *, everywhere: bool = True) -> Iterator[tuple[str, int]]:
    """Module and line of each import; those inside functions and under TYPE_CHECKING only where they are asked for."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree) if everywhere else tree.body:
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def graph(folder: Path, root: Path) -> dict[str, set[str]]:
    """Each module of a folder, and the modules of the folder that it imports."""
    modules = {module_name(path, root): path for path in folder.rglob("*.py")}
    found: dict[str, set[str]] = {name: set() for name in modules}
    for name, path in modules.items():
        for target, _ in imported(path):
            candidates = (target, target.rpartition(".")[0])
            found[name] |= {each for each in candidates if each in modules and each not in (name, "swiftalign")}
    return found


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def test_every_room_is_in_the_list() -> None:
    rooms = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in PACKAGE.rglob("*.py")}
    assert rooms - {"__init__", "__main__"} == set(listed_rooms())
    assert len(listed_rooms()) == len(set(listed_rooms()))


def test_no_import_runs_up_the_list() -> None:
    order = listed_rooms()
    up = [
        f"{path.relative_to(PACKAGE)}:{line} imports {target}"
        for path in PACKAGE.rglob("*.py")
        if (mine := room_of(module_name(path, PACKAGE.parent))) in order
        for target, line in imported(path)
        if target.startswith("swiftalign.") and room_of(target) in order
        if order.index(room_of(target)) < order.index(mine)
    ]
    assert up == []


@pytest.mark.parametrize(("folder", "root"), [(PACKAGE, PACKAGE.parent), (ROOT / "benchmarks", ROOT / "benchmarks")])
def test_no_modules_import_each_other_in_a_circle(folder: Path, root: Path) -> None:
    try:
        TopologicalSorter(graph(folder, root)).prepare()
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' -> '.join(error.args[1])}")


def test_only_the_worker_imports_the_training_stack_at_the_top_of_a_module() -> None:
    found = {
        path.relative_to(PACKAGE).parts[0]
        for path in PACKAGE.rglob("*.py")
        for target, _ in imported(path, everywhere=False)
        if target.partition(".")[0] in HEAVY
    }
    assert found == {"worker"}


def test_an_import_that_runs_up_would_be_seen(tmp_path: Path) -> None:
    path = tmp_path / "late.py"
    path.write_text("def late():\n    from swiftalign.cli.show import print_plan\n", encoding="utf-8")
    assert list(imported(path)) == [("swiftalign.cli.show.print_plan", 2)]
    assert list(imported(path, everywhere=False)) == []
