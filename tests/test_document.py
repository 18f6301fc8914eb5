"""YAML as plain values: the core schema, lines, and what is refused."""

from __future__ import annotations

import contextlib
import math
import time
from pathlib import Path
from typing import Any

import pytest
import yaml.reader
from hypothesis import example, given
from hypothesis import strategies as st

from swiftalign.config.yaml import MAX_BYTES, MAX_INTEGER, Mapping, parse_document, read_document
from swiftalign.problems import ConfigError, SwiftalignError
from swiftalign.yaml12 import dump_yaml

VALUES = {
    "1e-4": 1e-4,
    "5.0e-4": 5e-4,
    "1.": 1.0,
    ".5": 0.5,
    "-2": -2,
    "+2": 2,
    "007": 7,
    "0o17": 15,
    "0x1F": 31,
    "0b1": "0b1",
    "1_000": "1_000",
    "12:30": "12:30",
    "2024-01-01": "2024-01-01",
    ".inf": math.inf,
    "-.INF": -math.inf,
    "inf": "inf",
    "nan": "nan",
    "true": True,
    "FALSE": False,
    "no": "no",
    "yes": "yes",
    "on": "on",
    "Off": "Off",
    "y": "y",
    "null": None,
    "~": None,
    "": None,
    "none": "none",
    "'1e-4'": "1e-4",
    '"true"': "true",
    "''": "",
    "=": "=",
    r"'^model\.visual$'": r"^model\.visual$",
    "!!str 007": "007",
    "!!float 1": 1.0,
    str(MAX_INTEGER): MAX_INTEGER,
}

# Text -> the fault, which ends the reading with this line and message.
FAULTS = {
    "a: 1\na: 2": "f:2: a is given twice",
    "a:\n  b: {c: 1, c: 2}": "f:2: a.b.c is given twice",
    "a: 1\n'a': 2": "f:2: a is given twice",
    "- a: 1\n  a: 2": "f:2: 0.a is given twice",
    "a: !new 1": "f:1: the tag !new is not allowed",
    "a: !!python/name:os.system ''": "f:1: the tag !!python/name:os.system is not allowed",
    "a: !!set {b}": "f:1: the tag !!set is not allowed",
    "a: !!omap [b: 1]": "f:1: the tag !!omap is not allowed",
    "a: !!binary aGk=": "f:1: the tag !!binary is not allowed",
    "a: !!timestamp 2024-01-01": "f:1: the tag !!timestamp is not allowed",
    "a: !!null b": "f:1: 'b' is not null",
    "a: !!int 1.5": "f:1: '1.5' is not a number",
    "<<: {a: 1}": "f:1: merge keys (<<) are not supported",
    "? {a: 1}\n: 2": "f:1: a key must be text, not a list or mapping",
    r'a: "\0"': "f:1: the text contains a control character",
    r'"\e[31m": a': "f:1: the text contains a control character",
    r'a: "\uD800"': "f:1: the text contains a control character",
    "a: 9223372036854775808": "f:1: the number 9223372036854775808 is too large",
    "a: -1e400": "f:1: the number -1e400 is too large",
    "a: *b": "f:1: not valid YAML: there is no anchor &b for the alias *b",
    "a: 1\nb\nc: 2": "f:2: not valid YAML: a key is not followed by ':'",
    "a: 'b\nc: 2": "f:1: not valid YAML: this quote is not closed",
    "a: [b,\nc: {d": "f:2: not valid YAML: this list or mapping is not closed",
    "a: 1\n\x07": "f:2: not valid YAML: it contains a control character",
    "[" * 100: "f:1: values are nested more than 60 levels deep",
    "{a: " * 5000: "f: values are nested more than 60 levels deep",
    "a: &a [*a]": "f:1: values are nested more than 60 levels deep",
    "a: &a {b: *a}": "f:1: values are nested more than 60 levels deep",
}


def fault_of(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_document(text, "f")
    return str(caught.value)


@pytest.mark.parametrize("text", VALUES)
def test_scalar_follows_the_core_schema(text: str) -> None:
    value = parse_document(f"a: {text}", "f")["a"]
    assert (value, type(value)) == (VALUES[text], type(VALUES[text]))


def test_nan_is_read_as_nan() -> None:
    assert math.isnan(parse_document(".nan", "f"))


def test_words_of_yaml_1_1_stay_words_as_keys() -> None:
    assert parse_document("{no: 1, on: 2, 3: 4, ~: 5}", "f") == {"no": 1, "on": 2, "3": 4, "~": 5}


@pytest.mark.parametrize("text", FAULTS, ids=lambda text: text[:24])
def test_fault_is_named_with_its_line(text: str) -> None:
    closed = text + "]" * text.count("[" * 100) * 100
    assert fault_of(closed) == FAULTS[text]


def test_all_duplicates_are_reported() -> None:
    assert fault_of("a: 1\na: 2\nb: 1\nb: 2") == "f:2: a is given twice\nf:4: b is given twice"


def test_lines_are_known_for_keys_and_items() -> None:
    document = parse_document("# comment\na:\n  b: 1\n  c:\n    - x\n    - y\nd: [1,\n 2]\n", "f")
    wanted = {("a",): "f:2", ("a", "b"): "f:3", ("a", "c"): "f:4", ("a", "c", 1): "f:6", ("d", 0): "f:7"}
    assert {key: document.where(*key) for key in wanted} == wanted
    assert document.where("d", 1) == "f:8"


def test_unknown_key_stands_where_its_parent_does() -> None:
    document = parse_document("a:\n  b: 1\n", "f")
    assert document.where("a", "b", "c") == "f:2"
    assert document.where("z") == "f"
    assert Mapping().where("z") == ""


def test_alias_repeats_a_value() -> None:
    assert parse_document("a: &x [1, 2]\nb: *x", "f") == {"a": [1, 2], "b": [1, 2]}


def test_alias_bomb_fails_within_a_second() -> None:
    lines = ["l0: &l0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 10)}]" for i in range(1, 30)]
    start = time.process_time()
    assert fault_of("\n".join(lines)) == "f:5: more than 50,000 values after aliases are expanded"
    assert time.process_time() - start < 1


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"a: \xff", ":1: the file is not UTF-8 text"),
        (b"a: 1\nb: \xe8", ":2: the file is not UTF-8 text"),
        (b"#" * (MAX_BYTES + 1), ": larger than 2 MB, the limit for a config file"),
    ],
    ids=["binary", "latin-1", "large"],
)
def test_file_that_is_no_text_is_refused(data: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(data)
    with pytest.raises(SwiftalignError) as caught:
        read_document(path)
    assert str(caught.value) == f"{path}{message}"


def test_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text("a: 1", encoding="utf-8-sig")
    assert read_document(path) == {"a": 1}


def test_windows_line_ends_count_as_lines() -> None:
    assert parse_document("a: 1\r\nb: 2\r\n", "f").where("b") == "f:2"


TRICKY = [
    "no",
    "Yes",
    "on",
    "1e-4",
    "007",
    "0o17",
    "1_000",
    "~",
    "",
    "null",
    "<<",
    "=",
    "12:30",
    "*a",
    "a: b",
    " a",
    "\n",
]
PRINTABLE = st.text(max_size=20).filter(lambda text: not yaml.reader.Reader.NON_PRINTABLE.search(text))
TEXTS = st.one_of(st.sampled_from(TRICKY), PRINTABLE)
KEYS = TEXTS.filter(lambda text: text != "<<")
NUMBERS = st.one_of(st.integers(-MAX_INTEGER, MAX_INTEGER), st.floats(allow_nan=False))
PLAIN = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(KEYS, inner, max_size=4)),
    max_leaves=12,
)


def types_of(value: Any) -> Any:
    """The value's types in its own shape: equality alone takes 1, 1.0 and True for the same."""
    if isinstance(value, dict):
        return {key: types_of(item) for key, item in value.items()}
    return [types_of(item) for item in value] if isinstance(value, list) else type(value)


@given(PLAIN)
@example({word: word for word in TRICKY if word != "<<"})
@example([1e-4, 1e22, 1.0, -0.0, math.inf])
def test_dumped_values_are_read_back(value: Any) -> None:
    read = parse_document(dump_yaml(value), "f")
    assert read == value
    assert types_of(read) == types_of(value)


@given(st.text(alphabet=st.sampled_from("ab:-[]{}&*!|>'\"#%@,?\\ \n\t0~"), max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(ConfigError):
        parse_document(text, "f")
