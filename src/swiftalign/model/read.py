"""A model as names, kinds, shapes and dtypes: from the headers of its weight files, or from its config alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from swiftalign.config.sections import Config
from swiftalign.model.qwen3_vl import MODULE_LISTS, NAME_TABLES, NameTable, known_config, known_ids, tensors_of_config
from swiftalign.model.safetensors import TensorInfo, read_header, read_json, weight_files
from swiftalign.model.tree import Kind, Model, Module
from swiftalign.problems import ModelError


def read_model(config: Config) -> Model:
    """The modules of a configuration's model.

    Loads no torch for a Qwen3-VL: its weight files' headers, or the sizes in its config, say everything.

    Raises:
        ModelError: there is no such model, or it can't be read.
    """
    source = config.model.path
    folder = Path(source)
    if folder.is_absolute():
        if not folder.exists():
            raise ModelError(
                f"{config.where('model', 'path')}: model {source}: no such folder",
                f"name a model folder, or a hub id such as {known_ids()[1]}",
            )
        model_config = _read_config(folder)
    else:
        model_config = _from_hub(config)
    if not config.model.trust_remote_code:
        refuse_remote_code(folder, model_config, source, config.where("model", "path"))
    table = NAME_TABLES.get(str(model_config.get("model_type")))
    if table is not None and not model_config.get("quantization_config"):
        expected = _expected_tensors(model_config)
        files = weight_files(folder) if folder.is_absolute() else []
        tensors = [tensor for file in files for tensor in read_header(file)] or expected
        order = {tensor.name: place for place, tensor in enumerate(expected)}  # files list block 10 before block 2
        tensors.sort(key=lambda tensor: order.get(tensor.name, len(order)))
        if tensors:
            modules = modules_from_tensors(tensors, model_config, table, source=source, dtype=config.model.dtype)
            return replace(modules, missing=_missing(expected, modules))
    from swiftalign.model.meta import modules_from_config

    return modules_from_config(model_config, config)


def _expected_tensors(model_config: dict[str, Any]) -> list[TensorInfo]:
    """What the config implies; empty where it leaves sizes to transformers' defaults."""
    try:
        return tensors_of_config(model_config)
    except (KeyError, TypeError, AttributeError):
        return []


def _missing(expected: list[TensorInfo], modules: Model) -> tuple[str, ...]:
    """Tensors that the config implies and the weight files lack, or hold in another shape."""
    held = {weight.name: weight.shape for module in modules for weight in module.weights}
    return tuple(tensor.name for tensor in expected if held.get(tensor.name) != tensor.shape)


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if folder.is_file() or not path.exists():
        raise ModelError(
            f"{folder}: not a model folder (it has no config.json)", "name the folder that holds config.json"
        )
    return _checked(read_json(path), str(path))


def _checked(model_config: Any, source: str) -> dict[str, Any]:
    if not isinstance(model_config, dict) or not isinstance(model_config.get("model_type"), str):
        raise ModelError(f"{source}: names no model_type", "is this a whole model, and not an adapter?")
    return model_config


def _from_hub(config: Config) -> dict[str, Any]:
    model_id = config.model.path
    known = known_config(model_id)
    if known is not None:
        return known
    from swiftalign.model.hub import fetch_config

    return _checked(fetch_config(model_id, config.model.revision, config.hub), f"config.json of {model_id}")


def refuse_remote_code(folder: Path, model_config: dict[str, Any], source: str, where: str = "") -> None:
    """Stop at a model that asks to run Python of its own: ms-swift would, for the model and for its processor.

    Raises:
        ModelError: its config, or that of its tokenizer or processor, has an ``auto_map``.
    """
    files = sorted(folder.glob("*config.json")) if folder.is_dir() else []
    configs = {"config.json": model_config} | {file.name: read_json(file) for file in files}
    for name, values in configs.items():
        if isinstance(values, dict) and values.get("auto_map"):
            place = f"{where}: " if where else ""
            raise ModelError(
                f"{place}model {source} asks to run Python code of its own (auto_map in {name})",
                "if you trust it: model: {path: ..., trust_remote_code: true}",
            )


def modules_from_tensors(
    tensors: Iterable[TensorInfo],
    model_config: dict[str, Any],
    table: NameTable,
    *,
    source: str,
    dtype: str | None = None,
) -> Model:
    """Model from the tensors that weight files list, or that a config implies, named and typed by a table.

    Args:
        tensors: in the layout of the files or of the running model.
        dtype: what the weights are loaded as, where that differs from the config's.

    Raises:
        ModelError: the files hold nothing that the model class builds.
    """
    loaded_dtype = dtype or _config_dtype(model_config)
    weights: dict[str, list[TensorInfo]] = {}
    unbuilt = []
    for tensor in tensors:
        owner = _owner(tensor.name, table)
        if owner is None:
            unbuilt.append(tensor.name)
            continue
        shape = _runtime_shape(tensor, model_config)
        weights.setdefault(owner, []).append(TensorInfo(tensor.name, shape, loaded_dtype or tensor.dtype))
    if not weights:
        raise ModelError(f"{source}: its weight files hold no tensor of a {model_config['model_type']} model")
    tied: frozenset[str] = frozenset()
    embedding = weights.get("model.language_model.embed_tokens")
    if model_config.get("tie_word_embeddings") and embedding:
        weights["lm_head"] = [TensorInfo("lm_head.weight", embedding[0].shape, embedding[0].dtype)]
        tied = frozenset({"lm_head.weight"})
    first = next(iter(weights.values()))[0]
    return Model(
        source=source,
        model_type=str(model_config["model_type"]),
        architecture=table.architecture,
        by_name=_complete(weights, table),
        dtype=loaded_dtype or first.dtype,
        tied=tied,
        config=model_config,
        unbuilt=tuple(unbuilt),
    )


def _owner(tensor_name: str, table: NameTable) -> str | None:
    """The module that a tensor belongs to; experts hold theirs under other names than weight and bias."""
    owner = tensor_name.rpartition(".")[0]
    return owner if table.kind(owner) is not None else None


def _runtime_shape(tensor: TensorInfo, model_config: dict[str, Any]) -> tuple[int, ...]:
    """Hub checkpoints of the MoE store expert matrices [experts, in, out]; transformers 5 builds [experts, out, in]."""
    if ".mlp.experts." not in tensor.name or len(tensor.shape) != 3:
        return tensor.shape
    hidden = model_config["text_config"]["hidden_size"]
    inter = model_config["text_config"]["moe_intermediate_size"]
    experts = tensor.shape[0]
    return (experts, 2 * inter, hidden) if tensor.name.endswith("gate_up_proj") else (experts, hidden, inter)


def _config_dtype(model_config: dict[str, Any]) -> str | None:
    for part in (model_config, model_config.get("text_config", {})):
        value = part.get("dtype") or part.get("torch_dtype")
        if isinstance(value, str) and value != "auto":
            return value.removeprefix("torch.")
    return None


def _complete(weights: dict[str, list[TensorInfo]], table: NameTable) -> dict[str, Module]:
    """Add to the modules with weights their parents, and the modules without weights."""
    by_name: dict[str, Module] = {}
    for name, own in weights.items():
        parts = name.split(".")
        for depth in range(1, len(parts)):
            parent = ".".join(parts[:depth])
            if parent not in by_name:
                kind = Kind.MODULE_LIST if MODULE_LISTS.fullmatch(parent) else Kind.CONTAINER
                by_name[parent] = Module(parent, kind)
        by_name[name] = Module(name, table.kind(name) or Kind.PARAMETERS, tuple(own))
    for name in list(by_name):
        for pattern, template in table.plain:
            match = pattern.fullmatch(name)
            if match:
                plain = match.expand(template)
                by_name[plain] = Module(plain, Kind.PLAIN)
    return by_name
