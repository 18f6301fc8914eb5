"""A model built from its config on torch's meta device: shapes without memory. Loads torch and transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from swiftalign.architectures import NAME_TABLES, Architecture
from swiftalign.config import Config
from swiftalign.errors import ModelError
from swiftalign.modules import Modules, modules_of


def modules_from_config(model_config: dict[str, Any], folder: Path, config: Config) -> Modules:
    """Modules of the class that a config names.

    Raises:
        ModelError: transformers or ms-swift do not know the model type, or the config is malformed.
    """
    model_type = str(model_config["model_type"])
    table = NAME_TABLES.get(model_type)
    architecture = table.architecture if table else _architecture_of_swift(model_type, folder, config)
    model = build_on_meta(model_config, trust_remote_code=config.model.trust_remote_code, dtype=config.model.dtype)
    return modules_of(model, architecture, source=config.model.path, config=model_config)


def build_on_meta(model_config: dict[str, Any], *, trust_remote_code: bool = False, dtype: str | None = None) -> Any:
    """A transformers model on the meta device, its tied weights tied, in its config's dtype or the given one."""
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText
    from transformers.utils import logging

    logging.set_verbosity_error()
    values = {key: value for key, value in model_config.items() if key != "model_type"}
    try:
        hf_config = AutoConfig.for_model(str(model_config["model_type"]), **values)
        name = dtype or hf_config.dtype or "float32"
        with torch.device("meta"):
            model = AutoModelForImageTextToText.from_config(
                hf_config,
                trust_remote_code=trust_remote_code,
                dtype=getattr(torch, str(name).removeprefix("torch.")),
            )
    except Exception as error:  # whatever a malformed config makes of transformers' classes
        raise ModelError(
            f"transformers can't build a {model_config['model_type']!r} model from its config: {error}",
            "check config.json, and that the installed transformers knows this model",
        ) from error
    model.tie_weights()
    return model


def _architecture_of_swift(model_type: str, folder: Path, config: Config) -> Architecture:
    """ms-swift's own map of a model family into LLM, ViT and aligner."""
    from swift.model import MODEL_MAPPING, get_matched_model_types
    from swift.model.model_arch import MultiModelKeys

    wanted = [config.model.type] if config.model.type else _swift_types(model_type, folder, get_matched_model_types)
    for name in wanted:
        meta = MODEL_MAPPING.get(name)
        arch = meta.model_arch if meta else None
        if isinstance(arch, MultiModelKeys) and arch.aligner:
            return Architecture(
                arch.arch_name, tuple(arch.language_model), tuple(arch.vision_tower), tuple(arch.aligner)
            )
    raise ModelError(
        f"{config.model.path}: ms-swift knows no aligner in a {model_type!r} model",
        "set model.type to ms-swift's model_type, if it has another name there",
    )


def _swift_types(model_type: str, folder: Path, get_matched_model_types: Any) -> list[str]:
    from swiftalign.checkpoint import read_json

    architectures = read_json(folder / "config.json").get("architectures") or []
    names = get_matched_model_types(architectures[:1])
    return sorted(names, key=lambda name: name != model_type)
