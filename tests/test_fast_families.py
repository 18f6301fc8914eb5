"""The fast paths train Qwen3.5, dense and with experts, and Qwen2.5-VL as they would train on padded rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers.modeling_utils
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from swift.model import get_processor
from swift.template import get_template
from swift.trainers.mixin import SwiftMixin
from torch import Tensor
from transformers.models.qwen3_5 import modeling_qwen3_5 as qwen3_5

from swiftalign.cli import main
from swiftalign.config.load import load_config
from swiftalign.data.encoding import encoding_of
from swiftalign.data.rows import Rows as DataRows
from swiftalign.demo.model import IMAGE_SIZE, PIXEL_SCALING, byte_tokenizer, write_model
from swiftalign.model.qwen3_5 import CHUNK
from swiftalign.problems import SwiftalignError
from swiftalign.speed.choices import Choices
from swiftalign.worker.apply_choices import speed_up_trainer
from swiftalign.worker.attention import use_padding_free_attention
from swiftalign.worker.linear_attention import Rows, convolve, gated_delta_rule, reset_at_rows
from swiftalign.worker.sync_free import SyncFreeCollator, SyncFreeModel

FAMILIES = ("qwen3_5", "qwen3_5_moe", "qwen2_5_vl")
_ROPE = {"rope_type": "default", "rope_theta": 1e6}
_LINEAR = {
    "num_hidden_layers": 3,
    "layer_types": ["linear_attention", "full_attention", "linear_attention"],
    "head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 24,
    "rope_parameters": _ROPE | {"mrope_section": [1, 1, 0], "mrope_interleaved": True, "partial_rotary_factor": 0.25},
}
_TEXT: dict[str, dict[str, Any]] = {
    "qwen3_5": _LINEAR | {"intermediate_size": 128},
    "qwen3_5_moe": _LINEAR
    | {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48, "shared_expert_intermediate_size": 32},
    "qwen2_5_vl": {
        "num_hidden_layers": 2,
        "intermediate_size": 128,
        "rope_parameters": _ROPE | {"mrope_section": [4, 2, 2]},
    },
}
_VISION: dict[str, dict[str, Any]] = {
    "qwen3_5": {"intermediate_size": 64, "num_position_embeddings": 256, "patch_size": 16},
    # Windows of 2x2 visual tokens, which don't divide the images' sides; the second block attends to whole images.
    "qwen2_5_vl": {"intermediate_size": 64, "window_size": 56, "fullatt_block_indexes": [1], "patch_size": 14},
}
_VISION["qwen3_5_moe"] = _VISION["qwen3_5"]


def build(folder: Path, model_type: str) -> None:
    """A tiny random model folder of a family."""
    from transformers import AutoConfig, AutoModelForImageTextToText, Qwen2VLImageProcessor

    tokenizer = byte_tokenizer()
    number = tokenizer.convert_tokens_to_ids
    common = {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 4096}
    heads = {"depth": 3, "hidden_size": 32, "num_heads": 2, "out_hidden_size": 64}
    config = AutoConfig.for_model(
        model_type,
        text_config=common | _TEXT[model_type] | {"vocab_size": len(tokenizer), "initializer_range": 0.1},
        vision_config=heads | _VISION[model_type] | {"initializer_range": 0.1},
        tie_word_embeddings=False,
        image_token_id=number("<|image_pad|>"),
        video_token_id=number("<|video_pad|>"),
        vision_start_token_id=number("<|vision_start|>"),
        vision_end_token_id=number("<|vision_end|>"),
    )
    torch.manual_seed(0)
    write_model(folder, AutoModelForImageTextToText.from_config(config, dtype=torch.float32), tokenizer)
    geometry = {"patch_size": _VISION[model_type]["patch_size"], "temporal_patch_size": 2, "merge_size": 2}
    Qwen2VLImageProcessor(**geometry, size=IMAGE_SIZE, **PIXEL_SCALING).save_pretrained(folder)


class Case:
    """A family's tiny model, its template as the trainer has it, and three rows of different lengths."""

    def __init__(self, folder: Path, model_type: str, demo: Path) -> None:
        self.folder = folder
        build(folder, model_type)
        self.template = get_template(
            get_processor(str(folder), model_type=model_type), template_type=model_type.removesuffix("_moe")
        )
        self.template.set_mode("train")
        for name in ("image", "video"):
            token = self.template.tokenizer.convert_tokens_to_ids(f"<|{name}_pad|>")
            setattr(self.template, f"{name}_token_id", token)
        config = load_config([demo / "config.yaml"])
        rows = DataRows(config.data.sources("train"), {}, encoding_of(config).writing)
        self.template.model = self.model()  # computes positions
        self.rows = [self.template.encode(rows[index], return_length=True) for index in range(3)]
        assert len({len(row["input_ids"]) for row in self.rows}) == 3
        assert max(len(row["input_ids"]) for row in self.rows) > CHUNK

    def model(self) -> Any:
        from transformers import AutoModelForImageTextToText

        model = AutoModelForImageTextToText.from_pretrained(self.folder, dtype=torch.float32)
        for name, weight in model.named_parameters():
            weight.requires_grad_("merger" in name)
        return model.train()

    def train(
        self,
        rows: list[dict[str, Any]],
        *,
        padding_free: bool = True,
        sync_free: bool = False,
        prepare: Callable[[Any], None] = lambda model: None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of each learned token of a batch, row by row, and the aligner's gradients of their sum."""
        model, template = self.model(), self.template
        template.model, template.padding_free = model, padding_free
        if padding_free:
            use_padding_free_attention(model)
            reset_at_rows(model)
        prepare(model)
        collate = template.data_collator
        if sync_free:
            collate = SyncFreeCollator(model, collate, keep_answers=False)
            SyncFreeModel(model)
        try:
            batch = collate([dict(row) for row in rows])
        finally:
            template.padding_free = False
        assert len(batch["input_ids"]) == (1 if padding_free else len(rows))
        if sync_free:  # nothing is left for the model to work out from them
            batch["image_grid_thw"] = batch["image_grid_thw"] * 0
        batch.pop("text_position_ids")
        labels = batch.pop("labels")
        if padding_free:  # no row is to predict the next one's first token
            labels[0, batch["cu_seq_lens_q"][:-1].long()] = -100
        logits = model(**batch, use_cache=False).logits[:, :-1]
        learned = labels[:, 1:] != -100
        losses = torch.nn.functional.cross_entropy(logits[learned], labels[:, 1:][learned], reduction="none")
        losses.sum().backward()
        return losses.detach(), {name: weight.grad for name, weight in model.named_parameters() if weight.requires_grad}


@pytest.fixture(scope="module", params=FAMILIES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, demo: Path) -> Case:
    return Case(tmp_path_factory.mktemp("family") / request.param, request.param, demo)


def near(ours: Tensor, theirs: Tensor, limit: float = 1e-5) -> bool:
    return bool(torch.linalg.norm(ours - theirs) <= limit * torch.linalg.norm(theirs))


@pytest.mark.parametrize("sync_free", [False, True])
def test_rows_in_a_line_have_the_losses_and_gradients_of_padded_rows(case: Case, sync_free: bool) -> None:
    plain, expected = case.train(case.rows, padding_free=False)
    fast, gradients = case.train(case.rows, sync_free=sync_free)
    assert near(fast, plain)
    assert expected.keys() == gradients.keys()
    for name, gradient in expected.items():
        assert near(gradients[name], gradient, 2e-5), name


def with_other_tokens(row: dict[str, Any]) -> dict[str, Any]:
    """A row of the same length with other words and another image, of which nothing is learned."""
    tokens = torch.tensor(row["input_ids"])
    words = row["mm_token_type_ids"].flatten() == 0
    tokens[words] = (tokens[words] + 17) % 200
    changed = {"input_ids": tokens.tolist(), "labels": [-100] * len(tokens), "pixel_values": -row["pixel_values"]}
    return row | changed


@pytest.mark.parametrize("sync_free", [False, True])
def test_what_is_in_one_row_changes_nothing_in_the_others(case: Case, sync_free: bool) -> None:
    first, *others = case.rows
    silent = first | {"labels": [-100] * len(first["input_ids"])}
    losses, gradients = case.train([silent, *others], sync_free=sync_free)
    alike, same = case.train([with_other_tokens(first), *others], sync_free=sync_free)
    if "moe" in case.folder.name:  # an expert's tokens of all rows are one product, whose size decides how it is summed
        assert near(alike, losses, 1e-6)
        assert all(near(same[name], gradient, 1e-6) for name, gradient in gradients.items())
    else:
        assert torch.equal(alike, losses)
        assert all(torch.equal(same[name], gradient) for name, gradient in gradients.items())


def test_a_row_of_text_alone_is_trained_without_synchronisation(case: Case) -> None:
    template = case.template
    text = {"messages": [{"role": "user", "content": "Name a colour."}, {"role": "assistant", "content": "Red."}]}
    losses, gradients = case.train([template.encode(text, return_length=True)], sync_free=True)
    assert torch.isfinite(losses).all()
    assert all(gradient is not None and not gradient.any() for gradient in gradients.values())


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing_in_a_row(case: Case, side: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # transformers empties the hidden states of padding before linear attention, whose state then stays empty.
    monkeypatch.setattr(case.template, "padding_side", side)
    alone = [case.train([row], padding_free=False) for row in case.rows]
    together, gradients = case.train(case.rows, padding_free=False)
    assert near(together, torch.cat([losses for losses, _ in alone]))
    for name, gradient in gradients.items():
        assert near(sum(each[name] for _, each in alone), gradient, 2e-5), name


@pytest.mark.long  # compiling takes half a minute
def test_compiled_layers_train_alike(case: Case) -> None:
    def compile_layers(model: Any) -> None:
        for layer in [*model.model.language_model.layers, *model.model.visual.blocks]:
            layer.forward = torch.compile(layer.forward, dynamic=True, backend="aot_eager")

    torch.compiler.reset()
    for rows in (case.rows, case.rows[:1], case.rows[::-1]):  # other numbers of rows, tokens and steps
        plain, expected = case.train(rows, sync_free=True)
        compiled, gradients = case.train(rows, sync_free=True, prepare=compile_layers)
        assert near(compiled, plain)
        for name, gradient in expected.items():
            assert near(gradients[name], gradient, 2e-5), name


def test_layers_that_run_again_in_the_backward_pass_train_alike(case: Case) -> None:
    def checkpoint(model: Any) -> None:
        model.gradient_checkpointing_enable({"use_reentrant": True})  # ms-swift's choice

    _, expected = case.train(case.rows, sync_free=True)
    _, gradients = case.train(case.rows, sync_free=True, prepare=checkpoint)
    for name, gradient in expected.items():
        assert near(gradients[name], gradient), name


# Linear attention


@pytest.fixture(scope="module")
def qwen3_5_case(tmp_path_factory: pytest.TempPathFactory, demo: Path) -> Case:
    return Case(tmp_path_factory.mktemp("family") / "qwen3_5", "qwen3_5", demo)


def test_transformers_own_linear_attention_does_not_know_rows(
    qwen3_5_case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The reason of `reset_at_rows`: if this fails, transformers has learned it.
    monkeypatch.setattr("test_fast_families.reset_at_rows", lambda model: None)
    first, *others = qwen3_5_case.rows
    silent = first | {"labels": [-100] * len(first["input_ids"])}
    losses, _ = qwen3_5_case.train([silent, *others])
    changed, _ = qwen3_5_case.train([with_other_tokens(first), *others])
    assert not near(changed, losses, 1e-3)


# ms-swift refuses such a run without flash-linear-attention, by a forward pass of its own.
@pytest.mark.long
def test_a_run_without_padding_has_the_losses_of_a_padded_one(qwen3_5_case: Case, demo: Path, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(
        f"model: {{path: {qwen3_5_case.folder}, type: qwen3_5}}\n"
        f"data: {{train: {demo / 'data/train.jsonl'}, template: qwen3_5}}\n"
        "tuner: {train_type: full, freeze_llm: true, freeze_vit: true, freeze_aligner: false}\n"
        "training: {max_steps: 3, logging_steps: 1, per_device_train_batch_size: 3, save_strategy: 'no'}\n"
    )
    losses = []
    for padding_free in ("true", "false"):
        run = tmp_path / padding_free
        words = [f"training.padding_free={padding_free}", f"training.output_dir={run}"]
        assert main(["train", str(file), *(each for word in words for each in ("--set", word))]) == 0
        events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
        losses.append([event["loss"] for event in events if event["kind"] == "log" and "loss" in event])
    assert len(losses[0]) == 3
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_layers_that_do_not_keep_rows_apart_are_refused(qwen3_5_case: Case) -> None:
    model = qwen3_5_case.model()
    model.config.text_config.layer_types = ["linear_attention", "sliding_attention", "linear_attention"]
    with pytest.raises(
        SwiftalignError, match=r"padding_free: .*qwen3_5 model has layers of the kind sliding_attention"
    ):
        reset_at_rows(model)


def test_flash_linear_attention_is_left_to_ms_swift(qwen3_5_case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("swiftalign.worker.linear_attention.is_flash_linear_attention_available", lambda: True)
    model = qwen3_5_case.model()
    classes = [type(part) for part in model.modules()]
    reset_at_rows(model)
    assert [type(part) for part in model.modules()] == classes


def test_linear_attention_is_compiled_once_for_all_layers_and_with_its_rule(
    qwen3_5_case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A forward pass of each layer's own would be compiled anew for each of them, up to torch's limit. And a function
    # that ms-swift's trainer puts in the place of torch's checkpointing would be called in between, not compiled.
    rules: list[int] = []

    def note(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        parts = [part for part in graph.modules() if isinstance(part, torch.fx.GraphModule)]
        rules.append(sum("swiftalign.states" in str(node.target) for part in parts for node in part.graph.nodes))
        return graph.forward

    def compile_layers(model: Any) -> None:
        arguments = SimpleNamespace(gradient_checkpointing_kwargs=None)
        trainer: Any = SimpleNamespace(
            model=model, args=arguments, is_deepspeed_enabled=False, is_fsdp_enabled=False, evaluate=lambda: None
        )
        SwiftMixin._fix_gradient_checkpointing(trainer)
        speed_up_trainer(trainer, plan, Choices(kernels="compiled"))

    compile_function, checkpoint = torch.compile, torch.utils.checkpoint.checkpoint
    monkeypatch.setattr(torch, "compile", lambda *args, **kwargs: compile_function(*args, **kwargs, backend=note))
    monkeypatch.setattr(torch.utils.checkpoint, "checkpoint", checkpoint)  # as it is again afterwards
    monkeypatch.setattr(transformers.modeling_utils, "checkpoint", transformers.modeling_utils.checkpoint)
    monkeypatch.delattr(torch.utils.checkpoint, "_old_checkpoint", raising=False)
    plan = SimpleNamespace(model_type="qwen3_5")
    torch.compiler.reset()
    plain, _ = qwen3_5_case.train(qwen3_5_case.rows, sync_free=True)
    compiled, _ = qwen3_5_case.train(qwen3_5_case.rows, sync_free=True, prepare=compile_layers)
    del torch.utils.checkpoint._old_checkpoint
    assert near(compiled, plain)
    assert [count for count in rules if count] == [1]


def line_of_rows(lengths: list[int], seed: int, heads: tuple[int, int]) -> tuple[Rows, list[Tensor]]:
    """Rows of these lengths, with random queries, keys, values, decays and betas."""
    generator = torch.Generator().manual_seed(seed)
    keys, values = heads
    count = sum(lengths)
    shapes = [(count, keys, 8), (count, keys, 8), (count, values, 12), (count, values), (count, values)]
    query, key, value = (torch.randn(shape, generator=generator) for shape in shapes[:3])
    decay, beta = (torch.rand(shape, generator=generator) for shape in shapes[3:])
    starts = torch.tensor([0, *lengths]).cumsum(0).int()
    tensors = [query, key, value, -3 * decay**3, beta]
    return Rows.of(starts, count, max(lengths)), [tensor.requires_grad_() for tensor in tensors]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    lengths=st.lists(st.sampled_from([1, 2, 5, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 150]), min_size=1, max_size=5),
    heads=st.sampled_from([(1, 1), (2, 2), (2, 4)]),
    seed=st.integers(0, 2**31),
)
@example(lengths=[1], heads=(1, 1), seed=7)  # query and key are nearly orthogonal: little is left of what is summed
def test_the_delta_rule_is_transformers_own_on_each_row(lengths: list[int], heads: tuple[int, int], seed: int) -> None:
    rows, tensors = line_of_rows(lengths, seed, heads)
    repeat = heads[1] // heads[0]
    expected = []
    for query, key, value, decay, beta in zip(*(tensor.split(lengths) for tensor in tensors), strict=True):
        query, key = (each.repeat_interleave(repeat, 1) for each in (query, key))
        line = [each.unsqueeze(0) for each in (query, key, value)]
        out, _ = qwen3_5.torch_chunk_gated_delta_rule(
            *line, g=decay.unsqueeze(0), beta=beta.unsqueeze(0), use_qk_l2norm_in_kernel=True
        )
        expected.append(out.squeeze(0))
    ours, theirs = gated_delta_rule(*tensors, rows), torch.cat(expected)
    assert torch.linalg.norm(ours - theirs) <= 1e-5 * torch.linalg.norm(theirs) + 1e-6
    weights = torch.randn(ours.shape, generator=torch.Generator().manual_seed(seed))
    gradients, own = (torch.autograd.grad((out * weights).sum(), tensors) for out in (ours, theirs))
    assert all(
        torch.linalg.norm(a - b) <= 1e-5 * torch.linalg.norm(b) + 1e-6 for a, b in zip(gradients, own, strict=True)
    )


@settings(max_examples=25, deadline=None)
@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=5), seed=st.integers(0, 2**31))
def test_the_convolution_is_transformers_own_on_each_row(lengths: list[int], seed: int) -> None:
    rows, _ = line_of_rows(lengths, seed, (1, 1))
    generator = torch.Generator().manual_seed(seed)
    line, weight = torch.randn(sum(lengths), 6, generator=generator), torch.randn(6, 1, 4, generator=generator)
    expected = [
        qwen3_5.causal_conv1d_fn(row.t().unsqueeze(0), weight.squeeze(1), activation="silu").squeeze(0).t()
        for row in line.split(lengths)
    ]
    assert torch.allclose(convolve(line, weight, rows), torch.cat(expected), atol=1e-6)
