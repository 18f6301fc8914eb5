"""Damaging files: safetensors and JSON, read and written byte by byte, whatever a writer would refuse."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WEIGHTS = "adapter_model.safetensors"
Harm = Callable[[Path], Path | None]


@dataclass(frozen=True)
class Damage:
    """A damaged checkpoint.

    Attributes:
        sound: the sound checkpoint that a copy is made of; a key of `RUNS` or `DERIVED`.
        harm: damages the copy; gets what was to be checked, and may return another path to check.
        codes: every error and warning that verify-ckpt must give, and no other.
        options: of verify-ckpt; BASE and OTHER stand for folders of models.
        message: the whole text of one finding, with PATH for the checkpoint.
    """

    sound: str
    harm: Harm
    codes: tuple[str, ...]
    options: tuple[str, ...] = ()
    message: str = ""


@dataclass
class Tensor:
    """A tensor of a safetensors file, under the names that the format has for dtypes."""

    dtype: str
    shape: list[int]
    data: bytes


def read_tensors(path: Path) -> dict[str, Tensor]:
    raw = path.read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:start])
    header.pop("__metadata__", None)
    return {
        name: Tensor(e["dtype"], e["shape"], raw[start + e["data_offsets"][0] : start + e["data_offsets"][1]])
        for name, e in header.items()
    }


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    header, position = {}, 0
    for name, tensor in tensors.items():
        end = position + len(tensor.data)
        header[name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [position, end]}
        position = end
    write_parts(path, json.dumps(header).encode(), b"".join(tensor.data for tensor in tensors.values()))


def write_parts(path: Path, header: bytes, data: bytes) -> None:
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)


def _file(path: Path, file: str) -> Path:
    return path / file if path.is_dir() else path


def tensors(change: Callable[[dict[str, Tensor]], Any], file: str = WEIGHTS) -> Harm:
    """Change the tensors of a file: by changing the dict, or by returning another."""

    def harm(path: Path) -> None:
        held = read_tensors(_file(path, file))
        write_tensors(_file(path, file), change(held) or held)

    return harm


def header(change: Callable[[dict[str, Any]], Any], file: str = WEIGHTS) -> Harm:
    """Change the header alone; the data stays."""

    def harm(path: Path) -> None:
        raw = _file(path, file).read_bytes()
        start = 8 + int.from_bytes(raw[:8], "little")
        values = json.loads(raw[8:start])
        changed = change(values)
        text = changed if isinstance(changed, bytes) else json.dumps(values).encode()
        write_parts(_file(path, file), text, raw[start:])

    return harm


def raw(change: Callable[[bytes], bytes], file: str = WEIGHTS) -> Harm:
    """Change a file's bytes."""

    def harm(path: Path) -> None:
        _file(path, file).write_bytes(change(_file(path, file).read_bytes()))

    return harm


def values(file: str, **changes: Any) -> Harm:
    """Set keys of a JSON file; None takes a key out."""

    def harm(path: Path) -> None:
        held = json.loads((path / file).read_text()) | changes
        (path / file).write_text(json.dumps({key: value for key, value in held.items() if value is not None}))

    return harm


def text(file: str, content: str) -> Harm:
    return lambda path: (path / file).write_text(content) and None


def without(*files: str) -> Harm:
    """Delete files."""

    def harm(path: Path) -> None:
        for file in files:
            (path / file).unlink()

    return harm


def both(*harms: Harm) -> Harm:
    def harm(path: Path) -> None:
        for each in harms:
            each(path)

    return harm


def renamed(change: Callable[[str], str], file: str = WEIGHTS) -> Harm:
    return tensors(lambda held: {change(name): tensor for name, tensor in held.items()}, file)


def first(held: dict[str, Any], part: str = "linear_fc1.weight") -> str:
    """The first tensor whose name ends so."""
    return next(name for name in held if name.endswith(part))


def element(tensor: Tensor, bits: int, index: int = 0) -> None:
    """Set one element's bit pattern."""
    width = {"F32": 4, "F16": 2, "BF16": 2}[tensor.dtype]
    place = index % (len(tensor.data) // width) * width
    tensor.data = tensor.data[:place] + bits.to_bytes(width, "little") + tensor.data[place + width :]


def zeroed(tensor: Tensor) -> None:
    tensor.data = bytes(len(tensor.data))
