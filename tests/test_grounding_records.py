"""Rows of JSONL files: what is a row, what is wrong with it, and what it becomes."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from swiftalign.config.sections import DataSource
from swiftalign.data import files
from swiftalign.data.formats import FORMATS, read_row
from swiftalign.data.formats.own import OWN
from swiftalign.data.formats.swift import SWIFT
from swiftalign.data.records import Reading, Record, Row
from swiftalign.data.scan import scan
from swiftalign.data.storage import DataFile
from swiftalign.data.targets import PixelTarget, TextTarget
from swiftalign.data.text import DEFAULT_WRITING, Composed
from swiftalign.data.written import Written
from swiftalign.problems import DataError

OBJECTS = [{"label": "box", "bbox_2d": [1, 2, 3, 4]}]
ROW = {"images": ["a.png"], "objects": OBJECTS}
TALK = [{"role": "user", "content": "Where?"}, {"role": "assistant", "content": "Here."}]


def write(path: Path, *lines: bytes) -> Path:
    path.write_bytes(b"\n".join(lines))
    return path


def read_rows(path: Path) -> Iterator[tuple[int, Any]]:
    file = DataFile(DataSource(path=str(path)))
    for line, content in file.read():
        yield line, file.value(content, line)


def test_rows_come_with_their_line_numbers_and_blank_lines_are_passed_over(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", b'\xef\xbb\xbf{"a": 1}\r', b"", b"  \t", b"[2]", b"")
    assert list(read_rows(path)) == [(1, {"a": 1}), (4, [2])]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
        (b'"\xff"', "'utf-8' codec can't decode byte 0xff in position 1: invalid start byte"),
        (b"[" * 100_000, "maximum recursion depth exceeded"),
        (b"1" * 5000, "Exceeds the limit (4300 digits) for integer string conversion"),
        (rb'"\ud800"', "'utf-8' codec can't encode character '\\ud800' in position 1: surrogates not allowed"),
        (b'"\xed\xa0\x80"', "'utf-8' codec can't encode character '\\ud800' in position 1: surrogates not allowed"),
    ],
    ids=["cut off", "not UTF-8", "deep", "many digits", "half a surrogate pair", "the same in bytes"],
)
def test_a_line_that_is_no_json_is_named(line: bytes, reason: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", b"{}", line)
    with pytest.raises(DataError) as error:
        list(read_rows(path))
    assert error.value.message.startswith(f"{path}:2: not JSON: {reason}")
    assert error.value.hint == "a JSONL file has one JSON object per line"


def test_whole_surrogate_pairs_are_text(tmp_path: Path) -> None:
    assert list(read_rows(write(tmp_path / "a.jsonl", rb'"\ud83d\ude00"'))) == [(1, "\U0001f600")]


def test_a_long_line_is_refused_without_being_held_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_ROW_BYTES", 10)
    path = write(tmp_path / "a.jsonl", b"[1]", b"[" + b"2," * 30 + b"2]", b"[3, 4, 5]", b"[3, 4, 51]")
    file = DataFile(DataSource(path=str(path)))
    assert list(file.read()) == [(1, b"[1]\n"), (2, b"[2,2,2,2,2,"), (3, b"[3, 4, 5]\n"), (4, b"[3, 4, 51]")]
    assert file.places.tolist() == [[0, 1], [4, 2], [68, 3], [78, 4], [88, 0]]
    assert file.digest == hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(DataError, match=rf"{path}:2: longer than 10 B"):
        list(read_rows(path))


def test_a_file_that_can_t_be_read_is_named(tmp_path: Path) -> None:
    for path, reason in ((tmp_path, "Is a directory"), (tmp_path / "none.jsonl", "No such file or directory")):
        with pytest.raises(DataError, match=f"{path}: {reason}"):
            list(read_rows(path))


def with_object(**changes: Any) -> dict[str, Any]:
    return {"images": ["a.png"], "objects": [{"label": "box", **changes}]}


def talk(*messages: Any, **others: Any) -> dict[str, Any]:
    return {"messages": [*messages] or TALK, **others}


NUMBERS = "object 'box': bbox_2d must be 4 numbers"
ONE_OF = "object 'box' needs one of bbox_2d, quad, line, point_2d, polygon (a box may have its object's quad beside it)"
IMAGE_NUMBER = "object 'box': 'image' must be the number of one of 1 images, from 0"
IMAGES = "'images' must be a list of paths"
MESSAGES = "'messages' must be a list of {role, content}"
BOXES = "a 'bbox' in 'objects' must be an even count of numbers, 2 or more"
FAULTS: list[tuple[Any, str]] = [
    (None, "not a JSON object"),
    ([], "not a JSON object"),
    ({}, "needs 'images' and 'objects', or 'messages'"),
    ({"images": ["a.png"]}, "needs 'images' and 'objects', or 'messages'"),
    ({"images": 1, "objects": []}, IMAGES),
    ({"images": [1], "objects": []}, IMAGES),
    ({"images": [], "objects": []}, "needs 'images' and 'objects', or 'messages'"),
    (with_object(bbox_2d=[1, 2, 3, 4], image=1), IMAGE_NUMBER),
    (
        with_object(bbox_2d=[1, 2, 3, 4], image=-1),
        IMAGE_NUMBER,
    ),
    (
        with_object(bbox_2d=[1, 2, 3, 4], image="0"),
        IMAGE_NUMBER,
    ),
    ({**ROW, "coordinates": "norm1"}, "'coordinates' must be one of pixels, relative1000, relative1, resized"),
    ({**ROW, "coordinates": [None]}, "'coordinates' must be one of pixels, relative1000, relative1, resized"),
    ({**ROW, "prompt": 1}, "'prompt' must be text"),
    ({**ROW, "system": []}, "'system' must be text"),
    ({**ROW, "summary": 1}, "'summary' must be text, or a list with a text for each image"),
    ({**ROW, "summary": ["a", "b"]}, "'summary' must be text, or a list with a text for each image"),
    ({**ROW, "objects": [1]}, "an object needs a 'label'"),
    (with_object(), ONE_OF),
    (with_object(bbox_2d=[1, 2, 3, 4], line=[1, 2, 3, 4]), ONE_OF),
    (with_object(bbox_2d=[1, 2, 3]), NUMBERS),
    (with_object(bbox_2d=[1, 2, 3, True]), NUMBERS),
    (with_object(bbox_2d=[1, 2, 3, "4"]), NUMBERS),
    (with_object(bbox_2d=[1, 2, 3, float("nan")]), NUMBERS),
    (with_object(bbox_2d=[1, 2, 3, float("inf")]), NUMBERS),
    (with_object(bbox_2d=[1, 2, 3, 10**400]), NUMBERS),
    (with_object(bbox_2d={}), NUMBERS),
    (with_object(quad=[1, 2, 3, 4]), "object 'box': quad must be 8 numbers"),
    (with_object(point_2d=[1, 2, 3, 4]), "object 'box': point_2d must be 2 numbers"),
    (with_object(point_2d=[]), "object 'box': point_2d must be 2 numbers"),
    (with_object(polygon=[1, 2, 3, 4]), "object 'box': polygon must be an even count of 6 numbers or more"),
    (with_object(polygon=[1, 2, 3, 4, 5, 6, 7]), "object 'box': polygon must be an even count of 6 numbers or more"),
    (with_object(polygon=[1, 2, 3, 4, 5, 6], point_2d=[1, 2]), ONE_OF),
    (with_object(bbox_2d=[1, 2, 3, 4], polygon=[1, 2, 3, 4, 5, 6]), ONE_OF),
    (with_object(line=[1, 2]), "object 'box': line must be an even count of 4 numbers or more"),
    (with_object(line=[1, 2, 3, 4, 5]), "object 'box': line must be an even count of 4 numbers or more"),
    (with_object(poly=[1, 2, 3, 4, 5]), "object 'box': poly must be an even count of 6 numbers or more"),
    (with_object(line=[[1, 2], [3]]), "object 'box': line must be an even count of 4 numbers or more"),
    (with_object(line=[1, 2, 3, 4], line_points=3), "object 'box': line_points is 3, but line has 2 points"),
    ({"messages": []}, MESSAGES),
    ({"messages": "hello"}, MESSAGES),
    ({"messages": ["hello"]}, MESSAGES),
    ({"messages": [{"content": "hello"}]}, MESSAGES),
    (
        talk({"role": ["user"], "content": "a"}),
        "a message's role must be one of system, user, assistant, tool, tool_call, tool_response",
    ),
    (talk(*TALK, {"role": "system", "content": "a"}), "the system message must come first, and be text"),
    (talk({"role": "system", "content": None}, *TALK), "the system message must come first, and be text"),
    (
        talk({"role": "user"}, TALK[1]),
        "a message of user has no text, or a part that is not text, image, video or audio",
    ),
    (
        talk({"role": "user", "content": [{"type": "text"}]}, TALK[1]),
        "a message of user has no text, or a part that is not text, image, video or audio",
    ),
    (
        talk({"role": "user", "content": [{"type": "image", "image": 1}]}, TALK[1]),
        "a message of user has no text, or a part that is not text, image, video or audio",
    ),
    (
        talk({"role": "user", "content": [{"type": "ext", "text": "Where?"}]}, TALK[1]),
        "a message of user has no text, or a part that is not text, image, video or audio",
    ),
    (
        talk(TALK[0], {"role": "assistant", "content": 7}),
        "a message of assistant has no text, or a part that is not text, image, video or audio",
    ),
    (
        talk(TALK[0], {"role": "assistant"}),
        "a message of assistant has no text, or a part that is not text, image, video or audio",
    ),
    (
        talk(TALK[0], {"role": "assistant", "content": None, "tool_calls": 1}),
        "a message of assistant has no text, or a part that is not text, image, video or audio",
    ),
    (talk(TALK[0]), "no message of assistant that could be learned"),
    (talk(TALK[0], {"role": "assistant", "content": ""}), "no message of assistant that could be learned"),
    (talk(images=[None]), IMAGES),
    (talk(images=[{"path": None, "bytes": None}]), IMAGES),
    (talk(image=1), IMAGES),
    (talk(coordinates="norm1"), "'coordinates' must be one of pixels, relative1000, relative1, resized"),
    (
        {"conversations": [{"from": "human"}]},
        "a message of user has no text, or a part that is not text, image, video or audio",
    ),
    (
        {"query": "a", "response": "b", "history": [["c"]]},
        "'history' must be a list of [question, answer]",
    ),
    (
        {"image": ["a.png", "b.png"], "prefix": "detect cup", "suffix": ""},
        "needs one 'image', a 'prefix' and a 'suffix', each a text",
    ),
    (
        {"image": "a.png", "prefix": "detect cup", "suffix": "<loc0001><loc0002> cup"},
        "the suffix has location tokens that are not understood: '<loc0001><loc0002> cup'",
    ),
    (
        talk({"role": "user", "content": [{"type": "image", "image": "b.png"}]}, TALK[1], images=["a.png"]),
        "images both in 'images' and in the messages",
    ),
    (talk(objects=1), "'objects' must be {ref: [...], bbox: [[...], ...]}"),
    (talk(objects="{"), "'objects' is a text that is not JSON"),
    (talk(objects=[1]), "an entry of 'objects' needs a 'bbox'"),
    (
        talk(objects=[{"bbox": [1, 2], "bbox_type": "real"}, {"bbox": [1, 2]}]),
        "the entries of 'objects' have different 'bbox_type'",
    ),
    (talk(objects={"ref": ["a"]}), "'objects' must be {ref: [...], bbox: [[...], ...]}"),
    (talk(objects={"bbox": [[1]]}), BOXES),
    (talk(objects={"bbox": [[1, float("nan")]]}), BOXES),
    (talk(objects={"bbox": [], "ref": [1]}), "'ref' in 'objects' must be a list of names"),
    (talk(objects={"bbox": [], "bbox_type": "norm1000"}), "'bbox_type' must be real or norm1"),
    (talk(images=["a"], objects={"bbox": [], "image_id": [1]}), "'image_id' must number the row's 1 images from 0"),
]


@pytest.mark.parametrize(("row", "fault"), FAULTS, ids=[str(index) for index in range(len(FAULTS))])
def test_faults_of_layout(row: Any, fault: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        read_row(row, "rows.jsonl:7", Reading(tmp_path))
    assert error.value.message == f"rows.jsonl:7: {fault}"
    if isinstance(row, dict) and ("messages" in row or "objects" in row):
        with pytest.raises(ValueError, match=f"^{re.escape(fault)}$"):
            (SWIFT if "messages" in row else OWN).read(row, Reading(tmp_path))


PARTS = [{"type": "image", "image": "a.png"}, {"type": "text", "text": "Where?"}]
CALL = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "look", "arguments": "{}"}}]}
SOUND = [
    ROW,
    {**ROW, "coordinates": "relative1000", "prompt": "", "system": None, "more": [{}]},
    with_object(bbox_2d=[1, 2, 3, 4], quad=[1, 2, 3, 2, 3, 4, 1, 4]),
    with_object(line=[1, 2, 3.5, 4, 5, 6]),
    {"images": ["a.png"], "objects": []},
    {"images": "a.png", "objects": []},
    {"image": "a.png", "objects": OBJECTS},
    {"images": ["a.png", "a.png"], "objects": [{**OBJECTS[0], "image": 1}]},
    talk(),
    talk(image="a.png"),
    {"conversations": [{"from": "human", "value": "Where?"}, {"from": "gpt", "value": "Here."}], "image": "a.png"},
    {"query": "Where?", "response": "Here.", "images": ["a.png"]},
    {"prefix": "detect cup", "suffix": "<loc0001><loc0002><loc0003><loc0004> cup", "image": "a.png"},
    talk({"role": "system", "content": "Short."}, *TALK),
    talk(images="a.png"),
    talk(images={"path": "a.png", "bytes": None}),
    talk(images=["a.png", {"path": "a.png"}]),
    talk({"role": "user", "content": PARTS}, TALK[1]),
    talk({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "a.png"}}]}, TALK[1]),
    talk(TALK[0], CALL, {"role": "tool", "content": {"found": 1}}, TALK[1]),
    talk(TALK[0], {"role": "assistant", "content": {"token_ids": [1, 2]}}),
    talk(images=["a.png"], objects={"ref": ["x"], "bbox": [[1, 2], [1, 2, 3, 4]], "image_id": [0, 0]}),
    talk(images=["a.png"], objects={"bbox": [[0.1, 0.2, 0.3, 0.4]], "bbox_type": "norm1"}),
    talk(objects={}),
]


@pytest.mark.parametrize("row", SOUND, ids=[str(index) for index in range(len(SOUND))])
def test_sound_rows_have_no_fault(row: dict[str, Any], tmp_path: Path) -> None:
    before = json.dumps(row)
    [layout] = [layout for layout in FORMATS if layout.recognise(row)]
    read = layout.read(row, Reading(tmp_path))
    assert read.remarks == ()
    assert set(read.images) <= {tmp_path / "a.png"}
    assert read == read_row(row, "rows.jsonl:7", Reading(tmp_path))
    assert json.dumps(row) == before


@pytest.mark.parametrize("name", ["\0", "x" * 5000, "", "."])
def test_a_name_that_no_image_can_have_is_a_missing_image(name: str, tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", json.dumps({**ROW, "images": [name]}).encode())
    assert set(scan([path]).counts) <= {"data-image-missing", "data-image-unreadable"}
    assert scan([path]).counts


def test_a_row_as_a_record(tmp_path: Path) -> None:
    quad = [1, 2, 3, 2, 3, 4, 1, 4]
    objects = [
        {"label": "a", "bbox_2d": [1, 2, 3, 4]},
        {"label": "b", "quad": quad},
        {"label": "c", "line": [5, 6, 7, 8.5]},
        {"label": "d", "bbox_2d": [1, 2, 3, 4], "quad": quad},
        {"label": "e", "point_2d": [5, 6.5]},
        {"label": "f", "polygon": [1, 2, 3, 2, 3, 4, 2, 3, 1, 4]},
    ]
    corners = ((1, 2), (3, 2), (3, 4), (1, 4))
    words = {"prompt": "Find.", "system": "Short.", "summary": "Much."}
    row = OWN.read({"images": ["x/a.png"], "objects": objects, **words}, Reading(tmp_path))
    targets = (
        PixelTarget("bbox", "a", ((1, 2), (3, 4))),
        PixelTarget("quad", "b", corners),
        PixelTarget("line", "c", ((5, 6), (7, 8.5))),
        PixelTarget("bbox", "d", ((1, 2), (3, 4)), corners),
        PixelTarget("point", "e", ((5, 6.5),)),
        PixelTarget("polygon", "f", ((1, 2), (3, 2), (3, 4), (2, 3), (1, 4))),
    )
    wording = Composed("Find.", "Short.", ("Much.",))
    assert row == Row((tmp_path / "x/a.png",), targets, wording)
    assert row.record([(10, 20)]) == Record((tmp_path / "x/a.png",), targets, wording)


def test_absolute_image_paths_stay(tmp_path: Path) -> None:
    assert OWN.read({**ROW, "images": ["/data/a.png"]}, Reading(tmp_path)).images == (Path("/data/a.png"),)


def test_relative_coordinates_become_pixels_of_their_image(tmp_path: Path) -> None:
    objects = [{"label": "a", "bbox_2d": [0, 250, 500, 1000], "quad": [0, 0, 1000, 0, 1000, 1000, 0, 1000]}]
    row = OWN.read({"images": ["a"], "objects": objects, "coordinates": "relative1000"}, Reading(tmp_path))
    assert isinstance(row.targets[0], TextTarget)
    assert OWN.read({"images": ["a"], "objects": objects}, Reading(tmp_path, unit="relative1000")) == row
    [target] = row.record([(640, 480)]).targets
    assert target.points == ((0, 120), (320, 480))
    assert target.outline == ((0, 0), (640, 0), (640, 480), (0, 480))
    assert type(target) is PixelTarget


LONG = "iVBOR" * 1000


@pytest.mark.parametrize(
    ("images", "read"),
    [
        ("a.png", ["HERE/a.png"]),
        ({"path": "a.png"}, ["HERE/a.png"]),
        (["/b.png", {"path": "c.png", "bytes": None}], ["/b.png", "HERE/c.png"]),
        ([{"path": "c.png", "bytes": LONG}, LONG], [LONG, LONG]),
        (["https://a.org/a.png", "data:image/png;base64,AAAA"], ["https://a.org/a.png", "data:image/png;base64,AAAA"]),
        ("file:///data/b%20c.png", ["/data/b c.png"]),
    ],
    ids=["one path", "one mapping", "both", "bytes", "address", "file address"],
)
def test_ms_swift_s_images_are_listed_with_absolute_paths(images: Any, read: list[str], tmp_path: Path) -> None:
    row = SWIFT.read(talk(images=images), Reading(tmp_path))
    assert isinstance(row.wording, Written)
    written = row.wording.row
    assert written["messages"] == TALK
    assert written["images"] == [path.replace("HERE", str(tmp_path)) for path in read]
    content = {LONG: base64.b64decode(LONG), "https://a.org/a.png": None, "data:image/png;base64,AAAA": bytes(3)}
    assert list(row.images) == [content.get(path, Path(path)) for path in written["images"]]


def test_images_in_messages_are_listed_too(tmp_path: Path) -> None:
    other = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "b.png"}}]}
    row = talk({"role": "user", "content": PARTS}, TALK[1], other, TALK[1])
    read = SWIFT.read(row, Reading(tmp_path))
    assert isinstance(read.wording, Written)
    assert read.images == (tmp_path / "a.png", tmp_path / "b.png")
    assert read.wording.row["images"] == [str(path) for path in read.images]
    assert read.wording.row["messages"] == [
        {"role": "user", "content": "<image>Where?"},
        TALK[1],
        {"role": "user", "content": "<image>"},
        TALK[1],
    ]


def test_a_row_of_text_is_taken_as_it_is(tmp_path: Path) -> None:
    row = talk()
    read = SWIFT.read(row, Reading(tmp_path))
    assert read == Row((), (), Written(row, fixed="it has no image file"))
    assert read.to_swift([], DEFAULT_WRITING) == row
