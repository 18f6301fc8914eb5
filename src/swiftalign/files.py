"""Files and folders that appear whole or not at all, and what the system says where it refuses to write them.

They are written beside their place, and renamed into it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import glob
import os
import shlex
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from swiftalign.problems import SwiftalignError

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


def cache_path(name: str) -> Path | None:
    """Where something is kept between runs, in the user's cache; None where the user has no home."""
    with contextlib.suppress(RuntimeError):
        named = Path(os.environ.get("XDG_CACHE_HOME", ""))
        return (named if named.is_absolute() else Path.home() / ".cache") / "swiftalign" / name
    return None


def write_whole(path: Path, content: bytes | str) -> None:
    """Write a file that appears whole or not at all; text as UTF-8.

    Raises:
        OSError: it can't be written; a file that was there is unchanged.
    """
    with appearing(path) as part:
        part.write_bytes(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def appearing(path: Path) -> Iterator[Path]:
    """Yield the path to write a file at; the file replaces ``path`` when the block ends without an error.

    The file lies in a new folder of its own, which is removed in the end with all else that is in it.

    Raises:
        OSError: the file can't be written; the error names it as the caller does.
    """
    with _part_of(path) as part:
        yield part
        part.replace(path)


@contextlib.contextmanager
def appearing_folder(path: Path) -> Iterator[Path]:
    """Yield a new folder to write files into; it replaces ``path`` when the block ends without an error.

    Its files are flushed to the disk first. Where the system can exchange two folders, there is no moment without one.

    Raises:
        OSError: the folder can't be written; the error names it as the caller does.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _part_of(path) as part:
        part.mkdir()
        yield part
        for written in (*part.iterdir(), part):
            sync(written)
        if not path.exists():
            part.rename(path)
        elif not _exchange(part, path):
            path.rename(part.with_name("replaced"))
            part.rename(path)
        sync(path.parent)


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let an error of the system that names no file, as that of a write to an open one, name this file."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def file_error(
    error: OSError,
    kind: type[SwiftalignError] = SwiftalignError,
    *,
    elsewhere: str = "",
    again: str = "start the command again",
) -> SwiftalignError:
    """What the system says of a file or folder, as an error that names it and says what to do.

    Args:
        kind: the type of the error.
        elsewhere: how to name another place to write to.
        again: what to do once the cause is gone.
    """
    where, told = os.fsdecode(error.filename or ""), error.strerror or " ".join(map(str, error.args))
    message = f"{where}: {told}" if where else told
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        message, hint = f"the disk is full: {where or 'a file'} can't be written ({told})", "free some space"
    elif error.errno == errno.EFBIG:
        message, hint = f"{message}: it can't be written", "raise the limit of the size of files: ulimit -f"
    elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        hint = "let this user read and write it"
    elif error.errno == errno.ENOENT:
        hint = "it is missing, or was removed meanwhile: restore it"
    else:
        hint = "check the file and its disk"
    alternative = f", or {elsewhere}" if elsewhere else ""
    return kind(message, f"{hint}{alternative}; then {again}")


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


def require_fetched(path: Path, kind: type[SwiftalignError], what: str = "") -> None:
    """Raise an error of a kind where `not_fetched` says so; ``what`` is put before the path."""
    if lacking := not_fetched(path):
        raise kind(f"{what}{path}: {lacking[0]}", lacking[1])


@contextlib.contextmanager
def _part_of(path: Path) -> Iterator[Path]:
    """Yield a path of the same name in a new folder beside ``path``; the folder is removed when the block ends.

    Removes what killed processes have left beside ``path``. An error about a place in the folder names the place that
    it was to get.
    """
    # A running process holds a lock on its folder; the system releases the lock when the process ends.
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.partial-{'[0-9a-f]' * 12}"):
        with contextlib.suppress(OSError):
            lock = _lock(leftover, fcntl.LOCK_NB)
            shutil.rmtree(leftover, ignore_errors=True)
            os.close(lock)
    folder = path
    try:
        while True:
            folder = path.with_name(f".{path.name}.partial-{uuid.uuid4().hex[:12]}")
            folder.mkdir()
            # Another process may remove the folder as a leftover before it is locked.
            with contextlib.suppress(FileNotFoundError):
                lock = _lock(folder)
                if folder.exists():
                    break
                os.close(lock)
        try:
            yield folder / path.name
        finally:
            shutil.rmtree(folder, ignore_errors=True)  # after an exchange, it holds what was replaced
            os.close(lock)
    except OSError as error:
        place = Path(os.fsdecode(error.filename or folder / path.name))
        if place.is_relative_to(folder):
            error.filename = str(path.parent / place.relative_to(folder)) if place != folder else str(path)
        raise


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
