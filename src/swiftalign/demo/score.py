"""How well a model folder grounds the rows of a JSONL file.

The model is loaded with transformers only, as in a deployment, and generates greedily.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from swiftalign.data.accuracy import Scores
from swiftalign.data.answers import parse_answer
from swiftalign.data.images import image_size, open_image
from swiftalign.data.records import Record
from swiftalign.data.rows import Rows
from swiftalign.data.text import DEFAULT_WRITING, answer

_MORE = 16  # tokens that a model may write beyond the longest true answer of a batch


def score_model(folder: Path, rows: Path, *, device: str = "cpu", batch: int = 32) -> Scores:
    """Accuracies of a model's answers to all rows of a file; each row has one image."""
    write, scores = Writer(folder, device), Scores()
    encode = write.processor.tokenizer.encode
    # Rows whose answers have similar lengths: their generation ends at about the same time.
    ordered = sorted(read_sized(rows), key=lambda each: len(answer(each[0].targets, [each[1:]])))
    for first in range(0, len(ordered), batch):
        records = ordered[first : first + batch]
        longest = max(len(encode(answer(record.targets, [(width, height)]))) for record, width, height in records)
        for (record, width, height), text in zip(records, write(records, longest + _MORE), strict=True):
            truth = [target.in_text(width, height) for target in record.targets]
            scores.add(parse_answer(text), truth, width, height)
    return scores


Sized = tuple[Record, int, int]


def read_sized(rows: Path) -> Iterator[Sized]:
    """Records in pixels, with the sizes of their images."""
    read = Rows([rows])
    for row in map(read.row, range(len(read))):
        if row.images and row.images[0] is not None:
            size = image_size(row.images[0])
            yield row.record([size]), *size


class Writer:
    """A model that generates answers greedily, in float32."""

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        from transformers import AutoModelForImageTextToText, AutoProcessor
        from transformers.utils import logging

        logging.set_verbosity_error()
        logging.disable_progress_bar()
        self.model: Any = AutoModelForImageTextToText.from_pretrained(folder, dtype="float32").eval().to(device)
        self.processor: Any = AutoProcessor.from_pretrained(folder)

    def __call__(self, records: list[Sized], max_new_tokens: int) -> list[str]:
        """The answer to each record's first image and prompt."""
        import torch
        from PIL import Image

        prompts, images = [], []
        for record, width, height in records:
            row = record.to_swift([(width, height)], DEFAULT_WRITING)
            prompt = row["messages"][0]["content"].removeprefix("<image>")
            content = [{"type": "image"}, {"type": "text", "text": prompt}]
            messages = [{"role": "user", "content": content}]
            prompts.append(self.processor.apply_chat_template(messages, add_generation_prompt=True))
            assert record.images[0] is not None
            images.append([Image.fromarray(open_image(record.images[0]))])
        inputs = self.processor(text=prompts, images=images, return_tensors="pt", padding=True, padding_side="left")
        with torch.no_grad():
            output = self.model.generate(**inputs.to(self.model.device), max_new_tokens=max_new_tokens, do_sample=False)
        written = output[:, inputs["input_ids"].shape[1] :]
        answers: list[str] = self.processor.batch_decode(written, skip_special_tokens=True)
        return answers
