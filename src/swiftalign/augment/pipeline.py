"""The augmentation pipeline: it changes an image and its targets together.

Geometry comes first, wherever it stands in the list: it is one matrix, one resampling of the image and one matrix
product for all points, but for crops (see `moves`). Then come the colours, in the order of the list. Padding at the end
of the geometry is added last, so that no colour operation changes it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import compress, groupby
from typing import Any, NamedTuple

import cv2
import numpy as np

from swiftalign.augment import geometry
from swiftalign.augment.colours import apply_appearance
from swiftalign.augment.crops import CROPS
from swiftalign.augment.draws import Step, bypassed, draw, is_imgaug
from swiftalign.augment.geometry import Affine
from swiftalign.augment.moves import ALL_LOST, EXPAND, GEOMETRIC, NEEDED, PAD, Moving, exchange
from swiftalign.augment.targets import Outcome, fit_targets, inflation_cost
from swiftalign.config.augmentation import AugmentationSection, Colour
from swiftalign.config.sections import Config, GroundingTextSection
from swiftalign.data.encoding import GREY, encoding_of
from swiftalign.data.images import Pixels
from swiftalign.data.mirror import LEFT_RIGHT, UP_DOWN, Exchange, mirror_words
from swiftalign.data.polygons import Floats
from swiftalign.data.records import Record
from swiftalign.data.sizes import DEFAULT_LIMITS, PixelLimits, Size
from swiftalign.data.targets import PixelTarget


@dataclass(frozen=True)
class Replay:
    """What was done to one row, sufficient to repeat it exactly.

    Attributes:
        steps: operations with their values, in order.
        boxes_as_quads: whether tilted boxes became quads.
        left_out: operations that were drawn but not applied, each with the reason.
        bypassed: whether the row is one of those that the epoch leaves as they are.
    """

    steps: tuple[Step, ...]
    boxes_as_quads: bool = False
    left_out: tuple[str, ...] = ()
    bypassed: bool = False

    def to_json(self) -> dict[str, Any]:
        steps = [{"name": step.name, **step.values} for step in self.steps]
        flags = {"boxes_as_quads": self.boxes_as_quads, "bypassed": self.bypassed}
        return {"steps": steps, "left_out": list(self.left_out), **flags}


class Sample(NamedTuple):
    """One augmented row.

    Attributes:
        image: RGB [h, w, 3].
        record: the record with the targets that were kept, in pixels of the image; the directions that the image
            exchanges are exchanged in its words, too.
        outcomes: outcome of each of the row's targets, in the row's order.
        replay: what was done to the row.
    """

    image: Pixels
    record: Record
    outcomes: tuple[Outcome, ...]
    replay: Replay


@dataclass(frozen=True, eq=False)
class Placement:
    """Where a row's targets end up, decided before the image is resampled: ``affine`` is still to be applied to it.

    Attributes:
        settings: the configuration's augmentation section.
        record: the row before augmentation.
        replay: what will be done to the row.
        fill: colour outside the image.
        image: the image, with imgaug's geometric operations applied.
        affine: the map from the image to the new canvas.
        inner: the map without the padding at its end.
        cropped: what the crops made of each target.
        overlap: lowest `inflation_cost` at a crop; 1.0 without crops.
        moved: each target's ``corners`` on the new canvas, before clipping, [n, 2]; of what a crop kept of it.
        flipped: whether the row is mirrored, after the last crop.
        exchange: the directions that the row exchanges.
    """

    settings: AugmentationSection
    record: Record
    replay: Replay
    fill: Colour
    image: Pixels
    affine: Affine
    inner: Affine
    cropped: tuple[Outcome, ...]
    overlap: float
    moved: tuple[Floats, ...]
    flipped: bool
    exchange: Exchange

    @property
    def size(self) -> Size:
        """Width and height of the new canvas in pixels."""
        return self.affine.size

    @cached_property
    def outcomes(self) -> tuple[Outcome, ...]:
        """Outcome of each of the row's targets, in the row's order."""
        flipped, as_quads = self.flipped, self.replay.boxes_as_quads
        targets, moved = self.uncropped
        fitted = fit_targets(targets, moved, self.size, self.settings, flipped=flipped, boxes_as_quads=as_quads)
        return tuple(each.then(next(fitted)) if each.target else each for each in self.cropped)

    @property
    def uncropped(self) -> tuple[list[PixelTarget], list[Floats]]:
        """The targets that the crops left, as they left them, and the ``moved`` corners of each."""
        left = [(each.target, at) for each, at in zip(self.cropped, self.moved, strict=True) if each.target]
        return [target for target, _ in left], [at for _, at in left]

    @property
    def placed_record(self) -> Record:
        """The row with the targets that were kept, and with its words for directions as `left_right` wants them."""
        record = self.record.moved([outcome.target for outcome in self.outcomes])
        return mirrored(record, self.exchange) if self.settings.left_right == "swap" else record


@dataclass(frozen=True)
class Pipeline:
    """The augmentation of a configuration.

    Attributes:
        settings: the configuration's augmentation section.
        limits: limits of the size of the images that the model gets.
        text: the words of rows without their own.
        fits: whether a row on images of these sizes is within ``max_length``; None where rows may have any length.
        grey: the colour that the model's image processor makes nearest to 0.
    """

    settings: AugmentationSection
    limits: PixelLimits = DEFAULT_LIMITS
    text: GroundingTextSection = field(default_factory=GroundingTextSection)
    fits: Callable[[Record, Sequence[Size]], bool] | None = None
    grey: Colour = GREY

    def at(self, progress: float) -> Pipeline:
        """The augmentation at a point of the run, as its curriculum says; itself without one.

        Without this call, operations have the values of the start of the run.

        Args:
            progress: the point, as a share of the run, 0..1.
        """
        return self if self.settings.curriculum is None else replace(self, settings=self.settings.at(progress))

    def __call__(self, image: Pixels, record: Record, *, epoch: int, row: int) -> Sample:
        """Augment a row with the draws of an epoch; arguments and errors are those of `place`."""
        return self._render(self.place(image, record, epoch=epoch, row=row))

    def replay(self, image: Pixels, record: Record, replay: Replay) -> Sample:
        """Repeat what was done to a row."""
        return self._render(self.place_again(image, record, replay))

    def place(self, image: Pixels, record: Record, *, epoch: int, row: int, without: Sequence[str] = ()) -> Placement:
        """Decide what happens to a row in an epoch.

        Args:
            image: RGB [h, w, 3]; `blank` is enough where only the points are needed.
            record: the row, with its targets in pixels of this image.
            epoch: number of the epoch, from 0.
            row: number of the row in the training data; draws depend on row, epoch and seed only.
            without: operations that are left out for another image of the row.

        Raises:
            DataError: one side of the image is more than 200 times the other.
        """
        bypass, moves, colours = self._draw(epoch, row)
        left_out, as_quads = list[str](), False

        def place_without(names: tuple[str, ...], reason: str) -> Placement:
            left_out.extend(f"{step.name}: {reason}" for step in moves if step.name.startswith(names))
            moves[:] = [step for step in moves if not step.name.startswith(names)]
            return self._move(image, record, Replay((*moves, *colours), as_quads, tuple(left_out), bypass))

        refuses = self.settings.left_right == "refuse"
        named = [refuses and names_sides(record, self.text, direction) for direction in (LEFT_RIGHT, UP_DOWN)]
        says = "the row says " + " or ".join(compress(("left or right", "up or down"), named))
        placed = place_without(tuple(compress(("hflip", "vflip"), named)), says)
        if any(compress(placed.exchange, named)):
            placed = place_without(("hflip", "vflip", "rotate", "imgaug."), says)
        if without:
            placed = place_without(tuple(without), "left out for another image of the row")
        if min(placed.overlap, inflation_cost(*placed.uncropped)) < self.settings.min_overlap:
            if self.settings.rotated_boxes == "quad":
                as_quads = True
                placed = place_without((), "")
            elif self.settings.rotated_boxes == "skip":
                placed = place_without(("rotate", "imgaug."), "a box would grow too much")
        for names in (CROPS, _MOVING):
            lost = [number for number, outcome in enumerate(placed.outcomes) if outcome.target is None]
            if lost and len(lost) == len(record.targets):
                placed = place_without(names, ALL_LOST)
            elif not all(record.can_lose(number, self.text) for number in lost):
                placed = place_without(names, NEEDED)
        if self.fits and not self.fits(placed.placed_record, [placed.size]):
            placed = place_without((*_MOVING, PAD), "the row would be longer than max_length")
        return placed

    def place_again(self, image: Pixels, record: Record, replay: Replay) -> Placement:
        """Where a row's targets ended up when this was done to it."""
        return self._move(image, record, replay, decided=True)

    def row(self, images: Sequence[Pixels], record: Record, *, epoch: int, row: int) -> tuple[list[Pixels], Record]:
        """Augment a row with any number of images; the arguments are those of `place`.

        Only colours change where the row's targets must stay in place.
        """
        if record.wording.fixed:
            return self.colours_only(images, epoch=epoch, row=row), record
        placements, moved = self.places(images, record, epoch=epoch, row=row)
        return [self._render(placed).image for placed in placements], moved

    def places(
        self, images: Sequence[Pixels], record: Record, *, epoch: int, row: int
    ) -> tuple[list[Placement], Record]:
        """Decide what happens to a row in an epoch: a placement for each image, and the row after it.

        All images of a row get the same operations with the same values. What one of them can't take is left out for
        all of them, so that words such as left and right hold for all.
        """
        if len(images) == 1:
            placed = self.place(images[0], record, epoch=epoch, row=row)
            return [placed], placed.placed_record
        alone, without = replace(self, fits=None), set[str]()
        while True:
            placements = [
                alone.place(image, record.on_image(number), epoch=epoch, row=row, without=sorted(without))
                for number, image in enumerate(images)
            ]
            outcomes = [iter(placed.outcomes) for placed in placements]
            moved = record.moved([next(outcomes[target.image]).target for target in record.targets])
            if self.settings.left_right == "swap":
                moved = mirrored(moved, placements[0].exchange)
            left_out = {entry.partition(":")[0] for placed in placements for entry in placed.replay.left_out}
            if self.fits and not self.fits(moved, [placed.size for placed in placements]):
                left_out |= {step.name for step in placements[0].replay.steps if is_geometric(step)} - {geometry.FIT}
            if left_out <= without:
                return placements, moved
            without |= left_out

    def colours_only(self, images: Sequence[Pixels], *, epoch: int, row: int) -> list[Pixels]:
        """Augment only the colours of a row's images."""
        *_, colours = self._draw(epoch, row)
        return [_coloured(image, colours) for image in images]

    def _draw(self, epoch: int, row: int) -> tuple[bool, list[Step], list[Step]]:
        """Whether a row is bypassed, and else the operations drawn for it: those that move points, and the others."""
        settings = self.settings
        bypass = bypassed(settings.bypass_prob, seed=settings.seed, epoch=epoch, row=row)
        steps = [] if bypass else draw(settings.operations, seed=settings.seed, epoch=epoch, row=row)
        return (
            bypass,
            [step for step in steps if is_geometric(step)],
            [step for step in steps if not is_geometric(step)],
        )

    def _fill(self, image: Pixels) -> Colour:
        """The colour outside an image, which is not augmented yet."""
        match self.settings.fill:
            case "grey":
                return self.grey
            case "mean":
                red, green, blue, _ = map(round, cv2.mean(image))
                return red, green, blue
            case colour:
                return colour

    def _move(self, image: Pixels, record: Record, replay: Replay, *, decided: bool = False) -> Placement:
        """Apply the operations that move points.

        Args:
            decided: whether the crops are those that are applied, and the operations end with the resize to a size that
                the image processor does not change.
        """
        fill = self._fill(image)
        state = Moving(image, record.targets, self.settings, replay.boxes_as_quads, fill)
        moves, left_out = list[Step](), list(replay.left_out)
        for step in filter(is_geometric, replay.steps):
            if reason := state.apply(step, None if decided else partial(record.can_lose, text=self.text)):
                left_out.append(f"{step.name}: {reason}")
            else:
                moves.append(step)
        if not decided:
            fit = geometry.fit(state.affine, self.limits.factor, self.limits.least, self.limits.most_unreduced)
            if fit.size != state.affine.size:
                moves.append(Step(geometry.FIT, {"size": list(fit.size)}))
                state.apply(moves[-1])
            colours = [step for step in replay.steps if not is_geometric(step)]
            replay = replace(replay, steps=(*moves, *colours), left_out=tuple(left_out))
        *moved, corners = state.moved
        return Placement(
            self.settings,
            record,
            replay,
            fill,
            state.image,
            state.affine,
            state.inner,
            tuple(state.outcomes),
            state.overlap,
            tuple(moved),
            state.flipped(corners),
            exchange(corners),
        )

    def _render(self, placed: Placement) -> Sample:
        fill = placed.fill
        image = geometry.warp(placed.image, placed.inner, fill)
        image = _coloured(image, [step for step in placed.replay.steps if not is_geometric(step)])
        if placed.inner.size != placed.affine.size:
            image = geometry.warp(image, replace(placed.affine, matrix=np.eye(3)), fill)
        return Sample(image, placed.placed_record, placed.outcomes, placed.replay)


def names_sides(record: Record, text: GroundingTextSection, exchange: Exchange) -> bool:
    """Whether a row's words or labels contain directions that are exchanged."""
    labels = (each.label for each in record.targets)
    return record.wording.names_sides(text, exchange) or any(mirror_words(each, exchange) != each for each in labels)


def mirrored(record: Record, exchange: Exchange) -> Record:
    """A record with these directions exchanged in its words and labels."""
    if not any(exchange):
        return record
    targets = tuple(replace(target, label=mirror_words(target.label, exchange)) for target in record.targets)
    return replace(record, targets=targets, wording=record.wording.mirrored(exchange))


def run_pipeline(config: Config) -> Pipeline:
    """The pipeline of a configuration that has augmentation."""
    settings = config.custom.augmentation
    assert settings is not None
    encoding = encoding_of(config)
    fits = encoding.fits if encoding.max_length else None
    grey = encoding.grey if settings.fill == "grey" else GREY
    return Pipeline(settings, encoding.limits, config.data.text, fits, grey)


def blank(size: Size) -> Pixels:
    """A black image of this width and height in pixels that needs no memory."""
    return np.broadcast_to(np.uint8(0), (size[1], size[0], 3))


_MOVING = ("hflip", "vflip", "rotate", "scale", "resize_by_scale", EXPAND, *CROPS, "imgaug.")


def is_geometric(step: Step) -> bool:
    """Whether a step moves points."""
    if is_imgaug(step.name):
        from swiftalign.augment import imgaug_ops

        return imgaug_ops.is_geometric(imgaug_ops.augmenter(step))
    return step.name in GEOMETRIC


def _coloured(image: Pixels, steps: Sequence[Step]) -> Pixels:
    for by_imgaug, run in groupby(steps, key=lambda step: is_imgaug(step.name)):
        if by_imgaug:
            from swiftalign.augment import imgaug_ops

            for step in run:
                image, _ = imgaug_ops.apply(imgaug_ops.augmenter(step), image, np.zeros((0, 2)), step.values["seed"])
        else:
            image = apply_appearance(image, [(step.name, step.values) for step in run])
    return image
