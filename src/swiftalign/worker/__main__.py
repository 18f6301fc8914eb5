"""What runs in each training process: ms-swift's own pipeline, told by the plan and held to it.

``python -m swiftalign.worker RUN_FOLDER``, by itself or under torchrun, reads there what to train and from
where. Everything hooks into `SwiftSft`'s extension points. ms-swift, peft and transformers are not patched; a few
methods of the live model and trainer are replaced where speed asks for it, in `ready.py`.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from swift.callbacks import callbacks_map
from swift.callbacks.adalora import AdaloraCallback
from swift.callbacks.base import TrainerCallback
from swift.dataloader import DataLoaderShard
from swift.pipelines.train.sft import SwiftSft
from swift.utils import safe_snapshot_download
from transformers import EarlyStoppingCallback

from swiftalign.augment.pipeline import run_pipeline
from swiftalign.augment.rows import AugmentedRows
from swiftalign.checkpoint.values import INITIAL_FILE
from swiftalign.config.load import load_config
from swiftalign.config.sections import Config, EarlyStoppingSection
from swiftalign.data.encoding import encoding_of
from swiftalign.data.rows import Rows
from swiftalign.files import write_whole
from swiftalign.model.read import refuse_remote_code
from swiftalign.model.template import use_own_tokens
from swiftalign.plan.plan import TuningPlan, read_plan
from swiftalign.plan.schedule import split_rows
from swiftalign.problems import SwiftalignError
from swiftalign.runs.events import EventWriter, is_main_process
from swiftalign.runs.folder import CHOICES_FILE, STOP_FILE, read_index, read_left_out, read_start
from swiftalign.runs.guard import end_with_launcher
from swiftalign.runs.lowering import CALLBACK, GROUNDING_CALLBACK, STOPPING_CALLBACK, lower, to_argv
from swiftalign.speed.choices import Choices, read_choices
from swiftalign.worker.adalora import load_state, save_state
from swiftalign.worker.apply_choices import speed_up_model, speed_up_trainer
from swiftalign.worker.batches import FilledRows, replaces_dataloader, train_dataloader
from swiftalign.worker.carry import carry_weights
from swiftalign.worker.compare import compare_model, compare_optimizer
from swiftalign.worker.endings import explain
from swiftalign.worker.grounding_eval import GroundingEval
from swiftalign.worker.sync_free import READY_TYPES, ReadyLoader, make_ready
from swiftalign.worker.workers import cores_here, plan_loading, seconds_a_row


class AlignerSft(SwiftSft):  # type: ignore[misc]  # ms-swift ships no types
    """`swift sft` on a plan.

    Differs from stock in: rows are read by this toolkit and are never swapped for others; the image token comes from
    the model's config; what trains is float32 where the plan says so; and nothing trains that is not in the plan.
    """

    plan: TuningPlan  # set before the pipeline is built: ms-swift calls prepare_model on the class
    config: Config
    weights: Path | None  # a checkpoint to begin with
    choices: Choices
    rows: Rows  # that train, in their order

    def _prepare_template(self) -> None:
        super()._prepare_template()
        use_own_tokens(self.template, vars(self.model.config))
        # Not ms-swift's argument: that one insists on flash-attn.
        self.template.padding_free = self.choices.padding_free

    def _get_dataset(self) -> tuple[Rows | AugmentedRows, Rows | None]:
        args = self.args
        folder, text = Path(args.output_dir), self.config.data.text
        index, left_out = read_index(folder), read_left_out(folder)
        train, val = (
            Rows([Path(name) for name in names], left_out, text, index) if names else None
            for names in (args.dataset, args.val_dataset)
        )
        assert train is not None
        random = np.random.default_rng(args.data_seed)
        if val is None and args.split_dataset_ratio > 0:
            count = split_rows(len(train), args.split_dataset_ratio)
            order = random.permutation(len(train))
            train, val = train.reordered(np.sort(order[count:])), train.reordered(np.sort(order[:count]))
        if args.dataset_shuffle:
            train = train.reordered(random.permutation(len(train)))
        self.rows = train
        return self._augmented(train), val

    def _augmented(self, rows: Rows) -> Rows | AugmentedRows:
        settings = self.config.custom.augmentation
        if settings is None or not settings.enabled:
            return rows
        augmented = AugmentedRows(rows, run_pipeline(self.config))
        PlanCallback.set_epoch = augmented.set_epoch
        return augmented

    def _post_process_datasets(self, datasets: list[Any]) -> list[Any]:
        return [
            None if rows is None else FilledRows(rows, self.template.encode, strict=self.args.strict)
            for rows in datasets
        ]

    @classmethod
    def prepare_model(cls, args: Any, model: Any, **kwargs: Any) -> Any:
        if cls.plan.ranks_may_shrink:  # pruned factors can't be loaded: begin with whole ones, and see `train`
            with _attributes(args, resume_from_checkpoint=None, adapters=[]):
                model = super().prepare_model(args, model, **kwargs)
        else:
            model = super().prepare_model(args, model, **kwargs)
        planned = {item.parameter: item.dtype for item in cls.plan.trainables}
        for name, weight in model.named_parameters():
            if weight.requires_grad and planned.get(name) == "float32":
                weight.data = weight.data.float()
        compare_model(cls.plan, model)
        if cls.weights is not None:
            carry_weights(cls.plan, model, cls.weights)
        speed_up_model(model, cls.choices)
        return model

    def train(self, trainer: Any) -> Any:
        if self.plan.ranks_may_shrink:
            trainer._load_from_checkpoint = lambda folder, model=None: load_state(trainer.model, Path(folder))
            trainer._load_best_model = lambda: load_state(trainer.model, Path(trainer.state.best_model_checkpoint))
        ready = self.choices.padding_free and self.plan.model_type in READY_TYPES
        if replaces_dataloader(trainer.args) and self.template.sequence_parallel_size == 1:
            loader = ReadyLoader if ready else DataLoaderShard
            limits = encoding_of(self.config).limits
            lengths = self.rows.lengths(limits) if trainer.args.group_by_length else None
            trainer.get_train_dataloader = partial(train_dataloader, trainer, loader=loader, lengths=lengths)
        if ready:
            make_ready(trainer)
        speed_up_trainer(trainer, self.choices)
        if self.choices.seconds and self.config.training.dataloader_num_workers is None:
            self._choose_workers(trainer)
        return super().train(trainer)

    def _choose_workers(self, trainer: Any) -> None:
        """As many as the GPU needs; rows are the same with any number."""
        processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        row = seconds_a_row(trainer.train_dataset)
        batch, seconds = self.choices.batch, self.choices.seconds
        loading = plan_loading(row, batch, float(seconds or 0), processes=processes, cores=cores_here())
        trainer.args.dataloader_num_workers = loading.workers
        if PlanCallback.writer:
            PlanCallback.writer.write("note", name="loader", text=str(loading))
            if loading.finding:
                PlanCallback.writer.write("finding", **loading.finding.to_json())


@contextmanager
def _attributes(item: Any, **values: Any) -> Iterator[None]:
    """Other values for a while."""
    kept = {name: getattr(item, name) for name in values}
    vars(item).update(values)
    try:
        yield
    finally:
        vars(item).update(kept)


class PlanCallback(TrainerCallback):  # type: ignore[misc]
    """Compares the live optimizer with the plan before the first step, and reports progress."""

    writer: EventWriter | None = None
    plan: TuningPlan
    set_epoch: Callable[[int], None] | None = None
    stopped = False
    tokens = 0  # that training has seen, padding included
    began = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        compare_optimizer(self.plan, kwargs["model"], kwargs["optimizer"])
        for callback in self.trainer.callback_handler.callbacks:
            if isinstance(callback, AdaloraCallback):
                callback.global_step = state.global_step  # it begins at 0 in a resumed run too
        if self.writer is not None and state.global_step == 0:
            self._keep_initial(kwargs["model"], Path(args.output_dir))
        kwargs["model"].register_forward_pre_hook(self._count_tokens, with_kwargs=True)
        type(self).began = time.monotonic()
        self._write("start", steps=state.max_steps, step=state.global_step)

    def _count_tokens(self, model: Any, args: Any, kwargs: dict[str, Any]) -> None:
        if model.training and kwargs.get("input_ids") is not None:
            type(self).tokens += kwargs["input_ids"].numel() * self.args.world_size

    def _keep_initial(self, model: Any, folder: Path) -> None:
        """Digests of what trains, before it does: by them verify-ckpt tells what has moved."""
        keys = {item.parameter: item.key for item in self.plan.trainables}
        digests = {
            keys[name]: hashlib.sha256(weight.detach().cpu().contiguous().view(torch.uint8).numpy()).hexdigest()
            for name, weight in model.named_parameters()
            if name in keys
        }
        write_whole(folder / INITIAL_FILE, json.dumps(digests, indent=1))

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.set_epoch is not None:
            self.set_epoch(int(state.epoch))  # of a run that resumes amid an epoch, that epoch

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._write("step", step=state.global_step)
        if not control.should_training_stop and self._stop_asked(args):
            type(self).stopped = control.should_training_stop = True
            args.load_best_model_at_end = False  # of a run that is not over
            control.should_save = not _ends_epoch(state)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.stopped:
            # An epoch that is over is evaluated and then saved: a resumed run begins with the next one.
            control.should_save = _ends_epoch(state)
            control.should_evaluate = control.should_evaluate and _ends_epoch(state)

    def _stop_asked(self, args: Any) -> bool:
        """The same answer in every process."""
        asked = (Path(args.output_dir) / STOP_FILE).exists()
        if args.world_size == 1:
            return asked
        flag = torch.tensor(int(asked), device=args.device)
        torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX)
        return bool(flag)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        numbers = {name: value for name, value in (logs or {}).items() if isinstance(value, (int, float))}
        if "loss" in numbers:
            numbers |= self._rates(kwargs["model"], kwargs["optimizer"])
        self._write("log", step=state.global_step, **numbers)

    def _rates(self, model: Any, optimizer: Any) -> dict[str, float]:
        """The learning rate of each component, as it is now."""
        components = {item.parameter: item.component for item in self.plan.trainables}
        names = {id(weight): name for name, weight in model.named_parameters() if name in components}
        rates = {
            components[names[id(weight)]]: group["lr"]
            for group in optimizer.param_groups
            for weight in group["params"]
            if id(weight) in names
        }
        return {f"rate_{component}": float(rate) for component, rate in rates.items()}

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.plan.ranks_may_shrink and args.should_save:
            save_state(kwargs["model"], Path(args.output_dir) / f"checkpoint-{state.global_step}")
        self._write("saved", step=state.global_step, path=f"{args.output_dir}/checkpoint-{state.global_step}")

    def _write(self, kind: str, **values: Any) -> None:
        if self.writer is not None:
            self.writer.write(kind, **values)


def _ends_epoch(state: Any) -> bool:
    return float(state.epoch).is_integer()


def _early_stopping(settings: EarlyStoppingSection, args: Any, trainer: Any) -> EarlyStoppingCallback:
    return EarlyStoppingCallback(settings.patience, settings.min_delta)


def _peak_memory() -> int:
    """Bytes: of the GPU, or of the process where there is none."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _refuse_remote_code(config: Config) -> None:
    """Look at a hub model's files before anything loads them; a local folder was looked at in pre-flight."""
    if not config.model.trust_remote_code and not Path(config.model.path).is_absolute():
        source = config.model.path
        folder = safe_snapshot_download(source, revision=config.model.revision, use_hf=config.hub == "huggingface")
        refuse_remote_code(Path(folder), {}, source)


def run(run_folder: Path, writer: EventWriter | None) -> None:
    """Train as the run folder says."""
    start = read_start(run_folder)
    config, plan = load_config([run_folder / "config.yaml"]), read_plan(run_folder / "plan.json")
    choices = read_choices(run_folder / CHOICES_FILE)
    arguments = lower(plan, config, run_folder, choices)
    if start.checkpoint is not None:
        arguments["resume_from_checkpoint"] = str(start.checkpoint)
    if not torch.cuda.is_available() and not torch.backends.mps.is_available():
        arguments["use_cpu"] = True  # 16-bit autocast on a CPU must be asked for
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            arguments["ddp_backend"] = "gloo"
    AlignerSft.plan = PlanCallback.plan = plan
    AlignerSft.config, AlignerSft.weights, AlignerSft.choices = config, start.weights, choices
    PlanCallback.writer = writer
    callbacks_map[CALLBACK] = PlanCallback
    if config.custom.grounding_eval is not None:
        settings = config.custom.grounding_eval
        callbacks_map[GROUNDING_CALLBACK] = partial(GroundingEval, rows=settings.rows, every=settings.every)
    if config.training.early_stopping is not None:
        callbacks_map[STOPPING_CALLBACK] = partial(_early_stopping, config.training.early_stopping)
    if writer:
        writer.write("stage", name="loading the model")
    _refuse_remote_code(config)
    pipeline = AlignerSft(to_argv(arguments))
    if writer:
        writer.write("stage", name="preparing data and optimizer")
    result = pipeline.main()
    if writer:
        best = {"best_checkpoint": result["best_model_checkpoint"], "best_metric": result["best_metric"]}
        last = result["last_model_checkpoint"]
        writer.write(
            "stopped" if PlanCallback.stopped else "done",
            tokens=PlanCallback.tokens,
            tokens_per_second=round(PlanCallback.tokens / max(time.monotonic() - PlanCallback.began, 1e-9), 1),
            peak_memory=_peak_memory(),
            step=result["global_step"],
            checkpoint=last,
            **{k: v for k, v in best.items() if v is not None},
        )


def main(argv: list[str]) -> int:
    """Run, and turn an exception into an event; the traceback goes to the log."""
    run_folder = Path(argv[0])
    end_with_launcher()
    writer = EventWriter(run_folder) if is_main_process() else None
    try:
        run(run_folder, writer)
    except SwiftalignError as error:
        traceback.print_exc()
        _tell(run_folder, writer, error.message, error.hint, error.exit_code)
        return error.exit_code
    except Exception as error:
        traceback.print_exc()
        _tell(run_folder, writer, *explain(error), 1)
        return 1
    return 0


def _tell(run_folder: Path, writer: EventWriter | None, message: str, hint: str | None, exit_code: int) -> None:
    """Report an error, from whichever process it is."""
    (writer or EventWriter(run_folder)).write("error", message=message, hint=hint, exit_code=exit_code)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
