"""How a run is spread over GPUs."""

from __future__ import annotations

from collections.abc import Iterable

from swiftalign.config.sections import Config
from swiftalign.config.sharding import PRESETS, divides_weights, stage
from swiftalign.model.families import find
from swiftalign.model.family import Family
from swiftalign.model.safetensors import ITEM_SIZES
from swiftalign.model.tree import Model
from swiftalign.plan.plan import Trainable, TuningPlan
from swiftalign.problems import ModelError, Problem, names, size_text
from swiftalign.speed.choices import Choices
from swiftalign.speed.choose import asked_way, fits_at_worst
from swiftalign.speed.predictor import Predictor

# Bytes per GPU up to which what trains is small. The aligner of the largest public model takes 2.2 GB.
SMALL = 4e9
# Bytes per GPU from which it is worth dividing the layers that train.
LARGE = 2e9


def asked(config: Config, model: Model, plan: TuningPlan) -> Iterable[Problem]:
    """Whether the way that the config names can be had, and what it brings."""
    training, processes = config.training, plan.schedule.processes
    where = config.where_given("training", "deepspeed", "sharding")
    try:
        way = asked_way(config)
    except (ModelError, ValueError):
        message = f"training.deepspeed: {training.deepspeed!r} is neither a preset of ms-swift nor a readable JSON file"
        yield Problem("deepspeed-unreadable", message, f"the presets are {', '.join(PRESETS)}", where=where)
        return
    if way is None:
        return
    if training.deepspeed and training.sharding not in ("auto", way):
        message = f"sharding: {training.sharding}, but deepspeed's settings stand for {way}"
        hint, fix = "leave it to deepspeed's settings:", {"training": {"sharding": "auto"}}
        place = config.where("training", "sharding")
        yield Problem("sharding-contradicted", message, hint, fix, place)
        return
    other = {"training": {"sharding": "auto", "deepspeed": None}}
    if way == "device_map" and processes > 1:
        message = f"sharding: device_map spreads one process over all GPUs, but there are {processes} processes"
        yield Problem("sharding-device-map", message, "start one process, or give each GPU one:", other, where)
    if stage(way) == 3 and model.unswapped:
        # A divided parameter has no shape by which transformers could tell how the files hold it.
        message = (
            f"{way}: transformers would swap the axes of the experts, which the weight files of {model.source} hold as "
            f"the model needs them: {names(model.unswapped, 1)}"
        )
        fsdp2 = {"training": {"sharding": "fsdp2", "deepspeed": None}}
        yield Problem("zero3-moe", message, "fsdp2 loads them as they are:", fsdp2, where)
    if stage(way) and plan.ranks_may_shrink:
        message = f"{way}: DeepSpeed flattens the parameters, and AdaLoRA measures the importance of each of them"
        yield Problem("sharding-adalora", message, "AdaLoRA trains with ddp and fsdp2:", other, where)
    if divides_weights(way) and training.frozen_fp8:
        message = f"frozen_fp8: its matrices can't be divided among GPUs as {way} does"
        place = config.where("training", "frozen_fp8")
        yield Problem("sharding-fp8", message, "do without it:", {"training": {"frozen_fp8": False}}, place)
    if way.startswith("fsdp2"):
        yield from _trained_whole(config, plan, way)
    number, count = stage(way), processes if processes > 1 else 8
    state = sum(_nbytes(item) * (2 if number == 1 else 3) for item in plan.trainables)
    if number in (1, 2) and state < SMALL:
        what = "Adam's averages" if number == 1 else "the gradients and Adam's averages"
        message = (
            f"{way} divides {what} of {plan.trainable_parameters / 1e6:.1f} M parameters: on {count} GPUs it saves "
            f"{size_text(state * (count - 1) / count)} of each"
        )
        hint = "ddp has them whole on each GPU, sends less and needs no DeepSpeed:"
        yield Problem("sharding-brings-little", message, hint, other, where)


def chosen_way(config: Config, plan: TuningPlan, choices: Choices, predictor: Predictor | None) -> Iterable[Problem]:
    """Whether the model is divided for nothing, or is not divided where it trains, once it is known what fits.

    It is not part of the pre-flight, which knows no GPU.

    Args:
        predictor: predicts the run; None without a GPU, or for a model without predictions.
    """
    way = choices.sharding
    if way.startswith("fsdp2") and config.training.sharding == "auto":
        yield from _trained_whole(config, plan, way)
    if predictor and divides_weights(way) and fits_at_worst(config, plan, predictor, "ddp"):
        message = f"{way} sends the layers between GPUs in each batch, and the whole model fits each GPU"
        hint, where = "ddp sends gradients only:", config.where_given("training", "deepspeed", "sharding")
        fix = {"training": {"sharding": "auto", "deepspeed": None}}
        yield Problem("sharding-brings-little", message, hint, fix, where)


def _trained_whole(config: Config, plan: TuningPlan, way: str) -> Iterable[Problem]:
    stack = f"{(find(plan.model_type) or Family).stacks[0]}."
    inside = [item for item in plan.trainables if stack in item.module]
    size = 4 * sum(map(_nbytes, inside))  # with gradients and Adam's averages
    if size > LARGE:
        message = (
            f"{way} divides frozen layers only: what trains in the LLM's layers takes {size_text(size)} of each GPU, "
            "with gradients and optimizer"
        )
        fix, where = {"training": {"sharding": "zero3"}}, config.where("training", "sharding")
        yield Problem("sharding-trained-whole", message, "zero3 divides it too:", fix, where)


def _nbytes(item: Trainable) -> int:
    return item.numel * ITEM_SIZES[item.dtype]
