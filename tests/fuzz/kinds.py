"""The kinds of files from outside."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fuzz.configs import Configs
from fuzz.fuzz import Kind
from fuzz.rows import RowFiles

KINDS: dict[str, Callable[[Path], Kind]] = {"configs": Configs, "rows": RowFiles}
