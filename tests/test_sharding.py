"""A model that is divided among two processes trains, saves and resumes what one process does.

The processes have no GPU and talk through gloo, but torch's FSDP2 and DeepSpeed are real: a callback looks at the
weights, since a run that falls back to DDP would pass all other checks.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

from families import swap_experts
from swiftalign.checkpoint.choose import checkpoints_of
from swiftalign.cli import main
from swiftalign.demo.data import write_dataset
from swiftalign.demo.model import build_model
from swiftalign.worker.sharding import loading

ROWS = 15  # the last batch has 3 rows for two processes of 2

CONFIG = """
model: {path: MODEL, dtype: DTYPE}
data: {train: rows.jsonl, dataset_shuffle: false}
tuner: {target_regex: '^$', modules_to_save: [model.visual.merger, model.visual.deepstack_merger_list]}
training:
  aligner_lr: 1.0e-3
  num_train_epochs: 1
  gradient_accumulation_steps: 1
  per_device_train_batch_size: 2
  padding_free: true
  logging_steps: 1
  save_steps: 2
"""

# Writes how the weights lie in each process when training begins.
LOOKING = """
import json, os
from swift.callbacks import callbacks_map
from swift.callbacks.base import TrainerCallback
class Looking(TrainerCallback):
    def on_train_begin(self, args, state, control, **kwargs):
        kinds, dtypes = {}, set()
        for name, weight in kwargs["model"].named_parameters():
            divided = "DTensor" in type(weight.data).__name__ or getattr(weight, "ds_tensor", weight).numel() < getattr(
                weight, "ds_numel", 0
            )
            layer = "language_model.layers." in name
            kind = "trains" if weight.requires_grad else "layer" if layer else "rest"
            kinds.setdefault(kind, []).append(divided)
            dtypes |= {(kind != "trains", str(weight.dtype).removeprefix("torch."))}
        with open(os.path.join(args.output_dir, f"looked-{args.process_index}.json"), "w") as file:
            divided = {kind: [sum(each), len(each)] for kind, each in kinds.items()}
            json.dump({"divided": divided, "dtypes": sorted(dtypes)}, file)
callbacks_map["looking"] = Looking
"""

LINEAR = r"model\.visual\.(merger|deepstack_merger_list\.\d+)\.linear_fc[12]"
LORA = (f"tuner.target_regex={LINEAR}", "tuner.modules_to_save=[]", "tuner.lora_dropout=0")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, demo: Path) -> Path:
    folder = tmp_path_factory.mktemp("sharding")
    write_dataset(folder / "pictures.jsonl", rows=ROWS - 3, seed=6)
    rows = (folder / "pictures.jsonl").read_text().splitlines()
    for number in range(3):  # of text alone: in the second step, one process has nothing else
        messages = [("user", f"Say {number}."), ("assistant", f"That is {number}.")]
        row = {"messages": [{"role": role, "content": content} for role, content in messages]}
        rows.insert(5 + 2 * number, json.dumps(row))
    (folder / "rows.jsonl").write_text("".join(f"{row}\n" for row in rows))
    (folder / "looking.py").write_text(LOOKING)
    for dtype in ("float32", "bfloat16"):
        text = CONFIG.replace("MODEL", str(demo / "model")).replace("DTYPE", dtype)
        (folder / f"{dtype}.yaml").write_text(text)
    return folder


def train(folder: Path, name: str, *sets: str, dtype: str = "float32", nproc: int = 2, resume: bool = False) -> Path:
    run = folder / name
    looking = (f"swift.external_plugins=[{folder / 'looking.py'}]", "training.callbacks=[looking]")
    words = [word for item in (f"training.output_dir={run}", *looking, *sets) for word in ("--set", item)]
    options = (["--nproc", str(nproc)] if nproc > 1 else []) + (["--resume"] if resume else [])
    assert main(["train", str(folder / f"{dtype}.yaml"), *words, *options, "--allow", "aligner-incomplete"]) == 0
    return run


def losses(run: Path) -> list[float]:
    state = json.loads((checkpoints_of(run)[-1] / "trainer_state.json").read_text())
    return [entry["loss"] for entry in state["log_history"] if "loss" in entry]


def weights(run: Path) -> dict[str, Any]:
    checkpoint = checkpoints_of(run)[-1]
    adapter = checkpoint / "adapter_model.safetensors"
    return load_file(adapter if adapter.is_file() else checkpoint / "model.safetensors")


def apart(run: Path, other: Path) -> tuple[float, float]:
    """The largest difference between the losses of two runs, and between their weights."""
    ours, theirs = weights(run), weights(other)
    assert ours.keys() == theirs.keys()
    assert {name: value.dtype for name, value in ours.items()} == {name: value.dtype for name, value in theirs.items()}
    return (
        max(abs(a - b) for a, b in zip(losses(run), losses(other), strict=True)),
        max(float((ours[name].float() - theirs[name].float()).abs().max()) for name in ours),
    )


@pytest.fixture(scope="module")
def single(folder: Path) -> Path:
    """One process, with the rows per step of two."""
    return train(folder, "single", "training.per_device_train_batch_size=4", nproc=1)


def looked(run: Path) -> list[dict[str, Any]]:
    return [json.loads((run / f"looked-{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "way",
    [
        "fsdp2",
        "zero2",
        "zero3",
        *(pytest.param(f"{way}_offload", marks=pytest.mark.long) for way in ("fsdp2", "zero2", "zero3")),
        pytest.param("zero1", marks=pytest.mark.long),
    ],
)
def test_divided_it_trains_what_one_process_does(way: str, folder: Path, single: Path, demo: Path) -> None:
    run = train(folder, way, f"training.sharding={way}")
    for found in looked(run):
        share = {kind: divided / all_of_it for kind, (divided, all_of_it) in found["divided"].items()}
        if way.startswith("fsdp2"):
            assert share == {"layer": 1, "rest": 0, "trains": 0}
        elif way.startswith("zero3"):
            assert min(share.values()) > 0.5  # the smallest parameters stay whole
        else:
            assert max(share.values()) == 0
    loss, weight = apart(run, single)
    assert loss < 1e-4
    assert weight < 1e-4
    assert main(["verify-ckpt", str(run), "--deep", "--base", str(demo / "model")]) == 0


@pytest.mark.slow
def test_experts_are_mapped_as_published_and_divided(folder: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    build_model(model, moe=True)
    swap_experts(model)
    sets = (f"model.path={model}", "training.max_steps=2")
    one = train(folder, "experts-one", "training.per_device_train_batch_size=4", *sets, nproc=1)
    two = train(folder, "experts-two", "training.sharding=fsdp2", *sets)
    assert max(apart(one, two)) < 1e-4
    assert main(["verify-ckpt", str(two), "--deep", "--base", str(model)]) == 0


def test_loading_maps_what_it_would_copy(tmp_path: Path) -> None:
    build_model(tmp_path, moe=True)
    file = tmp_path / "model.safetensors"
    values = load_file(file)
    swap_experts(tmp_path)
    with loading("fsdp2"):
        model = AutoModelForImageTextToText.from_pretrained(tmp_path)
    mapped = {Path(line.split()[-1]) for line in Path("/proc/self/maps").read_text().splitlines() if "/" in line}
    assert file in mapped
    for name, weight in model.named_parameters():
        assert weight.is_contiguous() == (".experts." not in name)
        assert torch.equal(weight, values[name])


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("way", ["ddp", "fsdp2", "zero2", "zero3"])
def test_stopped_and_resumed_it_ends_with_the_same_weights(way: str, folder: Path) -> None:
    whole = train(folder, f"{way}-whole", f"training.sharding={way}")
    run = folder / f"{way}-resumed"
    shutil.copytree(whole, run)
    for path in checkpoints_of(run)[1:]:
        shutil.rmtree(path)
    events = [line for line in (run / "events.jsonl").read_text().splitlines() if '"done"' not in line]
    (run / "events.jsonl").write_text("".join(f"{line}\n" for line in events))
    train(folder, run.name, f"training.sharding={way}", resume=True)
    assert apart(run, whole)[1] <= (1e-4 if way.startswith("zero") else 0)


SLOW_RATE = "training.aligner_lr=2.0e-4"  # in bfloat16, runs drift apart by their roundings, faster at higher rates
FEATURES = {
    "bfloat16": (SLOW_RATE,),
    "lora": LORA,
    "padded": ("training.padding_free=false", "training.gradient_checkpointing=true", "data.train.0.limit=4"),
    "full": (SLOW_RATE, "tuner.train_type=full", "tuner.target_regex=null", "tuner.modules_to_save=[]"),
    "best": (
        "data.val=pictures.jsonl",
        "training.eval_strategy=steps",
        "training.eval_steps=2",
        "training.load_best_model_at_end=true",
        "custom.grounding_eval.rows=4",
    ),
    "phases": (
        "phases=[{name: one, training: {max_steps: 2}}, {name: two, training: {max_steps: 2, aligner_lr: 1.0e-4}}]",
    ),
}


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("way", ["ddp", "fsdp2", "zero2", "zero3"])
@pytest.mark.parametrize("feature", FEATURES)
def test_what_a_run_can_do_it_can_do_divided(feature: str, way: str, folder: Path, demo: Path) -> None:
    sets = [each.replace("pictures.jsonl", str(folder / "pictures.jsonl")) for each in FEATURES[feature]]
    if feature == "padded":  # a batch of text alone can't train without padding_free
        sets[-1] = f"data.train={folder / 'pictures.jsonl'}"
    name, dtype = f"{feature}-single", "bfloat16" if SLOW_RATE in sets else "float32"
    if not (folder / name).exists():
        train(folder, name, "training.per_device_train_batch_size=4", *sets, dtype=dtype, nproc=1)
    run = train(folder, f"{feature}-{way}", f"training.sharding={way}", *sets, dtype=dtype)
    last = "phase-2" if feature == "phases" else ""
    for found in looked(run / last):
        assert found["dtypes"] == [[False, "float32"], [True, dtype]]  # what trains, and what is frozen
    assert apart(run / last, folder / name / last)[0] < (5e-3 if dtype == "bfloat16" else 1e-4)
    assert main(["verify-ckpt", str(run), "--deep", "--base", str(demo / "model")]) == 0


@pytest.mark.slow
@pytest.mark.long
def test_adalora_prunes_the_same_ranks_beside_divided_layers(folder: Path) -> None:
    sets = ("tuner.train_type=adalora", *LORA, "tuner.adalora_tinit=1", "tuner.adalora_tfinal=1")
    ways = [train(folder, f"adalora-{way}", f"training.sharding={way}", *sets) for way in ("ddp", "fsdp2")]
    assert apart(*ways) == (0, 0)
