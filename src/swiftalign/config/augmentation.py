"""The augmentation section of a configuration: operations, their parameters, and the rules for targets.

Each operation is a model of its parameters, under the guide's names. A range is ``[lo, hi]``, or one number for both.
"""

from __future__ import annotations

import functools
import operator
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    WithJsonSchema,
    create_model,
    model_validator,
)

Range = tuple[float, float]


def _as_range(value: Any) -> Any:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return (value, value)
    if not isinstance(value, (list, tuple)) or len(value) != 2 or not all(_is_number(item) for item in value):
        raise ValueError("must be a range [lo, hi], or one number")
    if value[0] > value[1]:
        raise ValueError(f"the range [{value[0]}, {value[1]}] ends before it begins; write the lower number first")
    return (float(value[0]), float(value[1]))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _factors(value: Any) -> Any:
    low, high = _as_range(value)
    if low < 0 or high > _MOST:
        raise ValueError(f"a factor is from 0 to {_MOST:g}")
    return (low, high)


_MOST = 100.0  # beyond any use, and short of overflow
_RANGE_SCHEMA = WithJsonSchema(
    {"anyOf": [{"type": "number"}, {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2}]}
)
Factors = Annotated[Range, BeforeValidator(_factors), _RANGE_SCHEMA]
Degrees = Annotated[Range, BeforeValidator(_as_range), _RANGE_SCHEMA]
Multiple = Annotated[int, Field(ge=1, le=4096)]
Colour = Annotated[int, Field(ge=0, le=255)]
Tiles = Annotated[int, Field(ge=1, le=64)]
Zoom = Annotated[float, Field(gt=0.05, le=20)]


class Parameters(BaseModel):
    """What every operation takes."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    prob: Annotated[float, Field(ge=0, le=1)] = Field(1.0, description="share of the samples that it is applied to")


class _Interval(Parameters):
    lo: Zoom
    hi: Zoom

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.lo > self.hi:
            raise ValueError(f"lo {self.lo:g} is above hi {self.hi:g}; exchange them")
        return self


class Hflip(Parameters):
    """Mirror left and right."""


class Rotate(Parameters):
    """Turn about the centre, on the same canvas."""

    max_deg: Annotated[float, Field(ge=0, le=180)] = Field(description="turned by up to so many degrees either way")


class Scale(_Interval):
    """Zoom about the centre, on the same canvas."""


class ResizeByScale(_Interval):
    """Resize the image, to sides that are multiples."""

    align_multiple: Multiple = 32


class PadToMultiple(Parameters):
    """Grow the canvas right and bottom, to sides that are multiples."""

    multiple: Multiple = 32


class ColorJitter(Parameters):
    """PIL's brightness, contrast and saturation, one after the other."""

    brightness: Factors = (1.0, 1.0)
    contrast: Factors = (1.0, 1.0)
    saturation: Factors = (1.0, 1.0)


class Gamma(Parameters):
    """255 * (value / 255) ** gamma."""

    gamma: Factors


class Hsv(Parameters):
    """Shift the hue, multiply saturation and value."""

    hue_delta_deg: Degrees = (0.0, 0.0)
    sat: Factors = (1.0, 1.0)
    val: Factors = (1.0, 1.0)


class Clahe(Parameters):
    """Contrast-limited adaptive histogram equalisation of Lab lightness."""

    clip_limit: Factors = (4.0, 4.0)
    tile_grid_size: Annotated[tuple[Tiles, Tiles], BeforeValidator(_as_tuple)] = Field(
        (8, 8), description="tiles across and down"
    )


class Sharpness(Parameters):
    """PIL's sharpness: 0 blurs, 1 changes nothing."""

    factor: Factors


class Solarize(Parameters):
    """Invert the values from the threshold on."""

    threshold: Annotated[int, Field(ge=0, le=256)] = 128


class Posterize(Parameters):
    """Keep so many bits of each value."""

    bits: Annotated[int, Field(ge=1, le=8)] = 4


PARAMETERS: dict[str, type[Parameters]] = {
    "hflip": Hflip,
    "rotate": Rotate,
    "scale": Scale,
    "resize_by_scale": ResizeByScale,
    "color_jitter": ColorJitter,
    "gamma": Gamma,
    "hsv": Hsv,
    "clahe": Clahe,
    "sharpness": Sharpness,
    "solarize": Solarize,
    "posterize": Posterize,
    "pad_to_multiple": PadToMultiple,
}
GEOMETRIC = ("hflip", "rotate", "scale", "resize_by_scale", "pad_to_multiple")
IMGAUG = "imgaug."  # prefix of any other augmenter, under its imgaug name


class ImgaugParameters(Parameters):
    """``prob``, and the augmenter's own arguments."""

    model_config = ConfigDict(extra="allow")


class Operation(BaseModel):
    """One operation of the pipeline."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    name: str
    params: Parameters


def _operation(name: str, parameters: type[Parameters]) -> type[Operation]:
    fields: dict[str, Any] = {"name": (Literal[name], ...), "params": (parameters, ...)}
    return create_model(f"{parameters.__name__}Op", __base__=Operation, **fields)


class ImgaugOp(Operation):
    """Any other augmenter of imgaug, e.g. ``imgaug.MotionBlur``; two numbers are a range, more of them a choice."""

    name: Annotated[str, Field(pattern=r"^imgaug\.[A-Za-z0-9]+$")]
    params: ImgaugParameters


def spelled_out(item: Any) -> Any:
    """``{name, params}`` for the shorter ``{rotate: {...}}`` and ``hflip``; anything else is left for the checks."""
    if isinstance(item, str):
        return {"name": item, "params": {}}
    if isinstance(item, dict) and len(item) == 1:
        ((name, params),) = item.items()
        item = {"name": params} if name == "name" else {"name": name, "params": params}
    if isinstance(item, dict) and item.get("params") is None:
        return {**item, "params": {}}
    return item


def _tag(item: Any) -> str:
    name = item.get("name") if isinstance(item, dict) else getattr(item, "name", None)
    return "imgaug" if isinstance(name, str) and name.startswith(IMGAUG) else str(name)


_KINDS = {name: _operation(name, parameters) for name, parameters in PARAMETERS.items()} | {"imgaug": ImgaugOp}
if TYPE_CHECKING:
    AnyOperation = Operation
else:
    _ANY = functools.reduce(operator.or_, (Annotated[kind, Tag(name)] for name, kind in _KINDS.items()))
    AnyOperation = Annotated[_ANY, Discriminator(_tag), BeforeValidator(spelled_out)]

Preset = Literal["conservative", "progressive-1", "progressive-2", "progressive-3"]


class AugmentationSection(BaseModel):
    """The augmentation of training rows: operations in order, and the rules for their targets."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    enabled: bool = True
    preset: Preset | None = Field(None, description="a ready-made list of operations, in place of ops")
    ops: list[AnyOperation] = Field(default_factory=list, description="operations, in order")
    seed: Annotated[int, Field(ge=0, lt=2**63)] = Field(42, description="of the draws, with the epoch and the row")
    rotated_boxes: Literal["skip", "quad", "grow"] = Field(
        "skip", description="where a turned box would grow too much: skip the rotation, write a quad, or let it grow"
    )
    min_overlap: Annotated[float, Field(ge=0, le=1)] = Field(
        0.7, description="a turned box grows too much where its own area is less than this share of the new box's"
    )
    min_visible: Annotated[float, Field(ge=0, le=1)] = Field(
        0.5, description="targets of which less stays in the image are dropped, from the answer too"
    )
    min_side: Annotated[float, Field(ge=0)] = Field(4.0, description="pixels; targets that become smaller are dropped")
    left_right: Literal["swap", "refuse", "keep"] = Field(
        "swap", description="words for left and right in a mirrored row: exchange them, do not mirror it, or keep them"
    )
    fill: Annotated[tuple[Colour, Colour, Colour], BeforeValidator(_as_tuple)] = Field(
        (0, 0, 0), description="colour beside the image"
    )

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.preset is not None and self.ops:
            raise ValueError("preset and ops are both given; keep one of the two")
        return self

    @property
    def operations(self) -> list[Operation]:
        """The operations of the list or the preset; none where augmentation is off."""
        if not self.enabled:
            return []
        return preset_operations(self.preset) if self.preset else list(self.ops)


# The guide's conservative geometry; its progressive phases change rotate and scale.
_CONSERVATIVE: dict[str, dict[str, Any]] = {
    "hflip": {"prob": 0.5},
    "rotate": {"max_deg": 8.0, "prob": 0.25},
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
_PHASES: dict[str, dict[str, dict[str, Any]]] = {
    "conservative": {},
    "progressive-1": {
        "rotate": {"max_deg": 5.0, "prob": 0.15},
        "scale": {"lo": 1.01, "hi": 1.08, "prob": 0.1},
    },
    "progressive-2": {
        "rotate": {"max_deg": 8.0, "prob": 0.25},
        "scale": {"lo": 1.02, "hi": 1.15, "prob": 0.2},
    },
    "progressive-3": {
        "rotate": {"max_deg": 12.0, "prob": 0.3},
        "scale": {"lo": 1.03, "hi": 1.2, "prob": 0.25},
    },
}


def preset_operations(preset: str) -> list[Operation]:
    """A preset's operations."""
    listed = {**_CONSERVATIVE, **_PHASES[preset]}
    return [_KINDS[name].model_validate({"name": name, "params": params}) for name, params in listed.items()]
