"""A run of ms-swift as settings of this toolkit: what its user asked for, and what ms-swift does by default."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

from swiftalign.config.arguments import ARGUMENTS
from swiftalign.config.sections import TunerSection
from swiftalign.config.sharding import PRESETS, deepspeed_settings
from swiftalign.config.swift_arguments import swift_arguments, swift_defaults
from swiftalign.config.yaml import Items, Mapping, read_text
from swiftalign.init.sources import Moved, Source, shown
from swiftalign.methods import METHODS, chosen, settings_fields
from swiftalign.model.families import find
from swiftalign.model.tree import COMPONENTS
from swiftalign.runs.lowering import CALLBACK, GROUNDING_CALLBACK, STOPPING_CALLBACK

# Environment variables by which ms-swift's templates decide what is learnt; this toolkit reads the same ones.
_READ = re.compile(
    r"(?:(?:IMAGE|VIDEO)_(?:MIN|MAX)_TOKEN_NUM|(?:VIDEO_)?(?:MIN|MAX|TOTAL)_PIXELS|FPS\w*|QWENVL_BBOX_FORMAT)"
)
_SECRET = re.compile(r"token$|secret|password|api_key|webhook", re.IGNORECASE)
_TRUE = ("1", "true", "True")

# Settings of what is not used: where the first name is off, those that begin with the second have no effect.
_UNUSED = (
    ("use_galore", "galore_"),
    ("lisa_activated_layers", "lisa_"),
    ("quant_method", "bnb_4bit_"),
    ("quant_method", "hqq_"),
    ("packing", "packing_"),
    ("streaming", "shuffle_buffer_size"),
    ("interleave_prob", "stopping_strategy"),
    ("", "vera_"),
    ("", "adapter_"),
    ("", "llamapro_"),
    ("", "reft_"),
    ("", "lora_ga_"),
)
_GPU = "as ms-swift does; by default, this toolkit chooses it by the GPU and the rows"


def move_swift_run(source: Source) -> Moved:
    """The settings of ``swift sft``, with ms-swift's own values where this toolkit's defaults differ.

    References:
        ms-swift `swift/arguments/sft_args.py`, `swift/arguments/tuner_args.py`, `swift/trainers/arguments.py`.
    """
    moved = Moved(source.values)
    values = moved.values
    for name in [name for name in values if _SECRET.search(name) and values[name] is not None]:
        values[name] = "***"
        moved.leave_out(name, "a secret: give it to the tool itself, or in the environment")
    if source.kind == "run":
        _keep_what_was_asked(moved)
    else:
        for name in [name for name, value in values.items() if value is None]:
            moved.leave_out(name, "no value; ms-swift reads it as the word None")
    if "lazy_tokenize" in values:
        moved.leave_out("lazy_tokenize", "rows are read when they are needed")
    _move_environment(moved, source)
    _move_data(moved, source)
    _move_paths(moved, source)
    _move_tuner(moved)
    _add_defaults(moved)
    return moved


def _keep_what_was_asked(moved: Moved) -> None:
    """Take from args.json what is a default, and what ms-swift worked out itself."""
    values, defaults = moved.values, swift_defaults()
    computed = [name for name in values if name not in swift_arguments() and name not in ARGUMENTS]
    described = {name: str(values.get(name)) for name in ("model_info", "model_meta")}
    processes = values.get("global_world_size")
    if isinstance(processes, int) and processes > 1:
        moved.options.append(f"--nproc {processes}")
        moved.remarks.append(f"The run had {processes} processes: train with as many, for the same rows in a step.")

    def prefixes(part: str) -> list[str]:
        """The name prefixes of a part of the model, as ms-swift describes it."""
        found = re.search(rf"\b{part}=(\[[^\]]*\])", described["model_meta"][:100_000])
        try:
            return [str(each) for each in ast.literal_eval(found[1])] if found else []
        except (ValueError, SyntaxError):
            return []

    validates = values.get("val_dataset") or values.get("split_dataset_ratio")
    dtype = values.get("torch_dtype")
    full = values.get("tuner_type", values.get("train_type")) == "full"
    frozen = [prefix for part in _PARTS if full and values.get(f"freeze_{part}") for prefix in prefixes(_PARTS[part])]
    released = prefixes("aligner") if full and values.get("freeze_aligner") is False else []
    length = re.search(r"\bmax_model_len=(\d+)", described["model_info"])
    template = re.search(r"\btemplate='([^']*)'", described["model_meta"])
    given = values.get
    derived = {
        "logging_dir": given("logging_dir") == f"{given('output_dir')}/runs",
        "run_name": given("run_name") == given("output_dir"),
        "metric_for_best_model": given("metric_for_best_model") == "loss",
        "greater_is_better": given("greater_is_better") == ("loss" not in str(given("metric_for_best_model"))),
        "eval_strategy": given("eval_strategy") == "no" and not validates,
        "eval_steps": given("eval_steps") == given("save_steps"),
        "max_length": length is not None and str(given("max_length")) == length[1],
        "template": template is not None and given("template") == template[1],
        "model_type": find(str(given("model_type"))) is not None,
        "use_chat_template": given("use_chat_template") is True,
        "truncation_strategy": given("truncation_strategy") == "delete",
        "lazy_tokenize": given("lazy_tokenize") is True,
        "max_memory": given("max_memory") == {},
        "model_kwargs": given("model_kwargs") == {},
        "columns": given("columns") == {},
        "fsdp": given("fsdp") == [],
        "accelerator_config": given("accelerator_config") == {"dispatch_batches": False},
        "vit_gradient_checkpointing": given("vit_gradient_checkpointing") == given("gradient_checkpointing"),
        "target_modules": given("target_modules") == given("target_regex"),
        "freeze_parameters": full and given("freeze_parameters") == [*frozen, *prefixes("generator")],
        "trainable_parameters": full and given("trainable_parameters") == released,
        "bnb_4bit_compute_dtype": given("bnb_4bit_compute_dtype") == dtype,
        "stream": given("stream") is False,
        "include_num_input_tokens_seen": given("include_num_input_tokens_seen") is False,
        "packing_length": given("packing_length") == given("max_length"),
        "task_type": given("task_type") == "causal_lm",
        "bf16": given("bf16") == (dtype == "bfloat16"),
        "fp16": given("fp16") == (dtype in ("float16", "float32")),
    }
    if isinstance(callbacks := values.get("callbacks"), list):
        added = ("adalora", "lisa", "early_stop", CALLBACK, GROUNDING_CALLBACK, STOPPING_CALLBACK)
        values["callbacks"] = [each for each in callbacks if each not in added]
    if isinstance(values.get("deepspeed"), dict):
        preset = next((name for name in PRESETS if deepspeed_settings(name) == values["deepspeed"]), None)
        values["deepspeed"] = preset or values["deepspeed"]
    worked_out = {name for name, is_derived in derived.items() if is_derived and name in values}
    if dtype == "float32" and values.get("fp16"):
        moved.leave_out("fp16", _HALF)
        worked_out.discard("fp16")
    computed += [name for name in worked_out if not _same(values[name], defaults.get(name))]
    for name in list(values):
        value = values[name]
        if name in computed or value is None or (name in defaults and _same(value, defaults[name])):
            values.pop(name, None)
    if "output_dir" in values:
        moved.leave_out("output_dir", "the folder of that run; this one trains into runs/NAME beside the config")
    if computed:
        moved.left_out.append(f"{', '.join(sorted(computed))} - worked out by ms-swift")


_PARTS = {"llm": "language_model", "vit": "vision_tower", "aligner": "aligner"}
_HALF = "ms-swift trains a float32 model in half precision unless told otherwise; this toolkit trains it in float32"


def _same(value: Any, default: Any) -> bool:
    return bool(value == default) and isinstance(value, bool) == isinstance(default, bool)


def _move_environment(moved: Moved, source: Source) -> None:
    """Variables that mean something here become settings, options or remarks; others are named."""
    for name, (text, place) in source.environment.items():
        if name in ("USE_HF", "ROOT_IMAGE_DIR", "NPROC_PER_NODE", "NNODES"):
            match name:
                case "USE_HF":
                    moved.values.setdefault("use_hf", text in _TRUE)
                case "ROOT_IMAGE_DIR":
                    moved.add("data", "images", source.found(text)[0], "ROOT_IMAGE_DIR")
                case "NPROC_PER_NODE":
                    moved.options.append(f"--nproc {text}")
                case _:
                    moved.options.append(f"--nnodes {text} --node-rank N --rdzv-endpoint HOST:PORT")
            moved.values.places.setdefault("use_hf", place)
            if name.startswith("N"):
                moved.remarks.append(f"{name}={text}: an option of 'swiftalign train', for the same rows in a step.")
        elif name == "QWENVL_BBOX_FORMAT" and text == "new":
            moved.remarks.append("QWENVL_BBOX_FORMAT=new: this toolkit writes boxes in this format anyway.")
        elif _READ.fullmatch(name) or name == "CUDA_VISIBLE_DEVICES":
            moved.variables[name] = text
            moved.remarks.append(f"Set {name}={text} in the environment when you train.")
        else:
            value = "***" if _SECRET.search(name) else text
            moved.left_out.append(
                f"{name}={value} - a variable of the environment: set it when you train if it matters"
            )


def _move_data(moved: Moved, source: Source) -> None:
    """The files of rows, by absolute paths."""
    boxes = False
    for name, part in (("dataset", "train"), ("val_dataset", "val")):
        given, files, missing = moved.values.pop(name, None), Items(), list[str]()
        for entry in given if isinstance(given, list) else [] if given is None else [given]:
            file, rows = _SAMPLED.sub("", str(entry)), _SAMPLED.search(str(entry))
            path, there = source.found(file)
            if not there and _HUB_DATA.fullmatch(file) and not Path(file).suffix:
                why = f"a data set of a hub: download it, and name its file in data.{part}"
                moved.left_out.append(f"{name}: {shown(entry)} - {why}")
                continue
            if rows:
                why = f"ms-swift draws {rows[1]} rows of the file at random; this run takes the first ones"
                moved.left_out.append(f"{name}: {shown(entry)} - {why}")
            files.append(Mapping({"path": path, "limit": int(rows[1])}) if rows else path)
            missing += [] if there else [file]
            boxes = boxes or (there and _has_boxes(path))
        if files:
            moved.values[name] = files
        if missing:
            moved.comments["data", part] = f"not found here: {', '.join(missing)}"
    if boxes and "QWENVL_BBOX_FORMAT" not in source.environment:
        moved.remarks.append(
            "ms-swift writes <bbox> in its legacy format unless QWENVL_BBOX_FORMAT=new was set; this toolkit writes "
            "JSON. For the legacy format, set QWENVL_BBOX_FORMAT=legacy when you train."
        )


_SAMPLED = re.compile(r"#(\d+)$")
_HUB_DATA = re.compile(r"(?:\w+::)?[\w.-]+/[\w.-]+(?::[\w./,-]+)?")


def _has_boxes(path: str) -> bool:
    """Whether the first rows of a file have ms-swift's placeholder of a box."""
    try:
        with Path(path).open("rb") as file:
            return b"<bbox>" in file.read(1_000_000)
    except OSError:
        return False


def _move_paths(moved: Moved, source: Source) -> None:
    """Other files and folders, by absolute paths; the text of a system message that is in a file."""
    values = moved.values
    for name, key in (
        ("model", ("model", "path")),
        ("resume_from_checkpoint", ("training", "resume_from_checkpoint")),
        ("deepspeed", ("training", "deepspeed")),
    ):
        given = values.get(name)
        if not isinstance(given, str) or (name == "deepspeed" and not given.endswith(".json")):
            continue
        path, there = source.found(given)
        if there or name != "model" or given.startswith((".", "/", "~")):
            values[name] = path
            if not there:
                moved.comments[key] = "not found here"
    for name in ("external_plugins", "custom_register_path"):
        if given := values.get(name):
            values[name] = Items(source.found(str(each))[0] for each in (given if isinstance(given, list) else [given]))
            moved.comments["swift", name] = "Python code that ms-swift runs"
    if isinstance(given := values.get("output_dir"), str):
        folder = Path(given).expanduser().absolute()
        values["output_dir"] = str(folder)
        if folder.is_dir() and any(folder.iterdir()):
            moved.leave_out("output_dir", "a folder with files; this run trains into runs/NAME beside the config")
    if isinstance(given := values.get("system"), str):
        path, there = source.found(given)
        if not given.endswith(".txt"):
            values["system"] = given.replace("\\n", "\n")
        elif there:
            values["system"] = read_text(Path(path))
            moved.comments["data", "system"] = f"the text of {given}"
        else:
            moved.leave_out("system", "ms-swift reads the text of this file, which was not found here")


def _move_tuner(moved: Moved) -> None:
    """What trains: the setting that decides it is written, and settings that have no effect are named."""
    values, defaults = moved.values, swift_defaults()
    train_type = str(values.get("tuner_type", values.get("train_type", "lora")))
    targets = values.get("target_modules")
    if targets is not None and not isinstance(targets, list):
        targets = values["target_modules"] = Items([targets])
    by_name = train_type != "full" and (values.get("target_regex") or (targets and "all-linear" not in targets))
    for part in COMPONENTS:
        flag = f"freeze_{part}"
        if not by_name:
            own = TunerSection.model_fields[flag].default
            if flag not in values and defaults[flag] != own:
                values[flag] = defaults[flag]
                moved.comments["tuner", flag] = f"as ms-swift does; this toolkit's default is {str(own).lower()}"
        elif flag in values:
            by = "target_regex" if values.get("target_regex") else "target_modules"
            moved.leave_out(flag, f"{by} decides what is adapted")
    for name in ("target_regex", "target_modules", "modules_to_save") if train_type == "full" else ():
        if values.get(name):
            moved.leave_out(name, "in full training the freeze flags decide")
    if values.get("target_regex") and "target_modules" in values:
        moved.leave_out("target_modules", "target_regex decides what is adapted")
    if values.get("target_modules") == ["all-linear"]:
        del values["target_modules"]  # what is adapted where nothing is named
    whole = train_type == "full" or values.get("modules_to_save")
    if whole and values.get("torch_dtype") != "float32":
        default = "float32, in which small updates are not rounded away"
        moved.add("tuner", "trainable_dtype", "base", f"as ms-swift does; this toolkit's default is {default}")
    used = chosen(train_type, values).model_fields if train_type in METHODS else settings_fields()
    flags = {method.flag for method in METHODS.values()}
    for name in settings_fields().keys() & values.keys() - used.keys() - flags:
        moved.leave_out(name, f"{train_type} does not use it")
    for switch, prefix in _UNUSED:
        if not values.get(switch):
            for name in [name for name in values if name.startswith(prefix)]:
                moved.leave_out(name, "it belongs to something that is not used")


def _add_defaults(moved: Moved) -> None:
    """ms-swift's defaults, where this toolkit has others."""
    values = moved.values
    model = values.get("model")
    if "use_hf" not in values and isinstance(model, str) and not model.startswith("/"):
        values["use_hf"] = False
        moved.comments["hub", ""] = "as ms-swift does; this toolkit's default is huggingface"
    if values.get("optimizer") is None and values.get("vit_lr") is None and values.get("aligner_lr") is None:
        name = "lorap" if values.get("lorap_lr_ratio") else "default"
        why = "this toolkit's default is multimodal, which has a rate for each component"
        moved.add("", "optimizer", name, f"as ms-swift does; {why}")
    for name, value in (
        ("gradient_checkpointing", True),
        ("padding_free", False),
        ("torch_compile", False),
        ("use_liger_kernel", False),
    ):
        if name not in values and not (name == "padding_free" and values.get("packing")):
            moved.add("", name, value, _GPU)
    if values.get("packing"):
        why = "ms-swift fills each pack with as many rows as fit; here, a step has as many rows as its batches"
        moved.comments["training", "packing"] = why
    if values.get("max_length") and values.get("truncation_strategy") in (None, "delete"):
        why = "as ms-swift does, which trains other rows in their place; this toolkit's default is refuse"
        moved.add("data", "too_long", "drop", why)
    halved = any(line.startswith("fp16:") for line in moved.left_out)
    if values.get("torch_dtype") == "float32" and not halved and not values.keys() & {"fp16", "bf16"}:
        moved.left_out.append(f"fp16: true - {_HALF}")
    if values.get("dataset_shuffle", True):
        moved.remarks.append(
            "The rows are shuffled by another random generator than ms-swift's: the same rows, in another order."
        )
