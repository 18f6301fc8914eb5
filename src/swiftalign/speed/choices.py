"""How a run is made fast: decided from the plan, the rows and the card, each choice with its reason."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from swiftalign.config.deepspeed import zero_section
from swiftalign.config.sections import Config
from swiftalign.data.files import RowCounts
from swiftalign.model.tree import Model
from swiftalign.plan.plan import TuningPlan
from swiftalign.plan.resolve import resolve
from swiftalign.problems import ModelError, SwiftalignError
from swiftalign.speed.cards import Card
from swiftalign.speed.memory import CONTEXT, SAFETY, How, Kernels, predict
from swiftalign.speed.timing import batch_seconds, pays_back
from swiftalign.speed.work import ASSUMED, COUNTED_TYPES, Row, Sizes, Trained

LARGEST_BATCH = 256
BATCHES_TIMED = 64


@dataclass(frozen=True)
class Choices:
    """What a run does to be fast.

    Attributes:
        batch: rows of a batch in each process.
        gradient_checkpointing: of the LLM; the ViT, where it is frozen, runs no backward pass at all.
        padding_free: rows of a batch in a line.
        kernels: of the frozen layers: as they are written, Liger's, or compiled.
        frozen_fp8: the LLM's frozen matrices are in FP8.
        vit_checkpointing: where the ViT trains.
        peak: bytes that the largest batch is predicted to take; None where it is not known.
        seconds: of an average batch, predicted; None likewise.
        reasons: choice -> why.
    """

    batch: int = 1
    gradient_checkpointing: bool = True
    padding_free: bool = False
    kernels: Kernels = "plain"
    frozen_fp8: bool = False
    vit_checkpointing: bool = False
    peak: int | None = None
    seconds: float | None = None
    reasons: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Choices:
        return cls(**json.loads(text))


@dataclass(frozen=True)
class Outlook:
    """Predictions for one run on one card.

    Attributes:
        rows: of the data, or assumed.
        parameters: of the base model.
        shards: GPUs that share the weights.
    """

    sizes: Sizes
    trained: Trained
    card: Card
    rows: Sequence[Row]
    parameters: int
    half: bool
    shards: int = 1

    @classmethod
    def of(
        cls, modules: Model, plan: TuningPlan, card: Card, rows: Sequence[Row], *, shards: int = 1
    ) -> Outlook | None:
        """None for a model whose work is not counted here, or whose config leaves sizes to defaults."""
        if plan.model_type not in COUNTED_TYPES:
            return None
        try:
            sizes = Sizes.of(modules.config)
        except (KeyError, TypeError):
            return None
        half = plan.dtype in ("bfloat16", "float16")
        return cls(sizes, Trained.by(plan, modules), card, rows, plan.total_parameters, half, shards)

    def largest(self, batch: int, *, padding_free: bool = True) -> list[Row]:
        """The batch that takes most: the longest rows together, and with padding the one that asks shortest."""
        found = sorted(self.rows, key=lambda row: row.tokens, reverse=True)[:batch]
        found += found[:1] * (batch - len(found))
        if not padding_free and batch > 1:
            found[-1] = min(self.rows, key=lambda row: row.asked)
        return found

    def peak(self, batch: int, how: How) -> int:
        """Bytes that the largest batch takes at most."""
        rows = self.largest(batch, padding_free=how.padding_free)
        return predict(self.sizes, self.trained, self.parameters, rows, how, half=self.half, shards=self.shards).peak

    def fits(self, batch: int, how: How) -> bool:
        return self.peak(batch, how) + CONTEXT <= self.card.memory * (1 - SAFETY)

    def largest_batch(self, how: How) -> int:
        """The most rows of a batch whose largest fits; 0 where not even one does."""
        low, high = 0, LARGEST_BATCH
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.fits(middle, how) else (low, middle - 1)
        return low

    def seconds(self, batch: int, how: How) -> float | None:
        """Of an average batch; None where the card's rates are not known."""
        found = []
        for first in range(0, min(len(self.rows), BATCHES_TIMED * batch), batch):
            rows = [self.rows[index % len(self.rows)] for index in range(first, first + batch)]
            found.append(batch_seconds(self.sizes, self.trained, self.card, rows, how))
        known = [seconds for seconds in found if seconds is not None]
        return sum(known) / len(known) if known else None


@dataclass(frozen=True)
class Settled:
    """A run as it will be on a card.

    Attributes:
        plan: with the batch that fits, where that was asked for.
        outlook: None without a card, or for a model whose work is not counted.
    """

    plan: TuningPlan
    outlook: Outlook | None
    choices: Choices


def settle(
    config: Config,
    modules: Model,
    plan: TuningPlan,
    card: Card | None,
    rows: Sequence[Row],
    *,
    counts: RowCounts | None = None,
) -> Settled:
    """Work out what fits, the plan that follows from it, and the choices.

    Args:
        card: the one that each process trains on.
        rows: that are trained on; where there are none that can be counted, a usual one is assumed.
        counts: numbers of rows that are used; None to count them.

    Raises:
        SwiftalignError: the config asks for what this run can't have.
    """
    processes = plan.schedule.processes
    shards = processes if _shares_weights(config) else 1
    outlook = Outlook.of(modules, plan, card, rows or [ASSUMED], shards=shards) if card else None
    auto = outlook is not None and config.training.per_device_train_batch_size == "auto"
    fitting = fitting_batch(config, plan, outlook) if outlook and auto else 1
    if fitting > 1:  # other batches are other steps
        plan = resolve(config, modules, rows=counts, processes=processes, fitting=fitting)
    return Settled(plan, outlook, choose(config, plan, outlook))


def _shares_weights(config: Config) -> bool:
    """Whether the GPUs of a run share the weights (ZeRO-3)."""
    setting = config.training.deepspeed
    try:
        return bool(setting and zero_section(setting).get("stage") == 3)
    except (ModelError, ValueError):
        return False  # a finding of its own


def choose(
    config: Config, plan: TuningPlan, outlook: Outlook | None, *, has: Callable[[str], bool] | None = None
) -> Choices:
    """The choices of a run: the config's own where it names them.

    Args:
        outlook: None without a GPU, or for a model that is not counted: then as ms-swift chooses.
        has: whether a package, or a program, is there.

    Raises:
        SwiftalignError: the config asks for what this run can't have.
    """
    training = config.training
    reasons: dict[str, str] = {}
    vit_trains = any(item.component == "vit" for item in plan.trainables)
    vit_checkpointing = vit_trains and training.gradient_checkpointing is not False
    batch = plan.schedule.batch
    if outlook is None:
        if training.frozen_fp8:
            raise SwiftalignError(
                f"{config.where('training', 'frozen_fp8')}: training.frozen_fp8 needs a GPU, and a dense Qwen3-VL",
                "leave it out",
            )
        asked = training.gradient_checkpointing
        return Choices(
            batch,
            gradient_checkpointing=True if asked is None else asked,
            padding_free=bool(training.padding_free),
            kernels="compiled" if training.torch_compile else "liger" if training.use_liger_kernel else "plain",
            vit_checkpointing=vit_checkpointing,
            reasons={"gradient_checkpointing": "ms-swift's default; no card is known" if asked is None else _ASKED},
        )
    padding_free = _padding_free(config, reasons)
    kernels = _kernels(config, plan, outlook, padding_free, reasons, has or _has)
    checkpointing = training.gradient_checkpointing
    how = How(bool(checkpointing), padding_free, kernels, training.frozen_fp8)
    if checkpointing is None:
        checkpointing = not outlook.fits(batch, how)
        how = replace(how, checkpointing=checkpointing)
        reasons["gradient_checkpointing"] = (
            "the largest batch does not fit otherwise" if checkpointing else "the largest batch fits without"
        )
    else:
        reasons["gradient_checkpointing"] = _ASKED
    if training.frozen_fp8:
        if plan.model_type != "qwen3_vl" or outlook.trained.llm:
            where = config.where("training", "frozen_fp8")
            fault = f"{where}: training.frozen_fp8 is for a dense Qwen3-VL whose LLM is frozen"
            raise SwiftalignError(fault, "leave it out")
        reasons["frozen_fp8"] = _ASKED
    return Choices(
        batch,
        checkpointing,
        padding_free,
        kernels,
        training.frozen_fp8,
        vit_checkpointing,
        peak=outlook.peak(batch, how),
        seconds=outlook.seconds(batch, how),
        reasons=reasons,
    )


def fitting_batch(config: Config, plan: TuningPlan, outlook: Outlook) -> int:
    """Rows of the largest batch that fits, without checkpointing if it can be; at least 1."""
    kernels = _kernels(config, plan, outlook, True, {}, _has)
    asked, how = config.training.gradient_checkpointing, How(False, _padding_free(config, {}), kernels)
    fitting = 0 if asked else outlook.largest_batch(how)
    if not fitting and asked is not False:
        fitting = outlook.largest_batch(replace(how, checkpointing=True))
    return max(fitting, 1)


_ASKED = "as the config says"
_PLAIN_ATTENTION = (None, "sdpa")


def _padding_free(config: Config, reasons: dict[str, str]) -> bool:
    asked = config.training.padding_free
    other = config.model.attention not in _PLAIN_ATTENTION or (config.data.sequence_parallel_size or 1) > 1
    reasons["padding_free"] = (
        _ASKED if asked is not None else "model.attention is another" if other else "torch has attention for it"
    )
    return not other if asked is None else asked


def _kernels(
    config: Config,
    plan: TuningPlan,
    outlook: Outlook,
    padding_free: bool,
    reasons: dict[str, str],
    has: Callable[[str], bool],
) -> Kernels:
    training = config.training
    liger: Kernels = "plain"
    if training.use_liger_kernel is not False and (training.use_liger_kernel or has("liger_kernel")):
        liger = "liger"
    if training.torch_compile is not None:
        reasons["kernels"] = _ASKED
        return "compiled" if training.torch_compile else liger
    unable = _cannot_compile(config, plan, outlook, has)
    if unable:
        reasons["kernels"] = unable
        return liger
    batches = (plan.schedule.steps or 0) * plan.schedule.accumulation
    slow, fast = (
        outlook.seconds(plan.schedule.batch, How(False, padding_free, kernels)) for kernels in (liger, "compiled")
    )
    if slow is None or fast is None:
        reasons["kernels"] = "the card's speed is not known, so neither whether compiling pays back"
        return liger
    if not pays_back(slow - fast, batches):
        reasons["kernels"] = "compiling would not pay back in so short a run"
        return liger
    reasons["kernels"] = f"compiling saves about {(slow - fast) * 1000:.0f} ms a batch, in {batches:,} batches"
    return "compiled"


def _cannot_compile(config: Config, plan: TuningPlan, outlook: Outlook, has: Callable[[str], bool]) -> str | None:
    """Why not, as far as it has been tried."""
    if plan.model_type != "qwen3_vl":
        return "compiling was not measured for this model"
    if outlook.trained.llm:
        return "the LLM's layers train"
    if config.training.deepspeed or config.training.fsdp:
        return "compiling was not measured with DeepSpeed or FSDP"
    if not has("triton") or not (has("cc") or has("gcc")):
        return "compiling needs triton and a C compiler"
    return None


def _has(name: str) -> bool:
    return importlib.util.find_spec(name) is not None or shutil.which(name) is not None


def read_choices(path: Path) -> Choices:
    """The choices that a run folder keeps; ms-swift's defaults where it keeps none."""
    return Choices.from_json(path.read_text(encoding="utf-8")) if path.exists() else Choices()
