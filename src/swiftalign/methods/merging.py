"""Merging a saved adapter into its base model, layer by layer: the part that all methods share.

torch and peft are imported where they are needed. Importing peft takes seconds: the usual adapters of Linear layers are
merged by formulas in the methods' own modules, with the bits of peft's result, and all others by peft itself.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swiftalign.methods.keys import ADAPTER_PREFIX, PeftKey
from swiftalign.model.bytes import load
from swiftalign.model.safetensors import StoredTensor
from swiftalign.problems import ExportError

if TYPE_CHECKING:
    import torch


# Settings that merging does not depend on, or not where `use_qalora` and `megatron_config` are off.
_NO_MATTER = (
    *("auto_mapping", "base_model_name_or_path", "inference_mode", "peft_type", "peft_version", "revision"),
    *("exclude_modules", "layers_pattern", "layers_to_transform", "modules_to_save", "target_modules", "task_type"),
    *("lora_dropout", "megatron_core", "qalora_group_size"),
)


@dataclass(frozen=True)
class SavedAdapter:
    """An adapter in a checkpoint, and the base model that it belongs to.

    Attributes:
        config: the contents of adapter_config.json.
        tensors: the adapter's tensors, by their names in the checkpoint.
        base: the base model's tensors, by name.
        layers: layers of the base model that the adapter changes.
        changed: names of the base model's tensors that merging changes: weights, and biases that were trained too.
    """

    checkpoint: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, StoredTensor]
    base: Mapping[str, StoredTensor]
    layers: tuple[str, ...]
    changed: Collection[str]

    def part(self, layer: str, name: str) -> torch.Tensor:
        """One of a layer's adapter tensors, in float32."""
        return load(self.tensors[str(PeftKey(layer, name))]).float()

    def weight(self, layer: str, dtype: str | None) -> torch.Tensor:
        """The layer's weight in the base model, in this dtype, or in its own."""
        return load(self.base[f"{layer}.weight"], dtype)

    def is_plain(self, shapes: Mapping[str, tuple[object, ...]], *settings: str) -> bool:
        """Whether its tensors have these shapes, and no setting but these bears on how it is merged.

        A setting of any other name, such as one of a later peft, may do so if it is set.
        """
        found = {PeftKey.parse(name): tensor.info.shape for name, tensor in self.tensors.items()}
        factors = {str(key): shape for key, shape in found.items() if key.layer in self.layers}
        values = {name: value for name, value in self.config.items() if name not in (*_NO_MATTER, *settings)}
        alpha, bias, start = (values.pop(name, None) for name in ("lora_alpha", "bias", "init_lora_weights"))
        usual = type(alpha) in (int, float) and alpha > 0 and bias == "none" and type(start) is bool
        return usual and factors == shapes and not any(values.values())


def merge_by_peft(
    adapter: SavedAdapter, dtype: str | None, narrow: Callable[[Any, str], None] = lambda config, layer: None
) -> Iterator[tuple[str, bytes]]:
    """Merge by peft's own layers, each alone in a model of its own: no whole model is loaded.

    Args:
        narrow: reduces peft's config, as far as that is needed, to one layer.
    """
    import torch
    from peft import PeftConfig, PeftModel
    from peft.functional import cast_adapter_dtype, set_peft_model_state_dict
    from torch import nn

    for layer in adapter.layers:
        held = {name: load(t) for name, t in adapter.tensors.items() if name.startswith(f"{ADAPTER_PREFIX}{layer}.")}
        try:
            # The layer's kind follows from the shape of its weight, and for an embedding from the names in the adapter.
            weight, bias = adapter.weight(layer, dtype), adapter.base.get(f"{layer}.bias")
            with torch.device("meta"):
                if str(PeftKey(layer, "lora_embedding_A")) in adapter.tensors:
                    module: nn.Module = nn.Embedding(*weight.shape)
                elif weight.dim() > 2:
                    outputs, inputs, *kernel = weight.shape
                    conv: Any = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}[weight.dim()]
                    module = conv(inputs, outputs, tuple(kernel), bias=bias is not None)
                else:
                    module = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
            module.weight = nn.Parameter(weight, requires_grad=False)
            if bias is not None:
                module.bias = nn.Parameter(load(bias, dtype), requires_grad=False)
            for part in reversed(layer.split(".")):  # the layer alone, under its name in the base model
                parent = nn.Module()
                parent.add_module(part, module)
                module = parent
            with warnings.catch_warnings(), torch.no_grad():
                warnings.simplefilter("ignore")
                config = PeftConfig.from_pretrained(str(adapter.checkpoint))
                config.task_type = None  # a task's wrapper would need a whole language model
                config.modules_to_save = None
                config.inference_mode = True
                config.target_modules = [layer]
                for setting in ("exclude_modules", "layers_to_transform", "layers_pattern"):
                    if hasattr(config, setting):
                        setattr(config, setting, None)
                narrow(config, layer)
                # Without low_cpu_mem_usage, which would keep the adapter in the base model's dtype.
                model = PeftModel(module, config)
                set_peft_model_state_dict(model, held)
                cast_adapter_dtype(model, "default")  # to float32 also the factors that AdaLoRA's pattern has resized
                weights = dict(model.merge_and_unload().named_parameters())
        except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
            message = f"{adapter.checkpoint}: peft can't merge it: {' '.join(str(error).split())[:500]}"
            raise ExportError(message, "check that this is the right base model") from error
        for name in (f"{layer}.weight", f"{layer}.bias"):
            if name in adapter.changed:
                yield name, tensor_bytes(weights[name])


def tensor_bytes(tensor: torch.Tensor) -> bytes:
    """A tensor's values as safetensors stores them."""
    import torch

    data: bytes = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return data
