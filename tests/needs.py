"""Bring what the tests need beside Python's packages, or say in one line what is missing.

DeepSpeed builds its communication between processes with a C++ compiler, and pages are opened in a Chromium. Debian's
packages are installed where that needs no password; Chromium can also be playwright's own download.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

from playwright.sync_api import Error

from pages import headless


def missing() -> list[str]:
    """Names of Debian's packages."""
    packages = [] if shutil.which("g++") else ["g++"]
    try:
        with headless():
            return packages
    except Error:
        return [*packages, "chromium", "fonts-dejavu-core"]


def install(packages: list[str]) -> None:
    """By apt-get, as root or by a sudo that asks for nothing."""
    root = [] if os.geteuid() == 0 else ["sudo", "--non-interactive"]
    if all(map(shutil.which, [*root[:1], "apt-get"])):
        print(f"installing {' '.join(packages)}", flush=True)
        for command in (["update"], ["install", "--yes", "--no-install-recommends", *packages]):
            subprocess.run([*root, "apt-get", *command], capture_output=True, check=False)


if __name__ == "__main__":
    if packages := missing():
        install(packages)
        if "chromium" in missing():
            print("downloading a Chromium", flush=True)
            download = [sys.executable, "-m", "playwright", "install", "chromium"]
            subprocess.run(download, capture_output=True, check=False)
        if packages := missing():
            sys.exit(f"the tests need packages of the system: on Debian, apt-get install {' '.join(packages)}")
