"""Rows of every layout and the files of annotation tools: the scan, the words, and ``convert``.

What passes the scan must have the objects that its text says, in this toolkit's own layout as it stands there; the
answer that the model would learn must locate the row's targets; and ``convert`` must keep them.
"""

from __future__ import annotations

import gzip
import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

from PIL import Image
from rich.console import Console

from fuzz.fuzz import put_back, show
from fuzz.mutations import in_bytes, in_json, in_lines
from layout_cases import LAYOUTS
from scan_cases import BOX, CUP, HEIGHT, RELATIVE, WIDTH, box, boxes, draw_images, line, own, swift
from swiftalign.cli.show import print_findings
from swiftalign.config.sections import DataSource, GroundingTextSection, Kind
from swiftalign.data.answers import parse_answer
from swiftalign.data.convert import convert
from swiftalign.data.encoding import Encoding
from swiftalign.data.images import image_size
from swiftalign.data.rows import Rows
from swiftalign.data.scan import scan
from swiftalign.data.targets import SPELLINGS, PixelTarget
from swiftalign.data.text import Composed, Writing
from swiftalign.demo.model import build_model
from swiftalign.problems import blocking

FIXTURES = Path(__file__).parents[1] / "rows/tools"
SIZE = (WIDTH, HEIGHT)
# What is named of each tool's files, and the files that are mutated.
TOOLS: list[tuple[str, str]] = [
    ("coco.json", "coco.json"),
    ("cvat.xml", "cvat.xml"),
    ("label_studio.json", "label_studio.json"),
    ("labelme", "labelme/a.json"),
    ("via.json", "via.json"),
    ("supervisely", "supervisely/ds/ann/a.png.json"),
    ("supervisely", "supervisely/meta.json"),
    ("voc", "voc/Annotations/a.xml"),
    ("yolo/data.yaml", "yolo/data.yaml"),
    ("yolo/data.yaml", "yolo/labels/train/a.txt"),
    ("dota", "dota/labelTxt/a.txt"),
    ("refcoco.parquet", "refcoco.parquet"),
]
SOUND: list[Any] = [
    own(BOX, line(1, 2, 3, 4), {**box(1, 2, 30, 40), "quad": [1, 2, 30, 2, 30, 40, 1, 40]}, prompt="Find.", system="S"),
    own(BOX, **RELATIVE),
    own(box(0.1, 0.2, 0.3, 0.4), {"label": "dot", "point_2d": [0.5, 0.5], "image": 1}, images=["a.png", "tiny.png"])
    | {"coordinates": "relative1", "width": 640, "height": 480, "summary": "Much."},
    boxes([1, 2, 3, 4], [5, 6], ref=["x"], bbox_type="real", image_id=[0, 0]),
    swift("<image>Where?", CUP, **RELATIVE),
    swift(
        "<image>Where?",
        '[{"bbox_2d": <bbox>, "label": "<ref-object>"}]',
        objects={"ref": ["x"], "bbox": [[1, 2, 3, 4]]},
    ),
    {"image": "a.png", "conversations": [{"from": "human", "value": "<image>Where?"}, {"from": "gpt", "value": CUP}]}
    | RELATIVE,
    {"images": ["a.png"], "query": "Where?", "response": "Here.", "history": [["Hello?", "Hello."]]},
    {"image": "a.png", "sent": "the left cup", "bbox": [10.5, 20, 300, 400], "width": 640, "height": 480},
    {"image": "a.png", "prefix": "detect cup", "suffix": "<loc0010><loc0020><loc0300><loc0400> cup"},
    {"image": "a.png", "prefix": "<OD>", "suffix": "cup<loc_10><loc_20><loc_300><loc_400>"},
    {
        "messages": [
            {"role": "system", "content": "Short."},
            {"role": "user", "content": [{"type": "image", "image": "a.png"}, {"type": "text", "text": "Where?"}]},
            {"role": "assistant", "content": "Here."},
            {"role": "user", "content": "And there?"},
            {"role": "assistant", "content": "No."},
        ]
    },
]
SHAPES: dict[Kind, tuple[tuple[float, float], ...]] = {
    "bbox": ((20, 30), (400, 300)),
    "quad": ((29, 30), (400, 39), (391, 300), (20, 291)),
    "line": ((20, 30), (400, 60), (380, 300)),
    "point": ((320, 200),),
    "polygon": ((20, 70), (110, 30), (400, 80), (310, 300), (30, 291)),
}


class RowFiles:
    """Files of rows, and of annotation tools."""

    names_files = True

    def __init__(self, root: Path) -> None:
        self.folder, self.changed = root / "rows", ""
        self.folder.mkdir()
        draw_images(self.folder)
        shutil.copytree(FIXTURES, self.folder / "tools")
        for name in ("images/a.png", "images/empty.png", "labelme/a.png", "a.png", "supervisely/ds/img/a.png"):
            self._draw(f"tools/{name}")
        for name in ("voc/JPEGImages/a.jpg", "yolo/images/train/a.png", "yolo/images/train/empty.png"):
            self._draw(f"tools/{name}")
        for name in ("yolo/images/val/b.png", "dota/images/a.png"):
            self._draw(f"tools/{name}")
        build_model(root / "model")
        text = GroundingTextSection(fenced=True)
        self.encodings = [
            Encoding(),
            Encoding(Writing(text), max_length=30, tokenizer=root / "model/tokenizer.json"),
            Encoding(Writing(GroundingTextSection(shape="by_image", label_first=True))),
        ]
        self.rows = [json.dumps(row) for row in SOUND]
        for layout in LAYOUTS.values():
            targets = [PixelTarget(kind, f"a {kind}", SHAPES[kind]) for kind in layout.kinds]
            self.rows.append(json.dumps(layout.write(targets, SIZE, Writing())))

    def _draw(self, name: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 48), "grey").save(path)

    def case(self, rng: Random) -> Iterator[str]:
        if rng.random() < 0.3:
            named, file = rng.choice(TOOLS)
            path, named_path = self.folder / "tools" / file, self.folder / "tools" / named
            with put_back(path):
                content = path.read_bytes()
                path.write_bytes((in_json if path.suffix == ".json" else in_bytes)(content, rng))
                self.changed = f"{file}: {path.read_bytes()[:300]!r}"
                yield from self._read(named_path, rng)
            return
        path = self.folder / rng.choice(("rows.jsonl", "rows.jsonl", "rows.jsonl", "rows.json", "rows.jsonl.gz"))
        lines = [rng.choice(self.rows).encode() + b"\n" for _ in range(rng.randint(1, 3))]
        content = in_lines(b"".join(lines), rng) if rng.random() < 0.8 else in_json(lines[0], rng)
        self.changed = f"{path.name}: {content[:500]!r}"
        if path.suffix == ".json" and rng.random() < 0.7:
            content = b"[" + b",".join(content.splitlines()) + b"]"
        if path.suffix == ".gz":
            content = gzip.compress(content)
            content = in_bytes(content, rng) if rng.random() < 0.2 else content
        path.write_bytes(content)
        try:
            yield from self._read(path, rng)
        finally:
            path.unlink()

    def _read(self, path: Path, rng: Random) -> Iterator[str]:
        encoding = rng.choice(self.encodings)
        source = DataSource(path=str(path))
        report = scan([source], encoding=encoding, check_images=False)
        text = io.StringIO()
        print_findings(report.findings, Console(file=text, width=160, highlight=False))
        show(text.getvalue(), *(finding.where for finding in report.findings))
        output = self.folder / "converted.jsonl"
        try:
            if not blocking(report.findings):
                rows = Rows([source], report.left_out, encoding.writing, report.files)
                for number in range(len(rows)):
                    yield from self._row(rows, number, encoding, sound=not report.counts)
                convert([source], output, force=True, join=rng.choice((1, 1, 2)))
                yield from (
                    self._converted(rows, Rows([output]), joined=False) if len(rows) == len(Rows([output])) else ()
                )
            elif rng.random() < 0.3:  # as with --allow
                convert([source], output, force=True)
        finally:
            output.unlink(missing_ok=True)
            shutil.rmtree(self.folder / "converted_images", ignore_errors=True)

    def _row(self, rows: Rows, number: int, encoding: Encoding, *, sound: bool) -> Iterator[str]:
        row = rows.row(number)
        sizes = [image_size(image) for image in row.images if image is not None]
        known = len(sizes) == len(row.images)
        made = row.to_swift(sizes if known else [], rows.writing)
        json.dumps(made, default=str).encode()
        encoding.conversation(row, sizes if known else [])
        if not known or not sound:
            return
        value = json.loads(self._content(rows, number))
        if isinstance(row.wording, Composed) and isinstance(value, dict) and isinstance(value.get("objects"), list):
            said = [numbers_of(item) for item in value["objects"]]
            read = [[number for point in target.points for number in point] for target in row.targets]
            if any(one not in many for one, many in zip(read, said, strict=True)):
                yield f"reads {read} where the row says {said}"
            labels = [item.get("label", item.get("desc", "")) for item in value["objects"]]
            if [target.label for target in row.targets] != labels and all(isinstance(each, str) for each in labels):
                yield f"reads the labels {[target.label for target in row.targets]} where the row says {labels}"
        if len(sizes) == 1 and isinstance(row.wording, Composed) and encoding.writing.text.shape != "by_image":
            answer = parse_answer(made["messages"][-1]["content"], rows.writing, sizes[0])
            record = row.record(sizes, rows.writing.limits)
            meant = sorted(target.label for target in record.targets)
            if not answer.sound or sorted(target.label for target in answer.targets) != meant:
                yield f"the answer does not locate the targets {meant}: {made['messages'][-1]['content']}"

    @staticmethod
    def _content(rows: Rows, number: int) -> bytes:
        file, place = rows._file(number)
        if (
            not len(file.places)
            or file.path.suffix == ".json"
            or file.path.is_dir()
            or file.path.suffix in (".xml", ".yaml")
        ):
            return b"null"
        stream = file._file()
        stream.seek(file.places[place, 0])
        return stream.readline()

    @staticmethod
    def _converted(before: Rows, after: Rows, *, joined: bool) -> Iterator[str]:
        """Whether the rows have the same images and targets in pixels."""
        for number in range(len(before)):
            found = []
            for rows in (before, after):
                row = rows.row(number)
                if None in row.images:
                    return
                targets = row.record([image_size(image) for image in row.images if image is not None]).targets
                found.append([(t.kind, t.label, t.image, [round(n, 3) for p in t.points for n in p]) for t in targets])
            if found[0] != found[1]:
                yield f"converted, {found[0]} becomes {found[1]}"


def numbers_of(item: dict[str, Any]) -> list[list[float]]:
    """The lists of numbers of an object, flat."""
    keys = {spelling.row_key for spelling in SPELLINGS.values()} | set(item)
    return [list(flat(item[key])) for key in keys if isinstance(item.get(key), list)]


def flat(value: Any) -> Iterator[Any]:
    if isinstance(value, list):
        for each in value:
            yield from flat(each)
    else:
        yield value
