"""Sound checkpoints of every kind, without training: what peft and transformers save of a tiny model that moved."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import peft
import torch
from transformers import AutoModelForImageTextToText

from corruptions.foreign import ALIGNER, FOREIGN, build_foreign
from swiftalign.checkpoint.values import INITIAL_FILE
from swiftalign.config.load import load_config
from swiftalign.demo.model import build_model
from swiftalign.plan.plan import TuningPlan
from swiftalign.plan.read import read_model
from swiftalign.plan.resolve import resolve
from swiftalign.runs.folder import write_run_files
from swiftalign.yaml12 import dump_yaml

STEP = 30
MERGERS = ["model.visual.merger", "model.visual.deepstack_merger_list"]
ATTENTION = r"model\.language_model\.layers\.\d+\.self_attn\.[qkvo]_proj"
WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "*.bin")

BASES: dict[str, dict[str, Any]] = {
    "dense": {},
    "bf16": {"dtype": "bfloat16"},
    "fp16": {"dtype": "float16"},
    "tied": {"tied": True, "dtype": "bfloat16"},
    "moe": {"moe": True},
    "other": {"seed": 7},
}


@dataclass(frozen=True)
class Run:
    """A run to build: its tuner settings, its base, and whether peft's adapter or a whole model is saved."""

    base: str = "dense"
    tuner: dict[str, Any] = field(default_factory=dict)


def _whole(**settings: Any) -> dict[str, Any]:
    return {"target_regex": "^$", "modules_to_save": MERGERS, **settings}


RUNS: dict[str, Run] = {
    "saved": Run(tuner=_whole()),
    "saved-bf16": Run("bf16", _whole()),
    "saved-bf16-as-base": Run("bf16", _whole(trainable_dtype="base")),
    "saved-fp16": Run("fp16", _whole()),
    "saved-tied": Run("tied", _whole()),
    "lora": Run(tuner={"target_regex": ALIGNER}),
    "lora-bf16": Run("bf16", {"target_regex": ALIGNER, "use_rslora": True}),
    "lora-suffixes": Run(tuner={"target_modules": ["q_proj", "merger.linear_fc1"]}),
    "lora-embeddings": Run(tuner={"target_regex": r".*embed_tokens|lm_head"}),
    "lora-moe": Run("moe", {"target_regex": ALIGNER}),
    "mixed": Run("bf16", {"target_regex": ATTENTION, "modules_to_save": MERGERS}),
    "dora": Run(tuner={"target_regex": ALIGNER, "use_dora": True}),
    "adalora": Run(tuner={"train_type": "adalora", "target_regex": ALIGNER}),
    "boft": Run(tuner={"train_type": "boft", "target_regex": ALIGNER}),
    "fourierft": Run(tuner={"train_type": "fourierft", "target_regex": ALIGNER, "fourier_n_frequency": 100}),
    "full": Run(tuner={"train_type": "full"}),
    "full-bf16": Run("bf16", {"train_type": "full"}),
}


def build_bases(root: Path) -> None:
    """One folder for each of `BASES`."""
    for name, options in BASES.items():
        build_model(root / name, **options)


def build_run(name: str, base: Path, folder: Path) -> Path:
    """Write a run folder with its checkpoint-30; returns the checkpoint."""
    run = RUNS[name]
    folder.mkdir(parents=True)
    text = dump_yaml({"model": str(base), "tuner": run.tuner, "training": {"max_steps": STEP}})
    (folder / "config.yaml").write_text(text, encoding="utf-8")
    config = load_config([folder / "config.yaml"])
    plan = resolve(config, read_model(config))
    write_run_files(folder, config, plan)
    model = AutoModelForImageTextToText.from_pretrained(base, dtype=getattr(torch, plan.dtype))
    if plan.train_type != "full":
        model = peft.get_peft_model(model, _peft_config(config.tuner.settings, plan))
    trained = dict(_trained(model, plan))
    (folder / "base.json").write_text(json.dumps(str(base)))
    (folder / INITIAL_FILE).write_text(json.dumps(_digests(trained, plan)), encoding="utf-8")
    _move(trained, folder / f"checkpoint-{STEP}")
    if plan.train_type == "adalora":
        _prune(model)
    _save(model, base, folder / f"checkpoint-{STEP}")
    return folder / f"checkpoint-{STEP}"


def _peft_config(settings: Any, plan: TuningPlan) -> peft.PeftConfig:
    targets: dict[str, Any] = {"target_modules": plan.adapted_pattern, "modules_to_save": list(plan.saved) or None}
    if plan.train_type == "adalora":
        ranks = {"init_r": settings.adalora_init_r, "target_r": settings.adalora_target_r}
        return peft.AdaLoraConfig(total_step=STEP, lora_alpha=32, **ranks, **targets)
    if plan.train_type == "boft":
        return peft.BOFTConfig(boft_block_size=settings.boft_block_size, **targets)
    if plan.train_type == "fourierft":
        return peft.FourierFTConfig(n_frequency=settings.fourier_n_frequency, **targets)
    return peft.LoraConfig(r=settings.lora_rank, use_dora=settings.use_dora, use_rslora=settings.use_rslora, **targets)


def _trained(model: Any, plan: TuningPlan) -> Iterator[tuple[str, Any]]:
    """The plan's parameters, in the plan's dtypes, as the worker casts them."""
    dtypes = {item.parameter: item.dtype for item in plan.trainables}
    assert dtypes
    for name, weight in model.named_parameters():
        weight.requires_grad_(name in dtypes)
        if name in dtypes:
            weight.data = weight.data.to(getattr(torch, dtypes[name]))
            yield name, weight


def _digests(trained: dict[str, Any], plan: TuningPlan) -> dict[str, str]:
    keys = {item.parameter: item.key for item in plan.trainables}
    raw = {keys[name]: weight.detach().contiguous().view(torch.uint8).numpy() for name, weight in trained.items()}
    return {key: hashlib.sha256(data).hexdigest() for key, data in raw.items()}


def _move(trained: dict[str, Any], checkpoint: Path) -> None:
    """One step of AdamW on random gradients moves everything; its state is kept as the Trainer keeps it."""
    torch.manual_seed(0)
    optimizer = torch.optim.AdamW(trained.values(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
    for weight in trained.values():
        weight.grad = torch.randn_like(weight)
    optimizer.step()
    checkpoint.mkdir()
    torch.save(optimizer.state_dict(), checkpoint / "optimizer.pt")
    torch.save(scheduler.state_dict(), checkpoint / "scheduler.pt")
    state = {"global_step": STEP, "max_steps": STEP, "log_history": []}
    (checkpoint / "trainer_state.json").write_text(json.dumps(state), encoding="utf-8")


def _prune(model: Any) -> None:
    """Another rank for each layer, as AdaLoRA's allocator leaves them."""
    names = [name for name, _ in model.base_model.model.named_parameters() if ".lora_E." in name]
    pattern = {}
    for number, name in enumerate(names):
        rank = dict(model.base_model.model.named_parameters())[name].shape[0]
        pattern[name] = [place <= number % rank for place in range(rank)]
    model.peft_config["default"].rank_pattern = pattern


def _save(model: Any, base: Path, folder: Path) -> None:
    model.save_pretrained(folder)
    if not (folder / "adapter_config.json").exists():
        copy_beside(base, folder)


def copy_beside(base: Path, folder: Path) -> None:
    """Everything of a model folder but its weights and its config."""
    ignored = shutil.ignore_patterns(*WEIGHTS, "config.json")
    shutil.copytree(base, folder, ignore=ignored, dirs_exist_ok=True)


def merge(checkpoint: Path, base: Path, folder: Path, **options: Any) -> Path:
    """The checkpoint merged by peft into a model folder."""
    model = AutoModelForImageTextToText.from_pretrained(base, dtype="auto")
    merged = peft.PeftModel.from_pretrained(model, checkpoint).merge_and_unload()
    merged.save_pretrained(folder, **options)
    copy_beside(base, folder)
    return folder


Copies = Callable[[str], Path]


@dataclass(frozen=True)
class Derived:
    """A sound folder or file made from a run's copy.

    Attributes:
        run: key of `RUNS`.
        make: gets the folder of a copied run and the folder of its base; returns what to check.
        base: whether it is also to be compared with the base by --base.
    """

    run: str
    make: Callable[[Path, Path], Path]


def _alone(run: Path, base: Path) -> Path:
    """The checkpoint without its run; adapter_config.json names the base."""
    return Path(shutil.move(run / f"checkpoint-{STEP}", run.with_name(f"{run.name}-alone")))


def _with_unreadable_base(run: Path, base: Path) -> Path:
    folder = _alone(run, base)
    path = folder / "adapter_config.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps({**values, "base_model_name_or_path": "some/where"}))
    return folder


def _with_moved_base(run: Path, base: Path) -> Path:
    """The config names another folder of the base's name, which is gone."""
    folder = _alone(run, base)
    path = folder / "adapter_config.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps({**values, "base_model_name_or_path": f"/gone/{base.name}"}))
    return folder


def _merged(run: Path, base: Path) -> Path:
    shutil.move(run / "base.json", run.parent)
    return merge(run / f"checkpoint-{STEP}", base, run.with_name(f"{run.name}-merged"))


def _merged_in_run(run: Path, base: Path) -> Path:
    return merge(run / f"checkpoint-{STEP}", base, run / "merged")


def _merged_in_shards(run: Path, base: Path) -> Path:
    folder = run.with_name(f"{run.name}-shards")
    return merge(run / f"checkpoint-{STEP}", base, folder, max_shard_size="300KB")


def _sharded_moe_in_hub_layout(run: Path, base: Path) -> Path:
    """The published MoE models store expert matrices [experts, in, out]."""
    from safetensors.torch import load_file, save_file

    folder = _merged(run, base)
    tensors = load_file(folder / "model.safetensors")
    for name, tensor in tensors.items():
        if ".mlp.experts." in name:
            shape = (4, 64, 96) if name.endswith("gate_up_proj") else (4, 48, 64)
            tensors[name] = tensor.reshape(shape).contiguous()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def _tied_with_stored_head(run: Path, base: Path) -> Path:
    """Some tools store the shared matrix under both names."""
    from safetensors.torch import load_file, save_file

    folder = _merged(run, base)
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.language_model.embed_tokens.weight"].clone()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def _lone_file(run: Path, base: Path) -> Path:
    return Path(
        shutil.move(run / f"checkpoint-{STEP}/adapter_model.safetensors", run.with_name(f"{run.name}.safetensors"))
    )


def _as_pickle(run: Path, base: Path) -> Path:
    from safetensors.torch import load_file

    folder = run / f"checkpoint-{STEP}"
    torch.save(load_file(folder / "adapter_model.safetensors"), folder / "adapter_model.bin")
    (folder / "adapter_model.safetensors").unlink()
    return folder


def _lone_pickle(run: Path, base: Path) -> Path:
    return _as_pickle(run, base) / "adapter_model.bin"


def _lone_old_pickle(run: Path, base: Path) -> Path:
    """The format of torch before 1.6."""
    path = _lone_pickle(run, base)
    torch.save(torch.load(path), path, _use_new_zipfile_serialization=False)
    return path


def _several(run: Path, base: Path) -> Path:
    """A run folder: its newest checkpoint counts, by number and not by name."""
    for step in (9, 10):
        shutil.copytree(run / f"checkpoint-{STEP}", run / f"checkpoint-{step}")
        path = run / f"checkpoint-{step}/trainer_state.json"
        path.write_text(json.dumps({"global_step": step}))
    return run


def _cached(run: Path, base: Path) -> Path:
    """As the hub's cache lays files out: links to blobs beside the snapshots."""
    merged = _merged_in_shards(run, base)
    cache = run.with_name(f"{run.name}-cache")
    snapshot = cache / "snapshots/0123abc"
    snapshot.mkdir(parents=True)
    (cache / "blobs").mkdir()
    for file in sorted(merged.iterdir()):
        digest = hashlib.sha256(file.name.encode()).hexdigest()
        shutil.move(file, cache / "blobs" / digest)
        (snapshot / file.name).symlink_to(f"../../blobs/{digest}")
    return snapshot


def _with_links(make: Callable[[Path, Path], Path], place: str) -> Callable[[Path, Path], Path]:
    """Every file moved to another place, with a link in its stead, as users and DVC lay files out."""

    def made(run: Path, base: Path) -> Path:
        folder = make(run, base)
        stored = run.parent / place
        stored.mkdir(parents=True)
        for file in [file for file in folder.iterdir() if file.is_file()]:
            shutil.move(file, stored / file.name)
            file.symlink_to(os.path.relpath(stored / file.name, folder))
        return folder

    return made


def _linked_folder(run: Path, base: Path) -> Path:
    """A link to a checkpoint, far from its run."""
    link = run.parent / "links/best"
    link.parent.mkdir()
    link.symlink_to(f"../run/checkpoint-{STEP}")
    return link


def _with_modules_beside(run: Path, base: Path) -> Path:
    """LoRA in peft's file, and the modules that train whole in a pickle beside it, as trainers made from LLaVA's do."""
    from safetensors.torch import load_file, save_file

    folder = _alone(run, base)
    tensors = load_file(folder / "adapter_model.safetensors")
    whole = {name: tensors.pop(name) for name in list(tensors) if ".lora_" not in name}
    save_file(tensors, folder / "adapter_model.safetensors")
    torch.save(whole, folder / "non_lora_state_dict.bin")
    values = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**values, "modules_to_save": None}))
    return folder


DERIVED: dict[str, Derived] = {
    "alone": Derived("lora", _alone),
    "alone-saved": Derived("saved", _alone),
    "alone-adalora": Derived("adalora", _alone),
    "alone-without-base": Derived("dora", _with_unreadable_base),
    "alone-in-part-without-base": Derived("lora-suffixes", _with_unreadable_base),
    "alone-base-moved": Derived("saved", _with_moved_base),
    "alone-embeddings": Derived("lora-embeddings", _alone),
    "merged": Derived("saved", _merged),
    "merged-bf16": Derived("mixed", _merged),
    "merged-fp16": Derived("saved-fp16", _merged),
    "merged-in-run": Derived("dora", _merged_in_run),
    "merged-in-shards": Derived("lora", _merged_in_shards),
    "merged-tied": Derived("saved-tied", _merged),
    "merged-tied-with-head": Derived("saved-tied", _tied_with_stored_head),
    "merged-moe": Derived("lora-moe", _merged),
    "merged-moe-hub-layout": Derived("lora-moe", _sharded_moe_in_hub_layout),
    "lone-file": Derived("saved", _lone_file),
    "pickle": Derived("saved", _as_pickle),
    "lone-pickle": Derived("lora", _lone_pickle),
    "lone-old-pickle": Derived("lora", _lone_old_pickle),
    "run-folder": Derived("boft", _several),
    "hub-cache": Derived("saved-bf16", _cached),
    "links": Derived("lora", _with_links(lambda run, base: run / f"checkpoint-{STEP}", "another/disk")),
    "links-of-shards": Derived("lora", _with_links(_merged_in_shards, ".dvc/cache/files/md5/0a")),
    "links-of-a-pickle": Derived("saved", _with_links(_as_pickle, ".git/annex/objects/f8/7x")),
    "linked-folder": Derived("saved", _linked_folder),
    "modules-beside": Derived("mixed", _with_modules_beside),
}


@dataclass(frozen=True)
class Sound:
    """A sound checkpoint: ``path`` is what to check; copying ``root`` copies all of it."""

    root: Path
    path: Path
    base: Path

    def copy(self, folder: Path) -> Path:
        """Copy it into a new folder; returns what to check there."""
        shutil.copytree(self.root, folder, symlinks=True)
        return folder / self.path.relative_to(self.root)


def build_all(root: Path) -> dict[str, Sound]:
    """Every sound checkpoint by name, under ``root``; the bases lie in ``root/bases``."""
    bases = root / "bases"
    build_bases(bases)
    found = {}
    for name, run in RUNS.items():
        checkpoint = build_run(name, bases / run.base, root / name / "run")
        found[name] = Sound(root / name, checkpoint, bases / run.base)
    for name, foreign in FOREIGN.items():
        adapter = build_foreign(foreign, bases / foreign.base, root / name / "adapter")
        found[name] = Sound(root / name, adapter, bases / foreign.base)
    for name, derived in DERIVED.items():
        source = found[derived.run]
        run = source.copy(root / name).parent
        found[name] = Sound(root / name, derived.make(run, source.base), source.base)
    return found
