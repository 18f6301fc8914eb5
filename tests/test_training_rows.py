"""Rows as the trainer gets them: images as they are shown, and lengths as ms-swift counts them."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from swift_template import template_of
from swiftalign.augment.pipeline import run_pipeline
from swiftalign.augment.rows import TrainingRows
from swiftalign.config.load import load_config
from swiftalign.data.encoding import encoding_of
from swiftalign.data.rows import Rows, index_to_bytes, read_index
from swiftalign.data.scan import scan
from swiftalign.data.sizes import DEFAULT_LIMITS
from swiftalign.problems import DataError

TALK = [{"role": "user", "content": "<image>Where?"}, {"role": "assistant", "content": "Here."}]
TURNED, DEEP = (40, 90), (64, 32)  # as they are shown


@pytest.fixture
def rows(tmp_path: Path) -> Rows:
    """Own rows and ms-swift's, on a photograph that is stored on its side and on an image of 16 bits."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", TURNED[::-1], "red").save(tmp_path / "turned.jpg", exif=exif)
    Image.fromarray(np.full(DEEP[::-1], 0x8000, dtype=np.uint16)).save(tmp_path / "deep.png")
    box = {"label": "box", "bbox_2d": [1, 1, 20, 20]}
    written: list[dict[str, Any]] = [
        {"images": [name], **what}
        for name in ("turned.jpg", "deep.png")
        for what in ({"objects": [box]}, {"messages": TALK})
    ]
    written.append({"messages": TALK, "images": ["https://example.org/a.png"]})
    (tmp_path / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in written), encoding="utf-8")
    return Rows([tmp_path / "rows.jsonl"])


def test_images_come_as_they_are_shown_in_either_layout(rows: Rows) -> None:
    assert [rows[index]["images"][0].size for index in range(4)] == [TURNED, TURNED, DEEP, DEEP]
    assert {rows[index]["images"][0].getpixel((0, 0)) for index in (2, 3)} == {(128, 128, 128)}
    assert rows[4]["images"] == ["https://example.org/a.png"]


def test_rows_keep_their_numbers_when_others_are_left_out(rows: Rows) -> None:
    kept = Rows([rows.files[0].path], {rows.files[0].path: [1, 4]})
    assert kept.order.tolist() == [1, 2, 4]
    assert kept.reordered(np.array([2, 0])).order.tolist() == [4, 1]
    assert kept[1]["images"][0].size == DEEP


def test_an_index_says_where_the_rows_of_each_file_are(rows: Rows, tmp_path: Path) -> None:
    path = rows.files[0].path
    other = tmp_path / "other.jsonl"
    other.write_text(f"\n\n{path.read_text()}", encoding="utf-8")
    report = scan([path], [other])
    (tmp_path / "index.npz").write_bytes(index_to_bytes(report.files))
    index = read_index(tmp_path / "index.npz")
    assert list(index) == [path, other]
    assert {name: places.tolist() for name, places in report.index.items()} == {
        name: places.tolist() for name, places in index.items()
    }
    read = Rows([other, path], {other: [4]}, index=index)
    assert read.order.tolist() == [0, 2, 3, 4, 5, 6, 7, 8, 9]
    assert [read.row(number) for number in (1, 8)] == [rows.row(2), rows.row(4)]
    assert report.digests == {str(name): hashlib.sha256(name.read_bytes()).hexdigest() for name in (path, other)}


def test_a_file_that_changed_since_its_rows_were_found_is_refused(rows: Rows, tmp_path: Path) -> None:
    path = rows.files[0].path
    (tmp_path / "index.npz").write_bytes(index_to_bytes({path: rows.files[0]}))
    with path.open("a", encoding="utf-8") as file:
        file.write("\n")
    with pytest.raises(DataError, match=r"rows\.jsonl: has changed since its rows were checked"):
        Rows([path], index=read_index(tmp_path / "index.npz")).row(0)


def test_a_file_that_is_read_again_has_the_same_rows(rows: Rows) -> None:
    file = rows.files[0]
    assert [line for line, _ in file.read()] == [line for line, _ in file.read()] == [1, 2, 3, 4, 5]


def test_rows_that_another_process_gets_are_read_from_a_file_of_its_own(rows: Rows) -> None:
    rows.row(0)
    copied = pickle.loads(pickle.dumps(rows))
    assert copied.row(3) == rows.row(3)


@pytest.mark.slow
def test_a_row_fits_just_where_ms_swift_takes_it(demo: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    names = [f"model: {demo / 'model'}", f"data: {{train: {demo / 'data/train.jsonl'}, max_length: 9000}}"]
    config.write_text(
        "\n".join([*names, "custom: {augmentation: {ops: [{resize_by_scale: {lo: 1.3, hi: 1.5}}]}}"]), encoding="utf-8"
    )
    encoding = encoding_of(load_config([config]))
    template, rows = template_of(demo / "model"), Rows([demo / "data/train.jsonl"])
    for index in range(4):
        row, size = rows.row(index), rows[index]["images"][0].size
        length = template.encode(rows[index], return_length=True)["length"]
        assert replace(encoding, max_length=length).fits(row.record([size]), [size])
        assert not replace(encoding, max_length=length - 1).fits(row.record([size]), [size])

    plain = [template.encode(rows[index], return_length=True)["length"] for index in range(len(rows))]
    pipeline = run_pipeline(load_config([config], [f"data.max_length={max(plain)}"]))
    free = TrainingRows(rows, replace(pipeline, fits=None))
    lengths = [template.encode(free[index], return_length=True)["length"] for index in range(len(rows))]
    assert max(lengths) > max(plain)  # resize_by_scale enlarges
    held = TrainingRows(rows, pipeline)
    lengths = [template.encode(held[index], return_length=True)["length"] for index in range(len(rows))]
    assert max(lengths) <= max(plain)


@pytest.mark.parametrize(
    ("data", "counted"),
    [
        ("", None),
        ("max_length: 90", True),
        ("max_length: 90, truncation_strategy: delete", True),
        ("max_length: 90, truncation_strategy: left", None),
    ],
)
def test_only_rows_that_would_end_the_run_are_counted(
    data: str, counted: bool | None, demo: Path, tmp_path: Path
) -> None:
    (tmp_path / "config.yaml").write_text(f"model: {demo / 'model'}\ndata: {{{data}}}\n", encoding="utf-8")
    encoding = encoding_of(load_config([tmp_path / "config.yaml"]))
    assert (encoding.max_length and encoding.tokenizer is not None) == counted


def test_lengths_are_near_those_of_encoded_rows(demo: Path) -> None:
    template = template_of(demo / "model")
    rows = Rows([demo / "data/train.jsonl"])
    true = [len(template.encode(rows[index])["input_ids"]) for index in range(len(rows))]
    assert np.corrcoef(rows.lengths(DEFAULT_LIMITS), true)[0, 1] > 0.95


def test_rows_of_another_family_are_not_counted(demo: Path, tmp_path: Path) -> None:
    shutil.copy(demo / "model/tokenizer.json", tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "internvl"}', encoding="utf-8")
    text = f"model: {tmp_path}\ndata: {{max_length: 90}}\n"
    (tmp_path / "config.yaml").write_text(text, encoding="utf-8")
    encoding = encoding_of(load_config([tmp_path / "config.yaml"]))
    assert encoding.max_length == 90
    assert encoding.tokenizer is None
