"""What a tuning method is: `Method`, and the types that it is made of.

Names and shapes follow peft 0.20; `tests/test_plan_against_peft.py` compares them with peft itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from swiftalign.methods.merging import SavedAdapter, merge_by_peft
from swiftalign.model.tree import Kind, Module
from swiftalign.problems import Problem

Shape = tuple[int, ...]
PositiveInt = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]

# Lines of a recipe that `swiftalign.init.recipes` writes for the run's model.
ALIGNER_LINEAR = "<target_regex of the aligner's Linear layers>\n"
ALIGNER_WHOLE = "<modules_to_save of the aligner>\n"


@dataclass(frozen=True)
class Part:
    """One of the tensors that a method adds to a layer.

    Attributes:
        name: its name in peft, e.g. ``lora_A``.
        fits: whether a tensor of the first shape belongs to a layer whose weight has the second shape.
        start: ``zero`` where it begins at zero, so that an untrained adapter changes nothing; ``inert`` where it
            changes nothing as long as another part is zero; else ``active``.
        size_side: the dimension that is the size of the layer's adapter (its rank); None where there is none.
        in_model: what follows the name in the running model.
        in_file: what follows the name in a checkpoint.
    """

    name: str
    fits: Callable[[Shape, Shape], bool] = lambda shape, weight: True
    start: Literal["zero", "inert", "active"] = "active"
    size_side: int | None = None
    in_model: str = ".default"
    in_file: str = ""


@dataclass(frozen=True)
class Usage:
    """How a run uses a method: what the method's constraints are checked against.

    Attributes:
        train_type: ``tuner.train_type``.
        given: the settings of any method that the config names.
        layers: the layers that carry an adapter.
        targets_none: whether target_regex says that no layer carries one.
        steps: optimizer steps of the run, as ms-swift counts them for AdaLoRA; None where they are not known.
        resume_from: the checkpoint to resume from.
        aligner_regex: a target_regex of exactly the aligner's Linear layers, for fixes.
        where: a function that returns ``file:line`` of the first of these keys of a section that the config names.
    """

    train_type: str
    given: Mapping[str, Any]
    layers: tuple[Module, ...]
    targets_none: bool
    steps: int | None
    resume_from: Path | None
    aligner_regex: str
    where: Callable[..., str]


class Method(BaseModel):
    """A tuning method: everything that this toolkit knows of it.

    The class holds what is true of every run. Its fields are the method's own keys of the tuner section, in the order
    in which ms-swift gets them; an instance holds their values for one run. A field's `serialization_alias` is its name
    in adapter_config.json, where peft calls it otherwise.

    Attributes:
        name: the method's name in reports and for ``init --method``.
        variant_of: the train_type that a config names for this method, where that is not the method's own name.
        flag: the setting of that train_type that asks for this variant.
        spelling: what to write instead, where a config names a variant as its train_type.
        adapts: the kinds of layer that it can adapt; empty where it makes no adapter. peft adapts further kinds
            (Conv2d, Conv1D), but none of them is in these models.
        parts: the tensors that it can add to a layer.
        ranks_may_shrink: whether training prunes ranks, so that planned shapes are upper bounds. Such a method resumes
            from a training state of its own, not from the settings in adapter_config.json.
        size: the setting that is the size of a layer's adapter.
        size_name: what that size is called in messages.
        size_pattern: the key of adapter_config.json that gives some layers another size.
        saves_biases: whether peft saves the base model's biases for ``bias: all``.
        dense_copies: copies of an adapted layer's weight that a training step keeps for the backward pass.
        unused_hint: advice where a config gives settings that belong to another method.
        summary: the method in one line; empty where ``init`` does not offer it.
        aligner_lr: the learning rate that ``init`` writes.
        demo_lr: the learning rate for the demo's small model, found by the search of docs/methods.md.
        recipe: the commented tuner section that ``init`` writes.
    """

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True, allow_inf_nan=False, protected_namespaces=())

    name: ClassVar[str]
    variant_of: ClassVar[str] = ""
    flag: ClassVar[str] = ""
    spelling: ClassVar[str] = ""
    adapts: ClassVar[frozenset[Kind]] = frozenset()
    parts: ClassVar[tuple[Part, ...]] = ()
    ranks_may_shrink: ClassVar[bool] = False
    size: ClassVar[str] = ""
    size_name: ClassVar[str] = "rank"
    size_pattern: ClassVar[str] = ""
    saves_biases: ClassVar[bool] = True
    dense_copies: ClassVar[int] = 0
    unused_hint: ClassVar[str] = ""
    summary: ClassVar[str] = ""
    aligner_lr: ClassVar[str] = ""
    demo_lr: ClassVar[str] = ""
    recipe: ClassVar[str] = ""

    def shapes(self, layer: Module) -> dict[Part, Shape]:
        """The parts that it adds to a layer with these settings, and their shapes."""
        return {}

    def problems(self, usage: Usage) -> Iterable[Problem]:
        """What is wrong with how a run uses it."""
        return ()

    @staticmethod
    def merge(adapter: SavedAdapter, dtype: str | None) -> Iterator[tuple[str, bytes]]:
        """Name and bytes of each tensor of the base model that an adapter changes, merged in this dtype."""
        return merge_by_peft(adapter, dtype)

    @classmethod
    def recipe_for(cls, steps: int) -> str:
        """The recipe for a run of this many steps; 0 where the number is not known yet."""
        return cls.recipe

    @classmethod
    def peft_settings(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """The settings that an adapter_config.json gives, under ms-swift's names."""
        names = {name: field.serialization_alias or name for name, field in cls.model_fields.items()}
        return {name: config[theirs] for name, theirs in names.items() if config.get(theirs) is not None}
