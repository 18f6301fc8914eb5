"""Whether a checkpoint is what its run promised: names, shapes, values, and what lies beside the weights.

>>> from pathlib import Path
>>> from swiftalign.checkpoint.verify import verify
>>> verify(Path("runs/stage4/checkpoint-500")).ok  # doctest: +SKIP
True
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from swiftalign.checkpoint.against_base import check_base, compare_with_base, compared_in_words
from swiftalign.checkpoint.beside import check_beside
from swiftalign.checkpoint.companions import check_adapter, check_model_files, check_state
from swiftalign.checkpoint.expected import Expectation, expect
from swiftalign.checkpoint.names import compare_names
from swiftalign.checkpoint.pickles import pickle_refused, read_pickle
from swiftalign.checkpoint.read import Checkpoint, base_of, read_checkpoint, tensors_of_base
from swiftalign.checkpoint.shards import find_shards
from swiftalign.checkpoint.values import Values, check_values, look, look_cheaply, look_deeply, read_initial
from swiftalign.checkpoint.weights import Weights
from swiftalign.config.sections import Config
from swiftalign.methods.keys import PeftKey
from swiftalign.methods.merging import tensor_bytes
from swiftalign.model.safetensors import StoredTensor, TensorInfo
from swiftalign.model.stored import quantised_by
from swiftalign.problems import Problem, printable


@dataclass(frozen=True)
class ModuleRow:
    """One module of the base model in the report's table.

    Attributes:
        module: its dotted name.
        expected: number of tensors that ought to be there; None where nothing says what to expect.
        found: number of tensors that are there.
        moved: number of tensors known to differ from their initial value; None where that is known of no tensor.
        max_change: largest |difference from the base|; None without --base.
    """

    module: str
    expected: int | None
    found: int
    moved: int | None
    max_change: float | None


@dataclass(frozen=True)
class Verification:
    """The result of checking a checkpoint.

    Attributes:
        checkpoint: what its files say.
        expectation: where the expected tensors come from, and what was compared with the base, in words.
        findings: everything that is wrong.
        modules: rows of the report's table.
        aligner: those of its tensors that lie in the model's aligner.
        values: what is known of each tensor's values, by name.
        base_tensors: tensors of the base model that --base names, as `stored_tensors` names them.
        values_read: whether every byte was read, and not only headers and small tensors.
        state: where a trainer's shards hold the optimizer's state, and how to resume from them, in words.
    """

    checkpoint: Checkpoint
    expectation: str
    findings: tuple[Problem, ...]
    modules: tuple[ModuleRow, ...] = ()
    aligner: tuple[TensorInfo, ...] = ()
    values: dict[str, Values] = field(default_factory=dict)
    base_tensors: dict[str, StoredTensor] = field(default_factory=dict)
    values_read: bool = False
    state: str = ""

    @property
    def ok(self) -> bool:
        """Whether no finding is an error."""
        return not any(finding.severity == "error" for finding in self.findings)

    @property
    def about_base(self) -> tuple[str, ...]:
        """The warnings about the base, which an export and an evaluation repeat."""
        return tuple(each.message for each in self.findings if each.code in ("base-renamed", "base-quantised"))

    def to_json(self) -> dict[str, Any]:
        """What ``verify-ckpt --json`` prints: findings, and name, shape, dtype and known values of each tensor."""
        return {
            "path": str(self.checkpoint.path),
            "chosen": self.checkpoint.chosen.to_json(),
            "ok": self.ok,
            "kind": self.checkpoint.weights.kind,
            "expectation": self.expectation,
            "values_read": self.values_read,
            "state": self.state,
            "findings": [finding.to_json() for finding in self.findings],
            "tensors": [self._tensor(info) for info in self.checkpoint.weights.infos.values()],
        }

    def _tensor(self, info: TensorInfo) -> dict[str, Any]:
        values = self.values.get(info.name, Values())
        known = {"finite": values.finite, "moved": values.moved, "max_change": values.max_change}
        plain = {"name": info.name, "shape": list(info.shape), "dtype": info.dtype}
        return plain | {name: value for name, value in known.items() if value is not None}


def verify(
    source: str | Path | Checkpoint,
    *,
    config: Config | None = None,
    base: Path | None = None,
    deep: bool = False,
    resumable: bool = True,
    which: str | int | None = None,
) -> Verification:
    """Check a checkpoint folder, a checkpoint of a run folder, a model folder or a weight file.

    Faults of the checkpoint do not raise: they become findings. No code that a file holds is run.

    Args:
        source: a path, or what `read_checkpoint` has read from it.
        config: configuration of the run, where the checkpoint lies apart from its run folder.
        base: folder of the base model, or its id in the hub's cache: only what the plan trains may differ from it, and
            all of that must.
        deep: read every byte, and not only headers and small tensors.
        resumable: check trainer and optimizer state too.
        which: the checkpoint of a run folder: ``best``, ``last`` or the number of a step; by default its best one if
            the run keeps the best model, else its newest.

    Returns:
        What was found: ``ok`` says whether the checkpoint is sound, ``findings`` what is wrong with it.

    Raises:
        ModelError: there is nothing to check at this path, or the plan or the base can't be read.
    """
    checkpoint = source if isinstance(source, Checkpoint) else read_checkpoint(Path(source), which)
    weights = checkpoint.weights
    base = base_of(checkpoint, base) if base is not None else None
    base_tensors = tensors_of_base(base) if base is not None else {}
    expectation = expect(checkpoint, config=config, base=base, base_tensors=base_tensors)
    initial, method = read_initial(checkpoint.folder), expectation.train_type
    values: dict[str, Values] = {}
    if not deep:
        values = {name: look_cheaply(tensor, initial, method) for name, tensor in weights.stored.items()}
    elif weights.stored:
        values = look_deeply(list(weights.stored.values()), initial, method)
    elif weights.infos and not weights.damaged:
        try:
            tensors = read_pickle(weights.files[-1], "cpu")
            held = {weights.renamed.get(name, name): tensor for name, tensor in tensors.items()}
            values = {
                name: look(info, [tensor_bytes(held[name])], initial, method)
                for name, info in weights.infos.items()
                if name in held
            }
        except Exception as error:
            weights.problems.append(pickle_refused(weights.files[-1], error))
    findings = list(weights.problems)
    if not weights.damaged:
        findings += compare_names(checkpoint, expectation)
    if weights.kind == "adapter" and not weights.damaged:
        # Where tensors are missing or misnamed, targets and saved modules can't fit: that would be the same problem.
        misnamed = any(finding.code in ("prefix-wrong", "tensor-missing") for finding in findings)
        findings += check_adapter(checkpoint, expectation.plan, misnamed=misnamed)
        if checkpoint.adapter:
            findings += check_base(checkpoint.adapter, expectation.plan, base, base_tensors, deep=deep)
    if weights.kind in ("adapter", "model") and not weights.damaged:
        findings += check_beside(checkpoint, deep=deep)
    if weights.kind == "model":
        findings += check_model_files(checkpoint, deep=deep)
    if weights.kind != "file" and resumable:
        findings += check_state(checkpoint.folder, expectation.plan, deep=deep)
    if base is not None and not weights.damaged:
        findings += compare_with_base(weights, expectation, base_tensors, values, quantised=quantised_by(base))
    findings += check_values(weights, values, expectation)
    shards = find_shards(checkpoint.folder) if resumable else None
    return Verification(
        checkpoint,
        printable(expectation.source + (compared_in_words(weights, expectation, base) if base is not None else "")),
        tuple(replace(finding, message=printable(finding.message)) for finding in findings),
        tuple(_rows(weights, values, expectation)),
        tuple(info for name, info in weights.infos.items() if expectation.in_aligner(name)),
        values,
        base_tensors,
        deep,
        printable(shards.state) if shards else "",
    )


def _rows(weights: Weights, values: dict[str, Values], expectation: Expectation) -> Iterator[ModuleRow]:
    """By module of the base model, those first that are expected."""
    expected = Counter(PeftKey.parse(name).layer or name for name in expectation.tensors or ())
    found = Counter(PeftKey.parse(name).layer or name for name in weights.infos)
    modules: dict[str, list[Values]] = {module: [] for module in (*expected, *found)}
    makes = {name: tensor.makes for name, tensor in weights.stored.items()}
    for name, value in values.items():
        for made in makes.get(name) or (name,):
            modules[PeftKey.parse(made).layer or made].append(value)
    for module, known in modules.items():
        moves = [value.moved for value in known if value.moved is not None]
        changes = [value.max_change for value in known if value.max_change is not None]
        yield ModuleRow(
            printable(module),
            expected[module] if expectation.tensors is not None else None,
            found[module],
            sum(moves) if moves else None,
            max(changes, default=None),
        )
