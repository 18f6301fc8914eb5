"""Evaluation by generation: what the model writes for validation images, scored as boxes, quads and lines.

The model writes through ms-swift's own inference engine, on the weights and the template that train, as
``predict_with_generate`` does; that setting would drop the loss from the metrics, though.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.distributed
from PIL import Image
from swift.callbacks.base import TrainerCallback
from swift.infer_engine import RequestConfig, TransformersEngine
from swift.utils import unwrap_model_for_generation

from swiftalign.data.accuracy import Scores
from swiftalign.data.answers import parse_answer
from swiftalign.data.metrics import METRICS
from swiftalign.data.records import TextTarget
from swiftalign.problems import DataError

# Room for an answer longer than the true one, in tokens.
_LONGER, _MORE = 1.25, 32

_SAMPLE_SEED = 0


@dataclass(frozen=True)
class Question:
    """What the model is asked by a validation row, and what it ought to write.

    Attributes:
        index: of the row: its image is opened when it is asked.
        answer: the true one, as the model is taught to write it.
        truth: targets read from the answer.
        width: of the image, in pixels.
        height: likewise.
    """

    index: int
    answer: str
    truth: tuple[TextTarget, ...]
    width: int
    height: int


def to_question(rows: Sequence[dict[str, Any]], index: int) -> Question | None:
    """A row in ms-swift's layout as a question; None unless it has one image and ends with a grounding answer."""
    row = rows[index]
    last, images = row["messages"][-1], row.get("images") or []
    if last["role"] != "assistant" or not isinstance(last.get("content"), str):
        return None
    if len(images) != 1 or not isinstance(images[0], Image.Image):
        return None
    truth = parse_answer(last["content"])
    if not truth.sound:
        return None
    return Question(index, last["content"], truth.targets, *images[0].size)


def asked(row: dict[str, Any]) -> dict[str, Any]:
    """A row without its answer."""
    return {**row, "messages": row["messages"][:-1]}


def choose_questions(rows: Sequence[dict[str, Any]], count: int) -> list[Question]:
    """Up to `count` questions, drawn from all over the rows and always the same ones.

    Raises:
        DataError: no row is one.
    """
    questions: list[Question] = []
    for index in np.random.default_rng(_SAMPLE_SEED).permutation(len(rows)).tolist():
        question = to_question(rows, index)
        if question is not None:
            questions.append(question)
            if len(questions) == count:
                break
    if not questions:
        hint = "grounding_eval needs rows with 'objects', or messages that end with such an answer in JSON"
        raise DataError("no validation row asks for boxes, quads or lines", hint)
    return questions


def require_kind(metric: str | None, questions: Sequence[Question]) -> None:
    """Raise where the best model is to be told by a kind of target that no question asks for.

    Raises:
        DataError: naming the metric.
    """
    kind = METRICS.get((metric or "").removeprefix("eval_"))
    if kind and not any(target.kind == kind for question in questions for target in question.truth):
        message = f"metric_for_best_model: {metric}, but none of the {len(questions)} rows to answer holds a {kind}"
        raise DataError(message, "raise custom.grounding_eval.rows, or name another metric")


def share(count: int, rank: int, processes: int) -> list[tuple[int, bool]]:
    """The indices that a process takes of `count`, and whether each counts.

    All processes take equally many, since a sharded model needs every one at each step; what is left over is filled up
    with indices that another process counts.
    """
    full = -(-count // processes) * processes
    return [(index % count, index < count) for index in range(rank, full, processes)]


class GroundingEval(TrainerCallback):  # type: ignore[misc]  # ms-swift ships no types
    """Adds ``eval_bbox_acc`` and the other numbers of `Scores.metrics` to each evaluation.

    They reach the best-model choice through `metrics`, and the log history, tensorboard and the events through the
    trainer's log. Training goes on as if nothing had been generated.

    Args:
        rows: how many validation rows to answer.
        every: answer them at each n-th evaluation, the first among them.
    """

    def __init__(self, args: Any, trainer: Any, *, rows: int, every: int = 1) -> None:
        super().__init__(args, trainer)
        self.rows = rows
        self.every = every

    @cached_property
    def questions(self) -> list[Question]:
        """By the length of their answers, so that those of a batch end together."""
        return sorted(choose_questions(self._dataset, self.rows), key=self._tokens)

    @property
    def _dataset(self) -> Sequence[dict[str, Any]]:
        return getattr(self.trainer.eval_dataset, "dataset", ())  # ms-swift encodes them when their turn comes

    def _tokens(self, question: Question) -> int:
        return len(self.trainer.template.tokenizer.encode(question.answer, add_special_tokens=False))

    @cached_property
    def _engine(self) -> TransformersEngine:
        size = self.args.per_device_eval_batch_size
        return TransformersEngine(self.trainer.model, template=self.trainer.template, max_batch_size=size)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        require_kind(args.metric_for_best_model, self.questions)  # before the first step

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: dict[str, float] | None = None, **kwargs: Any
    ) -> None:
        # Counted by the log, which a resumed run takes over.
        evaluations = sum("eval_loss" in entry for entry in state.log_history)
        if metrics is None or (evaluations - 1) % self.every:
            return
        values = {f"eval_{name}": value for name, value in self.score().metrics().items()}
        metrics.update(values)
        self.trainer.log(values)

    def score(self) -> Scores:
        """What all processes' answers come to."""
        scores, state = Scores(), self.trainer.accelerator.state
        shared = share(len(self.questions), state.process_index, state.num_processes)
        size = self.args.per_device_eval_batch_size
        with _generating(self.trainer):
            for first in range(0, len(shared), size):
                batch = [(self.questions[index], counts) for index, counts in shared[first : first + size]]
                add_answers(scores, batch, self._write([question for question, _ in batch]))
        return _of_all(scores, state.num_processes)

    def _write(self, questions: list[Question]) -> list[str]:
        """What the model writes, greedily."""
        limit = int(max(map(self._tokens, questions)) * _LONGER) + _MORE
        request = RequestConfig(max_tokens=limit, temperature=0)
        replies = self._engine.infer(
            [asked(self._dataset[question.index]) for question in questions], request, use_tqdm=False
        )
        return [reply.choices[0].message.content for reply in replies]


def _of_all(scores: Scores, processes: int) -> Scores:
    """The sums of all processes."""
    if processes == 1:
        return scores
    parts: list[Any] = [None] * processes
    torch.distributed.all_gather_object(parts, scores)
    total = Scores()
    for part in parts:
        total.merge(part)
    return total


def add_answers(scores: Scores, batch: Sequence[tuple[Question, bool]], texts: Sequence[str]) -> None:
    """Score what was written for questions that count."""
    for (question, counts), text in zip(batch, texts, strict=True):
        if counts:
            scores.add(parse_answer(text), question.truth, question.width, question.height)


@contextmanager
def _generating(trainer: Any) -> Iterator[None]:
    """The model and the template as generation needs them, and afterwards as they were."""
    template, model, training = trainer.template, trainer.model, trainer.model.training
    packing, padding_free = template.packing, template.padding_free
    whole = unwrap_model_for_generation(
        trainer.model_wrapped, trainer.accelerator, gather_deepspeed3_params=trainer.args.ds3_gather_for_generation
    )
    # peft generates past the model's own forward, which is where the trainer puts autocast.
    with _random_kept(), whole, template.generate_context(), trainer.accelerator.autocast():
        template.packing = template.padding_free = False
        try:
            yield
        finally:
            template.packing, template.padding_free = packing, padding_free
            model.train(training)


@contextmanager
def _random_kept() -> Iterator[None]:
    """Leaves every generator that training draws from as it was."""
    python, numpy = random.getstate(), np.random.get_state()
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
