"""The pipeline: an image and its targets go in, and come out together.

Geometry comes first, whatever the list's order: it is one matrix, one resampling of the image and one product for all
points. Then the colours, in the list's order. Padding that ends the geometry is added last, so that no colour operation
sees it.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from swiftalign.augment import geometry
from swiftalign.augment.colours import apply_appearance
from swiftalign.augment.draws import Step, draw, is_imgaug
from swiftalign.augment.geometry import Affine, Size
from swiftalign.augment.mirror_text import mirror_record, names_sides
from swiftalign.augment.polygons import Floats
from swiftalign.augment.targets import Outcome, Rules, inflation_cost, settle
from swiftalign.config.augmentation import GEOMETRIC, AugmentationSection
from swiftalign.config.sections import Config
from swiftalign.data.images import Pixels
from swiftalign.data.length_limit import length_limit
from swiftalign.data.records import Record
from swiftalign.data.tokens import DEFAULT_LIMITS, FACTOR, PixelLimits, pixel_limits

_FIT = "fit"  # the last step of every geometry: the size that the processor leaves alone


@dataclass(frozen=True)
class Replay:
    """What was done to one row, enough to do it again exactly.

    Attributes:
        steps: operations with their values, in order.
        boxes_as_quads: whether tilted boxes became quads.
        left_out: drawn operations that were not applied, each with the reason.
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
        record: with the targets that stayed, in pixels of the image; its words are turned round if it was mirrored.
        outcomes: of each of the row's targets, in its order.
        replay: what was done.
    """

    image: Pixels
    record: Record
    outcomes: tuple[Outcome, ...]
    replay: Replay


@dataclass(frozen=True, eq=False)
class _Moved:
    """Geometry that is decided, and not yet applied to the pixels: ``affine`` is to be applied to ``image``."""

    image: Pixels
    affine: Affine
    inner: Affine  # without the padding at its end
    points: tuple[Floats, ...]
    flipped: bool
    steps: tuple[Step, ...]


@dataclass(frozen=True, eq=False)
class Placement:
    """Where a row's targets end up, decided before any pixel moves.

    Attributes:
        record: the row as it was given.
        outcomes: of each of its targets, in order.
        replay: what is to be done.
        geometry: where everything goes.
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
        """Of the new canvas, width and height in pixels."""
        return self.geometry.affine.size


Fits = Callable[[Record, Size], bool]


@dataclass(frozen=True)
class Pipeline:
    """The augmentation of a configuration, for images within a run's limits.

    Attributes:
        fits: whether a row on an image of this size is within ``max_length``; None where rows may have any length.
    """

    settings: AugmentationSection
    limits: PixelLimits = field(default=DEFAULT_LIMITS)
    fits: Fits | None = None

    def __call__(self, image: Pixels, record: Record, *, epoch: int, row: int) -> Sample:
        """Augment a row as this epoch has it; arguments and errors are those of `place`."""
        return self._render(self.place(image, record, epoch=epoch, row=row))

    def replay(self, image: Pixels, record: Record, replay: Replay) -> Sample:
        """Do again what was done to a row."""
        return self._render(self.place_again(image, record, replay))

    def place(self, image: Pixels, record: Record, *, epoch: int, row: int) -> Placement:
        """Decide what happens to a row in an epoch.

        Args:
            image: RGB [h, w, 3]; `blank` will do where only the points are wanted.
            record: with its targets in pixels of this image.
            row: its number in the training data: draws depend on it, the epoch and the seed alone.

        Raises:
            DataError: the image's sides are more than 200 to 1.
        """
        steps = draw(self.settings.operations, seed=self.settings.seed, epoch=epoch, row=row)
        colours = [step for step in steps if not is_geometric(step)]
        moves = [step for step in steps if is_geometric(step)]
        left_out: list[str] = []
        if self.settings.left_right == "refuse" and names_sides(record):
            moves, left_out = _without(moves, ("hflip",), "the row says left or right", left_out)
        moved = self._move(image, record, moves)
        as_quads = False
        if inflation_cost(record.targets, moved.points) < self.settings.min_overlap:
            as_quads = self.settings.rotated_boxes == "quad"
            if self.settings.rotated_boxes == "skip":
                moves, left_out = _without(moves, _TURNING, "a box would grow too much", left_out)
                moved = self._move(image, record, moves)
        outcomes = self._settle(record, moved, as_quads)
        if record.targets and not any(outcome.target for outcome in outcomes):
            moves, left_out = _without(moves, _MOVING, "every target would be lost", left_out)
            moved, as_quads = self._move(image, record, moves), False
            outcomes = self._settle(record, moved, as_quads)
        if self.fits and not self.fits(self._record(record, moved, outcomes), moved.affine.size):
            moves, left_out = _without(moves, _GROWING, "the row would be longer than max_length", left_out)
            moved, as_quads = self._move(image, record, moves), False
            outcomes = self._settle(record, moved, as_quads)
        replay = Replay((*moved.steps, *colours), as_quads, tuple(left_out))
        return Placement(record, outcomes, replay, moved)

    def place_again(self, image: Pixels, record: Record, replay: Replay) -> Placement:
        """Where the targets were when this was done to a row."""
        moved = self._move(image, record, [step for step in replay.steps if is_geometric(step)], fitted=True)
        return Placement(record, self._settle(record, moved, replay.boxes_as_quads), replay, moved)

    def colours_only(self, images: Sequence[Pixels], *, epoch: int, row: int) -> list[Pixels]:
        """Images of a row whose text says where things are in words of its own: nothing moves."""
        steps = draw(self.settings.operations, seed=self.settings.seed, epoch=epoch, row=row)
        colours = [step for step in steps if not is_geometric(step)]
        return [_coloured(image, colours) for image in images]

    def _move(self, image: Pixels, record: Record, steps: Sequence[Step], *, fitted: bool = False) -> _Moved:
        size = image.shape[1], image.shape[0]
        points = [np.array(target.corners, dtype=np.float64).reshape(-1, 2) for target in record.targets]
        points.append(_canvas_corners(size))  # what mirrors the canvas mirrors everything
        affine = inner = geometry.start(size)
        for step in steps:
            if is_imgaug(step.name):
                image, points, affine = self._by_imgaug(step, image, points, affine)
                inner = affine
            else:
                affine = _then(affine, step)
                inner = inner if step.name == "pad_to_multiple" else affine
        if not fitted:
            fit = geometry.fit(affine, FACTOR, self.limits.least, self.limits.most_unreduced)
            if fit.size != affine.size:
                affine = inner = fit
                steps = [*steps, Step(_FIT, {"size": list(fit.size)})]
        *points, corners = [geometry.transform(each, affine.matrix) for each in points]
        return _Moved(image, affine, inner, tuple(points), _turns_left(corners), tuple(steps))

    def _by_imgaug(
        self, step: Step, image: Pixels, points: list[Floats], affine: Affine
    ) -> tuple[Pixels, list[Floats], Affine]:
        """imgaug moves pixels by itself: what is pending is applied before it, and another matrix begins after it."""
        from swiftalign.augment.imgaug_ops import apply

        image = geometry.warp(image, affine, self.settings.fill)
        moved = geometry.transform(np.concatenate(points), affine.matrix)
        image, moved = apply(_augmenter(step), image, moved, step.values["seed"])
        ends = np.cumsum([len(each) for each in points])[:-1]
        return image, np.split(moved, ends), geometry.start((image.shape[1], image.shape[0]))

    def _settle(self, record: Record, moved: _Moved, as_quads: bool) -> tuple[Outcome, ...]:
        rules = Rules(self.settings.min_visible, self.settings.min_side)
        flipped, size = moved.flipped, moved.affine.size
        return tuple(settle(record.targets, moved.points, size, rules, flipped=flipped, boxes_as_quads=as_quads))

    def _render(self, placed: Placement) -> Sample:
        moved = placed.geometry
        image = geometry.warp(moved.image, moved.inner, self.settings.fill)
        image = _coloured(image, [step for step in placed.replay.steps if not is_geometric(step)])
        if moved.inner.size != moved.affine.size:
            image = geometry.warp(image, replace(moved.affine, matrix=np.eye(3)), self.settings.fill)
        return Sample(image, self._record(placed.record, moved, placed.outcomes), placed.outcomes, placed.replay)

    def _record(self, record: Record, moved: _Moved, outcomes: Sequence[Outcome]) -> Record:
        """The row with the targets that stayed, and the words that fit them."""
        record = replace(record, targets=tuple(outcome.target for outcome in outcomes if outcome.target))
        swapped = moved.flipped and self.settings.left_right == "swap"
        return mirror_record(record) if swapped else record


def run_pipeline(config: Config) -> Pipeline:
    """The pipeline of a configuration that augments."""
    settings = config.custom.augmentation
    assert settings is not None
    limit = length_limit(config)
    return Pipeline(settings, pixel_limits(config.data.max_pixels), limit.fits if limit else None)


def blank(size: Size) -> Pixels:
    """A black image of this size, width and height in pixels, that takes no memory."""
    return np.broadcast_to(np.uint8(0), (size[1], size[0], 3))


_MOVING = ("hflip", "rotate", "scale", "resize_by_scale", "imgaug.")
_GROWING = (*_MOVING, "pad_to_multiple")
_TURNING = ("rotate", "imgaug.")


def is_geometric(step: Step) -> bool:
    """Whether a step moves points."""
    if is_imgaug(step.name):
        from swiftalign.augment.imgaug_ops import is_geometric as moves

        return moves(_augmenter(step))
    return step.name in GEOMETRIC or step.name == _FIT


def _augmenter(step: Step) -> Any:
    return _built(step.name, json.dumps(step.values["arguments"], sort_keys=True))


@functools.lru_cache(maxsize=64)
def _built(name: str, arguments: str) -> Any:
    from swiftalign.augment.imgaug_ops import build

    return build(name, json.loads(arguments))


def _without(
    steps: Sequence[Step], names: tuple[str, ...], reason: str, left_out: list[str]
) -> tuple[list[Step], list[str]]:
    kept = [step for step in steps if not step.name.startswith(names)]
    gone = [step.name for step in steps if step.name.startswith(names)]
    return kept, [*left_out, *(f"{name}: {reason}" for name in gone)]


def _then(affine: Affine, step: Step) -> Affine:
    values = step.values
    match step.name:
        case "hflip":
            return geometry.hflip(affine)
        case "rotate":
            return geometry.rotate(affine, values["degrees"])
        case "scale":
            return geometry.scale(affine, values["factor"])
        case "resize_by_scale":
            return geometry.resize_by_scale(affine, values["factor"], values["align_multiple"])
        case "pad_to_multiple":
            return geometry.pad_to_multiple(affine, values["multiple"])
    width, height = values["size"]
    return geometry.resize(affine, (width, height))


def _coloured(image: Pixels, steps: Sequence[Step]) -> Pixels:
    run: list[tuple[str, dict[str, Any]]] = []
    for step in steps:
        if not is_imgaug(step.name):
            run.append((step.name, step.values))
            continue
        from swiftalign.augment.imgaug_ops import apply

        image = apply_appearance(image, run) if run else image
        run = []
        image, _ = apply(_augmenter(step), image, np.zeros((0, 2)), step.values["seed"])
    return apply_appearance(image, run) if run else image


def _canvas_corners(size: Size) -> Floats:
    width, height = size
    return np.array([(0, 0), (width, 0), (width, height), (0, height)], dtype=np.float64)


def _turns_left(corners: Floats) -> bool:
    """Whether corners that were clockwise on the screen no longer are."""
    x, y = corners.T
    return bool((x * np.roll(y, -1) - y * np.roll(x, -1)).sum() < 0)
