"""What is shipped beside the code: worked configurations, the pages of docs/, and the JSON schema of config files."""

from __future__ import annotations

import re
from itertools import takewhile
from pathlib import Path

# In the repository, configs and docs are links to the folders of these names at its top; a wheel holds copies.
_FOLDER = Path(__file__).parent
SCHEMA = _FOLDER / "configs/swiftalign.schema.json"
_CODE_ROW = re.compile(r"^\| `([\w-]+)` \| (error|warning|note) \| (.*) \|$", re.MULTILINE)


def examples() -> dict[str, Path]:
    """The worked configurations by name; the folder of each is its group."""
    return {path.stem: path for path in sorted(_FOLDER.glob("configs/*/*.yaml"))}


def summary_of(example: Path) -> str:
    """What a worked configuration is for: the first sentence of its own comment."""
    _, *lines = example.read_text(encoding="utf-8").splitlines()  # the first names the schema
    comment = (line.removeprefix("#").strip() for line in takewhile(lambda line: line.startswith("#"), lines))
    return _sentence(" ".join(comment))


def pages() -> dict[str, Path]:
    """The pages of docs/ by name."""
    return {path.stem: path for path in sorted(_FOLDER.glob("docs/*.md"))}


def first_sentence(page: str) -> str:
    """The first sentence of a page's text, without Markdown's marks.

    >>> first_sentence("# Data\\n\\n`data.train` names [files](data.md). Rows of\\nevery layout are read.")
    'data.train names files.'
    """
    prose = (part for part in page.split("\n\n") if re.match(r"[\w`*\[]", part))
    return re.sub(r"\[([^]]*)\]\([^)]*\)|[`*]", r"\1", _sentence(" ".join(next(prose, "").split())))


def _sentence(text: str) -> str:
    return re.split(r"(?<=[.?!])\s", text, maxsplit=1)[0]


def codes() -> dict[str, tuple[str, str]]:
    """The codes of all problems, with severity and meaning.

    They are read from their page: importing the methods, which register codes of their own, would keep a shell waiting.
    """
    text = (_FOLDER / "docs/findings.md").read_text(encoding="utf-8")
    return {code: (severity, meaning) for code, severity, meaning in _CODE_ROW.findall(text)}


def paragraphs_about(code: str) -> list[str]:
    """What docs/findings.md says of a code besides its row in a table."""
    parts = (_FOLDER / "docs/findings.md").read_text(encoding="utf-8").split("\n\n")
    return [part for part in parts if f"`{code}`" in part and not part.startswith("|")]


def section_of(page: str, anchor: str) -> str | None:
    """The section of a page under the heading that a link with this anchor leads to; None where there is none.

    >>> section_of("# Data\\n\\n## Own rows\\n\\nThey are read.\\n\\n## Others", "own-rows")
    '## Own rows\\n\\nThey are read.'
    """
    for match in re.finditer(r"^(#+) (.*)$", page, re.MULTILINE):
        if anchor_of(match[2]) == anchor:
            rest = page[match.end() :]
            end = re.search(rf"^#{{1,{len(match[1])}}} ", rest, re.MULTILINE)
            return (match[0] + (rest[: end.start()] if end else rest)).strip()
    return None


def anchors_of(page: str) -> list[str]:
    return [anchor_of(heading) for heading in re.findall(r"^#+ (.*)$", page, re.MULTILINE)]


def anchor_of(heading: str) -> str:
    """The end of the address of a heading.

    >>> anchor_of("Coming from `ms-swift`")
    'coming-from-ms-swift'
    """
    return re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-")
