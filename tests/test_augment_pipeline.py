"""The augmentation pipeline: one draw a row and epoch, wherever it runs, and everything moves together."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from qwen_vl_utils import fetch_image
from torch.utils.data import DataLoader

from swiftalign.augment.draws import Step, draw
from swiftalign.augment.pipeline import Pipeline, Replay, Sample, is_geometric, run_pipeline
from swiftalign.augment.rows import TrainingRows
from swiftalign.config.augmentation import AugmentationSection
from swiftalign.config.load import load_config
from swiftalign.config.sections import GroundingTextSection
from swiftalign.data.mirror import LEFT_RIGHT, UP_DOWN, Exchange, mirror_words
from swiftalign.data.records import Record
from swiftalign.data.rows import Rows, open_images
from swiftalign.data.sizes import PixelLimits, model_size
from swiftalign.data.targets import PixelTarget
from swiftalign.data.text import Composed, Writing
from swiftalign.demo.data import write_dataset

GUIDE = AugmentationSection(preset="guide")
BOX = PixelTarget("bbox", "cup", ((40.0, 30.0), (90.0, 70.0)))
QUAD = PixelTarget("quad", "card", ((100.0, 40.0), (150.0, 50.0), (145.0, 100.0), (95.0, 90.0)))
LINE = PixelTarget("line", "wire", ((10.0, 100.0), (80.0, 110.0), (180.0, 95.0)))


def record(*targets: PixelTarget, prompt: str | None = None) -> Record:
    return Record((Path("a.png"),), targets or (BOX, QUAD, LINE), Composed(prompt))


def noise(width: int = 192, height: int = 128) -> np.ndarray[Any, np.dtype[np.uint8]]:
    values = np.random.default_rng(7).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return np.asarray(cv2.GaussianBlur(values, (0, 0), 2), dtype=np.uint8)


def pipeline(*ops: Any, **rules: Any) -> Pipeline:
    return Pipeline(AugmentationSection(ops=list(ops), **rules))


def apply(made: Pipeline, of: Record, row: int = 0) -> Sample:
    return made(noise(), of, epoch=0, row=row)


# -- draws -------------------------------------------------------------------------------------------------------------


def test_draws_follow_from_seed_epoch_and_row_alone() -> None:
    def drawn(seed: int, epoch: int, row: int) -> list[Any]:
        return [(step.name, step.values) for step in draw(GUIDE.operations, seed=seed, epoch=epoch, row=row)]

    assert drawn(1, 2, 3) == drawn(1, 2, 3)
    assert len({json.dumps(drawn(*place)) for place in [(1, 2, 3), (2, 2, 3), (1, 3, 3), (1, 2, 4), (3, 2, 1)]}) == 5


def test_one_operations_probability_leaves_the_others_draws_alone() -> None:
    def colours(prob: float) -> list[Any]:
        section = AugmentationSection(ops=[{"rotate": {"max_deg": 9, "prob": prob}}, {"gamma": {"gamma": [0.5, 2]}}])
        steps = (step for row in range(20) for step in draw(section.operations, seed=0, epoch=0, row=row))
        return [step.values for step in steps if step.name == "gamma"]

    assert colours(0.0) == colours(0.5) == colours(1.0)


def test_drawn_values_fill_their_ranges() -> None:
    section = AugmentationSection(ops=[{"rotate": {"max_deg": 8}}, {"scale": {"lo": 1.02, "hi": 1.15, "prob": 0.2}}])
    steps = [step for row in range(4000) for step in draw(section.operations, seed=5, epoch=0, row=row)]
    degrees = np.array([step.values["degrees"] for step in steps if step.name == "rotate"])
    factors = np.array([step.values["factor"] for step in steps if step.name == "scale"])
    assert len(degrees) == 4000
    assert 700 < len(factors) < 900
    assert -8 <= degrees.min() < -7.9 < 7.9 < degrees.max() <= 8
    assert abs(degrees.mean()) < 0.3
    assert 1.02 <= factors.min() < 1.022
    assert 1.148 < factors.max() <= 1.15


# -- replay ------------------------------------------------------------------------------------------------------------


@given(row=st.integers(0, 10**9), epoch=st.integers(0, 1000), policy=st.sampled_from(["skip", "quad", "grow"]))
@settings(max_examples=60, deadline=None)
def test_a_replay_is_the_original_to_the_bit(row: int, epoch: int, policy: str) -> None:
    made = Pipeline(AugmentationSection(preset="progressive-3", rotated_boxes=policy))
    sample = made(noise(150, 110), record(), epoch=epoch, row=row)
    written = json.loads(json.dumps(sample.replay.to_json()))
    steps = tuple(Step(step.pop("name"), step) for step in written["steps"])
    replay = Replay(steps, written["boxes_as_quads"], tuple(written["left_out"]))
    again = made.replay(noise(150, 110), record(), replay)
    assert np.array_equal(again.image, sample.image)
    assert (again.record, again.outcomes, again.replay) == (sample.record, sample.outcomes, sample.replay)


def test_a_replay_repeats_imgaugs_operations() -> None:
    made = pipeline({"imgaug.PerspectiveTransform": {"scale": 0.1}}, {"imgaug.AdditiveGaussianNoise": {"scale": 9}})
    sample = apply(made, record())
    again = made.replay(noise(), record(), sample.replay)
    assert np.array_equal(again.image, sample.image)
    assert again.record == sample.record != record()


# -- what the model's processor gets -----------------------------------------------------------------------------------


@given(
    width=st.integers(1, 400),
    height=st.integers(1, 400),
    row=st.integers(0, 1000),
    padded=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_the_processor_does_not_resize_again(width: int, height: int, row: int, padded: bool) -> None:
    ops = GUIDE.operations if padded else GUIDE.operations[:-1]
    limits = PixelLimits(64 * 64, 300 * 300)
    made = Pipeline(AugmentationSection(ops=[op.model_dump() for op in ops]), limits)
    if max(width, height) > 200 * min(width, height):
        return
    image = made(noise(width, height), record(LINE), epoch=0, row=row).image
    as_given = Image.fromarray(image)
    limits_there = {"min_pixels": limits.least, "max_pixels": limits.most}
    assert fetch_image({"image": as_given, **limits_there}, image_patch_size=16).size == as_given.size


def test_without_operations_an_aligned_row_passes_untouched() -> None:
    image = noise(192, 128)
    sample = pipeline()(image, record(), epoch=0, row=0)
    assert sample.image is image
    assert sample.record == record()
    assert sample.replay == Replay(())


def test_padding_at_the_end_keeps_its_colour() -> None:
    made = pipeline({"pad_to_multiple": {"multiple": 256}}, {"color_jitter": {"contrast": 0.5}}, fill=[9, 8, 7])
    image = apply(made, record()).image
    assert image.shape == (256, 256, 3)
    assert (image[128:] == (9, 8, 7)).all()
    assert (image[:, 192:] == (9, 8, 7)).all()
    contrast_alone = apply(pipeline({"color_jitter": {"contrast": 0.5}}), record()).image
    assert np.array_equal(image[:128, :192], contrast_alone)


WIDE = {"pad_to_multiple": {"multiple": 256}}


@pytest.mark.parametrize(
    ("fill", "colour"),
    [
        ("black", (0, 0, 0)),
        ("grey", (123, 117, 104)),
        ("gray", (123, 117, 104)),
        (128, (128, 128, 128)),
        ([9, 8, 7], (9, 8, 7)),
    ],
    ids=str,
)
def test_the_canvas_outside_the_image_has_the_fill(fill: Any, colour: tuple[int, int, int]) -> None:
    made = replace(pipeline(WIDE, fill=fill), grey=(123, 117, 104))
    assert (apply(made, record()).image[128:] == colour).all()


@pytest.mark.parametrize("before", [[], [{"imgaug.Affine": {"rotate": 90}}], [{"gamma": {"gamma": 3}}]], ids=str)
def test_the_mean_is_that_of_the_image_before_augmentation(before: list[Any]) -> None:
    image = noise() // np.array([1, 2, 4], np.uint8)
    made = pipeline({"scale": {"lo": 0.5, "hi": 0.5}}, *before, WIDE, fill="mean", min_side=0)
    sample = made(image, record(), epoch=0, row=0)
    assert (sample.image[200:] == np.rint(image.mean(axis=(0, 1)))).all()
    assert np.array_equal(made.replay(image, record(), sample.replay).image, sample.image)


@pytest.mark.parametrize(
    ("processor", "grey"),
    [
        ('{"image_mean": [0.48145466, 0.4578275, 0.40821073]}', (123, 117, 104)),
        ('{"image_mean": [0.5, 0.5, 0.5]}', (128, 128, 128)),
        ("{}", (128, 128, 128)),
        (None, (128, 128, 128)),
    ],
)
def test_grey_is_what_the_models_image_processor_subtracts(
    processor: str | None, grey: tuple[int, int, int], tmp_path: Path
) -> None:
    (tmp_path / "model").mkdir()
    if processor:
        (tmp_path / "model/preprocessor_config.json").write_text(processor)
    (tmp_path / "config.yaml").write_text("model: ./model\ncustom: {augmentation: {fill: grey}}\n")
    assert run_pipeline(load_config([tmp_path / "config.yaml"])).grey == grey


# -- rules for targets -------------------------------------------------------------------------------------------------

TALL = PixelTarget("bbox", "pole", ((80.0, 20.0), (90.0, 110.0)))
TURN = {"rotate": {"max_deg": 8}}


def turned(policy: str) -> Sample:
    made = pipeline(TURN, rotated_boxes=policy)
    draws = (draw(made.settings.operations, seed=42, epoch=0, row=row) for row in range(99))
    row = next(row for row, (step,) in enumerate(draws) if step.values["degrees"] > 7)
    return apply(made, record(TALL), row)


def test_a_rotation_that_would_bloat_a_box_is_left_out() -> None:
    sample = turned("skip")
    assert sample.record.targets == (TALL,)
    assert sample.replay.left_out == ("rotate: a box would grow too much",)
    assert np.array_equal(sample.image, noise())


def test_or_the_box_becomes_a_quad() -> None:
    (target,) = turned("quad").record.targets
    assert target.kind == "quad"
    sides = np.linalg.norm(np.diff(np.array(target.points), axis=0), axis=1)
    assert sides == pytest.approx([10, 90, 10])


def test_a_quad_stands_on_the_image_of_its_box() -> None:
    box = PixelTarget("bbox", "cup", ((40.0, 40.0), (140.0, 60.0)), image=1)
    made = pipeline({"rotate": {"max_deg": 45}}, rotated_boxes="quad")
    of = Record((None, None), (replace(box, image=0), box), Composed(images=2))
    _, turned = made.row([noise(), noise()], of, epoch=0, row=0)
    assert [(target.kind, target.image) for target in turned.targets] == [("quad", 0), ("quad", 1)]


def test_or_it_grows() -> None:
    sample = turned("grow")
    (target,) = sample.record.targets
    (left, top), (right, bottom) = target.points
    assert target.kind == "bbox"
    assert (right - left) * (bottom - top) / 900 == pytest.approx(sample.outcomes[0].inflation)
    assert sample.outcomes[0].inflation > 1 / 0.7


def test_a_row_that_would_lose_every_target_keeps_its_geometry() -> None:
    corner = PixelTarget("bbox", "stamp", ((0.0, 0.0), (20.0, 20.0)))
    sample = apply(pipeline({"scale": {"lo": 2, "hi": 2}}), record(corner))
    assert sample.record.targets == (corner,)
    assert sample.replay.left_out == ("scale: every target would be lost",)


def test_dropped_targets_leave_the_record_and_say_why() -> None:
    corner = PixelTarget("bbox", "stamp", ((0.0, 0.0), (20.0, 20.0)))
    middle = PixelTarget("bbox", "cup", ((80.0, 50.0), (110.0, 80.0)))
    sample = apply(pipeline({"scale": {"lo": 2, "hi": 2}}), record(corner, middle))
    assert [target.label for target in sample.record.targets] == ["cup"]
    assert [outcome.reason for outcome in sample.outcomes] == ["0% visible", None]


# -- words -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "mirrored"),
    [
        ("the LEFT cup, left of the Right one", "the RIGHT cup, right of the Left one"),
        ("leftmost, rightwards, right-hand, left.", "rightmost, leftwards, left-hand, right."),
        ("an upright, bright, leftover copyright", "an upright, bright, leftover copyright"),
        ("左边的杯子", "右边的杯子"),
        ("", ""),
    ],
)
def test_words_for_sides_are_exchanged(text: str, mirrored: str) -> None:
    assert mirror_words(text) == mirrored
    assert mirror_words(mirrored) == text


@pytest.mark.parametrize(
    ("text", "mirrored"),
    [
        ("the TOP cup, above the Lower one", "the BOTTOM cup, below the Upper one"),
        ("topmost, uppermost, upwards, bottom-left.", "bottommost, lowermost, downwards, top-left."),
        ("a laptop on the desktop, upright, a supper, slower", "a laptop on the desktop, upright, a supper, slower"),
        ("a top hat, a crop top, in upper case, see below", "a top hat, a crop top, in upper case, see below"),
        ("Use the format below. Above all, be brief.", "Use the format below. Above all, be brief."),
        ("左上角的杯子 右下方 最上面", "左下角的杯子 右上方 最下面"),
        ("顶部的灯 下侧 上层", "底部的灯 上侧 下层"),
        ("以下方式 如下方法 线上部分 上下左右 早上 下载", "以下方式 如下方法 线上部分 上下左右 早上 下载"),
        ("left", "left"),
        ("", ""),
    ],
)
def test_words_for_heights_are_exchanged(text: str, mirrored: str) -> None:
    assert mirror_words(text, UP_DOWN) == mirrored
    assert mirror_words(mirrored, UP_DOWN) == text


PIECES = [
    *"左右上下最顶底方部以线侧",
    *("left", "right", "top", "bottom", "upper", "lower", "above", "below", "up"),
    *" -.",
    "most",
    "wards",
]


@given(
    st.lists(st.sampled_from([*PIECES, "see", "hat", "tank", "case", "all", "Top", "BELOW"]), max_size=9), st.booleans()
)
def test_exchanging_twice_gives_the_text_again(pieces: list[str], both: bool) -> None:
    text, exchange = "".join(pieces), Exchange(both, True)
    assert mirror_words(mirror_words(text, exchange), exchange) == text


@pytest.mark.parametrize(
    ("ops", "said"),
    [
        (["hflip"], "the cup at the top right"),
        (["vflip"], "the cup at the bottom left"),
        (["hflip", "vflip"], "the cup at the bottom right"),
        (["vflip", "vflip"], "the cup at the top left"),
        ([{"imgaug.Fliplr": {"p": 1.0}}], "the cup at the top right"),
        ([{"imgaug.Flipud": {"p": 1.0}}], "the cup at the bottom left"),
        ([{"imgaug.Rot90": {"k": 2}}], "the cup at the bottom right"),
        ([{"imgaug.Rot90": {"k": 2}}, "vflip"], "the cup at the top right"),
        ([{"rotate": {"max_deg": 80}}], "the cup at the top left"),
        ([{"random_crop": {"min_objects": 1}}, "vflip"], "the cup at the bottom left"),
        (["vflip", {"random_crop": {"min_objects": 1}}, "hflip"], "the cup at the bottom right"),
    ],
    ids=str,
)
def test_words_follow_where_the_edges_of_the_image_point(ops: list[Any], said: str) -> None:
    words = "the cup at the top left"
    label, middle = "top left cup", ((80.0, 50.0), (110.0, 80.0))
    sample = apply(pipeline(*ops), record(replace(BOX, points=middle, label=label), prompt=words))
    assert sample.record.to_swift([(192, 128)], Writing())["messages"][0]["content"] == f"<image>{said}"
    assert sample.record.targets[0].label == said.removeprefix("the cup at the ") + " cup"
    assert apply(pipeline(*ops, left_right="keep"), record(BOX, prompt=words)).record.wording == Composed(words)


def test_a_refused_exchange_leaves_out_only_what_makes_it() -> None:
    flips = ["hflip", "vflip"]
    for said, left in (("the left cup", ["vflip"]), ("the upper cup", ["hflip"]), ("the top left cup", [])):
        replay = apply(pipeline(*flips, left_right="refuse"), record(prompt=said)).replay
        assert [step.name for step in replay.steps] == left
        assert len(replay.left_out) == 2 - len(left)
    for turn in ({"imgaug.Rot90": {"k": 2}}, {"imgaug.Flipud": {"p": 1.0}}):
        replay = apply(pipeline(turn, left_right="refuse"), record(prompt="the lower cup")).replay
        assert replay.steps == ()
        assert replay.left_out[0].endswith("the row says up or down")


def test_a_mirrored_row_says_so_in_every_word() -> None:
    sided = record(replace(BOX, label="left cup"), prompt="Find the left cup.")
    swapped = apply(pipeline("hflip"), sided).record
    assert swapped.wording == Composed("Find the right cup.", exchange=LEFT_RIGHT)
    assert swapped.targets[0].label == "right cup"
    assert swapped.targets[0].points == ((102.0, 30.0), (152.0, 70.0))
    kept = apply(pipeline("hflip", left_right="keep"), sided).record
    assert kept.targets[0].label == "left cup"
    refused = apply(pipeline("hflip", left_right="refuse"), sided)
    assert refused.record == sided
    assert refused.replay.left_out == ("hflip: the row says left or right",)


def test_the_words_of_the_configuration_are_mirrored_too() -> None:
    text = GroundingTextSection(prompt="On the left: {labels}", system="Left first.")
    sided = replace(record(replace(BOX, label="left cup")), wording=Composed())
    made = replace(pipeline("hflip"), text=text)
    sample = apply(made, sided)
    size = sample.image.shape[1], sample.image.shape[0]
    system, question, _ = sample.record.to_swift([size], Writing(text))["messages"]
    assert (system["content"], question["content"]) == ("Right first.", "<image>On the right: right cup")
    plain = replace(sided, targets=(BOX,))
    refused = apply(replace(pipeline("hflip", left_right="refuse"), text=text), plain)
    assert refused.replay.left_out == ("hflip: the row says left or right",)


def test_an_object_that_a_summary_names_is_not_lost() -> None:
    corner = PixelTarget("bbox", "nut", ((0, 0), (8, 8)))
    both = replace(record(BOX, corner), wording=Composed("Find.", summaries=("One cup, one nut.",)))
    zoom = pipeline({"scale": {"lo": 1.4, "hi": 1.4, "prob": 1}}, min_visible=0.9)
    assert len(apply(zoom, both).record.targets) == 1
    kept = apply(replace(zoom, text=GroundingTextSection(answer="summary")), both)
    assert len(kept.record.targets) == 2
    assert "a target would be lost that the row's text needs" in kept.replay.left_out[0]


def test_flips_that_cancel_leave_the_words_alone() -> None:
    sided = record(replace(BOX, label="left cup"))
    assert apply(pipeline("hflip", "hflip"), sided).record == sided


def test_imgaugs_flips_mirror_words_and_quads_too() -> None:
    ours = apply(pipeline("hflip"), record(QUAD, prompt="left"))
    theirs = apply(pipeline({"imgaug.Fliplr": {"p": 1.0}}), record(QUAD, prompt="left"))
    assert np.array_equal(ours.image, theirs.image)
    assert theirs.record == ours.record


# -- workers -----------------------------------------------------------------------------------------------------------


def first(batch: list[dict[str, Any]]) -> dict[str, Any]:
    return batch[0]


def seen(rows: TrainingRows, workers: int, context: str | None, *, persistent: bool = False) -> list[str]:
    """What a loader yields over three epochs."""
    keep = persistent and workers > 0
    loader: DataLoader[Any] = DataLoader(
        rows,  # type: ignore[arg-type]
        batch_size=1,
        collate_fn=first,
        num_workers=workers,
        multiprocessing_context=context,
        persistent_workers=keep,
    )
    found = []
    for epoch in range(3):
        rows.set_epoch(epoch)
        found += [f"{item['messages']}{hash(item['images'][0].tobytes())}" for item in loader]
    return found


@pytest.fixture(scope="module")
def demo_rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "train.jsonl"
    write_dataset(path, rows=6, seed=1, size=(96, 64))
    return path


def test_workers_yield_what_one_process_yields(demo_rows: Path) -> None:
    anchors = {"anchor_classes": ["red circle", "blue box"], "min_crop_size": 48}
    later = ["vflip", {"random_crop": {"min_objects": 1}}, {"roi_crop": anchors}, "expand_to_fit_affine"]
    ops = [*(operation.model_dump() for operation in GUIDE.operations), *later]
    rows = TrainingRows(Rows([demo_rows]), Pipeline(AugmentationSection(ops=ops)))
    alone = seen(rows, 0, None)
    assert len(set(alone)) == 18
    assert seen(rows, 2, "fork") == alone
    assert seen(rows, 4, "fork", persistent=True) == alone
    assert seen(rows, 1, "spawn", persistent=True) == alone


def test_a_rows_draw_is_its_own_in_any_order_of_rows(demo_rows: Path) -> None:
    rows = Rows([demo_rows])
    straight = TrainingRows(rows, Pipeline(GUIDE))
    shuffled = TrainingRows(rows.reordered(np.array([4, 1, 5])), Pipeline(GUIDE))
    for position, row in enumerate([4, 1, 5]):
        assert shuffled[position]["messages"] == straight[row]["messages"]
        assert shuffled[position]["images"][0].tobytes() == straight[row]["images"][0].tobytes()


CUP = '[{"bbox_2d": [100, 250, 500, 750], "label": "left cup"}]'


@pytest.mark.parametrize(
    ("answer", "images"),
    [("yes", 1), ("<box>(10,20),(30,40)</box>", 1), (f"{CUP} and [1, 2, 3, 4]", 1), ("Both.", 2)],
    ids=["nothing located", "not understood", "partly understood", "two images"],
)
def test_rows_that_can_not_move_change_their_colours_alone(
    answer: str, images: int, demo_rows: Path, tmp_path: Path
) -> None:
    (image,) = json.loads(demo_rows.read_text().splitlines()[0])["images"]
    messages = [{"role": "user", "content": "<image>" * images + "left?"}, {"role": "assistant", "content": answer}]
    row = {"messages": messages, "images": [str(demo_rows.parent / image)] * images}
    (tmp_path / "swift.jsonl").write_text(json.dumps(row) + "\n")
    always = AugmentationSection(ops=["hflip", {"rotate": {"max_deg": 20}}, {"gamma": {"gamma": 2.0}}])
    item = TrainingRows(Rows([tmp_path / "swift.jsonl"]), Pipeline(always))[0]
    original = np.array(Image.open(demo_rows.parent / image).convert("RGB"))
    table = np.round(255 * (np.arange(256) / 255) ** 2)
    assert item["messages"] == messages
    assert len(item["images"]) == images
    for each in item["images"]:
        assert np.abs(np.array(each).astype(int) - table[original]).max() <= 1


def test_all_images_of_a_row_get_the_same_operations(tmp_path: Path) -> None:
    sizes = {"a.png": (96, 64), "b.png": (64, 128)}
    for name, size in sizes.items():
        Image.effect_noise(size, 60).convert("RGB").save(tmp_path / name)
    cup, pin = {"label": "left cup", "bbox_2d": [10, 10, 40, 30]}, {"label": "pin", "line": [5, 90, 30, 60, 50, 20]}
    together = {"images": [*sizes], "objects": [{**pin, "image": 1}, cup]}
    lines = [together, {"images": ["a.png"], "objects": [cup]}, {"images": ["b.png"], "objects": [pin]}]
    (tmp_path / "rows.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    rows, pipeline = (
        Rows([tmp_path / "rows.jsonl"]),
        Pipeline(AugmentationSection(ops=["hflip", {"scale": {"lo": 0.9, "hi": 1.1}}])),
    )
    for epoch in range(8):
        both, first, second = (rows.row(number) for number in range(3))
        images, record = pipeline.row(open_images(both), both.record([*sizes.values()]), epoch=epoch, row=7)
        targets = []
        for row, image, size in ((first, images[0], sizes["a.png"]), (second, images[1], sizes["b.png"])):
            [alone], moved = pipeline.row(open_images(row), row.record([size]), epoch=epoch, row=7)
            assert np.array_equal(alone, image)
            targets.append(moved.targets[0])
        assert [target.points for target in record.targets] == [targets[1].points, targets[0].points]
        assert [target.image for target in record.targets] == [1, 0]


def test_what_one_image_of_a_row_can_not_take_is_left_out_for_all(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        Image.effect_noise((128, 128), 60).convert("RGB").save(tmp_path / name)
    pole = {"label": "pole", "bbox_2d": [60, 4, 68, 124]}  # its box would grow too much
    objects = [{"label": "cup", "bbox_2d": [40, 40, 90, 90]}, {**pole, "image": 1}]
    (tmp_path / "rows.jsonl").write_text(json.dumps({"images": ["a.png", "b.png"], "objects": objects}) + "\n")
    row = Rows([tmp_path / "rows.jsonl"]).row(0)
    pipeline = Pipeline(AugmentationSection(ops=[{"rotate": {"max_deg": 40}}]))
    refused = 0
    for epoch in range(10):
        record = row.record([(128, 128)] * 2)
        placements, _ = pipeline.places(open_images(row), record, epoch=epoch, row=0)
        turned = [any(step.name == "rotate" for step in placed.replay.steps) for placed in placements]
        assert len(set(turned)) == 1
        refused += any("left out for another image" in entry for entry in placements[0].replay.left_out)
    assert refused


def test_rows_in_ms_swifts_layout_move_with_their_image(demo_rows: Path, tmp_path: Path) -> None:
    """In all spellings, the same augmentation gives the same picture and the same places as a row of objects."""
    (image,) = json.loads(demo_rows.read_text().splitlines()[0])["images"]
    name = str(demo_rows.parent / image)
    width, height = Image.open(name).size
    box = [10, 16, 48, 48]
    written = json.dumps(
        [{"bbox_2d": [round(n * 1000 / side) for n, side in zip(box, (width, height) * 2, strict=True)]}]
    )
    asks = {"role": "user", "content": "<image>The cup on the left?"}
    rows = [
        {"images": [name], "prompt": "The cup on the left?", "objects": [{"label": "cup", "bbox_2d": box}]},
        {"images": [name], "messages": [asks, {"role": "assistant", "content": written}]},
        {
            "images": [name],
            "messages": [asks, {"role": "assistant", "content": '[{"bbox_2d": <bbox>, "label": "<ref-object>"}]'}],
            "objects": {"ref": ["cup"], "bbox": [box]},
        },
    ]
    (tmp_path / "swift.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    always = AugmentationSection(ops=["hflip", {"scale": {"lo": 1.2, "hi": 1.2}}])
    own, text, placeholder = (
        TrainingRows(Rows([tmp_path / "swift.jsonl"]), Pipeline(always))[index] for index in range(3)
    )
    numbers = [json.loads(each["messages"][1]["content"])[0]["bbox_2d"] for each in (own, text, placeholder)]
    mirrored = [width - box[2], width - box[0]]
    exact = [(x - width / 2) * 1.2 + width / 2 for x in mirrored]
    assert numbers[0][::2] == [round(x / width * 1000) for x in exact]
    assert numbers[2] == numbers[0]
    assert np.abs(np.array(numbers[1]) - numbers[0]).max() <= 1  # of thousandths that were rounded before
    for each in (own, text, placeholder):
        assert each["messages"][0]["content"] == "<image>The cup on the right?"
        assert each["images"][0].tobytes() == own["images"][0].tobytes()
        assert "objects" not in each


# -- length and size limits --------------------------------------------------------------------------------------------


def test_a_row_that_would_become_too_long_keeps_its_geometry() -> None:
    allowed = Pipeline(GUIDE, fits=lambda found, size: True)
    refused = Pipeline(GUIDE, fits=lambda found, size: False)
    moved = 0
    for row in range(12):
        free, kept, held = (apply(made, record(), row) for made in (Pipeline(GUIDE), allowed, refused))
        assert free.replay == kept.replay
        assert not any(step.name in ("rotate", "scale", "resize_by_scale", "hflip") for step in held.replay.steps)
        colours = [[step for step in each.replay.steps if not is_geometric(step)] for each in (free, held)]
        assert colours[0] == colours[1]
        moved += any(reason.endswith("longer than max_length") for reason in held.replay.left_out)
    assert moved


def test_an_image_ends_within_ms_swifts_own_limit() -> None:
    before = 100 * 100
    for row in range(4):
        height, width = apply(Pipeline(GUIDE, PixelLimits(before=before)), record(), row).image.shape[:2]
        assert width * height <= before
        assert model_size(width, height, PixelLimits(before=before)) == (width, height)
