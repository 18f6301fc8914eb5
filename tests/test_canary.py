"""`tools/canary`: which tests it runs, and that they run with the release that is asked for."""

from __future__ import annotations

import importlib.metadata
import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CANARY = ROOT / "tools/canary"
OLD = "0.10.0"  # older than ms-swift takes

PROBE = f"""
import importlib.metadata
import importlib.util
import subprocess
import sys

QUESTION = "import importlib.metadata; print(importlib.metadata.version('peft'))"


def test_release():
    assert importlib.metadata.version("peft") == "{OLD}"
    assert "{OLD}" in open(importlib.util.find_spec("peft").origin).read()


def test_release_of_child_processes():
    assert subprocess.check_output([sys.executable, "-c", QUESTION], text=True).strip() == "{OLD}"


def test_installed_release():
    version = importlib.metadata.version("peft")
    assert version == "{importlib.metadata.version("peft")}", f"peft is {{version}}"
"""


def canary(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(CANARY), *argv], capture_output=True, text=True)


@pytest.mark.slow
def test_tests_run_with_the_given_release_and_failures_are_named(tmp_path: Path) -> None:
    probe, broken = tmp_path / "test_probe.py", tmp_path / "test_broken.py"
    probe.write_text(PROBE)
    broken.write_text("import no_such_module\n")
    done = canary("--json", "--package", f"peft=={OLD}", str(probe), str(broken))
    assert done.returncode == 1, done.stderr
    [found] = json.loads(done.stdout)
    here = importlib.metadata.version("peft")
    assert (found["package"], found["tested"], found["release"], found["passed"]) == ("peft", here, OLD, 2)
    assert {*found["failures"].values()} == {
        "E   ModuleNotFoundError: No module named 'no_such_module'",
        f"AssertionError: peft is {OLD}",
    }
    assert any(name.endswith("test_installed_release") for name in found["failures"])
    conflict = rf"ms-swift \S+ has requirement peft\S+, but you have peft {re.escape(OLD)}\."
    assert any(re.fullmatch(conflict, line) for line in found["conflicts"])

    module = runpy.run_path(str(CANARY))
    assert module["table"]([module["Outcome"](**found)]).splitlines() == [
        "package  tested  release  passed  failed",
        f"peft     {here}  {OLD}   2       2",
        "",
        f"peft {OLD}",
        *(f"  requirement  {line}" for line in found["conflicts"]),
        *(line for name, reason in found["failures"].items() for line in (f"  {name}", f"    {reason}")),
    ]


def test_what_can_not_be_tested_is_exit_code_2() -> None:
    unknown = canary("--package", "torch")
    assert unknown.returncode == 2
    assert "unknown package torch: choose from peft, transformers, ms-swift" in unknown.stderr
    missing = canary("--package", "peft==0.0.0")
    assert missing.returncode == 2
    assert missing.stderr.startswith("error: peft==0.0.0 can't be installed: ")
    assert "Traceback" not in missing.stderr


def test_every_test_file_that_uses_peft_or_ms_swift_itself_is_in_the_list() -> None:
    listed = {f"test_{name}.py" for name in runpy.run_path(str(CANARY))["CONTRACT"]}
    assert [name for name in listed if not (ROOT / "tests" / name).is_file()] == []
    uses = re.compile(r"^\s*(from|import) (peft|swift)\b", re.MULTILINE)
    using = {path.name for path in ROOT.glob("tests/test_*.py") if uses.search(path.read_text(encoding="utf-8"))}
    assert not using - listed
