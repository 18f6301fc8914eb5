"""Writing a model's weight files: the base's bytes and the merged values, each read back after they were written."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from swiftalign.exports.convert import convert_file, require_finite
from swiftalign.exports.folder import copy_range
from swiftalign.exports.source import Source
from swiftalign.files import sync
from swiftalign.model.bytes import digest, holds
from swiftalign.model.safetensors import StoredTensor
from swiftalign.problems import ExportError

_PIECE_BYTES = 1 << 19  # copied and read back at once: both files' bytes are still in a core's cache
_PART_BYTES = 256 << 20  # of a file that a thread copies before it flushes them to the disk


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
    """Copy, merge and check; all that is not merged is copied while the merge computes.

    Returns:
        What was merged, by the names in the files.

    Args:
        folder: the model folder to fill.
        shared: the base's files that become hard links; nothing in them changes.
        dtype: convert the base to it, and merge in it.

    Raises:
        ExportError: a file that was written is not what it should be.
    """
    changing = {name: source.base[name] for name in (*source.whole, *source.changed)}
    placed: dict[str, Placed] = {}
    converted: dict[Path, Future[dict[str, StoredTensor]]] = {}
    copies: list[Future[Any]] = []
    # Copying and flushing wait in the kernel: more threads than processors.
    with ThreadPoolExecutor(max_workers=4) as pool, ExitStack() as ending:
        ending.callback(pool.shutdown, cancel_futures=True)  # after an error, what has not begun is not waited for
        for file in sorted(source.files, key=lambda file: file not in source.changed_files):
            real, target = file.resolve(), folder / file.name  # writing through a link would change the base
            if file in shared:
                _link(real, target)
            elif dtype is not None:
                converted[file] = pool.submit(convert_file, real, target, dtype)
            else:
                gaps = _begin(real, target, [tensor for tensor in changing.values() if tensor.file == file])
                parts = (list(part) for _, part in groupby(gaps, key=lambda gap: gap[0] // _PART_BYTES))
                copies += [pool.submit(_copy, real, target, part) for part in parts]
        for name, data in source.merged_values(dtype):
            base = changing[name]
            place = replace(base, file=folder / base.file.name)
            if dtype is not None:
                place = base = converted[base.file].result()[base.name]
            if len(data) != place.end - place.begin:
                raise ExportError(f"{name}: {len(data)} merged bytes, its place has {place.end - place.begin}")
            require_finite(f"{name}: merged, it", data, place.info.dtype)
            placed[place.name] = Placed(place, hashlib.sha256(data).hexdigest(), holds(base, data))
            with place.file.open("r+b") as written:
                written.seek(place.begin)
                written.write(data)
        for job in [*copies, *converted.values()]:
            job.result()
        found = pool.map(lambda item: digest(item.place), placed.values())
        for item, written_digest in zip(placed.values(), found, strict=True):
            if written_digest != item.digest:
                raise ExportError(f"{item.place.file}: {item.place.name} was not written as merged", "check the disk")
    return placed


def _link(real: Path, target: Path) -> None:
    try:
        target.hardlink_to(real)
    except OSError as error:
        message = f"{real}: can't be hard-linked into the output: {error.strerror or error}"
        raise ExportError(message, "leave out --link, or choose a folder on the base's disk") from None


def _begin(base: Path, target: Path, changing: list[StoredTensor]) -> list[tuple[int, int]]:
    """Create a file of the base's size; returns the ranges around the tensors that change, cut where a part ends."""
    size, begin, gaps = base.stat().st_size, 0, []
    with target.open("xb") as file:
        file.truncate(size)
    for stop, after in [*sorted((tensor.begin, tensor.end) for tensor in changing), (size, size)]:
        while begin < stop:
            end = min(stop, begin - begin % _PART_BYTES + _PART_BYTES)
            gaps.append((begin, end))
            begin = end
        begin = after
    return gaps


def _copy(base: Path, target: Path, gaps: list[tuple[int, int]]) -> None:
    """Copy ranges of the base's file to their places, read them back piece by piece, and flush the file."""
    with base.open("rb") as theirs, target.open("r+b") as mine:
        for begin, end in gaps:
            while begin < end:  # in pieces that end where blocks do: some file systems share whole blocks
                after = min(end, begin - begin % _PIECE_BYTES + _PIECE_BYTES)
                copy_range(theirs.fileno(), mine.fileno(), begin, after)
                piece = os.pread(mine.fileno(), after - begin, begin)
                if len(piece) != after - begin or piece != os.pread(theirs.fileno(), after - begin, begin):
                    message = f"{target}: differs from the base between bytes {begin} and {after}"
                    raise ExportError(message, "only merged tensors may differ: check the disk")
                begin = after
    sync(target)
