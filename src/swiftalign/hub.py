"""The config of a model that only a hub has."""

from __future__ import annotations

from pathlib import Path

from swiftalign.architectures import known_ids
from swiftalign.errors import ModelError


def fetch_config(model_id: str, revision: str | None, hub: str) -> Path:
    """The path of a model's ``config.json`` in the hub's cache, fetched where it is missing.

    Raises:
        ModelError: the hub can't be reached, or has no such model.
    """
    try:
        if hub == "modelscope":
            from modelscope import model_file_download

            return Path(model_file_download(model_id, "config.json", revision=revision))
        from huggingface_hub import hf_hub_download, try_to_load_from_cache

        cached = try_to_load_from_cache(model_id, "config.json", revision=revision)
        return Path(cached if isinstance(cached, str) else hf_hub_download(model_id, "config.json", revision=revision))
    except Exception as error:  # either client's many ways of saying no
        reason = " ".join(str(error).split())[:200]
        raise ModelError(
            f"model {model_id}: not a folder here, and {hub} gave no config for it ({reason})",
            f"check the spelling, name a local folder, or use a size known without a network, e.g. {known_ids()[2]}",
        ) from None
