"""ms-swift's template, as training and previews need it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

IGNORED = -100  # label of tokens that are not learned, in torch and transformers


def use_own_tokens(template: Any, model_config: Mapping[str, Any]) -> None:
    """Set a template's image and video token ids to the model's: ms-swift hard-codes those of the public vocabulary."""
    for name in ("image_token_id", "video_token_id"):
        if model_config.get(name) is not None and hasattr(template, name):
            setattr(template, name, model_config[name])
