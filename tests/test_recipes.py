"""Recipes of public models, and the page's commands for public data sets, with stand-ins: tiny models of the same
architectures, and files in the layouts that the publishers document. Nothing here is real weights or real data.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from sessions import build_session
from swiftalign.cli import main
from swiftalign.config.load import load_config
from swiftalign.data.encoding import encoding_of
from swiftalign.data.rows import Rows
from swiftalign.demo.model import build_model

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import recipes

NAMES = tuple(recipes.MODELS)
PAGE = recipes.PAGE.read_text(encoding="utf-8")
# Of each recipe, the tiny model that trains in place of the public one.
STAND_INS: dict[str, Callable[[Path], Any]] = {
    "qwen3_vl_4b": build_model,
    "qwen3_vl_8b": build_model,
    "qwen3_vl_30b_a3b": lambda folder: build_model(folder, moe=True),
    "qwen3_5_9b": lambda folder: build_session("qwen3_5", folder),
    "qwen3_5_35b_a3b": lambda folder: build_session("qwen3_5_moe", folder),
}
# The only checkpoint is that of the second step: in the first one, the rate is still zero.
SHORT = ("training.max_steps=2", "training.eval_steps=2", "training.save_steps=2", "custom.grounding_eval.rows=1")
TINY = "Qwen3-VL-4B-Instruct"  # the folder that the page asks in place of the hub's model
CATEGORIES = ("paper", "torn part")


# -- recipes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_is_what_init_writes(name: str, tmp_path: Path) -> None:
    coco(tmp_path)
    written = tmp_path / "config.yaml"
    data = ["--train", str(tmp_path / "coco.json"), "--val", str(tmp_path / "coco.json")]
    assert main(["init", str(written), "--model", recipes.MODELS[name], "--method", recipes.METHOD, *data]) == 0
    recipe = (recipes.FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    ours, theirs = (yaml.safe_load(text) for text in (recipe, written.read_text(encoding="utf-8")))
    assert theirs.pop("data").keys() == ours.pop("data").keys() == {"train", "val"}
    assert ours == theirs
    comments = [re.findall(r"^ +\S.*#.*$", text, re.MULTILINE) for text in (recipe, written.read_text())]
    assert comments[0] == comments[1]


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_trains_the_aligner_alone_and_is_predicted(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The model is the public one, from its dimensions: its modules are those of transformers' class."""
    data = ["--set", "data.train=[]", "--set", "data.val=[]"]
    command = ["inspect-params", str(recipes.FOLDER / f"{name}.yaml"), *data, "--gpu", "H200"]
    assert main([*command, "--expect", "aligner", "--json"]) == 0
    fits = json.loads(capsys.readouterr().out)["what_fits"]["settings"]
    assert max(each["largest_batch"] for each in fits) >= recipes.BATCHES[0]
    assert all(each["step_seconds"] > 0 for each in fits)


def test_recipes_and_their_table_are_what_the_predictor_gives_now() -> None:
    for name in NAMES:
        assert (recipes.FOLDER / f"{name}.yaml").read_text(encoding="utf-8") == recipes.recipe(name)
    assert {path.stem for path in recipes.FOLDER.iterdir()} == {*NAMES}
    assert recipes.filled(PAGE) == PAGE
    assert all(f"configs/recipes/{name}.yaml" in PAGE and model in PAGE for name, model in recipes.MODELS.items())


def test_what_was_measured_is_in_the_results() -> None:
    results = (recipes.ROOT / "benchmarks/RESULTS.md").read_text(encoding="utf-8")
    for _, seconds, gib, line in recipes.MEASURED.values():
        assert line in results
        assert {seconds, gib} <= {*line.split()}


@pytest.mark.parametrize(
    "name", [name if name == "qwen3_vl_8b" else pytest.param(name, marks=pytest.mark.long) for name in NAMES]
)
def test_a_recipe_trains_a_tiny_model_of_its_architecture(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    STAND_INS[name](tmp_path / "tiny")
    coco(tmp_path)
    run = ["data.train=coco.json", "data.val=coco.json", "training.output_dir=run"]
    model = "model=tiny"
    if name.startswith("qwen3_5"):  # ms-swift knows the public one by its name
        model = "model={path: tiny, type: " + f"{name[:7]}{'_moe' if name.endswith('a3b') else ''}}}"
        run.append("data.template=qwen3_5")
    settings = [part for each in (model, *run, *SHORT, "training.effective_batch_size=4") for part in ("--set", each)]
    assert main(["train", str(recipes.FOLDER / f"{name}.yaml"), *settings]) == 0
    assert "\ncheckpoint  run/checkpoint-2  (the best by bbox_acc: " in capsys.readouterr().out
    assert main(["verify-ckpt", "run", "--deep"]) == 0
    assert f"sound: {6 if name.startswith('qwen3_5') else 24} tensors" in capsys.readouterr().out


# -- data sets ---------------------------------------------------------------------------------------------------------


def coco(folder: Path, name: str = "coco.json", *, background: bool = False) -> Path:
    """A COCO file of two classes as Roboflow exports it, its keys in the same order, with its images beside it.

    Args:
        background: with the category that stands before the classes, and that no box has.
    """
    folder.mkdir(parents=True, exist_ok=True)
    first = [{"id": 0, "name": "parts", "supercategory": "none"}] if background else []
    classes = [
        {"id": number, "name": each, "supercategory": "parts"} for number, each in enumerate(CATEGORIES, len(first))
    ]
    images, annotations = [], []
    for number in range(4):
        file = f"page-{number}_jpg.rf.0{number}.jpg"
        Image.new("RGB", (96, 64), (40 * number, 90, 120)).save(folder / file)
        taken = {"license": 1, "date_captured": "2025-02-01T00:00:00+00:00"}
        images.append({"id": number, "file_name": file, "height": 64, "width": 96, **taken})
        if number < 3:  # one image without an object
            at = {"image_id": number, "category_id": len(first) + number % 2, "bbox": [8, 6, 30.5, 20]}
            annotations.append({"id": number, **at, "area": 610, "segmentation": [], "iscrowd": 0})
    root = {"info": {"version": "1"}, "licenses": [{"id": 1, "url": "", "name": "Public Domain"}]}
    root |= {"categories": [*first, *classes], "images": images, "annotations": annotations}
    (folder / name).write_text(json.dumps(root), encoding="utf-8")
    return folder / name


def rf20(folder: Path) -> None:
    for split in ("train", "valid", "test"):
        coco(folder / "rf20-vl-fsod/paper-parts" / split, "_annotations.coco.json")


def odinw(folder: Path) -> None:
    """A folder with both of its files, of which the page names one."""
    place = folder / "odinw/Aquarium/Aquarium Combined.v2-raw-1024.coco/valid"
    coco(place, "_annotations.coco.json", background=True)
    coco(place, "annotations_without_background.json")


def refcoco(folder: Path) -> None:
    """Lines as Qwen-VL's evaluation has them, with COCO's images where the lines say."""
    lines = []
    for number, phrase in enumerate(("the red cup", "cup on the left", 'sign that says "stop, now"')):
        image = f"data/coco/train2014/COCO_train2014_{number:012}.jpg"
        (folder / image).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (96, 64), (40 * number, 90, 120)).save(folder / image)
        lines.append({"image": image, "sent": phrase, "bbox": [8.25, 6, 38.5, 26.75], "height": 64, "width": 96})
    (folder / "data/refcoco").mkdir()
    text = "".join(f"{json.dumps(line)}\n" for line in lines)
    (folder / "data/refcoco/refcoco_testA.jsonl").write_text(text, encoding="utf-8")


def refcoco_parquet(folder: Path) -> None:
    place = folder / "refcoco/data/testA-00000-of-00001.parquet"
    place.parent.mkdir(parents=True)
    shutil.copy(Path(__file__).parent / "rows/tools/refcoco.parquet", place)


PHRASE = 'description "the red cup" in the image.'
SETS: dict[str, tuple[Callable[[Path], None], str, str, str]] = {
    # What is written, the rows that are asked, the question of the first, and what is counted as the benchmark does.
    "rf20": (rf20, "rf20-vl-fsod/paper-parts/test", "categories: 'paper, torn part'.", ": rows 4, categories 2, map "),
    "odinw": (odinw, "aquarium.jsonl", "categories: 'paper, torn part'.", ": rows 4, categories 2, map "),
    "refcoco": (refcoco, "testA.jsonl", PHRASE, ": rows 3, left_out 0, accuracy "),
    "refcoco-parquet": (
        refcoco_parquet,
        "refcoco/data/testA-00000-of-00001.parquet",
        PHRASE,
        ": rows 3, left_out 0, accuracy ",
    ),
}


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder with a data set, the recipes and a tiny model under the public one's name; the data set's name."""
    (tmp_path / "configs").symlink_to(recipes.ROOT / "configs")
    build_model(tmp_path / TINY)
    monkeypatch.chdir(tmp_path)
    SETS[request.param][0](tmp_path)
    return str(request.param)


def commands(name: str) -> list[list[str]]:
    """The arguments of swiftalign in a block of the page, as bash reads them; everything else in the block is run."""
    block = re.search(rf"<!-- run: {name} -->\n```bash\n(.*?)```", PAGE, re.DOTALL)
    assert block
    record = 'swiftalign() { printf "%s\\t" "$@" >> calls; printf "\\n" >> calls; }\npython() { "$PYTHON" "$@"; }\n'
    subprocess.run(
        ["bash", "-euc", record + block[1]], check=True, env={"PYTHON": sys.executable, "PATH": "/usr/bin:/bin"}
    )
    return [line.split("\t")[:-1] for line in Path("calls").read_text(encoding="utf-8").splitlines()]


def called(argv: list[str]) -> int:
    """A command of the page; what trains is the tiny model, for two steps."""
    small = [part for each in (f"model={TINY}", *SHORT) for part in ("--set", each)]
    return main([*argv, *small] if argv[0] == "train" else argv)


@pytest.mark.parametrize("place", SETS, indirect=True)
def test_a_data_set_is_read_and_asked_in_the_words_of_its_protocol(
    place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _, rows, question, _ = SETS[place]
    for argv in commands(place):
        if argv[0] == "convert" or argv[-1] == "--dry-run":
            assert called(argv) == 0, capsys.readouterr().err
    words = load_config([recipes.FOLDER / "qwen3_vl_4b.yaml", Path("words.yaml")], [f"model={TINY}", "data.val=[]"])
    first = Rows([Path(rows)], writing=encoding_of(words).writing)[0]["messages"]
    assert question in first[0]["content"]
    [target] = json.loads(first[1]["content"])
    assert target.keys() == {"bbox_2d", "label"}


@pytest.mark.long
@pytest.mark.parametrize("place", SETS, indirect=True)
def test_every_command_of_a_data_set_works(place: str, capsys: pytest.CaptureFixture[str]) -> None:
    _, _, question, counted = SETS[place]
    if place == "refcoco":  # it asks a run of the page's first command
        coco(Path())
        [first] = re.findall(r"^swiftalign (train .*runs/first)$", PAGE, re.MULTILINE)
        argv = first.replace("rows.jsonl", "coco.json").replace("val.jsonl", "coco.json").split()
        assert called(argv) == 0, capsys.readouterr().err
    for argv in commands(place):
        capsys.readouterr()
        code, told = called(argv), capsys.readouterr()
        assert code == 0, told.err
        if argv[0] == "eval":
            assert counted in told.out
            answers = Path(f"eval-{Path(argv[1]).name}/predictions.jsonl").read_text(encoding="utf-8").splitlines()
            assert any(question in json.loads(answer)["prompt"] for answer in answers)
