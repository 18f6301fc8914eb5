"""The augmentation pipeline: it changes an image and its targets together.

Geometry comes first, wherever it stands in the list: it is one matrix, one resampling of the image and one matrix
product for all points. Then come the colours, in the order of the list. Padding at the end of the geometry is added
last, so that no colour operation changes it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any

import numpy as np

from swiftalign.augment import geometry
from swiftalign.augment.colours import apply_appearance
from swiftalign.augment.draws import Step, draw, is_imgaug
from swiftalign.augment.geometry import Affine
from swiftalign.augment.mirror_text import mirror_record, names_sides
from swiftalign.augment.targets import Outcome, Rules, fit_targets, inflation_cost
from swiftalign.config.augmentation import AugmentationSection
from swiftalign.config.sections import Config
from swiftalign.data.encoding import encoding_of
from swiftalign.data.images import Pixels
from swiftalign.data.polygons import Floats, signed_area
from swiftalign.data.records import Record, Size
from swiftalign.data.tokens import DEFAULT_LIMITS, FACTOR, PixelLimits


@dataclass(frozen=True)
class Replay:
    """What was done to one row, sufficient to repeat it exactly.

    Attributes:
        steps: operations with their values, in order.
        boxes_as_quads: whether tilted boxes became quads.
        left_out: operations that were drawn but not applied, each with the reason.
    """

    steps: tuple[Step, ...]
    boxes_as_quads: bool = False
    left_out: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        steps = [step.to_json() for step in self.steps]
        return {"steps": steps, "boxes_as_quads": self.boxes_as_quads, "left_out": list(self.left_out)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Replay:
        steps = tuple(Step.from_json(step) for step in value["steps"])
        return cls(steps, value["boxes_as_quads"], tuple(value["left_out"]))


@dataclass(frozen=True, eq=False)
class Sample:
    """One augmented row.

    Attributes:
        image: RGB [h, w, 3].
        record: the record with the targets that were kept, in pixels of the image; left and right are exchanged in its
            words if the image was mirrored.
        outcomes: outcome of each of the row's targets, in the row's order.
        replay: what was done to the row.
    """

    image: Pixels
    record: Record
    outcomes: tuple[Outcome, ...]
    replay: Replay


@dataclass(frozen=True, eq=False)
class _Moved:
    """Geometry that is decided, but not yet applied to the pixels: ``affine`` will be applied to ``image``."""

    image: Pixels
    affine: Affine
    inner: Affine  # affine without the padding at its end
    points: tuple[Floats, ...]
    flipped: bool
    steps: tuple[Step, ...]


@dataclass(frozen=True, eq=False)
class Placement:
    """Where a row's targets end up, decided before the image is resampled.

    Attributes:
        record: the row before augmentation.
        outcomes: outcome of each of the row's targets, in the row's order.
        replay: what will be done to the row.
        geometry: the map of the image and of all points.
    """

    record: Record
    outcomes: tuple[Outcome, ...]
    replay: Replay
    geometry: _Moved

    @property
    def moved(self) -> tuple[Floats, ...]:
        """Each target's ``corners`` on the new canvas, before clipping, [n, 2]."""
        return self.geometry.points

    @property
    def size(self) -> Size:
        """Width and height of the new canvas in pixels."""
        return self.geometry.affine.size


Fits = Callable[[Record, Size], bool]


@dataclass(frozen=True)
class Pipeline:
    """The augmentation of a configuration.

    Attributes:
        settings: the configuration's augmentation section.
        limits: limits of the size of the images that the model gets.
        fits: whether a row on an image of this size is within ``max_length``; None where rows may have any length.
    """

    settings: AugmentationSection
    limits: PixelLimits = field(default=DEFAULT_LIMITS)
    fits: Fits | None = None

    def __call__(self, image: Pixels, record: Record, *, epoch: int, row: int) -> Sample:
        """Augment a row with the draws of an epoch; arguments and errors are those of `place`."""
        return self._render(self.place(image, record, epoch=epoch, row=row))

    def replay(self, image: Pixels, record: Record, replay: Replay) -> Sample:
        """Repeat what was done to a row."""
        return self._render(self.place_again(image, record, replay))

    def place(self, image: Pixels, record: Record, *, epoch: int, row: int) -> Placement:
        """Decide what happens to a row in an epoch.

        Args:
            image: RGB [h, w, 3]; `blank` is enough where only the points are needed.
            record: the row, with its targets in pixels of this image.
            epoch: number of the epoch, from 0.
            row: number of the row in the training data; draws depend on row, epoch and seed only.

        Raises:
            DataError: one side of the image is more than 200 times the other.
        """
        moves, colours = self._draw(epoch, row)
        left_out: list[str] = []

        def leave_out(names: tuple[str, ...], reason: str) -> None:
            left_out.extend(f"{step.name}: {reason}" for step in moves if step.name.startswith(names))
            moves[:] = [step for step in moves if not step.name.startswith(names)]

        if self.settings.left_right == "refuse" and names_sides(record):
            leave_out(("hflip",), "the row says left or right")
        moved, as_quads = self._move(image, record, moves), False
        if inflation_cost(record.targets, moved.points) < self.settings.min_overlap:
            as_quads = self.settings.rotated_boxes == "quad"
            if self.settings.rotated_boxes == "skip":
                leave_out(_TURNING, "a box would grow too much")
                moved = self._move(image, record, moves)
        outcomes = self._outcomes(record, moved, as_quads)
        if record.targets and not any(outcome.target for outcome in outcomes):
            leave_out(_MOVING, "every target would be lost")
            moved, as_quads = self._move(image, record, moves), False
            outcomes = self._outcomes(record, moved, as_quads)
        if self.fits and not self.fits(self._record(record, moved, outcomes), moved.affine.size):
            leave_out(_GROWING, "the row would be longer than max_length")
            moved, as_quads = self._move(image, record, moves), False
            outcomes = self._outcomes(record, moved, as_quads)
        return Placement(record, outcomes, Replay((*moved.steps, *colours), as_quads, tuple(left_out)), moved)

    def place_again(self, image: Pixels, record: Record, replay: Replay) -> Placement:
        """Where a row's targets ended up when this was done to it."""
        moved = self._move(image, record, [step for step in replay.steps if is_geometric(step)], fitted=True)
        return Placement(record, self._outcomes(record, moved, replay.boxes_as_quads), replay, moved)

    def colours_only(self, images: Sequence[Pixels], *, epoch: int, row: int) -> list[Pixels]:
        """Augment only the colours of a row's images, because the row's text says in its own words where things are."""
        _, colours = self._draw(epoch, row)
        return [_coloured(image, colours) for image in images]

    def _draw(self, epoch: int, row: int) -> tuple[list[Step], list[Step]]:
        """The operations drawn for a row: those that move points, and the others."""
        steps = draw(self.settings.operations, seed=self.settings.seed, epoch=epoch, row=row)
        return [step for step in steps if is_geometric(step)], [step for step in steps if not is_geometric(step)]

    def _move(self, image: Pixels, record: Record, steps: Sequence[Step], *, fitted: bool = False) -> _Moved:
        size = image.shape[1], image.shape[0]
        points = [np.array(target.corners, dtype=np.float64).reshape(-1, 2) for target in record.targets]
        canvas = [(0, 0), (size[0], 0), size, (0, size[1])]  # if the canvas is mirrored, everything is
        points.append(np.array(canvas, dtype=np.float64))
        affine = inner = geometry.start(size)
        for step in steps:
            if is_imgaug(step.name):
                image, points, affine = self._by_imgaug(step, image, points, affine)
                inner = affine
            else:
                affine = geometry.OPERATIONS[step.name](affine, **step.values)
                inner = inner if step.name == "pad_to_multiple" else affine
        if not fitted:
            fit = geometry.fit(affine, FACTOR, self.limits.least, self.limits.most_unreduced)
            if fit.size != affine.size:
                affine = inner = fit
                steps = [*steps, Step(geometry.FIT, {"size": list(fit.size)})]
        *points, corners = [geometry.transform(each, affine.matrix) for each in points]
        return _Moved(image, affine, inner, tuple(points), signed_area(corners) < 0, tuple(steps))

    def _by_imgaug(
        self, step: Step, image: Pixels, points: list[Floats], affine: Affine
    ) -> tuple[Pixels, list[Floats], Affine]:
        """imgaug moves pixels itself: the pending matrix is applied before it, and a new one begins after it."""
        from swiftalign.augment import imgaug_ops

        image = geometry.warp(image, affine, self.settings.fill)
        moved = geometry.transform(np.concatenate(points), affine.matrix)
        image, moved = imgaug_ops.apply(imgaug_ops.augmenter(step), image, moved, step.values["seed"])
        ends = np.cumsum([len(each) for each in points])[:-1]
        return image, np.split(moved, ends), geometry.start((image.shape[1], image.shape[0]))

    def _outcomes(self, record: Record, moved: _Moved, as_quads: bool) -> tuple[Outcome, ...]:
        rules = Rules(self.settings.min_visible, self.settings.min_side)
        flipped, size = moved.flipped, moved.affine.size
        return tuple(fit_targets(record.targets, moved.points, size, rules, flipped=flipped, boxes_as_quads=as_quads))

    def _render(self, placed: Placement) -> Sample:
        moved = placed.geometry
        image = geometry.warp(moved.image, moved.inner, self.settings.fill)
        image = _coloured(image, [step for step in placed.replay.steps if not is_geometric(step)])
        if moved.inner.size != moved.affine.size:
            image = geometry.warp(image, replace(moved.affine, matrix=np.eye(3)), self.settings.fill)
        return Sample(image, self._record(placed.record, moved, placed.outcomes), placed.outcomes, placed.replay)

    def _record(self, record: Record, moved: _Moved, outcomes: Sequence[Outcome]) -> Record:
        """The row with the targets that were kept, and with left and right exchanged where it is mirrored."""
        record = replace(record, targets=tuple(outcome.target for outcome in outcomes if outcome.target))
        swapped = moved.flipped and self.settings.left_right == "swap"
        return mirror_record(record) if swapped else record


def run_pipeline(config: Config) -> Pipeline:
    """The pipeline of a configuration that has augmentation."""
    settings = config.custom.augmentation
    assert settings is not None
    encoding = encoding_of(config)
    return Pipeline(settings, encoding.limits, encoding.fits if encoding.max_length else None)


def blank(size: Size) -> Pixels:
    """A black image of this width and height in pixels that needs no memory."""
    return np.broadcast_to(np.uint8(0), (size[1], size[0], 3))


_MOVING = ("hflip", "rotate", "scale", "resize_by_scale", "imgaug.")
_GROWING = (*_MOVING, "pad_to_multiple")
_TURNING = ("rotate", "imgaug.")


def is_geometric(step: Step) -> bool:
    """Whether a step moves points."""
    if is_imgaug(step.name):
        from swiftalign.augment import imgaug_ops

        return imgaug_ops.is_geometric(imgaug_ops.augmenter(step))
    return step.name in geometry.OPERATIONS


def _coloured(image: Pixels, steps: Sequence[Step]) -> Pixels:
    for by_imgaug, run in groupby(steps, key=lambda step: is_imgaug(step.name)):
        if by_imgaug:
            from swiftalign.augment import imgaug_ops

            for step in run:
                image, _ = imgaug_ops.apply(imgaug_ops.augmenter(step), image, np.zeros((0, 2)), step.values["seed"])
        else:
            image = apply_appearance(image, [(step.name, step.values) for step in run])
    return image
