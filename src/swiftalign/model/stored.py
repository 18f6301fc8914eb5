"""The tensors of weight files under the names that they have in the model; the files keep those of the publication."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from swiftalign.model.conversion import Loaded, RulesError, loaded
from swiftalign.model.families import find
from swiftalign.model.safetensors import DAMAGED, StoredTensor, TensorInfo, read_json, read_stored, weight_files
from swiftalign.problems import ModelError


def in_model(infos: Mapping[str, TensorInfo], config: Any) -> dict[str, Loaded]:
    """What a model has in memory of tensors with these names in its files; where nothing is known, the same names.

    Args:
        infos: the tensors by their names in the files, which may be any.
        config: the contents of the model's config.json, which may be anything.
    """
    same = {name: Loaded(info, (name,)) for name, info in infos.items()}
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        return same
    try:
        family = find(config["model_type"])
        built = family.build(config) if family else None
        if built is not None and infos.keys() <= {weight.name for weight in built.parameters()} | built.tied:
            return same  # known without asking transformers' rules, which takes a tenth of a second
        return loaded(infos, config, lenient=True)
    except (ModelError, RulesError):
        return same


def under_model_names(stored: Mapping[str, StoredTensor], made: Mapping[str, Loaded]) -> dict[str, StoredTensor]:
    """The places of tensors by the names in the model; what loading merges or divides keeps the name in its file.

    Args:
        stored: the tensors by their names in the files.
        made: what `in_model` says of them.
    """
    found: dict[str, StoredTensor] = {}
    for name, tensor in made.items():
        for part in tensor.files:
            if tensor.renamed:
                found[name] = replace(stored[part], info=tensor.info)
            else:
                place = found.get(part, stored[part])
                found[part] = replace(place, makes=(*place.makes, name))
    return found


def quantised_by(folder: Path) -> str:
    """How a model's weights are quantised by its config.json, such as ``GPTQ, 4 bits``; empty where they are not."""
    with suppress(ModelError, AttributeError, TypeError):
        if settings := read_json(folder / "config.json").get("quantization_config"):
            method = str(settings.get("quant_method", "bitsandbytes"))  # older releases did not name the first method
            bits = settings.get("bits") or next((n for n in (4, 8) if settings.get(f"load_in_{n}bit")), None)
            return (method.upper() if len(method) < 5 else method) + (f", {bits} bits" if bits else "")
    return ""


def stored_tensors(folder: Path) -> dict[str, StoredTensor]:
    """Every tensor of a model folder, by its name in the model; see `under_model_names`.

    Raises:
        ModelError: a file is damaged, or two files hold the same name.
    """
    stored: dict[str, StoredTensor] = {}
    for file in weight_files(folder):
        for tensor in read_stored(file):
            if tensor.name in stored:
                raise ModelError(f"{file}: {tensor.name!r} is also in {stored[tensor.name].file}", DAMAGED)
            stored[tensor.name] = tensor
    config = read_json(folder / "config.json") if (folder / "config.json").is_file() else None
    return under_model_names(stored, in_model({name: tensor.info for name, tensor in stored.items()}, config))
