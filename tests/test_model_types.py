"""Ms-swift's type and template of a model are decided before training, or the user is told what to choose from."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swiftalign.checks.base_model import names_of_swift, type_and_template
from swiftalign.config.load import load_config
from swiftalign.config.sections import Config
from swiftalign.model import swift_map
from swiftalign.model.swift_choice import _SIGNS, SwiftChoice, choose
from swiftalign.model.swift_map import architecture, types_of_class
from swiftalign.model.tree import ModelSource
from swiftalign.plan.read import read_model
from swiftalign.plan.resolve import resolve
from swiftalign.problems import ModelError, Problem
from swiftalign.runs.lowering import lower
from swiftalign.speed.choices import Choices
from swiftalign.yaml12 import dump_yaml

CHAT = "chat_template.jinja"


def llm(model_type: str, vocabulary: int | None = None, **others: Any) -> dict[str, Any]:
    sizes = {} if vocabulary is None else {"vocab_size": vocabulary}
    return {"text_config": {"model_type": model_type, **sizes, **others}}


def internvl(model_type: str, conversation: str) -> dict[str, Any]:
    return {"llm_config": {"model_type": model_type}, "template": conversation}


OPEN = None
QWEN3_5, QWEN3_5_MOE = "Qwen3_5ForConditionalGeneration", "Qwen3_5MoeForConditionalGeneration"
THINKS = "{% if enable_thinking %}<think>{% endif %}"
# Class, what else config.json holds, other files, and the type and the template; OPEN where the files can't tell.
CASES: list[tuple[str, dict[str, Any], dict[str, str], tuple[str, str] | None]] = [
    ("LlavaForConditionalGeneration", llm("llama", 32_064), {}, ("llava1_5_hf", "llava1_5_hf")),
    ("LlavaForConditionalGeneration", llm("llama", 128_320), {}, ("llava_llama3_hf", "llava_llama3_hf")),
    (
        "LlavaForConditionalGeneration",
        {**llm("mistral", 131_072), "vision_config": {"model_type": "pixtral"}},
        {},
        ("pixtral", "pixtral"),
    ),
    ("LlavaForConditionalGeneration", {}, {}, OPEN),
    ("LlavaNextForConditionalGeneration", llm("qwen2", 152_064), {}, ("llava_next_qwen_hf",) * 2),
    ("LlavaNextForConditionalGeneration", llm("mistral", 32_064), {}, ("llava1_6_mistral_hf",) * 2),
    ("LlavaNextForConditionalGeneration", llm("llama", 32_064), {}, ("llava1_6_vicuna_hf",) * 2),
    ("LlavaNextForConditionalGeneration", llm("llama", 64_064), {}, ("llava1_6_yi_hf",) * 2),
    ("LlavaNextForConditionalGeneration", llm("llama", 128_320), {}, ("llama3_llava_next_hf",) * 2),
    (
        "LlavaNextForConditionalGeneration",
        llm("llama", 128_320, max_position_embeddings=131_072),
        {},
        ("llava_llama3_1_hf",) * 2,
    ),
    ("LlavaNextForConditionalGeneration", llm("llama"), {}, OPEN),
    ("LlavaNextVideoForConditionalGeneration", llm("llama", 32_064), {}, ("llava_next_video_hf",) * 2),
    (
        "LlavaNextVideoForConditionalGeneration",
        llm("llama", 64_064),
        {},
        ("llava_next_video_yi_hf", "llava_next_video_hf"),
    ),
    ("LlavaNextVideoForConditionalGeneration", llm("llama"), {}, OPEN),
    ("LlavaLlamaForCausalLM", {"vocab_size": 128_256}, {}, ("llama3_llava_next",) * 2),
    ("LlavaLlamaForCausalLM", {"vocab_size": 64_000}, {}, ("yi_vl",) * 2),
    ("Mistral3ForConditionalGeneration", llm("mistral"), {}, OPEN),
    ("Mistral3ForConditionalGeneration", llm("ministral3"), {}, OPEN),
    (
        "Mistral3ForConditionalGeneration",
        llm("ministral3"),
        {"SYSTEM_PROMPT.txt": "You are Ministral."},
        ("mistral3", "mistral_2512"),
    ),
    (
        "Mistral3ForConditionalGeneration",
        llm("ministral3"),
        {"SYSTEM_PROMPT.txt": "Write your thoughts as [THINK]...[/THINK]."},
        ("mistral3", "mistral_2512_thinking"),
    ),
    ("InternVLChatModel", internvl("gpt_oss", "internvl3_5_gpt_oss"), {}, ("internvl_chat", "internvl3_5_gpt")),
    ("InternVLChatModel", internvl("qwen3", "internvl2_5"), {}, ("internvl_chat", "internvl3_5")),
    ("InternVLChatModel", internvl("qwen2", "internvl2_5"), {}, ("internvl_chat", "internvl2_5")),
    ("InternVLChatModel", internvl("internlm2", "internlm2-chat"), {}, OPEN),
    ("InternVLChatModel", internvl("phi3", "phi3-chat"), {}, OPEN),
    ("MiniCPMV", {"hidden_size": 2304, "query_num": 64}, {}, ("minicpmv",) * 2),
    ("MiniCPMV", {"hidden_size": 4096, "query_num": 96}, {}, ("minicpmv2_5",) * 2),
    ("MiniCPMV", {"version": 2.6}, {}, ("minicpmv2_6",) * 2),
    ("MiniCPMV", {"version": "4.0"}, {}, ("minicpmv4",) * 2),
    ("MiniCPMV", {"version": 4.5}, {}, ("minicpmv4_5",) * 2),
    ("MiniCPMV", {}, {}, OPEN),
    ("MiniCPMO", {"version": "2.6"}, {}, ("minicpmo", "minicpmo")),
    ("MiniCPMO", {"version": "4.5"}, {}, ("minicpmo", "minicpmo4_5")),
    ("Qwen2VLForConditionalGeneration", {}, {CHAT: "You are a helpful assistant."}, ("qwen2_vl", "qwen2_vl")),
    ("Qwen2VLForConditionalGeneration", {}, {CHAT: "You should think step-by-step."}, ("qwen2_vl", "qvq")),
    ("Qwen2VLForConditionalGeneration", {}, {}, OPEN),
    ("Qwen2_5_VLForConditionalGeneration", {}, {CHAT: "You are a helpful assistant."}, ("qwen2_5_vl",) * 2),
    (
        "Qwen2_5_VLForConditionalGeneration",
        {},
        {"tokenizer_config.json": '{"chat_template": "You are MiMo, an AI assistant."}'},
        ("qwen2_5_vl", "mimo_vl"),
    ),
    ("Qwen2_5_VLForConditionalGeneration", {}, {"tokenizer_config.json": "not JSON"}, OPEN),
    ("Qwen3VLForConditionalGeneration", {}, {}, ("qwen3_vl", "qwen3_vl")),
    (QWEN3_5, {}, {CHAT: THINKS}, ("qwen3_5", "qwen3_5")),
    (QWEN3_5, {}, {"chat_template.json": json.dumps({"chat_template": THINKS})}, ("qwen3_5", "qwen3_5")),
    (QWEN3_5, {}, {CHAT: f"{{{{ reasoning_effort }}}}{THINKS}"}, ("qwen3_5", "qwen3_8")),
    (QWEN3_5, {}, {CHAT: "always without thoughts"}, OPEN),
    (QWEN3_5_MOE, {}, {CHAT: THINKS}, ("qwen3_5_moe", "qwen3_5")),
    (QWEN3_5_MOE, {}, {CHAT: f"{{{{ reasoning_effort }}}}{THINKS}"}, ("qwen3_5_moe", "qwen3_8")),
    (QWEN3_5_MOE, {}, {}, OPEN),
    ("Gemma4ForConditionalGeneration", llm("g", hidden_size_per_layer_input=256), {}, ("gemma4", "gemma4_nothinking")),
    ("Gemma4ForConditionalGeneration", llm("g", hidden_size_per_layer_input=0), {}, ("gemma4", "gemma4")),
    ("Gemma4ForConditionalGeneration", {}, {}, OPEN),
    ("Glm4vForConditionalGeneration", {}, {CHAT: "{{ '/nothink' }}"}, ("glm4v", "glm4_5v")),
    ("Glm4vForConditionalGeneration", {}, {CHAT: "<think>"}, OPEN),
    ("Ernie4_5_VLMoeForConditionalGeneration", {}, {CHAT: "User: "}, ("ernie_vl", "ernie_vl")),
    (
        "Ernie4_5_VLMoeForConditionalGeneration",
        {},
        {CHAT: "You are a multimodal AI assistant called ERNIE developed by Baidu."},
        ("ernie_vl", "ernie_vl_thinking"),
    ),
    ("PaddleOCRVLForConditionalGeneration", {}, {}, ("paddleocr_vl", "paddle_ocr_1_5")),
    ("PaddleOCRVLForConditionalGeneration", {"auto_map": {"AutoModel": "a.B"}}, {}, OPEN),
    ("Qwen2AudioForConditionalGeneration", {"model_type": "qwen2_audio"}, {}, ("qwen2_audio", "qwen2_audio")),
    ("InternLM2ForCausalLM", {}, {}, ("xcomposer2_4khd", "ixcomposer2")),
    ("InternLMXComposer2ForCausalLM", {}, {}, OPEN),
    ("mPLUGOwl3Model", {}, {}, OPEN),
]
DECIDED = [(*case[:3], case[3]) for case in CASES if case[3]]


def folder_of(case: tuple[Any, ...], folder: Path, name: str = "my-model") -> tuple[dict[str, Any], ModelSource]:
    model_class, others, files, _ = case
    path = folder / name
    path.mkdir()
    config = {"architectures": [model_class], "model_type": "x", **others}
    for file, text in {"config.json": json.dumps(config), **files}.items():
        (path / file).write_text(text, encoding="utf-8")
    return config, ModelSource(str(path))


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}-{case[3][1] if case[3] else 'open'}")
def test_the_files_of_a_model_tell_its_type_and_template(case: tuple[Any, ...], tmp_path: Path) -> None:
    choice = choose(*folder_of(case, tmp_path))
    if expected := case[3]:
        assert (choice.model_type, choice.template, choice.candidates) == (*expected, ())
    else:
        assert choice.template is None
        assert len(choice.candidates) > 1


def test_every_class_that_swift_leaves_open_has_a_case() -> None:
    every = [swift_map._type(source) for source in swift_map._registrations()]
    classes = {
        model_class
        for each in every
        if (found := architecture(each.architecture)) and found.aligner
        for model_class in each.classes
        if sum(len(other.templates) for other in types_of_class(model_class)) > 1
    }
    assert classes == {case[0] for case in CASES}
    named = {name for each in every for name in (each.name, *each.templates)}
    assert named >= _SIGNS.keys()


@pytest.mark.parametrize("case", DECIDED, ids=lambda case: f"{case[0]}-{case[3][1]}")
def test_swift_itself_accepts_what_was_decided(case: tuple[Any, ...], tmp_path: Path) -> None:
    from swift.model import get_model_info_meta
    from swift.template.register import get_template_meta

    config, source = folder_of(case, tmp_path)
    choice = choose(config, source)
    info, meta = get_model_info_meta(source.path, model_type=choice.model_type)
    assert meta.model_type == choice.model_type
    assert get_template_meta(info, meta, template_type=choice.template).template_type == choice.template


def test_a_published_name_decides_as_it_does_for_swift(tmp_path: Path) -> None:
    from swift.model.model_meta import get_matched_model_meta

    for name in ("Qwen3.8-27B", "MiMo-VL-7B-RL", "QVQ-72B-Preview", "OvisOCR2", "GLM-4.6V-Flash", "MiniCPM-o-4_5"):
        meta = get_matched_model_meta(name)
        assert meta is not None, name
        case = (meta.architectures[0], {}, {}, None)
        choice = choose(*folder_of(case, tmp_path, name))
        assert (choice.model_type, choice.template, choice.reason) == (meta.model_type, meta.template, ""), name


def test_a_published_name_of_another_class_decides_nothing(tmp_path: Path) -> None:
    choice = choose(*folder_of((QWEN3_5_MOE, {}, {CHAT: THINKS}, None), tmp_path, "Qwen2.5-VL-7B-Instruct"))
    assert (choice.model_type, choice.template) == ("qwen3_5_moe", "qwen3_5")


@pytest.mark.parametrize("name", ["Qwen3-VL-Embedding-2B", "Qwen3-VL-Reranker-8B"])
def test_a_type_that_writes_no_text_is_taken_on_the_users_word_alone(name: str, tmp_path: Path) -> None:
    config, source = folder_of(("Qwen3VLForConditionalGeneration", {}, {}, None), tmp_path, name)
    assert choose(config, source).model_type is None
    assert choose(config, source).candidates[0] == ("qwen3_vl", "qwen3_vl")
    silent = choose(config, source).candidates[1][0]
    assert choose(config, ModelSource(source.path, type=silent)) == SwiftChoice(silent, silent)
    assert choose(config, ModelSource(source.path, type="qwen3_vl")) == SwiftChoice("qwen3_vl", "qwen3_vl")


def test_the_users_template_may_tell_the_type_and_may_be_any(tmp_path: Path) -> None:
    config, source = folder_of(("Mistral3ForConditionalGeneration", llm("mistral"), {}, None), tmp_path)
    assert choose(config, source, "mistral_2506") == SwiftChoice("mistral3_2506", "mistral_2506")
    assert choose(config, source, "mistral_2503") == SwiftChoice("mistral3", "mistral_2503")
    assert choose(config, ModelSource(source.path, type="mistral3"), "chatml") == SwiftChoice("mistral3", "chatml")
    open_type = choose(config, source, "chatml")
    assert (open_type.model_type, open_type.template) == (None, "chatml")


def test_a_checkpoint_of_swift_says_how_it_was_trained(tmp_path: Path) -> None:
    args = {"args.json": json.dumps({"model_type": "qwen3_5", "template": "qwen3_8"})}
    choice = choose(*folder_of((QWEN3_5, {}, args, None), tmp_path))
    assert (choice.model_type, choice.template, choice.reason) == ("qwen3_5", "qwen3_8", "args.json")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
KEYS = ["text_config", "llm_config", "vision_config", "version", "hidden_size", "query_num", "template", "vocab_size"]


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(sorted({case[0] for case in CASES})),
    st.dictionaries(st.sampled_from([*KEYS, "auto_map", "model_type"]), json_values),
    st.dictionaries(st.sampled_from(["model_type", "vocab_size", "max_position_embeddings"]), json_values),
)
def test_any_config_is_decided_or_left_to_the_user(
    model_class: str, config: dict[str, Any], text: dict[str, Any]
) -> None:
    choice = choose({"architectures": [model_class], "text_config": text, **config}, ModelSource("/no/such/folder"))
    assert bool(choice.template) != bool(choice.candidates)
    pairs = {(each.name, own) for each in types_of_class(model_class) for own in each.templates}
    assert {*choice.candidates, *([(choice.model_type, choice.template)] if choice.template else [])} <= pairs


# -- in a run

SMALL = {
    "architectures": ["Qwen2_5_VLForConditionalGeneration"],
    "model_type": "qwen2_5_vl",
    "text_config": {
        "model_type": "qwen2_5_vl_text",
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "vocab_size": 40,
    },
    "vision_config": {"depth": 1, "hidden_size": 16, "intermediate_size": 24, "num_heads": 2, "out_hidden_size": 32},
}


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Config]:
    """A configuration of a small Qwen2.5-VL without weights."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text(json.dumps(SMALL))

    def write(*texts: str) -> Config:
        files = []
        for number, text in enumerate(texts):
            files.append(tmp_path / f"{number}.yaml")
            files[-1].write_text(text)
        return load_config(files)

    return write


def findings(config: Config) -> list[Problem]:
    model = read_model(config)
    return list(type_and_template(config, model, resolve(config, model)))


def test_an_open_template_is_an_error_whose_fix_decides_it(write: Callable[..., Config], tmp_path: Path) -> None:
    [problem] = findings(write("model: ./model\n"))
    assert (problem.code, problem.severity) == ("template-ambiguous", "error")
    assert problem.where == f"{tmp_path / '0.yaml'}:1"
    assert problem.message == (
        "ms-swift has several templates for the type qwen2_5_vl, and the model's files don't tell which: "
        "qwen2_5_vl, as for Qwen2.5-VL-3B-Instruct, Qwen2.5-VL-7B-Instruct and 6 more; "
        "mimo_vl, as for MiMo-VL-7B-SFT, MiMo-VL-7B-RL"
    )
    config = write("model: ./model\n", dump_yaml(dict(problem.fix or {})))
    assert not findings(config)
    arguments = lower(resolve(config, read_model(config)), config, tmp_path / "run", Choices())
    assert (arguments["model_type"], arguments["template"]) == ("qwen2_5_vl", "qwen2_5_vl")


def test_an_open_type_is_an_error_whose_fix_decides_it(write: Callable[..., Config], tmp_path: Path) -> None:
    values = {**SMALL, "architectures": ["Qwen2VLForConditionalGeneration"], "model_type": "qwen2_vl"}
    values |= {"vision_config": {"depth": 1, "embed_dim": 16, "hidden_size": 32, "num_heads": 2}}
    folder = tmp_path / "gme-Qwen2-VL-2B-Instruct"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(values))
    [problem] = findings(write("model: ./gme-Qwen2-VL-2B-Instruct\n"))
    assert problem.code == "model-type-ambiguous"
    assert problem.message.startswith("ms-swift has several model types for Qwen2VLForConditionalGeneration, and the")
    assert "qwen2_vl with template qwen2_vl, as for Qwen2-VL-2B-Instruct, Qwen2-VL-7B-Instruct and " in problem.message
    assert problem.message.endswith(
        "qwen2_vl with template qvq, as for QVQ-72B-Preview; "
        "qwen2_gme, as for gme-Qwen2-VL-2B-Instruct, gme-Qwen2-VL-7B-Instruct"
    )
    config = write("model: ./gme-Qwen2-VL-2B-Instruct\n", dump_yaml(dict(problem.fix or {})))
    assert not findings(config)
    arguments = lower(resolve(config, read_model(config)), config, tmp_path / "run", Choices())
    assert (arguments["model_type"], arguments["template"]) == ("qwen2_vl", "qwen2_vl")


def test_a_type_that_swift_does_not_have_is_an_error_that_names_those_of_the_class(
    write: Callable[..., Config], tmp_path: Path
) -> None:
    values = {"architectures": ["Qwen2VLForConditionalGeneration"], "model_type": "qwen2_vl"}
    (tmp_path / "model/config.json").write_text(json.dumps(values))
    with pytest.raises(ModelError, match="model type 'qwen3_v'") as caught:
        read_model(write("model: {path: ./model, type: qwen3_v}\n"))
    assert caught.value.message == f"{tmp_path / '0.yaml'}:1: model.type: ms-swift has no model type 'qwen3_v'"
    assert caught.value.hint == "it has for this model: qwen2_gme, qwen2_vl"


@pytest.mark.parametrize(
    ("config", "message", "hint"),
    [
        (
            {"architectures": ["Gemma3nForConditionalGeneration"], "model_type": "gemma3n"},
            "a 'gemma3n' model needs the package timm, which is not installed",
            "pip install timm",
        ),
        (
            {"architectures": ["InternVLChatModel"], "model_type": "internvl_chat"},
            "transformers can't build a 'internvl_chat' model from its config: Unrecognized model identifier: "
            "internvl_chat",
            "check config.json, and that the installed transformers knows this model",
        ),
    ],
    ids=["package", "unknown"],
)
@pytest.mark.skipif(find_spec("timm") is not None, reason="timm is installed")
def test_a_model_that_transformers_cannot_build_is_an_error_of_one_line(
    config: dict[str, Any], message: str, hint: str, write: Callable[..., Config], tmp_path: Path
) -> None:
    (tmp_path / "model/config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError) as caught:
        read_model(write("model: ./model\n"))
    assert (caught.value.message, caught.value.hint) == (message, hint)


@pytest.mark.parametrize(
    ("model", "other", "found"),
    [
        ({"type": "qwen3_6"}, {}, ["model.type: ms-swift has no model type 'qwen3_6'"]),
        ({"type": "qwen3_5"}, {"template": "qwen9"}, ["data.template: ms-swift has no template 'qwen9'"]),
        ({"type": "qwen3_5"}, {"template": "qwen3_8"}, []),
        ({"type": "qwen3_6"}, {"external_plugins": ["mine.py"]}, []),
    ],
    ids=str,
)
def test_names_that_ms_swift_does_not_have_are_found(
    model: dict[str, Any], other: dict[str, Any], found: list[str]
) -> None:
    known = {"path": "Qwen/Qwen3.5-0.8B"}
    plan = resolve(Config.model_validate({"model": known}), read_model(Config.model_validate({"model": known})))
    config = Config.model_validate({"model": known | model, "swift": other})
    problems = list(names_of_swift(config, read_model(Config.model_validate({"model": known})), plan))
    assert [problem.message for problem in problems] == found
    assert all(problem.hint.startswith("did you mean qwen") for problem in problems)
