"""Comparing the names, shapes and dtypes of a checkpoint's tensors with what is expected."""

from __future__ import annotations

import re
from collections.abc import Iterator

from swiftalign.checkpoint.expected import Expectation
from swiftalign.checkpoint.read import Checkpoint
from swiftalign.methods.keys import ADAPTER_PREFIX, PeftKey
from swiftalign.model.families import absent_mergers, merger_layers, mergers_of, shape_fits
from swiftalign.model.headers import is_buffer
from swiftalign.model.safetensors import TensorInfo
from swiftalign.model.stored import quantised_by
from swiftalign.problems import Problem, about
from swiftalign.problems import names as some

# What wrappers put before or into names: DDP, torch.compile, peft, and peft's adapter name.
_WRAPPERS = re.compile(
    r"(?:^|(?<=\.))(?:module|_orig_mod|base_model\.model|modules_to_save|default|original_module)\.|\.default$"
)


def compare_names(checkpoint: Checkpoint, expectation: Expectation) -> Iterator[Problem]:
    """Missing, unexpected and renamed tensors; wrong shapes, wrong dtypes and empty tensors."""
    found, expected = checkpoint.weights.infos, expectation.tensors
    hint = "set stage3_gather_16bit_weights_on_model_save to true: without it, ZeRO-3 saves empty tensors"
    yield from about("tensor-empty", [name for name in found if not found[name].numel], "without elements", hint)
    if expected is None:  # names hold nothing of a wrapper that loaders do not remove, and no merger is missing
        adapter, gone = checkpoint.adapter, absent_mergers(found, expectation.architecture)
        is_adapter = checkpoint.weights.kind == "adapter" or any(".lora_" in name or ".boft_" in name for name in found)
        prefix = ADAPTER_PREFIX if is_adapter or all(name.startswith(ADAPTER_PREFIX) for name in found) else ""
        # ``bias: all`` saves the biases inside peft's own wrappers too.
        excused = ".bias" if adapter is not None and adapter.saves_biases else ()
        right_names = {name: f"{prefix}{_WRAPPERS.sub('', name)}" for name in found if not name.endswith(excused)}
        yield from _renamed({name: right for name, right in right_names.items() if name != right})
        if adapter is not None:  # only the mergers that it reaches
            gone = [part for part in gone if adapter.saves(part) or any(map(adapter.adapts, merger_layers(part)))]
        if gone:
            hint = "add --config or --base, so that the names can be checked"
            yield Problem("aligner-part-missing", f"no tensor of {some(gone)} is there", hint)
        return
    missing = [name for name in expected if name not in found]
    extra = [name for name in found if not (name in expected or name in expectation.optional or is_buffer(name))]
    wanted = {canonical(name): name for name in missing}
    renamed = {name: wanted[canonical(name)] for name in extra if canonical(name) in wanted}
    yield from _renamed(renamed)
    missing = [name for name in missing if name not in renamed.values()]
    layers = {name: PeftKey.parse(name).layer for name in expected}
    kept = mergers_of((layers[name] for name in expected.keys() - missing), expectation.architecture)
    gone = mergers_of((layers[name] for name in missing), expectation.architecture)
    if gone := [part for part in gone if part not in kept]:
        hint = "do not merge it: the other mergers alone would change the model"
        yield Problem("aligner-part-missing", f"no tensor of {some(gone)} is there", hint)
    yield from about("tensor-missing", missing, "missing", "use another checkpoint, or save it again")
    hint = "check that this was saved by the same run: loaders ignore tensors that they do not expect"
    yield from about("tensor-unexpected", [name for name in extra if name not in renamed], "not expected", hint)
    shrinks = expectation.plan is not None and expectation.plan.ranks_may_shrink
    both = [(found[name], info) for name, info in expected.items() if name in found and found[name].numel]
    shapes = [f"{a.name} is {list(a.shape)}, expected {list(b.shape)}" for a, b in both if not _fits(a, b, shrinks)]
    hint = "use another checkpoint"  # its dtypes are expected where the run's plan or config says them
    hint += "" if expectation.dtypes else ", or name the base model of the training with --base"
    yield from about("tensor-shape", shapes, "with a wrong shape", hint, limit=2)
    if shrinks:
        ranks: dict[str, set[int]] = {}
        for a, _ in both:
            if PeftKey.parse(a.name).factor:
                rank = a.shape[-1] if a.name.endswith("lora_B") else a.shape[0]
                ranks.setdefault(PeftKey.parse(a.name).layer, set()).add(rank)
        apart = [layer for layer, found_ranks in ranks.items() if len(found_ranks) > 1]
        yield from about("tensor-shape", apart, "whose factors differ in rank", noun="layer")
    if expectation.dtypes:
        dtypes = [f"{a.name} is {a.dtype}, expected {b.dtype}" for a, b in both if a.dtype != b.dtype]
        yield from about("tensor-dtype", dtypes, "with a wrong dtype", limit=2)
    elif checkpoint.weights.kind == "adapter" or not quantised_by(checkpoint.folder):  # any floating-point dtype may be
        whole = [f"{a.name} is {a.dtype}" for a, b in both if "float" in b.dtype and "float" not in a.dtype]
        yield from about("tensor-dtype", whole, "of whole numbers", "save the checkpoint again", limit=2)


def canonical(name: str) -> str:
    """A name without what wrappers and older releases put around it."""
    return re.sub(r"^(?:model\.)+", "", _WRAPPERS.sub("", name))


def _renamed(right_names: dict[str, str]) -> Iterator[Problem]:
    wrong = [f"{name}, expected {right}" for name, right in right_names.items()]
    hint = "rename the keys: loaders would skip them and keep the base's weights"
    yield from about("prefix-wrong", wrong, "under another prefix", hint, limit=1)


def _fits(found: TensorInfo, expected: TensorInfo, ranks_may_shrink: bool) -> bool:
    if shape_fits(found, expected):
        return True
    if not ranks_may_shrink or not PeftKey.parse(found.name).factor or len(found.shape) != len(expected.shape):
        return False
    return all(side <= most for side, most in zip(found.shape, expected.shape, strict=True))
