"""Damaged rows of every layout: each is named, or gives the right targets; never others, and never a traceback.

Damage that leaves another plausible row can't be seen, and is not in the list: a number that becomes another number
within the image, another order of targets, a polygon with a corner less, one existing image in place of another of the
same size, a name that becomes another name or is left out of an answer, one row alone in another unit. Nor is damage
that leaves the same meaning: a row without its optional keys (prompt, summary, width and height, counts of points),
without the <image> that comes first in any case, with its keys in another order, or with other white space.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
from PIL import Image

from layout_cases import LAYOUTS, pixels
from swiftalign.config.sections import Kind
from swiftalign.data.rows import Rows
from swiftalign.data.scan import scan
from swiftalign.data.targets import PixelTarget
from swiftalign.data.text import Writing

SIZE = (1920, 1080)
ROWS, SEED = 1000, 7
WHOLE_FILE = 40  # rows of a file whose unit is another one than it says

Row = dict[str, Any]
Damage = Callable[[Random, str, Row], Any]
"""Makes a damaged row, a line, or the rows of a file of a sound row; None where the damage does not apply."""

DAMAGES: dict[str, Damage] = {}


def damage(name: str) -> Callable[[Damage], Damage]:
    def named(make: Damage) -> Damage:
        DAMAGES[name] = make
        return make

    return named


def some_targets(rng: Random, layout: str) -> list[PixelTarget]:
    """One to three targets that reach far into the right and lower half of the image."""
    targets = []
    for number in range(rng.randint(1, 3)):
        x, y = rng.randint(20, 500), rng.randint(20, 300)
        right, bottom = rng.randint(1000, 1900), rng.randint(560, 1070)
        shapes: dict[Kind, list[tuple[int, int]]] = {
            "bbox": [(x, y), (right, bottom)],
            "quad": [(x + 9, y), (right, y + 9), (right - 9, bottom), (x, bottom - 9)],
            "line": [(x, y), (right, y + 30), (right - 20, bottom)],
            "polygon": [(x, y + 40), (x + 90, y), (right, y + 50), (right - 90, bottom), (x + 10, bottom - 9)],
        }
        kinds = [kind for kind in LAYOUTS[layout].kinds if kind in shapes]
        kind = "bbox" if not number else rng.choice(kinds)
        points = tuple((float(a), float(b)) for a, b in shapes[kind])
        targets.append(PixelTarget(kind, ["cup", "steel plate", "table"][number], points))
    return targets


# Where a row has its parts


def answer_of(row: Row) -> tuple[dict[str, Any], str] | None:
    """The object and the key of a row's answer in text."""
    if "response" in row:
        return row, "response"
    if "conversations" in row:
        return row["conversations"][-1], "value"
    if "messages" in row:
        content = row["messages"][-1]["content"]
        return (content[0], "text") if isinstance(content, list) else (row["messages"][-1], "content")
    return (row, "suffix") if "suffix" in row else None


def with_answer(row: Row, change: Callable[[str], str]) -> Row | None:
    place = answer_of(row)
    if place is None:
        return None
    inside, key = place
    text, inside[key] = inside[key], change(inside[key])
    return None if inside[key] == text else row


def with_items(row: Row, change: Callable[[list[Any]], None]) -> Row | None:
    """The row with other objects; in an answer, those of its JSON."""
    if isinstance(row.get("objects"), list):
        change(row["objects"])
        return row

    def changed(text: str) -> str:
        begin, end = text.find("["), text.rfind("]") + 1
        items = json.loads(text[begin:end].replace("<bbox>", '"<bbox>"'))
        change(items)
        return text[:begin] + json.dumps(items, ensure_ascii=False).replace('"<bbox>"', "<bbox>") + text[end:]

    return None if "suffix" in row else with_answer(row, changed)


def with_numbers(rng: Random, row: Row, change: Callable[[list[Any]], Any], kind: str = "") -> Row | None:
    """The row with other numbers of one of its targets."""
    if isinstance(row.get("objects"), dict):
        boxes = row["objects"]["bbox"]
        number = 0 if kind else rng.randrange(len(boxes))
        boxes[number] = change(boxes[number])
        return row

    def changed(items: list[Any]) -> None:
        item = items[0] if kind else rng.choice(items)
        key = next(key for key, value in item.items() if isinstance(value, list))
        item[key] = change(item[key])

    return with_items(row, changed)


def raw(row: Row) -> str:
    return json.dumps(row, ensure_ascii=False)


def needed_keys(row: Row) -> list[tuple[dict[str, Any], str]]:
    """The keys without which a row says nothing or something else: their objects and names."""
    names = ("images", "image", "objects", "messages", "conversations", "response", "suffix", "prefix")
    found = [(row, name) for name in names if name in row]
    for turn in [*row.get("messages", ()), *row.get("conversations", ())]:
        found += [(turn, key) for key in turn]
    if isinstance(row.get("objects"), dict):
        found.append((row["objects"], "bbox"))
    elif "objects" in row:
        found += [(item, key) for item in row["objects"] for key in item if not key.endswith("_points")]
    return found


# Lines


@damage("line cut")
def _(rng: Random, layout: str, row: Row) -> Any:
    return raw(row)[: rng.randint(1, len(raw(row)) - 1)]


@damage("line without its beginning")
def _(rng: Random, layout: str, row: Row) -> Any:
    return raw(row)[rng.randint(1, len(raw(row)) - 1) :]


@damage("two lines in one")
def _(rng: Random, layout: str, row: Row) -> Any:
    return raw(row) + raw(row)


@damage("high bit of a byte set")
def _(rng: Random, layout: str, row: Row) -> Any:
    line = bytearray(raw(row).encode())
    line[rng.randrange(len(line))] |= 0x80
    return bytes(line)


@damage("structural byte flipped")
def _(rng: Random, layout: str, row: Row) -> Any:
    line = bytearray(raw(row).encode())
    line[rng.choice([n for n, byte in enumerate(line) if byte in b'{}[]":'])] ^= 1 << rng.randrange(7)
    return bytes(line)


@damage("structural byte removed")
def _(rng: Random, layout: str, row: Row) -> Any:
    line = bytearray(raw(row).encode())
    del line[rng.choice([n for n, byte in enumerate(line) if byte in b'{}[]":,'])]
    return bytes(line)


@damage("byte zeroed")
def _(rng: Random, layout: str, row: Row) -> Any:
    line = bytearray(raw(row).encode())
    line[rng.randrange(len(line))] = 0
    return bytes(line)


# Keys


@damage("key removed")
def _(rng: Random, layout: str, row: Row) -> Any:
    inside, key = rng.choice(needed_keys(row))
    del inside[key]
    return row


@damage("key misspelt")
def _(rng: Random, layout: str, row: Row) -> Any:
    inside, key = rng.choice(needed_keys(row))
    place = rng.randrange(len(key) - 1)
    wrong = rng.choice(
        [
            key[:place] + key[place + 1 :],
            key[:place] + key[place] + key[place:],
            key[:place] + key[place + 1] + key[place] + key[place + 2 :],
        ]
    )
    inside[wrong if wrong != key else f"{key}s"] = inside.pop(key)
    return row


@damage("unit misspelt")
def _(rng: Random, layout: str, row: Row) -> Any:
    if isinstance(row.get("objects"), dict) and rng.random() < 0.5:
        row["objects"]["bbox_type"] = "norm"
        return row
    row["coordinates"] = rng.choice(["relative", "0..1000", "pixel", 1000, ["pixels"]])
    return None if "suffix" in row or "bbox_type" in (row.get("objects") or ()) else row


@damage("key given twice")
def _(rng: Random, layout: str, row: Row) -> Any:
    inside, key = rng.choice(needed_keys(row))
    inside["@"] = rng.choice([inside[key], None, "x"])
    return raw(row).replace('"@":', f'"{key}":')


@damage("key of an answer given twice")
def _(rng: Random, layout: str, row: Row) -> Any:
    if isinstance(row.get("objects"), list):
        return None

    def twice(items: list[Any]) -> None:
        item = rng.choice(items)
        key = rng.choice(list(item))
        item["@" + key] = "other" if isinstance(item[key], str) else item[key][::-1]

    changed = with_items(row, twice)
    return changed and json.loads(raw(changed).replace('\\"@', '\\"'))


@damage("coordinate key of an answer misspelt")
def _(rng: Random, layout: str, row: Row) -> Any:
    if isinstance(row.get("objects"), list):
        return None

    def misspelt(items: list[Any]) -> None:
        item = rng.choice(items)
        key = next(key for key in item if key != "label")
        place = rng.randrange(len(key) - 1)
        item[rng.choice([key[:place] + key[place + 1 :], f"{key}s", key.replace("_", "-")])] = item.pop(key)

    return with_items(row, misspelt)


@damage("wrong type")
def _(rng: Random, layout: str, row: Row) -> Any:
    inside, key = rng.choice(needed_keys(row))
    value = inside[key]
    others = [None, True, 3, 2.5, {"a": 1}, [[1]], [None], ["", 1], {}]
    if isinstance(value, list):
        others.append("text")
    inside[key] = rng.choice(others)
    return row


@damage("two kinds in one object")
def _(rng: Random, layout: str, row: Row) -> Any:
    if not isinstance(row.get("objects"), list):
        return None
    rng.choice(row["objects"])["point_2d"] = [30, 40]
    return row


@damage("number of points wrong")
def _(rng: Random, layout: str, row: Row) -> Any:
    counts = [(item, key) for item in row.get("objects", ()) if layout == "guide" for key in item if "_points" in key]
    if not counts:
        return None
    inside, key = rng.choice(counts)
    inside[key] += rng.choice([-1, 1, 7])
    return row


# Numbers


@damage("corners swapped")
def _(rng: Random, layout: str, row: Row) -> Any:
    return with_numbers(rng, row, lambda n: [n[2], n[3], n[0], n[1]], "bbox")


@damage("x y width height")
def _(rng: Random, layout: str, row: Row) -> Any:
    # Of a box at the right or lower edge, this ends left of or above its own corner.
    if isinstance(row.get("objects"), dict):
        end = row["objects"]["bbox"][0][2:]
        return with_numbers(
            rng, row, lambda n: [n[0] * 0.5 + end[0] * 0.5, n[1], n[2] * 0.5 - n[0] * 0.5, n[3]], "bbox"
        )
    return with_numbers(
        rng, row, lambda n: [round((n[0] + n[2]) / 2, 4), n[1], round((n[2] - n[0]) / 2, 4), n[3]], "bbox"
    )


@damage("box without area")
def _(rng: Random, layout: str, row: Row) -> Any:
    return with_numbers(rng, row, rng.choice([lambda n: [n[0], n[1], n[0], n[3]], lambda n: n[:2] * 2]), "bbox")


@damage("number removed")
def _(rng: Random, layout: str, row: Row) -> Any:
    if "suffix" in row:
        tokens = re.findall(r"<loc\w+>", row["suffix"])
        place = row["suffix"].index(rng.choice(tokens))
        return row | {"suffix": row["suffix"][:place] + re.sub(r"^<loc\w+>", "", row["suffix"][place:])}
    return with_numbers(rng, row, lambda n: [each for place, each in enumerate(n) if place != len(n) // 2])


@damage("number not finite")
def _(rng: Random, layout: str, row: Row) -> Any:
    wrong = rng.choice([float("nan"), float("inf"), float("-inf")])
    return with_numbers(rng, row, lambda n: [wrong, *n[1:]])


@damage("number too large for a float")
def _(rng: Random, layout: str, row: Row) -> Any:
    changed = with_numbers(rng, row, lambda n: [123456789123456789, *n[1:]])
    return changed and raw(changed).replace("123456789123456789", rng.choice(["1e400", "-1e400", "9" * 400]))


@damage("number as text, null, list or boolean")
def _(rng: Random, layout: str, row: Row) -> Any:
    wrong = rng.choice(["12", None, [12], True, {}, "x"])
    return with_numbers(rng, row, lambda n: [*n[:-1], wrong])


@damage("numbers in place of a list")
def _(rng: Random, layout: str, row: Row) -> Any:
    return with_numbers(rng, row, lambda n: rng.choice([", ".join(map(str, n)), n[0], None, {"x": n[0]}, []]))


@damage("number far outside")
def _(rng: Random, layout: str, row: Row) -> Any:
    return with_numbers(rng, row, lambda n: rng.choice([[*n[:-1], 54_321], [-3_000, *n[1:]]]))


@damage("numbers scaled by ten")
def _(rng: Random, layout: str, row: Row) -> Any:
    return with_numbers(rng, row, lambda n: [10 * each for each in n])


# Units: the rows of a whole file


def in_another_unit(layout: str, rows: list[Row], change: Callable[[float, int], float]) -> list[Row] | None:
    """The rows with each number changed; `change` gets it with the side of the image that it is measured along."""
    for row in rows:

        def changed(numbers: list[float]) -> list[float]:
            return [change(each, SIZE[place % 2]) for place, each in enumerate(numbers)]

        if isinstance(row.get("objects"), dict):
            row["objects"]["bbox"] = [changed(box) for box in row["objects"]["bbox"]]
            continue

        def every(items: list[Any], changed: Callable[[list[float]], list[float]] = changed) -> None:
            for item in items:
                for key in item:
                    if isinstance(item[key], list):
                        item[key] = changed(item[key])

        if with_items(row, every) is None:
            return None
    return rows


IN_PIXELS = ("own", "guide", "placeholders-real")
IN_SHARES = ("own-relative1", "placeholders-norm1")


def unit_of(layout: str) -> float | None:
    """What a side of the image is in the layout: None for its pixels."""
    return None if layout in IN_PIXELS else 1 if layout in IN_SHARES else 1000


def file_in_unit(rng: Random, layout: str, unit: float | None) -> list[Row] | None:
    rows = [LAYOUTS[layout].write(some_targets(rng, layout), SIZE, Writing()) for _ in range(WHOLE_FILE)]
    was = unit_of(layout)

    def change(number: float, side: int) -> float:
        value = number / (was or side) * (unit or side)
        return round(value, 4) if unit == 1 else round(value)

    return None if unit == was else in_another_unit(layout, json.loads(json.dumps(rows)), change)


@damage("file in pixels")
def _(rng: Random, layout: str, row: Row) -> Any:
    return file_in_unit(rng, layout, None)


@damage("file in 0..1")
def _(rng: Random, layout: str, row: Row) -> Any:
    return file_in_unit(rng, layout, 1)


@damage("file in 0..1000")
def _(rng: Random, layout: str, row: Row) -> Any:
    return file_in_unit(rng, layout, 1000)


# Placeholders, labels and images


def with_text(row: Row, change: Callable[[str], str]) -> Row | None:
    """The row with another question."""
    for key in ("prompt", "query", "prefix"):
        if key in row:
            return row | {key: change(row[key])}
    turn = (row.get("messages") or row["conversations"])[0]
    key = "content" if "content" in turn else "value"
    if isinstance(turn[key], list):
        turn[key][1]["text"] = change(turn[key][1]["text"])
    else:
        turn[key] = change(turn[key])
    return row


@damage("placeholder added")
def _(rng: Random, layout: str, row: Row) -> Any:
    return with_text(row, lambda text: text + rng.choice(["<image>", "<bbox>", "<ref-object>"]))


@damage("placeholder of a box added")
def _(rng: Random, layout: str, row: Row) -> Any:
    return with_answer(row, lambda text: f"{text}<bbox>") if "suffix" not in row else None


@damage("placeholder of a box removed")
def _(rng: Random, layout: str, row: Row) -> Any:
    return with_answer(row, lambda text: text.replace("<bbox>", rng.choice(["", "[]", "null"]), 1))


@damage("box of a placeholder removed")
def _(rng: Random, layout: str, row: Row) -> Any:
    if not isinstance(row.get("objects"), dict):
        return None
    row["objects"]["bbox"].pop()
    return row


@damage("token of an image in the text")
def _(rng: Random, layout: str, row: Row) -> Any:
    return with_text(row, lambda text: f"{text}<|image_pad|>")


@damage("label emptied")
def _(rng: Random, layout: str, row: Row) -> Any:
    if "suffix" in row:
        name = re.findall(r"[a-z ]*[a-z]", re.sub(r"<\w+>", "|", row["suffix"]))[0]
        return row | {"suffix": row["suffix"].replace(name, " ", 1)}

    def emptied(items: list[Any]) -> None:
        item = rng.choice(items)
        item["label" if "label" in item else "desc"] = rng.choice(["", " ", "\n"])

    return with_items(row, emptied)


@damage("answer cut")
def _(rng: Random, layout: str, row: Row) -> Any:
    def cut(text: str) -> str:
        return text[: rng.randint(15, len(text.removesuffix("```").rstrip()) - 1)]

    return None if "suffix" in row else with_answer(row, cut)


@damage("bracket of an answer removed")
def _(rng: Random, layout: str, row: Row) -> Any:
    def without(text: str) -> str:
        place = rng.choice([match.start() for match in re.finditer(r"[\[\]{}]", text)][1:])
        return text[:place] + text[place + 1 :]

    return None if "suffix" in row else with_answer(row, without)


def with_image(row: Row, image: Any) -> Row:
    if "image" in row:
        return row | {"image": image}
    if "images" in row:
        return row | {"images": [image]}
    row["messages"][0]["content"][0]["image"] = image
    return row


@damage("image missing")
def _(rng: Random, layout: str, row: Row) -> Any:
    return with_image(row, rng.choice(["b.png", "a.png.png", "a/a.png", "A.png", "a.jpg", "x" * 300]))


@damage("image that is none")
def _(rng: Random, layout: str, row: Row) -> Any:
    return with_image(row, rng.choice(["text.png", "cut.png", "empty.png", "."]))


@damage("image much smaller")
def _(rng: Random, layout: str, row: Row) -> Any:
    # In thousandths and shares, targets fit any image.
    return with_image(row, "small.png") if unit_of(layout) is None and "suffix" not in row else None


@damage("image listed twice")
def _(rng: Random, layout: str, row: Row) -> Any:
    return row | {"images": ["a.png", "a.png"]} if "images" in row and "objects" not in row else None


@damage("number of the image out of range")
def _(rng: Random, layout: str, row: Row) -> Any:
    number = rng.choice([1, 7, -1, "0", 0.5])
    if isinstance(row.get("objects"), dict):
        row["objects"]["image_id"] = [number] * len(row["objects"]["bbox"])
    elif "objects" in row:
        rng.choice(row["objects"])["image"] = number
    return row if "objects" in row else None


@damage("another size is given")
def _(rng: Random, layout: str, row: Row) -> Any:
    return row | {"width": 1280, "height": 720} if "suffix" not in row else None


@damage("role unknown")
def _(rng: Random, layout: str, row: Row) -> Any:
    turns = row.get("messages") or row.get("conversations")
    if not turns:
        return None
    turn = rng.choice(turns)
    turn["role" if "role" in turn else "from"] = rng.choice(["asistant", "", "bot2", None, 3])
    return row


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("damaged")
    Image.new("RGB", SIZE, "grey").save(folder / "a.png")
    Image.new("RGB", (300, 200), "grey").save(folder / "small.png")
    (folder / "text.png").write_text("no image")
    (folder / "empty.png").write_bytes(b"")
    (folder / "cut.png").write_bytes((folder / "a.png").read_bytes()[:20])
    return folder


def wrong(folder: Path, made: Any, targets: list[PixelTarget], error: float) -> str:
    """What is wrong with the outcome of damage: empty where it is named, or where the targets are the right ones."""
    path = folder / "rows.jsonl"
    lines = [raw(each) for each in made] if isinstance(made, list) else [raw(made) if isinstance(made, dict) else made]
    path.write_bytes(b"\n".join(line if isinstance(line, bytes) else line.encode() for line in lines))
    report = scan([path])
    if any(found.severity in ("error", "warning") for found in report.findings):
        return ""
    if isinstance(made, list):
        return "a file in another unit passes"
    row = Rows([path]).row(0)
    if row.images != (folder / "a.png",):
        return f"images {row.images}"
    found = row.record([SIZE]).targets
    if [(t.kind, t.label) for t in found] != [(t.kind, t.label) for t in targets]:
        return f"other targets: {found}"
    gaps = [
        abs(a - b)
        for one, two in zip(found, targets, strict=True)
        for a, b in zip(*map(pixels, (one, two)), strict=True)
    ]
    return f"off by {max(gaps):.3g} pixels" if max(gaps) > error else ""


def sound_row(rng: Random, layout: str) -> tuple[Row, list[PixelTarget]]:
    targets = some_targets(rng, layout)
    return json.loads(json.dumps(LAYOUTS[layout].write(targets, SIZE, Writing()))), targets


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_rows_are_sound_before_they_are_damaged(layout: str, folder: Path) -> None:
    for number in range(5):
        row, targets = sound_row(Random(f"{layout}:{number}"), layout)
        error = LAYOUTS[layout].error / 1000 * SIZE[0] + 1e-6
        assert wrong(folder, row, targets, error) == ""
        report = scan([folder / "rows.jsonl"])
        assert not [found for found in report.findings if found.severity != "note"]


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_rows_are_named_or_right(name: str, folder: Path) -> None:
    done, number, faults = 0, 0, list[str]()
    while done < -(-ROWS // len(DAMAGES)):
        layout = list(LAYOUTS)[number % len(LAYOUTS)]
        rng, number = Random(f"{SEED}:{name}:{number}"), number + 1
        assert number < 3000, "the damage applies nowhere"
        row, targets = sound_row(rng, layout)
        made = DAMAGES[name](rng, layout, copy.deepcopy(row))
        if made is None:
            continue
        done += 1
        if fault := wrong(folder, made, targets, LAYOUTS[layout].error / 1000 * SIZE[0] + 1e-6):
            faults.append(f"{layout}: {fault}\n  {made if not isinstance(made, list) else made[0]}")
    assert not faults, "\n".join([f"{len(faults)} of {done}", *faults[:4]])
