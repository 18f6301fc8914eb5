"""What other packages read from the fixtures in tests/rows/tools, kept in tests/oracles/*.json.

python tests/oracles/make_oracles.py            # installs them into an environment under a temporary folder
python tests/oracles/make_oracles.py FOLDER     # writes the files into another folder

A file maps each fixture to its images, and each image to a sorted list of [label, kind, numbers]. "bounds" is the
box around an object: of some shapes, supervision reads no more. Numbers are in pixels of an image of 64 x 48.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterable
from pathlib import Path
from typing import Any

FIXTURES = Path(__file__).parent.parent / "rows/tools"
PACKAGES = {"datumaro": "1.13.12", "supervision": "0.31.2", "label-studio-sdk": "2.1.2"}
Found = dict[str, list[list[Any]]]


def main(output: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        python = Path(folder, "venv/bin/python")
        venv.create(python.parent.parent, with_pip=True)
        pinned = [f"{name}=={version}" for name, version in PACKAGES.items()]
        subprocess.run([python, "-m", "pip", "install", "--quiet", *pinned], check=True)
        for name in PACKAGES:
            # In a process of its own: two of them can't be imported together in any order.
            argv = [python, __file__, "--read", name, str(Path(folder, name)), str(output / f"{name}.json")]
            subprocess.run(argv, check=True)


def read(name: str, folder: Path, output: Path) -> None:
    """Read the fixtures with an installed package; runs in the environment that has it."""
    from PIL import Image

    shutil.copytree(FIXTURES, folder)
    for image in (
        *("coco/images/train/a.png", "coco/images/train/empty.png", "labelme/a.png"),
        *("dotas/train/images/a.png", "yolo/images/train/a.png"),
        *("voc/JPEGImages/a.png", "cvat/images/a.png", "cvat/images/empty.png"),
    ):
        (folder / image).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 48)).save(folder / image)
    (folder / "coco/annotations").mkdir()
    shutil.copy(folder / "coco.json", folder / "coco/annotations/instances_train.json")
    shutil.copy(folder / "cvat.xml", folder / "cvat/default.xml")
    shutil.copytree(folder / "dota/labelTxt", folder / "dotas/train/labelTxt")
    (folder / "voc/ImageSets/Main").mkdir(parents=True)
    (folder / "voc/ImageSets/Main/train.txt").write_text("a\n", encoding="utf-8")
    found = {"datumaro": datumaro, "supervision": supervision, "label-studio-sdk": label_studio}[name](folder)
    rounded = {fixture: {image: _sorted(objects) for image, objects in each.items()} for fixture, each in found.items()}
    lines = (f"{json.dumps(fixture)}: {json.dumps(each, sort_keys=True)}" for fixture, each in sorted(rounded.items()))
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def _sorted(objects: Iterable[list[Any]]) -> list[list[Any]]:
    return sorted([label, kind, [round(float(each), 3) for each in numbers]] for label, kind, numbers in objects)


def datumaro(folder: Path) -> dict[str, Found]:
    from datumaro.components.annotation import AnnotationType
    from datumaro.components.dataset import Dataset

    kinds = {
        AnnotationType.bbox: "bbox",
        AnnotationType.polygon: "polygon",
        AnnotationType.polyline: "line",
        AnnotationType.points: "points",
        AnnotationType.rotated_bbox: "quad",
    }

    def objects(path: Path, layout: str) -> Found:
        data = Dataset.import_from(str(path), layout)
        names = [each.name for each in data.categories()[AnnotationType.label]]
        found: Found = {}
        for item in data:
            shapes = [each for each in item.annotations if each.type in kinds]
            found[Path(item.id).stem] = [
                [names[each.label], kind, _flat(each.as_polygon() if kind == "quad" else each.points)]
                for each in shapes
                for kind in [kinds[each.type]]
            ]
        return found

    return {
        "coco.json": objects(folder / "coco", "coco_instances"),
        "cvat.xml": objects(folder / "cvat", "cvat"),
        "dota": objects(folder / "dotas", "dota"),
        "voc": objects(folder / "voc", "voc_detection"),
    }


def _flat(points: Any) -> list[float]:
    return [value for point in points for value in (point if hasattr(point, "__len__") else [point])]


def supervision(folder: Path) -> dict[str, Found]:
    import supervision as sv

    def objects(data: Any) -> Found:
        return {
            Path(name).stem: [
                [data.classes[label], "bounds", bounds]
                for bounds, label in zip(detections.xyxy, detections.class_id, strict=True)
            ]
            for name, detections in data.annotations.items()
        }

    data = sv.DetectionDataset
    yolo, coco = folder / "yolo", folder / "coco"
    return {
        "coco.json": objects(
            data.from_coco(str(coco / "images/train"), str(coco / "annotations/instances_train.json"))
        ),
        "labelme": objects(data.from_labelme(str(folder / "labelme"), str(folder / "labelme"))),
        "voc": objects(data.from_pascal_voc(str(folder / "voc/JPEGImages"), str(folder / "voc/Annotations"))),
        "yolo/data.yaml": objects(
            data.from_yolo(str(yolo / "images/train"), str(yolo / "labels/train"), str(yolo / "data.yaml"))
        ),
    }


def label_studio(folder: Path) -> dict[str, Found]:
    from label_studio_sdk.converter.utils import convert_annotation_to_yolo_obb

    found: Found = {}
    for task in json.loads((folder / "label_studio.json").read_text(encoding="utf-8")):
        for annotation in task["annotations"][:1]:
            results = [each for each in annotation["result"] if each["type"] == "rectanglelabels"]
            found[Path(task["data"]["image"]).stem] = [
                [label, "quad", _flat(convert_annotation_to_yolo_obb({**each, **each["value"]}, normalize=False))]
                for each in results
                for label in each["value"]["rectanglelabels"]
            ]
    return {"label_studio.json": found}


if __name__ == "__main__":
    if sys.argv[1:2] == ["--read"]:
        read(sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]))
    else:
        main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
