"""AdaLoRA (arXiv:2303.10512): LoRA whose ranks are pruned where they matter least."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from pydantic import Field

from swiftalign.methods.base import ALIGNER_LINEAR, Fraction, Method, Part, PositiveInt, Shape, Usage
from swiftalign.methods.keys import ADALORA_STATE, PeftKey
from swiftalign.methods.merging import SavedAdapter, merge_by_peft, tensor_bytes
from swiftalign.model.tree import Kind, Module
from swiftalign.problems import Problem, register

register("adalora-schedule", "error", "AdaLoRA's schedule leaves no steps for pruning")
register("adalora-ranks", "error", "AdaLoRA's target rank is not below its initial rank")
register("adalora-reload", "error", "a checkpoint to resume from has only AdaLoRA's pruned factors")

_A = Part("lora_A", lambda a, weight: a[1:] == weight[1:], "inert", 0)
_B = Part("lora_B", lambda b, weight: b[:1] == weight[:1], "inert", 1)
_E = Part("lora_E", start="zero")


# Of the schedule by which it was pruned, all but the initial rank is over once it is merged.
_SETTINGS = (
    *("r", "init_r", "target_r", "rank_pattern"),
    *("tinit", "tfinal", "deltaT", "beta1", "beta2", "orth_reg_weight", "total_step"),
)


class Adalora(Method):
    """LoRA in the form of a singular value decomposition, whose least important ranks are pruned."""

    name = "adalora"
    adapts = frozenset({Kind.LINEAR})
    parts = (_A, _B, _E)
    ranks_may_shrink = True
    size = "adalora_init_r"
    unused_hint = "AdaLoRA's ranks are adalora_init_r and adalora_target_r"
    summary = "LoRA whose ranks are pruned where they matter least (arXiv:2303.10512)"
    aligner_lr = "2.0e-4"
    demo_lr = "3.0e-2"
    recipe = (
        f"train_type: adalora\n{ALIGNER_LINEAR}"
        "adalora_init_r: 32   # rank at the start\n"
        "adalora_target_r: 16   # mean rank at the end\n"
        "adalora_tinit: {adalora_tinit}   # steps before the first pruning\n"
        "adalora_tfinal: {adalora_tfinal}   # steps after the last pruning, at the end of the run\n"
        "adalora_deltaT: {adalora_deltaT}   # steps between prunings\n"
    )

    lora_alpha: float = Field(32.0, gt=0)
    lora_dropout: Fraction = 0.05
    use_rslora: bool = False
    adalora_target_r: PositiveInt = Field(8, description="mean rank at the end", serialization_alias="target_r")
    adalora_init_r: PositiveInt = Field(12, description="rank at the start", serialization_alias="init_r")
    adalora_tinit: int = Field(0, ge=0, description="steps before the first pruning", serialization_alias="tinit")
    adalora_tfinal: int = Field(0, ge=0, description="steps after the last pruning", serialization_alias="tfinal")
    adalora_deltaT: PositiveInt = Field(1, description="steps between prunings", serialization_alias="deltaT")  # noqa: N815
    adalora_beta1: Fraction = Field(0.85, serialization_alias="beta1")
    adalora_beta2: Fraction = Field(0.85, serialization_alias="beta2")
    adalora_orth_reg_weight: float = Field(0.5, ge=0, serialization_alias="orth_reg_weight")

    def shapes(self, layer: Module) -> dict[Part, Shape]:
        """The factors of a singular value decomposition, at their initial rank."""
        (outputs, inputs), rank = layer.weight.shape, self.adalora_init_r
        return {_A: (rank, inputs), _B: (outputs, rank), _E: (rank, 1)}

    def problems(self, usage: Usage) -> Iterable[Problem]:
        target, total, checkpoint = self.adalora_target_r, usage.steps, usage.resume_from
        if target >= self.adalora_init_r:
            message = f"adalora_target_r {target} is not below adalora_init_r {self.adalora_init_r}"
            fix: dict[str, Any] = {"tuner": {"adalora_init_r": target * 3 // 2 + 1}}
            where = usage.where("tuner", "adalora_target_r", "adalora_init_r")
            yield Problem("adalora-ranks", message, "start at a higher rank:", fix, where)
        if total is not None and self.adalora_tinit >= total - self.adalora_tfinal:
            message = (
                f"AdaLoRA prunes from step adalora_tinit ({self.adalora_tinit}) until adalora_tfinal "
                f"({self.adalora_tfinal}) steps before the end: a run of {total} leaves no step for it"
            )
            fix = {"tuner": _schedule(total, most=self.adalora_deltaT)}
            where = usage.where("tuner", "adalora_tinit", "adalora_tfinal")
            yield Problem("adalora-schedule", message, "choose a schedule that fits:", fix, where)
        if checkpoint is not None and usage.layers and not (checkpoint / ADALORA_STATE).is_file():
            lacks = f"{checkpoint} has AdaLoRA's pruned factors without {ADALORA_STATE}"
            message = f"{lacks}: training can't go on from them"
            hint = "only checkpoints of this toolkit have that file; start a new run:"
            fix = {"training": {"resume_from_checkpoint": None}}
            yield Problem("adalora-reload", message, hint, fix, usage.where("training", "resume_from_checkpoint"))

    @staticmethod
    def merge(adapter: SavedAdapter, dtype: str | None) -> Iterator[tuple[str, bytes]]:
        """W + s B diag(E) A, where s is lora_alpha divided by the initial rank, whatever rank is left.

        Equal to peft's merge bit for bit; peft rounds the factors of a pruned layer to the dtype of its weight.

        References:
            peft `tuners/adalora/layer.py`, `SVDLinear.merge`, and `tuners/adalora/model.py`,
            `resize_modules_by_rank_pattern`.
        """
        config, shapes, pruned = adapter.config, {}, set()
        initial, patterns = config.get("init_r"), config.get("rank_pattern") or {}
        for layer in adapter.layers:
            outputs, *inputs = adapter.base[f"{layer}.weight"].info.shape
            kept = next((flags for name, flags in patterns.items() if name.startswith(f"{layer}.")), None)
            rank = initial if kept is None else sum(kept)
            pruned |= {layer} if kept is not None else set()
            shapes[str(PeftKey(layer, "lora_A"))] = (rank, *inputs)
            shapes[str(PeftKey(layer, "lora_B"))] = (outputs, rank)
            shapes[str(PeftKey(layer, "lora_E"))] = (rank, 1)
        if not adapter.is_plain(shapes, *_SETTINGS):

            def narrow(config: Any, layer: str) -> None:
                kept = {name: flags for name, flags in patterns.items() if name.startswith(f"{layer}.")}
                config.rank_pattern = kept or None

            yield from merge_by_peft(adapter, dtype, narrow)
            return
        import torch

        for layer in adapter.layers:
            weight = adapter.weight(layer, dtype)
            a, b, e = (adapter.part(layer, f"lora_{name}") for name in "ABE")
            if layer in pruned:
                a, b, e = (factor.to(weight.dtype).float() for factor in (a, b, e))
            weight += (b @ (a * e)) * config["lora_alpha"] / (torch.tensor([float(config["init_r"])]) + 1e-5)
            yield f"{layer}.weight", tensor_bytes(weight)

    @classmethod
    def recipe_for(cls, steps: int) -> str:
        return cls.recipe.format(**_schedule(steps, most=200))  # for 0 steps: pruning over the whole run


def _schedule(steps: int, *, most: int) -> dict[str, int]:
    """A pruning schedule that fits a run of this many steps, with at most so many steps between prunings.

    peft counts `adalora_tfinal` as the last steps of the run, not as the step at which pruning ends.
    """
    gap = min(max(1, steps // 20), most)
    return {"adalora_tinit": steps // 10, "adalora_tfinal": steps * 3 // 10, "adalora_deltaT": gap}
