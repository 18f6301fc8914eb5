"""A model built from its config on torch's meta device: shapes without memory. Loads torch and transformers."""

from __future__ import annotations

import warnings
from typing import Any

from swiftalign.model.families import find
from swiftalign.model.safetensors import TensorInfo
from swiftalign.model.tree import Architecture, Kind, Model, ModelSource, Module
from swiftalign.problems import ModelError


def model_from_config(config: dict[str, Any], source: ModelSource) -> Model:
    """The model of the class that a config names.

    Raises:
        ModelError: transformers or ms-swift do not know the model type, or the config is malformed.
    """
    family = find(config["model_type"])
    architectures = [family.architecture] if family else _architectures_of_swift(config, source.type)
    if architectures:
        model = build_on_meta(config, trust_remote_code=source.trust_remote_code, dtype=source.dtype)
        names = {name for name, _ in model.named_modules()}
        for architecture in architectures:
            if not names.isdisjoint(architecture.aligner):  # a model may lack an optional part, e.g. for audio
                return model_of(model, architecture, source=source.path, config=config)
    raise ModelError(
        f"{source.path}: ms-swift knows no aligner in a {config['model_type']!r} model",
        "name a vision-language model, such as a Qwen3-VL; if ms-swift has it under another name, set model.type",
    )


def build_on_meta(model_config: dict[str, Any], *, trust_remote_code: bool = False, dtype: str | None = None) -> Any:
    """A transformers model on the meta device, its tied weights tied, in its config's dtype or the given one."""
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText
    from transformers.utils import logging

    logging.set_verbosity_error()
    try:
        hf_config = AutoConfig.for_model(**model_config)
        with torch.device("meta"):
            model = AutoModelForImageTextToText.from_config(
                hf_config,
                trust_remote_code=trust_remote_code,
                dtype=getattr(torch, str(dtype or hf_config.dtype or "float32").removeprefix("torch.")),
            )
    except Exception as error:  # whatever a malformed config makes of transformers' classes
        raise ModelError(
            f"transformers can't build a {model_config['model_type']!r} model from its config: {error}",
            "check config.json, and that the installed transformers knows this model",
        ) from error
    model.tie_weights()
    return model


def _architectures_of_swift(config: dict[str, Any], swift_type: str | None) -> list[Architecture]:
    """The components of a model class according to ms-swift, of which several model types may share a class."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from swift.model import MODEL_MAPPING, MultiModelKeys
        from swift.model.model_meta import get_matched_model_types

    classes = config.get("architectures")
    # Without a class, ms-swift would match every one of its types that names none.
    matched = get_matched_model_types(classes) if classes else []
    types = [swift_type] if swift_type else list(dict.fromkeys([config["model_type"], *matched]))
    return [
        Architecture(key.arch_name, tuple(key.language_model), tuple(key.vision_tower), tuple(key.aligner))
        for name in types
        if (meta := MODEL_MAPPING.get(name)) and isinstance(key := meta.model_arch, MultiModelKeys) and key.aligner
    ]


def model_of(model: Any, architecture: Architecture, *, source: str, config: dict[str, Any]) -> Model:
    """Names, kinds, shapes and dtypes of an ``nn.Module`` that torch has built, on any device, also the meta device."""
    from torch import nn

    classes: dict[Any, Kind] = {
        nn.Linear: Kind.LINEAR,
        nn.Embedding: Kind.EMBEDDING,
        nn.LayerNorm: Kind.LAYER_NORM,
        (nn.Conv1d, nn.Conv2d, nn.Conv3d): Kind.CONV,
        nn.ModuleList: Kind.MODULE_LIST,
    }
    seen: dict[int, str] = {}
    tied: set[str] = set()
    by_name: dict[str, Module] = {}
    for name, module in model.named_modules():
        own = []
        for full, weight in module.named_parameters(name, recurse=False, remove_duplicate=False):
            own.append(TensorInfo(full, tuple(weight.shape), str(weight.dtype).removeprefix("torch.")))
            if seen.setdefault(id(weight), full) != full:
                tied.add(full)
        kind = next((kind for cls, kind in classes.items() if isinstance(module, cls)), None)
        if kind is None and own:
            kind = Kind.NORM if "norm" in type(module).__name__.lower() else Kind.PARAMETERS
        elif kind is None:
            kind = Kind.CONTAINER if next(module.children(), None) is not None else Kind.PLAIN
        by_name[name] = Module(name, kind, tuple(own))
    del by_name[""]  # the model itself
    return Model(
        source=source,
        model_type=str(config.get("model_type", "")),
        architecture=architecture,
        by_name=by_name,
        dtype=next((w.dtype for m in by_name.values() for w in m.weights), "float32"),
        tied=frozenset(tied),
        config=config,
    )
