"""A curriculum of augmentation: values in a straight line between phases, at the place where the run takes each row."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch.utils.data import DataLoader

from swiftalign.augment.draws import bypassed, draw
from swiftalign.augment.pipeline import Pipeline
from swiftalign.augment.rows import TrainingRows
from swiftalign.config.augmentation import PARAMETERS, AugmentationSection
from swiftalign.data.rows import Mixture, Rows
from swiftalign.demo.data import write_dataset
from swiftalign.plan.plan import Schedule
from swiftalign.worker.batches import GlobalBatches

OPS = [
    {"rotate": {"max_deg": 0, "prob": 0}},
    {"color_jitter": {"brightness": 1.0}},
    {"posterize": {"bits": 8}},
    {"clahe": {"tile_grid_size": [8, 8]}},
    {"imgaug.MotionBlur": {"k": 7, "prob": 0}},
]
PHASES = [
    {"until_percent": 20, "bypass_prob": 0.5, "ops": {"rotate": {"prob": 0.3, "max_deg": 10}}},
    {"until_percent": 40, "ops": {}},
    {
        "until_percent": 90,
        "bypass_prob": 0,
        "ops": {
            "rotate": {"max_deg": 30},
            "color_jitter": {"brightness": [0.5, 1.5], "prob": 0.4},
            "posterize": {"bits": 4},
            "clahe": {"tile_grid_size": [4, 2]},
            "imgaug.MotionBlur": {"prob": 1},
        },
    },
]


def section(phases: Any = PHASES, ops: Any = OPS, **rules: Any) -> AugmentationSection:
    return AugmentationSection(ops=ops, curriculum={"phases": phases}, **{"bypass_prob": 1.0, **rules})


def values(progress: float, of: AugmentationSection) -> dict[str, Any]:
    at = of.at(progress)
    return {"bypass_prob": at.bypass_prob} | {each.name: each.params.model_dump() for each in at.operations}


# -- values ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("percent", "bypass_prob", "rotate", "brightness", "bits", "tiles"),
    [
        (0, 1.0, (0, 0), (1, 1), 8, (8, 8)),  # the section's own
        (10, 0.75, (0.15, 5), (1, 1), 8, (8, 8)),
        (20, 0.5, (0.3, 10), (1, 1), 8, (8, 8)),
        (30, 0.5, (0.3, 10), (1, 1), 8, (8, 8)),  # a phase that names nothing keeps what was
        (40, 0.5, (0.3, 10), (1, 1), 8, (8, 8)),
        (65, 0.25, (0.3, 20), (0.75, 1.25), 6, (6, 5)),  # whole numbers are rounded
        (90, 0.0, (0.3, 30), (0.5, 1.5), 4, (4, 2)),
        (100, 0.0, (0.3, 30), (0.5, 1.5), 4, (4, 2)),  # the last phase holds
    ],
)
def test_values_lie_on_straight_lines_between_the_ends_of_phases(
    percent: float, bypass_prob: float, rotate: Any, brightness: Any, bits: int, tiles: Any
) -> None:
    found = values(percent / 100, section())
    assert found["bypass_prob"] == pytest.approx(bypass_prob)
    assert (found["rotate"]["prob"], found["rotate"]["max_deg"]) == pytest.approx(rotate)
    assert found["color_jitter"]["brightness"] == pytest.approx(brightness)
    assert (found["posterize"]["bits"], found["clahe"]["tile_grid_size"]) == (bits, tiles)
    assert found["color_jitter"]["saturation"] == (1.0, 1.0)
    assert found["imgaug.MotionBlur"]["k"] == 7


shares = st.floats(0, 1)
degrees = st.floats(0, 180)
phases = st.lists(
    st.tuples(st.none() | shares, st.none() | shares, st.none() | degrees, st.none() | st.tuples(shares, shares)),
    min_size=1,
    max_size=6,
)


@given(drawn=phases, own=st.tuples(shares, shares, degrees), points=st.lists(shares, max_size=8), data=st.data())
@settings(max_examples=150, deadline=None)
def test_ends_are_exact_and_all_between_them_is_monotone_and_valid(
    drawn: Any, own: Any, points: list[float], data: st.DataObject
) -> None:
    ends = sorted(data.draw(st.sets(st.integers(1, 100), min_size=len(drawn), max_size=len(drawn))))
    bypass_prob, prob, max_deg = own
    state: dict[str, Any] = {"bypass_prob": bypass_prob, "prob": prob, "max_deg": max_deg, "sat": (1.0, 1.0)}
    listed, states = [], [(0.0, dict(state))]
    for end, (bypass, share, degree, sat) in zip(ends, drawn, strict=True):
        ops: dict[str, Any] = {"rotate": {}, "hsv": {}}
        phase: dict[str, Any] = {"until_percent": end, "ops": ops}
        if bypass is not None:
            phase["bypass_prob"] = state["bypass_prob"] = bypass
        if share is not None:
            ops["rotate"]["prob"] = state["prob"] = share
        if degree is not None:
            ops["rotate"]["max_deg"] = state["max_deg"] = degree
        if sat is not None:
            ops["hsv"]["sat"] = state["sat"] = tuple(sorted(sat))
        listed.append(phase)
        states.append((end / 100, dict(state)))
    of = section(listed, [{"rotate": {"max_deg": max_deg, "prob": prob}}, "hsv"], bypass_prob=bypass_prob)

    def found(progress: float) -> dict[str, Any]:
        at = values(progress, of)
        return {"bypass_prob": at["bypass_prob"], **at["rotate"], "sat": at["hsv"]["sat"]}

    for end, wanted in states:
        assert found(end) == wanted
    for (begin, before), (end, after) in pairwise([*states, (1.0, states[-1][1])]):
        inside = [begin, *sorted(p for p in points if begin < p < end)]
        for name in before:
            line = np.array([found(p)[name] for p in inside] + [after[name]], float).T.reshape(-1, len(inside) + 1)
            for numbers in line:
                assert (np.diff(numbers) >= -1e-12).all() or (np.diff(numbers) <= 1e-12).all()
    for point in points:  # as if the configuration gave these values
        at = of.at(point)
        assert AugmentationSection.model_validate(at.model_dump()) == at


def test_an_operation_can_be_off_at_first() -> None:
    pipeline = Pipeline(section([{"until_percent": 100, "bypass_prob": 0, "ops": {"rotate": {"prob": 1}}}], OPS[:1]))
    drawn = [
        sum(
            bool(draw(at.operations, seed=1, epoch=0, row=row))
            and not bypassed(at.bypass_prob, seed=1, epoch=0, row=row)
            for row in range(500)
        )
        for at in (pipeline.at(progress).settings for progress in (0, 0.5, 1))
    ]
    assert drawn[0] == 0
    assert drawn[1] == pytest.approx(125, abs=40)
    assert drawn[2] == 500


def test_a_preset_and_operations_of_one_name_can_change() -> None:
    of = AugmentationSection(
        preset="guide", curriculum={"phases": [{"until_percent": 50, "ops": {"scale": {"hi": 2}}}]}
    )
    assert values(0.25, of)["scale"]["hi"] == pytest.approx((1.15 + 2) / 2)
    twice = section([{"until_percent": 50, "ops": {"hflip": {"prob": 1}}}], [{"hflip": {"prob": 0}}, "hflip"])
    assert [each.params.prob for each in twice.at(0.25).operations] == [0.5, 1.0]


def test_a_value_that_is_no_number_can_not_be_reached() -> None:
    phase = {"until_percent": 50, "ops": {"expand_to_fit_affine": {"max_pixels": None}}}
    with pytest.raises(ValidationError, match="a curriculum goes from number to number"):
        section([phase], ["expand_to_fit_affine"])


def test_a_section_without_a_curriculum_is_itself() -> None:
    plain = AugmentationSection(preset="guide")
    assert plain.at(0.3) is plain
    made = Pipeline(plain)
    assert made.at(0.3) is made


def test_every_operation_can_change_its_probability() -> None:
    needed = {"rotate": {"max_deg": 5}, "gamma": {"gamma": 1}, "sharpness": {"factor": 1}}
    needed |= {name: {"lo": 1, "hi": 1} for name in ("scale", "resize_by_scale")}
    needed["roi_crop"] = {"anchor_classes": ["cup"]}
    for name in PARAMETERS:
        of = section([{"until_percent": 100, "ops": {name: {"prob": 0}}}], [{name: needed.get(name, {})}])
        assert of.at(0.5).operations[0].params.prob == 0.5


# -- how much of the run is over ---------------------------------------------------------------------------------------

GROUPED = [7 * number % 61 for number in range(200)]


@given(
    rows=st.integers(1, 60),
    batch=st.integers(1, 4),
    world=st.integers(1, 3),
    accumulation=st.integers(1, 3),
    seed=st.none() | st.integers(0, 9),
    grouped=st.booleans(),
    steps=st.integers(1, 40),
)
@settings(max_examples=60, deadline=None)
def test_progress_follows_the_batches_of_any_number_of_processes(
    rows: int, batch: int, world: int, accumulation: int, seed: int | None, grouped: bool, steps: int
) -> None:
    lengths = GROUPED[:rows] if grouped and seed is not None else None
    taken = TrainingRows([None] * rows)  # type: ignore[arg-type]  # only their number counts
    schedule = Schedule(rows, None, accumulation, batch * world * accumulation, steps, None)
    assert schedule.samples is not None
    made = [GlobalBatches(rows, batch, seed, rank, world, lengths) for rank in range(world)]
    taken.follow(made[0].order, schedule.samples)
    count = step = epoch = 0
    while step < steps:
        taken.set_epoch(epoch)
        for each in made:
            each.set_epoch(epoch)
        together = list(zip(*made, strict=True))
        for first in range(0, len(together), accumulation):
            for shares in together[first : first + accumulation]:
                samples = [sample for share in shares for sample in share if sample >= 0]
                found = sorted(taken.progress(sample) * schedule.samples for sample in samples)
                assert found == pytest.approx(range(count, count + len(samples)))
                count += len(samples)
            step += 1
            if step == steps:
                break
        epoch += 1
    assert count == schedule.samples


def test_past_the_end_of_the_run_it_is_over() -> None:
    taken = TrainingRows([None] * 3)  # type: ignore[arg-type]  # only their number counts
    taken.follow(lambda epoch: range(3), 3)
    taken.set_epoch(5)
    assert taken.progress(2) == 1.0


def first(batch: list[dict[str, Any]]) -> dict[str, Any]:
    return batch[0]


@pytest.fixture(scope="module")
def demo_rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "train.jsonl"
    write_dataset(path, rows=10, seed=1, size=(96, 64))
    return path


def training_rows(path: Path, of: AugmentationSection, order: Any, samples: int = 30) -> TrainingRows:
    rows = TrainingRows(Rows([path]), Pipeline(of))
    rows.follow(order, samples)
    return rows


RISING = section(
    [{"until_percent": 100, "bypass_prob": 0, "ops": {"scale": {"hi": 1.4}, "gamma": {"gamma": [2, 3]}}}],
    [{"scale": {"lo": 1, "hi": 1}}, {"gamma": {"gamma": 1}}],
    bypass_prob=0.5,
)


def test_workers_yield_what_one_process_yields(demo_rows: Path) -> None:
    batches = GlobalBatches(10, 1, 3, 0, 1)

    def seen(workers: int, context: str | None, *, persistent: bool = False) -> list[str]:
        rows, found = training_rows(demo_rows, RISING, batches.order), []
        loader: DataLoader[Any] = DataLoader(
            rows,  # type: ignore[arg-type]
            batch_sampler=batches,  # type: ignore[arg-type]
            collate_fn=first,
            num_workers=workers,
            multiprocessing_context=context,
            persistent_workers=persistent,
        )
        for epoch in range(3):
            rows.set_epoch(epoch)
            batches.set_epoch(epoch)
            found += [f"{item['messages']}{hash(item['images'][0].tobytes())}" for item in loader]
        return found

    alone = seen(0, None)
    assert len(set(alone)) > 20
    assert seen(1, "fork") == alone
    assert seen(3, "fork", persistent=True) == alone
    assert seen(1, "spawn", persistent=True) == alone


def test_a_row_is_what_its_pipeline_makes_at_its_place(demo_rows: Path) -> None:
    batches = GlobalBatches(10, 1, 3, 0, 1)
    followed = training_rows(demo_rows, RISING, batches.order)
    followed.set_epoch(2)
    for place, index in enumerate(batches.order(2)):
        alone = TrainingRows(Rows([demo_rows]), Pipeline(RISING).at((20 + place) / 30))
        alone.set_epoch(2)
        assert alone[index]["images"][0].tobytes() == followed[index]["images"][0].tobytes()


def test_progress_in_a_mixture_counts_its_samples(tmp_path: Path) -> None:
    from swiftalign.config.sections import DataSource

    for name in ("a", "b"):
        write_dataset(tmp_path / f"{name}.jsonl", rows=4, seed=1, size=(64, 64))
    sources = [DataSource(path=str(tmp_path / f"{name}.jsonl"), weight=weight) for name, weight in (("a", 2), ("b", 1))]
    rows = Rows(sources)
    taken = TrainingRows(rows, mixture=Mixture(rows, 0, shuffle=True))
    taken.follow(lambda epoch: range(11, -1, -1), 24)
    taken.set_epoch(1)
    assert [taken.progress(sample) for sample in (11, 0)] == [12 / 24, 23 / 24]


def test_before_the_order_is_known_the_run_has_not_begun(demo_rows: Path) -> None:
    """ms-swift encodes a row before there is a trainer."""
    begin = TrainingRows(Rows([demo_rows]), Pipeline(RISING).at(0))[3]
    assert TrainingRows(Rows([demo_rows]), Pipeline(RISING))[3]["images"][0] == begin["images"][0]


# -- rows that are left as they are ------------------------------------------------------------------------------------


@given(low=shares, high=shares, row=st.integers(0, 10**9), epoch=st.integers(0, 99), seed=st.integers(0, 2**62))
def test_a_higher_probability_leaves_more_rows_and_the_same_ones(
    low: float, high: float, row: int, epoch: int, seed: int
) -> None:
    low, high = sorted((low, high))
    place = {"seed": seed, "epoch": epoch, "row": row}
    assert bypassed(low, **place) <= bypassed(high, **place)
    assert not bypassed(0, **place)
    assert bypassed(1, **place)


def test_the_share_of_bypassed_rows_is_their_probability() -> None:
    found = np.array([[bypassed(0.3, seed=4, epoch=e, row=r) for r in range(2000)] for e in range(3)])
    assert found.mean() == pytest.approx(0.3, abs=3 * math.sqrt(0.21 / 6000))
    assert not np.array_equal(found[0], found[1])


def test_the_other_rows_are_what_they_were(demo_rows: Path) -> None:
    rows, plain = Rows([demo_rows]), AugmentationSection(preset="guide")
    some = TrainingRows(rows, Pipeline(plain.model_copy(update={"bypass_prob": 0.5})))
    always = TrainingRows(rows, Pipeline(plain))
    kept = 0
    for index in range(10):
        row, full = some[index], always[index]
        if bypassed(0.5, seed=42, epoch=0, row=index):
            kept += 1
            assert row["messages"] == rows[index]["messages"]
            assert row["images"][0].tobytes() == rows[index]["images"][0].tobytes()
        else:
            assert json.dumps(row["messages"]) == json.dumps(full["messages"])
            assert row["images"][0].tobytes() == full["images"][0].tobytes()
    assert 0 < kept < 10
