"""Completion in a real shell, from the script that --show-completion prints."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

from swiftalign import shipped
from swiftalign.config.sections import section_fields
from swiftalign.init.recipes import PROBLEMS, recipes
from swiftalign.problems import CHECKPOINT_CODES, CODES, DATA_CODES

HEAVY = ("torch", "transformers", "swift", "peft", "imgaug", "matplotlib", "numpy", "datasets", "modelscope")


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A folder with a command of the name swiftalign and its script for bash, and an environment that finds it."""
    folder = tmp_path_factory.mktemp("shell")
    command = folder / "swiftalign"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m swiftalign "$@"\n')
    command.chmod(0o755)
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "HOME": str(folder)}
    show = ["bash", "-c", "swiftalign --show-completion; true"]  # the shell is found by the name of the parent process
    script = subprocess.run(show, env=environment, capture_output=True, text=True, check=True).stdout
    (folder / "script").write_text(script)
    return folder, environment


def completed(shell: tuple[Path, dict[str, str]], *words: str, cwd: Path | None = None) -> list[str]:
    """What bash offers for the last of the words, as it splits them: at blanks and at ``=``."""
    folder, environment = shell
    calls = (
        'source script; cd "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _swiftalign_completion swiftalign'
    )
    code = f'{calls}; for each in "${{COMPREPLY[@]}}"; do echo "$each"; done'
    argv = ["bash", "-c", code, "bash", str(cwd or folder), "swiftalign", *words]
    done = subprocess.run(argv, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_commands_and_options_are_completed(shell: tuple[Path, dict[str, str]]) -> None:
    assert completed(shell, "in") == ["init", "inspect-params"]
    assert completed(shell, "verify-ckpt", "--ch") == ["--checkpoint"]


def test_values_that_are_known_are_completed(shell: tuple[Path, dict[str, str]]) -> None:
    assert completed(shell, "init", "--method", "") == [*recipes()]
    assert completed(shell, "init", "--problem", "") == [*PROBLEMS]
    assert completed(shell, "init", "--example", "anti") == ["anti_overfitting"]
    assert completed(shell, "docs", "how") == ["how-it-works"]
    assert completed(shell, "docs", "aligner-inc") == ["aligner-incomplete"]
    assert completed(shell, "export", "run", "--dtype", "f") == ["float32", "float16"]
    assert completed(shell, "convert", "--coordinates", "relative") == ["relative1000", "relative1"]


def test_the_codes_of_allow_are_those_that_it_takes(shell: tuple[Path, dict[str, str]]) -> None:
    offered = completed(shell, "train", "config.yaml", "--allow", "")
    assert sorted(offered) == sorted({*CODES, *DATA_CODES})
    assert not {*offered} & {*CHECKPOINT_CODES}


def test_the_checkpoints_of_the_run_are_offered(shell: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    for step in (20, 100, 3):
        (tmp_path / f"run/checkpoint-{step}").mkdir(parents=True)
    (tmp_path / "run/checkpoint-notes").mkdir()
    for words in (["verify-ckpt", "--deep", "run"], ["export", "run"], ["eval", "run", "rows.jsonl"]):
        expected = ["best", "last", "100", "20", "3"]
        assert completed(shell, *words, "--checkpoint", "", cwd=tmp_path) == expected
    assert completed(shell, "export", "none", "--checkpoint", "", cwd=tmp_path) == ["best", "last"]


def test_keys_of_the_configuration_are_offered_and_after_them_their_values(shell: tuple[Path, dict[str, str]]) -> None:
    offered = completed(shell, "train", "a.yaml", "--set", "")
    whole = section_fields("training").keys() - {"early_stopping"}  # which is a section
    assert {f"training.{name}" for name in whole} <= {*offered}
    assert {"model", "data.train", "tuner.lora_rank", "custom.augmentation.preset"} <= {*offered}
    presets = ["mild", "conservative", "guide", "progressive-1", "progressive-2", "progressive-3"]
    key = ["inspect-params", "a.yaml", "--set", "custom.augmentation.preset"]
    assert completed(shell, *key, "=") == presets
    assert completed(shell, *key, "=", "gu") == ["guide"]
    assert completed(shell, "train", "--set", "training.gradient_checkpointing", "=", "f") == ["false"]


@pytest.mark.parametrize("words", [["train", ""], ["verify-ckpt", ""], ["eval", "model", ""], ["train", "a.yaml", ""]])
def test_files_are_left_to_the_shell(words: list[str], shell: tuple[Path, dict[str, str]]) -> None:
    assert completed(shell, *words) == []
    assert "-o default" in (shell[0] / "script").read_text()


def test_completion_is_installed_for_the_shell_that_asks(shell: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    argv = ["bash", "-c", "swiftalign --install-completion; true"]
    done = subprocess.run(argv, env=shell[1] | {"HOME": str(tmp_path)}, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("bash completion installed in")
    installed = tmp_path / ".bash_completions/swiftalign.sh"
    assert str(installed) in (tmp_path / ".bashrc").read_text()
    assert installed.read_text().strip() == (shell[0] / "script").read_text().strip()


def test_a_key_that_is_pressed_completes(shell: tuple[Path, dict[str, str]]) -> None:
    """In an interactive bash on a pseudo-terminal."""
    folder, environment = shell
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(folder)
        os.execvpe("bash", ["bash", "--norc", "-i"], environment | {"TERM": "dumb", "PS1": "> "})
    os.write(terminal, b"source script; echo rea''dy\n")
    shown, keys, end = (
        b"",
        [(b"ready", b"swiftalign inspe\t"), (b"inspect-params ", b"\nexit\n")],
        time.monotonic() + 60,
    )
    while time.monotonic() < end:
        if not select.select([terminal], [], [], 1)[0]:
            continue
        try:
            shown += os.read(terminal, 4096)
        except OSError:
            break
        if keys and keys[0][0] in shown:
            os.write(terminal, keys.pop(0)[1])
    os.waitpid(pid, 0)
    assert b"swiftalign inspect-params " in shown


@pytest.mark.parametrize(
    "words",
    [
        "swiftalign init --method ",
        "swiftalign train a.yaml --allow data-",
        "swiftalign export run --checkpoint ",
        "swiftalign train --set cus",
        "swiftalign docs f",
        "swiftalign unknown --x ",
        "swiftalign train 'open",
    ],
)
def test_completing_imports_nothing_heavy_and_prints_no_error(words: str, tmp_path: Path) -> None:
    code = (
        "import sys, json; from swiftalign.cli import main\n"
        "main(sys.argv[1:])\n"
        f"print(json.dumps([m for m in {HEAVY} if m in sys.modules]), file=sys.stderr)"
    )
    words = re.sub("run(?= )", str(tmp_path), words)
    environment = {**os.environ, "_SWIFTALIGN_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": words}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert json.loads(done.stderr) == []


@pytest.mark.parametrize("words", ["swiftalign init --method ", "swiftalign train --", "swiftalign "])
def test_what_a_value_means_stays_in_its_line(words: str) -> None:
    """fish takes each line for a value, whatever the width of its terminal."""
    environment = {**os.environ, "_SWIFTALIGN_COMPLETE": "complete_fish", "_TYPER_COMPLETE_ARGS": words}
    environment |= {"_TYPER_COMPLETE_FISH_ACTION": "get-args", "COLUMNS": "40"}
    argv = [sys.executable, "-m", "swiftalign"]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=True)
    assert all(re.fullmatch(r"[\w-]+\t.+", line) for line in done.stdout.splitlines())


def test_a_failure_while_completing_is_silent(tmp_path: Path) -> None:
    """A schema that is damaged stands for all that can go wrong."""
    folder = tmp_path / "swiftalign"
    folder.mkdir()
    for entry in Path(shipped.__file__).parent.iterdir():
        if entry.name != "configs":
            (folder / entry.name).symlink_to(entry)
    (folder / "shipped.py").unlink()
    (folder / "shipped.py").write_text(Path(shipped.__file__).read_text())
    (folder / "configs").mkdir()
    (folder / "configs/swiftalign.schema.json").write_text("{")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "_SWIFTALIGN_COMPLETE": "complete_zsh"}
    environment["_TYPER_COMPLETE_ARGS"] = "swiftalign train --set cus"
    argv = [sys.executable, "-m", "swiftalign"]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")
