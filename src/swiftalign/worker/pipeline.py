"""ms-swift's training pipeline, given a plan and compared with it."""

from __future__ import annotations

import copy
import os
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from swift.dataloader import DataLoaderShard
from swift.pipelines.train.sft import SwiftSft

from swiftalign.augment.pipeline import run_pipeline
from swiftalign.augment.rows import TrainingRows
from swiftalign.checks.learned import NotLearnedError, sampled
from swiftalign.config.sections import Config
from swiftalign.config.sharding import stage
from swiftalign.data.encoded import TemplateEncoder
from swiftalign.data.encoding import encoding_of
from swiftalign.data.rows import Mixture, Rows
from swiftalign.model.components import Correction
from swiftalign.model.families import find
from swiftalign.model.family import Family
from swiftalign.model.template import use_own_tokens
from swiftalign.plan.plan import TuningPlan
from swiftalign.plan.schedule import split_rows
from swiftalign.problems import SwiftalignError, counted
from swiftalign.runs.events import is_main_process
from swiftalign.runs.folder import Start, read_index, read_left_out
from swiftalign.speed.choices import Choices
from swiftalign.worker.apply_choices import speed_up_model, speed_up_trainer
from swiftalign.worker.bad_rows import save_before_a_bad_row
from swiftalign.worker.batches import FilledRows, global_batches, train_dataloader
from swiftalign.worker.callbacks import PlanCallback
from swiftalign.worker.compare import compare_model
from swiftalign.worker.sharding import autocast, divide, keep_divided, loading, make_whole
from swiftalign.worker.sync_free import SyncFreeLoader, clip_without_waiting, make_sync_free
from swiftalign.worker.targets import exact_targets, freeze_rank_numbers
from swiftalign.worker.weights import carry_weights, load_state, write_initial
from swiftalign.worker.workers import plan_loading, seconds_per_row


def correct_prefixes(keys: Any, fault: Correction) -> None:
    """Give ms-swift the right prefixes of a model's components, which its flags and its optimizer follow.

    Its arguments read them too, so this comes before the pipeline.

    Args:
        keys: ms-swift's `MultiModelKeys` of the model's type.
        fault: what is wrong with them.
    """
    ours = {
        "language_model": fault.llm,
        "vision_tower": fault.vit,
        "aligner": fault.aligner,
        "generator": fault.generator,
    }
    for name, prefixes in ours.items():
        if prefixes is not None:
            setattr(keys, name, list(prefixes))


class AlignerSft(SwiftSft):  # type: ignore[misc]  # ms-swift ships no types
    """`swift sft` for a plan.

    It differs from ms-swift's own in four points. Rows are read by this toolkit, and a bad row is an error, never
    replaced by another row. The image token comes from the model's config. What trains is float32 where the plan says
    so. And training does not begin unless the model trains exactly what is in the plan.

    Args:
        arguments: ms-swift's command line.
        config: the run's configuration.
        plan: the run's plan.
        choices: how the run is made fast.
        start: where training begins.

    Attributes:
        callback: the run's `PlanCallback`, once training has begun.
        rows: the training rows, in their order.
        mixture: which of them an epoch takes, if files have weights.
    """

    def __init__(self, arguments: list[str], config: Config, plan: TuningPlan, choices: Choices, start: Start) -> None:
        self.config, self.plan, self.choices, self.start = config, plan, choices, start
        super().__init__(arguments)  # calls `_prepare_template`

    def _prepare_model_tokenizer(self, **kwargs: Any) -> None:
        with loading(self.choices.sharding):
            super()._prepare_model_tokenizer(**kwargs)

    def _prepare_template(self) -> None:
        super()._prepare_template()
        use_own_tokens(self.template, vars(self.model.config))
        # Not by ms-swift's argument, which insists on flash-attn.
        self.template.padding_free = self.choices.padding_free

    def _get_dataset(self) -> tuple[Rows | TrainingRows, Rows | None]:
        args, folder, data = self.args, Path(self.args.output_dir), self.config.data
        index, left_out, writing = read_index(folder), read_left_out(folder), encoding_of(self.config).writing
        train, val = (
            Rows(sources, left_out, writing, index) if sources else None
            for sources in (data.sources("train"), data.sources("val"))
        )
        assert train is not None
        encoder = TemplateEncoder(self.template, writing)
        for rows in (train, val) if not self.start.unchecked else ():
            for problem in sampled(rows, encoder) if rows else ():
                if problem.severity != "error":
                    continue
                raise NotLearnedError(f"{problem.where}: [{problem.code}] {problem.message}", problem.advice)
        random = np.random.default_rng(args.data_seed)
        if val is None and args.split_dataset_ratio > 0:
            count = split_rows(len(train), args.split_dataset_ratio)
            order = random.permutation(len(train))
            train, val = train.reordered(np.sort(order[count:])), train.reordered(np.sort(order[:count]))
        if args.dataset_shuffle:
            train = train.reordered(random.permutation(len(train)))
        self.rows, settings = train, self.config.custom.augmentation
        mixed = any(file.source.weight != 1 for file in train.files)
        mixture = Mixture(train, args.data_seed or 0, shuffle=args.dataset_shuffle) if mixed else None
        self.mixture = mixture
        pipeline = run_pipeline(self.config) if settings and settings.enabled else None
        if not (pipeline or mixture):
            return train, val
        return TrainingRows(train, pipeline, mixture), val

    def _lengths(self) -> list[int]:
        """Tokens of each sample, nearly; of a mixture, those of the first epoch."""
        lengths, mixture = self.rows.lengths(encoding_of(self.config).limits), self.mixture
        return lengths if mixture is None else [lengths[index] for index in mixture.picked(0)[0].tolist()]

    def _post_process_datasets(self, datasets: list[Any]) -> list[Any]:
        encode, strict = self.template.encode, self.args.strict
        return [None if rows is None else FilledRows(rows, encode, strict=strict) for rows in datasets]

    def prepare_model(self, args: Any, model: Any, **kwargs: Any) -> Any:
        plan = self.plan
        if plan.ranks_may_shrink:  # pruned factors can't be loaded: begin with whole ones; `train` loads the state
            args = copy.copy(args)
            args.resume_from_checkpoint, args.adapters = None, []
        with exact_targets(model):
            model = super().prepare_model(args, model, **kwargs)
        freeze_rank_numbers(model)
        make_whole(model)
        dtypes = {item.parameter: item.dtype for item in plan.trainables}
        for name, weight in model.named_parameters():
            if weight.requires_grad and dtypes.get(name) == "float32":
                weight.data = weight.data.float()
        compare_model(plan, model)
        if self.start.weights is not None:
            carry_weights(plan, model, self.start.weights)
        if self.args.resume_from_checkpoint is None and is_main_process():
            write_initial(plan, model, Path(args.output_dir))
        speed_up_model(model, plan, self.choices, tf32=args.tf32)
        if self.choices.sharding.startswith("fsdp2"):
            divide(model, plan, offload=self.choices.sharding.endswith("offload"))
        return model

    def _handle_trainer_state(self, trainer: Any, is_write_rank: bool) -> None:
        """Link ``last`` and ``best`` to the checkpoints, with create_checkpoint_symlink.

        ms-swift fails if there is no best model, and if a resumed run has its links already. It would also give the
        links as the paths of the checkpoints.
        """
        state = trainer.state
        state.last_model_checkpoint = getattr(state, "last_model_checkpoint", None)
        if not self.args.create_checkpoint_symlink or not is_write_rank:
            return
        for name, checkpoint in (("last", state.last_model_checkpoint), ("best", state.best_model_checkpoint)):
            if checkpoint:
                link = Path(trainer.args.output_dir) / name
                link.unlink(missing_ok=True)
                link.symlink_to(Path(checkpoint).name)

    def _save_trainer_state(self, trainer: Any) -> Any:
        """As ms-swift does, without its pictures of tensorboard's curves in ``images``.

        They take two seconds at the end of every run, and leave out what a run logged before it was resumed. The run
        folder gets its own picture.
        """
        args = trainer.args
        reported, args.report_to = args.report_to, []
        try:
            return super()._save_trainer_state(trainer)
        finally:
            args.report_to = reported

    def train(self, trainer: Any) -> Any:
        config, plan, choices, args = self.config, self.plan, self.choices, trainer.args
        self.callback = next(each for each in trainer.callback_handler.callbacks if isinstance(each, PlanCallback))
        if choices.sharding.startswith("fsdp2"):
            keep_divided(trainer, plan)
        elif stage(choices.sharding) is not None:
            trainer.compute_loss_context_manager = partial(autocast, trainer)
        if plan.ranks_may_shrink:
            trainer._load_from_checkpoint = lambda folder, model=None: load_state(trainer.model, Path(folder))
            trainer._load_best_model = lambda: load_state(trainer.model, Path(trainer.state.best_model_checkpoint))
        sync_free = choices.padding_free and (find(plan.model_type) or Family).sync_free
        if choices.sharding == "device_map":
            sync_free = False  # it gives all layers the tensors of one GPU
        tensor_parallel = isinstance(args.deepspeed, dict) and "tensor_parallel" in args.deepspeed
        special = args.dataloader_drop_last or args.dataloader_multiprocessing_context or tensor_parallel
        rows, samples = trainer.train_dataset.dataset, plan.schedule.samples
        if not special and self.template.sequence_parallel_size == 1:
            loader = SyncFreeLoader if sync_free else DataLoaderShard
            lengths = self._lengths() if args.group_by_length else None
            trainer.get_train_dataloader = partial(train_dataloader, trainer, loader=loader, lengths=lengths)
            if isinstance(rows, TrainingRows):
                assert samples is not None
                rows.follow(global_batches(trainer, lengths).order, samples)
        elif isinstance(rows, TrainingRows) and rows.pipeline and rows.pipeline.settings.curriculum:
            message = "custom.augmentation.curriculum: with tensor parallelism, ms-swift orders the rows in its own way"
            raise SwiftalignError(message, "remove tensor_parallel from the DeepSpeed settings, or the curriculum")
        if sync_free:
            make_sync_free(trainer)
        if not trainer.is_deepspeed_enabled:
            clip_without_waiting(trainer)
        save_before_a_bad_row(trainer, self.callback)
        speed_up_trainer(trainer, plan, choices)
        if choices.seconds and config.training.dataloader_num_workers is None:
            # As many as keep the GPU busy; the rows are the same with any number.
            processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
            row_seconds = seconds_per_row(trainer.train_dataset, trainer.data_collator)
            workers, problem = plan_loading(row_seconds, choices.batch, choices.seconds, processes=processes)
            args.dataloader_num_workers = workers
            text = f"{1 / row_seconds:.0f} rows/s per core, {counted(workers, 'worker')}"
            self.callback.write("note", name="loader", text=text)
            if problem:
                self.callback.write("finding", severity=problem.severity, **asdict(problem))
        return super().train(trainer)
