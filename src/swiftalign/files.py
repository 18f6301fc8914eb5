"""Files and folders that appear whole or not at all: written beside their place, and renamed into it."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import glob
import os
import shlex
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


def write_whole(path: Path, content: bytes | str) -> None:
    """Write a file that appears whole or not at all; text as UTF-8.

    Raises:
        OSError: it can't be written; a file that was there is unchanged.
    """
    with appearing(path) as part:
        part.write_bytes(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def appearing(path: Path) -> Iterator[Path]:
    """Yield the path to write a file at; the file replaces ``path`` when the block ends without an error."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def short_path(path: str | Path) -> str:
    """A path as one would type it here: relative to the current folder where it lies in it."""
    return str(Path(path).relative_to(Path.cwd()) if Path(path).is_relative_to(Path.cwd()) else path)


POINTERS = (b"version https://git-lfs.github.com/spec/", b"/annex/objects/")  # how pointers of LFS and annex begin


def not_fetched(path: Path) -> tuple[str, str] | None:
    """What is at a path in place of content that was not fetched, in words, and how to fetch it; None for all else.

    git-annex links to its objects, or writes a pointer, as Git LFS does; DVC keeps what it knows of a file or folder X
    in X.dvc.

    References:
        https://git-annex.branchable.com/internals/pointer_file/
        https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md
    """
    place, name = shlex.quote(str(path.parent)), shlex.quote(path.name)
    git, dvc = f"fetch it: git -C {place}", f"fetch it: dvc --cd {place}"
    with contextlib.suppress(OSError, ValueError):  # a name from a file may be no name at all
        if path.is_file() and path.stat().st_size < 1024:  # as every pointer
            first = path.read_bytes()
            if first.startswith(POINTERS[0]):
                return "is a pointer of Git LFS to content that is not here", f"{git} lfs pull --include {name}"
            if first.startswith(POINTERS[1]):
                return "is a pointer of git-annex to content that is not here", f"{git} annex get {name}"
        if path.is_symlink() and not path.exists():
            target = str(path.readlink())
            if "annex/objects/" in target:
                return "is a link of git-annex to content that is not here", f"{git} annex get {name}"
            if ".dvc/" in target or "/files/md5/" in target:
                return "is a link into the cache of DVC, which lacks its content", f"{dvc} pull {name}"
            return f"is a link to {target}, which is not there", "correct the link, or fetch what it leads to again"
        for kept in (path, *path.parents):
            if kept.exists():
                break
            if kept.with_name(f"{kept.name}.dvc").is_file():
                command = f"dvc --cd {shlex.quote(str(kept.parent))} pull {shlex.quote(kept.name)}"
                return f"is not here, and DVC keeps {kept}", f"fetch it: {command}"
    return None


@contextlib.contextmanager
def appearing_folder(path: Path) -> Iterator[Path]:
    """Yield a new folder to write files into; it replaces ``path`` when the block ends without an error.

    Its files are flushed to the disk first. Where the system can exchange two folders, there is no moment without one.
    Removes what killed processes have left beside ``path``.

    Raises:
        OSError: the folder can't be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # A running process holds a lock on its folder; the system releases the lock when the process ends.
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.partial-{'[0-9a-f]' * 12}"):
        with contextlib.suppress(OSError):
            lock = _lock(leftover, fcntl.LOCK_NB)
            shutil.rmtree(leftover, ignore_errors=True)
            os.close(lock)
    while True:
        part = _beside(path)
        part.mkdir()
        lock = _lock(part)
        if part.exists():
            break
        os.close(lock)  # another process removed the folder as a leftover before it was locked
    try:
        yield part
        for written in (*part.iterdir(), part):
            sync(written)
        if not path.exists():
            part.rename(path)
        elif not _exchange(part, path):
            replaced = path.rename(_beside(path))
            part.rename(path)
            shutil.rmtree(replaced, ignore_errors=True)
        sync(path.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)  # after an exchange, the folder that was replaced
        os.close(lock)


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial-{uuid.uuid4().hex[:12]}")


def _lock(folder: Path, flags: int = 0) -> int:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | flags)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two folders in one step; False where the system or the file system can't."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None)  # os.rename has no flags
    paths = os.fsencode(one), os.fsencode(other)
    return rename is not None and rename(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], _RENAME_EXCHANGE) == 0


def sync(path: Path) -> None:
    """Flush a file or a folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
