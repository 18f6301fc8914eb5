"""docs/upgrading.md says which keys of the first version are refused, and the others are accepted."""

from __future__ import annotations

import re
from fnmatch import filter as matching

from docs_examples import ROOT
from swiftalign.config.arguments import ARGUMENTS, Implied, Renamed

PAGE = (ROOT / "docs/upgrading.md").read_text()


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
    assert not [name for name in names if isinstance(ARGUMENTS[name], Renamed | Implied)]
