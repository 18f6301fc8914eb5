"""The most tokens that a row may have."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from swiftalign.config.sections import Config, GroundingTextSection
from swiftalign.data.records import Record
from swiftalign.data.text import to_messages
from swiftalign.data.tokens import PixelLimits, RowLength, Size, conversation, pixel_limits
from swiftalign.model.families import find
from swiftalign.model.hub import cached_folder
from swiftalign.model.safetensors import read_json


@dataclass(frozen=True)
class LengthLimit:
    """ms-swift's ``max_length``, where a longer row would end the run.

    Attributes:
        most: tokens.
        tokenizer: the model's ``tokenizer.json``; None where the rows can't be counted.
        limits: of the images' sizes, in pixels.
        text: the words around the coordinates.
        system: ms-swift's argument of this name, for rows without a system message.
    """

    most: int
    tokenizer: Path | None
    limits: PixelLimits
    text: GroundingTextSection
    system: str | None

    def fits(self, record: Record, size: Size) -> bool:
        """Whether a row, in pixels of its image, is short enough; one that can't be counted is.

        Args:
            size: of the image, width and height in pixels.
        """
        row = conversation({"messages": to_messages(record, *size, self.text)}, [size], self.limits, self.system)
        if self.tokenizer is None or row is None or row.most <= self.most:
            return True
        (length,) = self._counter.count([row])
        return length <= self.most

    @cached_property
    def _counter(self) -> RowLength:
        assert self.tokenizer
        return RowLength(self.tokenizer)


def length_limit(config: Config) -> LengthLimit | None:
    """The limit of a run; None where it has none, or cuts longer rows (``truncation_strategy``)."""
    data = config.data
    if not data.max_length or data.truncation_strategy not in (None, "delete"):
        return None
    return LengthLimit(data.max_length, tokenizer_of(config), pixel_limits(data.max_pixels), data.text, data.system)


def tokenizer_of(config: Config) -> Path | None:
    """The model's ``tokenizer.json``; None unless its rows are counted here, and it lies on this machine."""
    folder = Path(config.model.path)
    if not folder.is_absolute():
        folder = cached_folder(config.model.path, config.model.revision, config.hub) or folder
    path, model_config = folder / "tokenizer.json", folder / "config.json"
    if not path.is_file() or not model_config.is_file():
        return None
    model_type = config.model.type or read_json(model_config).get("model_type")
    family = find(model_type)
    return path if family and family.counts_tokens else None
