"""The sessions shown in README.md and docs/: run again, to compare them or to write them anew.

    python tests/docs_examples.py --write        everything; it trains, and takes minutes
    python tests/docs_examples.py --operations   only docs/operations.jpg

In a fenced ``console`` block a line that starts with ``$ swiftalign`` or ``$ python`` is a command, and what follows is
its output. A fenced block after ``<!-- file: NAME -->`` is a file that later commands use. All blocks of a page share
one folder, in which `tests/photographs` is that of this repository.
"""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from PIL import Image
from rich.console import Console
from rich.text import Text

from pages import headless
from swiftalign.augment.pipeline import Pipeline
from swiftalign.config.arguments import ARGUMENTS, Implied, Noted, Renamed, Rule
from swiftalign.config.augmentation import EXAMPLES, PARAMETERS, AugmentationSection
from swiftalign.config.schema import config_schema
from swiftalign.config.spellings import KEYS, PASS_THROUGH, home
from swiftalign.config.swift_arguments import swift_arguments
from swiftalign.data.encoded import as_written
from swiftalign.data.rows import Rows
from swiftalign.data.text import DEFAULT_WRITING
from swiftalign.previews.contact_sheet import CELL, render_sheet
from swiftalign.previews.strips import Panel, Previewer, Strip
from swiftalign.problems import CHECKPOINT_CODES, CODES, DATA_CODES

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
START = ROOT / "docs/start.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
PICTURES = {
    "demo/runs/config/loss.png": ROOT / "docs/loss.png",
    "recovery.jpg": ROOT / "docs/recovery.jpg",
    "eval.png": ROOT / "docs/eval.png",
}
# Contact sheets of photographs, which are reduced to this width in pixels, and the row that the second one shows.
AUGMENTED, OPERATIONS, WIDEST, ON_ROW = ROOT / "docs/augmented.jpg", ROOT / "docs/operations.jpg", 1600, 3
# Values that show what an operation does, where those of EXAMPLES hardly would.
TELLING: dict[str, dict[str, Any]] = {
    "rotate": {"max_deg": 25},
    "scale": {"lo": 1.3, "hi": 1.3},
    "resize_by_scale": {"lo": 0.6, "hi": 0.6},
    "pad_to_multiple": {"multiple": 256},
    "random_crop": {"scale": 0.5, "min_objects": 1, "skip_if_line": False},
    "roi_crop": {"anchor_classes": ["cup"], "scale_range": 1.15, "min_crop_size": 100},
    "hsv": {"hue_delta_deg": 90},
    "gamma": {"gamma": 2.5},
    "color_jitter": {"brightness": 1.3, "contrast": 1.4, "saturation": 0.3},
    "sharpness": {"factor": 8},
    "posterize": {"bits": 2},
}
# Commands of the session whose output README.md shows as a terminal.
TERMINALS = {
    "$ swiftalign inspect-params demo/config.yaml": ROOT / "docs/terminal-plan.svg",
    "$ swiftalign verify-ckpt demo/runs/config --base demo/model": ROOT / "docs/terminal-verify.svg",
    "$ swiftalign train demo/config.yaml dora.yaml": ROOT / "docs/terminal-error.svg",
}
PAGES_SHOWN = {"demo/eval/new-camera/eval.html": "eval.png"}  # opened in a browser, and shown as pictures

_COMMAND = re.compile(r"^\$ (swiftalign|python) ", re.MULTILINE)
_BLOCK = re.compile(r"(?:<!-- file: (?P<file>\S+) -->\n)?```(?P<kind>\w+)\n(?P<body>.*?)```", re.DOTALL)
# What differs from run to run or machine to machine.
_VARIABLE = (
    (re.compile(r"\b\d+ s\b"), "N s"),
    (re.compile(r"\d+\.\d+(?= +\d{4}-\d\d-)"), "L"),
    (re.compile(r"^loss  .*$", re.MULTILINE), "loss L"),
    (re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d"), "WHEN"),
    (re.compile(r"loss \d+\.\d+( -> \d+\.\d+)?"), "loss L"),
    (re.compile(r"^(model\S+(?: +\d+){3}) +0\.0\d+$", re.MULTILINE), r"\1 CHANGE"),
    (re.compile(r"^(recovered:|the \w+ camera .*?) +\d+%.*$", re.MULTILINE), r"\1 ACCURACIES"),
    (re.compile(r"^kind .*$", re.MULTILINE), lambda head: " ".join(head[0].split())),
    (re.compile(r"^(box|quad|line|    )( .*?) +\d+ +.*%.*$", re.MULTILINE), r"\1\2 COUNTS"),
    (re.compile(r"^(F1 of \w+) .*$", re.MULTILINE), r"\1 DIFFERENCE"),
    (re.compile(r"^(mixed up|malformed).*\n(?:  .*\n)?", re.MULTILINE), ""),
    (re.compile(r"at most [\d.e-]+ from"), "at most D from"),
    (re.compile(r"[\d,]+ tokens/s, [\d.]+ [MG]B"), "N tokens/s, N GB"),
)


def has_examples(page: Path) -> bool:
    return any(match["kind"] == "console" and _COMMAND.search(match["body"]) for match in _blocks(page.read_text()))


def _blocks(text: str) -> Iterator[re.Match[str]]:
    return _BLOCK.finditer(text)


def rerun(page: Path, folder: Path, python: Sequence[str] = (sys.executable,)) -> str:
    """The page's text with every command's output as it is now.

    Args:
        folder: the commands run in it.
        python: the interpreter that runs them, and its options.
    """
    (folder / "tests").symlink_to(ROOT / "tests")

    def replace(match: re.Match[str]) -> str:
        if match["file"]:
            (folder / match["file"]).write_text(match["body"], encoding="utf-8")
        if match["kind"] != "console" or not _COMMAND.search(match["body"]):
            return match[0]
        commands = [line for line in match["body"].splitlines() if line.startswith("$ ")]
        return "```console\n" + "\n".join(_run(line, folder, python) for line in commands) + "```"

    return _BLOCK.sub(replace, page.read_text(encoding="utf-8"))


def _run(line: str, folder: Path, python: Sequence[str]) -> str:
    words = shlex.split(line.removeprefix("$ "))
    command = [*python, *(["-m", "swiftalign"] if words[0] == "swiftalign" else []), *words[1:]]
    assert words[0] in ("swiftalign", "python"), line
    done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    return f"{line}\n{done.stdout}"


def without_variables(text: str) -> str:
    for pattern, word in _VARIABLE:
        text = pattern.sub(word, text)
    return text


def with_codes(text: str) -> str:
    """docs/findings.md with the tables of the registered codes as they are now."""
    tables = iter((CODES, DATA_CODES, CHECKPOINT_CODES))

    def table(match: re.Match[str]) -> str:
        rows = (f"| `{code}` | {severity} | {meaning} |\n" for code, (severity, meaning) in next(tables).items())
        return match[1] + "".join(rows)

    return re.sub(r"(\| code \| severity \| meaning \|\n\|[ |-]+\n)(?:\| `.*\n)+", table, text)


def with_keys(text: str) -> str:
    """docs/keys.md with the tables of keys as they are now."""
    own = {
        section: [name for name in swift_arguments() if home(name) == section and name not in ARGUMENTS]
        for section in PASS_THROUGH
    }
    tables = iter(
        (
            [(f"`{name}`", _told(rule)) for name, rule in sorted(ARGUMENTS.items())],
            [(f"`{'.'.join(key)}`", _told(rule, key)) for key, rule in KEYS.items()],
            [(f"`{section}`", ", ".join(f"`{name}`" for name in sorted(names))) for section, names in own.items()],
        )
    )

    def table(match: re.Match[str]) -> str:
        return match[1] + "".join(f"| {' | '.join(cells)} |\n" for cells in next(tables))

    return re.sub(r"(\| \w+ \| [\w ]+ \|\n\|[ |-]+\n)(?:\| `.*\n)*", table, text)


def _told(rule: Rule, key: tuple[str, ...] = ()) -> str:
    """What becomes of a key, in words."""
    match rule:
        case Renamed() if rule.to == key:
            return rule.values
        case Renamed():
            return f"`{'.'.join(rule.to)}`" + (f" ({rule.values})" if rule.values else "")
        case Implied():
            same = f"`{json.dumps(rule.values[0])}` is left out, other values are " if rule.values else ""
            return f"{same}refused, as {rule.why}: {rule.hint}"
        case Noted():
            return f"left out, with a note: {rule.why}"


def with_models(text: str) -> str:
    """docs/models.md with its two tables as the code and its tests have them now."""
    from families import FAMILIES, config_of
    from sessions import SESSIONS
    from swiftalign.model.components import CORRECTIONS
    from swiftalign.model.families import find
    from swiftalign.model.swift_templates import unit_of_model
    from test_components import OF_PREFIXES_ALONE, OWN, WRITTEN_AFTER_PUBLIC_CODE
    from test_names_in_files import TRAINED as SAVED

    own = []
    for architecture, names in OWN.items():
        for name in names:
            tiny, config, family = FAMILIES[name], config_of(name), find(FAMILIES[name].model_type)
            fault = CORRECTIONS.get(tiny.model_class)
            trained = "no: ms-swift can't load the class" if fault and fault.unloadable else "not tried"
            paths = {"padding-free": family and family.sync_free, "compiled": family and family.compiles}
            unit = family.coordinates if family else unit_of_model(config, name, None, None)
            cells = (
                f"`{tiny.model_class}`",
                f"{architecture}, corrected" if fault else architecture,
                "yes" if name in {*SESSIONS, "qwen3_vl"} else trained,  # the demo is a Qwen3-VL
                "yes" if name in {*SESSIONS, *SAVED} else "not tried",
                ", ".join(path for path, has in paths.items() if has) or "-",
                f"`{unit}`" if unit else "by the template",
            )
            own.append(cells)
    remote = [
        (f"`{names[1]}`", architecture, "written after public code" if known else "prefixes alone")
        for known, table in ((True, WRITTEN_AFTER_PUBLIC_CODE), (False, OF_PREFIXES_ALONE))
        for architecture, names in table.items()
    ]
    tables = iter((sorted(own), sorted(remote)))

    def table(match: re.Match[str]) -> str:
        return match[1] + "".join(f"| {' | '.join(cells)} |\n" for cells in next(tables))

    return re.sub(r"(\| class \|.*\|\n\|[ |-]+\n)(?:\| `.*\n)*", table, text)


def terminal(line: str, folder: Path) -> str:
    """A picture of a command and its output in colours, as SVG without fonts from elsewhere."""
    command = [sys.executable, "-m", "swiftalign", *shlex.split(line.removeprefix("$ swiftalign"))]
    colours = os.environ | {"FORCE_COLOR": "1", "COLUMNS": "120"}
    done = subprocess.run(command, cwd=folder, env=colours, capture_output=True, text=True, check=False)
    shown = Text.assemble((line, "bold"), "\n", Text.from_ansi((done.stdout or done.stderr).rstrip()))
    console = Console(record=True, file=io.StringIO(), width=max(map(len, shown.plain.splitlines())))
    console.print(shown)
    svg = console.export_svg(title="", unique_id=TERMINALS[line].stem)
    return re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)


def terminal_text(svg: str) -> list[str]:
    """The lines of such a picture, without spaces."""
    lines: dict[float, str] = {}
    for element in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text"):
        if "y" in element.attrib and (element.text or "").strip("\n"):
            height = float(element.attrib["y"])
            lines[height] = lines.get(height, "") + "".join((element.text or "").split())
    return [text for _, text in sorted(lines.items()) if text]


def show_pages(folder: Path) -> None:
    """Take pictures of the pages that the commands of a session have written."""
    for source, target in PAGES_SHOWN.items():
        if (folder / source).exists():
            with headless() as browser:
                page = browser.new_page(viewport={"width": 1180, "height": 860})
                page.goto((folder / source).as_uri())
                page.screenshot(path=folder / target)


def write() -> None:
    models = ROOT / "docs/models.md"
    models.write_text(with_models(models.read_text(encoding="utf-8")), encoding="utf-8")
    keys = ROOT / "docs/keys.md"
    keys.write_text(with_keys(keys.read_text(encoding="utf-8")), encoding="utf-8")
    schema = ROOT / "configs/swiftalign.schema.json"
    schema.write_text(json.dumps(config_schema(), indent=1) + "\n", encoding="utf-8")
    findings = ROOT / "docs/findings.md"
    findings.write_text(with_codes(findings.read_text(encoding="utf-8")), encoding="utf-8")
    for page in PAGES:
        if not has_examples(page):
            continue
        with tempfile.TemporaryDirectory() as name:
            page.write_text(rerun(page, Path(name)), encoding="utf-8")
            show_pages(Path(name))
            for line, picture in TERMINALS.items():
                picture.write_text(terminal(line, Path(name)), encoding="utf-8")
            for source, target in PICTURES.items():
                if (Path(name) / source).exists():
                    shutil.copyfile(Path(name) / source, target)
            if (Path(name) / AUGMENTED.name).exists():
                save_reduced(Image.open(Path(name) / AUGMENTED.name), AUGMENTED)
    write_operations(OPERATIONS)


def save_reduced(picture: Image.Image, path: Path) -> None:
    """Write a JPEG for a page."""
    picture.thumbnail((WIDEST, WIDEST * 10), Image.Resampling.LANCZOS)
    picture.save(path, quality=70, optimize=True)


def write_operations(path: Path) -> None:
    """A picture of what each operation makes of one photograph and its targets."""
    rows = Rows([ROOT / "tests/photographs/rows.jsonl"])

    def panel(title: str, *operations: dict[str, Any]) -> Panel:
        pipeline = Pipeline(AugmentationSection(ops=[*operations], rotated_boxes="grow", seed=2))
        previewer = Previewer(rows, pipeline, partial(as_written, writing=DEFAULT_WRITING))
        made = previewer.variants(ON_ROW, [0]).panels[1 if operations else 0]
        picture = Image.fromarray(made.image)
        picture.thumbnail((CELL, CELL), Image.Resampling.LANCZOS)
        return replace(made, title=title, image=np.asarray(picture))

    panels = [panel("original")]
    for name in PARAMETERS:
        operation = {name: EXAMPLES.get(name, {}) | TELLING.get(name, {}) | {"prob": 1}}
        before = [{"rotate": {"max_deg": 25}}] if name == "expand_to_fit_affine" else []
        panels.append(panel(name, *before, operation))
    sheet = render_sheet(
        [Strip(ON_ROW, Path("tests/photographs/coffee.jpg"), tuple(panels))], "one at a time", title="Operations"
    )
    save_reduced(sheet, path)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["--write"]:
            write()
        case ["--operations"]:
            write_operations(OPERATIONS)
        case _:
            raise SystemExit(__doc__)
