"""Shared fixtures: tiny models and the demo workspace, built once for the whole suite."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

import warm
from swiftalign.config.load import load_config
from swiftalign.config.sections import Config
from swiftalign.demo.workspace import write_demo
from swiftalign.model.tree import Model
from swiftalign.plan.read import read_model
from swiftalign.speed.cards import visible_cards

if TYPE_CHECKING:
    from playwright.sync_api import Browser

# How long an example takes depends on what else the machine does.
settings.register_profile("suite", deadline=None)
settings.load_profile("suite")


# Python's garbage collector would look through torch and ms-swift again and again while the tests are collected.
gc.disable()


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


# The files that take longest, longest first: begun late, one of them would go on alone.
LONGEST = (
    *("test_start.py", "test_resume.py", "test_sharding.py", "test_processes.py", "test_train.py", "test_fuzz.py"),
    *("test_verify.py", "test_data_opens.py", "test_any_values.py", "test_phases.py", "test_grounding_eval.py"),
    *("test_guide.py", "test_moved_runs.py", "test_chaos.py", "test_fast_training.py", "test_bad_rows.py"),
    *("test_terminal.py", "test_scripts.py", "test_completion.py"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Commands that tests run do not read or write the user's own cache, but for what torch has built for DeepSpeed."""
    cache, built = tmp_path_factory.mktemp("cache"), Path("~/.cache/torch_extensions").expanduser()
    built.mkdir(parents=True, exist_ok=True)
    (cache / built.name).symlink_to(built)  # building takes a minute
    os.environ["XDG_CACHE_HOME"] = str(cache)


@pytest.fixture(scope="session", autouse=True)
def warm_children(own_cache: None) -> Iterator[None]:
    """`train`, called in this process, forks its training process instead of loading ms-swift anew each time.

    Not where there are GPUs: CUDA does not survive a fork.
    """
    with pytest.MonkeyPatch.context() as patch:
        if not visible_cards():
            patch.setattr("swiftalign.runs.launch.Popen", warm.start)
        yield


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny demo workspace: `model/`, `data/`, `config.yaml`. Tests read it and write elsewhere."""
    folder = tmp_path_factory.mktemp("workspace") / "demo"
    write_demo(folder, tiny=True)
    return folder


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model in bfloat16. Tests read it and write elsewhere."""
    from swiftalign.demo.model import build_model

    path = tmp_path_factory.mktemp("base") / "model"
    build_model(path, dtype="bfloat16")
    return path


@pytest.fixture(scope="session")
def demo_modules(demo: Path) -> Model:
    """The demo model's modules, from its weight files' headers."""
    return read_model(load_config([demo / "config.yaml"]))


@pytest.fixture(scope="session")
def batch_rows(demo: Path) -> tuple[Any, list[dict[str, Any]]]:
    """The demo's template, and three encoded rows of different lengths."""
    from swift_template import template_of
    from swiftalign.data.encoding import encoding_of
    from swiftalign.data.rows import Rows

    template = template_of(demo / "model")
    config = load_config([demo / "config.yaml"])
    rows = Rows(config.data.sources("train"), {}, encoding_of(config).writing)
    encoded = [template.encode(rows[index], return_length=True) for index in range(3)]
    assert len({len(row["input_ids"]) for row in encoded}) > 1
    return template, encoded


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A headless Chromium."""
    from pages import headless

    with headless() as running:
        yield running


@pytest.fixture
def make_config(demo: Path, tmp_path: Path) -> Callable[[str], Config]:
    """A configuration of the demo model from the YAML text of its other sections."""

    def make(text: str) -> Config:
        path = tmp_path / "config.yaml"
        path.write_text(f"model: {demo / 'model'}\n{text}", encoding="utf-8")
        return load_config([path])

    return make


@pytest.fixture
def run_in_terminal(tmp_path: Path) -> Callable[..., tuple[int, str]]:
    """Run swiftalign on a pseudo-terminal, and give back its exit code and what it drew; `keys` are typed into it."""
    import pty
    import sys

    def run(*argv: str, keys: str = "") -> tuple[int, str]:
        pid, terminal = pty.fork()
        if pid == 0:
            os.environ.update(TERM="xterm-256color", COLUMNS="120", LINES="40")
            os.chdir(tmp_path)
            os.execv(sys.executable, [sys.executable, "-m", "swiftalign", *argv])
        os.write(terminal, keys.encode())
        output = b""
        while True:
            try:
                chunk = os.read(terminal, 65536)
            except OSError:  # Linux reports the closed terminal as an error
                break
            if not chunk:
                break
            output += chunk
        _, status = os.waitpid(pid, 0)
        return os.waitstatus_to_exitcode(status), output.decode(errors="replace")

    return run
