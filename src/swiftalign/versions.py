"""Releases of the packages that decide what a run does."""

from __future__ import annotations

import importlib.metadata
import platform

# The releases that the suite runs against; requirements.lock pins the same.
TESTED_VERSIONS = {"ms-swift": "4.6.0", "transformers": "5.19.0", "peft": "0.20.0", "torch": "2.14.1"}


_PACKAGES = ("swiftalign", "ms-swift", "transformers", "peft", "torch", "torchvision", "accelerate", "trl", "numpy")


def installed(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def versions() -> dict[str, str]:
    """Releases of Python and of the installed packages that decide what a run does."""
    releases = {"python": platform.python_version()} | {name: installed(name) for name in _PACKAGES}
    return {name: release for name, release in releases.items() if release != "unknown"}
