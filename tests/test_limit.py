"""`limit` of a data file: its first rows alone are read, checked, counted, mixed and trained on."""

from __future__ import annotations

import gzip
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from swiftalign.config.sections import Config, DataSource
from swiftalign.data.convert import convert
from swiftalign.data.count import count_rows
from swiftalign.data.rows import Mixture, Rows, index_to_bytes, read_index
from swiftalign.data.scan import read_data, scan
from swiftalign.data.storage import open_file
from swiftalign.problems import ConfigError, DataError


def row(number: int) -> dict[str, Any]:
    return {"images": ["a.png"], "objects": [{"label": f"cup {number}", "bbox_2d": [1, 2, 30, 20 + number]}]}


def as_lines(folder: Path, rows: list[dict[str, Any]]) -> Path:
    """With a blank line before every second row."""
    text = "".join("\n" * (number % 2) + json.dumps(each) + "\n" for number, each in enumerate(rows))
    (folder / "rows.jsonl").write_text(text, encoding="utf-8")
    return folder / "rows.jsonl"


def as_gzip(folder: Path, rows: list[dict[str, Any]]) -> Path:
    (folder / "rows.jsonl.gz").write_bytes(gzip.compress(as_lines(folder, rows).read_bytes()))
    return folder / "rows.jsonl.gz"


def as_array(folder: Path, rows: list[dict[str, Any]]) -> Path:
    (folder / "rows.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
    return folder / "rows.json"


def as_table(folder: Path, rows: list[dict[str, Any]]) -> Path:
    from datasets import Dataset

    Dataset.from_list(rows).to_parquet(str(folder / "rows.parquet"))
    return folder / "rows.parquet"


def as_coco(folder: Path, rows: list[dict[str, Any]]) -> Path:
    images, boxes = [], []
    for number, each in enumerate(rows):
        Image.new("RGB", (64, 64), "grey").save(folder / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": 64, "height": 64})
        left, top, right, bottom = each["objects"][0]["bbox_2d"]
        box = {"bbox": [left, top, right - left, bottom - top], "image_id": number, "iscrowd": 0}
        boxes.append({"id": number, "category_id": number} | box)
    names = [{"id": number, "name": f"cup {number}"} for number in range(len(rows))]
    (folder / "coco.json").write_text(json.dumps({"images": images, "annotations": boxes, "categories": names}))
    return folder / "coco.json"


WAYS: dict[str, Callable[[Path, list[dict[str, Any]]], Path]] = {
    "lines": as_lines,
    "gzip": as_gzip,
    "array": as_array,
    "parquet": as_table,
    "coco": as_coco,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Image.new("RGB", (64, 64), "grey").save(tmp_path / "a.png")
    return tmp_path


def limited(path: Path, limit: int | None, **more: Any) -> DataSource:
    return DataSource(path=str(path), limit=limit, **more)


def labels(rows: Rows) -> list[str]:
    return [rows.row(index).targets[0].label for index in range(len(rows))]


@pytest.mark.parametrize("way", WAYS)
def test_the_first_rows_are_taken_at_their_places(way: str, folder: Path) -> None:
    path = WAYS[way](folder, [row(number) for number in range(5)])
    whole = Rows([path])
    for limit in (1, 3, 5, 9):
        source, taken = limited(path, limit), min(limit, 5)
        rows = pickle.loads(pickle.dumps(Rows([source])))
        assert labels(rows) == [f"cup {number}" for number in range(taken)]
        assert [rows.where(n) for n in range(taken)] == [whole.where(n) for n in range(taken)]
        report = scan([source])
        assert (report.rows.train, sum(report.counts.values())) == (taken, 0)
        (folder / "index.npz").write_bytes(index_to_bytes(report.files))
        assert labels(Rows([source], index=read_index(folder / "index.npz"))) == labels(rows)
        assert sum(1 for _ in open_file(source).read()) == taken


@pytest.mark.parametrize("way", ["lines", "array"])
def test_rows_beyond_the_limit_are_not_looked_at(way: str, folder: Path) -> None:
    path = WAYS[way](folder, [row(0), row(1)])
    text = path.read_text(encoding="utf-8").rstrip("]\n")
    path.write_text(f"{text}\n{',' if way == 'array' else ''}{{damaged\n", encoding="utf-8")
    with pytest.raises(DataError, match="not JSON"):
        labels(Rows([path]))
    assert labels(Rows([limited(path, 2)])) == ["cup 0", "cup 1"]
    assert not scan([limited(path, 2)]).counts


def test_a_file_may_have_several_limits(folder: Path) -> None:
    """The index has one entry for each file: its rows up to the highest limit."""
    path = as_lines(folder, [row(number) for number in range(6)])
    sources = [limited(path, 2), limited(path, 4), limited(path, 3, coordinates="pixels")]
    for train, val in ((sources[:2], sources[2:]), (sources[1:], sources[:1]), (sources[:1], [limited(path, None)])):
        report = scan(train, val)
        counts = [source.limit or 6 for source in (*train, *val)]
        assert report.rows == (sum(counts[: len(train)]), sum(counts[len(train) :]))
        (folder / "index.npz").write_bytes(index_to_bytes(report.files))
        for index in (report.files, read_index(folder / "index.npz")):
            for source, count in zip((*train, *val), counts, strict=True):
                assert labels(Rows([source], index=index)) == [f"cup {number}" for number in range(count)]


def test_a_file_that_grows_after_the_check_is_named(folder: Path) -> None:
    path = as_lines(folder, [row(0), row(1)])
    source = limited(path, 1)
    index = scan([source]).index
    with path.open("a") as file:
        file.write(json.dumps(row(2)) + "\n")
    with pytest.raises(DataError, match="has changed"):
        Rows([source], index=index).row(0)


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    files=st.lists(st.tuples(st.integers(1, 7), st.none() | st.integers(1, 9)), min_size=1, max_size=3),
    weights=st.lists(st.sampled_from([1.0, 2.0, 0.5]), min_size=3, max_size=3),
    gone=st.sets(st.integers(2, 7)),
)
def test_limits_weights_and_left_out_rows_go_together(
    files: list[tuple[int, int | None]], weights: list[float], gone: set[int], tmp_path: Path
) -> None:
    """A limited file is mixed as one that holds no more rows."""
    cut, short = [], []
    for name, (rows, limit), weight in zip("abc", files, weights, strict=False):
        for kept, sources in ((rows, cut), (min(rows, limit or rows), short)):
            path = tmp_path / f"{name}{len(sources)}-{kept == rows}.jsonl"
            path.write_text("".join(f"{json.dumps(row(number))}\n" for number in range(kept)), encoding="utf-8")
            sources.append(limited(path, limit if sources is cut else None, weight=weight))
    mixtures = []
    for sources in (cut, short):
        rows = Rows(sources, {Path(source.path): gone for source in sources})
        mixtures.append((labels(rows), [Mixture(rows, 3, shuffle=True).picked(n)[0].tolist() for n in range(3)]))
    assert mixtures[0] == mixtures[1]


def test_plans_and_scans_count_the_limited_rows(folder: Path, make_config: Callable[[str], Config]) -> None:
    path = as_lines(folder, [row(number) for number in range(9)])
    train = f"[{{path: {path}, limit: 4, weight: 0.5}}, {as_gzip(folder, [row(0)] * 3)}]"
    config = make_config(f"data: {{train: {train}, val: [{{path: {path}, limit: 1}}]}}")
    assert tuple(count_rows(config)) == tuple(read_data(config).rows) == (5, 1)


def test_a_limit_is_one_row_at_least(make_config: Callable[[str], Config], folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"config\.yaml:2: data\.train\.0\.limit"):
        make_config("data: {train: [{path: a.jsonl, limit: 0}]}")


def test_a_file_is_converted_up_to_its_limit(folder: Path) -> None:
    path = as_lines(folder, [row(number) for number in range(4)])
    assert convert([limited(path, 3)], folder / "three.jsonl").rows == 3
    assert convert([limited(path, None)], folder / "all.jsonl").rows == 4
