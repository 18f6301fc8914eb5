"""The files of annotation tools become rows of this toolkit, or an error that names the place."""

from __future__ import annotations

import json
import random
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from swiftalign.data.formats.own import OWN
from swiftalign.data.records import Reading
from swiftalign.data.tools import TOOLS, find_tool
from swiftalign.data.tools.coco import read as read_coco
from swiftalign.data.tools.reading import Images
from swiftalign.data.tools.yolo import read as read_yolo
from swiftalign.problems import DataError

FIXTURES = Path(__file__).parent / "rows/tools"
SIZE = {"width": 64, "height": 48}


def box(label: str, *numbers: float) -> dict[str, Any]:
    return {"label": label, "bbox_2d": list(numbers)}


def shape(label: str, key: str, *numbers: float) -> dict[str, Any]:
    return {"label": label, key: list(numbers)}


def row(image: str, *objects: Any, **others: Any) -> dict[str, Any]:
    return {"images": [image], "objects": list(objects), **others}


# By format: what is named, where its images lie, the rows, what is left out, and the file that the fuzz damages.
CASES: dict[str, tuple[str, list[str], list[dict[str, Any]], dict[str, int], str]] = {
    "COCO": (
        "coco.json",
        ["images/a.png", "images/empty.png"],
        [
            row(
                "images/a.png",
                box("cup", 8, 10, 28, 22.5),
                shape("plate", "quad", 20, 5, 30, 15, 20, 25, 10, 15),
                box("plate", 2, 4, 8, 12),
                box("cup", 30, 30, 40, 40),
                box("cup", 40, 2, 60, 12),
                **SIZE,
            ),
            row("images/empty.png", **SIZE),
        ],
        {
            "outlines of more than four corners, whose boxes are taken": 1,
            "masks of several parts, whose boxes are taken": 1,
            "crowds": 1,
        },
        "coco.json",
    ),
    "LabelMe": (
        "labelme",
        ["labelme/a.png"],
        [
            row(
                "labelme/a.png",
                box("cup", 8, 6.5, 40, 30),
                shape("plate", "polygon", 1, 2, 9, 2, 5, 8),
                shape("tray", "quad", 1, 2, 9, 3, 8, 9, 0, 8),
                shape("wire", "line", 1, 2, 9, 3, 20, 1),
                shape("edge", "line", 1, 2, 9, 3),
                shape("screw", "point_2d", 5, 6),
                shape("seed", "point_2d", 5, 6),
                shape("seed", "point_2d", 7, 8),
                shape("box", "quad", 5, 0, 10, 5, 5, 10, 0, 5),
                **SIZE,
            )
        ],
        {"circles": 1},
        "labelme/a.json",
    ),
    "CVAT": (
        "cvat.xml",
        ["a.png"],
        [
            row(
                "a.png",
                box("cup", 8, 6.5, 40, 30),
                # 20 wide and 10 high about (20, 15), turned clockwise by 90 degrees: it begins at the top right.
                shape("cup", "quad", 25, 5, 25, 25, 15, 25, 15, 5),
                shape("plate", "polygon", 1, 2, 9, 2, 5, 8),
                shape("wire", "line", 1, 2, 9, 3, 20, 1),
                shape("screw", "point_2d", 5, 6),
                shape("screw", "point_2d", 7, 8.5),
                **SIZE,
            ),
            row("empty.png", **SIZE),
        ],
        {"ellipses": 1},
        "cvat.xml",
    ),
    "Label Studio": (
        "label_studio.json",
        ["images/a.png", "images/empty.png"],
        [
            row(
                "images/a.png",
                box("cup", 20, 20, 80, 60),
                # 20 wide and 40 high, turned clockwise by 90 degrees about its top left corner (100, 20).
                shape("plate", "quad", 100, 20, 100, 40, 60, 40, 60, 20),
                box("screw", 2, 2, 8, 6),
                shape("tray", "polygon", 20, 10, 40, 10, 30, 30),
                shape("seed", "point_2d", 50, 50),
                width=200,
                height=100,
            ),
            row("images/empty.png"),
        ],
        {
            "masks (brush)": 1,
            "regions without a label": 1,
            "further annotations of the same task": 1,
            "tasks without an annotation": 1,
        },
        "label_studio.json",
    ),
    "YOLO": (
        "yolo/data.yaml",
        ["yolo/images/train/a.png", "yolo/images/train/empty.png", "yolo/images/val/b.png"],
        [
            row(
                "yolo/images/train/a.png",
                box("cup", 0.375, 0.25, 0.625, 0.75),
                box("plate", 0, 0.1875, 0.5, 0.3125),
                shape("plate", "quad", 0.125, 0.125, 0.875, 0.25, 0.75, 0.875, 0.125, 0.75),
                shape("cup", "polygon", 0.125, 0.125, 0.875, 0.25, 0.75, 0.875),
                coordinates="relative1",
            ),
            row("yolo/images/train/empty.png", coordinates="relative1"),
        ],
        {},
        "yolo/labels/train/a.txt",
    ),
    "DOTA": (
        "dota",
        ["dota/images/a.png"],
        [
            row(
                "dota/images/a.png",
                shape("small-vehicle", "quad", 8, 8, 40, 10, 38.75, 30, 6.75, 28),
                shape("ship", "quad", 1.5, 2, 9, 2, 9, 8, 1.5, 8),
            )
        ],
        {},
        "dota/labelTxt/a.txt",
    ),
    "Pascal VOC": (
        "voc",
        ["voc/JPEGImages/a.png"],
        [row("voc/JPEGImages/a.png", box("bottle", 8, 6, 40, 30), box("person", 2, 3, 20, 40), **SIZE)],
        {"parts of persons": 1},
        "voc/Annotations/a.xml",
    ),
    "VIA": (
        "via.json",
        ["a.png", "empty.png"],
        [
            row(
                "a.png",
                box("cup", 8, 6, 40, 30),
                shape("plate", "polygon", 1, 2, 9, 2, 5, 8),
                shape("wire", "line", 1, 2, 9, 3),
                shape("screw", "point_2d", 5, 6),
            ),
            row("empty.png"),
        ],
        {"circles": 1, "regions without a label": 1},
        "via.json",
    ),
    "Supervisely": (
        "supervisely",
        ["supervisely/ds/img/a.png"],
        [
            row(
                "supervisely/ds/img/a.png",
                box("cup", 8, 6, 40, 30),
                shape("plate", "quad", 1, 2, 9, 3, 8, 9, 0, 8),
                shape("wire", "line", 1, 2, 9, 3),
                shape("screw", "point_2d", 5, 6),
                **SIZE,
            )
        ],
        {"holes of polygons": 1, "masks (bitmaps)": 1},
        "supervisely/ds/ann/a.png.json",
    ),
    "RefCOCO": (
        "refcoco.parquet",
        [],
        [
            row("7.png", box("the red cup", 8, 6, 40, 30)),
            row("7.png", box("cup on the left", 8, 6, 40, 30)),
            row("9.png", box("plate", 2, 3, 20, 40.5)),
        ],
        {},
        "refcoco.parquet",
    ),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of all fixtures."""
    return Path(shutil.copytree(FIXTURES, tmp_path / "tools"))


def draw(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 48), "grey").save(folder / name)


def read(path: Path, images: Path | None = None) -> tuple[list[dict[str, Any]], Counter[str]]:
    tool, left_out = find_tool(path), Counter[str]()
    assert tool is not None
    return [row for _, row in tool.read(path, images, left_out)], left_out


def relative(rows: list[dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """The rows with images as paths from a folder; an image that a file holds itself has the name that it has there."""

    def name(image: Any) -> str:
        return image["path"] if isinstance(image, dict) else str(Path(image).relative_to(folder))

    return [{**row, "images": [name(image) for image in row["images"]]} for row in rows]


def written(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def fault(path: Path) -> str:
    """The message of the error that reading a file ends in."""
    with pytest.raises(DataError) as caught:
        read(path)
    return caught.value.message.removeprefix(f"{path}")


def test_every_format_has_a_case() -> None:
    assert [tool.name for tool in TOOLS] == sorted(CASES, key=[tool.name for tool in TOOLS].index)


@pytest.mark.parametrize("name", CASES)
def test_rows_of_each_format(name: str, folder: Path) -> None:
    file, images, rows, left_out, _ = CASES[name]
    draw(folder, *images)
    tool = find_tool(folder / file)
    assert tool is not None
    assert tool.name == name
    found, counted = read(folder / file)
    assert relative(found, folder) == rows
    assert counted == left_out
    assert {type(count) for count in counted.values()} <= {int}
    assert 0 not in counted.values()


@pytest.mark.parametrize("name", CASES)
def test_rows_are_well_formed_in_the_own_layout(name: str, folder: Path) -> None:
    draw(folder, *CASES[name][1])
    for found in read(folder / CASES[name][0])[0]:
        assert well_formed(found)


def well_formed(row: dict[str, Any]) -> bool:
    image = row["images"][0]
    assert isinstance(image["bytes"], bytes) if isinstance(image, dict) else Path(image).is_absolute()
    assert set(row) <= {"images", "objects", "coordinates", "width", "height"}
    read = OWN.read(row, Reading(Path("/")))
    assert (read.remarks, len(read.targets)) == ((), len(row["objects"]))
    row = {**row, "images": list(map(str, row["images"]))}
    return json.dumps(row, allow_nan=False, ensure_ascii=False).encode() != b""


@pytest.mark.parametrize("name", CASES)
def test_each_file_is_recognised_by_one_format_only(name: str, folder: Path) -> None:
    for path in (folder / CASES[name][0], folder / CASES[name][4]):
        if name != "Supervisely" or path.is_dir():
            assert [tool.name for tool in TOOLS if tool.recognise(path)] == [name]


def test_other_files_are_not_recognised(tmp_path: Path) -> None:
    own = written(tmp_path / "rows.json", '{"images": ["a.png"], "objects": []}\n')
    swift = written(tmp_path / "swift.json", '{"images": [{"path": "a.png"}], "messages": []}\n')
    for path in (own, swift, tmp_path, tmp_path / "none.json", written(tmp_path / "sub/empty.xml", "")):
        assert find_tool(path) is None


def test_a_folder_with_several_formats_is_refused(tmp_path: Path) -> None:
    shutil.copy(FIXTURES / "coco.json", tmp_path)
    shutil.copy(FIXTURES / "cvat.xml", tmp_path)
    with pytest.raises(DataError, match="several formats: COCO, CVAT") as caught:
        find_tool(tmp_path)
    assert caught.value.hint == "name one of the files"


def test_a_folder_stands_for_its_only_file(tmp_path: Path) -> None:
    shutil.copy(FIXTURES / "coco.json", tmp_path / "train.json")
    assert len(read(tmp_path)[0]) == 2
    shutil.copy(FIXTURES / "coco.json", tmp_path / "val.json")
    with pytest.raises(DataError, match=r"holds 2 such files: train\.json, val\.json"):
        read(tmp_path)


def test_where_names_file_and_line_or_image(folder: Path) -> None:
    def places(file: str) -> list[str]:
        tool = find_tool(folder / file)
        assert tool is not None
        return [where.removeprefix(f"{folder}/") for where, _ in tool.read(folder / file, None, Counter())]

    draw(folder, "yolo/images/train/a.png", "yolo/images/train/empty.png")
    assert places("cvat.xml") == ["cvat.xml:8", "cvat.xml:18"]
    assert places("coco.json") == ["coco.json: image a.png", "coco.json: image empty.png"]
    assert places("label_studio.json") == ["label_studio.json: task 11", "label_studio.json: task 12"]
    assert places("yolo/data.yaml") == ["yolo/labels/train/a.txt", "yolo/images/train/empty.png"]


class TestImages:
    def test_the_named_folder_has_precedence(self, tmp_path: Path) -> None:
        draw(tmp_path, "mine/a.png", "json/a.png", "json/images/b.png")
        finder = Images(tmp_path / "json", tmp_path / "mine")
        assert finder.find("a.png", "x") == str(tmp_path / "mine/a.png")
        assert finder.find("b.png", "x") == str(tmp_path / "json/images/b.png")
        assert finder.find("c.png", "x") == str(tmp_path / "mine/c.png")

    @pytest.mark.parametrize(
        "name",
        ["C:\\work\\a.png", "/data/upload/1/a.png", "https://host/x/a.png?token=1", "..\\old\\a.png", "./a.png"],
    )
    def test_paths_of_other_machines_stand_for_their_last_part(self, name: str, tmp_path: Path) -> None:
        draw(tmp_path, "images/a.png")
        assert Images(tmp_path, None).find(name, "x") == str(tmp_path / "images/a.png")

    def test_folders_within_a_name_are_kept(self, tmp_path: Path) -> None:
        draw(tmp_path, "a.png", "images/left/a.png")
        assert Images(tmp_path, None).find("left/a.png", "x") == str(tmp_path / "images/left/a.png")
        assert Images(tmp_path, None).find("right/a.png", "x") == str(tmp_path / "right/a.png")

    def test_a_folder_is_listed_once(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        import os

        listed, real = [], os.listdir
        monkeypatch.setattr("os.listdir", lambda path: listed.append(path) or real(path))
        finder = Images(tmp_path, None)
        for number in range(50):
            finder.find(f"{number}.png", "x")
        assert len(listed) == len(set(listed)) == len(finder.folders)


class TestCoco:
    def file(self, tmp_path: Path, *annotations: Any, **others: Any) -> Path:
        images, categories = [{"id": 1, "file_name": "a.png"}], [{"id": 5, "name": "cup"}]
        root = {"images": images, "categories": categories, "annotations": list(annotations), **others}
        return written(tmp_path / "coco.json", root)

    def annotation(self, **others: Any) -> dict[str, Any]:
        return {"id": 3, "image_id": 1, "category_id": 5, "bbox": [0, 0, 10, 10], **others}

    def objects(self, tmp_path: Path, **others: Any) -> tuple[list[Any], Counter[str]]:
        rows, left_out = read(self.file(tmp_path, self.annotation(**others)))
        return rows[0]["objects"], left_out

    def test_outlines_are_taken_on_request(self, tmp_path: Path) -> None:
        ring = [0, 0, 10, 0, 10, 5, 5, 10, 0, 10, 0, 0]
        path = self.file(tmp_path, self.annotation(segmentation=[ring]))
        found = [row["objects"] for _, row in read_coco(path, None, Counter(), outlines=True)]
        assert found == [[shape("cup", "polygon", *ring[:-2])]]

    def test_a_closed_ring_of_four_corners_is_a_quad(self, tmp_path: Path) -> None:
        found, _ = self.objects(tmp_path, segmentation=[[5, 0, 10, 5, 5, 10, 0, 5, 5, 0]])
        assert found == [shape("cup", "quad", 5, 0, 10, 5, 5, 10, 0, 5)]

    def test_a_ring_that_is_the_rounded_box_is_a_box(self, tmp_path: Path) -> None:
        found, _ = self.objects(tmp_path, segmentation=[[9.7, 0, 9.7, 10.2, 0.3, 10, 0, 0]])
        assert found == [box("cup", 0, 0, 10, 10)]

    def test_masks_and_skeletons_keep_their_boxes(self, tmp_path: Path) -> None:
        found, left_out = self.objects(tmp_path, segmentation={"counts": "x", "size": [9, 9]}, keypoints=[1, 2, 2])
        assert found == [box("cup", 0, 0, 10, 10)]
        assert left_out == {"masks (RLE), whose boxes are taken": 1, "skeletons": 1}

    def test_images_of_a_part_are_found(self, tmp_path: Path) -> None:
        draw(tmp_path, "val2017/a.png")
        path = self.file(tmp_path).rename(tmp_path / "instances_val2017.json")
        (tmp_path / "annotations").mkdir()
        rows, _ = read(path.rename(tmp_path / "annotations/instances_val2017.json"))
        assert rows[0]["images"] == [str(tmp_path / "val2017/a.png")]

    def test_many_categories_may_come_first(self, tmp_path: Path) -> None:
        categories = [{"id": number, "name": f"class {number}"} for number in range(5000)]
        root = {"categories": categories, "images": [{"id": 1, "file_name": "a.png"}], "annotations": []}
        assert len(read(written(tmp_path / "coco.json", root))[0]) == 1

    @pytest.mark.parametrize(
        ("others", "expected"),
        [
            ({"bbox": None}, ": annotation 3: 'bbox' must be 4 numbers"),
            ({"bbox": [1, 2, 3]}, ": annotation 3: 'bbox' must be 4 numbers"),
            ({"bbox": [1, 2, 3, "4"]}, ": annotation 3: 'bbox' must be 4 numbers"),
            ({"bbox": [1, 2, 3, float("nan")]}, ": annotation 3: 'bbox' must be 4 numbers"),
            ({"bbox": [1, 2, 3, float("inf")]}, ": annotation 3: 'bbox' must be 4 numbers"),
            ({"bbox": [1, 2, 3, 10**400]}, ": annotation 3: 'bbox' must be 4 numbers"),
            ({"bbox": [1, 2, 3, True]}, ": annotation 3: 'bbox' must be 4 numbers"),
            ({"category_id": 6}, ": annotation 3: no category has the id 6"),
            ({"category_id": [6]}, ": annotation 3: 'category_id' must be a number or text"),
            ({"image_id": 6}, ": annotation 3: no image has the id 6"),
            ({"segmentation": [3]}, ": annotation 3: a part of 'segmentation' must be a list"),
            ({"segmentation": "x"}, ": annotation 3: 'segmentation' must be a list"),
            (
                {"segmentation": [[1, 2, 3, 4, 5, 6, 7, None]]},
                ": annotation 3: the quad of 'cup' must be 8 numbers, each from -1e9 to 1e9",
            ),
        ],
    )
    def test_broken_annotations(self, tmp_path: Path, others: dict[str, Any], expected: str) -> None:
        assert fault(self.file(tmp_path, self.annotation(**others))) == expected

    @pytest.mark.parametrize(
        ("others", "expected"),
        [
            ({"categories": [{"id": 5, "name": 7}]}, ": categories: id 5: 'name' must be text that is not empty"),
            (
                {"categories": [{"id": 5, "name": "\ud800"}]},
                ": categories: id 5: 'name' can't be written as UTF-8: '\\ud800'",
            ),
            ({"categories": [{"id": 5, "name": "a"}] * 2}, ": categories: id 5: is there twice"),
            ({"categories": None}, ": 'categories' must be a list"),
            ({"images": [{"id": 1}]}, ": image 1: the image's path must be text that is not empty"),
            (
                {"images": [{"id": 1, "file_name": "a\0b"}]},
                ": image a\\x00b: the image's path holds a NUL character: 'a\\x00b'",
            ),
        ],
    )
    def test_broken_files(self, tmp_path: Path, others: dict[str, Any], expected: str) -> None:
        assert fault(self.file(tmp_path, **others)) == expected


class TestHostileJson:
    def test_deep_nesting(self, tmp_path: Path) -> None:
        path = written(tmp_path / "a.json", '{"shapes": [' + "[" * 200_000)
        assert fault(path) == ": not JSON that can be read: nested too deeply"

    def test_a_key_twice(self, tmp_path: Path) -> None:
        path = written(tmp_path / "a.json", '{"shapes": [], "imagePath": "a.png", "imagePath": "b.png"}')
        assert fault(path) == ": the key 'imagePath' is twice in one object"

    def test_text_after_the_end(self, tmp_path: Path) -> None:
        path = written(tmp_path / "a.json", '{"shapes": []} x')
        assert fault(path) == ": not JSON: Extra data: line 1 column 16 (char 15)"

    def test_numbers_of_thousands_of_digits(self, tmp_path: Path) -> None:
        path = written(tmp_path / "a.json", '{"shapes": [' + "9" * 5000 + "]}")
        assert fault(path).startswith(": not JSON: Exceeds the limit")

    def test_a_byte_order_mark_is_no_fault(self, tmp_path: Path) -> None:
        path = written(tmp_path / "a.json", '\ufeff{"shapes": [], "imagePath": "a.png"}')
        assert len(read(path)[0]) == 1


class TestXml:
    BOX = '<box label="cup" xtl="0" ytl="0" xbr="4" ybr="2"/>'

    def cvat(self, tmp_path: Path, shapes: str) -> Path:
        return written(tmp_path / "cvat.xml", f'<annotations>\n<image name="a.png">\n{shapes}\n</image></annotations>')

    @pytest.mark.parametrize(
        "declaration",
        ['<!DOCTYPE annotations [<!ENTITY a "b">]>', '<!DOCTYPE annotations SYSTEM "file:///etc/passwd">'],
    )
    def test_document_types_are_refused(self, tmp_path: Path, declaration: str) -> None:
        path = written(tmp_path / "cvat.xml", f"<?xml version='1.0'?>\n{declaration}\n<annotations></annotations>")
        assert fault(path) == ":2: declares a document type (DOCTYPE)"

    def test_an_entity_without_declaration(self, tmp_path: Path) -> None:
        assert fault(self.cvat(tmp_path, "&a;")) == ":3: not XML: undefined entity"

    def test_deep_nesting(self, tmp_path: Path) -> None:
        assert fault(self.cvat(tmp_path, "<box>" * 100_000)) == ":3: elements are nested too deeply"

    def test_an_unknown_encoding(self, tmp_path: Path) -> None:
        path = written(tmp_path / "cvat.xml", "<?xml version='1.0' encoding='x-none'?><annotations></annotations>")
        assert "not XML" in fault(path)

    def test_rows_before_a_fault_come_first(self, tmp_path: Path) -> None:
        path = self.cvat(tmp_path, f"{self.BOX}</image>{' ' * 200_000}<image name='b.png'><box")
        tool = find_tool(path)
        assert tool is not None
        rows = tool.read(path, None, Counter())
        assert next(rows)[1]["objects"] == [box("cup", 0, 0, 4, 2)]
        with pytest.raises(DataError, match="not XML"):
            next(rows)

    @pytest.mark.parametrize(
        ("shapes", "expected"),
        [
            ('<box label="a" xtl="0" ytl="0" xbr="4"/>', ":3: 'ybr' is not a number: ''"),
            ('<box label="a" xtl="nan" ytl="0" xbr="4" ybr="2"/>', ":3: 'xtl' is not a number: 'nan'"),
            ('<box label="a" xtl="1_0" ytl="0" xbr="4" ybr="2"/>', ":3: 'xtl' is not a number: '1_0'"),
            (
                '<box label="a" xtl="1e999" ytl="0" xbr="4" ybr="2"/>',
                ":3: the bbox of 'a' must be 4 numbers, each from -1e9 to 1e9",
            ),
            ('<box xtl="0" ytl="0" xbr="4" ybr="2"/>', ":3: the label must be text that is not empty"),
            ('\n<polygon label="a" points="0,0;1"/>', ":4: 'points' must be 'x,y;x,y;...'"),
            (
                '<polygon label="a" points="0,0;1,1"/>',
                ":3: the polygon of 'a' must be 3 points or more, each from -1e9 to 1e9",
            ),
            ('<polyline label="a"/>', ":3: 'points' must be 'x,y;x,y;...'"),
        ],
    )
    def test_broken_shapes(self, tmp_path: Path, shapes: str, expected: str) -> None:
        assert fault(self.cvat(tmp_path, shapes)) == expected

    def test_a_box_of_cvat_turns_clockwise_about_its_middle(self, tmp_path: Path) -> None:
        # About (2, 1) by 30 degrees: the top left corner goes to 2 - 2 cos + 1 sin, 1 - 2 sin - 1 cos.
        path = self.cvat(tmp_path, self.BOX.replace("/>", ' rotation="30"/>'))
        quad = read(path)[0][0]["objects"][0]["quad"]
        expected = [0.7679, -0.8660, 4.2321, 1.1340, 3.2321, 2.8660, -0.2321, 0.8660]
        assert quad == pytest.approx(expected, abs=1e-4)

    def test_a_video_is_counted(self, tmp_path: Path) -> None:
        path = written(tmp_path / "cvat.xml", '<annotations><track id="0" label="a"><box/></track></annotations>')
        assert read(path) == ([], Counter({"tracks of a video": 1}))

    @pytest.mark.parametrize(
        ("content", "expected"),
        [
            ("<object><name>a</name></object>", ":2: the object has no 'bndbox'"),
            ("<object><name>a</name><bndbox/></object>", ":2: 'xmin' is not a number: ''"),
        ],
    )
    def test_broken_objects_of_voc(self, tmp_path: Path, content: str, expected: str) -> None:
        path = written(tmp_path / "a.xml", f"<annotation><filename>a.png</filename>\n{content}</annotation>")
        assert fault(path) == expected


class TestLabelStudio:
    def task(self, tmp_path: Path, value: dict[str, Any], **others: Any) -> Path:
        result = {"id": "r", "type": "rectanglelabels", "original_width": 200, "original_height": 100, "value": value}
        task = {"id": 4, "data": {"image": "a.png"}, "annotations": [{"result": [{**result, **others}]}]}
        return written(tmp_path / "tasks.json", [task])

    def test_a_rectangle_turns_clockwise_about_its_top_left_corner_in_pixels(self, tmp_path: Path) -> None:
        value = {"x": 50, "y": 50, "width": 10, "height": 10, "rotation": 30, "rectanglelabels": ["a"]}
        quad = read(self.task(tmp_path, value))[0][0]["objects"][0]["quad"]
        # 20 wide, 10 high, from (100, 50): (20 cos, 20 sin), (20 cos - 10 sin, 20 sin + 10 cos), (-10 sin, 10 cos).
        expected = [100, 50, 117.3205, 60, 112.3205, 68.6603, 95, 58.6603]
        assert quad == pytest.approx(expected, abs=1e-4)

    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            ({"x": 1, "y": 1, "width": 2}, "'width', 'height' and 'rotation' must be 3 numbers"),
            ({"x": None, "y": 1}, "'x' and 'y' must be 2 numbers"),
        ],
    )
    def test_broken_regions(self, tmp_path: Path, value: dict[str, Any], expected: str) -> None:
        path = self.task(tmp_path, {**value, "rectanglelabels": ["a"]})
        assert fault(path) == f": task 4: region r: {expected}"

    def test_sizes_are_needed(self, tmp_path: Path) -> None:
        path = self.task(tmp_path, {"x": 1, "y": 1, "rectanglelabels": ["a"]}, original_width=None)
        assert fault(path) == ": task 4: region r: 'original_width' and 'original_height' must be 2 numbers"

    def test_rotated_images_are_left_out(self, tmp_path: Path) -> None:
        value = {"x": 1, "y": 1, "width": 2, "height": 2, "rectanglelabels": ["a"]}
        rows, left_out = read(self.task(tmp_path, value, image_rotation=90))
        assert rows[0]["objects"] == []
        assert left_out == {"regions of rotated images": 1}

    def test_local_files_and_other_keys(self, tmp_path: Path) -> None:
        path = written(
            tmp_path / "tasks.json",
            [{"data": {"photo": "/data/local-files/?d=b/a.png"}, "annotations": [{"result": []}]}],
        )
        draw(tmp_path, "b/a.png")
        assert "names no image" in fault(path)
        path.write_text(path.read_text().replace("photo", "image"))
        assert read(path)[0][0]["images"] == [str(tmp_path / "b/a.png")]


class TestYolo:
    def dataset(self, tmp_path: Path, line: str, names: str = "names: [cup, plate]") -> Path:
        draw(tmp_path, "images/a.png")
        written(tmp_path / "labels/a.txt", f"{line}\n")
        return written(tmp_path / "data.yaml", f"{names}\ntrain: images\n")

    @pytest.mark.parametrize("named", ["", "labels", "images", "labels/a.txt", "data.yaml"])
    def test_what_can_be_named(self, tmp_path: Path, named: str) -> None:
        self.dataset(tmp_path, "1 0.5 0.5 1 1")
        rows, _ = read(tmp_path / named)
        assert rows == [row(str(tmp_path / "images/a.png"), box("plate", 0, 0, 1, 1), coordinates="relative1")]

    def test_files_side_by_side(self, tmp_path: Path) -> None:
        draw(tmp_path, "a.png", "b.png")
        written(tmp_path / "a.txt", "1 0.5 0.5 1 1\n")
        written(tmp_path / "classes.txt", "cup\nplate\n")
        rows, _ = read(tmp_path)
        assert relative(rows, tmp_path) == [
            row("a.png", box("plate", 0, 0, 1, 1), coordinates="relative1"),
            row("b.png", coordinates="relative1"),
        ]

    def test_a_text_file_without_an_image_is_a_row(self, tmp_path: Path) -> None:
        path = self.dataset(tmp_path, "1 0.5 0.5 1 1")
        written(tmp_path / "labels/lost.txt", "1 0.5 0.5 1 1\n")
        assert [Path(row["images"][0]).name for row in read(path)[0]] == ["a.png", "lost.jpg"]

    def test_other_parts_and_lists(self, folder: Path, tmp_path: Path) -> None:
        draw(folder, "yolo/images/val/b.png")
        val = [row for _, row in read_yolo(folder / "yolo/data.yaml", None, Counter(), part="val")]
        assert relative(val, folder) == [
            row("yolo/images/val/b.png", box("plate", 0.25, 0.25, 0.75, 0.75), coordinates="relative1")
        ]
        assert read(folder / "yolo/labels/val")[0] == val
        written(folder / "yolo/list.txt", "./images/val/b.png\n\n")
        written(folder / "yolo/data.yaml", "names: [cup, plate]\ntrain: [list.txt]\n")
        assert read(folder / "yolo/data.yaml")[0] == val

    def test_parts_are_not_mixed(self, folder: Path) -> None:
        (folder / "yolo/data.yaml").rename(folder / "yolo/labels/data.yaml")
        (folder / "yolo/labels/data.yaml").write_text("names: [cup, plate]\n")
        with pytest.raises(DataError, match="holds several parts of the data: train, val"):
            read(folder / "yolo")

    def test_paths_of_roboflow(self, tmp_path: Path) -> None:
        draw(tmp_path, "train/images/a.png")
        written(tmp_path / "train/labels/a.txt", "0 0.5 0.5 1 1")
        rows, _ = read(written(tmp_path / "data.yaml", "train: ../train/images\nnames: ['0']\n"))
        assert relative(rows, tmp_path) == [row("train/images/a.png", box("0", 0, 0, 1, 1), coordinates="relative1")]

    def test_keypoints_are_left_out(self, tmp_path: Path) -> None:
        path = self.dataset(tmp_path, "0 0.5 0.5 1 1 0.2 0.2 0.3 0.3", "kpt_shape: [2, 2]\nnames: [cup]")
        rows, left_out = read(path)
        assert rows[0]["objects"] == [box("cup", 0, 0, 1, 1)]
        assert left_out == {"skeletons": 1}

    @pytest.mark.parametrize(
        ("line", "expected"),
        [
            ("0 1 1 1", "3 numbers after the class are not a box (4), quad (8) or polygon (6 or more, even)"),
            (
                "0 1 1 1 1 1 1 1",
                "7 numbers after the class are not a box (4), quad (8) or polygon (6 or more, even)",
            ),
            ("cup 1 1 1 1", "must be the number of a class and coordinates: b'cup 1 1 1 1'"),
            ("0 1 1 1 nan", "must be the number of a class and coordinates: b'0 1 1 1 nan'"),
            ("0 1 1 1 1_0", "must be the number of a class and coordinates: b'0 1 1 1 1_0'"),
            ("0 1 1 1 1e999", "the bbox of 'cup' must be 4 numbers, each from -1e9 to 1e9"),
            ("2 1 1 1 1", "no class has the number 2"),
        ],
    )
    def test_broken_lines(self, tmp_path: Path, line: str, expected: str) -> None:
        with pytest.raises(DataError) as caught:
            read(self.dataset(tmp_path, f"\n{line}"))
        assert caught.value.message == f"{tmp_path}/labels/a.txt:2: {expected}"

    @pytest.mark.parametrize(
        ("names", "expected"),
        [
            ("names: 3", ": 'names' must be a list, or numbers with names"),
            ("names: [1]", ": the name of class 0 must be text that is not empty"),
            ("names: {a: b}", ": 'names' must be a list, or numbers with names"),
            ("names: [", ": not YAML that can be read: while parsing a flow sequence"),
            ("names: [a]\nnames2: " + "[" * 600, ": not YAML that can be read: maximum recursion depth exceeded"),
        ],
    )
    def test_broken_names(self, tmp_path: Path, names: str, expected: str) -> None:
        assert fault(self.dataset(tmp_path, "0 1 1 1 1", names)).startswith(expected)

    def test_names_are_needed(self, tmp_path: Path) -> None:
        self.dataset(tmp_path, "0 1 1 1 1").unlink()
        assert fault(tmp_path) == ": no file says how the classes are called"


class TestOthers:
    def test_a_line_of_dota_that_is_none(self, tmp_path: Path) -> None:
        path = written(tmp_path / "a.txt", "gsd:1\n1 2 3 4 5 6 7 8 ship\n1 2 3 4 ship 0\n")
        assert fault(path) == ":3: needs eight numbers, a class and a difficulty: '1 2 3 4 ship 0'"

    def test_a_label_of_via_must_be_clear(self, tmp_path: Path) -> None:
        region = {"shape_attributes": {"name": "point", "cx": 1, "cy": 1}, "region_attributes": {"a": "x", "b": "y"}}
        path = written(tmp_path / "via.json", {"a": {"filename": "a.png", "regions": {"0": region}}})
        assert fault(path) == ": image a.png: region 1: no attribute is called label, name, class, type"

    @pytest.mark.parametrize(
        ("shape", "expected"),
        [
            ({"label": "a", "points": [[1, 2]]}, "the polygon of 'a' must be 3 points or more, each from -1e9 to 1e9"),
            ({"label": 3, "points": [[1, 2]]}, "the label must be text that is not empty"),
            ({"label": "a", "points": [1, 2]}, "'points' must be a list of [x, y]"),
            ({"label": "a", "points": [[1, 2]], "shape_type": 3}, "'shape_type' must be text"),
            ([], "it must be an object"),
        ],
    )
    def test_broken_shapes_of_labelme(self, tmp_path: Path, shape: Any, expected: str) -> None:
        path = written(tmp_path / "a.json", {"shapes": [shape], "imagePath": "a.png"})
        assert fault(path) == f": shape 1: {expected}"


@pytest.mark.parametrize("name", CASES)
def test_damaged_files_are_named_or_still_read(name: str, folder: Path) -> None:
    """Of each damaged file, the rows are well formed, or the error names the file."""
    dice, (file, images, _, _, damaged) = random.Random(name), CASES[name]
    draw(folder, *images)
    path, tool, faults = folder / damaged, next(tool for tool in TOOLS if tool.name == name), list[str]()
    sound, pieces = path.read_bytes(), ["null", "1e999", "-1", *'"[]{}<>', "\0", "\xff", "\\ud800", "NaN", ""]
    for _ in range(200):
        content = bytearray(sound)
        for _ in range(dice.randint(1, 3)):
            start = dice.randrange(len(content))
            content[start : start + dice.choice((0, 1, 1, 2, 5, 20))] = dice.choice(pieces).encode("latin-1")
        path.write_bytes(content if dice.random() < 0.9 else content[: dice.randrange(len(content))])
        with suppress_to(faults):
            find_tool(folder / file)
            assert all(well_formed(row) for _, row in tool.read(folder / file, None, Counter()))
    assert 20 < len(faults) < 200
    assert all(str(path) in each for each in faults)


@contextmanager
def suppress_to(faults: list[str]) -> Iterator[None]:
    try:
        yield
    except DataError as error:
        faults.append(error.message)


@pytest.mark.parametrize(
    "content",
    [
        '{"shapes": [' + " " * 2_000_000,
        "gsd:" * 500_000,
        "0 " + "1" * 2_000_000 + "x",
        "0 " + "1 " * 300_000,
        "<" * 1_000_000,
        '{"' + "\\" * 1_000_000,
        '[{"' * 300_000,
        '{"categories": [' + '{"images" :' * 200_000,
    ],
    ids=lambda content: content[:12],
)
def test_recognising_and_reading_take_time_in_proportion(tmp_path: Path, content: str) -> None:
    written(tmp_path / "classes.txt", "cup")
    start = time.process_time()
    for suffix in ("json", "xml", "txt", "yaml"):
        path = written(tmp_path / f"file.{suffix}", content)
        for tool in TOOLS:
            if tool.recognise(path):
                with suppress(DataError):
                    list(tool.read(path, None, Counter()))
    assert time.process_time() - start < 5
