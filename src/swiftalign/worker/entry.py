"""A training process, by itself or under torchrun. The run folder says what to train and where to begin."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import resource
import sys
import time
import traceback
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from swift.callbacks import callbacks_map
from swift.model import MODEL_MAPPING
from transformers import EarlyStoppingCallback

from swiftalign.config.load import load_config
from swiftalign.data.rows import RowError
from swiftalign.model.components import correction
from swiftalign.model.hub import fetch_model
from swiftalign.model.remote_code import refuse_remote_code
from swiftalign.model.safetensors import read_json
from swiftalign.plan.plan import read_plan
from swiftalign.problems import SwiftalignError, TrainingError
from swiftalign.runs.events import EventWriter, is_main_process
from swiftalign.runs.folder import CHOICES_FILE, CONFIG_FILE, PLAN_FILE, STOP_FILE, read_start
from swiftalign.runs.guard import end_with_launcher
from swiftalign.runs.lowering import CALLBACK, GROUNDING_CALLBACK, STOPPING_CALLBACK, lower, to_argv
from swiftalign.runs.processes import lost_contact, process_name
from swiftalign.speed.choices import read_choices
from swiftalign.worker.callbacks import PlanCallback
from swiftalign.worker.grounding_eval import GroundingEval
from swiftalign.worker.pipeline import AlignerSft, correct_prefixes
from swiftalign.worker.sharding import join_processes
from swiftalign.worker.watch import NO_GRADIENT, NO_GRADIENT_HINT

EXCHANGE_SECONDS = 1800.0  # ms-swift would wait for 208 days
_LOGGING_VARIABLE = "TENSORBOARD_LOGGING_DIR"
_LOST_CONTACT = re.compile(
    r"by peer|broken pipe|connection closed|timed out|wait timeout|ncclRemoteError|remote process exited"
    r"|killed by signal: Terminated",  # torchrun ends all processes of a data loader too
    re.IGNORECASE,
)
_MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024


def main(argv: list[str]) -> int:
    """Run, and turn an exception into an event; the traceback goes to the log."""
    run_folder = Path(argv[0])
    end_with_launcher()
    writer = EventWriter(run_folder) if is_main_process() else None
    try:
        run(run_folder, writer)
        return 0
    except Exception as error:
        if not isinstance(error, RowError) or not error.hint:  # with a hint, it says all there is to know
            with contextlib.suppress(OSError):  # the log's disk is full
                traceback.print_exc()
        message, hint = explain(error, run_folder)
        exit_code = error.exit_code if isinstance(error, SwiftalignError) else 1
        rank, local_rank, size, here = (
            int(os.environ.get(name, default))
            for name, default in (("RANK", 0), ("LOCAL_RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_WORLD_SIZE", 1))
        )
        if size > 1 and not isinstance(error, SwiftalignError):
            message = f"{process_name(rank, local_rank, os.environ, several_machines=here < size)}: {message}"
        # An error is reported from every process.
        writer = writer or EventWriter(run_folder)
        follows = size > 1 and lost_contact_in(error)
        writer.write("error", message=message, hint=hint, exit_code=exit_code, rank=rank, follows=follows)
        return exit_code


def run(run_folder: Path, writer: EventWriter | None) -> None:
    """Train as the run folder says.

    Args:
        writer: writes the run's events; None in processes other than rank 0.
    """
    start, config = read_start(run_folder), load_config([run_folder / CONFIG_FILE])
    plan, choices = read_plan(run_folder / PLAN_FILE), read_choices(run_folder / CHOICES_FILE)
    arguments = lower(plan, config, run_folder, choices)
    if start.checkpoint is not None:
        arguments["resume_from_checkpoint"] = str(start.checkpoint)
    if not torch.cuda.is_available() and not torch.backends.mps.is_available():
        arguments["use_cpu"] = True  # transformers allows 16-bit autocast on a CPU only with it
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            arguments["ddp_backend"] = "gloo"
    if logs := arguments.get("logging_dir") or os.environ.get(_LOGGING_VARIABLE):
        # transformers reads the variable alone, and ms-swift sets it only where it isn't set.
        arguments["logging_dir"] = os.environ[_LOGGING_VARIABLE] = str(logs)
    join_processes(choices.sharding, float(config.handed_through.get("ddp_timeout") or EXCHANGE_SECONDS))
    callbacks_map[CALLBACK] = partial(PlanCallback, plan=plan, training=config.training, writer=writer)
    if evaluation := config.custom.grounding_eval:
        callbacks_map[GROUNDING_CALLBACK] = partial(
            GroundingEval, rows=evaluation.rows, every=evaluation.every, writer=writer
        )
    if stopping := config.training.early_stopping:
        callbacks_map[STOPPING_CALLBACK] = lambda args, trainer: EarlyStoppingCallback(
            stopping.patience, stopping.min_delta
        )
    if writer:
        writer.write("stage", name="loading the model")
    source = config.source
    folder = Path(source.path)
    if not folder.is_absolute():
        folder = fetch_model(source.path, source.revision, source.hub)
    model_config = read_json(folder / "config.json")
    if not source.trust_remote_code:  # before anything loads the files: they may differ from those of the pre-flight
        refuse_remote_code(model_config, folder, source.path)
    if (fault := correction(model_config)) and plan.swift.model_type:
        correct_prefixes(MODEL_MAPPING[plan.swift.model_type].model_arch, fault)
    os.environ.setdefault("QWENVL_BBOX_FORMAT", "new")  # for rows whose placeholders ms-swift writes: JSON
    pipeline = AlignerSft(to_argv(arguments), config, plan, choices, start)
    if writer:
        writer.write("stage", name="preparing data and optimizer")
    result = pipeline.main()
    callback = pipeline.callback
    best = {"best_checkpoint": result["best_model_checkpoint"], "best_metric": result["best_metric"]}
    asked = run_folder / STOP_FILE
    if callback.stopped and (signal := asked.read_text(encoding="utf-8") if asked.exists() else ""):
        best["signal"] = signal  # by its name
    elif not callback.stopped:
        best["early_stop"] = callback.early_stop
    callback.write(
        "stopped" if callback.stopped else "done",
        tokens=callback.tokens,
        tokens_per_second=round(callback.tokens / max(time.monotonic() - callback.began, 1e-9), 1),
        # Bytes of the GPU, or of the process where there is no GPU.
        peak_memory=torch.cuda.max_memory_allocated()
        or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _MAXRSS_UNIT,
        step=result["global_step"],
        resumable=not pipeline.args.save_only_model,
        checkpoint=result["last_model_checkpoint"],
        **{name: value for name, value in best.items() if value is not None},
    )


def explain(error: Exception, run_folder: Path) -> tuple[str, str | None]:
    """What ended training, in one line, and what to change; None where only the log can say."""
    if isinstance(error, RowError):
        saved = f": the run is saved at step {error.saved_at}" if error.saved_at else ""
        return error.message, f"restore the file, then --resume{saved}" if error.hint else None
    if isinstance(error, SwiftalignError):
        return error.message, error.hint
    text = " ".join(str(error).split()) or "no message"
    if dist.is_initialized() and lost_contact_in(error):
        waited = re.search(r"(\d+) ?ms|\(ms\)=(\d+)", text)
        return lost_contact(int(waited[1] or waited[2]) / 1000 if waited else None)
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return f"the GPU is out of memory: {text[:200]}", (
            "lower training.per_device_train_batch_size (a higher gradient_accumulation_steps keeps the rows per step),"
            " or the size of the images: --set swift.max_pixels=1003520; then --resume where the batch is the same, or "
            "start a new run"
        )
    if "does not require grad and does not have a grad_fn" in text:
        return f"{NO_GRADIENT}: the loss does not depend on it", NO_GRADIENT_HINT
    code = error.errno if isinstance(error, OSError) else None
    if code in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in text or "unexpected pos" in text:
        message = f"the disk is full: {run_folder} can't be written: {text[:200]}"
        return message, "free some space, or set training.save_total_limit; then --resume"
    if code in (errno.EROFS, errno.EACCES, errno.EPERM):
        return f"can't write: {run_folder}: {text[:200]}", "make the run folder writable; then --resume"
    if "Original Traceback (most recent call last):" in text:  # the last line of it says what a loader's worker met
        return " ".join(str(error).split("\n\n")[0].strip().splitlines()[-1].split())[:500], None
    if re.search(r"DataLoader worker \(pid[^)]*\) (exited|is killed)", text):
        hint = "memory may have run out: lower training.dataloader_num_workers; then --resume"
        return f"a process that reads rows has ended: {text[:300]}", hint
    return f"{type(error).__name__}: {text[:500]}", None


def lost_contact_in(error: Exception) -> bool:
    """Whether an error only follows from what happened in another process: its end, or a time of waiting for it."""
    cause = error.__cause__ if isinstance(error, TrainingError) else error
    if isinstance(cause, (dist.DistNetworkError, dist.DistStoreError)):
        return True
    return isinstance(cause, RuntimeError) and _LOST_CONTACT.search(str(cause)) is not None
