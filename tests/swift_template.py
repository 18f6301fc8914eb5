"""ms-swift's own template, as the trainer has it, for tests that hold this toolkit's text against it."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def template_of(model: Path, model_type: str = "qwen3_vl", **arguments: Any) -> Any:
    """The training template of a model folder, with the image token of its vocabulary."""
    from swift.model import get_processor
    from swift.template import get_template

    template = get_template(get_processor(str(model), model_type=model_type), **arguments)
    template.set_mode("train")
    template.image_token_id = template.tokenizer.convert_tokens_to_ids("<|image_pad|>")
    return template
