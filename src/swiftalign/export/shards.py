"""Weight files of the result: the base's bytes, with merged values in their place, held against both afterwards.

Copying, merging, flushing and checking go on side by side: ranges of a file are copied around the tensors that change,
so nothing waits for anything but its own file.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from threading import Event, Thread

from swiftalign.checkpoint import StoredTensor, read_stored, weight_files
from swiftalign.errors import ExportError
from swiftalign.export.folder import FICLONE
from swiftalign.export.merge import merged_values
from swiftalign.export.source import Source
from swiftalign.verify.values import blocks, digest

_PIECE = 64 << 20  # what a thread copies at a time
_SHARE = 256 << 20  # what a thread compares at a time
_THREADS = 2  # copying and comparing in memory keep no more busy
_FLUSH_SECONDS = 0.05


def write_shards(source: Source, folder: Path, shared: list[Path]) -> tuple[dict[str, str], set[str]]:
    """Write every weight file of the base into `folder`, merged, and read all of it again.

    Args:
        shared: files of the base to hard-link; nothing changes in them.

    Returns:
        SHA-256 of each merged tensor's bytes, and the names of all tensors that equal the base.

    Raises:
        ExportError: a link can't be made, or a file does not hold what it should.
    """
    changed = set(source.changed)
    digests: dict[str, str] = {}
    with ExitStack() as stack, ThreadPoolExecutor(_THREADS) as pool:
        copies: dict[Path, list[Future[None]]] = {}
        for file in weight_files(source.base):
            if file in shared:
                _link(file, folder)
            else:
                copies[file] = _start_copy(file, folder / file.name, source, changed, stack, pool)
        stack.enter_context(_Flushing([folder / file.name for file in copies]))
        for name, data in merged_values(source):
            place = source.base_tensors[name]
            digests[name] = _put(place, folder, data)
        checks = [check for file in copies for check in _start_check(copies[file], folder / file.name, source, pool)]
        same = {name for check in checks for name in check.result()}
    _refuse_strays(source, digests, same, copies)
    _refuse_misprints(folder, source, digests)
    return digests, same


def _link(file: Path, folder: Path) -> None:
    target = folder / file.name
    try:
        os.link(file.resolve(), target)
    except OSError as error:
        message = f"{target}: can't be hard-linked: {error.strerror or error}"
        raise ExportError(message, "leave out --link, or choose a folder on the base's disk") from None


def _start_copy(
    file: Path, target: Path, source: Source, changed: set[str], stack: ExitStack, pool: ThreadPoolExecutor
) -> list[Future[None]]:
    """Begin to copy a file around the tensors that change; at once, where the file system can share blocks."""
    reader, writer = stack.enter_context(file.open("rb")), stack.enter_context(target.open("xb"))
    size = os.fstat(reader.fileno()).st_size
    try:
        fcntl.ioctl(writer.fileno(), FICLONE, reader.fileno())
        return []
    except OSError:
        os.truncate(writer.fileno(), size)
    holes = sorted(
        (tensor.begin, tensor.end)
        for name, tensor in source.base_tensors.items()
        if tensor.file == file and name in changed
    )
    return [
        pool.submit(_copy_range, reader.fileno(), writer.fileno(), begin, end) for begin, end in _pieces(holes, size)
    ]


def _pieces(holes: list[tuple[int, int]], size: int) -> Iterator[tuple[int, int]]:
    """The ranges between the holes, cut up.

    >>> list(_pieces([(8, 10), (10, 12)], 20))
    [(0, 8), (12, 20)]
    """
    position = 0
    for hole_begin, hole_end in [*holes, (size, size)]:
        for begin in range(position, hole_begin, _PIECE):
            yield begin, min(begin + _PIECE, hole_begin)
        position = hole_end


def _copy_range(reader: int, writer: int, begin: int, end: int) -> None:
    while begin < end:
        try:
            count = os.copy_file_range(reader, writer, end - begin, begin, begin)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
                raise
            # Across file systems, on some kernels.
            count = os.pwrite(writer, os.pread(reader, min(end - begin, 4 << 20), begin), begin)
        if count == 0:
            raise OSError(errno.EIO, "the base's file ended early")
        begin += count


class _Flushing:
    """Sends what has been written to the disk while more is written, so that the last sync has little left to do."""

    def __init__(self, files: list[Path]) -> None:
        self._files = files
        self._done = Event()
        self._thread = Thread(target=self._flush, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _flush(self) -> None:
        descriptors = [os.open(file, os.O_RDONLY) for file in self._files]
        try:
            while not self._done.wait(_FLUSH_SECONDS):
                for descriptor in descriptors:
                    os.fdatasync(descriptor)
        except OSError:
            pass  # the last sync tells
        finally:
            for descriptor in descriptors:
                os.close(descriptor)


def _put(place: StoredTensor, folder: Path, data: bytes) -> str:
    """Write merged values into their place; returns their digest."""
    if len(data) != place.end - place.begin:
        raise ExportError(f"{place.info.name}: {len(data)} merged bytes, its place has {place.end - place.begin}")
    with (folder / place.file.name).open("r+b") as file:
        file.seek(place.begin)
        file.write(data)
    return hashlib.sha256(data).hexdigest()


def _start_check(
    copies: list[Future[None]], path: Path, source: Source, pool: ThreadPoolExecutor
) -> list[Future[set[str]]]:
    """Begin to compare a file with the base, once it is there."""
    for copy in copies:
        copy.result()
    shares: list[list[StoredTensor]] = [[]]
    size = 0
    for tensor in read_stored(path):
        shares[-1].append(tensor)
        size += tensor.info.nbytes
        if size > _SHARE:
            shares.append([])
            size = 0
    return [pool.submit(_unchanged, share, source) for share in shares]


def _unchanged(tensors: list[StoredTensor], source: Source) -> set[str]:
    """The tensors that hold the base's bytes."""
    same = set()
    for tensor in tensors:
        other = source.base_tensors[tensor.info.name]
        if tensor.info != other.info or (tensor.begin, tensor.end) != (other.begin, other.end):
            raise ExportError(f"{tensor.info.name}: is not where it lies in the base", "check the disk")
        if all(a == b for a, b in zip(blocks(tensor), blocks(other), strict=True)):
            same.add(tensor.info.name)
    return same


def _refuse_strays(
    source: Source, digests: dict[str, str], same: set[str], copies: dict[Path, list[Future[None]]]
) -> None:
    for name, tensor in source.base_tensors.items():
        if tensor.file in copies and name not in same and name not in digests:
            raise ExportError(f"{name}: was to stay as it is, and differs from the base", "check the disk")


def _refuse_misprints(folder: Path, source: Source, digests: dict[str, str]) -> None:
    files = {source.base_tensors[name].file.name for name in digests}
    for tensor in (tensor for file in sorted(files) for tensor in read_stored(folder / file)):
        wanted = digests.get(tensor.info.name)
        if wanted is not None and digest(tensor) != wanted:
            raise ExportError(f"{tensor.info.name}: was not written as merged", "check the disk")
