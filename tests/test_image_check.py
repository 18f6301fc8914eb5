"""Every image is decoded once before training: damage is found, and what was sound is remembered."""

from __future__ import annotations

import io
import json
import os
import random
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from swiftalign.data import image_check
from swiftalign.data.image_check import ImageCheck, SoundImages
from swiftalign.data.images import check_image, image_size, open_image
from swiftalign.data.scan import scan
from swiftalign.files import cache_path
from swiftalign.problems import DataError


def picture(width: int = 160, height: int = 120, seed: int = 0) -> Image.Image:
    rough = np.random.default_rng(seed).integers(0, 255, (height // 8, width // 8, 3), dtype=np.uint8)
    return Image.fromarray(rough).resize((width, height))


def encoded(kind: str = "JPEG", seed: int = 0, **options: object) -> bytes:
    file = io.BytesIO()
    picture(seed=seed).save(file, kind, **options)
    return file.getvalue()


def is_sound(look: object, path: Path) -> bool:
    try:
        look(path)  # type: ignore[operator]
    except DataError:
        return False
    return True


JPEGS = {
    "baseline": {"quality": 90},
    "progressive": {"quality": 90, "progressive": True},
    "without subsampling": {"quality": 90, "subsampling": 0},
    "restart markers": {"quality": 90, "restart_marker_rows": 1},
}


@pytest.mark.parametrize("options", JPEGS.values(), ids=JPEGS)
def test_a_small_decode_of_a_jpeg_finds_what_the_full_one_finds(options: dict[str, object], tmp_path: Path) -> None:
    """libjpeg computes fewer pixels, but reads the whole stream."""
    whole, path, draws = encoded(**options), tmp_path / "a.jpg", random.Random(0)
    damaged = [whole[:end] for end in range(600, len(whole), 37)]
    for _ in range(150):
        begin = draws.randrange(600, len(whole))
        end = begin + draws.randrange(1, len(whole) // 4)
        damaged += [whole[:begin] + whole[end:], whole[:begin] + draws.randbytes(end - begin) + whole[end:]]
    found = 0
    for content in damaged:
        path.write_bytes(content)
        assert is_sound(check_image, path) == is_sound(open_image, path)
        found += not is_sound(check_image, path)
    assert found > len(range(600, len(whole), 37))  # every cut, and some of the others


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "AVIF"])
def test_an_image_that_is_cut_is_found_though_its_header_is_sound(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(encoded(kind))
    check_image(path)
    path.write_bytes(encoded(kind)[: -len(encoded(kind)) // 3])
    if kind not in ("AVIF", "WEBP"):  # where the header tells already
        assert image_size(path) == (160, 120)
    with pytest.raises(DataError, match=f"image {path}: "):
        check_image(path)


def test_what_white_is_has_to_be_known(tmp_path: Path) -> None:
    Image.new("I", (4, 4), 7).save(tmp_path / "a.tiff")
    with pytest.raises(DataError, match="32 bits per channel"):
        check_image(tmp_path / "a.tiff")


@pytest.mark.parametrize("look", [check_image, open_image])
def test_a_library_that_lets_pillow_fill_images_hides_nothing(
    look: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    (tmp_path / "a.jpg").write_bytes(encoded()[:-2000])
    with Image.open(tmp_path / "a.jpg") as image:
        image.load()
    assert not is_sound(look, tmp_path / "a.jpg")
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{number}.jpg" for number in range(6)]
    for number, path in enumerate(paths):
        path.write_bytes(encoded(seed=number))
    return paths


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that were written just now count as settled."""
    monkeypatch.setattr(image_check, "FRESH_SECONDS", 0.0)


def run(images: list[Path], cache: Path | None = None, threads: int = 3) -> tuple[list[tuple[str, str]], int]:
    """What is found, and how many images were decoded."""
    found: list[tuple[str, str]] = []
    with ImageCheck(lambda where, error: found.append((where, error.message)), cache=cache, threads=threads) as check:
        for number, path in enumerate(images, 1):
            check.add(path, f"rows.jsonl:{number}")
    assert check.checked == len(images)
    return found, check.decoded


def test_each_file_is_decoded_once_and_every_row_of_a_damaged_one_is_named(images: list[Path]) -> None:
    images[2].write_bytes(images[2].read_bytes()[:-1000])
    found, decoded = run(images * 50)
    assert decoded == 6
    assert [where for where, _ in found] == [f"rows.jsonl:{number * 6 + 3}" for number in range(50)]
    assert all(message.startswith(f"image {images[2]}: ") for _, message in found)


def test_the_order_of_rows_is_kept_whatever_ends_first(tmp_path: Path) -> None:
    large, small = tmp_path / "large.png", tmp_path / "small.png"
    for path, size in ((large, (1500, 1500)), (small, (20, 20))):
        picture(*size).save(path)
        path.write_bytes(path.read_bytes()[:-30])
    found, _ = run([large, small])
    assert [where for where, _ in found] == ["rows.jsonl:1", "rows.jsonl:2"]


@pytest.mark.usefixtures("settled")
def test_what_was_sound_is_not_decoded_again_until_it_changes(images: list[Path], tmp_path: Path) -> None:
    cache = tmp_path / "cache/sound"
    images[0].write_bytes(images[0].read_bytes()[:-1000])
    assert run(images, cache)[1] == 6
    assert stat.S_ISREG(cache.stat().st_mode)
    found, decoded = run(images, cache)
    assert (len(found), decoded) == (1, 1)  # the damaged one is decoded each time
    content, times = images[1].read_bytes(), images[1].stat()
    images[1].write_bytes(content[:-1000] + b"\0" * 1000)
    os.utime(images[1], ns=(times.st_atime_ns, times.st_mtime_ns))  # as a copy that keeps times
    assert run(images, cache)[1] == 2
    images[2].rename(tmp_path / "renamed.jpg")
    assert run([tmp_path / "renamed.jpg", *images[3:]], cache)[1] == 1


def test_a_file_that_changed_a_moment_ago_is_not_relied_on_later(images: list[Path], tmp_path: Path) -> None:
    assert run(images * 2, tmp_path / "sound")[1] == 6
    assert run(images, tmp_path / "sound")[1] == 6


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("damage", [b"", b"junk" * 50, None], ids=["empty", "junk", "a flipped bit"])
def test_a_damaged_cache_is_not_used_and_written_anew(damage: bytes | None, images: list[Path], tmp_path: Path) -> None:
    cache = tmp_path / "sound"
    run(images, cache)
    sound = cache.read_bytes()
    cache.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]) if damage is None else damage)
    assert run(images, cache) == ([], 6)
    assert run(images, cache) == ([], 0)


@pytest.mark.usefixtures("settled")
def test_a_cache_that_cannot_be_written_is_no_error(images: list[Path], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert run(images, tmp_path / "file/sound") == ([], 6)
    assert run(images, tmp_path) == ([], 6)  # a folder is there


def test_two_that_write_keep_what_both_have_found(tmp_path: Path) -> None:
    one, other = SoundImages(tmp_path / "sound"), SoundImages(tmp_path / "sound")
    one.add(1)
    other.add(2**64 - 1)
    one.save()
    other.save()
    assert [key in SoundImages(tmp_path / "sound") for key in (1, 2**64 - 1, 7)] == [True, True, False]


def test_the_cache_is_bounded_and_keeps_those_of_this_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_check, "_MOST_KEYS", 10)
    monkeypatch.setattr(image_check, "_NEW_KEYS", 3)
    old = SoundImages(tmp_path / "sound")
    for key in range(10):
        old.add(key)
    old.save()
    new = SoundImages(tmp_path / "sound")
    assert 9 in new
    for key in range(100, 108):
        new.add(key)
    new.save()
    kept = SoundImages(tmp_path / "sound")
    assert 9 in kept
    assert all(key in kept for key in range(100, 108))
    assert sum(key in kept for key in range(10)) == 2
    assert len((tmp_path / "sound").read_bytes()) < 140


def test_the_cache_lies_in_the_users_cache_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert cache_path("sound-images") == Path("/caches/swiftalign/sound-images")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # the standard says to ignore it
    monkeypatch.setenv("HOME", "/home/someone")
    assert cache_path("sound-images") == Path("/home/someone/.cache/swiftalign/sound-images")


@pytest.mark.usefixtures("settled")
def test_an_interrupted_check_ends_at_once_and_keeps_what_it_has(images: list[Path], tmp_path: Path) -> None:
    def interrupted() -> None:
        with ImageCheck(lambda *found: None, cache=tmp_path / "sound") as check:
            for path in images:
                check.add(path, "")
            check.flush()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not any(thread.name.startswith("image-check") for thread in threading.enumerate())
    assert run(images, tmp_path / "sound")[1] == 0


def test_no_more_than_a_bounded_number_waits(images: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    go = threading.Event()
    monkeypatch.setattr(image_check, "check_image", lambda path: go.wait())
    with ImageCheck(lambda *found: None, threads=1) as check:

        def add() -> None:
            for _ in range(20):
                for path in images:
                    check.add(path, "")

        adding = threading.Thread(target=add)
        adding.start()
        time.sleep(0.3)
        assert adding.is_alive()
        assert len(check._waiting) <= 17
        go.set()
        adding.join()


def test_progress_is_told_once_it_takes_long(images: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    times: Iterator[float] = iter([0.0, *[2.1, 2.2, 2.7, 2.8, 3.3, 3.4]])
    monkeypatch.setattr(image_check.time, "monotonic", lambda: next(times))
    told: list[int] = []
    with ImageCheck(lambda *found: None, told.append, threads=1) as check:
        for path in images:
            check.add(path, "")
    assert told == [1, 3, 5]


def rows_of(folder: Path, *images: list[str]) -> Path:
    box = {"label": "block", "bbox_2d": [10, 10, 50, 50]}
    lines = [json.dumps({"images": each, "objects": [box]}) for each in images]
    (folder / "rows.jsonl").write_text("\n".join(lines))
    return folder / "rows.jsonl"


def test_the_scan_names_the_rows_of_damaged_images(images: list[Path], tmp_path: Path) -> None:
    images[1].write_bytes(images[1].read_bytes()[:-1000])
    images[4].write_bytes(b"junk")
    rows = rows_of(tmp_path, *[[f"{number}.jpg"] for number in (0, 1, 2, 4, 1, 0)])
    report = scan([rows])
    assert report.counts["data-image-unreadable"] == 3
    [found] = [each for each in report.findings if each.code == "data-image-unreadable"]
    assert found.where == f"{rows}:2"
    first, second, third = found.message.splitlines()
    assert f"{images[1]}: " in first
    assert second.startswith(f"    {rows}:4: {images[4]}: ")
    assert third.startswith(f"    {rows}:5: {images[1]}: ")
    assert scan([rows], check_images=False).counts["data-image-unreadable"] == 1
    assert scan([rows_of(tmp_path, ["0.jpg"], ["2.jpg"])]).counts["data-image-unreadable"] == 0
