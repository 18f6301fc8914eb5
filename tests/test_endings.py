"""Errors that end training are one line, with what to change."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from swiftalign.model.hub import fetch_model
from swiftalign.problems import ModelError
from swiftalign.worker.entry import explain


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
        (
            RuntimeError("element 0 of tensors does not require grad and does not have a grad_fn"),
            "no gradient",
            "plugin",
        ),
        (
            RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "),
            "a process that reads rows",
            "workers",
        ),
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
        "no gradient",
        "killed worker",
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


class Spoilt(Dataset[int]):
    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> int:
        raise ValueError("2 image tokens do not match")


def test_an_error_of_a_data_loader_worker_is_one_line_without_its_traceback() -> None:
    with pytest.raises(ValueError, match="Original Traceback") as error:
        next(iter(DataLoader(Spoilt(), num_workers=1)))
    assert explain(error.value, Path("run")) == ("ValueError: 2 image tokens do not match", None)


def test_a_hub_that_is_not_reached_is_one_line_with_the_ways_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match=r"^model Qwen/Qwen3-VL-4B-Instruct: huggingface gave no files") as error:
        fetch_model("Qwen/Qwen3-VL-4B-Instruct", None, "huggingface")
    assert "\n" not in error.value.message
    assert error.value.hint == (
        "name a local folder in model.path, write hub: modelscope, or set HF_ENDPOINT=https://MIRROR"
    )
