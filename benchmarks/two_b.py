"""A model folder and adapters of Qwen3-VL-2B's shape, 4.3 GB in bfloat16, written without loading a model."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from swiftalign.config.sections import Config
from swiftalign.demo.model import build_model
from swiftalign.exports.convert import header
from swiftalign.model.families import in_aligner, published_config
from swiftalign.model.qwen3_vl import QWEN3_VL
from swiftalign.model.safetensors import TensorInfo
from swiftalign.plan.read import read_model
from swiftalign.plan.resolve import resolve
from swiftalign.runs.folder import write_run_files

SHARD_BYTES = 2_000_000_000
SMALL = 1_000_000  # elements of a tensor that is never a hole
LINEAR = r"model\.visual\.(merger|deepstack_merger_list\.\d+)\.linear_fc[12]"
MERGERS = ["model.visual.merger", "model.visual.deepstack_merger_list"]
TUNERS: dict[str, dict[str, object]] = {
    "modules_to_save": {"target_regex": "^$", "modules_to_save": MERGERS},
    "lora": {"target_regex": LINEAR, "lora_rank": 16},
    "dora": {"target_regex": LINEAR, "lora_rank": 16, "use_dora": True},
    "adalora": {"train_type": "adalora", "target_regex": LINEAR},
    "boft": {"train_type": "boft", "target_regex": LINEAR, "boft_block_size": 4},
    "fourierft": {"train_type": "fourierft", "target_regex": LINEAR},
}


def build_base(folder: Path) -> None:
    """Three shards of random, finite weights, their index and the config."""
    folder.mkdir(parents=True)
    config = published_config("Qwen/Qwen3-VL-2B-Instruct")
    assert config is not None
    model = QWEN3_VL.build(config)
    assert model is not None
    (folder / "config.json").write_text(json.dumps(config))
    _add_processor(folder)
    write_shards(folder, list(model.parameters()))


def write_shards(folder: Path, tensors: list[TensorInfo], *, holes: bool = False) -> None:
    """Weight files of random, finite values, and their index.

    Args:
        holes: whether the large tensors outside the aligner are holes: zeros that take no disk.
    """
    shards = list(_shards(tensors))
    weight_map = {}
    for number, tensors in enumerate(shards, 1):
        name = f"model-{number:05}-of-{len(shards):05}.safetensors"
        _write(folder / name, tensors, holes=holes)
        weight_map |= {tensor.name: name for tensor in tensors}
    size = sum(tensor.nbytes for tensors in shards for tensor in tensors)
    index = {"metadata": {"total_size": size}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _add_processor(folder: Path) -> None:
    """The demo's tokenizer and processor: stock tools want some."""
    with tempfile.TemporaryDirectory() as name:
        build_model(Path(name))
        for path in Path(name).iterdir():
            if path.suffix != ".safetensors" and path.name != "config.json":
                shutil.copy(path, folder / path.name)


def _shards(tensors: list[TensorInfo]) -> Iterator[list[TensorInfo]]:
    shard: list[TensorInfo] = []
    for tensor in tensors:
        if shard and sum(item.nbytes for item in shard) + tensor.nbytes > SHARD_BYTES:
            yield shard
            shard = []
        shard.append(tensor)
    yield shard


def _write(path: Path, tensors: list[TensorInfo], *, holes: bool = False) -> None:
    random = np.random.default_rng(0)
    with path.open("wb") as file:
        file.write(header(tensors))
        for tensor in tensors:
            if holes and tensor.numel > SMALL and not in_aligner(tensor.name):
                file.seek(tensor.nbytes, os.SEEK_CUR)
            else:
                file.write(random_values(tensor, random))
        file.truncate()


def random_values(tensor: TensorInfo, random: np.random.Generator) -> bytes:
    """Small normal numbers of the tensor's dtype."""
    values = (0.02 * random.standard_normal(tensor.numel, dtype=np.float32)).view(np.uint32)
    return values.tobytes() if tensor.dtype == "float32" else (values >> 16).astype(np.uint16).tobytes()


def build_checkpoint(base: Path, method: str, run: Path) -> Path:
    """A run folder with plan and one checkpoint, as training would leave them."""
    import peft

    tuner = {"train_type": "lora", "trainable_dtype": "base", **TUNERS[method]}
    config = Config.model_validate({"model": {"path": str(base)}, "tuner": tuner})
    plan = resolve(config, read_model(config))
    checkpoint = run / "checkpoint-100"
    checkpoint.mkdir(parents=True)
    write_run_files(run, config, plan)
    _write(checkpoint / "adapter_model.safetensors", list(plan.tensors))
    common = {"base_model_name_or_path": str(base), "target_modules": plan.adapted_pattern}
    saved = {"modules_to_save": list(plan.saved)} if plan.saved else {}
    peft_config = {
        "lora": lambda: peft.LoraConfig(r=16, use_dora=method == "dora", **common, **saved),
        "adalora": lambda: peft.AdaLoraConfig(init_r=12, target_r=8, total_step=100, **common),
        "boft": lambda: peft.BOFTConfig(boft_block_size=4, **common),
        "fourierft": lambda: peft.FourierFTConfig(n_frequency=2000, **common),
    }[str(tuner["train_type"])]()
    peft_config.save_pretrained(checkpoint)
    return checkpoint


if __name__ == "__main__":
    target = Path(sys.argv[1])
    build_base(target / "base")
    for kind in TUNERS:
        build_checkpoint(target / "base", kind, target / kind)
