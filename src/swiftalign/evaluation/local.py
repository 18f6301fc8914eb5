"""A model that answers in this process: loaded by transformers as in a deployment, with its own chat template."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from typing import Any

from swiftalign.data.rows import Rows
from swiftalign.evaluation.chat import PLAIN, Chatting, messages_of
from swiftalign.evaluation.engine import Reply, Request
from swiftalign.evaluation.questions import without_answer
from swiftalign.model.components import class_of
from swiftalign.model.safetensors import read_json
from swiftalign.problems import ModelError

_ROWS = {"cpu": 32, "cuda": 1024}  # in a batch at most; many small images take a GPU hardly longer than few
_PIXELS = {"cpu": 8e6, "cuda": 50e6}  # of the images in a batch at most, unless it is one row
_SMALL = 100_000_000  # parameters of a model for which a second thread only costs time


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def chosen_dtype(device: str | None, dtype: str | None) -> str:
    """The dtype of a model whose dtype is not given: on a CPU float32, elsewhere that of its files."""
    return dtype or ("float32" if (device or _device()) == "cpu" else "auto")


class LocalModel:
    """A model in memory that generates greedily, several rows at a time.

    Args:
        folder: the model's folder.
        adapter: folder of an adapter to put on it; None for the model as it is.
        device: torch's name of the device; None for a GPU where there is one.
        dtype: torch's name of the dtype to load the weights in; "auto" for that of the files.
        together: number of rows in a batch at most; None for as many as a device like this one usually takes.
        chatting: how rows become conversations.
    """

    def __init__(
        self,
        folder: Path,
        adapter: Path | None = None,
        *,
        device: str | None = None,
        dtype: str | None = "auto",
        together: int | None = None,
        chatting: Chatting = PLAIN,
    ) -> None:
        import torch
        import transformers
        from transformers import AutoModelForImageTextToText, AutoProcessor
        from transformers.utils import logging

        logging.set_verbosity_error()
        logging.disable_progress_bar()
        device = device or _device()
        self._kind = torch.device(device).type
        # Code of the folder is not run, and pickles are not read.
        options: dict[str, Any] = {"trust_remote_code": False}
        model_class = getattr(transformers, class_of(read_json(folder / "config.json")), AutoModelForImageTextToText)
        try:
            with warnings.catch_warnings(action="ignore"):
                model: Any = model_class.from_pretrained(
                    folder,
                    dtype=dtype,
                    device_map="auto" if device == "cuda" else {"": device},
                    use_safetensors=True,
                    **options,
                )
                if adapter:
                    from peft import PeftModel

                    model = PeftModel.from_pretrained(model, str(adapter))
            self._processor: Any = AutoProcessor.from_pretrained(folder, **options)
        except (ValueError, OSError, LookupError, ImportError, RuntimeError, TypeError) as error:
            reason = " ".join(str(error).split())[:300]
            raise ModelError(
                f"{folder}: transformers can't load it: {reason}", "serve it, and name the server with --url"
            ) from error
        self._model, self._chatting = model.eval(), chatting
        self._most_rows = together or _ROWS.get(self._kind, 32)
        # A thread more than a small model can use only costs time; who sets OMP_NUM_THREADS knows better.
        small = self._kind == "cpu" and sum(weight.numel() for weight in model.parameters()) < _SMALL
        self._threads = 1 if small and "OMP_NUM_THREADS" not in os.environ else None

    def answer(self, requests: Sequence[Request], rows: Rows) -> Iterator[Reply]:
        """Replies in batches of about equal lengths, which end at about the same time; the longest come first.

        So a batch that does not fit the GPU's memory is met at once, and is halved, as all later ones are.

        Raises:
            ModelError: the model can't be asked in this way.
            RowError: an image can't be read.
        """
        import torch

        left = sorted(requests, key=lambda request: request.most, reverse=True)
        while left:
            batch = left[: self._fitting(left)]
            try:
                with _threads(self._threads):
                    replies = self._write(batch, rows)
            except torch.cuda.OutOfMemoryError:
                if len(batch) == 1:
                    raise
                self._most_rows = len(batch) // 2
                replies = []
            except (ValueError, LookupError, TypeError, AttributeError, RuntimeError, StopIteration) as error:
                reason = " ".join(str(error).split())[:300] or type(error).__name__
                hint = "serve it, and name the server with --url"
                raise ModelError(f"transformers can't answer with this model: {reason}", hint) from error
            yield from replies
            left = left[len(replies) :]

    def _fitting(self, requests: Sequence[Request]) -> int:
        """How many of the next requests make a batch."""
        pixels, most = 0.0, _PIXELS.get(self._kind, 8e6)

        def fits(request: Request) -> bool:
            nonlocal pixels
            wide, high = request.question.size
            pixels += wide * high
            return pixels <= most

        return max(1, sum(1 for _ in takewhile(fits, requests[: self._most_rows])))

    def _write(self, requests: Sequence[Request], rows: Rows) -> list[Reply]:
        """What the model writes to a batch of questions."""
        import torch

        asked = [without_answer(rows[each.question.index]) for each in requests]
        prompts = [
            self._processor.apply_chat_template(
                messages_of(row, self._chatting.system), add_generation_prompt=True, **self._chatting.switches
            )
            for row in asked
        ]
        images = [list(row["images"]) for row in asked]
        inputs = self._processor(text=prompts, images=images, return_tensors="pt", padding=True, padding_side="left")
        chosen: list[Any] = []  # of each step, the logarithms of the probabilities of the tokens that were chosen

        def note(input_ids: Any, scores: Any) -> Any:
            best = scores.max(-1).values
            chosen.append(best - torch.logsumexp(scores.float(), -1))
            return scores

        with torch.inference_mode():
            output = self._model.generate(
                **inputs.to(self._model.device),
                max_new_tokens=max(each.most for each in requests),
                do_sample=False,
                logits_processor=[note],
            )
        written = output[:, inputs["input_ids"].shape[1] :]
        ends = self._model.generation_config.eos_token_id
        stop = torch.isin(written, torch.as_tensor([] if ends is None else ends, device=written.device))
        steps, replies = torch.stack(chosen, 1).cpu().double(), []
        for number, request in enumerate(requests):
            at = stop[number].nonzero()
            length = min(int(at[0]) + 1 if len(at) else written.shape[1], request.most)
            text = self._processor.decode(written[number, :length], skip_special_tokens=True)
            replies.append(Reply(request.question.index, text, logprob=float(steps[number, :length].sum())))
        return replies


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """Let torch compute with so many threads; None for as many as it likes."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
