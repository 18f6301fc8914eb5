"""Files that annotation tools write. A new format is a file beside these, and an entry here.

Each reader yields rows in this toolkit's own layout, one per image, of RefCOCO one per phrase. An image that the file
names without annotations is a row without objects. A closed outline of four corners is a quad, any other a polygon.
"""

from __future__ import annotations

from pathlib import Path

from swiftalign.data.tools.coco import COCO
from swiftalign.data.tools.cvat import CVAT
from swiftalign.data.tools.dota import DOTA
from swiftalign.data.tools.label_studio import LABEL_STUDIO
from swiftalign.data.tools.labelme import LABELME
from swiftalign.data.tools.reading import Tool
from swiftalign.data.tools.refcoco import REFCOCO
from swiftalign.data.tools.supervisely import SUPERVISELY
from swiftalign.data.tools.via import VIA
from swiftalign.data.tools.voc import VOC
from swiftalign.data.tools.yolo import YOLO
from swiftalign.problems import DataError

__all__ = ["TOOLS", "Tool", "find_tool"]

TOOLS: tuple[Tool, ...] = (COCO, LABELME, LABEL_STUDIO, VIA, SUPERVISELY, CVAT, VOC, YOLO, DOTA, REFCOCO)


def find_tool(path: Path) -> Tool | None:
    """The format of a file or folder; None for none of these, and for a path that does not exist.

    Raises:
        DataError: a folder holds several formats.
    """
    found = [tool for tool in TOOLS if tool.recognise(path)]
    if len(found) > 1 and path.is_dir():
        formats = ", ".join(tool.name for tool in found)
        raise DataError(f"{path}: the folder holds annotations in several formats: {formats}", "name one of the files")
    return found[0] if found else None
