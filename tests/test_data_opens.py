"""Each data file is opened once by the command, before training, and once by each process that trains."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from swiftalign.demo.data import write_dataset

# Python imports this by itself when it starts, and forked processes keep the hook.
HOOK = """
import os, sys
log = os.open(os.environ["OPENS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

def hook(event, args):
    if event == "open" and str(args[0]).endswith("-counted.jsonl"):
        os.write(log, f"{os.getpid()} {os.path.basename(str(args[0]))}\\n".encode())

sys.addaudithook(hook)
"""
FILES = {"train-counted.jsonl", "val-counted.jsonl"}


def opens(folder: Path, demo: Path, *command: str) -> tuple[Counter[str], dict[str, Counter[str]]]:
    """How often each data file was opened by the command itself, and by each of the processes under it."""
    (folder / "sitecustomize.py").write_text(HOOK)
    for name in FILES:
        write_dataset(folder / name, rows=6, seed=4)
    text = f"model: {demo / 'model'}\ndata: {{train: train-counted.jsonl, val: val-counted.jsonl, max_length: 900}}\n"
    (folder / "config.yaml").write_text(f"{text}tuner: {{modules_to_save: [model.visual.merger]}}\n")
    path = os.pathsep.join([str(folder), *filter(None, sys.path)])
    environment = {**os.environ, "PYTHONPATH": path, "OPENS": str(folder / "opens")}
    argv = [sys.executable, "-m", "swiftalign", command[0], str(folder / "config.yaml"), *command[1:]]
    process = subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    found: dict[str, Counter[str]] = {}
    for line in (folder / "opens").read_text().splitlines():
        number, name = line.split()
        found.setdefault(number, Counter())[name] += 1
    return found.pop(str(process.pid)), found


@pytest.mark.parametrize("command", [("train", "--dry-run"), ("inspect-params",), ("inspect-params", "--gpu", "H100")])
def test_a_command_opens_each_data_file_once(command: tuple[str, ...], demo: Path, tmp_path: Path) -> None:
    if command[-1] == "H100":  # counts rows, and then looks at some of them
        assert opens(tmp_path, demo, *command) == ({"train-counted.jsonl": 2, "val-counted.jsonl": 1}, {})
    else:
        assert opens(tmp_path, demo, *command) == (dict.fromkeys(FILES, 1), {})


@pytest.mark.slow
def test_training_opens_each_data_file_once_per_process(demo: Path, tmp_path: Path) -> None:
    sets = (f"training.output_dir={tmp_path / 'run'}", "training.max_steps=4", "training.eval_strategy=steps")
    sets += ("training.per_device_train_batch_size=2", "training.dataloader_num_workers=2", "training.eval_steps=2")
    parent, others = opens(tmp_path, demo, "train", *(word for item in sets for word in ("--set", item)))
    assert parent == dict.fromkeys(FILES, 1)
    assert len(others) >= 3  # the process that trains, and its data loader workers
    assert {name for counts in others.values() for name in counts} == FILES
    assert max(count for counts in others.values() for count in counts.values()) == 1
