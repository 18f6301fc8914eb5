"""The kinds of files from outside."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fuzz.configs import Configs
from fuzz.fuzz import Kind
from fuzz.rows import RowFiles
from fuzz.run_folders import RunFolders
from fuzz.weights import Adapters, Headers

KINDS: dict[str, Callable[[Path], Kind]] = {
    "configs": Configs,
    "rows": RowFiles,
    "headers": Headers,
    "adapters": Adapters,
    "runs": RunFolders,
}
