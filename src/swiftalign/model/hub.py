"""Models on a hub: their config, and their folder in the hub client's cache."""

from __future__ import annotations

import json
import logging
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

from swiftalign.model.families import published_ids
from swiftalign.model.safetensors import read_json
from swiftalign.problems import ModelError


def fetch_config(model_id: str, revision: str | None, hub: str) -> Any:
    """A model's ``config.json`` from the hub client's cache, or else from the hub, with one request.

    Args:
        hub: ``huggingface`` or ``modelscope``.

    Raises:
        ModelError: the hub can't be reached, or has no such model.
    """
    try:
        if hub == "modelscope":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                from modelscope import model_file_download
            logging.getLogger("modelscope_hub").setLevel(logging.ERROR)  # it reports retries for up to a minute
            return read_json(Path(model_file_download(model_id, "config.json", revision=revision)))
        from huggingface_hub import get_session, hf_hub_url, try_to_load_from_cache
        from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # public, but not in __all__

        cached = try_to_load_from_cache(model_id, "config.json", revision=revision)
        if isinstance(cached, str):
            return read_json(Path(cached))
        # The client's own download retries for half a minute where there is no network.
        url = hf_hub_url(model_id, "config.json", revision=revision)
        answer = get_session().get(url, headers=build_hf_headers(), timeout=10.0, follow_redirects=True)
        answer.raise_for_status()
        return json.loads(answer.content)
    except Exception as error:  # each client raises errors of many types
        message = f"model {model_id}: not a folder here, and {hub} gave no config for it ({_reason(error)})"
        known = f"models such as {published_ids()[2]} are known without a network"
        raise ModelError(message, f"check the spelling, {_ways_out(hub)}; {known}") from None


def fetch_model(model_id: str, revision: str | None, hub: str) -> Path:
    """The folder with a model's files, downloaded where the hub client's cache lacks them, as ms-swift does it.

    Raises:
        ModelError: the hub can't be reached, or has no such model.
    """
    from swift.utils import safe_snapshot_download

    try:
        return Path(safe_snapshot_download(model_id, revision=revision, use_hf=hub == "huggingface"))
    except Exception as error:  # each client raises errors of many types
        message = f"model {model_id}: {hub} gave no files of it ({_reason(error)})"
        raise ModelError(message, _ways_out(hub)) from None


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _ways_out(hub: str) -> str:
    """What else to do where a hub can't be reached or lacks a model."""
    others = "write hub: modelscope, or set HF_ENDPOINT=https://MIRROR"
    return f"name a local folder in model.path, {others if hub == 'huggingface' else 'or write hub: huggingface'}"


def local_folder(model: str) -> Path | None:
    """The folder of a model on this machine: by its path, or by its id in the Hugging Face client's cache."""
    with suppress(OSError, ValueError):  # a name from a file may be neither
        place = Path(model).expanduser()
        if place.is_dir():
            return place.absolute()
        return None if place.is_absolute() else cached_folder(model, None, "huggingface")
    return None


def cached_folder(model_id: str, revision: str | None, hub: str) -> Path | None:
    """The folder in a hub client's cache that holds a model, or a part of it."""
    if hub == "huggingface":
        from huggingface_hub import try_to_load_from_cache

        path = try_to_load_from_cache(model_id, "config.json", revision=revision)
        return Path(path).parent if isinstance(path, str) else None
    from modelscope import snapshot_download

    try:
        return Path(snapshot_download(model_id, revision=revision, local_files_only=True))
    except Exception:  # a missing model raises errors of several types
        return None
