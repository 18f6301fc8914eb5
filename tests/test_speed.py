"""Speed: choices and predictions follow from the plan, the rows and the card."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from swiftalign.cli import main
from swiftalign.config.load import load_config
from swiftalign.config.sections import Config
from swiftalign.data.encoding import encoding_of
from swiftalign.data.rows import Rows
from swiftalign.model.read import read_model
from swiftalign.model.tree import Model
from swiftalign.plan.resolve import resolve
from swiftalign.problems import SwiftalignError
from swiftalign.speed.cards import GIB, named_card
from swiftalign.speed.choices import Outlook, choose, fitting_batch
from swiftalign.speed.memory import How, predict
from swiftalign.speed.rows import rows_of
from swiftalign.speed.work import ASSUMED, Row, Sizes, Trained, count, padded
from swiftalign.worker.workers import plan_loading

MERGERS = "modules_to_save: [model.visual.merger, model.visual.deepstack_merger_list]"
ALIGNER = f"tuner: {{train_type: lora, target_regex: '^$', {MERGERS}}}"
LINEAR = r"target_regex: 'model\.visual\.(merger|deepstack_merger_list\.\d+)\.linear_fc[12]'"
METHODS = (
    ALIGNER,
    f"tuner: {{train_type: lora, {LINEAR}}}",
    f"tuner: {{train_type: lora, use_dora: true, {LINEAR}}}",
    f"tuner: {{train_type: adalora, {LINEAR}}}",
    f"tuner: {{train_type: boft, {LINEAR}}}",
    f"tuner: {{train_type: fourierft, {LINEAR}}}",
)


def published(size: str, tuner: str = ALIGNER, training: str = "") -> tuple[Config, Model]:
    text = f"model: Qwen/Qwen3-VL-{size}-Instruct\n{tuner}\ntraining: {{max_steps: 2000{training}}}\n"
    with TemporaryDirectory() as folder:
        file = Path(folder) / "config.yaml"
        file.write_text(text)
        config = load_config([file])
    return config, read_model(config)


def outlook_of(size: str, card: str = "H100", tuner: str = ALIGNER, training: str = "") -> tuple[Config, Any, Outlook]:
    config, modules = published(size, tuner, training)
    plan = resolve(config, modules)
    outlook = Outlook.of(modules, plan, named_card(card), [ASSUMED])
    assert outlook is not None
    return config, plan, outlook


# Choices


def test_the_8b_on_an_h100_is_compiled_without_checkpointing() -> None:
    config, plan, outlook = outlook_of("8B")
    choices = choose(config, plan, outlook, has=lambda name: True)
    assert (choices.kernels, choices.gradient_checkpointing, choices.padding_free) == ("compiled", False, True)
    assert set(choices.reasons) == {"kernels", "gradient_checkpointing", "padding_free"}


def test_a_short_run_is_not_compiled() -> None:
    config, plan, outlook = outlook_of("8B", training=", gradient_accumulation_steps: 1")
    short = replace(plan, schedule=replace(plan.schedule, steps=10))
    assert choose(config, short, outlook, has=lambda name: True).kernels == "liger"
    assert choose(config, short, outlook, has=lambda name: name != "liger_kernel").kernels == "plain"


def test_a_small_card_gets_checkpointing() -> None:
    config, plan, outlook = outlook_of("8B", card="24GiB", training=", per_device_train_batch_size: 4")
    assert choose(config, plan, outlook, has=lambda name: True).gradient_checkpointing


@pytest.mark.parametrize(
    ("training", "name", "value"),
    [
        (", gradient_checkpointing: true", "gradient_checkpointing", True),
        (", padding_free: false", "padding_free", False),
        (", torch_compile: false, use_liger_kernel: false", "kernels", "plain"),
        (", torch_compile: false, use_liger_kernel: true", "kernels", "liger"),
        (", frozen_fp8: true", "frozen_fp8", True),
    ],
)
def test_the_config_has_the_last_word(training: str, name: str, value: Any) -> None:
    config, plan, outlook = outlook_of("8B", training=training)
    assert getattr(choose(config, plan, outlook, has=lambda name: True), name) == value


def test_fp8_without_a_card_is_refused() -> None:
    config, plan, _ = outlook_of("8B", training=", frozen_fp8: true")
    with pytest.raises(SwiftalignError, match="frozen_fp8 needs a GPU"):
        choose(config, plan, None)


def test_layers_with_adapters_are_not_compiled() -> None:
    tuner = "tuner: {train_type: lora, freeze_llm: false, freeze_aligner: false}"
    config, plan, outlook = outlook_of("8B", tuner=tuner)
    assert choose(config, plan, outlook, has=lambda name: True).kernels == "liger"


def test_auto_keeps_the_rows_of_a_step() -> None:
    config, plan, outlook = outlook_of("8B", training=", per_device_train_batch_size: auto")
    assert (plan.schedule.batch, plan.schedule.accumulation) == (1, 16)
    _, modules = published("8B")
    for card in ("80GiB", "24GiB", "40GiB"):
        there = replace(outlook, card=named_card(card))
        final = resolve(config, modules, fitting=fitting_batch(config, plan, there)).schedule
        assert final.batch * final.accumulation == final.global_batch == 16
        if card == "80GiB":
            assert final.batch > 1


# Predictions


COMPILED, FP8 = How(False, True, "compiled"), How(False, True, "compiled", fp8=True)
EQUAL, LARGEST = Row(1113, (3072,), 283), Row(2811, (9216,), 450)

# Peak GiB of a step on one H100, with batches of equal rows: benchmarks/RESULTS.md.
PEAKS = (
    (
        "stock: checkpointing, bfloat16 aligner",
        "8B",
        "bf16",
        Row(1117, (3072,), 283),
        4,
        How(True, False, "plain"),
        21.93,
    ),
    ("no checkpointing", "8B", "bf16", Row(1115, (3072,), 173), 4, How(False, False, "plain"), 44.4),
    ("Liger", "8B", "bf16", Row(1115, (3072,), 173), 4, How(False, False, "liger"), 38.6),
    ("compiled, in a line", "8B", "float32", EQUAL, 4, COMPILED, 35.61),
    ("FP8", "8B", "float32", EQUAL, 4, FP8, 35.62),
    ("bfloat16 aligner", "8B", "bf16", EQUAL, 4, COMPILED, 34.40),
    ("in a line", "8B", "bare", Row(1115, (3072,), 172), 4, How(False, True, "plain"), 42.8),
    ("compiled, in a line, bare", "8B", "bare", Row(1115, (3072,), 172), 4, COMPILED, 36.2),
    ("largest images, bare", "8B", "bare", Row(2706, (9216,), 202), 4, COMPILED, 58.2),
    ("largest images", "8B", "float32", LARGEST, 5, COMPILED, 70.56),
    ("4B", "4B", "float32", EQUAL, 2, COMPILED, 17.09),
    ("4B, FP8", "4B", "float32", EQUAL, 2, FP8, 17.12),
    ("4B, Liger", "4B", "float32", EQUAL, 2, How(False, True, "liger"), 17.72),
    ("4B, checkpointing", "4B", "float32", EQUAL, 4, How(True, True, "plain"), 13.05),
)
# Seconds of a step there.
SECONDS = (
    ("compiled", "8B", EQUAL, 4, COMPILED, 0.3247),
    ("FP8", "8B", EQUAL, 4, FP8, 0.2385),
    ("largest images", "8B", LARGEST, 5, COMPILED, 1.1513),
    ("4B", "4B", EQUAL, 2, COMPILED, 0.1452),
    ("4B, FP8", "4B", EQUAL, 2, FP8, 0.1304),
    ("4B, Liger", "4B", EQUAL, 2, How(False, True, "liger"), 0.2242),
    ("4B, checkpointing", "4B", EQUAL, 4, How(True, True, "plain"), 0.4308),
)


@pytest.mark.parametrize(
    ("name", "size", "trained", "row", "batch", "how", "measured"), PEAKS, ids=[each[0] for each in PEAKS]
)
def test_memory_is_within_8_percent_of_what_was_measured(
    name: str, size: str, trained: str, row: Row, batch: int, how: How, measured: float
) -> None:
    _, _, outlook = outlook_of(size)
    numel = {"8B": 160_496_896, "4B": 109_105_152}[size]
    assert (outlook.trained.numel, outlook.trained.float32, outlook.trained.copied) == (numel, numel, numel)
    who = {
        "float32": outlook.trained,
        "bf16": replace(outlook.trained, float32=0),
        "bare": replace(outlook.trained, copied=0),  # without peft's copy of the original
    }[trained]
    peak = predict(outlook.sizes, who, outlook.parameters, [row] * batch, how).peak / GIB
    assert peak == pytest.approx(measured, rel=0.08)


@pytest.mark.parametrize(
    ("name", "size", "row", "batch", "how", "measured"), SECONDS, ids=[each[0] for each in SECONDS]
)
def test_time_is_within_25_percent_of_what_was_measured(
    name: str, size: str, row: Row, batch: int, how: How, measured: float
) -> None:
    _, _, outlook = outlook_of(size)
    assert replace(outlook, rows=[row]).seconds(batch, how) == pytest.approx(measured, rel=0.25)


@pytest.mark.parametrize("size", ["2B", "4B", "8B", "32B", "30B-A3B", "235B-A22B"])
@pytest.mark.parametrize("tuner", METHODS)
def test_every_method_and_size_has_a_prediction(size: str, tuner: str) -> None:
    _, plan, outlook = outlook_of(size, tuner=tuner)
    off, on = How(False, True, "plain"), How(True, True, "plain")
    assert plan.total_parameters * 2 < outlook.peak(1, on) < outlook.peak(1, off) < outlook.peak(2, off)
    assert outlook.largest_batch(on) >= outlook.largest_batch(off)
    assert (outlook.seconds(4, off) or 0) < (outlook.seconds(4, on) or 0)


def test_counted_operations_are_those_of_a_real_model(demo: Path, demo_modules: Model, batch_rows: Any) -> None:
    """torch's own counter on the forward pass of the demo model; it counts causal attention whole."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import Qwen3VLForConditionalGeneration

    template, rows = batch_rows
    model = Qwen3VLForConditionalGeneration.from_pretrained(
        demo / "model", dtype=torch.float32, attn_implementation="eager"
    )
    template.model = model
    batch = template.data_collator([dict(rows[0])])
    batch.pop("text_position_ids", None), batch.pop("labels")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(**batch, use_cache=False)
    tokens, patches = batch["input_ids"].numel(), int(batch["image_grid_thw"].prod())
    sizes = Sizes.of(demo_modules.config)
    trained = Trained(False, False, True, 0, 0, 0, 0, "modules_to_save")
    work = count(sizes, trained, [Row(tokens, (patches,), tokens)])
    # Of what is counted forward and backward, the forward part.
    forward = work.llm / 2 + work.head / 2 + work.vit + work.aligner / 3
    forward += work.vit_attention + work.llm_attention * 4 / 7
    patch_embedding = 2 * patches * demo_modules.by_name["model.visual.patch_embed.proj"].weight.numel
    assert counter.get_total_flops() == pytest.approx(forward + patch_embedding, rel=0.02)


def test_rows_are_counted_as_the_template_encodes_them(demo: Path, batch_rows: Any) -> None:
    _, encoded = batch_rows
    encoding = encoding_of(load_config([demo / "config.yaml"]))
    rows = rows_of(Rows([demo / "data/train.jsonl"]), encoding)
    assert len(rows) == 64
    for ours, theirs in zip(rows, encoded, strict=False):
        assert ours.tokens == len(theirs["input_ids"])
        assert sum(ours.patches) == len(theirs["pixel_values"])
        assert abs(ours.labels - sum(label != -100 for label in theirs["labels"])) <= 1  # the end's line break


def test_padding_makes_rows_as_long_as_the_longest_and_keeps_logits_from_the_first_answer_on() -> None:
    assert padded([Row(10, (4,), 2), Row(30, (8,), 5)]) == [Row(30, (4,), 22), Row(30, (8,), 22)]
    assert padded([Row(30, (8,), 5)]) == [Row(30, (8,), 5)]


def test_the_largest_padded_batch_holds_the_row_that_asks_shortest() -> None:
    """In 8B, images of mixed sizes at batch 4 ran out of memory with padding (67 GiB, and 4.2 GiB more asked for)."""
    _, _, outlook = outlook_of("8B")
    short, long = Row(500, (1024,), 300), Row(2706, (9216,), 202)
    mixed = replace(outlook, rows=[short, *[long] * 8])
    assert mixed.largest(4, padding_free=False) == [long, long, long, short]
    assert mixed.largest(4) == [long] * 4
    in_a_line, with_padding = (mixed.peak(4, replace(COMPILED, padding_free=each)) for each in (True, False))
    assert with_padding - in_a_line > 10 * GIB


def test_the_loader_says_when_cores_are_too_few() -> None:
    enough = plan_loading(0.1, 4, 0.4, processes=1, cores=16)
    few = plan_loading(0.5, 4, 0.1, processes=2, cores=8)
    assert not enough.starves
    assert few.starves
    assert few.workers == 3
    assert few.finding is not None
    assert (few.finding.code, few.finding.severity) == ("loader-starves", "warning")
    assert few.finding.message.startswith("a GPU trains 40 rows/s, and 3 workers can read 6: it would take 26 to")
    assert enough.finding is None


# The command


def test_what_fits_is_told_for_each_phase(demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    phases = tmp_path / "phases.yaml"
    auto = "{per_device_train_batch_size: auto, gradient_accumulation_steps: 8}"
    phases.write_text(f"phases: [{{name: easy, training: {auto}}}, {{name: '[hard]'}}]\n")
    command = ["inspect-params", str(demo / "config.yaml"), str(phases), "--gpu", "H100"]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "What fits: easy" in printed
    assert "What fits: [hard]" in printed
    assert main([*command, "--json"]) == 0
    assert [fits["batch"] for fits in json.loads(capsys.readouterr().out)["what_fits"]] == [8, 4]


def test_what_fits_is_printed_and_in_json(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect-params", str(demo / "config.yaml"), "--gpu", "h100"]) == 0
    assert "What fits" in capsys.readouterr().out
    assert main(["inspect-params", str(demo / "config.yaml"), "--gpu", "80GiB", "--json"]) == 0
    fits = json.loads(capsys.readouterr().out)["what_fits"]
    assert len(fits["settings"]) == 6
    assert fits["card"]["memory"] == 80 * GIB
    assert sum(each["chosen"] for each in fits["settings"]) == 1
    assert main(["inspect-params", str(demo / "config.yaml"), "--gpu", "80Q"]) == 2
    assert "no such card" in capsys.readouterr().err
