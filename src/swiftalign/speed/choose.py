"""Choosing how a run is made fast, from the plan, the rows and the card; each choice has a reason."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from swiftalign.config.sections import Config
from swiftalign.config.sharding import divides_weights, way_of, zero_section
from swiftalign.data.files import RowCounts
from swiftalign.model.families import find
from swiftalign.model.tree import Model
from swiftalign.plan.plan import TuningPlan
from swiftalign.plan.resolve import resolve
from swiftalign.problems import ModelError, SwiftalignError
from swiftalign.speed.cards import GIB, Card
from swiftalign.speed.choices import Choices
from swiftalign.speed.predictor import Predictor
from swiftalign.speed.work import ASSUMED, Row

_COMPILE_SECONDS = 35.0
_AS_CONFIGURED = "as the config says"


def choose_for_card(
    config: Config,
    model: Model,
    plan: TuningPlan,
    card: Card | None,
    rows: Sequence[Row],
    *,
    counts: RowCounts | None = None,
) -> tuple[TuningPlan, Choices, Predictor | None]:
    """Work out the batch that fits, the plan that follows from it, and the choices.

    Args:
        card: the GPU that each process trains on; None without a GPU.
        rows: the rows to train on, as far as they can be counted; without any, a usual row is assumed.
        counts: numbers of rows to train and validate on; None to count them where they are needed.

    Returns:
        The plan of the run, its choices, and what predicts it: None without a card, or for a model without predictions.

    Raises:
        SwiftalignError: the config asks for something that this run can't have.
    """
    processes = plan.schedule.processes
    predictor = Predictor.of(model, plan, card, rows or [ASSUMED]) if card else None
    sharding, why = spread(config, plan, predictor)
    predictor = predictor and predictor.spread(sharding, processes)
    auto = config.training.per_device_train_batch_size == "auto"
    if predictor and auto and (fitting := fitting_batch(config, plan, predictor)) > 1:
        # Another batch changes the number of steps.
        plan = resolve(config, model, rows=counts, processes=processes, fitting=fitting)
    choices = choose(config, plan, predictor, sharding)
    if processes > 1 or why == _AS_CONFIGURED:
        choices = replace(choices, reasons={"sharding": why, **choices.reasons})
    return plan, choices, predictor


def spread(config: Config, plan: TuningPlan, predictor: Predictor | None) -> tuple[str, str]:
    """How the run is spread over GPUs, and why.

    Args:
        predictor: None without a GPU, or for a model without predictions.

    Raises:
        SwiftalignError: the model has to be divided, and the config asks for what can't be.
    """
    with suppress(ModelError, ValueError):  # pre-flight reports them
        if asked := asked_way(config):
            return asked, _AS_CONFIGURED
    way, why = automatic(config, plan, predictor)
    if divides_weights(way) and config.training.frozen_fp8:
        where = config.where("training", "frozen_fp8")
        message = f"{where}: training.frozen_fp8: the model does not fit each GPU, and FP8 matrices can't be divided"
        raise SwiftalignError(message, "leave it out")
    return way, why


def asked_way(config: Config) -> str | None:
    """The way of spreading that the config names, in ``deepspeed`` or in ``sharding``; None where it is left open.

    Raises:
        ModelError, ValueError: see `swiftalign.config.sharding.deepspeed_settings`.
    """
    training = config.training
    if training.deepspeed:
        return way_of(zero_section(training.deepspeed))
    return None if training.sharding == "auto" else training.sharding


def automatic(config: Config, plan: TuningPlan, predictor: Predictor | None) -> tuple[str, str]:
    """The way of spreading that ``sharding: auto`` takes, and why; see `spread`."""
    if plan.schedule.processes == 1:
        return "ddp", "there is one process"
    if predictor is None:
        return "ddp", "the memory that the run takes is not known"
    if fits_at_worst(config, plan, predictor, "ddp"):
        return "ddp", "the whole model fits each GPU"
    room, kept = (f"{size / GIB:.0f} GiB" for size in (predictor.card.memory, predictor.weights.layers))
    if fits_at_worst(config, plan, predictor, "fsdp2"):
        return "fsdp2", f"the whole model does not fit into {room}"
    why = f"a GPU's share of the layers does not fit into {room}; {kept} of them stay in the machine's memory"
    return "fsdp2_offload", why


def fits_at_worst(config: Config, plan: TuningPlan, predictor: Predictor, sharding: str) -> bool:
    """Whether a run that is spread in this way fits each GPU, with gradient checkpointing if it may be used.

    Of a batch that the run is to choose itself, one row has to fit.
    """
    training, there = config.training, predictor.spread(sharding, plan.schedule.processes)
    batch = 1 if training.per_device_train_batch_size == "auto" else plan.schedule.batch
    choices = replace(_without_checkpointing(config, plan, there), batch=batch)
    return there.fits(replace(choices, gradient_checkpointing=training.gradient_checkpointing is not False))


def _installed(name: str) -> bool:
    """Whether a Python package or a program of this name is there."""
    with suppress(ModuleNotFoundError):  # the package around it
        if importlib.util.find_spec(name) is not None:
            return True
    return shutil.which(name) is not None


def choose(config: Config, plan: TuningPlan, predictor: Predictor | None, sharding: str = "ddp") -> Choices:
    """The choices of a run; a setting that the config names is taken from there.

    Args:
        predictor: None without a GPU, or for a model without predictions: then ms-swift's defaults are taken.
        sharding: how the run is spread over GPUs.

    Raises:
        SwiftalignError: the config asks for something that this run can't have.
    """
    training, given = config.training, config.training.gradient_checkpointing
    vit_checkpointing = given is not False and any(item.component == "vit" for item in plan.trainables)
    where = config.where("training", "frozen_fp8")
    if predictor is None:
        if training.frozen_fp8:
            raise SwiftalignError(f"{where}: training.frozen_fp8 needs a GPU, and a dense Qwen3-VL", "leave it out")
        why = "ms-swift's default; no GPU is known" if given is None else _AS_CONFIGURED
        return Choices(
            plan.schedule.batch,
            sharding,
            gradient_checkpointing=given is not False,
            padding_free=bool(asks_for_padding_free(config, plan.model_type)),
            kernels="compiled" if training.torch_compile else "liger" if training.use_liger_kernel else "plain",
            vit_checkpointing=vit_checkpointing,
            reasons={"gradient_checkpointing": why},
        )
    family = find(plan.model_type)
    if training.frozen_fp8 and not (family and family.fp8 and "llm" not in predictor.trained.parts):
        message = f"{where}: training.frozen_fp8 is for a dense Qwen3-VL whose LLM is frozen"
        raise SwiftalignError(message, "leave it out")
    choices = replace(_without_checkpointing(config, plan, predictor), sharding=sharding)
    checkpointing = not predictor.fits(choices) if given is None else given
    fitting = "the largest batch does not fit otherwise" if checkpointing else "the largest batch fits without"
    choices.reasons["gradient_checkpointing"] = fitting if given is None else _AS_CONFIGURED
    if training.frozen_fp8:
        choices.reasons["frozen_fp8"] = _AS_CONFIGURED
    choices = replace(choices, gradient_checkpointing=checkpointing, vit_checkpointing=vit_checkpointing)
    if sharding == "device_map":  # what of the model each GPU gets is accelerate's choice
        return choices
    return replace(choices, peak=predictor.peak(choices), seconds=predictor.seconds(choices))


def asks_for_padding_free(config: Config, model_type: str) -> bool | None:
    """Whether the config asks to concatenate the rows of a batch; None if it leaves that open.

    ``packing`` asks for it too, where concatenated rows are known to train alike, without sequence parallelism.
    """
    given, alike = config.training.padding_free, _train_alike(model_type) and not _in_parallel(config)
    return True if given is None and config.packs and alike else given


def _train_alike(model_type: str) -> bool:
    """Whether concatenated rows are known to train as padded ones do: linear attention would mix them."""
    family = find(model_type)
    return family is not None and family.sync_free


def _in_parallel(config: Config) -> bool:
    return (config.data.sequence_parallel_size or 1) > 1


def fitting_batch(config: Config, plan: TuningPlan, predictor: Predictor) -> int:
    """Rows of the largest batch that fits, without gradient checkpointing where that is possible; at least 1."""
    given, choices = config.training.gradient_checkpointing, _without_checkpointing(config, plan, predictor)
    fitting = 0 if given else predictor.largest_batch(choices)
    if not fitting and given is not False:
        fitting = predictor.largest_batch(replace(choices, gradient_checkpointing=True))
    return max(fitting, 1)


def _without_checkpointing(config: Config, plan: TuningPlan, predictor: Predictor) -> Choices:
    """The choices of attention, kernels and FP8, with their reasons."""
    training = config.training
    given = asks_for_padding_free(config, plan.model_type)
    reasons = {"padding_free": _AS_CONFIGURED, "kernels": _AS_CONFIGURED}
    spread = predictor.spreading.sharding == "device_map"
    other = config.model.attention not in (None, "sdpa") or _in_parallel(config) or spread
    concatenates = not other and _train_alike(plan.model_type)
    if given is None:
        ruled_out = "model.attention, sequence_parallel_size or device_map rules it out"
        unknown = "concatenated rows were not compared with padded ones in this model"
        reasons["padding_free"] = (
            "torch's own attention supports it" if concatenates else ruled_out if other else unknown
        )
    liger = training.use_liger_kernel
    if liger is None:
        liger = _installed("liger_kernel") and not spread  # ms-swift refuses it with device_map
    choices = Choices(
        plan.schedule.batch,
        gradient_checkpointing=False,
        padding_free=concatenates if given is None else given,
        kernels="compiled" if training.torch_compile else "liger" if liger else "plain",
        frozen_fp8=training.frozen_fp8,
        reasons=reasons,
    )
    flash4 = predictor.card.flash4 and plan.dtype in ("bfloat16", "float16") and config.model.attention is None
    if choices.padding_free and flash4 and _installed("flash_attn.cute"):
        choices = replace(choices, attention="flash4")
        reasons["attention"] = "flash-attn-4 is installed"
    if training.torch_compile is not None:
        return choices
    family, plain = find(plan.model_type), replace(choices, frozen_fp8=False)
    slow, fast = predictor.seconds(plain), predictor.seconds(replace(plain, kernels="compiled"))
    batches = (plan.schedule.steps or 0) * plan.schedule.accumulation
    if not (family and family.compiles):
        reasons["kernels"] = "compiling was not measured for this model"
    elif "llm" in predictor.trained.parts:
        reasons["kernels"] = "the LLM's layers train"
    elif predictor.spreading.sharding.startswith("zero3"):
        reasons["kernels"] = "ZeRO-3 gathers each layer's weights one by one, which can't be compiled"
    elif spread:
        reasons["kernels"] = "device_map rules the others out"
    elif not _installed("triton") or not (_installed("cc") or _installed("gcc")):
        reasons["kernels"] = "compiling needs triton and a C compiler"
    elif slow is None or fast is None:
        reasons["kernels"] = "the card's speed is not known, so it can't be said whether compiling pays back"
    elif (slow - fast) * batches <= _COMPILE_SECONDS:
        reasons["kernels"] = "compiling would not pay back in so short a run"
    else:
        reasons["kernels"] = f"compiling saves about {(slow - fast) * 1000:.0f} ms per batch, in {batches:,} batches"
        return replace(choices, kernels="compiled")
    return choices
