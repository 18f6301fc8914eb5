"""The configuration as typed values.

Keys have the names that ms-swift and transformers use. The keys that the plan reads are declared here; every other
name is checked against the arguments of the installed releases and handed through.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self, TypeVar, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticKnownError

from swiftalign.config.augmentation import AugmentationSection
from swiftalign.config.parameters import Strict
from swiftalign.config.sharding import Sharding
from swiftalign.config.yaml import Mapping
from swiftalign.methods import METHODS, chosen, settings_fields, train_types, variant
from swiftalign.methods.base import Fraction, Method, PositiveInt
from swiftalign.model.tree import Component, ModelSource
from swiftalign.problems import Problem, counted

# Spellings of "no adapter layer": the guide's regex, and the word that peft itself understands.
NO_TARGETS = ("^$", "dummy-target-modules")

# Arguments that only a data loader with workers can follow.
WORKERS_ONLY = ("dataloader_prefetch_factor", "dataloader_persistent_workers")

# Methods of ms-swift that this toolkit refuses.
_REFUSED_TRAIN_TYPES = {
    "adapter": "puts bottleneck layers into the LLM's MLPs and leaves the aligner untouched; "
    "use lora with modules_to_save to train the aligner whole",
    "lora_llm": "unfreezes the whole ViT and drops use_dora, use_rslora and lora_dropout; "
    "use lora with freeze_llm: false and modules_to_save",
}


def _check_steps(value: float) -> float:
    if value > 1 and not value.is_integer():
        raise ValueError("a number of steps must be whole; for a share of the run, write a number below 1")
    return value


Rate = Annotated[float, Field(ge=0)]
Steps = Annotated[float, Field(gt=0), AfterValidator(_check_steps)]


def _check_length_of_names(path: str) -> str:
    if max(len(os.fsencode(part)) for part in path.split("/")) > 255:
        raise ValueError("a file name of the path is longer than 255 bytes")
    return path


Location = Annotated[str, Field(min_length=1), AfterValidator(_check_length_of_names)]


class Section(Strict):
    """A section of the configuration file."""

    def given(self, name: str) -> bool:
        """Whether the file names this key."""
        return name in self.model_fields_set


T = TypeVar("T")
ARGUMENT = "argument of ms-swift"
# A declared key that is also an argument of ms-swift: it is handed through, and the file may give it under ``swift``.
HandedThrough = Annotated[T | None, ARGUMENT]


class PassThroughSection(Section):
    """A section that also takes ms-swift's and transformers' other arguments of its kind, by their own names."""

    model_config = ConfigDict(extra="allow")

    @classmethod
    def declared_arguments(cls) -> list[str]:
        """The declared keys that are arguments of ms-swift."""
        return [name for name, field in cls.model_fields.items() if ARGUMENT in field.metadata]

    @property
    def passed_through(self) -> dict[str, Any]:
        """The arguments of ms-swift that the section gives, without the settings of methods."""
        others = {name: value for name, value in (self.model_extra or {}).items() if name not in settings_fields()}
        return others | {name: getattr(self, name) for name in self.declared_arguments() if self.given(name)}


class ModelSection(Section):
    """The base model."""

    path: Location = Field(description="hub id, or folder of a local model")
    dtype: Literal["float32", "bfloat16", "float16"] | None = Field(None, description="dtype of the frozen weights")
    attention: str | None = Field(None, description="attention implementation, e.g. sdpa or flash_attention_2")
    revision: str | None = Field(None, description="branch, tag or commit on the hub")
    type: str | None = Field(None, description="ms-swift's model_type, where the model does not tell it")
    trust_remote_code: bool = Field(False, description="let train and preview-aug run the model's own Python code")


Kind = Literal["bbox", "quad", "line", "point", "polygon"]
Unit = Literal["pixels", "relative1000", "relative1", "resized"]


class GroundingTextSection(Section):
    """Question and answer of rows that give objects instead of messages."""

    prompt: str = Field(
        "Locate every object in the image. Answer in JSON.",
        description="prompt for rows without one; {labels} is replaced by the row's labels",
    )
    system: str | None = Field(None, description="system message for rows without one")
    answer: Literal["objects", "summary"] = Field("objects", description="answer with the objects, or with 'summary'")
    shape: Literal["list", "numbered", "by_image"] = Field(
        "list", description="a JSON list, objects under numbered names, or these under the numbered names of the images"
    )
    order: Literal["as_given", "top_to_bottom", "reference_top_to_bottom", "centre_top_to_bottom"] = Field(
        "as_given",
        description="order of the objects in the answer: by their top and left, by a reference point "
        "(a box's top left, a line's leftmost point, else the first point), or by the centre of the box around them",
    )
    label_key: str = Field("label", min_length=1, description="key of an object's label")
    label_first: bool = Field(False, description="write the label before the coordinates")
    keys: dict[Kind, Annotated[str, Field(min_length=1)]] = Field(
        default_factory=dict, description="keys of the coordinates, where they differ from bbox_2d, quad_2d, ..."
    )
    point_counts: bool | list[Literal["line", "quad", "polygon"]] = Field(
        False, description="before lines, quads and polygons, or some of these, their number of points: KEY_points"
    )
    point_pairs: bool = Field(
        False, description="points of lines, quads and polygons as [[x, y], ...], not [x, y, ...]"
    )
    point_order: Literal["as_given", "clockwise", "counterclockwise"] = Field(
        "as_given",
        description="order of the points of an object: quads and polygons this way round on the screen, from the "
        "topmost corner; lines from their left end",
    )
    object_key: str = Field("object_{n}", description="numbered name of an object")
    image_key: str = Field("image_{n}", description="numbered name of an image")
    fenced: bool = Field(False, description="put the answer between ```json and ```")
    first_line: str | None = Field(None, min_length=1, description="a line before the answer")

    @field_validator("object_key", "image_key")
    @classmethod
    def _numbered(cls, value: str) -> str:
        if value.count("{n}") != 1:
            raise ValueError("must hold {n} once, for the number")
        return value

    @field_validator("first_line")
    @classmethod
    def _literal(cls, value: str | None) -> str | None:
        if value and not {"{", "}", "\n"}.isdisjoint(value):
            raise ValueError(
                "must be one line without { and }, which begin and end the answer; write the words themselves"
            )
        return value

    @model_validator(mode="after")
    def _label_has_a_key_of_its_own(self) -> Self:
        if self.label_key in self.keys.values() or self.label_key.endswith(("_2d", "_2d_points")):
            raise ValueError(f"label_key: {self.label_key!r} is a key of coordinates, which the label would replace")
        return self


class DataSource(Section):
    """A file or folder of rows."""

    path: Location = Field(description="file or folder")
    name: str | None = Field(None, description="name in the metrics; by default the file's name")
    weight: Annotated[float, Field(gt=0, le=1000)] = Field(
        1.0, description="passes over its rows in each epoch; below 1, that share of them, others in each epoch"
    )
    limit: PositiveInt | None = Field(None, description="take only the first rows of the file, this many")
    images: Location | None = Field(None, description="folder that image paths are relative to; by default the file's")
    coordinates: Unit | None = Field(None, description="unit of the coordinates, where the rows do not say it")

    @model_validator(mode="before")
    @classmethod
    def _path_alone(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str) else value

    @property
    def label(self) -> str:
        """The name in metrics and messages."""
        return self.name or os.path.basename(self.path).partition(".")[0]  # noqa: PTH119  # a pure path operation


class DataSection(PassThroughSection):
    """Training and validation rows."""

    train: list[DataSource] = Field(default_factory=list, description="files or folders of the training rows")
    val: list[DataSource] = Field(default_factory=list, description="files or folders of the validation rows")
    images: Location | None = Field(None, description="folder that image paths are relative to; by default the file's")
    coordinates: Unit | None = Field(None, description="unit of the coordinates, where the rows do not say it")
    split_dataset_ratio: Fraction = Field(0.0, description="share of the training rows to validate on if val is empty")
    dataset_shuffle: bool = Field(True, description="shuffle the rows once, before training")
    text: GroundingTextSection = GroundingTextSection()
    too_long: Literal["refuse", "drop"] = Field("refuse", description="rows longer than max_length: stop, or drop them")
    max_length: HandedThrough[int] = Field(None, description="maximum number of tokens per row")
    truncation_strategy: HandedThrough[Literal["delete", "left", "right", "split"]] = Field(
        None, description="how to cut rows longer than max_length; delete leaves them to too_long"
    )
    max_pixels: HandedThrough[int] = Field(None, description="maximum pixels per image; larger images are scaled down")
    system: HandedThrough[str] = Field(None, description="system message for rows without one")
    sequence_parallel_size: HandedThrough[int] = Field(None, description="number of GPUs that share each row")
    packing: HandedThrough[bool] = Field(None, description="the same as training.packing")

    @model_validator(mode="after")
    def _weights_need_validation_files(self) -> Self:
        if self.split_dataset_ratio and not self.val and any(source.weight != 1 for source in self.train):
            raise ValueError("with weights, validation rows can't be split off: name files in data.val")
        return self

    def sources(self, part: Literal["train", "val"]) -> list[DataSource]:
        """The files of a part, with the section's own settings where theirs are left out."""
        common = {"images": self.images, "coordinates": self.coordinates}
        given: list[DataSource] = getattr(self, part)
        return [
            each.model_copy(update={name: value for name, value in common.items() if getattr(each, name) is None})
            for each in given
        ]


class TunerSection(PassThroughSection):
    """What is trained, and by which method."""

    # The methods' own settings are extra keys: `swiftalign.methods` declares and validates them.
    train_type: str = Field("lora", description="the tuning method (ms-swift 4 calls it tuner_type)")
    freeze_llm: bool = Field(True, description="no adapters in the LLM; used only without target_regex")
    freeze_vit: bool = Field(True, description="no adapters in the ViT; used only without target_regex")
    freeze_aligner: bool = Field(False, description="no adapters in the aligner; used only without target_regex")
    target_regex: str | None = Field(None, description="layers that get an adapter; matches the whole dotted name")
    target_modules: list[str] | None = Field(None, description="layers that get an adapter, by the end of their name")
    modules_to_save: list[str] = Field(default_factory=list, description="modules that are trained whole")
    trainable_dtype: Literal["float32", "base"] = Field(
        "float32", description="train float32 weights under autocast, or keep the base model's dtype"
    )

    @property
    def frozen(self) -> dict[Component, bool]:
        """The freeze flag of each component."""
        return {"llm": self.freeze_llm, "vit": self.freeze_vit, "aligner": self.freeze_aligner}

    @field_validator("train_type", mode="before")
    @classmethod
    def _refuse_with_reason(cls, value: Any) -> Any:
        reasons = {**_REFUSED_TRAIN_TYPES, **{m.name: m.spelling for m in METHODS.values() if m.variant_of}}
        if isinstance(value, str) and value in reasons:
            raise ValueError(f"{value!r} {reasons[value]}")
        if value not in train_types():
            raise PydanticKnownError("literal_error", {"expected": ", ".join(map(repr, train_types()))})
        return value

    @model_serializer(mode="wrap")
    def _with_settings(self, serialize: Any, info: Any) -> dict[str, Any]:
        """As if every method's settings were declared keys: with defaults."""
        values: dict[str, Any] = serialize(self)
        methods = () if info.exclude_unset else METHODS.values()
        return values | {name: value for method in methods for name, value in method.model_validate(values)}

    @property
    def method(self) -> type[Method]:
        """The method of train_type and its settings, supposing that there are layers to adapt."""
        return chosen(self.train_type, self.model_extra or {})

    @property
    def variant(self) -> type[Method] | None:
        """The variant that a setting asks for, as use_dora does, whatever the train_type."""
        return variant(self.model_extra or {})

    @property
    def settings(self) -> Method:
        """The method with its settings.

        Raises:
            ValidationError: a setting is malformed. `load_config` has checked them.
        """
        return self.method.model_validate(self.model_extra or {})


class EarlyStoppingSection(Section):
    """Stop training when evaluation no longer improves."""

    patience: PositiveInt = Field(3, description="evaluations without an improvement before training stops")
    min_delta: Annotated[float, Field(ge=0)] = Field(0.0, description="an improvement must be greater than this")
    metric: str | None = Field(None, description="metric to watch; by default metric_for_best_model, or else the loss")


class TrainingSection(PassThroughSection):
    """Optimizer, schedule and saving."""

    output_dir: Location | None = Field(None, description="run folder; by default runs/NAME beside the config")
    optimizer: str | None = Field(None, description="multimodal gives each component its own learning rate")
    learning_rate: Rate | None = Field(None, description="rate of the LLM, and of components without their own rate")
    vit_lr: Rate | None = None
    aligner_lr: Rate | None = None
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    warmup_ratio: Fraction = 0.0
    num_train_epochs: Annotated[float, Field(gt=0, le=100_000)] = 3.0
    max_steps: int = Field(-1, description="stop after this many optimizer steps")
    per_device_train_batch_size: PositiveInt | Literal["auto"] = Field(
        1, description="rows per batch; auto: as many as fit in GPU memory, at the same rows per step"
    )
    gradient_accumulation_steps: PositiveInt | None = Field(None, description="by default enough for 16 rows per step")
    effective_batch_size: PositiveInt | None = Field(
        None, description="rows per step over all processes; sets gradient_accumulation_steps, rounded up"
    )
    load_best_model_at_end: bool = False
    early_stopping: EarlyStoppingSection | None = None
    metric_for_best_model: HandedThrough[str] = Field(None, description="selects the best model; by default the loss")
    greater_is_better: HandedThrough[bool] = Field(None, description="whether more of metric_for_best_model is better")
    save_total_limit: PositiveInt | None = None
    save_strategy: Literal["no", "steps", "epoch", "best"] = "steps"
    save_steps: Steps = Field(500, description="number of steps; below 1, a share of the run")
    save_delay_steps: Annotated[int, Field(ge=0)] = Field(
        0, description="before this step nothing is saved, and no evaluation counts for the best model"
    )
    save_delay_epochs: Annotated[float, Field(ge=0)] = Field(0.0, description="the same, in epochs")
    save_last_epoch: bool = Field(False, description="save the end of the run whatever save_strategy says")
    eval_strategy: Literal["no", "steps", "epoch"] | None = None
    eval_steps: Steps | None = None
    train_dataloader_shuffle: bool = True
    gradient_checkpointing: bool | None = Field(
        None, description="recompute activations to save memory; by default only if they don't fit in GPU memory"
    )
    padding_free: bool | None = Field(None, description="concatenate the rows of a batch; by default on a GPU")
    torch_compile: bool | None = Field(None, description="compile the frozen layers; by default if that saves time")
    use_liger_kernel: bool | None = Field(None, description="use Liger's kernels; by default if nothing is compiled")
    frozen_fp8: bool = Field(False, description="the LLM's frozen matrices in FP8: faster, but the loss differs")
    dataloader_num_workers: Annotated[int, Field(ge=0)] | None = Field(
        None, description="number of data loader workers; by default enough to keep the GPU busy"
    )
    packing: HandedThrough[bool] = Field(None, description="in this toolkit, the same as padding_free")
    sharding: Sharding | Literal["auto"] = Field(
        "auto", description="how the model is spread over GPUs; auto: ddp if the whole model fits each, else fsdp2"
    )
    deepspeed: str | dict[str, Any] | None = Field(
        None, description="DeepSpeed's settings: a preset of ms-swift, a JSON file, or the settings themselves"
    )
    resume_from_checkpoint: Location | None = None

    @property
    def keeps_best(self) -> bool:
        """Whether the best model is the result of the run, and not its last one."""
        return self.load_best_model_at_end or self.save_strategy == "best"


class GroundingEvalSection(Section):
    """Accuracy per kind of target: the model answers validation rows during evaluation."""

    rows: PositiveInt = Field(64, description="number of validation rows to answer")
    every: PositiveInt = Field(1, description="measure at every n-th evaluation")


class CustomSection(Section):
    """Settings that only this toolkit has."""

    augmentation: AugmentationSection | None = None
    grounding_eval: GroundingEvalSection | None = None

    @property
    def augmentation_in_words(self) -> str:
        """The preset or the number of operations; ``off`` where rows stay as they are."""
        settings = self.augmentation
        if settings is None or not settings.enabled or not settings.operations:
            return "off"
        listed = settings.preset or counted(len(settings.operations), "operation")
        return f"{listed}, by a curriculum" if settings.curriculum else listed


class Config(Section):
    """One training run, or a sequence of phases."""

    model: ModelSection
    hub: Literal["huggingface", "modelscope"] = Field("huggingface", description="where model ids come from")
    data: DataSection = DataSection()
    tuner: TunerSection = TunerSection()
    training: TrainingSection = TrainingSection()
    custom: CustomSection = CustomSection()
    swift: dict[str, Any] = Field(default_factory=dict, description="any other argument of ms-swift")
    phases: list[dict[str, Any]] = Field(
        default_factory=list, description="runs in sequence; each has a name and sections that change those above"
    )

    _values: Mapping = PrivateAttr(default_factory=Mapping)
    _runs: tuple[Config, ...] = PrivateAttr(())
    _phase: str | None = PrivateAttr(None)
    _notes: tuple[Problem, ...] = PrivateAttr(())

    @classmethod
    def from_values(
        cls,
        values: Mapping,
        phase: str | None = None,
        phases: Sequence[Config] = (),
        notes: Sequence[Problem] = (),
        given: Mapping | None = None,
    ) -> Config:
        """Make a configuration that remembers where its values stand.

        Args:
            values: merged values of the files.
            phase: name of the phase, if this is the configuration of a phase.
            phases: configuration of each phase.
            notes: keys of the files that have no effect.
            given: the values to remember, if `swiftalign.config.spellings.settle` has changed these.
        """
        config = cls.model_validate(values)
        config._values, config._phase, config._runs, config._notes = given or values, phase, tuple(phases), tuple(notes)
        return config

    @model_validator(mode="after")
    def _read_arguments_under_swift(self) -> Self:
        """Copy declared arguments of ms-swift that stand under ``swift`` to their sections."""
        for name in ("data", "tuner", "training"):
            section: PassThroughSection = getattr(self, name)
            given = {key: self.swift[key] for key in section.declared_arguments() if key in self.swift}
            object.__setattr__(self, name, section.model_copy(update=given))
        return self

    @property
    def runs(self) -> tuple[Config, ...]:
        """The configuration of each phase; this configuration alone if there are no phases."""
        return self._runs or (self,)

    @property
    def phase(self) -> str | None:
        """Name of the phase; None if this is not the configuration of a phase."""
        return self._phase

    @property
    def notes(self) -> tuple[Problem, ...]:
        """The keys of the files that have no effect."""
        return self._notes

    def where(self, *key: str | int) -> str:
        """``file:line`` of a key, for messages; empty if the configuration was not read from a file."""
        return self._values.where(*key)

    def where_given(self, section: str, *keys: str) -> str:
        """``file:line`` of the first of these keys that the file gives; of the section if it gives none of them."""
        return self.where(section, next((key for key in keys if getattr(self, section).given(key)), keys[0]))

    @property
    def source(self) -> ModelSource:
        """Where the base model comes from, and how it is to be loaded."""
        where = self.where("model", "path")
        return ModelSource(**self.model.model_dump(exclude={"attention"}), hub=self.hub, where=where)

    @property
    def handed_through(self) -> dict[str, Any]:
        """The arguments that all sections together hand through to ms-swift."""
        sections = (self.data, self.tuner, self.training)
        given = {name: value for section in sections for name, value in section.passed_through.items()} | self.swift
        return {name: value for name, value in given.items() if name != "packing"}  # ms-swift can't pack rows read late

    @property
    def packs(self) -> tuple[str, str] | None:
        """The key that asks for packing, e.g. ``("training", "packing")``; None if none does."""
        asked = {"swift": self.swift.get("packing"), "training": self.training.packing, "data": self.data.packing}
        return next(((section, "packing") for section, packing in asked.items() if packing), None)

    @property
    def values(self) -> Mapping:
        """The merged values as the files spell them, with paths made absolute."""
        return Mapping(self._values, self._values.places, self._values.file)


def best_metric_given(config: Config) -> str | None:
    """The metric that selects the best model and stops training early; None if the config names none."""
    stopping = config.training.early_stopping
    return config.training.metric_for_best_model or (stopping.metric if stopping else None)


def best_metric(config: Config) -> str:
    """The metric by which the best model is chosen, without transformers' prefix ``eval_``."""
    return (best_metric_given(config) or "loss").removeprefix("eval_")


def section_fields(section: str) -> dict[str, Any]:
    """The keys of a section, e.g. ``training.early_stopping``, with their fields; the tuner's with all settings.

    Without a name, the sections. An item of a list has a number: ``data.train.0``.
    """
    fields = Config.model_fields
    for name in filter(lambda name: name and not name.isdigit(), section.split(".")):
        kinds = [fields[name].annotation, *get_args(fields[name].annotation)]
        fields = next((k.model_fields for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)), {})
    return fields | settings_fields() if section == "tuner" else fields
