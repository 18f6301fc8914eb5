"""Help pages: the same words for the same things, whole sentences, examples that can be pasted, and nothing cut."""

from __future__ import annotations

import re
import shlex
from typing import Any

import pytest

from swiftalign.cli import _command, main
from swiftalign.cli.help import usage_of
from terminal import lines_of, on_terminal

COMMANDS: dict[str, Any] = _command().commands
# The words for values, each of which stands for one kind of thing in all commands.
WORDS = {
    *("CONFIG", "RUN_OR_CHECKPOINT", "FOLDER", "FILE", "MODEL", "ROWS", "SOURCE", "PAGE_OR_CODE", "NUMBERS", "NAME"),
    *("N", "SEED", "PERCENT", "SHARE", "SECONDS", "CODE", "METHOD", "PROBLEM", "UNIT", "DTYPE", "DEVICE", "GPU", "URL"),
    *("BENCHMARK", "SECTION.KEY=VALUE", "HOST:PORT", "OWNER/NAME", "best|last|N", "aligner"),
}
SAME = {  # options and arguments of these names take the same value wherever they are
    "configs": "CONFIG",
    "base": "MODEL",
    "which": "best|last|N",
    "dtype": "DTYPE",
    "rows": "ROWS",
    "seed": "SEED",
    "allowed": "CODE",
    "allow": "CODE",
    "overrides": "SECTION.KEY=VALUE",
}


def params_of(command: str) -> list[Any]:
    return [param for param in COMMANDS[command].params if not getattr(param, "is_flag", False)]


@pytest.mark.parametrize("command", COMMANDS)
def test_values_have_words_that_people_read(command: str) -> None:
    for param in params_of(command):
        assert param.metavar in WORDS, f"{param.name} of {command}"
    usage = f"Usage: swiftalign {command} [OPTIONS]"
    arguments = [usage_of(param) for param in params_of(command) if param.param_type_name == "argument"]
    code, drawn = on_terminal(command, "--help")
    assert code == 0
    assert lines_of(drawn)[0] == " ".join([usage, *arguments])
    assert not re.search(r"<\w+|\{[A-Z]|\bTEXT\b|\bPATH\b|\bINTEGER\b|list\[", drawn)


def test_a_thing_has_the_same_word_in_all_commands() -> None:
    for command in COMMANDS:
        for param in params_of(command):
            if param.name != "rows" or command != "preview-aug":  # where they are numbers
                assert param.metavar == SAME.get(param.name, param.metavar), f"{param.name} of {command}"
            if "--output" in param.opts:
                assert param.metavar in ("FILE", "FOLDER")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_says_what_a_command_does_with_examples_and_what_comes_next(command: str) -> None:
    paragraphs = COMMANDS[command].help.split("\n\n")
    assert re.fullmatch(r"[A-Z].*\.", paragraphs[0], re.DOTALL)
    examples = [part.strip() for part in paragraphs if part.startswith("  ")]
    assert examples
    assert all(example.startswith(f"swiftalign {command}") for example in examples)
    assert any(part.startswith("Next: 'swiftalign ") for part in paragraphs), "what comes next"
    for param in COMMANDS[command].params:
        told = re.sub(r"  \[.*\]$", "", param.help, flags=re.DOTALL)
        assert re.fullmatch(r"[A-Z].*\.", told, re.DOTALL), f"{param.name}: {told}"


@pytest.mark.parametrize("command", COMMANDS)
def test_the_options_of_every_example_exist(command: str) -> None:
    for part in COMMANDS[command].help.split("\n\n"):
        if part.startswith("  "):
            words = shlex.split(part.partition(">")[0])[2:]
            assert COMMANDS[command].make_context(command, words).args == []  # raises for an option that is unknown


@pytest.mark.parametrize("columns", [60, 80, 120, 200])
@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_no_line_of_help_is_wider_than_the_terminal_and_none_is_cut(command: str, columns: int) -> None:
    argv = [*command.split(), "--help"]
    code, drawn = on_terminal(*argv, columns=columns)
    lines = lines_of(drawn)
    assert code == 0
    assert max(map(len, lines)) <= columns
    assert "…" not in drawn
    words = " ".join(drawn.replace(" \\\r\n", " ").split())
    of = COMMANDS[command] if command else _command()
    for sentence in [*of.help.split("\n\n"), *(param.help for param in of.params)]:
        assert " ".join(sentence.split()) in words
    if not command:
        assert all(each.get_short_help_str() in words for each in COMMANDS.values())


def test_an_example_that_is_broken_can_be_pasted() -> None:
    _, drawn = on_terminal("init", "--help", columns=60)
    shown = drawn.replace("\r\n", "\n")
    example = (
        "swiftalign init --model Qwen/Qwen3-VL-4B-Instruct --method dora --train data/train.jsonl --val data/val.jsonl"
    )
    start = shown.index("swiftalign init --model")
    assert shlex.split(shown[start : shown.index("\n\n", start)].replace("\\\n", "")) == example.split()


def test_the_version_has_two_options(capsys: pytest.CaptureFixture[str]) -> None:
    from swiftalign import __version__

    for option in ("--version", "-V"):
        assert main([option]) == 0
        assert capsys.readouterr().out == f"swiftalign {__version__}\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_h_is_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "-h"]) == 0
    short = capsys.readouterr().out
    assert main([command, "--help"]) == 0
    assert capsys.readouterr().out == short


def test_a_mistake_is_told_with_the_usage_and_the_way_to_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "x.yaml", "--dryrun"]) == 2
    usage, error, hint = capsys.readouterr().err.splitlines()
    assert usage == "Usage: swiftalign train [OPTIONS] CONFIG..."
    assert error.startswith("error: No such option: --dryrun")
    assert "--dry-run" in error
    assert hint == "hint: swiftalign train --help says what it takes"
