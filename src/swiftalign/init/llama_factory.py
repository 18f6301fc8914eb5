"""A run of LLaMA-Factory as settings of this toolkit: supervised fine-tuning of Qwen3-VL, by LoRA or of whole parts."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from swiftalign.config.yaml import Items, Mapping, parse_document, read_text
from swiftalign.init.sources import Moved, Source, shown
from swiftalign.problems import SwiftalignError, config_problem

# What LLaMA-Factory calls the projector and the vision tower of Qwen3-VL; the deepstack mergers are part of the latter.
_PROJECTOR = "visual.merger"
_TOWER = ("visual.pos_embed", "visual.patch_embed", "visual.blocks", "visual.deepstack_merger_list")
_LANGUAGE = ("language_model", "lm_head")
_LLM_LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_TOWER_LAYERS = ("qkv", "proj", "linear_fc1", "linear_fc2")

_SAME = (
    "learning_rate", "lr_scheduler_type", "lr_scheduler_kwargs", "per_device_train_batch_size",
    "per_device_eval_batch_size", "gradient_accumulation_steps", "num_train_epochs", "max_steps", "warmup_ratio",
    "warmup_steps", "weight_decay", "max_grad_norm", "adam_beta1", "adam_beta2", "adam_epsilon", "optim", "seed",
    "data_seed", "output_dir", "logging_steps", "save_steps", "save_strategy", "save_total_limit", "save_only_model",
    "eval_strategy", "eval_steps", "load_best_model_at_end", "metric_for_best_model", "greater_is_better", "report_to",
    "run_name", "bf16", "fp16", "deepspeed", "dataloader_num_workers", "ddp_timeout", "resume_from_checkpoint",
    "neftune_noise_alpha", "label_smoothing_factor", "gradient_checkpointing_kwargs",
)  # fmt: skip
_RENAMED = {
    "model_name_or_path": "model",
    "model_revision": "model_revision",
    "cutoff_len": "max_length",
    "image_max_pixels": "max_pixels",
    "default_system": "system",
    "enable_liger_kernel": "use_liger_kernel",
    "moe_aux_loss_coef": "router_aux_loss_coef",
}
_LORA = ("lora_rank", "lora_alpha", "lora_dropout", "use_rslora", "use_dora")
_ATTENTION = {"fa2": "flash_attention_2", "fa3": "flash_attention_3", "sdpa": "sdpa", "disabled": "eager"}

# Values of LLaMA-Factory where this toolkit has others.
# Source: its `hparams`, and transformers `TrainingArguments`.
_DEFAULTS: dict[str, Any] = {
    "learning_rate": 5e-5,
    "lr_scheduler_type": "linear",
    "weight_decay": 0.0,
    "adam_beta2": 0.999,
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 1,
    "max_length": 2048,
    "max_pixels": 768 * 768,
}
# Settings that change what is learnt, unless they have one of these values.
_REFUSED: dict[str, tuple[tuple[Any, ...], str]] = {
    "stage": (("sft", None), "this toolkit trains on the answers of rows only (stage sft)"),
    "adapter_name_or_path": ((None,), "a run begins with the base model; merge the adapter first"),
    **dict.fromkeys(
        ("use_llama_pro", "use_galore", "use_apollo", "use_badam", "use_adam_mini", "use_muon", "pissa_init"),
        ((False, None), "this toolkit does not know this method"),
    ),
    **dict.fromkeys(
        ("use_dft_loss", "use_asft_loss", "use_eaft_loss", "train_on_prompt", "mask_history", "mixture_of_depths"),
        ((False, None), "it is another loss, or another model"),
    ),
    "loraplus_lr_ratio": ((None,), "it gives the two factors rates of their own"),
    "quantization_bit": ((None,), "the plan knows base models that are not quantized on loading"),
    "resize_vocab": ((False, None), "the vocabulary of the base model is kept"),
    "shift_attn": ((False, None), "it is another attention"),
    "neat_packing": ((False, None), "it joins rows"),
    "packing": ((False, None), "it joins rows"),
}


def move_llama_factory(source: Source) -> Moved:
    """The settings of ``llamafactory-cli train``, as far as they are about the aligner, adapters and the schedule.

    Raises:
        SwiftalignError: ``dataset_info.json`` can't be read, or lacks a data set.

    References:
        LLaMA-Factory `model/model_utils/visual.py` (the parts of Qwen3-VL), `model/adapter.py`, `hparams/`.
    """
    given = source.values
    moved = Moved(Mapping(file=given.file))
    rest = Moved(given)  # what is left of the source
    for name, (values, why) in _REFUSED.items():
        if name in given and given[name] not in values:
            rest.refuse(name, why, "remove it, or train it with LLaMA-Factory")
    for name in (*_SAME, *_RENAMED):
        if given.get(name) is not None:
            to = _RENAMED.get(name, name)
            moved.values[to], moved.values.places[to] = given.pop(name), given.places[name]
    _move_tuner(given, moved, rest)
    _move_data(source, moved, rest)
    for name in ("output_dir", "deepspeed", "resume_from_checkpoint", "model"):
        text = moved.values.get(name)
        if isinstance(text, str) and (name != "deepspeed" or text.endswith(".json")):
            path, there = source.found(text)
            if there or name != "model" or text.startswith((".", "/", "~")):
                moved.values[name] = path
                if not there and name != "output_dir":
                    moved.comments["model" if name == "model" else "training", _KEYS.get(name, name)] = "not found here"
    if (attention := _ATTENTION.get(str(given.get("flash_attn")))) is not None:
        moved.values["attn_impl"] = attention
        del given["flash_attn"]
    if given.pop("use_swanlab", False):
        moved.values["report_to"] = Items(["swanlab"])
    if moved.values.get("report_to") == "none":
        moved.values["report_to"] = Items()
    if given.pop("disable_shuffling", False):
        moved.values["dataset_shuffle"] = moved.values["train_dataloader_shuffle"] = False
    for name, value in _DEFAULTS.items():
        if name not in moved.values:
            section = "data" if name in ("max_length", "max_pixels") else "training"
            moved.add(section, name, value, "LLaMA-Factory's default")
    if "eval_strategy" not in moved.values and {"val_dataset", "split_dataset_ratio"} & moved.values.keys():
        moved.add("training", "eval_strategy", "no", "LLaMA-Factory's default")
    moved.add(
        "data", "truncation_strategy", "right", "as LLaMA-Factory does, which cuts question and answer in proportion"
    )
    moved.left_out += rest.left_out
    for name, value in given.items():
        why = "no value" if value is None else _WHY.get(name, "this toolkit has no such setting")
        moved.left_out.append(f"{name}: {shown(value)} - {why}")
    moved.problems += rest.problems
    return moved


_KEYS = {"model": "path"}
_WHY = {
    "stage": "this toolkit knows no other stage",
    "do_train": "'swiftalign train' trains",
    "template": "the template follows from the model",
    "trust_remote_code": "Qwen3-VL needs no code of its own; model.trust_remote_code allows it for others",
    "overwrite_output_dir": "a folder that holds a run is never overwritten",
    "plot_loss": "every run folder gets loss.png",
    "video_max_pixels": "rows are images",
    "preprocessing_num_workers": "rows are read when they are needed",
    "overwrite_cache": "rows are read when they are needed",
    "max_samples": "this trains on all rows of each file",
}


def _move_tuner(given: Mapping, moved: Moved, rest: Moved) -> None:
    """The method, and the layers or modules that it trains."""
    values = moved.values
    method = given.get("finetuning_type") or "lora"
    free = {
        "vit": given.get("freeze_vision_tower") is False,
        "aligner": given.get("freeze_multi_modal_projector") is False,
        "llm": given.get("freeze_language_model") is not True,
    }
    whole = method == "full"
    hint = "choose what trains in the tuner section by hand: swiftalign docs configuration"
    if method not in ("lora", "full"):
        rest.refuse("finetuning_type", "only lora and full are known here", hint)
        return
    flags = ("freeze_vision_tower", "freeze_multi_modal_projector", "freeze_language_model", "finetuning_type")
    where = given.where(next((name for name in flags if name in given), "finetuning_type"))
    names = [name for name in flags if name in given]
    told = ", ".join(f"{name}: {shown(given.pop(name))}" for name in names) or "the default freeze flags"
    pure = given.pop("pure_bf16", False)
    tuner = Mapping(file=given.file)
    values["tuner"] = tuner
    if whole:
        if free["vit"] == free["aligner"]:
            tuner |= {"train_type": "full", **{f"freeze_{part}": not free[part] for part in ("llm", "vit", "aligner")}}
        elif free == {"vit": False, "aligner": True, "llm": False}:
            tuner |= {"train_type": "lora", "target_regex": "^$", "modules_to_save": ["model.visual.merger"]}
            moved.comments["tuner", "modules_to_save"] = (
                "what LLaMA-Factory calls the projector; for the whole aligner, add model.visual.deepstack_merger_list"
            )
            moved.remarks.append(
                "LLaMA-Factory trains visual.merger alone and leaves the three deepstack mergers frozen, and so does "
                "this file. Pre-flight reports an aligner of which a part trains: --allow aligner-incomplete takes it."
            )
            moved.options.append("--allow aligner-incomplete")
        else:
            message = (
                "LLaMA-Factory counts the deepstack mergers to the vision tower, and visual.merger alone as the "
                "projector; the freeze flags of this toolkit train all mergers or none"
            )
            moved.problems.append(config_problem(where, f"{told}: {message}", hint))
    else:
        layers = _listed(given.pop("lora_target", "all"))
        if layers == ["all"]:
            layers = [*_LLM_LAYERS, *(_TOWER_LAYERS if free["vit"] else ())]
        frozen = ["patch_embed", *(_TOWER if not free["vit"] else ()), *([] if free["aligner"] else [_PROJECTOR])]
        frozen += [] if free["llm"] else [*_LANGUAGE]
        parts = ("|".join(map(re.escape, dict.fromkeys(names))) for names in (frozen, layers))
        tuner |= {"train_type": "lora", "target_regex": "^(?!.*({})).*({}).*$".format(*parts)}
        moved.comments["tuner", "target_regex"] = f"the layers that lora_target and {told} choose"
        rank = given.get("lora_rank") or 8
        tuner |= {"lora_rank": rank, "lora_alpha": 2 * rank if isinstance(rank, int) else 16, "lora_dropout": 0.0}
        for name in _LORA:
            if given.get(name) is not None:
                tuner.places[name], tuner[name] = given.places[name], given.pop(name)
        if saved := _listed(given.pop("additional_target", None)):
            tuner["modules_to_save"] = saved
    if pure:
        tuner["trainable_dtype"] = "base"
        values.setdefault("torch_dtype", "bfloat16")
    for name in [name for name in (*_LORA, "lora_target", "additional_target") if name in given]:
        rest.leave_out(name, "full training does not use it")


def _listed(value: Any) -> list[str]:
    """The items of a list, or of a text in which commas divide them."""
    items = value.split(",") if isinstance(value, str) else value if isinstance(value, list) else [value]
    return [str(each).strip() for each in items if each is not None]


def _move_data(source: Source, moved: Moved, rest: Moved) -> None:
    """The files of the data sets, by their names in ``dataset_info.json``."""
    given, values = source.values, moved.values
    folder, there = source.found(str(given.pop("dataset_dir", "data")))
    listed = Path(folder) / "dataset_info.json"
    known: Any = parse_document(read_text(listed), str(listed)) if listed.is_file() else None
    media = given.pop("media_dir", None)
    if media:
        moved.add("data", "images", source.found(str(media))[0], "media_dir")
    elif there:
        moved.add("data", "images", folder, "LLaMA-Factory counts image paths from dataset_dir")
    for name, to, key in (("dataset", "dataset", "train"), ("eval_dataset", "val_dataset", "val")):
        if given.get(name) is None:
            given.pop(name, None)
            continue
        where, entry = given.where(name), given.pop(name)
        files, remarks = Items(), []
        for each in _listed(entry):
            about = known.get(each) if isinstance(known, dict) else None
            if not isinstance(about, dict):
                if isinstance(known, dict):
                    raise SwiftalignError(f"{where}: {listed} has no data set {each!r}", "name one that it has")
                remarks.append(f"{each}: {listed} was not found; name its file")
                files.append(os.path.join(folder, f"{each}.json"))  # noqa: PTH118  # a pure path operation
            elif not isinstance(file := about.get("file_name"), str) or about.get("ranking"):
                rest.left_out.append(f"{name}: {each}: {json.dumps(about)[:200]} - not a file of conversations")
            else:
                files.append(os.path.join(folder, file))  # noqa: PTH118  # a pure path operation
                if about.get("formatting", "alpaca") == "alpaca":
                    remarks.append(f"{each} is in alpaca's layout: write its rows as messages")
        values[to] = files
        if remarks:
            moved.comments["data", key] = "; ".join(remarks)
    size = given.get("val_size")
    if isinstance(size, float) and 0 < size < 1:
        values["split_dataset_ratio"] = given.pop("val_size")
