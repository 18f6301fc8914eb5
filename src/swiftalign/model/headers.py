"""A model read from the headers of its weight files: names by transformers' rules, and what each module is, by rule.

`tests/test_headers.py` compares every name, shape, kind and dtype with the real classes of transformers.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import takewhile
from typing import Any

from swiftalign.model.components import class_of
from swiftalign.model.conversion import loaded, natural
from swiftalign.model.declared import Declared, declared
from swiftalign.model.safetensors import TensorInfo
from swiftalign.model.tree import NO_COMPONENTS, Kind, Model, Module

# Names of buffers that weight files may hold: constants, statistics and caches, which are no parameters.
_BUFFERS = re.compile(
    r"\.(?:(?<!moe_statics\.)e_score_correction_bias|layer_scalar|global_(?:invstd|mean)|(?:in|out)put_(?:min|max)"
    r"|running_(?:mean|var)|num_batches_tracked|(?:original_)?inv_freq|position_ids|masked_bias)$"
)

# By the last word of a module's name. The last three are embeddings of DeepSeek-OCR 2, Phi-4 and Qwen2.5-Omni.
_EMBEDDING = re.compile(
    r"embed|wte|wpe|^emb$|position|^query_\d+_resolution$|^bias_values$|^audio_bos_eos_token$", re.IGNORECASE
)
_LINEAR = re.compile(r"proj|linear|dense|patch", re.IGNORECASE)
_ROUTER = re.compile(r"(?<!\.feed_forward)\.(?:gate|router)$")  # Llama 4's, in `feed_forward`, is a Linear
_BARE_LAYER_NORM = re.compile(r"\.subsample_conv_projection\.layer\d+\.norm$")  # Gemma 4's, without a bias

_TEXT_LAYER = re.compile(r"(?:thinker\.)?(?:model\.)?(?:language_model\.)?(?:model\.)?layers\.(\d{1,9})\.(.*)")
# What a layer of Gemma lacks that uses the keys and values of another.
_SHARED = re.compile(r"self_attn\.[kv]_(?:proj|norm)\.")

_SPEECH = ("talker.", "token2wav.", "code2wav.")  # what Qwen's omni models speak with

# What ms-swift keeps in float32 if all such tensors of the files are (`swift/model/models/qwen.py`).
_QWEN3_5_FLOAT32 = (r"linear_attn\.A_log$", r"linear_attn\.norm\.weight$")

# Of two names for one weight, the one that the class builds first counts: the LLM before its head, and these.
_FIRST = "model.encoder."


def from_headers(stored: Mapping[str, TensorInfo], config: dict[str, Any], *, source: str, dtype: str | None) -> Model:
    """The model that weight files hold; its architecture is still to be set.

    A tensor that its class does not build is told only if the class declares it, or by the number of its layer.

    Args:
        stored: the tensors by their names in the files.
        dtype: dtype of the weights once loaded; None for that of the first tensor.

    Raises:
        RulesError: transformers' rules can't be loaded, or fail on these tensors.
    """
    made, dtype = loaded(stored, config), dtype or next(iter(stored.values())).dtype
    says = declared(config, class_of(config))
    unbuilt = [name for name in made if _is_unbuilt(name, config, says)]
    files = {name: made[name].files for name in made.keys() - unbuilt}
    float32 = _float32(stored, config, says, dtype)
    own: dict[str, dict[str, TensorInfo]] = defaultdict(dict)
    for name in (name for name in made if name in files and not is_buffer(name)):
        module, _, last = name.rpartition(".")
        kept = any(pattern.search(name) for pattern in float32)
        own[module][last] = TensorInfo(name, made[name].info.shape, "float32" if kept else dtype)
    asked, tied, missing = config.get("tie_word_embeddings"), set(), []
    for name, other in _ties(own, says.ties):
        absent = None
        for lacking, there in ((name, other), (other, name)):
            (module, _, last), (origin, _, same) = lacking.rpartition("."), there.rpartition(".")
            if last not in own.get(module, {}):
                absent, own[module][last] = lacking, replace(own[origin][same], name=lacking)
        if absent and asked is False and not text_config(config).get("tie_word_embeddings"):
            missing.append(absent)
        elif absent or asked:
            tied.add(other if name.startswith(_FIRST) else name)
    by_name: dict[str, Module] = {}
    for name in sorted(own, key=natural):
        parts = name.split(".")
        for depth in range(1, len(parts)):
            # A list may be an nn.Sequential: no tuning method tells them apart, as plans name layers exactly.
            kind = Kind.MODULE_LIST if parts[depth].isdecimal() else Kind.CONTAINER
            by_name.setdefault(".".join(parts[:depth]), Module(".".join(parts[:depth]), kind))
        kind = kind_of(name, own[name])
        parent, _, last = name.rpartition(".")
        if last == "out_proj" and "in_proj_weight" in own.get(parent, {}):
            kind = Kind.PARAMETERS  # a part of torch's MultiheadAttention, and never called
        elif kind is Kind.LAYER_NORM and f"{name}.running_mean" in made:
            kind = Kind.NORM
        by_name[name] = Module(name, kind, tuple(own[name].values()))
    return Model(
        source=source,
        model_type=str(config["model_type"]),
        architecture=NO_COMPONENTS,
        by_name=by_name,
        dtype=dtype,
        tied=frozenset(tied),
        config=config,
        unbuilt=tuple(file for name in unbuilt for file in made[name].files),
        missing=tuple(missing),
        files=files,
    )


def is_buffer(name: str) -> bool:
    """Whether a tensor of weight files is a buffer by its name: no parameter, but a constant or a statistic."""
    return bool(_BUFFERS.search(f".{name}"))


def kind_of(name: str, weights: Mapping[str, TensorInfo]) -> Kind:
    """What a module is, by its name and the shapes of its own weights."""
    weight, bias = weights.get("weight"), weights.get("bias")
    if weight is None or weights.keys() - {"weight", "bias"} or (bias and len(bias.shape) != 1):
        return Kind.PARAMETERS
    sides, word = len(weight.shape), next((part for part in reversed(name.split(".")) if not part.isdecimal()), "")
    if sides == 0:
        return Kind.PARAMETERS
    if sides == 1:
        return Kind.LAYER_NORM if bias or _BARE_LAYER_NORM.search(name) else Kind.NORM
    if sides == 2 and not bias:
        if _ROUTER.search(f".{name}"):
            return Kind.PARAMETERS
        if _EMBEDDING.search(word) and not _LINEAR.search(word):
            return Kind.EMBEDDING
    if sides == 2:
        return Kind.LINEAR
    if bias:  # one number per filter; a transposed convolution's weight begins with the inputs instead
        return Kind.of_convolution(weight.shape) if bias.shape[0] == weight.shape[0] else Kind.PARAMETERS
    return Kind.of_convolution(weight.shape) if sides > 3 or (sides == 3 and "conv" in word) else Kind.PARAMETERS


def _is_unbuilt(name: str, config: Mapping[str, Any], says: Declared) -> bool:
    """Whether the model's classes do not build a tensor of the files."""
    # Declared numbers of layers are those of published models; in others, a layer of that number may be built.
    if any(re.search(pattern, name) for pattern in says.unbuilt if "layers" not in pattern):
        return True
    if config.get("enable_audio_output") is False and name.startswith(_SPEECH):
        return True
    text, layer = text_config(config), _TEXT_LAYER.fullmatch(name)
    layers, shared = text.get("num_hidden_layers"), text.get("num_kv_shared_layers")
    if layer is None or not isinstance(layers, int):
        return False
    number, rest = int(layer[1]), layer[2]
    return number >= layers or (isinstance(shared, int) and number >= layers - shared and bool(_SHARED.match(rest)))


def _float32(
    stored: Mapping[str, TensorInfo], config: Mapping[str, Any], says: Declared, dtype: str
) -> list[re.Pattern[str]]:
    """The names of weights that stay float32 in a model of another dtype."""
    patterns = [*says.float32, *(says.float32_in_float16 if dtype == "float16" else ())]
    if class_of(config).startswith("Qwen3_5"):
        for pattern in _QWEN3_5_FLOAT32:
            dtypes = {tensor.dtype for name, tensor in stored.items() if re.search(pattern, name)}
            patterns += [pattern] if dtypes == {"float32"} else []
    return [re.compile(pattern.replace("*", ".*")) for pattern in patterns]


def _ties(own: Mapping[str, Mapping[str, TensorInfo]], ties: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Pairs of names that may be of one weight, of which the files hold at least one: the tied one, and the other."""
    names = [f"{module}.{last}" for module, weights in own.items() for last in weights]
    for tied, to in ties.items():
        # The patterns end alike: one name becomes the other by another beginning.
        same = len(list(takewhile(lambda ends: ends[0] == ends[1], zip(reversed(tied), reversed(to), strict=False))))
        head, other = tied[: len(tied) - same], to[: len(to) - same]
        found = {head + name.removeprefix(other) for name in names if re.match(to, name)}
        found |= {name for name in names if re.match(tied, name)}
        yield from ((name, other + name.removeprefix(head)) for name in sorted(found, key=natural))


def text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of a config that describes the LLM, which may be the config itself."""
    parts = (config.get(key) for key in ("thinker_config", "text_config", "llm_config", "language_config"))
    part = next((part for part in parts if isinstance(part, Mapping)), None)
    return config if part is None else text_config(part)
