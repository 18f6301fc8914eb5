"""Damage to the files themselves: cut off, headers that lie, indexes, links, pickles."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from corruptions.files import (
    WEIGHTS,
    Damage,
    Harm,
    both,
    first,
    header,
    raw,
    read_tensors,
    tensors,
    text,
    values,
    without,
    write_tensors,
)

INDEX = "model.safetensors.index.json"
SHARD = "model-00002-of-00006.safetensors"
PLANTED = "planted"  # the file that an executed pickle would create, in the working directory


def _set(entry: str, value: Any) -> Harm:
    """Set a key of the first matrix's header entry."""
    return header(lambda held: held[first(held)].update({entry: value}))


def _double_name(held: dict[str, Any]) -> bytes:
    name = first(held)
    return json.dumps(held)[:-1].encode() + f', "{name}": {json.dumps(held[name])}}}'.encode()


def _overlap(held: dict[str, Any]) -> None:
    one, two = [name for name in held if name.endswith("linear_fc1.weight")][:2]
    held[one]["data_offsets"] = held[two]["data_offsets"]


def _index(**changes: Any) -> Harm:
    return values(INDEX, **changes)


def _placed(name: str, file: str) -> Harm:
    """Have the index place one tensor in another file."""

    def harm(path: Path) -> None:
        index = json.loads((path / INDEX).read_text())
        index["weight_map"][first(index["weight_map"], name)] = file
        (path / INDEX).write_text(json.dumps(index))

    return harm


def _unlisted(path: Path) -> None:
    index = json.loads((path / INDEX).read_text())
    del index["weight_map"][first(index["weight_map"])]
    (path / INDEX).write_text(json.dumps(index))


def _stray(path: Path) -> None:
    (path / "model-00007-of-00007.safetensors").write_bytes((path / SHARD).read_bytes())


class Planted:
    """Unpickled by a trusting reader, this creates a file."""

    def __reduce__(self) -> Any:
        return os.mkdir, (PLANTED,)


def _torch_bytes(value: Any, *, zipped: bool = True) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


def _bin(data: bytes, file: str = "adapter_model.bin") -> Harm:
    return lambda path: (path / file).write_bytes(data) and None


def _directory(path: Path) -> None:
    (path / WEIGHTS).unlink()
    (path / WEIGHTS).mkdir()


def _pipe(path: Path) -> None:
    (path / WEIGHTS).unlink()
    os.mkfifo(path / WEIGHTS)


def _swollen(path: Path) -> None:
    """Pickles that take no place in the file and a gigabyte in memory."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for number in range(20):
            archive.writestr(f"{number}/data.pkl", bytes(50_000_000))


def _in_two_shards(path: Path) -> None:
    """The second shard's first tensor in the third too."""
    source, target = (path / SHARD, path / SHARD.replace("00002-", "00003-"))
    name, tensor = next(iter(read_tensors(source).items()))
    write_tensors(target, read_tensors(target) | {name: tensor})


def _called_outside(path: Path) -> Path:
    _index(weight_map=None)(path)
    return path.rename(path.with_name("outside"))


FILES: dict[str, Damage] = {
    "no-weights": Damage("saved", without(WEIGHTS), ("no-weights",), message="PATH: holds no weight file"),
    "no-tensors": Damage("saved", tensors(lambda held: {"x": held.popitem()[1]} and held.clear()), ("no-weights",)),
    "model-without-weights": Damage("merged", without("model.safetensors"), ("no-weights",)),
    "weights-are-a-folder": Damage(
        "saved", _directory, ("file-unreadable",), message=f"PATH/{WEIGHTS}: Is a directory"
    ),
    "weights-are-a-pipe": Damage(
        "saved", _pipe, ("file-unreadable",), message=f"PATH/{WEIGHTS}: is not a regular file"
    ),
    "zero-bytes": Damage("lora", raw(lambda _: b""), ("file-empty",), message=f"PATH/{WEIGHTS}: has zero bytes"),
    "cut-in-the-data": Damage("saved", raw(lambda data: data[:-100]), ("file-truncated",)),
    "cut-at-half": Damage("lora", raw(lambda data: data[: len(data) // 2]), ("file-truncated",)),
    "cut-in-the-header": Damage("saved", raw(lambda data: data[:300]), ("file-truncated",)),
    "cut-after-eight-bytes": Damage("saved", raw(lambda data: data[:8]), ("file-truncated",)),
    "cut-after-three-bytes": Damage(
        "saved",
        raw(lambda data: data[:3]),
        ("file-truncated",),
        message=f"PATH/{WEIGHTS}: its header claims 0 bytes, but the file has 3",
    ),
    "lone-file-cut": Damage("lone-file", raw(lambda data: data[:-1]), ("file-truncated",)),
    "header-length-huge": Damage("saved", raw(lambda data: b"\xff" * 8 + data[8:]), ("file-truncated",)),
    "header-not-json": Damage("saved", header(lambda _: b"{not JSON}"), ("header-corrupt",)),
    "header-of-random-bytes": Damage("saved", header(lambda _: bytes(range(128, 256))), ("header-corrupt",)),
    "header-a-list": Damage(
        "saved",
        header(lambda _: b"[1, 2]"),
        ("header-corrupt",),
        message=f"PATH/{WEIGHTS}: its header is not a mapping",
    ),
    "header-nested-deeply": Damage("saved", header(lambda _: b'{"a":' * 50_000), ("header-corrupt",)),
    "header-metadata-a-number": Damage("saved", header(lambda held: held.update(__metadata__=1)), ("header-corrupt",)),
    "name-twice": Damage("saved", header(_double_name), ("header-corrupt",)),
    "name-with-terminal-codes": Damage(
        "saved", header(lambda held: held.update({"\x1b[2J": held.pop(first(held))})), ("header-corrupt",)
    ),
    "name-of-half-a-surrogate": Damage(
        "saved", header(lambda held: held.update({"\ud800": held.pop(first(held))})), ("header-corrupt",)
    ),
    # What loaders refuse, although Python's `json` reads it.
    "header-in-utf-16": Damage("saved", header(lambda held: json.dumps(held).encode("utf-16")), ("header-corrupt",)),
    "metadata-of-surrogate-bytes": Damage(
        "saved",
        header(lambda held: json.dumps(held).encode().replace(b'"pt"', b'"\xed\xa0\x80"')),
        ("header-corrupt",),
    ),
    "another-key-beside-the-offsets": Damage("saved", _set("note", float("nan")), ("header-corrupt",)),
    "offsets-overlap": Damage("saved", header(_overlap), ("header-overlap",)),
    "offsets-negative": Damage("saved", _set("data_offsets", [-8, 0]), ("header-corrupt",)),
    "offsets-floats": Damage("saved", _set("data_offsets", [0.0, 16384.0]), ("header-corrupt",)),
    "offsets-beyond-64-bits": Damage("saved", _set("data_offsets", [0, 2**70]), ("header-corrupt",)),
    "offsets-missing": Damage("saved", header(lambda held: held[first(held)].pop("data_offsets")), ("header-corrupt",)),
    "offsets-against-shape": Damage("saved", _set("shape", [1, 1]), ("header-corrupt",)),
    "dtype-unknown": Damage("saved", _set("dtype", "F12"), ("header-corrupt",)),
    "shape-huge": Damage("saved", _set("shape", [2**40, 2**40]), ("header-corrupt",)),
    "hole-in-the-data": Damage("saved", header(lambda held: held.pop(first(held))), ("header-holes",)),
    "bytes-behind-the-data": Damage(
        "saved",
        raw(lambda data: data + b"12345"),
        ("header-holes",),
        message=f"PATH/{WEIGHTS}: its last 5 bytes belong to no tensor",
    ),
    "index-not-json": Damage("merged-in-shards", text(INDEX, "{"), ("index-malformed",)),
    "index-a-list": Damage("merged-in-shards", text(INDEX, "[]"), ("index-malformed",)),
    "index-without-map": Damage(
        "merged-in-shards",
        _index(weight_map=None),
        ("index-malformed",),
        message=f"PATH/{INDEX}: has no weight_map",
    ),
    "index-of-numbers": Damage("merged-in-shards", _index(weight_map={"a": 1}), ("index-malformed",)),
    "index-names-the-parent": Damage("merged-in-shards", _placed("bias", "../x.safetensors"), ("index-outside",)),
    "index-names-the-root": Damage("merged-in-shards", _placed("bias", "/etc/passwd"), ("index-outside",)),
    "index-names-nothing": Damage("merged-in-shards", _placed("bias", ""), ("index-outside",)),
    "index-names-a-long-name": Damage("merged-in-shards", _placed("bias", "x" * 999), ("index-outside",)),
    "index-names-a-folder-inside": Damage("merged-in-shards", _placed("bias", f"x/../{SHARD}"), ("index-outside",)),
    "shard-missing": Damage(
        "merged-in-shards",
        without(SHARD),
        ("index-shard-missing",),
        message=f"PATH/{INDEX}: names {SHARD}, which is not there",
    ),
    "shard-of-the-cache-missing": Damage(
        "hub-cache", lambda path: next(path.glob("model-*")).resolve().unlink(), ("file-not-fetched",)
    ),
    "shard-cut": Damage("merged-in-shards", raw(lambda data: data[:-1], SHARD), ("file-truncated",)),
    "shard-empty": Damage("merged-in-shards", raw(lambda _: b"", SHARD), ("file-empty",)),
    "tensor-in-another-shard": Damage("merged-in-shards", _placed("bias", SHARD), ("index-tensor-missing",)),
    "tensor-not-in-its-shard": Damage(
        "merged-in-shards", tensors(lambda held: held.popitem() and None, SHARD), ("index-tensor-missing",)
    ),
    "tensor-in-two-shards": Damage("merged-in-shards", _in_two_shards, ("tensor-duplicated",)),
    "index-without-map-in-a-folder-of-that-name": Damage("merged-in-shards", _called_outside, ("index-malformed",)),
    "tensor-not-in-the-index": Damage("merged-in-shards", _unlisted, ("index-tensor-unlisted",)),
    "shard-not-in-the-index": Damage(
        "merged-in-shards",
        _stray,
        ("weights-twice",),
        message="PATH/model-00007-of-00007.safetensors: repeats tensors of another file, which is read in its place",
    ),
    "total-size": Damage("merged-in-shards", _index(metadata={"total_size": 12}), ("index-total-size",)),
    "pickle-planted": Damage("pickle", _bin(_torch_bytes({"a": Planted()})), ("pickle-refused",)),
    "pickle-planted-old-format": Damage(
        "pickle", _bin(_torch_bytes({"a": Planted()}, zipped=False)), ("pickle-refused",)
    ),
    "pickle-planted-bare": Damage("pickle", _bin(pickle.dumps(Planted())), ("pickle-refused",)),
    "pickle-planted-lone": Damage(
        "lone-pickle", lambda path: path.write_bytes(pickle.dumps(Planted())) and None, ("pickle-refused",)
    ),
    "pickle-cut": Damage("pickle", raw(lambda data: data[: len(data) // 2], "adapter_model.bin"), ("pickle-refused",)),
    "pickle-empty": Damage("pickle", raw(lambda _: b"", "adapter_model.bin"), ("file-empty",)),
    "pickle-a-list": Damage(
        "pickle",
        _bin(_torch_bytes([torch.zeros(1)])),
        ("pickle-refused",),
        message="PATH/adapter_model.bin: does not hold a mapping of names to tensors",
    ),
    "pickle-of-complex-numbers": Damage(
        "pickle", _bin(_torch_bytes({"a": torch.zeros(1, dtype=torch.complex64)})), ("pickle-refused",)
    ),
    "pickle-of-a-swollen-view": Damage(
        "pickle", _bin(_torch_bytes({"a": torch.zeros(1).expand(10**9)})), ("pickle-refused",), ("--deep",)
    ),
    "pickle-of-sparse-tensors": Damage(
        "pickle", _bin(_torch_bytes({"a": torch.eye(3).to_sparse()})), ("pickle-refused",), ("--deep",)
    ),
    "pickle-of-many-pickles": Damage("lone-pickle", _swollen, ("pickle-refused",)),
    "pickle-without-tensors": Damage("lone-pickle", lambda p: torch.save({"state": {}}, p), ("no-weights",)),
    "optimizer-planted": Damage(
        "saved", _bin(_torch_bytes({"state": Planted()}), "optimizer.pt"), ("pickle-refused",), ("--deep",)
    ),
    "optimizer-cut": Damage("saved", raw(lambda data: data[:1000], "optimizer.pt"), ("pickle-refused",), ("--deep",)),
    "two-faults-in-one-file": Damage(
        "saved", both(_set("dtype", "F12"), raw(lambda data: data[:-100])), ("header-corrupt", "file-truncated")
    ),
}
