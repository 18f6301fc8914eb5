"""Writing a model's weight files: copied as they are, with the merged values put into their places, and read back."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from swiftalign.exports.convert import convert_file, require_finite
from swiftalign.exports.folder import copy_file
from swiftalign.exports.source import Source
from swiftalign.files import sync
from swiftalign.model.bytes import digest, read_bytes
from swiftalign.model.safetensors import StoredTensor, read_stored
from swiftalign.problems import ExportError

_BLOCK_BYTES = 16 << 20  # few, large reads: after each one a thread waits for the interpreter, which may import torch


@dataclass(frozen=True)
class Placed:
    """A merged tensor in the file that was written.

    Attributes:
        place: file and byte range of the tensor.
        digest: SHA-256 of the tensor's bytes.
        same: whether the bytes equal the base's: rounding to the base's dtype can undo an update.
    """

    place: StoredTensor
    digest: str
    same: bool


def write_weights(source: Source, folder: Path, *, shared: list[Path], dtype: str | None) -> dict[str, Placed]:
    """Copy, merge and check; files are copied while the merge computes.

    Returns:
        What was merged, by the names in the files.

    Args:
        folder: the model folder to fill.
        shared: the base's files that become hard links; nothing in them changes.
        dtype: convert the base to it, and merge in it.

    Raises:
        ExportError: a file that was written is not what it should be.
    """
    changed = source.changed_files
    placed: dict[str, Placed] = {}
    # Copying and syncing wait in the kernel: more threads than processors.
    with ThreadPoolExecutor(max_workers=4) as pool, ExitStack() as ending:
        ending.callback(pool.shutdown, cancel_futures=True)  # after an error, what has not begun is not waited for
        files = sorted(source.files, key=lambda file: file not in changed)
        copies = {file: pool.submit(_write, file, folder, file in shared, dtype) for file in files}
        untouched = [] if dtype else [file for file in files if file not in changed and file not in shared]
        checks = [pool.submit(_check, copies[file], file, folder / file.name, []) for file in untouched]
        for name, data in source.merged_values(dtype):
            place = copies[source.base[name].file].result()[source.base[name].name]
            if len(data) != place.end - place.begin:
                raise ExportError(f"{name}: {len(data)} merged bytes, its place has {place.end - place.begin}")
            require_finite(f"{name}: merged, it", data, place.info.dtype)
            placed[place.name] = Placed(place, hashlib.sha256(data).hexdigest(), data == read_bytes(place))
            with place.file.open("r+b") as file:
                file.seek(place.begin)
                file.write(data)
        for path in changed:
            inside = [item for item in placed.values() if item.place.file.name == path.name]
            checks.append(pool.submit(_check, copies[path], path, folder / path.name, inside, copied=dtype is None))
        for copy in copies.values():  # and the links, which are not checked
            copy.result()
        for check in checks:
            check.result()
    return placed


def _write(source: Path, folder: Path, link: bool, dtype: str | None) -> dict[str, StoredTensor]:
    """Put one of the base's files into the folder; returns the places of its tensors there."""
    real, target = source.resolve(), folder / source.name  # writing through a link would change the base
    if link:
        try:
            target.hardlink_to(real)
        except OSError as error:
            message = f"{real}: can't be hard-linked into the output: {error.strerror or error}"
            raise ExportError(message, "leave out --link, or choose a folder on the base's disk") from None
    elif dtype is not None:
        convert_file(real, target, dtype)
    else:
        copy_file(real, target)
        sync(target)  # while other files are copied; what is merged into it later is little
    return {tensor.name: tensor for tensor in read_stored(target)}


def _check(
    written: Future[dict[str, StoredTensor]], base: Path, path: Path, placed: list[Placed], *, copied: bool = True
) -> None:
    """Read a written file again: merged tensors against their digests, the rest of a copied file against the base.

    The rest of a converted file was compared when it was converted.
    """
    written.result()
    for item in placed:
        if digest(item.place) != item.digest:
            raise ExportError(f"{path}: {item.place.name} was not written as merged", "check the disk")
    if copied:
        with base.open("rb") as theirs, path.open("rb") as mine:
            size = os.fstat(theirs.fileno()).st_size
            if os.fstat(mine.fileno()).st_size != size:
                raise ExportError(f"{path}: its size differs from the base's", "check the disk")
            begin = 0
            for place in sorted((item.place for item in placed), key=lambda place: place.begin):
                _compare(mine.fileno(), theirs.fileno(), begin, place.begin, path)
                begin = place.end
            _compare(mine.fileno(), theirs.fileno(), begin, size, path)
    sync(path)


def _compare(mine: int, theirs: int, begin: int, end: int, path: Path) -> None:
    """Compare the bytes [begin, end) of two open files."""
    for position in range(begin, end, _BLOCK_BYTES):
        size = min(_BLOCK_BYTES, end - position)
        block = os.pread(mine, size, position)
        if len(block) != size or block != os.pread(theirs, size, position):
            message = f"{path}: differs from the base between bytes {position} and {position + size}"
            raise ExportError(message, "only merged tensors may differ: check the disk")
