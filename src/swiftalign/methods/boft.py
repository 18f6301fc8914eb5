"""BOFT (arXiv:2311.06243): rotations of a layer's inputs, block by block."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from math import gcd
from typing import TYPE_CHECKING, Any

from pydantic import Field

from swiftalign.methods.base import ALIGNER_LINEAR, Fraction, Method, Part, PositiveInt, Shape, Usage
from swiftalign.methods.merging import SavedAdapter, tensor_bytes
from swiftalign.model.tree import Kind, Module
from swiftalign.problems import ExportError, Problem, register

if TYPE_CHECKING:
    import torch

register("boft-blocks", "error", "BOFT's blocks do not divide a layer's input")

# Block sizes at which a batched product adds up in the same order as peft's dense one; tests compare them bit for bit.
_BATCHED_BLOCKS = (4, 6, 8, 12, 16, 32, 64)

_R = Part("boft_R", lambda r, weight: len(r) == 4 and r[1] * r[2] == weight[-1], "zero")
_S = Part("boft_s", lambda s, weight: s[:1] == weight[:1])


class Boft(Method):
    """A layer's inputs are rotated, block by block, and its outputs are scaled."""

    name = "boft"
    adapts = frozenset({Kind.LINEAR})
    parts = (_R, _S)
    dense_copies = 3
    summary = "orthogonal rotations, block by block, of the aligner's Linear layers (arXiv:2311.06243)"
    aligner_lr = "1.0e-4"
    demo_lr = "3.0e-2"
    recipe = f"train_type: boft\n{ALIGNER_LINEAR}boft_block_size: 4\nboft_dropout: 0.1\n"

    boft_block_size: int = Field(4, ge=0)
    boft_block_num: int = Field(0, ge=0)
    boft_n_butterfly_factor: PositiveInt = 1
    boft_dropout: Fraction = 0.0

    def shapes(self, layer: Module) -> dict[Part, Shape]:
        """Block-diagonal rotations, one per butterfly factor, and a scale per output."""
        outputs, inputs = layer.weight.shape
        size = self.boft_block_size or inputs // max(self.boft_block_num, 1)
        return {_R: (self.boft_n_butterfly_factor, inputs // max(size, 1), size, size), _S: (outputs, 1)}

    def blocks_problem(self, layer: str, inputs: int) -> Problem | None:
        """What keeps BOFT from cutting a layer's inputs into blocks.

        References:
            peft `tuners/boft/layer.py`, `Linear.update_layer` and `block_butterfly_perm`.
        """
        size, number, factors = self.boft_block_size, self.boft_block_num, self.boft_n_butterfly_factor
        fault = ""
        if (size == 0) == (number == 0):
            fault = "exactly one of boft_block_size and boft_block_num must be non-zero"
        elif inputs % (size or number):
            fault = f"{inputs} inputs do not divide into {f'blocks of {size}' if size else f'{number} blocks'}"
        elif factors > 1:
            size = size or inputs // number
            number, half = inputs // size, 2 ** (factors - 1)
            fault = f"boft_n_butterfly_factor {factors} needs peft's CUDA extension; without it peft silently takes 1"
            if number % 2 or size % 2 or number % half or half * size > inputs:
                fault = f"{number} blocks of {size} allow no butterfly factor of {factors}"
        return Problem("boft-blocks", f"{layer}: {fault}") if fault else None

    def problems(self, usage: Usage) -> Iterable[Problem]:
        widths = {layer.name: layer.weight.shape[1] for layer in usage.layers}
        problem = next(filter(None, (self.blocks_problem(name, width) for name, width in widths.items())), None)
        if problem is None:
            return
        wanted, common = self.boft_block_size or 4, gcd(*widths.values())
        sizes = (size for size in range(2, 257) if common % size == 0)  # a block of 1 rotates nothing
        fix: dict[str, Any] = {"boft_block_size": min(sizes, key=lambda size: abs(size - wanted), default=None)}
        fix["boft_block_num"] = 0
        hint = "choose a block size that divides the inputs of every layer:"
        if self.boft_n_butterfly_factor > 1:
            fix = {"boft_n_butterfly_factor": 1, **fix}
            hint = "use blocks without butterfly factors, which fit every layer:"
        where = usage.where("tuner", "boft_block_num", "boft_block_size", "boft_n_butterfly_factor")
        yield replace(problem, hint=hint, fix={"tuner": fix}, where=where)

    @staticmethod
    def merge(adapter: SavedAdapter, dtype: str | None) -> Iterator[tuple[str, bytes]]:
        """s W R^T for a weight W [out, in], a scale s per output, and a block-diagonal rotation R [in, in].

        Equal to peft's merge bit for bit, without its dense permutation matrices, which take seconds per layer.

        References:
            peft `tuners/boft/layer.py`, `Linear.merge`, `get_delta_weight` and `cayley_batch`.
        """
        import torch

        batched: dict[Shape, bool] = {}
        for layer in adapter.layers:
            factors, scale = adapter.part(layer, "boft_R"), adapter.part(layer, "boft_s")
            if len(factors) != 1:
                message = f"{layer}: a butterfly factor of {len(factors)} can't be merged here"
                raise ExportError(message, "merge it with peft itself")
            skew = 0.5 * (factors[0] - factors[0].transpose(1, 2))
            unit = torch.eye(skew.shape[-1]).expand_as(skew)
            rotation = torch.linalg.solve(unit + skew, unit - skew, left=False)
            weight = adapter.weight(layer, dtype)
            inputs, shape = weight.T.to(rotation.dtype), (*weight.shape, rotation.shape[-1])
            if shape not in batched:
                batched[shape] = rotation.shape[-1] in _BATCHED_BLOCKS and adds_alike(rotation, inputs)
            rotated = _rotate_in_batches(rotation, inputs) if batched[shape] else _rotate_densely(rotation, inputs)
            yield f"{layer}.weight", tensor_bytes((rotated.T * scale).contiguous().to(weight.dtype))


def _rotate_densely(rotation: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
    """Rotations [blocks, size, size] times a transposed weight [blocks * size, out], as peft multiplies them."""
    import torch

    return torch.block_diag(*rotation).mm(inputs)  # type: ignore[no-untyped-call, no-any-return]


def _rotate_in_batches(rotation: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
    """The same product block by block, without the zeros."""
    return rotation.bmm(inputs.reshape(*rotation.shape[:2], -1)).flatten(0, 1)


def adds_alike(rotation: torch.Tensor, inputs: torch.Tensor) -> bool:
    """Whether both products have the same bits: the order of additions depends on the processor's library."""
    return _rotate_in_batches(rotation, inputs).equal(_rotate_densely(rotation, inputs))
