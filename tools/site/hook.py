"""Make the pages of docs/ a site, without changing how they read in the repository.

Pages link to files outside docs/, as ``../configs/methods/lora.yaml``. On the site these links lead to the repository,
whose address is in pyproject.toml. README.md, CONTRIBUTING.md and CHANGELOG.md become pages too.
"""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
ADDED = {"index.md": "README.md", "contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}

_FENCED = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\((?!https?:|mailto:|#)([^)#\s]+)(#[^)\s]*)?\)")


def on_config(config: MkDocsConfig) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    config.repo_url = project["urls"]["Repository"]


def on_files(files: Files, config: MkDocsConfig) -> None:
    for name, source in ADDED.items():
        files.append(File.generated(config, name, abs_src_path=str(ROOT / source)))


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The page with the links that it has in the repository made links of the site."""
    folder = Path(str(page.file.abs_src_path)).parent
    pages = {(ROOT / source).resolve(): name for name, source in ADDED.items()}

    def led(match: re.Match[str]) -> str:
        target, anchor = Path(os.path.normpath(folder / match[1])), match[2] or ""
        if target in pages:
            return f"]({pages[target]}{anchor})"
        if target.is_relative_to(config.docs_dir):
            return f"]({target.relative_to(config.docs_dir).as_posix()}{anchor})"
        if not target.exists():
            return match[0]  # which the build then reports
        kind = "tree" if target.is_dir() else "blob"
        return f"]({config.repo_url}/{kind}/main/{target.relative_to(ROOT).as_posix()}{anchor})"

    parts = _FENCED.split(markdown)
    return "".join(part if part.startswith("```") else _LINK.sub(led, part) for part in parts)
