"""How many tokens a row becomes: those of its images, and those of its text.

References:
    qwen_vl_utils' ``smart_resize``; ms-swift's ``template/base.py`` and the ``qwen3_vl`` template in
    ``template/templates/qwen.py``.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from swiftalign.data.swift_rows import flat_text
from swiftalign.model.qwen3_vl import QWEN3_VL
from swiftalign.problems import DataError, ModelError

FACTOR = QWEN3_VL.pixel_factor
MAX_RATIO = 200  # of an image's sides; qwen_vl_utils refuses more
Size = tuple[int, int]


@dataclass(frozen=True)
class PixelLimits:
    """How large an image reaches the model.

    Attributes:
        least: pixels; a smaller image is enlarged.  most: pixels; a larger one is reduced.
        before: ms-swift's ``max_pixels``, to which a larger image is reduced first; None for no such limit.
    """

    least: int = 4 * FACTOR**2
    most: int = 16384 * FACTOR**2
    before: int | None = None

    @property
    def most_unreduced(self) -> int:
        """The most pixels that reach the model as they are."""
        return max(min(self.most, self.before or self.most), self.least)


DEFAULT_LIMITS = PixelLimits()


def pixel_limits(max_pixels: int | None = None, environment: Mapping[str, str] = os.environ) -> PixelLimits:
    """The limits of a run: qwen_vl_utils' own, or those of the environment variables that ms-swift reads.

    Args:
        max_pixels: ms-swift's argument of this name.

    Raises:
        DataError: a variable is no whole number.
    """
    tokens = {}
    for name, default in (("MIN", 4), ("MAX", 16384)):
        count, pixels = f"IMAGE_{name}_TOKEN_NUM", f"{name}_PIXELS"
        try:
            found = environment.get(count) or int(environment.get(pixels) or 0) // FACTOR**2 or default
            tokens[name] = int(found)
        except ValueError:
            raise DataError(f"environment variable {count} or {pixels}: not a whole number") from None
    return PixelLimits(tokens["MIN"] * FACTOR**2, tokens["MAX"] * FACTOR**2, max_pixels)


def model_size(width: int, height: int, limits: PixelLimits = DEFAULT_LIMITS) -> Size:
    """Width and height at which an image reaches the model, in pixels: multiples of 32 within the limits.

    Raises:
        DataError: one side is more than 200 times the other.

    >>> model_size(1000, 700)
    (992, 704)
    """
    if limits.before and width * height > limits.before:
        ratio = width / height
        reduced = math.sqrt(limits.before / ratio)
        width, height = int(reduced * ratio), int(reduced)
    if not min(width, height) or max(width, height) / min(width, height) > MAX_RATIO:
        raise DataError(f"{width}x{height}: one side is more than {MAX_RATIO} times the other", "crop or pad the image")
    return rounded_size(width, height, FACTOR, limits.least, limits.most)


def rounded_size(width: int, height: int, factor: int, least: int, most: int) -> Size:
    """Sides rounded to multiples of ``factor``, enlarged or reduced to between ``least`` and ``most`` pixels.

    A long and flat image may be reduced to a side of 0.

    References:
        ``smart_resize`` of qwen_vl_utils/vision_process.py, which checks the sides' ratio before.
    """
    wide, high = (max(factor, round(side / factor) * factor) for side in (width, height))
    if wide * high > most:
        shrink = math.sqrt(width * height / most)
        return math.floor(width / shrink / factor) * factor, math.floor(height / shrink / factor) * factor
    if wide * high < least:
        grow = math.sqrt(least / (width * height))
        return math.ceil(width * grow / factor) * factor, math.ceil(height * grow / factor) * factor
    return wide, high


def visual_tokens(width: int, height: int, limits: PixelLimits = DEFAULT_LIMITS) -> int:
    """The number of tokens of an image of this size in pixels.

    Raises:
        DataError: as `model_size`.

    >>> visual_tokens(1024, 768)
    768
    """
    wide, high = model_size(width, height, limits)
    return wide * high // FACTOR**2


@dataclass(frozen=True)
class Conversation:
    """What a row is before its text becomes tokens.

    Attributes:
        texts: each becomes tokens by itself, as the answers are apart from what surrounds them.
        image_tokens: how many more than the one ``<|image_pad|>`` in the text that each image has.
    """

    texts: tuple[str, ...]
    image_tokens: int

    @property
    def most(self) -> int:
        """No tokenizer of bytes makes more tokens of it: one a byte, and NFC at most triples the bytes."""
        return self.image_tokens + sum(len(t) if t.isascii() else 3 * len(t.encode()) for t in self.texts)


def conversation(
    row: Mapping[str, Any], sizes: Sequence[Size], limits: PixelLimits = DEFAULT_LIMITS, system: str | None = None
) -> Conversation | None:
    """A row of ms-swift's layout as the ``qwen3_vl`` template writes it; None where it is of a kind not known here.

    Known are texts, images and ``objects``; not known are tools, videos, audio, and a loss set by the message.

    Args:
        row: without faults.
        sizes: width and height of the row's images as they are stored, in pixels.
        system: message for rows without their own.

    Raises:
        DataError: as `model_size`.
    """
    messages = _known_messages(row)
    if messages is None:
        return None
    if messages[0][0] == "system":
        system, messages = messages[0][1], messages[1:]
    missing = len(sizes) - sum(text.count("<image>") for text in [system or "", *(text for _, text in messages)])
    role, first = messages[0]
    turns = _turns([(role, "<image>" * missing + first), *messages[1:]])
    if turns is None or any("<image>" in text for role, text in turns if role == "assistant"):
        return None
    filling = _Filling(row.get("objects") or {}, sizes)
    head = f"<|im_start|>system\n{system}<|im_end|>\n" if system else ""
    texts = []
    for (_, question), (_, answer) in zip(turns[::2], turns[1::2], strict=True):
        texts.append(filling(f"{head}<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"))
        texts.append(filling(answer))
        head = "<|im_end|>\n"
    if not texts[-1].endswith(("<|im_end|>", "<|endoftext|>")):
        texts[-1] += "<|im_end|>\n"
    return Conversation(tuple(texts), sum(visual_tokens(*size, limits) - 1 for size in sizes))


def _known_messages(row: Mapping[str, Any]) -> list[tuple[str, str]] | None:
    """Role and text of the messages."""
    if any(row.get(key) for key in ("tools", "videos", "audios", "chat_template_kwargs", "add_eos")):
        return None
    messages = []
    for message in row["messages"]:
        text = flat_text(message.get("content"))
        if text is None or not message.keys() <= {"role", "content"} or "<video>" in text or "<audio>" in text:
            return None
        messages.append((message["role"], text))
    return messages


def _turns(messages: list[tuple[str, str]]) -> list[tuple[str, str]] | None:
    """User and assistant by turns, as ms-swift joins messages of one role; None for other orders."""
    turns: list[tuple[str, str]] = []
    for role, text in messages:
        if turns and turns[-1][0] == role:
            text = turns.pop()[1] + text
        turns.append((role, text))
    if turns[0][0] == "assistant":
        turns.insert(0, ("user", ""))
    return turns if [role for role, _ in turns] == ["user", "assistant"] * (len(turns) // 2) else None


class _Filling:
    """Puts images and objects in the place of their placeholders, in order, while there are any."""

    def __init__(self, objects: Mapping[str, Any], sizes: Sequence[Size]) -> None:
        boxes = objects.get("bbox") or []
        ids = [*(objects.get("image_id") or []), *[0] * len(boxes)]
        if sizes:  # ms-swift leaves boxes without an image as they are
            unit = [(1, 1)] * len(sizes) if objects.get("bbox_type") == "norm1" else sizes
            boxes = [_thousandths(box, unit[number]) for box, number in zip(boxes, ids, strict=False)]
        self._parts = {
            "<image>": iter(["<|vision_start|><|image_pad|><|vision_end|>"] * len(sizes)),
            "<ref-object>": iter([f"<|object_ref_start|>{ref}<|object_ref_end|>" for ref in objects.get("ref") or []]),
            "<bbox>": iter([f"<|box_start|>{_box(box)}<|box_end|>" for box in boxes]),
        }

    def __call__(self, text: str) -> str:
        if "<" not in text:
            return text
        return re.sub("<image>|<ref-object>|<bbox>", lambda found: next(self._parts[found[0]], found[0]), text)


def _thousandths(numbers: Sequence[float], size: Size) -> list[int]:
    return [round(number / size[index % 2] * QWEN3_VL.coordinates) for index, number in enumerate(numbers)]


def _box(numbers: Sequence[float]) -> str:
    return ",".join(f"({x},{y})" for x, y in zip(numbers[::2], numbers[1::2], strict=True))


class RowLength:
    """Counts tokens as ms-swift does, from a ``tokenizer.json`` and without torch."""

    def __init__(self, tokenizer_json: Path) -> None:
        self._path = tokenizer_json

    @cached_property
    def _tokenizer(self) -> Any:
        """Read when the first row has to be counted: it takes half a second."""
        from tokenizers import Tokenizer

        try:
            tokenizer = Tokenizer.from_file(str(self._path))
        except Exception as error:  # the library raises plain Exceptions
            raise ModelError(f"tokenizer {self._path}: {error}", "copy the model's tokenizer.json again") from None
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer

    def count(self, rows: Sequence[Conversation]) -> list[int]:
        """The number of tokens of each row, images included; a few hundred at a time are quickest.

        Raises:
            ModelError: the tokenizer can't be read.
        """
        texts = [text for row in rows for text in row.texts]
        encoded = iter(self._tokenizer.encode_batch_fast(texts, add_special_tokens=False))
        return [row.image_tokens + sum(len(next(encoded)) for _ in row.texts) for row in rows]
