"""The commands as they are typed, each in a process of its own, on mutated files."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from random import Random

import swiftalign
from corruptions import PLANTED
from corruptions.files import WEIGHTS
from fuzz.mutations import Mutate, in_bytes, in_json, in_lines, in_weights, in_yaml
from fuzz.rows import FIXTURES
from fuzz.run_folders import CHECKPOINT, RunFolders

SECONDS = 120.0
_ESCAPE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
SCRIPT = "swift sft --model base --dataset rows.jsonl --train_type lora --lora_rank 8 --freeze_vit true\n"
ARGUMENTS = {"model": "base", "dataset": ["rows.jsonl"], "tuner_type": "lora", "lora_rank": 8, "max_length": 2048}
FACTORY = "model_name_or_path: base\nfinetuning_type: lora\nlora_rank: 8\ndataset: rows\nlearning_rate: 1.0e-4\n"

RUN = f"run/{CHECKPOINT}"
# What is typed, the files that may be mutated, and how. The first ones need neither torch nor ms-swift.
COMMANDS: list[tuple[str, tuple[str, ...], Mutate]] = [
    ("inspect-params config.yaml", ("config.yaml",), in_yaml),
    ("verify-ckpt run --deep", (f"{RUN}/{WEIGHTS}",), in_weights),
    ("runs .", ("run/plan.json", "run/versions.json", f"{RUN}/trainer_state.json"), in_json),
    ("convert coco.json -o out.jsonl", ("coco.json",), in_json),
    ("init made.yaml --from args.json", ("args.json",), in_json),
    ("inspect-params config.yaml --json", ("base/config.json",), in_json),
    ("inspect-params config.yaml", ("base/model.safetensors",), in_weights),
    ("runs --compare sound-run run --output out.png", ("run/events.jsonl",), in_lines),
    ("runs --compare sound-run run --json --output out.png", ("run/config.yaml",), in_yaml),
    ("verify-ckpt run", ("run/plan.json", f"{RUN}/adapter_config.json", f"{RUN}/trainer_state.json"), in_json),
    ("convert cvat.xml -o out.jsonl", ("cvat.xml",), in_bytes),
    ("convert rows.jsonl -o out.jsonl", ("rows.jsonl",), in_lines),
    ("init made.yaml --from sft.sh", ("sft.sh",), in_bytes),
    ("init made.yaml --from factory.yaml", ("factory.yaml",), in_yaml),
    ("export run --output out", (f"{RUN}/{WEIGHTS}",), in_weights),
    ("export run --output out --adapter-only", (f"{RUN}/adapter_config.json", "run/data.json"), in_json),
    ("preview-aug config.yaml --output out.png --rows 0", ("rows.jsonl",), in_lines),
    ("train config.yaml --dry-run", ("rows.jsonl",), in_lines),
    ("train config.yaml --dry-run", ("config.yaml",), in_yaml),
    ("eval run rows.jsonl --output evaluation", ("evaluation/eval.json", "evaluation/summary.json"), in_json),
    ("eval run rows.jsonl --output evaluation", ("evaluation/predictions.jsonl",), in_lines),
]
QUICK = 5  # of them


class Commands:
    """A folder in which every command finds its files."""

    def __init__(self, root: Path) -> None:
        self.root, self.folder = root, RunFolders(root).folder
        for name in ("coco.json", "cvat.xml"):
            shutil.copy(FIXTURES / name, self.folder)
        shutil.copytree(self.folder / "sound-run", self.folder / "run")
        (self.folder / "args.json").write_text(json.dumps(ARGUMENTS))
        (self.folder / "sft.sh").write_text(SCRIPT)
        (self.folder / "factory.yaml").write_text(FACTORY)
        shutil.rmtree(self.folder / "evaluation")
        for name in ("home", "tmp", "cache"):
            (root / name).mkdir(exist_ok=True)
        caches = dict.fromkeys(("XDG_CACHE_HOME", "HF_HOME", "MODELSCOPE_CACHE", "MPLCONFIGDIR"), str(root / "cache"))
        homes = {"HOME": str(root / "home"), "TMPDIR": str(root / "tmp"), "PYTHONDONTWRITEBYTECODE": "1"}
        found = os.pathsep.join(filter(None, (str(Path(swiftalign.__file__).parents[1]), os.environ.get("PYTHONPATH"))))
        others = {"HF_HUB_OFFLINE": "1", "COLUMNS": "160", "PYTHONPATH": found}
        self.environment = os.environ | caches | homes | others
        self.sound = root / "sound"
        self.folder.rename(self.sound)

    def case(self, number: int) -> list[str]:
        """Run a command on a mutated file; returns what is wrong."""
        rng = Random(f"commands:{number}")
        command, files, mutate = COMMANDS[number % len(COMMANDS)]
        if command.startswith("eval") and not (self.sound / "evaluation").exists():
            shutil.copytree(self.sound, self.folder)
            self._typed(command)
            shutil.move(self.folder / "evaluation", self.sound)
            shutil.rmtree(self.folder)
        shutil.copytree(self.sound, self.folder)
        before = self._outside()
        try:
            path = self.folder / rng.choice(files)
            path.write_bytes(content := mutate(path.read_bytes(), rng))
            faults = self._faults(command)
            if (self.folder / PLANTED).exists():
                faults.append("code of a file was run")
            if changed := before.symmetric_difference(self._outside()):
                faults.append(f"files outside were changed: {sorted(changed)[:3]}")
            return [f"case {number}: {command}: {fault}\n    {path.name}: {content[:600]!r}" for fault in faults]
        finally:
            shutil.rmtree(self.folder)

    def _typed(self, command: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "swiftalign", *command.split()]
        return subprocess.run(
            argv, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=SECONDS, check=False
        )

    def _faults(self, command: str) -> list[str]:
        try:
            done = self._typed(command)
        except subprocess.TimeoutExpired:
            return [f"not done after {SECONDS:.0f} s"]
        except UnicodeDecodeError as error:
            return [f"what it prints is not UTF-8: {error}"]
        printed = done.stdout + done.stderr
        faults = [] if done.returncode in (0, 1, 2) else [f"ends with {done.returncode}: {printed[-800:]}"]
        if "Traceback" in printed:
            faults.append(printed[-1500:])
        if found := _ESCAPE.search(printed):
            faults.append(f"prints {found[0]!r}: {printed[max(found.start() - 100, 0) : found.end() + 50]!r}")
        return faults

    def _outside(self) -> set[tuple[str, str]]:
        """The files beside the folder of the command, with their content; the caches and temporary files apart."""
        places = [path for name in ("sound", "home") for path in (self.root / name).rglob("*")]
        places += self.root.iterdir()
        return {(str(path), hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "") for path in places}
