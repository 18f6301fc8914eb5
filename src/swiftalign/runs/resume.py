"""Resuming a run: whether configuration and data are the same as before, and from which checkpoint."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from swiftalign.checkpoint.choose import checkpoints_of
from swiftalign.checkpoint.read import path_now
from swiftalign.checkpoint.verify import verify
from swiftalign.config.load import load_config
from swiftalign.config.sections import Config
from swiftalign.methods.keys import ADALORA_STATE
from swiftalign.model.safetensors import read_json
from swiftalign.plan.plan import TuningPlan, read_plan
from swiftalign.problems import ModelError, RunFolderError, SwiftalignError
from swiftalign.runs.folder import CONFIG_FILE, DATA_FILE, PLAN_FILE

# Settings that may change when a run is resumed, by the last part of their key.
MAY_CHANGE = (
    "output_dir",
    "resume_from_checkpoint",
    "save_steps",
    "save_last_epoch",
    "save_total_limit",
    "logging_steps",
    "report_to",
    "run_name",
    "dataloader_num_workers",
    "dataloader_persistent_workers",
    "dataloader_prefetch_factor",
    "dataloader_pin_memory",
    "per_device_eval_batch_size",
)
# During warm-up nothing may have moved yet, and others may lay files beside a checkpoint: it is sound all the same.
_HARMLESS = frozenset({"nothing-moved", "untouched", "all-zero", "base-renamed", "weights-left-out"})
_NEEDED = frozenset({"state-missing", "optimizer-missing"})  # only warnings for verify-ckpt


def require_same_config(folder: Path, config: Config, same_files: Mapping[str, str] = MappingProxyType({})) -> None:
    """Compare a configuration with the one that a run began with.

    A path is the same if it leads from the run folder to the same place as before: the workspace may have been moved.

    Args:
        same_files: paths of now whose files are those of other paths of then, by the path of now.

    Raises:
        RunFolderError: a setting has changed that may not change.
    """
    try:
        began = load_config([folder / CONFIG_FILE])
    except SwiftalignError as error:
        raise RunFolderError(f"{folder}: its config can't be read: {error}", _ANEW) from None

    def same(old: Any, new: Any) -> bool:
        if not (isinstance(old, str) and isinstance(new, str) and old.startswith("/")):
            return False
        return same_files.get(new) == old or path_now(old, folder) == new

    pairs = _changes(began.model_dump(mode="json"), config.model_dump(mode="json"))
    changed = [(name, old, new) for name, old, new in pairs if not same(old, new)]
    if changed:
        lines = [f"  {name}: {_short(old)}, now {_short(new)}" for name, old, new in changed[:8]]
        rest = [f"  and {len(changed) - 8} more"] if len(changed) > 8 else []
        raise RunFolderError("\n".join([f"{folder}: the run began with another config:", *lines, *rest]), _ANEW)


def require_same_run(folder: Path, config: Config, plan: TuningPlan, digests: Mapping[str, str]) -> None:
    """Compare a configuration, its plan and its data with those that a run began with.

    Args:
        digests: SHA-256 of each data file, by path.

    Raises:
        RunFolderError: the folder holds no run, or another one.
    """
    began = None
    with suppress(ModelError):
        began = read_json(folder / DATA_FILE)
    if not isinstance(began, dict):
        raise RunFolderError(f"{folder}: {DATA_FILE} can't be read", _ANEW)
    files = {str(digest): name for name, digest in began.items()}
    require_same_config(folder, config, {name: files[digest] for name, digest in digests.items() if digest in files})
    try:
        planned = read_plan(folder / PLAN_FILE)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RunFolderError(f"{folder}: its plan can't be read: {error}", _ANEW) from None
    if any(getattr(plan, name) != getattr(planned, name) for name in ("trainables", "tensors", "dtype", "schedule")):
        raise RunFolderError(
            f"{folder}: the model, the number of rows or the number of processes has changed since the run began", _ANEW
        )
    known = {path_now(str(name), folder): digest for name, digest in began.items()} | began
    for name, digest in digests.items():
        if digest not in files or known.get(name, digest) != digest:
            raise RunFolderError(f"{name} has changed since the run began", _ANEW)


_ANEW = "undo the change, or start a new run: --set training.output_dir=runs/NAME"


def _changes(old: Any, new: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Settings that differ, except those that may change."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in dict.fromkeys((*old, *new)):
            if name not in MAY_CHANGE:
                yield from _changes(old.get(name), new.get(name), f"{key}.{name}" if key else str(name))
    elif _are_mappings(old) and _are_mappings(new) and len(old) == len(new):
        for number, items in enumerate(zip(old, new, strict=True)):
            yield from _changes(*items, f"{key}.{number}")
    elif old != new:
        yield key, old, new


def _are_mappings(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, dict) for each in value)


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


@dataclass(frozen=True)
class PassedOver:
    """A checkpoint from which a run can't be resumed.

    Attributes:
        damaged: whether it is damaged or half-written; else it is sound, and lacks the state of the optimizer.
    """

    path: Path
    reason: str
    damaged: bool


def newest_sound(folder: Path, plan: TuningPlan) -> tuple[Path | None, list[PassedOver]]:
    """The newest checkpoint of a run that is sound and holds everything that a resumed run needs.

    Returns:
        The checkpoint, or None if there is none; and the newer checkpoints that can't be used.

    Raises:
        RunFolderError: there is none, and a sound one that no run can be resumed from: beginning anew would replace it.
    """
    passed_over: list[PassedOver] = []
    for checkpoint in reversed(checkpoints_of(folder)):
        if (fault := checkpoint_fault(checkpoint, plan)) is None:
            return checkpoint, passed_over
        passed_over.append(fault)
    for each in passed_over:
        if not each.damaged:
            message = f"{each.path} is sound, but the run can't be resumed from it: {each.reason}"
            hint = "a run with save_only_model: true can't be resumed; start a new run, e.g. from the exported model: "
            raise RunFolderError(message, f"{hint}swiftalign export {each.path} --output MODEL")
    return None, passed_over


def checkpoint_fault(checkpoint: Path, plan: TuningPlan) -> PassedOver | None:
    """Why a run can't be resumed from a checkpoint, on one line; None if it can."""
    try:
        findings = verify(checkpoint, deep=True).findings
    except SwiftalignError as error:
        return PassedOver(checkpoint, error.message, damaged=True)
    wrong = [
        finding
        for finding in findings
        if finding.code in _NEEDED or (finding.severity == "error" and finding.code not in _HARMLESS)
    ]
    if wrong:
        # The trainer's own state is written last: where it is there, nothing else was to come.
        damaged = any(finding.code != "optimizer-missing" for finding in wrong)
        reason = wrong[0].message.removeprefix(f"{checkpoint}: ")
        return PassedOver(checkpoint, f"{reason} [{wrong[0].code}]", damaged)
    if plan.ranks_may_shrink and not (checkpoint / ADALORA_STATE).is_file():
        return PassedOver(checkpoint, f"it has no {ADALORA_STATE}, which is written last", damaged=True)
    return None
