"""Images per second that the check before training decodes, against reading headers and against decoding in full.

    python benchmarks/images_check.py --rounds 3

Numbers are per second that one core works, so that other work on the machine counts little; files are in the page
cache, and the rounds alternate. Last, the check and the full decode look at the same damaged JPEG files, and have to
agree.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from swiftalign.data import image_check
from swiftalign.data.image_check import ImageCheck
from swiftalign.data.images import check_image, image_size, open_image
from swiftalign.problems import DataError

KINDS = {  # width, height, suffix, number of files
    "JPEG, 1 MP": (1152, 864, "jpg", 100),
    "JPEG, 12 MP": (4000, 3000, "jpg", 16),
    "PNG, 1 MP": (1152, 864, "png", 40),
    "PNG, 12 MP": (4000, 3000, "png", 6),
}
DAMAGED = 300


def photo(width: int, height: int, seed: int) -> Image.Image:
    """Smooth shapes with the noise of a sensor, so that files are as large as a camera's."""
    draws = np.random.default_rng(seed)
    rough = draws.integers(0, 255, (height // 16 + 1, width // 16 + 1, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(rough).resize((width, height), Image.Resampling.BICUBIC)).astype(np.int16)
    return Image.fromarray((smooth + draws.normal(0, 5, smooth.shape).astype(np.int16)).clip(0, 255).astype(np.uint8))


def write(folder: Path, kind: str) -> list[Path]:
    width, height, suffix, count = KINDS[kind]
    folder.mkdir()
    first = folder / f"0.{suffix}"
    photo(width, height, 0).save(first, quality=88)
    paths = [first, *(folder / f"{number}.{suffix}" for number in range(1, count))]
    for path in paths[1:]:
        path.write_bytes(first.read_bytes())
    return paths


def timed(action: Callable[[], object]) -> float:
    """Seconds that the cores worked for it, over all threads."""
    begin = time.process_time()
    action()
    return time.process_time() - begin


def check(paths: list[Path], cache: Path | None) -> None:
    with ImageCheck(lambda where, error: None, cache=cache) as checking:
        for path in paths:
            checking.add(path, "")


def is_sound(look: Callable[[Path], object], path: Path) -> bool:
    try:
        look(path)
    except DataError:
        return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    image_check.FRESH_SECONDS = 0.0  # the files were written a moment ago
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        folder = Path(name)
        for kind in KINDS:
            paths, cache = write(folder / kind, kind), folder / f"{kind} cache"
            check(paths, cache)
            seconds: dict[str, list[float]] = {"headers": [], "full decode": [], "check": [], "check, remembered": []}
            for _ in range(options.rounds):
                seconds["headers"].append(timed(lambda paths=paths: list(pool.map(image_size, paths))))
                seconds["full decode"].append(timed(lambda paths=paths: list(pool.map(open_image, paths))))
                seconds["check"].append(timed(lambda paths=paths: check(paths, None)))
                seconds["check, remembered"].append(timed(lambda paths=paths, cache=cache: check(paths, cache)))
            full = statistics.median(seconds["full decode"])
            for way, each in seconds.items():
                middle = statistics.median(each)
                line = f"{len(paths) / middle:9.0f} images/s per core  {full / middle:8.2f}x the full decode"
                print(f"{kind:12} {way:18} {line}", flush=True)
        whole, draws, path = (folder / "JPEG, 1 MP/0.jpg").read_bytes(), random.Random(0), folder / "damaged.jpg"
        found = {"cut": [0, 0, 0], "a part missing": [0, 0, 0], "a part overwritten": [0, 0, 0]}
        for _ in range(DAMAGED // 3):
            begin = draws.randrange(1000, len(whole))
            end = min(begin + draws.randrange(1, 100_000), len(whole))
            for what, content in (
                ("cut", whole[:begin]),
                ("a part missing", whole[:begin] + whole[end:]),
                ("a part overwritten", whole[:begin] + draws.randbytes(end - begin) + whole[end:]),
            ):
                path.write_bytes(content)
                by_full, by_check = is_sound(open_image, path), is_sound(check_image, path)
                found[what] = [a + b for a, b in zip(found[what], (1, not by_full, not by_check), strict=True)]
                if by_full != by_check:
                    raise SystemExit(f"{what}: the check and the full decode differ")
        for what, (files, by_full, by_check) in found.items():
            print(f"{what:18} {files} files: the full decode finds {by_full}, the check {by_check}")


if __name__ == "__main__":
    main()
