"""Batches about which the GPU need not be asked anything.

As the model is written, each step waits for the GPU many times, for numbers that were known on the CPU when the batch
was made: how large its images are, which tokens are images, where the answers lie. While Python waits it prepares
nothing, and then the GPU waits for Python. Here the loader's workers work those numbers out, they travel with the
batch, and the model finds them in place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from swift.dataloader import DataLoaderShard
from swift.metrics.utils import MeanMetric
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers.vision_utils import (
    get_vision_cu_seqlens,
    get_vision_interpolation_indices_and_weights,
    get_vision_position_ids,
)

from swiftalign.worker.batches import UNLEARNED

READY_TYPES = ("qwen3_vl", "qwen3_vl_moe")
_KEY = "ready"  # of a batch, beside ms-swift's own

Collate = Callable[[list[Any]], dict[str, Any]]


@dataclass(frozen=True)
class ReadyCollator:
    """Makes ms-swift's batch of rows in a line, and what the model would work out from it.

    Attributes:
        collate: ms-swift's collator.
        image_token: its id.
        merge: patches on each side of a token.
        grid_side: positions on each side of the ViT's learned grid.
        dtype: of the ViT, to which pixels would be cast later.
        keep_answers: leave only the positions that have labels to the head.
    """

    collate: Collate
    image_token: int
    merge: int
    grid_side: int
    dtype: torch.dtype
    keep_answers: bool

    def __call__(self, rows: list[Any]) -> dict[str, Any]:
        batch = self.collate(rows)
        batch |= {name: int(batch[name]) for name in ("max_length_q", "max_length_k") if name in batch}
        if self.keep_answers and batch.get("loss_scale") is None:
            _keep_answers(batch)
        if "pixel_values" in batch and "pixel_values_videos" not in batch:
            batch["pixel_values"] = batch["pixel_values"].to(self.dtype)
            batch[_KEY] = self._of_images(batch["input_ids"], batch["image_grid_thw"])
        return batch

    def _of_images(self, tokens: Tensor, grids: Tensor) -> dict[str, Any]:
        """
        Args:
            tokens: [1, tokens] ids.
            grids: [images, 3]: frames, rows and columns of patches.
        """
        positions = (tokens[0] == self.image_token).nonzero().flatten()
        if len(positions) != int(grids.prod(-1).sum()) // self.merge**2:
            raise ValueError(f"{len(positions)} image tokens do not match images of {grids.tolist()} patches")
        starts = get_vision_cu_seqlens(grids)
        indices, weights = get_vision_interpolation_indices_and_weights(
            grids, self.grid_side, align_corners=True, spatial_merge_size=self.merge
        )
        return {
            "grids": grids.tolist(),  # no tensor: it would be moved to the GPU
            "image_positions": positions,
            "visual": {
                "position_ids": get_vision_position_ids(grids, self.merge),
                "cu_seqlens": starts,
                "max_seqlen": int(starts.diff().max()),
                "interp_indices": indices,
                "interp_weights": weights,
            },
        }


def collator_of(model: nn.Module, collate: Collate, *, keep_answers: bool) -> ReadyCollator:
    """The collator that suits a Qwen3-VL."""
    inner = _multimodal(model)
    vision = inner.config.vision_config
    side = int(vision.num_position_embeddings**0.5)
    merge, dtype = vision.spatial_merge_size, inner.visual.dtype
    return ReadyCollator(collate, inner.config.image_token_id, merge, side, dtype, keep_answers)


def _keep_answers(batch: dict[str, Any]) -> None:
    """What ms-swift's ``prepare_logits_to_keep`` makes of one line, with numbers of positions for its mask."""
    learned = batch["labels"][0] != UNLEARNED
    kept = nn.functional.pad(learned[1:], (0, 1), value=True)
    batch["logits_to_keep"] = kept.nonzero().flatten()
    batch["labels"] = nn.functional.pad(batch["labels"][:, learned], (1, 0), value=UNLEARNED)


class ReadyLoader(DataLoaderShard):  # type: ignore[misc]  # ms-swift ships no types
    """ms-swift's loader, whose copies have their place in the GPU's queue: nobody waits for them."""

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for batch in DataLoader.__iter__(self):
            yield _moved(batch, self.device)


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    return {name: _moved(item, device) for name, item in value.items()} if isinstance(value, dict) else value


class ReadyModel:
    """Hooks by which a Qwen3-VL takes what a `ReadyCollator` made; any other batch goes as it always did.

    Image features are put among the embeddings of tokens by their positions. The model's own way, by masks, asks the
    GPU how many there are, in each of its layers that take such features.
    """

    def __init__(self, model: nn.Module) -> None:
        inner = _multimodal(model)
        llm = inner.language_model
        self._positions: Tensor | None = None
        self._features: list[Tensor] = []
        self._by_mask = llm._deepstack_process
        inner.register_forward_pre_hook(self._embed, with_kwargs=True)
        llm.register_forward_pre_hook(self._hand_to_llm, with_kwargs=True)
        llm._deepstack_process = self._deepstack

    def _embed(self, model: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Run the ViT, and hand on embeddings in place of tokens and images."""
        ready = kwargs.pop(_KEY, None)
        self._positions = None if ready is None else ready["image_positions"]
        if ready is None:
            return args, kwargs
        pixels, tokens, _ = (kwargs.pop(name) for name in ("pixel_values", "input_ids", "image_grid_thw"))
        images = model.get_image_features(pixels, torch.tensor(ready["grids"]), return_dict=True, **ready["visual"])
        embedded = model.get_input_embeddings()(tokens)
        features = torch.cat(images.pooler_output).to(embedded.dtype)
        self._features = [torch.cat(each) for each in images.deepstack_features]
        return args, kwargs | {"inputs_embeds": embedded.index_copy(1, self._positions, features.unsqueeze(0))}

    def _hand_to_llm(self, llm: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        if self._positions is not None:
            kwargs["deepstack_visual_embeds"], self._features = self._features, []
        return args, kwargs

    def _deepstack(self, hidden: Tensor, mask: Tensor, features: Tensor) -> Tensor:
        """Add [image tokens, width] to [1, tokens, width]."""
        if self._positions is None:
            unchanged: Tensor = self._by_mask(hidden, mask, features)
            return unchanged
        added: Tensor = hidden.index_add(1, self._positions, features.to(hidden.dtype).unsqueeze(0))
        return added


def _multimodal(model: nn.Module) -> Any:
    """The part that puts image features among the embeddings of tokens."""
    return next(part for part in model.modules() if hasattr(part, "get_placeholder_mask"))


class LaterMean(MeanMetric):  # type: ignore[misc]
    """A mean that stays on the GPU until somebody reads it."""

    state: Any
    count: Any

    def add(self, values: Tensor, counted: Tensor) -> None:
        self.state = self.state + (values & counted).sum()
        self.count = self.count + counted.sum()

    def compute(self) -> Any:
        self.state, self.count = float(self.state), int(self.count)
        return super().compute()


def make_ready(trainer: Any) -> None:
    """Let a trainer of a Qwen3-VL, whose rows lie in a line, run on ready batches."""
    args = trainer.args
    ReadyModel(trainer.model)
    # Accuracies of whole rows, and losses by channel, ask for a mask.
    masked = args.acc_strategy != "token" or args.enable_channel_loss
    keep_answers = trainer.get_use_logits_to_keep() and not masked
    trainer.data_collator = collator_of(trainer.model, trainer.data_collator, keep_answers=keep_answers)
    keep = trainer.prepare_logits_to_keep
    trainer.prepare_logits_to_keep = lambda batch: None if "logits_to_keep" in batch else keep(batch)
    if args.acc_strategy == "token":
        trainer._compute_acc = _counts_later(trainer)


def _counts_later(trainer: Any) -> Callable[..., None]:
    """Right tokens of training, counted without waiting for them; those of evaluation as ever."""
    counts_now, mean = trainer._compute_acc, LaterMean(nan_value=None, device=trainer.args.device)

    def count(outputs: Any, labels: Tensor, cu_seqlens: Tensor | None = None) -> None:
        if not trainer.model.training:
            counts_now(outputs, labels, cu_seqlens=cu_seqlens)
            return
        trainer.custom_metrics["train"]["token_acc"] = mean
        answers = labels[..., 1:]
        mean.add(outputs.logits.argmax(-1)[..., :-1] == answers, answers != UNLEARNED)

    return count
