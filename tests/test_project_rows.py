"""Rows of the guide's project: the sections in docs/data.md make the texts that the project learns from them."""

from __future__ import annotations

import json
import math
import random
import re
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from docs_examples import ROOT
from swift_template import template_of
from swiftalign.augment.pipeline import Pipeline
from swiftalign.config.augmentation import AugmentationSection
from swiftalign.config.load import load_config
from swiftalign.config.sections import DataSource, GroundingTextSection
from swiftalign.data.answers import parse_answer
from swiftalign.data.convert import convert
from swiftalign.data.encoded import TemplateEncoder, learned_faults
from swiftalign.data.encoding import Encoding
from swiftalign.data.mirror import LEFT_RIGHT
from swiftalign.data.records import Record
from swiftalign.data.rows import Rows, open_images, sizes_of
from swiftalign.data.scan import scan
from swiftalign.data.targets import PixelTarget
from swiftalign.data.text import Composed, Writing, answer
from swiftalign.problems import ConfigError

SIZE = (200, 400)
WIDTH, HEIGHT = SIZE
DEVICE = {"bbox_2d": [20, 40, 100, 120], "desc": "类别=BBU设备,可见性=完整"}
LABEL = {"poly": [110, 60, 150, 50, 160, 90, 115, 95], "poly_points": 4, "desc": "类别=标签,文本=A-1/左"}
PANEL = {"poly": [50, 200, 90, 190, 120, 220, 100, 260, 60, 250], "poly_points": 5, "desc": "类别=挡风板"}
CABLE = {"line": [150, 300, 100, 360, 20, 320], "line_points": 3, "desc": "类别=光纤,弯曲半径=半径不合理<4cm或成环"}
CORNERS = {"quad": [110, 60, 150, 50, 160, 90, 115, 95], "desc": "标签/可以识别"}
SUMMARY = '{"统计": [{"类别": "BBU设备", "可见性": {"完整": 1}}]}'


@pytest.fixture(scope="module")
def sections(tmp_path_factory: pytest.TempPathFactory) -> dict[str, GroundingTextSection]:
    """``data.text`` of each section of the page, in its order."""
    page = (ROOT / "docs/data.md").read_text(encoding="utf-8")
    part = page.partition("## Rows of the guide's project\n")[2].partition("\n## ")[0]
    found = []
    for number, block in enumerate(re.findall(r"(?:^    .*\n|^\n(?=    ))+", part, re.MULTILINE)):
        path = tmp_path_factory.mktemp("sections") / f"{number}.yaml"
        path.write_text(f"model: none\n{textwrap.dedent(block)}", encoding="utf-8")
        found.append(load_config([path]).data.text)
    return dict(zip(("grouped", "grouped summary", "flat", "flat summary"), found, strict=True))


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    for name in ("a.png", "b.png"):
        Image.new("RGB", SIZE, "grey").save(tmp_path / name)

    def write(*rows: dict[str, Any]) -> Path:
        lines = "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)
        (tmp_path / "rows.jsonl").write_text(lines, encoding="utf-8")
        return tmp_path / "rows.jsonl"

    return write


def row(*objects: dict[str, Any], image: str = "a.png", **more: Any) -> dict[str, Any]:
    return {"images": [image], "objects": list(objects), "width": WIDTH, "height": HEIGHT, **more}


ONE = row(DEVICE, CORNERS, CABLE, summary="BBU设备/显示完整 * 1")
OTHER = row(CORNERS, image="b.png", summary="标签/可以识别 * 1")
# In the order of the centres: LABEL at 72.5, DEVICE at 80, PANEL, CABLE.
FLAT = row(CABLE, DEVICE, PANEL, LABEL, summary=SUMMARY, metadata={"source": "x"})
GROUPED_ONE = (
    '{"object_1": {"desc": "类别=BBU设备,可见性=完整", "bbox_2d": [100, 100, 500, 300]}, '
    '"object_2": {"desc": "标签/可以识别", "quad": [550, 150, 750, 125, 800, 225, 575, 238]}, '
    '"object_3": {"desc": "类别=光纤,弯曲半径=半径不合理<4cm或成环", "line_points": 3, '
    '"line": [750, 750, 500, 900, 100, 800]}}'
)
GROUPED_OTHER = '{"object_1": {"desc": "标签/可以识别", "quad": [550, 150, 750, 125, 800, 225, 575, 238]}}'
FLAT_ITEMS = {
    "label": '{"desc": "类别=标签,文本=A-1/左", "poly": [[750, 125], [550, 150], [575, 238], [800, 225]]}',
    "device": '{"desc": "类别=BBU设备,可见性=完整", "bbox_2d": [100, 100, 500, 300]}',
    "panel": '{"desc": "类别=挡风板", "poly": [[450, 475], [250, 500], [300, 625], [500, 650], [600, 550]]}',
    "cable": '{"desc": "类别=光纤,弯曲半径=半径不合理<4cm或成环", "line_points": 3, '
    '"line": [[100, 800], [500, 900], [750, 750]]}',
}


def flat(*items: str) -> str:
    numbered = ", ".join(f'"object_{number}": {FLAT_ITEMS[item]}' for number, item in enumerate(items, 1))
    return f"<DOMAIN=BBU>, <TASK=DETECTION>\n{{{numbered}}}"


@pytest.mark.parametrize(
    ("section", "given", "told"),
    [
        ("grouped", ONE, f'{{"图片_1": {GROUPED_ONE}}}'),
        ("grouped summary", ONE, '{"图片_1": "BBU设备/显示完整 * 1"}'),
        ("flat", FLAT, flat("label", "device", "panel", "cable")),
        ("flat summary", FLAT, f"<DOMAIN=BBU>, <TASK=SUMMARY>\n{SUMMARY}"),
    ],
)
def test_a_row_becomes_the_project_s_conversation(
    section: str,
    given: dict[str, Any],
    told: str,
    sections: dict[str, GroundingTextSection],
    write: Callable[..., Path],
) -> None:
    path, writing = write(given), Writing(sections[section])
    assert [(m["role"], m["content"]) for m in Rows([path], writing=writing)[0]["messages"]] == [
        ("system", "your system prompt"),
        ("user", "<image>your user prompt"),
        ("assistant", told),
    ]
    report = scan([path], encoding=Encoding(writing))
    assert not [found for found in report.findings if found.severity != "note"]


def test_the_other_order_of_objects(sections: dict[str, GroundingTextSection], write: Callable[..., Path]) -> None:
    """By the box's top left (40), the label's topmost corner (50), the panel's (190), the cable's left end (320)."""
    text = sections["flat"].model_copy(update={"order": "reference_top_to_bottom"})
    told = Rows([write(FLAT)], writing=Writing(text))[0]["messages"][-1]["content"]
    assert told == flat("device", "label", "panel", "cable")


def test_joined_rows_are_grouped_by_image(
    sections: dict[str, GroundingTextSection], write: Callable[..., Path], tmp_path: Path
) -> None:
    convert([DataSource(path=str(write(ONE, OTHER, OTHER)))], tmp_path / "pairs.jsonl", join=2)
    both, alone = (
        [message["content"] for message in row["messages"]]
        for row in map(Rows([tmp_path / "pairs.jsonl"], writing=Writing(sections["grouped"])).__getitem__, (0, 1))
    )
    assert both[1:] == ["<image><image>your user prompt", f'{{"图片_1": {GROUPED_ONE}, "图片_2": {GROUPED_OTHER}}}']
    assert alone[1:] == ["<image>your user prompt", f'{{"图片_1": {GROUPED_OTHER}}}']
    rows = Rows([tmp_path / "pairs.jsonl"], writing=Writing(sections["grouped summary"]))
    assert [rows[number]["messages"][-1]["content"] for number in range(2)] == [
        '{"图片_1": "BBU设备/显示完整 * 1", "图片_2": "标签/可以识别 * 1"}',
        '{"图片_1": "标签/可以识别 * 1"}',
    ]


def test_the_sections_are_learnt_as_they_are_meant(
    sections: dict[str, GroundingTextSection], write: Callable[..., Path], demo: Path
) -> None:
    template, path = template_of(demo / "model"), write(ONE, FLAT)
    for text in sections.values():
        rows = Rows([path], writing=Writing(text))
        for number in range(2):
            made = rows[number]
            learned = TemplateEncoder(template, rows.writing)(made).learned
            assert learned == f"{made['messages'][-1]['content']}<|im_end|>\n"
            record = rows.row(number).record([SIZE])
            assert not learned_faults(learned, record, [SIZE], rows.writing)


def test_the_order_is_made_anew_where_the_image_moved(
    sections: dict[str, GroundingTextSection], write: Callable[..., Path]
) -> None:
    """Of two boxes side by side the other one comes first; outlines and lines begin at other points."""
    twins = [{"bbox_2d": [left, 370, left + 20, 390], "desc": name} for left, name in ((10, "one"), (90, "other"))]
    rows = Rows([write(row(*twins, CABLE, PANEL, LABEL))], writing=Writing(sections["flat"]))
    given = rows.row(0)
    pipeline = Pipeline(AugmentationSection(ops=["hflip"]), text=sections["flat"])  # type: ignore[list-item]
    images, moved = pipeline.row(open_images(given), given.record([SIZE]), epoch=0, row=0)
    for record, last, label in ((given.record([SIZE]), ["one", "other"], "左"), (moved, ["other", "one"], "右")):
        told = record.to_swift(sizes_of(images), rows.writing)["messages"][-1]["content"]
        items = list(json.loads(told.partition("\n")[2]).values())
        assert [item["desc"] for item in items[3:]] == last
        assert items[0]["desc"] == f"类别=标签,文本=A-1/{label}"
        assert items[2]["line"][0] < items[2]["line"][-1]
        for item in items[:2]:
            assert min(item["poly"], key=lambda point: point[::-1]) == item["poly"][0]
            assert turn(item["poly"]) < 0


def turn(points: Sequence[Sequence[float]]) -> float:
    """Twice the area: positive for corners that are clockwise on the screen."""
    return sum(a * d - b * c for (a, b), (c, d) in zip(points, [*points[1:], points[0]], strict=True))


def random_target(number: random.Random) -> PixelTarget:
    """On a coarse grid, so that many are level with others."""

    def point() -> tuple[float, float]:
        return number.randint(0, 4) * 50.0, number.randint(0, 8) * 50.0

    kind = number.choice(("bbox", "quad", "polygon", "line", "point"))
    if kind == "bbox":
        (left, top), (wide, high) = point(), point()
        return PixelTarget(kind, "a", ((left, top), (left + wide, top + high)))
    count = {"quad": 4, "point": 1}.get(kind) or number.randint(3, 7)
    return PixelTarget(kind, "a", tuple(point() for _ in range(count)))


def test_the_orders_are_those_of_the_project() -> None:
    """Python's sort keeps the order of equals, as the project's does."""

    def reference(target: PixelTarget) -> list[float]:
        first = sorted(target.points)[0] if target.kind == "line" else target.points[0]
        return [first[1], first[0]]

    def centre(target: PixelTarget) -> list[float]:
        xs, ys = [x for x, _ in target.points], [y for _, y in target.points]
        rank = (
            0
            if target.kind == "bbox"
            else 1
            if target.kind in ("quad", "polygon")
            else 2
            if target.kind == "line"
            else 3
        )
        return [(min(ys) + max(ys)) / 2, (min(xs) + max(xs)) / 2, rank, *reference(target)]

    number = random.Random(5)
    for _ in range(300):
        given = [random_target(number) for _ in range(number.randint(0, 8))]
        targets = [PixelTarget(each.kind, str(name), each.points) for name, each in enumerate(given)]
        for order, key in (("reference_top_to_bottom", reference), ("centre_top_to_bottom", centre)):
            text = answer(targets, [SIZE], Writing(GroundingTextSection(order=order)))  # type: ignore[arg-type]
            wanted = [target.label for target in sorted(targets, key=key)]
            assert [item["label"] for item in json.loads(text)] == wanted


@pytest.mark.parametrize("way", ["clockwise", "counterclockwise"])
def test_outlines_begin_at_their_topmost_corner_and_keep_their_shape(way: Any) -> None:
    number, writing = random.Random(6), Writing(GroundingTextSection(point_order=way, point_pairs=True))
    for _ in range(300):
        target = random_target(number)
        (item,) = json.loads(answer([target], [(1000, 1000)], writing))
        points, given = item[writing.key(target.kind)], [list(point) for point in target.points]
        if target.kind in ("bbox", "point"):
            assert points == [value for point in given for value in point]
        elif target.kind == "line":
            assert points == min(given, given[::-1], key=lambda each: each[0])
        else:
            assert points[0] == min(given, key=lambda point: (point[1], point[0]))
            assert turn(points) * (1 if way == "clockwise" else -1) >= 0
            turned = [each[start:] + each[:start] for each in (given, given[::-1]) for start in range(len(given))]
            assert points in turned
        (read,) = parse_answer(json.dumps([item]), writing).targets
        assert [list(point) for point in read.points] in (points, given)


@pytest.mark.parametrize("count", [3, 4, 5, 12, 30])
def test_polygons_of_many_corners_and_repeated_ones_are_taken(
    count: int, sections: dict[str, GroundingTextSection], write: Callable[..., Path]
) -> None:
    """A corner given twice, or the first one again at the end, does no harm, and stays in the text."""
    round_about = [
        (round(100 + 80 * math.cos(2 * math.pi * n / count)), round(200 + 150 * math.sin(2 * math.pi * n / count)))
        for n in range(count)
    ]
    for corners in (round_about, [*round_about, round_about[0]], [round_about[0], *round_about]):
        numbers = [value for corner in corners for value in corner]
        path = write(row({"poly": numbers, "poly_points": len(corners), "desc": "类别=挡风板"}))
        writing = Writing(sections["flat"])
        assert not [f for f in scan([path], encoding=Encoding(writing)).findings if f.severity != "note"]
        rows = Rows([path], writing=writing)
        told = json.loads(rows[0]["messages"][-1]["content"].partition("\n")[2])["object_1"]["poly"]
        assert sorted(map(tuple, told)) == sorted((round(x / 200 * 1000), round(y / 400 * 1000)) for x, y in corners)
        pipeline = Pipeline(AugmentationSection(preset="progressive-3", seed=count))
        for epoch in range(5):
            pipeline.row(open_images(rows.row(0)), rows.row(0).record([SIZE]), epoch=epoch, row=0)


def test_numbers_are_those_of_the_image_as_it_is_shown(
    sections: dict[str, GroundingTextSection], write: Callable[..., Path], tmp_path: Path
) -> None:
    path, exif = write(ONE), Image.Exif()
    exif[274] = 6  # a quarter turn
    Image.new("RGB", (HEIGHT, WIDTH), "grey").save(tmp_path / "a.png", exif=exif)
    writing = Writing(sections["grouped"])
    assert Rows([path], writing=writing)[0]["messages"][-1]["content"] == f'{{"图片_1": {GROUPED_ONE}}}'
    assert not scan([path], encoding=Encoding(writing)).counts


def test_points_in_pairs_of_an_answer_move_with_the_image(write: Callable[..., Path]) -> None:
    told = flat("label", "cable").replace("object_1", "1")
    talk = [{"role": "user", "content": "<image>Find."}, {"role": "assistant", "content": told}]
    path = write({"images": ["a.png"], "messages": talk})
    assert not [f for f in scan([path]).findings if f.severity == "error" and f.code != "data-coordinates-undeclared"]
    row = Rows([DataSource(path=str(path), coordinates="relative1000")]).row(0)
    assert not row.wording.fixed
    assert row.to_swift([SIZE], Writing())["messages"] == talk
    pipeline = Pipeline(AugmentationSection(ops=["hflip"]))  # type: ignore[list-item]
    images, record = pipeline.row(open_images(row), row.record([SIZE]), epoch=0, row=0)
    text = record.to_swift(sizes_of(images), Writing())["messages"][-1]["content"]
    assert '"line": [[900, 800], [500, 900], [250, 750]]' in text
    cut = Record(record.images, (record.targets[0], PixelTarget("line", "", ((10, 20), (40, 80)))), record.wording)
    text = cut.to_swift([SIZE], Writing())["messages"][-1]["content"]
    assert '"line_points": 2, "line": [[50, 50], [200, 200]]' in text


def test_summaries_are_named_by_image_where_there_are_several() -> None:
    def told(wording: Composed, shape: str) -> str:
        text = GroundingTextSection(answer="summary", shape=shape)  # type: ignore[arg-type]
        return str(wording.to_swift((), [SIZE] * wording.images, Writing(text))["messages"][-1]["content"])

    two = '{"image_1": "a left cup", "image_2": "b"}'
    for shape in ("list", "numbered", "by_image"):
        assert told(Composed(summaries=("a left cup", "b"), images=2), shape) == two
        assert told(Composed(summaries=("all",), images=2), shape) == "all"
        assert told(Composed(images=1), shape) in ("[]", "{}", '{"image_1": {}}')
    assert told(Composed(summaries=("a",)), "list") == "a"
    mirrored = Composed(summaries=("a left cup", "b"), images=2).mirrored(LEFT_RIGHT)
    assert told(mirrored, "list") == two.replace("left", "right")


@pytest.mark.parametrize("line", ["<DOMAIN={domain}>", "a\nb"])
def test_a_first_line_that_is_not_one_is_refused(line: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(f"model: none\ndata:\n  text:\n    first_line: {json.dumps(line)}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"config\.yaml:4: data\.text\.first_line.* must be one line") as error:
        load_config([path])
    assert error.value.hint == "write the words themselves"


def test_the_kinds_whose_points_are_counted_can_be_chosen(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    for value, counted in (("true", ["quad", "line"]), ("[line]", ["line"]), ("[]", []), ("false", [])):
        path.write_text(f"model: none\ndata: {{text: {{point_counts: {value}}}}}\n", encoding="utf-8")
        targets = [
            PixelTarget("quad", "a", ((0, 0), (9, 0), (9, 9), (0, 9))),
            PixelTarget("line", "b", ((0, 0), (9, 9))),
        ]
        text = answer(targets, [SIZE], Writing(load_config([path]).data.text))
        assert re.findall(r"(\w+)_2d_points", text) == counted
    path.write_text("model: none\ndata: {text: {point_counts: [bbox]}}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="point_counts"):
        load_config([path])
