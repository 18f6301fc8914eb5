"""Tiny models of many families with a tokenizer and a processor, so that the real ms-swift trains them without a hub.

ms-swift's templates know some token ids by number; such a token has its public id here too, in a larger vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from tokenizers.pre_tokenizers import ByteLevel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from families import FAMILIES, config_of
from swiftalign.demo.model import CHAT_TEMPLATE

SMALL = {"height": 28, "width": 28}
# What stands for an image in a prompt, where that is not the token that its features replace.
_IMAGES = {"gemma3": "<start_of_image>", "glm4v": "<|begin_of_image|><|image|><|end_of_image|>"}


@dataclass(frozen=True)
class Session:
    """What a family's tiny model needs beside its weights.

    Attributes:
        processor: makes the processor of a tokenizer.
        tokens: special tokens, and for those that ms-swift knows by number, their ids.
        named: attribute of the tokenizer -> token, as the processor asks for it.
        ids: key of the model's config -> the token whose id it is.
        settings: further settings of the model's config, by dotted key.
        model_type: ms-swift's model_type.
        template: ms-swift's template, where its model_type has none of its own.
    """

    processor: Callable[[Any], Any]
    tokens: dict[str, int | None]
    named: dict[str, str] = field(default_factory=dict)
    ids: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    model_type: str | None = None
    template: str | None = None


def _tokens(*tokens: str, **ids: int) -> dict[str, int | None]:
    return {"<|endoftext|>": None, "<|im_start|>": None, "<|im_end|>": None, **dict.fromkeys(tokens), **ids}


_QWEN_TOKENS = _tokens("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
_QWEN_IDS = {
    "image_token_id": "<|image_pad|>",
    "video_token_id": "<|video_pad|>",
    "vision_start_token_id": "<|vision_start|>",
    "vision_end_token_id": "<|vision_end|>",
}
_MROPE = {"rope_type": "default", "rope_theta": 1_000_000.0, "mrope_section": [4, 2, 2]}
_PIXELS = {"size": {"shortest_edge": 28 * 28, "longest_edge": 56 * 56}}


def _qwen2(processor: Any) -> Callable[[Any], Any]:
    return lambda tokenizer: processor(
        hf.Qwen2VLImageProcessor(patch_size=14, **_PIXELS), tokenizer, hf.Qwen2VLVideoProcessor(patch_size=14)
    )


def _qwen3(tokenizer: Any) -> Any:
    images = hf.Qwen2VLImageProcessor(patch_size=16, **_PIXELS)
    return hf.Qwen3VLProcessor(images, tokenizer, hf.Qwen3VLVideoProcessor(patch_size=16))


SESSIONS: dict[str, Session] = {
    "gemma3": Session(
        lambda tokenizer: hf.Gemma3Processor(hf.Gemma3ImageProcessor(size=SMALL), tokenizer, image_seq_length=1),
        _tokens("<bos>", "<end_of_image>", "<image_soft_token>", "<start_of_turn>", "<end_of_turn>")
        | {"<start_of_image>": 255999},
        named={
            "bos_token": "<bos>",
            "boi_token": "<start_of_image>",
            "eoi_token": "<end_of_image>",
            "image_token": "<image_soft_token>",
        },
        ids={
            "boi_token_index": "<start_of_image>",
            "eoi_token_index": "<end_of_image>",
            "image_token_index": "<image_soft_token>",
            "image_token_id": "<image_soft_token>",
        },
        model_type="gemma3_vision",
    ),
    "glm4v": Session(
        lambda tokenizer: hf.Glm4vProcessor(
            hf.Glm4vImageProcessor(patch_size=14, **_PIXELS), tokenizer, hf.Glm4vVideoProcessor(patch_size=14)
        ),
        _tokens("<|image|>", "<|video|>", "<|begin_of_video|>", "<|end_of_video|>", "<|user|>", "<|assistant|>")
        | {"<|begin_of_image|>": 151339, "<|end_of_image|>": 151340},
        named={"image_token": "<|image|>", "video_token": "<|video|>"},
        ids={
            "image_token_id": "<|image|>",
            "video_token_id": "<|video|>",
            "image_start_token_id": "<|begin_of_image|>",
            "image_end_token_id": "<|end_of_image|>",
            "video_start_token_id": "<|begin_of_video|>",
            "video_end_token_id": "<|end_of_video|>",
        },
        settings={"text_config.rope_parameters": _MROPE},
        model_type="glm4v",
        template="glm4v",
    ),
    "idefics3": Session(
        lambda tokenizer: hf.Idefics3Processor(
            hf.Idefics3ImageProcessor(size={"longest_edge": 28}, max_image_size={"longest_edge": 28}),
            tokenizer,
            image_seq_len=1,
        ),
        _tokens("<fake_token_around_image>", "<end_of_utterance>", "<global-img>") | {"<image>": 128257},
        ids={"image_token_id": "<image>"},
        model_type="idefics3",
    ),
    "internvl": Session(
        lambda tokenizer: hf.InternVLProcessor(
            hf.GotOcr2ImageProcessor(size=SMALL), tokenizer, hf.InternVLVideoProcessor(size=SMALL), image_seq_length=1
        ),
        _tokens("<img>", "</img>", "<IMG_CONTEXT>", "<video>"),
        named={
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        },
        ids={"image_token_id": "<IMG_CONTEXT>"},
        model_type="internvl",
        template="internvl_hf",
    ),
    "llava": Session(
        lambda tokenizer: hf.LlavaProcessor(
            hf.CLIPImageProcessor(size={"shortest_edge": 28}, crop_size=SMALL),
            tokenizer,
            patch_size=14,
            vision_feature_select_strategy="default",
            num_additional_image_tokens=1,
        ),
        _tokens("<image>"),
        ids={"image_token_index": "<image>", "image_token_id": "<image>"},
        model_type="llava1_5_hf",
    ),
    "llava_onevision": Session(
        lambda tokenizer: hf.LlavaOnevisionProcessor(
            hf.LlavaOnevisionImageProcessor(size=SMALL, image_grid_pinpoints=[[28, 28], [28, 56], [56, 28]]),
            tokenizer,
            hf.LlavaOnevisionVideoProcessor(size=SMALL),
            num_image_tokens=4,
            vision_feature_select_strategy="full",
        ),
        _tokens() | {"<image>": 151646, "<video>": 151647},
        ids={
            "image_token_index": "<image>",
            "video_token_index": "<video>",
            "image_token_id": "<image>",
            "video_token_id": "<video>",
        },
        settings={"image_grid_pinpoints": [[28, 28], [28, 56], [56, 28]]},
        model_type="llava_onevision_hf",
    ),
    "minicpmv4_6": Session(
        lambda tokenizer: hf.MiniCPMV4_6Processor(
            hf.MiniCPMV4_6ImageProcessor(patch_size=16), hf.MiniCPMV4_6VideoProcessor(), tokenizer
        ),
        _tokens(
            "<|image_pad|>", "<|video_pad|>", "<image>", "</image>", "<slice>", "</slice>", "<image_id>", "</image_id>"
        ),
        named={
            "image_token": "<|image_pad|>",
            "video_token": "<|video_pad|>",
            "image_start_token": "<image>",
            "image_end_token": "</image>",
            "slice_start_token": "<slice>",
            "slice_end_token": "</slice>",
            "image_id_start_token": "<image_id>",
            "image_id_end_token": "</image_id>",
        },
        ids={"image_token_id": "<|image_pad|>", "video_token_id": "<|video_pad|>"},
        model_type="minicpmv4_6",
    ),
    "mistral3": Session(
        lambda tokenizer: hf.PixtralProcessor(
            hf.PixtralImageProcessor(patch_size=14, size={"longest_edge": 28}),
            tokenizer,
            patch_size=14,
            spatial_merge_size=2,
        ),
        _tokens("[IMG_BREAK]", "[IMG_END]") | {"[IMG]": 10},
        ids={"image_token_index": "[IMG]", "image_token_id": "[IMG]"},
        model_type="mistral3",
    ),
    "paligemma": Session(
        lambda tokenizer: hf.PaliGemmaProcessor(hf.SiglipImageProcessor(size=SMALL, image_seq_length=4), tokenizer),
        _tokens("<bos>", "<image>"),
        named={"bos_token": "<bos>", "image_token": "<image>"},
        ids={"image_token_index": "<image>", "image_token_id": "<image>"},
        model_type="paligemma",
    ),
    "qwen2_5_vl": Session(
        _qwen2(hf.Qwen2_5_VLProcessor),
        _QWEN_TOKENS,
        ids=_QWEN_IDS,
        settings={"text_config.rope_parameters": _MROPE},
        model_type="qwen2_5_vl",
        template="qwen2_5_vl",
    ),
    "qwen2_vl": Session(
        _qwen2(hf.Qwen2VLProcessor),
        _QWEN_TOKENS,
        ids=_QWEN_IDS,
        settings={"text_config.rope_parameters": _MROPE},
        model_type="qwen2_vl",
        template="qwen2_vl",
    ),
    "qwen3_5": Session(_qwen3, _QWEN_TOKENS, ids=_QWEN_IDS, model_type="qwen3_5", template="qwen3_5"),
    "qwen3_5_moe": Session(_qwen3, _QWEN_TOKENS, ids=_QWEN_IDS, model_type="qwen3_5_moe", template="qwen3_5"),
}


def tokenizer_of(session: Session) -> Any:
    """A byte-level tokenizer with a session's tokens."""
    taken = {number for number in session.tokens.values() if number is not None}
    free = (number for number in range(10_000) if number not in taken)
    vocab = {token: next(free) for token in sorted(ByteLevel.alphabet())}
    vocab |= {token: next(free) if number is None else number for token, number in session.tokens.items()}
    return hf.Qwen2Tokenizer(
        vocab=vocab,
        merges=[],
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=list(session.tokens),
        **session.named,
        model_max_length=8192,
        chat_template=CHAT_TEMPLATE,
    )


def build_session(family: str, folder: Path) -> Path:
    """Write a family's tiny model with tokenizer and processor, and return its folder."""
    session, config = SESSIONS[family], config_of(family)
    processor = session.processor(tokenizer_of(session))
    tokenizer = processor.tokenizer  # some processors add tokens
    image = _IMAGES.get(family) or getattr(processor, "image_token", "")
    if image not in CHAT_TEMPLATE:  # in place of Qwen's
        processor.chat_template = CHAT_TEMPLATE.replace("<|vision_start|><|image_pad|><|vision_end|>", image)
    size = max(tokenizer.get_vocab().values()) + 1
    for part in (config, config.get("text_config", {})):
        part.update({key: max(size, 512) for key in ("vocab_size",) if key in part})
        part.update({key: 8192 for key in ("max_position_embeddings",) if key in part})
    config |= {key: tokenizer.convert_tokens_to_ids(token) for key, token in session.ids.items()}
    for key, value in session.settings.items():
        *parts, last = key.split(".")
        place = config
        for part in parts:
            place = place[part]
        place[last] = value
    tiny = FAMILIES[family]
    torch.manual_seed(0)
    model = getattr(hf, tiny.model_class)(CONFIG_MAPPING[tiny.model_type].from_dict(config))
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def write_rows(folder: Path, rows: int = 8) -> Path:
    """Training rows of one box each."""
    from PIL import Image, ImageDraw

    folder.mkdir(parents=True)
    lines = []
    for number in range(rows):
        image = Image.new("RGB", (56, 56), "grey")
        box = [4 + number, 8, 24 + number, 40]
        ImageDraw.Draw(image).rectangle(box, fill="red")
        image.save(folder / f"{number}.png")
        row = {"images": [f"{number}.png"], "prompt": "Find it.", "objects": [{"label": "box", "bbox_2d": box}]}
        lines.append(json.dumps(row))
    (folder / "train.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / "train.jsonl"
