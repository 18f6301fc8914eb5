"""Every way of spreading a run over two GPUs trains what one GPU trains; `make test-gpu` runs these tests."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from runs import FEATURES, WAYS_TO_START, Result, Run

from swiftalign.config.sharding import WAYS, stage

pytestmark = pytest.mark.gpu
Results = Callable[[Run], Result]

LOSSES = {"float32": 1e-3, "bfloat16": 5e-3}  # what sums in another order leave
WEIGHTS_AFTER_RESUME = 1e-4  # with ZeRO, which divides its sums otherwise; DDP and FSDP2 resume bit for bit

LONG = [Run(way, dtype) for dtype in LOSSES for way in WAYS_TO_START]
STOPPED = [Run(way, stopped=True) for way in WAYS]
SHORT = [
    Run(way, "bfloat16", feature)
    for feature in FEATURES
    for way in WAYS
    if feature != "compiled" or not way.startswith(("zero3", "device_map"))  # these can't be compiled
]


def expect_sound(result: Result) -> None:
    """All commands of a run succeeded."""
    assert not result.failed, f"{result.failed}\n{result.output}"


def expect_the_losses(result: Result, reference: Result) -> None:
    """Within what the dtype allows, at every step that both have logged."""
    limit, common = LOSSES[result.run.dtype], result.losses.keys() & reference.losses.keys()
    assert common, f"{result.losses} and {reference.losses} have no step in common"
    apart = {step: abs(result.losses[step] - reference.losses[step]) for step in sorted(common)}
    assert max(apart.values()) <= limit, f"{result.losses}, and on one GPU {reference.losses}"


@pytest.mark.parametrize("run", LONG, ids=lambda run: run.name)
def test_it_trains_what_one_gpu_trains(run: Run, results: Results) -> None:
    result, reference = results(run), results(run.reference)
    expect_sound(reference)
    expect_sound(result)
    assert result.losses.keys() == reference.losses.keys()
    expect_the_losses(result, reference)


@pytest.mark.parametrize("run", STOPPED, ids=lambda run: run.name)
def test_stopped_and_resumed_it_ends_as_without_a_stop(run: Run, results: Results) -> None:
    result, whole = results(run), results(run.whole)
    expect_sound(result)
    expect_sound(whole)
    assert 0 < result.stopped_at < result.last["step"] == whole.last["step"]
    ours, theirs = result.weights(), whole.weights()
    assert ours.keys() == theirs.keys()
    apart = max(float((ours[name] - theirs[name]).abs().max()) for name in ours)
    assert apart <= (0.0 if stage(run.way) is None else WEIGHTS_AFTER_RESUME)


@pytest.mark.parametrize("run", SHORT, ids=lambda run: run.name)
def test_what_a_run_can_do_it_can_do_on_several_gpus(run: Run, results: Results) -> None:
    result, reference = results(run), results(run.reference)
    expect_sound(reference)
    expect_sound(result)
    expect_the_losses(result, reference)
    if run.feature != "evaluated":
        assert result.losses.keys() == reference.losses.keys()
    else:
        assert result.last["step"] == 4, "early stopping did not end the run at its second evaluation"
        assert result.last["best_checkpoint"]
