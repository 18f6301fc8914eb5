"""Reading a model as names, kinds, shapes and dtypes, from its config and the headers of its weight files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from swiftalign.model.families import find, published_config, published_ids, shape_fits
from swiftalign.model.family import config_dtype
from swiftalign.model.safetensors import TensorInfo, read_json, read_stored, weight_files
from swiftalign.model.tree import Model, ModelSource
from swiftalign.problems import ModelError


def read(source: ModelSource) -> Model:
    """The model at a source, without its weights.

    Loads no torch for a model of a known family whose config names all sizes.

    Raises:
        ModelError: there is no such model, or it can't be read.
    """
    folder = Path(source.path)
    config = _config(folder, source)
    if not source.trust_remote_code:
        refuse_remote_code(folder, config, source.path, source.where)
    family = find(config["model_type"]) if not config.get("quantization_config") else None
    model, stored = None, {}
    if family and family.describe:
        files = weight_files(folder) if folder.is_absolute() else []
        stored = {tensor.info.name: tensor.info for file in files for tensor in read_stored(file)}
        first = next((tensor.dtype for tensor in stored.values()), None)
        source = replace(source, dtype=source.dtype or config_dtype(config) or first)
        model = family.build(config, source.path, source.dtype)
    if model is None:
        from swiftalign.model.meta import model_from_config

        model = model_from_config(config, source)
    return _compared(model, stored) if stored else model


def _compared(model: Model, stored: dict[str, TensorInfo]) -> Model:
    """Add how the tensors in the weight files differ from those that the model class builds."""
    built, family = {weight.name: weight for weight in model.parameters()}, find(model.model_type)
    swapped = family.transposed if family else None
    if built.keys().isdisjoint(stored):
        message = f"{model.source}: its weight files hold no tensor of a {model.model_type} model"
        raise ModelError(message, "check that the weight files and config.json belong to the same model")
    return replace(
        model,
        unbuilt=tuple(name for name in stored if name not in built and name not in model.tied),
        missing=tuple(name for name in built if name not in stored or not shape_fits(stored[name], built[name])),
        unswapped=tuple(
            name
            for name, tensor in stored.items()
            if swapped and swapped.search(name) and name in built and tensor.shape == built[name].shape
        ),
    )


def _config(folder: Path, source: ModelSource) -> dict[str, Any]:
    """The model's config.json, from its folder or from the hub."""
    path = folder / "config.json"
    if not folder.is_absolute():
        from swiftalign.model.hub import fetch_config

        config = published_config(source.path) or fetch_config(source.path, source.revision, source.hub)
    elif not folder.exists():
        where = f"{source.where}: " if source.where else ""
        hint = f"name a model folder, or a hub id such as {published_ids()[1]}"
        raise ModelError(f"{where}model {source.path}: no such folder", hint)
    elif folder.is_file() or not path.exists():
        hint = "name the folder that holds config.json"
        raise ModelError(f"{folder}: not a model folder (it has no config.json)", hint)
    else:
        config = read_json(path)
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        place = str(path) if folder.is_absolute() else f"config.json of {source.path}"
        raise ModelError(f"{place}: names no model_type", "name a whole model, not an adapter")
    return config


def refuse_remote_code(folder: Path, config: dict[str, Any], source: str, where: str = "") -> None:
    """Refuse a model that asks to run its own Python code: ms-swift would run it, for the model and its processor.

    Raises:
        ModelError: the config of the model, or of its tokenizer or processor, has an ``auto_map``.
    """
    configs = {"config.json": config} | {file.name: read_json(file) for file in sorted(folder.glob("*config.json"))}
    for name, values in configs.items():
        if isinstance(values, dict) and values.get("auto_map"):
            place = f"{where}: " if where else ""
            raise ModelError(
                f"{place}model {source} asks to run Python code of its own (auto_map in {name})",
                "if you trust it, set model: {path: ..., trust_remote_code: true}",
            )
