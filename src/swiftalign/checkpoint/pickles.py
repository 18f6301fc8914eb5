"""Reading torch's files without trusting them: nothing in them is executed."""

from __future__ import annotations

import io
import pickletools
import warnings
import zipfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any, BinaryIO

from swiftalign.model.safetensors import ITEM_SIZES, MAX_JSON_BYTES, MAX_NAME
from swiftalign.problems import Problem

_LEGACY_PICKLES = 5  # magic number, protocol, system, contents, storage keys


def read_pickle(path: Path, device: str = "meta") -> dict[str, Any]:
    """The tensors of a torch file, by name.

    Raises:
        Exception: of any type, where the file is damaged, or holds something that is not a weight.
    """
    values = load_pickle(path, device)
    if not isinstance(values, dict):
        raise ValueError("does not hold a mapping of names to tensors")
    tensors = {name: value for name, value in values.items() if hasattr(value, "shape") and hasattr(value, "dtype")}
    for name, tensor in tensors.items():
        if tensor.nbytes > tensor.untyped_storage().nbytes():
            raise ValueError(f"{str(name)[:100]!r} claims more elements than the file stores")
        dtype = str(tensor.dtype).removeprefix("torch.")
        if not isinstance(name, str) or not name.isprintable() or dtype not in ITEM_SIZES:
            raise ValueError(f"{str(name)[:100]!r} ({dtype}) is not a weight by its name and dtype")
    return tensors


def pickle_refused(path: Path, error: Exception) -> Problem:
    """The problem of a torch file that torch's unpickler, or this module, does not read."""
    reason = " ".join(str(error).split())[:160] or type(error).__name__
    hint = "use another checkpoint, or a .safetensors file; nothing in the pickle was executed"
    return Problem("pickle-refused", f"{path}: {reason}", hint)


def load_pickle(source: Path | BinaryIO, device: str = "meta") -> Any:
    """The contents of a torch file; on the meta device no values are read where the format allows it.

    torch's weights-only unpickler builds tensors and runs nothing else. Names that no class has are refused before it
    reads them: it takes minutes to word its error about a very long one. So are compressed files, which torch never
    writes: a small one could fill the memory.

    Raises:
        Exception: of any type, where the file is damaged, or holds something else than plain values and tensors.
    """
    import torch

    zipped = zipfile.is_zipfile(source)
    if zipped:
        with zipfile.ZipFile(source) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise ValueError("it is compressed, as torch writes no file")
            entries = [entry for entry in archive.infolist() if entry.filename.endswith("data.pkl")]
            if sum(entry.file_size for entry in entries) > MAX_JSON_BYTES:
                raise ValueError("its pickle is larger than any model needs")
            streams = [archive.read(entry) for entry in entries]
    else:
        with source.open("rb") if isinstance(source, Path) else nullcontext(source) as file:
            streams = [file.read(MAX_JSON_BYTES)]
    for stream in streams:
        check_names(stream, _LEGACY_PICKLES if not zipped else 1)
    if not isinstance(source, Path):
        source.seek(0)
    with warnings.catch_warnings(action="ignore"):  # on pickles of a newer protocol than torch's own
        return torch.load(source, map_location=device, weights_only=True, mmap=zipped and isinstance(source, Path))


def check_names(data: bytes, count: int = 1) -> None:
    """Look through pickles that follow each other, for what would take an unpickler very long or all memory.

    Raises:
        Exception: of any type, where the bytes are not a pickle, or hold a very long name or a very high number.
    """
    stream = io.BytesIO(data)
    for _ in range(count):
        for code, argument, _ in pickletools.genops(stream):
            if isinstance(argument, str) and len(argument) > MAX_NAME:
                raise ValueError(f"it holds a name of {len(argument)} characters: {argument[:50]!r}...")
            if code.name.endswith("PUT") and isinstance(argument, int) and argument > len(data):
                raise ValueError(f"it numbers a value as {argument}, and has {len(data)} bytes")
