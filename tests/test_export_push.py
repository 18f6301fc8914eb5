"""`export --push`: what is on the hub afterwards is the folder, and nobody's files are replaced or shown unasked."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from hub_server import Hub, hub_server
from swiftalign.cli import main
from swiftalign.demo.model import build_model
from test_export_against_peft import make_adapter


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base and an adapter for it."""
    folder = tmp_path_factory.mktemp("push")
    build_model(folder / "base", dtype="bfloat16")
    make_adapter(folder / "base", "modules_to_save", folder / "run/checkpoint-7")
    return folder


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with hub_server() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # a protocol of the hub's own storage
        monkeypatch.setenv("HF_TOKEN", "hf_anna")
        yield server


Export = Callable[..., int]


@pytest.fixture
def export(made: Path, tmp_path: Path) -> Export:
    """Run the command; its exit code."""

    def run(*arguments: str) -> int:
        source = [str(made / "run/checkpoint-7"), "--base", str(made / "base"), "--output", str(tmp_path / "out")]
        return main(["export", *source, *arguments])

    return run


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def on_hub(hub: Hub, hub_id: str) -> dict[str, bytes]:
    return {name: data for name, data in hub.files[hub_id].items() if name != ".gitattributes"}


def test_a_new_repository_is_private_and_holds_exactly_the_folder(
    hub: Hub, export: Export, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export("--push", "anna/stage4") == 0
    assert on_hub(hub, "anna/stage4") == contents(tmp_path / "out")
    assert hub.private == {"anna/stage4": True}
    assert hub.commits == 1
    assert re.search(rf"^pushed +{hub.url}/anna/stage4  \(private\)$", capsys.readouterr().out, re.M)
    assert any(request.startswith("PUT /storage/") for request in hub.requests)


def test_public_is_asked_for_and_json_has_the_address(
    hub: Hub, export: Export, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export("--push", "team/stage4", "--public", "--json") == 0
    assert hub.private == {"team/stage4": False}
    assert json.loads(capsys.readouterr().out)["pushed"] == f"{hub.url}/team/stage4"


@pytest.mark.parametrize("part", ["--adapter-only", "--aligner-only", "--mmproj", ""])
def test_what_is_uploaded_is_called_by_its_id_and_names_no_folder_of_this_machine(
    part: str, hub: Hub, export: Export, made: Path, tmp_path: Path
) -> None:
    assert export("--push", "stage4", *filter(None, [part])) == 0
    files = on_hub(hub, "anna/stage4")
    assert b"anna/stage4" in files["README.md"]
    assert not [name for name, data in files.items() if str(made).encode() in data or str(tmp_path).encode() in data]
    if part == "--mmproj":
        assert files.keys() == {"README.md", "export.json", "mmproj-stage4-BF16.gguf"}
        assert b"hf download anna/stage4 mmproj-stage4-BF16.gguf" in files["README.md"]


def test_files_of_an_existing_repository_are_replaced_with_yes_alone(
    hub: Hub, export: Export, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.add("anna/stage4", private=True, stale__safetensors=b"old", README__md=b"old")
    assert export("--push", "anna/stage4") == 2
    assert "anna/stage4 holds 2 files, which the upload replaces\nhint: pass --yes" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert export("--push", "anna/stage4", "--yes") == 0
    assert on_hub(hub, "anna/stage4") == contents(tmp_path / "out")
    assert ".gitattributes" in hub.files["anna/stage4"]


@pytest.mark.parametrize(("key", "commits"), [("n", 0), pytest.param("y", 1, marks=pytest.mark.long)])
def test_on_a_terminal_it_asks(
    key: str,
    commits: int,
    hub: Hub,
    made: Path,
    tmp_path: Path,
    run_in_terminal: Callable[..., tuple[int, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    hub.add("anna/stage4", private=True, README__md=b"old")
    source = [str(made / "run/checkpoint-7"), "--base", str(made / "base"), "-o", "out"]
    code, shown = run_in_terminal("export", *source, "--push", "anna/stage4", keys=f"{key}\n")
    assert "holds 1 file, which the upload replaces. Go on?" in shown
    assert (code == 0, hub.commits, (tmp_path / "out").exists()) == (key == "y", commits, key == "y")


def test_a_public_repository_is_not_written_unasked(
    hub: Hub, export: Export, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.add("anna/stage4", private=False)
    assert export("--push", "anna/stage4") == 2
    assert "this repository is public\nhint: pass --public" in capsys.readouterr().err
    assert export("--push", "anna/stage4", "--public") == 0


@pytest.mark.parametrize("name", ["a/b/c", "a--b/c", "-x", "a b", "", "x" * 200, "../x"])
def test_a_bad_name_is_told_before_anything_is_merged(
    name: str, export: Export, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export("--push", name) == 2
    assert "not a name that the Hugging Face hub can have" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_another_owner_is_told_before_anything_is_merged(
    hub: Hub, export: Export, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export("--push", "bert/stage4") == 2
    assert "the token is of anna, who may not write for bert\nhint: name one of anna, team" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_no_token_a_false_one_and_no_network_are_told(
    hub: Hub, export: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_false")
    assert export("--push", "anna/stage4") == 2
    assert "does not accept the token\nhint: log in with 'hf auth login'" in capsys.readouterr().err
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    assert export("--push", "anna/stage4") == 2
    assert "there is no token for the Hugging Face hub here" in capsys.readouterr().err
    monkeypatch.setenv("HF_TOKEN", "hf_anna")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert export("--push", "anna/stage4") == 2
    assert "the Hugging Face hub can't be reached: " in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_without_the_right_to_write_the_folder_stays_and_the_way_on_is_told(
    hub: Hub, export: Export, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.readers.add("hf_anna")
    assert export("--push", "anna/stage4") == 1
    error = capsys.readouterr().err
    assert "not uploaded: the token has no right to write to anna/stage4" in error
    assert f"to try the upload alone: hf upload anna/stage4 {tmp_path / 'out'}" in error
    assert (tmp_path / "out/model.safetensors").is_file()


def test_a_file_that_is_not_there_as_it_is_here_is_told(
    hub: Hub, export: Export, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.corrupt = "config.json"
    assert export("--push", "anna/stage4") == 1
    assert "anna/stage4 does not hold what " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--public"], "--public is for --push"),
        (["--yes"], "--yes is for --push"),
        (["--push", "anna/x", "--mmproj", "-o", "x.gguf"], "--push uploads a folder"),
        (["--mmproj", "--adapter-only"], "--adapter-only and --mmproj exclude each other"),
        (["--mmproj", "--link"], "--link is for a whole model"),
    ],
)
def test_options_that_do_not_fit_are_told(
    arguments: list[str], message: str, export: Export, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export(*arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.long
@pytest.mark.parametrize("part", ["", "--aligner-only"])
def test_the_lines_of_the_card_load_it_from_the_hub(
    part: str, hub: Hub, export: Export, made: Path, tmp_path: Path
) -> None:
    assert export("--push", "anna/stage4", *filter(None, [part])) == 0
    shutil.rmtree(tmp_path / "out")
    shutil.copytree(made / "base", tmp_path / "base")
    [lines] = re.findall(r"```python\n(.*?)```", hub.files["anna/stage4"]["README.md"].decode(), re.DOTALL)
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path / "home")}
    ended = subprocess.run([sys.executable, "-c", lines], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert any("/resolve/" in request for request in hub.requests)
