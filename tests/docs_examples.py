"""The sessions shown in README.md and docs/: run again, to compare them or to write them anew.

    python tests/docs_examples.py --write        everything; it trains, and takes minutes
    python tests/docs_examples.py --operations   only docs/operations.md and its pictures

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

import yaml
from PIL import Image
from rich.console import Console
from rich.text import Text

from pages import headless
from swiftalign.augment.pipeline import Pipeline
from swiftalign.config.arguments import ARGUMENTS, Implied, Noted, Renamed, Rule
from swiftalign.config.augmentation import PARAMETERS, AugmentationSection
from swiftalign.config.schema import config_schema
from swiftalign.config.spellings import KEYS, PASS_THROUGH, home
from swiftalign.config.swift_arguments import swift_arguments
from swiftalign.data.encoded import as_written
from swiftalign.data.rows import Rows
from swiftalign.data.text import DEFAULT_WRITING
from swiftalign.previews.contact_sheet import render_sheet
from swiftalign.previews.strips import Previewer
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
AUGMENTED, WIDEST = ROOT / "docs/augmented.jpg", 1600  # a contact sheet of photographs, reduced to this many pixels
OPERATIONS = ROOT / "docs/operations.md"  # its pictures lie in a folder of this name, and are narrower
WIDEST_OPERATION = 720
# What is shown of each operation: a row of tests/photographs, and values whose effect is plain to see.
COFFEE, DAHLIA, ROCKET, RUIN = 3, 4, 8, 9
TELLING: dict[str, tuple[int, dict[str, Any]]] = {
    "hflip": (ROCKET, {}),
    "vflip": (DAHLIA, {}),
    "rotate": (ROCKET, {"max_deg": 25}),
    "scale": (RUIN, {"lo": 1.3, "hi": 1.3}),
    "resize_by_scale": (COFFEE, {"lo": 0.6, "hi": 0.6}),
    "pad_to_multiple": (COFFEE, {"multiple": 256}),
    "expand_to_fit_affine": (ROCKET, {"multiple": 32}),
    "random_crop": (COFFEE, {"scale": 0.5, "min_objects": 1, "skip_if_line": False}),
    "roi_crop": (COFFEE, {"anchor_classes": ["cup"], "scale_range": 1.15, "min_crop_size": 100}),
    "color_jitter": (DAHLIA, {"brightness": 1.3, "contrast": 1.4, "saturation": 0.3}),
    "gamma": (RUIN, {"gamma": 2.5}),
    "hsv": (DAHLIA, {"hue_delta_deg": 90}),
    "clahe": (RUIN, {"clip_limit": 4.0, "tile_grid_size": [8, 8]}),
    "auto_contrast": (RUIN, {"cutoff": 5}),
    "equalize": (RUIN, {}),
    "sharpness": (DAHLIA, {"factor": 8}),
    "solarize": (COFFEE, {"threshold": 128}),
    "posterize": (COFFEE, {"bits": 2}),
    "imgaug.MotionBlur": (COFFEE, {"k": 15}),
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
    output = Text.from_ansi((done.stderr if done.returncode else done.stdout).rstrip())
    shown = Text.assemble((line, "bold"), "\n", output)
    console = Console(record=True, file=io.StringIO(), width=min(120, max(map(len, shown.plain.splitlines()))))
    console.print(shown)
    svg = console.export_svg(title="", unique_id=TERMINALS[line].stem)
    return re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)


def terminal_text(svg: str) -> str:
    """What such a picture shows, without spaces and line breaks."""
    lines: dict[float, str] = {}
    for element in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text"):
        if "y" in element.attrib and (element.text or "").strip("\n"):
            height = float(element.attrib["y"])
            lines[height] = lines.get(height, "") + "".join((element.text or "").split())
    return "".join(text for _, text in sorted(lines.items()))


def metrics_told(heading: str = "") -> set[str]:
    """The names in the tables of docs/metrics.md, or in those below one heading."""
    text = (ROOT / "docs/metrics.md").read_text(encoding="utf-8")
    [section] = (
        [part for part in re.split(r"^## ", text, flags=re.MULTILINE) if part.startswith(heading)]
        if heading
        else [text]
    )
    return {*re.findall(r"^\| `([^`]+)` \|(?:[^|]*\|){4}$", section, re.MULTILINE)}


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
    write_operations()


def save_reduced(picture: Image.Image, path: Path, widest: int = WIDEST, quality: int = 70) -> None:
    """Write a JPEG for a page."""
    picture.thumbnail((widest, widest * 10), Image.Resampling.LANCZOS)
    picture.save(path, quality=quality, optimize=True)


def write_operations() -> None:
    """docs/operations.md and its pictures, as the operations are now."""
    OPERATIONS.write_text(with_operations(OPERATIONS.read_text(encoding="utf-8")), encoding="utf-8")
    draw_operations(OPERATIONS.with_suffix(""))


def draw_operations(folder: Path) -> None:
    """A picture for each operation: a photograph with its targets, and what the operation makes of them."""
    rows = Rows([ROOT / "tests/photographs/rows.jsonl"])
    folder.mkdir(exist_ok=True)
    for name, (row, values) in TELLING.items():
        ops: list[Any] = [{"rotate": TELLING["rotate"][1]}] if name == "expand_to_fit_affine" else []
        ops.append({name: values} if values else name)
        section = AugmentationSection(ops=ops, rotated_boxes="grow", seed=2)
        strip = Previewer(rows, Pipeline(section), partial(as_written, writing=DEFAULT_WRITING)).variants(row, [0])
        panels = [replace(each, title=title) for each, title in zip(strip.panels, ("before", "after"), strict=True)]
        shown = replace(strip, path=Path(strip.name).relative_to(ROOT), panels=tuple(panels))
        sheet = render_sheet([shown], f"ops: {yaml.safe_dump(ops, default_flow_style=True, width=200)}", title=name)
        save_reduced(sheet, folder / f"{name}.jpg", WIDEST_OPERATION, quality=55)


def with_operations(text: str) -> str:
    """docs/operations.md with the part of each operation, and the names of imgaug's augmenters, as they are now."""
    parts = {name: _operation(name) for name in TELLING} | {
        f"imgaug: {what}": ", ".join(f"`{name}`" for name in names) + "\n" for what, names in _augmenters().items()
    }
    return re.sub(
        r"(<!-- ((?!end )[\w.: ]+) -->\n)(?:.*\n)*?(?=<!-- end -->)", lambda match: match[1] + parts[match[2]], text
    )


def _operation(name: str) -> str:
    """The parameters of an operation but ``prob``, which all have, and its picture."""
    picture = f"![A photograph before and after {name}](operations/{name}.jpg)\n"
    if name not in PARAMETERS:
        return picture
    kind, lines = PARAMETERS[name], []
    schema = kind.model_json_schema()
    own = sorted(schema["properties"].keys() - {"prob"}, key=[*kind.__annotations__, *schema["properties"]].index)
    for parameter in own:
        told = schema["properties"][parameter]
        unit, _, meaning = told["description"].partition("; ")
        if not meaning:
            unit, meaning = "", unit
        default = kind.model_fields[parameter].get_default()
        shown = (
            "required" if parameter in schema.get("required", ()) else f"`{json.dumps(default, ensure_ascii=False)}`"
        )
        what, limits = _type_and_limits(told)
        lines.append(f"| `{parameter}` | {what} | {shown} | {unit} | {limits} | {meaning} |\n")
    table = "| parameter | type | default | unit | range | meaning |\n| --- | --- | --- | --- | --- | --- |\n"
    return (f"{table}{''.join(lines)}\n" if lines else "It has no parameters of its own.\n\n") + picture


def _type_and_limits(told: dict[str, Any]) -> tuple[str, str]:
    """What the schema of a parameter says of its type, and of the values that are allowed."""
    first = told.get("anyOf", [told])[0]
    bounds = [
        word + f"{first[key]:g}"
        for key, word in (
            ("minimum", "at least "),
            ("exclusiveMinimum", "above "),
            ("maximum", "at most "),
            ("exclusiveMaximum", "below "),
        )
        if key in first
    ]
    limits = ", ".join(bounds) or "any"
    match told:
        case {"anyOf": [_, {"type": "array"}]}:
            return "number or `[lo, hi]`", limits
        case {"anyOf": [{"type": "integer"}, {"type": "null"}]}:
            return "whole number or `null`", limits
        case {"type": "array", "prefixItems": [item, *_]}:
            return "two whole numbers", _type_and_limits(item)[1]
        case {"type": "array"}:
            return "list of labels", "at least one"
        case {"type": "object"}:
            return "mapping of labels to labels", ""
        case {"type": "boolean"}:
            return "`true` or `false`", ""
    return {"integer": "whole number", "number": "number"}[told["type"]], limits


def _augmenters() -> dict[str, list[str]]:
    """imgaug's augmenters that can be operations, in two groups: by whether they move targets."""
    from swiftalign.augment.imgaug_ops import public_augmenters
    from test_augment_imgaug import GEOMETRIC, NEEDED, refusal

    found = dict[str, list[str]](colours=[], geometry=[])
    for name in public_augmenters():
        if refusal(name) is None:
            needed = f" ({', '.join(NEEDED[name])})" if name in NEEDED else ""
            found["geometry" if name in GEOMETRIC else "colours"].append(name + needed)
    return found


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["--write"]:
            write()
        case ["--operations"]:
            write_operations()
        case _:
            raise SystemExit(__doc__)
