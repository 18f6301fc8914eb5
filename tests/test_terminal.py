"""What commands print on terminals of many widths, and in a pipe: nothing is cut, and a pipe has whole lines."""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console
from rich.text import Text

from swiftalign.cli import main
from swiftalign.cli.terminal import new_table, print_table, tell
from terminal import CONTROL, lines_of, on_terminal

GEOMETRY = "custom.augmentation.preset=guide"
COMMANDS = {
    "inspect-params": "inspect-params demo/config.yaml",
    "what fits": "inspect-params demo/config.yaml --gpu 2x80GiB",
    "findings": "inspect-params demo/config.yaml --set tuner.modules_to_save=[model.visual.merger]",
    "a config's faults": "inspect-params demo/config.yaml --set training.learning_rat=1 --set tuner.use_dor=1",
    "train --dry-run": "train demo/config.yaml --dry-run",
    "train, refused": "train demo/config.yaml --set tuner.modules_to_save=[]",
    "verify-ckpt": "verify-ckpt demo/runs/one --base demo/model",
    "verify-ckpt --table": "verify-ckpt demo/runs/one --table",
    "export": "export demo/runs/one -o demo/tuned --force",
    "eval": "eval demo/model demo/data/val.jsonl --against demo/model -o demo/eval --limit 4",
    "preview-aug": f"preview-aug demo/config.yaml --report --num 2 --set {GEOMETRY}",
    "convert": "convert demo/data/val.jsonl -o demo/rows.jsonl --force",
    "runs": "runs demo",
    "runs --compare": "runs --compare demo/runs/one demo/runs/two -o demo/compare.png --force",
    "init": "init demo/written.yaml --example lora --force",
    "init, unknown": "init --example nothing",
    "docs": "docs",
    "docs CODE": "docs data-not-learned",
    "a missing file": "inspect-params demo/missing-config.yaml",
    "a mistake": "train demo/config.yaml --dryrun",
}
HEADS = {
    "-",
    "component",
    "module",
    "key",
    "kind",
    "operation",
    "sharding",
    "kernels",
    "run",
    "method",
    "status",
    "when",
}
WIDTHS = (60, 80, 120, 200)


@pytest.fixture(scope="module")
def workspace(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny demo, and two runs of it."""
    folder = tmp_path_factory.mktemp("terminal")
    shutil.copytree(demo, folder / "demo")
    for name, rate in (("one", "1e-3"), ("two", "5e-4")):
        sets = [f"training.output_dir={folder}/demo/runs/{name}", "training.max_steps=2", f"training.aligner_lr={rate}"]
        config = folder / "demo/config.yaml"
        assert main(["train", str(config), *(word for value in sets for word in ("--set", value))]) == 0
    return folder


@pytest.fixture
def in_workspace(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workspace)


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS.keys())
def test_lines_are_as_wide_as_the_terminal_and_a_pipe_has_the_same_words(
    command: str, in_workspace: None, capfd: pytest.CaptureFixture[str]
) -> None:
    code = main(command.split())
    piped = "".join(capfd.readouterr())
    assert "\x1b" not in piped
    assert "\r" not in piped
    for columns in WIDTHS:
        same, drawn = on_terminal(*command.split(), columns=columns)
        assert same == code
        lines = lines_of(drawn)
        # A path or a name that is longer than the terminal stays in one piece, alone.
        wide = [line for line in lines if len(line) > columns and " " in line.strip()]
        assert not [line for line in wide if not line.startswith("--")]  # an argument for ms-swift stays in one line
        assert "…" not in drawn
        changing = re.compile(r"\d+(\.\d+)? (s|ms)\b")  # seconds
        words = set(changing.sub("", " ".join(lines)).replace(",", " ").split())
        missing = set(changing.sub("", piped).replace(",", " ").split()) - words
        # A table that does not fit has no head of its first column; a page's marks for code become colours.
        assert {word for word in missing if word.replace("`", "") not in words} <= HEADS


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS.keys())
@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=["NO_COLOR", "TERM=dumb"])
def test_colours_can_be_switched_off(command: str, environment: dict[str, str], in_workspace: None) -> None:
    _, drawn = on_terminal(*command.split(), **environment)
    styles = {style for found in re.findall(r"\x1b\[([\d;]*)m", drawn) for style in found.split(";")}
    assert styles <= ({"0", "1", "2", "3", "4", "7"} if "NO_COLOR" in environment else set())  # bold is no colour


def test_a_terminal_has_colours(in_workspace: None) -> None:
    _, drawn = on_terminal(*COMMANDS["findings"].split())
    assert re.search(r"\x1b\[1;31merror", drawn)


@pytest.mark.parametrize("forced", [False, True])
def test_force_color_colours_a_pipe(forced: bool, workspace: Path) -> None:
    argv = [sys.executable, "-m", "swiftalign", *COMMANDS["findings"].split()]
    environment = {**os.environ, **({"FORCE_COLOR": "1"} if forced else {})}
    done = subprocess.run(argv, cwd=workspace, env=environment, capture_output=True, text=True, check=False)
    assert ("\x1b[1;31m" in done.stdout) == forced
    assert "error [aligner-incomplete]" in CONTROL.sub("", done.stdout)


@pytest.mark.parametrize("columns", [60, *(pytest.param(width, marks=pytest.mark.long) for width in WIDTHS[1:])])
def test_a_run_is_shown_as_it_goes_on_any_terminal(columns: int, in_workspace: None, tmp_path: Path) -> None:
    sets = ["--set", f"training.output_dir={tmp_path / 'run'}", "--set", "training.max_steps=2"]
    code, drawn = on_terminal("train", "demo/config.yaml", *sets, columns=columns)
    assert code == 0
    for line in lines_of(drawn):
        assert len(line) <= columns or " " not in line.strip()
    assert "…" not in drawn


def test_a_pipe_does_not_depend_on_the_width_of_anything(
    in_workspace: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    told = []
    for columns in ("40", "300"):
        monkeypatch.setenv("COLUMNS", columns)
        for command in ("inspect-params", "findings", "verify-ckpt", "runs --compare", "docs", "a missing file"):
            main(COMMANDS[command].split())
        main(["train", "--help"])
        told.append("".join(capsys.readouterr()))
    assert told[0] == told[1]


@pytest.fixture
def draw() -> Callable[..., str]:
    def draw(width: int, show: Callable[[Console], None]) -> str:
        console = Console(width=width, file=io.StringIO())
        show(console)
        return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]

    return draw


def test_words_are_broken_between_them_and_a_path_never(draw: Callable[..., str]) -> None:
    path = "/a/very/long/folder/with-hyphens/and/more/of/it/checkpoint-160"
    drawn = draw(
        40, lambda console: tell(console, Text.assemble(("from        ", "dim"), f"{path}  (the newest)"), hang=12)
    )
    assert drawn == f"from\n            {path}\n            (the newest)\n"


def test_a_table_that_is_too_wide_wraps_its_last_column_or_has_lines_for_each_row(draw: Callable[..., str]) -> None:
    def show(console: Console) -> None:
        table = new_table("module", "total", "share")
        table.add_row("model.visual.deepstack_merger_list.*.linear_fc1  (3 layers)", "787,968", "-")
        print_table(table, console)

    assert (
        draw(80, show).splitlines()[1] == "model.visual.deepstack_merger_list.*.linear_fc1  (3 layers)  787,968      -"
    )
    assert draw(60, show) == "model.visual.deepstack_merger_list.*.linear_fc1  (3 layers)\n  total 787,968, share -\n"

    def sentences(console: Console) -> None:
        table = new_table("page", "about")
        table.add_row("running", "It checks the config and every row, and trains in child processes.")
        print_table(table, console)

    assert draw(50, sentences).splitlines() == [
        "page     about",
        "running  It checks the config and every row, and",
        "         trains in child processes.",
    ]


def test_a_table_without_rows_is_its_head(draw: Callable[..., str]) -> None:
    assert draw(60, lambda console: print_table(new_table("component", "rate"), console)) == "component  rate\n"
    assert draw(9, lambda console: print_table(new_table("component", "rate"), console)) == ""
