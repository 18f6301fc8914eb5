"""A row that can't be used any more ends a run with its file and line, after a checkpoint; nothing is lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from swiftalign.cli import main
from swiftalign.config.load import load_config
from swiftalign.data.rows import RowError, Rows
from swiftalign.demo.data import write_dataset
from swiftalign.problems import TrainingError
from swiftalign.runs.events import Event, outcome
from swiftalign.runs.processes import Processes
from swiftalign.runs.train import train
from test_train_data import GUIDE, weights, write_training

IN_ORDER = ["data.dataset_shuffle=false", "training.train_dataloader_shuffle=false"]
LINE, STEP = 5, 2  # the fifth row is the first one of the third step


def image_of(config: Path, line: int = LINE) -> Path:
    row = json.loads((config.parent / "rows.jsonl").read_text().splitlines()[line - 1])
    return config.parent / row["images"][0]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory, demo: Path) -> bytes:
    """The weights of an undisturbed run."""
    config = write_training(tmp_path_factory.mktemp("straight"), demo)
    return run_until(config, lambda: None, "training.save_steps=6")


def run_until(config: Path, spoil: Callable[[], object], *sets: str, processes: int = 1, resume: bool = False) -> bytes:
    """Train, and spoil something when the rows have been checked; returns the final weights."""

    def listen(event: Event) -> None:
        if event.kind == "begin":
            spoil()

    run = config.parent / "run"
    loaded = load_config([config, GUIDE], [f"training.output_dir={run}", *IN_ORDER, *sets])
    train(loaded, listen=listen, processes=Processes(processes), resume=resume)
    return weights(run)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [pytest.param(0, marks=pytest.mark.long), 2])
def test_a_damaged_image_ends_the_run_after_a_checkpoint_from_which_it_goes_on(
    workers: int, tmp_path: Path, demo: Path, straight: bytes
) -> None:
    config = write_training(tmp_path, demo)
    image, sets = image_of(config), ["training.save_steps=6", f"training.dataloader_num_workers={workers}"]
    sound = image.read_bytes()

    with pytest.raises(TrainingError) as error:
        run_until(config, lambda: cut(image), *sets)

    assert error.value.message.startswith(f"{tmp_path / 'rows.jsonl'}:{LINE}: image {image}: ")
    assert error.value.hint == f"restore the file, then --resume: the run is saved at step {STEP}"
    assert error.value.exit_code == 1
    assert [path.name for path in (tmp_path / "run").glob("checkpoint-*")] == [f"checkpoint-{STEP}"]
    assert "Traceback" not in (tmp_path / "run/train.log").read_text()

    image.write_bytes(sound)
    assert run_until(config, lambda: None, *sets, resume=True) == straight


@pytest.mark.long
def test_all_processes_end_and_are_saved_together(tmp_path: Path, demo: Path) -> None:
    config = write_training(tmp_path, demo)
    image, sets = image_of(config, 6), ["training.save_steps=6", "training.max_steps=4"]
    sound = image.read_bytes()
    with pytest.raises(TrainingError) as error:  # the second process reads the row, in the second step
        run_until(config, lambda: cut(image), *sets, processes=2)
    assert error.value.message.startswith(f"{tmp_path / 'rows.jsonl'}:6: image {image}: ")
    assert error.value.hint == "restore the file, then --resume: the run is saved at step 1"
    image.write_bytes(sound)
    with pytest.raises(FileNotFoundError):  # of step 6
        run_until(config, lambda: None, *sets, processes=2, resume=True)
    ended = outcome(tmp_path / "run")
    assert ended is not None
    assert (ended.kind, ended.values["step"]) == ("done", 4)


def vanish(config: Path) -> str:
    image_of(config).unlink()
    return "no such file"


def change_row(config: Path) -> str:
    rows = config.parent / "rows.jsonl"
    lines = rows.read_bytes().split(b"\n")
    lines[LINE - 1] = b"?" * len(lines[LINE - 1])
    rows.write_bytes(b"\n".join(lines))
    return "not JSON"


def lengthen(config: Path) -> str:
    with (config.parent / "rows.jsonl").open("ab") as rows:
        rows.write(b"\n")
    return "has changed since its rows were checked"


@pytest.mark.long
@pytest.mark.parametrize("spoil", [vanish, change_row, lengthen])
def test_a_vanished_image_and_a_changed_row_are_named_too(
    spoil: Callable[[Path], str], tmp_path: Path, demo: Path
) -> None:
    config, reasons = write_training(tmp_path, demo), list[str]()
    with pytest.raises(TrainingError) as error:
        run_until(config, lambda: reasons.append(spoil(config)))
    # The first rows are read, without their images, before the first step.
    line, saved = (1 if spoil is lengthen else LINE), (f": the run is saved at step {STEP}" if spoil is vanish else "")
    assert error.value.message.startswith(f"{tmp_path / 'rows.jsonl'}:{line}: ")
    assert reasons[0] in error.value.message
    assert error.value.hint == f"restore the file, then --resume{saved}"


@pytest.mark.long
def test_the_check_finds_it_before_training_and_can_be_skipped(
    tmp_path: Path, demo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_training(tmp_path, demo)
    image, rows = image_of(config), tmp_path / "rows.jsonl"
    cut(image)
    words = ["train", str(config), *(word for item in IN_ORDER for word in ("--set", item))]
    assert main([*words, "--dry-run"]) == 1
    err = capsys.readouterr().err
    assert f"{rows}:{LINE}" in err
    assert f"an image can't be read, or has an extreme aspect ratio: {image}: " in err
    assert main([*words, "--dry-run", "--skip-image-check"]) == 0

    done = subprocess.run(
        [sys.executable, "-m", "swiftalign", *words, "--skip-image-check"],
        capture_output=True,
        text=True,
        env=os.environ,
        check=False,
    )

    assert done.returncode == 1
    assert f"error: {rows}:{LINE}: image {image}: " in done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_an_error_of_a_row_survives_the_way_out_of_a_data_loader_worker() -> None:
    """torch's ExceptionWrapper makes a new exception of the traceback's text."""
    from torch._utils import ExceptionWrapper

    try:
        raise RowError("rows.jsonl:5: image a.png: no\nsuch file", "restore the file")
    except RowError:
        wrapped = ExceptionWrapper(where="in DataLoader worker process 0")
    with pytest.raises(RowError) as error:
        wrapped.reraise()
    assert (error.value.message, error.value.hint) == ("rows.jsonl:5: image a.png: no such file", "restore the file")


def test_whatever_is_wrong_with_a_row_is_named_with_file_and_line(tmp_path: Path) -> None:
    write_dataset(tmp_path / "rows.jsonl", rows=3, seed=4)
    rows = Rows([tmp_path / "rows.jsonl"])
    for error, message, hint in (
        (ValueError("too\nlong"), "ValueError: too long", None),
        (OSError(5, "Input/output error", "a.png"), "a.png: Input/output error", "restore the file"),
    ):
        with pytest.raises(RowError) as found, rows.naming(1):
            raise error
        assert (found.value.message, found.value.hint) == (f"{tmp_path / 'rows.jsonl'}:2: {message}", hint)
