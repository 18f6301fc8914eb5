"""What training will see of chosen rows: each original beside its variants, with the status of every target."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from swiftalign.augment.draws import Step, is_imgaug
from swiftalign.augment.pipeline import Pipeline, Placement, Replay, blank, is_geometric
from swiftalign.augment.rows import TrainingRows
from swiftalign.data.encoded import Encode, Encoded, as_written, learned_faults
from swiftalign.data.images import Pixels, image_size, open_image
from swiftalign.data.records import Record, Wording
from swiftalign.data.row_checks import row_problems
from swiftalign.data.rows import Rows, to_row
from swiftalign.data.sizes import Size
from swiftalign.data.targets import Kind, PixelTarget, Point, ShareTarget
from swiftalign.data.text import Composed, Writing, answer_order

THUMBNAIL = 640  # pixels of the longer side of the image in a panel

Status = Literal["kept", "clipped", "dropped"]


@dataclass(frozen=True)
class Shape:
    """One target as it is drawn.

    Attributes:
        points: points in shares of the image's width and height; the top left and the bottom right corner of a box, or
            all four corners where the box was dropped.
        status: whether the target was kept whole, clipped or dropped.
        note: how much of the target is left, e.g. "dropped: 18% visible"; empty where all of it is.
    """

    kind: Kind
    label: str
    points: tuple[Point, ...]
    status: Status = "kept"
    note: str = ""

    @property
    def corners(self) -> tuple[Point, ...]:
        """The corners of the target's outline, or the points of a line."""
        return ShareTarget(self.kind, self.label, self.points).corners


@dataclass(frozen=True, eq=False)
class Panel:
    """One image with its targets.

    Attributes:
        title: "original", "epoch 0" or, for single operations, "step 1".
        image: the image reduced to a thumbnail, RGB [h, w, 3].
        size: width and height of the whole image in pixels.
        operations: the operations that were applied, in short.
        left_out: operations that were drawn but not applied, with the reasons.
        faults: differences between the encoded sample and what the augmentation made.
        replay: what was done, sufficient to repeat it; None for an original.
        read: the text that the model reads; empty for an original.
        learned: the text that the model learns to write; empty for an original.
    """

    title: str
    image: Pixels
    size: Size
    shapes: tuple[Shape, ...]
    operations: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()
    replay: dict[str, Any] | None = None
    read: str = ""
    learned: str = ""

    def to_json(self) -> dict[str, Any]:
        """The panel without its pixels; points are in thousandths of the image's sides."""
        shapes = [
            asdict(shape) | {"points": [[round(1000 * value, 3) for value in point] for point in shape.points]}
            for shape in self.shapes
        ]
        size = {"title": self.title, "width": self.size[0], "height": self.size[1], "targets": shapes}
        words = {"operations": list(self.operations), "left_out": list(self.left_out), "faults": list(self.faults)}
        return {**size, **words, "replay": self.replay, "read": self.read, "learned": self.learned}


@dataclass(frozen=True, eq=False)
class Strip:
    """A row of the training data: its original and its variants."""

    row: int
    path: Path | bytes
    panels: tuple[Panel, ...] = ()

    @property
    def name(self) -> str:
        """The path of the image."""
        return "in the data file" if isinstance(self.path, bytes) else str(self.path)

    def to_json(self) -> dict[str, Any]:
        return {"row": self.row, "image": self.name, "panels": [panel.to_json() for panel in self.panels]}


@dataclass(frozen=True)
class Previewer:
    """Makes strips of training rows.

    Args:
        rows: the training rows, in the order of the files.
        pipeline: the augmentation; None to show rows as they are.
        encode: encodes a row as training does, and reads it back.
    """

    rows: Rows
    pipeline: Pipeline | None
    encode: Encode

    def variants(self, row: int, epochs: Sequence[int]) -> Strip:
        """A row's original, and the row in each epoch, from the trainer's own dataset; without augmentation, once.

        Raises:
            DataError: the image can't be read.
        """
        path, record, original, sizes = self._original(row)
        panels = [original]
        if self.pipeline is None:
            panels.append(self._panel("as it is learned", self.rows[row], record, None))
            return Strip(row, path, tuple(panels))
        augmented = TrainingRows(self.rows, self.pipeline)
        for epoch in epochs:
            augmented.set_epoch(epoch)
            (placed, *_), final = self.pipeline.places([*map(blank, sizes)], record, epoch=epoch, row=row)
            final = record if record.wording.fixed else final
            panels.append(self._panel(f"epoch {epoch}", augmented[row], final, placed))
        return Strip(row, path, tuple(panels))

    def steps(self, row: int, epoch: int) -> Strip:
        """A row's original, and the row after each operation of an epoch.

        Raises:
            DataError: the image can't be read.
        """
        path, record, original, sizes = self._original(row)
        if record.wording.fixed or len(sizes) > 1 or self.pipeline is None:
            return self.variants(row, [epoch])
        image, panels = open_image(path), [original]
        whole = self.pipeline.place(blank(original.size), record, epoch=epoch, row=row).replay
        if whole.bypassed:
            return self.variants(row, [epoch])
        for count, step in enumerate(whole.steps, 1):
            left_out = whole.left_out if count == len(whole.steps) else ()
            part = replace(whole, steps=whole.steps[:count], left_out=left_out)
            sample = self.pipeline.replay(image, record, part)
            placed = self.pipeline.place_again(image, record, part)
            encoded = to_row(sample.record, [sample.image], self.rows.writing)
            panel = self._panel(f"step {count}", encoded, sample.record, placed)
            panels.append(replace(panel, operations=(describe(step),)))
        return Strip(row, path, tuple(panels))

    def _original(self, number: int) -> tuple[Path | bytes, Record, Panel, list[Size]]:
        """A row's first image, its record, a panel of the row as in the file with its faults, and its images' sizes."""
        row = self.rows.row(number)
        images = [image for image in row.images if image is not None]
        sizes, limits = [image_size(image) for image in images], self.rows.writing.limits
        record = row.record(sizes, limits)
        shapes = tuple(_shape(each.in_shares(*sizes[0])) for each in record.targets if each.image == 0)
        faults = [each.message for each in row_problems(row, sizes, limits) if each.severity == "error"]
        image = thumbnail(open_image(images[0]))
        return images[0], record, Panel("original", image, sizes[0], shapes, faults=tuple(faults)), sizes

    def _panel(self, title: str, row: dict[str, Any], final: Record, placed: Placement | None) -> Panel:
        """A row as it is trained with its encoded targets, and with the dropped targets where they would be.

        Args:
            row: the row in ms-swift's layout.
            final: the row after augmentation.
            placed: what augmentation did to the first image; None without augmentation.
        """
        writing, faults = self.rows.writing, list[str]()
        sizes = [image.size for image in row["images"]]
        before = shown = as_written(row, writing)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                shown = self.encode(row)
        except Exception as error:  # ms-swift raises errors of many types
            reason = " ".join(str(error).split())[:160] or type(error).__name__
            faults.append(f"ms-swift can't encode it: {reason}")
        faults += learned_faults(shown.learned, final, sizes, writing)
        assert before.image is not None
        assert shown.image is not None
        # An image that was resized for encoding can't be compared.
        if shown.image.shape == before.image.shape:
            difference = float(np.abs(shown.image.astype(np.int16) - before.image).mean())
            if difference > 0.5:
                faults.append(f"the encoded image differs by {difference:.1f} of 255 from the row's own")
        done, left_out = Replay(()), tuple[str, ...]()
        if placed and not final.wording.fixed:
            shapes = tuple(_shapes(shown, placed, final.wording, writing))
            done, left_out = placed.replay, placed.replay.left_out
        else:
            shapes = tuple(_shape(target.in_shares()) for target in shown.answer.targets)
            if placed:
                colours = tuple(step for step in placed.replay.steps if not is_geometric(step))
                done = Replay(colours, bypassed=placed.replay.bypassed)
                left_out = (f"geometry: {final.wording.fixed}",)
        return Panel(
            title,
            thumbnail(shown.image),
            (shown.image.shape[1], shown.image.shape[0]),
            shapes,
            (*(["left as it is"] if done.bypassed else []), *map(describe, done.steps)),
            left_out,
            tuple(faults),
            done.to_json() if placed else None,
            shown.read,
            shown.learned,
        )


def _shapes(shown: Encoded, placed: Placement, wording: Wording, writing: Writing) -> Iterator[Shape]:
    """The targets of the answer as they were read back, then the dropped ones where they would be.

    The note of a clipped target says how much of it is left.
    """
    kept = [outcome for outcome in placed.outcomes if outcome.target]
    if isinstance(wording, Composed):
        targets = [outcome.target for outcome in kept if outcome.target]
        kept = [kept[number] for number in answer_order(targets, writing)]
    matches = len(kept) == len(shown.answer.targets)
    for index, target in enumerate(shown.answer.targets):
        clipped = matches and kept[index].clipped
        note = f"clipped: {math.floor(100 * kept[index].visible)}% visible" if clipped else ""
        yield _shape(target.in_shares(), "clipped" if clipped else "kept", note)
    for before, points, outcome in zip(placed.record.targets, placed.moved, placed.outcomes, strict=True):
        if outcome.target is None:
            corners = tuple((x, y) for x, y in points.tolist())
            lost = PixelTarget(before.kind, before.label, corners).in_shares(*placed.size)
            yield _shape(lost, "dropped", f"dropped: {outcome.reason}")


def _shape(target: ShareTarget, status: Status = "kept", note: str = "") -> Shape:
    return Shape(target.kind, target.label, target.points, status, note)


def thumbnail(image: Pixels) -> Pixels:
    """The image, reduced if its longer side has more than `THUMBNAIL` pixels."""
    if max(image.shape[:2]) <= THUMBNAIL:
        return image
    reduced = Image.fromarray(image)
    reduced.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    return np.array(reduced)


_WORDS: dict[str, Callable[[dict[str, Any]], str]] = {
    "rotate": lambda v: f"rotate {v['degrees']:.1f}°",
    "scale": lambda v: f"scale ×{v['factor']:.2f}",  # noqa: RUF001  # the multiplication sign is meant
    "resize_by_scale": lambda v: f"resize ×{v['factor']:.2f}",  # noqa: RUF001
    "fit": lambda v: f"fit {v['size'][0]}×{v['size'][1]}",  # noqa: RUF001
    "expand_to_fit_affine": lambda v: (
        f"expand to {v['multiple']}" + (f" ≤{v['max_pixels']}" if v["max_pixels"] else "")
    ),
    "random_crop": lambda v: f"crop {v['scale']:.0%} {v['aspect_ratio']:.2f}:1 at {v['x']:.0%} {v['y']:.0%}",
    "roi_crop": lambda v: f"crop ×{v['scale']:.2f} of {', '.join(v['anchor_classes'])}",  # noqa: RUF001
    "pad_to_multiple": lambda v: f"pad to {v['multiple']}",
    "color_jitter": lambda v: f"color b{v['brightness']:.1f} c{v['contrast']:.1f} s{v['saturation']:.1f}",
    "gamma": lambda v: f"gamma {v['gamma']:.2f}",
    "hsv": lambda v: f"hsv h{v['hue_deg']:+.0f}° s{v['sat']:.1f} v{v['val']:.1f}",
    "clahe": lambda v: f"clahe {v['clip_limit']:g}",
    "auto_contrast": lambda v: f"auto contrast {v['cutoff']:g}%",
    "sharpness": lambda v: f"sharpness {v['factor']:.1f}",
    "solarize": lambda v: f"solarize {v['threshold']}",
    "posterize": lambda v: f"posterize {v['bits']}",
}


def describe(step: Step) -> str:
    """An operation and its values, in short.

    >>> describe(Step("rotate", {"degrees": -3.21}))
    'rotate -3.2°'
    """
    if is_imgaug(step.name):
        arguments = " ".join(f"{name}={value}" for name, value in step.values["arguments"].items())
        return f"{step.name.rpartition('.')[2]} {arguments}".strip()
    return _WORDS[step.name](step.values) if step.name in _WORDS else step.name
