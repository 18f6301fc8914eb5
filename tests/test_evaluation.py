"""What answers come to: counts by hand, faults, labels mixed up, differences, benchmarks' numbers, and the file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from docs_examples import metrics_told
from swiftalign.data.answers import Answer
from swiftalign.data.metrics import METRICS
from swiftalign.data.targets import TextTarget
from swiftalign.evaluation.evaluate import begin
from swiftalign.evaluation.faults import judge, worst_first
from swiftalign.evaluation.predictions import Prediction, PredictionFile
from swiftalign.evaluation.protocols import PROTOCOLS, coco, refcoco
from swiftalign.evaluation.questions import Question
from swiftalign.evaluation.report import Answered, Evaluation
from swiftalign.evaluation.summary import GROUPS, Counts, confusion, counts, difference, metrics
from swiftalign.problems import DataError, SwiftalignError

SIZE = (1000, 500)


def box(left: float, top: float, right: float, bottom: float, label: str = "cup") -> TextTarget:
    return TextTarget("bbox", label, ((left, top), (right, bottom)))


def line(*points: tuple[float, float], label: str = "wire") -> TextTarget:
    return TextTarget("line", label, points)


def prediction(
    true: list[TextTarget], written: list[TextTarget], index: int = 0, *, source: str = "", logprob: float | None = None
) -> Prediction:
    question = Question(index, SIZE, tuple(true), source=source, where=f"val.jsonl:{index + 1}")
    return Prediction(question, Answer(tuple(written)), "text", logprob=logprob)


CUP, PLATE, SMALL = box(0, 0, 200, 200), box(500, 0, 700, 200, "plate"), box(900, 900, 920, 940, "fly")
# One found, one found with IoU 0.6, one missed, one that is not there.
ROW = prediction([CUP, PLATE, SMALL], [CUP, box(500, 0, 700, 120, "plate"), box(0, 500, 100, 600)])


# -- counts ------------------------------------------------------------------------------------------------------------


def test_counts_by_hand() -> None:
    [(key, count)] = counts([ROW]).items()
    assert key == ("bbox", "")
    assert count == Counts(true=3, predicted=3, hits=2, close=1, cost=pytest.approx(0 + 0.4 + 1))
    assert (count.recall, count.precision, count.f1) == (pytest.approx(2 / 3),) * 3
    assert count.recall75 == count.f1_75 == pytest.approx(1 / 3)


def test_groups_by_label_size_and_file() -> None:
    labels = counts([ROW], GROUPS["label"])
    assert {label: (each.true, each.predicted, each.hits) for (_, label), each in labels.items()} == {
        "cup": (1, 2, 1),
        "plate": (1, 1, 1),
        "fly": (1, 0, 0),
    }
    sizes = counts([ROW], GROUPS["size"])  # pixels: 200x100, 200x100, 20x20
    assert {size: each.true for (_, size), each in sizes.items() if each.true} == {"large": 2, "small": 1}
    files = [prediction([CUP], [CUP], source="one"), prediction([CUP], [], source="two")]
    found = counts(files, GROUPS["source"])
    assert {name: each.recall for (_, name), each in found.items()} == {"one": 1.0, "two": 0.0}


def test_ratios_of_nothing_are_none() -> None:
    count = Counts()
    assert {getattr(count, name) for name in ("recall", "recall75", "precision", "f1", "f1_75", "mean_cost")} == {None}


def test_a_malformed_item_counts_as_predicted_in_its_kind_alone() -> None:
    broken = Prediction(Question(0, SIZE, (CUP,)), Answer((CUP,), ("bbox",)))
    assert counts([broken])["bbox", ""].precision == 0.5
    assert counts([broken], GROUPS["label"])["bbox", "cup"].precision == 1.0


# -- faults ------------------------------------------------------------------------------------------------------------


def test_each_fault_is_told() -> None:
    assert judge(ROW).faults == ["missed", "extra"]
    assert judge(prediction([CUP], [CUP])).faults == []
    assert judge(prediction([CUP], [box(800, 800, 900, 900)])).faults == ["off"]
    assert judge(prediction([CUP], [box(0, 0, 200, 200, "mug")])).faults == ["label"]
    assert judge(Prediction(Question(0, SIZE, (CUP,)), Answer((CUP,), ("bbox",)))).faults == ["malformed"]
    assert judge(Prediction.of(Question(0, SIZE, (CUP,)), None, error="gone")).faults == ["failed"]


def test_two_labels_exchanged_are_mixed_up_and_not_found_elsewhere() -> None:
    swapped = prediction([CUP, PLATE], [box(0, 0, 200, 200, "plate"), box(500, 0, 700, 200)])
    assert judge(swapped).faults == ["label"]
    assert confusion([swapped, swapped]) == {("cup", "plate"): 2, ("plate", "cup"): 2}


def test_a_hit_is_never_mixed_up() -> None:
    """A second object of another label lies at the same place."""
    both = prediction([CUP], [CUP, box(0, 0, 200, 200, "mug")])
    assert confusion([both]) == {}
    assert judge(both).faults == ["extra"]


boxes = st.builds(
    lambda x, y, label: box(x, y, x + 100, y + 100, label),
    st.sampled_from([0, 60, 500]),
    st.sampled_from([0, 60, 500]),
    st.sampled_from(["a", "b"]),
)


@settings(deadline=None)
@given(st.lists(boxes, max_size=5), st.lists(boxes, max_size=5))
def test_every_target_is_right_or_has_one_fault(true: list[TextTarget], written: list[TextTarget]) -> None:
    found = judge(prediction(true, written))
    hits = counts([found.prediction]).get(("bbox", ""), Counts()).hits
    assert hits + len(found.off) + len(found.label) + len(found.missed) == len(true)
    assert hits + len(found.off) + len(found.label) + len(found.extra) == len(written)


def test_the_worst_come_first_and_those_not_asked_last() -> None:
    good, half = prediction([CUP], [CUP], 0), prediction([CUP, PLATE], [CUP], 1)
    bad, failed = prediction([CUP], [], 2), Prediction.of(Question(3, SIZE, (CUP,)), None, error="gone")
    ranked = worst_first([good, failed, half, bad])
    assert [each.prediction.question.index for each in ranked] == [2, 1, 0, 3]


# -- differences -------------------------------------------------------------------------------------------------------


def test_a_model_does_not_differ_from_itself() -> None:
    rows = [prediction([CUP], [CUP] if number % 3 else [], number) for number in range(30)]
    found = difference(rows, rows)["bbox"]
    assert (found.value, found.low, found.high) == (0, 0, 0)


def test_an_interval_holds_the_difference_and_narrows_with_more_rows() -> None:
    def found(count: int) -> tuple[float, float]:
        chance = np.random.default_rng(1)
        mine, theirs = (
            [prediction([CUP], [CUP] if chance.random() < share else [], n) for n in range(count)]
            for share in (0.8, 0.6)
        )
        each = difference(mine, theirs)["bbox"]
        assert each.low < each.value < each.high
        return each.value, each.high - each.low

    (_, wide), (value, narrow) = found(40), found(1000)
    assert narrow < wide / 3
    assert value == pytest.approx(2 * 0.8 / 1.8 - 2 * 0.6 / 1.6, abs=0.05)


def test_pairing_makes_a_small_difference_sure() -> None:
    """Of 200 rows, most of which are as hard for both models, ten are better."""
    theirs = [prediction([CUP], [CUP] if n % 2 else [], n) for n in range(200)]
    mine = [prediction([CUP], [CUP] if n % 2 or n < 20 else [], n) for n in range(200)]
    assert difference(mine, theirs)["bbox"].low > 0


# -- benchmarks' numbers -----------------------------------------------------------------------------------------------


def test_refcoco_takes_the_first_box_whatever_its_label() -> None:
    rows = [
        prediction([CUP], [box(0, 0, 200, 200, "a cup on the left")]),
        prediction([CUP], [PLATE, CUP]),
        prediction([CUP], []),
        prediction([CUP, PLATE], [CUP, PLATE]),
        prediction([CUP], [box(0, 0, 200, 100)]),  # an IoU of exactly 0.5 is not above it
    ]
    found = refcoco(rows)
    assert (found["rows"], found["left_out"], found["accuracy"]) == (4, 1, 0.25)
    with pytest.raises(DataError, match="no row has exactly one true box"):
        refcoco(rows[3:4])


def test_coco_counts_by_label_and_by_the_score_of_the_answer() -> None:
    right = [prediction([CUP], [box(0, 0, 200, 200, "Cup ")], n, logprob=-0.1) for n in range(4)]
    found = coco(right)
    assert (found["map"], found["map50"], found["score"]) == (
        pytest.approx(1),
        pytest.approx(1),
        "the answer's probability",
    )
    wrong = prediction([CUP], [PLATE], 4, logprob=-5.0)
    assert coco([*right, wrong])["map"] == pytest.approx(0.8, abs=0.01)
    # A false cup of a low score costs nothing, one of a high score does.
    late, early = (prediction([PLATE], [CUP, PLATE], 4, logprob=value) for value in (-9.0, 0.0))
    assert coco([*right, late])["map"] > coco([*right, early])["map"]
    assert coco([*right, prediction([CUP], [CUP], 4)])["score"] == "1"
    assert coco([prediction([CUP], [])])["map"] == 0.0
    with pytest.raises(DataError, match="no row has a true box"):
        coco([prediction([line((0, 0), (9, 9))], [])])


def test_every_number_of_an_evaluation_is_on_the_page_of_metrics() -> None:
    rows = [prediction([CUP], [box(0, 0, 200, 200, "plate")]), prediction([line((0, 0), (9, 9))], [])]
    evaluations = [Evaluation(Answered("a", rows), Answered("b", rows), protocol=each) for each in PROTOCOLS]
    names = {name for evaluation in evaluations for name in numbers_of(evaluation.to_json())}
    assert metrics_told("swiftalign eval") == names - METRICS.keys()
    assert metrics_told("Evaluation by answers") == {f"eval_{name}" for name in METRICS}


def numbers_of(values: object) -> set[str]:
    """The names of the numbers in JSON, at any depth."""
    if isinstance(values, list):
        return {name for each in values for name in numbers_of(each)}
    if not isinstance(values, dict):
        return set()
    own = {name for name, value in values.items() if isinstance(value, int | float | None)}
    return own.union(*map(numbers_of, values.values()))


# -- the file ----------------------------------------------------------------------------------------------------------

TEXT = '[{"bbox_2d": [0, 0, 200, 200], "label": "cup"}]'


def test_predictions_are_read_back_and_asked_again_only_once(tmp_path: Path) -> None:
    questions = [Question(n, SIZE, (CUP,), where=f"val.jsonl:{n + 1}") for n in range(3)]
    file = PredictionFile(tmp_path / "predictions.jsonl")
    first = Prediction.of(questions[0], TEXT, logprob=-0.25)
    file.add(first, Prediction.of(questions[1], None, error="no answer"))
    again = Prediction.of(questions[1], TEXT)
    file.add(again)
    with file.path.open("a", encoding="utf-8") as out:
        out.write('{"row": 2, "te')  # a process was killed here
    assert file.read(questions) == {0: first, 1: again}
    assert file.path.read_text(encoding="utf-8").count("\n") == 3
    file.add(Prediction.of(questions[2], TEXT))
    assert sorted(file.read(questions)) == [0, 1, 2]
    values = json.loads(file.path.read_text(encoding="utf-8").splitlines()[0])
    assert values["pairs"] == [{"true": 0, "predicted": 0, "cost": 0.0}]
    assert (values["where"], values["sound"], values["logprob"]) == ("val.jsonl:1", True, -0.25)


@pytest.mark.parametrize(
    "line", ["[]", "null", "{}", "nonsense", '{"row": "0", "text": "", "error": "", "logprob": null}', "[" * 20_000]
)
def test_a_line_that_is_not_a_prediction_is_named(line: str, tmp_path: Path) -> None:
    path = tmp_path / "predictions.jsonl"
    path.write_text(f"{line}\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"predictions\.jsonl:1: not a prediction of this toolkit"):
        PredictionFile(path).read([])


def test_a_folder_is_taken_only_for_the_same_evaluation(tmp_path: Path) -> None:
    folder = tmp_path / "eval"
    begin(folder, {"model": "a", "rows": 1})
    (folder / "predictions.jsonl").touch()
    begin(folder, {"model": "a", "rows": 1})
    with pytest.raises(SwiftalignError, match="differs in: model, rows"):
        begin(folder, {"model": "b", "rows": 2})
    assert (folder / "predictions.jsonl").exists()
    begin(folder, {"model": "b", "rows": 2}, anew=True)
    assert not (folder / "predictions.jsonl").exists()
    (folder / "eval.json").write_text("{")
    with pytest.raises(SwiftalignError, match="damaged"):
        begin(folder, {})
    other = tmp_path / "mine"
    other.mkdir()
    (other / "thesis.txt").touch()
    for anew in (False, True):
        with pytest.raises(SwiftalignError, match="holds no evaluation"):
            begin(other, {}, anew=anew)


def test_failed_rows_are_counted_and_not_scored() -> None:
    question = Question(1, SIZE, (CUP,), where="val.jsonl:2")
    failed = Prediction.of(question, None, error="timed out")
    found = Evaluation(Answered("a", [prediction([CUP], [CUP]), failed]), left_out=3).to_json()
    assert (found["rows"], found["failed"], found["left_out"]) == (2, 1, 3)
    assert found["metrics"] == metrics([prediction([CUP], [CUP])])
    assert json.dumps(found, allow_nan=False)


def test_only_rows_that_both_were_asked_are_compared() -> None:
    mine = [prediction([CUP], [CUP], n) for n in range(4)]
    theirs = [*mine[:3], Prediction.of(mine[3].question, None, error="gone")]
    found = Evaluation(Answered("a", mine), Answered("b", theirs))
    assert found.differences["bbox"].value == 0
    assert json.dumps(found.to_json(), allow_nan=False)
