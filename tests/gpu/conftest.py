"""Options of the tests that need two GPUs, and the runs that they look at."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from runs import PROCESSES, Result, Run, execute

from swiftalign.demo.workspace import write_demo


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("several GPUs")
    group.addoption("--cpu", action="store_true", help="try these tests themselves, with a tiny model and gloo")
    group.addoption("--jobs", type=int, default=8, help="runs that train at the same time")
    group.addoption("--results", type=Path, metavar="FILE", help="append one JSON object per run to this file")


@pytest.fixture(scope="session")
def results(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[Run], Result]]:
    """Gives the result of a run. All runs that the chosen tests look at are started at once, many at a time."""
    cpu = request.config.getoption("cpu")
    if not cpu and torch.cuda.device_count() < PROCESSES:
        pytest.exit(f"these tests need {PROCESSES} GPUs, and torch sees {torch.cuda.device_count()}", returncode=2)
    folder = tmp_path_factory.mktemp("several")
    write_demo(folder / "demo", tiny=cpu)
    rows = (folder / "demo/data/val.jsonl").read_text().splitlines(keepends=True)
    (folder / "demo/data/few.jsonl").write_text("".join(rows[:8]))
    reporter = request.config.pluginmanager.getplugin("terminalreporter")
    begin, file = time.monotonic(), request.config.getoption("results")

    def start(run: Run) -> Result:
        result = execute(run, folder, cpu=cpu)
        reporter.write_line(f"{time.monotonic() - begin:5.0f} s  {result}")
        if file:
            with file.open("a") as lines:
                lines.write(json.dumps(asdict(result), default=str) + "\n")
        return result

    wanted = [item.callspec.params["run"] for item in request.session.items if hasattr(item, "callspec")]
    needed = dict.fromkeys(each for run in wanted for each in (run, run.whole, run.reference))
    order = sorted(needed, key=lambda run: run.way != "one")  # the others are compared with these
    with ThreadPoolExecutor(request.config.getoption("jobs")) as pool:
        futures: dict[Run, Future[Result]] = {run: pool.submit(start, run) for run in order}
        yield lambda run: futures[run].result()
        pool.shutdown(cancel_futures=True)
    shutil.rmtree(folder, ignore_errors=True)
