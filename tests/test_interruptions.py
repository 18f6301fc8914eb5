"""What the system refuses, and signals: each command says what and where, and leaves no half of an output."""

from __future__ import annotations

import gzip
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from swiftalign import files, problems
from swiftalign.cli import main
from swiftalign.config.sections import DataSource
from swiftalign.data.convert import convert
from swiftalign.data.rows import Rows
from swiftalign.evaluation.evaluate import begin
from swiftalign.evaluation.predictions import Prediction, PredictionFile
from swiftalign.evaluation.questions import Question
from swiftalign.exports import weights
from swiftalign.files import appearing, appearing_folder, write_whole
from swiftalign.problems import DataError, TrainingError
from swiftalign.runs import launch
from swiftalign.runs.events import EventReader, EventWriter
from swiftalign.runs.processes import ONE


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """No file may be larger, as on a disk that is full at this point."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def talk(folder: Path, name: str, colour: str) -> Path:
    """A file with a row that holds its image itself, and then one that is malformed if the name says so."""
    import pyarrow
    from pyarrow.parquet import write_table

    Image.new("RGB", (64, 48), colour).save(folder / "image.png")
    image = {"bytes": (folder / "image.png").read_bytes(), "path": None}
    answer = '[{"bbox_2d": [125, 125, 625, 625], "label": "cup"}]'
    talks: list[Any] = [[{"from": "human", "value": "<image>Find it."}, {"from": "gpt", "value": answer}]]
    talks += [[{"from": "human", "value": "<image><image><image>"}]] if name == "malformed" else []
    path = folder / f"{name}.parquet"
    write_table(pyarrow.table({"image": [image] * len(talks), "conversations": talks}), path)
    return path


# -- files -------------------------------------------------------------------------------------------------------------


def test_what_a_killed_process_leaves_of_a_file_is_removed_by_the_next(tmp_path: Path) -> None:
    program = (
        "import os; from pathlib import Path; from swiftalign.files import appearing\n"
        f"with appearing(Path({str(tmp_path / 'a.json')!r})) as part: part.touch(); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 1
    write_whole(tmp_path / "a.json", "whole")
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_an_error_names_the_place_that_the_caller_knows(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left") as full, appearing(tmp_path / "a.json"):
        raise OSError(28, "No space left on device")  # a write to an open file names none
    assert full.value.filename == str(tmp_path / "a.json")
    with pytest.raises(FileNotFoundError) as missing, appearing_folder(tmp_path / "out") as part:
        (part / "b/c").touch()
    assert missing.value.filename == str(tmp_path / "out/b/c")
    with pytest.raises(FileNotFoundError) as elsewhere, appearing(tmp_path / "a.json"):
        (tmp_path / "source").read_bytes()
    assert str(elsewhere.value.filename) == str(tmp_path / "source")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("number", "message", "hint"),
    [
        (28, "the disk is full: a.json can't be written", "free some space"),
        (122, "the disk is full: a.json can't be written", "free some space"),
        (27, "a.json: File too large", "ulimit -f"),
        (13, "a.json: Permission denied", "let this user"),
        (30, "a.json: Read-only file system", "let this user"),
        (2, "a.json: No such file or directory", "restore it"),
        (5, "a.json: Input/output error", "check the file and its disk"),
    ],
    ids=["full", "quota", "limit", "denied", "read-only", "missing", "other"],
)
def test_what_the_system_says_becomes_a_message_with_a_hint(number: int, message: str, hint: str) -> None:
    told = files.file_error(OSError(number, os.strerror(number), "a.json"))
    assert told.message.startswith(message)
    assert hint in str(told.hint)


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (411_000, "411 kB"), (999_600, "1 MB"), (23.1e9, "23.1 GB")],
)
def test_a_size_has_a_unit_that_shows_something(count: float, text: str) -> None:
    assert problems.size_text(count) == text


def test_no_room_for_an_unpacked_file_is_not_called_damage(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"images": ["a.png"], "objects": []}\n' * 10_000))
    with files_of_at_most(1000), pytest.raises(DataError, match=rf"{tempfile.gettempdir()}: File too large") as told:
        Rows([path])
    assert "TMPDIR" in str(told.value.hint)


# -- convert -----------------------------------------------------------------------------------------------------------


def test_a_conversion_that_fails_leaves_the_rows_and_images_of_an_earlier_one(tmp_path: Path) -> None:
    output = tmp_path / "own.jsonl"
    convert([DataSource(path=str(talk(tmp_path, "red", "red")))], output)
    [name] = json.loads(output.read_text())["images"]
    before = {path: path.read_bytes() for path in (output, tmp_path / name)}
    with pytest.raises(DataError):
        convert([DataSource(path=str(talk(tmp_path, "malformed", "blue")))], output, force=True)
    assert {path: path.read_bytes() for path in before} == before
    assert len(list((tmp_path / "own_images").iterdir())) == 1
    assert not list(tmp_path.glob(".own*"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_signal_ends_a_command_with_a_word_and_without_leftovers(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = talk(tmp_path, "red", "red")
    read = Rows.row

    def row(self: Rows, index: int) -> Any:
        os.kill(os.getpid(), number)
        return read(self, index)

    monkeypatch.setattr(Rows, "row", row)
    ignored = signal.signal(number, signal.default_int_handler)  # a shell starts its background jobs with it ignored
    try:
        assert main(["convert", rows.name, "--output", "own.jsonl"]) == 128 + number
        assert signal.getsignal(number) is signal.default_int_handler
    finally:
        signal.signal(number, ignored)
    assert capfd.readouterr().err == "stopped\n"
    assert not list(tmp_path.glob("*own*"))


# -- init --------------------------------------------------------------------------------------------------------------


def test_a_config_is_replaced_whole_or_not_at_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("mine")
    command = ["init", str(path), "--model", "Qwen/Qwen3-VL-4B-Instruct", "--method", "lora", "--train", "a.jsonl"]
    with files_of_at_most(100):
        assert main([*command, "--force"]) == 2
    assert f"{path}: File too large" in capsys.readouterr().err
    assert path.read_text() == "mine"


# -- eval --------------------------------------------------------------------------------------------------------------


def test_answers_that_can_not_be_kept_are_told_with_their_file(tmp_path: Path) -> None:
    file, answer = PredictionFile(tmp_path / "predictions.jsonl"), Prediction.of(Question(0, (64, 48), ()), "[]")
    file.add(answer)
    with (
        files_of_at_most((tmp_path / "predictions.jsonl").stat().st_size + 10),
        pytest.raises(OSError, match="File too large") as full,
    ):
        file.add(answer)
    assert full.value.filename == str(tmp_path / "predictions.jsonl")
    assert len(file.read([answer.question])) == 1  # and the cut line is gone
    file.add(answer)
    assert len((tmp_path / "predictions.jsonl").read_text().splitlines()) == 2


def test_an_evaluation_that_can_not_be_written_is_one_message(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["eval", str(demo / "model"), str(demo / "data/val.jsonl"), "--limit", "1", "-o", "/proc/mine"]
    assert main(command) == 2
    assert "error: /proc/mine: No such file or directory" in capsys.readouterr().err


def test_numbers_of_other_answers_do_not_stay(tmp_path: Path) -> None:
    begin(tmp_path / "eval", {"model": "a"})
    for name in ("summary.json", "eval.html", "worst.png"):
        (tmp_path / "eval" / name).touch()
    begin(tmp_path / "eval", {"model": "a"})  # goes on
    assert (tmp_path / "eval/summary.json").exists()
    begin(tmp_path / "eval", {"model": "b"}, anew=True)
    assert [path.name for path in (tmp_path / "eval").iterdir()] == ["eval.json"]


def test_what_a_killed_call_left_of_the_settings_does_not_block_the_next(tmp_path: Path) -> None:
    (tmp_path / "eval/.eval.json.partial-0123456789ab").mkdir(parents=True)
    begin(tmp_path / "eval", {"model": "a"})
    assert [path.name for path in (tmp_path / "eval").iterdir()] == ["eval.json"]


# -- export ------------------------------------------------------------------------------------------------------------


def test_after_an_error_files_that_wait_are_not_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copied: list[Path] = []

    def copy(base: Path, target: Path, gaps: list[tuple[int, int]]) -> None:
        copied.append(base)
        time.sleep(0.2)

    def merged(dtype: str | None) -> Iterator[tuple[str, bytes]]:
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(weights, "_copy", copy)
    files = [tmp_path / f"{number}.safetensors" for number in range(40)]
    for file in files:
        file.write_bytes(bytes(8))
    (tmp_path / "out").mkdir()
    source: Any = SimpleNamespace(whole={}, changed=(), changed_files=set(), files=files, merged_values=merged)
    with pytest.raises(KeyboardInterrupt):
        weights.write_weights(source, tmp_path / "out", shared=[], dtype=None)
    assert len(copied) < 12


# -- train -------------------------------------------------------------------------------------------------------------


def test_an_event_that_a_full_disk_cut_off_hides_no_other(tmp_path: Path) -> None:
    reader, writer = EventReader(tmp_path), EventWriter(tmp_path)
    writer.write("step", step=1)
    events = tmp_path / "events.jsonl"
    with files_of_at_most(events.stat().st_size + 10), pytest.raises(OSError, match="File too large") as full:
        writer.write("step", step=2)
    assert full.value.filename == str(events)
    EventWriter(tmp_path).write("step", step=3)  # of the resumed run
    assert [event.values["step"] for event in reader.poll()] == [1, 3]


def test_a_training_process_that_can_not_say_that_the_disk_is_full_is_spoken_for(tmp_path: Path) -> None:
    ended = launch._Death("the training process ended with code 1", "see the end of train.log")
    told: Callable[[], Exception] = lambda: launch._first_cause([], [ended], tmp_path, ONE)  # noqa: E731
    assert str(told()) == ended.message
    with files_of_at_most(8192):
        assert str(told()) == f"{tmp_path}: File too large: it can't be written"
    assert not list(tmp_path.iterdir())


def test_a_run_whose_folder_is_removed_ends(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="the run folder was removed"):
        list(launch.follow_training(tmp_path, local_model=True))
