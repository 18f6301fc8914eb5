"""Time and memory of `swiftalign export` on a 2B-shaped model, as ratios against `cp -r` timed in the same run.

    python benchmarks/export.py [--stock]

Every command runs several times, in turn with `cp -r` of the base; the medians are compared. Memory is the process's
own peak, mapped files included. ``--stock`` times `swift export --merge_lora` too.
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

# method -> (most seconds as a multiple of cp -r, seconds to add, most megabytes)
LIMITS = dict.fromkeys(TUNERS, (1.0, 8.0, 1500.0)) | {"modules_to_save": (1.5, 0.0, 300.0)}


def alternate(command: list[str], copy: list[str], outputs: list[Path], rounds: int) -> list[list[Measured]]:
    """Measurements of the command and of the copy, in turn; each begins without the outputs and with a synced disk."""
    results: list[list[Measured]] = [[], []]
    for _ in range(rounds):
        for found, words in zip(results, (command, copy), strict=True):
            for path in outputs:
                shutil.rmtree(path, ignore_errors=True)
            os.sync()
            found.append(measure(words))
    return results


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--stock", action="store_true")
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
        print(f"{'export of':26} seconds  x cp -r  peak MB   (cp -r)")
        for method in [*TUNERS, "modules_to_save --link"]:
            kind, _, link = method.partition(" ")
            command = [*SWIFTALIGN, "export", str(folder / kind), "--output", str(out), *([link] if link else [])]
            mine, copies = alternate(command, copy, [out, copied], options.rounds)
            kept.append(report(method, mine, copies, link=bool(link)))
        syncs, copies = alternate(synced, copy, [out, copied], options.rounds)
        report("cp -r and sync", syncs, copies, link=False, limited=False)
        if options.stock:
            words = [
                "-m",
                "swift.cli.export",
                "--adapters",
                str(folder / "modules_to_save/checkpoint-100"),
                "--merge_lora",
            ]
            words += [
                "true",
                "--output_dir",
                str(out),
                "--model",
                str(base),
                "--model_type",
                "qwen3_vl",
                "--load_args",
                "false",
            ]
            stock, copies = alternate([sys.executable, *words], copy, [out, copied], 1)
            report("stock swift export", stock, copies, link=False, limited=False)
    return 0 if all(kept) else 1


def report(method: str, mine: list[Measured], copies: list[Measured], *, link: bool, limited: bool = True) -> bool:
    """Print the medians and their ratio; says whether the method keeps its limit."""
    seconds = statistics.median(item.seconds for item in mine)
    reference = statistics.median(item.seconds for item in copies)
    memory = max(item.megabytes for item in mine)
    times, plus, most = LIMITS.get(method.partition(" ")[0], (0.0, 0.0, 0.0))
    kept = (seconds < reference if link else seconds <= times * reference + plus) and memory <= most
    verdict = "" if kept or not limited else "   ABOVE THE LIMIT"
    ratio = seconds / reference
    print(f"{method:26} {seconds:7.2f}  {ratio:7.2f}  {memory:7.0f}   ({reference:.2f} s){verdict}", flush=True)
    return kept


if __name__ == "__main__":
    raise SystemExit(main())
