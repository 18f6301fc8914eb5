"""How long verify-ckpt takes on a model of Qwen3-VL-2B's shape, as ratios against plain tools timed in the same run.

    python benchmarks/verify.py

Each command runs several times, alternating with its peer, so that a busy machine slows both; the medians are compared.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from common import SWIFTALIGN, compare, measure

BARE = [sys.executable, "-c", "import typer, pydantic"]
# This process stays small: what it starts would inherit its peak memory.
BUILD = "import sys, pathlib, two_b; two_b.build_base(pathlib.Path(sys.argv[1]))"
SCAN = """
import sys, torch
from safetensors import safe_open
for path in sys.argv[1:]:
    with safe_open(path, "pt") as file:
        assert all(torch.isfinite(file.get_tensor(name)).all() for name in file.keys())
"""
MOST_MEGABYTES = 150


def build(folder: Path) -> list[str]:
    """Write the model; returns its shards."""
    subprocess.run([sys.executable, "-c", BUILD, str(folder)], check=True, cwd=Path(__file__).parent)
    return sorted(str(path) for path in folder.glob("*.safetensors"))


def keeps_memory(command: list[str]) -> bool:
    megabytes = measure(command).megabytes
    kept = megabytes <= MOST_MEGABYTES
    print(
        f"peak memory of --deep: {megabytes:.0f} MB  (limit {MOST_MEGABYTES} MB){'' if kept else '  ABOVE THE LIMIT'}"
    )
    return kept


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="a model folder to use in place of the built one")
    arguments = parser.parse_args()
    rounds = arguments.rounds
    with tempfile.TemporaryDirectory() as name:
        model = arguments.folder or Path(name) / "model"
        shards = sorted(map(str, model.glob("*.safetensors"))) if arguments.folder else build(model)
        headers = [*SWIFTALIGN, "verify-ckpt", str(model)]
        deep = [*headers, "--deep"]
        cat = ["cat", *shards]  # its output is thrown away
        kept = [
            compare("verify-ckpt, against a bare interpreter", headers, BARE, 6, rounds),
            compare("verify-ckpt --deep, against cat", deep, cat, 2, rounds),
            compare("verify-ckpt --deep, against torch.isfinite", deep, [sys.executable, "-c", SCAN, *shards], 0.1, 3),
            keeps_memory(deep),
        ]
    return 0 if all(kept) else 1


if __name__ == "__main__":
    raise SystemExit(main())
