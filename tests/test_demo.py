"""The demonstration's tiny model and synthetic data."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from swiftalign.demo.camera import NEW_CAMERA
from swiftalign.demo.data import write_dataset
from swiftalign.demo.model import SPECIAL_TOKENS, build_model
from swiftalign.problems import DataError, ModelError


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "model"
    build_model(folder)
    return folder


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("demo") / "train.jsonl"
    write_dataset(path, rows=64, seed=3)
    return path


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def target(item: dict[str, Any]) -> tuple[str, list[float]]:
    [(kind, numbers)] = [(key, value) for key, value in item.items() if key != "label"]
    return kind, numbers


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def load(folder: Path) -> Any:
    from transformers import AutoModelForImageTextToText

    model, loading = AutoModelForImageTextToText.from_pretrained(
        folder, local_files_only=True, output_loading_info=True
    )
    assert not any(loading.values())
    return model


def encode_question(folder: Path, size: tuple[int, int]) -> Any:
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
    content = [{"type": "image", "image": Image.new("RGB", size, "white")}, {"type": "text", "text": "Where?"}]
    return processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )


def test_the_model_answers_a_question_about_an_image(model_folder: Path) -> None:
    model, question = load(model_folder), encode_question(model_folder, (128, 96))
    answer = model.generate(**question, max_new_tokens=4, min_new_tokens=4)
    assert answer.shape == (1, question["input_ids"].shape[1] + 4)


def test_the_answer_depends_on_the_image(model_folder: Path) -> None:
    import torch

    model, question = load(model_folder), encode_question(model_folder, (128, 96))
    with torch.no_grad():
        white = model(**question).logits[0, -1]
        black = model(**{**question, "pixel_values": -question["pixel_values"]}).logits[0, -1]
    assert (white - black).abs().max() > 0.01


@pytest.mark.parametrize("size", [(64, 64), (128, 128), (192, 128), (640, 480)])
def test_the_processor_keeps_the_size_of_an_image(model_folder: Path, size: tuple[int, int]) -> None:
    question = encode_question(model_folder, size)
    assert question["image_grid_thw"].tolist() == [[1, size[1] // 16, size[0] // 16]]


def test_the_chat_template_lays_out_turns_as_qwen3_vl_does(model_folder: Path) -> None:
    from transformers import AutoProcessor

    content = [{"type": "image"}, {"type": "text", "text": "Where?"}]
    messages = [{"role": "user", "content": content}, {"role": "assistant", "content": "Here"}]
    text = AutoProcessor.from_pretrained(model_folder).apply_chat_template(messages)
    question = "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>Where?<|im_end|>\n"
    assert text == question + "<|im_start|>assistant\nHere<|im_end|>\n"


def test_the_vocabulary_is_bytes_and_special_tokens(model_folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    assert len(tokenizer) == 256 + len(SPECIAL_TOKENS)
    assert tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS)) == list(range(256, len(tokenizer)))
    text = '{"bbox_2d": [10, 20], "label": "größer 框"}<|im_end|>'
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_config_names_the_image_token_of_the_tokenizer(model_folder: Path) -> None:
    from transformers import AutoConfig, AutoTokenizer

    config, tokenizer = AutoConfig.from_pretrained(model_folder), AutoTokenizer.from_pretrained(model_folder)
    assert config.image_token_id == tokenizer.convert_tokens_to_ids("<|image_pad|>")
    assert config.video_token_id == tokenizer.convert_tokens_to_ids("<|video_pad|>")
    assert config.text_config.vocab_size == len(tokenizer)


def test_the_weights_hold_the_24_aligner_tensors(model_folder: Path) -> None:
    from safetensors import safe_open

    with safe_open(model_folder / "model.safetensors", "pt") as file:
        found = {name for name in file.keys() if "merger" in name}  # noqa: SIM118 - the handle is no dict
    mergers = ["merger", *(f"deepstack_merger_list.{index}" for index in range(3))]
    layers = [f"{layer}.{part}" for layer in ("norm", "linear_fc1", "linear_fc2") for part in ("weight", "bias")]
    assert found == {f"model.visual.{merger}.{layer}" for merger in mergers for layer in layers}


def test_every_aligner_tensor_gets_a_gradient(model_folder: Path) -> None:
    model, question = load(model_folder), encode_question(model_folder, (128, 96))
    model(**question, labels=question["input_ids"]).loss.backward()
    aligner = {name: weight.grad for name, weight in model.named_parameters() if "merger" in name}
    assert len(aligner) == 24
    assert not [name for name, gradient in aligner.items() if gradient is None or not gradient.any()]


def test_building_twice_gives_the_same_bytes(model_folder: Path, tmp_path: Path) -> None:
    # Another process, since sets of strings are ordered differently there.
    code = "import sys; from pathlib import Path; from swiftalign.demo.model import build_model; "
    code += "build_model(Path(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", code, tmp_path], check=True, capture_output=True, text=True)
    assert digests(tmp_path) == digests(model_folder)
    assert (done.stdout, done.stderr) == ("", "")


def test_another_seed_gives_other_weights(model_folder: Path, tmp_path: Path) -> None:
    build_model(tmp_path, seed=1)
    here, there = digests(tmp_path), digests(model_folder)
    assert [name for name in here if here[name] != there[name]] == ["model.safetensors"]


def test_building_leaves_the_random_state_alone(tmp_path: Path) -> None:
    import torch

    before = torch.random.get_rng_state()
    build_model(tmp_path)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("moe", [False, True], ids=["dense", "moe"])
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_variants_load(tmp_path: Path, tied: bool, moe: bool) -> None:
    build_model(tmp_path, tied=tied, moe=moe, dtype="bfloat16")
    model = load(tmp_path)
    assert type(model).__name__ == f"Qwen3VL{'Moe' if moe else ''}ForConditionalGeneration"
    assert (model.lm_head.weight is model.get_input_embeddings().weight) == tied
    assert str(model.dtype) == "torch.bfloat16"


def test_an_unknown_dtype_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"^dtype 'int8' is not known$"):
        build_model(tmp_path, dtype="int8")


def test_importing_loads_neither_torch_nor_transformers() -> None:
    code = (
        "import sys, swiftalign.demo.data, swiftalign.demo.model; print({'torch', 'transformers'} & set(sys.modules))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "set()\n"


def test_objects_lie_inside_their_image(dataset: Path) -> None:
    for row in read_rows(dataset):
        width, height = Image.open(dataset.parent / row["images"][0]).size
        assert 1 <= len(row["objects"]) <= 4
        for item in row["objects"]:
            _, numbers = target(item)
            assert all(0 <= x <= width for x in numbers[0::2]), row
            assert all(0 <= y <= height for y in numbers[1::2]), row


def test_each_kind_of_target_has_its_count_of_numbers(dataset: Path) -> None:
    counts: dict[str, set[int]] = {}
    for row in read_rows(dataset):
        for kind, numbers in map(target, row["objects"]):
            counts.setdefault(kind, set()).add(len(numbers))
    assert counts == {"bbox_2d": {4}, "quad": {8}, "line": {4, 6, 8}}


def test_quads_run_clockwise_from_the_top_left_corner(dataset: Path) -> None:
    quads = [numbers for row in read_rows(dataset) for kind, numbers in map(target, row["objects"]) if kind == "quad"]
    for quad in quads:
        corners = list(zip(quad[0::2], quad[1::2], strict=True))
        assert min(corners, key=sum) == corners[0]
        # With y pointing down, a positive area means clockwise.
        following = corners[1:] + corners[:1]
        assert sum(x1 * y2 - x2 * y1 for (x1, y1), (x2, y2) in zip(corners, following, strict=True)) > 0


def test_a_box_is_the_extent_of_its_colour(tmp_path: Path) -> None:
    from swiftalign.demo.data import COLOURS

    write_dataset(tmp_path / "val.jsonl", rows=64, seed=5)
    for row in read_rows(tmp_path / "val.jsonl"):
        image = Image.open(tmp_path / row["images"][0])
        for item in row["objects"]:
            kind, numbers = target(item)
            mask = Image.new("1", image.size)
            mask.putdata([pixel == COLOURS[item["label"].split()[0]] for pixel in image.get_flattened_data()])
            assert kind != "bbox_2d" or list(mask.getbbox() or ()) == numbers


def test_colours_differ_within_an_image_and_the_prompt_names_each_object(dataset: Path) -> None:
    for row in read_rows(dataset):
        colours = [item["label"].split()[0] for item in row["objects"]]
        assert len(set(colours)) == len(colours)
        assert all(f"the {item['label']} ({target(item)[0]})" in row["prompt"] for item in row["objects"])


def test_image_sides_are_multiples_of_32_and_some_differ(dataset: Path) -> None:
    sizes = [Image.open(dataset.parent / row["images"][0]).size for row in read_rows(dataset)]
    assert all(side % 32 == 0 for size in sizes for side in size)
    assert sizes.count((128, 128)) > len(sizes) / 2
    assert len({width / height for width, height in sizes}) > 1


def test_data_is_the_same_for_a_seed_and_differs_for_another(dataset: Path, tmp_path: Path) -> None:
    for folder, seed in (("same", 3), ("other", 4)):
        (tmp_path / folder).mkdir()
        write_dataset(tmp_path / folder / "train.jsonl", rows=64, seed=seed)
    assert digests(tmp_path / "same") == digests(dataset.parent)
    assert digests(tmp_path / "other") != digests(dataset.parent)


def test_a_longer_file_starts_like_a_shorter_one(dataset: Path, tmp_path: Path) -> None:
    write_dataset(tmp_path / "train.jsonl", rows=5, seed=3)
    assert read_rows(tmp_path / "train.jsonl") == read_rows(dataset)[:5]


@pytest.mark.parametrize("size", [(128, 100), (32, 128)])
def test_an_image_size_that_does_not_fit_is_refused(tmp_path: Path, size: tuple[int, int]) -> None:
    with pytest.raises(DataError, match=r"^image size \d+x\d+ does not fit$"):
        write_dataset(tmp_path / "train.jsonl", rows=1, seed=0, size=size)


def test_the_new_camera_sees_the_same_scenes_otherwise(tmp_path: Path) -> None:
    for name, camera in (("old", None), ("new", NEW_CAMERA), ("again", NEW_CAMERA)):
        write_dataset(tmp_path / name / "rows.jsonl", rows=4, seed=7, camera=camera)
    lines = {name: (tmp_path / name / "rows.jsonl").read_text() for name in ("old", "new", "again")}
    assert len(set(lines.values())) == 1
    for index in range(4):
        old, new, again = (
            np.asarray(Image.open(tmp_path / name / f"images/rows/{index:05d}.png"), dtype=float)
            for name in ("old", "new", "again")
        )
        assert np.array_equal(new, again)
        assert np.abs(new - old).mean() > 20
