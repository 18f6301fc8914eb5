"""Write a tiny random Qwen3-VL model folder that transformers and ms-swift load offline.

The model has the same parts and names as the published ones (three DeepStack mergers, M-RoPE, the special tokens), and
its own byte-level vocabulary, so its token ids differ from theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from swiftalign.problems import ModelError

DTYPES = ("float32", "bfloat16", "float16")

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)

# About 1/sqrt(hidden size): with the usual 0.02, training the aligner hardly lowers the loss of such a narrow model.
_INITIALIZER_RANGE = 0.1
# At least as many text layers as DeepStack mergers: otherwise the last mergers would get no gradient.
TEXT: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 8192,
    "initializer_range": _INITIALIZER_RANGE,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 5_000_000.0,
        "mrope_section": [4, 2, 2],
        "mrope_interleaved": True,
    },
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48}
VISION = {
    "depth": 4,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_heads": 2,
    "out_hidden_size": 64,
    "num_position_embeddings": 256,
    "initializer_range": _INITIALIZER_RANGE,
    "deepstack_visual_indexes": [0, 1, 2],
}

# Smallest and largest number of pixels: qwen-vl-utils' limits; the published processor would enlarge small images.
IMAGE_SIZE = {"shortest_edge": 64 * 64, "longest_edge": 4096 * 4096}
PIXEL_SCALING = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}

CHAT_TEMPLATE = """\
{%- macro render(content) -%}
    {%- if content is string -%}
        {{- content -}}
    {%- else -%}
        {%- for part in content -%}
            {%- if part.type == 'image' -%}
                {{- '<|vision_start|><|image_pad|><|vision_end|>' -}}
            {%- elif part.type == 'video' -%}
                {{- '<|vision_start|><|video_pad|><|vision_end|>' -}}
            {%- elif part.type == 'text' -%}
                {{- part.text -}}
            {%- endif -%}
        {%- endfor -%}
    {%- endif -%}
{%- endmacro -%}
{%- for message in messages -%}
    {{- '<|im_start|>' + message.role + '\\n' + render(message.content) + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""


def build_model(folder: Path, *, seed: int = 0, dtype: str = "float32", tied: bool = False, moe: bool = False) -> None:
    """Write config, weights, tokenizer and processor files into `folder`; the same arguments give the same bytes.

    Args:
        folder: folder to write; it is created where it is missing, and files of the same names are replaced.
        seed: seed of the random weights.
        dtype: dtype of the stored weights, one of `DTYPES`.
        tied: whether the output layer shares its weight with the word embeddings.
        moe: whether each text layer has 4 experts, 2 of them active per token, instead of one MLP.

    Raises:
        ModelError: `dtype` is not one of `DTYPES`.
    """
    if dtype not in DTYPES:
        raise ModelError(f"dtype {dtype!r} is not known", f"choose one of {', '.join(DTYPES)}")
    import torch
    from transformers import AutoModelForImageTextToText

    tokenizer = byte_tokenizer()
    config = model_config(tokenizer, TEXT, VISION, tied=tied, moe=moe)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
    write_model(folder, model.to(getattr(torch, dtype)), tokenizer)


def write_model(folder: Path, model: Any, tokenizer: Any) -> None:
    """Write a complete model folder: config, weights, tokenizer and processor files."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    save_processors(folder)
    model.generation_config = generation_config(tokenizer)
    model.save_pretrained(folder)


def byte_tokenizer(
    words: Sequence[str] = (),
    merges: Sequence[tuple[str, str]] = (),
    *,
    max_length: int = TEXT["max_position_embeddings"],
) -> Any:
    """Byte-level BPE: one token per byte of UTF-8, the tokens that merges make, then the special tokens.

    Args:
        words: the tokens that the merges make, in the order of the merges.
        merges: the pairs of tokens that are merged, most frequent first.
        max_length: maximum number of tokens in a text.
    """
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import Qwen2Tokenizer

    # The order of alphabet() differs between processes.
    tokens = (*sorted(ByteLevel.alphabet()), *words, *SPECIAL_TOKENS)
    return Qwen2Tokenizer(
        vocab={token: number for number, token in enumerate(tokens)},
        merges=list(merges),
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=list(SPECIAL_TOKENS),
        model_max_length=max_length,
        chat_template=CHAT_TEMPLATE,
    )


def model_config(tokenizer: Any, text: dict[str, Any], vision: dict[str, Any], *, tied: bool, moe: bool = False) -> Any:
    """The config of a Qwen3-VL of these sizes, for the vocabulary of this tokenizer."""
    from transformers import Qwen3VLConfig, Qwen3VLMoeConfig

    own = {"vocab_size": len(tokenizer), "tie_word_embeddings": tied}
    number = tokenizer.convert_tokens_to_ids
    config_class = Qwen3VLMoeConfig if moe else Qwen3VLConfig
    return config_class(
        text_config={**text, **own, **(EXPERTS if moe else {})},
        vision_config=vision,
        tie_word_embeddings=tied,
        image_token_id=number("<|image_pad|>"),
        video_token_id=number("<|video_pad|>"),
        vision_start_token_id=number("<|vision_start|>"),
        vision_end_token_id=number("<|vision_end|>"),
    )


def generation_config(tokenizer: Any) -> Any:
    """Greedy generation, so that a trained model gives the same answer every time."""
    from transformers import GenerationConfig

    ends = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    return GenerationConfig(do_sample=False, eos_token_id=ends, pad_token_id=tokenizer.pad_token_id)


def save_processors(folder: Path) -> None:
    """Write one file per processor, as published models have; the combined processor would save both in one file."""
    from transformers import Qwen2VLImageProcessor, Qwen3VLVideoProcessor

    geometry = {"patch_size": 16, "temporal_patch_size": 2, "merge_size": 2, "size": IMAGE_SIZE}
    Qwen2VLImageProcessor(**geometry, **PIXEL_SCALING).save_pretrained(folder)
    Qwen3VLVideoProcessor(**geometry, **PIXEL_SCALING).save_pretrained(folder)
