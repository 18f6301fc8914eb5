"""Broken configuration files, and exactly what the user is told about each.

`broken_configs/NAME.txt` holds the command, what it prints to stderr, and the exit code; `<here>` stands for the folder
of the command. The files that it names lie beside it.
"""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import pytest

from swiftalign.cli import main

FOLDER = Path(__file__).with_name("broken_configs")
CASES = sorted(path.stem for path in FOLDER.glob("*.txt"))

CONFIG_JSON = b'{"model_type": "qwen3_vl"}'
INDEX = json.dumps({"weight_map": {"lm_head.weight": "../outside.safetensors"}}).encode()
CODE = b'{"model_type": "qwen3_vl", "auto_map": {"AutoModel": "code.Model"}}'

# What else the folder of a command holds.
FILES: dict[str, dict[str, bytes]] = {
    "data_empty": {"empty.jsonl": b"\n\n"},
    "data_row_not_json": {"rows.jsonl": b"image,x,y\n"},
    "data_unrecognised": {"rows.csv": b"image,x,y\n"},
    "data_val_missing": {"rows.jsonl": b"{}\n"},
    "given_a_folder": {"configs/config.yaml": b""},
    "model_config_truncated": {"model/config.json": b'{"model_type"'},
    "model_header_corrupt": {
        "model/config.json": CONFIG_JSON,
        "model/model.safetensors": (8).to_bytes(8, "little") + b"no JSON.",
    },
    "model_index_outside": {"model/config.json": CONFIG_JSON, "model/model.safetensors.index.json": INDEX},
    "model_runs_code": {"model/config.json": CODE},
    "model_weights_truncated": {
        "model/config.json": CONFIG_JSON,
        "model/model.safetensors": (4096).to_bytes(8, "little") + b'{"lm_head',
    },
    "model_without_config": {"model/model.safetensors": b""},
}


def run(command: str, capsys: pytest.CaptureFixture[str]) -> str:
    """What a command prints to stderr, and how it ends."""
    code = main(shlex.split(command)[1:])
    return capsys.readouterr().err.replace(str(Path.cwd()), "<here>") + f"exit {code}\n"


@pytest.mark.parametrize("name", CASES)
def test_broken_config_says_what_is_wrong_and_where(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command, _, expected = (FOLDER / f"{name}.txt").read_text(encoding="utf-8").partition("\n")
    for word in shlex.split(command):
        if (FOLDER / word).is_file():
            shutil.copy(FOLDER / word, tmp_path)
    for path, data in FILES.get(name, {}).items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(data)
    monkeypatch.chdir(tmp_path)
    assert run(command.removeprefix("$ "), capsys) == expected


def test_every_broken_config_has_its_expectation() -> None:
    configs = {path.stem for path in FOLDER.glob("*.yaml")} - {"sound"}
    assert configs - set(CASES) == set()
    assert set(FILES) - set(CASES) == set()


def test_sound_config_is_sound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(FOLDER / "sound.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    assert run("swiftalign inspect-params sound.yaml", capsys) == "exit 0\n"
