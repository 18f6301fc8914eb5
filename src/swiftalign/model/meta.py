"""A model built from its config on torch's meta device: shapes without memory. Loads torch and transformers."""

from __future__ import annotations

from typing import Any

from swiftalign.model.components import class_of
from swiftalign.model.safetensors import TensorInfo
from swiftalign.model.tree import NO_COMPONENTS, Architecture, Kind, Model, ModelSource, Module
from swiftalign.problems import ModelError


def model_from_config(config: dict[str, Any], source: ModelSource) -> Model:
    """The model of the class that a config names; its architecture is still to be set.

    Raises:
        ModelError: transformers does not know the model type, or the config is malformed.
    """
    return model_of(build_on_meta(config, dtype=source.dtype), NO_COMPONENTS, source=source.path, config=config)


def build_on_meta(model_config: dict[str, Any], *, dtype: str | None = None) -> Any:
    """A transformers model on the meta device, its tied weights tied, in its config's dtype or the given one.

    No code of the model's own runs: a config's ``auto_map`` is not looked at.
    """
    import torch
    import transformers
    from transformers import AutoConfig, AutoModelForMultimodalLM
    from transformers.utils import logging

    logging.set_verbosity_error()
    try:
        hf_config = AutoConfig.for_model(**{key: value for key, value in model_config.items() if key != "auto_map"})
        model_class = getattr(transformers, class_of(model_config), None)
        with torch.device("meta"):
            real = getattr(torch, str(dtype or hf_config.dtype or "float32").removeprefix("torch."))
            if model_class is None:
                model = AutoModelForMultimodalLM.from_config(hf_config, dtype=real)
            else:
                model = model_class._from_config(hf_config, dtype=real)
    except Exception as error:  # whatever a malformed config makes of transformers' classes
        reason = " ".join(str(error).split())
        raise ModelError(
            f"transformers can't build a {model_config['model_type']!r} model from its config: {reason[:200]}",
            "check config.json, and that the installed transformers knows this model",
        ) from error
    model.tie_weights()
    return model


def model_of(model: Any, architecture: Architecture, *, source: str, config: dict[str, Any]) -> Model:
    """Names, kinds, shapes and dtypes of an ``nn.Module`` that torch has built, on any device, also the meta device."""
    from torch import nn
    from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

    classes: dict[Any, Kind] = {
        # A part of nn.MultiheadAttention, whose forward is never called.
        NonDynamicallyQuantizableLinear: Kind.PARAMETERS,
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
