"""The curriculum of an augmentation section: how its probabilities and parameters change over a run."""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NamedTuple, Self

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from swiftalign.config.parameters import Parameters, Share, Strict
from swiftalign.config.yaml import Key


def _fault(key: Key, value: Any, message: str) -> ValidationError:
    """An error about the value under a path of keys; raised in a validator, it gets the path of that, too."""
    detail: Any = {"type": "value_error", "loc": key, "input": value, "ctx": {"error": ValueError(message)}}
    return ValidationError.from_exception_data("curriculum", [detail])


class CurriculumPhase(Strict):
    """The values that a part of the run ends with; what is not named keeps the value of the phase before."""

    until_percent: Annotated[float, Field(ge=1, le=100)] = Field(description="end of the phase, in percent of the run")
    bypass_prob: Share | None = None
    ops: Annotated[dict[str, dict[str, Any]], BeforeValidator(lambda ops: {} if ops is None else ops)] = Field(
        default_factory=dict, description="numbers and ranges of operations of the list, by the operation's name"
    )

    @model_validator(mode="before")
    @classmethod
    def _in_percent(cls, values: Any) -> Any:
        if isinstance(values, dict) and ("until_step" in values or "until_percent" not in values):
            key: Key = ("until_step",) if "until_step" in values else ()
            raise _fault(key, values, "a phase ends at a share of the run; write it as until_percent: 20")
        return values


class Knot(NamedTuple):
    """The values at one point of the run.

    Attributes:
        at: the point, as a share of the run, 0..1.
        bypass_prob: share of the rows that are left as they are.
        params: parameters of each operation of the list.
    """

    at: float
    bypass_prob: float
    params: tuple[Parameters, ...]


class Curriculum(Strict):
    """Phases in order: in each, values change evenly from those before to its own; the last ones hold to the end."""

    phases: list[CurriculumPhase] = Field(default_factory=list)

    @model_validator(mode="after")
    def _rising(self) -> Self:
        if not self.phases:
            raise ValueError("there are no phases; write phases: [{until_percent: 20, bypass_prob: 0.5}]")
        ends = [phase.until_percent for phase in self.phases]
        for number in range(1, len(ends)):
            if ends[number] <= ends[number - 1]:
                message = f"{ends[number]:g} is not after the {ends[number - 1]:g} of the phase before; let them rise"
                raise _fault(("phases", number, "until_percent"), ends[number], message)
        return self

    def knots(self, bypass_prob: float, operations: Sequence[tuple[str, Parameters]]) -> tuple[Knot, ...]:
        """The values at the start of the run and at the end of each phase.

        Args:
            bypass_prob: the section's own.
            operations: names and parameters of the section's operations; all of one name get a phase's values.

        Raises:
            ValidationError: a phase names an operation that is not in the list, a parameter that is not a number or a
                range, or a value that the operation does not take; errors have the path of keys from here.
        """
        knots = [Knot(0.0, bypass_prob, tuple(params for _, params in operations))]
        names, faults = [name for name, _ in operations], list[Any]()
        for number, phase in enumerate(self.phases):
            params = list(knots[-1].params)
            for name, changes in phase.ops.items():
                try:
                    if name not in names:
                        listed = f"the list has {', '.join(dict.fromkeys(names))}" if names else "add it to ops"
                        message = f"not in the list of operations; {listed}, where prob: 0 keeps one off at first"
                        raise _fault((), changes, message)
                    params = [
                        _changed(each, changes) if name == other else each
                        for other, each in zip(names, params, strict=True)
                    ]
                except ValidationError as error:
                    faults += under(("phases", number, "ops", name), error)
            bypass = knots[-1].bypass_prob if phase.bypass_prob is None else phase.bypass_prob
            knots.append(Knot(phase.until_percent / 100, bypass, tuple(params)))
        if faults:
            raise ValidationError.from_exception_data("curriculum", faults)
        return tuple(knots)


def under(key: Key, error: ValidationError) -> list[Any]:
    """The details of an error, with a path of keys before those that it has."""
    return [{**detail, "loc": (*key, *detail["loc"])} for detail in error.errors()]


def _changed(params: Parameters, changes: Mapping[str, Any]) -> Parameters:
    numeric = [name for name in type(params).model_fields if _is_numeric(getattr(params, name))]
    for name, value in changes.items():
        if name not in numeric:
            message = f"a curriculum can't change {name}; it can change {', '.join(numeric)}"
            raise _fault((name,), value, message)
        if value is None:
            raise _fault((name,), value, "a curriculum goes from number to number; write a number")
    return type(params).model_validate({**params.model_dump(), **changes})


def _is_numeric(value: Any) -> bool:
    """Whether a value is a number, or a pair of numbers."""
    values = value if isinstance(value, tuple) and len(value) == 2 else (value,)
    return all(type(each) in (int, float) for each in values)


def values_at(knots: Sequence[Knot], progress: float) -> Knot:
    """The values at a point of the run: in a straight line between two knots; whole numbers are rounded.

    Args:
        knots: the first at 0, rising.
        progress: the point, as a share of the run, 0..1.
    """
    place = bisect.bisect_right(knots, progress, key=lambda knot: knot.at)
    before, after = knots[place - 1], knots[min(place, len(knots) - 1)]
    if before is after or progress == before.at:
        return before
    share = (progress - before.at) / (after.at - before.at)
    bypass_prob = before.bypass_prob + share * (after.bypass_prob - before.bypass_prob)
    pairs = zip(before.params, after.params, strict=True)
    return Knot(progress, bypass_prob, tuple(_between(old, new, share) for old, new in pairs))


def _between(before: Parameters, after: Parameters, share: float) -> Parameters:
    """Parameters at a share of the way; the same object if nothing changes. Nothing is validated: between two valid
    values, all are valid."""
    if before is after:
        return before
    changes: dict[str, Any] = {}
    for name, old in vars(before).items():
        new = getattr(after, name)
        if old != new:
            both = isinstance(old, tuple)
            changes[name] = tuple(map(_mixed, old, new, (share, share))) if both else _mixed(old, new, share)
    return before.model_copy(update=changes)


def _mixed(before: float, after: float, share: float) -> float:
    value = before + share * (after - before)
    return round(value) if isinstance(before, int) else value
