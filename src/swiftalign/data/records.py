"""Rows of the data, whatever their layout: images, targets on them, and a `Wording`, which makes conversations of them.

Checks, previews, augmentation and scores work on the targets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

from swiftalign.config.sections import GroundingTextSection, Unit
from swiftalign.data.mirror import Exchange
from swiftalign.data.sizes import DEFAULT_LIMITS, PixelLimits, Size
from swiftalign.data.targets import Kind, PixelTarget, RowTarget
from swiftalign.data.text import Writing
from swiftalign.problems import Problem


class Wording(Protocol):
    """The words of a row: what makes a conversation of its targets."""

    def to_swift(self, targets: Sequence[PixelTarget], sizes: Sequence[Size], writing: Writing) -> dict[str, Any]:
        """The row in ms-swift's own layout, without its images where they are files.

        Args:
            targets: the row's targets, in pixels of the images, which may have been moved.
            sizes: width and height of each of the images, in pixels; empty where some are not known.
            writing: how the model writes coordinates, and the words around them.
        """

    def without(self, dropped: Sequence[int]) -> Self:
        """The words without the targets of these numbers."""

    def mirrored(self, exchange: Exchange) -> Self:
        """The words with these directions exchanged."""

    def names_sides(self, text: GroundingTextSection, exchange: Exchange) -> bool:
        """Whether the words contain directions that are exchanged.

        Args:
            text: the configuration's words, for rows without their own.
        """

    def problems(self, targets: Sequence[RowTarget]) -> Iterator[Problem]:
        """What is wrong with the words."""

    @property
    def fixed(self) -> str:
        """Why the targets must stay where they are; empty where they may move."""

    def can_lose(self, number: int, text: GroundingTextSection) -> bool:
        """Whether a target may be dropped; the arguments are its number, and the configuration's words."""

    def answered(self, number: int) -> bool:
        """Whether the answer locates this target, so that the model's own answer can be scored."""


@dataclass(frozen=True)
class Record:
    """Images whose targets are known in pixels, so that they can move with them.

    Attributes:
        images: absolute paths.
        targets: targets in pixels of their images.
        numbers: of a part of a record, the number of each target in the whole.
    """

    images: tuple[Path | bytes | None, ...]
    targets: tuple[PixelTarget, ...]
    wording: Wording
    numbers: tuple[int, ...] = ()

    def on_image(self, image: int) -> Record:
        """The part of the record that is on one of its images; it has no words of its own."""
        numbers = tuple(number for number, target in enumerate(self.targets) if target.image == image)
        return Record((self.images[image],), tuple(self.targets[n] for n in numbers), self.wording, numbers)

    def can_lose(self, number: int, text: GroundingTextSection) -> bool:
        """Whether a target may be dropped."""
        return self.wording.can_lose(self.numbers[number] if self.numbers else number, text)

    def to_swift(self, sizes: Sequence[Size], writing: Writing) -> dict[str, Any]:
        return self.wording.to_swift(self.targets, sizes, writing)

    def moved(self, targets: Sequence[PixelTarget | None]) -> Record:
        """The record with its targets where they are now; None for one that was dropped."""
        kept = tuple(target for target in targets if target)
        if len(kept) == len(targets):
            return replace(self, targets=kept)
        dropped = [number for number, target in enumerate(targets) if target is None]
        return replace(self, targets=kept, wording=self.wording.without(dropped))


@dataclass(frozen=True)
class Row:
    """One row of the data, whatever its layout.

    Attributes:
        images: absolute path of each image, or its file's content; None for an image on the web.
        targets: what the row locates, each in the row's own unit.
        declared: size of the first image as the row gives it, in pixels.
        remarks: what is wrong with the row apart from its targets and words.
    """

    images: tuple[Path | bytes | None, ...]
    targets: tuple[RowTarget, ...]
    wording: Wording
    declared: Size | None = None
    remarks: tuple[Problem, ...] = ()

    def record(self, sizes: Sequence[Size], limits: PixelLimits = DEFAULT_LIMITS) -> Record:
        """The row in pixels of its images.

        Args:
            sizes: width and height of each image as it is shown, in pixels.
            limits: how large the images reach the model.
        """
        targets = tuple(target.in_pixels(*sizes[target.image], limits) for target in self.targets)
        return Record(self.images, targets, self.wording)

    def to_swift(self, sizes: Sequence[Size], writing: Writing) -> dict[str, Any]:
        """The row in ms-swift's own layout.

        Args:
            sizes: width and height of each image as it is shown, in pixels; empty where some are not known.
            writing: how the model writes coordinates, and the words around them.
        """
        targets = self.record(sizes, writing.limits).targets if sizes else ()
        return self.wording.to_swift(targets, sizes, writing)

    @property
    def kinds(self) -> set[Kind]:
        """The kinds of target that can be scored in an answer."""
        return {target.kind for number, target in enumerate(self.targets) if self.wording.answered(number)}


class Reading(NamedTuple):
    """What the rows of a file mean where they do not say it.

    Attributes:
        images: folder that image paths are relative to.
        unit: the declared unit of the file's coordinates; None for that of each layout.
        text_unit: the unit in which the model writes coordinates.
        own_boxes: whether this toolkit writes ms-swift's placeholders as text; ms-swift does it otherwise.
    """

    images: Path
    unit: Unit | None = None
    text_unit: Unit = "relative1000"
    own_boxes: bool = True


class Format(NamedTuple):
    """A layout of rows.

    Attributes:
        recognise: whether a JSON object is a row of this layout.
        read: makes a row of the JSON object. Raises ValueError, whose text says what is wrong with the layout.
    """

    recognise: Callable[[dict[str, Any]], bool]
    read: Callable[[dict[str, Any], Reading], Row]
