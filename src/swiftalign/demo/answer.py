"""Let a model folder answer the first image of a JSONL file: ``python -m swiftalign.demo.answer MODEL ROWS``."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

from swiftalign.grounding.records import read_rows


def answer_first(model_folder: Path, rows: Path, *, max_new_tokens: int = 24) -> tuple[str, str]:
    """The prompt of the first row, and what the model writes for its image."""
    import torch
    from PIL import Image
    from transformers import AutoModelForImageTextToText, AutoProcessor
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    _, row = next(read_rows(rows))
    model = AutoModelForImageTextToText.from_pretrained(model_folder, dtype="auto").eval()
    processor = AutoProcessor.from_pretrained(model_folder)
    content = [{"type": "image"}, {"type": "text", "text": row["prompt"]}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    image = Image.open(rows.parent / row["images"][0]).convert("RGB")
    inputs = processor(text=[text], images=[image], return_tensors="pt")
    with torch.no_grad():
        output = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
    written = processor.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)[0]
    return row["prompt"], written


def main() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        prompt, written = answer_first(Path(sys.argv[1]), Path(sys.argv[2]))
    print(f"prompt  {prompt}")
    print(f"answer  {written!r}")
    print("(the demo's model is random: what counts here is that it loads and writes)")


if __name__ == "__main__":
    main()
