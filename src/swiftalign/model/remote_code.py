"""Python code that comes with a model: ms-swift runs it whenever it loads the model, its tokenizer or its processor.

It always passes ``trust_remote_code=True``, so the user's word is asked for here, before anything is loaded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from swiftalign.model.safetensors import read_json
from swiftalign.problems import ModelError


def own_code(config: Mapping[str, Any], folder: Path | None) -> str | None:
    """Where a model names or holds Python code that loading it would run; None where there is none.

    An ``auto_map`` may name code in the folder, or in another repository of the hub. Transformers also runs
    ``custom_generate/generate.py``, and some loaders of ms-swift import modules of the folder that no config names.

    Args:
        config: the model's config.json.
        folder: the model's folder; None where its files are not on this machine.
    """
    configs: Iterable[tuple[str, Any]] = [("config.json", config)]
    if folder is not None:
        files = sorted({*folder.glob("*.json"), *folder.glob("*/*.json")})
        small = (file for file in files if file.name.endswith("config.json"))
        configs = chain(configs, ((file.relative_to(folder).as_posix(), read_json(file)) for file in small))
    if named := next((name for name, values in configs if _names_code(values)), None):
        return f"auto_map in {named}"
    modules = sorted({*folder.glob("*.py"), *folder.glob("*/*.py")}) if folder is not None else []
    return modules[0].relative_to(folder).as_posix() if folder is not None and modules else None


def _names_code(values: Any) -> bool:
    """Whether a part of a config, at any depth, has an ``auto_map``."""
    if isinstance(values, Mapping):
        return bool(values.get("auto_map")) or any(map(_names_code, values.values()))
    return isinstance(values, list) and any(map(_names_code, values))


def refuse_remote_code(config: Mapping[str, Any], folder: Path, source: str, where: str = "") -> None:
    """Refuse a model that has Python code of its own.

    Args:
        source: the model as the user names it.
        where: ``file:line`` of the setting that names it; may be empty.

    Raises:
        ModelError: the model, its tokenizer or its processor has code, or a config can't be read.
    """
    if code := own_code(config, folder):
        place = f"{where}: " if where else ""
        message = f"{place}model {source} has Python code of its own ({code}), which loading it would run"
        raise ModelError(message, "if you trust it, set model: {path: ..., trust_remote_code: true}")
