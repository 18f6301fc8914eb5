"""Videos and sounds in rows of ms-swift's layout; like images, their paths are relative to the data file's folder.

References:
    ms-swift's ``template/template_inputs.py``, which takes them from ``videos``, ``audios`` and the messages;
    ``template/vision_utils.py``, which would look for relative paths in the current folder.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

_KEYS = ("videos", "audios")
_PARTS = ("video", "audio", "video_url", "audio_url")
_ELSEWHERE = ("http://", "https://", "data:")
_LONGEST_PATH = 2000  # characters; a longer text is the file itself, in base64


def missing_media(row: dict[str, Any], folder: Path) -> list[Path]:
    """The videos and sounds of a row that are not there.

    Args:
        row: a sound row of ms-swift's layout.
        folder: of the data file.
    """
    named: list[Path] = []

    def note(source: str) -> str:
        named.append(_place(source, folder))
        return source

    _mapped(row, note)
    return [path for path in dict.fromkeys(named) if not _is_there(path)]


def with_absolute_media(row: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A row with absolute paths of its videos and sounds; arguments as those of `missing_media`."""
    return _mapped(row, lambda source: str(_place(source, folder)))


def _place(source: str, folder: Path) -> Path:
    return folder / source.strip().removeprefix("file://")


def _is_there(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that no file can have
        return False


def _mapped(row: dict[str, Any], change: Callable[[str], str]) -> dict[str, Any]:
    """A row, each of whose local paths of videos and sounds is changed."""

    def changed(value: Any) -> Any:
        if isinstance(value, str):
            local = value and len(value) <= _LONGEST_PATH and not value.strip().startswith(_ELSEWHERE)
            return change(value) if local else value
        if isinstance(value, list):  # several, or the frames of one
            return [changed(each) for each in value]
        if isinstance(value, dict):
            return {key: changed(each) if key in ("path", "url", "video") else each for key, each in value.items()}
        return value

    row = {key: changed(value) if key in _KEYS else value for key, value in row.items()}
    messages = []
    for message in row.get("messages") or []:
        content = message.get("content")
        if isinstance(content, list):
            parts = [
                {key: changed(value) if key in _PARTS else value for key, value in part.items()}
                if isinstance(part, dict)
                else part
                for part in content
            ]
            message = {**message, "content": parts}
        messages.append(message)
    return {**row, "messages": messages} if messages else row
