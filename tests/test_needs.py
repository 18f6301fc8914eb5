"""What `make test` needs of the system is there, or is named in one line before a test runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

NEEDS = Path(__file__).with_name("needs.py")


def ask(**environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(NEEDS)]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)


def test_nothing_is_done_where_everything_is_there() -> None:
    done = ask()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_what_is_missing_and_can_not_be_installed_is_named(tmp_path: Path) -> None:
    nowhere = {"PLAYWRIGHT_BROWSERS_PATH": str(tmp_path), "PLAYWRIGHT_DOWNLOAD_HOST": "http://127.0.0.1:9"}
    done = ask(PATH=str(tmp_path), **nowhere)
    assert done.returncode == 1
    assert done.stderr == (
        "the tests need packages of the system: on Debian, apt-get install g++ chromium fonts-dejavu-core\n"
    )


@pytest.mark.parametrize(("root", "asks"), [(True, ""), (False, "sudo --non-interactive ")])
def test_packages_are_installed_where_that_is_allowed(root: bool, asks: str, tmp_path: Path) -> None:
    """apt-get and sudo are scripts that write down how they were called."""
    for name in ("apt-get", "sudo"):
        (tmp_path / name).write_text(f'#!/bin/sh\necho "{name} $*" >> {tmp_path}/calls\n')
        (tmp_path / name).chmod(0o755)
    code = (
        f"import os, sys; os.geteuid = lambda: {0 if root else 1000}; sys.path.insert(0, {str(NEEDS.parent)!r}); "
        "import needs; needs.install(['g++', 'chromium'])"
    )
    done = subprocess.run([sys.executable, "-c", code], env={"PATH": str(tmp_path)}, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("installing g++ chromium\n", "")
    assert (tmp_path / "calls").read_text().splitlines() == [
        f"{asks}apt-get update",
        f"{asks}apt-get install --yes --no-install-recommends g++ chromium",
    ]
