"""The commands that are tormented: how each is called, what it leaves, and the workspace that they share."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForImageTextToText

from swiftalign.demo.data import write_dataset
from swiftalign.demo.model import TEXT, VISION, byte_tokenizer, model_config, write_model

STEPS, SAVE_STEPS = 12, 2
ROWS, ASKED, CONVERTED, IMAGES = 8, 40, 10_000, 400
MARK = "SWIFTALIGN_CHAOS"  # environment variable of the processes that a torment starts

CONFIG = f"""
model: ./model
data: {{train: rows.jsonl}}
tuner:
  lora_rank: 4
  lora_dropout: 0.1
  modules_to_save: [model.visual.merger]
  target_regex: '^model\\.visual\\.deepstack_merger_list\\.\\d+\\.linear_fc[12]$'
training:
  aligner_lr: 1.0e-3
  max_steps: {STEPS}
  save_steps: {SAVE_STEPS}
  save_total_limit: 2
  per_device_train_batch_size: 1
  gradient_accumulation_steps: 1
  logging_steps: 1
  dataloader_num_workers: 1
custom: {{augmentation: {{preset: conservative}}}}
"""
# A ViT of 38 MB, so that it takes a while to write.
LARGE = {**VISION, "hidden_size": 256, "intermediate_size": 1024, "num_heads": 4, "depth": 12}

State = dict[str, str]
"""What lies at the place of an output, by name; empty where there is nothing."""


@dataclass(frozen=True)
class Command:
    """A command that writes.

    Attributes:
        words: its words; ``{work}`` stands for the workspace, ``{out}`` for the output, ``{which}`` for new or old.
        output: name of what it writes.
        state: reads what lies at the place of the output.
        sources: what it reads, below the workspace.
        force: the option that replaces an old output; empty where the command goes on with it.
    """

    words: str
    output: str
    state: Callable[[Path], State]
    sources: tuple[str, ...]
    force: str = "--force"

    def argv(self, work: Path, out: Path, which: str = "new") -> list[str]:
        return [word.format(work=work, out=out, which=which) for word in f"{self.words} {self.force}".split()]


def tree(out: Path) -> State:
    """The digests of a file, or of all files of a folder."""
    files = [out] if out.is_file() else sorted(path for path in out.rglob("*") if path.is_file())
    return {path.relative_to(out.parent).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def rows_and_images(out: Path) -> State:
    """The digests of rows, and of the images that they name."""
    if not out.exists():
        return {}
    names = {name for line in out.read_text().splitlines() for name in json.loads(line)["images"]}
    return tree(out) | {name: hashlib.sha256((out.parent / name).read_bytes()).hexdigest() for name in names}


def answers(out: Path) -> State:
    """The answers of an evaluation, and its numbers; of the answers those whose line is whole."""
    lines = (out / "predictions.jsonl").read_text().split("\n")[:-1] if (out / "predictions.jsonl").exists() else []
    found = {str(values["row"]): values["text"] for values in map(json.loads, lines)}
    if (out / "summary.json").exists():
        found["summary"] = json.dumps(json.loads((out / "summary.json").read_text())["metrics"], sort_keys=True)
    return found


CHECKPOINT, BASE = "straight/{which}", ("straight/new", "model")
COMMANDS = {
    "export": Command(f"export {{work}}/{CHECKPOINT} -o {{out}}", "out", tree, BASE),
    "export --link": Command(f"export {{work}}/{CHECKPOINT} -o {{out}} --link", "out", tree, BASE),
    "export --adapter-only": Command(f"export {{work}}/{CHECKPOINT} -o {{out}} --adapter-only", "out", tree, BASE),
    "export --mmproj": Command(f"export {{work}}/{CHECKPOINT} -o {{out}} --mmproj", "out.gguf", tree, BASE),
    "convert": Command("convert {work}/many-{which}.jsonl -o {out}", "out.jsonl", rows_and_images, ("many-new.jsonl",)),
    "convert a table": Command(
        "convert {work}/table-{which}.parquet -o {out}", "out.jsonl", rows_and_images, ("table-new.parquet",)
    ),
    "eval": Command(
        f"eval {{work}}/{CHECKPOINT} {{work}}/asked.jsonl -o {{out}}",
        "out",
        answers,
        ("images/asked",),
        force="",
    ),
}


def prepare(folder: Path, *, train: bool = True) -> Path:
    """A workspace, and the uninterrupted run in it; returns that run's folder.

    Args:
        train: whether the run is trained; without it, only rows can be converted.
    """
    write_dataset(folder / "rows.jsonl", rows=ROWS, seed=9)
    write_dataset(folder / "asked.jsonl", rows=ASKED, seed=10)
    rows = (folder / "asked.jsonl").read_text().splitlines()
    for which, count in (("new", CONVERTED), ("old", ROWS)):
        lines = (rows[number % ASKED] for number in range(count))
        (folder / f"many-{which}.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    _write_tables(folder, [json.loads(row) for row in rows])
    (folder / "config.yaml").write_text(CONFIG, encoding="utf-8")
    straight = folder / "straight"
    if train:
        tokenizer = byte_tokenizer()
        config = model_config(tokenizer, TEXT, LARGE, tied=False)
        torch.manual_seed(0)
        write_model(folder / "model", AutoModelForImageTextToText.from_config(config, dtype=torch.float32), tokenizer)
        _split(folder / "model")
        if start_training(folder, straight).wait():
            raise SystemExit(f"the uninterrupted run failed: {straight.with_suffix('.out').read_text()}")
        for which, step in (("new", STEPS), ("old", STEPS - SAVE_STEPS)):
            (straight / which).symlink_to(f"checkpoint-{step}")
    return straight


def _split(model: Path) -> None:
    """Divide the weights into files, of which training changes one."""
    from safetensors.torch import load_file, save_file

    weights = load_file(model / "model.safetensors")
    files = {name: f"model-{1 + ('merger' in name)}.safetensors" for name in weights}
    for file in set(files.values()):
        save_file({name: weights[name] for name in files if files[name] == file}, model / file, {"format": "pt"})
    total = sum(weight.nbytes for weight in weights.values())
    index = {"metadata": {"total_size": total}, "weight_map": files}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    (model / "model.safetensors").unlink()


def _write_tables(folder: Path, rows: list[dict[str, Any]]) -> None:
    import pyarrow
    from pyarrow.parquet import write_table

    for which, count in (("new", IMAGES), ("old", ROWS)):
        chosen = [rows[(number + (which == "old")) % ASKED] for number in range(count)]
        images = [[{"bytes": (folder / row["images"][0]).read_bytes(), "path": None}] for row in chosen]
        text = [json.dumps([{"bbox_2d": [125, 125, 625, 625], "label": "cup"}])] * count
        talks = [[{"from": "human", "value": "<image>Find it."}, {"from": "gpt", "value": each}] for each in text]
        write_table(pyarrow.table({"images": images, "conversations": talks}), folder / f"table-{which}.parquet")


def start(argv: list[str], told: Path, *, obeys: bool = False, largest: int | None = None) -> subprocess.Popen[bytes]:
    """Start a command line, whose output goes to a file.

    Args:
        told: the file, to which is appended.
        obeys: whether permissions stop it, even if this user is root.
        largest: bytes of the largest file that it may write.
    """

    def become() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell starts its background jobs with SIGINT ignored
        if largest is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))

    places = {name: str(told.parent / "cache") for name in ("XDG_CACHE_HOME", "MPLCONFIGDIR")}
    unprivileged = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--"]
    with told.open("ab") as file:
        return subprocess.Popen(
            [*(unprivileged if obeys and os.geteuid() == 0 else []), sys.executable, "-m", "swiftalign", *argv],
            stdout=file,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **places, MARK: str(told)},
            preexec_fn=become,  # no threads run here
        )


def start_training(folder: Path, run: Path, *, obeys: bool = False) -> subprocess.Popen[bytes]:
    """`train --resume`, which begins a run where there is none."""
    argv = ["train", str(folder / "config.yaml"), "--set", f"training.output_dir={run}", "--resume"]
    return start(argv, folder / f"{run.name}.out", obeys=obeys)


def outliving(told: Path) -> list[int]:
    """The processes that a command has started and that still run, by the file of its output."""
    mark, found = f"{MARK}={told}".encode(), []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            running = place.joinpath("stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
            if running and mark in place.joinpath("environ").read_bytes().split(b"\0"):
                found.append(int(place.name))
        except OSError:
            continue  # it has ended
    return found
