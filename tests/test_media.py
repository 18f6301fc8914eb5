"""Videos and sounds of rows lie beside the data file, and are missed where they do not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from swiftalign.data.media import missing_media, with_absolute_media

INSIDE = [{"type": "video", "video": "a.mp4"}, {"type": "text", "text": "b.mp4"}]


@pytest.mark.parametrize(
    ("row", "missing"),
    [
        ({"videos": ["a.mp4"]}, []),
        ({"videos": ["a.mp4", "b.mp4"], "audios": ["c.wav", "b.mp4"]}, ["b.mp4", "c.wav"]),
        ({"videos": "b.mp4"}, ["b.mp4"]),
        ({"videos": [["a.mp4", "frame.jpg"]]}, ["frame.jpg"]),
        ({"videos": [{"path": "b.mp4"}, {"type": "video", "video": "c.mp4", "fps": 2}]}, ["b.mp4", "c.mp4"]),
        ({"videos": ["https://a.org/b.mp4", "data:video/mp4;base64,AAAA", "A" * 3000]}, []),
        ({"videos": ["x\0", "y" * 1500]}, ["x\0", "y" * 1500]),
        ({"videos": ["folder"]}, ["folder"]),
        ({"videos": None, "images": ["b.png"]}, []),
        ({"messages": [{"role": "user", "content": INSIDE}]}, []),
        ({"messages": [{"role": "user", "content": [{"type": "video_url", "video_url": {"url": "b"}}]}]}, ["b"]),
        ({"messages": [{"role": "user", "content": "<video>b.mp4"}, {"role": "assistant", "content": [1, 2]}]}, []),
    ],
)
def test_what_is_missing_is_named(row: dict[str, Any], missing: list[str], tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    (tmp_path / "folder").mkdir()
    assert missing_media(row, tmp_path) == [tmp_path / name for name in missing]
    absolute = with_absolute_media(row, tmp_path)
    assert missing_media(absolute, Path("/elsewhere")) == [tmp_path / name for name in missing]


def test_paths_become_absolute_and_nothing_else_changes(tmp_path: Path) -> None:
    address = "https://a.org/a.mp4"
    row = {
        "videos": ["a.mp4", address, "/b.mp4", "file:///c.mp4"],
        "n": 1,
        "messages": [{"role": "user", "content": INSIDE}],
    }
    absolute = with_absolute_media(row, tmp_path)
    assert absolute == {
        "videos": [str(tmp_path / "a.mp4"), address, "/b.mp4", "/c.mp4"],
        "n": 1,
        "messages": [{"role": "user", "content": [{"type": "video", "video": str(tmp_path / "a.mp4")}, INSIDE[1]]}],
    }
    assert row["videos"] == ["a.mp4", address, "/b.mp4", "file:///c.mp4"]
