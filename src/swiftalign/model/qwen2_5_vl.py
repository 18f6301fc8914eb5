"""Qwen2.5-VL: what is known of the family without building a model."""

from __future__ import annotations

from swiftalign.model.family import Family
from swiftalign.model.tree import Architecture

QWEN2_5_VL = Family(
    model_type="qwen2_5_vl",
    architecture=Architecture(
        name="qwen2_vl",  # ms-swift's name
        llm=("model.language_model", "lm_head"),
        vit=("model.visual",),
        aligner=("model.visual.merger",),
    ),
    patch=14,
    coordinates="resized",
)
