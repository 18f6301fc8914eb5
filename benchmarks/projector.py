"""What other frameworks train in a Qwen3-VL that are asked for its projector.

    python benchmarks/projector.py --only LLaMA-Factory "NeMo AutoModel"
    python benchmarks/projector.py --checkout QwenLM/Qwen3-VL=../Qwen3-VL

Each framework gets an environment of its own, made once. There its own code for freezing, or for adding adapters, is
called on a tiny Qwen3-VL (``projector_probe.py``), and what requires a gradient afterwards is counted by name. Nothing
is trained or downloaded but packages. Writes ``projector.jsonl`` beside this file, a line for each setting; the lines
of what a call leaves out stay. ``python benchmarks/projector_report.py`` makes docs/projector.md of them.

An environment lies over the one that this runs in: torch comes from there, and so does whatever a framework does not
insist on another release of. Each line says what was installed.

A further framework is a function in ``projector_probe.py`` and an entry in `SOURCES`.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from projector_probe import ABSENT, FRAMEWORKS
from projector_report import LOG, Line, logged
from swiftalign.files import write_whole

PROBE = Path(__file__).resolve().with_name("projector_probe.py")
ENVIRONMENTS = Path("~/.cache/swiftalign/projector")


@dataclass(frozen=True)
class Source:
    """What the environment of a framework gets.

    Attributes:
        packages: what is installed without dependencies, the framework first; none for scripts in a checkout.
        own: those of the framework's requirements that are installed, at the releases that it asks for.
        beside: what else its code imports.
        checkout: whether its code for Qwen3-VL is not on PyPI, so that a clone of it has to be named.
    """

    packages: tuple[str, ...] = ()
    own: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    checkout: bool = False


SOURCES = {
    "swiftalign": Source(),  # both run here
    "ms-swift": Source(),
    "LLaMA-Factory": Source(
        ("llamafactory",),
        ("accelerate", "datasets", "fire", "omegaconf", "peft", "sse-starlette", "transformers", "trl", "tyro"),
    ),
    "axolotl": Source(("axolotl",), ("accelerate", "bitsandbytes", "peft", "posthog", "transformers", "trl")),
    "NeMo AutoModel": Source(("nemo-automodel",), ("transformers",)),
    "Megatron-Bridge": Source(
        # Transformer Engine's package without its libraries: only its release is read.
        ("megatron-bridge", "megatron-core>=0.15,<0.17", "transformer-engine"),
        ("hydra-core", "omegaconf", "open-clip-torch", "qwen-vl-utils", "timm", "transformers"),
    ),
    "unsloth": Source(
        ("unsloth", "unsloth-zoo"), ("transformers", "trl", "tyro", "nest-asyncio"), ("cut-cross-entropy", "msgspec")
    ),
    # Their read-me files and requirements.txt name these releases.
    "QwenLM/Qwen3-VL": Source(beside=("transformers==4.57.0",), checkout=True),
    "2U1/Qwen-VL-Series-Finetune": Source(
        beside=("transformers==4.57.0", "peft==0.15.2", "trl==0.23.1", "liger-kernel==0.6.2", "ujson"), checkout=True
    ),
    "XTuner": Source(
        ("xtuner",),
        ("cyclopts", "datasets", "loguru"),
        # It asks for transformers 4.56.0, which has a Qwen3-VL of an older layout, and for an unreleased mmengine.
        ("transformers==4.57.0", "mmengine", "more-itertools", "ray"),
        checkout=True,
    ),
}


def make_environment(name: str, checkout: Path | None, folder: Path) -> tuple[Path, list[str]]:
    """The Python of a framework's environment, made where it is not there yet, and what was installed in it."""
    source = SOURCES[name]
    if not (source.packages or source.beside):
        return Path(sys.executable), []
    place = folder / re.sub(r"\W+", "-", f"{name}-{commit(checkout)}" if checkout else name)
    python, made = place / "bin/python", place / "made.json"
    if made.is_file():
        return python, json.loads(made.read_text(encoding="utf-8"))
    shutil.rmtree(place, ignore_errors=True)
    run([sys.executable, "-m", "venv", "--without-pip", str(place)])
    site = next((place / "lib").glob("python*/site-packages"))
    (site / "beneath.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    installed, needed = [], list(source.beside)
    if source.packages:
        first, *others = source.packages
        run([*pip, "--no-deps", str(checkout) if checkout else first, *others])
        there = [next(distributions(name=Requirement(each).name, path=[str(site)])) for each in source.packages]
        installed = [f"{each.metadata['Name']}=={each.version} without its dependencies" for each in there]
        for asked in map(Requirement, there[0].requires or ()):
            plain = asked.marker is None or asked.marker.evaluate({"extra": ""})
            if plain and canonicalize_name(asked.name) in source.own:
                needed.append(f"{asked.name}{asked.specifier}")
    if needed:
        run([*pip, *needed])
    installed += sorted(needed)
    made.write_text(json.dumps(installed), encoding="utf-8")
    return python, installed


def run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)[:300]}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


def commit(checkout: Path) -> str:
    command = ["git", "-C", str(checkout), "log", "-1", "--format=%h, %cs", "--abbrev=7"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{checkout} is not a clone of a repository: {done.stderr.strip()}")
    return done.stdout.strip()


def probed(name: str, checkout: Path | None, environments: Path) -> list[Line]:
    """The lines of a framework: what each of its settings trains."""
    python, installed = make_environment(name, checkout, environments)
    command = [str(python), str(PROBE), name, *([str(checkout)] if checkout else [])]
    with tempfile.TemporaryDirectory() as folder:  # some write files where they are
        path = os.pathsep.join(filter(None, [str(PROBE.parents[1] / "src"), os.environ.get("PYTHONPATH")]))
        paths = {"PYTHONPATH": path} if python == Path(sys.executable) else {}
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **paths}
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, timeout=1800)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    rest: dict[str, Any] = {"how": "run", "installed": installed, "stood_in": list(ABSENT.get(name, ()))}
    lines = [json.loads(text) for text in done.stdout.splitlines()]
    for line in lines:
        line |= {"release": commit(checkout)} if checkout else {}
        line |= rest | {"date": time.strftime("%Y-%m-%d")}
    return lines


def keep(log: Path, name: str, from_checkout: bool, lines: list[Line]) -> None:
    """Put a framework's lines in their place in the log; those of its other source stay, and those that were read."""
    kept = [
        line
        for line in (logged(log) if log.is_file() else [])
        if line["framework"] != name or line["how"] == "read" or line["checkout"] != from_checkout
    ]
    kept += [line | {"checkout": from_checkout} for line in lines]
    kept.sort(key=lambda line: ([*SOURCES].index(line["framework"]), line["checkout"], line["how"] == "read"))
    write_whole(log, "".join(json.dumps(line) + "\n" for line in kept))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=FRAMEWORKS, metavar="NAME", help=", ".join(FRAMEWORKS))
    parser.add_argument(
        "--checkout", nargs="+", default=[], metavar="NAME=PATH", help="clones to take a framework from"
    )
    parser.add_argument("--environments", type=Path, default=ENVIRONMENTS, help=f"their folder; {ENVIRONMENTS}")
    parser.add_argument("--log", type=Path, default=LOG)
    options = parser.parse_args()
    checkouts = {}
    for name, _, path in (each.partition("=") for each in options.checkout):
        if not path or name not in FRAMEWORKS:
            parser.error(f"--checkout takes NAME=PATH, with one of these names: {', '.join(FRAMEWORKS)}")
        checkouts[name] = Path(path).resolve()
    names = options.only or [*checkouts] or [name for name, source in SOURCES.items() if not source.checkout]
    failed = 0
    for name in names:
        if SOURCES[name].checkout and name not in checkouts:
            parser.error(f"{name} is run from a clone of its repository: add --checkout {name}=PATH")
        try:
            lines = probed(name, checkouts.get(name), options.environments.expanduser().resolve())
        except RuntimeError as error:  # the other frameworks do not wait behind it
            failed += 1
            print(f"{name}: failed\n{error}", flush=True)
            continue
        keep(options.log, name, name in checkouts, lines)
        print(f"{name}: {len(lines)} lines", flush=True)
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
