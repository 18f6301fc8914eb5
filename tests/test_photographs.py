"""Photographs with targets placed by hand: what holds for drawn shapes holds for them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import yaml
from imgaug import augmenters as iaa
from PIL import Image
from scipy.spatial.distance import cdist

from swiftalign.augment.colours import apply_appearance
from swiftalign.augment.pipeline import Pipeline, Sample, is_geometric
from swiftalign.cli import main
from swiftalign.config.augmentation import EXAMPLES, PARAMETERS, AugmentationSection
from swiftalign.config.load import load_config
from swiftalign.data.encoded import training_encoder
from swiftalign.data.images import Pixels, image_size, open_image
from swiftalign.data.polygons import envelope
from swiftalign.data.records import Record
from swiftalign.data.rows import Rows, open_images, sizes_of
from swiftalign.data.scan import scan
from swiftalign.previews.strips import Previewer, thumbnail
from test_augment_colours import EQUAL, EQUAL_STEPS

FOLDER = Path(__file__).parent / "photographs"
FILE = FOLDER / "rows.jsonl"
ROWS = Rows([FILE])
NAMES = [Path(json.loads(line)["images"][0]).stem for line in FILE.read_text().splitlines()]

# Values with a larger effect than EXAMPLES has; a crop needs objects of its classes, and rows of few objects.
STRONG: dict[str, dict[str, Any]] = {
    "rotate": {"max_deg": 30},
    "scale": {"lo": 0.8, "hi": 1.3},
    "resize_by_scale": {"lo": 0.7, "hi": 1.4},
    "random_crop": {"min_objects": 1, "skip_if_line": False},
    "roi_crop": {
        "anchor_classes": ["helmet", "video camera", "nose", "cup", "flower", "glasses", "顶层屋檐", "鼻子", "rocket"],
        "min_crop_size": 200,
    },
}

Floats = npt.NDArray[np.float64]


def photograph(number: int) -> tuple[Pixels, Record]:
    row = ROWS.row(number)
    [image] = open_images(row)
    return image, row.record(sizes_of([image]))


def of_operation(name: str) -> AugmentationSection:
    """Always this operation, whatever becomes of boxes."""
    values = {**EXAMPLES.get(name, {}), **STRONG.get(name, {}), "prob": 1}
    return AugmentationSection(ops=[{name: values}], rotated_boxes="grow")


# -- rows and images -------------------------------


def test_every_row_scans_without_a_finding() -> None:
    report = scan([FILE])
    assert (report.rows.train, report.findings) == (len(NAMES), ())
    kinds = {target.kind for number in range(len(NAMES)) for target in photograph(number)[1].targets}
    assert kinds == {"bbox", "quad", "line", "point", "polygon"}


def test_every_photograph_has_a_row_and_a_line_about_its_licence() -> None:
    files = sorted(path.name for path in FOLDER.iterdir() if path.suffix in (".jpg", ".png"))
    assert sorted(json.loads(line)["images"][0] for line in FILE.read_text().splitlines()) == files
    told = [line.split("`")[1] for line in (FOLDER / "README.md").read_text().splitlines() if line.startswith("| `")]
    assert told == files
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 1_000_000


@pytest.mark.parametrize("name", NAMES)
def test_photographs_are_decoded_as_opencv_decodes_them(name: str) -> None:
    """OpenCV has a JPEG decoder of its own, and turns an image as its EXIF orientation says."""
    [path] = FOLDER.glob(f"{name}.*[gG]")
    expected = cv2.cvtColor(cv2.imread(str(path), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    image = open_image(path)
    assert image.shape == expected.shape
    assert image_size(path) == (image.shape[1], image.shape[0])
    assert np.abs(image.astype(int) - expected).max() <= 2


def test_the_photograph_that_lies_on_its_side_is_shown_upright() -> None:
    with Image.open(FOLDER / "officer.jpg") as stored:
        assert (stored.size, stored.getexif()[0x0112]) == ((600, 512), 6)
        turned = np.asarray(stored.transpose(Image.Transpose.ROTATE_270))
    image, record = photograph(NAMES.index("officer"))
    assert np.array_equal(image, turned)
    [button] = (target for target in record.targets if target.label == "brass button")
    [(x, y)] = button.points
    red, _, blue = image[int(y) - 4 : int(y) + 5, int(x) - 4 : int(x) + 5].mean(axis=(0, 1))
    assert red > blue + 40, "brass, on a black uniform"


# -- augmentation ------------------------------


def grey(image: Pixels) -> Pixels:
    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)


def edges(image: Pixels) -> Pixels:
    """How steep the brightness is: solarize, which inverts it, leaves that as it was."""
    smooth = cv2.GaussianBlur(grey(image).astype(np.float32), (0, 0), 0.8)
    steepness = np.log1p(cv2.magnitude(cv2.Scharr(smooth, cv2.CV_32F, 1, 0), cv2.Scharr(smooth, cv2.CV_32F, 0, 1)))
    return (steepness / steepness.max() * 255).astype(np.uint8)


def registered(before: Pixels, after: Pixels, seen: Callable[[Pixels], Pixels] = grey) -> tuple[Floats, int]:
    """The affine map by which the details of one picture lie in another, and the number of details that agree.

    It is found in the pixels alone.
    """
    sift = cv2.SIFT_create(2000, enable_precise_upscale=True)
    there, described = sift.detectAndCompute(seen(after), None)
    found = np.eye(3), 0
    mirror = np.array([[-1, 0, before.shape[1]], [0, 1, 0], [0, 0, 1.0]])
    for image, mirrored in ((before, np.eye(3)), (before[:, ::-1], mirror)):
        here, descriptors = sift.detectAndCompute(seen(np.ascontiguousarray(image)), None)
        neighbours = cv2.BFMatcher().knnMatch(descriptors, described, k=2)
        pairs = [first for first, second in neighbours if first.distance < 0.75 * second.distance]
        # OpenCV counts from the centre of the first pixel, targets from its corner.
        a = np.array([here[pair.queryIdx].pt for pair in pairs]).reshape(-1, 2) + 0.5
        b = np.array([there[pair.trainIdx].pt for pair in pairs]).reshape(-1, 2) + 0.5
        matrix, agree = cv2.estimateAffine2D(a, b, ransacReprojThreshold=1.5)
        if matrix is not None and agree.sum() > found[1]:
            found = np.vstack([matrix, [0, 0, 1]]) @ mirrored, int(agree.sum())
        if found[1] >= 50:
            break
    return found


def farthest(record: Record, sample: Sample, matrix: Floats) -> tuple[float, int]:
    """The largest distance in pixels between a corner of a target and where the picture's details have gone.

    Targets that were cut do not count; the second number is that of the others.
    """
    apart, count = 0.0, 0
    for before, outcome in zip(record.targets, sample.outcomes, strict=True):
        if outcome.target is None or outcome.clipped:
            continue
        corners = np.array(before.corners) @ matrix[:2, :2].T + matrix[:2, 2]
        if outcome.target.kind == "bbox":
            (left, top), (right, bottom) = envelope(corners)
            corners = np.array([(left, top), (right, top), (right, bottom), (left, bottom)])
        distances = cdist(corners, outcome.target.corners)
        apart = max(apart, distances.min(axis=0).max(), distances.min(axis=1).max())
        count += 1
    return apart, count


def check_targets_stay_on_their_objects(number: int, section: AugmentationSection, epoch: int = 0) -> int:
    """The number of targets that were looked at.

    Of several operations, the colours are also changed in the photograph that the result is compared with.
    """
    image, record = photograph(number)
    sample = Pipeline(section)(image, record, epoch=epoch, row=number)
    colours = [(step.name, step.values) for step in sample.replay.steps if not is_geometric(step)]
    if len(section.operations) > 1:
        matrix, agree = registered(apply_appearance(image, colours), sample.image)
    else:
        matrix, agree = registered(image, sample.image, edges if "solarize" in dict(colours) else grey)
    assert agree >= 30, NAMES[number]
    apart, count = farthest(record, sample, matrix)
    assert apart < 1, (NAMES[number], sample.replay)
    return count


@pytest.mark.parametrize("name", PARAMETERS)
def test_targets_stay_on_their_objects(name: str) -> None:
    chosen = "coffee" if name.endswith("crop") else "rocket"
    assert check_targets_stay_on_their_objects(NAMES.index(chosen), of_operation(name)) > 2


@pytest.mark.parametrize(
    ("preset", "name"),
    [
        ("mild", "pagoda"),
        ("guide", "coffee"),
        ("progressive-1", "cat"),
        ("progressive-2", "rocket"),
        ("progressive-3", "dahlia"),
    ],
)
def test_targets_stay_on_their_objects_in_presets(preset: Any, name: str) -> None:
    assert check_targets_stay_on_their_objects(NAMES.index(name), AugmentationSection(preset=preset), epoch=1)


@pytest.mark.long
@pytest.mark.parametrize("number", range(len(NAMES)), ids=NAMES)
def test_targets_of_every_photograph_stay_on_their_objects(number: int) -> None:
    singly = [of_operation(name) for name in PARAMETERS if name != "roi_crop"]
    together = [AugmentationSection(preset=preset) for preset in ("mild", "progressive-3")]
    sheared = AugmentationSection(
        ops=[{"imgaug.Affine": {"rotate": [-20, 20], "shear": [-8, 8]}}], rotated_boxes="grow"
    )
    counts = [check_targets_stay_on_their_objects(number, section) for section in (*singly, sheared)]
    counts += [check_targets_stay_on_their_objects(number, section, epoch) for section in together for epoch in (2, 3)]
    assert sum(counts) > 50


def test_the_measure_finds_targets_that_stay_behind() -> None:
    """A measure that finds nothing must be able to: here, pictures move by a few pixels, and targets do not."""
    image, record = photograph(NAMES.index("cat"))
    sample = Pipeline(AugmentationSection())(image, record, epoch=0, row=0)
    moves = {
        "by 2 pixels": np.roll(image, 2, axis=1),
        "mirrored": image[:, ::-1],
        "larger": cv2.resize(image, (388, 258)),
    }
    for name, moved in moves.items():
        matrix, agree = registered(image, np.ascontiguousarray(moved))
        assert agree >= 30, name
        assert farthest(record, sample, matrix)[0] > 1.5, name


@pytest.mark.parametrize("op", ["gamma", "hflip"])
@pytest.mark.parametrize(
    ("name", "left", "right"),
    [
        ("cat", "eye on the left", "eye on the right"),
        ("rocket", "left light", "right light"),
        ("raccoon", "左边的耳朵", "右边的耳朵"),
        ("raccoon", "左边的眼睛", "右边的眼睛"),
    ],
)
def test_left_is_left_of_right_in_mirrored_photographs_too(op: str, name: str, left: str, right: str) -> None:
    image, record = photograph(NAMES.index(name))
    sample = Pipeline(of_operation(op))(image, record, epoch=0, row=0)
    x = {target.label: target.corners[0][0] for target in sample.record.targets}
    assert x[left] < x[right]


@pytest.mark.parametrize("name", EQUAL)
def test_colours_of_photographs_equal_their_references_to_the_bit(name: str) -> None:
    images = [photograph(NAMES.index(each))[0] for each in ("rocket", "camera")]
    for step in (step for step in EQUAL_STEPS if step[0] == name):
        for image in images:
            assert np.array_equal(apply_appearance(image, [step]), EQUAL[name](image, **step[1])), step


def test_a_turned_photograph_is_the_one_that_imgaug_turns() -> None:
    """But for places that OpenCV rounds to a 32nd of a pixel: at an edge of full contrast, these are 8 levels."""
    image, record = photograph(NAMES.index("astronaut"))
    made = Pipeline(AugmentationSection(ops=["hflip", {"rotate": {"max_deg": 20}}], rotated_boxes="grow"))
    sample = made(image, record, epoch=0, row=0)
    assert [step.name for step in sample.replay.steps] == ["hflip", "rotate"]
    degrees = sample.replay.steps[1].values["degrees"]
    theirs = iaa.Sequential([iaa.Fliplr(1.0), iaa.Affine(rotate=degrees, order=1)])(image=image)
    inside = np.hypot(*np.mgrid[-255.5:256, -255.5:256]) < 250
    differences = np.abs(sample.image.astype(int) - theirs)[inside]
    assert differences.max() <= 8
    assert differences.mean() < 0.1


# -- what the model gets ---------------------------


QUICK = ("cat", "officer", "pagoda")


@pytest.mark.parametrize(
    "name", [each if each in QUICK else pytest.param(each, marks=pytest.mark.long) for each in NAMES]
)
def test_the_preview_shows_the_targets_that_are_read_back(name: str, demo: Path) -> None:
    """Any difference between an encoded sample and its row would be among the faults."""
    encode = training_encoder(load_config([demo / "config.yaml"]))
    previewer = Previewer(ROWS, Pipeline(AugmentationSection(preset="guide")), encode)
    image, record = photograph(NAMES.index(name))
    original, variant = previewer.variants(NAMES.index(name), [1]).panels
    assert np.array_equal(original.image, thumbnail(image))
    assert [shape.label for shape in original.shapes] == [target.label for target in record.targets]
    assert (original.faults, variant.faults) == ((), ())
    assert len(variant.shapes) == len(record.targets)


@pytest.mark.long
def test_photographs_train(demo: Path, tmp_path: Path) -> None:
    values = {
        "model": str(demo / "model"),
        "data": {"train": str(FILE)},
        "tuner": {
            "target_regex": "^$",
            "modules_to_save": ["model.visual.merger", "model.visual.deepstack_merger_list"],
        },
        "training": {"max_steps": 2, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 2},
        "custom": {"augmentation": {"preset": "progressive-3"}},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    assert main(["train", str(tmp_path / "config.yaml")]) == 0
