"""Training processes that are forked from one that has ms-swift loaded, for tests that call `train` in their process.

Loading takes longer than the few steps that a test trains. A forked process has loaded what ``python -m
swiftalign.worker`` loads before it reads its run folder, and nothing else has happened in it. What tests start by a
command of their own, and what torchrun starts, loads everything itself.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import warnings
from multiprocessing import forkserver
from typing import IO, Any
from unittest.mock import patch

from swiftalign.runs.guard import LAUNCHER
from swiftalign.runs.processes import JOIN_VARIABLE

# The entry of a training process, and what it loads later in every run of the tiny Qwen3-VL.
LOADED = [
    "swiftalign.worker.entry",
    "swift.trainers.seq2seq_trainer",
    "transformers.models.qwen3_vl.modeling_qwen3_vl",
    "transformers.models.qwen3_vl.processing_qwen3_vl",
    "transformers.models.qwen2_vl.image_processing_qwen2_vl",
]
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(LOADED)
# These may differ from run to run. A training process does not read them while it loads, and what tests import and call
# sets some of them.
_PASSED_ON = {
    *("CC", "CXX", "FORCE_QWENVL_VIDEO_READER", "LD_LIBRARY_PATH", "NO_MKDOCS_2_WARNING", "PYTEST_CURRENT_TEST"),
    *("PYTORCH_NVML_BASED_CUDA_CHECK", "QT_QPA_FONTDIR", "QT_QPA_PLATFORM_PLUGIN_PATH", "QWENVL_BBOX_FORMAT"),
    *("TENSORBOARD_LOGGING_DIR", "TOKENIZERS_PARALLELISM", "TORCHINDUCTOR_CACHE_DIR", "WANDB_SERVICE", LAUNCHER),
    "_TORCHINDUCTOR_PYOBJECT_TENSOR_DATA_PTR",
}
# What `launch` and conftest.py set in every run.
_SET = {
    *("CUDA_DEVICE_ORDER", "CUDA_VISIBLE_DEVICES", "HF_HUB_DISABLE_TELEMETRY", "HF_HUB_OFFLINE", "PYTHONUNBUFFERED"),
    *("FLASH_ATTENTION_CUTE_DSL_CACHE_DIR", "FLASH_ATTENTION_CUTE_DSL_CACHE_ENABLED", JOIN_VARIABLE, "XDG_CACHE_HOME"),
}
_began_with = dict(os.environ)
_loaded_with: dict[str, str] = {}  # the environment in which the forked processes have loaded everything


class _Forked:
    """The part of `subprocess.Popen` that `launch` uses."""

    def __init__(self, arguments: list[str], environment: dict[str, str], log: str) -> None:
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        self._process = _CONTEXT.Process(target=_train, args=(arguments, environment, log, blocked))
        self._process.start()
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired("swiftalign.worker", timeout or 0)
        return self.returncode


def _train(arguments: list[str], environment: dict[str, str], log: str, blocked: set[int]) -> None:
    """In the forked process: become what `launch` would have started."""
    from swiftalign.worker.entry import main

    multiprocessing.set_start_method(None, force=True)  # data loaders start their workers in the system's usual way
    gc.freeze()  # as worker/__main__.py does
    os.setsid()
    signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    for number in (1, 2):
        os.dup2(os.open(log, os.O_WRONLY | os.O_APPEND), number)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["swiftalign.worker", *arguments]
    sys.exit(main(arguments))


def start(command: list[str], *, env: dict[str, str], stdout: IO[bytes], **options: Any) -> Any:
    """In place of `subprocess.Popen`: fork where the command is a single training process in the usual environment."""
    if command[1:3] != ["-m", "swiftalign.worker"]:
        return subprocess.Popen(command, env=env, stdout=stdout, **options)
    before, may_differ = (_loaded_with, _PASSED_ON) if _loaded_with else (_began_with, _PASSED_ON | _SET)
    if names := {name for name in env | before if env.get(name) != before.get(name)} - may_differ:
        warnings.warn(f"loads ms-swift anew, as the environment differs in {', '.join(sorted(names))}", stacklevel=1)
        return subprocess.Popen(command, env=env, stdout=stdout, **options)
    if not _loaded_with:
        _loaded_with.update(env)
        with patch.dict(os.environ, env, clear=True):
            forkserver.ensure_running()
    return _Forked(command[3:], env, stdout.name)
