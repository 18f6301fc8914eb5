"""Everything that can be wrong: the one type for it, the registry of its codes, and the exceptions."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Severity = Literal["error", "warning", "note"]

# Code -> severity and meaning. `make docs` writes these tables into docs/findings.md, and --allow takes their codes.
CODES: dict[str, tuple[Severity, str]] = {
    # What trains
    "regex-invalid": ("error", "target_regex is not a regular expression"),
    "target-matches-nothing": ("error", "target_regex or a target_modules name adapts no layer"),
    "saved-matches-nothing": ("error", "a modules_to_save name matches no module; peft would not report it"),
    "saved-by-suffix": ("error", "a modules_to_save name also matches other modules whose names end with it"),
    "saved-nested": ("error", "a saved module lies inside another saved module"),
    "target-saved-overlap": ("error", "a layer is both adapted and in modules_to_save"),
    "nothing-trains": ("error", "no parameter would train"),
    "aligner-incomplete": ("error", "some of the aligner's mergers train and others do not"),
    "aligner-untouched": ("warning", "no parameter of the aligner trains"),
    "vit-by-suffix": ("error", "a target or modules_to_save matches ViT layers only because their names end alike"),
    "lm-head-trained": ("error", "lm_head trains although no setting names it"),
    "embeddings-trained": ("error", "an embedding trains although no setting names it"),
    "tied-embeddings": ("error", "lm_head or the embedding trains although they share one weight"),
    "outside-expected": ("error", "what trains is not what --expect asks for"),
    "freeze-flags-ignored": ("note", "freeze flags are given, but target_regex or target_modules decides"),
    "freeze-flags-contradicted": ("warning", "a freeze flag says the opposite of what trains"),
    "passed-over": ("note", "the target also matches modules that the method can't adapt"),
    "adapter-not-reloadable": ("warning", "peft would load the adapter into other layers; export merges it rightly"),
    "setting-unused": (
        "note",
        "a setting has no effect: it belongs to another method, or another setting overrides it",
    ),
    "weights-missing": ("error", "the weight files lack tensors of the model; these would start from random values"),
    "unbuilt-tensors": ("note", "the weight files hold tensors that the model class does not use"),
    # The model
    "swift-name-unknown": ("error", "ms-swift has no model type or template of this name"),
    "model-type-ambiguous": ("error", "ms-swift has several model types for the model's class"),
    "template-ambiguous": ("error", "ms-swift has several templates for the model's type"),
    "remote-code": ("error", "the model has Python code of its own, which training would run"),
    "swift-prefixes-wrong": ("warning", "ms-swift's own freeze flags would miss parts of the model"),
    "class-not-loadable": ("error", "ms-swift can't load a model of this class, so it can be read but not trained"),
    # Learning rates and precision
    "parameter-without-group": ("error", "a trainable parameter is in no optimizer group, or in two"),
    "unused-learning-rate": ("note", "a learning rate is given for a component that does not train"),
    "rate-needs-multimodal": ("warning", "vit_lr or aligner_lr is given to an optimizer that ignores it"),
    "zero-learning-rate": ("warning", "a component trains at learning rate 0"),
    "optimizer-unknown": ("error", "ms-swift has no optimizer of this name"),
    "optimizer-unplanned": ("warning", "the chosen optimizer makes its own parameter groups"),
    "low-precision-trainables": ("warning", "small updates to 16-bit weights are rounded away"),
    # The run
    "key-without-effect": ("note", "a key of another tool is read and has no effect here"),
    "argument-unknown": ("warning", "an argument came into ms-swift after the tested release"),
    "rows-per-step-contradicted": (
        "error",
        "effective_batch_size and gradient_accumulation_steps make steps of different size",
    ),
    "rows-per-step-rounded": (
        "warning",
        "a step has more rows than effective_batch_size, which equal batches can't make",
    ),
    "padding-free-mixes-rows": ("error", "the LLM's layers would not keep the concatenated rows of a batch apart"),
    "packing": ("note", "the rows of a batch are concatenated, or left as they are: no row is packed"),
    "save-delay": ("error", "the run ends before anything may be saved"),
    "scheduler-incomplete": ("error", "lr_scheduler_type needs a setting in lr_scheduler_kwargs"),
    "report-to": ("error", "report_to names a service that transformers does not know"),
    "package-missing": ("error", "a package that the run needs is not installed; found when training begins"),
    "best-model-without-validation": ("error", "the best model is requested, but there is no validation data"),
    "best-model-metric-unscored": ("error", "metric_for_best_model is not measured at every evaluation"),
    "best-model-direction": ("warning", "greater_is_better contradicts the metric"),
    "grounding-eval-without-validation": ("error", "grounding_eval has no validation rows to answer"),
    "best-model-strategies": (
        "error",
        "evaluation and saving do not happen at the same steps, so there is no best model",
    ),
    "early-stopping": ("error", "early stopping has no metric, or two different metrics"),
    "phases-uncarried": ("error", "a phase leaves no weights for the next phase to begin with"),
    "curriculum-shuffle": ("warning", "of dataset_shuffle and train_dataloader_shuffle, one is on and one is off"),
    "deepspeed-unreadable": ("error", "deepspeed is neither a preset of ms-swift nor a JSON file"),
    "sharding-contradicted": ("error", "sharding and deepspeed name different ways of spreading a run over GPUs"),
    "sharding-device-map": ("error", "device_map spreads one process over all GPUs, and there are several processes"),
    "zero3-moe": ("error", "under ZeRO-3, transformers would swap the axes of a mixture-of-experts model's experts"),
    "sharding-adalora": ("error", "AdaLoRA can't measure importance on what DeepSpeed flattens"),
    "sharding-fp8": ("error", "frozen_fp8 makes matrices that can't be divided among GPUs"),
    "sharding-trained-whole": ("warning", "fsdp2 divides frozen layers only, and much of the LLM's layers trains"),
    "sharding-brings-little": ("note", "the run is divided among GPUs where that saves little memory"),
    "resume-mismatch": ("error", "the checkpoint to resume from has another method, other targets or another base"),
    "resume-finished": ("error", "the checkpoint to resume from has no steps left"),
    "augmentation-imgaug": ("error", "an imgaug augmenter does not exist or can't be used"),
    "augmentation-curriculum-order": ("error", "a curriculum of augmentation can't follow the order of the rows"),
    "loader-starves": ("warning", "the GPU waits for rows: too few CPU cores read them; found when training begins"),
    "best-metric-zero": ("warning", "the metric of the best model was 0 in every evaluation; found at the end"),
    "run-not-resumable": ("note", "save_only_model: checkpoints are saved from which no run can be resumed"),
    "versions-untested": ("note", "an installed package is not the tested release"),
}

# Problems and remarks about the rows of the data.
DATA_CODES: dict[str, tuple[Severity, str]] = {
    "data-empty": ("error", "a data file has no rows"),
    "data-row-malformed": ("error", "a row is not JSON, or has no known layout"),
    "data-image-missing": ("error", "an image file is missing"),
    "data-media-missing": ("error", "a video or sound file is missing"),
    "data-image-unreadable": ("error", "an image can't be read, or has an extreme aspect ratio"),
    "data-outside-image": ("error", "coordinates lie outside the image"),
    "data-outside-slightly": ("warning", "coordinates lie just outside the image, as rounding causes"),
    "data-coordinates-pixel-like": ("error", "relative coordinates are above 1000, or above 1 as shares"),
    "data-coordinates-relative-like": ("warning", "coordinates declared as pixels look like 0..1000"),
    "data-coordinates-share-like": ("error", "coordinates lie between 0 and 1, and are not declared so"),
    "data-coordinates-assumed": ("warning", "it is not known in which unit the model writes coordinates"),
    "data-coordinates-foreign": ("error", "answers give another unit of coordinates than the model writes"),
    "data-coordinates-undeclared": ("error", "the unit of the coordinates in answers can't be told"),
    "data-image-size": ("error", "a row gives another size of its image than the image has"),
    "data-answer-malformed": ("error", "an answer's JSON is damaged, or its coordinates are not numbers"),
    "data-label-empty": ("error", "an object has an empty label"),
    "data-key-unknown": ("error", "a key of a row is unknown, and near a known one"),
    "data-box-degenerate": ("error", "a box, quad or polygon has no area, or a box's corners are swapped"),
    "data-quad-crossed": ("error", "a quad or a polygon crosses itself"),
    "data-line-degenerate": ("error", "a line has no length"),
    "data-outline-apart": ("warning", "a box and the quad of its object do not overlap enough"),
    "data-special-text": ("error", "text of a row would be read as special tokens or placeholders"),
    "data-marks": ("warning", "messages hold tokens that mark names and places, which are not read as letters"),
    "data-image-unnamed": ("warning", "an answer does not say on which of several images its objects are"),
    "data-placeholders": ("error", "a row's placeholders do not fit its images and boxes"),
    "data-too-long": ("error", "rows are longer than max_length"),
    "data-too-long-dropped": ("warning", "rows longer than max_length are left out"),
    "data-metric-absent": ("error", "metric_for_best_model needs a kind of target that the validation rows lack"),
    "data-not-learned": ("error", "the text that the model would learn does not say where a row's targets are"),
    "data-nothing-to-score": ("error", "grounding_eval has no validation row whose answer can be scored"),
    "data-nothing-to-train": ("error", "no row can teach anything to what trains"),
    "data-rows-without-image": ("warning", "rows without an image teach nothing to what trains"),
    "data-geometry-kept": ("note", "augmentation leaves the geometry of rows as it is"),
    "data-annotations-left-out": ("note", "annotations that no target can hold are left out"),
    "data-no-objects": ("note", "rows without objects"),
    "data-unchecked": ("note", "something could not be checked before training"),
    "data-image-resized": ("note", "images are resized for the model"),
}

# The components as messages spell them.
SPOKEN = {"llm": "LLM", "vit": "ViT", "aligner": "aligner", "other": "other parts"}

# Problems of a checkpoint: the codes of `swiftalign verify-ckpt`, and of an export that refuses a checkpoint.
CHECKPOINT_CODES: dict[str, tuple[Severity, str]] = {
    # Files
    "no-weights": ("error", "there is no weight file, or no tensor in it"),
    "weights-in-shards": ("error", "the weights lie in shards of DeepSpeed or FSDP, and must be gathered first"),
    "file-unreadable": ("error", "a file can't be opened or read"),
    "file-not-fetched": ("error", "a file is a link or a pointer to content that was not fetched"),
    "file-empty": ("error", "a weight file has zero bytes"),
    "file-truncated": ("error", "a weight file is shorter than its header says"),
    "header-corrupt": ("error", "a safetensors header is malformed, or contradicts itself"),
    "header-overlap": ("error", "two tensors share bytes of a file"),
    "header-holes": ("error", "bytes of a weight file belong to no tensor"),
    "index-malformed": ("error", "the shard index is malformed"),
    "index-outside": ("error", "the shard index names a file outside its folder"),
    "index-shard-missing": ("error", "the shard index names a file that is missing"),
    "index-tensor-missing": ("error", "the shard index places a tensor in a file that lacks it"),
    "index-tensor-unlisted": ("error", "a shard holds a tensor that the index does not list"),
    "tensor-duplicated": ("error", "two weight files hold a tensor of the same name"),
    "weights-left-out": ("error", "a weight file in the folder holds tensors that are not read"),
    "weights-twice": ("warning", "a weight file in the folder repeats tensors of another one, which is read"),
    "index-total-size": ("error", "the index's total_size is not the size of its tensors"),
    "pickle-refused": ("error", "a pickle holds more than tensors, or is damaged; nothing in it was executed"),
    # Names and shapes
    "tensor-missing": ("error", "an expected tensor is missing"),
    "tensor-unexpected": ("error", "a tensor is not expected"),
    "tensor-shape": ("error", "a tensor has another shape than expected"),
    "tensor-dtype": ("error", "a tensor has another dtype than expected"),
    "tensor-empty": ("error", "a tensor has no elements, as ZeRO-3 saves it without gathering"),
    "prefix-wrong": ("error", "tensors have another prefix than expected; loaders would skip them"),
    "aligner-part-missing": ("error", "a whole merger of the aligner is missing"),
    # Values
    "not-finite": ("error", "a tensor holds NaN or infinity"),
    "all-zero": ("error", "all values of a matrix are zero"),
    "untouched": ("warning", "a trained tensor still has its initial value"),
    "nothing-moved": ("error", "every trained tensor still has its initial value"),
    "changed-outside-plan": ("error", "tensors outside the plan differ from the base"),
    "rounded-to-base": ("warning", "a trained tensor equals the base: its change was rounded away"),
    "base-mismatch": ("error", "the base has other tensors, or tensors of another shape"),
    # Files beside the weights
    "adapter-config-missing": ("error", "an adapter has no adapter_config.json"),
    "adapter-config-malformed": ("error", "adapter_config.json is not a peft config"),
    "adapter-rank": ("error", "adapter_config.json names another rank than the tensors have"),
    "adapter-targets": ("error", "adapter_config.json targets other layers than the tensors adapt"),
    "adapter-saved": ("error", "adapter_config.json saves other modules than the tensors hold"),
    "adapter-method": ("error", "adapter_config.json names another method than the run's plan"),
    "adapter-base": ("error", "adapter_config.json names another base model than the run's plan"),
    "base-renamed": ("warning", "--base gives another model than the one that adapter_config.json names"),
    "base-quantised": ("warning", "the base of training is quantised, or the base to compare with is"),
    "state-missing": ("warning", "the checkpoint has no trainer_state.json, which is written last"),
    "state-malformed": ("error", "trainer_state.json can't be parsed"),
    "state-step": ("error", "trainer_state.json belongs to another step than the folder's name"),
    "optimizer-missing": ("warning", "no optimizer or scheduler state: training can't be resumed from here"),
    "optimizer-size": ("error", "the optimizer state has another number of parameters than the plan"),
    "config-malformed": ("error", "config.json can't be parsed, or names no model"),
    "tied-head": ("error", "tie_word_embeddings and the lm_head in the weights contradict each other"),
    "processor-missing": ("error", "a full model lacks its image processor's files"),
    "tokenizer-missing": ("error", "a full model lacks its tokenizer"),
    "chat-template-missing": ("warning", "a full model lacks its chat template"),
}
# What a configuration file can have wrong.
CONFIG_CODES: dict[str, tuple[Severity, str]] = {"config": ("error", "a configuration file has a fault")}
_TABLES = ChainMap(CONFIG_CODES, CODES, DATA_CODES, CHECKPOINT_CODES)


def register(code: str, severity: Severity, meaning: str) -> None:
    """Add a code to `CODES`, as a tuning method does for its own constraints."""
    CODES[code] = severity, meaning


@dataclass(frozen=True)
class Problem:
    """Something that is wrong, or that a user should know.

    Attributes:
        code: one of the registered codes, by which ``--allow`` names it.
        message: what is wrong, with names and numbers.
        hint: what to do about it.
        fix: config values that solve the problem when they are laid over the config.
        where: ``file:line`` of the setting or row at fault.
    """

    code: str
    message: str
    hint: str = ""
    fix: Mapping[str, Any] | None = None
    where: str = ""

    def __str__(self) -> str:
        return f"{self.where}: {self.message}" if self.where else self.message

    @property
    def severity(self) -> Severity:
        """``error``, ``warning`` or ``note``, by the code."""
        return _TABLES[self.code][0]

    @property
    def advice(self) -> str:
        """The hint, with the fix as YAML that can be pasted."""
        if not self.fix:
            return self.hint
        from swiftalign.yaml12 import dump_yaml  # PyYAML is imported only where a problem has a fix

        return f"{self.hint}\n{dump_yaml(dict(self.fix)).rstrip()}"

    def to_json(self) -> dict[str, Any]:
        """What ``--json`` prints of it."""
        values = {"code": self.code, "severity": self.severity, "message": self.message, "hint": self.advice}
        return values | {"where": self.where} | ({"fix": self.fix} if self.fix else {})


def blocking(findings: Iterable[Problem], allowed: Collection[str] = ()) -> list[Problem]:
    """The errors among the problems, without those that are allowed by their code."""
    return [finding for finding in findings if finding.severity == "error" and finding.code not in allowed]


def names(items: Iterable[str], limit: int = 4) -> str:
    """A list of names for a message, shortened."""
    listed = list(items)
    rest = len(listed) - limit
    return ", ".join(listed[:limit]) + (f" and {rest} more" if rest > 0 else "")


def ordinal(number: int) -> str:
    """A number of a sequence.

    >>> [ordinal(number) for number in (1, 2, 3, 4, 11, 22)]
    ['1st', '2nd', '3rd', '4th', '11th', '22nd']
    """
    ending = {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th") if number % 100 not in (11, 12, 13) else "th"
    return f"{number}{ending}"


def counted(number: int, noun: str) -> str:
    """A number with its noun.

    >>> counted(1, "tensor"), counted(2, "tensor")
    ('1 tensor', '2 tensors')
    """
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def size_text(count: float) -> str:
    """A number of bytes.

    >>> size_text(512), size_text(411_000), size_text(1_510_088), size_text(81e9)
    ('512 B', '411 kB', '1.51 MB', '81 GB')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def about(
    code: str,
    items: Collection[str],
    what: str,
    hint: str = "",
    *,
    noun: str = "tensor",
    limit: int = 4,
    path: Path | None = None,
) -> Iterator[Problem]:
    """One problem that counts and names some things, if there are any.

    >>> [str(problem) for problem in about("tensor-missing", ["a", "b"], "missing")]
    ['2 tensors missing: a, b']

    Args:
        limit: number of things that the message names at most.
        path: the file at fault.
    """
    if items:
        message = f"{counted(len(items), noun)} {what}: {names(items, limit)}"
        yield Problem(code, f"{path}: {message}" if path else message, hint)


def printable(text: str) -> str:
    """Spell out the characters that a terminal would obey or can't show, in text that comes from files."""
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)


class SwiftalignError(Exception):
    """An error that the user can correct.

    Args:
        message: what was wrong, and where. It may hold text of a damaged file: it is kept as `printable` spells it.
        hint: what to do next.
    """

    exit_code = 2
    code = "command"
    problems: Sequence[Problem] = ()

    def __init__(self, message: str, hint: str | None = None) -> None:
        self.message = "\n".join(map(printable, message.splitlines()))
        self.hint = hint
        super().__init__(self.message)

    def to_json(self) -> dict[str, Any]:
        """What ``--json`` prints in place of a result. An error that is no list of problems is one, by its own code."""
        whole = {"code": self.code, "severity": "error", "message": self.message, "hint": self.hint or "", "where": ""}
        return {"ok": False, "problems": [problem.to_json() for problem in self.problems] or [whole]}


def config_problem(where: str, message: str, hint: str | None = None) -> Problem:
    """A fault of a configuration file."""
    return Problem("config", message, hint or "", where=where)


class ConfigError(SwiftalignError):
    """A configuration that can't be read; carries every problem found, in the order of the file."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems), problems[0].hint)
        self.problems = problems


class PreflightError(SwiftalignError):
    """Pre-flight found problems that are errors.

    Args:
        problems: the errors that were not allowed by name.
    """

    exit_code = 1

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(f"{problem} [{problem.code}]" for problem in problems), problems[0].hint or None)
        self.problems = tuple(problems)


class ModelError(SwiftalignError):
    """A model that can't be found, read or recognised."""

    code = "model"


class DataError(SwiftalignError):
    """Training data that can't be read."""

    code = "data"


class RunFolderError(SwiftalignError):
    """A run folder that is taken, in use, or can't be written."""

    code = "run-folder"


class PlanMismatchError(SwiftalignError):
    """The real model differs from the plan."""

    code = "plan-mismatch"
    exit_code = 1


class ExportError(SwiftalignError):
    """An export that was refused, or whose result is not what it ought to be."""

    code = "export"
    exit_code = 1


class TrainingError(SwiftalignError):
    """The training process ended before its last step."""

    code = "training"
    exit_code = 1
