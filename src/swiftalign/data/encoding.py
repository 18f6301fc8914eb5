"""How the rows of a run become tokens, and how many they may be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from swiftalign.config.sections import Config, GroundingTextSection
from swiftalign.data.records import Record, Row, Size
from swiftalign.data.text import DEFAULT_TEXT, to_messages
from swiftalign.data.tokens import DEFAULT_LIMITS, Conversation, PixelLimits, conversation, pixel_limits
from swiftalign.model.families import find
from swiftalign.model.hub import cached_folder
from swiftalign.model.safetensors import read_json
from swiftalign.problems import ModelError

_BYTES_PER_TOKEN = 3.0  # in text with coordinates


@dataclass(frozen=True)
class Encoding:
    """What a run makes of its rows.

    Attributes:
        limits: limits of the images' sizes.
        text: the words around the coordinates.
        system: ms-swift's argument of this name, for rows without a system message.
        max_length: most tokens per row, where a longer one would end the run; None where it would not.
        too_long: whether longer rows are refused or left out.
        tokenizer: the model's ``tokenizer.json``; None where tokens can't be counted.
    """

    limits: PixelLimits = DEFAULT_LIMITS
    text: GroundingTextSection = DEFAULT_TEXT
    system: str | None = None
    max_length: int | None = None
    too_long: Literal["refuse", "drop"] = "refuse"
    tokenizer: Path | None = None

    def conversation(self, row: Row, sizes: Sequence[Size]) -> Conversation | None:
        """A row as its texts and images; None where ms-swift makes something of it that is not known here."""
        return conversation(row.to_swift(sizes, self.text), sizes, self.limits, self.system)

    def lengths(self, rows: Sequence[Conversation]) -> list[int]:
        """Number of tokens per row, images included, as ms-swift counts them; an estimate without a tokenizer.

        Raises:
            ModelError: the tokenizer can't be read.
        """
        texts = [text for row in rows for text in row.texts]
        if not self.tokenizer or not texts:
            return [row.image_tokens + int(sum(map(len, row.texts)) / _BYTES_PER_TOKEN) for row in rows]
        encoded = iter(self._tokenizer.encode_batch_fast(texts, add_special_tokens=False))
        return [row.image_tokens + sum(len(next(encoded)) for _ in row.texts) for row in rows]

    def fits(self, record: Record, size: Size) -> bool:
        """Whether a row is short enough; one that can't be counted is.

        Args:
            size: width and height of the image, in pixels.
        """
        row = conversation({"messages": to_messages(record, *size, self.text)}, [size], self.limits, self.system)
        if not self.max_length or not self.tokenizer or row is None or row.most <= self.max_length:
            return True
        return self.lengths([row])[0] <= self.max_length

    @cached_property
    def _tokenizer(self) -> Any:
        """Read when the first row has to be counted: it takes half a second."""
        from tokenizers import Tokenizer

        try:
            tokenizer = Tokenizer.from_file(str(self.tokenizer))
        except Exception as error:  # the library raises plain Exceptions
            raise ModelError(f"tokenizer {self.tokenizer}: {error}", "copy the model's tokenizer.json again") from None
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer


def encoding_of(config: Config) -> Encoding:
    """The encoding of a configuration's run.

    Raises:
        DataError: an environment variable with a limit of the images' sizes is not a whole number.
    """
    other, folder = config.handed_through, Path(config.model.path)
    refuses = other.get("truncation_strategy", "delete") == "delete"
    if not folder.is_absolute():
        folder = cached_folder(config.model.path, config.model.revision, config.hub) or folder
    tokenizer, family = folder / "tokenizer.json", None
    if tokenizer.is_file() and (folder / "config.json").is_file():
        family = find(config.model.type or read_json(folder / "config.json").get("model_type"))
    return Encoding(
        pixel_limits(other.get("max_pixels")),
        config.data.text,
        other.get("system"),
        int(other["max_length"]) if other.get("max_length") and refuses else None,
        config.data.too_long,
        tokenizer if family and family.counts_tokens else None,
    )
