"""What each tuning method adds to a layer: which layers it can adapt, its tensors, and its constraints.

The names and shapes follow peft 0.20; `tests/test_plan_against_peft.py` holds them against peft itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from swiftalign.config.sections import TunerSection
from swiftalign.model.safetensors import TensorInfo
from swiftalign.model.tree import Kind, Module

Method = Literal["modules_to_save", "lora", "dora", "adalora", "boft", "fourierft", "full"]

# The layers a method can adapt. peft adapts further kinds (Conv2d, Conv1D); none of them is in these models.
ADAPTABLE: dict[str, frozenset[Kind]] = {
    "lora": frozenset({Kind.LINEAR, Kind.EMBEDDING, Kind.CONV}),
    "adalora": frozenset({Kind.LINEAR}),
    "boft": frozenset({Kind.LINEAR}),
    "fourierft": frozenset({Kind.LINEAR}),
    "full": frozenset(),
}


@dataclass(frozen=True, slots=True)
class AdapterTensor:
    """One tensor that a method adds to a layer.

    Attributes:
        parameter: the end of its name in the running model.
        key: the end of its name in a checkpoint.
    """

    parameter: str
    key: str
    shape: tuple[int, ...]


def _low_rank(name: str, shape: tuple[int, ...], *, is_module: bool = True) -> AdapterTensor:
    end = ".weight" if is_module else ""
    return AdapterTensor(f"{name}.default{end}", f"{name}{end}", shape)


def _lora(layer: Module, tuner: TunerSection) -> list[AdapterTensor]:
    """LoRA's factors A and B, and DoRA's magnitude per output."""
    shape, rank = layer.weight.shape, tuner.lora_rank
    if layer.kind is Kind.EMBEDDING:
        count, dim = shape
        tensors = [
            _low_rank("lora_embedding_A", (rank, count), is_module=False),
            _low_rank("lora_embedding_B", (dim, rank), is_module=False),
        ]
        magnitude: tuple[int, ...] = (dim,)
    else:
        ones = (1,) * (len(shape) - 2)  # a convolution's kernel sides
        tensors = [_low_rank("lora_A", (rank, *shape[1:])), _low_rank("lora_B", (shape[0], rank, *ones))]
        magnitude = (1, shape[0], *ones) if ones else (shape[0],)
    if tuner.use_dora:
        # A module in the running model, but saved under the name it had when it was a plain parameter.
        tensors.append(AdapterTensor("lora_magnitude_vector.default.weight", "lora_magnitude_vector", magnitude))
    return tensors


def _adalora(layer: Module, tuner: TunerSection) -> list[AdapterTensor]:
    """The factors of a singular value decomposition, at their initial rank; training prunes them."""
    out_features, in_features = layer.weight.shape
    rank = tuner.adalora_init_r
    return [
        _low_rank("lora_A", (rank, in_features), is_module=False),
        _low_rank("lora_B", (out_features, rank), is_module=False),
        _low_rank("lora_E", (rank, 1), is_module=False),
    ]


def _boft(layer: Module, tuner: TunerSection) -> list[AdapterTensor]:
    """Butterfly factors of block-diagonal rotations, and a scale per output."""
    out_features, in_features = layer.weight.shape
    size = tuner.boft_block_size or in_features // max(tuner.boft_block_num, 1)
    blocks = in_features // max(size, 1)
    return [
        _low_rank("boft_R", (tuner.boft_n_butterfly_factor, blocks, size, size), is_module=False),
        _low_rank("boft_s", (out_features, 1), is_module=False),
    ]


def _fourierft(layer: Module, tuner: TunerSection) -> list[AdapterTensor]:
    """The learned coefficients of a sparse spectrum."""
    return [_low_rank("fourierft_spectrum", (tuner.fourier_n_frequency,), is_module=False)]


_TENSORS: dict[str, Callable[[Module, TunerSection], list[AdapterTensor]]] = {
    "lora": _lora,
    "adalora": _adalora,
    "boft": _boft,
    "fourierft": _fourierft,
}


def adapter_tensors(layer: Module, tuner: TunerSection) -> list[AdapterTensor]:
    """What the configured method adds to a layer that it can adapt."""
    return _TENSORS[tuner.train_type](layer, tuner)


def extra_checkpoint_tensor(layer: Module) -> TensorInfo | None:
    """peft saves the base weight too of an adapted input or output embedding ("auto" embedding layers)."""
    if layer.name.rpartition(".")[2] in ("embed_tokens", "lm_head"):
        weight = layer.weight
        return TensorInfo(f"{layer.name}.base_layer.weight", weight.shape, weight.dtype)
    return None


def boft_fault(in_features: int, tuner: TunerSection) -> str | None:
    """Why BOFT can't cut an input of this width into its blocks; None where it can.

    References:
        peft `tuners/boft/layer.py`, `Linear.update_layer` and `block_butterfly_perm`.
    """
    size, number, factor = tuner.boft_block_size, tuner.boft_block_num, tuner.boft_n_butterfly_factor - 1
    if (size == 0) == (number == 0):
        return "exactly one of boft_block_size and boft_block_num must be non-zero"
    if in_features % (size or number):
        return (
            f"{in_features} inputs do not divide into blocks of {size}"
            if size
            else (f"{in_features} inputs do not divide into {number} blocks")
        )
    size = size or in_features // number
    number = in_features // size
    if factor and (number % 2 or size % 2 or number % 2**factor or 2 ** (factor - 1) * size * 2 > in_features):
        return f"{number} blocks of {size} allow no butterfly factor of {factor + 1}"
    if factor:
        return f"boft_n_butterfly_factor {factor + 1} needs peft's CUDA extension; without it peft silently takes 1"
    return None


def suggest_block_size(widths: list[int], tuner: TunerSection) -> int | None:
    """The block size nearest to the configured one that divides every input width."""
    wanted = tuner.boft_block_size or 4
    candidates = [
        size
        for size in range(2, 257)  # a block of 1 is no rotation
        if all(
            boft_fault(w, tuner.model_copy(update={"boft_block_size": size, "boft_block_num": 0})) is None
            for w in widths
        )
    ]
    return min(candidates, key=lambda size: (abs(size - wanted), size), default=None)


def method_of(tuner: TunerSection, *, has_layers: bool) -> Method:
    """The method's name, as `init --method` knows it."""
    if tuner.train_type == "full":
        return "full"
    if not has_layers:
        return "modules_to_save"
    return "dora" if tuner.train_type == "lora" and tuner.use_dora else tuner.train_type
