"""ms-swift's template, as training and previews need it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from swiftalign.config.sections import Config
from swiftalign.model.qwen3_vl import NAME_TABLES


def use_own_tokens(template: Any, model_config: Mapping[str, Any]) -> None:
    """Give a template the model's ids of images and videos: ms-swift's hard-code those of the public vocabulary."""
    for name in ("image_token_id", "video_token_id"):
        if model_config.get(name) is not None and hasattr(template, name):
            setattr(template, name, model_config[name])


def swift_model_type(config: Config, model_type: str) -> str | None:
    """ms-swift's model_type: several of its types share an architecture, and a local folder leaves it undecided."""
    return config.model.type or (model_type if model_type in NAME_TABLES else None)
