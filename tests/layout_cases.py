"""Writers of the same targets in every layout of rows, for tests that hold the layouts against each other."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from swiftalign.config.sections import Kind
from swiftalign.data.sizes import Size
from swiftalign.data.targets import SPELLINGS, PixelTarget
from swiftalign.data.text import Writing

PROMPT = "Find what is there."
ALL: tuple[Kind, ...] = ("bbox", "quad", "line", "point", "polygon")


class Layout(NamedTuple):
    """A layout to write rows in.

    Attributes:
        write: makes a row of targets in pixels of an image of this size.
        kinds: the kinds of target that it can hold.
        error: how far a coordinate may be off as it is written, in thousandths of the side; 0 where it is exact.
    """

    write: Callable[[Sequence[PixelTarget], Size, Writing], dict[str, Any]]
    kinds: tuple[Kind, ...] = ALL
    error: float = 0.0


def shares(target: PixelTarget, size: Size) -> list[float]:
    return [share for x, y in target.points for share in (x / size[0], y / size[1])]


def pixels(target: PixelTarget) -> list[float]:
    return [number for point in target.points for number in point]


def own(unit: str | None = None, *, guide: bool = False) -> Layout:
    names = {kind: spelling.row_key for kind, spelling in SPELLINGS.items()}
    if guide:
        names |= {"quad": "poly", "polygon": "poly", "point": "point"}

    def write(targets: Sequence[PixelTarget], size: Size, writing: Writing) -> dict[str, Any]:
        objects = []
        for target in targets:
            numbers, key = pixels(target), names[target.kind]
            if unit:
                numbers = [share * (1000 if unit == "relative1000" else 1) for share in shares(target, size)]
            counts = {f"{key}_points": len(target.points)} if guide and target.kind != "bbox" else {}
            objects.append({key: numbers, **counts, "desc" if guide else "label": target.label})
        row: dict[str, Any] = {"images": ["a.png"], "prompt": PROMPT, "objects": objects}
        if guide:
            row |= {"summary": "much", "width": size[0], "height": size[1]}
        return row | ({"coordinates": unit} if unit else {})

    return Layout(write)


def in_answer(items: Sequence[tuple[PixelTarget, Any]], writing: Writing, *, fenced: bool = False) -> str:
    """An answer in JSON as the model is to write it; the numbers of each target are given."""
    told = []
    for target, numbers in items:
        label, place = {"label": target.label}, {writing.key(target.kind): numbers}
        told.append({**label, **place} if writing.text.label_first else {**place, **label})
    text = json.dumps(told, ensure_ascii=False)
    return f"```json\n{text}\n```" if fenced else text


def placeholders(kind: str) -> Layout:
    def write(targets: Sequence[PixelTarget], size: Size, writing: Writing) -> dict[str, Any]:
        text = in_answer([(target, "<bbox>") for target in targets], writing).replace('"<bbox>"', "<bbox>")
        numbers = [pixels(target) if kind == "real" else shares(target, size) for target in targets]
        return {
            "messages": [{"role": "user", "content": f"<image>{PROMPT}"}, {"role": "assistant", "content": text}],
            "images": ["a.png"],
            "objects": {"ref": [], "bbox": numbers, "bbox_type": kind},
        }

    return Layout(write)


Shape = Callable[[str], dict[str, Any]]
TURN = {"role": "user", "content": f"<image>{PROMPT}"}
SHAPES: dict[str, Shape] = {
    "messages": lambda text: {"messages": [TURN, {"role": "assistant", "content": text}], "images": ["a.png"]},
    "conversations": lambda text: {
        "image": "a.png",
        "conversations": [{"from": "human", "value": TURN["content"]}, {"from": "gpt", "value": text}],
    },
    "query-response": lambda text: {"images": ["a.png"], "query": TURN["content"], "response": text},
    "content-list": lambda text: {
        "messages": [
            {"role": "user", "content": [{"type": "image", "image": "a.png"}, {"type": "text", "text": PROMPT}]},
            {"role": "assistant", "content": [{"type": "text", "text": text}]},
        ]
    },
}


def thousandths(shape: Shape, *, fenced: bool = False) -> Layout:
    def write(targets: Sequence[PixelTarget], size: Size, writing: Writing) -> dict[str, Any]:
        items = [(target, [round(share * 1000) for share in shares(target, size)]) for target in targets]
        return {**shape(in_answer(items, writing, fenced=fenced)), "coordinates": "relative1000"}

    return Layout(write, error=0.5)


def paligemma(targets: Sequence[PixelTarget], size: Size, writing: Writing) -> dict[str, Any]:
    parts = []
    for target in targets:
        x1, y1, x2, y2 = (round(share * 1024) for share in shares(target, size))
        parts.append("".join(f"<loc{number:04d}>" for number in (y1, x1, y2, x2)) + f" {target.label}")
    return {"image": "a.png", "prefix": PROMPT, "suffix": " ; ".join(parts)}


def florence(targets: Sequence[PixelTarget], size: Size, writing: Writing) -> dict[str, Any]:
    tokens = [[f"<loc_{min(math.floor(share * 1000), 999)}>" for share in shares(target, size)] for target in targets]
    suffix = "".join(target.label + "".join(each) for target, each in zip(targets, tokens, strict=True))
    return {"image": "a.png", "prefix": PROMPT, "suffix": suffix}


LAYOUTS: dict[str, Layout] = {
    "own": own(),
    "own-relative1000": own("relative1000"),
    "own-relative1": own("relative1"),
    "guide": own(guide=True),
    "placeholders-real": placeholders("real"),
    "placeholders-norm1": placeholders("norm1"),
    "messages": thousandths(SHAPES["messages"]),
    "messages-fenced": thousandths(SHAPES["messages"], fenced=True),
    "conversations": thousandths(SHAPES["conversations"]),
    "query-response": thousandths(SHAPES["query-response"]),
    "content-list": thousandths(SHAPES["content-list"]),
    "paligemma": Layout(paligemma, ("bbox",), 0.5 * 1000 / 1024),
    "florence": Layout(florence, ("bbox", "quad", "polygon"), 0.5),
}
EXACT = [name for name, layout in LAYOUTS.items() if not layout.error]
ROUNDED = [name for name, layout in LAYOUTS.items() if layout.error]
