"""Whether a checkpoint is what its run promised: names, shapes, values, and what lies beside the weights.

>>> from pathlib import Path
>>> from swiftalign.checkpoint.verify import verify
>>> verify(Path("runs/stage4/checkpoint-500")).ok  # doctest: +SKIP
True
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swiftalign.checkpoint.against_base import compare_with_base, compared_in_words
from swiftalign.checkpoint.companions import check_adapter_config, check_model_files, check_state
from swiftalign.checkpoint.expected import Expectation, expect
from swiftalign.checkpoint.movement import check_movement
from swiftalign.checkpoint.names import compare_names
from swiftalign.checkpoint.values import Values, look_at_pickle, look_cheaply, look_deeply, read_initial
from swiftalign.checkpoint.weights import PICKLE_ERRORS, Weights, load_pickle, read_weights
from swiftalign.methods.keys import ADAPTER_PREFIX, adapter_part
from swiftalign.model.safetensors import StoredTensor, TensorInfo
from swiftalign.problems import ModelError, Problem

if TYPE_CHECKING:
    from swiftalign.config.sections import Config

__all__ = ["Verification", "checkpoints_of", "verify"]

_CHECKPOINT, _PHASE = re.compile(r"checkpoint-(\d+)"), re.compile(r"phase-(\d+)")


@dataclass(frozen=True)
class ModuleRow:
    """One module of the checkpoint in the report's table.

    Attributes:
        expected: tensors that ought to be there; None where nothing says.
        moved: tensors known to differ from their initial value; None where that is known of none.
        max_change: largest |difference from the base|; None without --base.
    """

    module: str
    expected: int | None
    found: int
    moved: int | None
    max_change: float | None


@dataclass(frozen=True)
class Verification:
    """What a look at a checkpoint found.

    Attributes:
        expectation: where the expected tensors come from, in words, and what was held against the base.
        tensors: everything that is there, by name.
        values: what is known of each tensor's values.
    """

    path: Path
    kind: str
    expectation: str
    tensors: dict[str, TensorInfo]
    findings: tuple[Problem, ...]
    modules: tuple[ModuleRow, ...] = ()
    values: dict[str, Values] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return not any(finding.severity == "error" for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        return {
            "path": str(self.path),
            "ok": self.ok,
            "kind": self.kind,
            "expectation": self.expectation,
            "findings": [finding.to_json() for finding in self.findings],
            "tensors": [self._tensor(info) for info in self.tensors.values()],
        }

    def _tensor(self, info: TensorInfo) -> dict[str, Any]:
        known = self.values.get(info.name, Values())
        extra = {"finite": known.finite, "moved": known.moved, "max_change": known.max_change}
        told = {name: value for name, value in extra.items() if value is not None}
        return {"name": info.name, "shape": list(info.shape), "dtype": info.dtype, **told}


def checkpoints_of(path: Path) -> list[Path]:
    """The checkpoints of a run folder, the newest last, of its last phase that has any; empty where it is none.

    Raises:
        ModelError: there is no such path, or it holds whole runs.
    """
    if not path.exists():
        raise ModelError(f"{path}: no such file or folder", "name a checkpoint-N folder, a run folder or a weight file")
    if not path.is_dir():
        return []
    found = _checkpoints(path)
    if not found and not any(path.glob("*config.json")):
        runs = [child for child in path.iterdir() if child.is_dir() and _checkpoints(child)]
        if runs:
            newest = max(runs, key=lambda run: run.stat().st_mtime)
            raise ModelError(f"{path}: holds runs, and is none itself", f"name one of them, as {newest}")
    return found


def _checkpoints(path: Path) -> list[Path]:
    found = _numbered(path, _CHECKPOINT)
    phases = [] if found else _numbered(path, _PHASE)
    return found or next((inside for phase in reversed(phases) if (inside := _numbered(phase, _CHECKPOINT))), [])


def _numbered(folder: Path, name: re.Pattern[str]) -> list[Path]:
    found = [(int(match[1]), child) for child in folder.iterdir() if (match := name.fullmatch(child.name))]
    return [child for _, child in sorted(found) if child.is_dir()]


def verify(
    path: Path, *, config: Config | None = None, base: Path | None = None, deep: bool = False, resumable: bool = True
) -> Verification:
    """Check a checkpoint folder, a run folder (its newest checkpoint), a model folder or a weight file.

    Faults do not raise: they become findings.

    Args:
        config: of the run, where the checkpoint lies apart from its run folder.
        base: folder of the base model: what differs from it must be what the plan trains.
        deep: read every byte, and not only headers and small tensors.
        resumable: look at trainer and optimizer state too.

    Raises:
        ModelError: there is nothing to check at this path, or the plan or the base can't be read.
    """
    checkpoints = checkpoints_of(path)
    path = checkpoints[-1] if checkpoints else path
    weights = read_weights(path)
    folder = path if path.is_dir() else path.parent
    expectation = expect(folder, weights.kind, config=config, base=base)
    values = _values(folder, weights, expectation, deep=deep)
    findings = list(weights.findings)
    if not weights.damaged:
        findings += compare_names(weights.infos, expectation, weights.kind)
    # Configs that don't fit tensors under wrong names, or that are missing, would say the same once more.
    misnamed = bool({"prefix-wrong", "tensor-missing"} & {finding.code for finding in findings})
    findings += _beside(folder, weights, expectation, base=base, misnamed=misnamed, deep=deep)
    if weights.kind != "file" and resumable:
        findings += check_state(folder, expectation, deep=deep)
    if base is not None and not weights.damaged:
        findings += compare_with_base(weights, expectation, base, values)
    findings += check_movement(weights.infos, values, expectation)
    findings = [replace(finding, message=_printable(finding.message)) for finding in findings]
    rows = tuple(_rows(weights.infos, values, expectation))
    source = expectation.source + (compared_in_words(weights, expectation, base) if base is not None else "")
    return Verification(path, weights.kind, _printable(source), weights.infos, tuple(findings), rows, values)


def _beside(
    folder: Path, weights: Weights, expectation: Expectation, *, base: Path | None, misnamed: bool, deep: bool
) -> Iterator[Problem]:
    if weights.kind == "adapter" and not weights.damaged:
        yield from check_adapter_config(folder, weights.infos, expectation, base=base, misnamed=misnamed)
    if weights.kind == "model":
        yield from check_model_files(folder, weights, deep=deep)


def _printable(text: str) -> str:
    """Names come from files: what a terminal would obey, or can't show, is spelled out."""
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)


def _values(folder: Path, weights: Weights, expectation: Expectation, *, deep: bool) -> dict[str, Values]:
    initial = read_initial(folder)
    method = expectation.plan.train_type if expectation.plan else None
    tensors: list[StoredTensor] = list(weights.stored.values())
    if deep and weights.stored:
        return look_deeply(tensors, initial, method)
    if deep and not weights.damaged and weights.infos:
        try:
            return look_at_pickle(load_pickle(weights.files[-1], "cpu"), initial, method)
        except PICKLE_ERRORS as error:
            weights.refuse_pickle(weights.files[-1], error)
    return {tensor.info.name: look_cheaply(tensor, initial, method) for tensor in tensors}


def _rows(found: dict[str, TensorInfo], values: dict[str, Values], expectation: Expectation) -> Iterator[ModuleRow]:
    """By module of the base model, those first that ought to be there."""
    expected = expectation.tensors
    modules: dict[str, tuple[list[str], list[str]]] = {}
    for name in expected or ():
        modules.setdefault(_module(name), ([], []))[0].append(name)
    for name in found:
        modules.setdefault(_module(name), ([], []))[1].append(name)
    for module, (wanted, held) in modules.items():
        known = [values[name] for name in held if name in values]
        moves = [value.moved for value in known if value.moved is not None]
        changes = [value.max_change for value in known if value.max_change is not None]
        yield ModuleRow(
            _printable(module),
            len(wanted) if expected is not None else None,
            len(held),
            sum(moves) if moves else None,
            max(changes) if changes else None,
        )


def _module(name: str) -> str:
    part = adapter_part(name)
    return part[0] if part else re.sub(r"(?:\.base_layer)?\.(?:weight|bias)$", "", name.removeprefix(ADAPTER_PREFIX))
