"""Rows that the pass over the data checks per second of CPU time, as ratios to bare json.loads of the same lines.

    python benchmarks/reading.py --rounds 5

Each file is read several times on one thread, alternating with its peer; the medians are compared.
Memory is the peak of a process of its own that reads 10,000 rows, and of one that reads 100,000.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from xml.parsers.expat import ParserCreate

from PIL import Image

from common import measure
from swiftalign.data.scan import scan
from swiftalign.data.tools import find_tool

SIZE, IMAGES = (1280, 720), 200
CORNERS = ("xmin", "ymin", "xmax", "ymax")  # of a Pascal VOC box
MOST_GROWTH = 16.0  # MB between 10,000 and 100,000 rows: 16 bytes a row, and what varies from process to process
SCAN = "import sys; from pathlib import Path; from swiftalign.data.scan import scan; scan([Path(sys.argv[1])])"


class Reading(NamedTuple):
    """What is read, and the plain way of reading it.

    Attributes:
        write: writes so many rows into a folder; returns what is to be read.
        bare: reads the same without looking at it.
    """

    write: Callable[[Path, int], Path]
    bare: Callable[[Path], Any]


def loads_lines(path: Path) -> None:
    with path.open("rb") as file:
        for line in file:
            json.loads(line)


def boxes(draws: random.Random, count: int) -> list[list[int]]:
    """Boxes in pixels."""
    corners = ((draws.randint(0, 1000), draws.randint(0, 500)) for _ in range(count))
    return [[x, y, x + draws.randint(10, 279), y + draws.randint(10, 219)] for x, y in corners]


def own_row(draws: random.Random, image: str, count: int) -> dict[str, Any]:
    objects = [{"label": f"part {number}", "bbox_2d": box} for number, box in enumerate(boxes(draws, count))]
    return {"images": [image], "prompt": "Find all parts.", "objects": objects}


def swift_row(draws: random.Random, image: str, count: int) -> dict[str, Any]:
    item = '{"bbox_2d": <bbox>, "label": "<ref-object>"}'
    talk = [
        {"role": "user", "content": "<image>Find all parts."},
        {"role": "assistant", "content": f"[{', '.join([item] * count)}]"},
    ]
    names = [f"part {number}" for number in range(count)]
    return {"messages": talk, "images": [image], "objects": {"ref": names, "bbox": boxes(draws, count)}}


def conversation(draws: random.Random, image: str, count: int) -> dict[str, Any]:
    told = []
    for number, box in enumerate(boxes(draws, count)):
        shares = [round(value / SIZE[place % 2] * 1000) for place, value in enumerate(box)]
        told.append({"bbox_2d": shares, "label": f"part {number}"})
    turns = [
        {"from": "human", "value": "<image>\nFind all parts."},
        {"from": "gpt", "value": f"```json\n{json.dumps(told)}\n```"},
    ]
    return {"image": image, "conversations": turns}


def lines(row: Callable[[random.Random, str, int], dict[str, Any]], count: int) -> Reading:
    """Rows of one layout with so many objects, one per line."""

    def write(folder: Path, rows: int) -> Path:
        draws, path = random.Random(0), folder / "rows.jsonl"
        with path.open("w") as file:
            for number in range(rows):
                file.write(json.dumps(row(draws, f"{number % IMAGES}.png", count)) + "\n")
        return path

    return Reading(write, loads_lines)


READINGS = {
    "own rows, 1 object": lines(own_row, 1),
    "own rows, 5 objects": lines(own_row, 5),
    "ms-swift's rows, 5 objects": lines(swift_row, 5),
    "conversations, 5 objects": lines(conversation, 5),
}


def voc(boxes: list[list[int]], image: str) -> str:
    """A file of Pascal VOC."""
    told = "".join(
        "<object><name>part</name><bndbox>"
        + "".join(
            f"<{name}>{value}</{name}>" for name, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
        )
        + "</bndbox></object>"
        for box in boxes
    )
    return f"<annotation><filename>{image}</filename>{told}</annotation>"


def labelme(boxes: list[list[int]], image: str) -> str:
    shapes = [{"label": "part", "points": [box[:2], box[2:]], "shape_type": "rectangle"} for box in boxes]
    sides = {"imageWidth": SIZE[0], "imageHeight": SIZE[1]}
    return json.dumps({"version": "5.5.0", "shapes": shapes, "imagePath": image, **sides})


def yolo(boxes: list[list[int]], image: str) -> str:
    wide, high = SIZE
    middles = ((a + c, b + d, c - a, d - b) for a, b, c, d in boxes)
    return "".join(f"0 {x / 2 / wide:.6f} {y / 2 / high:.6f} {w / wide:.6f} {h / high:.6f}\n" for x, y, w, h in middles)


# Name -> suffix of the files, their content, and a bare parse of one of them.
TOOLS: dict[str, tuple[str, Callable[[list[list[int]], str], str], Callable[[bytes], Any]]] = {
    "Pascal VOC": (".xml", voc, lambda content: ParserCreate().Parse(content, True)),
    "LabelMe": (".json", labelme, json.loads),
    "YOLO": (".txt", yolo, lambda content: [list(map(float, line.split())) for line in content.splitlines()]),
}


def compare_tool(name: str, folder: Path, *, files: int, rounds: int) -> None:
    """Print files per second of a tool's reader, and how many times as long it takes as a bare parse; 5 boxes each."""
    suffix, content, parse = TOOLS[name]
    draws, folder = random.Random(0), folder / name
    folder.mkdir()
    (folder / "classes.txt").write_text("part\n")
    for number in range(files):
        (folder / f"{number}.png").touch()
        (folder / f"{number}{suffix}").write_text(content(boxes(draws, 5), f"{number}.png"))
    tool = find_tool(folder)
    assert tool is not None
    paths = sorted(folder.glob(f"[0-9]*{suffix}"))

    def bare() -> None:
        for path in paths:
            parse(path.read_bytes())

    pairs = [(seconds(lambda: list(tool.read(folder, None, Counter()))), seconds(bare)) for _ in range(rounds)]
    mine, alone = (statistics.median(each) for each in zip(*pairs, strict=True))
    print(f"| {name} | {files / mine:,.0f} | {files / alone:,.0f} | {mine / alone:.1f} |", flush=True)


def seconds(run: Callable[[], Any]) -> float:
    begin = time.process_time()
    run()
    return time.process_time() - begin


def compare(name: str, reading: Reading, folder: Path, *, rows: int, rounds: int) -> None:
    """Print rows per second of the scan, and how many times as long it takes as its peer."""
    path = reading.write(folder, rows)
    report = scan([path])
    faults = [found for found in report.findings if found.severity != "note"]
    if faults or report.rows.train != rows:
        raise SystemExit(f"{name}: {faults}")
    pairs = [(seconds(lambda: scan([path])), seconds(lambda: reading.bare(path))) for _ in range(rounds)]
    mine, bare = (statistics.median(each) for each in zip(*pairs, strict=True))
    few, many = (peak(reading, folder, count) for count in (10_000, 100_000))
    kept = "" if many - few <= MOST_GROWTH else "  ABOVE THE LIMIT"
    speeds = f"{rows / mine:,.0f} | {rows / bare:,.0f} | {mine / bare:.1f}"
    print(f"| {name} | {speeds} | {few:.0f} MB | {many:.0f} MB |{kept}", flush=True)


def peak(reading: Reading, folder: Path, rows: int) -> float:
    """Peak memory in MB of a process that scans so many rows."""
    return measure([sys.executable, "-c", SCAN, str(reading.write(folder, rows))]).megabytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number in range(IMAGES):
            Image.new("L", SIZE).save(folder / f"{number}.png", compress_level=1)
        print("| rows of | scan, rows/s | json.loads, rows/s | ratio | peak, 10,000 rows | peak, 100,000 rows |")
        print("|---|---|---|---|---|---|")
        for label, reading in READINGS.items():
            compare(label, reading, folder, rows=options.rows, rounds=options.rounds)
        print("\n| files of | reader, files/s | bare parse, files/s | ratio |\n|---|---|---|---|")
        for label in TOOLS:
            compare_tool(label, folder, files=options.rows // 5, rounds=options.rounds)


if __name__ == "__main__":
    main()
