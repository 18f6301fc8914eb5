"""Rows of JSONL files, each with the finding that a scan must give: `test_grounding_scan.py` runs over them."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

from PIL import Image

WIDTH, HEIGHT = 640, 480
BOX = {"label": "red box", "bbox_2d": [10, 20, 100, 200]}
TALK = [{"role": "user", "content": "<image>Where?"}, {"role": "assistant", "content": "Here."}]


def _inline(size: tuple[int, int]) -> str:
    file = io.BytesIO()
    Image.new("RGB", size, "grey").save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


INLINE = _inline((WIDTH, HEIGHT))
BROKEN = base64.b64encode(b"no image").decode()


def draw_images(folder: Path) -> Path:
    """Images of several sizes and kinds, in a folder."""
    sizes = {"a": (WIDTH, HEIGHT), "large": (1920, 1080), "tiny": (30, 30), "strip": (2010, 10)}
    for name, size in sizes.items():
        Image.new("RGB", size, "grey").save(folder / f"{name}.png")
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.new("RGB", (HEIGHT, WIDTH), "grey").save(folder / "turned.jpg", exif=turned)
    (folder / "text.png").write_text("no image")
    return folder


def own(*objects: Any, image: str = "a.png", **others: Any) -> dict[str, Any]:
    return {"images": [image], "objects": [*objects], **others}


def box(*numbers: float, label: str = "red box") -> dict[str, Any]:
    return {"label": label, "bbox_2d": [*numbers]}


def quad(*numbers: float) -> dict[str, Any]:
    return {"label": "slab", "quad": [*numbers]}


def point(*numbers: float) -> dict[str, Any]:
    return {"label": "handle", "point_2d": [*numbers]}


def polygon(*numbers: float) -> dict[str, Any]:
    return {"label": "lake", "polygon": [*numbers]}


def line(*numbers: float) -> dict[str, Any]:
    return {"label": "wire", "line": [*numbers]}


def swift(text: str = "<image>", answer: str = "Here.", **others: Any) -> dict[str, Any]:
    talk = [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]
    return {"messages": talk, "images": ["a.png"], **others}


def boxes(*numbers: list[float], **others: Any) -> dict[str, Any]:
    return swift(answer="<bbox>" * len(numbers), objects={"bbox": [*numbers], **others})


RELATIVE = {"coordinates": "relative1000"}
CUP = '[{"bbox_2d": [100, 200, 300, 400], "label": "cup"}]'
# code, row, what the finding says of it, and a row near it that is sound
CASES: list[tuple[str, Any, str, Any]] = [
    ("data-row-malformed", "{", "Expecting property name", own(BOX)),
    ("data-row-malformed", '{"images": [1e400]}', "'images' must be a list of paths", own(BOX)),
    (
        "data-row-malformed",
        own(box(1, 2, float("nan"), 4)),
        "object 'red box': bbox_2d must be 4 numbers",
        own(box(1, 2, 3, 4)),
    ),
    (
        "data-row-malformed",
        own(box(1, 2, int("9" * 400), 4.5)),
        "object 'red box': bbox_2d must be 4 numbers",
        own(box(1, 2, 3, 4.5)),
    ),
    ("data-image-missing", own(BOX, image="none.png"), "none.png", own(BOX)),
    ("data-image-missing", swift(images=["none.png"]), "none.png", swift()),
    (
        "data-media-missing",
        swift("<image><video>", videos=["none.mp4"]),
        "none.mp4",
        swift("<image><video>", videos="text.png"),
    ),
    ("data-image-unreadable", own(BOX, image="text.png"), "text.png: not an image", own(BOX)),
    ("data-image-unreadable", own(BOX, image="."), ": not a file", own(BOX)),
    (
        "data-image-unreadable",
        swift(images=[f"data:,{BROKEN}"]),
        "in the row: not an image",
        swift(images=[f"data:,{INLINE}"]),
    ),
    (
        "data-image-unreadable",
        own(box(1, 2, 3, 4), image="strip.png"),
        "2010x10: one side is more than 200 times the other",
        own(box(1, 2, 3, 4), image="tiny.png"),
    ),
    (
        "data-outside-image",
        own(box(10, 20, 644, 100)),
        "bbox of 'red box' reaches 4 px beyond the right of 640x480",
        own(box(10, 20, 640, 480)),
    ),
    (
        "data-outside-image",
        own(quad(10, 10, 50, -4, 50, 30, 10, 30)),
        "quad of 'slab' reaches 4 px beyond the top of 640x480",
        own(quad(10, 10, 50, 0, 50, 30, 10, 30)),
    ),
    (
        "data-outside-image",
        own(line(-60, 5, 9, 9)),
        "line of 'wire' reaches 60 px beyond the left of 640x480",
        own(line(0, 5, 9, 9)),
    ),
    (
        "data-outside-image",
        own(box(5, -30, 9, 9), **RELATIVE),
        "bbox of 'red box' reaches 14.4 px beyond the top of 640x480",
        own(box(5, 0, 9, 1000), **RELATIVE),
    ),
    (
        "data-outside-image",
        own(box(10, 10, 500, 500), image="turned.jpg"),
        "bbox of 'red box' reaches 20 px beyond the bottom of 640x480",
        own(box(10, 10, 600, 480), image="turned.jpg"),
    ),
    (
        "data-outside-image",
        boxes([1, 2, 700, 4]),
        "bbox 1 reaches 60 px beyond the right of 640x480",
        boxes([1, 2, 640, 480], [0, 0]),
    ),
    (
        "data-outside-image",
        boxes([-0.3, 0.2, 0.5, 1], bbox_type="norm1"),
        "bbox 1 reaches 192 px beyond the left of 640x480",
        boxes([0.3, 0.2, 0.5, 1], bbox_type="norm1"),
    ),
    (
        "data-outside-image",
        own({"label": "dot", "point_2d": [5, 500]}),
        "point of 'dot' reaches 20 px beyond the bottom of 640x480",
        own({"label": "dot", "point_2d": [5, 480]}),
    ),
    (
        "data-outside-image",
        own({**box(10, 20, 644, 100), "image": 1}, images=["large.png", "a.png"]),
        "bbox of 'red box' reaches 4 px beyond the right of 640x480",
        own({**box(10, 20, 644, 100), "image": 1}, images=["a.png", "large.png"]),
    ),
    (
        "data-outside-image",
        swift(answer=CUP.replace("200", "-10"), **RELATIVE),
        "bbox of 'cup' reaches 4.8 px beyond the top of 640x480",
        swift(answer=CUP, **RELATIVE),
    ),
    (
        "data-outside-slightly",
        own(box(10, 20, 643.2, 100)),
        "bbox of 'red box' reaches 3.2 px beyond the right of 640x480",
        own(box(10, 20, 640, 100)),
    ),
    (
        "data-outside-slightly",
        own(box(1, 2, 31, 9), image="tiny.png"),
        "bbox of 'red box' reaches 1 px beyond the right of 30x30",
        own(box(1, 2, 30, 9), image="tiny.png"),
    ),
    (
        "data-coordinates-pixel-like",
        own(box(1, 2, 1006, 9), image="large.png", **RELATIVE),
        "bbox of 'red box' reaches 1006 of 1000",
        own(box(1, 2, 1000, 9), image="large.png", **RELATIVE),
    ),
    (
        "data-coordinates-pixel-like",
        boxes([1, 2, 3, 4], [0.1, 0.2, 0.3, 1.5], bbox_type="norm1"),
        "bbox 1 reaches 4 of 1",
        boxes([0.1, 0.2, 0.3, 1], bbox_type="norm1"),
    ),
    (
        "data-coordinates-pixel-like",
        swift(answer=CUP.replace("400", "1100"), **RELATIVE),
        "bbox of 'cup' reaches 1100 of 1000",
        swift(answer=CUP, **RELATIVE),
    ),
    (
        "data-coordinates-share-like",
        own(box(0.1, 0.2, 0.3, 0.4)),
        "all coordinates of 'red box' lie between 0 and 1",
        own(box(0.1, 0.2, 0.3, 0.4), coordinates="relative1"),
    ),
    (
        "data-coordinates-share-like",
        boxes([0.1, 0.2, 0.3, 1]),
        "all coordinates lie between 0 and 1",
        boxes([0.1, 0.2, 0.3, 1], bbox_type="norm1"),
    ),
    (
        "data-image-size",
        own(BOX, width=WIDTH, height=HEIGHT + 1),
        "the row says 640x481, the image is 640x480",
        own(BOX, width=WIDTH, height=HEIGHT),
    ),
    (
        "data-image-size",
        own(BOX, image="turned.jpg", width=HEIGHT, height=WIDTH),
        "the row says 480x640, the image is 640x480: the sides are exchanged",
        own(BOX, image="turned.jpg", width=WIDTH, height=HEIGHT),
    ),
    ("data-image-size", swift(width=9, height=9), "the row says 9x9", swift(width=WIDTH, height=HEIGHT)),
    (
        "data-answer-malformed",
        swift(answer=CUP.replace(", 400", ""), **RELATIVE),
        "bbox_2d of 'cup' is '[100, 200, 300]'",
        swift(answer=CUP, **RELATIVE),
    ),
    (
        "data-answer-malformed",
        swift(answer=CUP[:-1] + ", ", **RELATIVE),
        """its JSON breaks off or is damaged: '[{"bbox_2d": [100, 200, 300, 400], "label": "cup"}, '""",
        swift(answer=CUP, **RELATIVE),
    ),
    (
        "data-answer-malformed",
        swift(answer=CUP.replace('"bbox', "\bbox")[:-1] + f", {CUP[1:]}", **RELATIVE),  # JSON reads \b as a backspace
        """its JSON breaks off or is damaged: '[{\\x08box_2d": [100, 200, 300, 400], '""",
        swift(answer=CUP[:-1] + f", {CUP[1:]}", **RELATIVE),
    ),
    (
        "data-answer-malformed",
        boxes(BOX["bbox_2d"]) | {"messages": swift(answer='[{\bbox_2d": <bbox>, "label": "cup"}]')["messages"]},
        """its JSON breaks off or is damaged: '[{\\x08box_2d": <bbox>, "label": "cup"}]'""",
        swift(answer='points = {"x": [1, 2], "y": values}', **RELATIVE),  # code
    ),
    (
        "data-image-unnamed",
        {"images": ["a.png", "a.png"], "objects": [BOX, {**BOX, "image": 1}]},
        "its 2 images share one list of objects",
        {"images": ["a.png", "a.png"], "objects": [BOX]},
    ),
    ("data-label-empty", own({**BOX, "label": " "}), "an object has an empty label", own({**BOX, "label": "."})),
    ("data-key-unknown", own(BOX, promt="Find."), "'promt' (is 'prompt' meant?)", own(BOX, notes="Find.")),
    (
        "data-key-unknown",
        own({**BOX, "lable": "a", "desk": "b"}),
        "'lable' (is 'label' meant?), 'desk' (is 'desc' meant?)",
        own({**BOX, "note": "a"}),
    ),
    ("data-key-unknown", swift(object={}), "'object' (is 'objects' meant?)", swift(note={})),
    (
        "data-box-degenerate",
        own(box(100, 20, 50, 40)),
        "bbox of 'red box': its second corner lies left of or above the first",
        own(box(50, 20, 100, 40)),
    ),
    ("data-box-degenerate", own(box(5, 20, 5, 40)), "bbox of 'red box': it has no area", own(box(5, 20, 6, 40))),
    (
        "data-box-degenerate",
        own(quad(0, 0, 5, 5, 10, 10, 20, 20)),
        "quad of 'slab': the quad has no area",
        own(quad(0, 0, 5, 0, 5, 5, 0, 5)),
    ),
    (
        "data-quad-crossed",
        own(quad(0, 0, 10, 10, 10, 0, 0, 10)),
        "quad of 'slab': two sides of the quad cross",
        own(quad(0, 0, 10, 0, 10, 10, 0, 10)),
    ),
    (
        "data-quad-crossed",
        own(quad(0, 0, 10, 0, 0, 10, 10, 10)),
        "quad of 'slab': two sides of the quad cross",
        own(quad(0, 0, 10, 0, 10, 10, 10, 0.5)),
    ),
    (
        "data-quad-crossed",
        own({**box(0, 0, 10, 10), "quad": [0, 0, 10, 10, 0, 10, 10, 0]}),
        "bbox of 'red box': two sides of the quad cross",
        own({**box(0, 0, 10, 10), "quad": [0, 5, 5, 0, 10, 5, 5, 10]}),
    ),
    (
        "data-quad-crossed",
        own(polygon(0, 0, 20, 20, 20, 0, 0, 20, -0.0, 10)),
        "polygon of 'lake': two sides of the polygon cross",
        own(polygon(0, 0, 20, 0, 10, 10, 20, 20, 0, 20)),
    ),
    (
        "data-quad-crossed",
        own(polygon(0, 0, 10, 10, 10, 0, 0, 10)),
        "polygon of 'lake': two sides of the polygon cross",
        own(polygon(0, 0, 10, 0, 5, 5, 10, 10, 0, 10, 5, 5)),  # sides that touch do not cross
    ),
    (
        "data-box-degenerate",
        own(polygon(0, 0, 10, 10, 20, 20)),
        "polygon of 'lake': the polygon has no area",
        own(polygon(0, 0, 10, 10, 20, 21)),
    ),
    (
        "data-outside-image",
        own(point(650, 10)),
        "point of 'handle' reaches 10 px beyond the right of 640x480",
        own(point(640, 480)),
    ),
    (
        "data-outside-image",
        own(polygon(0, 0, 10, 0, 10, 500)),
        "polygon of 'lake' reaches 20 px beyond the bottom of 640x480",
        own(polygon(0, 0, 10, 0, 10, 480)),
    ),
    (
        "data-line-degenerate",
        own(line(5, 5, 5, 5, 5, 5)),
        "line of 'wire': all its points are one",
        own(line(5, 5, 5, 6)),
    ),
    (
        "data-outline-apart",
        own({**box(0, 0, 10, 10), "quad": [100, 100, 110, 100, 110, 110, 100, 110]}),
        "bbox of 'red box' overlaps the box around its own quad by 0.00",
        own({**box(0, 0, 10, 10), "quad": [0, 0, 10, 0, 10, 9, 0, 9]}),
    ),
    (
        "data-special-text",
        own({**BOX, "label": "box <|im_end|>"}),
        "<|im_end|> in 'box <|im_end|>'",
        own({**BOX, "label": "box <im_end>"}),
    ),
    ("data-special-text", own(BOX, prompt="<image>Find."), "<image> in '<image>Find.'", own(BOX, prompt="Find.")),
    ("data-special-text", own(BOX, system="<bbox>"), "<bbox> in '<bbox>'", own(BOX, system="<box>")),
    (
        "data-special-text",
        swift("<image><|image_pad|>"),
        "<|image_pad|> in '<image><|image_pad|>'",
        swift("<image>", "a<|im_end|>"),
    ),
    (
        "data-special-text",
        own({**BOX, "label": "<|box_start|>box"}),
        "<|box_start|> in '<|box_start|>box'",
        own({**BOX, "label": "<think>box"}),
    ),
    (
        "data-special-text",
        swift(answer="a<|im_end|>b"),
        "<|im_end|> in 'a<|im_end|>b'",
        swift(answer="a<|endoftext|>"),
    ),
    (
        "data-special-text",
        swift("<image>a<|im_end|>"),
        "<|im_end|> in '<image>a<|im_end|>'",
        swift("<image>a<im_end>"),
    ),
    (
        "data-marks",
        swift("<image><|object_ref_start|>a"),
        "<|object_ref_start|> in '<image><|object_ref_start|>a'",
        swift("<image><object_ref_start>a"),
    ),
    ("data-placeholders", swift("<image><image>"), "2 <image> for 1 images", swift("Where?")),
    ("data-placeholders", swift(images=["a.png"] * 2), "1 <image> for 2 images", swift("Where?", images=["a.png"] * 2)),
    ("data-placeholders", swift(images=[]), "1 <image> for 0 images", swift("Where?", images=[])),
    (
        "data-placeholders",
        swift(answer="<bbox>", objects={"bbox": [[1, 2], [3, 4]]}),
        "1 <bbox> for 2 boxes in 'objects'",
        swift(answer="<bbox>", objects={"bbox": [[1, 2]]}),
    ),
    (
        "data-placeholders",
        swift("<image><ref-object>", "<bbox>", objects={"bbox": [[1, 2]]}),
        "1 <ref-object> for 0 names in 'objects'",
        swift("<image><ref-object>", "<bbox>", objects={"bbox": [[1, 2]], "ref": ["a", "b"]}),
    ),
    ("data-no-objects", own(), "without objects", own(BOX)),
    ("data-unchecked", swift(images=["https://a.org/a.png"]), "an image is on the web", swift()),
]
