"""Errors that end training are one line, with what to change."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch

from swiftalign.worker.__main__ import explain


@pytest.mark.parametrize(
    ("error", "message", "hint"),
    [
        (torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to"), "the GPU is out of memory: CUDA", "batch_size"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "a.pt"), "the disk is full: ", "save_total_limit"),
        (RuntimeError("PytorchStreamWriter: unexpected pos 64 vs 0"), "the disk is full: ", "save_total_limit"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "the disk is full: ", "save_total_limit"),
        (OSError(errno.EROFS, os.strerror(errno.EROFS), "a.pt"), "can't write: ", "make the run folder writable"),
        (PermissionError(errno.EACCES, os.strerror(errno.EACCES), "a.pt"), "can't write: ", "writable"),
        (ValueError("no\n more"), "ValueError: no more", None),
        (KeyError(), "KeyError: no message", None),
    ],
    ids=[
        "memory",
        "disk",
        "torch on a full disk",
        "safetensors on a full disk",
        "read-only",
        "denied",
        "other",
        "none",
    ],
)
def test_an_error_is_one_line(error: Exception, message: str, hint: str | None) -> None:
    told, advice = explain(error, Path("runs/a"))
    assert told.startswith(message)
    assert "disk" not in message or "runs/a can't be written" in told
    assert "\n" not in told
    assert (advice is None) == (hint is None)
    assert hint is None or hint in str(advice)
