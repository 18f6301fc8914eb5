"""Where an export may be written, whether the disk has room, and copying the base's files into it."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from swiftalign.files import appearing, appearing_folder, file_error, sync
from swiftalign.model.bytes import BLOCK_BYTES
from swiftalign.problems import ExportError, size_text

_CHUNK = 64 << 20  # bytes that the kernel copies at a time: a signal may end the copying in between
# --force replaces a folder that holds one of these; a folder of anything else is not a model.
_REPLACEABLE = ("config.json", "adapter_config.json", "export.json", "model.safetensors")


@contextlib.contextmanager
def output_folder(target: Path, *, force: bool, apart_from: Iterable[Path]) -> Iterator[Path]:
    """Yield a new folder to write into; it replaces the target when the block ends without an error.

    Args:
        force: replace the target where it exists.
        apart_from: folders that the target must neither lie inside, nor hold; nor may it hold what their links lead to.

    Raises:
        ExportError: the target is taken, or can't be written.
    """
    place = target.resolve()  # follows links and ..
    for folder in apart_from:
        real = folder.resolve()
        held = (real, *(file.resolve() for file in folder.iterdir() if file.exists()))
        if place == real or real in place.parents or any(place in each.parents for each in held):
            raise ExportError(f"{target}: lies inside {folder}, or holds it", "name a folder of its own")
    if os.path.lexists(target):
        if not target.is_dir():
            raise ExportError(f"{target} exists already, and is not a folder", "name another folder")
        if not force:
            raise ExportError(f"{target} exists already", "name another folder, or pass --force to replace it")
        if any(target.iterdir()) and not any((target / name).is_file() for name in _REPLACEABLE):
            raise ExportError(f"{target} holds no model, so --force does not replace it", "name another folder")
    try:
        with appearing_folder(place) as folder:
            yield folder
    except OSError as error:
        raise file_error(error, ExportError) from error


@contextlib.contextmanager
def output_file(target: Path, *, force: bool, apart_from: Iterable[Path]) -> Iterator[Path]:
    """Yield the path to write a GGUF file at; it replaces the target when the block ends without an error.

    Args:
        force: replace the target where it exists.
        apart_from: folders that the target must not lie inside.

    Raises:
        ExportError: the target is taken, or can't be written.
    """
    place = target.resolve()
    for folder in apart_from:
        if folder.resolve() in place.parents:
            raise ExportError(f"{target}: lies inside {folder}", "name a file elsewhere")
    try:
        if os.path.lexists(target):
            if target.is_symlink():  # it may lead into a store whose files must not change, such as DVC's
                raise ExportError(f"{target} is a link", f"name the file that it leads to: {place}")
            if not target.is_file():
                raise ExportError(f"{target} exists already, and is not a file", "name another file")
            if not force:
                raise ExportError(f"{target} exists already", "name another file, or pass --force to replace it")
            with target.open("rb") as file:
                if file.read(4) != b"GGUF":
                    message = f"{target} is not a GGUF file, so --force does not replace it"
                    raise ExportError(message, "name another file")
        target.parent.mkdir(parents=True, exist_ok=True)
        with appearing(target) as part:
            yield part
            sync(part)
        sync(target.parent)
    except OSError as error:
        raise file_error(error, ExportError) from error


def copy_file(source: Path, target: Path) -> None:
    """Copy a file's bytes; the mode follows the umask."""
    with source.open("rb") as reader, target.open("xb") as writer:
        copy_range(reader.fileno(), writer.fileno(), 0, os.fstat(reader.fileno()).st_size)


def copy_range(source: int, target: int, begin: int, end: int) -> None:
    """Copy the bytes [begin, end) of an open file to the same place in another.

    The kernel copies, and shares the blocks where the file system can (Linux: `copy_file_range` tries to clone first).
    """
    with contextlib.suppress(OSError):  # across file systems, on some kernels
        while begin < end and (copied := os.copy_file_range(source, target, min(end - begin, _CHUNK), begin, begin)):
            begin += copied
    while begin < end and (block := os.pread(source, min(end - begin, BLOCK_BYTES), begin)):
        begin += os.pwrite(target, block, begin)


def require_space(path: Path, needed: int, instead: str = "") -> None:
    """Raise unless the disk has room for a file or folder that is about to be written.

    Args:
        path: the file or folder.
        instead: what needs less.

    Raises:
        OSError: the disk has fewer bytes free than needed.
    """
    free = shutil.disk_usage(path.parent).free
    if free < needed:
        told = f"it needs {size_text(needed)}, and the disk has {size_text(free)} free{instead}"
        raise OSError(errno.ENOSPC, told, str(path))
