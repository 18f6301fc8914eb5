"""ms-swift's template, as training and previews need it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from swiftalign.model.families import find

IGNORED = -100  # label of tokens that are not learned, in torch and transformers


def use_own_tokens(template: Any, model_config: Mapping[str, Any]) -> None:
    """Set a template's image and video token ids to the model's: ms-swift hard-codes those of the public vocabulary."""
    for name in ("image_token_id", "video_token_id"):
        if model_config.get(name) is not None and hasattr(template, name):
            setattr(template, name, model_config[name])


def swift_model_type(given: str | None, model_type: str) -> str | None:
    """ms-swift's model_type of a model: the given one, or that of a known family; None to let ms-swift decide.

    ms-swift can't decide for every local folder, since several of its types share an architecture.
    """
    return given or (model_type if find(model_type) else None)
