"""An image and its targets on their way through the operations that move points."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from swiftalign.augment import geometry
from swiftalign.augment.crops import CROPS, crop_box, partly_shown
from swiftalign.augment.draws import Step, is_imgaug
from swiftalign.augment.geometry import Affine
from swiftalign.augment.targets import Outcome, fit_targets, inflation_cost
from swiftalign.config.augmentation import AugmentationSection, Colour
from swiftalign.data.images import Pixels
from swiftalign.data.mirror import Exchange
from swiftalign.data.polygons import Floats, signed_area
from swiftalign.data.targets import PixelTarget

EXPAND, PAD = "expand_to_fit_affine", "pad_to_multiple"
GEOMETRIC = frozenset((*geometry.OPERATIONS, *CROPS, EXPAND))
_REVEALING = ("rotate", "scale", EXPAND)  # they may show on the canvas what was outside of it

ALL_LOST = "every target would be lost"
NEEDED = "a target would be lost that the row's text needs"


class Moving:
    """An image and its targets on their way through the operations that move points.

    Pixels wait: their operations are composed to one matrix. A crop is a smaller canvas. Its pixels are cut out of the
    image at once where that needs no resampling, else before an operation that could show more than the crop. Targets
    do not wait beyond a crop: later operations move what it keeps of them.

    Attributes:
        image: the pixels, with what could not wait applied.
        affine: the map that is still to be applied to them.
        inner: this map without the padding at its end.
        since: the map from ``points`` to the canvas; ``affine`` itself as long as nothing was cropped.
        points: the corners of each target at the last crop, or before all operations, [n, 2], and last those of the
            original canvas, [4, 2].
        outcomes: what the crops have made of each target.
        overlap: lowest `inflation_cost` at a crop.
    """

    def __init__(
        self,
        image: Pixels,
        targets: tuple[PixelTarget, ...],
        settings: AugmentationSection,
        boxes_as_quads: bool,
        fill: Colour,
    ) -> None:
        size = image.shape[1], image.shape[0]
        self.image, self.settings, self.boxes_as_quads, self.fill = image, settings, boxes_as_quads, fill
        self.affine = self.inner = self.since = geometry.start(size)
        self.points = [np.array(target.corners, dtype=np.float64).reshape(-1, 2) for target in targets]
        self.points.append(geometry.corners_of(size))
        self.outcomes = [Outcome(target) for target in targets]
        self.overlap = 1.0
        self._uncut = False  # whether the image has more than the last crop
        self._mirrored = False  # whether the canvas was mirrored at the last crop

    @property
    def moved(self) -> list[Floats]:
        """The ``points`` on the canvas."""
        return [geometry.transform(each, self.since.matrix) for each in self.points]

    def flipped(self, corners: Floats) -> bool:
        """Whether the canvas was mirrored since the last crop; its corners are now these."""
        return (signed_area(corners) < 0) != self._mirrored

    def apply(self, step: Step, can_lose: Callable[[int], bool] | None = None) -> str:
        """Apply an operation that moves points.

        Args:
            can_lose: whether the target of this number may be dropped; None to crop in any case.

        Returns:
            why a crop is not applied; empty for an operation that is.
        """
        if self._uncut and (step.name in _REVEALING or (self.affine.size != self.inner.size and step.name != PAD)):
            self.image = geometry.warp(self.image, self.inner, self.fill)
            self.affine, self.inner = Affine(np.eye(3), self.affine.size), geometry.start(self.inner.size)
            self._uncut = False
        if step.name in CROPS:
            return self._crop(step, can_lose)
        if is_imgaug(step.name):
            from swiftalign.augment import imgaug_ops

            # It moves pixels itself: the pending matrix is applied before it, and a new one begins after it.
            image = geometry.warp(self.image, self.affine, self.fill)
            moved = np.concatenate(self.moved)
            self.image, moved = imgaug_ops.apply(imgaug_ops.augmenter(step), image, moved, step.values["seed"])
            self.points = np.split(moved, np.cumsum([len(each) for each in self.points])[:-1])
            self.affine = self.inner = self.since = geometry.start((self.image.shape[1], self.image.shape[0]))
            self._uncut = False
        elif step.name == EXPAND:
            shown = geometry.extent(self.affine, (self.image.shape[1], self.image.shape[0]))
            self._then(lambda a: geometry.expand(a, shown, **step.values))
            self.inner = self.affine
            self._then(lambda a: geometry.pad_to_multiple(a, step.values["multiple"]))
        else:
            self._then(lambda a: geometry.OPERATIONS[step.name](a, **step.values))
            self.inner = self.inner if step.name == PAD else self.affine
        return ""

    def _then(self, operation: Callable[[Affine], Affine]) -> None:
        cropped = self.since is not self.affine
        self.affine = operation(self.affine)
        self.since = operation(self.since) if cropped else self.affine

    def _crop(self, step: Step, can_lose: Callable[[int], bool] | None) -> str:
        *moved, corners = self.moved
        present = {number: outcome.target for number, outcome in enumerate(self.outcomes) if outcome.target}
        targets, values = [*present.values()], step.values
        box = crop_box(step, self.affine.size, targets, [moved[number] for number in present])
        if box is None:
            return "no object matches anchor_classes"
        moved = [each - box[:2] for each in moved]
        at = [moved[number] for number in present]
        canvas = geometry.crop(self.affine, box)
        rules = self.settings.model_copy(update={"min_visible": values["min_coverage"]})
        flipped, as_quads = self.flipped(corners), self.boxes_as_quads
        fitted = fit_targets(targets, at, canvas.size, rules, flipped=flipped, boxes_as_quads=as_quads, cut=True)
        found = {number: self.outcomes[number].then(fit) for number, fit in zip(present, fitted, strict=True)}
        lost = [number for number, outcome in found.items() if outcome.target is None]
        if can_lose:
            if values["skip_if_line"] and any(
                found[n].clipped for n, target in present.items() if target.kind == "line"
            ):
                return "a line would be cut"
            if found and len(lost) == len(found):
                return ALL_LOST
            if len(found) - len(lost) < values["min_objects"]:
                return f"fewer than {values['min_objects']} objects would remain"
            if not all(map(can_lose, lost)):
                return NEEDED
        self.overlap = min(self.overlap, inflation_cost(targets, at))
        for number, outcome in found.items():
            if outcome.target and outcome.visible < values["completeness_threshold"]:
                label = partly_shown(outcome.target.label, values["partly_shown"])
                outcome = outcome._replace(target=replace(outcome.target, label=label))
            self.outcomes[number] = outcome
            if outcome.target:
                moved[number] = np.array(outcome.target.corners, dtype=np.float64)
        self.points, self._mirrored = [*moved, corners], bool(signed_area(corners) < 0)
        cut = geometry.cut_out(self.image, canvas)
        self.image, self.affine = cut or (self.image, canvas)
        self._uncut = cut is None
        self.inner, self.since = self.affine, geometry.start(canvas.size)
        return ""


def exchange(corners: Floats) -> Exchange:
    """Which directions are exchanged where the corners of the original canvas are these now, [4, 2]."""
    top, left = corners[1] - corners[0], corners[3] - corners[0]
    return Exchange(bool(top[0] < -geometry.WHOLE_PIXEL), bool(left[1] < -geometry.WHOLE_PIXEL))
