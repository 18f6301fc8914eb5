"""YOLO: a text file for each image, for detection, segmentation and oriented boxes (OBB), as shares 0..1 of the sides.

    0 0.5 0.5 0.25 0.5                        class, middle x and y, width, height; a sixth number is a confidence
    0 0.1 0.1 0.9 0.2 0.8 0.9 0.1 0.8         class and four corners: a quad, be it an oriented box or an outline
    0 0.1 0.1 0.9 0.2 0.8 0.9                 class and three, five or more corners: a polygon

    data.yaml                                 names: [cup, plate]     a list, or numbers with names
                                              path: .                 where the others begin; optional
                                              train: images/train     a folder, a text file of image paths, or a list
    images/train/a.png, labels/train/a.txt    the last "images" of an image's path becomes "labels"

What can be named: data.yaml, or a folder that holds it, stands for its entry ``train``, or without one for its folder;
a folder with images/ and labels/; one of these or a folder below, such as labels/val; a folder with images and text
files side by side; one text file. The names of the classes are then those of data.yaml or classes.txt in the folder, in
its labels/, or in one of the three folders above it.

An image without a text file, or with an empty one, has no objects. A text file without an image is a row whose image
is missing. With ``kpt_shape`` in data.yaml a line is a box and keypoints, which are left out.

References:
    https://docs.ultralytics.com/datasets/detect/, .../segment/, .../obb/
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from swiftalign.data.tools.reading import (
    NUMBER,
    Placed,
    Tool,
    any_head,
    fail,
    head,
    is_image,
    names_in,
    read_bytes,
    target,
    text,
    walk,
)

_LINE = re.compile(rf"\d{{1,9}}(?:\s+{NUMBER})+".encode())
_BEGINS = re.compile(rf"\s*\d{{1,9}}(?:[ \t]+{NUMBER}){{4,}}\s*?(?:\n|\Z)".encode())
_YAML = re.compile(rb"^names[ \t]*:", re.M)
_YAML_NAMES = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
_LIST_NAMES = ("classes.txt", "obj.names")
_MAX_YAML_BYTES = 1_000_000  # PyYAML reads about as much in ten seconds; the names of thousand classes have 20 KB
_PARTS = frozenset({"train", "val", "valid", "test"})
_NOT_LABELS = re.compile(r"(?:classes|labels|readme.*|train|val|test)\.txt", re.I)

Pair = tuple[str, str | None]
"""An image and its text file, where there is one."""


def _recognise(path: Path) -> bool:
    if path.is_file():
        if path.suffix.lower() in (".yaml", ".yml"):
            return bool(_YAML.search(head(path)))
        return any_head(path, ".txt", _BEGINS.match)
    if _data_yaml(path):
        return True
    texts = path / "labels" if (path / "labels").is_dir() else path
    if "images" in path.parts:
        texts = Path(_labels_of(str(path)))
    folders = [texts, *(texts / name for name in sorted(_PARTS))]
    return any(any_head(folder, ".txt", _BEGINS.match) for folder in folders)


def read(path: Path, images: Path | None, left_out: Counter[str], *, part: str = "train") -> Iterator[Placed]:
    """The images of a YOLO data set with their objects.

    Args:
        part: the entry of data.yaml to read.
    """
    config = path if path.suffix.lower() in (".yaml", ".yml") else _data_yaml(path)
    names, settings = _names(config or path)
    keypoints = "kpt_shape" in settings
    if config and settings.get(part) is not None:
        pairs = _entry(config, settings, part)
    else:
        folder = path.parent if path == config else path
        pairs = _pairs(os.path.abspath(folder), os.path.abspath(images) if images else None)
    for image, file in pairs:
        where = file or image
        content = read_bytes(file).removeprefix(b"\xef\xbb\xbf").splitlines() if file else []
        objects = [
            _object(line, names, keypoints, f"{file}:{number}", left_out)
            for number, line in enumerate(content, 1)
            if not line.isspace() and line
        ]
        yield (
            where,
            {"images": [text(image, where, "the image's path")], "objects": objects, "coordinates": "relative1"},
        )


def _object(line: bytes, names: dict[int, str], keypoints: bool, where: str, left_out: Counter[str]) -> dict[str, Any]:
    if not _LINE.fullmatch(line.strip()):
        fail(where, f"must be the number of a class and coordinates: {line[:60]!r}")
    number, *values = line.split()
    label, numbers = names.get(int(number)), [float(value) for value in values]
    if label is None:
        fail(where, f"no class has the number {int(number)}", "add it to 'names' in data.yaml, or to classes.txt")
    if keypoints and len(numbers) > 5:
        left_out["skeletons"] += 1
        numbers = numbers[:4]
    if len(numbers) in (4, 5):
        x, y, width, height = numbers[:4]
        return target(label, "bbox", [x - width / 2, y - height / 2, x + width / 2, y + height / 2], where)
    if len(numbers) < 6 or len(numbers) % 2:
        fail(
            where,
            f"{len(numbers)} numbers after the class are not a box (4), quad (8) or polygon (6 or more, even)",
        )
    return target(label, "quad" if len(numbers) == 8 else "polygon", numbers, where)


def _data_yaml(folder: Path) -> Path | None:
    found = (folder / name for name in _YAML_NAMES)
    return next((path for path in found if path.is_file() and _YAML.search(head(path))), None)


def _names(path: Path) -> tuple[dict[int, str], dict[str, Any]]:
    """The names of the classes by number, and the rest of data.yaml if they come from there."""
    hint = "name data.yaml, or put a classes.txt with one name per line into the folder"
    for folder in (path, path / "labels", *path.absolute().parents[: 3 if path.is_dir() else 4]):
        if config := folder if folder.suffix.lower() in (".yaml", ".yml") and folder.is_file() else _data_yaml(folder):
            settings = _settings(config)
            names = settings.get("names")
            found = dict(enumerate(names)) if isinstance(names, list) else names
            if not isinstance(found, dict) or not all(type(key) is int for key in found):
                fail(f"{config}", "'names' must be a list, or numbers with names", "write 'names: [cup, plate]'")
            return {key: text(name, f"{config}", f"the name of class {key}") for key, name in found.items()}, settings
        for name in _LIST_NAMES:
            if (folder / name).is_file():
                lines = _text(folder / name).rstrip().split("\n")
                return {
                    number: text(line.strip(), f"{folder / name}:{number + 1}", "a class")
                    for number, line in enumerate(lines)
                }, {}
    fail(f"{path}", "no file says how the classes are called", hint)


def _settings(config: Path) -> dict[str, Any]:
    if config.stat().st_size > _MAX_YAML_BYTES:
        fail(f"{config}", "is larger than 1 MB", "name the data.yaml of a YOLO data set")

    import yaml

    from swiftalign.yaml12 import CoreSchemaLoader

    try:
        settings = yaml.load(_text(config), Loader=CoreSchemaLoader)
    except (yaml.YAMLError, ValueError, RecursionError, TypeError, AttributeError) as error:
        fail(f"{config}", f"not YAML that can be read: {str(error).partition(chr(10))[0]}", "correct the file")
    return settings if isinstance(settings, dict) else fail(f"{config}", "must hold 'names'", "correct the file")


def _text(path: Path) -> str:
    try:
        return read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError:
        fail(f"{path}", "is not UTF-8", "write the file as UTF-8")


def _entry(config: Path, settings: dict[str, Any], part: str) -> Iterator[Pair]:
    """The images that one entry of data.yaml names."""
    base = os.path.dirname(os.path.abspath(config))
    below = settings.get("path")
    if isinstance(below, str) and os.path.isdir(os.path.join(base, below)):
        base = os.path.join(base, below)
    entries = settings.get(part)
    entries = entries if isinstance(entries, list) else [entries]
    for entry in entries:
        name = text(entry, f"{config}", f"'{part}'")
        place = os.path.normpath(os.path.join(base, name.replace("\\", "/")))
        if not os.path.exists(place) and name.startswith("../"):  # Roboflow's files begin one folder too high
            place = os.path.normpath(os.path.join(base, name[3:]))
        if os.path.isdir(place):
            yield from _walk(place, _labels_of(place))
        elif place.endswith(".txt"):
            for line in filter(None, map(str.strip, _text(Path(place)).split("\n"))):
                image = os.path.normpath(os.path.join(os.path.dirname(place), line))
                file = os.path.splitext(_labels_of(image))[0] + ".txt"
                yield image, file if os.path.isfile(file) else None
        else:
            fail(f"{config}", f"'{part}' names {place}, which is neither a folder nor a text file", "correct the path")


def _pairs(path: str, images: str | None) -> Iterator[Pair]:
    """The images of a folder, or of one text file."""
    if os.path.isfile(path):
        folder, name = os.path.split(path)
        yield from _walk(images or _images_of(folder), folder, only=os.path.splitext(name)[0])
        return
    labels = os.path.join(path, "labels")
    if not os.path.isdir(labels):
        labels = _labels_of(path) if "images" in path.split(os.sep) else path
    if len(parts := _PARTS.intersection(_folders(labels))) > 1:
        hint = f"name one of them, such as {os.path.join(labels, min(parts))}"
        fail(labels, f"holds several parts of the data: {', '.join(sorted(parts))}", hint)
    yield from _walk(images or _images_of(labels), labels)


def _folders(folder: str) -> list[str]:
    with os.scandir(folder) as entries:
        return [each.name for each in entries if each.is_dir()]


def _replaced(path: str, old: str, new: str) -> str:
    """The path with its last folder of a name called otherwise, or the path itself."""
    before, found, after = f"{path}/".rpartition(f"/{old}/")
    return f"{before}/{new}/{after}".rstrip("/") if found else path


def _labels_of(images: str) -> str:
    return _replaced(images, "images", "labels")


def _images_of(labels: str) -> str:
    return _replaced(labels, "labels", "images")


def _walk(images: str, labels: str, only: str | None = None) -> Iterator[Pair]:
    """The images below a folder, each with its text file below another one; then the text files without an image.

    Args:
        only: the one file to yield, by its name without suffix.
    """
    seen: set[str] = set()
    for folder, _, names in walk(images):
        texts = os.path.normpath(os.path.join(labels, os.path.relpath(folder, images)))
        seen.add(texts)
        yield from _paired(folder, sorted(names), texts, only)
        if only is not None:
            return
    for texts, _, _ in walk(labels):
        if texts not in seen:
            yield from _paired(os.path.normpath(os.path.join(images, os.path.relpath(texts, labels))), [], texts, only)


def _paired(folder: str, names: list[str], texts: str, only: str | None) -> Iterator[Pair]:
    free = {name[:-4] for name in names_in(texts, ".txt") if not _NOT_LABELS.fullmatch(name)}
    free = free if only is None else free & {only}
    with_text = set(free)
    for name in names:
        stem, suffix = os.path.splitext(name)
        if is_image(suffix) and (only is None or stem in with_text):
            free.discard(stem)
            yield f"{folder}/{name}", f"{texts}/{stem}.txt" if stem in with_text else None
    for stem in sorted(free):
        yield f"{folder}/{stem}.jpg", f"{texts}/{stem}.txt"


YOLO = Tool("YOLO", _recognise, read)
