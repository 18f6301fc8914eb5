"""What happens beside ms-swift's training loop: checking the optimizer, reporting progress, stopping and saving."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from swift.callbacks.adalora import AdaloraCallback
from swift.callbacks.base import TrainerCallback
from transformers import EarlyStoppingCallback

from swiftalign.config.sections import TrainingSection
from swiftalign.plan.plan import TuningPlan
from swiftalign.runs.events import EventWriter
from swiftalign.runs.folder import STOP_FILE
from swiftalign.worker.compare import compare_optimizer
from swiftalign.worker.watch import Watch
from swiftalign.worker.weights import save_state


class PlanCallback(TrainerCallback):  # type: ignore[misc]  # ms-swift ships no types
    """Compares the optimizer with the plan when it is created, and reports progress.

    Args:
        plan: the run's plan.
        training: says what is saved besides what save_strategy says, and what is not.
        writer: writes the run's events; None in processes other than rank 0.

    Attributes:
        stopped: whether training ends before its last step because a stop was asked for.
        tokens: number of tokens that training has seen in all processes, padding included.
        began: the monotonic clock's seconds when training began.
    """

    def __init__(
        self, args: Any, trainer: Any, *, plan: TuningPlan, training: TrainingSection, writer: EventWriter | None
    ) -> None:
        super().__init__(args, trainer)
        self.plan, self.training, self.writer = plan, training, writer
        self.stopped, self.tokens, self.began = False, 0, 0.0
        self._saved_step = -1
        self._loss_failed: Any = 0  # whether the loss of the last step was not finite
        self._components: list[set[str]] = []  # those of each of the optimizer's groups
        self._create_optimizer, trainer.create_optimizer = trainer.create_optimizer, self.create_optimizer
        self._determine_best_metric = trainer._determine_best_metric
        trainer._determine_best_metric = self.is_to_be_saved
        self._watch = Watch(trainer, plan)

    def write(self, kind: str, **values: Any) -> None:
        """Write an event, on rank 0."""
        if self.writer is not None:
            self.writer.write(kind, **values)

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """Create the trainer's optimizer and compare it with the plan, before DeepSpeed divides its parameters."""
        optimizer = self._create_optimizer(*args, **kwargs)
        names = {id(weight): name for name, weight in self.trainer.model.named_parameters()}
        groups = [[names.get(id(weight), "?") for weight in group["params"]] for group in optimizer.param_groups]
        compare_optimizer(self.plan, groups, optimizer.param_groups)
        planned = {item.parameter: item.component for item in self.plan.trainables}
        self._components = [{planned[name] for name in group if name in planned} for group in groups]
        return optimizer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        for callback in self.trainer.callback_handler.callbacks:
            if isinstance(callback, AdaloraCallback):
                callback.global_step = state.global_step  # ms-swift starts at 0 in a resumed run too
        self._watch.saved = state.global_step
        if state.best_model_checkpoint:  # the run folder may have been moved since
            state.best_model_checkpoint = str(Path(args.output_dir) / Path(state.best_model_checkpoint).name)
        kwargs["model"].register_forward_pre_hook(self._count_tokens, with_kwargs=True)
        self.began = time.monotonic()
        self.write("start", steps=state.max_steps, step=state.global_step)

    def _count_tokens(self, model: Any, args: Any, kwargs: dict[str, Any]) -> None:
        if model.training and kwargs.get("input_ids") is not None:
            self.tokens += kwargs["input_ids"].numel() * self.args.world_size
            self._watch.see_tokens(self.trainer.model, kwargs["input_ids"])

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._watch.before_optimizer()

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        rows = self.trainer.train_dataset.dataset  # ms-swift encodes each row when it is needed
        if hasattr(rows, "set_epoch"):
            rows.set_epoch(int(state.epoch))  # the current epoch also where a run resumes within one

    def save_now(self) -> None:
        """Save a checkpoint between two steps, unless there is one of the last step; every process has to call this."""
        trainer, state = self.trainer, self.trainer.state
        if not (Path(trainer.args.output_dir) / f"checkpoint-{state.global_step}/trainer_state.json").exists():
            trainer._save_checkpoint(trainer.model_wrapped, trial=None)
            trainer.callback_handler.on_save(trainer.args, state, trainer.control)
        if trainer.args.world_size > 1:  # a process that ends makes the launcher end the others
            torch.distributed.barrier()

    def _too_early(self) -> bool:
        """Whether the run is still before save_delay_steps or save_delay_epochs."""
        state, training = self.trainer.state, self.training
        return bool(state.global_step < training.save_delay_steps or state.epoch < training.save_delay_epochs)

    def is_to_be_saved(self, metrics: dict[str, float], trial: Any) -> bool:
        """Compare an evaluation with the best one so far; instead of the trainer's ``_determine_best_metric``.

        With ``save_strategy: best`` the trainer saves if this is true, and forgets what was to be saved anyway: the
        end of the run, or the step at which it was asked to stop. An evaluation that comes too early is not compared.
        """
        asked: bool = self.trainer.control.should_save
        is_best = not self._too_early() and self._determine_best_metric(metrics=metrics, trial=trial)
        return is_best or asked

    def _save_as_configured(self, state: Any, control: Any) -> None:
        """Correct the decision of transformers and ms-swift to save at the end of a step or epoch."""
        if self.training.save_strategy == "best" or self._too_early():
            control.should_save = False  # the evaluation decides; ms-swift would also save the last step
        elif control.should_save and self._loss_failed:
            control.should_save = False  # with save_total_limit, it would take the place of a good checkpoint
        self._save_end(state, control)

    def _save_end(self, state: Any, control: Any) -> None:
        ends = control.should_training_stop and not self.stopped
        if self.training.save_last_epoch and ends and self._saved_step != state.global_step:
            control.should_save = True

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._save_end(state, control)  # early stopping may just have ended the run

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.write("step", step=state.global_step)
        stop: Any = (Path(args.output_dir) / STOP_FILE).exists()
        not_finite = self._watch.count()  # steps in a row
        if args.world_size > 1:  # every process gets the same answer
            told = torch.stack([torch.as_tensor(each, device=args.device).int() for each in (stop, not_finite)])
            torch.distributed.all_reduce(told, torch.distributed.ReduceOp.MAX)
            stop, not_finite = told.tolist()
        self._watch.after_step(not_finite)
        self._loss_failed = not_finite
        self._save_as_configured(state, control)
        if stop and not control.should_training_stop:
            self.stopped = control.should_training_stop = True
            args.load_best_model_at_end = False  # the run is not finished
            control.should_save = not float(state.epoch).is_integer()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._save_as_configured(state, control)
        if self.stopped:
            # A finished epoch is evaluated and then saved: a resumed run begins with the next epoch.
            control.should_save = finished = float(state.epoch).is_integer()
            control.should_evaluate = control.should_evaluate and finished

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        numbers = {name: value for name, value in (logs or {}).items() if isinstance(value, (int, float))}
        if "loss" in numbers:  # add the current learning rate of each component
            groups = zip(self._components, kwargs["optimizer"].param_groups, strict=False)
            numbers |= {f"rate_{each}": float(group["lr"]) for components, group in groups for each in components}
        self.write("log", step=state.global_step, **numbers)
        if "loss" in numbers:
            self._watch.after_log(numbers["loss"])

    @property
    def early_stop(self) -> dict[str, Any] | None:
        """What early stopping waited for in vain; None where it did not end the run."""
        state, callbacks = self.trainer.state, self.trainer.callback_handler.callbacks
        for callback in callbacks:
            if isinstance(callback, EarlyStoppingCallback) and state.global_step < state.max_steps:
                waited, metric = callback.early_stopping_patience_counter, str(self.trainer.args.metric_for_best_model)
                if waited >= callback.early_stopping_patience:
                    return {"metric": metric.removeprefix("eval_"), "best": state.best_metric, "evaluations": waited}
        return None

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._saved_step, training = state.global_step, self.training
        if control.should_training_stop and (self.stopped or training.save_last_epoch or not training.keeps_best):
            args.save_total_limit = None  # at the end, with a limit of 1, transformers deletes all but the best
        folder = f"{args.output_dir}/checkpoint-{state.global_step}"
        if self.plan.ranks_may_shrink and args.should_save:
            save_state(kwargs["model"], Path(folder))
        self.write("saved", step=state.global_step, path=folder)
