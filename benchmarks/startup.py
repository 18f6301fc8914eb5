"""How long swiftalign takes to answer, as ratios to bare interpreters that are timed in the same run.

    python benchmarks/startup.py
    python benchmarks/startup.py --first-step     # of training, against stock ``swift sft``, without a network

Each command runs several times, alternating with its peer, so that a busy machine slows both; the medians are compared.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from common import SWIFTALIGN, compare

BARE = [sys.executable, "-c", "import typer, pydantic, yaml, rich"]
LOADED = [sys.executable, "-c", "import torch, transformers"]
LARGEST = "Qwen/Qwen3-VL-235B-A22B-Instruct"


def loads_torch(arguments: list[str]) -> bool:
    code = "import sys; from swiftalign.cli import main; main(sys.argv[1:]); sys.exit('torch' in sys.modules)"
    return subprocess.run([sys.executable, "-c", code, *arguments], stdout=subprocess.DEVNULL).returncode != 0


def first_step(rounds: int) -> int:
    """Seconds from the command to the beginning of the first step, with its batch ready: all but training."""
    from swiftalign.demo.model import TEXT, VISION
    from train_gpu import build_model, own_command, published, run, stock_command

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = published("2B", None)
        config["text_config"] |= TEXT
        config["vision_config"] |= VISION
        build_model(folder / "model", config, "cpu")
        subprocess.run(
            [*SWIFTALIGN, "init", "--demo", str(folder / "demo"), "--tiny"], check=True, stdout=subprocess.DEVNULL
        )
        rows = _in_swift_layout(folder / "demo/data/train.jsonl", folder / "rows.jsonl")
        stock = stock_command(folder / "model", rows, folder / "stock", 1, 4)
        at = stock.index("--check_model")
        commands = {
            "swiftalign train": own_command(folder / "model", rows, folder / "own", 1, 4, {}),
            "swift sft": [*stock[:at], *stock[at + 2 :]],
            "swift sft --check_model false": stock,
        }
        seconds: dict[str, list[float]] = {label: [] for label in commands}
        for number in range(rounds):
            for label, command in commands.items():
                if label == "swiftalign train":
                    out = folder / f"own-{number}"
                    command = [*command, "--set", f"training.output_dir={out}"]
                else:
                    out = folder / f"stock-{number}-{len(label)}"
                    command = [*command, "--output_dir", str(out)]
                seconds[label].append(run(label, command, out)["began_after"])
                print(f"{label}: {seconds[label][-1]} s", flush=True)
    medians = {label: statistics.median(found) for label, found in seconds.items()}
    mine, kept = medians["swiftalign train"], []
    for label, limit in (("swift sft", 0.35), ("swift sft --check_model false", 1.1)):
        kept.append(mine / medians[label] <= limit)
        verdict = "" if kept[-1] else "  ABOVE THE LIMIT"
        ratio = mine / medians[label]
        print(f"{mine:.1f} s against {label}: {medians[label]:.1f} s, {ratio:.2f}x (limit {limit}x){verdict}")
    return 0 if all(kept) else 1


def _in_swift_layout(source: Path, target: Path) -> Path:
    """Rows of this toolkit as ms-swift's messages, with coordinates in thousandths of the image's sides."""
    import json

    from PIL import Image

    lines = []
    for line in source.read_text().splitlines():
        row = json.loads(line)
        image = source.parent / row["images"][0]
        sides = Image.open(image).size
        objects = [
            {
                key: value if key == "label" else [round(1000 * x / sides[n % 2]) for n, x in enumerate(value)]
                for key, value in each.items()
            }
            for each in row["objects"]
        ]
        messages = [
            {"role": "user", "content": "<image>Locate."},
            {"role": "assistant", "content": json.dumps(objects)},
        ]
        lines.append(json.dumps({"messages": messages, "images": [str(image)]}))
    target.write_text("\n".join(lines) + "\n")
    return target


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--first-step", action="store_true")
    options = parser.parse_args()
    rounds = options.rounds
    if options.first_step:  # minutes a round
        return first_step(min(rounds, 3))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run(
            [*SWIFTALIGN, "init", "--demo", str(folder / "demo"), "--tiny"], check=True, stdout=subprocess.DEVNULL
        )
        local = ["inspect-params", str(folder / "demo/config.yaml")]
        largest = folder / "largest.yaml"
        largest.write_text(f"model: {LARGEST}\n")
        print("against a bare interpreter that imports typer, pydantic, yaml and rich")
        kept = [
            compare("swiftalign --help", [*SWIFTALIGN, "--help"], BARE, 2.5, rounds),
            compare("inspect-params, local safetensors model", [*SWIFTALIGN, *local], BARE, 6, rounds),
        ]
        print("against an interpreter that imports torch and transformers")
        from_config = [*SWIFTALIGN, "inspect-params", str(largest)]
        kept.append(compare("inspect-params, 235B from its config", from_config, LOADED, 2, max(rounds // 2, 3)))
        lean = not loads_torch(local)
        print(f"inspect-params on a local model {'does not import' if lean else 'IMPORTS'} torch")
    return 0 if all([*kept, lean]) else 1


if __name__ == "__main__":
    raise SystemExit(main())
