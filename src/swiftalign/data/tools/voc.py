"""Pascal VOC: an XML file for each image, in ``Annotations/`` beside ``JPEGImages/``, or beside the image.

    <annotation>
      <filename>a.png</filename>
      <size><width>64</width><height>48</height></size>
      <object><name>cup</name><bndbox><xmin>8</xmin><ymin>8</ymin><xmax>40</xmax><ymax>30</ymax></bndbox></object>
    </annotation>

The numbers are taken as the box's edges in pixels, counted from 0. VOC's own data sets, and labelImg, mean pixels
counted from 1 with the last one included, so that a left edge is 1 less (detectron2 and supervision subtract that);
what CVAT, datumaro, LabelMe's converter and most scripts write are edges (datumaro reads them so). A file doesn't say
which of them it holds. Read as edges, a box of the first kind lacks one pixel on the left and at the top; read the
other way, a box of the second kind would be one pixel too large and could begin outside the image.

The parts of persons and the turned boxes of roLabelImg are left out. An image without objects is one without objects.

References:
    http://host.robots.ox.ac.uk/pascal/VOC/voc2012/devkit_doc.pdf
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from swiftalign.data.tools.reading import (
    Element,
    Images,
    Placed,
    Tool,
    any_head,
    fail,
    files_at,
    read_xml,
    root_tag,
    size,
    target,
    to_number,
)


def _annotations(path: Path) -> Path:
    return path / "Annotations" if (path / "Annotations").is_dir() else path


def _recognise(path: Path) -> bool:
    return any_head(_annotations(path), ".xml", lambda start: root_tag(start) == b"annotation")


def read(path: Path, images: Path | None, left_out: Counter[str]) -> Iterator[Placed]:
    path = _annotations(path)
    finder = Images(path if path.is_dir() else path.parent, images)
    for file in files_at(path, ".xml"):
        for root in read_xml(file, level=0):
            if root.tag != "annotation":
                fail(file, f"the root element is {root.tag[:40]!r}, not 'annotation'", "name files of one format only")
            objects = [
                each
                for element in root.children
                if element.tag == "object"
                for each in _object(element, file, left_out)
            ]
            image, sides = finder.find(root.text("filename"), file), (root.first("size") or root).text
            yield file, {"images": [image], "objects": objects, **size(sides("width"), sides("height"))}


def _object(element: Element, file: str, left_out: Counter[str]) -> Iterator[dict[str, Any]]:
    where, box = f"{file}:{element.line}", element.first("bndbox")
    if parts := sum(each.tag == "part" for each in element.children):
        left_out["parts of persons"] += parts
    if box is None and element.first("robndbox"):
        left_out["turned boxes of roLabelImg"] += 1
    elif box is None:
        fail(where, "the object has no 'bndbox'")
    else:
        edges = [to_number(box.text(name), where, f"{name!r}") for name in ("xmin", "ymin", "xmax", "ymax")]
        yield target(element.text("name"), "bbox", edges, where)


VOC = Tool("Pascal VOC", _recognise, read)
