"""Reading a model as names, kinds, shapes and dtypes, from its config and the headers of its weight files."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from swiftalign.files import not_fetched
from swiftalign.model.components import architectures, class_of
from swiftalign.model.conversion import RulesError, natural
from swiftalign.model.families import find, published_config, published_ids, shape_fits
from swiftalign.model.family import config_dtype
from swiftalign.model.headers import from_headers
from swiftalign.model.safetensors import TensorInfo, read_json, read_stored, weight_files
from swiftalign.model.swift_map import type_named, types_of_class
from swiftalign.model.tree import Architecture, Model, ModelSource
from swiftalign.problems import ModelError, names


def read(source: ModelSource) -> Model:
    """The model at a source, without its weights.

    Loads no torch for a model of a known family whose config names all sizes.

    Raises:
        ModelError: there is no such model, or it can't be read.
    """
    folder = Path(source.path)
    config = _config(folder, source)
    family = find(config["model_type"])
    known = [family.architecture] if family else architectures(config, source.path, source.type)
    place = f"{source.where}: " if source.where else ""
    if not known:
        if source.type and type_named(source.type) is None:
            listed = names(each.name for each in types_of_class(class_of(config)))
            hint = f"it has for this model: {listed}" if listed else "remove model.type"
            raise ModelError(f"{place}model.type: ms-swift has no model type {source.type!r}", hint)
        raise ModelError(
            f"{source.path}: ms-swift knows no aligner in a {class_of(config) or config['model_type']} model",
            "name a vision-language model, such as a Qwen3-VL; if ms-swift has it under another name, set model.type",
        )
    quantized = bool(config.get("quantization_config"))
    files = weight_files(folder) if folder.is_absolute() and not quantized else []
    stored = {tensor.info.name: tensor.info for file in files for tensor in read_stored(file)}
    first = next((tensor.dtype for tensor in stored.values()), None)
    source = replace(source, dtype=source.dtype or config_dtype(config) or first)
    model = family.build(config, source.path, source.dtype) if family and not quantized else None
    seen = None
    if stored:
        with suppress(RulesError):
            seen = from_headers(stored, config, source=source.path, dtype=source.dtype)
    if model is not None:
        return _compared(model, stored, seen) if stored else model
    if seen is not None:
        return _with_aligner(seen, known)
    if config.get("auto_map"):
        message = f"{place}model {source.path} has Python code of its own, which is not run to see what the model holds"
        raise ModelError(message, "name a folder with its safetensors files, not quantized: their headers tell")
    from swiftalign.model.meta import model_from_config

    return _with_aligner(model_from_config(config, source), known)


def _with_aligner(model: Model, known: list[Architecture]) -> Model:
    """The model with the first architecture whose aligner it has: it may lack an optional part, e.g. for audio.

    Raises:
        ModelError: it has none of their aligners.
    """
    for architecture in known:
        if not model.by_name.keys().isdisjoint(architecture.aligner):
            return replace(model, architecture=architecture)
    prefixes = list(dict.fromkeys(prefix for architecture in known for prefix in architecture.aligner))
    raise ModelError(
        f"{model.source}: it has no aligner: no name in the model begins with {' or '.join(prefixes)}",
        "check that the weight files are complete, and that they and config.json belong to the same model",
    )


def _compared(model: Model, stored: dict[str, TensorInfo], seen: Model | None) -> Model:
    """A described model with what its weight files tell: dtypes, names in the files, and what they hold otherwise.

    Args:
        stored: the tensors by their names in the files.
        seen: the model as its weight files alone tell it; None where transformers' rules for names can't be had.
    """
    built, family = {weight.name: weight for weight in model.parameters()}, find(model.model_type)
    swapped = family.transposed if family else None
    held = {weight.name: weight for module in seen for weight in module.weights} if seen else stored
    if built.keys().isdisjoint(held):
        message = f"{model.source}: its weight files hold no tensor of a {model.model_type} model"
        raise ModelError(message, "check that the weight files and config.json belong to the same model")
    kept = {name: held[name].dtype if seen and name in held else model.dtype for name in (*built, *model.tied)}
    others = {name for name in held if name not in built and name not in model.tied}
    by_name = {
        name: replace(module, weights=tuple(replace(weight, dtype=kept[weight.name]) for weight in module.weights))
        for name, module in model.by_name.items()
    }
    return replace(
        model,
        by_name=by_name,
        unbuilt=tuple(dict.fromkeys((*sorted(others, key=natural), *(seen.unbuilt if seen else ())))),
        missing=tuple(name for name in built if name not in held or not shape_fits(held[name], built[name])),
        unswapped=tuple(
            name
            for name, tensor in stored.items()
            if swapped and swapped.search(name) and name in built and tensor.shape == built[name].shape
        ),
        files=seen.files if seen else {},
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
        what, hint = not_fetched(folder) or ("no such folder", hint)
        raise ModelError(f"{where}model {source.path}: {what}", hint)
    elif folder.is_file() or not path.exists():
        hint = "name the folder that holds config.json"
        raise ModelError(f"{folder}: not a model folder (it has no config.json)", hint)
    else:
        config = read_json(path)
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        place = str(path) if folder.is_absolute() else f"config.json of {source.path}"
        raise ModelError(f"{place}: names no model_type", "name a whole model, not an adapter")
    return config
