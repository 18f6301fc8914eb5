"""Pictures in the trackers that a run reports to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from transformers.integrations import TensorBoardCallback, WandbCallback

from swiftalign.data.rows import Rows
from swiftalign.evaluation.pictures import render_worst
from swiftalign.evaluation.predictions import Prediction

ROWS = 4  # in a picture
_NAME = "eval/worst_answers"


def show_answers(trainer: Any, predictions: Sequence[Prediction], rows: Rows) -> None:
    """Send a picture of the worst answers to tensorboard and wandb, where the run reports to them.

    Args:
        trainer: the trainer, whose callbacks write to the trackers.
        rows: the rows that were asked.
    """
    boards = [each for each in trainer.callback_handler.callbacks if isinstance(each, TensorBoardCallback)]
    runs = [each for each in trainer.callback_handler.callbacks if isinstance(each, WandbCallback)]
    if not boards and not runs:
        return
    step = trainer.state.global_step
    picture = render_worst({f"step {step}": predictions}, rows, f"step {step}", count=ROWS)
    for board in boards:
        if board.tb_writer is not None:
            board.tb_writer.add_image(_NAME, np.asarray(picture), step, dataformats="HWC")
    for run in runs:
        if run._wandb is not None and run._initialized:
            run._wandb.log({_NAME: run._wandb.Image(picture), "train/global_step": step})
