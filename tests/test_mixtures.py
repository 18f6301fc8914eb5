"""Files with weights: which rows an epoch takes, in any process and after a resume, and scores for each file."""

from __future__ import annotations

import json
import math
import pickle
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from swiftalign.augment.rows import TrainingRows
from swiftalign.cli import main
from swiftalign.config.load import load_config
from swiftalign.config.sections import DataSource
from swiftalign.data.count import count_rows, weighted
from swiftalign.data.rows import Mixture, Rows
from swiftalign.data.scan import scan
from swiftalign.demo.data import write_dataset
from swiftalign.plan.plan import read_plan


def write_file(folder: Path, name: str, rows: int) -> Path:
    """A file of rows in words, whose answers are the file's name and the row's number."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"query": "Which?", "response": f"{name}{number}"}) for number in range(rows)]
    (folder / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder / f"{name}.jsonl"


def mixed(folder: Path, *files: tuple[int, float], seed: int = 0, shuffle: bool = True, **left: Any) -> Mixture:
    """A mixture of files a, b, ... with these numbers of rows and weights."""
    return Mixture(rows_of(folder, *files, **left), seed, shuffle=shuffle)


def rows_of(folder: Path, *files: tuple[int, float], left_out: dict[str, list[int]] | None = None) -> Rows:
    sources = [
        DataSource(path=str(write_file(folder, name, rows)), weight=weight)
        for name, (rows, weight) in zip("abcd", files, strict=False)
    ]
    return Rows(sources, {folder / f"{name}.jsonl": lines for name, lines in (left_out or {}).items()})


def epoch(mixture: Mixture, number: int) -> list[int]:
    return mixture.picked(number)[0].tolist()


@pytest.mark.parametrize(
    ("rows", "weight", "count"),
    [(10, 1, 10), (10, 2, 20), (10, 0.1, 1), (10, 1.5, 15), (3, 0.1, 1), (3, 1.5, 4), (7, 0.5, 4), (0, 2, 0)],
)
def test_a_weight_is_a_number_of_passes(rows: int, weight: float, count: int, tmp_path: Path) -> None:
    assert weighted(rows, weight) == count
    if rows:
        mixture = mixed(tmp_path, (rows, weight))
        assert (len(mixture), len(epoch(mixture, 0))) == (count, count)


def test_a_file_of_weight_two_is_passed_over_twice(tmp_path: Path) -> None:
    mixture = mixed(tmp_path, (5, 2.0), (4, 1.0))
    for number in range(3):
        taken, passes = mixture.picked(number)
        assert Counter(taken.tolist()) == {**dict.fromkeys(range(5), 2), **dict.fromkeys(range(5, 9), 1)}
        told = Counter(zip(taken.tolist(), passes.tolist(), strict=True))
        assert max(told.values()) == 1  # each pass has draws of its own
        assert {turn for row, turn in told if row < 5} == {2 * number, 2 * number + 1}
        assert {turn for row, turn in told if row >= 5} == {number}


def test_epochs_of_a_share_take_other_rows_until_all_had_their_turn(tmp_path: Path) -> None:
    mixture = mixed(tmp_path, (10, 0.1), (3, 1.0))
    shares = [[row for row in epoch(mixture, number) if row < 10] for number in range(20)]
    assert {len(share) for share in shares} == {1}
    first, second = shares[:10], shares[10:]
    assert sorted(first) == sorted(second) == [[row] for row in range(10)]
    assert first != second  # the next pass has another order


def test_one_and_a_half_passes_take_each_row_once_or_twice(tmp_path: Path) -> None:
    mixture = mixed(tmp_path, (10, 1.5))
    counts = [Counter(epoch(mixture, number)) for number in range(2)]
    assert [set(count.values()) for count in counts] == [{1, 2}, {1, 2}]
    assert set((counts[0] + counts[1]).values()) == {3}


@settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    rows=st.lists(st.integers(1, 12), min_size=1, max_size=3),
    weights=st.lists(st.sampled_from([1.0, 2.0, 0.1, 1.5, 0.33, 3.7]), min_size=3, max_size=3),
    seed=st.integers(0, 5),
)
def test_all_rows_have_had_equally_many_turns(rows: list[int], weights: list[float], seed: int, tmp_path: Path) -> None:
    """After any number of epochs, the turns of a file's rows differ by one at most."""
    mixture = mixed(tmp_path, *zip(rows, weights, strict=False), seed=seed)
    total: Counter[int] = Counter()
    for number in range(7):
        total.update(epoch(mixture, number))
        begin = 0
        for count, weight in zip(rows, weights, strict=False):
            turns = [total[row] for row in range(begin, begin + count)]
            assert max(turns) - min(turns) <= 1
            assert sum(turns) == weighted(count, weight) * (number + 1)
            begin += count
        if number + 1 >= max(math.ceil(n / weighted(n, w)) for n, w in zip(rows, weights, strict=False)):
            assert set(total) == set(range(sum(rows)))


def test_an_epoch_does_not_depend_on_those_before(tmp_path: Path) -> None:
    files = ((10, 0.3), (7, 1.5))
    walked, asked = mixed(tmp_path, *files), mixed(tmp_path, *files)
    told = [epoch(walked, number) for number in range(6)]
    for number in (5, 0, 3):
        assert epoch(asked, number) == told[number]
    copied = pickle.loads(pickle.dumps(walked))
    assert [epoch(copied, number) for number in range(6)] == told
    assert [epoch(mixed(tmp_path, *files, seed=1), number) for number in range(6)] != told


def test_files_are_mixed_unless_nothing_is_shuffled(tmp_path: Path) -> None:
    files = ((20, 1.0), (20, 2.0))
    in_order = epoch(mixed(tmp_path, *files, shuffle=False), 0)
    assert in_order == [*range(20), *range(20, 40), *range(20, 40)]
    assert epoch(mixed(tmp_path, *files), 0) != in_order


def test_rows_that_are_left_out_are_never_taken(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, (6, 0.5), (4, 2.0), left_out={"a": [1, 2], "b": [1, 2, 3, 4]})
    mixture = Mixture(rows, 0, shuffle=True)
    assert len(mixture) == 2
    taken = {row for number in range(2) for row in epoch(mixture, number)}
    answers = {rows.row(row).to_swift((), rows.writing)["messages"][-1]["content"] for row in taken}
    assert answers == {"a2", "a3", "a4", "a5"}


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_take_the_same_rows(workers: int, tmp_path: Path) -> None:
    """Workers outlive an epoch: they learn of the next one by shared memory."""
    from torch.utils.data import DataLoader

    def samples(count: int) -> list[list[str]]:
        rows = rows_of(tmp_path, (6, 0.5), (4, 1.5))
        training = TrainingRows(rows, None, Mixture(rows, 3, shuffle=True))
        loader = DataLoader(training, batch_size=2, num_workers=count, persistent_workers=count > 0, collate_fn=list)
        epochs = []
        for number in range(4):
            training.set_epoch(number)
            epochs.append([row["messages"][-1]["content"] for batch in loader for row in batch])
        return epochs

    alone = samples(0)
    assert [len(each) for each in alone] == [9] * 4
    assert alone[0] != alone[1]
    assert samples(workers) == alone


def test_a_sample_names_its_file_and_line(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, (6, 0.5), (4, 1.5))
    training = TrainingRows(rows, None, Mixture(rows, 3, shuffle=True))
    training.set_epoch(2)
    for index in range(len(training)):
        answer = training[index]["messages"][-1]["content"]
        assert rows.where(training.place(index)[0]) == f"{tmp_path / answer[0]}.jsonl:{int(answer[1:]) + 1}"


def test_the_scan_and_the_plan_count_the_weighted_rows(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, (10, 0.1), (4, 2.0), (3, 1.5))
    sources = [file.source for file in rows.files]
    wanted = 1 + 8 + 4
    assert len(Mixture(rows, 0, shuffle=True)) == wanted
    assert scan(sources).rows.train == wanted
    train = "\n".join(f"    - {{path: {each.path}, weight: {each.weight}}}" for each in sources)
    (tmp_path / "config.yaml").write_text(f"model: none\ndata:\n  train:\n{train}\n", encoding="utf-8")
    assert count_rows(load_config([tmp_path / "config.yaml"])).train == wanted


def test_answers_are_scored_by_file(tmp_path: Path) -> None:
    """Over all rows, and for each validation file where there are several."""
    from swiftalign.evaluation.predictions import Prediction
    from swiftalign.evaluation.questions import choose_questions
    from swiftalign.worker.grounding_eval import numbers

    Image.new("RGB", (100, 100)).save(tmp_path / "a.png")
    row = {"images": ["a.png"], "objects": [{"label": "cup", "bbox_2d": [10, 10, 60, 60]}]}
    for name in ("first", "second"):
        (tmp_path / f"{name}.jsonl").write_text(f"{json.dumps(row)}\n" * 3, encoding="utf-8")
    sources = [
        DataSource(path=str(tmp_path / "first.jsonl")),
        DataSource(path=str(tmp_path / "second.jsonl"), name="cups"),
    ]
    questions = choose_questions(Rows(sources), 6)
    assert Counter(question.source for question in questions) == {"first": 3, "cups": 3}

    answers = [Prediction.of(each, each.answer if each.source == "cups" else "nothing") for each in questions]

    told = numbers(answers, by_source=True)
    names = {name: value for name, value in told.items() if name.endswith("bbox_acc")}
    assert names == {"eval_bbox_acc": 0.5, "eval_first_bbox_acc": 0.0, "eval_cups_bbox_acc": 1.0}
    assert numbers(answers, by_source=False)["eval_bbox_acc"] == 0.5


# Real training runs

SOURCES = [{"path": "a.jsonl", "weight": 1.5}, {"path": "b.jsonl", "weight": 0.5, "name": "shapes"}]


def write_training(folder: Path, demo: Path, **changes: Any) -> Path:
    """Two files of 4 rows: 6 and 2 samples and 4 steps in each of two epochs."""
    for seed, name in enumerate("ab"):
        write_dataset(folder / f"{name}.jsonl", rows=4, seed=seed)
    values = {
        "model": str(demo / "model"),
        "data": {"train": SOURCES, **changes.pop("data", {})},
        "tuner": {"modules_to_save": ["model.visual.merger"]},
        "training": {
            "per_device_train_batch_size": 1,
            "gradient_accumulation_steps": 2,
            "num_train_epochs": 2,
            "save_steps": 1,
            "logging_steps": 1,
            "aligner_lr": 1e-3,
            "eval_strategy": "no",
            **changes.pop("training", {}),
        },
        **changes,
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    return folder / "config.yaml"


def train(config: Path, run: Path, *sets: str) -> Path:
    options = [word for item in (f"training.output_dir={run}", *sets) for word in ("--set", item)]
    assert main(["train", str(config), *options]) == 0
    return run


def cut(run: Path, to: Path, *, after: int) -> Path:
    """The run as it would be had it been killed after a step."""
    shutil.copytree(run, to, symlinks=True)
    for checkpoint in to.glob("checkpoint-*"):
        if int(checkpoint.name.split("-")[1]) > after:
            shutil.rmtree(checkpoint)
    events = [line for line in (to / "events.jsonl").read_text().splitlines() if '"done"' not in line]
    (to / "events.jsonl").write_text("".join(f"{line}\n" for line in events))
    return to


def losses(run: Path, step: int) -> dict[int, float]:
    state = json.loads((run / f"checkpoint-{step}/trainer_state.json").read_text())
    return {entry["step"]: entry["loss"] for entry in state["log_history"] if "loss" in entry}


@pytest.mark.slow
@pytest.mark.long
def test_a_mixture_is_resumed_as_if_undisturbed(tmp_path: Path, demo: Path) -> None:
    config = write_training(tmp_path, demo)
    straight = train(config, tmp_path / "straight")
    schedule = read_plan(straight / "plan.json").schedule
    assert (schedule.train_rows, schedule.steps) == (8, 8)
    assert sorted(losses(straight, 8)) == list(range(1, 9))
    for step in (3, 5):  # in the first epoch, and in the second
        run = cut(straight, tmp_path / f"from-{step}", after=step)
        assert main(["train", str(config), "--set", f"training.output_dir={run}", "--resume"]) == 0
        assert losses(run, 8) == losses(straight, 8)
        files = [each / "checkpoint-8" for each in (run, straight)]
        assert len({next(each.glob("adapter_model.safetensors")).read_bytes() for each in files}) == 1


@pytest.mark.slow
@pytest.mark.long
def test_metrics_are_logged_by_file(tmp_path: Path, demo: Path) -> None:
    changes = {"eval_strategy": "steps", "eval_steps": 2, "max_steps": 2}
    validation = {"val": [{"path": "a.jsonl"}, {"path": "b.jsonl", "name": "shapes"}]}
    config = write_training(tmp_path, demo, data=validation, training=changes, custom={"grounding_eval": {"rows": 4}})
    run = train(config, tmp_path / "run")
    state = json.loads((run / "checkpoint-2/trainer_state.json").read_text())
    logged = {name for entry in state["log_history"] for name in entry}
    assert {"eval_malformed_answers", "eval_a_malformed_answers", "eval_shapes_malformed_answers"} <= logged
