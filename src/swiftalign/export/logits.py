"""Comparing what two forms of a model compute: base with adapter, and the merged result."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from swiftalign.export.source import Source


def largest_difference(source: Source, merged: Path) -> float:
    """max |logit - logit| on a fixed image and text, in float32 on the CPU."""
    import torch
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        inputs = _sample(source.base)
        unmerged = _logits(source.base, inputs, source)
        return float((_logits(merged, inputs, None) - unmerged).abs().max())


def _sample(base: Path) -> Any:
    from PIL import Image
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(base)
    image = Image.linear_gradient("L").convert("RGB").resize((128, 96))
    content = [{"type": "image"}, {"type": "text", "text": "Locate every object."}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    return processor(text=[text], images=[image], return_tensors="pt")


def _logits(folder: Path, inputs: Any, source: Source | None) -> Any:
    import torch
    from transformers import AutoModelForImageTextToText

    path = source.checkpoint if source is not None and not source.adapter else folder
    model: Any = AutoModelForImageTextToText.from_pretrained(path, dtype=torch.float32)
    if source is not None and source.adapter:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, str(source.checkpoint))
    return model.eval()(**inputs).logits
