"""What becomes of the keys of ms-swift and of the guide's project for which this toolkit has another key, or none.

A key that means something here is moved to its place. A key whose value says what this toolkit does anyway is left out.
A key that would change what is learnt in a way that this toolkit does not know is an error that says what to write.
`docs/keys.md` is made from these tables.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from swiftalign.config.arguments import ARGUMENTS, LEFT_OUT, Implied, Names, Noted, Renamed, Rule, train_files
from swiftalign.config.sections import ARGUMENT, section_fields
from swiftalign.config.swift_arguments import swift_arguments
from swiftalign.config.yaml import Mapping, Place, dotted, holds, lookup
from swiftalign.problems import Problem, config_problem

SECTIONS = ("model", "data", "tuner", "training", "custom", "swift")
PASS_THROUGH = ("data", "tuner", "training", "swift")
_OFF = (False, 0, 0.0, "off", "no", "false")  # a feature that is not used, in all spellings
_ENABLED: Names = ("enabled",)
# The words that stand for true and false, in small letters.
TRUTH = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


def _none_for_null(files: Any) -> Any:
    return [] if files is None else files  # not left out: it replaces the files of an extended file


_ORDERS = {"reference_tlbr": "reference_top_to_bottom", "center_tlbr": "centre_top_to_bottom"}


def _order(policy: Any) -> Any:
    return "as_given" if policy is None else _ORDERS.get(policy, policy) if isinstance(policy, str) else policy


def _summaries(ratio: Any) -> Any:
    if ratio not in (None, 0, 1):
        raise ValueError("a share of the rows answers with summaries; name two files with weights in data.train")
    return "summary" if ratio else "objects"


_PROMPT = "data.text sets the prompt and the system message: data: {text: {prompt: ..., system: ...}}"
_ANSWER = "data.text sets keys, shape and order of the answer"
_MIXTURE = "name the files in data.train with weights: [{path: A, weight: 1}, {path: B, weight: 0.1}]"
_SFT = "this toolkit trains on the answers of rows only (supervised fine-tuning)"

# A key of the guide's project at its place, where the name alone does not tell -> what becomes of it.
KEYS: dict[Names, Rule] = {
    ("global_max_length",): Renamed(("data", "max_length")),
    ("deepspeed",): Renamed(
        ("training", "deepspeed"),
        values="{enabled: true, config: X}: X, without a config zero2; enabled: false: left out",
    ),
    ("model", "model_name_or_path"): Renamed(("model", "path")),
    ("model", "attn_implementation"): Renamed(("model", "attention")),
    ("data", "eval_dataset"): Renamed(("data", "val"), train_files, "placeholder, dummy: left out"),
    ("custom", "train_jsonl"): Renamed(("data", "train"), _none_for_null),
    ("custom", "val_jsonl"): Renamed(("data", "val"), _none_for_null),
    # `settle` reads these three.
    ("custom", "sample_limit"): Renamed(
        ("custom", "sample_limit"), values="limit of each file in data.train and data.val"
    ),
    ("custom", "train_sample_limit"): Renamed(
        ("custom", "train_sample_limit"), values="limit of each file in data.train"
    ),
    ("custom", "val_sample_limit"): Renamed(("custom", "val_sample_limit"), values="limit of each file in data.val"),
    ("custom", "object_ordering_policy"): Renamed(
        ("data", "text", "order"), _order, ", ".join(f"{theirs}: {ours}" for theirs, ours in _ORDERS.items())
    ),
    ("custom", "summary_ratio"): Renamed(("data", "text", "answer"), _summaries, "1: summary, 0: objects"),
    ("custom", "augmentation_curriculum"): Renamed(("custom", "augmentation", "curriculum")),
    ("custom", "emit_norm"): Implied(
        ("norm1000",), "coordinates are written in the unit that the model's family reads", "remove the key"
    ),
    ("custom", "images_per_user_turn"): Implied(
        (1,),
        "a row is one turn",
        "join rows once: swiftalign convert ROWS OUT --join N, and data.text.shape: by_image",
    ),
    ("custom", "json_format"): Implied(("standard",), "answers are JSON with a space after ':' and ','", _ANSWER),
    ("custom", "toon_mode"): Implied(_OFF, "answers are JSON", _ANSWER),
    ("custom", "use_summary"): Implied(_OFF, "answers list the objects", "write data: {text: {answer: summary}}"),
    ("custom", "summary_label_grouping"): Implied(
        _OFF, "summaries are learnt as they are", "change the rows themselves"
    ),
    ("custom", "group_key_prefix"): Implied(
        (), "it names the images of an answer", "write data: {text: {image_key: '图片_{n}'}}"
    ),
    ("custom", "assistant_prefix_format"): Implied(
        (), "a prefix is one text for all rows", "write it as data: {text: {first_line: ...}}"
    ),
    ("custom", "fusion_config"): Implied((), "files are mixed by weights", _MIXTURE),
    ("custom", "augment_sources"): Implied(
        (), "every training row is augmented", "augment the file of its own run, or remove the key"
    ),
    ("custom", "augment_prob"): Implied(
        (0, 0.0), "operations have their own probabilities", "write custom: {augmentation: {bypass_prob: 1 - P}}"
    ),
    ("custom", "token_type_metrics"): Implied(
        _OFF, "accuracy is measured by kind of target", "write custom: {grounding_eval: {rows: 64}}"
    ),
    ("custom", "hard_sample_mining"): Implied(_OFF, "rows are drawn evenly or by weights", _MIXTURE),
    ("custom", "visual_kd"): Implied(_OFF, _SFT),
    ("custom", "trainer_variant"): Implied((), _SFT),
    ("custom", "grpo"): Implied(_OFF, _SFT),
    ("custom", "extra"): Implied((), _SFT),
    ("custom", "dump_conversation_text"): Noted("'swiftalign preview-aug' shows the texts that are learnt"),
    ("custom", "dump_conversation_path"): Noted("'swiftalign preview-aug' shows the texts that are learnt"),
    ("prompts",): Implied((), "it names prompts of the guide's project", _PROMPT),
    ("rlhf",): Implied((), _SFT, "remove the section, or train with the project that it was written for"),
}


def home(name: str) -> str | None:
    """The section that takes a key of this name."""
    declaring = next((section for section in PASS_THROUGH if name in section_fields(section)), None)
    return declaring or swift_arguments().get(name, (None, Any))[0]


def is_argument(section: str, name: str) -> bool:
    """Whether a section takes a key and hands it through to ms-swift."""
    if name not in swift_arguments() or name in ARGUMENTS:
        return False
    field = section_fields(str(home(name))).get(name)
    if section == "swift":
        return field is None or ARGUMENT in field.metadata
    return section == home(name) and field is None


def translate(values: Mapping, problems: list[Problem], notes: list[Problem]) -> None:
    """Give the keys of a file this toolkit's names and places.

    Args:
        values: the file's values; they are changed.
        problems: gets the keys that are refused or given twice.
        notes: gets the keys that have no effect.
    """
    if isinstance(template := values.get("template"), Mapping):
        del values["template"]
        for name in template:
            _move(values, ("template", name), ("data", name), template[name], template.places[name], problems)
    keys: list[tuple[Names, Rule]] = [(key, rule) for key, rule in KEYS.items() if holds(values, key)]
    for section in ("", *SECTIONS):
        given = values if not section else values.get(section)
        for name in given if isinstance(given, Mapping) else ():
            key: Names = (section, name) if section else (name,)
            if key in KEYS or (not section and name in SECTIONS):
                continue
            rule = ARGUMENTS.get(name)
            own = is_argument(section, name) if section == "swift" else name in section_fields(section)
            if rule is None and name in swift_arguments() and not own:
                rule = Renamed((str(home(name)), name))
            if rule and not (isinstance(rule, Renamed) and rule.to == key):
                keys.append((key, rule))
    for key, rule in keys:
        above = lookup(values, key[:-1], values)
        value, place = above.pop(key[-1]), above.places.get(key[-1], Place(values.file))
        name = dotted(key)
        match rule:
            case Renamed():
                try:
                    if (value := rule.convert(value)) is not LEFT_OUT:
                        _move(values, key, rule.to, value, place, problems)
                except ValueError as error:
                    message, _, hint = str(error).partition("; ")
                    problems.append(config_problem(str(place), f"{name}: {message}", hint))
            case Noted():
                notes.append(Problem("key-without-effect", f"{name} has no effect: {rule.why}", where=str(place)))
            case Implied() if _is_one_of(value, rule.values):
                pass
            case Implied():
                given = f"{name}: {json.dumps(value)}" if isinstance(value, bool | int | float | str) else name
                problems.append(config_problem(str(place), f"{given} is not supported: {rule.why}", rule.hint))


def without_counterpart(values: Mapping) -> Iterator[tuple[Names, str]]:
    """The keys that were left out of values which are read now, and why."""
    sections: dict[Names, Mapping] = {(): values}
    sections |= {(name,): value for name, value in values.items() if isinstance(value, Mapping)}
    moved = {place.name for held in sections.values() for place in held.places.values()}
    for section, held in sections.items():
        for name in held.places.keys() - held.keys():
            rule = KEYS.get((*section, name)) or ARGUMENTS.get(name)
            if rule and dotted((*section, name)) not in moved:
                yield (*section, name), rule.why if isinstance(rule, Implied | Noted) else "another key says the same"


def _is_one_of(value: Any, values: tuple[Any, ...]) -> bool:
    """Whether a value is empty or one of these, and not just equal to it as 1 is to true.

    A mapping with ``enabled: false`` stands for false.
    """
    if isinstance(value, Mapping) and holds(value, _ENABLED):
        value = value["enabled"]
    return value in (None, "", [], {}) or any(value == each and type(value) is type(each) for each in values)


def _move(values: Mapping, key: Names, to: Names, value: Any, place: Place, problems: list[Problem]) -> None:
    """Put a value at its place here; messages keep the name that the file gives it."""
    if holds(values, to):
        message = f"{dotted(key)} and {values.name(*to)} mean the same, and both are given"
        problems.append(config_problem(str(place), message, "keep one of the two"))
        return
    target = values
    for part in to[:-1]:
        if target.get(part) is None:  # absent, or an empty section
            target[part] = Mapping(file=values.file)
            target.places.setdefault(part, place)
        target = target[part]
        if not isinstance(target, Mapping):
            return  # the section itself is reported
    target[to[-1]], target.places[to[-1]] = value, place._replace(name=dotted(key))


def settle(values: Mapping, problems: list[Problem]) -> None:
    """Replace settings that depend on one another by one key, after all files were merged."""
    model, training, custom, data = (values.get(section) for section in ("model", "training", "custom", "data"))
    if isinstance(training, Mapping):
        for name, dtype in (("bf16", "bfloat16"), ("fp16", "float16")):
            if name not in training:
                continue
            given, where, label = training.pop(name), training.where(name), values.name("training", name)
            given = TRUTH.get(given.lower(), given) if isinstance(given, str) else given
            held = model.get("dtype") if isinstance(model, Mapping) else None
            if not isinstance(given, bool | None):
                problems.append(config_problem(where, f"{label} must be true or false, not {given!r}"))
            elif held and given is not None and given != (held == dtype):
                other = f"{values.name('model', 'dtype')}, which makes the model {held}"
                message = f"{label}: {str(given).lower()} contradicts {other}"
                problems.append(config_problem(where, message, "keep one of the two"))
            elif given and isinstance(model, Mapping):
                model["dtype"], model.places["dtype"] = dtype, training.places[name]
        deepspeed = training.get("deepspeed")
        if isinstance(deepspeed, Mapping) and deepspeed.keys() <= {"enabled", "config"}:
            if _is_one_of(deepspeed, _OFF):
                del training["deepspeed"]
            else:
                training["deepspeed"] = deepspeed.get("config") or "zero2"  # as the guide's project reads it
    if not isinstance(custom, Mapping):
        return
    for name, parts in _LIMITS.items():
        limit = custom.pop(name, None)
        for part in parts if limit is not None else ():
            files = lookup(data, (part,))
            files = files if isinstance(files, list) else []
            for index, file in enumerate(files):
                if isinstance(file, str):
                    files[index] = Mapping({"path": file, "limit": limit}, {"limit": custom.places[name]}, values.file)
                elif isinstance(file, Mapping) and "limit" not in file:
                    file["limit"], file.places["limit"] = limit, custom.places[name]


_LIMITS = {"train_sample_limit": ("train",), "val_sample_limit": ("val",), "sample_limit": ("train", "val")}
