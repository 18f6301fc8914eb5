"""FlashAttention 4 beside torch's own kernels, within rows of the trainer's shapes: milliseconds, and how far off.

    python benchmarks/attention.py

Needs a GPU of the Hopper generation, and flash-attn-4. Errors are relative norms, against float32 attention of the same
operands; those of torch's kernels are beside them. Ends with exit code 1 where an error is larger than rounding to
bfloat16 explains.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from swiftalign.worker.attention import attention

# Name -> tokens of the rows, heads, key heads, size of a head, whether a token sees only those before it.
SHAPES: dict[str, tuple[list[int], int, int, int, bool]] = {
    "LLM of the 8B, 4 x 1115": ([1115] * 4, 32, 8, 128, True),
    "LLM of the 8B, mixed": ([612, 2411, 1187, 1530], 32, 8, 128, True),
    "LLM of the 4B, 2 x 1114": ([1114] * 2, 32, 8, 128, True),
    "LLM of Qwen3.5-9B, 4 x 1131": ([1131] * 4, 16, 4, 256, True),
    "ViT, 4 x 3072": ([3072] * 4, 16, 16, 72, False),
    "ViT, mixed": ([1360, 8928, 4096, 5184], 16, 16, 72, False),
    "ViT of the 2B, 4 x 3072": ([3072] * 4, 16, 16, 64, False),
    "rows of 1 to 300 tokens": ([1, 2, 17, 64, 65, 128, 129, 300], 8, 2, 64, True),
}


class Causal(torch.nn.Module):
    def __init__(self, causal: bool) -> None:
        super().__init__()
        self.is_causal = causal


LARGEST_ERROR = 5e-3  # bfloat16 has steps of 4e-3 to 8e-3


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    rounds = parser.parse_args().rounds
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}\n")
    wrong = 0
    print(f"{'':28}  {'':8} {'forward':>9} {'+ backward':>11}   errors of the result and of the gradients of q, k, v")
    for name, (rows, heads, key_heads, size, causal) in SHAPES.items():
        torch.manual_seed(0)
        tokens = sum(rows)
        counts = (heads, key_heads, key_heads)
        # As layers hand them over: [1, heads, tokens, size], with the heads of a token side by side in memory.
        operands = [torch.randn(1, tokens, count, size, device="cuda", dtype=torch.bfloat16) for count in counts]
        operands = [each.transpose(1, 2).requires_grad_() for each in operands]
        gradient = torch.randn(1, tokens, heads, size, device="cuda", dtype=torch.bfloat16)
        starts = torch.tensor([0, *rows], device="cuda").cumsum(0).int()
        truth = exact(operands, gradient, rows, causal)
        module = Causal(causal)
        rows_at = {"cu_seq_lens_q": starts, "max_length_q": max(rows)}
        for kind in ("torch", "flash4"):
            attend = partial(attention, module, *operands, None, **rows_at, flash4=kind == "flash4")
            both = partial(with_gradients, attend, operands, gradient)
            try:
                with torch.no_grad():
                    forward = milliseconds(attend, rounds)
                found = both()
                errors = [
                    float((ours.float() - theirs).norm() / theirs.norm())
                    for ours, theirs in zip(found, truth, strict=True)
                ]
                backward = milliseconds(both, rounds)
            except Exception as error:  # a kernel may lack a shape
                print(f"{name:28}  {kind:8} failed: {str(error)[:150]}", flush=True)
                wrong += 1
                continue
            wrong += max(errors) > LARGEST_ERROR
            shown = "  ".join(f"{error:.1e}" for error in errors)
            print(f"{name:28}  {kind:8} {forward:6.3f} ms  {backward:6.3f} ms   {shown}", flush=True)
    return int(wrong > 0)


def with_gradients(attend: Callable[[], Any], operands: list[Tensor], gradient: Tensor) -> list[Tensor]:
    out, _ = attend()
    return [out, *torch.autograd.grad(out, operands, gradient)]


def exact(operands: list[Tensor], gradient: Tensor, rows: list[int], causal: bool) -> list[Tensor]:
    """The result and the gradients in float32, row by row."""
    wide = [each.detach().float().requires_grad_() for each in operands]
    grouped = wide[0].shape[1] != wide[1].shape[1]
    out = torch.cat(
        [
            scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=grouped)
            for q, k, v in zip(*(each.split(rows, dim=2) for each in wide), strict=True)
        ],
        dim=2,
    ).transpose(1, 2)
    return [out, *torch.autograd.grad(out, wide, gradient.float())]


def milliseconds(call: Callable[[], object], rounds: int) -> float:
    """Median of some calls, as the GPU's clock sees them."""
    for _ in range(3):
        call()
    times = []
    for _ in range(rounds):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda._sleep(2_000_000)  # the CPU gets ahead, so that its own time is not measured
        begin.record()
        call()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    return statistics.median(times)


if __name__ == "__main__":
    sys.exit(main())
