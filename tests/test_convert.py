"""`swiftalign convert`: rows of any layout become rows of this toolkit, with the same targets."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from swiftalign.cli import main
from swiftalign.config.sections import DataSource
from swiftalign.data.convert import convert
from swiftalign.data.rows import Rows

BOX = {"label": "cup", "bbox_2d": [8, 6, 40, 30]}
TALK = [{"from": "human", "value": "<image>\nFind it."}]
ANSWER = '[{"bbox_2d": [125, 125, 625, 625], "label": "cup"}]'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Image.new("RGB", (64, 48), "grey").save(tmp_path / "a.png")
    return tmp_path


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def converted(*sources: Path, output: Path) -> list[dict[str, Any]]:
    convert([DataSource(path=str(source)) for source in sources], output)
    return [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]


def test_rows_of_all_layouts_keep_their_targets(folder: Path) -> None:
    talk = {"image": "a.png", "conversations": [*TALK, {"from": "gpt", "value": ANSWER}]}
    boxes = {"ref": ["cup"], "bbox": [[8, 6, 40, 30]]}
    messages = [
        {"role": "user", "content": "<image>Find the <ref-object>."},
        {"role": "assistant", "content": "<bbox>"},
    ]
    coco = {
        "images": [{"id": 1, "file_name": "a.png", "width": 64, "height": 48}],
        "categories": [{"id": 3, "name": "cup"}],
        "annotations": [{"id": 9, "image_id": 1, "category_id": 3, "bbox": [8, 6, 32, 24], "iscrowd": 0}],
    }
    (folder / "coco.json").write_text(json.dumps(coco))
    rows = write(folder / "rows.jsonl", talk, {"messages": messages, "images": ["a.png"], "objects": boxes})
    written = converted(rows, folder / "coco.json", output=folder / "out" / "own.jsonl")
    image = str(folder / "a.png")
    told = {"label": "cup", "bbox_2d": [125, 125, 625, 625]}
    assert written == [
        {"images": [image], "prompt": "Find it.", "objects": [told], "coordinates": "relative1000"},
        {"images": [image], "prompt": "Find the cup.", "objects": [BOX]},
        {"images": [image], "objects": [BOX], "width": 64, "height": 48},
    ]
    read = Rows([folder / "out" / "own.jsonl"])
    answers = [json.loads(read[index]["messages"][1]["content"]) for index in range(3)]
    assert answers == [[told]] * 3


def test_paths_are_relative_where_the_images_lie_beside_the_output(folder: Path) -> None:
    rows = write(
        folder / "rows.jsonl", {"images": ["a.png"], "objects": [{**BOX, "quad": [8, 6, 40, 6, 40, 30, 8, 30]}]}
    )
    [row] = converted(rows, output=folder / "own.jsonl")
    assert row == {"images": ["a.png"], "objects": [{**BOX, "quad": [8, 6, 40, 6, 40, 30, 8, 30]}]}


def test_images_of_a_table_are_written_beside_the_output(folder: Path) -> None:
    import pyarrow
    from pyarrow.parquet import write_table

    content = io.BytesIO()
    Image.new("RGB", (64, 48), "red").save(content, "JPEG")
    image = {"bytes": content.getvalue(), "path": None}
    table = {"image": [image], "conversations": [[*TALK, {"from": "gpt", "value": ANSWER}]]}
    write_table(pyarrow.table(table), folder / "rows.parquet")
    [row] = converted(folder / "rows.parquet", output=folder / "own.jsonl")
    [name] = row["images"]
    assert re.fullmatch(r"own_images/000000-[0-9a-f]{8}\.jpg", name)
    assert (folder / name).read_bytes() == content.getvalue()


def test_several_images_that_a_row_holds_are_written_to_a_file_each(folder: Path) -> None:
    images = []
    for size in ((64, 48), (32, 32)):
        content = io.BytesIO()
        Image.new("RGB", size, "red").save(content, "PNG")
        images.append(f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}")
    messages = [{"role": "user", "content": "<image><image>Find."}, {"role": "assistant", "content": "<bbox><bbox>"}]
    boxes = {"ref": ["cup", "nut"], "bbox": [[8, 6, 40, 30], [1, 2, 30, 31]], "image_id": [0, 1]}
    rows = write(folder / "rows.jsonl", {"messages": messages, "images": images, "objects": boxes})
    [row] = converted(rows, output=folder / "own.jsonl")
    assert [name.partition("-")[0] for name in row["images"]] == ["own_images/000000_0", "own_images/000000_1"]
    assert [Image.open(folder / name).size for name in row["images"]] == [(64, 48), (32, 32)]


def test_what_no_row_can_hold_is_counted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = {"from": "gpt", "value": ANSWER}
    rows = [{"image": "a.png", "conversations": [*TALK, told, *TALK, told]}, {"images": ["a.png"], "objects": [BOX]}]
    rows[0]["conversations"][2] = {"from": "human", "value": "And now?"}
    chat = {"image": "a.png", "conversations": [*TALK, {"from": "gpt", "value": "Nowhere."}]}
    source = write(folder / "rows.jsonl", *rows, chat)
    assert main(["convert", str(source), "--output", str(folder / "own.jsonl")]) == 0
    out, err = capsys.readouterr()
    assert "own.jsonl: 1 row, 1 bbox" in out
    assert "left out: conversations of several turns (1)" in err
    assert "left out: conversations whose answer is not a list of objects (1)" in err


@pytest.mark.parametrize(
    ("answer", "lost"),
    [
        (f"```json\n{ANSWER}\n```", None),
        (f"Sure: {ANSWER}", "words around the objects of an answer"),
        (ANSWER.replace('"label"', '"color": "red", "label"'), "further keys of objects in an answer"),
    ],
)
def test_what_a_row_does_not_keep_of_an_answer_is_counted(answer: str, lost: str | None, folder: Path) -> None:
    rows = write(folder / "rows.jsonl", {"image": "a.png", "conversations": [*TALK, {"from": "gpt", "value": answer}]})
    written = convert([DataSource(path=str(rows))], folder / "own.jsonl")
    assert (written.rows, written.left_out) == (1, {lost: 1} if lost else {})


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["none.json"], 2, "none.json: no such file or folder"),
        (["rows.jsonl", "--images", "none"], 2, "--images none: no such folder"),
        (["rows.jsonl", "--coordinates", "inches"], 2, "--coordinates inches: not a unit"),
        (["bad.jsonl"], 1, "[data-box-degenerate]"),
        (["pixels.jsonl"], 1, "[data-coordinates-foreign]"),
        (["pixels.jsonl"], 1, "to have them converted, pass --coordinates pixels"),
    ],
    ids=["missing", "no images", "unit", "faulty", "foreign unit", "cure"],
)
def test_what_goes_wrong_is_told_and_nothing_is_written(
    arguments: list[str],
    code: int,
    message: str,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(folder)
    Image.new("RGB", (4000, 3000), "grey").save(folder / "large.png")
    write(folder / "rows.jsonl", {"images": ["a.png"], "objects": [BOX]})
    write(folder / "bad.jsonl", {"images": ["a.png"], "objects": [{"label": "cup", "bbox_2d": [40, 30, 8, 6]}]})
    told = '[{"bbox_2d": [1500, 1200, 3900, 2900], "label": "cup"}]'
    write(folder / "pixels.jsonl", {"image": "large.png", "conversations": [*TALK, {"from": "gpt", "value": told}]})
    assert main(["convert", *arguments, "--output", "own.jsonl"]) == code
    assert message in capsys.readouterr().err
    assert not (folder / "own.jsonl").exists()


def test_the_output_may_not_be_a_folder(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = write(folder / "rows.jsonl", {"images": ["a.png"], "objects": [BOX]})
    assert main(["convert", str(rows), "--output", str(folder), "--force"]) == 2
    assert f"{folder} is a folder" in capsys.readouterr().err


def test_an_existing_file_is_kept_unless_forced(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows, output = write(folder / "rows.jsonl", {"images": ["a.png"], "objects": [BOX]}), folder / "own.jsonl"
    output.write_text("mine")
    assert main(["convert", str(rows), "--output", str(output)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert output.read_text() == "mine"
    assert main(["convert", str(rows), "--output", str(output), "--force", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["rows"], printed["kinds"], printed["left_out"]) == (1, {"bbox": 1}, {})
    assert json.loads(output.read_text())["objects"] == [BOX]


def test_a_declared_unit_is_kept(folder: Path) -> None:
    rows = write(folder / "rows.jsonl", {"image": "a.png", "conversations": [*TALK, {"from": "gpt", "value": ANSWER}]})
    assert main(["convert", str(rows), "-o", str(folder / "own.jsonl"), "--coordinates", "relative1000"]) == 0
    assert json.loads((folder / "own.jsonl").read_text())["coordinates"] == "relative1000"
