"""The hosting site's workflows and forms are valid, and in step with the Makefile and the run folder."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from swiftalign.runs.folder import PLAN_FILE, VERSIONS_FILE
from swiftalign.yaml12 import CoreSchemaLoader

ROOT = Path(__file__).resolve().parents[1]
WORKFLOWS = sorted(ROOT.glob(".github/workflows/*"))
FORMS = sorted(ROOT.glob(".github/ISSUE_TEMPLATE/[!c]*"))

each_workflow = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)


def read(path: Path) -> dict[str, Any]:
    values: dict[str, Any] = yaml.load(path.read_text(encoding="utf-8"), CoreSchemaLoader)
    return values


def steps(workflow: dict[str, Any]) -> list[dict[str, Any]]:
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


@pytest.mark.parametrize(
    ("schema", "paths"),
    [
        ("github-workflows", WORKFLOWS),
        ("github-issue-forms", FORMS),
        ("github-issue-config", [ROOT / ".github/ISSUE_TEMPLATE/config.yml"]),
    ],
)
def test_files_follow_the_hosting_sites_schema(schema: str, paths: list[Path]) -> None:
    assert paths
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}", *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@each_workflow
def test_a_workflow_runs_targets_of_the_makefile_and_nothing_else(path: Path) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)[0].split()
    commands = [step["run"] for step in steps(read(path)) if "run" in step]
    assert commands
    assert [command for command in commands if command not in {f"make {target}" for target in targets}] == []


def test_tests_run_on_the_python_releases_that_the_package_names() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = [line.rpartition(" ")[2] for line in project["classifiers"] if re.search(r"Python :: 3\.\d+$", line)]
    assert read(ROOT / ".github/workflows/tests.yml")["jobs"]["test"]["strategy"]["matrix"]["python"] == named


@each_workflow
def test_a_workflow_may_do_little_and_ends(path: Path) -> None:
    workflow = read(path)
    assert workflow["permissions"] == {"contents": "read"}
    assert "group" in workflow["concurrency"]
    for name, job in workflow["jobs"].items():
        assert 0 < job["timeout-minutes"] <= 180, name
        # A job that may write runs nothing of this repository, and has an environment with rules of its own.
        if "permissions" in job:
            assert "environment" in job, name
            assert not [step for step in job["steps"] if "run" in step or "checkout" in step["uses"]], name


@each_workflow
def test_actions_are_pinned_by_commit_with_their_release_beside(path: Path) -> None:
    used = re.findall(r"uses: (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    assert used
    assert [line for line in used if not re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{40}  # v\d+\.\d+\.\d+", line)] == []


@each_workflow
def test_the_cache_follows_files_that_are_there(path: Path) -> None:
    for step in steps(read(path)):
        named = step.get("with", {}).get("cache-dependency-path", "").split()
        assert [name for name in named if not (ROOT / name).is_file()] == []
        assert bool(named) == ("cache" in step.get("with", {}))


def test_a_report_asks_for_the_files_of_the_run_folder() -> None:
    body = read(ROOT / ".github/ISSUE_TEMPLATE/problem.yml")["body"]
    required = {each["attributes"]["label"] for each in body if each.get("validations", {}).get("required")}
    assert {PLAN_FILE, VERSIONS_FILE, "The command", "The output"} <= required
