"""Ends a run that does not learn: its loss or its weights are not finite, or no gradient reaches what trains."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from swiftalign.model.template import IGNORED
from swiftalign.plan.plan import TuningPlan
from swiftalign.problems import TrainingError, counted

STEPS, LOGS = 10, 2  # a loss that is not finite for so many in a row ends the run
NO_GRADIENT = "no gradient reaches what trains"
NO_GRADIENT_HINT = (
    "something between the loss and these tensors cuts the gradient off, such as a plugin: train without "
    "external_plugins and callbacks; if that does not help, please report this with plan.json and versions.json"
)
_NOT_FINITE_HINT = (
    "start a new run with lower rates (training.aligner_lr, training.learning_rate) or a warm-up "
    "(training.warmup_ratio); a model in float16 needs model.dtype: bfloat16 or float32"
)


class Watch:
    """Watches the steps of a trainer; every process has one, and all of them raise in the same step.

    Reading a number from a GPU waits for it. So on a GPU the losses are counted there, and read at every tenth step.

    Args:
        trainer: ms-swift's trainer, whose ``training_step`` and ``_save_checkpoint`` are watched from now on.
        plan: says which component what trains belongs to.

    Attributes:
        saved: step of the last checkpoint, for messages; 0 if there is none.
    """

    def __init__(self, trainer: Any, plan: TuningPlan) -> None:
        self.trainer, self.plan = trainer, plan
        self._step, self._save = trainer.training_step, trainer._save_checkpoint
        trainer.training_step, trainer._save_checkpoint = self.training_step, self.save_checkpoint
        self._failed: Any = False  # whether a loss of this step is not finite
        self._in_a_row: Any = 0  # number of steps with such a loss, up to the last one
        self._logs = self.saved = 0
        self._gradient_seen = self._image_seen = False

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        labels = inputs.get("labels")
        loss = self._step(model, inputs, *args, **kwargs)
        if labels is not None:  # a batch that only fills up has none to learn, and transformers' mean of none is NaN
            loss = torch.where((labels != IGNORED).any().to(loss.device), loss, 0.0)
        failed = ~torch.isfinite(loss.detach())
        self._failed = failed | self._failed
        return loss

    def see_tokens(self, model: nn.Module, tokens: torch.Tensor) -> None:
        """Note whether the rows have images, until a gradient has been seen: without one, the aligner gets none."""
        if not self._gradient_seen and not self._image_seen:
            image = getattr(model.config, "image_token_id", None)
            self._image_seen = image is None or bool((tokens == image).any())

    def before_optimizer(self) -> None:
        """Look for a gradient after the backward pass of a step, until one has been seen.

        Raises:
            TrainingError: there is none, although there ought to be one.
        """
        if self._gradient_seen or self._failed:  # ms-swift removes gradients that are NaN
            return
        trained = [weight for weight in self.trainer.model.parameters() if weight.requires_grad]
        if self.trainer.is_deepspeed_enabled:  # it has taken the step already, and emptied the gradients
            norm = self.trainer.model_wrapped.get_global_grad_norm()
            self._gradient_seen = norm is None or float(norm) != 0
        else:
            self._gradient_seen = any(bool((each.grad != 0).any()) for each in trained if each.grad is not None)
        always = any(item.component == "llm" for item in self.plan.trainables)
        if not self._gradient_seen and (always or self._image_seen):
            step = self.trainer.state.global_step + 1
            of = counted(len(self.plan.trainables), "tensor")
            raise TrainingError(f"{NO_GRADIENT}: after step {step}, those of all {of} are zero", NO_GRADIENT_HINT)

    def count(self) -> Any:
        """The number of steps in a row, up to this one, whose loss is not finite in this process."""
        self._in_a_row, self._failed = torch.where(self._failed, self._in_a_row + 1, 0), False
        return self._in_a_row

    def after_step(self, count: Any) -> None:
        """Look at the number that `count` gave, or at the highest one of all processes.

        Raises:
            TrainingError: the loss has not been finite for `STEPS` steps.
        """
        step, on_gpu = self.trainer.state.global_step, torch.is_tensor(count) and count.is_cuda
        if (step % STEPS == 0 or not on_gpu) and int(count) >= STEPS:
            raise self._error(f"the loss has not been a finite number since step {step - int(count) + 1}")

    def after_log(self, loss: float) -> None:
        """Look at a logged loss, which is the mean of some steps.

        Raises:
            TrainingError: this log and the one before are not finite.
        """
        self.trainer._tr_loss.zero_()  # transformers subtracts it from itself, which leaves NaN for ever
        self._logs = 0 if torch.isfinite(torch.tensor(loss)) else self._logs + 1
        if self._logs >= LOGS:
            step = self.trainer.state.global_step
            raise self._error(f"the loss is {loss} at step {step}, and was not a finite number in the log before")

    def save_checkpoint(self, *positional: Any, **named: Any) -> None:
        """Save, unless what trains is not finite: it would take the place of a sound checkpoint.

        Raises:
            TrainingError: what trains is not finite.
        """
        args = self.trainer.args
        shares = [getattr(each, "ds_tensor", each) for each in self.trainer.model.parameters() if each.requires_grad]
        failed: Any = any(not torch.isfinite(share.detach()).all() for share in shares)
        if args.world_size > 1:
            failed = torch.tensor(int(failed), device=args.device)
            torch.distributed.all_reduce(failed, torch.distributed.ReduceOp.MAX)
        if failed:
            raise self._error(f"what trains holds NaN or infinity after step {self.trainer.state.global_step}")
        self._save(*positional, **named)
        self.saved = self.trainer.state.global_step

    def _error(self, message: str) -> TrainingError:
        kept = f"checkpoint-{self.saved} is the last one" if self.saved else "no checkpoint was saved"
        return TrainingError(f"{message}; {kept}", _NOT_FINITE_HINT)
