"""The merged values of the tensors that change: whole modules are cast, adapters go through peft's own layers.

peft runs on a skeleton that holds the adapted layers alone, with weights from their byte ranges: no model is loaded.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest import mock

from swiftalign.export.source import Source
from swiftalign.methods.keys import PeftKey, exactly
from swiftalign.model.bytes import cast, load, read_bytes
from swiftalign.model.tree import is_inside
from swiftalign.problems import ExportError

if TYPE_CHECKING:
    import torch
    from torch import nn

# Block sizes at which a batched product adds in the same order as peft's dense one; tests hold them bit for bit.
_BATCHED_BLOCKS = (4, 6, 8, 12, 16, 32, 64)
_BATCH_BYTES = 256 << 20  # of base weights


def merged_values(source: Source, dtype: str | None = None) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of every tensor that changes, as peft merges into a base loaded in ``dtype``."""
    for name, tensor in source.whole.items():
        yield name, cast(read_bytes(tensor), tensor.info.dtype, dtype or source.base_tensors[name].info.dtype)
    if source.adapted:
        merge = {"BOFT": _merge_boft, "FOURIERFT": _merge_fourierft}.get(source.adapter["peft_type"], _merge_adapters)
        yield from merge(source, dtype)


def _merge_adapters(source: Source, dtype: str | None) -> Iterator[tuple[str, bytes]]:
    for layers in _batches(source):
        yield from _merge_layers(source, layers, dtype)


def _batches(source: Source) -> Iterator[list[str]]:
    """The adapted layers, in groups whose weights take little memory: an adapter may reach all of the LLM."""
    batch: list[str] = []
    size = 0
    for layer in source.adapted:
        nbytes = source.base_tensors[f"{layer}.weight"].info.nbytes
        if batch and size + nbytes > _BATCH_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(layer)
        size += nbytes
    yield batch


def _merge_layers(source: Source, layers: list[str], dtype: str | None) -> Iterator[tuple[str, bytes]]:
    import torch
    from peft import PeftConfig, PeftModel
    from peft.tuners.lora.dora import DoraLinearLayer

    config = PeftConfig.from_pretrained(str(source.checkpoint))
    config.task_type = None  # a task's wrapper wants a whole language model
    config.modules_to_save = None  # merged by `cast`
    config.inference_mode = True
    # The layers that the checkpoint holds, by name: the skeleton has no others, whatever the setting was.
    config.target_modules = exactly(layers)
    for setting in ("exclude_modules", "layers_to_transform", "layers_pattern"):
        if hasattr(config, setting):
            setattr(config, setting, None)
    if source.adapter.get("peft_type") == "ADALORA" and config.rank_pattern:
        config.rank_pattern = {k: v for k, v in config.rank_pattern.items() if is_inside(k, layers)}
    try:
        with _quiet(), torch.no_grad(), mock.patch.object(DoraLinearLayer, "update_layer", _room_for_magnitude):
            # Never low_cpu_mem_usage: it would keep the deltas in the base's dtype.
            skeleton = _skeleton(source, layers, dtype)
            model = PeftModel.from_pretrained(skeleton, str(source.checkpoint), config=config)
            weights = dict(model.merge_and_unload().named_parameters())
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
        text = " ".join(str(error).split())[:500]
        raise ExportError(f"{source.checkpoint}: peft can't merge it: {text}", "is this the right base?") from error
    for name in source.merged:
        if name.rpartition(".")[0] in layers:
            yield name, tensor_bytes(weights[name])


def _room_for_magnitude(layer: Any, *, base_layer: nn.Module, **_: Any) -> None:
    """In place of DoRA's first magnitudes, which take half a second a layer and which loading replaces."""
    import torch
    from torch import nn

    weight = base_layer.get_parameter("weight")
    layer.weight = nn.Parameter(torch.full(weight.shape[:1], torch.nan, dtype=weight.dtype))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """peft warns about the keys of whole modules, which are merged elsewhere."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def tensor_bytes(tensor: torch.Tensor) -> bytes:
    import torch

    flat = tensor.detach().cpu().contiguous().reshape(-1)
    data: bytes = flat.view(torch.uint8).numpy().tobytes()
    return data


def _skeleton(source: Source, layers: list[str], dtype: str | None) -> nn.Module:
    """A tree of modules under the base's names, of some adapted layers alone."""
    from torch import nn

    root = nn.Module()
    for layer in layers:
        parent = root
        *parts, last = layer.split(".")
        for part in parts:
            if part not in parent._modules:
                parent.add_module(part, nn.Module())
            parent = parent.get_submodule(part)
        parent.add_module(last, _layer(layer, source, dtype))
    return root


def _layer(name: str, source: Source, dtype: str | None) -> nn.Module:
    """The layer with its weights; its kind shows in the weight's shape, an embedding's in its adapter's names."""
    import torch
    from torch import nn

    weight = load(source.base_tensors[f"{name}.weight"], dtype)
    bias = source.base_tensors.get(f"{name}.bias")
    embeds = any(f"{name}.lora_embedding_A" in key for key in source.tensors)
    with torch.device("meta"):
        if embeds:
            module: nn.Module = nn.Embedding(*weight.shape)
        elif weight.dim() == 5:
            depth, height, width = weight.shape[2:]
            module = nn.Conv3d(weight.shape[1], weight.shape[0], (depth, height, width), bias=bias is not None)
        else:
            module = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    module.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        module.bias = nn.Parameter(load(bias, dtype), requires_grad=False)
    return module


def _merge_fourierft(source: Source, dtype: str | None) -> Iterator[tuple[str, bytes]]:
    """peft's merge, with the random places drawn once for layers of one size; equal to it bit for bit.

    References:
        peft `tuners/fourierft/layer.py`, `update_layer`, `get_delta_weight` and `merge`; arXiv:2405.03003.
    """
    import torch
    from peft.tuners.fourierft.layer import FourierFTLayer

    seed, scaling = source.adapter.get("random_loc_seed", 777), source.adapter.get("scaling", 150.0)
    permutation = torch.empty(0)
    for name in sorted(source.adapted, key=lambda name: source.base_tensors[f"{name}.weight"].info.numel):
        weight = load(source.base_tensors[f"{name}.weight"], dtype)
        spectrum = load(source.tensors[str(PeftKey(name, "fourierft_spectrum"))]).float()
        if len(permutation) != weight.numel():
            generator = torch.Generator().manual_seed(seed)
            permutation = torch.randperm(weight.numel(), generator=generator)
        places = permutation[: len(spectrum)]
        layer = SimpleNamespace(
            fourierft_spectrum={"default": spectrum},
            fourierft_scaling={"default": scaling},
            indices={"default": torch.stack([places // weight.shape[1], places % weight.shape[1]])},
            out_features=weight.shape[0],
            in_features=weight.shape[1],
        )
        weight += FourierFTLayer.get_delta_weight(layer, "default")
        yield f"{name}.weight", tensor_bytes(weight)


def _merge_boft(source: Source, dtype: str | None) -> Iterator[tuple[str, bytes]]:
    """peft's merge without its dense permutation matrices, which take seconds a layer; equal to it bit for bit.

    References:
        peft `tuners/boft/layer.py`, `Linear.merge` and `get_delta_weight`; arXiv:2311.06243.
    """
    import torch
    from peft.tuners.boft.layer import BOFTLayer

    batched: dict[tuple[int, ...], bool] = {}
    for name in source.adapted:
        rotation = load(source.tensors[str(PeftKey(name, "boft_R"))]).float()
        scale = load(source.tensors[str(PeftKey(name, "boft_s"))]).float()
        factors, blocks, size, _ = rotation.shape
        if factors != 1:
            raise ExportError(f"{name}: a butterfly factor of {factors} can't be merged here", "use peft itself")
        rotation = BOFTLayer.cayley_batch(None, rotation.view(blocks, size, size))
        weight = load(source.base_tensors[f"{name}.weight"], dtype)
        turned = torch.transpose(weight, 0, 1).to(rotation.dtype)
        shape = (*weight.shape, size)
        if shape not in batched:
            batched[shape] = size in _BATCHED_BLOCKS and _adds_alike(rotation, turned)
        turned = _turn_in_batches(rotation, turned) if batched[shape] else _turn_densely(rotation, turned)
        merged = torch.transpose(turned, 0, 1) * scale
        yield f"{name}.weight", tensor_bytes(merged.contiguous().to(weight.dtype))


def _turn_densely(rotation: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Rotations [blocks, size, size] times a weight [blocks * size, out], as peft multiplies them."""
    import torch

    return torch.mm(torch.block_diag(*torch.unbind(rotation)), weight)  # type: ignore[no-untyped-call]


def _turn_in_batches(rotation: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The same block by block, without the zeros."""
    import torch

    blocks, size, _ = rotation.shape
    return torch.bmm(rotation, weight.reshape(blocks, size, -1)).reshape(blocks * size, -1)


def _adds_alike(rotation: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether both give the same bits: in which order a product adds up is up to the processor's library."""
    import torch

    return torch.equal(_turn_in_batches(rotation, weight), _turn_densely(rotation, weight))
