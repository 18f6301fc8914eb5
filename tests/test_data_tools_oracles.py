"""The readers of annotation files against what other packages read from the same files.

tests/oracles/make_oracles.py wrote the kept outputs; it names the packages and their releases.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from swiftalign.data.targets import SPELLINGS
from swiftalign.data.tools import find_tool

HERE = Path(__file__).parent
ORACLES = HERE / "oracles"
KINDS = {spelling.row_key: kind for kind, spelling in SPELLINGS.items()}
KEPT = [(path.stem, fixture) for path in sorted(ORACLES.glob("*.json")) for fixture in json.loads(path.read_text())]

# Labels that a package doesn't read: supervision reads rectangles and polygons of LabelMe, and the script gives Label
# Studio's own converter the rectangles.
NOT_READ = {
    "supervision": {"wire", "edge", "screw", "seed", "box"},
    "label-studio-sdk": {"screw", "tray", "seed"},
    "datumaro": set[str](),
}
CROWD = ["cup", [0, 0, 4, 4]]  # of COCO: they take its box, and here it is left out


def ours(path: Path) -> dict[str, list[list[Any]]]:
    """The objects of each image as [label, kind, numbers in pixels]."""
    found, tool = {}, find_tool(path)
    assert tool is not None
    for _, row in tool.read(path, None, Counter()):
        factors = (64, 48) if row.get("coordinates") == "relative1" else (1, 1)
        found[Path(row["images"][0]).stem] = [
            [each["label"], KINDS[key], [value * factors[index % 2] for index, value in enumerate(each[key])]]
            for each in row["objects"]
            for key in each.keys() & KINDS.keys()
        ]
    return found


def each_point(objects: list[list[Any]]) -> list[list[Any]]:
    """CVAT's shape of several points is one object in datumaro."""
    return [
        [label, "point" if kind == "points" else kind, part]
        for label, kind, numbers in objects
        for part in ([numbers[at : at + 2] for at in range(0, len(numbers), 2)] if kind == "points" else [numbers])
    ]


def bounds(objects: list[list[Any]], shift: float = 0) -> list[list[Any]]:
    boxes = [
        [label, [min(xy[::2]) + shift, min(xy[1::2]) + shift, max(xy[::2]), max(xy[1::2])]] for label, _, xy in objects
    ]
    return sorted(boxes, key=lambda each: (each[0], [round(value) for value in each[1]]))


@pytest.mark.parametrize(("name", "fixture"), KEPT)
def test_what_other_packages_read(name: str, fixture: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(HERE / "rows/tools", tmp_path / "tools"))
    (folder / "yolo/images/train").mkdir(parents=True)
    (folder / "yolo/images/train/a.png").touch()
    mine, kept = ours(folder / fixture), json.loads((ORACLES / f"{name}.json").read_text())[fixture]
    assert kept.keys() == mine.keys()
    for image, found in kept.items():
        theirs = each_point(found)
        # Of COCO, datumaro gives the box and the outline of one annotation as two objects.
        around = (
            [each for each in theirs if each[1] == "bbox"] if (name, fixture) == ("datumaro", "coco.json") else theirs
        )
        # supervision takes the first pixel of VOC as 1: see the docstring of data/tools/voc.py.
        expected = bounds(around, shift=1 if (name, fixture) == ("supervision", "voc") else 0)
        if fixture == "coco.json" and image == "a":
            expected.remove(CROWD)
        read = [each for each in mine[image] if each[0] not in NOT_READ[name]]
        assert [label for label, _ in bounds(read)] == [label for label, _ in expected]
        for (_, box), (_, other) in zip(bounds(read), expected, strict=True):
            assert box == pytest.approx(other, abs=0.01)
        if name == "supervision":
            continue
        for label, kind, numbers in read:
            if kind != "bbox":
                shapes = [
                    other for their_label, _, other in theirs if their_label == label and len(other) == len(numbers)
                ]
                assert any(numbers == pytest.approx(other, abs=0.01) for other in shapes)


@pytest.mark.long
def test_the_kept_outputs_are_those_of_the_packages(tmp_path: Path) -> None:
    subprocess.run([sys.executable, ORACLES / "make_oracles.py", tmp_path], check=True)
    for path in ORACLES.glob("*.json"):
        assert (tmp_path / path.name).read_text() == path.read_text()
