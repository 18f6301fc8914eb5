"""Rows as they are met outside: each layout is read as it is, and each of its usual faults is named with its cure."""

from __future__ import annotations

import base64
import gzip
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from swift_template import template_of
from swiftalign.config.load import load_config
from swiftalign.config.sections import Config, DataSource, GroundingTextSection
from swiftalign.data.answers import parse_answer
from swiftalign.data.encoded import TemplateEncoder, learned_faults
from swiftalign.data.encoding import Encoding, encoding_of
from swiftalign.data.images import image_size
from swiftalign.data.records import Record
from swiftalign.data.rows import Rows, index_to_bytes, read_index
from swiftalign.data.scan import DataReport, read_data, scan
from swiftalign.data.sizes import model_size
from swiftalign.data.storage import open_file
from swiftalign.data.targets import PixelTarget
from swiftalign.data.text import Writing, answer
from swiftalign.data.written import NOT_UNDERSTOOD
from swiftalign.problems import DataError, Problem

Write = Callable[..., Path]
SIZES = {"a.png": (256, 227), "b.png": (532, 728), "c.png": (800, 600), "large.png": (1920, 1080)}


@pytest.fixture(scope="module")
def sized_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for name, size in SIZES.items():
        Image.new("RGB", size, "grey").save(folder / name)
    return folder


@pytest.fixture
def write(sized_images: Path, tmp_path: Path) -> Write:
    """Writes a file of rows beside some images; texts are lines as they are."""
    shutil.copytree(sized_images, tmp_path, dirs_exist_ok=True)

    def write(*rows: Any, name: str = "rows.jsonl") -> Path:
        lines = "".join(f"{row if isinstance(row, str) else json.dumps(row, ensure_ascii=False)}\n" for row in rows)
        (tmp_path / name).write_text(lines, encoding="utf-8")
        return tmp_path / name

    return write


@pytest.fixture(scope="module")
def encoder(demo: Path) -> TemplateEncoder:
    """ms-swift's own template of the tiny model."""
    return TemplateEncoder(template_of(demo / "model"), Writing())


def faults(report: DataReport) -> list[Problem]:
    return [found for found in report.findings if found.severity != "note"]


def codes(report: DataReport) -> set[str]:
    return {found.code for found in faults(report)}


def records(path: Path | DataSource, writing: Writing | None = None) -> list[Record]:
    """The rows of a file in pixels of their images."""
    rows = Rows([path], writing=writing or Writing())
    return [row.record([image_size(image) for image in row.images]) for row in map(rows.row, range(len(rows)))]


def places(record: Record) -> list[tuple[str, str, list[float]]]:
    """Kind, label and numbers of each target, in pixels, rounded to a hundredth."""
    return [(t.kind, t.label, [round(n, 2) for point in t.points for n in point]) for t in record.targets]


def texts(row: dict[str, Any]) -> list[tuple[str, str]]:
    return [(message["role"], message["content"]) for message in row["messages"]]


# A box in pixels of c.png, and of large.png, and the same in thousandths of their sides. These reach beyond c.png: they
# can't be meant as its pixels.
PIXELS, LARGE_PIXELS, THOUSANDTHS = [80, 60, 480, 540], [192, 108, 1152, 972], [100, 100, 600, 900]
ANSWER = '[{"bbox_2d": [100, 100, 600, 900], "label": "block"}]'


def own_row(numbers: list[float], image: str = "c.png") -> dict[str, Any]:
    return {"images": [image], "objects": [{"label": "block", "bbox_2d": numbers}]}


def swift_row(numbers: list[float], image: str = "c.png") -> dict[str, Any]:
    talk = [
        {"role": "user", "content": "<image>Find the <ref-object>."},
        {"role": "assistant", "content": '[{"bbox_2d": <bbox>, "label": "<ref-object>"}]'},
    ]
    return {"messages": talk, "images": [image], "objects": {"ref": ["block"] * 2, "bbox": [numbers]}}


def answer_row(numbers: list[float] | str, image: str = "c.png") -> dict[str, Any]:
    text = numbers if isinstance(numbers, str) else json.dumps([{"bbox_2d": numbers, "label": "block"}])
    talk = [{"role": "user", "content": "<image>Find the block."}, {"role": "assistant", "content": text}]
    return {"messages": talk, "images": [image]}


LAYOUTS: dict[str, Callable[..., dict[str, Any]]] = {"own": own_row, "swift": swift_row, "answer": answer_row}


# What is learnt


def test_placeholders_are_learnt_as_the_json_of_qwen3_vl(write: Write, encoder: TemplateEncoder) -> None:
    """ms-swift's own setting would write <|box_start|>(582,62),(707,317)<|box_end|> in their place."""
    item = '{"bbox_2d": <bbox>, "label": "<ref-object>"}'
    talk = [
        {"role": "user", "content": "<image>Find all cable, defect."},
        {"role": "assistant", "content": f"[{item}, {item}]"},
    ]
    objects = {"ref": ["defect", "cable"], "bbox": [[149, 14, 181, 72], [13, 45, 243, 103]], "bbox_type": "real"}
    path = write({"messages": talk, "images": ["a.png"], "objects": objects})

    learned = encoder(Rows([path])[0]).learned

    wanted = '[{"bbox_2d": [582, 62, 707, 317], "label": "defect"}, {"bbox_2d": [51, 198, 949, 454], "label": "cable"}]'
    assert learned.startswith(wanted)
    assert "box_start" not in learned


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_same_box_is_learnt_as_the_same_text_in_each_layout(
    layout: str, write: Write, encoder: TemplateEncoder
) -> None:
    path = write(LAYOUTS[layout](THOUSANDTHS if layout == "answer" else PIXELS))
    assert not faults(scan([path]))
    assert encoder(Rows([path])[0]).learned.startswith(ANSWER)


# Boxes with a fault


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        pytest.param([600, 700, 100, 120], "its second corner lies left of or above the first", id="reversed"),
        pytest.param([300, 400, 200, 950], "its second corner lies left of or above the first", id="left-and-right"),
        pytest.param([64, 990, 64, 990], "it has no area", id="point"),
        pytest.param([64, 700, 900, 700], "it has no area", id="flat"),
        pytest.param([400, 800, 200, 150], "its second corner lies left of or above the first", id="x-y-w-h"),
    ],
)
def test_a_box_with_a_fault_is_named_in_each_layout(
    layout: str, numbers: list[float], message: str, write: Write
) -> None:
    (found,) = faults(scan([write(LAYOUTS[layout](numbers, "a.png" if layout == "answer" else "large.png"))]))
    assert found.code == "data-box-degenerate"
    assert message in found.message
    assert found.hint == "a box is [x1, y1, x2, y2], not [x, y, width, height]"


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(ANSWER[:-1], id="without-its-end"),
        pytest.param(ANSWER[:30], id="in-the-numbers"),
        pytest.param(ANSWER[:-8], id="in-the-label"),
        pytest.param(f"{ANSWER[:-1]}, {ANSWER[1:15]}", id="in-the-second-object"),
        pytest.param(f"```json\n{ANSWER[:-4]}\n```", id="fenced"),
        pytest.param(ANSWER.replace("900]", "900"), id="without-a-bracket"),
    ],
)
def test_json_that_breaks_off_is_named(text: str, write: Write) -> None:
    assert "data-answer-malformed" in codes(scan([write(answer_row(ANSWER), answer_row(text))]))


@pytest.mark.parametrize(
    "numbers", ["[1, 2, 3]", '["1", 2, 3, 4]', "[1, 2, 3, null]", "null", '"1, 2, 3, 4"', "[[1, 2], [3, 4]]"]
)
def test_an_answer_whose_coordinates_are_no_numbers_is_named(numbers: str, write: Write) -> None:
    text = f'[{{"bbox_2d": {numbers}, "label": "block"}}]'
    (found,) = faults(scan([write(answer_row(text))]))
    assert found.code == "data-answer-malformed"
    assert "bbox_2d of 'block' is" in found.message


@pytest.mark.parametrize(
    "text",
    [
        "The block is at [80, 60, 480, 540].",
        '[{"bbox_2d": [80, 60, 480, 540], "point_2d": [80, 60], "label": "block"}]',
        '[{"bbox_2d": [80, 60, 480, 540], "center": [280, 300], "label": "block"}]',
        '[{"bbox_2d": [80, 60, 480, 540], "parts": [{"bbox_2d": [80, 60, 90, 70], "label": "lid"}]}]',
        '[{"bbox": [80, 60, 480, 540], "label": "block"}, {"bbox": ["80", "60", "480", "540"], "label": "block"}]',
    ],
)
def test_coordinates_that_would_not_be_converted_are_named(text: str, write: Write) -> None:
    source = DataSource(path=str(write(answer_row(text))), coordinates="pixels")
    report = scan([source])
    assert codes(report) == {"data-coordinates-foreign"}
    assert report.in_place == {NOT_UNDERSTOOD: 1}
    assert not faults(scan([source.model_copy(update={"coordinates": "relative1000"})]))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('"color": {"bbox_2d": [1, 2, 3, 4]}, "bbox_2d": ', ""),
        ('"bbox\\u005f2d": ', ""),
        ('"label": "a \\"bbox_2d\\": [1, 2, 3, 4]", "bbox_2d": ', ""),
        ('"bbox_2d": ', ', "note": {"bbox_2d": [1, 2, 3, 4]}'),
    ],
)
def test_the_numbers_of_an_object_are_found_among_others(before: str, after: str, write: Write) -> None:
    source = DataSource(path=str(write(answer_row(f"[{{{before}{PIXELS}{after}}}]"))), coordinates="pixels")
    assert texts(Rows([source])[0])[1][1] == f"[{{{before}{THOUSANDTHS}{after}}}]"


def test_coordinates_of_an_answer_that_are_not_understood_are_noted(write: Write) -> None:
    report = scan([write(answer_row("[192, 108, 1152, 972]", "large.png"), answer_row(ANSWER), answer_row("Here."))])
    (found,) = [each for each in report.findings if each.code == "data-unchecked"]
    assert "rows.jsonl:1" in (found.where or "")
    assert report.counts["data-unchecked"] == 1


def test_images_within_rows_are_decoded_too(write: Write, tmp_path: Path) -> None:
    content = (tmp_path / "c.png").read_bytes()
    whole, cut = (base64.b64encode(part).decode() for part in (content, content[: len(content) // 2]))
    path = write(*(answer_row(ANSWER, f"data:image/png;base64,{image}") for image in (whole, cut)))
    (found,) = faults(scan([path]))
    assert (found.code, found.where) == ("data-image-unreadable", f"{path}:2")
    assert not faults(scan([path], check_images=False))


def test_the_progress_of_an_array_is_told_in_images(write: Write, tmp_path: Path) -> None:
    rows = [own_row(PIXELS) | {"prompt": f"Find block {number} of the picture."} for number in range(50)]
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(rows))
    read = list(open_file(DataSource(path=str(path))).read())
    size = sum(open_file(DataSource(path=str(path))).size_of(content) for _, content in read)
    assert size == pytest.approx(path.stat().st_size, rel=0.05)


def test_the_objects_of_older_rows_are_left_to_other_templates_as_ms_swift_takes_them(write: Write) -> None:
    row = swift_row(PIXELS) | {"objects": [{"caption": "block", "bbox": PIXELS}]}
    (written,) = (Rows([write(row)], writing=Writing(own_boxes=False))[index] for index in range(1))
    assert (written["objects"]["ref"], written["objects"]["bbox"]) == (["block"], [PIXELS])


@pytest.mark.parametrize("name", ["a, b.jsonl", "x: y.jsonl", "it's #1.jsonl", "{t}.jsonl", "rows.jsonl"])
def test_the_printed_cure_can_be_pasted_whatever_the_file_is_called(name: str, write: Write) -> None:
    path = write(answer_row(LARGE_PIXELS, "large.png"), name=name)
    hints = [found.hint or "" for found in faults(scan([path])) if "declare it" in (found.hint or "")]
    assert hints
    for hint in hints:
        pasted = re.search(r"data: \{.*\}\]\}", hint)
        assert pasted is not None
        assert yaml.safe_load(pasted[0])["data"]["train"][0]["path"] == str(path)


def test_names_with_placeholders_are_named(write: Write) -> None:
    row = swift_row(PIXELS) | {"objects": {"ref": ["block<image>"] * 2, "bbox": [PIXELS]}}
    assert codes(scan([write(row)])) == {"data-special-text"}


def test_a_wrong_number_of_points_in_an_answer_is_named(write: Write) -> None:
    text = '[{{"line_points": {}, "line": [100, 100, 500, 100, 900, 100], "label": "wire"}}]'
    report = scan([write(answer_row(ANSWER), answer_row(text.format(3)), answer_row(text.format(2)))])
    assert codes(report) == {"data-answer-malformed"}
    assert report.counts["data-answer-malformed"] == 1


def test_names_are_filled_in_whatever_else_is_wrong(write: Write) -> None:
    row = {**swift_row(PIXELS), "imagess": 1}
    assert texts(Rows([write(row)])[0])[1][1] == ANSWER


def test_a_number_of_points_follows_a_line_that_is_cut(write: Write) -> None:
    text = '[{"line_points": 3, "line": [100, 100, 500, 100, 900, 100], "label": "wire"}]'
    (record,) = records(write(answer_row(text)))
    cut = record.moved([PixelTarget("line", "wire", ((80, 60), (400, 60)))])
    written = cut.to_swift([SIZES["c.png"]], Writing())["messages"][1]["content"]
    assert written == '[{"line_points": 2, "line": [100, 100, 500, 100], "label": "wire"}]'


def test_a_file_that_is_named_again_in_another_unit_is_checked_again(write: Write) -> None:
    path = write(own_row(PIXELS), own_row(PIXELS))
    plain = DataSource(path=str(path))
    assert not faults(scan([plain, plain], [plain]))
    for again in (plain.model_copy(update={"coordinates": "relative1"}), plain.model_copy(update={"images": "/"})):
        assert codes(scan([plain, again])) == codes(scan([plain], [again])) == codes(scan([again])) != set()


@pytest.mark.parametrize("first", ["bbox_2d", "quad"])
def test_a_box_and_its_quad_may_come_in_either_order(first: str, write: Write) -> None:
    given: dict[str, Any] = {"bbox_2d": PIXELS, "quad": [80, 60, 480, 60, 480, 540, 80, 540]}
    given = {first: given[first], **given, "label": "block"}
    path = write({"images": ["c.png"], "objects": [given]})
    assert not faults(scan([path]))
    assert places(records(path)[0]) == [("bbox", "block", PIXELS)]


@pytest.mark.parametrize("settings", [{"keys": {"bbox": "label"}}, {"label_key": "bbox_2d"}])
def test_a_label_can_not_take_the_place_of_coordinates(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="a key of coordinates"):
        GroundingTextSection(**settings)


# Units, and the cure that the finding prints


def cured(found: Problem, make_config: Callable[[str], Config]) -> Config:
    """A configuration with what a finding's hint tells to write, as it is printed."""
    printed = re.search(r"data: \{train: \[\{path: .+, coordinates: (\w+)\}\]\}", found.hint or "")
    assert printed is not None, found.hint
    return make_config(f"{printed[0]}\n")


SPREAD = range(0, 600, 20)  # rows that together show that nothing passes 1000

UNITS = {
    "own-0..1": ([own_row([0.1, 0.1, 0.6, 0.9])], "data-coordinates-share-like", "relative1"),
    "swift-0..1": ([swift_row([0.1, 0.1, 0.6, 0.9])], "data-coordinates-share-like", "relative1"),
    "answer-0..1": ([answer_row([0.1, 0.1, 0.6, 0.9])], "data-coordinates-share-like", "relative1"),
    "own-0..1000": (
        [own_row(THOUSANDTHS, "large.png"), *(own_row([9, 9, 300 + n, 960], "large.png") for n in SPREAD)],
        "data-coordinates-relative-like",
        "relative1000",
    ),
    "swift-0..1000": (
        [swift_row(THOUSANDTHS, "large.png"), *(swift_row([9, 9, 300 + n, 960], "large.png") for n in SPREAD)],
        "data-coordinates-relative-like",
        "relative1000",
    ),
    "answer-pixels": ([answer_row(LARGE_PIXELS, "large.png")], "data-coordinates-pixel-like", "pixels"),
    "answer-pixels-of-small-images": (
        [answer_row([26, 23, 154, 204], "a.png"), *(answer_row([9, 9, 20 + n // 3, 204], "a.png") for n in SPREAD)],
        "data-coordinates-foreign",
        "pixels",
    ),
    "conversation-pixels": (
        [
            {
                "image": "large.png",
                "conversations": [
                    {"from": "human", "value": "<image>\nFind it."},
                    {"from": "gpt", "value": json.dumps([{"bbox_2d": LARGE_PIXELS, "label": "block"}])},
                ],
            }
        ],
        "data-coordinates-pixel-like",
        "pixels",
    ),
}


@pytest.mark.parametrize(("rows", "code", "unit"), UNITS.values(), ids=UNITS)
def test_the_printed_cure_of_a_unit_cures(
    rows: list[Any], code: str, unit: str, write: Write, make_config: Callable[[str], Config]
) -> None:
    path = write(*rows)
    report = scan([path])
    found = next(each for each in faults(report) if each.code == code)
    assert f"coordinates: {unit}" in (found.hint or "")
    assert str(path) in (found.hint or "")

    config = cured(found, make_config)

    assert not faults(read_data(config))
    (source,) = config.data.sources("train")
    rows_read = Rows([source], writing=encoding_of(config).writing)
    told = parse_answer(texts(rows_read[0])[-1][1])
    (target,) = told.targets
    assert told.sound
    assert [n for point in target.points for n in point] == pytest.approx(THOUSANDTHS, abs=2)


# Keys and labels


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ('{"images":["a.png"],"objects":[{"label":"a","bbox_2d":[1,2,3,4],"label":"b"}]}', "label"),
        ('{"images":["a.png"],"objects":[{"label":"a","bbox_2d":[1,2,3,4],"bbox_2d":[5,6,7,8]}]}', "bbox_2d"),
        ('{"images":["a.png"],"objects":[],"objects":[{"label":"a","bbox_2d":[1,2,3,4]}]}', "objects"),
        ('{"images":["a.png"],"objects":[{"label":"a","bbox_2d":[1,2,3,4],"label" : "b"}]}', "label"),
        ('{"images":["a.png"],"objects":[{"label"\t:"a","label" :"b","bbox_2d":[1,2,3,4]}]}', "label"),
        ('{"images":["a.png"],"objects":[{"label":"a\\":","bbox_2d":[1,2,3,4],"label":"b"}]}', "label"),
        ('{"images":["a.png"],"objects":[{"label":"a\\\\","bbox_2d":[1,2,3,4],"label":"b"}]}', "label"),
        ('{"images":["a.png"],"objects":[{"label":"\\"x\\":\\"y\\":","label":"b","bbox_2d":[1,2,3,4]}]}', "label"),
        ('{"images":["a.png"],"objects":[{"l\\u0061bel":"a","label":"b","bbox_2d":[1,2,3,4]}]}', "label"),
        (
            '{"images":["a.png"],"metadata":{"a":{"b":{"c":1,"c":2}}},"objects":[{"label":"a","bbox_2d":[1,2,3,4]}]}',
            "c",
        ),
        ('{"images":["a.png"],"metadata":[[{"c":1,"c":2}]],"objects":[{"label":"a","bbox_2d":[1,2,3,4]}]}', "c"),
        ('{"messages":[{"role":"user","content":"x","content":"y"},{"role":"assistant","content":"z"}]}', "content"),
    ],
)
def test_a_key_that_is_given_twice_is_named(line: str, key: str, write: Write) -> None:
    path = write(line)
    (found,) = faults(scan([path]))
    assert (found.code, found.where) == ("data-row-malformed", f"{path}:1")
    assert f"the key {key!r} is given twice" in found.message


@pytest.mark.parametrize("label", ['a": "b', 'label":', "\\", '\\"', '"label": 1, "label": 2', "a\\\\", '":":":'])
def test_a_text_that_looks_like_keys_is_no_key(label: str, write: Write) -> None:
    row = own_row(PIXELS) | {"metadata": {"note": label, "more": [{"note": label}]}}
    row["objects"][0]["label"] = label
    assert not faults(scan([write(row, json.dumps(row, separators=(" , ", " : ")))]))


def test_keys_near_known_ones_are_named_together(write: Write) -> None:
    row = own_row([1, 2, 50, 60]) | {"promt": "x", "id": 3}
    row["objects"][0] |= {"score": 0.5, "lien": [1, 2, 3, 4]}
    (found,) = faults(scan([write(row)]))
    assert found.code == "data-key-unknown"
    assert "'promt' (is 'prompt' meant?), 'lien' (is 'line' meant?)" in found.message


@pytest.mark.parametrize("layout", ["swift", "answer"])
def test_near_keys_of_conversations_are_named(layout: str, write: Write) -> None:
    row = LAYOUTS[layout](PIXELS if layout == "swift" else THOUSANDTHS) | {"coordinate": "pixels"}
    (found,) = faults(scan([write(row)]))
    assert (found.code, "is 'coordinates' meant?" in found.message) == ("data-key-unknown", True)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_foreign_keys_are_no_fault(layout: str, write: Write) -> None:
    row = LAYOUTS[layout](THOUSANDTHS if layout == "answer" else PIXELS)
    row |= {"id": 3, "score": 0.5, "my_note": "x", "dataset": "d", "metadata": {"lable": 1}}
    if layout == "own":
        row["objects"][0] |= {"id": 1, "score": 0.5, "area": 12, "iscrowd": 0, "attributes": {}}
    assert not faults(scan([write(row)]))


def test_an_empty_label_is_named_in_each_layout(write: Write) -> None:
    own, swift = own_row(PIXELS), swift_row(PIXELS)
    own["objects"][0]["label"] = " "
    swift["objects"]["ref"] = ["", ""]
    answered = answer_row(ANSWER.replace("block", ""))
    outside = swift_row(PIXELS) | {"messages": [TALK[0], {"role": "assistant", "content": "<ref-object><bbox>"}]}
    outside["objects"]["ref"] = [""]
    for row in (own, swift, answered, outside):
        assert codes(scan([write(row)])) == {"data-label-empty"}, row


def test_an_answer_without_any_label_is_no_fault(write: Write) -> None:
    assert not faults(scan([write(answer_row('[{"bbox_2d": [100, 100, 600, 900]}]'))]))


# Layouts that are read as they are

CONTENT = [{"type": "image", "image": "c.png"}, {"type": "text", "text": "Find the block."}]
TURNS = [{"from": "human", "value": "<image>\nFind the block."}, {"from": "gpt", "value": ANSWER}]
TALK = [{"role": "user", "content": "<image>Find the block."}, {"role": "assistant", "content": ANSWER}]
QUESTION = ("user", "<image>Find the block.")

READ_AS_THEY_ARE: dict[str, tuple[dict[str, Any], list[tuple[str, str]]]] = {
    "qwen-conversations": (
        {"image": "c.png", "conversations": TURNS},
        [("user", "<image>\nFind the block."), ("assistant", ANSWER)],
    ),
    "qwen-conversations-of-several-images": (
        {"id": 1, "images": ["c.png"], "conversations": TURNS, "source": "x"},
        [("user", "<image>\nFind the block."), ("assistant", ANSWER)],
    ),
    "sharegpt-with-system": (
        {"images": ["c.png"], "system": "Short.", "conversations": TURNS},
        [("system", "Short."), ("user", "<image>\nFind the block."), ("assistant", ANSWER)],
    ),
    "sharegpt-system-turn": (
        {"images": ["c.png"], "conversations": [{"from": "system", "value": "Short."}, *TURNS]},
        [("system", "Short."), ("user", "<image>\nFind the block."), ("assistant", ANSWER)],
    ),
    "conversations-of-roles": ({"images": ["c.png"], "conversations": TALK}, [QUESTION, ("assistant", ANSWER)]),
    "query-response": (
        {"images": ["c.png"], "query": "<image>Find the block.", "response": ANSWER},
        [QUESTION, ("assistant", ANSWER)],
    ),
    "query-response-history-system": (
        {
            "images": ["c.png"],
            "system": "Short.",
            "history": [["<image>What is it?", "A block."]],
            "query": "Where?",
            "response": ANSWER,
        },
        [
            ("system", "Short."),
            ("user", "<image>What is it?"),
            ("assistant", "A block."),
            ("user", "Where?"),
            ("assistant", ANSWER),
        ],
    ),
    "instruction-input-output": (
        {"images": ["c.png"], "instruction": "<image>Find what is named.", "input": "block", "output": ANSWER},
        [("user", "<image>Find what is named.\nblock"), ("assistant", ANSWER)],
    ),
    "content-list": (
        {"messages": [{"role": "user", "content": CONTENT}, {"role": "assistant", "content": ANSWER}]},
        [QUESTION, ("assistant", ANSWER)],
    ),
    "content-list-of-both": (
        {
            "messages": [
                {"role": "user", "content": CONTENT},
                {"role": "assistant", "content": [{"type": "text", "text": ANSWER}]},
            ]
        },
        [QUESTION, ("assistant", ANSWER)],
    ),
    "file-address": (
        {
            "messages": [
                {"role": "user", "content": [{"type": "image", "image": "file://c.png"}, CONTENT[1]]},
                {"role": "assistant", "content": ANSWER},
            ]
        },
        [QUESTION, ("assistant", ANSWER)],
    ),
    "img-tag": (
        {"messages": [{"role": "user", "content": "<img>c.png</img>Find the block."}, TALK[1]]},
        [QUESTION, ("assistant", ANSWER)],
    ),
    "one-image-as-text": ({"messages": TALK, "images": "c.png"}, [QUESTION, ("assistant", ANSWER)]),
    "images-with-paths": (
        {"messages": TALK, "images": [{"bytes": None, "path": "c.png"}]},
        [QUESTION, ("assistant", ANSWER)],
    ),
    "objects-as-text": (
        {
            "messages": [
                {"role": "user", "content": "<image>Find the <ref-object>."},
                {"role": "assistant", "content": '[{"bbox_2d": <bbox>, "label": "block"}]'},
            ],
            "images": ["c.png"],
            "objects": json.dumps([{"caption": "block", "bbox": PIXELS, "bbox_type": "real", "image": 0}]),
        },
        [("user", "<image>Find the block."), ("assistant", ANSWER)],
    ),
    "objects-as-text-of-the-newer-form": (
        {
            "messages": [TALK[0], {"role": "assistant", "content": '[{"bbox_2d": <bbox>, "label": "block"}]'}],
            "images": ["c.png"],
            "objects": json.dumps({"ref": [], "bbox": [PIXELS], "bbox_type": "real"}),
        },
        [QUESTION, ("assistant", ANSWER)],
    ),
    "bbox-type-norm1": (
        {
            "messages": [TALK[0], {"role": "assistant", "content": '[{"bbox_2d": <bbox>, "label": "block"}]'}],
            "images": ["c.png"],
            "objects": {"bbox": [[0.1, 0.1, 0.6, 0.9]], "bbox_type": "norm1"},
        },
        [QUESTION, ("assistant", ANSWER)],
    ),
}


@pytest.mark.parametrize(("row", "written"), READ_AS_THEY_ARE.values(), ids=READ_AS_THEY_ARE)
def test_a_layout_is_read_as_it_is(row: dict[str, Any], written: list[tuple[str, str]], write: Write) -> None:
    path = write(row)
    assert not faults(scan([path]))
    (record,) = records(path)
    assert places(record) == [("bbox", "block", PIXELS)]
    learnt = Rows([path])[0]
    assert texts(learnt) == written
    assert sizes_of_images(learnt) == [SIZES["c.png"]]


def sizes_of_images(row: dict[str, Any]) -> list[tuple[int, int]]:
    return [image.size for image in row["images"]]


def test_an_array_is_read_with_the_line_of_each_row(write: Write, tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    write(own_row(PIXELS))
    path.write_text(json.dumps([own_row(PIXELS), own_row([9, 9, 5, 5])], indent=1), encoding="utf-8")
    (found,) = faults(scan([path]))
    line = path.read_text().splitlines().index(" {", 2) + 1
    assert found.where == f"{path}:{line}"
    assert places(records(path)[0]) == [("bbox", "block", PIXELS)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'[{"images": []}]\n\n[{"images": []}]', "rows.json:1: not JSON: after the array comes"),
        (b'[\n{"images": ["\xff.png"]}]', "rows.json: not UTF-8"),
        (b'[\n{"images": ["\\ud800.png"]}]', "rows.json:2: not JSON"),
    ],
)
def test_an_array_that_would_be_read_in_part_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_bytes(content)
    with pytest.raises(DataError, match=message):
        scan([tmp_path / "rows.json"])


def test_an_array_that_changes_after_the_check_is_refused(write: Write, tmp_path: Path) -> None:
    path, rows = tmp_path / "rows.json", [own_row(PIXELS), own_row(THOUSANDTHS)]
    path.write_text(json.dumps(rows))
    (tmp_path / "index").write_bytes(index_to_bytes(scan([path]).files))
    index = read_index(tmp_path / "index")
    assert len([Rows([path], index=index)[number] for number in range(2)]) == 2
    path.write_text(json.dumps(rows[::-1]))
    with pytest.raises(DataError, match="has changed"):
        Rows([path], index=index)[0]


def test_a_json_file_of_one_row_a_line_is_read(write: Write) -> None:
    path = write(own_row(PIXELS), own_row(PIXELS), name="rows.json")
    assert scan([path]).rows.train == 2


def test_compressed_lines_are_read(write: Write, tmp_path: Path) -> None:
    plain, packed = write(own_row(PIXELS), "", own_row([9, 9, 5, 5])), tmp_path / "packed.jsonl.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    (found,) = faults(scan([packed]))
    assert (found.code, found.where) == ("data-box-degenerate", f"{packed}:3")
    assert places(records(packed)[0]) == [("bbox", "block", PIXELS)]


@pytest.mark.parametrize("images", ["paths", "bytes"])
@pytest.mark.parametrize("kind", ["parquet", "saved"])
def test_a_table_is_read(kind: str, images: str, write: Write, tmp_path: Path) -> None:
    from datasets import Dataset

    write()
    content = (tmp_path / "c.png").read_bytes()
    image = "c.png" if images == "paths" else {"bytes": content, "path": "c.png"}
    table = Dataset.from_list([{"messages": TALK, "images": [image]}] * 3)
    # Paths are relative to the file's folder, and to the saved folder itself.
    if kind == "parquet":
        path, folder = tmp_path / "rows.parquet", None
        table.to_parquet(str(path))
    else:
        path, folder = tmp_path / "saved", str(tmp_path)
        table.save_to_disk(str(path))
    if images == "bytes":
        (tmp_path / "c.png").unlink()
    source = DataSource(path=str(path), images=folder)

    report = scan([source])

    assert (faults(report), report.rows.train) == ([], 3)
    for record in records(source):
        assert places(record) == [("bbox", "block", PIXELS)]
    assert sizes_of_images(Rows([source])[2]) == [SIZES["c.png"]]


@pytest.mark.parametrize("images", ["paths", "bytes"])
def test_a_table_with_objects_is_read(images: str, write: Write, tmp_path: Path) -> None:
    """Arrow gives each object of a column all keys: those that a row has not are null."""
    from datasets import Dataset

    write()
    content = (tmp_path / "c.png").read_bytes()
    image = "c.png" if images == "paths" else {"bytes": content, "path": "c.png"}
    rows = [
        {"images": [image], "objects": [{"label": "block", "bbox_2d": [80.0, 60, 480, 540]}]},
        {"images": [image], "objects": [{"label": "wire", "line": [1.0, 2, 30, 40, 50, 60]}], "prompt": "x"},
    ]
    if images == "bytes":
        (tmp_path / "c.png").unlink()
    Dataset.from_list(rows).to_parquet(str(tmp_path / "rows.parquet"))
    assert not faults(scan([tmp_path / "rows.parquet"]))
    first, second = records(tmp_path / "rows.parquet")
    assert places(first) == [("bbox", "block", PIXELS)]
    assert places(second) == [("line", "wire", [1, 2, 30, 40, 50, 60])]


# Phrases


def test_a_phrase_with_its_box_is_read(write: Write) -> None:
    row = {"image": "c.png", "sent": "the left block", "bbox": PIXELS, "width": 800, "height": 600}
    path = write(row)
    assert not faults(scan([path]))
    (record,) = records(path)
    assert places(record) == [("bbox", "the left block", PIXELS)]
    question, (speaker, answer) = texts(Rows([path])[0])
    assert question == ("user", f"<image>{GroundingTextSection().prompt}")
    assert (speaker, json.loads(answer)[0]["label"]) == ("assistant", "the left block")


@pytest.mark.parametrize("change", [{"sent": 3}, {"bbox": [1, 2, 3]}, {"bbox": [1, 2, 3, "4"]}, {"image": ["c.png"]}])
def test_a_phrase_without_what_it_needs_is_an_error(change: dict[str, Any], write: Write) -> None:
    path = write({"image": "c.png", "sent": "block", "bbox": PIXELS, **change})
    (found,) = faults(scan([path]))
    assert found.where == f"{path}:1"
    assert found.message.endswith(": needs 'image' and 'sent', each a text, and 'bbox', four numbers")


# Suffixes

PALIGEMMA, FLORENCE = "<loc0256><loc0128><loc0512><loc0768> cup", "cup<loc_98><loc_250><loc_293><loc_500>"


def test_the_suffix_of_paligemma_is_read(write: Write) -> None:
    suffix = f"{PALIGEMMA} ; <loc0000><loc0000><loc1023><loc1023> large table"
    path = write({"image": "c.png", "prefix": "detect cup ; large table", "suffix": suffix})
    assert not faults(scan([path]))
    (record,) = records(path)
    assert places(record) == [
        ("bbox", "cup", [100, 150, 600, 300]),
        ("bbox", "large table", [0, 0, 799.22, 599.41]),
    ]
    assert texts(Rows([path])[0]) == [
        ("user", "<image>detect cup ; large table"),
        (
            "assistant",
            '[{"bbox_2d": [125, 250, 750, 500], "label": "cup"}, '
            '{"bbox_2d": [0, 0, 999, 999], "label": "large table"}]',
        ),
    ]


def test_the_suffix_of_florence_is_read(write: Write) -> None:
    quad = "side<loc_0><loc_0><loc_100><loc_0><loc_100><loc_100><loc_0><loc_100>"
    path = write({"image": "c.png", "prefix": "<OD>", "suffix": f"{FLORENCE}{quad}"})
    (record,) = records(path)
    assert [(target.kind, target.label) for target in record.targets] == [("bbox", "cup"), ("quad", "side")]
    (_, answered) = texts(Rows([path])[0])
    assert '{"bbox_2d": [98, 250, 294, 500], "label": "cup"}' in answered[1]  # 98.5 and 250.5 round to even


@pytest.mark.parametrize(
    ("suffix", "message"),
    [
        ("<loc0256><loc0128><loc0512> cup", "not understood"),
        ("cup<loc_98><loc_250><loc_293>", "not understood"),
        ("cup<loc_98><loc_250><loc_293><loc_500><loc_2>", "odd number of location tokens"),
    ],
)
def test_a_suffix_with_a_location_too_few_is_named(suffix: str, message: str, write: Write) -> None:
    (found,) = faults(scan([write({"image": "c.png", "prefix": "detect cup", "suffix": suffix})]))
    assert (found.code, message in found.message) == ("data-row-malformed", True)


def test_a_suffix_in_words_is_an_answer(write: Write) -> None:
    path = write({"image": "c.png", "prefix": "caption en", "suffix": "A grey room."})
    assert not faults(scan([path]))
    assert [text for _, text in texts(Rows([path])[0])] == ["caption en", "A grey room."]


# The rows of the guide, and the texts that such a project teaches

GUIDE: list[dict[str, Any]] = [
    {
        "images": ["b.png"],
        "objects": [
            {"bbox_2d": [48, 76, 312, 428], "desc": "device/vendor,shown whole"},
            {"poly": [360, 120, 480, 120, 480, 260, 360, 260], "poly_points": 4, "desc": "label/readable"},
            {"line": [10, 10, 50, 60, 90, 20], "line_points": 3, "desc": "cable/bent"},
        ],
        "summary": "device x1, label x1, cable x1",
        "width": 532,
        "height": 728,
    },
    {
        "images": ["b.png"],
        "objects": [
            {"quad": [360, 120, 480, 120, 475, 260, 360, 255], "desc": "label/readable"},
            {"poly": [100, 500, 180, 480, 240, 520, 220, 600, 140, 610], "poly_points": 5, "desc": "panel"},
        ],
        "summary": "label x1",
        "width": 532,
        "height": 728,
    },
    {
        "images": ["b.png", "a.png"],
        "objects": [
            {"bbox_2d": [48, 76, 312, 428], "desc": "device"},
            {"bbox_2d": [128, 0, 256, 227], "desc": "label", "image": 1},
        ],
        "summary": "two pictures of one place",
        "width": 532,
        "height": 728,
    },
]
PROJECT = GroundingTextSection(
    shape="by_image",
    image_key="图片_{n}",
    label_key="desc",
    label_first=True,
    keys={"quad": "poly", "polygon": "poly", "line": "line"},
    point_counts=True,
)


def test_the_guide_s_rows_are_read(write: Write) -> None:
    path = write(*GUIDE)
    assert [each.code for each in faults(scan([path]))] == ["data-image-unnamed"]  # of the row with two images
    assert not faults(scan([path], encoding=Encoding(Writing(PROJECT))))
    first, second, third = records(path)
    assert places(first) == [
        ("bbox", "device/vendor,shown whole", [48, 76, 312, 428]),
        ("quad", "label/readable", [360, 120, 480, 120, 480, 260, 360, 260]),
        ("line", "cable/bent", [10, 10, 50, 60, 90, 20]),
    ]
    assert [target.kind for target in second.targets] == ["quad", "polygon"]
    assert [target.image for target in third.targets] == [0, 1]


def test_the_texts_of_such_a_project_are_written_and_read_back(write: Write) -> None:
    rows = Rows([write(*GUIDE)], writing=Writing(PROJECT))

    assert texts(rows[0])[1][1] == (
        '{"图片_1": {"object_1": {"desc": "device/vendor,shown whole", "bbox_2d": [90, 104, 586, 588]}, '
        '"object_2": {"desc": "label/readable", "poly_points": 4, "poly": [677, 165, 902, 165, 902, 357, 677, 357]}, '
        '"object_3": {"desc": "cable/bent", "line_points": 3, "line": [19, 14, 94, 82, 169, 27]}}}'
    )
    assert texts(rows[2])[1][1] == (
        '{"图片_1": {"object_1": {"desc": "device", "bbox_2d": [90, 104, 586, 588]}}, '
        '"图片_2": {"object_1": {"desc": "label", "bbox_2d": [500, 0, 1000, 1000]}}}'
    )
    assert texts(rows[2])[0][1].startswith("<image><image>")
    for index in range(3):
        told = parse_answer(texts(rows[index])[1][1], Writing(PROJECT))
        assert told.sound
        row = rows.row(index)
        meant = row.record([image_size(image) for image in row.images])
        assert [(t.kind, t.label) for t in told.targets] == [(t.kind, t.label) for t in meant.targets]
        for read, target in zip(told.targets, meant.targets, strict=True):
            width, height = image_size(row.images[target.image])
            shares = [n for x, y in target.points for n in (1000 * x / width, 1000 * y / height)]
            assert [n for point in read.points for n in point] == pytest.approx(shares, abs=0.5 + 1e-6)


def test_such_a_project_is_learnt_as_it_is_meant(write: Write, encoder: TemplateEncoder) -> None:
    writing = Writing(PROJECT)
    rows = Rows([write(*GUIDE)], writing=writing)
    for index in range(3):
        row = rows.row(index)
        sizes = [image_size(image) for image in row.images]
        learned = TemplateEncoder(encoder.template, writing)(rows[index]).learned
        assert not learned_faults(learned, row.record(sizes), sizes, writing)


def test_the_summary_can_be_the_answer(write: Write) -> None:
    without = {key: value for key, value in GUIDE[0].items() if key != "summary"}
    rows = Rows([write(*GUIDE, without)], writing=Writing(GroundingTextSection(answer="summary")))
    assert [texts(rows[index])[1][1] for index in range(3)] == [row["summary"] for row in GUIDE]
    assert texts(rows[3])[1][1].startswith('[{"bbox_2d"')  # a row without a summary gives its objects


def test_objects_are_written_from_top_to_bottom(write: Write) -> None:
    names = {"low": [10, 900, 20, 950], "right": [500, 10, 600, 20], "left": [5, 10, 60, 700]}
    objects = [{"label": name, "bbox_2d": numbers} for name, numbers in names.items()]
    path = write({"images": ["c.png"], "objects": objects})
    told = {
        order: [t.label for t in parse_answer(texts(Rows([path], writing=Writing(text))[0])[1][1]).targets]
        for order in ("as_given", "top_to_bottom")
        for text in [GroundingTextSection(order=order)]  # type: ignore[arg-type]
    }
    assert told == {"as_given": ["low", "right", "left"], "top_to_bottom": ["left", "right", "low"]}


def test_targets_of_several_images_are_written_image_by_image() -> None:
    low, high = ((0.0, 50.0), (10.0, 60.0)), ((0.0, 5.0), (10.0, 6.0))
    targets = [
        PixelTarget("bbox", "c", low, image=1),
        PixelTarget("bbox", "b", low),
        PixelTarget("bbox", "a", high),
        PixelTarget("bbox", "d", high, image=1),
    ]
    text = answer(targets, [(100, 100)] * 2, Writing(GroundingTextSection(order="top_to_bottom")))
    assert [item["label"] for item in json.loads(text)] == ["a", "b", "d", "c"]


# Width and height


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_size_that_contradicts_the_image_is_named(layout: str, write: Write) -> None:
    row = LAYOUTS[layout](THOUSANDTHS if layout == "answer" else PIXELS)
    assert not faults(scan([write({**row, "width": 800, "height": 600})]))
    (found,) = faults(scan([write({**row, "width": 1280, "height": 720})]))
    assert found.code == "data-image-size"
    assert "the row says 1280x720, the image is 800x600" in found.message


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_size_of_an_image_that_exif_turns_is_named_as_such(layout: str, write: Write, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (600, 800), "grey").save(tmp_path / "turned.jpg", exif=exif)
    row = LAYOUTS[layout](THOUSANDTHS if layout == "answer" else PIXELS, "turned.jpg")
    assert not faults(scan([write({**row, "width": 800, "height": 600})]))
    (found,) = faults(scan([write({**row, "width": 600, "height": 800})]))
    assert found.code == "data-image-size"
    assert "the sides are exchanged, as those of an image that its EXIF data turns upright" in found.message


# Qwen2.5-VL, which writes pixels of the image as it reaches it


@pytest.fixture
def other_encoding(tmp_path: Path, write: Write) -> Encoding:
    (tmp_path / "other").mkdir()
    (tmp_path / "other/config.json").write_text('{"model_type": "qwen2_5_vl"}')
    (tmp_path / "config.yaml").write_text("model: other\ndata: {train: rows.jsonl}\n")
    return encoding_of(load_config([tmp_path / "config.yaml"]))


def test_rows_for_qwen2_5_vl_are_written_in_pixels_of_the_resized_image(write: Write, other_encoding: Encoding) -> None:
    writing = other_encoding.writing
    assert (writing.unit, writing.limits.factor) == ("resized", 28)
    wide, high = model_size(*SIZES["c.png"], writing.limits)
    assert (wide % 28, high % 28) == (0, 0)
    assert (wide, high) != SIZES["c.png"]
    path = write(own_row(PIXELS), swift_row(PIXELS))

    rows = Rows([path], writing=writing)

    numbers = [round(0.1 * wide), round(0.1 * high), round(0.6 * wide), round(0.9 * high)]
    for index in range(2):
        assert json.loads(texts(rows[index])[1][1]) == [{"bbox_2d": numbers, "label": "block"}]
        told = parse_answer(texts(rows[index])[1][1], writing, SIZES["c.png"])
        assert [n for p in told.targets[0].points for n in p] == pytest.approx(THOUSANDTHS, abs=1)


def test_answers_for_qwen2_5_vl_in_its_own_pixels_are_taken_as_they_are(write: Write, other_encoding: Encoding) -> None:
    wide, high = model_size(*SIZES["large.png"], other_encoding.limits)
    row = answer_row([5, 5, wide - 9, high - 1], "large.png")
    path = write(*[row] * 3)
    assert not faults(scan([path], encoding=other_encoding))
    assert texts(Rows([path], writing=other_encoding.writing)[0]) == texts(row)


def test_answers_for_qwen2_5_vl_in_thousandths_are_converted_where_declared(
    write: Write, other_encoding: Encoding
) -> None:
    path = write(*[answer_row([100, 100, 1000, 1000], "a.png")] * 3)
    reported = faults(scan([path], encoding=other_encoding))
    found = next(each for each in reported if each.code == "data-coordinates-foreign")
    assert "coordinates: relative1000" in (found.hint or "")
    source = DataSource(path=str(path), coordinates="relative1000")
    assert not faults(scan([source], encoding=other_encoding))
    wide, high = model_size(*SIZES["a.png"], other_encoding.limits)
    written = texts(Rows([source], writing=other_encoding.writing)[0])[1][1]
    assert json.loads(written)[0]["bbox_2d"] == [round(wide / 10), round(high / 10), wide, high]
