"""`swiftalign convert --join`: rows with the images and objects of several rows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from swiftalign.cli import main
from swiftalign.config.load import load_config
from swiftalign.config.sections import DataSource, GroundingTextSection
from swiftalign.data.convert import convert
from swiftalign.data.encoding import Encoding
from swiftalign.data.rows import Rows
from swiftalign.data.scan import scan
from swiftalign.data.text import Writing
from swiftalign.problems import DataError, RunFolderError
from swiftalign.runs.resume import require_same_config

SIZES = {"a.png": (64, 48), "b.png": (96, 32), "c.png": (40, 80)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, size in SIZES.items():
        Image.new("RGB", size, "grey").save(tmp_path / name)
    return tmp_path


def row(name: str, *labels: str, **more: Any) -> dict[str, Any]:
    objects = [{"label": label, "bbox_2d": [2, 3, 12 + number, 25]} for number, label in enumerate(labels)]
    return {"images": [name], "objects": objects, **more}


def write(folder: Path, *rows: Any, name: str = "rows.jsonl") -> Path:
    (folder / name).write_text("".join(f"{json.dumps(each)}\n" for each in rows), encoding="utf-8")
    return folder / name


def joined(folder: Path, *rows: Any, join: int = 2, shuffle: int | None = None) -> list[dict[str, Any]]:
    output = folder / "joined.jsonl"
    convert([DataSource(path=str(write(folder, *rows)))], output, join=join, shuffle=shuffle, force=True)
    return [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]


def test_images_objects_and_summaries_follow_one_another(folder: Path) -> None:
    rows = [
        row("a.png", "cup", "nut", prompt="Find.", system="Short.", summary="two", width=64, height=48),
        row("b.png", prompt="Find.", system="Short.", summary="none"),
        row("c.png", "box", prompt="Find.", system="Short.", summary="one"),
    ]
    first, last = joined(folder, *rows)
    assert first == {
        "images": ["a.png", "b.png"],
        "prompt": "Find.",
        "system": "Short.",
        "summary": ["two", "none"],
        "objects": rows[0]["objects"],
        "width": 64,
        "height": 48,
    }
    assert last == rows[2]
    (whole,) = joined(folder, *rows, join=5)
    assert whole["objects"] == [*rows[0]["objects"], {**rows[2]["objects"][0], "image": 2}]
    assert joined(folder, *rows, join=1) == rows
    pair = {**row("a.png", "cup"), "images": ["a.png", "b.png"], "summary": "two pictures of one place"}
    assert joined(folder, *rows[:2], pair)[1] == pair  # nothing is joined with it


def test_rows_of_several_images_and_units_are_joined(folder: Path) -> None:
    pair = {"images": ["b.png", "a.png"], "objects": [{"label": "nut", "bbox_2d": [8, 4, 32, 24], "image": 1}]}
    shares = {"images": ["c.png"], "objects": [{"label": "cup", "quad": [0, 0, 1, 0, 1, 0.5, 0, 0.5]}]}
    (one,) = joined(folder, pair | {"summary": ["", "nut"]}, shares | {"coordinates": "relative1", "summary": "cup"})
    assert one["images"] == ["b.png", "a.png", "c.png"]
    assert one["summary"] == ["", "nut", "cup"]
    assert [(each["label"], each["image"]) for each in one["objects"]] == [("nut", 1), ("cup", 2)]
    assert one["objects"][1]["quad"] == [0, 0, 40, 0, 40, 40, 0, 40]


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    names=st.lists(st.sampled_from(sorted(SIZES)), min_size=1, max_size=7),
    join=st.integers(1, 4),
    shuffle=st.none() | st.integers(0, 3),
)
def test_each_object_stays_on_its_image(names: list[str], join: int, shuffle: int | None, folder: Path) -> None:
    rows = [row(name, *(f"{number} {name} {each}" for each in range(number % 3))) for number, name in enumerate(names)]
    made = joined(folder, *rows, join=join, shuffle=shuffle)
    assert [len(each["images"]) for each in made[:-1]] == [join] * (len(made) - 1)
    images = [name for each in made for name in each["images"]]
    assert sorted(images) == sorted(names)
    if shuffle is None:
        assert images == names
    found = [
        (item["label"], item["bbox_2d"], each["images"][item.get("image", 0)])
        for each in made
        for item in each["objects"]
    ]
    meant = [(item["label"], item["bbox_2d"], each["images"][0]) for each in rows for item in each["objects"]]
    assert sorted(found) == sorted(meant)
    assert joined(folder, *rows, join=join, shuffle=shuffle) == made


def test_the_seed_decides_the_order_over_all_files(folder: Path) -> None:
    rows = [row("a.png", str(number)) for number in range(12)]
    files = [
        DataSource(path=str(write(folder, *part, name=f"{part[0]['objects'][0]['label']}.jsonl")))
        for part in (rows[:5], rows[5:])
    ]

    def order(shuffle: int | None) -> list[str]:
        convert(files, folder / "out.jsonl", join=3, shuffle=shuffle, force=True)
        lines = (folder / "out.jsonl").read_text().splitlines()
        return [item["label"] for line in lines for item in json.loads(line)["objects"]]

    assert order(None) == [str(number) for number in range(12)]
    assert order(1) == order(1) != order(2)
    assert sorted(order(1)) == sorted(order(None))


TALK = {
    "messages": [
        {"role": "user", "content": "<image>Find."},
        {"role": "assistant", "content": '[{"bbox_2d": [1, 2, 30, 40], "label": "cup"}]'},
    ]
}


@pytest.mark.parametrize(
    ("rows", "fault"),
    [
        ([row("a.png", "cup"), TALK | {"images": ["a.png"]}], "rows.jsonl:2: its messages can't be joined"),
        ([row("a.png", "cup"), row("b.png", "cup"), TALK | {"images": ["a.png"]}], "rows.jsonl:3: its messages"),
        ([row("a.png", "cup", prompt="Find."), row("a.png", "nut")], "rows.jsonl:2: its 'prompt' is not that of .*:1"),
        ([row("a.png", "cup"), row("a.png", "nut", system="Short.")], "rows.jsonl:2: its 'system' is not that of .*:1"),
        (
            [row("a.png", "cup", summary="one"), row("a.png", "nut")],
            "rows.jsonl:2: can't be joined, as not every image of .*:1 on has its own",
        ),
        (
            [{**row("a.png", "cup"), "images": ["a.png", "b.png"], "summary": "both"}, row("a.png", summary="one")],
            "rows.jsonl:1: can't be joined",
        ),
        (
            [row("a.png", "cup"), row("a.png", "nut", summary="one")],
            "rows.jsonl:2: can't be joined, as not every image of .*:1 on has its own",
        ),
    ],
)
def test_rows_that_can_not_be_joined_are_named(rows: Sequence[dict[str, Any]], fault: str, folder: Path) -> None:
    with pytest.raises(DataError, match=fault):
        joined(folder, *rows)
    assert not (folder / "joined.jsonl").exists()


@pytest.mark.slow
def test_joined_rows_are_checked_learnt_and_trained_on(tmp_path: Path, demo: Path, folder: Path) -> None:
    rows = write(folder, *(row(name, f"cup {name}", summary="one") for name in [*SIZES, *SIZES]))
    output = folder / "pairs.jsonl"
    assert main(["convert", str(rows), "--join", "2", "--shuffle", "7", "-o", str(output)]) == 0
    text = {"shape": "by_image", "image_key": "image {n}", "object_key": "{n}"}
    writing = Writing(GroundingTextSection(**text))
    report = scan([output], encoding=Encoding(writing))
    assert report.rows.train == 3
    assert not [found for found in report.findings if found.severity != "note"]
    made = Rows([output], writing=writing)
    for index in range(3):
        messages = made[index]["messages"]
        first, second = (Path(str(image)).name for image in made.row(index).images)
        assert messages[0]["content"].startswith("<image><image>")
        told = json.loads(messages[1]["content"])
        assert {name: each["1"]["label"] for name, each in told.items()} == {
            "image 1": f"cup {first}",
            "image 2": f"cup {second}",
        }
    values = {
        "model": str(demo / "model"),
        "data": {"train": [{"path": str(output), "limit": 2}], "text": text},
        "tuner": {"modules_to_save": ["model.visual.merger"]},
        "training": {
            "output_dir": "run",
            "per_device_train_batch_size": 1,
            "gradient_accumulation_steps": 1,
            "num_train_epochs": 1,
            "logging_steps": 1,
        },
    }
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(values), encoding="utf-8")
    assert main(["train", str(config)]) == 0
    state = json.loads((tmp_path / "run/checkpoint-2/trainer_state.json").read_text())
    assert len([entry for entry in state["log_history"] if "loss" in entry]) == 2
    config.write_text(yaml.safe_dump(values).replace("limit: 2", "limit: 1"), encoding="utf-8")
    with pytest.raises(RunFolderError, match=r"data\.train\.0\.limit: 2, now 1"):
        require_same_config(tmp_path / "run", load_config([config]))
