"""Batches whose bookkeeping is computed on the CPU, so that a step of a Qwen-VL needs no GPU synchronisation.

It knows the forward passes of Qwen2.5-VL, Qwen3-VL and Qwen3.5, and of their mixture-of-experts models.

As the model is written, it waits for the GPU many times per step, for numbers that the CPU knew when it made the batch:
how large the images are, which tokens are images, where the answers are. While Python waits it queues no work, and then
the GPU waits for Python. Here the data loader's workers compute those numbers, and the model takes them from the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from accelerate.utils import send_to_device
from swift.dataloader import DataLoaderShard
from swift.metrics.utils import MeanMetric
from torch import Tensor, nn
from torch.utils.data import DataLoader, get_worker_info
from transformers.vision_utils import (
    get_vision_cu_seqlens,
    get_vision_interpolation_indices_and_weights,
    get_vision_position_ids,
    get_vision_window_index,
)

from swiftalign.model.template import IGNORED

_KEY = "swiftalign_images"  # of a batch: what `SyncFreeCollator` adds for `SyncFreeModel`


class SyncFreeCollator:
    """Makes ms-swift's padding-free batch, and adds what the model would compute from it.

    Args:
        model: the model that gets the batches.
        collate: ms-swift's collator.
        keep_answers: whether the head computes logits only for positions that have labels.

    Attributes:
        dtype: dtype in which pixels are sent to the GPU: the ViT's, to which the model would cast them later.
    """

    def __init__(self, model: nn.Module, collate: Callable[..., dict[str, Any]], *, keep_answers: bool) -> None:
        inner = _multimodal(model)
        vision = inner.config.vision_config
        self.collate, self.keep_answers, self.dtype = collate, keep_answers, inner.visual.dtype
        self._image_token, self._vision, self._merge = inner.config.image_token_id, vision, vision.spatial_merge_size
        self._pixels = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2  # numbers per patch

    def __call__(self, rows: list[Any]) -> dict[str, Any]:
        pixels = [row.pop("pixel_values") for row in rows if row.get("pixel_values") is not None]
        batch = self.collate(rows)
        if pixels:
            batch["pixel_values"] = self._concatenated(pixels)
        batch |= {name: int(batch[name]) for name in ("max_length_q", "max_length_k") if name in batch}
        if self.keep_answers and batch.get("loss_scale") is None:
            # As ms-swift's `prepare_logits_to_keep`, with positions in place of its mask.
            learned = batch["labels"][0] != IGNORED
            batch["logits_to_keep"] = nn.functional.pad(learned[1:], (0, 1), value=True).nonzero().flatten()
            batch["labels"] = nn.functional.pad(batch["labels"][:, learned], (1, 0), value=IGNORED)
        if "pixel_values_videos" in batch:
            return batch
        text_alone = "pixel_values" not in batch
        if text_alone:
            # It gets a blank image, whose features go nowhere: the aligner then has gradients, of zero, in each batch,
            # and all processes run the same layers.
            batch["pixel_values"] = torch.zeros(self._merge**2, self._pixels, dtype=self.dtype)
            batch["image_grid_thw"] = torch.tensor([[1, self._merge, self._merge]])
        grids = batch["image_grid_thw"]  # number of frames, and of rows and columns of patches, per image [images, 3]
        positions = (batch["input_ids"][0] == self._image_token).nonzero().flatten()
        if not text_alone and len(positions) != int(grids.prod(-1).sum()) // self._merge**2:
            raise ValueError(f"{len(positions)} image tokens do not match images of {grids.tolist()} patches")
        batch[_KEY] = {
            "grids": grids.tolist(),  # a list, since a tensor would be moved to the GPU
            "positions": positions,
            "visual": self._visual(grids),
        }
        return batch

    def _concatenated(self, pixels: list[Tensor]) -> Tensor:
        """The patches of all images in the ViT's dtype; in a loader's worker, where the training process reads them.

        Pixels are most of a batch: it takes half the time where they are written once.

        Args:
            pixels: [patches, numbers per patch] of each row.
        """
        shape = sum(len(each) for each in pixels), pixels[0].shape[1]
        if get_worker_info() is None:
            joined = torch.empty(shape, dtype=self.dtype)
        else:
            storage = torch.UntypedStorage._new_shared(shape[0] * shape[1] * self.dtype.itemsize)  # type: ignore[no-untyped-call]
            joined = torch.empty(0, dtype=self.dtype).set_(storage).view(shape)
        for part, each in zip(torch.split(joined, [len(each) for each in pixels]), pixels, strict=True):
            part.copy_(each)
        return joined

    def _visual(self, grids: Tensor) -> dict[str, Any]:
        """What the ViT would compute from the sizes of images, under the names of its arguments."""
        starts, vision = get_vision_cu_seqlens(grids), self._vision
        found = {
            "position_ids": get_vision_position_ids(grids, self._merge),
            "cu_seqlens": starts,
            "max_seqlen": int(starts.diff().max()),
        }
        if hasattr(vision, "num_position_embeddings"):  # learned positions, on a square grid
            found["interp_indices"], found["interp_weights"] = get_vision_interpolation_indices_and_weights(
                grids, int(vision.num_position_embeddings**0.5), align_corners=True, spatial_merge_size=self._merge
            )
        if hasattr(vision, "window_size"):  # most blocks of Qwen2.5-VL attend within windows
            window = {"window_size": vision.window_size, "patch_size": vision.patch_size}
            found["window_index"], within = get_vision_window_index(grids, self._merge, **window)
            found |= {"cu_window_seqlens": within, "max_window_seqlen": int(within.diff().max())}
        return found


class SyncFreeLoader(DataLoaderShard):  # type: ignore[misc]  # ms-swift ships no types
    """ms-swift's loader with non-blocking copies to the GPU."""

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for batch in DataLoader.__iter__(self):
            yield send_to_device(batch, self.device, non_blocking=True)


class SyncFreeModel:
    """Hooks that let a model use what a `SyncFreeCollator` added; the model handles any other batch as before.

    Image features replace the embeddings of image tokens by position. The model's own way, by masks, waits for the GPU
    to count them, in each layer that takes such features: of these models, Qwen3-VL alone has such layers.
    """

    def __init__(self, model: nn.Module) -> None:
        inner = _multimodal(model)
        llm = inner.language_model
        self._positions: Tensor | None = None
        self._features: list[Tensor] = []
        if hasattr(inner, "origin_forward"):  # with DeepSpeed, ms-swift replaces it by one that wants tokens and images
            swift_forward, own_forward = inner.forward, inner.origin_forward
            inner.forward = lambda *args, **kwargs: (swift_forward if self._positions is None else own_forward)(
                *args, **kwargs
            )
        inner.register_forward_pre_hook(self._embed, with_kwargs=True)
        if hasattr(llm, "_deepstack_process"):
            self._by_mask: Callable[..., Tensor] = llm._deepstack_process
            llm.register_forward_pre_hook(self._hand_to_llm, with_kwargs=True)
            llm._deepstack_process = self._deepstack

    def _embed(self, model: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Run the ViT, and pass on embeddings in place of tokens and images."""
        images = kwargs.pop(_KEY, None)
        self._positions = None if images is None else images["positions"]
        if images is None:
            return args, kwargs
        pixels, tokens, _ = (kwargs.pop(name) for name in ("pixel_values", "input_ids", "image_grid_thw"))
        seen = model.get_image_features(pixels, torch.tensor(images["grids"]), return_dict=True, **images["visual"])
        embedded = model.get_input_embeddings()(tokens)
        count = len(images["positions"])  # none in a batch of text alone
        features = torch.cat(seen.pooler_output)[:count].to(embedded.dtype)
        # Tuples, one tensor per image, from transformers 5.18 on.
        deep = seen.get("deepstack_features") or ()
        deep = [torch.cat(each) if isinstance(each, tuple) else each for each in deep]
        self._features = [each[:count] for each in deep]
        return args, kwargs | {"inputs_embeds": embedded.index_copy(1, self._positions, features.unsqueeze(0))}

    def _hand_to_llm(self, llm: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        if self._positions is not None:
            kwargs["deepstack_visual_embeds"], self._features = self._features, []
        return args, kwargs

    def _deepstack(self, hidden: Tensor, mask: Tensor, features: Tensor) -> Tensor:
        """Add features [image tokens, width] to hidden states [1, tokens, width]."""
        if self._positions is None:
            return self._by_mask(hidden, mask, features)
        return hidden.index_add(1, self._positions, features.to(hidden.dtype).unsqueeze(0))


def _multimodal(model: nn.Module) -> Any:
    """The submodule that puts image features among the embeddings of tokens."""
    return next(part for part in model.modules() if hasattr(part, "get_placeholder_mask"))


class GpuMean(MeanMetric):  # type: ignore[misc]
    """A mean whose sums stay on the GPU until it is read."""

    state: Any
    count: Any

    def compute(self) -> Any:
        self.state, self.count = float(self.state), int(self.count)
        return super().compute()


def make_sync_free(trainer: Any) -> None:
    """Let a trainer run without GPU synchronisation on padding-free batches."""
    args, template = trainer.args, trainer.template
    SyncFreeModel(trainer.model)
    encode = template._post_encode  # of Qwen2.5-VL and Qwen3.5: ms-swift's own way to the embeddings
    template._post_encode = lambda model, batch: batch if _KEY in batch else encode(model, batch)
    # Accuracies of whole rows, and losses by channel, need ms-swift's mask.
    masked = args.acc_strategy != "token" or args.enable_channel_loss
    keep_answers = trainer.get_use_logits_to_keep() and not masked
    trainer.data_collator = SyncFreeCollator(trainer.model, trainer.data_collator, keep_answers=keep_answers)
    keep = trainer.prepare_logits_to_keep
    trainer.prepare_logits_to_keep = lambda batch: None if "logits_to_keep" in batch else keep(batch)
    compute, mean = trainer._compute_acc, GpuMean(nan_value=None, device=args.device)

    def count(outputs: Any, labels: Tensor, cu_seqlens: Tensor | None = None) -> None:
        """Accumulate the token accuracy of training on the GPU; evaluation counts as before."""
        if not trainer.model.training:
            compute(outputs, labels, cu_seqlens=cu_seqlens)
            return
        trainer.custom_metrics["train"]["token_acc"] = mean
        answers, learned = labels[..., 1:], labels[..., 1:] != IGNORED
        mean.state = mean.state + ((outputs.logits.argmax(-1)[..., :-1] == answers) & learned).sum()
        mean.count = mean.count + learned.sum()

    if args.acc_strategy == "token":
        trainer._compute_acc = count


def clip_without_waiting(trainer: Any) -> None:
    """Let a trainer clip gradients without waiting for their norm.

    ms-swift reads the norm after each backward pass, and leaves the step out if it is NaN: the CPU waits for the GPU.
    A fused optimizer of torch reads a tensor on the GPU instead, so that the CPU can prepare the next step meanwhile.
    """
    clip = trainer._clip_grad_norm

    def clip_gradients(model: nn.Module) -> Any:
        optimizer = trainer.optimizer.optimizer  # that of torch, within accelerate's
        if trainer.accelerator.scaler is not None or not getattr(optimizer, "_step_supports_amp_scaling", False):
            return clip(model)
        norm = nn.utils.clip_grad_norm_(model.parameters(), trainer.args.max_grad_norm)
        optimizer.found_inf = norm.isnan().float()
        return norm

    trainer._clip_grad_norm = clip_gradients
