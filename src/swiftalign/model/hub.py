"""Models of a hub: their config, and what the hub's cache has of them."""

from __future__ import annotations

import json
import logging
import warnings
from pathlib import Path
from typing import Any

from swiftalign.model.qwen3_vl import known_ids
from swiftalign.model.safetensors import read_json
from swiftalign.problems import ModelError

TIMEOUT_SECONDS = 10.0


def fetch_config(model_id: str, revision: str | None, hub: str) -> Any:
    """A model's ``config.json`` as the hub's cache has it, or as the hub answers, asked once.

    Raises:
        ModelError: the hub can't be reached, or has no such model.
    """
    try:
        return _from_modelscope(model_id, revision) if hub == "modelscope" else _from_hugging_face(model_id, revision)
    except Exception as error:  # either client's many ways of saying no
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ModelError(
            f"model {model_id}: not a folder here, and {hub} gave no config for it ({reason})",
            f"check the spelling, name a local folder, or use a size known without a network, e.g. {known_ids()[2]}",
        ) from None


def _from_hugging_face(model_id: str, revision: str | None) -> Any:
    from huggingface_hub import get_session, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # public, but not in __all__

    cached = try_to_load_from_cache(model_id, "config.json", revision=revision)
    if isinstance(cached, str):
        return read_json(Path(cached))
    # The client's own download retries for half a minute where there is no network.
    url = hf_hub_url(model_id, "config.json", revision=revision)
    answer = get_session().get(url, headers=build_hf_headers(), timeout=TIMEOUT_SECONDS, follow_redirects=True)
    answer.raise_for_status()
    return json.loads(answer.content)


def _from_modelscope(model_id: str, revision: str | None) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from modelscope import model_file_download
    logging.getLogger("modelscope_hub").setLevel(logging.ERROR)  # its retries, for up to a minute
    return read_json(Path(model_file_download(model_id, "config.json", revision=revision)))


def cached_folder(model_id: str, revision: str | None, hub: str) -> Path | None:
    """The folder in which a hub's cache holds a model, or a part of it."""
    if hub == "huggingface":
        from huggingface_hub import try_to_load_from_cache

        path = try_to_load_from_cache(model_id, "config.json", revision=revision)
        return Path(path).parent if isinstance(path, str) else None
    from modelscope import snapshot_download

    try:
        return Path(snapshot_download(model_id, revision=revision, local_files_only=True))
    except Exception:  # that it is not there comes as errors of several types
        return None
