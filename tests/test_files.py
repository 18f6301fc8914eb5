"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import contextlib
from pathlib import Path

from swiftalign.files import appearing, appearing_folder, write_whole


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    write_whole(tmp_path / "a.json", "old")
    with contextlib.suppress(ValueError), appearing(tmp_path / "a.json") as part:
        part.write_text("half")
        raise ValueError
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert (tmp_path / "a.json").read_text() == "old"
    write_whole(tmp_path / "a.json", b"new")
    assert (tmp_path / "a.json").read_text() == "new"


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "models/out"
    with contextlib.suppress(ValueError), appearing_folder(target) as part:
        (part / "a").touch()
        raise ValueError
    assert not list(target.parent.iterdir())
    for name in ("a", "b"):
        with appearing_folder(target) as part:
            (part / name).touch()
            assert not (target / name).exists()
        assert [path.name for path in target.iterdir()] == [name]
    assert list(target.parent.iterdir()) == [target]


def test_leftovers_of_killed_processes_are_removed_and_a_folder_in_use_is_not(tmp_path: Path) -> None:
    leftover, other = tmp_path / f".out.partial-{'0' * 12}", tmp_path / ".out.partial-notes"
    leftover.mkdir()
    other.mkdir()
    with appearing_folder(tmp_path / "out") as used:
        assert not leftover.exists()
        with appearing_folder(tmp_path / "out") as part:
            (part / "a").touch()
        assert used.exists()
    assert other.exists()
