"""docs/upgrading.md and docs/faq.md name keys and problems that exist."""

from __future__ import annotations

import re
from fnmatch import filter as matching

import pytest

from docs_examples import ROOT
from swiftalign.config.arguments import ARGUMENTS, Implied, Noted, Renamed
from swiftalign.problems import CHECKPOINT_CODES, CODES, DATA_CODES

PAGE = (ROOT / "docs/upgrading.md").read_text()
GONE = {"zero3-without-gather", "index-shard-unlisted"}
# Words of the same form.
NO_CODES = {"all-linear", "inspect-params", "ms-swift", "preview-aug", "progressive-1", "verify-ckpt"}


def test_every_key_that_the_page_calls_refused_has_a_rule_that_refuses() -> None:
    table = PAGE.split("<!-- refused -->")[1].split("<!-- end -->")[0]
    columns = re.findall(r"^\| (.*?) \|", table, re.MULTILINE)[1:]
    patterns = [name for column in columns for name in re.findall(r"`([a-z0-9_*]+)`", column)]
    named = {pattern: matching(ARGUMENTS, pattern) for pattern in patterns if pattern != "auto"}
    assert [pattern for pattern, names in named.items() if not names] == []
    rules = {name: ARGUMENTS[name] for names in named.values() for name in names}
    # device_map: auto has another name here; its rule refuses all other values.
    assert {name for name, rule in rules.items() if not isinstance(rule, Implied)} == {"device_map"}
    assert isinstance(rules["device_map"], Renamed)
    assert len(rules) > 60


def test_what_the_page_calls_left_out_is_noted() -> None:
    [row] = re.findall(r"^\| (.*) \|.*\| the note `key-without-effect` \|$", PAGE, re.MULTILINE)
    names = re.findall(r"`([a-z_]+)`", row)
    assert len(names) == 5
    assert not [name for name in names if not isinstance(ARGUMENTS[name], Noted)]


@pytest.mark.parametrize("page", ["upgrading", "faq", "trackers"])
def test_every_problem_that_a_page_names_has_a_code(page: str) -> None:
    text = (ROOT / f"docs/{page}.md").read_text()
    named = set(re.findall(r"`(?:error \[|--allow )?([a-z0-9]+(?:-[a-z0-9]+)+)\]?`", text))
    codes = CODES.keys() | DATA_CODES.keys() | CHECKPOINT_CODES.keys()
    assert named - NO_CODES - codes == (GONE if page == "upgrading" else set())
    assert named & codes
