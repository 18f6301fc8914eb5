"""Training the aligner of a random, 8B-shaped Qwen3-VL on one GPU: swiftalign against stock ``swift sft``.

    python benchmarks/train_gpu.py --shape 8B --data mixed equal --steps 24
    python benchmarks/train_gpu.py --shape 4B --data mixed --runs predictions --steps 8
    python benchmarks/train_gpu.py --shape Qwen3.5-9B --data equal mixed --runs stock swiftalign plain padded
    python benchmarks/train_gpu.py --shape Qwen2.5-VL-7B --data equal mixed --runs stock swiftalign plain
    python benchmarks/train_gpu.py --shape Qwen3.5-0.8B --layers 4 --data small --runs stock padding-free --steps 8

Both train the same rows in the same batches, in one call. Needs a GPU, and disk or memory for the model's weights in
TMPDIR. Prints one JSON object a run, and a table at the end.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
import yaml
from PIL import Image

from common import SWIFTALIGN
from step_times import PROFILED, WARM_UP
from swiftalign.demo.model import SPECIAL_TOKENS, generation_config, save_processors
from swiftalign.model.families import find, published_config
from swiftalign.model.family import Family
from swiftalign.runs.lowering import to_argv
from swiftalign.speed.work import Row, Trained, count

HERE = Path(__file__).resolve().parent
LOGGED = 4  # steps between two lines of the log
TIMEOUT = 300  # seconds of a run
FIRST_SPECIAL = {248320: 248044}  # <|endoftext|>, by the size of the vocabulary: Qwen3.5's
OLDER_FIRST_SPECIAL = 151643  # that of the models before it

# What swiftalign is told beside the data, by the name of the run.
RUNS: dict[str, dict[str, Any]] = {
    "swiftalign": {},
    "fp8": {"frozen_fp8": True},
    "seldom-logged": {"logging_steps": 1000},
    "again": {},  # the same once more: what is compiled is kept from the run before
    "torch-attention": {},  # without FlashAttention 4, where it is installed
    "equal-settings": {},  # trainable weights in bfloat16, as stock has them
    "liger": {"torch_compile": False, "use_liger_kernel": True},
    "plain": {"torch_compile": False, "use_liger_kernel": False},
    "padded": {"padding_free": False},
    "padding-free": {"padding_free": True},  # the default on a GPU
    "grouped": {"train_dataloader_shuffle": True},  # batches of rows of about one length
    "padded-grouped": {"train_dataloader_shuffle": True, "padding_free": False},
    "padded-shuffled": {"train_dataloader_shuffle": True, "padding_free": False},
    "auto": {"per_device_train_batch_size": "auto"},
    "checkpointing": {"gradient_checkpointing": True},
    "plain-checkpointing": {"gradient_checkpointing": True, "torch_compile": False, "use_liger_kernel": False},
}
PREDICTIONS = ("swiftalign", "fp8", "liger", "plain-checkpointing")


def published(shape: str, layers: int | None) -> dict[str, Any]:
    """The config of a published model, by its name or by the size of a Qwen3-VL.

    Args:
        layers: number of layers of the LLM to take in place of the model's own.
    """
    names = (f"Qwen/{shape}", f"Qwen/{shape}-Instruct", f"Qwen/Qwen3-VL-{shape}-Instruct")
    config = deepcopy(next((each for name in names if (each := published_config(name))), None))
    assert config is not None, f"no published model is called {shape}"
    if layers:
        config.get("text_config", config)["num_hidden_layers"] = layers
    return config


def family_of(config: dict[str, Any]) -> Family:
    family = find(config["model_type"])
    assert family is not None
    return family


def build_processor(folder: Path, config: dict[str, Any]) -> None:
    """A model folder without weights: its config in bfloat16, and a tokenizer of bytes with Qwen's own numbers for
    special tokens, which stock insists on."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import Qwen2Tokenizer

    folder.mkdir(parents=True)
    text = config.get("text_config", config)
    config["dtype"] = text["dtype"] = "bfloat16"
    (folder / "config.json").write_text(json.dumps(config))
    vocabulary = {token: number for number, token in enumerate(sorted(ByteLevel.alphabet()))}
    first = FIRST_SPECIAL.get(text["vocab_size"], OLDER_FIRST_SPECIAL)
    vocabulary |= {token: first + number for number, token in enumerate(QWEN_TOKENS)}
    tokenizer = Qwen2Tokenizer(
        vocab=vocabulary,
        merges=[],
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=list(QWEN_TOKENS),
    )
    tokenizer.save_pretrained(folder)
    save_processors(folder)
    for file in folder.glob("*preprocessor_config.json"):
        file.write_text(json.dumps(json.loads(file.read_text()) | {"patch_size": family_of(config).patch}))
    generation_config(tokenizer).save_pretrained(folder)


def build_model(folder: Path, config: dict[str, Any], device: str) -> None:
    """A model folder with random weights."""
    from safetensors.torch import save_file

    build_processor(folder, config)
    generator = torch.Generator(device).manual_seed(0)
    weights = {}
    model = family_of(config).build(config)
    assert model is not None
    for info in model.parameters():
        if "norm" in info.name:
            value = torch.full(info.shape, 0.0 if info.name.endswith("bias") else 1.0, dtype=torch.bfloat16)
        else:
            value = torch.empty(info.shape, dtype=torch.bfloat16, device=device).normal_(0, 0.02, generator=generator)
        weights[info.name] = value.cpu()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


QWEN_TOKENS = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>",
    "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
assert set(QWEN_TOKENS) >= set(SPECIAL_TOKENS)


def build_data(folder: Path, kind: str, rows: int, *, pixels: bool = False) -> list[tuple[int, int]]:
    """JPEG images and answers with 2 to 8 boxes, in ms-swift's layout; returns the images' sizes.

    Args:
        pixels: whether boxes are in pixels, as Qwen2.5-VL writes them; otherwise they are 0..1000 of the sides.

    equal: 1024x768.  mixed: sides of 512 to 1536.  largest: 1536x1536.  small: 128x96, to try a benchmark on a CPU.
    """
    folder.mkdir(parents=True)
    dice, noise = random.Random(0), np.random.default_rng(0)
    sizes, lines = [], []
    for number in range(rows):
        width, height = {"equal": (1024, 768), "largest": (1536, 1536), "small": (128, 96)}.get(kind, (0, 0))
        if kind == "mixed":
            width, height = (32 * dice.randint(16, 48) for _ in range(2))
        sizes.append((width, height))
        coarse = noise.integers(0, 256, (height // 16, width // 16, 3), dtype=np.uint8)
        path = folder / f"{number}.jpg"
        Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(path, quality=90)
        boxes = []
        for _ in range({"equal": 5, "largest": 8}.get(kind) or dice.randint(2, 8)):
            side = min(width, height) - 1 if pixels else 1000
            left, top = dice.randint(0, side * 9 // 10), dice.randint(0, side * 9 // 10)
            box = [left, top, dice.randint(left + 1, side), dice.randint(top + 1, side)]
            boxes.append({"bbox_2d": box, "label": dice.choice(("red box", "blue disc", "line"))})
        question = "<image>Locate every object in the image. Answer in JSON."
        messages = [{"role": "user", "content": question}, {"role": "assistant", "content": json.dumps(boxes)}]
        lines.append(json.dumps({"messages": messages, "images": [str(path)]}))
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n")
    return sizes


def stock_command(
    model: Path,
    rows: Path,
    out: Path,
    steps: int,
    batch: int,
    settings: dict[str, Any] | None = None,
    plugins: Sequence[str] = (),
) -> list[str]:
    """``swift sft`` as it comes, told what to train and which rows in which order.

    Args:
        settings: further arguments.
        plugins: files that define further callbacks, each under the file's name.
    """
    family = family_of(json.loads((model / "config.json").read_text()))
    arguments: dict[str, Any] = {
        "model": str(model),
        "model_type": family.model_type,
        "template": template(family),
        "torch_dtype": "bfloat16",
        "tuner_type": "lora",
        "target_regex": "dummy-target-modules",
        "modules_to_save": mergers(family),
        "dataset": [str(rows)],
        "split_dataset_ratio": 0.0,
        "dataset_shuffle": False,
        "train_dataloader_shuffle": False,
        "per_device_train_batch_size": batch,
        "gradient_accumulation_steps": 1,
        "learning_rate": 1e-4,
        "max_steps": steps,
        "logging_steps": LOGGED,
        "save_strategy": "no",
        "check_model": False,
        "output_dir": str(out),
        **_callbacks(plugins),
        **({} if torch.cuda.is_available() else {"use_cpu": True}),
        **(settings or {}),
    }
    code = "from swift.cli.main import cli_main; cli_main()"
    return [sys.executable, "-c", code, "sft", *to_argv(arguments)]


def template(family: Family) -> str:
    """ms-swift's template, which it can't tell from the class of the model alone."""
    return family.model_type.removesuffix("_moe")


def mergers(family: Family) -> list[str]:
    return [f"model.{name}" for name in family.mergers]


def _callbacks(plugins: Sequence[str]) -> dict[str, list[str]]:
    files = [HERE / "step_times.py", *map(Path, plugins)]
    return {"external_plugins": [str(file) for file in files], "callbacks": [file.stem for file in files]}


def own_command(
    model: Path,
    rows: Path,
    out: Path,
    steps: int,
    batch: int,
    settings: dict[str, Any],
    plugins: Sequence[str] = (),
) -> list[str]:
    """The same in a configuration of swiftalign; ``settings`` are those of its section ``training``."""
    family = family_of(json.loads((model / "config.json").read_text()))
    config = {
        "model": {
            "path": str(model),
            "type": family.model_type,
            **({"attention": "sdpa"} if "torch-attention" in out.name else {}),
        },
        "data": {"train": str(rows), "dataset_shuffle": False, "template": template(family)},
        "tuner": {
            "train_type": "lora",
            "target_regex": "^$",
            "modules_to_save": mergers(family),
            "trainable_dtype": "base" if out.name.endswith("equal-settings") else "float32",
        },
        "training": {
            "output_dir": str(out),
            "aligner_lr": 1e-4,
            "max_steps": steps,
            "per_device_train_batch_size": batch,
            "gradient_accumulation_steps": batch if "per_device_train_batch_size" in settings else 1,
            "train_dataloader_shuffle": False,
            "logging_steps": LOGGED,
            "save_strategy": "no",
            **settings,
        },
        "swift": {
            **_callbacks(plugins),
            **({"group_by_length": True} if out.name.endswith("grouped") else {}),
        },
    }
    # A run of thousands of steps would compile; so few would not, unless told.
    config["training"].setdefault("torch_compile", torch.cuda.is_available())
    file = out.with_suffix(".yaml")
    file.write_text(yaml.safe_dump(config))
    return [*SWIFTALIGN, "train", str(file)]


def run(
    name: str,
    command: list[str],
    out: Path,
    *,
    environment: dict[str, str] | None = None,
    timeout: float = TIMEOUT,
    keep: bool = False,
) -> dict[str, Any]:
    """Train, and gather what the callback and the run folder hold.

    Args:
        environment: variables to set beside those of this process.
        timeout: seconds after which the run counts as failed.
        keep: whether the run folder stays.
    """
    times = out.with_suffix(".json")
    begin = time.time()
    process = subprocess.Popen(
        command,
        env=os.environ | {"STEP_TIMES": str(times)} | (environment or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,  # to end all of it after the time limit
    )
    memory = [0]
    threading.Thread(target=_watch_memory, args=(process.pid, memory), daemon=True).start()
    try:
        output, _ = process.communicate(timeout=timeout)
        failed = process.returncode or ("" if times.exists() else "no times")
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        failed = f"over {timeout:.0f} s"
    if failed:
        log = out / "train.log"
        tail = (log.read_text(errors="replace") if log.exists() else output)[-3000:]
        print(tail, flush=True)
        return {"run": name, "failed": "out of memory" if "out of memory" in tail else failed}
    values = json.loads(times.read_text())
    # The device was waited for at both ends of this span, and nowhere between them.
    timed = values["ends"][WARM_UP - 1 : -PROFILED]
    seconds_a_step = (timed[-1] - timed[0]) / (len(timed) - 1) if len(timed) > 1 else 0.0
    found = {
        "run": name,
        "seconds_a_step": round(seconds_a_step, 4),
        "began_after": round(values["began"] - begin, 1),
        "first_step_after": round(values["ends"][0] - begin, 1),
        "peak_gib": round(values["peak_bytes"] / 2**30, 2),
        "reserved_gib": round(values["reserved_bytes"] / 2**30, 2),
        "machine_gib": round(max(memory) / 2**30, 2),
        "shares_ms": values.get("shares_ms", {}),
        "idle_ms": values.get("idle_ms"),
        "compiled": values["compiled"],
        "kernels": values.get("kernels", []),
        "losses": [round(loss, 4) for loss in values["losses"]],
        "tokens_a_step": round(np.mean([a * b for a, b in values["shapes"][WARM_UP:] or values["shapes"]])),
        "workers": values["workers"],
    }
    speed = out / "speed.json"
    if speed.exists():
        choices = json.loads(speed.read_text())
        found["predicted"] = {
            "peak_gib": round((choices["peak"] or 0) / 2**30, 2),
            "seconds": round(choices["seconds"] or 0, 4),
        }
        found["choices"] = {
            k: choices.get(k)
            for k in ("batch", "gradient_checkpointing", "padding_free", "attention", "kernels", "frozen_fp8")
        }
    if not keep:
        shutil.rmtree(out, ignore_errors=True)
    return found


def _watch_memory(pid: int, found: list[int]) -> None:
    """Twice a second, note the bytes that a process and its children have of the machine, without files and sharing."""
    with contextlib.suppress(psutil.NoSuchProcess):
        parent = psutil.Process(pid)
        while parent.is_running():
            total = 0
            for process in (parent, *parent.children(recursive=True)):
                with contextlib.suppress(psutil.NoSuchProcess):
                    memory = process.memory_info()
                    total += memory.rss - memory.shared
            found.append(total)
            time.sleep(0.5)


def product_rate(products: int = 20) -> float:
    """Operations a second of large bf16 products, here and now; of many in a row, the card's power limits it."""
    side = 8192
    left, right = (torch.randn(side, side, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    for _ in range(3):
        left @ right
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    for _ in range(products):
        left @ right
    end.record()
    torch.cuda.synchronize()
    return products * 2 * side**3 / (begin.elapsed_time(end) / 1e3)


def floor(shape: str, sizes: list[tuple[int, int]], batch: int, tokens_a_step: float, rate: float) -> float:
    """Seconds of a step if all counted operations ran at the rate of a large product."""
    config = published(shape, None)
    family = family_of(config)
    assert family.sizes is not None
    trained = Trained({"aligner"}, 0, 0, 0, "modules_to_save")
    patch, token = family.patch**2, (family.patch * family.merge) ** 2  # pixels of each
    visual = sum(width * height for width, height in sizes) / token / len(sizes)
    text = tokens_a_step / batch - visual
    rows = [Row(round(w * h / token + text), (w * h // patch,), round(text * 0.8)) for w, h in sizes]
    work = count(family.sizes(config), trained, rows)
    return sum(vars(work).values()) / (len(rows) / batch) / rate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="8B", help="2B, 4B or 8B of Qwen3-VL, or a name such as Qwen3.5-9B")
    parser.add_argument("--data", nargs="+", default=["mixed"], choices=("equal", "mixed", "largest", "small"))
    parser.add_argument("--runs", nargs="+", default=["stock", "swiftalign", "fp8"])
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--batch", type=int, nargs="+", default=[4])
    parser.add_argument("--layers", type=int, help="of the LLM, to try the script itself on a CPU")
    parser.add_argument("--model", type=Path, help="folder of the model, which is made there unless it is there")
    parser.add_argument("--timeout", type=float, default=TIMEOUT, help="seconds after which a run counts as failed")
    options = parser.parse_args()
    if options.steps < WARM_UP + PROFILED + 2:
        parser.error(f"--steps: at least {WARM_UP + PROFILED + 2}")
    runs = PREDICTIONS if options.runs == ["predictions"] else options.runs
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rate = product_rate() if device == "cuda" else 1e11
    print(f"{torch.cuda.get_device_name() if device == 'cuda' else 'CPU'}, torch {torch.__version__}, "
          f"bf16 product {rate / 1e12:.0f} TFLOP/s", flush=True)  # fmt: skip
    if device == "cuda":
        print(f"the same for three seconds: {product_rate(2000) / 1e12:.0f} TFLOP/s", flush=True)
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        config = published(options.shape, options.layers)
        model = options.model or place / "model"
        if not model.exists():
            build_model(model, config, device)
        torch.cuda.empty_cache()
        for kind in options.data:
            for batch in options.batch:
                pixels = family_of(config).coordinates == "resized"
                sizes = build_data(place / f"{kind}-{batch}", kind, options.steps * batch, pixels=pixels)
                found = []
                for each in runs:
                    out = place / f"run-{kind}-{batch}-{each}"
                    where = (model, place / f"{kind}-{batch}" / "rows.jsonl", out, options.steps, batch)
                    command = stock_command(*where) if each == "stock" else own_command(*where, RUNS[each])
                    times = run(each, command, out, timeout=options.timeout)
                    result = {"shape": options.shape, "data": kind, "batch": batch, **times}
                    print(json.dumps(result), flush=True)
                    found.append(result)
                _table(found, options.shape, sizes, batch, rate)


def _table(found: list[dict[str, Any]], shape: str, sizes: list[tuple[int, int]], batch: int, rate: float) -> None:
    done = [each for each in found if "failed" not in each]
    real = min((each["tokens_a_step"] for each in done), default=0)
    least = floor(shape, sizes, batch, real, rate)
    stock = next((each["seconds_a_step"] for each in done if each["run"] == "stock"), None)
    print(f"\n{shape} {found[0]['data']} batch {batch}: floor {least:.3f} s per step")
    for each in done:
        ratio = f"{stock / each['seconds_a_step']:.2f}x" if stock else "-"
        predicted = each.get("predicted", {})
        seconds = each["seconds_a_step"]
        print(
            f"  {each['run']:20} {seconds:.3f} s  {batch / seconds:6.2f} samples/s  {ratio:>6}"
            f"  peak {each['peak_gib']:.1f} GiB (predicted {predicted.get('peak_gib', '-')})"
            f"  predicted {predicted.get('seconds', '-')} s  first step after {each['first_step_after']:.0f} s"
            f"  {each['shares_ms']}  idle {each['idle_ms']} ms"
            f"  compiled {each['compiled']}"
        )
    print(flush=True)


if __name__ == "__main__":
    main()
