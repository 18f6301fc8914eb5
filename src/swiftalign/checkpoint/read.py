"""What the files of a checkpoint say, each read once: its tensors, its adapter_config.json, and the plan of its run."""

from __future__ import annotations

import json
import os
import re
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from swiftalign.checkpoint.adapter_config import AdapterConfig, checked_adapter_config
from swiftalign.checkpoint.choose import Chosen, choose
from swiftalign.checkpoint.shards import in_checkpoint
from swiftalign.checkpoint.weights import Weights, read_weights
from swiftalign.files import not_fetched
from swiftalign.methods import chosen, train_types
from swiftalign.methods.keys import PeftKey
from swiftalign.model.hub import local_folder
from swiftalign.model.safetensors import ITEM_SIZES, MAX_JSON_BYTES, StoredTensor, read_json
from swiftalign.model.stored import stored_tensors
from swiftalign.plan.plan import TuningPlan, read_plan
from swiftalign.problems import ModelError, Problem, size_text

START_FILE = ".start"  # of a run folder: where training begins, and where the folder was then


@dataclass(frozen=True)
class Checkpoint:
    """What the files of a checkpoint say.

    Attributes:
        path: its folder, or a lone weight file.
        chosen: why it was taken, of the checkpoints of its run.
        folder: the folder that holds its files.
        weights: its tensors, and what is wrong with the weight files.
        adapter: its adapter_config.json; None where it has none that can be read.
        adapter_problem: why an adapter has no `adapter`.
        plan: the plan of its run; None where neither the checkpoint nor its run folder keeps one.
        plan_path: the file that holds `plan`.
    """

    path: Path
    chosen: Chosen
    folder: Path
    weights: Weights
    adapter: AdapterConfig | None = None
    adapter_problem: Problem | None = None
    plan: TuningPlan | None = None
    plan_path: Path | None = None


def read_checkpoint(path: Path, which: str | int | None = None) -> Checkpoint:
    """Read a checkpoint folder, a checkpoint of a run folder, a model folder or a weight file.

    Args:
        which: which checkpoint of a run folder, as `choose` takes it.

    Raises:
        ModelError: the path is none of these, the run has no such checkpoint, or its plan can't be read.
    """
    chosen = choose(path, which)
    if chosen.why != "named" and any(next(path.glob(f"*model*{suffix}"), None) for suffix in (".safetensors", ".bin")):
        note = f"the weights in {path} itself are not read: move them to a folder of their own to check or export them"
        chosen = replace(chosen, note="; ".join(filter(None, (chosen.note, note))))
    path = chosen.path.parent if in_checkpoint(chosen.path) else chosen.path
    weights = read_weights(path)
    folder = path.parent if weights.kind == "file" else path
    adapter, problem, adapter_path = None, None, folder / "adapter_config.json"
    made = _adapter_of_run(folder) if weights.gathered and not adapter_path.exists() else None
    if made is not None:
        adapter = made
    elif weights.kind == "adapter" and not adapter_path.exists():
        hint = "copy it from another checkpoint of the run: peft needs it"
        problem = Problem("adapter-config-missing", f"{folder}: has no adapter_config.json", hint)
    elif weights.kind == "adapter":
        try:
            adapter = checked_adapter_config(adapter_path, read_json(adapter_path))
            beside = dict.fromkeys(PeftKey.parse(name).layer for name in weights.beside)
            saved = [*adapter.saved, *(module for module in beside if not adapter.saves(module))]
            if beside:
                adapter = checked_adapter_config(adapter_path, adapter.values | {"modules_to_save": saved})
        except ModelError as error:
            problem = Problem("adapter-config-malformed", error.message, "use another checkpoint")
    if adapter and weights.gathered:  # for peft, beside the gathered tensors
        (weights.gathered / adapter_path.name).write_text(json.dumps(adapter.values), encoding="utf-8")
    plans = (place / "plan.json" for place in (folder, folder.parent))
    plan_path = next((file for file in plans if file.is_file()), None)
    plan = _read_plan(plan_path) if plan_path else None
    return Checkpoint(path, chosen, folder, weights, adapter, problem, plan, plan_path)


def path_now(path: str, run_folder: Path) -> str:
    """Where an absolute path leads that a run has noted, if its workspace may have been moved since.

    That is where the same relative path leads from the run folder as before.
    """
    now = then = run_folder.absolute()
    for place, up in ((now, "."), (now / "phase-1", "..")):
        with suppress(ModelError, TypeError, KeyError):
            then = Path(os.path.normpath(Path(read_json(place / START_FILE)["folder"]) / up))
            break
    return os.path.normpath(now / os.path.relpath(path, then))


def base_of(checkpoint: Checkpoint, given: Path | None = None) -> Path:
    """The folder of a checkpoint's base model.

    Args:
        given: what the user names in place of what the checkpoint says: a folder, or an id of the hub.

    Raises:
        ModelError: no base is named, or it is not on this machine.
    """
    adapter, plan = checkpoint.adapter, checkpoint.plan
    named = given or (plan.model if plan else None) or (adapter.base if adapter else None)
    if not named:
        raise ModelError(f"{checkpoint.path}: names no base model", "name it with --base FOLDER")
    folder = local_folder(str(named))
    if folder is None and checkpoint.plan_path and Path(str(named)).is_absolute():  # the workspace may have been moved
        folder = local_folder(path_now(str(named), checkpoint.plan_path.parent))
    if folder is None:
        what, hint = "not a folder here", "name the base model's folder with --base FOLDER"
        if re.fullmatch(r"[\w.-]+/[\w.-]+", str(named)):
            what += ", and not in the cache of the Hugging Face hub"
            hint += f", or fetch it: hf download {named}"
        what, hint = not_fetched(Path(str(named))) or (what, hint)
        raise ModelError(f"base model {named}: {what}", hint)
    if (folder / "adapter_config.json").exists():  # for transformers, the folder would stand for that adapter's base
        hint = "name another folder with --base, or move the adapter out; to build on it, merge it first with export"
        raise ModelError(f"base model {folder}: holds an adapter, by its adapter_config.json", hint)
    return folder


def tensors_of_base(folder: Path) -> dict[str, StoredTensor]:
    """Every tensor of a base model's folder, as `stored_tensors` names it.

    Raises:
        ModelError: it holds none, or a file is damaged.
    """
    if tensors := stored_tensors(folder):
        return tensors
    raise ModelError(f"base model {folder}: holds no safetensors file", "name a folder of the base model that does")


def _adapter_of_run(folder: Path) -> AdapterConfig | None:
    """The config of an adapter that ms-swift saved in FSDP's shards, without adapter_config.json: by its args.json.

    Returns:
        None where there is no such file, or its method needs more than settings.

    References:
        ms-swift `swift/pipelines/train/tuner.py`, `prepare_adapter`.
    """
    path = next((file for place in (folder, folder.parent) if (file := place / "args.json").is_file()), None)
    try:
        arguments = read_json(path) if path else {}
        train_type = str(arguments.get("tuner_type"))
        method = chosen(train_type, arguments) if train_type in train_types() else None
        if path is None or method is None or not method.adapts or method.ranks_may_shrink:
            return None
        own = {name: arguments[name] for name in method.model_fields if arguments.get(name) is not None}
        settings = method.model_validate(own).model_dump(by_alias=True)
        values = {name: arguments.get(name) for name in ("target_modules", "modules_to_save", "target_parameters")}
        values["bias"], values["base_model_name_or_path"] = arguments.get("lora_bias"), arguments.get("model_dir")
        return checked_adapter_config(path, {"peft_type": train_type.upper(), **settings, **values})
    except (ModelError, ValueError, TypeError, AttributeError):
        return None


def _read_plan(path: Path) -> TuningPlan:
    """Read a plan and check the types of what is used of it; the file may have been changed by anyone."""
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise ValueError(f"larger than {size_text(MAX_JSON_BYTES)}")
        plan = read_plan(path)
        shapes = [tensor.shape for tensor in plan.tensors] + [item.shape for item in plan.trainables]
        if not all(type(side) is int and side >= 0 for shape in shapes for side in shape):
            raise ValueError("a shape is not a list of numbers")
        if not all(isinstance(tensor.name, str) and tensor.dtype in ITEM_SIZES for tensor in plan.tensors):
            raise ValueError("a tensor has no name, or no known dtype")
        texts = [plan.model, plan.method, plan.train_type, *plan.adapted]
        texts += [text for item in plan.trainables for text in (item.key, item.how)]
        if not all(isinstance(text, str) for text in texts):
            raise ValueError("a name is not text")
        if not all(isinstance(count, int) for count in (plan.total_parameters, plan.trainable_parameters)):
            raise ValueError("its numbers of parameters are not numbers")
        return plan
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        message = f"{path}: not a plan of this release ({error})"
        raise ModelError(message, "give the run's config with --config") from None
