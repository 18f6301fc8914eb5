"""Time and memory of `swiftalign export` on a 2B-shaped model, as ratios against copies timed in the same run.

    python benchmarks/export.py [--stock] [--only METHOD ...]

Every command runs several times, in turn with `cp -r` of the base, and with `cp -r` and `sync`, which leaves as durable
a copy; the medians are compared. Memory is the process's own peak, mapped files included. ``--stock`` times
`swift export --merge_lora` too.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from common import SWIFTALIGN, Measured, measure
from two_b import TUNERS

# method -> (most seconds as a multiple of cp -r and sync, seconds to add, most megabytes)
LIMITS = dict.fromkeys(TUNERS, (1.25, 3.0, 1378.0)) | {"modules_to_save": (1.25, 0.0, 152.0)}


def alternate(commands: list[list[str]], outputs: list[Path], rounds: int) -> list[list[Measured]]:
    """Measurements of each command, in turn; each begins without the outputs and with a synced disk."""
    results: list[list[Measured]] = [[] for _ in commands]
    for _ in range(rounds):
        for found, words in zip(results, commands, strict=True):
            for path in outputs:
                shutil.rmtree(path, ignore_errors=True)
            os.sync()
            found.append(measure(words))
    return results


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--stock", action="store_true")
    parser.add_argument("--only", nargs="+", metavar="METHOD", help='such as lora, or "modules_to_save --link"')
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # In a process of its own: a child's peak memory counts from what its parent holds when it forks.
        subprocess.run([sys.executable, str(Path(__file__).with_name("two_b.py")), name], check=True)
        base, out, copied = folder / "base", folder / "out", folder / "copied"
        copy = ["sh", "-c", f"cp -r {base} {copied}"]
        synced = ["sh", "-c", f"cp -r {base} {copied} && sync -f {copied}"]
        measure(copy)  # fills the page cache
        kept = []
        print(f"{'export of':26} seconds  x cp -r and sync  x cp -r  peak MB   (cp -r and sync, cp -r)")
        for method in options.only or [*TUNERS, "modules_to_save --link"]:
            kind, _, link = method.partition(" ")
            command = [*SWIFTALIGN, "export", str(folder / kind), "--output", str(out), *([link] if link else [])]
            kept.append(report(method, *alternate([command, synced, copy], [out, copied], options.rounds)))
        if options.stock:
            adapter = str(folder / "modules_to_save/checkpoint-100")
            words = ["-m", "swift.cli.export", "--adapters", adapter, "--merge_lora", "true", "--output_dir", str(out)]
            words += ["--model", str(base), "--model_type", "qwen3_vl", "--load_args", "false"]
            report("stock swift export", *alternate([[sys.executable, *words], synced, copy], [out, copied], 1))
    return 0 if all(kept) else 1


def report(method: str, mine: list[Measured], synced: list[Measured], copies: list[Measured]) -> bool:
    """Print the medians and their ratios; says whether the method keeps its limit. A link is held against `cp -r`."""
    seconds, durable, plain = (statistics.median(each.seconds for each in found) for found in (mine, synced, copies))
    memory = max(item.megabytes for item in mine)
    kind, _, link = method.partition(" ")
    times, plus, most = LIMITS.get(kind, (float("inf"), 0.0, float("inf")))
    kept = (seconds < plain if link == "--link" else seconds <= times * durable + plus) and memory <= most
    verdict = "" if kept else "   ABOVE THE LIMIT"
    ratios = f"{seconds / durable:16.2f}  {seconds / plain:7.2f}"
    print(
        f"{method:26} {seconds:7.2f}  {ratios}  {memory:7.0f}   ({durable:.2f} s, {plain:.2f} s){verdict}", flush=True
    )
    return kept


if __name__ == "__main__":
    raise SystemExit(main())
