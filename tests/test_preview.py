"""The preview shows what training gets: read back from encoded samples, so that a fault on the way is seen."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from swiftalign.augment.draws import Step
from swiftalign.augment.encoded import (
    Encoded,
    NotHereError,
    TemplateEncoder,
    answer_text,
    as_written,
    from_patches,
    training_encoder,
)
from swiftalign.augment.pipeline import Pipeline
from swiftalign.augment.preview import (
    THUMBNAIL,
    Panel,
    Previewer,
    Shape,
    Strip,
    describe,
    parse_numbers,
    read_records,
    thumbnail,
    write_file,
)
from swiftalign.augment.settings import AugmentationSection
from swiftalign.augment.sheet import COLOURS, SCALE, TROUBLE, render_sheet
from swiftalign.cli import main
from swiftalign.config import Config, GroundingTextSection
from swiftalign.config_files import load_config
from swiftalign.errors import DataError, ModelError
from swiftalign.grounding.records import Record
from swiftalign.grounding.text import to_messages
from swiftalign.training.rows import AugmentedRows, JsonlRows

GUIDE = Path(__file__).parent / "guide/06_augmentation.yaml"


@pytest.fixture(scope="module")
def encoder(demo: Path) -> TemplateEncoder:
    return training_encoder(load_config([demo / "config.yaml", GUIDE]))


@pytest.fixture(scope="module")
def rows(demo: Path) -> JsonlRows:
    return JsonlRows([demo / "data/train.jsonl"])


def pipeline(*ops: Any, **rules: Any) -> Pipeline:
    return Pipeline(AugmentationSection.model_validate({"ops": list(ops), **rules}))


CONSERVATIVE = Pipeline(AugmentationSection(preset="conservative"))


def write_row(folder: Path, row: dict[str, Any], size: tuple[int, int] = (128, 128)) -> JsonlRows:
    """A file of one row about a grey image of this size."""
    Image.new("RGB", size, (120, 120, 120)).save(folder / "a.png")
    (folder / "rows.jsonl").write_text(json.dumps({"images": ["a.png"], **row}) + "\n", encoding="utf-8")
    return JsonlRows([folder / "rows.jsonl"])


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
    encoder: TemplateEncoder, rows: JsonlRows
) -> None:
    augmented = AugmentedRows(rows, CONSERVATIVE)
    augmented.set_epoch(2)
    for index in range(12):
        row = augmented[index]
        encoded, written = encoder(row), as_written(row)
        assert np.array_equal(encoded.image, written.image)
        assert encoded.answer == written.answer
        assert encoded.answer.sound
        assert encoded.answer.targets


def test_the_encoder_takes_the_runs_template_settings(make_config: Callable[[str], Config], rows: JsonlRows) -> None:
    encode = training_encoder(make_config("data: {max_length: 100}\nswift: {max_pixels: 4096, system: Be brief.}"))
    assert (encode.template.max_length, encode.template.max_pixels) == (100, 4096)
    augmented = AugmentedRows(rows, CONSERVATIVE)
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
    with pytest.raises(ModelError, match="asks to run Python code of its own"):
        training_encoder(load_config([tmp_path / "config.yaml"]))


# Strips.


def test_variants_are_the_rows_that_training_has_in_those_epochs(encoder: TemplateEncoder, rows: JsonlRows) -> None:
    augmented = AugmentedRows(rows, CONSERVATIVE)
    for index in (0, 3, 7):
        strip = Previewer(rows, CONSERVATIVE, encoder).variants(index, [0, 5])
        assert [panel.title for panel in strip.panels] == ["original", "epoch 0", "epoch 5"]
        for epoch, panel in zip((0, 5), strip.panels[1:], strict=True):
            augmented.set_epoch(epoch)
            row = augmented[index]
            assert np.array_equal(panel.image, np.asarray(row["images"][0]))
            points = [point for shape in panel.shapes if shape.fate != "dropped" for point in shape.points]
            wanted = [point for target in as_written(row).answer.targets for point in target.points]
            assert points == [(x / 1000, y / 1000) for x, y in wanted]
            assert panel.faults == ()


def test_the_original_is_the_file_as_it_is(rows: JsonlRows) -> None:
    original = Previewer(rows, CONSERVATIVE, as_written).variants(0, [0]).panels[0]
    record = rows.record(0)
    assert np.array_equal(original.image, np.asarray(Image.open(record.images[0]).convert("RGB")))
    assert [(s.label, s.points) for s in original.shapes] == [
        (t.label, tuple((x / 128, y / 128) for x, y in t.points)) for t in record.targets
    ]
    assert original.replay is None


def panel_of(rows: JsonlRows, made: Pipeline, encode: Callable[[dict[str, Any]], Encoded] = as_written) -> Panel:
    return Previewer(rows, made, encode).variants(0, [0]).panels[1]


TWO = {"objects": [bbox("corner", 0, 0, 16, 16), bbox("middle", 48, 48, 80, 80), bbox("side", 20, 56, 60, 72)]}


def test_a_dropped_target_is_drawn_where_it_would_lie(tmp_path: Path) -> None:
    panel = panel_of(write_row(tmp_path, TWO), pipeline({"scale": {"lo": 2, "hi": 2}}))
    [dropped] = [shape for shape in panel.shapes if shape.fate == "dropped"]
    assert (dropped.label, dropped.note) == ("corner", "dropped: 0% visible")
    assert dropped.points == ((-0.5, -0.5), (-0.25, -0.5), (-0.25, -0.25), (-0.5, -0.25))
    assert "corner" not in [shape.label for shape in panel.shapes if shape.fate == "kept"]


def test_a_clipped_target_says_how_much_of_it_is_left(tmp_path: Path) -> None:
    panel = panel_of(write_row(tmp_path, TWO), pipeline({"scale": {"lo": 2, "hi": 2}}))
    by_label = {shape.label: shape for shape in panel.shapes}
    assert (by_label["middle"].fate, by_label["middle"].points) == ("kept", ((0.25, 0.25), (0.75, 0.75)))
    assert (by_label["side"].fate, by_label["side"].note) == ("clipped", "clipped: 70% visible")
    assert by_label["side"].points == ((0.0, 0.375), (0.438, 0.625))


def test_operations_that_were_left_out_are_told_with_the_reason(tmp_path: Path) -> None:
    rows = write_row(tmp_path, {"objects": [bbox("pole", 60, 4, 68, 124)]})
    panel = panel_of(rows, pipeline("hflip", {"rotate": {"max_deg": 40}}))
    assert panel.left_out == ("rotate: a box would grow too much",)
    assert panel.operations == ("hflip",)
    assert panel.to_json()["replay"]["steps"] == [{"name": "hflip"}]


def test_op_by_op_ends_with_what_training_sees(encoder: TemplateEncoder, rows: JsonlRows) -> None:
    for index, epoch in ((0, 0), (2, 1), (3, 2)):
        previewer = Previewer(rows, CONSERVATIVE, encoder)
        whole, steps = previewer.variants(index, [epoch]), previewer.steps(index, epoch)
        variant, last = whole.panels[1], steps.panels[-1]
        assert [panel.title for panel in steps.panels[1:]] == [f"step {n}" for n in range(1, len(steps.panels))]
        assert tuple(name for panel in steps.panels[1:] for name in panel.operations) == variant.operations
        assert np.array_equal(last.image, variant.image)
        assert (last.shapes, last.replay) == (variant.shapes, variant.replay)
        assert all(panel.faults == () for panel in steps.panels)


def test_a_row_in_ms_swifts_layout_keeps_its_geometry(encoder: TemplateEncoder, tmp_path: Path) -> None:
    answer = '[{"bbox_2d": [100, 200, 300, 400], "label": "cup"}]'
    messages = [{"role": "user", "content": "<image>where?"}, {"role": "assistant", "content": answer}]
    rows = write_row(tmp_path, {"messages": messages})
    strip = Previewer(rows, pipeline("hflip", {"gamma": {"gamma": 2}}), encoder).variants(0, [0])
    box = Shape("bbox", "cup", ((0.1, 0.2), (0.3, 0.4)))
    assert [panel.shapes for panel in strip.panels] == [(box,), (box,)]
    assert strip.panels[1].operations == ("gamma 2.00",)
    assert strip.panels[1].image[0, 0, 0] < 120
    assert Previewer(rows, pipeline("hflip"), encoder).steps(0, 0).panels[1].title == "epoch 0"


# Faults on the way.


def test_a_shifted_image_is_seen_and_told(encoder: TemplateEncoder, rows: JsonlRows) -> None:
    def shifted(row: dict[str, Any]) -> Encoded:
        moved = np.roll(np.asarray(row["images"][0]), 16, axis=1)
        return encoder({**row, "images": [Image.fromarray(moved)]})

    sound, faulty = panel_of(rows, CONSERVATIVE, encoder), panel_of(rows, CONSERVATIVE, shifted)
    assert np.array_equal(faulty.image, np.roll(sound.image, 16, axis=1))
    assert not np.array_equal(faulty.image, sound.image)
    [fault] = faulty.faults
    assert fault.startswith("the encoded image differs by ")


def test_a_text_that_exchanges_width_and_height_shows_other_boxes(encoder: TemplateEncoder, tmp_path: Path) -> None:
    rows = write_row(tmp_path, {"objects": [bbox("cup", 32, 32, 96, 64)]}, size=(256, 128))

    def exchanged(row: dict[str, Any]) -> Encoded:
        return encoder({**row, "messages": to_messages(rows.record(0), 128, 256)})

    made = pipeline({"gamma": {"gamma": 1.5}})
    sound, faulty = panel_of(rows, made, encoder), panel_of(rows, made, exchanged)
    assert (sound.shapes[0].points, sound.faults) == (((0.125, 0.25), (0.375, 0.5)), ())
    assert faulty.shapes[0].points == ((0.25, 0.125), (0.75, 0.25))
    assert faulty.faults == ("the encoded answer is off by up to 375/1000",)


def test_targets_that_an_answer_lacks_are_told(rows: JsonlRows) -> None:
    def cut(row: dict[str, Any]) -> Encoded:
        encoded = as_written(row)
        return replace(encoded, answer=replace(encoded.answer, targets=encoded.answer.targets[:1]))

    assert panel_of(rows, pipeline("hflip"), cut).faults == (
        "the encoded answer has 1 readable targets, of 4 that were kept",
    )


def test_an_image_token_of_another_vocabulary_is_told(make_config: Callable[[str], Config], rows: JsonlRows) -> None:
    """Pins that ms-swift's template hard-codes the id, and silently leaves the image without its tokens."""
    encode = training_encoder(make_config(""))
    assert encode.template.image_token_id != type(encode.template).image_token_id
    encode.template.image_token_id = type(encode.template).image_token_id
    assert panel_of(rows, pipeline("hflip"), encode).faults == (
        "ms-swift can't encode it: the text holds 0 image tokens, the images need 16",
    )


def test_a_row_that_is_too_long_to_encode_is_shown_as_written_and_told(
    make_config: Callable[[str], Config], rows: JsonlRows
) -> None:
    encode = training_encoder(make_config("data: {max_length: 100}"))
    panel = panel_of(rows, pipeline("hflip"), encode)
    assert len(panel.shapes) == 4
    [fault] = panel.faults
    assert fault.startswith("ms-swift can't encode it: ")
    assert "max_length" in fault


def test_other_words_around_the_answer_are_no_fault(encoder: TemplateEncoder, demo: Path) -> None:
    text = GroundingTextSection(fenced=True, system="Look closely.")
    fenced = JsonlRows([demo / "data/train.jsonl"], text=text)
    panel = panel_of(fenced, CONSERVATIVE, encoder)
    assert (panel.faults, len(panel.shapes)) == ((), 4)


def test_an_answer_of_other_content_is_no_text() -> None:
    assert answer_text({"messages": [{"role": "assistant", "content": [{"type": "text"}]}]}) == ""


# Words and numbers.


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (Step("hflip", {}), "hflip"),
        (Step("rotate", {"degrees": -3.21}), "rotate -3.2°"),
        (Step("scale", {"factor": 1.078}), "scale ×1.08"),  # noqa: RUF001
        (Step("fit", {"size": [128, 96]}), "fit 128×96"),  # noqa: RUF001
        (Step("color_jitter", {"brightness": 1.2, "contrast": 0.8, "saturation": 1.1}), "color b1.2 c0.8 s1.1"),
        (Step("hsv", {"hue_deg": -4.4, "sat": 1.0, "val": 0.9}), "hsv h-4° s1.0 v0.9"),
        (Step("imgaug.MotionBlur", {"arguments": {"k": 5}, "seed": 1}), "MotionBlur k=5"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_operations_are_told_in_short(step: Step, words: str) -> None:
    assert describe(step) == words


def test_every_operation_of_the_presets_has_words_with_its_values() -> None:
    for epoch in range(40):
        sample = CONSERVATIVE(np.zeros((64, 64, 3), np.uint8), Record((Path("x.png"),)), epoch=epoch, row=0)
        for step in sample.replay.steps:
            assert (describe(step) == step.name) == (step.name == "hflip")


@pytest.mark.parametrize("text", ["", "a", "1,", "3-1", "-2", "1-", "1.5", "0-99999999"])
def test_what_is_no_row_number_is_refused(text: str) -> None:
    with pytest.raises(DataError, match="--rows"):
        parse_numbers(text, "--rows")


def test_rows_count_over_all_files_without_blank_lines(tmp_path: Path) -> None:
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    lines = [json.dumps({"images": ["a.png"], "objects": [], "prompt": str(n)}) for n in range(5)]
    (tmp_path / "1.jsonl").write_text("\n" + lines[0] + "\n\n" + lines[1] + "\n", encoding="utf-8")
    (tmp_path / "2.jsonl").write_text("\n".join(lines[2:]), encoding="utf-8")
    files = [tmp_path / "1.jsonl", tmp_path / "2.jsonl"]
    records = read_records(files, [3, 0, 4])
    assert [(row, record.prompt) for row, record in records.items()] == [(3, "3"), (0, "0"), (4, "4")]
    with pytest.raises(DataError, match="row 7: the training files have 5 rows, counted from 0"):
        read_records(files, [1, 7])


def test_a_malformed_row_is_named_by_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('\n{"images": ["a.png"]}\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"rows\.jsonl:2: needs 'images' and 'objects'"):
        read_records([path], [0])


# The sheet.


def one_strip(*shapes: Shape, size: tuple[int, int] = (200, 100)) -> Strip:
    image = np.full((size[1], size[0], 3), 255, np.uint8)
    return Strip(0, Path("/data/images/a.png"), (Panel("epoch 0", image, size, shapes),))


def count(picture: Image.Image, colour: str) -> int:
    wanted = np.array([int(colour[k : k + 2], 16) for k in (1, 3, 5)])
    return int((np.abs(np.asarray(picture).astype(int) - wanted).max(axis=2) < 3).sum())


@pytest.mark.parametrize("kind", ["bbox", "quad", "line"])
@pytest.mark.parametrize("fate", ["kept", "clipped", "dropped"])
def test_targets_have_their_kinds_colour_and_lost_ones_are_red(kind: Any, fate: Any) -> None:
    points = {"bbox": ((0.2, 0.2), (0.8, 0.9)), "line": ((0.2, 0.2), (0.8, 0.9))}
    quad = ((0.3, 0.2), (0.8, 0.3), (0.7, 0.8), (0.2, 0.7))
    shape = Shape(kind, "", points.get(kind, quad), fate)
    empty, drawn = render_sheet([one_strip()], ""), render_sheet([one_strip(shape)], "")
    colour = COLOURS[kind] if fate == "kept" else TROUBLE
    assert count(drawn, colour) > count(empty, colour) + 500


def test_dropped_targets_are_dashed() -> None:
    points = ((0.2, 0.3), (0.8, 0.9))
    empty = count(render_sheet([one_strip()], ""), TROUBLE)
    solid, dashed = (
        count(render_sheet([one_strip(Shape("bbox", "", points, fate))], ""), TROUBLE) - empty
        for fate in ("clipped", "dropped")
    )
    assert 0.4 * solid < dashed < 0.9 * solid


def test_a_line_shows_its_order() -> None:
    points = ((0.2, 0.5), (0.5, 0.5), (0.8, 0.5))
    forth, back = (render_sheet([one_strip(Shape("line", "", order))], "") for order in (points, points[::-1]))
    assert np.abs(np.asarray(forth).astype(int) - np.asarray(back)).max() > 100


HOSTILE = ["x" * 5000, "two\nlines\x00\x1b[31m", "\u676f\u5b50", "", "<b>", "\u202egnirts", "\U0001f600"]


@pytest.mark.parametrize("label", HOSTILE, ids=lambda label: ascii(label)[:12])
def test_any_label_fits_the_sheet(label: str) -> None:
    sheet = render_sheet(
        [one_strip(Shape("bbox", label, ((-3, -3), (-2, -2)), "dropped", "dropped: 0% visible"))], label[:90]
    )
    assert sheet.size == render_sheet([one_strip()], "").size


def test_a_crowd_of_targets_and_points_is_drawn() -> None:
    boxes = [Shape("bbox", f"thing {n}", ((n / 300, 0.1), (n / 300 + 0.1, 0.2))) for n in range(300)]
    line = Shape("line", "river", tuple((n / 500, 0.5) for n in range(500)))
    dot = Shape("line", "dot", ((0.5, 0.5), (0.5, 0.5)), "dropped")
    sheet = render_sheet([one_strip(*boxes, line, dot)], "")
    assert count(sheet, COLOURS["line"]) > 1000


@pytest.mark.parametrize("size", [(1, 1), (1, 600), (600, 3)])
def test_images_of_any_shape_fit_their_cell(size: tuple[int, int]) -> None:
    sheet = render_sheet([one_strip(size=size)], "")
    assert sheet.width == 640 * SCALE
    assert sheet.height < 600 * SCALE


def test_of_a_large_image_a_thumbnail_is_kept() -> None:
    reduced = thumbnail(np.zeros((3000, 1500, 3), np.uint8))
    assert reduced.shape == (THUMBNAIL, THUMBNAIL // 2, 3)
    small = np.zeros((THUMBNAIL, 10, 3), np.uint8)
    assert thumbnail(small) is small


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    write_file(tmp_path / "new/a.png", b"abc")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.png"]
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match="can't write it"):
        write_file(tmp_path / "file/a.png", b"abc")
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match="can't write it"):
        write_file(tmp_path / "folder", b"abc")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder", "new"]


# The command.


def run(demo: Path, *argv: str, config: Path = GUIDE) -> int:
    return main(["preview-aug", str(demo / "config.yaml"), str(config), *argv])


def test_the_guides_augmentation_runs_unchanged(demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sheet = tmp_path / "preview.png"
    assert run(demo, "--output", str(sheet)) == 0
    told = capsys.readouterr()
    assert told.out == f"wrote {sheet}\n"
    assert told.err == ""
    assert Image.open(sheet).width > 4 * 270 * SCALE


def test_the_whole_of_it_as_json(demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["--rows", "3,0", "--variants", "2", "--epoch", "4", "--seed", "7", "--json", "-o", str(tmp_path / "a.png")]
    assert run(demo, *argv) == 0
    values = json.loads(capsys.readouterr().out)
    assert (values["seed"], values["epochs"], values["encoded"], values["html"]) == (7, [4, 5], True, None)
    assert [row["row"] for row in values["rows"]] == [3, 0]
    assert [panel["title"] for panel in values["rows"][0]["panels"]] == ["original", "epoch 4", "epoch 5"]
    assert values["rows"][0]["panels"][1]["replay"]["steps"]
    assert all(panel["faults"] == [] for row in values["rows"] for panel in row["panels"])


def test_another_seed_or_epoch_shows_other_draws(
    demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = []
    for argv in ([], ["--seed", "1"], ["--epoch", "1"], ["--seed", "42"]):
        sheet = ["-o", str(tmp_path / "a.png"), "--force"]
        assert run(demo, "--rows", "0", "--variants", "1", "--json", *sheet, *argv) == 0
        seen.append(json.dumps(json.loads(capsys.readouterr().out)["rows"][0]["panels"][1]["replay"]))
    assert len(set(seen)) == 3
    assert seen[0] == seen[3]


def test_files_are_not_overwritten_unless_forced(
    demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.png").write_bytes(b"mine")
    (tmp_path / "b.html").write_bytes(b"mine")
    assert run(demo, "-o", str(tmp_path / "a.png")) == 2
    assert run(demo, "-o", str(tmp_path / "new.png"), "--html", str(tmp_path / "b.html")) == 2
    assert "--force" in capsys.readouterr().err
    assert [path.read_bytes() for path in sorted(tmp_path.iterdir())] == [b"mine", b"mine"]
    assert run(demo, "--num", "1", "-o", str(tmp_path / "a.png"), "--html", str(tmp_path / "b.html"), "--force") == 0
    assert (tmp_path / "b.html").read_text(encoding="utf-8").startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("argv", "message", "hint"),
    [
        (["--rows", "64"], "row 64: the training files have 64 rows", ""),
        (["--rows", "x"], "--rows x: not row numbers", "--rows 0,5,9-12"),
        (["-o", "a.jpg"], "--output a.jpg: the sheet is a PNG", "--output a.png"),
        (["--num", "64", "--variants", "30"], "64 rows of up to 31 images are too many", "--rows"),
        (["--set", "custom.augmentation.enabled=false"], "augmentation is off", "enabled: true"),
        (["--set", "custom.augmentation.ops=[]"], "augmentation has no operations", "preset: conservative"),
        (["--set", "data.train=[]"], "no training data is named", "data: {train:"),
        (["--set", "data.train=nowhere.jsonl"], "no such file", ""),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_can_not_be_shown_is_explained(
    argv: list[str], message: str, hint: str, demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = [] if "-o" in argv else ["-o", str(tmp_path / "a.png")]
    assert run(demo, *argv, *output) == 2
    told = capsys.readouterr().err
    assert message in told
    assert hint in told
    assert list(tmp_path.iterdir()) == []


def test_without_augmentation_a_hint_says_how_to_have_some(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["preview-aug", str(demo / "config.yaml")]) == 2
    told = capsys.readouterr().err
    assert "no augmentation is configured" in told
    assert "hint: e.g. custom: {augmentation: {preset: conservative}}" in told


def test_a_model_that_only_a_hub_has_is_no_hindrance(
    demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [
        "--set",
        "model.path=Qwen/Qwen3-VL-235B-A22B-Instruct",
        "--num",
        "1",
        "-o",
        str(tmp_path / "a.png"),
        "--json",
    ]
    assert run(demo, *argv) == 0
    told = capsys.readouterr()
    [line] = told.err.splitlines()
    assert line.startswith(
        "note: model Qwen/Qwen3-VL-235B-A22B-Instruct: nothing in the cache of huggingface; shown are"
    )
    values = json.loads(told.out)
    assert values["encoded"] is False
    assert len(values["rows"][0]["panels"][1]["targets"]) == 4


def test_a_sample_that_differs_from_its_targets_fails(
    demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--set", "data.max_length=100", "--num", "1", "--variants", "1", "-o", str(tmp_path / "a.png")]
    assert run(demo, *argv) == 1
    assert "error: row 0, epoch 0: ms-swift can't encode it" in capsys.readouterr().err
    assert (tmp_path / "a.png").exists()


def test_rows_without_an_image_file_are_passed_over(
    demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    own = {"images": [str(demo / "data/images/train/00000.png")], "objects": [bbox("cup", 8, 8, 90, 90)]}
    (tmp_path / "rows.jsonl").write_text(json.dumps({"messages": messages}) + "\n" + json.dumps(own), encoding="utf-8")
    data = ["--set", f"data.train={tmp_path / 'rows.jsonl'}", "-o", str(tmp_path / "a.png"), "--json"]
    assert run(demo, *data) == 0
    told = capsys.readouterr()
    assert told.err == "note: passed over, without an image file: row 0\n"
    assert [row["row"] for row in json.loads(told.out)["rows"]] == [1]
    assert run(demo, *data, "--rows", "0", "--force") == 2
    assert "none of the rows has an image file" in capsys.readouterr().err
