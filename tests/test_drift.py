"""Drift against numbers worked out by hand, and the draws that single operations share with the pipeline."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from swiftalign.augment.pipeline import Pipeline, blank
from swiftalign.cli import main
from swiftalign.config.augmentation import AugmentationSection
from swiftalign.data.formats.swift import SWIFT
from swiftalign.data.records import Reading, Row
from swiftalign.data.rows import Rows
from swiftalign.data.sizes import DEFAULT_LIMITS
from swiftalign.data.targets import PixelTarget
from swiftalign.data.text import Composed
from swiftalign.previews.drift import TIMED_ROWS, DriftReport, OperationEffect, measure_drift
from swiftalign.problems import DataError

SIZE = (128, 128)
MIDDLE = PixelTarget("bbox", "cup", ((48, 48), (80, 80)))
ALL_OF_IT = PixelTarget("bbox", "room", ((0, 0), (128, 128)))


def section(*ops: Any, **rules: Any) -> AugmentationSection:
    return AugmentationSection.model_validate({"ops": list(ops), **rules})


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image.png"
    Image.new("RGB", SIZE, "grey").save(path)
    return path


def measure(image: Path, targets: Sequence[PixelTarget], settings: AugmentationSection, epochs: int = 1) -> DriftReport:
    return measure_drift([(0, Row((image,), tuple(targets), Composed()))], settings, DEFAULT_LIMITS, range(epochs))


def effect(report: DriftReport, operation: str, kind: str = "all") -> OperationEffect:
    [found] = [effect for effect in report.effects if (effect.operation, effect.kind) == (operation, kind)]
    return found


def test_zooming_in_twofold_leaves_a_quarter_of_what_filled_the_image(image: Path) -> None:
    settings = section({"scale": {"lo": 2, "hi": 2}}, min_visible=0.1)
    report = measure(image, [ALL_OF_IT, MIDDLE], settings)
    assert report.drift == pytest.approx((0.75 + 0) / 2)
    found = effect(report, "scale")
    assert (found.samples, found.targets, found.clipped, found.dropped) == (1, 2, 1, 0)


def test_a_dropped_target_counts_as_dropped_and_not_as_clipped(image: Path) -> None:
    report = measure(image, [ALL_OF_IT, MIDDLE], section({"scale": {"lo": 2, "hi": 2}}, min_visible=0.5))
    assert (effect(report, "all").clipped, effect(report, "all").dropped) == (0, 1)
    assert report.drift == pytest.approx(0.375)


def test_a_line_counts_by_its_length(image: Path) -> None:
    across = PixelTarget("line", "rope", ((0, 64), (128, 64)))
    report = measure(image, [across], section({"scale": {"lo": 1.25, "hi": 1.25}}))
    assert effect(report, "scale", "line").drift == pytest.approx(1 - 1 / 1.25)
    assert effect(report, "scale", "line").mean_inflation is None


def test_a_turned_box_is_inflated_as_the_sines_say(image: Path) -> None:
    settings = section({"rotate": {"max_deg": 20}}, rotated_boxes="grow")
    report = measure(image, [MIDDLE], settings)
    placed = Pipeline(settings).place(blank(SIZE), Row((image,), (MIDDLE,), Composed()).record([SIZE]), epoch=0, row=0)
    degrees = placed.replay.steps[0].values["degrees"]
    angle = math.radians(abs(degrees))
    wanted = (math.cos(angle) + math.sin(angle)) ** 2
    assert wanted > 1.05
    found = effect(report, "rotate", "bbox")
    assert (found.inflated, found.mean_inflation, found.max_inflation) == (
        1,
        pytest.approx(wanted),
        found.mean_inflation,
    )
    assert report.drift == 0


def test_mirroring_takes_nothing(image: Path) -> None:
    report = measure(image, [ALL_OF_IT, MIDDLE], section("hflip"), epochs=3)
    assert (report.samples, report.drift, report.worst) == (3, 0.0, None)
    assert effect(report, "hflip").samples == 3


def test_a_crop_takes_the_share_that_it_cuts_off(image: Path) -> None:
    crop = {"scale": 0.25, "aspect_ratio": 1, "min_objects": 1, "min_coverage": 0}
    report = measure(image, [ALL_OF_IT], section({"random_crop": crop}, "vflip"), epochs=3)
    assert effect(report, "random_crop").drift == pytest.approx(0.75)
    assert (effect(report, "random_crop").clipped, effect(report, "vflip").clipped) == (3, 0)
    report = measure(image, [ALL_OF_IT], section({"random_crop": {**crop, "min_objects": 2}}), epochs=3)
    assert report.left_out == {"random_crop": {"fewer than 2 objects would remain": 3}}
    assert report.drift == 0


def test_an_expanded_canvas_takes_nothing(image: Path) -> None:
    ops = [{"rotate": {"max_deg": 40}}, "expand_to_fit_affine"]
    report = measure(image, [ALL_OF_IT], section(*ops, min_visible=0, rotated_boxes="grow"), epochs=3)
    assert report.drift == 0
    assert effect(report, "rotate").drift > 0


def test_the_worst_operation_is_the_one_that_takes_most_alone(image: Path) -> None:
    ops = ["hflip", {"scale": {"lo": 1.1, "hi": 1.1}}, {"scale": {"lo": 1.4, "hi": 1.4}}]
    report = measure(image, [ALL_OF_IT], section(*ops, min_visible=0.1))
    assert report.worst is not None
    assert report.worst.operation == "scale #2"
    assert effect(report, "scale").drift == pytest.approx(1 - 1.1**-2)
    assert effect(report, "scale #2").drift == pytest.approx(1 - 1.4**-2)
    assert report.drift == pytest.approx(1 - (1.1 * 1.4) ** -2)


def test_an_operation_alone_is_applied_in_the_samples_in_which_the_pipeline_draws_it(demo: Path) -> None:
    path = demo / "data/train.jsonl"
    read = Rows([path])
    rows = [(index, read.row(index)) for index in range(len(read))]
    settings = section({"hflip": {"prob": 0.5}}, {"rotate": {"max_deg": 3, "prob": 0.3}}, min_visible=0, min_side=0)
    report = measure_drift(rows, settings, DEFAULT_LIMITS, [0, 1])
    drawn = {"hflip": 0, "rotate": 0}
    for index, row in rows:
        record = row.record([(128, 128)])
        for epoch in (0, 1):
            for step in Pipeline(settings).place(blank((128, 128)), record, epoch=epoch, row=index).replay.steps:
                drawn[step.name] += step.name in drawn
    assert {name: effect(report, name).samples for name in drawn} == drawn
    assert 0 < drawn["rotate"] < drawn["hflip"] < 128


def test_what_is_left_out_is_counted_by_its_reason(image: Path) -> None:
    long = PixelTarget("bbox", "pole", ((60, 4), (68, 124)))
    report = measure(image, [long], section({"rotate": {"max_deg": 40}}), epochs=20)
    assert list(report.left_out) == ["rotate"]
    assert list(report.left_out["rotate"]) == ["a box would grow too much"]
    assert 0 < report.left_out["rotate"]["a box would grow too much"] <= 20


@pytest.mark.parametrize(("answer", "images"), [("Hi.", 1), ("at (10, 20)", 1), ("Both.", 2)])
def test_rows_in_which_nothing_moves_are_passed_over(answer: str, images: int, image: Path) -> None:
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": answer}]
    row = SWIFT.read({"messages": messages, "images": [str(image)] * images}, Reading(image.parent))
    report = measure_drift([(0, row)], section("hflip"), DEFAULT_LIMITS, [0])
    assert (report.rows, report.passed_over, report.effects, report.seconds_per_image) == (1, 1, (), None)


def test_rows_in_ms_swifts_layout_count_as_others_do(image: Path) -> None:
    answer = '[{"bbox_2d": [0, 0, 1000, 1000], "label": "room"}, {"bbox_2d": [375, 375, 625, 625], "label": "cup"}]'
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": answer}]
    row = SWIFT.read({"messages": messages, "images": [str(image)]}, Reading(image.parent))
    settings = section({"scale": {"lo": 2, "hi": 2}}, min_visible=0.1)
    report = measure_drift([(0, row)], settings, DEFAULT_LIMITS, [0])
    assert (report.passed_over, report.effects) == (0, measure(image, [ALL_OF_IT, MIDDLE], settings).effects)


def test_of_images_only_headers_are_read_but_for_the_timed_ones(image: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.png"
    noise = np.random.default_rng(0).integers(0, 255, (300, 400, 3), dtype=np.uint8)
    Image.fromarray(noise).save(cut)
    cut.write_bytes(cut.read_bytes()[:4000])
    sound, broken = (Row((path,), (MIDDLE,), Composed()) for path in (image, cut))
    rows = [(index, sound if index < TIMED_ROWS else broken) for index in range(TIMED_ROWS + 3)]
    assert measure_drift(rows, section("hflip"), DEFAULT_LIMITS, [0]).rows == TIMED_ROWS + 3
    with pytest.raises(DataError, match=r"cut\.png"):
        measure_drift([(0, broken)], section("hflip"), DEFAULT_LIMITS, [0])


@pytest.mark.parametrize("rotated_boxes", ["skip", "quad", "grow"])
def test_placing_decides_as_the_pipeline_does(demo: Path, rotated_boxes: str) -> None:
    path = demo / "data/train.jsonl"
    settings = AugmentationSection.model_validate(
        {"preset": "progressive-3", "rotated_boxes": rotated_boxes, "min_overlap": 0.9, "min_visible": 0.9}
    )
    rows = Rows([path])
    for index in range(len(rows)):
        row = rows.row(index)
        image = np.asarray(Image.open(row.images[0]).convert("RGB"))
        size = (image.shape[1], image.shape[0])
        record = row.record([size])
        sample = Pipeline(settings)(image, record, epoch=1, row=index)
        placed = Pipeline(settings).place(blank(size), record, epoch=1, row=index)
        assert (placed.outcomes, placed.replay) == (sample.outcomes, sample.replay)
        assert placed.size == (sample.image.shape[1], sample.image.shape[0])
        assert Pipeline(settings).place_again(blank(size), record, sample.replay).outcomes == sample.outcomes


def test_imgaug_operations_count_by_whether_they_move(image: Path) -> None:
    ops = [{"imgaug.Fliplr": {"p": 1.0}}, {"imgaug.Multiply": {"mul": [0.5, 1.5]}}]
    report = measure(image, [MIDDLE], section(*ops))
    assert {effect.operation for effect in report.effects} == {"imgaug.Fliplr", "all"}
    assert report.drift == 0


ZOOM = ["--set", "custom.augmentation={ops: [hflip, {scale: {lo: 1.5, hi: 1.5}}]}"]


def test_drift_above_the_limit_fails_and_names_the_operation(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["preview-aug", str(demo / "config.yaml"), *ZOOM]
    assert main([*argv, "--max-drift", "0.05"]) == 1
    told = capsys.readouterr()
    assert "above 5.00%; scale alone takes" in told.err
    assert "scale" in told.out
    assert main([*argv, "--max-drift", "0.9"]) == 0
    assert not Path("preview.png").exists()


def test_the_report_as_json_holds_what_the_table_rounds(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["preview-aug", str(demo / "config.yaml"), *ZOOM, "--report", "--rows", "0-9", "--variants", "2", "--json"]
    assert main(argv) == 0
    values = json.loads(capsys.readouterr().out)
    report = values["report"]
    assert (values["epochs"], report["rows"], report["samples"]) == ([0, 1], 10, 20)
    assert report["worst"] == "scale"
    assert 0 < report["drift"] < 1
    assert report["seconds_per_image"] > 0
    assert {effect["operation"] for effect in report["effects"]} == {"hflip", "scale", "all"}


@pytest.mark.parametrize("value", ["-0.1", "1.5", "much"])
def test_a_limit_that_is_no_share_is_refused(value: str, demo: Path) -> None:
    assert main(["preview-aug", str(demo / "config.yaml"), *ZOOM, "--max-drift", value]) == 2


def test_samples_that_are_left_as_they_are_are_counted(image: Path) -> None:
    turned = section({"rotate": {"max_deg": 9}}, bypass_prob=0.5)
    report = measure(image, [MIDDLE], turned, epochs=40)
    assert 8 < report.bypassed < 32
    assert effect(report, "rotate").samples == 40 - report.bypassed
    assert measure(image, [MIDDLE], turned.model_copy(update={"bypass_prob": 0.0}), epochs=40).bypassed == 0
