"""The model card of an export: what it is, how it was made, and how to load it.

A card is read on other machines: it names folders and files, and holds no paths.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from swiftalign.checks.selection import REWRITTEN_TYPES
from swiftalign.config.yaml import parse_document
from swiftalign.evaluation.kept import KeptEvaluation
from swiftalign.exports.mmproj import mmproj_file
from swiftalign.exports.outputs import CARD, Part, Written
from swiftalign.exports.source import Source
from swiftalign.exports.training import Training
from swiftalign.model.components import class_of
from swiftalign.model.safetensors import read_json
from swiftalign.problems import SPOKEN, SwiftalignError, counted
from swiftalign.yaml12 import dump_yaml

_MOST_CHARACTERS = 200_000  # of the base's card that are read
_LICENSE = ("license", "license_name", "license_link")
_LIBRARIES = {"model": "transformers", "adapter": "peft"}
# The ranks that vLLM can be started for: `MaxLoRARanks` in vllm/config/lora.py.
_VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
# The model types for which vLLM was seen to apply an adapter of the aligner.
_VLLM_ALIGNERS = ("qwen3_vl",)
_MERGE = "Merge the adapter instead: `swiftalign export CHECKPOINT --output FOLDER` writes a model that vLLM serves.\n"


def model_card(
    source: Source,
    written: Written,
    training: Training,
    *,
    part: Part,
    name: str,
    evaluated: KeptEvaluation | None = None,
) -> str:
    """The card of what was written, as Markdown text with the front matter of the Hugging Face hub.

    Args:
        evaluated: an evaluation of the checkpoint by `swiftalign eval`, if there is one.
        name: what the lines that load it call it: the name of its folder, or its id on the hub.
    """
    config = read_json(source.base_folder / "config.json")
    sections = [
        f"---\n{dump_yaml(_front_matter(source, config, part))}---\n",
        f"# {name.rpartition('/')[2]}\n",
        _about(source, written, part),
        f"## Use\n\n{_place(source, part, name)}{_use(source, written, config, part, name)}",
        f"## Training\n\n{_training(source, training)}",
    ]
    if training.data:
        rows = ((_code(file), _code(digest)) for file, digest in training.data)
        sections.append(_table(("data file", "SHA-256"), rows))
    if training.metrics:
        when = f"after step {training.evaluated:,}" if training.evaluated is not None else "in training"
        best = ", the best of the run until then" if training.best else ""
        sections.append(f"## Evaluation {when}{best}\n\n{metrics_table(training.metrics)}")
    if evaluated:
        of = f"{counted(evaluated.rows, 'row')} of {', '.join(map(_code, evaluated.files))}"
        numbers = metrics_table(evaluated.metrics)
        sections.append(f"## Evaluation of the checkpoint\n\nBy `swiftalign eval`, on {of}:\n\n{numbers}")
    return "\n".join(sections)


def metrics_table(metrics: Mapping[str, float]) -> str:
    """Numbers by their names as a Markdown table, those of an evaluation in training or of any other.

    >>> print(metrics_table({"eval_loss": 0.51234, "eval_bbox_acc": 1.0}))
    | metric | value |
    | --- | --- |
    | `eval_loss` | 0.5123 |
    | `eval_bbox_acc` | 1 |
    <BLANKLINE>
    """
    return _table(("metric", "value"), ((_code(name), f"{value:.4g}") for name, value in metrics.items()))


def _table(heads: tuple[str, str], rows: Iterable[tuple[str, str]]) -> str:
    return "".join(f"| {left} | {right} |\n" for left, right in (heads, ("---", "---"), *rows))


def _code(text: str) -> str:
    """A name from a file as code: it ends neither the code nor the cell of a table."""
    return f"`{''.join('_' if letter in '`|' or not letter.isprintable() else letter for letter in text)}`"


def _text(value: str) -> str:
    """A text as Python writes it, in double quotes."""
    return json.dumps(value, ensure_ascii=False)


def _front_matter(source: Source, config: Mapping[str, Any], part: Part) -> dict[str, Any]:
    """What the hub reads of a card. Licence and language are the base's, where its own card says them.

    References:
        https://huggingface.co/docs/hub/model-cards
    """
    theirs: Any = {}
    with suppress(OSError, ValueError, SwiftalignError), (source.base_folder / CARD).open(encoding="utf-8") as file:
        if found := re.match(r"---\n(.*?)\n---\n", file.read(_MOST_CHARACTERS), re.DOTALL):
            theirs = parse_document(found[1], CARD)
    theirs = theirs if isinstance(theirs, dict) else {}
    task = theirs.get("pipeline_tag") or ("image-text-to-text" if "vision_config" in config else None)
    values = {
        "base_model": source.base_name,
        "base_model_relation": "adapter" if part == "adapter" else "finetune",
        "library_name": _LIBRARIES.get(part),
        "pipeline_tag": task,
        **{key: theirs.get(key) for key in _LICENSE},
    }
    kept = {key: str(value) for key, value in values.items() if isinstance(value, str)}
    form = ["gguf"] if part == "mmproj" else []
    return {**kept, "tags": ["swiftalign", "ms-swift", source.method, *form]}


def _about(source: Source, written: Written, part: Part) -> str:
    """What was written, and what of it differs from the base."""
    base, method = _code(source.base_name), source.method
    changed = f"{counted(len(written.changed), 'tensor')} of the base changed"
    if written.rounded:
        changed += f"; {len(written.rounded)} more were trained, but equal the base's after rounding"
    form = f" Its tensors were converted to {written.dtype}." if written.dtype else ""
    if part == "adapter":
        return f"An adapter for {base}, trained by the method {method}; it is used with its base.{form}\n"
    if part == "mmproj":
        kinds = f"Its matrices are {written.dtype}; vectors and positions are float32."
        return (
            f"llama.cpp's vision file (mmproj) of {base}, tuned by the method {method}: the ViT and the aligner. "
            f"{changed}. {kinds}\nThe LLM is the base's: any GGUF file of it, quantised or not, stays as it is.\n"
        )
    if part == "aligner":
        return f"The aligner of {base}, tuned by the method {method}; it is used in its base. {changed}.{form}\n"
    rest = "" if written.dtype else ", everything else is the base's own, to the byte"
    return f"{base}, tuned by the method {method} and merged. {changed}{rest}.{form}\n"


def _place(source: Source, part: Part, name: str) -> str:
    """Where the lines of a card are to be run: ids of a hub can be used anywhere, names of folders can't."""
    used = [name, *([source.base_name] if part == "adapter" else [])]
    if part != "aligner" and all("/" in each for each in used):
        return ""
    return "These lines call a folder by its name: run them beside it, or write its path.\n\n"


def _use(source: Source, written: Written, config: Mapping[str, Any], part: Part, name: str) -> str:
    """Lines that load what was written, with the class that the base's config names."""
    own = next((each for each in reversed(config.get("auto_map") or ()) if each.startswith("AutoModel")), None)
    model_class = own or class_of(config) or "AutoModelForMultimodalLM"
    trust = ", trust_remote_code=True" if own else ""
    flag, base = " --trust-remote-code" if own else "", source.base_name
    on_hub = "/" in name
    if part == "mmproj":
        file = mmproj_file(name.rpartition("/")[2], str(written.dtype))
        place = file if on_hub else f"{name}/{file}"
        download = f"hf download {name} {file} --local-dir .\n" if on_hub else ""
        return f"""`LLM.gguf` stands for a GGUF file of {_code(base)}.

```bash
{download}llama-server --model LLM.gguf --mmproj {shlex.quote(place)}
```
"""
    if part == "aligner":
        place, download = _text(f"{name}/aligner.safetensors"), ""
        if on_hub:
            place = f'hf_hub_download({_text(name)}, "aligner.safetensors")'
            download = "from huggingface_hub import hf_hub_download\n"
        return f"""This puts the aligner into a copy of the base's folder:

```python
from pathlib import Path
{download}from safetensors.torch import load_file, save_file

aligner = load_file({place})
for file in Path({_text(base.rpartition("/")[2])}).glob("*.safetensors"):
    tensors = load_file(file)
    save_file(tensors | {{key: aligner[key] for key in tensors.keys() & aligner}}, file, {{"format": "pt"}})
```
"""
    if part == "model":
        return f"""```python
from transformers import AutoProcessor, {model_class}

model = {model_class}.from_pretrained({_text(name)}, dtype="auto"{trust})
processor = AutoProcessor.from_pretrained({_text(name)}{trust})
```

What serves the base serves this model, for example vLLM:

```bash
vllm serve {shlex.quote(name)}{flag}
```
"""
    if source.method in ("lora", "dora") and source.layers and config.get("model_type") in REWRITTEN_TYPES:
        return f"peft would put this adapter into other layers of the base. {_MERGE}"
    peft = f"""```python
from peft import PeftModel
from transformers import {model_class}

base = {model_class}.from_pretrained({_text(base)}, dtype="auto"{trust})
model = PeftModel.from_pretrained(base, {_text(name)})
```
"""
    if reason := _refused_by_vllm(source, config):
        return f"{peft}\nvLLM can't use it: {reason}. {_MERGE}"
    rank = next(each for each in _VLLM_RANKS if each >= _largest_rank(source))
    return f"""{peft}
vLLM needs two options, without which it does not apply the adapter to the aligner:

```bash
vllm serve {shlex.quote(base)}{flag} --enable-lora --enable-tower-connector-lora \\
  --max-lora-rank {rank} --lora-modules {shlex.quote(f"{name.rpartition('/')[2]}={name}")}
```
"""


def _refused_by_vllm(source: Source, config: Mapping[str, Any]) -> str:
    """Why vLLM refuses an adapter; empty where it takes it.

    References:
        vLLM `vllm/lora/peft_helper.py`, which checks the adapter's settings.
    """
    if source.config.get("modules_to_save"):
        return "it refuses adapters with `modules_to_save`"
    if source.config.get("use_dora"):
        return "it refuses DoRA"
    if str(source.config.get("peft_type")).upper() != "LORA":
        return f"it knows LoRA, and not {source.method}"
    if source.config.get("bias", "none") != "none":
        return "it refuses adapters that train biases"
    if _largest_rank(source) > _VLLM_RANKS[-1]:
        return f"it knows ranks up to {_VLLM_RANKS[-1]}"
    if config.get("model_type") not in _VLLM_ALIGNERS:
        return "whether it applies adapters of the aligner was tried for Qwen3-VL only"
    return ""


def _largest_rank(source: Source) -> int:
    return max(map(int, (source.config.get("r", 8), *(source.config.get("rank_pattern") or {}).values())))


def _training(source: Source, training: Training) -> str:
    """A table of what was trained, from where, and how long."""
    checkpoint, plan = source.origin.path, source.plan
    rows = [("base", _code(source.base_name)), ("method", source.method)]
    if plan:
        trained = {SPOKEN[name]: count.trainable for name, count in plan.components.items() if count.trainable}
        parts = (f"{number:,} for the {name}" for name, number in trained.items())
        total = f"{plan.trainable_parameters:,} of {plan.total_parameters:,} parameters"
        rows.append(("trained", f"{total}: {', '.join(parts)}"))
    run = f" of the run {_code(checkpoint.parent.name)}" if plan else ""
    reason = source.origin.chosen.reason
    rows.append(("checkpoint", _code(checkpoint.name) + run + (f", {reason}" if reason else "")))
    if source.scale != 1:
        rows.append(("scale", f"{source.scale:g} of the way from the base to the trained values"))
    if training.step is not None:
        planned = plan.schedule.steps if plan else None
        length = f"{training.step:,} of {planned:,} steps" if planned else counted(training.step, "step")
        if plan and plan.schedule.global_batch:
            length += f" of {counted(plan.schedule.global_batch, 'row')}"
        if training.epochs is not None:
            length += f", {training.epochs:.3g} epochs"
        if training.phase:
            length += f", of phase {training.phase}; the phases before it have trained the same weights"
        rows.append(("length", length))
    return _table(("what", "value"), rows)
