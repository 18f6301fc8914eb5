"""Answers to look at: a page of the worst, with what is true and what was predicted, and a contact sheet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from swiftalign.data.images import open_image
from swiftalign.data.metrics import BY_DISTANCE
from swiftalign.data.rows import Rows
from swiftalign.data.targets import TextTarget
from swiftalign.evaluation.faults import FAULTS, Judged, judge, worst_first
from swiftalign.evaluation.predictions import Prediction, target_json
from swiftalign.previews.contact_sheet import render_sheet
from swiftalign.previews.html import data_url, filled
from swiftalign.previews.strips import Panel, Shape, Status, Strip, thumbnail

Answers = Mapping[str, Sequence[Prediction]]
"""By the names of the models, their answers to the same questions in the same order: of one model, or of two."""

ON_PAGE = 200  # rows
ON_SHEET = 8  # rows


def render_answers(
    answers: Answers, rows: Rows, heading: str, columns: Sequence[str], numbers: Sequence[Sequence[str]]
) -> str:
    """The worst rows of the first model as an HTML page.

    Args:
        rows: the rows that were asked.
        heading: line below the title.
        columns: headings of the table of numbers.
        numbers: lines of that table.
    """
    ranks = {name: worst_first(each) for name, each in answers.items()}
    places = [{each.prediction.question.index: place for place, each in enumerate(rank)} for rank in ranks.values()]
    by_row = [{each.prediction.question.index: each for each in rank} for rank in ranks.values()]
    mine = next(iter(ranks.values()))
    shown = []
    for each in mine[:ON_PAGE]:
        question = each.prediction.question
        both = [side[question.index] for side in by_row]
        wide, high = question.size
        shown.append(
            {
                "row": question.index,
                "place": "  ".join(filter(None, ["/".join(Path(question.image).parts[-3:]), question.where])),
                "prompt": question.prompt,
                "true_text": question.answer,
                "width": wide,
                "height": high,
                "source": data_url(thumbnail(_image(rows, question.index))),
                "kinds": sorted({target.kind for target in question.truth}),
                "labels": sorted({target.label for target in question.truth}),
                "rank": [place[question.index] for place in places],
                "f1": [side.badness[1] for side in both],
                "answers": [
                    {
                        "model": name,
                        "text": side.prediction.text,
                        "error": side.prediction.error,
                        "faults": side.faults,
                        "targets": [*_drawn(side)],
                    }
                    for name, side in zip(answers, both, strict=True)
                ],
            }
        )
    names = list(answers)
    more = f"; the worst {len(shown)} of {len(mine):,} rows are on this page" if len(shown) < len(mine) else ""
    data = {
        "title": names[0] if len(names) == 1 else f"{names[0]} against {names[1]}",
        "heading": heading + more,
        "models": names,
        "faults": FAULTS,
        "columns": columns,
        "numbers": numbers,
        "rows": shown,
    }
    return filled("swiftalign.evaluation", "page.html", data)


def _image(rows: Rows, index: int) -> Any:
    [image] = rows.row(index).images
    assert image is not None
    return open_image(image)


def _drawn(judged: Judged) -> Iterator[dict[str, Any]]:
    """The true targets, and the predicted ones over them, each with what became of it."""
    question, answer = judged.prediction.question, judged.prediction.answer
    for number, target in enumerate(question.truth):
        missed = number in judged.missed
        yield target_json(target) | {"status": "missed" if missed else "true", "label": target.label if missed else ""}
    notes, status = _notes(judged), dict.fromkeys(judged.extra, "extra")
    status |= dict.fromkeys(judged.off.values(), "off") | dict.fromkeys(judged.label.values(), "misnamed")
    for number, target in enumerate(answer.targets):
        yield target_json(target) | {"status": status.get(number, "right"), "note": notes.get(number, "")}


def _notes(judged: Judged) -> dict[int, str]:
    """What is wrong with predicted targets, by their numbers."""
    cost = {pair.predicted: pair.cost for pair in judged.prediction.pairs}
    found = dict.fromkeys(judged.extra, "not there")
    truth = judged.prediction.question.truth
    for true, written in judged.off.items():
        distance = f"{cost[written]:.0%} away"
        found[written] = distance if truth[true].kind in BY_DISTANCE else f"IoU {1 - cost[written]:.2f}"
    return found | {written: f"it is {truth[true].label}" for true, written in judged.label.items()}


def render_worst(
    answers: Answers, rows: Rows, heading: str, *, count: int = ON_SHEET, title: str = "The worst answers"
) -> Image.Image:
    """The worst rows of the first model as a picture: what is true, and what each model wrote."""
    by_row = {name: {each.question.index: each for each in side} for name, side in answers.items()}
    worst = worst_first(next(iter(answers.values())))[:count]
    return draw_rows([each.prediction.question.index for each in worst], by_row, rows, heading, title)


def draw_rows(
    indices: Sequence[int],
    answers: Mapping[str, Mapping[int, Prediction]],
    rows: Rows,
    heading: str,
    title: str,
    *,
    true_rows: Rows | None = None,
) -> Image.Image:
    """Chosen rows as a picture.

    Args:
        indices: numbers of the rows.
        answers: by the names of the models, their answers by row.
        true_rows: rows with other images of the same scenes, on which the true targets are drawn.
    """
    strips = []
    for index in indices:
        image, true_image, panels = _image(rows, index), _image(true_rows or rows, index), []
        judged = {name: judge(side[index]) for name, side in answers.items()}
        question = next(iter(judged.values())).prediction.question
        small = thumbnail(image)
        panels.append(
            Panel("true", thumbnail(true_image), question.size, tuple(_shape(target) for target in question.truth))
        )
        for name, each in judged.items():
            notes = _notes(each)
            shapes = [_shape(question.truth[number], "dropped", "missed") for number in sorted(each.missed)]
            for number, target in enumerate(each.prediction.answer.targets):
                note = notes.get(number, "")
                shapes.append(_shape(target, "clipped" if note else "kept", note))
            faults = tuple(FAULTS[fault] for fault in each.faults if fault in ("malformed", "failed"))
            panels.append(Panel(name, small, question.size, tuple(shapes), faults=faults))
        path = Path(question.image) if question.image else b""
        strips.append(Strip(index, path, tuple(panels)))
    return render_sheet(strips, heading, title=title, with_losses=False)


def _shape(target: TextTarget, status: Status = "kept", note: str = "") -> Shape:
    return Shape(target.kind, target.label, target.in_shares().points, status, note)
