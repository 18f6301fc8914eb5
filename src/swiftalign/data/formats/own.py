"""The layout of this toolkit: an image, and the objects on it.

    {"images": ["images/1.png"],
     "prompt": "Find the red box.",
     "objects": [{"label": "red box", "bbox_2d": [8, 8, 40, 30]}]}

on one line, in pixels, or with ``"coordinates": "relative1000"`` in thousandths of the image's sides.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swiftalign.config.sections import GroundingTextSection
from swiftalign.data.records import SPELLINGS, Format, Kind, PixelTarget, Record, Size, TextTarget, to_points
from swiftalign.data.row_checks import SLACK_SHARE, shown, special_text, target_problems
from swiftalign.data.text import to_messages
from swiftalign.problems import Problem

_KINDS: dict[str, Kind] = {spelling.row_key: kind for kind, spelling in SPELLINGS.items()}


@dataclass(frozen=True)
class GroundingRow:
    """An image and its targets, as a file gives them.

    Attributes:
        images: one absolute path.
        prompt: the request; None for that of the configuration.
        system: the system message; None for that of the configuration.
    """

    images: tuple[Path, ...]
    targets: tuple[PixelTarget | TextTarget, ...] = ()
    prompt: str | None = None
    system: str | None = None

    def record(self, width: int, height: int) -> Record:
        """The row in pixels of its image.

        Args:
            width: width of the image as it is shown, in pixels.
            height: height of the image as it is shown, in pixels.
        """
        targets = tuple(target.in_pixels(width, height) for target in self.targets)
        return Record(self.images, targets, self.prompt, self.system)

    @property
    def objects(self) -> int:
        return len(self.targets)

    def problems(self, sizes: Sequence[Size | None]) -> Iterator[Problem]:
        if sizes[0] is None:
            return
        for text in (self.prompt, self.system, *(target.label for target in self.targets)):
            yield from special_text(text or "")
        if not self.targets:
            yield Problem("data-no-objects", "", "the model learns to answer [] there")
        for target in self.targets:
            most = max(value for point in (*target.points, *target.outline) for value in point)
            if isinstance(target, TextTarget) and most > 1000 * (1 + SLACK_SHARE):
                message = f"object {shown(target.label)} reaches {most:g} of 1000"
                yield Problem("data-coordinates-pixel-like", message, 'if they are pixels, remove "coordinates"')
                return
        for pixel_target in self.record(*sizes[0]).targets:
            yield from target_problems(pixel_target, *sizes[0])

    def to_swift(self, sizes: Sequence[Size], text: GroundingTextSection) -> dict[str, Any]:
        return {"messages": to_messages(self.record(*sizes[0]), *sizes[0], text)}


def _fault(row: Any) -> str | None:
    if not isinstance(row, dict):
        return "not a JSON object"
    images, objects = row.get("images", []), row.get("objects")
    if not isinstance(images, list) or not all(isinstance(image, str) for image in images):
        return "'images' must be a list of paths"
    if not images or not isinstance(objects, list):
        return "needs 'images' and 'objects', or 'messages'"
    if len(images) != 1:
        return "needs exactly one image, or 'messages'"
    if row.get("coordinates", "pixels") not in ("pixels", "relative1000"):
        return "'coordinates' must be pixels or relative1000"
    if not all(isinstance(row.get(key), str | None) for key in ("prompt", "system")):
        return "'prompt' and 'system' must be text"
    for item in objects:
        if not isinstance(item, dict) or not isinstance(item.get("label"), str):
            return "an object needs a 'label'"
        name, keys = f"object {item['label']!r}", [key for key in _KINDS if key in item]
        if len(keys) != 1 and keys != ["bbox_2d", "quad"]:
            return f"{name} needs one of {', '.join(_KINDS)} (a box may have its object's quad beside it)"
        for key in keys:
            if not to_points(_KINDS[key], item[key]):
                _, _, least, most = SPELLINGS[_KINDS[key]]
                wanted = f"{2 * least} numbers" if most else f"an even count of {2 * least} numbers or more"
                return f"{name}: {key} must be {wanted}"
    return None


def _read(row: dict[str, Any], folder: Path) -> GroundingRow:
    unit, targets = TextTarget if row.get("coordinates") == "relative1000" else PixelTarget, []
    for item in row["objects"]:
        points = {kind: to_points(kind, item[key]) for key, kind in _KINDS.items() if key in item}
        kind = next(iter(points))  # a quad beside a box is its outline
        targets.append(unit(kind, item["label"], points.pop(kind), points.get("quad", ())))
    return GroundingRow((folder / row["images"][0],), tuple(targets), row.get("prompt"), row.get("system"))


OWN = Format(recognise=lambda row: "objects" in row and "messages" not in row, fault=_fault, read=_read)
