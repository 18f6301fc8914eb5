"""Comparing the names, shapes and dtypes of a checkpoint's tensors with what is expected."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from swiftalign.checkpoint.expected import Expectation
from swiftalign.checkpoint.read import Checkpoint
from swiftalign.methods.keys import ADAPTER_PREFIX, PeftKey
from swiftalign.model.qwen3_vl import QWEN3_VL
from swiftalign.model.safetensors import TensorInfo
from swiftalign.problems import Problem, counted
from swiftalign.problems import names as some

# What wrappers put before or into names: DDP, torch.compile, peft, and peft's adapter name.
_WRAPPERS = re.compile(
    r"(?:^|(?<=\.))(?:module|_orig_mod|base_model\.model|modules_to_save|default|original_module)\.|\.default$"
)
_MERGER = re.compile(r"(?:^|\.)visual\.(merger|deepstack_merger_list\.\d{1,3})\.")


def compare_names(checkpoint: Checkpoint, expectation: Expectation) -> Iterator[Problem]:
    """Missing, unexpected and renamed tensors; wrong shapes, wrong dtypes and empty tensors."""
    found, expected = checkpoint.weights.infos, expectation.tensors
    empty = [name for name, info in found.items() if not info.numel]
    if empty:
        hint = "ZeRO-3 saves such tensors unless stage3_gather_16bit_weights_on_model_save is true"
        yield Problem("tensor-empty", f"{counted(len(empty), 'tensor')} without elements: {some(empty)}", hint)
    if expected is None:
        yield from _check_wrappers(checkpoint)
        yield from _check_mergers(checkpoint)
        return
    missing = [name for name in expected if name not in found]
    extra = [name for name in found if name not in expected and name not in expectation.optional]
    wanted = {canonical(name): name for name in missing}
    renamed = {name: wanted[canonical(name)] for name in extra if canonical(name) in wanted}
    yield from _renamed(renamed)
    missing = [name for name in missing if name not in renamed.values()]
    if missing:
        kept = set(_mergers(expected.keys() - missing))
        gone = [part for part in _mergers(missing) if part not in kept]
        if gone:
            message = f"nothing of {some(f'visual.{part}' for part in gone)}"
            yield Problem("aligner-part-missing", message, "merged, the rest alone would change the model")
        message = f"{counted(len(missing), 'tensor')} missing: {some(missing)}"
        yield Problem("tensor-missing", message, "take another checkpoint, or save it again")
    extra = [name for name in extra if name not in renamed]
    if extra:
        hint = "loaders ignore what they don't expect: was this saved by another run?"
        message = f"{counted(len(extra), 'tensor')} that nothing expects: {some(extra)}"
        yield Problem("tensor-unexpected", message, hint)
    shrinks = expectation.plan is not None and expectation.plan.ranks_may_shrink
    both = [(found[name], info) for name, info in expected.items() if name in found and found[name].numel]
    shapes = [f"{a.name} is {list(a.shape)}, expected {list(b.shape)}" for a, b in both if not _fits(a, b, shrinks)]
    if shapes:
        yield Problem("tensor-shape", f"{counted(len(shapes), 'tensor')} of another shape: {some(shapes, 2)}")
    dtypes = [f"{a.name} is {a.dtype}, expected {b.dtype}" for a, b in both if a.dtype != b.dtype]
    if dtypes and expectation.dtypes:
        yield Problem("tensor-dtype", f"{counted(len(dtypes), 'tensor')} of another dtype: {some(dtypes, 2)}")


def canonical(name: str) -> str:
    """A name without what wrappers and older releases put around it."""
    bare = _WRAPPERS.sub("", name)
    return re.sub(r"^(?:model\.)*(?=visual\.|language_model\.|lm_head\.)", "", bare)


def _renamed(right_names: dict[str, str]) -> Iterator[Problem]:
    if right_names:
        wrong, right = next(iter(right_names.items()))
        message = f"{counted(len(right_names), 'tensor')} under another prefix: {wrong}, expected {right}"
        yield Problem("prefix-wrong", message, "loaders would skip them and keep the base's weights: rename the keys")


def _check_wrappers(checkpoint: Checkpoint) -> Iterator[Problem]:
    """Without expected tensors: names hold nothing of a wrapper that loaders do not remove."""
    found, adapter = checkpoint.weights.infos, checkpoint.adapter
    is_adapter = checkpoint.weights.kind == "adapter" or any(".lora_" in name or ".boft_" in name for name in found)
    prefix = ADAPTER_PREFIX if is_adapter or all(name.startswith(ADAPTER_PREFIX) for name in found) else ""
    right_names = {name: f"{prefix}{_WRAPPERS.sub('', name)}" for name in found}
    # ``bias: all`` saves the biases inside peft's own wrappers too.
    biases = adapter is not None and adapter.saves_biases
    wrong = (name for name, right in right_names.items() if name != right and not (biases and name.endswith(".bias")))
    yield from _renamed({name: right_names[name] for name in wrong})


def _check_mergers(checkpoint: Checkpoint) -> Iterator[Problem]:
    """Without expected tensors: a checkpoint with one merger of Qwen3-VL holds all, or all that its adapter reaches."""
    parts = _mergers(checkpoint.weights.infos)
    lists = [int(part.rpartition(".")[2]) for part in parts if part != "merger"]
    whole = {"merger", *(f"deepstack_merger_list.{index}" for index in range(max([2, *lists]) + 1))}
    gone = [f"{QWEN3_VL.vit[0]}.{part}" for part in sorted(whole - set(parts))]
    if parts and checkpoint.adapter is not None:
        gone = [part for part in gone if checkpoint.adapter.reaches(part)]
    if parts and gone:
        yield Problem("aligner-part-missing", f"nothing of {some(gone)}", "give --config or --base to check by name")


def _mergers(names: Iterable[str]) -> list[str]:
    matches = (_MERGER.search(name) for name in names)
    return list(dict.fromkeys(match[1] for match in matches if match))


def _fits(found: TensorInfo, expected: TensorInfo, ranks_may_shrink: bool) -> bool:
    if found.shape == expected.shape:
        return True
    if ".mlp.experts." in found.name and len(found.shape) == 3:  # the published models' layout: [experts, in, out]
        return found.shape == (expected.shape[0], *reversed(expected.shape[1:]))
    if not ranks_may_shrink or not PeftKey.parse(found.name).factor or len(found.shape) != len(expected.shape):
        return False
    return all(side <= most for side, most in zip(found.shape, expected.shape, strict=True))
