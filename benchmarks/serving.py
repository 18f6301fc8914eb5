"""Whether every server gives the answers that transformers gives in process.

    python benchmarks/serving.py
    python benchmarks/serving.py --only vLLM MLX --methods lora
    python benchmarks/serving.py --only speed

Trains the demo's small model by each tuning method, starts each server on the merged export and on the adapter as it
is, asks the same rows there and in process, greedily and in float32, and compares the texts. Each server has an
environment of its own in ``--work``, made once; vLLM's takes 1.3 GB. Writes ``serving.jsonl`` beside this file, a line
for each cell; the lines of what a call leaves out stay. ``python benchmarks/serving_report.py`` makes docs/serving.md
of them.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, get_args

import torch

from common import SWIFTALIGN
from serving_engines import ENGINES, VLLM, Engine, Files, Form, RefusalError, make_environment, releases, serving
from swiftalign.data.rows import Rows
from swiftalign.data.tokens import read_tokenizer
from swiftalign.demo.workspace import DEMO_TRAINING, write_demo
from swiftalign.evaluation.chat import messages_of
from swiftalign.evaluation.engine import Engine as Answering
from swiftalign.evaluation.engine import Request
from swiftalign.evaluation.evaluate import most_tokens
from swiftalign.evaluation.local import LocalModel
from swiftalign.evaluation.questions import questions_of, without_answer
from swiftalign.evaluation.served import ServedModel
from swiftalign.files import write_whole
from swiftalign.init.recipes import write_config
from swiftalign.methods import offered

HERE = Path(__file__).resolve().parent
LOG, WORK = HERE / "serving.jsonl", HERE.parent / "build/serving"
IN_PROCESS = "transformers"
SPEED = "speed"
PARTS = (IN_PROCESS, *ENGINES, SPEED)
STEPS = 40  # after which most answers differ from the base's
ROWS = 16
# Logits that are closer than this decide by how an engine rounds: it is the spacing of float16 numbers from 16 to 32,
# and llama.cpp looks up GELU in a table of float16.
TIE = 2**-6
KEY = ("part", "engine", "export", "method")  # what a line of the log is replaced by

Line = dict[str, Any]
Texts = dict[int, str]


@dataclass(frozen=True)
class Trained:
    """A tuned model, its texts in process, and the base's.

    Attributes:
        files: what servers are given.
        texts: what transformers answers in process, of the merged export and of base and adapter.
        base: what the base answers.
    """

    files: Files
    texts: dict[Form, Texts]
    base: Texts

    def in_process(self, form: Form) -> tuple[Path, Path | None]:
        """The folders that transformers loads: of a model, and of an adapter to put on it."""
        if form == "merged":
            return Path(self.files.merged), None
        return Path(self.files.base), Path(self.files.adapter)


class Asked:
    """The demo's first validation rows, asked as `swiftalign eval` asks them."""

    def __init__(self, file: Path, model: Path, count: int) -> None:
        self.rows, tokenizer = Rows([file]), read_tokenizer(model / "tokenizer.json")
        questions = questions_of(self.rows)[:count]
        lengths = [len(tokenizer.encode(each.answer)) for each in questions]
        self.requests = [Request(each, most_tokens(n)) for each, n in zip(questions, lengths, strict=True)]

    def texts(self, engine: Answering) -> Texts:
        """Raises RuntimeError where a row could not be asked."""
        found = {}
        for reply in engine.answer(self.requests, self.rows):
            if reply.text is None:
                raise RuntimeError(reply.error)
            found[reply.row] = reply.text
        return found


def make_models(work: Path, methods: Sequence[str]) -> dict[str, Trained]:
    """Train and export by each method, where that was not done before, and ask in process."""
    demo = work / "demo"
    base = demo / "model"
    if not (demo / "config.yaml").is_file():
        write_demo(demo, force=True)
    asked = Asked(demo / "data/val.jsonl", base, ROWS)
    of_base, models = asked.texts(in_process(base)), {}
    for method in methods:
        place = work / method
        merged, adapter = place / "merged", place / "adapter"
        if not adapter.is_dir():
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(parents=True)
            training = DEMO_TRAINING | {"max_steps": STEPS, "aligner_lr": offered()[method].demo_lr}
            train = str(demo / "data/train.jsonl")
            text = write_config(
                model=str(base), dtype="float32", method=method, train=train, steps=STEPS, training=training
            )
            (place / "config.yaml").write_text(text, encoding="utf-8")
            output = f"training.output_dir={place / 'run'}"
            swiftalign("train", str(place / "config.yaml"), "--set", output)
            # In the base's own bfloat16 the engines would round at different places.
            swiftalign("export", str(place / "run"), "--dtype", "float32", "--output", str(merged))
            vision = ("--mmproj", "--dtype", "float32", "--output", str(place / "mmproj.gguf"))
            swiftalign("export", str(place / "run"), *vision, "--force")
            swiftalign("export", str(place / "run"), "--adapter-only", "--output", str(adapter))
        files = Files(str(base), str(merged), str(adapter), str(work / "base.gguf"), str(place / "mmproj.gguf"))
        texts: dict[Form, Texts] = {
            "merged": asked.texts(in_process(merged)),
            "adapter": asked.texts(in_process(base, adapter)),
        }
        models[method] = Trained(files, texts, of_base)
    return models


def in_process(model: Path, adapter: Path | None = None, *, together: int | None = None) -> LocalModel:
    return LocalModel(model, adapter, dtype="float32", together=together)


def swiftalign(*words: str) -> None:
    done = subprocess.run([*SWIFTALIGN, *words], capture_output=True, text=True, timeout=1800)
    if done.returncode:
        raise RuntimeError(f"swiftalign {' '.join(words)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


def convert(programs: Path, model: str, out: str) -> None:
    if not Path(out).is_file():
        script = [str(programs / "python"), str(HERE / "serving_llama.py"), "convert"]
        command = [*script, model, "--outtype", "f32", "--outfile", out]
        subprocess.run(command, check=True, capture_output=True, timeout=600)


def as_published(model: str, out: Path) -> str:
    """A copy of a model whose config.json has the keys of published Qwen3-VL models, which mlx-vlm reads.

    The demo's was written by transformers 5, which calls some of them otherwise. What transformers reads stays.
    """
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(model, out)
    config = json.loads((out / "config.json").read_text())
    rope = config["text_config"]["rope_parameters"]
    config["text_config"] |= {"rope_theta": rope["rope_theta"], "rope_scaling": rope}
    config["vision_config"]["model_type"] = "qwen3_vl"
    (out / "config.json").write_text(json.dumps(config))
    return str(out)


def files_for(name: str, files: Files, programs: Path) -> Files:
    """The files in the form that an engine reads."""
    if name == "llama.cpp":
        convert(programs, files.base, files.llm)
    if name == "MLX":
        place = Path(files.merged).parent
        base, merged = (as_published(path, place / f"mlx-{Path(path).name}") for path in (files.base, files.merged))
        return replace(files, base=base, merged=merged)
    return files


def compared(texts: Texts, of: Texts, base: Texts, gap: Callable[[int, str, str], float]) -> Line:
    """How many texts are equal; what differs first at a tie is the same answer.

    Args:
        gap: tells by how much the model in process preferred its own text, by a row and both texts.
    """
    gaps = [gap(row, text, texts[row]) for row, text in of.items() if texts[row] != text]
    return {
        "outcome": "same" if all(found < TIE for found in gaps) else "other",
        "equal": len(of) - len(gaps),
        "rows": len(of),
        **({"gaps": [round(found, 4) for found in gaps]} if gaps else {}),
        **({"equal_to_base": sum(texts[row] == text for row, text in base.items())} if base else {}),
    }


def gap_of(asked: Asked, model: Path, adapter: Path | None, row: int, own: str, other: str) -> float:
    """Difference of the logits of a model's own next token and of another's, where two texts after a row part."""
    import transformers
    from peft import PeftModel

    processor = transformers.AutoProcessor.from_pretrained(model)
    loaded: Any = transformers.AutoModelForImageTextToText.from_pretrained(model, dtype="float32")
    if adapter:
        loaded = PeftModel.from_pretrained(loaded, str(adapter))
    end = loaded.generation_config.eos_token_id
    ids = [[*processor.tokenizer.encode(text), end if isinstance(end, int) else end[0]] for text in (own, other)]
    same = next(index for index, (one, two) in enumerate(zip(*ids, strict=False)) if one != two)
    question = without_answer(asked.rows[row])
    prompt = processor.apply_chat_template(messages_of(question), add_generation_prompt=True)
    text = prompt + processor.tokenizer.decode(ids[0][:same])
    with torch.no_grad():
        inputs = processor(text=[text], images=[list(question["images"])], return_tensors="pt")
        logits = loaded.eval()(**inputs).logits[0, -1]
    return float(logits[ids[0][same]] - logits[ids[1][same]])


def cell(name: str, method: str, form: Form, trained: Trained, asked: Asked, work: Path, limit: float) -> Line:
    """Start an engine, ask it, and say what came of it; a failure is an outcome too."""
    began = time.monotonic()
    line: Line = {"part": "matrix", "engine": name, "export": form, "method": method}
    model, adapter = trained.in_process(form)
    gap = partial(gap_of, asked, model, adapter)
    try:
        if name == IN_PROCESS:
            line["versions"] = releases(ENGINES["transformers serve"], Path())
            texts = asked.texts(in_process(model, adapter, together=1))
            line |= compared(texts, trained.texts[form], trained.base, gap)
        else:
            engine = ENGINES[name]
            programs = environment(name, work)
            line["versions"] = releases(engine, programs)
            files = files_for(name, trained.files, programs)
            log = work / method / f"{name.replace(' ', '-')}-{form}.log"
            with serving(engine, programs, files, form, log, limit) as url:
                served = ServedModel(url, engine.served(files, form), together=engine.together)
                texts = asked.texts(served)
            line |= compared(texts, trained.texts[form], trained.base, gap)
    except RefusalError as refused:
        line |= {"outcome": "refused", "words": str(refused)}
    except Exception as error:  # the other cells do not wait behind it
        line |= {"outcome": "failed", "words": f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"}
    return line | {"seconds": round(time.monotonic() - began, 1)}


@cache
def environment(name: str, work: Path) -> Path:
    return make_environment(ENGINES[name], work / "environments" / name)


def without_the_flag(trained: Trained, asked: Asked, work: Path, limit: float) -> Line:
    """vLLM with a LoRA of the aligner, but without the option that applies it there."""
    programs = environment("vLLM", work)
    left_out: Engine = replace(
        VLLM,
        arguments=lambda files, form: [word for word in VLLM.arguments(files, form) if "tower" not in word],
    )
    line = {"part": "flag", "engine": "vLLM", "export": "adapter", "method": "lora"}
    with serving(left_out, programs, trained.files, "adapter", work / "lora/vLLM-flag.log", limit) as url:
        texts = asked.texts(ServedModel(url, "tuned"))
    gap = partial(gap_of, asked, *trained.in_process("adapter"))
    return line | compared(texts, trained.texts["adapter"], trained.base, gap)


def speeds(trained: Trained, data: Path, work: Path, limit: float, rounds: int) -> Iterator[Line]:
    """Rows a second of a merged export in process and by two servers, and how many texts are equal."""
    merged = Path(trained.files.merged)
    asked, warm = Asked(data, merged, 128), Asked(data, merged, 8)
    reference: Texts = {}

    def timed(name: str, engine: Answering, flight: int) -> Line:
        warm.texts(engine)
        seconds = []
        for _ in range(rounds):
            began = time.perf_counter()
            texts = asked.texts(engine)
            seconds.append(time.perf_counter() - began)
        reference.update(texts if not reference else {})
        line = {"part": SPEED, "engine": name, "export": "merged", "method": "modules_to_save", "together": flight}
        gap = partial(gap_of, asked, merged, None)
        return line | compared(texts, reference, {}, gap) | {"rows_a_second": round(len(texts) / min(seconds), 2)}

    yield timed(IN_PROCESS, in_process(merged), 32)
    for name in ("vLLM", "transformers serve"):
        engine, log = ENGINES[name], work / f"{name.replace(' ', '-')}-speed.log"
        with serving(engine, environment(name, work), trained.files, "merged", log, limit) as url:
            served = ServedModel(url, engine.served(trained.files, "merged"), together=engine.together)
            yield timed(name, served, engine.together)


def keep(log: Path, line: Line) -> None:
    """Put a line in its place in the log."""
    lines = [json.loads(text) for text in log.read_text().splitlines()] if log.is_file() else []
    key = [line[name] for name in KEY]
    kept = [each for each in lines if [each[name] for name in KEY] != key]
    kept.append(line | {"date": time.strftime("%Y-%m-%d")})
    kept.sort(key=lambda each: (each["part"] != "matrix", PARTS.index(each["engine"]), each["export"] == "adapter",
                                [*offered()].index(each["method"])))  # fmt: skip
    write_whole(log, "".join(json.dumps(each) + "\n" for each in kept))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--methods", nargs="+", choices=offered(), default=[*offered()])
    parser.add_argument(
        "--work", type=Path, default=WORK, help="folder of environments and models; made, or used again"
    )
    parser.add_argument("--log", type=Path, default=LOG)
    parser.add_argument("--limit", type=float, default=600, help="seconds of a server")
    parser.add_argument("--rounds", type=int, default=2, help="of the measurement of speed; the fastest counts")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # servers end with this process
    os.environ["OMP_NUM_THREADS"] = "1"  # of everything that is started
    torch.set_num_threads(1)
    work: Path = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    failed = 0
    for line in matrix(options, work):
        keep(options.log, line)
        failed += line["outcome"] == "failed"
        told = f"{line['equal']} of {line['rows']} equal" if "equal" in line else line.get("words", "")
        speed = f", {line['rows_a_second']} rows/s" if "rows_a_second" in line else ""
        print(f"{line['engine']}, {line['export']}, {line['method']}: {line['outcome']}: {told}{speed}", flush=True)
    raise SystemExit(1 if failed else 0)


def matrix(options: argparse.Namespace, work: Path) -> Iterator[Line]:
    """All parts that are asked for, line by line."""
    models = make_models(work, options.methods)
    data = work / "demo/data/val.jsonl"
    asked = Asked(data, work / "demo/model", ROWS)
    for name in options.only:
        if name != SPEED:
            forms: tuple[Form, ...] = get_args(Form)
            for form in forms:
                for method, trained in models.items():
                    yield cell(name, method, form, trained, asked, work, options.limit)
        if name == "vLLM" and "lora" in models:
            yield without_the_flag(models["lora"], asked, work, options.limit)
        if name == SPEED and "modules_to_save" in models:
            yield from speeds(models["modules_to_save"], data, work, options.limit, options.rounds)


if __name__ == "__main__":
    main()
