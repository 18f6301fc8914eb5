"""Speed: choices and predictions follow from the plan, the rows and the card."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swiftalign.checks.sharding import chosen_way
from swiftalign.cli import main
from swiftalign.config.load import load_config
from swiftalign.config.sections import Config
from swiftalign.config.sharding import WAYS
from swiftalign.data.encoding import encoding_of
from swiftalign.data.rows import Rows
from swiftalign.model.families import find, published_config, published_ids
from swiftalign.model.qwen3_vl import QWEN3_VL
from swiftalign.model.tree import Kind, Model
from swiftalign.plan.read import read_model
from swiftalign.plan.resolve import resolve
from swiftalign.problems import SwiftalignError
from swiftalign.speed.cards import GIB, named_card
from swiftalign.speed.choices import Choices, Kernels
from swiftalign.speed.choose import choose, choose_for_card, fitting_batch
from swiftalign.speed.predictor import Predictor
from swiftalign.speed.rows import rows_of
from swiftalign.speed.spreading import ZERO3_LIVE, Spreading, Weights
from swiftalign.speed.what_fits import what_fits
from swiftalign.speed.work import ASSUMED, Row, Trained, count, padded
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


def predictor_of(
    size: str, card: str = "H100", tuner: str = ALIGNER, training: str = ""
) -> tuple[Config, Any, Predictor]:
    config, modules = published(size, tuner, training)
    plan = resolve(config, modules)
    predictor = Predictor.of(modules, plan, named_card(card), [ASSUMED])
    assert predictor is not None
    return config, plan, predictor


# Choices


@pytest.fixture(autouse=True)
def everything_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("swiftalign.speed.choose._installed", lambda name: True)


def test_the_8b_on_an_h100_is_compiled_without_checkpointing() -> None:
    config, plan, predictor = predictor_of("8B")
    choices = choose(config, plan, predictor)
    assert (choices.kernels, choices.gradient_checkpointing, choices.padding_free) == ("compiled", False, True)
    assert set(choices.reasons) == {"kernels", "gradient_checkpointing", "padding_free", "attention"}


def test_a_short_run_is_not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    config, plan, predictor = predictor_of("8B", training=", gradient_accumulation_steps: 1")
    short = replace(plan, schedule=replace(plan.schedule, steps=10))
    assert choose(config, short, predictor).kernels == "liger"
    monkeypatch.setattr("swiftalign.speed.choose._installed", lambda name: name != "liger_kernel")
    assert choose(config, short, predictor).kernels == "plain"


def test_a_small_card_gets_checkpointing() -> None:
    config, plan, predictor = predictor_of("8B", card="24GiB", training=", per_device_train_batch_size: 4")
    assert choose(config, plan, predictor).gradient_checkpointing


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
    config, plan, predictor = predictor_of("8B", training=training)
    assert getattr(choose(config, plan, predictor), name) == value


@pytest.mark.parametrize(
    ("card", "training", "model", "expected"),
    [
        pytest.param("H200", "", {}, "flash4", id="an H200"),
        pytest.param("A100", "", {}, "torch", id="a card on which it was not tried"),
        pytest.param("H200", ", padding_free: false", {}, "torch", id="padded rows"),
        pytest.param("H200", "", {"attention": "sdpa"}, "torch", id="as the config says"),
        pytest.param("H200", "", {"dtype": "float32"}, "torch", id="32 bits"),
    ],
)
def test_flash_attention_4_is_taken_where_it_works(
    card: str, training: str, model: dict[str, Any], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, plan, predictor = predictor_of("8B", card, training=training)
    config = config.model_copy(update={"model": config.model.model_copy(update=model)})
    plan = replace(plan, dtype=model.get("dtype", plan.dtype))
    choices = choose(config, plan, predictor)
    assert (choices.attention, "attention" in choices.reasons) == (expected, expected == "flash4")
    monkeypatch.setattr("swiftalign.speed.choose._installed", lambda name: name != "flash_attn.cute")
    assert choose(config, plan, predictor).attention == "torch"


def test_fp8_without_a_card_is_refused() -> None:
    config, plan, _ = predictor_of("8B", training=", frozen_fp8: true")
    with pytest.raises(SwiftalignError, match="frozen_fp8 needs a GPU"):
        choose(config, plan, None)


def test_layers_with_adapters_are_not_compiled() -> None:
    tuner = "tuner: {train_type: lora, freeze_llm: false, freeze_aligner: false}"
    config, plan, predictor = predictor_of("8B", tuner=tuner)
    assert choose(config, plan, predictor).kernels == "liger"


def test_auto_keeps_the_rows_of_a_step() -> None:
    config, plan, predictor = predictor_of("8B", training=", per_device_train_batch_size: auto")
    assert (plan.schedule.batch, plan.schedule.accumulation) == (1, 16)
    _, modules = published("8B")
    for card in ("80GiB", "24GiB", "40GiB"):
        there = replace(predictor, card=named_card(card))
        final = resolve(config, modules, fitting=fitting_batch(config, plan, there)).schedule
        assert final.batch * final.accumulation == final.global_batch == 16
        if card == "80GiB":
            assert final.batch > 1


# Several GPUs


def spread_over(
    processes: int, size: str, card: str = "H100", *, tuner: str = ALIGNER, training: str = ""
) -> tuple[Config, Any, Choices, Predictor]:
    config, model = published(size, tuner, training)
    plan = resolve(config, model, processes=processes)
    plan, choices, predictor = choose_for_card(config, model, plan, named_card(card), [])
    assert predictor is not None
    return config, plan, choices, predictor


@pytest.mark.parametrize(
    ("processes", "size", "card", "sharding", "why"),
    [
        (2, "8B", "H100", "ddp", "the whole model fits each GPU"),
        (4, "32B", "H100", "ddp", "the whole model fits each GPU"),
        (2, "32B", "48GiB", "fsdp2", "the whole model does not fit into 48 GiB"),
        (8, "30B-A3B", "RTX 4090", "fsdp2", "the whole model does not fit into 24 GiB"),
        (8, "235B-A22B", "H100", "fsdp2", "the whole model does not fit into 80 GiB"),
        (
            2,
            "235B-A22B",
            "H100",
            "fsdp2_offload",
            "a GPU's share of the layers does not fit into 80 GiB; 436 GiB of them stay in the machine's memory",
        ),
    ],
)
def test_auto_divides_a_model_only_where_it_does_not_fit(
    processes: int, size: str, card: str, sharding: str, why: str
) -> None:
    _, _, choices, predictor = spread_over(processes, size, card)
    assert (choices.sharding, choices.reasons["sharding"]) == (sharding, why)
    assert predictor.fits(choices)


def test_how_a_run_is_spread_is_told_where_there_is_a_choice() -> None:
    assert "sharding" not in spread_over(1, "32B", "48GiB")[2].reasons
    asked = spread_over(1, "8B", training=", sharding: fsdp2")[2]
    assert (asked.sharding, asked.reasons["sharding"]) == ("fsdp2", "as the config says")
    assert spread_over(2, "8B", training=", deepspeed: zero3_offload")[2].sharding == "zero3_offload"
    config, model = published("8B")
    _, choices, _ = choose_for_card(config, model, resolve(config, model, processes=2), None, [])
    assert choices.reasons["sharding"] == "the memory that the run takes is not known"


def test_fp8_is_refused_where_the_model_has_to_be_divided() -> None:
    assert spread_over(2, "8B", training=", frozen_fp8: true")[2].sharding == "ddp"
    with pytest.raises(SwiftalignError, match=r"config.yaml:3: training.frozen_fp8: the model does not fit each GPU"):
        spread_over(2, "32B", "48GiB", training=", frozen_fp8: true")


def test_zero3_is_not_compiled_and_fsdp2_is() -> None:
    assert spread_over(2, "8B", training=", sharding: fsdp2")[2].kernels == "compiled"
    assert spread_over(2, "8B", training=", sharding: zero3")[2].kernels == "liger"
    assert spread_over(1, "8B", training=", sharding: device_map")[2].peak is None


@pytest.mark.parametrize("way", ["fsdp2", "fsdp2_offload", "zero3", "zero3_offload"])
def test_a_model_that_fits_each_gpu_is_divided_for_nothing(way: str) -> None:
    config, plan, choices, predictor = spread_over(2, "8B", training=f", sharding: {way}")
    [found] = chosen_way(config, plan, choices, predictor)
    assert (found.code, found.severity) == ("sharding-brings-little", "note")
    assert found.message == f"{way} sends the layers between GPUs in each batch, and the whole model fits each GPU"
    assert found.where.endswith("config.yaml:3")
    small = replace(predictor, card=named_card("16GiB"))
    for other in ((config, plan, choices, small), (config, plan, choices, None), spread_over(2, "8B")):
        assert not list(chosen_way(*other))


def test_layers_that_train_whole_are_told_where_auto_divides_the_rest() -> None:
    full = "tuner: {train_type: full, freeze_llm: false}"
    [found] = chosen_way(*spread_over(2, "8B", tuner=full))
    assert found.code == "sharding-trained-whole"
    assert found.fix == {"training": {"sharding": "zero3"}}


def test_the_layers_of_the_published_sizes_are_counted() -> None:
    """Of the 8B, 36 layers of 192.9 M parameters; nothing of them is frozen where the LLM trains in full."""
    attention, mlp, norms = 2 * 4096 * (4096 + 1024), 3 * 4096 * 12288, 2 * 4096 + 2 * 128
    layer = 2 * (attention + mlp + norms)
    weights = predictor_of("8B")[2].weights
    assert (weights.layers, weights.layer) == (36 * layer, layer)
    assert weights == predictor_of("8B", tuner="tuner: {train_type: lora, freeze_llm: false}")[2].weights
    full = predictor_of("8B", tuner="tuner: {train_type: full, freeze_llm: false}")[2].weights
    assert (full.layers, full.total) == (0, weights.total)


GPUS, BYTES = st.integers(1, 1024), st.integers(10**3, 10**12)
ON_EACH_GPU = [way for way in WAYS if way != "device_map"]


@st.composite
def weights_of_a_model(draw: st.DrawFn) -> Weights:
    layer, count = draw(BYTES), draw(st.integers(1, 100))
    return Weights(layer * count + draw(BYTES), layer * count, layer)


@given(st.sampled_from(ON_EACH_GPU), GPUS, weights_of_a_model(), BYTES)
def test_more_gpus_never_take_more_memory_nor_less_than_their_share(
    way: str, gpus: int, weights: Weights, trained: int
) -> None:
    here, more, whole = Spreading(way, gpus), Spreading(way, gpus + 1), Spreading("ddp", gpus)
    assert more.weights(weights, trained) <= here.weights(weights, trained)
    assert here.weights(weights, trained) <= whole.weights(weights, trained) + max(2 * weights.layer, ZERO3_LIVE)
    if gpus > 1:
        assert more.trained(trained) <= here.trained(trained)
    if not way.endswith("offload"):
        assert gpus * (here.weights(weights, trained) + 1) >= weights.total
        assert gpus * (here.trained(trained) + 4) >= 3 * trained


@given(st.sampled_from(ON_EACH_GPU), GPUS, weights_of_a_model(), st.floats(1e-3, 1e3), st.integers(1, 64))
def test_dividing_a_model_never_makes_a_batch_faster(
    way: str, gpus: int, weights: Weights, computing: float, accumulation: int
) -> None:
    here, nvlink, pcie = Spreading(way, gpus), named_card("H100"), named_card("L40S")
    assert computing <= here.seconds(computing, weights, nvlink) <= here.seconds(computing, weights, pcie)
    assert 0 <= here.reducing(10**9, nvlink, accumulation) <= here.reducing(10**9, pcie, accumulation)
    if not way.startswith(("fsdp2", "zero3")) or (gpus == 1 and not way.endswith("offload")):
        assert here.seconds(computing, weights, nvlink) == computing


# Predictions


def how(checkpointing: bool, padding_free: bool, kernels: Kernels, *, fp8: bool = False) -> Choices:
    return Choices(gradient_checkpointing=checkpointing, padding_free=padding_free, kernels=kernels, frozen_fp8=fp8)


COMPILED, FP8 = how(False, True, "compiled"), how(False, True, "compiled", fp8=True)
EQUAL, LARGEST = Row(1113, (3072,), 283), Row(2811, (9216,), 450)

# Peak GiB of a step on one H100 or H200, with batches of equal rows: benchmarks/RESULTS.md.
PEAKS = (
    (
        "stock: checkpointing, bfloat16 aligner",
        "8B",
        "bf16",
        Row(1117, (3072,), 283),
        4,
        how(True, False, "plain"),
        21.93,
    ),
    ("no checkpointing", "8B", "bf16", Row(1115, (3072,), 173), 4, how(False, False, "plain"), 44.4),
    ("Liger", "8B", "bf16", Row(1115, (3072,), 173), 4, how(False, False, "liger"), 38.6),
    ("compiled, in a line", "8B", "float32", EQUAL, 4, COMPILED, 35.61),
    ("FP8", "8B", "float32", EQUAL, 4, FP8, 35.62),
    ("bfloat16 aligner", "8B", "bf16", EQUAL, 4, COMPILED, 34.40),
    ("in a line", "8B", "bare", Row(1115, (3072,), 172), 4, how(False, True, "plain"), 42.8),
    ("compiled, in a line, bare", "8B", "bare", Row(1115, (3072,), 172), 4, COMPILED, 36.2),
    ("largest images, bare", "8B", "bare", Row(2706, (9216,), 202), 4, COMPILED, 58.2),
    ("largest images", "8B", "float32", LARGEST, 5, COMPILED, 70.56),
    ("4B", "4B", "float32", EQUAL, 2, COMPILED, 17.09),
    ("4B, FP8", "4B", "float32", EQUAL, 2, FP8, 17.12),
    ("4B, Liger", "4B", "float32", EQUAL, 2, how(False, True, "liger"), 17.72),
    ("4B, checkpointing", "4B", "float32", EQUAL, 4, how(True, True, "plain"), 13.05),
    ("32B", "32B", "float32", EQUAL, 4, COMPILED, 114.95),
    ("30B-A3B", "30B-A3B", "float32", EQUAL, 4, COMPILED, 80.94),
)
# Seconds of a step, on an H200, and on the H100 before steps went on without waiting for the gradient's norm.
MIXED = [  # some of the benchmark's, whose mean is that of all
    Row(1098, (2592,), 379),
    Row(1871, (6536,), 166),
    Row(1738, (5376,), 323),
    Row(1131, (2704,), 384),
    Row(1745, (6256,), 110),
    Row(1230, (3772,), 216),
    Row(1108, (3712,), 109),
    Row(1440, (3700,), 444),
]
FLASH4 = replace(COMPILED, attention="flash4")
SECONDS = (
    ("compiled", "H200", "8B", [EQUAL], 4, COMPILED, 0.2888),
    ("FlashAttention 4", "H200", "8B", [EQUAL], 4, FLASH4, 0.2682),
    ("FlashAttention 4 and FP8", "H200", "8B", [EQUAL], 4, replace(FLASH4, frozen_fp8=True), 0.1987),
    ("FlashAttention 4, mixed sizes", "H200", "8B", MIXED, 4, FLASH4, 0.3613),
    ("FlashAttention 4 and FP8, mixed sizes", "H200", "8B", MIXED, 4, replace(FLASH4, frozen_fp8=True), 0.2764),
    ("32B", "H200", "32B", [EQUAL], 4, COMPILED, 0.9827),
    ("30B-A3B", "H200", "30B-A3B", [EQUAL], 4, COMPILED, 0.2338),
    ("compiled", "H100", "8B", [EQUAL], 4, COMPILED, 0.3247),
    ("FP8", "H100", "8B", [EQUAL], 4, FP8, 0.2385),
    ("largest images", "H100", "8B", [LARGEST], 5, COMPILED, 1.1513),
    ("4B, Liger", "H100", "4B", [EQUAL], 2, how(False, True, "liger"), 0.2242),
    ("4B, checkpointing", "H100", "4B", [EQUAL], 4, how(True, True, "plain"), 0.4308),
)


@pytest.mark.parametrize(
    ("name", "size", "trained", "row", "batch", "choices", "measured"), PEAKS, ids=[each[0] for each in PEAKS]
)
def test_memory_is_within_8_percent_of_what_was_measured(
    name: str, size: str, trained: str, row: Row, batch: int, choices: Choices, measured: float
) -> None:
    _, _, predictor = predictor_of(size)
    numel = {"4B": 109_105_152, "8B": 160_496_896, "32B": 179_375_360, "30B-A3B": 122_739_968}[size]
    assert (predictor.trained.numel, predictor.trained.float32) == (numel, numel)
    who = replace(predictor.trained, float32=0) if trained == "bf16" else predictor.trained
    peak = replace(predictor, trained=who, rows=[row]).peak(replace(choices, batch=batch)) / GIB
    assert peak == pytest.approx(measured, rel=0.08)


@pytest.mark.parametrize(
    ("name", "card", "size", "rows", "batch", "choices", "measured"),
    SECONDS,
    ids=[f"{name}, {card}" for name, card, *_ in SECONDS],
)
def test_time_is_within_20_percent_of_what_was_measured(
    name: str, card: str, size: str, rows: list[Row], batch: int, choices: Choices, measured: float
) -> None:
    _, _, predictor = predictor_of(size, card=card)
    assert replace(predictor, rows=rows).seconds(replace(choices, batch=batch)) == pytest.approx(measured, rel=0.2)


@pytest.mark.parametrize("size", ["2B", "4B", "8B", "32B", "30B-A3B", "235B-A22B"])
@pytest.mark.parametrize("tuner", METHODS)
def test_every_method_and_size_has_a_prediction(size: str, tuner: str) -> None:
    _, plan, predictor = predictor_of(size, tuner=tuner)
    off, on = how(False, True, "plain"), how(True, True, "plain")
    assert plan.total_parameters * 2 < predictor.peak(on) < predictor.peak(off) < predictor.peak(replace(off, batch=2))
    assert predictor.largest_batch(on) >= predictor.largest_batch(off)
    assert (predictor.seconds(replace(off, batch=4)) or 0) < (predictor.seconds(replace(on, batch=4)) or 0)


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
    sizes = QWEN3_VL.sizes
    assert sizes is not None
    trained = Trained({"aligner"}, 0, 0, 0, "modules_to_save")
    work = count(sizes(demo_modules.config), trained, [Row(tokens, (patches,), tokens)])
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
    _, _, predictor = predictor_of("8B")
    short, long = Row(500, (1024,), 300), Row(2706, (9216,), 202)
    mixed, padding_free = replace(predictor, rows=[short, *[long] * 8]), replace(COMPILED, batch=4)
    padding = replace(padding_free, padding_free=False)
    assert mixed.largest_rows(padding) == [long, long, long, short]
    assert mixed.largest_rows(padding_free) == [long] * 4
    assert mixed.peak(padding) - mixed.peak(padding_free) > 10 * GIB


def test_the_loader_says_when_cores_are_too_few() -> None:
    _, none = plan_loading(0.1, 4, 0.4, processes=1, cores=16)
    workers, problem = plan_loading(0.5, 4, 0.1, processes=2, cores=8)
    assert none is None
    assert workers == 3
    assert problem is not None
    assert (problem.code, problem.severity) == ("loader-starves", "warning")
    assert problem.message == "a GPU trains 40 rows/s, but 3 workers can read only 6: 30 would keep it busy"


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


def test_ways_of_spreading_a_run_are_compared(demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["inspect-params", str(demo / "config.yaml"), "--set", "training.sharding=zero2_offload", "--gpu"]
    assert main([*command, "4xH100"]) == 0
    printed = capsys.readouterr().out
    assert "4 x H100, 80 GiB, batches of 4" in printed
    assert "auto takes ddp: the whole model fits each GPU" in printed
    assert "note [sharding-brings-little]" in printed
    assert "an estimate for ddp, fsdp2, fsdp2_offload, zero2, zero3, zero2_offload: not measured" in printed
    assert main([*command, "2 * 80GiB", "--json"]) == 0
    fits = json.loads(capsys.readouterr().out)["what_fits"]
    assert (fits["processes"], fits["auto"]) == (2, "ddp")
    ways = {way["sharding"]: way for way in fits["ways"]}
    assert list(ways) == ["ddp", "fsdp2", "fsdp2_offload", "zero2", "zero3", "zero2_offload"]
    assert [name for name, way in ways.items() if way["chosen"]] == ["zero2_offload"]
    assert all(sum(way["memory"].values()) == way["peak"] for way in ways.values())
    assert all(way["step_seconds"] is None for way in ways.values())
    assert main([*command, "0xH100"]) == 2


def test_several_gpus_make_a_step_of_the_same_rows_and_an_epoch_shorter(
    demo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fits(gpus: str) -> dict[str, Any]:
        command = ["inspect-params", str(demo / "config.yaml"), "--set", "training.gradient_accumulation_steps=1"]
        assert main([*command, "--json", "--gpu", gpus]) == 0
        return json.loads(capsys.readouterr().out)["what_fits"]  # type: ignore[no-any-return]

    one, four = fits("H100"), fits("4xH100")
    assert one["ways"] == []
    for alone, spread in zip(one["settings"], four["settings"], strict=True):
        assert spread["step_seconds"] == pytest.approx(alone["step_seconds"], rel=0.01)
        assert spread["epoch_seconds"] == pytest.approx(alone["epoch_seconds"] / 4, rel=0.01)
    assert four["ways"][0]["rows_per_second"] == pytest.approx(16 / four["ways"][0]["step_seconds"])


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


# Other families


@pytest.mark.parametrize("model_id", published_ids())
def test_the_sizes_of_a_published_model_are_those_of_its_layers(model_id: str) -> None:
    """The matrices that multiply one token, one patch and one visual token; of experts, as many as process a token."""
    config = published_config(model_id) or {}
    family = find(config["model_type"])
    model = family.build(config) if family else None
    assert family is not None
    assert family.sizes is not None
    assert model is not None
    sizes, text = family.sizes(config), config.get("text_config", config)
    active = text.get("num_experts_per_tok", 0)
    counted: Counter[str] = Counter()
    for module in model:
        stack = next((name for name in family.stacks if f"{name}." in module.name), None)
        part = stack if model.component(module.name) != "aligner" else "aligner"
        if part and module.kind is Kind.LINEAR and not module.name.endswith("shared_expert_gate"):
            counted[part] += module.weight.numel
        if part and module.name.endswith(".experts"):
            counted[part] += sum(weight.numel // weight.shape[0] * active for weight in module.weights)
    assert sizes.matrix == counted[family.stacks[0]]
    assert sizes.vit_matrix == counted[family.stacks[1]]
    assert sizes.aligner_matrix == counted["aligner"]
    assert sizes.layers == len(model.members(f"model.{family.stacks[0]}"))
    assert sizes.vit_layers == len(model.members(f"model.{family.stacks[1]}"))
    linear = [module for module in model if module.name.endswith(".linear_attn")]
    assert sizes.attention_layers == sizes.layers - len(linear)
    heads = sum(module.weights[0].numel for module in linear)  # dt_bias: one of each head
    assert sizes.state == heads * text.get("linear_key_head_dim", 0) * text.get("linear_value_head_dim", 0)


# Peak and seconds per step of benchmarks/several_gpus.py and, for the 9B, benchmarks/train_gpu.py on an H200.
@pytest.mark.parametrize(
    ("model_id", "peak", "seconds"),
    [
        ("Qwen/Qwen3.5-0.8B", 9.99, 0.185),
        ("Qwen/Qwen3.5-2B", 14.21, 0.2104),
        ("Qwen/Qwen3.5-4B", 25.01, 0.3203),
        ("Qwen/Qwen3.5-9B", 36.78, 0.4343),
        ("Qwen/Qwen3.5-27B", 96.76, 1.2077),
        ("Qwen/Qwen3.5-35B-A3B", 88.02, 0.4327),
    ],
)
def test_qwen3_5_is_predicted_as_it_was_measured_on_an_h200(model_id: str, peak: float, seconds: float) -> None:
    predictor = replace(predictor_of_another(model_id), rows=[Row(1131, (3072,), 283)])
    choices = replace(COMPILED, batch=4)
    assert predictor.peak(choices) / GIB == pytest.approx(peak, rel=0.08)
    assert predictor.seconds(choices) == pytest.approx(seconds, rel=0.2)


def predictor_of_another(model_id: str) -> Predictor:
    tuner = {"train_type": "lora", "target_regex": "^$", "modules_to_save": ["model.visual.merger"]}
    config = Config.model_validate({"model": {"path": model_id}, "tuner": tuner})
    model = read_model(config)
    predictor = Predictor.of(model, resolve(config, model), named_card("H200"), [ASSUMED])
    assert predictor is not None
    return predictor


@pytest.mark.parametrize("model_id", ["Qwen/Qwen3.5-122B-A10B", "Qwen/Qwen3.5-35B-A3B", "Qwen/Qwen2.5-VL-7B-Instruct"])
def test_another_family_has_predictions_that_are_called_estimates(model_id: str) -> None:
    tuner = {"train_type": "lora", "target_regex": "^$", "modules_to_save": ["model.visual.merger"]}
    training = {"max_steps": 10_000}
    config = Config.model_validate({"model": {"path": model_id}, "tuner": tuner, "training": training})
    model = read_model(config)
    plan = resolve(config, model)
    predictor = Predictor.of(model, plan, named_card("H200"), [ASSUMED])
    assert predictor is not None
    choices = choose(config, plan, predictor)
    assert choices.kernels != "compiled"  # which was not measured for them
    told = what_fits(config, plan, choices, predictor, assumed=True)
    assert any("not measured with a model of this size" in each for each in told.estimates)
    assert any("linear attention" in each for each in told.estimates) == ("3.5" in model_id)
    more = predictor.peak(replace(choices, batch=8)) - predictor.peak(replace(choices, batch=4))
    assert more > 0


def test_linear_attention_costs_the_same_for_each_token_and_windows_for_each_patch() -> None:
    trained = Trained({"aligner"}, 1, 1, 0, "lora")
    rows = [[Row(tokens, (patches,), 10)] for tokens, patches in ((1000, 1024), (2000, 2048))]

    def costs(model_id: str) -> list[tuple[float, float]]:
        config = published_config(model_id) or {}
        family = find(config["model_type"])
        assert family is not None
        assert family.sizes is not None
        sizes = family.sizes(config)
        sizes = replace(sizes, window_layers=sizes.vit_layers) if sizes.window else sizes
        return [(work.linear_attention, work.vit_attention) for work in (count(sizes, trained, each) for each in rows)]

    (short, _), (long, _) = costs("Qwen/Qwen3.5-4B")
    assert long == 2 * short > 0
    (none, few), (_, many) = costs("Qwen/Qwen2.5-VL-7B-Instruct")
    assert many == 2 * few > 0 == none
