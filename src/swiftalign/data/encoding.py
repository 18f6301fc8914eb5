"""How the rows of a run become tokens, and how many they may be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from swiftalign.config.augmentation import Colour
from swiftalign.config.sections import Config
from swiftalign.data.records import Record, Row
from swiftalign.data.sizes import FACTOR, PixelLimits, Size, pixel_limits
from swiftalign.data.text import DEFAULT_WRITING, Writing
from swiftalign.data.tokens import Conversation, conversation, read_tokenizer
from swiftalign.model.families import find, published_config
from swiftalign.model.family import PLAIN, Chat, Family
from swiftalign.model.hub import cached_folder
from swiftalign.model.safetensors import read_json
from swiftalign.model.swift_templates import Unit, template_of_published, unit_of_model

# Arguments of ms-swift that change how its template writes a conversation.
_TEMPLATE_ARGUMENTS = (
    "template_backend",
    "use_chat_template",
    "loss_scale",
    "enable_thinking",
    "preserve_thinking",
    "add_non_thinking_prefix",
    "response_prefix",
    "agent_template",
)
# In text with coordinates, each of whose digits is a token of Qwen's vocabulary: 1.9 to 2.5 in rows, 1.6 in answers.
_CHARACTERS_PER_TOKEN = 2.0
GREY: Colour = (128, 128, 128)  # what the image processors of Qwen3-VL, whose mean is 0.5, make nearest to 0


@dataclass(frozen=True)
class Encoding:
    """What a run makes of its rows.

    Attributes:
        writing: how the model writes coordinates, the words around them, and how large images reach it.
        system: ms-swift's argument of this name, for rows without a system message.
        max_length: most tokens per row, where a longer one would end the run; None where it would not.
        too_long: whether longer rows are refused or left out.
        tokenizer: the model's ``tokenizer.json``; None where tokens can't be counted.
        processor: the model's ``preprocessor_config.json``, which may be missing.
        chat: what the model's template does beyond ChatML.
        assumed: whether the unit of coordinates is assumed: neither this toolkit nor ms-swift's templates tell it.
    """

    writing: Writing = DEFAULT_WRITING
    system: str | None = None
    max_length: int | None = None
    too_long: Literal["refuse", "drop"] = "refuse"
    tokenizer: Path | None = None
    processor: Path | None = None
    chat: Chat = PLAIN
    assumed: bool = False

    @property
    def limits(self) -> PixelLimits:
        return self.writing.limits

    def conversation(self, row: Row | Record, sizes: Sequence[Size]) -> Conversation | None:
        """A row as its texts and images; None where ms-swift makes something of it that is not known here."""
        return conversation(row.to_swift(sizes, self.writing), sizes, self.limits, self.system, self.chat)

    def lengths(self, rows: Sequence[Conversation]) -> list[int]:
        """Number of tokens per row, images included, as ms-swift counts them; an estimate without a tokenizer.

        Raises:
            ModelError: the tokenizer can't be read.
        """
        texts = [text for row in rows for text in row.texts]
        if not self.tokenizer or not texts:
            return [row.image_tokens + int(sum(map(len, row.texts)) / _CHARACTERS_PER_TOKEN) for row in rows]
        encoded = iter(self._tokenizer.encode_batch_fast(texts, add_special_tokens=False))
        return [row.image_tokens + sum(len(next(encoded)) for _ in row.texts) for row in rows]

    def fits(self, record: Record, sizes: Sequence[Size]) -> bool:
        """Whether a row is short enough; one that can't be counted is.

        Args:
            sizes: width and height of each image, in pixels.
        """
        row = self.conversation(record, sizes)
        if not self.max_length or not self.tokenizer or row is None or row.most <= self.max_length:
            return True
        return self.lengths([row])[0] <= self.max_length

    @property
    def grey(self) -> Colour:
        """The colour that the model's image processor makes nearest to 0; that of Qwen3-VL where its file is missing.

        Raises:
            ModelError: the file can't be read.
        """
        values = read_json(self.processor) if self.processor and self.processor.is_file() else {}
        try:
            red, green, blue = (round(255 * float(share)) for share in values["image_mean"])
        except (KeyError, TypeError, ValueError):  # transformers has the last word on such a file
            return GREY
        return red, green, blue

    @cached_property
    def _tokenizer(self) -> Any:
        """Read when the first row has to be counted."""
        assert self.tokenizer
        return read_tokenizer(self.tokenizer)


def _factor(family: Family | None, config: Mapping[str, Any]) -> int:
    """The side of a visual token in pixels, which an unknown model's config may tell."""
    if family:
        return family.patch * family.merge
    part = config.get("thinker_config") or config
    vision = part.get("vision_config") if isinstance(part, dict) else None
    vision = vision if isinstance(vision, dict) else {}
    factor = 1
    for side in (vision.get("patch_size"), vision.get("spatial_merge_size")):
        if type(side) is not int or side <= 0:
            return FACTOR
        factor *= side
    return factor


def encoding_of(config: Config) -> Encoding:
    """The encoding of a configuration's run.

    Raises:
        DataError: an environment variable with a limit of the images' sizes is not a whole number.
    """
    other, folder = config.handed_through, Path(config.model.path)
    refuses = other.get("truncation_strategy", "delete") == "delete"
    if not folder.is_absolute():
        folder = cached_folder(config.model.path, config.model.revision, config.hub) or folder
    tokenizer, path = folder / "tokenizer.json", folder / "config.json"
    known = read_json(path) if path.is_file() else published_config(config.model.path) or {}
    family = find(known.get("model_type")) if isinstance(known, dict) else None
    unit: Unit | None = family.coordinates if family else "relative1000"
    if known and not family:
        unit = unit_of_model(known, config.model.path, config.model.type, other.get("template"))
    chat = family.chat if family else None
    if chat and (template := other.get("template") or template_of_published(config.model.path, config.model.type)):
        chat = chat if template in chat.templates else None
    counts = chat and all(other.get(name) is None for name in _TEMPLATE_ARGUMENTS)
    return Encoding(
        Writing(
            config.data.text,
            unit or "relative1000",
            pixel_limits(other.get("max_pixels"), factor=_factor(family, known)),
            own_boxes=family is not None or not known,
        ),
        other.get("system"),
        int(other["max_length"]) if other.get("max_length") and refuses else None,
        config.data.too_long,
        tokenizer if counts and tokenizer.is_file() else None,
        folder / "preprocessor_config.json",
        chat or PLAIN,
        assumed=unit is None,
    )
