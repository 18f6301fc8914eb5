"""Every row is looked at before training: what is wrong is named by file and line, in constant memory."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from scan_cases import BOX, CASES, HEIGHT, RELATIVE, WIDTH, box, draw_images, own, quad, swift
from swift_template import template_of
from swiftalign.config.sections import DataSource, GroundingTextSection
from swiftalign.data import storage
from swiftalign.data.encoding import Encoding
from swiftalign.data.files import RowCounts
from swiftalign.data.rows import Rows
from swiftalign.data.scan import DataReport, scan
from swiftalign.data.sizes import PixelLimits
from swiftalign.data.text import Writing
from swiftalign.demo.data import write_dataset
from swiftalign.problems import DATA_CODES, DataError, Problem

Write = Callable[..., Path]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_images(tmp_path_factory.mktemp("images"))


@pytest.fixture
def write(folder: Path, tmp_path: Path) -> Write:
    def write(*rows: Any, name: str = "rows.jsonl") -> Path:
        """A JSONL file of rows, of which texts and bytes are written as they are, beside the images."""
        path = folder / f"{tmp_path.name}-{name}"
        lines = [
            r if isinstance(r, bytes) else r.encode() if isinstance(r, str) else json.dumps(r).encode() for r in rows
        ]
        path.write_bytes(b"\n".join(lines))
        return path

    return write


def title(found: Problem) -> str:
    return DATA_CODES[found.code][1]


@pytest.mark.parametrize(
    ("code", "row", "message", "sound"), CASES, ids=[f"{code}-{number}" for number, (code, *_) in enumerate(CASES)]
)
def test_a_fault_is_found_on_its_line_and_its_sound_neighbour_is_not(
    code: str, row: Any, message: str, sound: Any, write: Write
) -> None:
    path = write(sound, "", row)
    report = scan([path])
    assert dict(report.counts) == {code: 1}
    found = next(finding for finding in report.findings if finding.code == code)
    assert found.where == f"{path}:3"
    assert message in found.message
    assert report.rows == RowCounts(2, 0)


def test_the_first_rows_are_named_and_the_others_counted(write: Write) -> None:
    path, other = (
        write(*[own(BOX, image="none.png")] * 3),
        write(own(BOX), *[own(BOX, image="gone.png")] * 4, name="b.jsonl"),
    )
    report = scan([path, other])
    [found] = [finding for finding in report.findings if finding.code == "data-image-missing"]
    none, gone = path.parent / "none.png", path.parent / "gone.png"
    assert found.where == f"{path}:1"
    assert found.message == (
        f"{title(found)}: {none}\n    {path}:2: {none}\n    {path}:3: {none}\n    {other}:2: {gone}"
        "\n    and 3 more rows"
    )
    assert found.hint == "image paths are relative to the data file's folder"
    assert report.counts == {"data-image-missing": 7}


def test_a_row_counts_once_for_each_of_its_faults(write: Write) -> None:
    row = own(box(5, 5, 5, 9), box(6, 6, 6, 9), box(1, 1, 900, 9), prompt="<image>")
    report = scan([write(row)])
    assert report.counts == {"data-special-text": 1, "data-box-degenerate": 1, "data-outside-image": 1}


def test_what_a_row_says_is_cut_and_escaped(write: Write) -> None:
    report = scan([write(own(BOX, image="\x1b[2J" + "x" * 10_000), own({**BOX, "label": "<|im_end|>\n" * 10_000}))])
    for finding in report.findings:
        assert len(finding.message) < 500
        assert "\x1b" not in finding.message
        assert "\n" not in finding.message


def test_a_file_without_rows_is_named(write: Write) -> None:
    path = write("", "   ")
    [found] = scan([path]).findings
    assert (found.code, found.where, found.message) == ("data-empty", str(path), title(found))


def test_a_file_that_can_t_be_read_is_an_error(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.jsonl"):
        with pytest.raises(DataError, match=f"{path}: "):
            scan([path])


def test_placeholders_in_the_config_s_words_are_named(write: Write) -> None:
    text = GroundingTextSection(prompt="<image>Find.", system="<|im_start|>")
    report = scan([write(own(BOX))], encoding=Encoding(Writing(text)))
    [found] = [finding for finding in report.findings if finding.code == "data-special-text"]
    assert found.where == "data.text.prompt"
    assert found.message.endswith("<image> in '<image>Find.'\n    data.text.system: <|im_start|> in '<|im_start|>'")


def test_images_that_change_their_size_are_counted(write: Write, folder: Path) -> None:
    path = write(own(BOX), own(box(1, 2, 3, 4), image="tiny.png"), own(BOX, image="large.png"))
    [found] = scan([path]).findings
    assert found.code == "data-image-resized"
    assert found.message == (
        f"1 of 3 images reach the model at another size by more than 5%, 0 of them reduced to its limit; "
        f"the largest is {folder / 'large.png'}, 1920x1080 -> 1920x1088"
    )
    assert not scan([write(own(BOX, image="large.png"))]).findings  # 8 of 1080 pixels are not worth a line
    [found] = scan([path], encoding=Encoding(Writing(limits=PixelLimits(most=1024 * 1024)))).findings
    assert "1 of them reduced to its limit" in found.message
    assert found.message.endswith("1920x1080 -> 1344x768")
    assert not scan([write(own(BOX))]).findings


def spread(count: int, size: tuple[int, int], scale: tuple[float, float], image: str) -> list[dict[str, Any]]:
    """Rows whose boxes lie anywhere in an image of this size, with coordinates of another scale."""
    draw = random.Random(0)
    rows = []
    for _ in range(count):
        (left, right), (top, bottom) = (sorted(draw.uniform(0, side) for _ in "ab") for side in scale)
        rows.append(own(box(left, top, right, bottom), image=image))
    return rows


def test_relative_coordinates_of_large_images_do_not_pass_for_pixels(write: Write) -> None:
    relative = write(*spread(60, (1920, 1080), (1000, 1000), "large.png"))
    [found] = [f for f in scan([relative]).findings if f.code == "data-coordinates-relative-like"]
    assert found.where == str(relative)
    assert "no coordinate of 60 rows passes 1000, the largest is " in found.message
    assert found.message.endswith(", though the images are larger")
    assert found.hint == (
        "if they are 0..1000 of the image's sides, declare it beside the file: "
        f"data: {{train: [{{path: {relative}, coordinates: relative1000}}]}}"
    )
    assert not scan([DataSource(path=str(relative), coordinates="relative1000")]).counts


def test_relative_coordinates_of_small_images_do_not_pass_for_pixels(write: Write) -> None:
    report = scan([write(*spread(60, (WIDTH, HEIGHT), (1000, 1000), "a.png"))])
    [found] = [f for f in report.findings if f.code == "data-coordinates-relative-like"]
    assert f", and in {report.counts['data-outside-image']} rows they lie outside the image" in found.message


@pytest.mark.parametrize(
    "rows",
    [
        spread(60, (1920, 1080), (1920, 1080), "large.png"),
        spread(4, (1920, 1080), (1000, 1000), "large.png"),
        spread(60, (1920, 1080), (800, 800), "large.png"),
        spread(60, (WIDTH, HEIGHT), (WIDTH, HEIGHT), "a.png"),
        [{**row, **RELATIVE} for row in spread(60, (1920, 1080), (1000, 1000), "large.png")],
    ],
    ids=["pixels", "few rows", "objects in one corner", "small images", "relative by name"],
)
def test_pixels_pass_for_pixels(rows: list[dict[str, Any]], write: Write) -> None:
    assert "data-coordinates-relative-like" not in scan([write(*rows)]).counts


def answers(count: int, size: tuple[int, int], image: str, most: float = 1, digits: int = 0) -> list[dict[str, Any]]:
    """Rows whose answers hold a box anywhere in an image of this size, or in the share `most` of its sides."""
    draw, rows = random.Random(1), []
    for _ in range(count):
        x, y = (sorted(round(draw.uniform(0, side * most), digits) for _ in "ab") for side in size)
        numbers = [int(n) if digits == 0 else n for n in (x[0], y[0], x[1], y[1])]
        text = json.dumps([{"bbox_2d": numbers, "label": "cup"}])
        rows.append(swift(answer=text, images=[image]))
    return rows


UNITS_OF_ANSWERS: list[tuple[str, list[dict[str, Any]], str, str | None]] = [
    ("thousandths of large images", answers(60, (1000, 1000), "large.png"), "relative1000", "relative1000"),
    ("thousandths of small images", answers(60, (1000, 1000), "a.png"), "relative1000", "relative1000"),
    ("pixels of large images", answers(60, (1920, 1080), "large.png"), "relative1000", "pixels"),
    ("pixels of small images", answers(60, (WIDTH, HEIGHT), "a.png"), "relative1000", "pixels"),
    ("shares", answers(60, (1, 1), "a.png", digits=3), "relative1000", "relative1"),
    ("few rows", answers(4, (WIDTH, HEIGHT), "a.png"), "relative1000", None),
    ("objects in one corner", answers(60, (1000, 1000), "large.png", most=0.3), "relative1000", "relative1000"),
    (
        "one row in thousandths, one in pixels",
        [*answers(1, (1000, 1000), "tiny.png"), *answers(1, (1920, 1080), "large.png")],
        "relative1000",
        None,
    ),
    ("thousandths, but the model writes pixels", answers(60, (1000, 1000), "a.png"), "resized", "relative1000"),
]


@pytest.mark.parametrize(
    ("rows", "written", "unit"), [case[1:] for case in UNITS_OF_ANSWERS], ids=[case[0] for case in UNITS_OF_ANSWERS]
)
def test_the_unit_of_answers_is_told_by_all_rows_of_a_file(
    rows: list[dict[str, Any]], written: Any, unit: str | None, write: Write
) -> None:
    path, encoding = write(*rows), Encoding(Writing(unit=written))
    units = [f for f in scan([path], encoding=encoding).findings if f.code.endswith(("-foreign", "-undeclared"))]
    declare = f"data: {{train: [{{path: {path}, coordinates: {unit or 'relative1000'}}}]}}"
    if unit == written:
        assert units == []
        return
    [found] = units
    assert found.code == ("data-coordinates-foreign" if unit else "data-coordinates-undeclared")
    assert (found.where, found.severity) == (str(path), "error")
    if "fit to no unit" in found.message:
        assert "give rows of each unit a file of their own" in found.hint
    else:
        assert found.hint.endswith(declare if unit else f"{declare}, or pixels in its place")
    declared = scan([DataSource(path=str(path), coordinates=unit or "relative1000")], encoding=encoding).counts
    assert not {"data-coordinates-foreign", "data-coordinates-undeclared"} & declared.keys()
    assert declared == {} or unit is None


def test_what_a_tool_s_file_holds_beyond_rows_is_told(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    class Tool:
        @staticmethod
        def read(path: Path, images: Path | None, left_out: Counter[str]) -> Iterator[tuple[str, Any]]:
            yield f"{path}: image 7", own(BOX)
            left_out.update({"ellipse": 1200, "mask": 3})

    path = write(own(BOX), name="tool.xml")
    monkeypatch.setattr(storage, "find_tool", lambda path: Tool)
    [found] = scan([path]).findings
    assert (found.code, found.where) == ("data-annotations-left-out", str(path))
    assert found.message == f"{title(found)}: ellipse (1,200), mask (3)"


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("drawn") / "rows.jsonl"
    write_dataset(path, rows=60, seed=2)
    return path


def long_rows(drawn: Path, demo: Path, too_long: Any, most: int = 330) -> DataReport:
    tokenizer = demo / "model/tokenizer.json"
    return scan([drawn], [drawn], Encoding(max_length=most, too_long=too_long, tokenizer=tokenizer))


def test_drawn_rows_have_no_findings(drawn: Path, demo: Path) -> None:
    assert long_rows(drawn, demo, "refuse", most=2000).findings == ()


def test_rows_that_are_too_long_are_refused_by_line(drawn: Path, demo: Path) -> None:
    report = long_rows(drawn, demo, "refuse")
    [found] = report.findings
    assert (found.code, report.left_out, report.rows) == ("data-too-long", {}, RowCounts(60, 60))
    assert found.message.startswith(f"{title(found)}: ")
    assert "tokens of 330\n" in found.message
    assert found.message.endswith(f"and {report.counts['data-too-long'] - 4} more rows")


@pytest.mark.slow
def test_rows_that_are_left_out_are_just_those_that_ms_swift_refuses(drawn: Path, demo: Path) -> None:
    template = template_of(demo / "model")
    rows = Rows([drawn])
    lengths = [template.encode(rows[index], return_length=True)["length"] for index in range(len(rows))]
    most = sorted(lengths)[len(lengths) // 2]  # the length of a row: that one stays
    long = [index + 1 for index, length in enumerate(lengths) if length > most]

    report = long_rows(drawn, demo, "drop", most)

    assert report.left_out == {drawn: long}
    assert report.rows == RowCounts(60 - len(long), 60 - len(long))
    kept = Rows([drawn], report.left_out, index=report.index)
    assert [int(row) for row in kept.order] == [index for index in range(60) if index + 1 not in long]
    assert [finding.code for finding in report.findings] == ["data-too-long-dropped"]
    assert long


def test_rows_of_which_the_length_is_not_known_are_counted(write: Write, demo: Path) -> None:
    tools = {**swift(), "tools": [{}]}
    path = write(swift(), tools, tools)
    report = scan([path], encoding=Encoding(max_length=9000, tokenizer=demo / "model/tokenizer.json"))
    assert report.counts == {"data-unchecked": 2}
    report = scan([path], encoding=Encoding(max_length=9000))
    assert report.findings[0].message.endswith(
        "the length of the rows, as there is no tokenizer.json of a Qwen3-VL here"
    )


def test_the_kinds_of_target_are_told_by_file(write: Write) -> None:
    first = write(own(BOX), swift(answer='[{"line_2d": [1, 2, 3, 4], "label": "a"}]'))
    first.rename(first.with_name("first.jsonl"))
    second = write(swift(), own(quad(0, 0, 9, 0, 9, 9, 0, 9)))
    assert scan([first.with_name("first.jsonl"), second]).kinds == ({"bbox", "line"}, {"quad"})


def test_progress_tells_the_rows_done(write: Write) -> None:
    seen: list[int] = []
    scan([write(*[own(BOX)] * 2500)], progress=seen.append)
    assert seen == [1000, 2000, 2500]


PEAK = """
import sys
from pathlib import Path
from swiftalign.data.scan import scan

def peak():
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0])

for name in sys.argv[1:]:
    rows = scan([Path(name)]).rows.train
    print(rows, peak())
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_rows(write: Write) -> None:
    rows = [own(BOX), own(box(1, 2, 900, 5)), own(BOX, image="none.png"), "{", swift("<image><image>")]
    few, many = write(*rows * 400, name="few.jsonl"), write(*rows * 12_000, name="many.jsonl")
    done = subprocess.run([sys.executable, "-c", PEAK, few, many], capture_output=True, text=True, check=True)
    (_, first), (count, second) = (map(int, line.split()) for line in done.stdout.splitlines())
    assert count == 60_000
    assert second - first < 2000, "kilobytes; 35 bytes a row would be seen"


def test_scanning_loads_neither_torch_nor_transformers(write: Write) -> None:
    code = (
        "import sys; from pathlib import Path; from swiftalign.data.scan import scan;"
        f"scan([Path({str(write(own(BOX), swift()))!r})]);"
        "print([name for name in ('torch', 'transformers', 'swift', 'cv2', 'tokenizers') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


def test_every_code_has_a_case_and_its_row_in_the_docs() -> None:
    others = {
        "data-empty",
        "data-coordinates-assumed",
        "data-coordinates-relative-like",
        "data-coordinates-foreign",
        "data-coordinates-undeclared",
        "data-annotations-left-out",
        "data-image-resized",
        # in test_train_data.py
        "data-metric-absent",
        "data-not-learned",
        "data-nothing-to-score",
        "data-nothing-to-train",
        "data-rows-without-image",
        "data-geometry-kept",
    }
    assert {*(code for code, *_ in CASES), *others, "data-too-long", "data-too-long-dropped"} == set(DATA_CODES)
    page = (Path(__file__).parents[1] / "docs/findings.md").read_text(encoding="utf-8")
    rows = [f"| `{code}` | {severity} | {meaning} |" for code, (severity, meaning) in DATA_CODES.items()]
    assert [row for row in rows if row not in page] == []
