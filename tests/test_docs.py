"""What README.md and docs/ show is what the commands print."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from docs_examples import PAGES, ROOT, has_examples, rerun, without_variables


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if has_examples(page)], ids=lambda page: page.name)
def test_the_sessions_shown_are_what_the_commands_print(page: Path, tmp_path: Path) -> None:
    assert without_variables(rerun(page, tmp_path)) == without_variables(page.read_text())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_to_a_file_leads_to_one(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
    assert not [link for link in links if not (page.parent / link).exists()]


def test_the_readme_links_every_page_of_docs() -> None:
    readme = (ROOT / "README.md").read_text()
    assert not [page.name for page in PAGES[1:] if f"docs/{page.name}" not in readme]
