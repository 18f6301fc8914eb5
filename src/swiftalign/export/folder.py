"""A folder that appears whole or not at all: written beside its place, synced, and renamed."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from swiftalign.problems import ExportError

_FICLONE = 0x40049409  # Linux: share a file's blocks, where the file system can
_CHUNK = 64 << 20
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
# What --force may replace has one of these; a folder of anything else is somebody's work.
_REPLACEABLE = ("config.json", "adapter_config.json", "export.json", "model.safetensors")


@contextlib.contextmanager
def appearing(target: Path, *, force: bool) -> Iterator[Path]:
    """A new folder to write into, which takes the target's place when the block ends well.

    Removes what exports that were killed have left beside the target.

    Raises:
        ExportError: the target exists and ``force`` is not given, or it can't be written there.
    """
    _refuse_taken(target, force=force)
    with _as_export_error(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(target)
        partial, lock = _locked_folder(target)
    try:
        with _as_export_error(target):
            yield partial
            for path in partial.iterdir():
                sync(path)
            sync(partial)
            _take_place(partial, target)
    finally:
        # After an exchange, this is the folder that was replaced.
        shutil.rmtree(partial, ignore_errors=True)
        os.close(lock)


def _refuse_taken(target: Path, *, force: bool) -> None:
    if not os.path.lexists(target):
        return
    if target.is_symlink() or not target.is_dir():
        raise ExportError(f"{target} exists already, and is no folder", "name another folder")
    if not force:
        raise ExportError(f"{target} exists already", "name another folder, or pass --force to replace it")
    if any(target.iterdir()) and not any((target / name).is_file() for name in _REPLACEABLE):
        raise ExportError(f"{target} holds no model, so --force does not replace it", "name another folder")


@contextlib.contextmanager
def _as_export_error(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        place = f" ({error.filename})" if error.filename else ""
        raise ExportError(f"{target}: can't be written: {error.strerror or error}{place}") from error


def _locked_folder(target: Path) -> tuple[Path, int]:
    while True:
        partial = target.with_name(f".{target.name}.partial-{uuid.uuid4().hex[:12]}")
        partial.mkdir()
        lock = os.open(partial, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(lock, fcntl.LOCK_EX)
        if partial.exists():
            return partial, lock
        os.close(lock)  # another export took it for a leftover, before it was locked


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
    elif not _exchange(partial, target):
        replaced = target.with_name(f".{target.name}.replaced-{uuid.uuid4().hex[:12]}")
        os.rename(target, replaced)  # noqa: PTH104
        os.rename(partial, target)  # noqa: PTH104
        shutil.rmtree(replaced, ignore_errors=True)
    sync(target.parent)


def _exchange(partial: Path, target: Path) -> bool:
    """Swap two folders in one step, so that there is no moment without one; False where the system can't."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    if rename(_AT_FDCWD, os.fsencode(partial), _AT_FDCWD, os.fsencode(target), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS):
        return False
    raise OSError(code, os.strerror(code), str(target))


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
