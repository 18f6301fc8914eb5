"""What ended training, in words."""

from __future__ import annotations

import errno

import torch


def explain(error: Exception) -> tuple[str, str | None]:
    """What ended training, in a line, and what to change; None where only the log can tell."""
    text = " ".join(str(error).split()) or "no message"
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return f"the GPU is out of memory: {text[:200]}", _LESS_MEMORY
    code = error.errno if isinstance(error, OSError) else None
    if code in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in text or "unexpected pos" in text:
        return f"the disk is full: {text[:200]}", "free some space, or set training.save_total_limit; then --resume"
    if code in (errno.EROFS, errno.EACCES, errno.EPERM):
        return f"can't write: {text[:200]}", "make the run folder writable; then --resume"
    return f"{type(error).__name__}: {text[:500]}", None


_LESS_MEMORY = (
    "lower training.per_device_train_batch_size (gradient_accumulation_steps makes up for it), or the images' size: "
    "--set swift.max_pixels=1003520; then --resume where the batch is the same, or start anew"
)
