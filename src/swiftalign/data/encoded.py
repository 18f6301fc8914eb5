"""Rows as training sees them: encoded by ms-swift's own template, and read back into an image and an answer."""

from __future__ import annotations

import logging
import os
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from swiftalign.config.sections import Config
from swiftalign.data.answers import Answer, parse_answer
from swiftalign.data.encoding import encoding_of
from swiftalign.data.images import Pixels
from swiftalign.data.records import Record
from swiftalign.data.sizes import Size
from swiftalign.data.text import Composed, Writing, ordered
from swiftalign.data.words import shown, unified
from swiftalign.data.written import Written
from swiftalign.model.hub import cached_folder
from swiftalign.model.remote_code import refuse_remote_code
from swiftalign.model.safetensors import read_json
from swiftalign.model.swift_choice import choose
from swiftalign.model.template import IGNORED, use_own_tokens
from swiftalign.problems import DataError, ModelError

# Without these files ms-swift would ask the hub.
_FILES = ("config.json", "tokenizer_config.json", "preprocessor_config.json")


class NotHereError(ModelError):
    """A model whose tokenizer and processor are not on this machine."""


@dataclass(frozen=True, eq=False)
class Encoded:
    """A row read back from what the model gets.

    Attributes:
        image: the first image, RGB [h, w, 3]; None of a row without images.
        answer: the last answer, with coordinates 0..1000 of the image's sides.
        read: all text that the model reads, tokens of images left out.
        learned: all text that the model learns to write.
    """

    image: Pixels | None
    answer: Answer
    read: str
    learned: str


Encode = Callable[[dict[str, Any]], Encoded]
"""Encodes a row with ``messages`` and ``images``, a list of PIL images, and reads it back."""


def as_written(row: dict[str, Any], writing: Writing) -> Encoded:
    """A row's own text and first image, not encoded."""
    texts = [(message["role"], message.get("content")) for message in row["messages"]]
    learned = "\n".join(text for role, text in texts if role == "assistant" and isinstance(text, str))
    read = "\n".join(f"{role}: {text}" for role, text in texts if role != "assistant")
    first = next(iter(row.get("images") or []), None)
    image = first if isinstance(first, Image.Image) else None
    last = texts[-1][1] if isinstance(texts[-1][1], str) else ""
    answer = parse_answer(last, writing, image.size if image else None)
    return Encoded(np.array(image.convert("RGB")) if image else None, answer, read, learned)


class TemplateEncoder:
    """Encodes rows as the trainer does, without the model.

    Args:
        template: ms-swift's template, in training mode.
        writing: how the model writes coordinates.
    """

    def __init__(self, template: Any, writing: Writing) -> None:
        self.template, self.writing = template, writing

    def __call__(self, row: dict[str, Any]) -> Encoded:
        """The row that its token ids and patches contain.

        Raises:
            DataError: the text has another number of image tokens than the images need.
            Exception: ms-swift can't encode the row, e.g. because it is too long; the types are many.
        """
        plain = as_written(row, self.writing)
        encoded = self.template.encode(row, return_length=True)
        decode, labels = self.template.tokenizer.decode, list(encoded["labels"])
        learned = decode([token for token in labels if token != IGNORED])
        read = decode([token for token, label in zip(encoded["input_ids"], labels, strict=False) if label == IGNORED])
        read = re.sub(r"(?:<\|image_pad\|>)+", "<|image_pad|>", read)
        size = plain.image.shape[1::-1] if plain.image is not None else None
        # Of several answers, the last one is read.
        last = decode([token for token in labels[_last_answer(labels) :] if token != IGNORED])
        answer = parse_answer(last, self.writing, size)
        if "image_grid_thw" not in encoded:  # a model family with other image inputs, or no image
            return Encoded(plain.image, answer, read, learned)
        processor = self.template.processor.image_processor
        needed = int(encoded["image_grid_thw"].prod(dim=1).sum()) // processor.merge_size**2
        # ms-swift's template of GLM-4V calls the id `image_token`.
        token = getattr(self.template, "image_token_id", getattr(self.template, "image_token", None))
        held = list(encoded["input_ids"]).count(token)
        if held != needed:
            raise DataError(f"the text holds {held} image tokens, the images need {needed}")
        image = from_patches(encoded["pixel_values"], encoded["image_grid_thw"], processor)
        return Encoded(image, answer, read, learned)


def _last_answer(labels: Sequence[int]) -> int:
    """Where the last learned run of tokens begins."""
    position = len(labels)
    while position and labels[position - 1] == IGNORED:
        position -= 1
    while position and labels[position - 1] != IGNORED:
        position -= 1
    return position


_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


def learned_faults(learned: str, record: Record, sizes: Sequence[Size], writing: Writing) -> list[str]:
    """Where the text that the model learns differs from the row's targets by more than half a unit of its grid.

    Args:
        learned: the text, decoded from the labels.
        record: the row, in pixels.
        sizes: width and height of its images, in pixels.
    """
    wording, expected = record.wording, list(record.targets)
    if isinstance(wording, Composed):
        if writing.text.answer == "summary" and wording.summaries:
            return []
        expected = ordered(expected, writing)
        answer = parse_answer(learned, writing, sizes[0])
        if len(record.images) == 1 and (
            not answer.sound
            or sorted((each.kind, unified(each.label)) for each in answer.targets)
            != sorted((each.kind, unified(each.label)) for each in record.targets)
        ):
            return [f"the learned text is not the row's objects: {shown(learned, 200)}"]
    elif isinstance(wording, Written):
        kept = [spot for number, spot in enumerate(wording.spots) if number not in wording.dropped]
        roles = [message["role"] for message in wording.row["messages"]]
        pairs = zip(kept, record.targets, strict=True)
        expected = [target for spot, target in pairs if roles[spot.message] == "assistant"]
    numbers, position = [float(number) for number in _NUMBER.findall(learned)], 0
    for target in expected:
        (width, height), (wide, high) = sizes[target.image], writing.grid(sizes[target.image])
        exact = [
            number
            for x, y in target.points
            for number in (min(max(x / width * wide, 0), wide), min(max(y / height * high, 0), high))
        ]
        for begin in range(position, len(numbers) - len(exact) + 1):
            read = numbers[begin : begin + len(exact)]
            if all(abs(a - b) <= 0.5 + 1e-6 for a, b in zip(read, exact, strict=True)):
                position = begin + len(exact)
                break
        else:
            name = f"{target.kind} of {shown(target.label)}" if target.label else f"a {target.kind}"
            wanted = ", ".join(f"{number:g}" for number in map(round, exact))
            return [f"{name} is at [{wanted}] of {wide}x{high}, but the learned text is {shown(learned, 200)}"]
    return []


def from_patches(patches: Any, grid: Any, processor: Any) -> Pixels:
    """The first image of a row from its normalised patches.

    Args:
        patches: tensor [t * h * w, channels * temporal_patch * patch * patch], the row's images one after another.
        grid: numbers of patches along time, height and width, [images, 3].
        processor: the image processor, which has the patch size and the normalisation.

    Returns:
        RGB [h * patch, w * patch, 3].

    References:
        transformers' ``image_processing_qwen2_vl.py``: the 2 x 2 patches that merge into a token follow one another.
    """
    t, h, w = grid[0].tolist()
    merge, patch, frames = processor.merge_size, processor.patch_size, processor.temporal_patch_size
    values = patches[: t * h * w].reshape(t, h // merge, w // merge, merge, merge, 3, frames, patch, patch)
    values = values[0, :, :, :, :, :, 0].permute(0, 2, 5, 1, 3, 6, 4).reshape(h * patch, w * patch, 3).numpy()
    shade = (values * np.array(processor.image_std) + np.array(processor.image_mean)) / processor.rescale_factor
    pixels: Pixels = np.clip(np.rint(shade), 0, 255).astype(np.uint8)
    return pixels


def training_encoder(config: Config) -> TemplateEncoder:
    """The encoder of a configuration's training run; imports ms-swift, which takes seconds.

    Raises:
        NotHereError: the model's tokenizer and processor are not on this machine.
        ModelError: they can't be read, or need to run Python code of their own.
    """
    source = config.model.path
    folder = Path(source) if Path(source).is_absolute() else cached_folder(source, config.model.revision, config.hub)
    missing = [name for name in _FILES if folder is None or not (folder / name).is_file()]
    if folder is None or missing:
        lacking = f"no {missing[0]} in {folder}" if folder else f"nothing in the cache of {config.hub}"
        raise NotHereError(f"model {source}: {lacking}", "download the model, or name its folder")
    model_config = read_json(folder / "config.json")
    if not config.model.trust_remote_code:
        refuse_remote_code(model_config, folder, source, config.where("model", "path"))
    choice = choose(model_config, config.source, config.handed_through.get("template"))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            os.environ.setdefault("QWENVL_BBOX_FORMAT", "new")  # of rows whose placeholders ms-swift writes
            from swift.utils import get_logger
            from transformers.utils.logging import set_verbosity_error

            get_logger().setLevel(logging.ERROR)
            set_verbosity_error()
            from swift.arguments.base_args.template_args import TemplateArguments
            from swift.model import get_processor
            from swift.template import get_template

            processor = get_processor(str(folder), model_type=choice.model_type, use_hf=config.hub == "huggingface")
            names = {field.name for field in fields(TemplateArguments)}
            given = {name: value for name, value in config.handed_through.items() if name in names}
            arguments = TemplateArguments(**{**given, "template": choice.template})
            arguments.remove_unused_columns = True  # belongs to another group of arguments
            template = get_template(processor, **arguments.get_template_kwargs())
            template.set_mode("train")
    except Exception as error:  # damaged files raise errors of many types
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ModelError(f"model {source}: its tokenizer and processor can't be loaded: {reason}") from None
    use_own_tokens(template, model_config)
    return TemplateEncoder(template, encoding_of(config).writing)
