"""Training the aligner of a random Qwen3-VL of any size on several GPUs of one machine, by each way of spreading it:
swiftalign, and stock ``swift sft``.

    python benchmarks/several_gpus.py --shape 8B --ways one,ddp,fsdp2,zero2 --stock one,ddp,zero2,fsdp2
    python benchmarks/several_gpus.py --shape 32B --ways fsdp2,fsdp2_offload,zero3 --stock fsdp2
    python benchmarks/several_gpus.py --shape 235B-A22B --ways fsdp2 --layers 12,36
    python benchmarks/several_gpus.py --shape 30B-A3B --ways ddp,fsdp2 --lives fsdp2

All train the same rows, by default of images of 1024x768. The model's large files are holes: they take no disk, and
the frozen weights get random values on the GPUs. Prints one JSON object a run, and a table in Markdown at the end. With
two numbers of layers, it also says what a layer takes, and what the whole model would on 4, 8 and 16 GPUs.

--lives trains once more, stops with SIGTERM, resumes, compares the checkpoint with that of the run without a stop,
checks it with verify-ckpt and exports the adapter.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from common import SWIFTALIGN
from random_weights import __file__ as random_weights
from step_times import PROFILED, WARM_UP
from swiftalign.config.sharding import WAYS, divides_weights
from swiftalign.model.families import find
from train_gpu import build_data, build_processor, own_command, published, run, stock_command
from two_b import write_shards

STOCK: dict[str, dict[str, Any]] = {
    "one": {},
    "ddp": {},
    "zero2": {"deepspeed": "zero2"},
    "zero3": {"deepspeed": "zero3"},
    "fsdp2": {"fsdp": "fsdp2"},
}
KERNELS: dict[str, dict[str, Any]] = {
    "compiled": {"torch_compile": True},
    "liger": {"torch_compile": False, "use_liger_kernel": True},
    "plain": {"torch_compile": False, "use_liger_kernel": False},
}
NOT_COMPILED = ("zero3", "zero3_offload", "device_map")
GIB = 2**30


def write_model(folder: Path, config: dict[str, Any]) -> int:
    """A model folder whose large weights are holes; returns the bytes of one layer of the LLM."""
    build_processor(folder, config)
    family = find(config["model_type"])
    model = family and family.build(config)
    assert model is not None
    # A published file may hold the matrices of experts with swapped axes, which loading swaps back.
    tensors = [
        replace(each, shape=(each.shape[0], each.shape[2], each.shape[1]))
        if family.transposed and family.transposed.search(each.name) and len(each.shape) == 3
        else each
        for each in model.parameters()
    ]
    write_shards(folder, tensors, holes=True)
    return sum(tensor.nbytes for tensor in tensors if ".language_model.layers.0." in tensor.name)


def names(text: str) -> list[str]:
    return text.split(",")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="8B", help="2B, 4B, 8B, 32B, 30B-A3B or 235B-A22B")
    parser.add_argument("--ways", type=names, default=["one", "ddp"], help=f"one, {', '.join(WAYS)}")
    parser.add_argument("--stock", type=names, default=[], help=f"ways of ms-swift's own command: {', '.join(STOCK)}")
    parser.add_argument("--layers", type=names, default=["0"], help="numbers of layers of the LLM; 0 for all")
    parser.add_argument("--processes", type=int, default=torch.cuda.device_count() or 2)
    parser.add_argument("--batch", type=int, default=4, help="rows per process")
    parser.add_argument("--lives", type=names, default=[], help="ways of --ways that are also stopped and resumed")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--data", choices=("equal", "mixed", "largest", "small"), default="equal", help="the images")
    parser.add_argument("--kernels", choices=KERNELS, default="compiled", help="where the way allows it")
    parser.add_argument("--timeout", type=int, default=300, help="seconds of a run")
    parser.add_argument("--place", type=Path, help="folder for the files; a temporary one by default")
    options = parser.parse_args()
    if options.steps < WARM_UP + PROFILED + 2:
        parser.error(f"--steps: at least {WARM_UP + PROFILED + 2}")
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(dir=options.place) as place:
        rows = Path(place) / "data"
        build_data(rows, options.data, options.steps * options.batch * options.processes)
        for layers in map(int, options.layers):
            config = published(options.shape, layers)
            model = Path(place) / f"model-{layers}"
            layer_bytes = write_model(model, config)
            layers = config["text_config"]["num_hidden_layers"]
            runs = [(way, False) for way in options.ways] + [(way, True) for way in options.stock]
            for way, stock in runs:
                result = train(way, stock, model, rows / "rows.jsonl", options)
                result = {"shape": options.shape, "layers": layers, "layer_bytes": layer_bytes, **result}
                print(json.dumps(result), flush=True)
                if way in options.lives and not stock and "failed" not in result:
                    print(json.dumps(live(way, model, rows / "rows.jsonl", options)), flush=True)
                shutil.rmtree(run_folder(model, way, stock=stock), ignore_errors=True)
                found.append(result)
    print_table(found)
    print_layers(found, published(options.shape, None)["text_config"]["num_hidden_layers"])


def run_folder(model: Path, way: str, *, stock: bool = False) -> Path:
    return model.parent / f"run-{model.name}-{'stock-' if stock else ''}{way}"


def processes_of(way: str, options: argparse.Namespace) -> int:
    return 1 if way in ("one", "device_map") else int(options.processes)


def train(way: str, stock: bool, model: Path, rows: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Train by one way, and give its name, number of processes, times and memory. The run folder stays."""
    processes = processes_of(way, options)
    out = run_folder(model, way, stock=stock)
    environment = {"CUDA_VISIBLE_DEVICES": "0"} if way == "one" else {}
    if stock:
        gloo = {} if torch.cuda.is_available() or processes == 1 else {"ddp_backend": "gloo"}
        settings = {**STOCK[way], **gloo}
        command = stock_command(model, rows, out, options.steps, options.batch, settings, [random_weights])
        environment["NPROC_PER_NODE"] = str(processes)
    else:
        command = spread_command(way, model, rows, out, options)
    name = f"stock {way}" if stock else way
    result = run(name, command, out, environment=environment, timeout=options.timeout, keep=True)
    return {**result, "processes": processes, "batch": options.batch}


def spread_command(way: str, model: Path, rows: Path, out: Path, options: argparse.Namespace) -> list[str]:
    """The command of swiftalign that trains by one way."""
    settings = KERNELS["plain" if way in NOT_COMPILED and options.kernels == "compiled" else options.kernels]
    settings = settings | ({} if way == "one" else {"sharding": way})
    if way in options.lives:
        settings |= {"save_strategy": "steps", "save_steps": options.steps}
    command = own_command(model, rows, out, options.steps, options.batch, settings, [random_weights])
    processes = processes_of(way, options)
    return command if processes == 1 else [*command, "--nproc", str(processes)]


def live(way: str, model: Path, rows: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Stop a run of the way with SIGTERM, resume it, and give the seconds and exit codes of all commands.

    ``same`` says whether the checkpoint at the end holds the bytes of that of the run without a stop.
    """
    whole = run_folder(model, way)
    out = whole.with_name(f"{whole.name}-stopped")
    command = spread_command(way, model, rows, out, options)
    found: dict[str, Any] = {"lives": way}

    def timed(name: str, command: list[str], *, stop: bool = False) -> None:
        begin, log = time.monotonic(), out.with_suffix(f".{name}.log")
        environment = os.environ | {"STEP_TIMES": str(out.with_suffix(".json"))}
        environment |= {"CUDA_VISIBLE_DEVICES": "0"} if way == "one" else {}
        with log.open("w") as file:
            process = subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT)
        while process.poll() is None:
            if time.monotonic() - begin > options.timeout:
                process.kill()
            elif stop and (out / "logging.jsonl").exists():
                process.terminate()
                stop = False
            time.sleep(0.2)
        found[name] = {"seconds": round(time.monotonic() - begin, 1), "exit_code": process.returncode}
        if process.returncode not in (0, 143):
            print(log.read_text(errors="replace")[-2000:], flush=True)

    timed("stopped", command, stop=True)
    found["stopped_at"] = [path.name for path in out.glob("checkpoint-*")]
    timed("resumed", [*command, "--resume"])
    timed("verified", [*SWIFTALIGN, "verify-ckpt", str(out), "--json"])
    timed("exported", [*SWIFTALIGN, "export", str(out), "--adapter-only", "-o", f"{out}-export"])
    ends = [folder / f"checkpoint-{options.steps}" / "adapter_model.safetensors" for folder in (whole, out)]
    found["same"] = all(path.exists() for path in ends) and ends[0].read_bytes() == ends[1].read_bytes()
    found["exported"]["files"] = sorted(path.name for path in Path(f"{out}-export").glob("*"))
    shutil.rmtree(out, ignore_errors=True)
    return found


def print_table(found: list[dict[str, Any]]) -> None:
    """All runs in Markdown."""
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    print(f"\n{card}, torch {torch.__version__}, {found[0]['batch']} rows per process\n")
    print("| model | way | processes | s a step | samples/s | against one | GiB at most | predicted |")
    print("|---|---|---|---|---|---|---|---|")
    one = {each["layers"]: each["seconds_a_step"] for each in found if each["run"] == "one" and "failed" not in each}
    for each in found:
        model = f"{each['shape']}, {each['layers']} layers"
        if "failed" in each:
            print(f"| {model} | {each['run']} | {each['processes']} | {each['failed']} | | | | |")
            continue
        seconds, processes = each["seconds_a_step"] or float("nan"), each["processes"]
        base = one.get(each["layers"])
        gain = f"{base / seconds * processes:.2f}x" if base else ""
        expected = each.get("predicted")
        predicted = f"{expected['seconds']:.3f} s, {expected['peak_gib']:.1f} GiB" if expected else ""
        print(f"| {model} | {each['run']} | {processes} | {seconds:.3f} | {processes * each['batch'] / seconds:.1f} "
              f"| {gain} | {each['peak_gib']:.1f} | {predicted} |")  # fmt: skip


def print_layers(found: list[dict[str, Any]], layers: int) -> None:
    """What one more layer takes by each way that divides the weights, and from it the whole model on more GPUs."""
    for way in dict.fromkeys(each["run"] for each in found if divides_weights(each["run"].removeprefix("stock "))):
        runs = [each for each in found if each["run"] == way and "failed" not in each]
        few, many = runs[:1], runs[-1:]
        if len(runs) < 2 or few[0]["layers"] == many[0]["layers"]:
            continue
        first, last = few[0], many[0]
        more = last["layers"] - first["layers"]
        seconds = (last["seconds_a_step"] - first["seconds_a_step"]) / more
        memory = (last["peak_gib"] - first["peak_gib"]) / more
        share = first["layer_bytes"] / GIB / first["processes"]
        print(f"\n{way}: a layer takes {seconds * 1000:.2f} ms, and {memory:.3f} GiB with {share:.3f} GiB of weights")
        whole = last["seconds_a_step"] + seconds * (layers - last["layers"])
        for cards in (4, 8, 16):
            kept = last["peak_gib"] + (layers - last["layers"]) * memory
            kept += layers * (first["layer_bytes"] / GIB / cards - share)
            print(f"  all {layers} layers on {cards} GPUs: about {kept:.0f} GiB each; {whole:.2f} s a step if the "
                  "weights travel as fast between them")  # fmt: skip


if __name__ == "__main__":
    main()
