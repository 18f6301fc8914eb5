"""Linear attention over concatenated rows, in torch only: Qwen3.5's gated delta rule and the convolution before it.

A layer of linear attention carries a state from token to token. Where flash-linear-attention is not installed,
transformers' own code ignores where rows begin, so that a row would see those before it, and ms-swift refuses to train.
Here each row begins with an empty state. The results are those of transformers' code on each row alone, but for the
order of additions, and take less time: only the states at the beginnings of chunks follow from each other in a loop, in
which the rows advance together.

References:
    Yang et al., "Parallelizing Linear Transformers with the Delta Rule over Sequence Length", 2024 (arXiv:2406.06484).
    Yang et al., "Gated Delta Networks: Improving Mamba2 with Delta Rule", 2024 (arXiv:2412.06464).
"""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, silu, softplus
from torch.utils.checkpoint import checkpoint
from transformers.utils import is_flash_linear_attention_available

from swiftalign.model.qwen3_5 import CHUNK, kinds_that_mix_rows
from swiftalign.problems import SwiftalignError

_STEPS_GATHERED = 8  # steps whose matrices are copied to where they are used, at a time
_KEY = "swiftalign_rows"  # of the arguments of the LLM's layers


class Rows(NamedTuple):
    """Where the rows of a line begin, as indices that are made once per batch, without waiting for the GPU.

    Each row is cut into chunks of `CHUNK` tokens, the last one filled up. There are a few chunks more than needed,
    since their number is known to the GPU alone; at least the last of all is empty.

    Attributes:
        before: number of tokens of its row before each token: [tokens].
        places: the place of each token in the chunks, counted through all of them: [tokens].
        order: the chunk of each row that comes at each step; the last of all, where a row has no more: [steps, rows].
    """

    before: Tensor
    places: Tensor
    order: Tensor

    @property
    def chunks(self) -> int:
        """Number of chunks."""
        return len(self.places) // CHUNK + self.order.shape[1] + 1

    @classmethod
    def of(cls, starts: Tensor, tokens: int, longest: int) -> Rows:
        """The rows of a line.

        Args:
            starts: the token at which each row begins, and the number of tokens: [rows + 1].
            tokens: number of tokens in the line.
            longest: number of tokens in the longest row, or more.
        """
        starts, device = starts.long(), starts.device
        chunks = -(-starts.diff() // CHUNK)  # of each row
        first = chunks.cumsum(0) - chunks
        line = torch.arange(tokens, device=device)
        row = torch.searchsorted(starts[1:], line, right=True)
        before = line - starts[row]
        steps = torch.arange(-(-longest // CHUNK), device=device)[:, None]
        rows = cls(before, first[row] * CHUNK + before, first + steps)
        return rows._replace(order=torch.where(steps < chunks, rows.order, rows.chunks - 1))


def reset_at_rows(model: nn.Module, tf32: bool | None = None) -> None:
    """Let a model's linear attention begin anew at each row of a padding-free batch.

    Nothing is changed where flash-linear-attention is installed: ms-swift calls it with the rows' borders.

    Args:
        tf32: the run's argument of that name. None lets a model in 16 bits multiply float32 matrices in TF32, whose
            11 bits of precision are more than the 8 of what the layers take and give in bfloat16.

    Raises:
        SwiftalignError: the LLM has layers of another kind that are not known to keep concatenated rows apart.
    """
    config: Any = model.config
    text = config.get_text_config()
    if kinds := kinds_that_mix_rows(text.model_type, getattr(text, "layer_types", None)):
        raise SwiftalignError(
            f"training.padding_free: the LLM of this {config.model_type} model has layers of the kind "
            f"{' and '.join(kinds)}, which do not keep concatenated rows apart",
            "set training: {padding_free: false}",
        )
    if is_flash_linear_attention_available():
        return
    for llm in model.modules():
        layers = [layer.linear_attn for layer in getattr(llm, "layers", ()) if hasattr(layer, "linear_attn")]
        for layer in layers:
            layer.__class__ = _knowing_rows(layer.__class__)
        if layers:
            if tf32 is None and layers[0].out_proj.weight.dtype != torch.float32:
                torch.backends.cuda.matmul.allow_tf32 = True
            llm.register_forward_pre_hook(_find_rows, with_kwargs=True)


@cache
def _knowing_rows(own: type[nn.Module]) -> type[nn.Module]:
    """A class of layers with linear attention whose forward pass knows rows.

    It is a class, and not an attribute of each layer, since compiled code is shared by the layers of one class alone.
    """

    def forward(layer: Any, hidden_states: Tensor, **kwargs: Any) -> Tensor:
        rows: Rows | None = kwargs.pop(_KEY, None)
        if rows is None or kwargs.get("cache_params") is not None:
            result: Tensor = own.forward(layer, hidden_states, **kwargs)
            return result
        return _attend(layer, hidden_states.squeeze(0), rows).unsqueeze(0)

    return type(own.__name__, (own,), {"forward": forward, "__module__": own.__module__})


def _find_rows(llm: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    starts, longest = kwargs.get("cu_seq_lens_q"), kwargs.get("max_length_q")
    if starts is None or longest is None:
        return args, kwargs
    tokens = kwargs["inputs_embeds"].shape[1]
    return args, kwargs | {_KEY: Rows.of(starts, tokens, int(longest))}


def _attend(layer: Any, line: Tensor, rows: Rows) -> Tensor:
    """The forward pass of a layer with linear attention over a line of rows.

    Args:
        line: [tokens, width].

    Returns:
        [tokens, width].
    """
    mixed = convolve(layer.in_proj_qkv(line), layer.conv1d.weight, rows)
    query, key, value = mixed.split_with_sizes([layer.key_dim, layer.key_dim, layer.value_dim], dim=-1)
    beta = layer.in_proj_b(line).sigmoid()
    decay = -layer.A_log.float().exp() * softplus(layer.in_proj_a(line).float() + layer.dt_bias)
    # What it computes is dozens of times larger than what goes in, so it is computed again in the backward pass.
    out = checkpoint(
        gated_delta_rule,
        query.reshape(len(line), -1, layer.head_k_dim),
        key.reshape(len(line), -1, layer.head_k_dim),
        value.reshape(len(line), -1, layer.head_v_dim),
        decay,
        beta,
        rows,
        use_reentrant=False,
        preserve_rng_state=False,
    )
    normed = layer.norm(out.flatten(0, 1), layer.in_proj_z(line).view(-1, layer.head_v_dim))
    projected: Tensor = layer.out_proj(normed.view(len(line), -1))
    return projected


def convolve(line: Tensor, weight: Tensor, rows: Rows) -> Tensor:
    """The causal convolution of each channel over each row, and SiLU.

    Args:
        line: [tokens, channels].
        weight: [channels, 1, tokens seen].

    Returns:
        [tokens, channels].
    """
    wide, seen = line.float(), weight.squeeze(1).float()
    total = wide * seen[:, -1]
    for back in range(1, seen.shape[1]):  # torch's own kernels for a convolution of each channel take longer
        shifted = pad(wide, (0, 0, back, 0))[: len(wide)]
        total = total + shifted.masked_fill((rows.before < back).unsqueeze(1), 0) * seen[:, -1 - back]
    return silu(total.to(line.dtype))


def gated_delta_rule(query: Tensor, key: Tensor, value: Tensor, decay: Tensor, beta: Tensor, rows: Rows) -> Tensor:
    """The gated delta rule over each row, in float32.

    A token's state is ``exp(decay)`` times the one before it; then ``beta`` of the difference between its value and
    what the state holds under its key is added under that key. Its result is what the state holds under its query.

    Args:
        query: [tokens, key heads, key width]; queries and keys are brought to length 1 here.
        key: [tokens, key heads, key width]; each key head serves several consecutive heads.
        value: [tokens, heads, value width].
        decay: the logarithm of the state's decay, at most 0: [tokens, heads].
        beta: [tokens, heads].

    Returns:
        [tokens, heads, value width], in the query's dtype.
    """
    with torch.autocast(query.device.type, enabled=False):  # it would multiply in 16 bits, and states would lose digits
        # [chunks, key heads, heads per key head, CHUNK, ...] from here on. All sizes but the number of chunks are
        # written out, since a compiler takes minutes to work them out.
        chunks, count, groups = rows.chunks, key.shape[1], value.shape[1] // key.shape[1]
        queries, keys, values, decays, betas = (
            each.new_zeros(chunks * CHUNK, *each.shape[1:], dtype=torch.float32)
            .index_copy(0, rows.places, each.float())
            .view(chunks, CHUNK, count, each.shape[1] // count, each.shape[2])
            .permute(0, 2, 3, 1, 4)
            for each in (query, key, value, decay.unsqueeze(-1), beta.unsqueeze(-1))
        )
        queries, keys = _unit(queries), _unit(keys)
        total = decays.cumsum(-2)  # since the chunk's beginning
        between = total - total.mT
        later = torch.ones(CHUNK, CHUNK, dtype=torch.bool, device=query.device).triu(1)
        between = between.masked_fill(later, -torch.inf).exp()
        attention = (queries @ keys.mT) * key.shape[-1] ** -0.5 * between
        # What each token adds to the state: its value, less what the state held, and less what those before it in the
        # chunk add under similar keys. That is a triangular system.
        inverse = _Inverse.apply((keys @ keys.mT) * betas * between)
        added = inverse @ (values * betas)
        held = inverse @ (keys * (betas * total.exp()))
        left = keys * (total[..., -1:, :] - total).exp()  # of what is added, at the chunk's end
        kept = total[..., -1:, :].exp()  # of the state before the chunk
        parts = (kept, left.mT @ held, left.mT @ added)
        states = _states(*(each.flatten(1, 2) for each in parts), rows.order)
        states = states.view(chunks, count, groups, *states.shape[2:])
        out = (queries * key.shape[-1] ** -0.5 * total.exp()) @ states + attention @ (added - held @ states)
        line: Tensor = out.permute(0, 3, 1, 2, 4).reshape(chunks * CHUNK, value.shape[1], value.shape[2])
        return line.index_select(0, rows.places).to(query.dtype)


def _unit(vectors: Tensor) -> Tensor:
    return vectors * torch.rsqrt(vectors.square().sum(-1, keepdim=True) + 1e-6)


class _Inverse(torch.autograd.Function):
    """The inverses of lower triangular matrices with ones on the diagonal; what they have there and above is ignored.

    The backward pass has two matrix products, in place of another solution of the systems.
    """

    @staticmethod
    def forward(ctx: Any, matrices: Tensor) -> Tensor:
        identity = torch.eye(matrices.shape[-1], dtype=matrices.dtype, device=matrices.device)
        inverse: Tensor = torch.linalg.solve_triangular(matrices, identity, upper=False, unitriangular=True)
        ctx.save_for_backward(inverse)
        return inverse

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        transposed: Tensor = ctx.saved_tensors[0].mT
        return -(transposed @ gradient @ transposed).tril(-1)


@torch.library.custom_op("swiftalign::states", mutates_args=())
def _states(kept: Tensor, lost: Tensor, added: Tensor, order: Tensor, *, transposed: bool = False) -> Tensor:
    """The state of its row before each chunk; after it, the state is ``kept * state - lost @ state + added``.

    It is an operator of its own so that a compiled layer does not depend on the number of steps.

    Args:
        kept: [chunks, heads, 1, 1].
        lost: [chunks, heads, key width, key width].
        added: [chunks, heads, key width, value width].
        order: as in `Rows`.
        transposed: whether ``lost`` is transposed first.

    Returns:
        [chunks, heads, key width, value width].
    """
    heads, key, value = added.shape[1:]
    states = added.new_zeros(added.shape)  # contiguous, as the function below tells the compiler
    state = added.new_zeros(order.shape[1] * heads, key, value)
    for steps in torch.split(order, _STEPS_GATHERED):
        chunks, shape = steps.flatten(), (len(steps), len(state))
        factors = kept.index_select(0, chunks).view(*shape, 1, 1)
        matrices = lost.index_select(0, chunks).view(*shape, key, key)
        additions = added.index_select(0, chunks).view(*shape, key, value)
        matrices = matrices.mT if transposed else matrices
        passed = added.new_empty(len(steps) + 1, *state.shape)  # the states before each step, and after the last
        passed[0] = state
        for step, (before, after) in enumerate(pairwise(passed)):
            torch.addcmul(additions[step], factors[step], before, out=after)
            after.baddbmm_(matrices[step], before, alpha=-1)
        states.index_copy_(0, chunks, passed[:-1].view(len(chunks), heads, key, value))
        state = passed[-1]
    return states


@_states.register_fake
def _(kept: Tensor, lost: Tensor, added: Tensor, order: Tensor, *, transposed: bool = False) -> Tensor:
    return added.new_empty(added.shape)


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, Tensor], keyword_only_inputs: Any, output: Tensor) -> None:
    kept, lost, _, order = inputs
    ctx.save_for_backward(kept, lost, order, output)


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
    kept, lost, order, states = ctx.saved_tensors
    # The gradients of the states after each chunk follow from each other in the same way, backwards.
    after = _states(kept, lost, gradient.contiguous(), order.flip(0), transposed=True)
    return (after * states).sum((-2, -1), keepdim=True), -(after @ states.mT), after, None


_states.register_autograd(_backward, setup_context=_keep)
