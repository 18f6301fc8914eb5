"""llama.cpp's vision file, called mmproj: ViT and aligner as one GGUF file, beside any GGUF file of the same LLM.

What is written equals what llama.cpp's converter makes of the merged model: tests/test_export_mmproj.py compares both.

References:
    llama.cpp `conversion/qwen3vl.py`, `conversion/qwenvl.py`, and `MmprojModel` in `conversion/base.py`.
"""

from __future__ import annotations

import errno
import hashlib
import math
import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swiftalign.exports.convert import require_finite
from swiftalign.exports.folder import copy_file, require_space
from swiftalign.exports.outputs import CARD, Written
from swiftalign.exports.source import Source
from swiftalign.model.bytes import cast, read_bytes
from swiftalign.model.families import architecture_of
from swiftalign.model.safetensors import ITEM_SIZES, StoredTensor, read_json
from swiftalign.problems import ExportError, ModelError, counted, names

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

# The model types whose files were compared with those of llama.cpp's converter.
_QWEN3 = ("qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe")
_QWEN2 = ("qwen2_5_vl",)
# Names in GGUF files, by dtype: of a tensor's type, and of the type of a whole file.
_TYPES = {"float32": ("F32", "ALL_F32"), "float16": ("F16", "MOSTLY_F16"), "bfloat16": ("BF16", "MOSTLY_BF16")}
_MOST_BLOCKS = 1000  # of a tower: more of them are a damaged file
_BOTH = "export the whole model, and convert both of its files: convert_hf_to_gguf.py FOLDER, and again with --mmproj"


@dataclass(frozen=True)
class _Place:
    """A tensor of the file.

    Attributes:
        source: the base's tensor that it is made of.
        part: takes what it holds from an array of the source's shape.
        shape: in the order of numpy and torch, which GGUF files reverse.
        dtype: in the file.
    """

    name: str
    source: StoredTensor
    part: Callable[[Array], Array]
    shape: tuple[int, ...]
    dtype: str


def load_gguf() -> Any:
    """llama.cpp's package for GGUF files.

    Raises:
        ExportError: it is not installed.
    """
    try:
        import gguf
    except ImportError:
        raise ExportError("--mmproj needs the package gguf", "install it: pip install 'swiftalign[gguf]'") from None
    return gguf


def mmproj_dtype(source: Source, asked: str | None) -> str:
    """The dtype of the file's matrices: the one asked for, else the base's if it has 16 bits, else float16.

    So llama.cpp's converter decides it: nothing is lost of a base of 16 bits, and few programs use wider files.
    """
    stored = (tensor.info for name, tensor in source.base.items() if "visual." in name)
    narrow = (info.dtype for info in stored if len(info.shape) > 1 and ITEM_SIZES[info.dtype] == 2)
    return asked or next(narrow, "float16")


def mmproj_file(name: str, dtype: str) -> str:
    """What a vision file is called, so that llama.cpp's tools tell it from an LLM file: mmproj-NAME-F16.gguf."""
    return f"mmproj-{name}-{_TYPES[dtype][0]}.gguf"


def model_name(output: Path) -> str:
    """The name of the model that a folder holds, or a vision file: without what `mmproj_file` adds.

    >>> model_name(Path("models/mmproj-stage4-BF16.gguf")), model_name(Path("models/stage4"))
    ('stage4', 'stage4')
    """
    if output.suffix != ".gguf":
        return output.name
    return re.sub(r"^mmproj-(?=.)|(?<=.)-(F16|BF16|F32)$", "", output.stem, flags=re.IGNORECASE)


def write_mmproj(source: Source, path: Path, *, dtype: str, name: str, card: str) -> Written:
    """Write the vision file of the merged model, and read it back.

    The merge is that of `write_model`, in the base's dtype, so that all programs which serve the model have the same
    values. Then the matrices are converted; vectors and the embeddings of positions are float32 in any case.

    Args:
        dtype: of the matrices, see `mmproj_dtype`.
        name: what the file's metadata call the model.
        card: the card of the merged model, from whose front matter the file's other metadata come.

    Raises:
        ExportError: llama.cpp has no such file for this model, or the LLM was trained too; the package gguf is missing;
            a number does not fit the dtype; or the file read back is not what it should be.
    """
    import numpy as np

    gguf, base, notes = load_gguf(), source.base_folder, []
    config = read_json(base / "config.json")
    if config.get("model_type") not in (*_QWEN3, *_QWEN2):
        known = names((*_QWEN3, *_QWEN2), 9)
        message = f"{base}: a {config.get('model_type')}; --mmproj writes the vision files of {known} only"
        raise ExportError(message, _BOTH)
    visual = {key: tensor for key, tensor in source.base.items() if key.removeprefix("model.").startswith("visual.")}
    trained = [*source.whole, *source.changed]
    if others := [key for key in trained if key not in visual]:
        message = f"the run trained {counted(len(others), 'tensor')} outside the vision file: {names(others)}"
        raise ExportError(message, _BOTH)
    architecture = architecture_of(config, str(base), source.base)
    if vit := [key for key in trained if architecture and architecture.component(key) == "vit"]:
        notes.append(f"the run trained the ViT too: the file holds its {counted(len(vit), 'changed tensor')}")
    writer = gguf.GGUFWriter(path=None, arch=gguf.MODEL_ARCH_NAMES[gguf.MODEL_ARCH.MMPROJ])
    try:
        if not 0 < config["vision_config"]["depth"] <= _MOST_BLOCKS:
            raise ValueError(f"{config['vision_config']['depth']} blocks")
        places = list(_places(visual, config, dtype, gguf))
        for place in places:
            kind, size = gguf.GGMLQuantizationType[_TYPES[place.dtype][0]], ITEM_SIZES[place.dtype]
            writer.add_tensor_info(place.name, place.shape, np.dtype(f"u{size}"), math.prod(place.shape) * size, kind)
        _add_metadata(writer, gguf, base, config, dtype=dtype, name=name, card=card)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, ModelError) as error:
        reason = error.message if isinstance(error, ModelError) else f"{type(error).__name__}: {error}"
        raise ExportError(f"{base}: its vision tower is not one that llama.cpp reads ({reason})", _BOTH) from error
    require_space(path, sum(math.prod(place.shape) * ITEM_SIZES[place.dtype] for place in places))
    merged = dict(source.merged_values())
    rounded = [key for key, data in merged.items() if data == read_bytes(source.base[key])]
    if len(rounded) == len(merged):
        hint = "train longer, or at a higher learning rate: the updates are smaller than the base's dtype can hold"
        raise ExportError("the merged model equals the base: nothing changed", hint)
    by_name = {tensor.name: key for key, tensor in visual.items()}
    digests = {}
    writer.write_header_to_file(path)
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for place in places:
        key, stored = by_name[place.source.name], place.source.info
        data = cast(merged[key] if key in merged else read_bytes(place.source), stored.dtype, place.dtype)
        require_finite(key, data, place.dtype)
        values = np.frombuffer(data, f"u{ITEM_SIZES[place.dtype]}").reshape(stored.shape)
        values = np.ascontiguousarray(place.part(values))
        digests[place.name] = hashlib.sha256(values.tobytes()).hexdigest()
        try:
            writer.write_tensor_data(values)
        except OSError as error:  # numpy says how many bytes could not be written, but not why
            raise OSError(error.errno or errno.ENOSPC, str(error)) from error
    writer.close()
    found = {
        tensor.name: (tensor.tensor_type.name, tuple(map(int, reversed(tensor.shape))), tensor.data)
        for tensor in gguf.GGUFReader(path).tensors
    }
    for place in places:
        kind, shape, data = found.pop(place.name, ("", (), np.zeros(0)))
        same = hashlib.sha256(data.tobytes()).hexdigest() == digests[place.name]
        if not same or (kind, shape) != (_TYPES[place.dtype][0], place.shape):
            raise ExportError(f"{path}: {place.name} was not written as merged", "check the disk")
    changed = [source.base[key].name for key in merged if key not in rounded]
    return Written(
        changed=changed,
        rounded=[source.base[key].name for key in rounded],
        copied=len(visual) - len(changed),
        digests={place.name: digests[place.name] for place in places if by_name[place.source.name] in merged},
        total_bytes=path.stat().st_size,
        dtype=dtype,
        notes=notes,
    )


def _places(visual: dict[str, StoredTensor], config: dict[str, Any], dtype: str, gguf: Any) -> Iterator[_Place]:
    """The tensors of the file, in the order of the base's files."""
    import numpy as np

    kinds = gguf.MODEL_TENSOR
    table = gguf.get_tensor_name_map(gguf.MODEL_ARCH.MMPROJ, config["vision_config"]["depth"])
    patches, positions = (gguf.TENSOR_NAMES[kind] for kind in (kinds.V_ENC_EMBD_PATCH, kinds.V_ENC_EMBD_POS))
    for key, tensor in visual.items():
        for name, part in _parts(key.removeprefix("model."), config, table, gguf):
            shape = part(np.broadcast_to(np.zeros(()), tensor.info.shape)).shape
            wide = len(shape) < 2 or name.startswith(positions)
            wide |= name.startswith(patches) and dtype != "float16"  # of this convolution llama.cpp has no other kind
            yield _Place(name, tensor, part, shape, "float32" if wide else dtype)


def _parts(key: str, config: dict[str, Any], table: Any, gguf: Any) -> Iterator[tuple[str, Callable[[Array], Array]]]:
    """The tensors of the file that one of the model's becomes: their names, and what takes each from an array."""
    tensors, (module, _, kind) = gguf.MODEL_TENSOR, key.rpartition(".")

    def named(tensor: Any, number: int = 0) -> str:
        return f"{gguf.TENSOR_NAMES[tensor].format(bid=number)}.{kind}"

    if module == "visual.patch_embed.proj" and kind == "weight":
        # The convolution over two frames becomes two, one for each frame.
        if config["vision_config"].get("temporal_patch_size", 2) != 2:
            raise ValueError("temporal_patch_size is not 2")
        yield named(tensors.V_ENC_EMBD_PATCH), lambda values: values[:, :, 0]
        yield f"{named(tensors.V_ENC_EMBD_PATCH)}.1", lambda values: values[:, :, 1]
    elif config["model_type"] in _QWEN2 and module.endswith(".attn.qkv"):
        for index, letter in enumerate("qkv"):
            name = table.get_name(f"{module.removesuffix('qkv')}{letter}.{kind}", try_suffixes=(".weight", ".bias"))
            yield name, partial(_third, index)
    elif config["model_type"] in _QWEN3 and module.startswith("visual.deepstack_merger_list."):
        number, layer = module.split(".")[2:]
        known = {"norm": tensors.V_DS_NORM, "linear_fc1": tensors.V_DS_FC1, "linear_fc2": tensors.V_DS_FC2}
        block = config["vision_config"]["deepstack_visual_indexes"][int(number)]
        yield named(known[layer], block), lambda values: values
    elif config["model_type"] in _QWEN3 and module.startswith("visual.merger."):
        layer = module.removeprefix("visual.merger.")
        index = {"linear_fc1": 0, "linear_fc2": 2, "norm": 0}[layer]
        yield named(tensors.V_POST_NORM if layer == "norm" else tensors.V_MMPROJ, index), lambda values: values
    elif name := table.get_name(key, try_suffixes=(".weight", ".bias")):
        yield name, lambda values: values
    else:
        raise ValueError(f"no name for {key}")


def _third(index: int, values: Array) -> Array:
    """One of the three matrices, or vectors, that lie one after the other in an array."""
    size = len(values) // 3
    return values[index * size : (index + 1) * size]


def _add_metadata(
    writer: Any, gguf: Any, base: Path, config: dict[str, Any], *, dtype: str, name: str, card: str
) -> None:
    """What llama.cpp has to know of the tower, in the order of its converter."""
    vision, kind = config["vision_config"], config["model_type"]
    writer.add_type(gguf.GGUFType.MMPROJ)
    with tempfile.TemporaryDirectory() as place:
        # The package reads a model folder, and this is what it reads of one.
        folder = Path(place) / name
        folder.mkdir()
        (folder / CARD).write_text(card, encoding="utf-8")
        for file in ("config.json", "generation_config.json"):
            if (base / file).is_file():
                copy_file(base / file, folder / file)
        total = writer.get_total_parameter_count()
        found = gguf.Metadata.load(None, folder, None, total[0])
    found.size_label = found.size_label or gguf.size_label(*total)
    found.set_gguf_meta_model(writer)
    writer.add_file_type(gguf.LlamaFileType[_TYPES[dtype][1]])
    writer.add_clip_has_vision_encoder(True)
    writer.add_vision_projection_dim((config | config.get("text_config", {}))["hidden_size"])
    # Qwen3-VL's embeddings of positions are those of a square of patches.
    size = int(vision.get("num_position_embeddings", 2304) ** 0.5 * vision["patch_size"]) if kind in _QWEN3 else 560
    writer.add_vision_image_size(vision.get("image_size", size))
    writer.add_vision_patch_size(vision["patch_size"])
    writer.add_vision_embedding_length(vision["hidden_size"])
    writer.add_vision_feed_forward_length(vision["intermediate_size"])
    writer.add_vision_block_count(vision["depth"])
    writer.add_vision_head_count(vision["num_heads"])
    processor: dict[str, Any] = {}
    for file in ("preprocessor_config.json", "processor_config.json"):
        if (base / file).is_file():
            values = read_json(base / file)
            processor |= values | values.get("image_processor", {})
    writer.add_vision_image_mean(processor["image_mean"])
    writer.add_vision_image_std(processor["image_std"])
    if kind in _QWEN3:
        writer.add_clip_projector_type(gguf.VisionProjectorType.QWEN3VL)
        writer.add_vision_use_gelu(True)
        writer.add_vision_spatial_merge_size(vision["spatial_merge_size"])
        writer.add_vision_attention_layernorm_eps(config.get("text_config", {}).get("rms_norm_eps", 1e-6))
        stacked = vision.get("deepstack_visual_indexes", [])
        if any(number not in range(vision["depth"]) for number in stacked):
            raise ValueError(f"deepstack_visual_indexes name blocks that are not there: {stacked}")
        writer.add_vision_is_deepstack_layers([number in stacked for number in range(vision["depth"])])
    else:
        writer.add_clip_projector_type(gguf.VisionProjectorType.QWEN25VL)
        writer.add_vision_use_silu(True)
        whole = vision["fullatt_block_indexes"]
        if any(after - before != whole[0] + 1 for before, after in pairwise(whole)):
            raise ValueError(f"fullatt_block_indexes are not at equal distances: {whole}")
        writer.add_vision_n_wa_pattern(whole[0] + 1)
        writer.add_vision_attention_layernorm_eps(config.get("rms_norm_eps", 1e-6))
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
