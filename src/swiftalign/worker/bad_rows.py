"""A row that can't be used ends training between two steps, with a checkpoint, in all processes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from swiftalign.data.rows import RowError
from swiftalign.model.template import IGNORED
from swiftalign.worker.callbacks import PlanCallback


def save_before_a_bad_row(trainer: Any, callback: PlanCallback) -> None:
    """Let a `RowError` that comes with the batches of a step be raised after a checkpoint of the step before.

    The trainer reads all batches of a step before it computes anything: weights, optimizer and random generators are
    then those of the step before. Processes whose own rows are sound raise the error too.
    """
    collect, args = trainer.get_batch_samples, trainer.args

    def get_batch_samples(batches: Iterator[Any], count: int, device: torch.device) -> Any:
        errors: list[RowError] = []
        collected = collect(_until_error(batches, errors), count, device)
        failed = len(errors)
        if args.world_size > 1:
            anywhere = torch.tensor(failed, device=args.device)
            torch.distributed.all_reduce(anywhere, torch.distributed.ReduceOp.MAX)
            failed = int(anywhere)
        if not failed:
            return collected
        if args.world_size > 1:
            parts: list[Any] = [None] * args.world_size
            torch.distributed.all_gather_object(parts, [(error.message, error.hint) for error in errors])
            errors = [RowError(*told) for part in parts for told in part]
        if trainer.state.global_step:
            callback.save_now()
            errors[0].saved_at = trainer.state.global_step
        raise errors[0]

    trainer.get_batch_samples = get_batch_samples


def _until_error(batches: Iterator[Any], errors: list[RowError]) -> Iterator[Any]:
    """The batches up to an error, and then one without labels, so that all processes count labels together."""
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except RowError as error:
            errors.append(error)
            yield {"labels": torch.full((1, 2), IGNORED)}
            return
        yield batch
