"""Compare the logits of two forms of a model: the base with its adapter, and the merged model."""

from __future__ import annotations

import shlex
import warnings
from pathlib import Path
from typing import Any

from swiftalign.exports.source import Source
from swiftalign.model.components import class_of
from swiftalign.model.safetensors import read_json
from swiftalign.problems import ExportError


def largest_difference(source: Source, merged: Path) -> float:
    """max |logit - logit| of the two forms for a fixed image and text, in float32 on the CPU.

    Raises:
        ExportError: transformers can't run the model on them without code of the model's own, or the logits of one form
            hold NaN or infinity.
    """
    import torch
    import transformers
    from peft import PeftModel
    from PIL import Image
    from transformers import AutoModelForMultimodalLM, AutoProcessor
    from transformers.utils import logging

    config = read_json(source.base_folder / "config.json")
    model_class = getattr(transformers, class_of(config), AutoModelForMultimodalLM)

    def logits(folder: Path, adapter: Path | None = None) -> Any:
        model: Any = model_class.from_pretrained(folder, dtype=torch.float32)
        if adapter is not None:
            model = PeftModel.from_pretrained(model, str(adapter))
        return model.eval()(**inputs).logits

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with warnings.catch_warnings(action="ignore"), torch.no_grad():
        try:
            processor = AutoProcessor.from_pretrained(source.base_folder)
            image = Image.linear_gradient("L").convert("RGB").resize((128, 96))
            content = [{"type": "image"}, {"type": "text", "text": "Locate every object."}]
            text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
            inputs = processor(text=[text], images=[image], return_tensors="pt")
            unmerged = logits(source.base_folder, source.checkpoint) if source.config else logits(source.checkpoint)
            forms = {"the base with its adapter" if source.config else "the checkpoint": unmerged}
            forms["the merged model"] = logits(merged)
        except (ValueError, TypeError, LookupError, AttributeError, ImportError, OSError, RuntimeError) as error:
            message = (
                f"--check-logits: transformers can't show an image to the model: {' '.join(str(error).split())[:300]}"
            )
            raise ExportError(message, "leave out --check-logits: without it, nothing is run") from error
    if bad := [name for name, values in forms.items() if not torch.isfinite(values).all()]:
        message = f"--check-logits: the logits of {' and of '.join(bad)} hold NaN or infinity"
        base = shlex.quote(str(source.base_folder))
        hint = f"see whether the base has any: swiftalign verify-ckpt {base} --deep; if not, take an earlier checkpoint"
        raise ExportError(message, hint)
    one, other = forms.values()
    return float((one - other).abs().max())
