"""A folder that appears whole or not at all: written beside its place, synced, and renamed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from swiftalign.errors import ExportError

_FICLONE = 0x40049409  # Linux: share a file's blocks, where the file system can
_CHUNK = 64 << 20


@contextlib.contextmanager
def appearing(target: Path, *, force: bool) -> Iterator[Path]:
    """A new folder to write into, which takes the target's place when the block ends well.

    Removes what exports that were killed have left beside the target.

    Raises:
        ExportError: the target exists and ``force`` is not given, or it can't be written there.
    """
    if target.exists() and not force:
        raise ExportError(f"{target} exists already", "name another folder, or pass --force to replace it")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(target)
        partial = target.with_name(f".{target.name}.partial-{uuid.uuid4().hex[:12]}")
        partial.mkdir()
        lock = os.open(partial, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise ExportError(f"{target}: can't be written: {error.strerror or error}") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield partial
        for path in partial.iterdir():
            sync(path)
        sync(partial)
        _take_place(partial, target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    finally:
        os.close(lock)


def _remove_leftovers(target: Path) -> None:
    """A living export holds a lock on its folder; the system frees the lock of a dead one."""
    pattern = re.compile(re.escape(f".{target.name}.") + r"(?:partial|replaced)-[0-9a-f]{12}")
    for path in target.parent.iterdir():
        if not pattern.fullmatch(path.name):
            continue
        with contextlib.suppress(OSError):
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(lock)


def _take_place(partial: Path, target: Path) -> None:
    if not target.exists():
        os.rename(partial, target)  # noqa: PTH104  # one system call, as the promise needs
    else:
        replaced = target.with_name(f".{target.name}.replaced-{uuid.uuid4().hex[:12]}")
        os.rename(target, replaced)  # noqa: PTH104
        os.rename(partial, target)  # noqa: PTH104
        shutil.rmtree(replaced, ignore_errors=True)
    sync(target.parent)


def sync(path: Path) -> None:
    """Flush a file or folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def copy_file(source: Path, target: Path) -> None:
    """Copy a file's bytes inside the kernel, sharing blocks where the file system can; the mode follows the umask."""
    with source.open("rb") as reader, target.open("xb") as writer:
        try:
            fcntl.ioctl(writer.fileno(), _FICLONE, reader.fileno())
            return
        except OSError:
            pass
        left = os.fstat(reader.fileno()).st_size
        try:
            while left > 0:
                count = os.copy_file_range(reader.fileno(), writer.fileno(), min(left, _CHUNK))
                if not count:
                    break
                left -= count
        except OSError:  # across file systems, on some kernels
            pass
        if left:
            reader.seek(writer.tell())
            shutil.copyfileobj(reader, writer, _CHUNK)


def require_space(folder: Path, needed: int) -> None:
    """Raise unless a folder's disk has room.

    Raises:
        ExportError: naming both sizes.
    """
    place = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(place).free
    if free < needed:
        message = f"{folder}: needs {needed / 1e9:.2f} GB, and the disk has {free / 1e9:.2f} GB free"
        raise ExportError(message, "free some space, or pass --link to share the shards that stay as they are")
