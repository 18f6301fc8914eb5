"""A model that answers in this process: loaded by transformers as in a deployment, with its own chat template."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from swiftalign.evaluation.chat import messages_of
from swiftalign.evaluation.engine import Reply, Request, RowsAsked
from swiftalign.evaluation.questions import without_answer
from swiftalign.model.components import class_of
from swiftalign.model.safetensors import read_json
from swiftalign.problems import ModelError


class LocalModel:
    """A model in memory that generates greedily, several rows at a time.

    Args:
        folder: the model's folder.
        adapter: folder of an adapter to put on it; None for the model as it is.
        device: torch's name of the device.
        dtype: torch's name of the dtype to load the weights in.
        together: number of rows in a batch.
        system: the text of a system message; None for none.
    """

    def __init__(
        self,
        folder: Path,
        adapter: Path | None = None,
        *,
        device: str = "cpu",
        dtype: str = "float32",
        together: int = 32,
        system: str | None = None,
    ) -> None:
        import transformers
        from transformers import AutoModelForImageTextToText, AutoProcessor
        from transformers.utils import logging

        logging.set_verbosity_error()
        logging.disable_progress_bar()
        model_class = getattr(transformers, class_of(read_json(folder / "config.json")), AutoModelForImageTextToText)
        try:
            with warnings.catch_warnings(action="ignore"):
                model: Any = model_class.from_pretrained(folder, dtype=dtype)
                if adapter:
                    from peft import PeftModel

                    model = PeftModel.from_pretrained(model, str(adapter))
            self._processor: Any = AutoProcessor.from_pretrained(folder)
        except (ValueError, OSError, LookupError, ImportError, RuntimeError, TypeError) as error:
            reason = " ".join(str(error).split())[:300]
            raise ModelError(
                f"{folder}: transformers can't load it: {reason}", "serve it, and name the server by --url"
            ) from error
        self._model = model.eval().to(device)
        self._together, self._system = together, system

    def tokens(self, text: str) -> int:
        """Number of tokens of a text."""
        return len(self._processor.tokenizer.encode(text, add_special_tokens=False))

    def answer(self, requests: Iterable[Request], rows: RowsAsked) -> Iterator[Reply]:
        """Replies in batches of about equal lengths, which end at about the same time; the longest come first.

        So a batch that does not fit the device's memory is met at once, and is halved, as all later ones are.
        """
        import torch

        left = sorted(requests, key=lambda request: request.most, reverse=True)
        while left:
            batch = left[: self._together]
            try:
                texts = self._write([without_answer(rows[each.row]) for each in batch], batch[0].most)
            except torch.cuda.OutOfMemoryError:
                if len(batch) == 1:
                    raise
                self._together = len(batch) // 2
                continue
            yield from (Reply(each.row, text) for each, text in zip(batch, texts, strict=True))
            left = left[len(batch) :]

    def _write(self, rows: Sequence[dict[str, Any]], most: int) -> list[str]:
        """What the model writes after rows, of at most so many tokens."""
        import torch

        prompts = [
            self._processor.apply_chat_template(messages_of(row, self._system), add_generation_prompt=True)
            for row in rows
        ]
        images = [list(row["images"]) for row in rows]
        inputs = self._processor(text=prompts, images=images, return_tensors="pt", padding=True, padding_side="left")
        with torch.no_grad():
            output = self._model.generate(**inputs.to(self._model.device), max_new_tokens=most, do_sample=False)
        written = output[:, inputs["input_ids"].shape[1] :]
        texts: list[str] = self._processor.batch_decode(written, skip_special_tokens=True)
        return texts
