"""Writing a model's weight files: copied as they are, with the merged values put into their places, and read back."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from swiftalign.export.convert import convert_file
from swiftalign.export.folder import copy_file, sync
from swiftalign.export.merge import merged_values
from swiftalign.export.source import Source
from swiftalign.methods.merging import read_bytes
from swiftalign.model.bytes import is_finite
from swiftalign.model.safetensors import StoredTensor, read_stored, weight_files
from swiftalign.problems import ExportError

_BLOCK_BYTES = 16 << 20  # fewer, larger reads: each one waits for the interpreter, which may be importing torch


@dataclass(frozen=True)
class Placed:
    """A merged tensor in its place.

    Attributes:
        digest: SHA-256 of its bytes.
        same: whether they equal the base's: rounding to its dtype can undo an update.
    """

    place: StoredTensor
    digest: str
    same: bool


def write_weights(source: Source, folder: Path, *, shared: list[Path], dtype: str | None) -> dict[str, Placed]:
    """Copy, merge and check; files are copied while the merge computes.

    Args:
        folder: the model folder to fill.
        shared: the base's files that become hard links; nothing in them changes.
        dtype: convert the base to it, and merge in it.

    Raises:
        ExportError: a file that was written is not what it ought to be.
    """
    homes = source.homes
    files = sorted(weight_files(source.base), key=lambda file: file not in homes)
    placed: dict[str, Placed] = {}
    # Copying and syncing wait in the kernel: more threads than processors.
    with ThreadPoolExecutor(max_workers=4) as pool:
        copies = {file: pool.submit(_write, file, folder, file in shared, dtype) for file in files}
        untouched = [] if dtype else [file for file in files if file not in homes and file not in shared]
        checks = [pool.submit(_check, copies[file], file, folder / file.name, []) for file in untouched]
        for name, data in merged_values(source, dtype):
            places = copies[source.base_tensors[name].file].result()
            placed[name] = _put(places[name], data)
        for file in homes:
            inside = [item for item in placed.values() if item.place.file.name == file.name]
            checks.append(pool.submit(_check, copies[file], file, folder / file.name, inside, copied=dtype is None))
        for check in checks:
            check.result()
    return placed


def _write(source: Path, folder: Path, link: bool, dtype: str | None) -> dict[str, StoredTensor]:
    """Put one of the base's files into the folder; returns the places of its tensors there."""
    real, target = source.resolve(), folder / source.name  # writing through a link would change the base
    if link:
        _link(real, target)
    elif dtype is not None:
        convert_file(real, target, dtype)
    else:
        copy_file(real, target)
        sync(target)  # while other files are copied: what is patched later is little
    return {tensor.info.name: tensor for tensor in read_stored(target)}


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError as error:
        message = f"{target}: can't be hard-linked: {error.strerror or error}"
        raise ExportError(message, "leave out --link, or choose a folder on the base's disk") from None


def _put(place: StoredTensor, data: bytes) -> Placed:
    """Write merged values over the base's."""
    import numpy as np

    if len(data) != place.end - place.begin:
        raise ExportError(f"{place.info.name}: {len(data)} merged bytes, its place has {place.end - place.begin}")
    if not is_finite(np.frombuffer(data, np.uint8), place.info.dtype):
        raise ExportError(f"{place.info.name}: merged, holds numbers too large for {place.info.dtype}")
    same = data == read_bytes(place)
    with place.file.open("r+b") as file:
        file.seek(place.begin)
        file.write(data)
    return Placed(place, hashlib.sha256(data).hexdigest(), same)


def _check(
    written: Future[dict[str, StoredTensor]], base: Path, path: Path, placed: list[Placed], *, copied: bool = True
) -> None:
    """Read a written file again; what was converted has been compared while it was."""
    written.result()
    _check_merged(placed)
    if copied:
        _check_copied(base, path, placed)
    sync(path)


def _check_merged(placed: list[Placed]) -> None:
    for item in placed:
        if hashlib.sha256(read_bytes(item.place)).hexdigest() != item.digest:
            raise ExportError(f"{item.place.file}: {item.place.info.name} was not written as merged", "check the disk")


def _check_copied(base: Path, path: Path, placed: list[Placed]) -> None:
    """Hold a copied file against the base's: outside the merged ranges, every byte is the same."""
    with base.open("rb") as theirs, path.open("rb") as mine:
        size = os.fstat(theirs.fileno()).st_size
        begin = 0
        for place in sorted((item.place for item in placed), key=lambda place: place.begin):
            _compare(mine.fileno(), theirs.fileno(), begin, place.begin, path)
            begin = place.end
        _compare(mine.fileno(), theirs.fileno(), begin, size, path)
        if os.fstat(mine.fileno()).st_size != size:
            raise ExportError(f"{path}: is not of the base's size", "check the disk")


def _compare(mine: int, theirs: int, begin: int, end: int, path: Path) -> None:
    """Compare the bytes [begin, end) of two open files."""
    block = min(_BLOCK_BYTES, end - begin)
    buffers = bytearray(block), bytearray(block)
    for position in range(begin, end, block or 1):
        size = min(block, end - position)
        views = [memoryview(buffer)[:size] for buffer in buffers]
        counts = [os.preadv(file, [view], position) for file, view in zip((mine, theirs), views, strict=True)]
        same = buffers[0] == buffers[1] if size == block else bytes(views[0]) == bytes(views[1])
        if counts != [size, size] or not same:
            message = f"{path}: differs from the base between bytes {position} and {position + size}"
            raise ExportError(message, "only merged tensors may: check the disk")
