"""Holding the names, shapes and dtypes of a checkpoint against what is expected."""

from __future__ import annotations

import re

from swiftalign.checkpoint.expected import Expectation
from swiftalign.methods.keys import ADAPTER_PREFIX
from swiftalign.model.families import absent_mergers, mergers_of, shape_fits
from swiftalign.model.safetensors import TensorInfo
from swiftalign.problems import Problem, counted
from swiftalign.problems import names as some

# What wrappers put before or into names: DDP, torch.compile, peft, and peft's adapter name.
_WRAPPERS = re.compile(
    r"(?:^|(?<=\.))(?:module|_orig_mod|base_model\.model|modules_to_save|default|original_module)\.|\.default$"
)


def compare_names(found: dict[str, TensorInfo], expectation: Expectation, kind: str) -> list[Problem]:
    """Missing, unexpected and renamed tensors; wrong shapes, dtypes and empty tensors."""
    findings = [_empty(found)] if any(not info.numel for info in found.values()) else []
    if expectation.tensors is None:
        return findings + _wrapped(found, kind, expectation) + _incomplete_aligner(found, expectation)
    expected = expectation.tensors
    missing = [name for name in expected if name not in found]
    extra = [name for name in found if name not in expected and name not in expectation.optional]
    findings += _prefixes(missing, extra)
    if missing:
        findings += _missing(missing, expected)
    if extra:
        hint = "loaders ignore what they don't expect: was this saved by another run?"
        message = f"{counted(len(extra), 'tensor')} that nothing expects: {some(extra)}"
        findings.append(Problem("tensor-unexpected", message, hint))
    return findings + _shapes(found, expectation)


def _empty(found: dict[str, TensorInfo]) -> Problem:
    empty = [name for name, info in found.items() if not info.numel]
    hint = "ZeRO-3 saves such tensors unless stage3_gather_16bit_weights_on_model_save is true"
    return Problem("tensor-empty", f"{counted(len(empty), 'tensor')} without elements: {some(empty)}", hint)


def canonical(name: str) -> str:
    """A name without what wrappers and older releases put around it."""
    bare = _WRAPPERS.sub("", name)
    return re.sub(r"^(?:model\.)*(?=visual\.|language_model\.|lm_head\.)", "", bare)


def _prefixes(missing: list[str], extra: list[str]) -> list[Problem]:
    """Take the tensors that are there under another prefix out of both lists."""
    wanted = {canonical(name): name for name in missing}
    renamed = {name: wanted[canonical(name)] for name in extra if canonical(name) in wanted}
    if not renamed:
        return []
    missing[:] = [name for name in missing if name not in renamed.values()]
    extra[:] = [name for name in extra if name not in renamed]
    wrong, right = next(iter(renamed.items()))
    message = f"{counted(len(renamed), 'tensor')} under another prefix: {wrong}, expected {right}"
    return [Problem("prefix-wrong", message, "loaders would skip them and keep the base's weights: rename the keys")]


def _wrapped(found: dict[str, TensorInfo], kind: str, expectation: Expectation) -> list[Problem]:
    """Without expected tensors: what no loader takes off a name."""
    adapter = kind == "adapter" or any(".lora_" in name or ".boft_" in name for name in found)
    prefix = ADAPTER_PREFIX if adapter or all(name.startswith(ADAPTER_PREFIX) for name in found) else ""
    wrong = {name: f"{prefix}{_WRAPPERS.sub('', name)}" for name in found}
    wrong = {name: right for name, right in wrong.items() if name != right}
    if expectation.adapter is not None and expectation.adapter.saves_biases:  # also those inside peft's own wrappers
        wrong = {name: right for name, right in wrong.items() if not name.endswith(".bias")}
    if not wrong:
        return []
    name, right = next(iter(wrong.items()))
    message = f"{counted(len(wrong), 'tensor')} under another prefix: {name}, expected {right}"
    return [Problem("prefix-wrong", message, "loaders would skip them and keep the base's weights: rename the keys")]


def _missing(missing: list[str], expected: dict[str, TensorInfo]) -> list[Problem]:
    """Whole mergers that are missing are named as such."""
    kept = set(mergers_of(set(expected) - set(missing)))
    gone = [part for part in mergers_of(missing) if part not in kept]
    findings = []
    if gone:
        message = f"nothing of {some(gone)}"
        findings.append(Problem("aligner-part-missing", message, "merged, the rest alone would change the model"))
    message = f"{counted(len(missing), 'tensor')} missing: {some(missing)}"
    return [*findings, Problem("tensor-missing", message, "take another checkpoint, or save it again")]


def _incomplete_aligner(found: dict[str, TensorInfo], expectation: Expectation) -> list[Problem]:
    """Without expected tensors: a checkpoint that holds one merger of Qwen3-VL ought to hold all of them.

    An adapter may go by its config to fewer.
    """
    gone = absent_mergers(found)
    if expectation.adapter is not None:
        gone = [part for part in gone if expectation.adapter.reaches(part)]
    if not gone:
        return []
    message = f"nothing of {some(gone)}"
    return [Problem("aligner-part-missing", message, "give --config or --base to check by name")]


def _shapes(found: dict[str, TensorInfo], expectation: Expectation) -> list[Problem]:
    expected = expectation.tensors or {}
    shrinks = expectation.plan is not None and expectation.plan.ranks_may_shrink
    both = [(found[name], expected[name]) for name in expected if name in found and found[name].numel]
    shapes = [f"{a.name} is {list(a.shape)}, expected {list(b.shape)}" for a, b in both if not _fits(a, b, shrinks)]
    dtypes = [f"{a.name} is {a.dtype}, expected {b.dtype}" for a, b in both if a.dtype != b.dtype]
    findings = []
    if shapes:
        findings.append(
            Problem("tensor-shape", f"{counted(len(shapes), 'tensor')} of another shape: {some(shapes, 2)}")
        )
    if dtypes and expectation.dtypes:
        findings.append(
            Problem("tensor-dtype", f"{counted(len(dtypes), 'tensor')} of another dtype: {some(dtypes, 2)}")
        )
    return findings


def _fits(found: TensorInfo, expected: TensorInfo, ranks_may_shrink: bool) -> bool:
    if shape_fits(found, expected):
        return True
    if not ranks_may_shrink or "lora_" not in found.name or len(found.shape) != len(expected.shape):
        return False
    return all(side <= most for side, most in zip(found.shape, expected.shape, strict=True))
