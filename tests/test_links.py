"""Links that the user made are followed, and content that git-annex, Git LFS or DVC did not fetch is told.

None of these programs is run: their links and pointers are laid out as they lay them out.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from corruptions.damaged_left_out import ANNEX, LFS
from swiftalign.checkpoint.verify import verify
from swiftalign.cli import main
from swiftalign.data.images import image_size, open_image
from swiftalign.data.tools.labelme import read as read_labelme
from swiftalign.data.tools.yolo import read as read_yolo
from swiftalign.exports.export import export
from swiftalign.exports.folder import output_file, output_folder
from swiftalign.files import not_fetched
from swiftalign.model.read import read
from swiftalign.model.safetensors import weight_files
from swiftalign.model.tree import Model, ModelSource
from swiftalign.problems import DataError, ExportError, ModelError
from swiftalign.runs.history import find_runs
from test_export_against_peft import make_adapter
from test_history import LOG, START, write_run

TOOLS = Path(__file__).parent / "rows/tools"
Lay = Callable[[Path], object]


def _dvc(path: Path) -> None:
    path.with_name(f"{path.name}.dvc").write_text("outs: []")


# How a file lies there whose content was not fetched, what is said of it, and the command that fetches it.
LAID: dict[str, tuple[Lay, str, str]] = {
    "LFS": (lambda path: path.write_text(LFS), "is a pointer of Git LFS", "git -C {} lfs pull --include {}"),
    "annex": (lambda path: path.symlink_to(ANNEX), "is a link of git-annex", "git -C {} annex get {}"),
    "annex-unlocked": (
        lambda path: path.write_text("/annex/objects/MD5-s3--0\n"),
        "is a pointer of git-annex",
        "git -C {} annex get {}",
    ),
    "DVC-link": (
        lambda path: path.symlink_to("/x/.dvc/cache/files/md5/0a/1b"),
        "is a link into the cache of DVC",
        "dvc --cd {} pull {}",
    ),
    "DVC": (_dvc, "is not here, and DVC keeps", "dvc --cd {} pull {}"),
    "link": (lambda path: path.symlink_to("gone"), "is a link to gone, which is not there", "correct the link"),
}
each_laid = pytest.mark.parametrize("laid", LAID)


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("adapter") / "lora"
    make_adapter(base, "lora", path)
    return path


@each_laid
def test_the_command_that_fetches_is_told(laid: str, tmp_path: Path) -> None:
    lay, what, command = LAID[laid]
    lay(tmp_path / "a b.png")
    told = not_fetched(tmp_path / "a b.png")
    assert told is not None
    assert told[0].startswith(what)
    assert command.format(tmp_path, "'a b.png'") in told[1]


def test_files_folders_and_names_that_are_none_are_not_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("version 1")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "pulled").mkdir()
    _dvc(tmp_path / "pulled")
    for name in ("file", "link", ".", "missing", "pipe", "x" * 999, "\0", "pulled/missing"):
        assert not_fetched(tmp_path / name) is None
    _dvc(tmp_path / "images")
    told = not_fetched(tmp_path / "images/7/a.png")
    assert told is not None
    assert told[1] == f"fetch it: dvc --cd {tmp_path} pull images"


@each_laid
def test_an_image_that_was_not_fetched(laid: str, tmp_path: Path) -> None:
    lay, what, _ = LAID[laid]
    lay(tmp_path / "a.png")
    for look in (image_size, open_image):
        with pytest.raises(DataError, match=f"image {tmp_path}/a.png: {what}"):
            look(tmp_path / "a.png")


@each_laid
@pytest.mark.parametrize("command", ["convert", "preview-aug"])
def test_rows_that_were_not_fetched(
    command: str, laid: str, demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lay, what, _ = LAID[laid]
    rows = tmp_path / "rows.jsonl"
    lay(rows)
    options = [str(rows), "-o", str(tmp_path / "out.jsonl")]
    if command == "preview-aug":
        options = [str(demo / "config.yaml"), "--set", f"data.train={rows}", "--output", str(tmp_path / "out.png")]
    assert main([command, *options]) == 2
    assert f"{rows}: {what}" in capsys.readouterr().err


@each_laid
def test_an_annotation_that_was_not_fetched_is_not_passed_over(laid: str, tmp_path: Path) -> None:
    if laid == "DVC":  # leaves nothing of a single file in a folder
        return
    lay, what, _ = LAID[laid]
    shutil.copy(TOOLS / "labelme/a.json", tmp_path)
    lay(tmp_path / "b.json")
    with pytest.raises(DataError, match=f"{tmp_path}/b.json: {what}"):
        list(read_labelme(tmp_path, None, Counter()))


def test_a_folder_of_pointers_only_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows/a.json").write_text(LFS)
    assert main(["convert", str(tmp_path / "rows"), "-o", str(tmp_path / "out.jsonl")]) == 2
    assert "rows/a.json: is a pointer of Git LFS" in capsys.readouterr().err


@each_laid
def test_a_model_that_was_not_fetched(laid: str, base: Path, adapter: Path, tmp_path: Path) -> None:
    lay, what, _ = LAID[laid]
    lay(tmp_path / "whole")
    pointer = (tmp_path / "whole").is_file()  # in the place of a folder, it was no model
    with pytest.raises(ModelError, match="not a model folder" if pointer else what):
        read(ModelSource(str(tmp_path / "whole")))
    model = shutil.copytree(base, tmp_path / "model")
    (model / "model.safetensors").unlink()
    lay(model / "model.safetensors")
    with pytest.raises(ModelError, match=what):
        export(adapter, tmp_path / "out", base=model)


def test_no_pointer_gets_into_an_export(base: Path, adapter: Path, tmp_path: Path) -> None:
    model = shutil.copytree(base, tmp_path / "model")
    (model / "merges.txt").unlink(missing_ok=True)
    for lay in (LAID["LFS"][0], LAID["annex"][0]):
        lay(model / "merges.txt")
        with pytest.raises(ExportError, match=r"merges\.txt: is a (pointer|link)"):
            export(adapter, tmp_path / "out", base=model)
        (model / "merges.txt").unlink()
    assert not (tmp_path / "out").exists()


def test_a_base_of_links_is_read_and_never_replaced(base: Path, adapter: Path, tmp_path: Path) -> None:
    """Its shards lie in a store elsewhere."""
    from transformers import AutoModelForImageTextToText

    store, model = tmp_path / "store/model", tmp_path / "model"
    model.mkdir()
    AutoModelForImageTextToText.from_pretrained(base, dtype="auto").save_pretrained(store, max_shard_size="200KB")
    shutil.copytree(base, store, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.safetensors"))
    for file in store.iterdir():
        (model / file.name).symlink_to(Path("../store/model") / file.name)
    assert len(weight_files(model)) > 2
    report = export(adapter, tmp_path / "out", base=model)
    assert report.changed == export(adapter, tmp_path / "other", base=base).changed
    before = sorted(file.name for file in store.iterdir())
    for place in (store, store.parent):
        with pytest.raises(ExportError, match="or holds it"):
            export(adapter, place, base=model, force=True)
    assert sorted(file.name for file in store.iterdir()) == before


def test_an_output_that_is_a_link_to_a_folder_is_followed(base: Path, adapter: Path, tmp_path: Path) -> None:
    (tmp_path / "disk/models").mkdir(parents=True)
    (tmp_path / "disk/models/config.json").write_text("{}")
    (tmp_path / "out").symlink_to("disk/models")
    with pytest.raises(ExportError, match="out exists already"):
        export(adapter, tmp_path / "out", base=base)
    export(adapter, tmp_path / "out", base=base, force=True)
    assert (tmp_path / "out").is_symlink()
    assert (tmp_path / "disk/models/model.safetensors").is_file()
    assert [file.name for file in (tmp_path / "disk").iterdir()] == ["models"]


def test_a_file_that_is_a_link_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "file.gguf").write_bytes(b"GGUF")
    (tmp_path / "link.gguf").symlink_to("file.gguf")
    with pytest.raises(ExportError, match=r"link\.gguf is a link") as refused:
        output_file(tmp_path / "link.gguf", force=True, apart_from=()).__enter__()
    assert refused.value.hint == f"name the file that it leads to: {tmp_path / 'file.gguf'}"
    with pytest.raises(ExportError, match="is not a folder"):
        output_folder(tmp_path / "link.gguf", force=True, apart_from=()).__enter__()


def test_a_link_to_a_checkpoint_belongs_to_its_run(
    demo: Path, demo_modules: Model, adapter: Path, tmp_path: Path
) -> None:
    run = write_run(tmp_path / "runs/one", demo, demo_modules, START)
    shutil.copytree(adapter, tmp_path / "disk/another")
    (run / "checkpoint-5").symlink_to(tmp_path / "disk/another")
    (tmp_path / "best").symlink_to("runs/newest")
    (tmp_path / "runs/newest").symlink_to("one/checkpoint-5")
    result = verify(tmp_path / "best")
    assert result.expectation == f"the run's plan, {tmp_path}/runs/one/plan.json"
    assert result.checkpoint.path == tmp_path / "runs/one/checkpoint-5"
    assert verify(run).checkpoint.path == run / "checkpoint-5"


def test_runs_behind_links_are_listed_once(
    demo: Path, demo_modules: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path / "disk/far/away/one", demo, demo_modules, START, LOG)
    write_run(tmp_path / "runs/two", demo, demo_modules, START, LOG)
    (tmp_path / "runs/linked").symlink_to("../disk/far/away")
    (tmp_path / "runs/again").symlink_to("two")
    (tmp_path / "runs/up").symlink_to("..")
    (tmp_path / "runs/self").symlink_to("self")
    found = find_runs(tmp_path / "runs")
    assert sorted(str(run.folder.relative_to(tmp_path)) for run in found) == ["runs/linked/one", "runs/two"]
    assert main(["runs", str(tmp_path / "runs"), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 2


def test_images_in_linked_folders_are_found_once(tmp_path: Path) -> None:
    shutil.copytree(TOOLS / "yolo", tmp_path / "yolo")
    (tmp_path / "disk").mkdir()
    for part in ("train", "val"):
        (tmp_path / "yolo/images" / part).mkdir(parents=True)
    Image.new("RGB", (64, 48)).save(tmp_path / "yolo/images/train/a.png")
    Image.new("RGB", (64, 48)).save(tmp_path / "disk/c.png")
    (tmp_path / "yolo/images/train/more").symlink_to(tmp_path / "disk")
    (tmp_path / "disk/circle").symlink_to(tmp_path / "yolo/images")
    (tmp_path / "yolo/labels/train/more").mkdir()
    shutil.copy(tmp_path / "yolo/labels/train/a.txt", tmp_path / "yolo/labels/train/more/c.txt")
    found = [row["images"][0] for _, row in read_yolo(tmp_path / "yolo/data.yaml", None, Counter())]
    names = ["images/train/a.png", "images/train/more/c.png"]
    assert found == [f"{tmp_path}/yolo/{name}" for name in names]
