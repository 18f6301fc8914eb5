"""Images are opened as they are shown, and told apart from what is no image without harm."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from swiftalign.data.images import MAX_PIXELS, NoSuchImageError, image_size, open_image
from swiftalign.problems import DataError

# Four corners of four colours: no turn or mirroring maps the picture onto itself.
RED, GREEN, BLUE, WHITE = (200, 0, 0), (0, 200, 0), (0, 0, 200), (255, 255, 255)


def corners(width: int = 64, height: int = 32) -> Image.Image:
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[: height // 2, : width // 2], pixels[: height // 2, width // 2 :] = RED, GREEN
    pixels[height // 2 :, : width // 2], pixels[height // 2 :, width // 2 :] = BLUE, WHITE
    return Image.fromarray(pixels)


def with_orientation(value: Any) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


# EXIF 2.3, tag 274: where row 0 and column 0 of the stored pixels are shown.
STORED = {
    1: lambda shown: shown,
    2: lambda shown: shown[:, ::-1],
    3: lambda shown: shown[::-1, ::-1],
    4: lambda shown: shown[::-1],
    5: lambda shown: shown.transpose(1, 0, 2),
    6: lambda shown: np.rot90(shown, 1),
    7: lambda shown: shown[::-1, ::-1].transpose(1, 0, 2),
    8: lambda shown: np.rot90(shown, -1),
}


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "JPEG", "AVIF"])
@pytest.mark.parametrize("orientation", STORED)
def test_exif_orientation_is_applied_to_pixels_and_size(orientation: int, kind: str, tmp_path: Path) -> None:
    shown = np.asarray(corners())
    path = tmp_path / f"image.{kind.lower()}"
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](shown)))
    stored.save(path, kind, exif=with_orientation(orientation), quality=95)

    opened = open_image(path)

    assert image_size(path) == (64, 32)
    assert (opened.shape, opened.dtype) == ((32, 64, 3), np.uint8)
    inner = [(8, 16), (8, 48), (24, 16), (24, 48)]  # the middles of the quarters, away from lossy edges
    for place in inner:
        assert np.abs(opened[place].astype(int) - shown[place]).max() < 30


@pytest.mark.parametrize("value", [0, 9, 99, 65535])
def test_an_orientation_that_is_none_turns_nothing(value: int, tmp_path: Path) -> None:
    corners().save(tmp_path / "a.png", exif=with_orientation(value))
    assert np.array_equal(open_image(tmp_path / "a.png"), np.asarray(corners()))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_exif_turns_nothing(tmp_path: Path) -> None:
    corners().save(tmp_path / "a.png", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff" + b"\xff" * 20)
    assert image_size(tmp_path / "a.png") == (64, 32)
    assert np.array_equal(open_image(tmp_path / "a.png"), np.asarray(corners()))


def test_the_size_is_read_from_the_header_alone(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (300, 400, 3), dtype=np.uint8)
    for kind in ("png", "jpeg"):
        path = tmp_path / f"a.{kind}"
        Image.fromarray(noise).save(path)
        path.write_bytes(path.read_bytes()[:5000])
        assert image_size(path) == (400, 300)
        with pytest.raises(DataError, match=f"image {path}: "):
            open_image(path)


def transparent() -> Image.Image:
    image = corners().convert("RGBA")
    alpha = Image.linear_gradient("L").resize(image.size)
    image.putalpha(alpha)
    return image


def test_transparency_is_shown_on_white_as_qwen_vl_utils_does_it(tmp_path: Path) -> None:
    from qwen_vl_utils.vision_process import to_rgb

    transparent().save(tmp_path / "a.png")
    assert np.array_equal(open_image(tmp_path / "a.png"), np.asarray(to_rgb(Image.open(tmp_path / "a.png"))))


def test_ms_swift_itself_shows_images_otherwise(tmp_path: Path) -> None:
    """So that rows have to reach it as opened images, not as paths."""
    from swift.template.vision_utils import load_image

    Image.new("RGBA", (2, 2), (10, 20, 30, 0)).save(tmp_path / "clear.png")
    assert load_image(str(tmp_path / "clear.png")).getpixel((0, 0)) == (10, 20, 30)
    assert open_image(tmp_path / "clear.png")[0, 0].tolist() == [255, 255, 255]
    corners().save(tmp_path / "turned.png", exif=with_orientation(6))
    assert load_image(str(tmp_path / "turned.png")).size == (64, 32)
    assert image_size(tmp_path / "turned.png") == (32, 64)


def grey_with_alpha() -> Image.Image:
    return Image.merge("LA", (Image.new("L", (4, 4), 90), Image.new("L", (4, 4), 0)))


def palette(*, clear: bool) -> tuple[Image.Image, dict[str, Any]]:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    return image, {"transparency": 1} if clear else {}


@pytest.mark.parametrize(
    ("image", "options", "kind", "expected"),
    [
        pytest.param(Image.new("L", (4, 4), 90), {}, "PNG", (90, 90, 90), id="grey"),
        pytest.param(grey_with_alpha(), {}, "PNG", (255, 255, 255), id="grey and alpha"),
        pytest.param(Image.new("1", (4, 4), 1), {}, "PNG", (255, 255, 255), id="1 bit"),
        pytest.param(*palette(clear=False), "PNG", (10, 20, 30), id="palette"),
        pytest.param(*palette(clear=True), "PNG", (255, 255, 255), id="palette with a transparent entry"),
        pytest.param(*palette(clear=True), "GIF", (255, 255, 255), id="transparent GIF"),
        pytest.param(Image.new("RGB", (4, 4), (9, 8, 7)), {"transparency": (9, 8, 7)}, "PNG", (255,) * 3, id="tRNS"),
        pytest.param(Image.new("CMYK", (4, 4), (0, 255, 255, 0)), {}, "TIFF", (255, 0, 0), id="CMYK"),
    ],
)
def test_every_mode_becomes_rgb(
    image: Image.Image, options: dict[str, Any], kind: str, expected: tuple[int, int, int], tmp_path: Path
) -> None:
    image.save(tmp_path / "image", kind, **options)
    opened = open_image(tmp_path / "image")
    assert opened.shape == (4, 4, 3)
    assert tuple(opened[0, 0].tolist()) == expected


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bits_are_scaled_where_pillow_would_clip(kind: str, tmp_path: Path) -> None:
    values = np.array([[0, 128, 257, 386, 32896, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "image", kind)
    assert Image.open(tmp_path / "image").convert("RGB").getpixel((2, 0)) == (255, 255, 255)
    assert open_image(tmp_path / "image")[0, :, 0].tolist() == [0, 0, 1, 2, 128, 255]


@pytest.mark.parametrize("mode", ["I", "F"])
def test_32_bits_a_channel_are_refused(mode: str, tmp_path: Path) -> None:
    Image.new(mode, (4, 4), 7).save(tmp_path / "a.tiff")
    with pytest.raises(DataError, match=r"a\.tiff: 32 bits per channel, so that white is unknown") as error:
        open_image(tmp_path / "a.tiff")
    assert error.value.hint == "save it with 8 or 16 bits"


def test_the_first_frame_of_an_animation_is_taken(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, GREEN, BLUE)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert open_image(tmp_path / "a.gif")[0, 0].tolist() == list(RED)


def test_the_array_can_be_written_to(tmp_path: Path) -> None:
    corners().save(tmp_path / "a.png")
    opened = open_image(tmp_path / "a.png")
    opened[0, 0] = 1
    assert opened.flags.c_contiguous


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_of(width: int, height: int) -> bytes:
    """A PNG whose header promises this size."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 100)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def test_exif_behind_the_pixels_of_a_png_is_not_looked_for(tmp_path: Path) -> None:
    """The size would otherwise cost the decoding of the whole image."""
    corners().save(tmp_path / "a.png")
    end = chunk(b"IEND", b"")
    exif = chunk(b"eXIf", with_orientation(6).tobytes().removeprefix(b"Exif\0\0"))
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes().removesuffix(end) + exif + end)
    assert Image.open(tmp_path / "a.png").getexif()[0x0112] == 6
    assert image_size(tmp_path / "a.png") == (64, 32)
    assert np.array_equal(open_image(tmp_path / "a.png"), np.asarray(corners()))


@pytest.mark.parametrize("look", [image_size, open_image])
@pytest.mark.parametrize("limit", [89_478_485, None])
def test_a_decompression_bomb_is_refused_by_its_header(
    look: Any, limit: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)  # other libraries set it to None
    (tmp_path / "a.png").write_bytes(png_of(100_000, MAX_PIXELS // 100_000 + 1))
    with pytest.raises(DataError, match=r"a\.png: more than 178 megapixels"):
        look(tmp_path / "a.png")


@pytest.mark.parametrize("look", [image_size, open_image])
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not an image, or of a format that is not supported"),
        (b"plain text", "not an image, or of a format that is not supported"),
        (
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
            "not an image, or of a format that is not supported",
        ),
        (b"\xff\xd8\xff\xe0", "not an image, or of a format that is not supported"),
    ],
    ids=["empty", "text", "PostScript", "JPEG cut in its header"],
)
def test_what_is_no_image_is_named(look: Any, content: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(DataError) as error:
        look(path)
    assert error.value.message == f"image {path}: {reason}"


def test_a_folder_a_pipe_and_a_missing_file_are_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")  # opening it would wait for a writer for ever
    for name in ("", "pipe"):
        with pytest.raises(DataError, match="not a file"):
            open_image(tmp_path / name)
    for name in ("none.png", "pipe/a.png"):
        with pytest.raises(NoSuchImageError, match="no such file"):
            image_size(tmp_path / name)


@pytest.mark.parametrize("name", ["a\0b", "\ud800", "x" * 5000])
def test_a_name_that_no_file_can_have_is_an_error_for_the_user(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError):
        image_size(tmp_path / name)


def saved(kind: str) -> bytes:
    file = io.BytesIO()
    corners().save(file, kind, exif=with_orientation(6))
    return file.getvalue()


SOUND = {kind: saved(kind) for kind in ("JPEG", "PNG", "WEBP", "TIFF", "AVIF")} | {
    kind: (lambda file: (corners().save(file, kind), file.getvalue())[1])(io.BytesIO())
    for kind in ("GIF", "BMP", "PPM", "JPEG2000")
}


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(sorted(SOUND)),
    cut=st.floats(0, 1),
    flips=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=8),
)
def test_damaged_files_are_opened_or_named(
    kind: str, cut: float, flips: list[tuple[float, int]], tmp_path: Path
) -> None:
    content = bytearray(SOUND[kind][: int(len(SOUND[kind]) * (0.2 + 0.8 * cut))])
    for place, value in flips:
        content[int(place * (len(content) - 1))] = value
    path = tmp_path / "image"
    path.write_bytes(content)
    assert outcome(path).startswith((f"image {path}: ", "the same size twice"))


def outcome(path: Path) -> str:
    try:
        width, height = image_size(path)
        return "the same size twice" if open_image(path).shape == (height, width, 3) else "two sizes"
    except DataError as error:
        return error.message
