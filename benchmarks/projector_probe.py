"""What a framework's own code leaves trainable in a tiny Qwen3-VL, as lines of JSON.

``projector.py`` runs this file with the Python of each framework's environment:

    python projector_probe.py LLaMA-Factory [CHECKOUT]

Besides the framework itself it needs torch and transformers alone, of any release that has Qwen3-VL.
"""

from __future__ import annotations

import contextlib
import importlib.abc
import importlib.machinery
import json
import os
import re
import sys
import tempfile
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

PARTS = ("merger", "deepstack mergers", "ViT", "LLM")


@dataclass(frozen=True)
class Case:
    """One setting of a framework, and the model that its function made of the tiny one.

    Attributes:
        setting: what was asked, in the framework's words.
        function: what was called, as ``module:name``.
        model: the model as it would train, or the framework's words where it refuses the setting.
        whole: whether this setting was chosen to train the whole aligner, and not because it speaks of a projector.
    """

    setting: str
    function: str
    model: Any
    whole: bool = False


Build = Callable[[], Any]


def build(*, tied: bool) -> Any:
    """A Qwen3-VL with random weights: four ViT blocks with three deepstack mergers, two LLM layers.

    Args:
        tied: whether the output layer is the word embedding, as in the published 2B and 4B.
    """
    import transformers

    rope: dict[str, Any] = {"rope_type": "default", "mrope_section": [4, 2, 2], "mrope_interleaved": True}
    new = int(transformers.__version__.partition(".")[0]) >= 5
    ropes = {"rope_parameters": {**rope, "rope_theta": 5e6}} if new else {"rope_scaling": rope, "rope_theta": 5e6}
    text = {
        "vocab_size": 270,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "tie_word_embeddings": tied,
        **ropes,
    }
    vision = {
        "depth": 4,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_heads": 2,
        "out_hidden_size": 64,
        "num_position_embeddings": 256,
        "deepstack_visual_indexes": [0, 1, 2],
    }
    tokens = {"image_token_id": 268, "video_token_id": 269, "vision_start_token_id": 265, "vision_end_token_id": 266}
    config = transformers.Qwen3VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=tied, **tokens)
    return transformers.Qwen3VLForConditionalGeneration(config)


def counted(model: Any) -> dict[str, Any]:
    """Tensors of each part that require a gradient, layers with an adapter, and the names of what trains.

    A tensor that a framework trains in place of the model's own, such as peft's copies of ``modules_to_save``, counts
    as that one.
    """
    parts = {part: {"trained": 0, "tensors": 0, "adapted": 0} for part in PARTS}
    names = []
    for name, weight in model.named_parameters():
        count = parts[part_of(name)]
        if ".original_module." in name:
            continue
        if "lora_" in name:
            count["adapted"] += bool(re.search(r"lora_(embedding_)?A", name)) and weight.requires_grad
        else:
            count["tensors"] += 1
            count["trained"] += weight.requires_grad
        if weight.requires_grad:
            names.append(re.sub(r"(?<=\.)\d+(?=\.)", "*", name))
    return {"parts": parts, "trained": list(dict.fromkeys(names))}


def part_of(name: str) -> str:
    if "deepstack_merger_list." in name:
        return "deepstack mergers"
    if re.search(r"\bmerger\.", name):
        return "merger"
    return "ViT" if re.search(r"\b(visual|vision_model|vision_tower)\.", name) else "LLM"


# -- the frameworks ----------------------------------------------------------------------------------------------------


def swiftalign(build: Build) -> Iterator[Case]:
    """What `swiftalign train` gives to its trainer, for `init --method`'s three simplest recipes."""
    from swiftalign import load_config, read_model, resolve
    from swiftalign.init.recipes import write_config
    from swiftalign.runs.folder import Start
    from swiftalign.runs.lowering import lower, to_argv
    from swiftalign.speed.choices import Choices
    from swiftalign.worker.pipeline import AlignerSft

    with saved(build(), processor=True) as folder:
        for method in ("modules_to_save", "lora", "full"):
            file = folder / f"{method}.yaml"
            training = {"output_dir": str(folder / method), "max_steps": 1}
            text = write_config(model=str(folder), method=method, train=str(folder / "rows.jsonl"), training=training)
            file.write_text(text, encoding="utf-8")
            config = load_config([file])
            plan = resolve(config, read_model(config))
            arguments = lower(plan, config, folder / method, Choices()) | {"use_cpu": True}
            pipeline = AlignerSft(to_argv(arguments), config, plan, Choices(), Start())
            model = pipeline.prepare_model(pipeline.args, pipeline.model, template=pipeline.template)
            yield Case(f"init --method {method}", "swiftalign.worker.pipeline:AlignerSft.prepare_model", model)


def ms_swift(build: Build) -> Iterator[Case]:
    from swift.pipelines.train.sft import SwiftSft

    with saved(build(), processor=True) as folder:
        for tuner in ("full", "lora"):
            words = f"--tuner_type {tuner} --freeze_aligner false --freeze_vit true --freeze_llm true"
            where = ["--model", str(folder), "--model_type", "qwen3_vl", "--template", "qwen3_vl"]
            rest = ["--dataset", str(folder / "rows.jsonl"), "--output_dir", str(folder / tuner), "--use_cpu", "true"]
            pipeline = SwiftSft([*where, *rest, *words.split()])
            model = pipeline.prepare_model(pipeline.args, pipeline.model, template=pipeline.template)
            yield Case(words, "swift.pipelines.train.sft:SwiftSft.prepare_model", model)


def llama_factory(build: Build) -> Iterator[Case]:
    from llamafactory.hparams import get_train_args
    from llamafactory.model.adapter import init_adapter

    projector = {"freeze_multi_modal_projector": False}
    alone = {**projector, "freeze_vision_tower": True, "freeze_language_model": True}
    lora = {"finetuning_type": "lora", "lora_target": "all"}
    mergers = ["visual.merger", *(f"deepstack_merger_list.{number}" for number in range(3))]
    layers = ",".join(f"{merger}.linear_fc{number}" for merger in mergers for number in (1, 2))
    asked: list[tuple[dict[str, Any], bool]] = [
        ({"finetuning_type": "full", **alone}, False),
        ({**lora, **alone}, False),
        ({**lora, **projector}, False),
        ({"finetuning_type": "full", **alone, "freeze_vision_tower": False}, True),
        ({**lora, "lora_target": layers, **alone, "freeze_vision_tower": False}, True),
        ({**lora, **projector, "additional_target": ",".join(mergers)}, True),
    ]
    for settings, whole in asked:
        needed = {
            "stage": "sft",
            "do_train": True,
            "model_name_or_path": "tiny",
            "dataset": "rows",
            "report_to": "none",
        }
        with tempfile.TemporaryDirectory() as folder:
            given = get_train_args({**needed, "template": "qwen3_vl", "output_dir": folder, **settings})
        model_args, finetuning_args, model = given[0], given[3], build()
        try:
            model = init_adapter(model.config, model, model_args, finetuning_args, is_trainable=True)
        except ValueError as error:
            model = f"ValueError: {error}"
        yield Case(yaml(settings), "llamafactory.model.adapter:init_adapter", model, whole)


def axolotl(build: Build) -> Iterator[Case]:
    from axolotl.loaders.adapter import load_lora
    from axolotl.utils.dict import DictDefault
    from axolotl.utils.freeze import freeze_layers_except, freeze_mm_modules

    model = build()
    freeze_mm_modules(model)
    yield Case("freeze_mm_modules: true", "axolotl.utils.freeze:freeze_mm_modules", model)
    for patterns, whole in (
        (["merger"], False),
        (["model.visual.merger.*", "model.visual.deepstack_merger_list.*"], True),
    ):
        model = build()
        freeze_layers_except(model, patterns)
        words = f"unfrozen_parameters: [{', '.join(patterns)}]"
        yield Case(words, "axolotl.utils.freeze:freeze_layers_except", model, whole)
    regex = r"model.visual.(merger|deepstack_merger_list.\d+).linear_fc[12]"
    settings = {"adapter": "lora", "lora_r": 8, "lora_alpha": 16, "lora_dropout": 0.0, "lora_target_modules": regex}
    model, _ = load_lora(build(), DictDefault(settings))
    words = yaml({name: settings[name] for name in ("adapter", "lora_target_modules")})
    yield Case(words, "axolotl.loaders.adapter:load_lora", model, True)


def automodel(build: Build) -> Iterator[Case]:
    from nemo_automodel.components.utils.model_utils import apply_parameter_freezing

    whole = [{"path": "model.visual.merger"}, {"path": "model.visual.deepstack_merger_list"}]
    asked: list[tuple[dict[str, Any], bool]] = [
        ({"freeze_vision_tower": True, "freeze_language_model": True}, False),
        ({"freeze_vision_tower": False, "freeze_language_model": True}, False),
        ({"freeze_modules": [{"glob": "*"}], "unfreeze_modules": whole}, True),
    ]
    function = "nemo_automodel.components.utils.model_utils:apply_parameter_freezing"
    for settings, chosen in asked:
        model = build()
        apply_parameter_freezing(model, settings)
        yield Case(f"freeze_config: {{{yaml(settings)}}}", function, model, chosen)


def unsloth(build: Build) -> Iterator[Case]:
    import torch

    if not hasattr(torch.cpu, "empty_cache"):  # it is called before a model is adapted
        torch.cpu.empty_cache = lambda: None
    import unsloth  # noqa: F401  # patches transformers, so it comes first
    from transformers import Trainer
    from unsloth.models.vision import FastBaseModel

    # Its loader replaces transformers' loop of training, and the function insists on it.
    Trainer._inner_training_loop.__name__ = "_fast_inner_training_loop"
    vision = {"finetune_vision_layers": True, "finetune_language_layers": False}
    mergers = [f"deepstack_merger_list.{number}" for number in range(3)]
    for settings, whole in (
        (vision, False),
        ({"target_modules": "all-linear"}, False),
        ({**vision, "modules_to_save": ["visual.merger", *mergers]}, True),
    ):
        model = build()
        model.max_seq_length = 2048  # as its loader leaves it
        model = FastBaseModel.get_peft_model(model, r=8, lora_alpha=8, **settings)
        yield Case(python(settings), "unsloth.models.vision:FastBaseModel.get_peft_model", model, whole)


def megatron_bridge(build: Build) -> Iterator[Case]:
    """Its function, on transformers' model: Megatron's own is built on a GPU only."""
    from megatron.bridge.models.qwen_vl.modelling_qwen3_vl.model import Qwen3VLModel
    from torch import nn

    model = build()
    # In Megatron the output layer belongs to the language model.
    language = nn.ModuleDict({"model": model.model.language_model, "output_layer": model.lm_head})
    its = types.SimpleNamespace(language_model=language, vision_model=model.model.visual)
    settings = {"freeze_language_model": True, "freeze_vision_model": True, "freeze_vision_projection": False}
    Qwen3VLModel.freeze(its, **settings)
    function = "megatron.bridge.models.qwen_vl.modelling_qwen3_vl.model:Qwen3VLModel.freeze"
    yield Case(python(settings), function, model)


def qwen(build: Build) -> Iterator[Case]:
    """Qwen's official script, from its command line until it makes its trainer."""
    import torch
    import transformers
    from qwenvl.train import train_qwen

    transformers.AutoTokenizer = train_qwen.AutoProcessor = Nothing
    train_qwen.make_supervised_data_module, train_qwen.Trainer = (lambda *args, **kwargs: {}), Stop
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    projector, tower = "--tune_mm_mlp True --tune_mm_llm False", "--tune_mm_vision"
    asked = [(f"{projector} {tower} False", False), (f"--lora_enable True {projector} {tower} False", False)]
    for words, whole in (*asked, (f"{projector} {tower} True", True)):
        with saved(build(), "qwen3-vl") as folder:
            argv = ["--model_name_or_path", str(folder), "--output_dir", str(folder / "out"), "--use_cpu", "True"]
            model = stopped(lambda: train_qwen.train(attn_implementation="sdpa"), [*argv, *words.split()])
        yield Case(words, "qwenvl.train.train_qwen:train", model, whole)
    torch.distributed.destroy_process_group()


def of_2u1(build: Build) -> Iterator[Case]:
    """2U1's scripts, from their command lines until they make their trainer."""
    from src.train import train_sft

    train_sft.AutoProcessor, train_sft.QwenSFTTrainer = Nothing, Stop
    train_sft.make_supervised_data_module = lambda *args, **kwargs: {}
    projector = "--freeze_merger False --freeze_vision_tower True --freeze_llm True"
    for words in (projector, f"--lora_enable True {projector}"):
        with saved(build(), "Qwen3-VL") as folder:
            argv = ["--model_id", str(folder), "--output_dir", str(folder / "out"), "--use_cpu", "True"]
            given = [*argv, "--use_liger", "False", "--disable_flash_attn2", "True", *words.split()]
            model = stopped(train_sft.train, given)
        yield Case(words, "src.train.train_sft:train", model)


def xtuner(build: Build) -> Iterator[Case]:
    """XTuner builds Qwen3-VL of its own modules; the sizes are those of the other frameworks' tiny model."""
    import torch

    if not torch.cuda.is_available():
        torch.cuda.Stream = AnyName("Stream", (), {})  # its ViT makes one for offloading
    from xtuner.v1.model.compose.qwen3_vl import qwen3_vl_config as configs

    own = build().config
    vision, text = own.vision_config, own.text_config
    tower = {"depth": vision.depth, "hidden_size": vision.hidden_size, "num_attention_heads": vision.num_heads}
    stacked = {"deepstack_visual_indexes": list(vision.deepstack_visual_indexes)}
    language = configs.Qwen3VLTextDense4BConfig(
        vocab_size=text.vocab_size,
        num_hidden_layers=text.num_hidden_layers,
        hidden_size=text.hidden_size,
        intermediate_size=text.intermediate_size,
        tie_word_embeddings=text.tie_word_embeddings,
    )
    settings = {"freeze_vision": True, "freeze_projector": False, "freeze_language": True}
    config = configs.Qwen3VLBaseConfig(
        vision_config=configs.Qwen3VLVisionConfig(**tower, intermediate_size=vision.intermediate_size, **stacked),
        projector_config=configs.Qwen3VLProjectorConfig(
            vision_hidden_size=vision.hidden_size, text_hidden_size=text.hidden_size, **stacked
        ),
        text_config=language,
        **settings,
    )
    function = "xtuner.v1.model.compose.base:BaseComposeModel._freeze_modules"
    yield Case(python(settings), function, config.build())


FRAMEWORKS: dict[str, Callable[[Build], Iterator[Case]]] = {
    "swiftalign": swiftalign,
    "ms-swift": ms_swift,
    "LLaMA-Factory": llama_factory,
    "axolotl": axolotl,
    "NeMo AutoModel": automodel,
    "Megatron-Bridge": megatron_bridge,
    "unsloth": unsloth,
    "QwenLM/Qwen3-VL": qwen,
    "2U1/Qwen-VL-Series-Finetune": of_2u1,
    "XTuner": xtuner,
}
# Packages for GPUs and clusters that a module imports and its function does not use: empty ones stand in for them.
ABSENT = {
    "QwenLM/Qwen3-VL": ("flash_attn",),
    "Megatron-Bridge": ("transformer_engine",),
}
# The folders of a checkout from which scripts import that are no package, as when they are started.
IMPORTED_FROM = {
    "QwenLM/Qwen3-VL": ("qwen-vl-finetune", "qwen-vl-finetune/qwenvl/train"),
    "2U1/Qwen-VL-Series-Finetune": (".", "src", "src/train"),
}
PACKAGES = {"LLaMA-Factory": "llamafactory", "NeMo AutoModel": "nemo-automodel"}  # where they have another name


# -- what stands in for the rest of a training -------------------------------------------------------------------------


class StopError(Exception):
    """Carries the model that a script was about to train."""


class Stop:
    """In place of a trainer."""

    def __init__(self, *args: Any, model: Any, **kwargs: Any) -> None:
        raise StopError(model)


class Nothing:
    """In place of tokenizers and processors, which have no part in what trains."""

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Nothing:
        return cls()


def stopped(script: Callable[[], None], argv: list[str]) -> Any:
    """The model that a script was about to train."""
    sys.argv = ["train", *argv]
    try:
        script()
    except StopError as stop:
        return stop.args[0]
    raise RuntimeError("the script ended before it made its trainer")


@contextlib.contextmanager
def saved(model: Any, name: str = "tiny", *, processor: bool = False) -> Iterator[Path]:
    """A folder with the model, for what loads it by itself.

    Args:
        name: the folder's name, by which some scripts tell model families apart.
        processor: whether it gets the files of swiftalign's small tokenizer too, and a file for rows.
    """
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / name
        if processor:
            from swiftalign.demo.model import byte_tokenizer, write_model

            write_model(folder, model, byte_tokenizer())
            row = {"messages": [{"role": "user", "content": "where?"}, {"role": "assistant", "content": "[]"}]}
            (folder / "rows.jsonl").write_text(json.dumps(row) + "\n")
        else:
            model.save_pretrained(folder)
        yield folder


class AnyName(type):
    """Makes a class of every name that it is asked for."""

    def __getattr__(cls, name: str) -> type:
        if name.startswith("__"):  # such names say what a class is
            raise AttributeError(name)
        return AnyName(name, (), {})


class Absent(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds packages that are not installed, as modules in which every name is a class that does nothing."""

    def __init__(self, packages: tuple[str, ...]) -> None:
        self.packages = packages

    def find_spec(self, name: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        found = name.partition(".")[0] in self.packages
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if found else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        module = types.ModuleType(spec.name)

        def anything(name: str) -> type:
            if name.startswith("__"):  # such names say what a module is
                raise AttributeError(name)
            return AnyName(name, (), {})

        module.__getattr__ = anything
        return module

    def exec_module(self, module: types.ModuleType) -> None: ...


def yaml(settings: dict[str, Any]) -> str:
    """Settings on one line, as they are written in a file of the framework."""
    values = (each if isinstance(each, str) else json.dumps(each).replace('"', "") for each in settings.values())
    return ", ".join(f"{name}: {value}" for name, value in zip(settings, values, strict=True))


def python(settings: dict[str, Any]) -> str:
    """Settings as arguments in Python."""
    return ", ".join(f"{name}={value!r}" for name, value in settings.items())


def cases(name: str) -> Iterator[dict[str, Any]]:
    """What each setting of a framework trains, with an output layer of its own and with a tied one."""
    for tied in (False, True):
        for case in FRAMEWORKS[name](partial(build, tied=tied)):
            found = {"refused": case.model} if isinstance(case.model, str) else counted(case.model)
            asked = {"setting": case.setting, "chosen": case.whole, "function": case.function}
            yield {"framework": name, **asked, "tied": tied, **found}


def main() -> None:
    name, *checkout = sys.argv[1:]
    os.environ |= {"HF_HUB_OFFLINE": "1", "AXOLOTL_DO_NOT_TRACK": "1", "UNSLOTH_DISABLE_STATISTICS": "1"}
    sys.meta_path.insert(0, Absent(ABSENT.get(name, ())))
    for folder in checkout:
        sys.path[:0] = [str(Path(folder) / part) for part in IMPORTED_FROM.get(name, ())]
    with contextlib.redirect_stdout(sys.stderr):
        found = list(cases(name))
    versions = {package: version(package) for package in ("torch", "transformers", "peft")}
    release = {} if checkout else {"release": version(PACKAGES.get(name, name))}
    for line in found:
        print(json.dumps(line | release | {"versions": versions}))


if __name__ == "__main__":
    main()
