"""The page of an evaluation in a real browser: the worst first, filters, and nothing loaded or injected."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser

from pages import Opened, open_page
from swiftalign.data.rows import Rows
from swiftalign.evaluation.pictures import ON_PAGE, render_answers, render_worst
from swiftalign.evaluation.predictions import Prediction
from swiftalign.evaluation.questions import Question, questions_of

HOSTILE = "</script><img src=x onerror=window.hit=1>"


def objects(*items: tuple[str, list[int], str]) -> str:
    return json.dumps([{key: numbers, "label": label} for key, numbers, label in items])


CUP, WIRE = ("bbox_2d", [100, 100, 400, 400], "cup"), ("line_2d", [0, 0, 900, 900], HOSTILE)
TRUE = [objects(CUP), objects(CUP, WIRE), objects(CUP), objects(WIRE)]
# Of each row, what the two models write: all right, half right, elsewhere, broken.
MINE = [objects(CUP), objects(CUP), objects(("bbox_2d", [600, 600, 900, 900], "cup")), f"[{{{HOSTILE}"]
OTHER = ["nothing", objects(CUP, WIRE), objects(CUP), objects(WIRE)]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Rows:
    folder = tmp_path_factory.mktemp("rows")
    with (folder / "val.jsonl").open("w", encoding="utf-8") as file:
        for number, answer in enumerate(TRUE):
            Image.fromarray(np.full((60, 80, 3), 40 * number, np.uint8)).save(folder / f"{number}.png")
            messages = [{"role": "user", "content": f"<image>{HOSTILE}"}, {"role": "assistant", "content": answer}]
            file.write(json.dumps({"messages": messages, "images": [f"{number}.png"]}) + "\n")
    return Rows([folder / "val.jsonl"])


def answers(questions: list[Question], texts: list[str]) -> list[Prediction]:
    return [Prediction.of(question, text) for question, text in zip(questions, texts, strict=True)]


@pytest.fixture
def page(browser: Browser, rows: Rows, tmp_path: Path) -> Iterator[Opened]:
    questions = questions_of(rows)
    both = {"tuned": answers(questions, MINE), HOSTILE: answers(questions, OTHER)}
    file = tmp_path / "eval.html"
    file.write_text(render_answers(both, rows, HOSTILE, ["model", "kind"], [[HOSTILE, "box"]]), encoding="utf-8")
    with open_page(browser, file) as opened:
        yield opened


def shown(page: Opened) -> list[int]:
    return [int(node.get_attribute("data-row") or -1) for node in page.page.locator("section:visible").all()]


def test_the_worst_row_is_the_first_that_one_sees(page: Opened) -> None:
    assert shown(page) == [2, 3, 1, 0]
    first = page.page.locator("section").first
    assert first.locator("figure").count() == 2
    assert first.locator("figure .fault").all_text_contents() == ["an object was found, but not where it is"]
    box = first.bounding_box()
    assert box is not None
    assert box["y"] < 900


def test_predicted_targets_are_drawn_over_the_true_ones(page: Opened) -> None:
    mine = page.page.locator("section[data-row='2'] figure").first
    statuses = [node.get_attribute("class") for node in mine.locator("svg > g").all()]
    assert statuses == ["bbox true", "bbox off"]
    assert mine.locator("g.off polygon.stroke").get_attribute("points") == "48,36 72,36 72,54 48,54"
    assert mine.locator("g.off .label").text_content() == "cup · IoU 0.00"
    half = page.page.locator("section[data-row='1'] figure").first
    assert {node.get_attribute("class") for node in half.locator("svg > g").all()} == {
        "bbox true",
        "line missed",
        "bbox right",
    }


@pytest.mark.parametrize(
    ("choices", "expected"),
    [
        ({"order": "best"}, [0, 1, 3, 2]),
        ({"order": "row"}, [0, 1, 2, 3]),
        ({"order": "other"}, [0, 1, 2, 3]),
        ({"order": "gain"}, [0, 1, 2, 3]),
        ({"kind": "line"}, [3, 1]),
        ({"label": "cup"}, [2, 1, 0]),
        ({"fault": "malformed"}, [3]),
        ({"fault": "none"}, [0]),
        ({"fault": "any"}, [2, 3, 1]),
        ({"compared": "better"}, [0]),
        ({"compared": "worse", "kind": "bbox"}, [2, 1]),
        ({"compared": "neither"}, []),
    ],
    ids=str,
)
def test_rows_are_ordered_and_filtered(page: Opened, choices: dict[str, str], expected: list[int]) -> None:
    for name, value in choices.items():
        page.page.select_option(f"#{name}", value)
    assert shown(page) == expected
    assert page.page.locator("#shown").text_content() == f"{len(expected)} of 4 rows"


def test_prompt_and_answers_can_be_read(page: Opened) -> None:
    section = page.page.locator("section[data-row='3']")
    assert section.locator("figure pre").first.text_content() == MINE[3]
    assert section.locator("figure details").first.get_attribute("open") == ""  # a malformed one is shown at once
    asked = section.locator(":scope > details")
    assert asked.locator("pre").all_text_contents() == [f"<image>{HOSTILE}", TRUE[3]]
    asked.locator("summary").click()
    assert asked.locator("pre").first.is_visible()


def test_true_targets_and_labels_can_be_hidden(page: Opened) -> None:
    before = page.visible("g.true"), page.visible("text.label")
    page.page.locator("#show-true").uncheck()
    page.page.locator("#show-label").uncheck()
    assert all(before)
    assert (page.visible("g.true"), page.visible("g.missed"), page.visible("text.label")) == (0, 0, 0)


def test_the_page_of_one_model_has_no_comparison(browser: Browser, rows: Rows, tmp_path: Path) -> None:
    questions = questions_of(rows)
    file = tmp_path / "one.html"
    page = render_answers({"tuned": answers(questions, MINE)}, rows, "", [], [])
    file.write_text(page, encoding="utf-8")
    with open_page(browser, file) as opened:
        assert opened.visible("#versus") == 0
        assert opened.visible("figure") == 4
        assert opened.page.locator("#order option").count() == 3


def test_only_the_worst_of_many_rows_are_on_the_page(browser: Browser, rows: Rows, tmp_path: Path) -> None:
    question = questions_of(rows)[0]
    many = [Prediction.of(question, MINE[0]) for _ in range(ON_PAGE)] + answers(questions_of(rows), MINE)[2:3]
    file = tmp_path / "many.html"
    file.write_text(render_answers({"tuned": many}, rows, f"{len(many)} rows", [], []), encoding="utf-8")
    with open_page(browser, file) as opened:
        assert f"the worst {ON_PAGE} of {ON_PAGE + 1} rows" in (opened.page.locator("#heading").text_content() or "")
        assert shown(opened)[0] == 2


def test_the_contact_sheet_has_the_worst_rows_of_both_models(rows: Rows) -> None:
    questions = questions_of(rows)
    both = {"tuned": answers(questions, MINE), "base": answers(questions, OTHER)}
    few, all_rows = (render_worst(both, rows, "four rows", count=count) for count in (1, 8))
    assert few.width == all_rows.width
    assert all_rows.height > 3 * few.height


@pytest.mark.slow
def test_wandb_gets_a_picture_of_the_worst_answers(rows: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb
    from transformers.integrations import WandbCallback

    from swiftalign.worker.trackers import show_answers

    monkeypatch.setenv("WANDB_SILENT", "true")
    callback = WandbCallback()
    run = wandb.init(mode="offline", dir=tmp_path)
    callback._initialized = True  # as its `setup` does in training
    trainer = SimpleNamespace(
        callback_handler=SimpleNamespace(callbacks=[callback]), state=SimpleNamespace(global_step=80)
    )
    show_answers(trainer, answers(questions_of(rows), MINE), rows)
    run.finish()
    [file] = tmp_path.glob("wandb/offline-run-*/files/media/images/eval/worst_answers_*.png")
    with Image.open(file) as picture:
        assert picture.width > 600
