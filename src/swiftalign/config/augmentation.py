"""The augmentation section of a configuration: operations, their parameters, and the rules for targets.

Each operation has a model of its parameters, with the guide's names. A range is ``[lo, hi]``, or one number for both.
The description of a number begins with its unit: docs/operations.md is made of the descriptions.
"""

from __future__ import annotations

import functools
import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    WithJsonSchema,
    create_model,
    model_validator,
)
from pydantic.alias_generators import to_snake

from swiftalign.config.curriculum import Curriculum, Knot, under, values_at
from swiftalign.config.parameters import Parameters, Share, Strict

Range = tuple[float, float]


def _as_range(value: Any) -> Any:
    if type(value) in (int, float):  # isinstance would take true and false, too
        return (value, value)
    if not isinstance(value, (list, tuple)) or len(value) != 2 or not all(type(item) in (int, float) for item in value):
        raise ValueError("must be a range [lo, hi], or one number")
    if value[0] > value[1]:
        raise ValueError(f"the range [{value[0]}, {value[1]}] ends before it begins; write the lower number first")
    return (float(value[0]), float(value[1]))


@dataclass(frozen=True)
class _Bounds:
    """What both ends of a range must lie within.

    Attributes:
        what: the numbers, in messages.
        low: the smallest that is allowed; with ``above``, the largest that is not.
    """

    what: str
    low: float
    high: float
    above: bool = False

    def check(self, value: Any) -> Range:
        low, high = _as_range(value)
        if low < self.low or high > self.high or (self.above and low == self.low):
            allowed = (
                f"above {self.low:g}, and at most {self.high:g}"
                if self.above
                else f"from {self.low:g} to {self.high:g}"
            )
            raise ValueError(f"{self.what} must be {allowed}")
        return (low, high)

    @property
    def schema(self) -> WithJsonSchema:
        return _range_schema({"exclusiveMinimum" if self.above else "minimum": self.low, "maximum": self.high})


def _range_schema(bounds: dict[str, float]) -> WithJsonSchema:
    number = {"type": "number", **bounds}
    return WithJsonSchema({"anyOf": [number, {"type": "array", "items": number, "minItems": 2, "maxItems": 2}]})


def _label(value: str) -> str:
    if not value.strip():
        raise ValueError("a label, or a part of it, can't be empty")
    return value


_FACTORS = _Bounds("a factor", 0, 100)  # 100 is greater than any useful factor, and too small to overflow
_RATIOS = _Bounds("a ratio", 0.05, 20)
_SHARES = _Bounds("a share", 0, 1, above=True)
Factors = Annotated[Range, BeforeValidator(_FACTORS.check), _FACTORS.schema]
Ratios = Annotated[Range, BeforeValidator(_RATIOS.check), _RATIOS.schema]
Shares = Annotated[Range, BeforeValidator(_SHARES.check), _SHARES.schema]
Angles = Annotated[Range, BeforeValidator(_as_range), _range_schema({})]
Multiple = Annotated[int, Field(ge=1, le=4096)]
Tiles = Annotated[int, Field(ge=1, le=64)]
Count = Annotated[int, Field(ge=1)]
Label = Annotated[str, AfterValidator(_label), WithJsonSchema({"type": "string", "minLength": 1})]
Zoom = Annotated[float, Field(gt=0.05, le=20)]


def _fill(value: Any) -> Any:
    value = {"black": 0, "gray": "grey"}.get(value, value) if isinstance(value, str) else value
    levels = (value, value, value) if type(value) is int else value
    if levels in ("grey", "mean"):
        return levels
    if not isinstance(levels, (list, tuple)) or len(levels) != 3:
        raise ValueError("must be black, grey, mean, one level of grey, or [red, green, blue]")
    if not all(type(level) is int and 0 <= level <= 255 for level in levels):
        raise ValueError("levels must be whole numbers from 0 to 255")
    return tuple(levels)


Colour = tuple[int, int, int]  # red, green, blue, 0..255
_LEVEL_SCHEMA: dict[str, Any] = {"type": "integer", "minimum": 0, "maximum": 255}
_FILL_SCHEMA = WithJsonSchema(
    {
        "anyOf": [
            {"enum": ["black", "grey", "gray", "mean"]},
            _LEVEL_SCHEMA,
            {"type": "array", "items": _LEVEL_SCHEMA, "minItems": 3, "maxItems": 3},
        ]
    }
)
Fill = Annotated[Colour | Literal["grey", "mean"], BeforeValidator(_fill), _FILL_SCHEMA]


_SIDES = "pixels; the sides become multiples of this many"


class _Interval(Parameters):
    lo: Zoom = Field(description="factor; the least that is drawn, below 1 makes smaller")
    hi: Zoom = Field(description="factor; the most that is drawn, above 1 makes larger")

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.lo > self.hi:
            raise ValueError(f"lo {self.lo:g} is greater than hi {self.hi:g}; exchange them")
        return self


class Hflip(Parameters):
    """Mirror left and right."""


class Vflip(Parameters):
    """Mirror up and down."""


class Rotate(Parameters):
    """Rotate about the centre; the image keeps its size."""

    max_deg: Annotated[float, Field(ge=0, le=180)] = Field(description="degrees; the largest angle, in both directions")


class Scale(_Interval):
    """Zoom about the centre; the image keeps its size."""


class ResizeByScale(_Interval):
    """Resize the image; its sides become multiples of align_multiple."""

    align_multiple: Multiple = Field(32, description=_SIDES)


class PadToMultiple(Parameters):
    """Extend the image to the right and the bottom; its sides become multiples of multiple."""

    multiple: Multiple = Field(32, description=_SIDES)


class ExpandToFitAffine(Parameters):
    """Enlarge the canvas so that it shows the whole image: earlier operations, but for crops, cut nothing off."""

    multiple: Multiple = Field(32, description=_SIDES)
    max_pixels: Annotated[int, Field(ge=1)] | None = Field(
        921600, description="pixels; the most of the canvas, a larger one is reduced. null: any number"
    )

    @model_validator(mode="after")
    def _one_multiple_fits(self) -> Self:
        if self.max_pixels is not None and self.max_pixels < self.multiple**2:
            raise ValueError(
                f"max_pixels {self.max_pixels} is less than {self.multiple} x {self.multiple} pixels; make it larger"
            )
        return self


class _Crop(Parameters):
    """Parameters of every crop."""

    completeness_threshold: Share = Field(
        0.95, description="share; labels change as partly_shown says if less of the object is visible"
    )
    partly_shown: dict[Label, Label] = Field(
        {"显示完整": "只显示部分", "可见性=完整": "可见性=部分"},
        description="what a label, a part of it between commas or slashes, or the value in key=value becomes",
    )

    @property
    def rules(self) -> dict[str, Any]:
        """The values that say what becomes of targets, and when the crop is left out."""
        names = ("min_coverage", "completeness_threshold", "min_objects", "skip_if_line", "partly_shown")
        return {name: getattr(self, name) for name in names}


_COVERAGE = "share; targets of which less is in the crop are dropped, also from the answer"
_OBJECTS = "objects; the crop is left out if fewer would remain"
_LINE = "leave the crop out if it would cut or drop a line"


class RandomCrop(_Crop):
    """Keep a part of the image, anywhere in it."""

    scale: Shares = Field((0.6, 1.0), description="share; area of the crop over that of the image")
    aspect_ratio: Ratios = Field(
        (0.8, 1.2),
        description="ratio; width of the crop over its height. Sides that are longer than the image are shortened",
    )
    min_coverage: Share = Field(0.3, description=_COVERAGE)
    min_objects: Count = Field(4, description=_OBJECTS)
    skip_if_line: bool = Field(True, description=_LINE)


class RoiCrop(_Crop):
    """Keep the surroundings of one object of a class."""

    anchor_classes: Annotated[tuple[Label, ...], Field(min_length=1, strict=False)] = Field(
        description="labels, parts of labels between commas or slashes, or values in key=value"
    )
    scale_range: Ratios = Field((1.2, 2.0), description="factor; sides of the crop over those of the object's box")
    min_crop_size: Annotated[int, Field(ge=1)] = Field(320, description="pixels; the smallest side of the crop")
    min_coverage: Share = Field(0.4, description=_COVERAGE)
    min_objects: Count = Field(1, description=_OBJECTS)
    skip_if_line: bool = Field(False, description=_LINE)


class ColorJitter(Parameters):
    """Change brightness, contrast and saturation in this order, as PIL does."""

    brightness: Factors = Field((1.0, 1.0), description="factor; 0 is black, 1 changes nothing")
    contrast: Factors = Field((1.0, 1.0), description="factor; 0 is an even grey, 1 changes nothing")
    saturation: Factors = Field((1.0, 1.0), description="factor; 0 is without colour, 1 changes nothing")


class Gamma(Parameters):
    """Replace each value by 255 * (value / 255) ** gamma."""

    gamma: Factors = Field(description="exponent; below 1 lightens, 1 changes nothing, above 1 darkens")


class Hsv(Parameters):
    """Shift the hue; multiply the saturation and the value."""

    hue_delta_deg: Angles = Field((0.0, 0.0), description="degrees; added to the hue, a circle of 360")
    sat: Factors = Field((1.0, 1.0), description="factor; of the saturation, 1 changes nothing")
    val: Factors = Field((1.0, 1.0), description="factor; of the largest of red, green and blue, 1 changes nothing")


class Clahe(Parameters):
    """Contrast-limited adaptive histogram equalisation of the lightness in Lab."""

    clip_limit: Factors = Field((4.0, 4.0), description="factor; a higher one leaves more contrast and noise")
    tile_grid_size: tuple[Tiles, Tiles] = Field((8, 8), strict=False, description="tiles; their number across and down")


class AutoContrast(Parameters):
    """Stretch the values of each channel over 0..255, as PIL does."""

    cutoff: Annotated[float, Field(ge=0, lt=50)] = Field(
        0.0, description="percent; of the darkest, and of the lightest values that the stretch may clip"
    )


class Equalize(Parameters):
    """Spread the values of each channel so that each is about as frequent, as PIL does."""


class Sharpness(Parameters):
    """Change the sharpness as PIL does: 0 blurs, 1 changes nothing."""

    factor: Factors = Field(description="factor; 0 blurs, 1 changes nothing, above 1 sharpens")


class Solarize(Parameters):
    """Invert the values that are at least the threshold."""

    threshold: Annotated[int, Field(ge=0, le=256)] = Field(128, description="level; 256 inverts none")


class Posterize(Parameters):
    """Keep this many bits of each value."""

    bits: Annotated[int, Field(ge=1, le=8)] = Field(4, description="bits; 8 changes nothing")


_GEOMETRY = (Hflip, Vflip, Rotate, Scale, ResizeByScale, ExpandToFitAffine, RandomCrop, RoiCrop)
_COLOURS = (ColorJitter, Gamma, Hsv, Clahe, AutoContrast, Equalize, Sharpness, Solarize, Posterize)
# Name of an operation -> its parameters. The name is that of the class in snake_case.
PARAMETERS = {to_snake(kind.__name__): kind for kind in (*_GEOMETRY, *_COLOURS, PadToMultiple)}
IMGAUG = "imgaug."  # prefix of imgaug's own augmenters, e.g. imgaug.MotionBlur


class ImgaugParameters(Parameters):
    """``prob``, and the arguments of the augmenter."""

    model_config = ConfigDict(extra="allow")


class Operation(Strict):
    """One operation of the pipeline."""

    name: str
    params: Parameters


class ImgaugOp(Operation):
    """An augmenter of imgaug, e.g. ``imgaug.MotionBlur``; two numbers are a range, more numbers a choice."""

    name: Annotated[str, Field(pattern=r"^imgaug\.[A-Za-z0-9]+$")]
    params: ImgaugParameters


def _operation(name: str, parameters: type[Parameters]) -> type[Operation]:
    fields: dict[str, Any] = {"name": (Literal[name], ...), "params": (parameters, ...)}
    return create_model(f"{parameters.__name__}Op", __base__=Operation, **fields)


def spelled_out(item: Any) -> Any:
    """Turn ``hflip`` and ``{rotate: {...}}`` into ``{name, params}``; other values are left for the checks."""
    if isinstance(item, str):
        return {"name": item, "params": {}}
    if isinstance(item, dict) and len(item) == 1 and "name" not in item:
        ((name, params),) = item.items()
        item = {"name": name, "params": params}
    if isinstance(item, dict) and item.get("params") is None:
        return {**item, "params": {}}
    return item


def _tag(item: Any) -> str:
    name = item.get("name") if isinstance(item, dict) else getattr(item, "name", None)
    return "imgaug" if isinstance(name, str) and name.startswith(IMGAUG) else str(name)


_KINDS = {name: _operation(name, parameters) for name, parameters in PARAMETERS.items()} | {"imgaug": ImgaugOp}
globals().update({kind.__name__: kind for kind in _KINDS.values()})  # pickle looks for a class under its name
if TYPE_CHECKING:
    AnyOperation = Operation
else:
    _ANY = functools.reduce(operator.or_, (Annotated[kind, Tag(name)] for name, kind in _KINDS.items()))
    AnyOperation = Annotated[_ANY, Discriminator(_tag), BeforeValidator(spelled_out)]

Preset = Literal["mild", "conservative", "guide", "progressive-1", "progressive-2", "progressive-3"]


class AugmentationSection(Strict):
    """The augmentation of training rows: operations in order, and the rules for their targets."""

    enabled: bool = True
    preset: Preset | None = Field(None, description="predefined list of operations, instead of ops")
    ops: list[AnyOperation] = Field(default_factory=list, description="operations, in order")
    seed: Annotated[int, Field(ge=0, lt=2**63)] = Field(42, description="seed of the random draws per epoch and row")
    rotated_boxes: Literal["skip", "quad", "grow"] = Field(
        "skip", description="if a rotated box would grow too much: skip the rotation, write a quad, or let the box grow"
    )
    min_overlap: Annotated[float, Field(ge=0, le=1)] = Field(
        0.7, description="a rotated box grows too much if its own area is less than this share of the new box's area"
    )
    min_visible: Annotated[float, Field(ge=0, le=1)] = Field(
        0.5, description="targets are dropped, also from the answer, if a smaller share of them stays in the image"
    )
    min_side: Annotated[float, Field(ge=0)] = Field(4.0, description="pixels; targets that become smaller are dropped")
    left_right: Literal["swap", "refuse", "keep"] = Field(
        "swap",
        description="words such as left and top in a row that exchanges them: swap them, do not mirror, or keep them",
    )
    fill: Fill = Field(
        (0, 0, 0),
        description="colour outside the image: black; grey, which the model gets as 0; mean, the image's own mean; "
        "one level of grey; or [red, green, blue]",
    )
    bypass_prob: Share = Field(0.0, description="share of the rows that an epoch leaves as they are")
    curriculum: Curriculum | None = Field(None, description="how probabilities and parameters change over the run")

    @model_validator(mode="after")
    def _preset_or_ops(self) -> Self:
        if self.preset is not None and self.ops:
            raise ValueError("preset and ops are both given; keep one of the two")
        try:
            _ = self.knots
        except ValidationError as error:
            raise ValidationError.from_exception_data("curriculum", under(("curriculum",), error)) from None
        return self

    @property
    def operations(self) -> list[Operation]:
        """The operations of the list or the preset; empty if augmentation is off."""
        return self._listed if self.enabled else []

    @property
    def _listed(self) -> list[Operation]:
        if self.preset is None:
            return list(self.ops)
        listed = _PRESETS[self.preset].items()
        return [_KINDS[name].model_validate({"name": name, "params": params}) for name, params in listed]

    @functools.cached_property
    def knots(self) -> tuple[Knot, ...]:
        """The values at the start of the run and at the end of each phase of the curriculum; none without one."""
        if self.curriculum is None:
            return ()
        return self.curriculum.knots(self.bypass_prob, [(each.name, each.params) for each in self._listed])

    def at(self, progress: float) -> AugmentationSection:
        """The section with the curriculum's values at a point of the run, and without the curriculum.

        Args:
            progress: the point, as a share of the run, 0..1.
        """
        if self.curriculum is None:
            return self
        _, bypass_prob, params = values_at(self.knots, progress)
        ops = [
            operation if operation.params is each else operation.model_copy(update={"params": each})
            for operation, each in zip(self._listed, params, strict=True)
        ]
        changes = {"preset": None, "ops": ops, "bypass_prob": bypass_prob, "curriculum": None}
        return self.model_copy(update=changes)


_GUIDE: dict[str, dict[str, Any]] = {
    "hflip": {"prob": 0.5},
    "rotate": {"max_deg": 8, "prob": 0.25},
    "scale": {"lo": 1.02, "hi": 1.15, "prob": 0.2},
    "resize_by_scale": {"lo": 0.9, "hi": 1.1, "align_multiple": 32, "prob": 0.5},
    "color_jitter": {"brightness": [0.6, 1.4], "contrast": [0.6, 1.4], "saturation": [0.6, 1.4], "prob": 0.8},
    "gamma": {"gamma": [0.6, 1.5], "prob": 0.5},
    "hsv": {"hue_delta_deg": [-25, 25], "sat": [0.6, 1.5], "val": [0.6, 1.5], "prob": 0.6},
    "clahe": {"clip_limit": 4.0, "tile_grid_size": [8, 8], "prob": 0.3},
    "sharpness": {"factor": [0.5, 1.8], "prob": 0.4},
    "solarize": {"threshold": 128, "prob": 0.15},
    "posterize": {"bits": 4, "prob": 0.15},
    "pad_to_multiple": {"multiple": 32},
}
# What docs/cameras.md measured of each decided the first two; the others are the guide's list and its three phases.
_PRESETS: dict[Preset, dict[str, dict[str, Any]]] = {
    "mild": {
        "color_jitter": {"brightness": [0.8, 1.2], "contrast": [0.8, 1.2], "saturation": [0.8, 1.2], "prob": 0.5},
        "gamma": {"gamma": [0.8, 1.25], "prob": 0.3},
    },
    "conservative": {name: _GUIDE[name] for name in ("color_jitter", "gamma", "sharpness")},
    "guide": _GUIDE,
    "progressive-1": {
        **_GUIDE,
        "rotate": {"max_deg": 5.0, "prob": 0.15},
        "scale": {"lo": 1.01, "hi": 1.08, "prob": 0.1},
    },
    "progressive-2": _GUIDE,
    "progressive-3": {
        **_GUIDE,
        "rotate": {"max_deg": 12.0, "prob": 0.3},
        "scale": {"lo": 1.03, "hi": 1.2, "prob": 0.25},
    },
}
# Parameters to show for an operation that needs some.
EXAMPLES = _GUIDE | {"roi_crop": {"anchor_classes": ["cup"], "prob": 0.5}}
