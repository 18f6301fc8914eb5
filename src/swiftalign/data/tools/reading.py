"""What the readers of annotation files share: JSON, XML, checked targets, and the paths of images."""

from __future__ import annotations

import heapq
import json
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, NoReturn
from xml.parsers import expat

from swiftalign.data.targets import SPELLINGS, Kind, to_points
from swiftalign.files import POINTERS, require_fetched
from swiftalign.problems import DataError

Placed = tuple[str, dict[str, Any]]
"""Where a row comes from, for messages; and the row in this toolkit's layout, its image an absolute path or content."""

_IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".jp2", ".avif"}
)
NO_LABEL = "regions without a label"
OTHER_SHAPES = "shapes of other kinds"
CORRECT = "correct or remove this annotation"  # a hint

# Where images usually lie, as seen from the annotation file's folder.
_NEIGHBOURS = ("", "images", "img", "JPEGImages", "../images", "../img", "../JPEGImages", "..")
NUMBER = r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?"  # no two ways to match, so that a failure costs no more
_NUMBER = re.compile(NUMBER, re.ASCII)
_HEAD_BYTES = 65_536
_SAMPLES = 20
_MAX_DEPTH = 50


class Tool(NamedTuple):
    """A format of annotation files.

    Attributes:
        name: the format's name, for people.
        recognise: whether a file or folder has this format, from its name and the first bytes of a few files.
        read: yields each image with its objects. Takes the file or folder; the folder of the images, if the user named
            one; and a counter of the annotations that can't be taken, by what they are.
    """

    name: str
    recognise: Callable[[Path], bool]
    read: Callable[[Path, Path | None, Counter[str]], Iterator[Placed]]


def fail(where: str, fault: str, hint: str = CORRECT) -> NoReturn:
    raise DataError(f"{where}: {fault}", hint)


def read_bytes(path: str | Path) -> bytes:
    try:
        with open(path, "rb", buffering=0) as file:
            content = file.readall()
    except (OSError, ValueError) as error:
        require_fetched(Path(path), DataError)
        raise DataError(f"{path!s}: {getattr(error, 'strerror', None) or error}") from None

    if content.startswith(POINTERS):
        require_fetched(Path(path), DataError)
    return content


def head(path: str | Path) -> bytes:
    """The first bytes of a file without its byte order mark; none if it can't be read."""
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read(_HEAD_BYTES).removeprefix(b"\xef\xbb\xbf")
    except (OSError, ValueError):
        return b""


def names_in(folder: str | Path, *suffixes: str) -> list[str]:
    """Names of the files in a folder with this ending, sorted; none if the path is not a folder.

    A link to nothing is among them: reading it will fail, so that its rows are missed.
    """
    try:
        with os.scandir(folder) as entries:
            found = (each for each in entries if each.name.lower().endswith(suffixes))
            return sorted(each.name for each in found if each.is_file() or (each.is_symlink() and not each.is_dir()))
    except (OSError, ValueError):
        return []


def walk(folder: str | Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """`os.walk` in the order of names, which follows links, but into no folder twice."""
    seen: set[str] = set()
    for place, subfolders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        subfolders[:] = [] if real in seen else sorted(subfolders)
        if real not in seen:
            seen.add(real)
            yield place, subfolders, names


def files_at(path: Path, suffix: str) -> list[str]:
    """A file itself, or the files of a folder with this suffix."""
    return [os.path.join(path, name) for name in names_in(path, suffix)] if path.is_dir() else [str(path)]


def any_head(path: Path, suffix: str, test: Callable[[bytes], Any]) -> bool:
    """Whether a file, or one of the first few files of a folder, begins so."""
    if path.is_file():
        return path.suffix.lower() == suffix and bool(test(head(path)))
    return any(test(head(path / name)) for name in heapq.nsmallest(_SAMPLES, names_in(path, suffix)))


def the_file(path: Path, suffix: str, test: Callable[[bytes], Any]) -> Path:
    """A file itself, or the one of a folder that begins so.

    Raises:
        DataError: the folder holds several.
    """
    if not path.is_dir():
        return path
    found = [name for name in names_in(path, suffix) if test(head(path / name))]
    if len(found) != 1:
        raise DataError(f"{path}: holds {len(found)} such files: {', '.join(found[:4])}", "name one of them")
    return path / found[0]


def read_json(path: str | Path) -> Any:
    """A JSON file, none of whose objects has a key twice.

    Raises:
        DataError: it can't be read, or is not JSON.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
            raise DataError(f"{path!s}: the key {twice!r} is twice in one object", "remove one of them")
        return found

    try:
        return json.loads(read_bytes(path), object_pairs_hook=unique)
    except RecursionError:
        raise DataError(f"{path!s}: not JSON that can be read: nested too deeply") from None
    except ValueError as error:
        raise DataError(f"{path!s}: not JSON: {error}") from None


def typed(value: Any, kind: type, where: str, what: str) -> Any:
    """A value that must be a list or an object."""
    if not isinstance(value, kind):
        fail(where, f"{what} must be {'a list' if kind is list else 'an object'}")
    return value


@dataclass(eq=False, slots=True)
class Element:
    """An XML element and the number of its line."""

    tag: str
    attributes: dict[str, str]
    line: int
    children: list[Element] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)

    def first(self, tag: str) -> Element | None:
        return next((each for each in self.children if each.tag == tag), None)

    def text(self, tag: str) -> str:
        """The text of the first child of this name; empty without one."""
        found = self.first(tag)
        return "".join(found.texts).strip() if found else ""


def read_xml(path: str | Path, level: int) -> Iterator[Element]:
    """The complete elements at a level of an XML file, 0 for the root, in constant memory but for the largest of them.

    Raises:
        DataError: it can't be read, is not XML, or declares a document type: entities can grow without bounds.
    """
    parser, opened, complete = expat.ParserCreate(), list[Element](), list[Element]()
    parser.buffer_text = True

    def start(tag: str, attributes: dict[str, str]) -> None:
        if len(opened) >= _MAX_DEPTH:
            fail(f"{path!s}:{parser.CurrentLineNumber}", "elements are nested too deeply", "export the file again")
        element = Element(tag, attributes, parser.CurrentLineNumber)
        if len(opened) > level:
            opened[-1].children.append(element)
        opened.append(element)

    def end(_: str) -> None:
        element = opened.pop()
        if len(opened) == level:
            complete.append(element)

    def text(content: str) -> None:
        if len(opened) > level:
            opened[-1].texts.append(content)

    def doctype(*_: Any) -> None:
        hint = "remove it: annotation files have none, and its entities could fill the memory"
        fail(f"{path!s}:{parser.CurrentLineNumber}", "declares a document type (DOCTYPE)", hint)

    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = start, end, text
    parser.StartDoctypeDeclHandler = doctype
    try:
        with open(path, "rb") as file:
            while chunk := file.read(_HEAD_BYTES):
                parser.Parse(chunk)
                yield from complete
                complete.clear()
            parser.Parse(b"", True)
    except expat.ExpatError as error:
        raise DataError(f"{path!s}:{error.lineno}: not XML: {expat.ErrorString(error.code)}") from None
    except (OSError, ValueError, LookupError) as error:
        raise DataError(f"{path!s}: not XML that can be read: {getattr(error, 'strerror', None) or error}") from None


def root_tag(start: bytes) -> bytes:
    """The name of the root element of an XML file, from its first bytes."""
    found = re.search(rb"<([A-Za-z][\w.-]*)[\s/>]", start)
    return found.group(1) if found else b""


def to_number(text: str, where: str, what: str) -> float:
    """A number from text, of the spellings that JSON knows: Python's own reader takes '1_0' and 'nan' too."""
    if not _NUMBER.fullmatch(text.strip()):
        fail(where, f"{what} is not a number: {text[:40]!r}")
    return float(text)


def numbers(values: Any, count: int, where: str, what: str) -> list[float]:
    """Exactly so many finite numbers."""
    sound = isinstance(values, list) and all(type(each) in (int, float) and -1e9 <= each <= 1e9 for each in values)
    if not sound or len(values) != count:
        fail(where, f"{what} must be {count} numbers" if count > 1 else f"{what} must be a number")
    found: list[float] = values
    return found


def pairs(points: Any, where: str, what: str = "'points'") -> list[float]:
    """A list of [x, y] as one flat list."""
    if not isinstance(points, list) or not all(isinstance(point, list) and len(point) == 2 for point in points):
        fail(where, f"{what} must be a list of [x, y]")
    return [value for point in points for value in point]


def text(value: Any, where: str, what: str) -> str:
    """A text that is not empty and can be written as UTF-8."""
    if not isinstance(value, str) or not value.strip():
        fail(where, f"{what} must be text that is not empty")
    try:
        value.encode()
    except UnicodeEncodeError:
        fail(where, f"{what} can't be written as UTF-8: {value[:40]!r}")
    return value


def size(width: Any, height: Any) -> dict[str, int]:
    """The size that a file claims for an image; nothing where it claims none, or 0, as some tools write for unknown."""
    sides = [
        int(each) if isinstance(each, str) and re.fullmatch("[0-9]{1,9}", each) else each for each in (width, height)
    ]
    known = all(type(side) is int and 0 < side <= 1e9 for side in sides)
    return {"width": sides[0], "height": sides[1]} if known else {}


def target(label: Any, kind: Kind, values: list[float], where: str) -> dict[str, Any]:
    """An object of a row.

    Raises:
        DataError: the label is not text, or the coordinates are not as many finite numbers as the kind has.
    """
    name, spelling = text(label, where, "the label"), SPELLINGS[kind]
    if not to_points(kind, values):
        wanted = f"{2 * spelling.least} numbers" if spelling.most else f"{spelling.least} points or more"
        fail(where, f"the {kind} of {name!r} must be {wanted}, each from -1e9 to 1e9")
    return {"label": name, spelling.row_key: values}


def outline(label: Any, values: list[float], where: str) -> dict[str, Any]:
    """A closed outline: a quad if it has four corners, otherwise a polygon."""
    values = corners(values)
    return target(label, "quad" if len(values) == 8 else "polygon", values, where)


def corners(values: list[float]) -> list[float]:
    """The corners of an outline, without its first one repeated at the end."""
    return values[:-2] if len(values) > 6 and values[:2] == values[-2:] else values


def box(label: Any, values: list[float], where: str) -> dict[str, Any]:
    """A box from any two opposite corners."""
    made = target(label, "bbox", values, where)
    x1, y1, x2, y2 = values
    return made | {SPELLINGS["bbox"].row_key: [min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)]}


def turned(values: Sequence[float], pivot: tuple[float, float], degrees: float) -> list[float]:
    """A box as the quad that it becomes when it is turned clockwise about a point, from its top left corner clockwise.

    >>> turned([0, 0, 4, 2], pivot=(0, 0), degrees=90)
    [0.0, 0.0, 0.0, 4.0, -2.0, 4.0, -2.0, 0.0]

    Args:
        values: left, top, right, bottom.
    """
    left, top, right, bottom = values
    cosine, sine = (round(part(math.radians(degrees)), 15) for part in (math.cos, math.sin))
    (px, py), found = pivot, []
    for x, y in ((left, top), (right, top), (right, bottom), (left, bottom)):
        found += [px + (x - px) * cosine - (y - py) * sine, py + (x - px) * sine + (y - py) * cosine]
    return found


class Images:
    """Finds the image files that an annotation file names.

    Each folder is listed once: a question per image would cost more than reading its annotations.

    Args:
        folder: of the annotation file.
        given: the folder that the user named; it has precedence.
        usual: further folders, relative to `folder`, that are looked in after the usual ones.
    """

    def __init__(self, folder: Path | str, given: Path | None, *usual: str) -> None:
        base = os.path.abspath(folder)
        near = [os.path.normpath(os.path.join(base, each)) for each in (*_NEIGHBOURS, *usual)]
        self.folders = [os.path.abspath(given), *near] if given else near
        self._listings: dict[str, dict[str, str]] = {}

    def find(self, path: Any, where: str) -> str:
        """The absolute path of an image: the first place where it lies, else the first where it might.

        A path from another machine and an address on the web stand for their last part.
        """
        name = text(path, where, "the image's path").replace("\\", "/")
        if "\0" in name:
            fail(where, f"the image's path holds a NUL character: {name[:40]!r}")
        web, last = "://" in name, name.rpartition("/")[2]
        foreign = web or name.startswith("/") or name[1:3] == ":/"
        if foreign and os.path.isfile(name):
            return name
        last = last.partition("?")[0] if web else last
        candidates = [last] if foreign else [name, last] if name.startswith("../") else [name]
        for each in candidates:
            below, _, file = each.rpartition("/")
            for folder in self.folders:
                place = os.path.normpath(f"{folder}/{below}") if below else folder
                if self._listing(place).get(file) == file:
                    return f"{place}/{file}"
        return os.path.normpath(f"{self.folders[0]}/{candidates[0]}")

    def of_stem(self, stem: str, where: str) -> str:
        """The absolute path of the image with this name without its suffix."""
        stem = text(stem, where, "the file's name")
        for folder in self.folders:
            if name := self._listing(folder).get(stem):
                return f"{folder}/{name}"
        return f"{self.folders[0]}/{stem}.jpg"

    def _listing(self, folder: str) -> dict[str, str]:
        """The names in a folder, each under itself and those of images under the name without suffix too."""
        if folder not in self._listings:
            try:
                names = sorted(os.listdir(folder))
            except OSError:
                names = []
            parts = map(os.path.splitext, reversed(names))
            stems = {stem: stem + suffix for stem, suffix in parts if is_image(suffix)}
            self._listings[folder] = stems | {name: name for name in names}
        return self._listings[folder]


def is_image(suffix: str) -> bool:
    return suffix.lower() in _IMAGE_SUFFIXES
