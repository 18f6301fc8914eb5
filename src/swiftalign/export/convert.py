"""Writing safetensors files: all weights of a folder in another dtype, or some tensors as one file."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable
from pathlib import Path

from swiftalign.export.merge import cast
from swiftalign.model.bytes import blocks, is_finite
from swiftalign.model.safetensors import ITEM_SIZES, StoredTensor, TensorInfo, read_json, read_stored, weight_files
from swiftalign.problems import ExportError

_NAMES = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}


def write_safetensors(path: Path, entries: Iterable[tuple[TensorInfo, bytes]]) -> None:
    """Write tensors as one file, in the order given.

    References:
        https://github.com/huggingface/safetensors, "Format".
    """
    listed = list(entries)
    with path.open("xb") as file:
        file.write(header(info for info, _ in listed))
        for _, data in listed:
            file.write(data)


def header(tensors: Iterable[TensorInfo]) -> bytes:
    """The length and the header of a file that holds these tensors one after the other."""
    table: dict[str, object] = {"__metadata__": {"format": "pt"}}
    position = 0
    for info in tensors:
        if info.dtype not in _NAMES:
            raise ExportError(f"{info.name}: can't write {info.dtype} weights")
        span = [position, position + info.nbytes]
        table[info.name] = {"dtype": _NAMES[info.dtype], "shape": list(info.shape), "data_offsets": span}
        position += info.nbytes
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def convert_file(source: Path, target: Path, dtype: str) -> None:
    """Write a weight file in another float dtype, in blocks, and read it back.

    Raises:
        ExportError: a weight is of no float dtype, or too large for this one.
    """
    stored = sorted(read_stored(source), key=lambda tensor: tensor.begin)
    with target.open("xb") as writer:
        writer.write(header(TensorInfo(t.info.name, t.info.shape, dtype) for t in stored))
        for tensor in stored:
            for block in _whole_elements(tensor):
                writer.write(_converted(block, tensor.info, dtype))
    _check_conversion(stored, target, dtype)


def _converted(block: bytes, info: TensorInfo, dtype: str) -> bytes:
    import numpy as np

    data = cast(block, info.dtype, dtype)
    if not is_finite(np.frombuffer(data, np.uint8), dtype):
        raise ExportError(f"{info.name} holds numbers too large for {dtype}", "choose bfloat16 or float32")
    return data


def _check_conversion(stored: list[StoredTensor], target: Path, dtype: str) -> None:
    """Read again what was written, against what it was made from."""
    for tensor, written in zip(stored, read_stored(target), strict=True):
        with target.open("rb") as file:
            file.seek(written.begin)
            for block in _whole_elements(tensor):
                wanted = cast(block, tensor.info.dtype, dtype)
                if file.read(len(wanted)) != wanted:
                    raise ExportError(f"{tensor.info.name}: was not written as converted", "check the disk")


def _whole_elements(tensor: StoredTensor) -> Iterable[bytes]:
    width = ITEM_SIZES[tensor.info.dtype]
    for block in blocks(tensor):  # 4 MiB: a whole number of elements of every width
        assert len(block) % width == 0
        yield block


def declare_dtype(folder: Path, dtype: str) -> None:
    """Tell a converted folder's index and config."""
    index_path = folder / "model.safetensors.index.json"
    if index_path.exists():
        index = read_json(index_path)
        sizes = [tensor.info.nbytes for file in weight_files(folder) for tensor in read_stored(file)]
        index.setdefault("metadata", {})["total_size"] = sum(sizes)
        index_path.write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    config_path = folder / "config.json"
    values = read_json(config_path)
    for part in (values, values.get("text_config"), values.get("vision_config")):
        for key in ("dtype", "torch_dtype"):
            if isinstance(part, dict) and key in part:
                part[key] = dtype
    config_path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
