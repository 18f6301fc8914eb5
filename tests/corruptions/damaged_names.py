"""Damage to names, shapes and dtypes."""

from __future__ import annotations

from collections.abc import Callable

from corruptions.files import Damage, Tensor, first, renamed, tensors

MODEL = "model.safetensors"
PREFIX = "base_model.model."
Held = dict[str, Tensor]


def _keep(wanted: Callable[[str], bool]) -> Callable[[Held], Held]:
    return lambda held: {name: tensor for name, tensor in held.items() if wanted(name)}


def _drop_first(part: str) -> Callable[[Held], None]:
    return lambda held: held.pop(first(held, part)) and None


def _add(name: str) -> Callable[[Held], None]:
    return lambda held: held.update({name: Tensor("F32", [2, 2], b"\1" * 16)})


def _reshape(held: Held, part: str = "linear_fc2.weight") -> None:
    tensor = held[first(held, part)]
    tensor.shape = list(reversed(tensor.shape))


def _longer(held: Held) -> None:
    tensor = held[first(held, "norm.bias")]
    tensor.shape, tensor.data = [tensor.shape[0] + 1], tensor.data + tensor.data[:4]


def _as_bf16(held: Held) -> None:
    """Only the upper half of each float32 stays."""
    for tensor in held.values():
        pairs = memoryview(tensor.data).cast("H")[1::2]
        tensor.dtype, tensor.data = "BF16", pairs.tobytes()


def _as_whole(held: Held) -> None:
    """The bytes of a float32 factor or norm, read as whole numbers."""
    held[next(name for name in held if name.endswith(("lora_A.weight", "input_layernorm.weight")))].dtype = "U32"


def _exchange_ranks(held: Held) -> None:
    """The singular values of two layers of different ranks."""
    values = [name for name in held if name.endswith("lora_E")]
    one, other = next((a, b) for a in values for b in values if held[a].shape != held[b].shape)
    held[one], held[other] = held[other], held[one]


def _emptied(held: Held) -> None:
    for tensor in held.values():
        tensor.shape, tensor.data = [0], b""


def _rank(held: Held) -> None:
    """LoRA factors of rank 4 in place of 8."""
    for name, tensor in held.items():
        half = len(tensor.data) // 2
        rows = tensor.shape[0]
        if name.endswith("lora_A.weight"):
            tensor.shape, tensor.data = [4, tensor.shape[1]], tensor.data[:half]
        else:
            tensor.shape, tensor.data = [rows, 4], tensor.data[:half]


def _one_rank_more(held: Held) -> None:
    for part, axis in ((".lora_A", 0), (".lora_E", 0), (".lora_B", 1)):
        tensor = held[first(held, part)]
        tensor.shape[axis] += 50
        size = 4 * tensor.shape[0] * tensor.shape[1]
        tensor.data = (tensor.data * 60)[:size]


def _own_prefix(name: str) -> str:
    return name.removeprefix(PREFIX)


def _only_merger(name: str) -> bool:
    return "deepstack" not in name


MISSING = ("tensor-missing",)
GONE = ("aligner-part-missing", "tensor-missing")
RENAMED = ("prefix-wrong",)

NAMES: dict[str, Damage] = {
    "one-tensor-missing": Damage(
        "saved",
        tensors(_drop_first("merger.norm.bias")),
        MISSING,
        message=f"1 tensor missing: {PREFIX}model.visual.merger.norm.bias",
    ),
    "lora-factor-missing": Damage("lora", tensors(_drop_first("lora_B.weight")), MISSING),
    "dora-magnitude-missing": Damage("dora", tensors(_drop_first("lora_magnitude_vector")), MISSING),
    "dora-magnitudes-missing": Damage(
        "dora", tensors(_keep(lambda name: "magnitude" not in name)), ("tensor-missing", "adapter-method")
    ),
    "adalora-values-missing": Damage("adalora", tensors(_drop_first("lora_E")), MISSING),
    "boft-scale-missing": Damage("boft", tensors(_drop_first("boft_s")), MISSING),
    "fourierft-spectrum-missing": Damage(
        "fourierft", tensors(_keep(lambda name: ".merger.linear_fc1" not in name)), MISSING
    ),
    "only-merger-saved": Damage("saved", tensors(_keep(_only_merger)), GONE),
    "only-merger-adapted": Damage("lora", tensors(_keep(_only_merger)), GONE),
    "deepstack-merger-missing": Damage(
        "saved",
        tensors(_keep(lambda name: "merger_list.1." not in name)),
        GONE,
        message="no tensor of model.visual.deepstack_merger_list.1 is there",
    ),
    "only-merger-in-a-lone-file": Damage("lone-file", tensors(_keep(_only_merger)), ("aligner-part-missing",)),
    "only-merger-without-base": Damage("alone-without-base", tensors(_keep(_only_merger)), ("aligner-part-missing",)),
    "layer-of-a-model-missing": Damage("merged", tensors(_keep(lambda name: ".layers.2." not in name), MODEL), MISSING),
    "deepstack-of-a-model-missing": Damage("merged", tensors(_keep(_only_merger), MODEL), GONE),
    "deepstack-number-huge": Damage(
        "lone-file",
        renamed(lambda name: name.replace("merger_list.2.", f"merger_list.{10**12}.")),
        ("aligner-part-missing",),
    ),
    "name-endless": Damage("saved", renamed(lambda name: name.replace("linear_fc1", "x" * 2000)), ("header-corrupt",)),
    "tensor-nobody-expects": Damage(
        "saved", tensors(_add(f"{PREFIX}model.visual.extra")), ("tensor-unexpected", "adapter-saved")
    ),
    "tensor-no-model-has": Damage(
        "merged",
        tensors(_add("model.extra.weight"), MODEL),
        ("tensor-unexpected",),
        message="1 tensor not expected: model.extra.weight",
    ),
    "matrix-transposed": Damage(
        "lora", tensors(lambda held: _reshape(held, "lora_A.weight")), ("tensor-shape", "adapter-rank")
    ),
    "saved-matrix-transposed": Damage("saved", tensors(_reshape), ("tensor-shape",)),
    "vector-too-long": Damage("saved", tensors(_longer), ("tensor-shape",)),
    "model-matrix-transposed": Damage("merged", tensors(_reshape, MODEL), ("tensor-shape",)),
    "rank-halved": Damage("lora", tensors(_rank), ("tensor-shape", "adapter-rank")),
    "adalora-rank-above-its-start": Damage("adalora", tensors(_one_rank_more), ("tensor-shape", "adapter-rank")),
    "saved-in-bf16": Damage("saved", tensors(_as_bf16), ("tensor-dtype",)),
    "adapter-in-bf16": Damage("lora", tensors(_as_bf16), ("tensor-dtype",)),
    "ranks-exchanged": Damage("adalora", tensors(_exchange_ranks), ("tensor-shape",)),
    "lone-adapter-of-whole-numbers": Damage("alone", tensors(_as_whole), ("tensor-dtype",)),
    "model-of-whole-numbers": Damage("merged", tensors(_as_whole, MODEL), ("tensor-dtype",)),
    "zero3-empty": Damage("saved", tensors(_emptied), ("tensor-empty",)),
    "zero3-empty-model": Damage("full", tensors(_emptied, MODEL), ("tensor-empty",)),
    "prefix-without-model": Damage(
        "merged", renamed(lambda name: name.replace("model.visual.", "visual."), MODEL), RENAMED
    ),
    "prefix-visual-in-an-adapter": Damage(
        "saved", renamed(lambda name: name.replace("model.model.visual.", "model.visual.")), RENAMED
    ),
    "prefix-model-twice": Damage("merged", renamed(lambda name: f"model.{name}", MODEL), RENAMED),
    "prefix-peft-twice": Damage("lora", renamed(lambda name: PREFIX + name), RENAMED),
    "prefix-peft-missing": Damage("lora", renamed(_own_prefix), RENAMED),
    "prefix-peft-on-a-model": Damage("merged", renamed(lambda name: PREFIX + name, MODEL), RENAMED),
    "prefix-of-ddp": Damage("saved", renamed(lambda name: f"module.{name}"), RENAMED),
    "prefix-of-compile": Damage("merged", renamed(lambda name: f"_orig_mod.{name}", MODEL), RENAMED),
    "prefix-of-compile-inside": Damage(
        "saved", renamed(lambda name: name.replace("merger.", "merger._orig_mod.", 1)), RENAMED
    ),
    "adapter-name-in-keys": Damage("lora", renamed(lambda name: name.replace(".weight", ".default.weight")), RENAMED),
    "adapter-name-at-the-end": Damage("boft", renamed(lambda name: f"{name}.default"), RENAMED),
    "saved-wrapper-in-keys": Damage(
        "saved",
        renamed(lambda name: name.replace("visual.merger.", "visual.merger.modules_to_save.default.")),
        RENAMED,
    ),
    "prefix-of-some-tensors": Damage(
        "lora", renamed(lambda name: name.replace("model.model.", "model.") if "_list" in name else name), RENAMED
    ),
    "prefix-in-a-lone-file": Damage("lone-file", renamed(lambda name: f"module.{name}"), RENAMED),
    "prefix-without-base": Damage("alone-without-base", renamed(_own_prefix), RENAMED),
}
