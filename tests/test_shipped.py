"""The worked configurations and the pages that come with the package: `init --example` and `swiftalign docs`."""

from __future__ import annotations

import ast
import json
import re
import tomllib
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path

import pytest

from swiftalign import shipped
from swiftalign.cli import main
from swiftalign.config.load import load_config
from swiftalign.methods import METHODS
from swiftalign.problems import CHECKPOINT_CODES, CODES, DATA_CODES
from terminal import lines_of

ROOT = Path(__file__).parents[1]
EXAMPLES = shipped.examples()


def test_what_is_shipped_is_what_the_repository_has() -> None:
    assert sorted(EXAMPLES) == sorted(path.stem for path in ROOT.glob("configs/*/*.yaml"))
    assert sorted(shipped.pages()) == sorted(path.stem for path in ROOT.glob("docs/*.md"))
    assert METHODS  # which have registered their codes
    assert shipped.codes().keys() == {*CODES, *DATA_CODES, *CHECKPOINT_CODES}


def test_a_wheel_gets_all_of_it() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    patterns = settings["tool"]["setuptools"]["package-data"]["swiftalign"]
    package = Path(shipped.__file__).parent
    needed = [*EXAMPLES.values(), *shipped.pages().values(), shipped.SCHEMA]
    for path in needed:
        assert any(fnmatch(str(path.relative_to(package)), pattern) for pattern in patterns), path
    for name in ("configs", "docs"):  # links that hold wherever the repository lies
        assert not (package / name).readlink().is_absolute()


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_written_as_it_is_for_the_file_that_it_becomes(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["init", "stage4.yaml", "--example", name]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"wrote stage4.yaml: {name}")
    assert "next: swiftalign inspect-params" in out
    text = Path("stage4.yaml").read_text()
    assert "configs/" not in text
    assert f"{name}.yaml" not in text
    schema = text.splitlines()[0].partition("$schema=")[2]
    assert json.loads(Path(schema).read_text()) == json.loads(shipped.SCHEMA.read_text())
    layers = [Path("stage4.yaml")]
    if EXAMPLES[name].parent.name == "strategies":
        layers.insert(0, EXAMPLES["modules_to_save"])
    mine = str(load_config(layers).model_dump()).replace(str(tmp_path), "FOLDER")
    theirs = str(load_config([*layers[:-1], EXAMPLES[name]]).model_dump())
    assert mine == theirs.replace(str(EXAMPLES[name].parent), "FOLDER")


def test_an_example_replaces_nothing_unasked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("config.yaml").write_text("mine")
    assert main(["init", "--example", "lora"]) == 2
    assert "config.yaml exists already" in capsys.readouterr().err
    assert Path("config.yaml").read_text() == "mine"
    assert main(["init", "--example", "lora", "--force"]) == 0
    assert "train_type: lora" in Path("config.yaml").read_text()


def test_an_example_has_its_own_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "--example", "lora", "--model", "x", "--from", "y"]) == 2
    assert "can't be combined with --model, --from" in capsys.readouterr().err


def test_an_unknown_example_lists_them_by_group(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "--example", "curiculum"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[:3] == [
        "error: --example curiculum: no example has this name",
        "hint: did you mean curriculum? these are known:",
        "methods",
    ]
    assert [line for line in lines[2:] if not line.startswith(" ")] == ["methods", "recipes", "strategies"]
    listed = [line.split()[0] for line in lines if line.startswith("  ")]
    assert listed == [*EXAMPLES]
    assert any(line.split(maxsplit=1) == ["learning_rates", "A rate for each component."] for line in lines)


def test_pages_are_listed_with_their_first_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["docs"]) == 0
    out = capsys.readouterr().out
    for name in shipped.pages():
        assert f"\n{name} " in out
    assert "configuration  One YAML file describes a run.\n" in out


def test_a_page_in_a_pipe_is_its_markdown(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("findings", "findings.md", "docs/findings.md"):
        assert main(["docs", name]) == 0
        assert capsys.readouterr().out == (ROOT / "docs/findings.md").read_text().strip() + "\n"


def test_a_page_on_a_terminal_is_rendered_through_the_pager(
    tmp_path: Path, run_in_terminal: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    pager = tmp_path / "pager"
    pager.write_text("#!/bin/sh\necho paged\ncat\n")
    pager.chmod(0o755)
    monkeypatch.setenv("PAGER", str(pager))
    code, drawn = run_in_terminal("docs", "evaluation")
    assert code == 0
    assert drawn.startswith("paged")
    assert "# Evaluation" not in drawn
    assert "\x1b[1" in drawn
    assert max(map(len, lines_of(drawn))) <= 120


def test_a_section_of_a_page(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["docs", "running#stopping-and-resuming"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("## Stopping and resuming\n")
    assert "\n## " not in out
    assert main(["docs", "running#stoping-and-resuming"]) == 2
    assert "hint: did you mean stopping-and-resuming?" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["aligner-incomplete", "findings#aligner-incomplete"])
def test_a_code_is_explained(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["docs", name]) == 0
    out = capsys.readouterr().out
    assert out.startswith("`aligner-incomplete` (error): some of the aligner's mergers train and others do not.\n")
    assert "--allow aligner-incomplete" in out


def test_a_code_of_a_checkpoint_is_explained_with_what_the_page_says(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["docs", "changed-outside-plan"]) == 0
    out = capsys.readouterr().out
    assert "--base" in out
    assert "--allow" not in out  # verify-ckpt has no such option


def test_a_mistyped_page_or_code_is_suggested(capsys: pytest.CaptureFixture[str]) -> None:
    for name, meant in (("confguration", "configuration"), ("aligner-incomplet", "aligner-incomplete")):
        assert main(["docs", name]) == 2
        assert capsys.readouterr().err.splitlines() == [
            f"error: {name}: no page and no problem has this name",
            f"hint: did you mean {meant}?",
        ]


def test_messages_name_pages_that_there_are() -> None:
    """Users of a wheel have no folder docs/."""
    named = set()
    for path in (ROOT / "src/swiftalign").rglob("*.py"):
        named |= set(re.findall(r"swiftalign docs ([\w-]+)", path.read_text()))
        tree = ast.parse(path.read_text())
        comments = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}  # docstrings
        texts = [
            node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in comments
        ]
        assert path.name == "shipped.py" or not [text for text in texts if re.search(r"\bdocs/[\w-]+\.md", text)], path
    pages = {*shipped.pages(), *shipped.codes()}
    assert {"findings", "methods", "serving"} <= named - {"PAGE", "CODE"} <= pages
