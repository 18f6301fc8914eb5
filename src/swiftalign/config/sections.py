"""The configuration as typed values.

Sections carry the key names of ms-swift and transformers. The keys that the plan reads are declared here; every other
name is checked against the arguments of the installed releases and handed through.
"""

from __future__ import annotations

import os
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PrivateAttr, field_validator, model_serializer
from pydantic_core import PydanticKnownError

from swiftalign.config.augmentation import AugmentationSection
from swiftalign.config.yaml import Document
from swiftalign.methods import METHODS, chosen, settings_fields, train_types, variant
from swiftalign.methods.base import Fraction, Method, PositiveInt

COMPONENTS = ("llm", "vit", "aligner")

# Spellings of "no adapter layer": the guide's regex, and the word that peft itself understands.
NO_TARGETS = ("^$", "dummy-target-modules")

# Methods of ms-swift that this toolkit refuses.
_REFUSED_TRAIN_TYPES = {
    "adapter": "puts bottleneck layers into the LLM's MLPs and leaves the aligner untouched; "
    "use lora with modules_to_save to train the aligner whole",
    "lora_llm": "unfreezes the whole ViT and drops use_dora, use_rslora and lora_dropout; "
    "use lora with freeze_llm: false and modules_to_save",
}


def _whole_or_share(value: float) -> float:
    if value > 1 and not value.is_integer():
        raise ValueError("above 1 it counts steps, and must be whole; below 1 it is a share of the run")
    return value


Rate = Annotated[float, Field(ge=0)]
Steps = Annotated[float, Field(gt=0), AfterValidator(_whole_or_share)]


def _fit_for_a_file_system(path: str) -> str:
    if max(len(os.fsencode(part)) for part in path.split("/")) > 255:
        raise ValueError("longer than a file's name can be")
    return path


Location = Annotated[str, Field(min_length=1), AfterValidator(_fit_for_a_file_system)]


class Section(BaseModel):
    """A mapping of the file; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False, protected_namespaces=())

    def given(self, name: str) -> bool:
        """Whether the file names this key."""
        return name in self.model_fields_set


class PassThroughSection(Section):
    """A section that also takes ms-swift's and transformers' other arguments of its kind, by their own names."""

    model_config = ConfigDict(extra="allow")

    @property
    def passed_through(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class ModelSection(Section):
    """The base model."""

    path: Location = Field(description="hub id, or folder of a local model")
    dtype: Literal["float32", "bfloat16", "float16"] | None = Field(None, description="of the frozen weights")
    attention: str | None = Field(None, description="attention implementation, e.g. sdpa or flash_attention_2")
    revision: str | None = Field(None, description="branch, tag or commit on the hub")
    type: str | None = Field(None, description="ms-swift's model_type, where it can't be told from the config")
    trust_remote_code: bool = Field(False, description="run the model's own Python code (auto_map)")


class GroundingTextSection(Section):
    """The words around the coordinates, for rows of this toolkit's layout."""

    prompt: str = Field(
        "Locate every object in the image. Answer in JSON.",
        description="for rows without their own; {labels} stands for the row's labels",
    )
    system: str | None = Field(None, description="system message, for rows without their own")
    fenced: bool = Field(False, description="put the answer between ```json and ```")


class DataSection(PassThroughSection):
    """Training and validation rows."""

    train: list[Location] = Field(default_factory=list, description="JSONL files")
    val: list[Location] = Field(default_factory=list, description="JSONL files")
    split_dataset_ratio: Fraction = Field(0.0, description="share of the training rows to validate on, without val")
    dataset_shuffle: bool = Field(True, description="shuffle the rows once, before training")
    text: GroundingTextSection = GroundingTextSection()
    too_long: Literal["refuse", "drop"] = Field(
        "refuse", description="rows longer than max_length: refuse to train, or leave them out"
    )


class TunerSection(PassThroughSection):
    """What trains, and by which method."""

    # The methods' own settings are extra keys: `swiftalign.methods` declares and validates them.
    train_type: str = Field("lora", description="the tuning method (ms-swift 4 calls it tuner_type)")
    freeze_llm: bool = Field(True, description="no adapters in the LLM; counts only without target_regex")
    freeze_vit: bool = Field(True, description="no adapters in the ViT; counts only without target_regex")
    freeze_aligner: bool = Field(False, description="no adapters in the aligner; counts only without target_regex")
    target_regex: str | None = Field(None, description="layers that get an adapter: must match the whole dotted name")
    target_modules: list[str] | None = Field(None, description="layers that get an adapter, by the end of their name")
    modules_to_save: list[str] = Field(default_factory=list, description="modules that train whole")
    trainable_dtype: Literal["float32", "base"] = Field(
        "float32", description="float32 weights under autocast, or the base model's dtype"
    )

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
    def passed_through(self) -> dict[str, Any]:
        return {name: value for name, value in super().passed_through.items() if name not in settings_fields()}

    @property
    def method(self) -> type[Method]:
        """The method of train_type and its settings, supposing that there are layers to adapt."""
        return chosen(self.train_type, super().passed_through)

    @property
    def variant(self) -> type[Method] | None:
        """The variant that a setting asks for, as use_dora does, whatever the train_type."""
        return variant(super().passed_through)

    @property
    def settings(self) -> Method:
        """The method with its settings.

        Raises:
            ValidationError: a setting is malformed. `load_config` has checked them.
        """
        return self.method.model_validate(super().passed_through)


class EarlyStoppingSection(Section):
    """Stop where evaluation no longer gets better."""

    patience: PositiveInt = Field(3, description="evaluations without an improvement before training stops")
    min_delta: Annotated[float, Field(ge=0)] = Field(0.0, description="what counts as an improvement is more than this")
    metric: str | None = Field(None, description="metric_for_best_model by default, which is the loss by default")


class TrainingSection(PassThroughSection):
    """Optimizer, schedule and saving."""

    output_dir: Location | None = Field(None, description="the run folder; runs/NAME beside the config by default")
    optimizer: str | None = Field(None, description="multimodal gives each component its own rate")
    learning_rate: Rate | None = Field(None, description="of the LLM, and of what has no rate of its own")
    vit_lr: Rate | None = None
    aligner_lr: Rate | None = None
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    warmup_ratio: Fraction = 0.0
    num_train_epochs: Annotated[float, Field(gt=0, le=100_000)] = 3.0
    max_steps: int = Field(-1, description="stop after this many optimizer steps")
    per_device_train_batch_size: PositiveInt | Literal["auto"] = Field(
        1, description="rows of a batch; auto: as many as the GPU's memory holds, at the same rows a step"
    )
    gradient_accumulation_steps: PositiveInt | None = Field(
        None, description="by default as many as make 16 rows a step, as in ms-swift"
    )
    load_best_model_at_end: bool = False
    early_stopping: EarlyStoppingSection | None = None
    save_total_limit: PositiveInt | None = None
    save_strategy: Literal["no", "steps", "epoch", "best"] = "steps"
    save_steps: Steps = Field(500, description="a number of steps; below 1, a share of the run")
    eval_strategy: Literal["no", "steps", "epoch"] | None = None
    eval_steps: Steps | None = None
    train_dataloader_shuffle: bool = True
    gradient_checkpointing: bool | None = Field(
        None, description="compute activations twice to save memory; by default only where they don't fit the GPU"
    )
    padding_free: bool | None = Field(
        None, description="rows of a batch in a line, without padding between them; by default on a GPU"
    )
    torch_compile: bool | None = Field(
        None, description="compile the frozen layers; by default where that pays back within the run"
    )
    use_liger_kernel: bool | None = Field(
        None, description="Liger's fused kernels; by default where they are installed and nothing is compiled"
    )
    frozen_fp8: bool = Field(False, description="the LLM's frozen matrices in FP8: faster, and not the same loss")
    dataloader_num_workers: Annotated[int, Field(ge=0)] | None = Field(
        None, description="processes that read rows; by default as many as keep the GPU busy"
    )
    deepspeed: str | dict[str, Any] | None = None
    resume_from_checkpoint: Location | None = None


class GroundingEvalSection(Section):
    """Accuracy by kind: the model answers validation rows at each evaluation."""

    rows: PositiveInt = Field(64, description="validation rows to answer")
    every: PositiveInt = Field(1, description="at each n-th evaluation")


class CustomSection(Section):
    """Settings of this toolkit that ms-swift does not have."""

    augmentation: AugmentationSection | None = None
    grounding_eval: GroundingEvalSection | None = None


class Config(Section):
    """One training run, or one in phases, as its file describes it."""

    model: ModelSection
    hub: Literal["huggingface", "modelscope"] = Field("huggingface", description="where model ids come from")
    data: DataSection = DataSection()
    tuner: TunerSection = TunerSection()
    training: TrainingSection = TrainingSection()
    custom: CustomSection = CustomSection()
    swift: dict[str, Any] = Field(default_factory=dict, description="any other ms-swift argument, by its own name")
    phases: list[dict[str, Any]] = Field(
        default_factory=list, description="runs in sequence: each a name, and sections laid over the others"
    )

    _document: Document = PrivateAttr(default_factory=lambda: Document(None))
    _phases: tuple[Config, ...] = PrivateAttr(())
    _phase: str | None = PrivateAttr(None)

    @property
    def runs(self) -> tuple[Config, ...]:
        """The configuration of each phase; this one alone, where there are none."""
        return self._phases or (self,)

    @property
    def phase(self) -> str | None:
        """Name of the phase that this is; None where it is a run of its own."""
        return self._phase

    def where(self, *key: str | int) -> str:
        """``file:line`` of a key, for messages; empty where the config was not read from a file."""
        return self._document.where(key)

    @property
    def handed_through(self) -> dict[str, Any]:
        """Every argument of ms-swift that is not a key of this toolkit, from all sections."""
        sections = (self.data, self.tuner, self.training)
        passed = {name: value for section in sections for name, value in section.passed_through.items()}
        return {**passed, **self.swift}

    @property
    def values(self) -> dict[str, Any]:
        """The merged values as the files spell them, with paths made absolute."""
        return dict(self._document.value or {})


def best_metric_given(config: Config) -> str | None:
    """The metric that the best model and early stopping are told by, where one is named."""
    stopping, named = config.training.early_stopping, config.handed_through.get("metric_for_best_model")
    return str(named) if named else stopping.metric if stopping else None


def section_fields(section: str) -> dict[str, Any]:
    """The declared keys of a section, with their pydantic fields; the tuner's with the settings of all methods."""
    annotation = Config.model_fields[section].annotation
    candidates = [annotation, *get_args(annotation)]
    kind = next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)
    declared = dict(kind.model_fields) if kind else {}
    return declared | settings_fields() if section == "tuner" else declared
