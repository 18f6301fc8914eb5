"""Augmentation and forgetting across cameras: the page is what the log says, and presets and advice follow it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import cameras
import cameras_report
import comparison
from common import with_tables
from swiftalign.config.augmentation import AugmentationSection
from swiftalign.demo.data import COLOURS

BASE, RUNS = cameras_report.split()
COLUMNS = cameras_report.COLUMNS


def change(variant: str, column: str, rows: str = "large", reference: str = cameras.PLAIN) -> list[float]:
    """What a variant changes, seed by seed."""
    runs, others = (comparison.select(RUNS, variant=name, rows=rows) for name in (variant, reference))
    return comparison.differences(runs, others, cameras_report.values_of)[COLUMNS.index(column)]


def sign(values: list[float]) -> int:
    """1 or -1 where the interval is on that side of zero, else 0."""
    return int(np.sign(np.mean(values))) if comparison.is_sure(values) else 0


def test_the_page_and_its_figure_are_made_from_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page, figure = cameras_report.PAGE, cameras_report.FIGURE
    assert with_tables(page.read_text(), cameras_report.tables(BASE, RUNS)) == page.read_text()
    monkeypatch.setattr(cameras_report, "FIGURE", tmp_path / "figure.svg")
    cameras_report.draw(RUNS)
    assert (tmp_path / "figure.svg").read_text() == figure.read_text()


def test_every_variant_has_its_runs() -> None:
    assert [*cameras.wanted_runs(RUNS)] == []
    origin = comparison.origin_of(comparison.PRETRAINED)
    assert {name: BASE[name] for name in comparison.ORIGIN} == origin


def test_no_fill_differs_from_black_and_a_growing_canvas_costs_more() -> None:
    for fill in ("rotate 12, grey", "rotate 12, mean"):
        assert sign(change(fill, "mean", reference=cameras_report.BLACK)) == 0
    for grown in ("rotate 12, grown, black", "rotate 12, grown, mean"):
        assert sign(change(grown, "mean", reference=cameras_report.BLACK)) == -1


def test_rotation_costs_on_turned_scenes_too_which_the_base_can_not_locate_in() -> None:
    for variant in (name for name in cameras.VARIANTS if name.startswith("rotate")):
        assert sign(change(variant, "mean")) == sign(change(variant, "turned scenes")) == -1
    upright, turned = (
        cameras_report.mean_accuracy(BASE["scores"][name]) for name in (cameras.KNOWN, cameras.TURNED_KNOWN)
    )
    assert upright == 1
    assert turned < 0.75


@pytest.mark.parametrize(("preset", "variant"), [("conservative", "colours"), ("mild", "mild colours")])
def test_presets_are_the_colours_that_pay_on_other_cameras(preset: Any, variant: str) -> None:
    listed = AugmentationSection(preset=preset).operations
    measured = AugmentationSection.model_validate(cameras.VARIANTS[variant]["augmentation"]).operations
    assert [each.model_dump() for each in listed] == [each.model_dump() for each in measured]
    assert sign(change(variant, "other cameras")) == 1


def test_what_was_a_preset_costs_without_a_gain() -> None:
    for variant in ("guide's list", "small changes"):
        assert sign(change(variant, "mean")) == -1
        assert sign(change(variant, "other cameras")) <= 0


def test_replay_keeps_more_of_the_known_camera_and_with_enough_steps_costs_nothing_that_shows() -> None:
    for variant in ("replay 10%", "replay 25%", "replay 25%, longer"):
        assert sign(change(variant, "known camera")) == 1
    assert sign(change("replay 25%, longer", "mean")) == 0
    ways = cameras_report.ways_of(RUNS, "large")
    (*_, kept), (*_, averaged) = (
        cameras_report.kept_and_lost(ways, way) for way in ("replay 25%, longer", "plain, scale 0.7")
    )
    assert np.mean(kept) > np.mean(averaged)  # and averaging has cost 7 points by then
    assert sign(cameras_report.kept_and_lost(ways, "plain, scale 0.7")[1]) == -1


def test_lower_rates_and_early_stopping_are_not_the_way() -> None:
    for variant in ("rate 0.0003", "rate 0.0001"):
        assert sign(change(variant, "mean")) == -1
    ways = cameras_report.ways_of(RUNS, "large")
    early, plain = (cameras_report.kept_and_lost(ways, way)[2] for way in ("plain, stopped early", "plain"))
    assert np.mean(early) < np.mean(plain) + 0.02


def test_the_best_of_held_out_rows_is_what_early_stopping_takes() -> None:
    def scores(value: float) -> dict[str, dict[str, float]]:
        each = {f"{kind}_acc": value for kind in cameras_report.KINDS}
        return dict.fromkeys((*cameras.HELD_OUT, cameras.LAMPLIGHT), each)

    line = {"held_out": scores(0.5), "scores": scores(0.9), "stopped": {"40": scores(0.4), "80": scores(0.6)}}
    assert cameras_report.stopped(line) == line["stopped"]["80"]
    line["held_out"] = scores(0.7)
    assert cameras_report.stopped(line) == line["scores"]


def test_turned_scenes_are_where_their_rows_say(tmp_path: Path) -> None:
    """Of each target's colour, hardly a pixel lies outside it: outside its box, or far from a wire."""
    cameras.write_turned(tmp_path / "turned.jsonl", rows=24, seed="turned:1", camera=None)
    checked = 0
    for line in (tmp_path / "turned.jsonl").read_text().splitlines():
        row = json.loads(line)
        image = np.asarray(Image.open(tmp_path / row["images"][0]).convert("RGB"), dtype=int)
        for item in row["objects"]:
            (kind,) = item.keys() - {"label"}
            colour = np.array(COLOURS[item["label"].split()[0]])
            ys, xs = np.nonzero(np.abs(image - colour).max(-1) <= 12)
            points = np.array(item[kind]).reshape(-1, 2)
            low, high = points.min(0) - 2, points.max(0) + 1
            assert len(xs) > 8
            assert ((xs >= low[0]) & (xs <= high[0]) & (ys >= low[1]) & (ys <= high[1])).all(), (item, row)
            if kind != "line":  # and it reaches to its edges
                assert abs(np.array([xs.min(), ys.min()]) - points.min(0)).max() < 3
                assert abs(np.array([xs.max(), ys.max()]) + 1 - points.max(0)).max() < 3
            checked += 1
    assert checked > 30
