"""Releases of the packages that decide what a run does."""

from __future__ import annotations

import importlib.metadata
import platform

# The releases that the suite runs against; constraints.txt pins the same.
TESTED_VERSIONS = {"ms-swift": "4.6.0", "transformers": "5.19.0", "peft": "0.20.0", "torch": "2.14.1"}


def installed(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


_PACKAGES = ("swiftalign", "ms-swift", "transformers", "peft", "torch", "torchvision", "accelerate", "trl", "numpy")


def versions() -> dict[str, str]:
    """Releases of the packages that decide what a run does."""
    found = {"python": platform.python_version()}
    return found | {name: installed(name) for name in _PACKAGES if installed(name) != "unknown"}
