"""The preview shows what training gets: read back from encoded samples, so that a fault on the way is seen."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from swiftalign.augment.pipeline import Pipeline
from swiftalign.augment.rows import TrainingRows
from swiftalign.config.augmentation import AugmentationSection
from swiftalign.config.load import load_config
from swiftalign.config.sections import Config, GroundingTextSection
from swiftalign.data.encoded import (
    Encoded,
    NotHereError,
    TemplateEncoder,
    as_written,
    from_patches,
    training_encoder,
)
from swiftalign.data.rows import Rows
from swiftalign.data.text import DEFAULT_WRITING, Writing
from swiftalign.previews.strips import Panel, Previewer, Shape
from swiftalign.problems import ModelError

GUIDE = Path(__file__).parent / "guide/06_augmentation.yaml"


@pytest.fixture(scope="module")
def encoder(demo: Path) -> TemplateEncoder:
    return training_encoder(load_config([demo / "config.yaml", GUIDE]))


@pytest.fixture(scope="module")
def rows(demo: Path) -> Rows:
    return Rows([demo / "data/train.jsonl"])


plain = partial(as_written, writing=DEFAULT_WRITING)


def pipeline(*ops: Any, **rules: Any) -> Pipeline:
    return Pipeline(AugmentationSection.model_validate({"ops": list(ops), **rules}))


BY_THE_GUIDE = Pipeline(AugmentationSection(preset="guide"))


def write_row(folder: Path, row: dict[str, Any], size: tuple[int, int] = (128, 128)) -> Rows:
    """A file of one row about a grey image of this size."""
    Image.new("RGB", size, (120, 120, 120)).save(folder / "a.png")
    (folder / "rows.jsonl").write_text(json.dumps({"images": ["a.png"], **row}) + "\n", encoding="utf-8")
    return Rows([folder / "rows.jsonl"])


def bbox(label: str, *numbers: float) -> dict[str, Any]:
    return {"label": label, "bbox_2d": list(numbers)}


# What is read back.


def test_patches_become_the_image_again(encoder: TemplateEncoder) -> None:
    """Pins how Qwen3-VL's processor cuts: patches of 16, in groups of 2 x 2, each frame twice."""
    processor = encoder.template.processor.image_processor
    assert (processor.patch_size, processor.merge_size, processor.temporal_patch_size) == (16, 2, 2)
    for seed, size in enumerate([(32, 32), (64, 96), (160, 32)]):
        image = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
        cut = processor(
            images=[Image.fromarray(image), Image.new("RGB", (64, 64))], return_tensors="pt", do_resize=False
        )
        assert np.array_equal(from_patches(cut["pixel_values"], cut["image_grid_thw"], processor), image)


def test_the_encoded_sample_holds_the_image_and_the_answer_of_the_training_row(
    encoder: TemplateEncoder, rows: Rows
) -> None:
    augmented = TrainingRows(rows, BY_THE_GUIDE)
    augmented.set_epoch(2)
    for index in range(12):
        row = augmented[index]
        encoded, written = encoder(row), plain(row)
        assert np.array_equal(encoded.image, written.image)
        assert encoded.answer == written.answer
        assert encoded.answer.sound
        assert encoded.answer.targets


def test_the_encoder_takes_the_runs_template_settings(make_config: Callable[[str], Config], rows: Rows) -> None:
    encode = training_encoder(make_config("data: {max_length: 100}\nswift: {max_pixels: 4096, system: Be brief.}"))
    assert (encode.template.max_length, encode.template.max_pixels) == (100, 4096)
    augmented = TrainingRows(rows, BY_THE_GUIDE)
    with pytest.raises(ValueError, match="max_length"):
        encode(augmented[0])


def test_a_model_that_is_not_here_is_told_apart_from_a_damaged_one(demo: Path, tmp_path: Path) -> None:
    shutil.copytree(demo / "model", tmp_path / "model")
    (tmp_path / "config.yaml").write_text("model: ./model\n", encoding="utf-8")
    config = load_config([tmp_path / "config.yaml"])
    (tmp_path / "model/tokenizer.json").write_text("{", encoding="utf-8")
    with pytest.raises(ModelError, match="tokenizer and processor can't be loaded") as caught:
        training_encoder(config)
    assert not isinstance(caught.value, NotHereError)
    (tmp_path / "model/tokenizer_config.json").unlink()
    with pytest.raises(NotHereError, match=r"no tokenizer_config\.json in "):
        training_encoder(config)


def test_a_model_that_asks_to_run_code_is_refused(demo: Path, tmp_path: Path) -> None:
    shutil.copytree(demo / "model", tmp_path / "model")
    file = tmp_path / "model/preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"auto_map": {"AutoProcessor": "x.Y"}}), encoding="utf-8")
    (tmp_path / "config.yaml").write_text("model: ./model\n", encoding="utf-8")
    with pytest.raises(ModelError, match="has Python code of its own"):
        training_encoder(load_config([tmp_path / "config.yaml"]))


# Strips.


def test_variants_are_the_rows_that_training_has_in_those_epochs(encoder: TemplateEncoder, rows: Rows) -> None:
    augmented = TrainingRows(rows, BY_THE_GUIDE)
    for index in (0, 3, 7):
        strip = Previewer(rows, BY_THE_GUIDE, encoder).variants(index, [0, 5])
        assert [panel.title for panel in strip.panels] == ["original", "epoch 0", "epoch 5"]
        for epoch, panel in zip((0, 5), strip.panels[1:], strict=True):
            augmented.set_epoch(epoch)
            row = augmented[index]
            assert np.array_equal(panel.image, np.asarray(row["images"][0]))
            points = [point for shape in panel.shapes if shape.status != "dropped" for point in shape.points]
            wanted = [point for target in plain(row).answer.targets for point in target.points]
            assert points == [(x / 1000, y / 1000) for x, y in wanted]
            assert panel.faults == ()


def test_the_original_is_the_file_as_it_is(rows: Rows) -> None:
    original = Previewer(rows, BY_THE_GUIDE, plain).variants(0, [0]).panels[0]
    record = rows.row(0)
    assert np.array_equal(original.image, np.asarray(Image.open(record.images[0]).convert("RGB")))
    assert [(s.label, s.points) for s in original.shapes] == [
        (t.label, tuple((x / 128, y / 128) for x, y in t.points)) for t in record.targets
    ]
    assert original.replay is None


def panel_of(rows: Rows, made: Pipeline, encode: Callable[[dict[str, Any]], Encoded] = plain) -> Panel:
    return Previewer(rows, made, encode).variants(0, [0]).panels[1]


TWO = {"objects": [bbox("corner", 0, 0, 16, 16), bbox("middle", 48, 48, 80, 80), bbox("side", 20, 56, 60, 72)]}


def test_a_dropped_target_is_drawn_where_it_would_lie(tmp_path: Path) -> None:
    panel = panel_of(write_row(tmp_path, TWO), pipeline({"scale": {"lo": 2, "hi": 2}}))
    [dropped] = [shape for shape in panel.shapes if shape.status == "dropped"]
    assert (dropped.label, dropped.note) == ("corner", "dropped: 0% visible")
    assert dropped.points == ((-0.5, -0.5), (-0.25, -0.5), (-0.25, -0.25), (-0.5, -0.25))
    assert "corner" not in [shape.label for shape in panel.shapes if shape.status == "kept"]


def test_a_clipped_target_says_how_much_of_it_is_left(tmp_path: Path) -> None:
    panel = panel_of(write_row(tmp_path, TWO), pipeline({"scale": {"lo": 2, "hi": 2}}))
    by_label = {shape.label: shape for shape in panel.shapes}
    assert (by_label["middle"].status, by_label["middle"].points) == ("kept", ((0.25, 0.25), (0.75, 0.75)))
    assert (by_label["side"].status, by_label["side"].note) == ("clipped", "clipped: 70% visible")
    assert by_label["side"].points == ((0.0, 0.375), (0.438, 0.625))


def test_operations_that_were_left_out_are_told_with_the_reason(tmp_path: Path) -> None:
    rows = write_row(tmp_path, {"objects": [bbox("pole", 60, 4, 68, 124)]})
    panel = panel_of(rows, pipeline("hflip", {"rotate": {"max_deg": 40}}))
    assert panel.left_out == ("rotate: a box would grow too much",)
    assert panel.operations == ("hflip",)
    assert panel.to_json()["replay"]["steps"] == [{"name": "hflip"}]


def test_a_crop_shows_what_it_left_of_each_target(encoder: TemplateEncoder, tmp_path: Path) -> None:
    cropped = {"min_crop_size": 32, "scale_range": 2, "min_coverage": 0.2, "anchor_classes": ["middle"]}
    made = pipeline("vflip", {"roi_crop": {**cropped, "partly_shown": {"side": "part of side"}}})
    strip = Previewer(write_row(tmp_path, TWO), made, encoder).variants(0, [0])
    panel = strip.panels[1]
    assert panel.operations == ("vflip", "crop ×2.00 of middle")  # noqa: RUF001
    assert panel.size == (64, 64)
    assert panel.faults == ()
    shapes = {shape.label: shape for shape in panel.shapes}
    assert (shapes["middle"].status, shapes["middle"].points) == ("kept", ((0.25, 0.25), (0.75, 0.75)))
    side = shapes["part of side"]
    assert (side.status, side.note, side.points) == ("clipped", "clipped: 70% visible", ((0.0, 0.375), (0.438, 0.625)))
    corner = shapes["corner"]
    assert (corner.status, corner.note) == ("dropped", "dropped: 0% visible")
    assert corner.points == ((-0.5, 1.5), (-0.25, 1.5), (-0.25, 1.25), (-0.5, 1.25))
    steps = Previewer(write_row(tmp_path, TWO), made, encoder).steps(0, 0)
    assert [panel.operations for panel in steps.panels[1:]] == [("vflip",), panel.operations[1:]]
    assert (steps.panels[-1].shapes, steps.panels[-1].replay) == (panel.shapes, panel.replay)


def test_a_crop_that_was_left_out_is_told_with_the_reason(tmp_path: Path) -> None:
    rows = write_row(tmp_path, TWO)
    panel = panel_of(rows, pipeline("vflip", {"random_crop": {"min_objects": 9}}))
    assert panel.left_out == ("random_crop: fewer than 9 objects would remain",)
    assert panel.operations == ("vflip",)
    assert panel.size == (128, 128)


def test_op_by_op_ends_with_what_training_sees(encoder: TemplateEncoder, rows: Rows) -> None:
    for index, epoch in ((0, 0), (2, 1), (3, 2)):
        previewer = Previewer(rows, BY_THE_GUIDE, encoder)
        whole, steps = previewer.variants(index, [epoch]), previewer.steps(index, epoch)
        variant, last = whole.panels[1], steps.panels[-1]
        assert [panel.title for panel in steps.panels[1:]] == [f"step {n}" for n in range(1, len(steps.panels))]
        assert tuple(name for panel in steps.panels[1:] for name in panel.operations) == variant.operations
        assert np.array_equal(last.image, variant.image)
        assert (last.shapes, last.replay) == (variant.shapes, variant.replay)
        assert all(panel.faults == () for panel in steps.panels)


CUP = '[{"bbox_2d": [100, 200, 300, 400], "label": "cup"}]'


def talk(answer: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "<image>where?"}, {"role": "assistant", "content": answer}]}


def test_a_row_in_ms_swifts_layout_moves_with_its_image(encoder: TemplateEncoder, tmp_path: Path) -> None:
    rows = write_row(tmp_path, talk(CUP))
    strip = Previewer(rows, pipeline("hflip", {"gamma": {"gamma": 2}}), encoder).variants(0, [0])
    before, after = ((0.1, 0.2), (0.3, 0.4)), ((0.7, 0.2), (0.9, 0.4))
    assert [panel.shapes for panel in strip.panels] == [(Shape("bbox", "cup", each),) for each in (before, after)]
    assert strip.panels[1].operations == ("hflip", "gamma 2.00")
    assert strip.panels[1].learned == f"{CUP.replace('100', '700').replace('300', '900')}<|im_end|>\n"
    assert strip.panels[1].faults == ()
    assert Previewer(rows, pipeline("hflip"), encoder).steps(0, 0).panels[1].title == "step 1"


def test_a_row_whose_text_is_not_understood_keeps_its_geometry(encoder: TemplateEncoder, tmp_path: Path) -> None:
    rows = write_row(tmp_path, talk(f"{CUP} or at (1, 2)"))
    strip = Previewer(rows, pipeline("hflip", {"gamma": {"gamma": 2}}), encoder).variants(0, [0])
    box = Shape("bbox", "cup", ((0.1, 0.2), (0.3, 0.4)))
    assert [panel.shapes for panel in strip.panels] == [(box,), (box,)]
    assert strip.panels[1].operations == ("gamma 2.00",)
    assert strip.panels[1].left_out == ("geometry: its text mentions coordinates that are not understood",)
    assert strip.panels[1].image[0, 0, 0] < 120
    assert [panel.faults for panel in strip.panels] == [(), ()]
    assert Previewer(rows, pipeline("hflip"), encoder).steps(0, 0).panels[1].title == "epoch 0"


@pytest.mark.parametrize("answer", [None, CUP], ids=["objects", "ms-swift"])
def test_without_augmentation_a_row_is_shown_as_it_is_learned(
    answer: str | None, encoder: TemplateEncoder, tmp_path: Path
) -> None:
    row = talk(answer) if answer else {"objects": [bbox("cup", 12.8, 25.6, 38.4, 51.2)]}
    rows = write_row(tmp_path, row)
    for strip in (Previewer(rows, None, encoder).variants(0, [0, 1, 2]), Previewer(rows, None, encoder).steps(0, 0)):
        original, learned = strip.panels
        assert (original.title, learned.title) == ("original", "as it is learned")
        assert np.array(original.shapes[0].points) == pytest.approx(np.array(((0.1, 0.2), (0.3, 0.4))))
        assert learned.shapes == (Shape("bbox", "cup", ((0.1, 0.2), (0.3, 0.4))),)
        assert np.array_equal(learned.image, original.image)
        assert (learned.learned, learned.operations, learned.replay) == (f"{CUP}<|im_end|>\n", (), None)
        assert (learned.faults, learned.left_out) == ((), ())


# Faults on the way.


def test_a_shifted_image_is_seen_and_told(encoder: TemplateEncoder, rows: Rows) -> None:
    def shifted(row: dict[str, Any]) -> Encoded:
        moved = np.roll(np.asarray(row["images"][0]), 16, axis=1)
        return encoder({**row, "images": [Image.fromarray(moved)]})

    sound, faulty = panel_of(rows, BY_THE_GUIDE, encoder), panel_of(rows, BY_THE_GUIDE, shifted)
    assert np.array_equal(faulty.image, np.roll(sound.image, 16, axis=1))
    assert not np.array_equal(faulty.image, sound.image)
    [fault] = faulty.faults
    assert fault.startswith("the encoded image differs by ")


def test_a_text_that_exchanges_width_and_height_shows_other_boxes(encoder: TemplateEncoder, tmp_path: Path) -> None:
    rows = write_row(tmp_path, {"objects": [bbox("cup", 32, 32, 96, 64)]}, size=(256, 128))

    def exchanged(row: dict[str, Any]) -> Encoded:
        return encoder({**row, **rows.row(0).to_swift([(128, 256)], DEFAULT_WRITING)})

    made = pipeline({"gamma": {"gamma": 1.5}})
    sound, faulty = panel_of(rows, made, encoder), panel_of(rows, made, exchanged)
    assert (sound.shapes[0].points, sound.faults) == (((0.125, 0.25), (0.375, 0.5)), ())
    assert faulty.shapes[0].points == ((0.25, 0.125), (0.75, 0.25))
    text = json.dumps([{"bbox_2d": [250, 125, 750, 250], "label": "cup"}]) + "<|im_end|>\n"
    assert faulty.faults == (
        f"bbox of 'cup' is at [125, 250, 375, 500] of 1000x1000, but the learned text is {text!r}",
    )


def test_targets_that_an_answer_lacks_are_told(rows: Rows) -> None:
    def cut(row: dict[str, Any]) -> Encoded:
        encoded = plain(row)
        first = encoded.answer._replace(targets=encoded.answer.targets[:1])
        return replace(encoded, answer=first, learned=json.dumps(json.loads(encoded.learned)[:1]))

    panel = panel_of(rows, pipeline("hflip"), cut)
    assert len([shape for shape in panel.shapes if shape.status == "kept"]) == 1
    [fault] = panel.faults
    assert fault.startswith("the learned text is not the row's objects: '[{")


def test_an_image_token_of_another_vocabulary_is_told(make_config: Callable[[str], Config], rows: Rows) -> None:
    """Pins that ms-swift's template hard-codes the id, and silently leaves the image without its tokens."""
    encode = training_encoder(make_config(""))
    assert encode.template.image_token_id != type(encode.template).image_token_id
    encode.template.image_token_id = type(encode.template).image_token_id
    assert panel_of(rows, pipeline("hflip"), encode).faults == (
        "ms-swift can't encode it: the text holds 0 image tokens, the images need 16",
    )


def test_a_row_that_is_too_long_to_encode_is_shown_as_written_and_told(
    make_config: Callable[[str], Config], rows: Rows
) -> None:
    encode = training_encoder(make_config("data: {max_length: 100}"))
    panel = panel_of(rows, pipeline("hflip"), encode)
    assert len(panel.shapes) == 4
    [fault] = panel.faults
    assert fault.startswith("ms-swift can't encode it: ")
    assert "max_length" in fault


def test_other_words_around_the_answer_are_no_fault(encoder: TemplateEncoder, demo: Path) -> None:
    text = GroundingTextSection(fenced=True, system="Look closely.")
    fenced = Rows([demo / "data/train.jsonl"], writing=Writing(text))
    panel = panel_of(fenced, BY_THE_GUIDE, encoder)
    assert (panel.faults, len(panel.shapes)) == ((), 4)


def test_an_answer_of_other_content_is_no_text() -> None:
    messages = [{"role": "assistant", "content": [{"type": "text"}]}]
    assert plain({"messages": messages, "images": [Image.new("RGB", (8, 8))]}).answer.targets == ()


@pytest.mark.parametrize("order", ["as_given", "top_to_bottom", "centre_top_to_bottom"])
def test_a_note_stands_at_its_target_in_every_order_of_the_answer(order: Any, tmp_path: Path) -> None:
    objects = [bbox("below", 40, 70, 80, 90), bbox("above", 20, 40, 80, 60)]  # a zoom by 2 cuts the second one
    rows = write_row(tmp_path, {"objects": objects})
    writing = Writing(GroundingTextSection(order=order))
    rows.writing = writing
    zoom = replace(pipeline({"scale": {"lo": 2, "hi": 2}}), text=writing.text)
    strip = Previewer(rows, zoom, partial(as_written, writing=writing)).variants(0, [0])
    found = {shape.label: (shape.status, shape.note) for shape in strip.panels[1].shapes}
    assert found == {"below": ("kept", ""), "above": ("clipped", "clipped: 80% visible")}
