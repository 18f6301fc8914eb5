"""Configuration files: loading, the plan and the pre-flight of a tiny model, and ms-swift's arguments.

What loads must mean the same when it is written again, as the run folder keeps it; and a key that nobody knows must
not be passed over.
"""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import yaml
from rich.console import Console

from corruptions import PLANTED
from fuzz.fuzz import put_back, show, show_problem
from fuzz.mutations import TEXTS, anything, in_text, in_yaml, misspelt, places, within
from swiftalign.checks.preflight import preflight
from swiftalign.cli.show import print_findings, print_plan
from swiftalign.config.load import load_config
from swiftalign.config.sections import Config
from swiftalign.data.files import UNKNOWN
from swiftalign.demo.workspace import write_demo
from swiftalign.plan.plan import TuningPlan
from swiftalign.plan.read import read_model
from swiftalign.plan.resolve import resolve
from swiftalign.problems import SwiftalignError
from swiftalign.runs.lowering import lower, to_argv
from swiftalign.speed.choices import Choices
from swiftalign.yaml12 import dump_yaml

TESTS = Path(__file__).parents[1]
SOUND, BROKEN = ("../configs/*/*.yaml", "guide/*.yaml", "guide_project/*.yaml"), ("broken_configs/*.yaml",)


class Configs:
    """Sound and broken configurations of this repository, mutated."""

    names_files = True

    def __init__(self, root: Path) -> None:
        self.folder, self.changed = root / "configs", ""
        write_demo(self.folder, tiny=True)
        for path in TESTS.glob("guide_project/*.yaml"):  # they extend one another
            shutil.copy(path, self.folder)
        (self.folder / "plugin.py").write_text(f"import os\nos.mkdir({PLANTED!r})\n")
        self.file, self.other = self.folder / "config.yaml", self.folder / "other.yaml"
        rows = json.dumps(str(self.folder / "data/train.jsonl"))
        sound, broken = (
            [path.read_bytes() for pattern in patterns for path in sorted(TESTS.glob(pattern))]
            for patterns in (SOUND, BROKEN)
        )
        self.sound = [self.file.read_text(), *(self._here(content.decode(), rows) for content in sound)]
        self.broken = [self._here(content.decode(), rows) for content in broken if content.isascii()]
        self.mappings = [held for text in self.sound if isinstance(held := yaml.safe_load(text), dict)]

    @staticmethod
    def _here(text: str, rows: str) -> str:
        """A configuration of the tiny model and its rows."""
        text = re.sub(r"(?m)^model:.*\n(?=\S|\s*$)", "", text)
        text = text if re.search(r"(?m)^(model:|extends:|- )", text) else f"model: model\n{text}"
        return re.sub(r"(train|val): .*jsonl", rf"\1: {rows}", text)

    def case(self, rng: Random) -> Iterator[str]:
        text = rng.choice(self.sound)
        self.changed = text[:60]
        with put_back(self.file, self.other):
            match rng.randrange(10):
                case 0:
                    yield from self._unknown_key(rng)
                    return
                case 1:  # one file over another
                    self.file.write_text(text)
                    other = rng.choice(self.sound)
                    self.other.write_bytes(self._mutated(other, rng) if rng.random() < 0.5 else other.encode())
                    yield from self._read([self.file, self.other], [])
                case 2:  # a value of the command line
                    key = ".".join(map(str, rng.choice(list(places(rng.choice(self.mappings))))))
                    value = "".join(
                        sign
                        for sign in rng.choice((json.dumps(anything(rng)), rng.choice(TEXTS), in_text("1", rng)))
                        if sign.isprintable()
                    )
                    self.changed = f"--set {key}={value[:200]}"
                    self.file.write_text(text)
                    yield from self._read([self.file], [f"{key}={value}"])
                case 3:  # files that name each other
                    named = f"extends: {rng.choice(('config.yaml', 'other.yaml', '.', 'x'))}\n"
                    self.other.write_bytes(in_text(named, rng).encode(errors="surrogatepass"))
                    self.file.write_text(f"extends: [other.yaml]\n{text}")
                    yield from self._read([self.file], [])
                case _:
                    self.file.write_bytes(content := self._mutated(text, rng))
                    self.changed = f"{content[:1500]!r}"
                    yield from self._read([self.file], [])

    def _mutated(self, text: str, rng: Random) -> bytes:
        if rng.random() < 0.15:
            return in_text(rng.choice(self.broken), rng).encode(errors="surrogatepass")
        return in_yaml(text.encode(), rng)

    def _read(self, files: list[Path], overrides: list[str]) -> Iterator[str]:
        config = load_config(files, overrides)
        for note in config.notes:
            show_problem(note)
        self.other.write_text(dump_yaml(config.values))
        again = load_config([self.other])
        for one, two in zip((config, *config.runs), (again, *again.runs), strict=True):
            if (before := meaning(one)) != (after := meaning(two)):
                yield f"written again, it means something else: {differing(before, after)}"
        if config.model.path != str(self.folder / "model"):
            show(config.model.path if config.model.path.isprintable() else "")
        for part in config.runs[:2]:
            model = read_model(part)
            plan = resolve(part, model, rows=UNKNOWN)
            found = preflight(part, model, plan)
            text = io.StringIO()
            print_plan(plan, model, Console(file=text, width=160, highlight=False))
            print_findings(found, Console(file=text, width=160, highlight=False))
            show(text.getvalue())
            if TuningPlan.from_json(json.loads(json.dumps(plan.to_json()))) != plan:
                yield "its plan is another one when it is read again"
            for argument in to_argv(lower(plan, part, self.folder / "run", Choices(plan.schedule.batch))):
                argument.encode()

    def _unknown_key(self, rng: Random) -> Iterator[str]:
        """A key with a slip of the pen: if the file loads, it must differ from the file without the key."""
        held = json.loads(json.dumps(rng.choice(self.mappings), default=str))
        path = rng.choice([path for path in places(held) if isinstance(path[-1], str)])
        inside, key = within(held, path[:-1]), path[-1]
        value, wrong = inside.pop(key), misspelt(str(key), rng)
        self.changed = f"{'.'.join(map(str, path))} spelt {wrong}"
        self.other.write_text(json.dumps(held))
        inside[wrong] = value
        self.file.write_text(json.dumps(held))
        config = load_config([self.file])
        try:
            without = load_config([self.other])
        except SwiftalignError:
            return
        if value is not None and not config.notes and meaning(config) == meaning(without):
            yield f"passes over an unknown key: {'.'.join(map(str, path))} spelt {wrong}"


def meaning(config: Config) -> dict[str, Any]:
    """What a configuration comes to, comparable: NaN is a text."""
    held: dict[str, Any] = json.loads(json.dumps(config.model_dump(mode="json"), sort_keys=True))
    return held


def differing(one: Any, two: Any) -> str:
    return ", ".join(
        f"{key}: {one.get(key)!r:.80} -> {two.get(key)!r:.80}" for key in one if one.get(key) != two.get(key)
    )
