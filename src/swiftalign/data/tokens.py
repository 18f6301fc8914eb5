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
from typing import Any, NamedTuple

from swiftalign.data.formats.swift import flat_text
from swiftalign.data.records import Size
from swiftalign.model.qwen3_vl import QWEN3_VL
from swiftalign.problems import DataError

FACTOR = QWEN3_VL.patch * QWEN3_VL.merge
MAX_RATIO = 200  # of an image's sides; qwen_vl_utils refuses more


class PixelLimits(NamedTuple):
    """How large an image reaches the model.

    Attributes:
        least: lowest number of pixels; a smaller image is enlarged.
        most: highest number of pixels; a larger image is reduced.
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
        DataError: a variable is not a whole number.
    """
    limits = []
    for name, default in (("MIN", 4), ("MAX", 16384)):
        count, pixels = f"IMAGE_{name}_TOKEN_NUM", f"{name}_PIXELS"
        try:
            tokens = int(environment.get(count) or int(environment.get(pixels) or 0) // FACTOR**2 or default)
        except ValueError:
            raise DataError(f"environment variable {count} or {pixels}: not a whole number") from None
        limits.append(tokens * FACTOR**2)
    return PixelLimits(limits[0], limits[1], max_pixels)


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
    return math.prod(model_size(width, height, limits)) // FACTOR**2


class Conversation(NamedTuple):
    """A row before its text becomes tokens.

    Attributes:
        texts: question, answer, question, answer and so on; ms-swift tokenizes each by itself.
        image_tokens: number of tokens of the images beyond the one ``<|image_pad|>`` that each has in the texts.
    """

    texts: tuple[str, ...]
    image_tokens: int

    @property
    def most(self) -> int:
        """Upper bound of tokens: byte-level BPE gives at most one per byte, and NFC at most triples the bytes."""
        return self.image_tokens + sum(len(t) if t.isascii() else 3 * len(t.encode()) for t in self.texts)


def conversation(
    row: Mapping[str, Any], sizes: Sequence[Size], limits: PixelLimits = DEFAULT_LIMITS, system: str | None = None
) -> Conversation | None:
    """A row of ms-swift's layout as the ``qwen3_vl`` template writes it; None where that is not known here.

    Known are texts, images and ``objects``; not known are tools, videos, audio, and a loss set by the message.

    Args:
        row: a row without problems.
        sizes: width and height of each of the row's images, in pixels.
        limits: limits of the images' sizes.
        system: system message for rows without one.

    Raises:
        DataError: as `model_size`.
    """
    turns: list[list[str]] = []  # role and text; ms-swift joins messages of one role
    for message in row["messages"]:
        role, text = message["role"], flat_text(message.get("content"))
        if text is None or not message.keys() <= {"role", "content"} or "<video>" in text or "<audio>" in text:
            return None
        if role == "system":
            system = text
        elif turns and turns[-1][0] == role:
            turns[-1][1] += text
        else:
            turns.append([role, text])
    missing = len(sizes) - sum(text.count("<image>") for text in [system or "", *(text for _, text in turns)])
    turns[0][1] = "<image>" * missing + turns[0][1]
    if turns[0][0] == "assistant":
        turns.insert(0, ["user", ""])
    texts = [text for _, text in turns]
    others = any(row.get(key) for key in ("tools", "videos", "audios", "chat_template_kwargs", "add_eos"))
    in_order = [role for role, _ in turns] == ["user", "assistant"] * (len(turns) // 2)
    if others or not in_order or any("<image>" in answer for answer in texts[1::2]):
        return None
    head = f"<|im_start|>system\n{system}<|im_end|>\n" if system else ""
    for index in range(0, len(texts), 2):
        texts[index] = f"{head}<|im_start|>user\n{texts[index]}<|im_end|>\n<|im_start|>assistant\n"
        head = "<|im_end|>\n"
    objects = row.get("objects") or {}
    boxes = objects.get("bbox") or []
    if sizes:  # ms-swift leaves boxes without an image as they are
        ids = [*(objects.get("image_id") or []), *[0] * len(boxes)]
        units = [(1, 1)] * len(sizes) if objects.get("bbox_type") == "norm1" else sizes
        pairs = zip(boxes, (units[number] for number in ids), strict=False)
        boxes = [
            [round(n / unit[axis % 2] * QWEN3_VL.coordinates) for axis, n in enumerate(box)] for box, unit in pairs
        ]
    written = [",".join(f"({x},{y})" for x, y in zip(box[::2], box[1::2], strict=True)) for box in boxes]
    fillings = {  # what takes the place of each placeholder, in order
        "<image>": iter(["<|vision_start|><|image_pad|><|vision_end|>"] * len(sizes)),
        "<ref-object>": iter([f"<|object_ref_start|>{name}<|object_ref_end|>" for name in objects.get("ref") or []]),
        "<bbox>": iter([f"<|box_start|>{numbers}<|box_end|>" for numbers in written]),
    }
    texts = [re.sub("<image>|<ref-object>|<bbox>", lambda tag: next(fillings[tag[0]], tag[0]), text) for text in texts]
    if not texts[-1].endswith(("<|im_end|>", "<|endoftext|>")):
        texts[-1] += "<|im_end|>\n"
    return Conversation(tuple(texts), sum(visual_tokens(*size, limits) - 1 for size in sizes))
