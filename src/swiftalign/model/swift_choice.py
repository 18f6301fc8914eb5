"""By which of ms-swift's model types a model is loaded, and by which of its templates rows are written.

Several types of ms-swift may share a model class, and several templates a type. Ms-swift goes by the model's name and
leaves the rest to the user. Here the model's files decide as well, where they tell the candidates apart.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from swiftalign.model.components import class_of
from swiftalign.model.hub import cached_folder
from swiftalign.model.safetensors import read_json
from swiftalign.model.swift_map import SwiftType, architecture, type_named, type_of_model, types_of_class
from swiftalign.model.tree import ModelSource
from swiftalign.problems import ModelError

Pair = tuple[str, str]  # a model type and a template of ms-swift


@dataclass(frozen=True)
class SwiftChoice:
    """The type and the template of a model.

    Attributes:
        model_type: ms-swift's model type; None where it is open, or where ms-swift does not know the model.
        template: ms-swift's template; None where it is open, or where ms-swift does not know the model.
        reason: the file that told several candidates apart; empty where there was one, or where a name decided.
        candidates: what the user has to choose from; empty where it is decided.
    """

    model_type: str | None = None
    template: str | None = None
    reason: str = ""
    candidates: tuple[Pair, ...] = ()


def choose(config: Mapping[str, Any], source: ModelSource, template: str | None = None) -> SwiftChoice:
    """Decide the type and the template of a model.

    The user's own words come first, then the model's name among the published ones, then the ``args.json`` that
    ms-swift writes beside a checkpoint, and then what the model's files say. Types whose models write no text, such as
    those for embeddings, are taken on the user's word alone.

    Args:
        config: the model's config.json.
        template: ms-swift's template, as the user gives it.
    """
    files = _Files(config, source)
    types = _types(files, source)
    pairs = [(each.name, name) for each in types for name in each.templates if template in (None, name)]
    if template and not pairs:  # one that ms-swift does not list for the type
        pairs = [(each.name, template) for each in types]
    if not pairs:
        # A family that is known here alone is known to ms-swift by a plugin of the user's.
        return SwiftChoice(source.type or (types[0].name if types else config.get("model_type")), template)
    if not (source.type or template) and not all(each.generates for each in types):
        return SwiftChoice(candidates=tuple(pairs))
    if len(pairs) == 1:
        return SwiftChoice(*pairs[0])
    published, trained = type_of_model(source.path), files.trained_as
    for pair in pairs:
        if published and pair == (published[0].name, published[1]):
            return SwiftChoice(*pair)
        if pair == (trained.get("model_type"), trained.get("template")):
            return SwiftChoice(*pair, "args.json")
    signs = {pair: sign for pair in pairs if (sign := _SIGNS.get(pair[1]) or _SIGNS.get(pair[0]))}
    verdicts = {pair: sign(files) for pair, (_, sign) in signs.items()}
    left = [pair for pair in pairs if verdicts.get(pair) is not False]
    left = [pair for pair in left if verdicts.get(pair)] or left or pairs
    # By some types, ms-swift makes the same of a model; then the name in config.json is taken.
    by_name = {each.name: each for each in types}
    left.sort(key=lambda pair: pair[0] != config.get("model_type"))
    alike = {(by_name[name].loader, by_name[name].architecture, own): (name, own) for name, own in reversed(left)}
    if len(alike) > 1:
        names = {name for name, _ in left}
        return SwiftChoice(names.pop() if len(names) == 1 else None, template, candidates=tuple(left))
    told = {file for pair, (file, _) in signs.items() if verdicts[pair] is not None}
    return SwiftChoice(*next(iter(alike.values())), " and ".join(sorted(told)))


def _types(files: _Files, source: ModelSource) -> list[SwiftType]:
    """The types that a model may be of, by whatever names it."""
    if source.type:
        return [each] if (each := type_named(source.type)) else []
    found, published = types_of_class(class_of(files.config)), type_of_model(source.path)
    trained = type_named(str(files.trained_as.get("model_type")))
    writing = [
        each for each in found if each.generates and (parts := architecture(each.architecture)) and parts.aligner
    ]
    for named in (published[0] if published else None, trained):
        if named and (named in found or not found):
            return [named] if named.generates else [*writing, named]
    if not found:
        return [each] if (each := type_named(str(files.config.get("model_type")))) else []
    return writing or found


class _Files:
    """A model's files, as far as they tell its type.

    Args:
        config: the model's config.json.
    """

    def __init__(self, config: Mapping[str, Any], source: ModelSource) -> None:
        self.config, self._source = config, source

    def part(self, *names: str) -> Mapping[str, Any]:
        """The first section of config.json that is there, else all of it."""
        return next((self.config[name] for name in names if isinstance(self.config.get(name), Mapping)), self.config)

    @property
    def llm(self) -> Mapping[str, Any]:
        return self.part("text_config", "llm_config")

    def vocabulary(self, size: int) -> bool | None:
        """Whether the LLM has a vocabulary of this size, with up to 999 tokens more for images and the like."""
        found = _number(self.llm.get("vocab_size"))
        return None if found is None else size <= found < size + 1000

    def llama(self, vocabulary: int) -> bool | None:
        """Whether the LLM is a Llama with this vocabulary."""
        return self.vocabulary(vocabulary) if self.llm.get("model_type", "llama") == "llama" else False

    @property
    def reads_far(self) -> bool:
        """Whether the LLM is one that reads more than Llama 3."""
        return (_number(self.llm.get("max_position_embeddings")) or 0) > 8192

    @property
    def version(self) -> float | None:
        """The version of a MiniCPM: before 2.6, its config.json does not give it."""
        if (given := _number(self.config.get("version"))) is not None:
            return given
        sizes = self.config.get("hidden_size"), self.config.get("query_num")
        return None if None in sizes else 2.0 if sizes == (2304, 64) else 2.5

    @property
    def embeds_per_layer(self) -> bool | None:
        """Whether the LLM has an embedding in each layer, as Gemma's E2B and E4B have."""
        size = _number(self.llm.get("hidden_size_per_layer_input"))
        return None if size is None else size > 0

    def internvl(self, *, newer: bool) -> bool | None:
        """Whether an InternVL without an LLM that tells its generation has the conversation of 2.5, or an older one."""
        if self.llm.get("model_type") in ("phi3", "qwen3", "qwen3_moe", "gpt_oss"):
            return False
        named = self.config.get("template")
        return None if named is None else (named == "internvl2_5") is newer

    def ministral(self, *, thinks: bool) -> bool | None:
        """Whether the LLM is a Ministral 3 that is told to think, or not to."""
        if self.llm.get("model_type", "ministral3") != "ministral3":
            return False
        prompt = self._text("SYSTEM_PROMPT.txt")
        return ("[THINK]" in prompt) is thinks if prompt else None

    def says(self, text: str) -> bool | None:
        """Whether the model's chat template has a text; None without a chat template."""
        return text in self._chat_template if self._chat_template else None

    @cached_property
    def _chat_template(self) -> str:
        if text := self._text("chat_template.jinja"):
            return text
        found = self._json("chat_template.json") or self._json("tokenizer_config.json")
        return json.dumps(given) if (given := found.get("chat_template")) else ""

    @cached_property
    def trained_as(self) -> Mapping[str, Any]:
        """What ms-swift wrote beside a checkpoint."""
        return self._json("args.json")

    @cached_property
    def _folder(self) -> Path | None:
        path, source = Path(self._source.path), self._source
        return path if path.is_absolute() else cached_folder(source.path, source.revision, source.hub)

    def _json(self, name: str) -> Mapping[str, Any]:
        try:
            found = read_json(self._folder / name) if self._folder else {}
        except ModelError:  # missing or damaged: it tells nothing
            return {}
        return found if isinstance(found, dict) else {}

    def _text(self, name: str) -> str:
        """A file's text; empty where there is none."""
        file = self._folder / name if self._folder else None
        return file.read_text(encoding="utf-8", errors="replace") if file and file.is_file() else ""


def _number(value: Any) -> float | None:
    """A config's number, which may be written as a text."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _config(sign: Callable[[_Files], bool | None]) -> _Sign:
    return "config.json", sign


def _chat(text: str) -> _Sign:
    return "the chat template", lambda files: files.says(text)


def _llm(*model_types: str) -> _Sign:
    return _config(lambda files: files.llm["model_type"] in model_types if "model_type" in files.llm else None)


def _version(number: float) -> _Sign:
    return _config(lambda files: None if files.version is None else files.version == number)


# A template, or a type whose template has no sign -> the file that tells, and whether the model is of it, or None where
# that can't be told. What has no sign is taken where the signs exclude everything else.
_Sign = tuple[str, Callable[[_Files], bool | None]]
_LLAMA, _LLAMA_3, _YI = 32_000, 128_256, 64_000  # sizes of vocabularies
_SIGNS: dict[str, _Sign] = {
    # LLaVA: the LLM
    "pixtral": _config(lambda files: files.part("vision_config").get("model_type") == "pixtral"),
    "llava1_5_hf": _config(lambda files: files.llama(_LLAMA)),
    "llava_llama3_hf": _config(lambda files: files.llama(_LLAMA_3)),
    "llava_next_qwen_hf": _llm("qwen2"),
    "llava1_6_mistral_hf": _llm("mistral"),
    "llava1_6_vicuna_hf": _config(lambda files: files.llama(_LLAMA)),
    "llava1_6_yi_hf": _config(lambda files: files.llama(_YI)),
    "llama3_llava_next_hf": _config(lambda files: files.llama(_LLAMA_3) and not files.reads_far),
    "llava_llama3_1_hf": _config(lambda files: files.llama(_LLAMA_3) and files.reads_far),
    "llava_next_video_yi_hf": _config(lambda files: files.llama(_YI)),
    "llama3_llava_next": _config(lambda files: files.vocabulary(_LLAMA_3)),
    "yi_vl": _config(lambda files: files.vocabulary(_YI)),
    # Mistral 3: the LLM, and the system prompt that ms-swift reads from the model's folder
    "mistral_2503": _llm("mistral"),
    "mistral_2506": _llm("mistral"),
    "mistral_2512": ("SYSTEM_PROMPT.txt", lambda files: files.ministral(thinks=False)),
    "mistral_2512_thinking": ("SYSTEM_PROMPT.txt", lambda files: files.ministral(thinks=True)),
    # InternVL: the LLM, and the conversation that config.json names
    "internvl": _config(lambda files: files.internvl(newer=False)),
    "internvl2": _config(lambda files: files.internvl(newer=False)),
    "internvl2_5": _config(lambda files: files.internvl(newer=True)),
    "internvl_phi3": _llm("phi3"),
    "internvl2_phi3": _llm("phi3"),
    "internvl3_5": _llm("qwen3", "qwen3_moe"),
    "internvl3_5_gpt": _llm("gpt_oss"),
    # MiniCPM: the version
    "minicpmv": _version(2.0),
    "minicpmv2_5": _version(2.5),
    "minicpmv2_6": _version(2.6),
    "minicpmv4": _version(4.0),
    "minicpmv4_5": _version(4.5),
    "minicpmo": _version(2.6),
    "minicpmo4_5": _version(4.5),
    # Templates that differ in the system message, or in how the model thinks
    "mimo_vl": _chat("You are MiMo"),
    "qvq": _chat("You should think step-by-step"),
    "ernie_vl_thinking": _chat("You are a multimodal AI assistant called ERNIE"),
    "qwen3_8": _chat("reasoning_effort"),
    "ovis_ocr2": ("the chat template", lambda files: False if files.says("enable_thinking") else None),
    "glm4_5v": ("the chat template", lambda files: True if files.says("/nothink") else None),
    "gemma4_nothinking": _config(lambda files: files.embeds_per_layer),
    # Only the model's own code builds what this type describes.
    "paddle_ocr": _config(lambda files: None if files.config.get("auto_map") else False),
}
