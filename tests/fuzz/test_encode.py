"""Mutated rows that pass the scan can be encoded by ms-swift."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from random import Random

import pytest

from fuzz.mutations import in_value
from fuzz.rows import SOUND
from scan_cases import draw_images
from swift_template import template_of
from swiftalign.data.rows import Rows
from swiftalign.data.scan import scan

CASES = 300


@pytest.mark.slow
def test_what_passes_can_be_encoded_by_ms_swift(demo: Path, tmp_path: Path) -> None:
    template, path, passed = template_of(demo / "model"), draw_images(tmp_path) / "passed.jsonl", 0
    for number in range(CASES):
        rng = Random(f"encode:{number}")
        path.write_text(json.dumps(in_value(copy.deepcopy(rng.choice(SOUND)), rng)))
        if not scan([path]).counts:
            passed += 1
            assert template.encode(Rows([path])[0], return_length=True)["length"] > 0, path.read_text()
    assert passed > CASES / 10
