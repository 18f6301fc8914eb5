"""What the values say: finite, non-zero, and moved from where training began."""

from __future__ import annotations

from swiftalign.checkpoint.expected import Expectation
from swiftalign.checkpoint.values import Values, is_inert, starts_at_zero
from swiftalign.model.safetensors import TensorInfo
from swiftalign.problems import Problem, counted
from swiftalign.problems import names as some


def check_movement(found: dict[str, TensorInfo], values: dict[str, Values], expectation: Expectation) -> list[Problem]:
    """Findings on tensors that are not finite, zero throughout, or as they were before training."""
    findings = []
    infinite = [name for name, value in values.items() if value.finite is False]
    if infinite:
        hint = "training diverged: take an earlier checkpoint, and lower the rate"
        findings.append(
            Problem("not-finite", f"NaN or infinity in {counted(len(infinite), 'tensor')}: {some(infinite)}", hint)
        )
    method = expectation.plan.train_type if expectation.plan else None
    # A bias may be zero; a matrix that did not begin so may not.
    zero = [
        n
        for n, v in values.items()
        if v.zero and found[n].numel and len(found[n].shape) > 1 and not starts_at_zero(n, method)
    ]
    if zero:
        findings.append(Problem("all-zero", f"{counted(len(zero), 'matrix')} zero throughout: {some(zero)}"))
    return findings + _untouched(values, expectation)


def _untouched(values: dict[str, Values], expectation: Expectation) -> list[Problem]:
    known = {
        name: value.moved for name, value in values.items() if value.moved is not None and expectation.trains(name)
    }
    still = [name for name, moved in known.items() if not moved]
    if not still:
        return []
    method = expectation.plan.train_type if expectation.plan else None
    effective = [name for name in known if not is_inert(name, method)]
    if len(still) < len(known) and effective and not any(known[name] for name in effective):
        message = f"all {len(effective)} tensors that make an adapter change its layer are still at their initial value"
        return [Problem("nothing-moved", message, "merged, this checkpoint changes nothing")]
    if len(still) == len(known):
        message = f"none of the {len(known)} tensors that could be looked at has moved from its initial value"
        return [Problem("nothing-moved", message, "this checkpoint changes nothing: was the rate 0?")]
    message = f"{counted(len(still), 'tensor')} still at the initial value: {some(still)}"
    return [Problem("untouched", message, "no gradient reached them, or the run was very short")]
