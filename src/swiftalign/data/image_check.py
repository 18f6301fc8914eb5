"""Decoding every image once before training, and remembering which ones were sound."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import PIL

from swiftalign.data.images import check_image
from swiftalign.files import write_whole
from swiftalign.problems import DataError

Checked = Future[tuple[DataError | None, bool]]
"""What is wrong with an image; and whether the next run may rely on the answer."""

Keys = np.ndarray[Any, np.dtype[np.uint64]]

# What a key stands for changes with these: another release may judge an image differently.
_RULES = f"1 {PIL.__version__}"
_MAGIC = b"swiftalign: images that were sound\n"
_MOST_KEYS = 4_000_000  # of the file: 32 MB
_NEW_KEYS = 50_000  # held as Python's integers; more are sorted into the array

# A file that changes again so soon may keep its size and its times.
FRESH_SECONDS = 2.0

_MOST_THREADS = 32
_WAITING_PER_THREAD = 16
_QUIET_SECONDS, _PROGRESS_SECONDS = 2.0, 0.5
_SAVE_SECONDS = 60.0


class SoundImages:
    """A set of images that were sound when they were last decoded: nine bytes for each.

    Args:
        file: keeps the set between runs; None for no file. A file that is damaged or can't be written is not used.
    """

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._keys: Keys = np.unique(self._stored())
        self._used = np.zeros(len(self._keys), dtype=bool)  # in this run: the last to be left out
        self._new: set[int] = set()
        self._fresh: set[int] = set()  # of files that changed a moment ago: not for the next run
        self._changed = False

    def __contains__(self, key: int) -> bool:
        if key in self._new or key in self._fresh:
            return True
        place = int(np.searchsorted(self._keys, np.uint64(key)))
        if place == len(self._keys) or int(self._keys[place]) != key:
            return False
        self._used[place] = True
        return True

    def add(self, key: int, *, keep: bool = True) -> None:
        """Add an image.

        Args:
            keep: whether the next run may rely on it.
        """
        if not keep:
            self._fresh.add(key)
            return
        self._new.add(key)
        self._changed = True
        if len(self._new) >= _NEW_KEYS:
            self._sort_in()

    def save(self) -> None:
        """Write the set, with what other processes have written meanwhile, unless nothing is new."""
        if self._file is None or not self._changed:
            return
        self._sort_in()
        mine, others = self._keys[self._used], np.concatenate([self._keys[~self._used], self._stored()])
        keys = np.concatenate([mine, np.setdiff1d(others, mine)])[:_MOST_KEYS]
        content = keys.astype("<u8").tobytes()
        with contextlib.suppress(OSError):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self._file, _MAGIC + hashlib.blake2b(content, digest_size=16).digest() + content)
            self._changed = False

    def _sort_in(self) -> None:
        added = np.fromiter(self._new, dtype=np.uint64, count=len(self._new))
        keys, used = np.concatenate([self._keys, added]), np.concatenate([self._used, np.ones(len(added), dtype=bool)])
        order = np.argsort(keys)
        self._keys, self._used = keys[order], used[order]
        self._new.clear()

    def _stored(self) -> Keys:
        """The keys in the file; none if it is damaged."""
        with contextlib.suppress(OSError):
            if self._file is not None and self._file.stat().st_size <= len(_MAGIC) + 16 + 8 * _MOST_KEYS:
                whole = self._file.read_bytes()
                digest, content = whole[len(_MAGIC) : len(_MAGIC) + 16], whole[len(_MAGIC) + 16 :]
                sound = hashlib.blake2b(content, digest_size=16).digest() == digest and not len(content) % 8
                if whole.startswith(_MAGIC) and sound:
                    return np.frombuffer(content, dtype="<u8").astype(np.uint64)
        return np.empty(0, dtype=np.uint64)


class ImageCheck:
    """Decodes images in threads while their rows are read. Leaving it waits for the last ones.

    Args:
        faulty: is called with a row's place and what is wrong with an image of it, in the order of the rows.
        progress: is called now and then, once it takes long, with the number of images of rows that have been checked.
        cache: keeps between runs which images are sound; None for no file.
        threads: number of threads; one per core that this process may use if not given.
    """

    def __init__(
        self,
        faulty: Callable[[str, DataError], None],
        progress: Callable[[int], None] = lambda images: None,
        *,
        cache: Path | None = None,
        threads: int | None = None,
    ) -> None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        threads = threads or min(cores, _MOST_THREADS)
        self.checked = self.decoded = 0
        self._faulty, self._progress = faulty, progress
        self._sound = SoundImages(cache)
        self._pool = ThreadPoolExecutor(threads, "image-check")
        self._most_waiting = threads * _WAITING_PER_THREAD
        self._waiting: deque[tuple[str, int, Checked]] = deque()
        self._running: dict[int, Checked] = {}  # and those that have found a fault
        self._began = self._told = self._saved = time.monotonic()

    def __enter__(self) -> ImageCheck:
        return self

    def __exit__(self, kind: type[BaseException] | None, *raised: object) -> None:
        try:
            if kind is None:
                self.flush()
        finally:
            self._pool.shutdown(cancel_futures=True)
            self._sound.save()

    def add(self, path: Path, where: str) -> Checked | None:
        """Check an image of a row, unless it has been: soon, in another thread. Waits where many are waiting already.

        Args:
            where: the row's place, for messages.

        Returns:
            The check, which may have ended; None where the image is known to be sound.
        """
        try:
            key = _key(path, path.stat())
        except (OSError, ValueError):  # the error was reported when its header was read
            return None
        if key in self._sound:
            self.checked += 1
            self._tell()
            return None
        if key not in self._running:
            self._running[key] = self._pool.submit(_check, path, key)
            self.decoded += 1
        check = self._running[key]
        self._waiting.append((where, key, check))
        while self._waiting and (len(self._waiting) > self._most_waiting or self._waiting[0][2].done()):
            self._take()
        return check

    def flush(self) -> None:
        """Wait for all images so far."""
        while self._waiting:
            self._take()

    def _take(self) -> None:
        where, key, future = self._waiting.popleft()
        fault, keep = future.result()
        self.checked += 1
        if fault:
            self._faulty(where, fault)
        elif self._running.pop(key, None):
            self._sound.add(key, keep=keep)
        self._tell()

    def _tell(self) -> None:
        now = time.monotonic()
        if now - self._began > _QUIET_SECONDS and now - self._told > _PROGRESS_SECONDS:
            self._told = now
            self._progress(self.checked)
        if now - self._saved > _SAVE_SECONDS:  # for a run that is killed meanwhile
            self._sound.save()
            self._saved = time.monotonic()


def _check(path: Path, key: int) -> tuple[DataError | None, bool]:
    """What is wrong with an image; and whether the next run may rely on the answer."""
    try:
        check_image(path)
        after = path.stat()
        age = time.time() - max(after.st_mtime, after.st_ctime)
        return None, age >= FRESH_SECONDS and _key(path, after) == key
    except DataError as error:
        return DataError(error.message, error.hint), False  # without the frames that the first one keeps alive
    except OSError:  # it vanished: the row will tell
        return None, False


def _key(path: Path, facts: os.stat_result) -> int:
    """A number for a file in the state that it is in."""
    numbers = f"{_RULES} {facts.st_size} {facts.st_mtime_ns} {facts.st_ctime_ns} {facts.st_ino} "
    content = numbers.encode() + os.fsencode(os.path.abspath(path))  # noqa: PTH100  # pathlib's is ten times slower
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")
