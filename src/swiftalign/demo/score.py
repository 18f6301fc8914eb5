"""How well a model folder grounds the rows of a JSONL file: ``python -m swiftalign.demo.score MODEL ROWS [MORE ROWS]``.

Loads the folder with transformers alone, as a deployment would, and lets it write greedily.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from swiftalign.grounding.accuracy import Scores
from swiftalign.grounding.answers import parse_answer
from swiftalign.grounding.images import open_image
from swiftalign.grounding.records import Record, read_rows, to_record
from swiftalign.grounding.text import answer, to_messages

BATCH = 32
_MORE = 16  # tokens, beyond the longest true answer of a batch


def score_model(folder: Path, rows: Path, *, device: str = "cpu", batch: int = BATCH) -> Scores:
    """Accuracies of a model's answers to all rows of a file, each with one image."""
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval().to(device)
    processor = AutoProcessor.from_pretrained(folder)
    scores = Scores()
    for records in _batches(_records(rows), batch):
        for (record, width, height), text in zip(records, _write(model, processor, records), strict=True):
            truth = parse_answer(answer(record.targets, width, height)).targets
            scores.add(parse_answer(text), truth, width, height)
    return scores


Sized = tuple[Record, int, int]


def _records(rows: Path) -> Iterator[Sized]:
    """Records in pixels, with the sizes of their images."""
    for _, row in read_rows(rows):
        record = to_record(row, rows.parent)
        height, width = open_image(record.images[0]).shape[:2]
        yield record.in_pixels(width, height), width, height


def _batches(records: Iterator[Sized], size: int) -> Iterator[list[Sized]]:
    """Of rows with answers of about one length, so that they end together."""
    ordered = sorted(records, key=lambda each: len(answer(each[0].targets, each[1], each[2])))
    for first in range(0, len(ordered), size):
        yield ordered[first : first + size]


def _write(model: Any, processor: Any, records: list[Sized]) -> list[str]:
    import torch
    from PIL import Image

    prompts, images, longest = [], [], 0
    for record, width, height in records:
        asked, told = to_messages(record, width, height)
        text = asked["content"].removeprefix("<image>")
        content = [{"type": "image"}, {"type": "text", "text": text}]
        prompts.append(
            processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        )
        images.append([Image.fromarray(open_image(record.images[0]))])
        longest = max(longest, len(processor.tokenizer.encode(told["content"])))
    inputs = processor(text=prompts, images=images, return_tensors="pt", padding=True, padding_side="left")
    with torch.no_grad():
        output = model.generate(**inputs.to(model.device), max_new_tokens=longest + _MORE, do_sample=False)
    written: list[str] = processor.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return written


def main() -> None:
    folder, *files = map(Path, sys.argv[1:])
    for rows in files:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            metrics = score_model(folder, rows).metrics()
        told = "  ".join(f"{name} {value:.3f}" for name, value in metrics.items())
        print(f"{rows.stem:12}{told}", flush=True)


if __name__ == "__main__":
    main()
