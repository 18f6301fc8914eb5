"""`swiftalign init`: what it writes loads, plans, trains, and is never written over."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from swiftalign.checks.preflight import preflight
from swiftalign.cli import main
from swiftalign.config.load import load_config
from swiftalign.config.sections import Config, DataSource
from swiftalign.init.recipes import PROBLEMS, recipes
from swiftalign.methods import offered
from swiftalign.model.families import published_ids
from swiftalign.model.tree import Model
from swiftalign.plan.plan import TuningPlan
from swiftalign.plan.read import read_model
from swiftalign.plan.resolve import resolve
from swiftalign.problems import Problem, blocking
from swiftalign.runs.events import Event
from swiftalign.runs.train import prepare


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def planned(model: Model) -> list[TuningPlan]:
    """The plans of config.yaml's runs, which have no problem worse than a note."""
    plans = []
    for run in load_config([Path("config.yaml")]).runs:
        plans.append(resolve(run, model))
        assert not [each for each in preflight(run, model, plans[-1]) if each.severity in ("error", "warning")]
    return plans


@pytest.mark.parametrize(
    ("choice", "val"),
    [(f"--method={m}", True) for m in recipes()]
    + [(f"--problem={p}", True) for p in PROBLEMS]
    + [("--method=mixed", False), ("--problem=overfitting", False)],
)
def test_what_init_writes_plans_without_errors(choice: str, val: bool, demo: Path, demo_modules: Model) -> None:
    train = demo / "data/train.jsonl"
    validation = [f"--val={demo / 'data/val.jsonl'}"] if val else []
    assert main(["init", f"--model={demo / 'model'}", choice, f"--train={train}", *validation]) == 0
    assert load_config([Path("config.yaml")]).data.train == [DataSource(path=str(train))]
    (plan,) = planned(demo_modules)
    method = choice.removeprefix("--method=") if "method" in choice else PROBLEMS[choice.split("=")[1]].method
    assert plan.method == ("lora" if method == "mixed" else method)


@pytest.mark.parametrize("rows", [3, 100, 100_000])
@pytest.mark.parametrize("method", ["full", "adalora"])  # and a schedule of its own
def test_any_number_of_rows_is_evaluated_up_to_ten_times(
    method: str, rows: int, demo: Path, demo_modules: Model
) -> None:
    Path("train.jsonl").write_text("{}\n" * rows)  # they are only counted
    files = ["--train=train.jsonl", f"--val={demo / 'data/val.jsonl'}"]
    assert main(["init", f"--model={demo / 'model'}", f"--method={method}", *files]) == 0
    (plan,) = planned(demo_modules)
    steps, training = plan.schedule.steps or 0, load_config([Path("config.yaml")]).training
    assert training.eval_steps == training.save_steps
    apart = -(-steps // 10)  # as transformers rounds a share of the run
    assert 3 <= steps // apart <= 10
    assert apart <= -(-steps // 3)  # at least once per epoch


def scored(config: Config) -> tuple[str | None, int]:
    """The metric of the best model, and the number of rows to answer."""
    settings = config.custom.grounding_eval
    return config.training.metric_for_best_model, settings.rows if settings else 0


def row(image: str, objects: list[dict[str, Any]]) -> str:
    return json.dumps({"images": [image], "objects": objects}) + "\n"


@pytest.mark.parametrize("kind", ["quads", "words", "two images", "no file"])
def test_the_best_model_is_told_by_what_the_validation_rows_can_tell(kind: str, demo: Path) -> None:
    image = str(next((demo / "data").rglob("*.jpg"), None) or next((demo / "data").rglob("*.png")))
    quad, box = {"quad": [8, 8, 40, 8, 40, 40, 8, 40], "label": "q"}, {"bbox_2d": [8, 8, 40, 40], "label": "b"}
    words = [{"role": "user", "content": "<image>What is it?"}, {"role": "assistant", "content": "A slab."}]
    text = {
        "quads": row(image, [quad]) * 2 + row(image, [box]),
        "words": json.dumps({"images": [image], "messages": words}) + "\n",
        # The answers to rows of several images are not scored.
        "two images": json.dumps({"images": [image, image], "objects": [{**box, "image": 1}]}) + "\n",
    }
    if kind in text:
        Path("val.jsonl").write_text(text[kind])
    files = [f"--train={demo / 'data/train.jsonl'}", "--val=val.jsonl"]
    assert main(["init", f"--model={demo / 'model'}", "--method=lora", *files]) == 0
    config = load_config([Path("config.yaml")])
    assert scored(config) == (("eval_quad_acc", 64) if kind == "quads" else ("eval_loss", 0))
    assert ("init did not find the file" in Path("config.yaml").read_text()) == (kind == "no file")
    if kind in ("quads", "words"):
        found: list[Problem] = []

        def listen(event: Event) -> None:
            found.extend(event.values["problems"] if event.kind == "problems" else [])

        prepare(config, listen=listen)  # reads the rows too
        assert not [problem for problem in found if problem.severity != "note"]


def test_a_validation_row_that_cannot_be_read_is_named(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("val.jsonl").write_text("{}\n")
    assert main(["init", f"--model={demo / 'model'}", "--method=lora", "--val=val.jsonl"]) == 2
    assert "val.jsonl:1: " in capsys.readouterr().err
    assert not Path("config.yaml").exists()


def test_the_mixed_plan_adapts_the_last_layers_of_the_model(demo: Path, demo_modules: Model) -> None:
    main(["init", "--model=Qwen/Qwen3-VL-4B-Instruct", "--method=mixed"])
    regex = load_config([Path("config.yaml")]).tuner.target_regex or ""
    assert r"language_model\.layers\.(32|33|34|35)|visual\.blocks\.(18|19|20|21|22|23))" in regex
    main(["init", f"--model={demo / 'model'}", "--method=mixed", f"--train={demo / 'data/train.jsonl'}", "--force"])
    (plan,) = planned(demo_modules)
    linear = [m.name for m in demo_modules if m.kind == "linear" and ("layers" in m.name or "blocks" in m.name)]
    assert list(plan.adapted) == linear  # the tiny model has no more layers than these
    assert set(plan.saved) == set(demo_modules.mergers)


def test_the_mixed_plan_of_a_model_that_cannot_be_read_adapts_all_layers(demo: Path, demo_modules: Model) -> None:
    assert main(["init", "--model=nobody/has-such-a-model", "--method=mixed"]) == 0
    text = Path("config.yaml").read_text()
    assert "as the model can't be read here" in text
    Path("config.yaml").write_text(text.replace("nobody/has-such-a-model", str(demo / "model")))
    (plan,) = planned(demo_modules)
    assert {demo_modules.component(name) for name in plan.adapted} == {"llm", "vit"}


# -- training ----------------------------------------------------------------------------------------------------------


SETTINGS = ("output_dir=run", "max_steps=2", "gradient_accumulation_steps=1")
TWO_SMALL_STEPS = [word for setting in SETTINGS for word in ("--set", f"training.{setting}")]


@pytest.fixture
def own_demo(demo: Path) -> Path:
    """A copy of the demo in the current folder, with a file of the validation row with the shortest answer."""
    copied = Path(shutil.copytree(demo, "demo"))
    (copied / "data/one.jsonl").write_text(min((demo / "data/val.jsonl").read_text().splitlines(), key=len))
    return copied


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "val"),
    [
        ("full", True),
        pytest.param("mixed", True, marks=pytest.mark.long),
        pytest.param("modules_to_save", True, marks=pytest.mark.long),
        pytest.param("modules_to_save", False, marks=pytest.mark.long),
        pytest.param("mixed", False, marks=pytest.mark.long),
        pytest.param("full", False, marks=pytest.mark.long),
    ],
)
def test_what_init_writes_trains_and_exports(method: str, val: bool, own_demo: Path) -> None:
    files = ["--train=demo/data/train.jsonl", *(["--val=demo/data/one.jsonl"] if val else [])]
    assert main(["init", "--model=demo/model", f"--method={method}", *files]) == 0

    assert main(["train", "config.yaml", *TWO_SMALL_STEPS]) == 0

    best = json.loads(Path("run/checkpoint-2/trainer_state.json").read_text())["best_model_checkpoint"]
    assert Path(best).is_dir() if val else best is None
    # Not the best one, which may be the first: the rate rises from 0, so that the first step changes nothing.
    assert main(["verify-ckpt", "run/checkpoint-2", "--deep"]) == 0
    assert main(["export", "run/checkpoint-2", "--output", "exported"]) == 0


@pytest.mark.slow
@pytest.mark.long
def test_a_curriculum_trains_alone(own_demo: Path) -> None:
    files = ["--curriculum=demo/data/train.jsonl", "--val=demo/data/one.jsonl"]
    assert main(["init", "--model=demo/model", "--method=lora", *files]) == 0
    assert main(["train", "config.yaml", *TWO_SMALL_STEPS]) == 0
    last = max(Path("run").glob("*/checkpoint-2"))  # the best may be the first, at a rate of 0
    assert main(["verify-ckpt", str(last)]) == 0


# -- curricula ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("choice", ["--method=mixed", "--problem=overfitting"])
def test_a_curriculum_of_a_named_model_is_complete(choice: str, demo: Path, demo_modules: Model) -> None:
    rows = Path("rows.jsonl")
    rows.write_text((demo / "data/train.jsonl").read_text())
    options = [f"--model={demo / 'model'}", f"--val={demo / 'data/val.jsonl'}", "--curriculum=rows.jsonl"]
    assert main(["init", choice, *options]) == 0
    plans = planned(demo_modules)
    config = load_config([Path("config.yaml")])
    assert [run.phase for run in config.runs] == ["simple", "medium", "full"]
    assert [plan.schedule.train_rows for plan in plans] == [49, 15, 64]
    assert all(scored(run) == ("eval_bbox_acc", 64) for run in config.runs)


def test_adalora_has_no_curriculum(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = [f"--model={demo / 'model'}", "--problem=capacity", f"--curriculum={demo / 'data/train.jsonl'}"]
    assert main(["init", *argv]) == 2
    assert "error: adalora can't be trained in phases" in capsys.readouterr().err
    assert not Path("config.yaml").exists()


# -- options -----------------------------------------------------------------------------------------------------------


def test_a_problem_comes_with_what_was_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "--model=Qwen/Qwen3-VL-4B-Instruct", "--problem=coordinate-space"]) == 0
    measured = PROBLEMS["coordinate-space"].measured
    assert f"measured (swiftalign docs methods): {measured}" in capsys.readouterr().out
    assert f"# Measured (swiftalign docs methods): {measured}.\n" in Path("config.yaml").read_text()


def test_replay_draws_a_quarter_of_the_rows_from_the_other_file(demo: Path, demo_modules: Model) -> None:
    for name, rows in (("new.jsonl", 300), ("old.jsonl", 50)):
        Path(name).write_text("{}\n" * rows)  # they are only counted
    files = ["--train=new.jsonl", "--replay=old.jsonl"]
    assert main(["init", f"--model={demo / 'model'}", "--problem=forgetting", *files]) == 0
    new, old = load_config([Path("config.yaml")]).data.train
    assert (new.weight, old.weight, old.name) == (1, 2, "old")
    (plan,) = planned(demo_modules)
    assert plan.schedule.steps == 3 * 400 // 16


def test_without_replay_a_comment_says_where_it_belongs(demo: Path) -> None:
    for train, line in (
        (["--train=new.jsonl"], "    # - {path: data/old.jsonl, weight: 0.333, name: old}   # 25% of the rows"),
        ([], "  # train: data/train.jsonl"),
    ):
        assert main(["init", f"--model={demo / 'model'}", "--problem=forgetting", "--force", *train]) == 0
        assert line in Path("config.yaml").read_text()
        assert len(load_config([Path("config.yaml")]).data.train) == len(train)


def test_the_schedule_of_adalora_fits_the_data(demo: Path, demo_modules: Model) -> None:
    main(["init", f"--model={demo / 'model'}", "--method=adalora", f"--train={demo / 'data/train.jsonl'}"])
    config = load_config([Path("config.yaml")])
    plan = resolve(config, demo_modules)
    assert plan.schedule.steps == 12
    assert not blocking(preflight(config, demo_modules, plan))


def test_paths_are_written_from_the_files_own_folder(demo: Path) -> None:
    Path("data").mkdir()
    Path("data/train.jsonl").write_text("{}\n")
    main(["init", "configs/new.yaml", "--model=Qwen/Qwen3-VL-4B-Instruct", "--method=lora", "--train=data/train.jsonl"])
    assert "train: ../data/train.jsonl" in Path("configs/new.yaml").read_text()
    assert load_config([Path("configs/new.yaml")]).data.train == [
        DataSource(path=str(Path("data/train.jsonl").absolute()))
    ]


def test_an_existing_file_is_kept_unless_forced(capsys: pytest.CaptureFixture[str]) -> None:
    Path("config.yaml").write_text("mine")
    argv = ["init", "--model=Qwen/Qwen3-VL-4B-Instruct", "--method=lora"]
    assert main(argv) == 2
    assert Path("config.yaml").read_text() == "mine"
    assert "error: config.yaml exists already" in capsys.readouterr().err
    assert main([*argv, "--force"]) == 0
    assert load_config([Path("config.yaml")]).tuner.lora_rank == 16


@pytest.mark.parametrize(
    ("argv", "message", "hint"),
    [
        (["--method=lora"], "no model is named", "e.g. --model Qwen/Qwen3-VL-4B-Instruct, or the folder of a model"),
        (["--model=x", "--method=doora"], "--method doora: not one of", "did you mean dora?"),
        (["--model=x", "--problem=overfit"], "--problem overfit: not one of", "did you mean overfitting?"),
        (
            ["--model=x", "--method=lora", "--problem=capacity"],
            "--method and --problem both choose",
            "keep one of the two",
        ),
        (
            ["--demo=x", "--model=y", "--val=z"],
            "--demo has its own model and data, so it can't be combined with --model, --val",
            "remove one of them",
        ),
        (["--model=./x", "--method=mixed"], f"model {Path.cwd().anchor}", "name a model folder"),
        (
            ["--demo=x", "--method=full"],
            "--demo has no learning rates for full",
            f"choose one of {', '.join(offered())}",
        ),
        (["--curriculum=x", "--train=y"], "--curriculum and --train both name the training rows", "remove --train"),
        (["--model=x", "--method=lora", "--replay=y"], "--replay y: there are no rows to mix it", "name them with"),
        (
            ["--model=x", "--method=lora", "--train=x", "--replay=y"],
            "--train x: no such file, and --replay takes a share of its rows",
            "name a file of rows",
        ),
        (
            ["--model=x"],
            "no method is named",
            "--method modules_to_save|lora|dora|",
        ),
    ],
    ids=[
        "no model",
        "method typo",
        "problem typo",
        "two methods",
        "demo of a model",
        "no folder",
        "demo of a recipe",
        "rows twice",
        "replay alone",
        "replay without counts",
        "no method",
    ],
)
def test_what_is_missing_or_mistyped_is_said(
    argv: list[str], message: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["init", *argv]) == 2
    error, advice = capsys.readouterr().err.splitlines()
    assert error.startswith(f"error: {message}")
    assert advice.startswith(f"hint: {hint}")
    assert not Path("config.yaml").exists()


def test_init_asks_for_what_is_missing_on_a_terminal(run_in_terminal: Callable[..., tuple[int, str]]) -> None:
    code, screen = run_in_terminal("init", keys="Qwen/Qwen3-VL-8B-Instruct\nboft\n\n")
    assert code == 0, screen
    config = load_config([Path("config.yaml")])
    assert config.model.path == "Qwen/Qwen3-VL-8B-Instruct"
    assert config.tuner.train_type == "boft"
    assert config.data.train == []


def test_answers_on_a_terminal_are_checked_at_once(demo: Path, run_in_terminal: Callable[..., tuple[int, str]]) -> None:
    Path("broken.jsonl").write_text('{"images": 1}\n')
    Path("empty.jsonl").write_text("\n")
    answers = {
        "./nowhere": "nowhere: no such folder",
        str(demo / "data"): "not a model folder (it has no config.json)",
        str(demo / "model"): "",
        "mixd": "did you mean mixed?",
        "mixed": "",
        "missing.json": "missing.json: no such file",
        "broken.jsonl": "broken.jsonl:1: ",
        "empty.jsonl": "empty.jsonl holds no row",
        str(demo / "data/train.jsonl"): "",
        str(demo / "data"): "rows are not recognised",
        str(demo / "data/val.jsonl"): "",
    }
    typed = [*answers]
    typed.insert(-1, str(demo / "data"))
    code, screen = run_in_terminal("init", keys="".join(f"{answer}\n" for answer in typed))
    assert code == 0, screen
    assert [reason for reason in answers.values() if reason not in screen] == []
    config = load_config([Path("config.yaml")])
    assert config.model.path == str(demo / "model")
    assert config.tuner.modules_to_save
    assert scored(config) == ("eval_bbox_acc", 64)
    assert [source.path for source in config.data.train] == [str(demo / "data/train.jsonl")]


def test_the_help_names_every_method(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "--help"]) == 0
    text = capsys.readouterr().out
    assert [name for name in [*recipes(), *PROBLEMS] if name not in text] == []


def test_the_schema_is_printed_and_written_beside_the_config(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "--schema"]) == 0
    printed = json.loads(capsys.readouterr().out)
    main(["init", "--model=Qwen/Qwen3-VL-4B-Instruct", "--method=lora"])
    assert Path("config.yaml").read_text().startswith("# yaml-language-server: $schema=swiftalign.schema.json\n")
    assert json.loads(Path("swiftalign.schema.json").read_text()) == printed


def test_tiny_is_for_a_demo_workspace(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "--model=Qwen/Qwen3-VL-4B-Instruct", "--method=lora", "--tiny"]) == 2
    assert "--demo DIR --tiny" in capsys.readouterr().err


def test_a_demo_workspace_is_not_made_over_other_files(capsys: pytest.CaptureFixture[str]) -> None:
    Path("work").mkdir()
    Path("work/notes.txt").write_text("mine")
    assert main(["init", "--demo", "work"]) == 2
    assert "error: work exists and is not empty" in capsys.readouterr().err
    assert [path.name for path in Path("work").iterdir()] == ["notes.txt"]


# -- other families ----------------------------------------------------------------------------------------------------

# Also a model whose sizes are not known here: its id tells the family.
OTHERS = {
    "Qwen/Qwen3.5-4B": "Qwen/Qwen3.5-4B",
    "Qwen/Qwen3.5-35B-A3B": "Qwen/Qwen3.5-35B-A3B",
    "Qwen/Qwen3.8-2.4T-A95B": "Qwen/Qwen3.5-35B-A3B",
    "Qwen/Qwen2.5-VL-7B-Instruct": "Qwen/Qwen2.5-VL-7B-Instruct",
}


# The mixed recipe counts layers, for which it would fetch a config that is not known.
CASES = [case for case in product(OTHERS, recipes()) if case[1] != "mixed" or case[0] in published_ids()]


@pytest.mark.parametrize(("model_id", "method"), CASES)
def test_the_aligner_of_another_family_is_named_as_it_has_it(model_id: str, method: str, demo: Path) -> None:
    assert main(["init", f"--model={model_id}", f"--method={method}", f"--train={demo / 'data/train.jsonl'}"]) == 0
    config = load_config([Path("config.yaml")], [f"model.path={OTHERS[model_id]}"])
    assert "deepstack" not in Path("config.yaml").read_text()
    model = read_model(config)
    plan = resolve(config, model)
    assert not [each for each in preflight(config, model, plan) if each.severity in ("error", "warning")]
    trained = {item.component for item in plan.trainables}
    assert trained == ({"llm", "vit", "aligner"} if method == "mixed" else {"aligner"})
    if method not in ("mixed", "modules_to_save", "full"):
        assert len(plan.adapted) == 2


def test_a_model_that_can_t_be_read_is_named_as_a_qwen3_vl_and_said_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "--model=nobody/has-such-a-model", "--method=lora"]) == 0
    assert "the aligner is named as a Qwen3-VL's" in " ".join(capsys.readouterr().out.split())
    assert "deepstack_merger_list" in Path("config.yaml").read_text()


def test_narrow_layers_get_no_adapters(demo: Path) -> None:
    assert main(["init", "--model=Qwen/Qwen3.5-35B-A3B", "--method=mixed"]) == 0
    text = Path("config.yaml").read_text()
    assert "without the narrow in_proj_b, in_proj_a, shared_expert_gate" in text
    config = load_config([Path("config.yaml")])
    adapted = {name.rpartition(".")[2] for name in resolve(config, read_model(config)).adapted}
    assert {"in_proj_qkv", "in_proj_z", "out_proj", "q_proj", "qkv"} <= adapted
    assert not {"in_proj_a", "in_proj_b", "shared_expert_gate"} & adapted
