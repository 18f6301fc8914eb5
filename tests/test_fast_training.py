"""The fast paths train the same: rows in a line, ready batches, frozen ViT, FP8, compiled layers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from swiftalign.cli import main
from swiftalign.config.sections import Config
from swiftalign.demo.model import build_model
from swiftalign.model.tree import Model
from swiftalign.plan.resolve import resolve
from swiftalign.speed.choices import Choices


def gradients(
    demo: Path, template: Any, rows: list[dict[str, Any]], *, padding_free: bool, sync_free: bool = False
) -> dict[str, Any]:
    """The aligner's gradients of one batch, in float32."""
    import torch
    from transformers import Qwen3VLForConditionalGeneration

    from swiftalign.worker.attention import use_padding_free_attention
    from swiftalign.worker.sync_free import SyncFreeCollator, SyncFreeModel

    model = Qwen3VLForConditionalGeneration.from_pretrained(demo / "model", dtype=torch.float32)
    model.requires_grad_(False)
    for name, weight in model.named_parameters():
        weight.requires_grad_("merger" in name)
    if padding_free:
        use_padding_free_attention(model)
    template.model, template.padding_free = model, padding_free
    collate = template.data_collator
    if sync_free:
        collate = SyncFreeCollator(model, collate, keep_answers=True)
        SyncFreeModel(model)
    try:
        batch = collate([dict(row) for row in rows])
    finally:
        template.padding_free = False
    batch.pop("text_position_ids", None)
    if sync_free:  # nothing is left for the model to work out from them
        batch["image_grid_thw"] = batch["image_grid_thw"] * 0
    assert batch["input_ids"].shape[0] == (1 if padding_free else len(rows))
    if padding_free and not sync_free:  # the trainer's own shift: no row is to predict the next one's first token
        starts = batch["cu_seq_lens_q"][:-1].long()
        batch["labels"][0, starts] = -100
    model.train()
    model(**batch, use_cache=False).loss.backward()
    return {name: weight.grad for name, weight in model.named_parameters() if weight.requires_grad}


@pytest.mark.parametrize("sync_free", [False, True])
def test_rows_in_a_line_give_the_gradients_of_padded_rows(demo: Path, batch_rows: Any, sync_free: bool) -> None:
    import torch

    template, rows = batch_rows
    plain = gradients(demo, template, rows, padding_free=False)
    fast = gradients(demo, template, rows, padding_free=True, sync_free=sync_free)
    assert len(plain) == 24
    for name, gradient in plain.items():
        assert torch.linalg.norm(fast[name] - gradient) <= 1e-5 * torch.linalg.norm(gradient), name


def test_attention_without_row_starts_is_transformers_own() -> None:
    import torch
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    from swiftalign.worker.attention import attention

    query, key, value = (torch.randn(2, heads, 9, 8) for heads in (4, 2, 2))
    module = SimpleNamespace(is_causal=True, num_key_value_groups=2, training=False)
    mask = torch.ones(9, 9, dtype=torch.bool).tril()[None, None].expand(2, 1, 9, 9)
    ours, _ = attention(module, query, key, value, mask, scaling=0.3)
    theirs, _ = sdpa_attention_forward(module, query, key, value, mask, scaling=0.3)
    assert torch.equal(ours, theirs)


def test_a_run_without_padding_has_the_losses_of_a_padded_one(demo: Path, tmp_path: Path) -> None:
    losses, accuracies, evaluated = [], [], []
    validation = tmp_path / "validation.yaml"
    validation.write_text(
        f"data: {{val: {demo / 'data/val.jsonl'}}}\ntraining: {{eval_strategy: steps, eval_steps: 3, save_steps: 3}}\n"
    )
    for padding_free in ("true", "false"):
        run = tmp_path / padding_free
        sets = ("max_steps=3", "logging_steps=1", f"padding_free={padding_free}", f"output_dir={run}")
        words = [word for each in sets for word in ("--set", f"training.{each}")]
        assert main(["train", str(demo / "config.yaml"), str(validation), *words]) == 0
        events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
        losses.append([event["loss"] for event in events if event["kind"] == "log" and "loss" in event])
        evaluated += [(e["eval_loss"], e["eval_token_acc"]) for e in events if "eval_loss" in e]
        accuracies.append([event["token_acc"] for event in events if "token_acc" in event])
        assert json.loads((run / "speed.json").read_text())["padding_free"] is (padding_free == "true")
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert accuracies[0] == pytest.approx(accuracies[1], rel=1e-6)
    assert len(accuracies[0]) == 3
    assert evaluated[0] == pytest.approx(evaluated[1], rel=1e-5)
    assert len(evaluated) == 2


def test_a_run_groups_its_rows_by_length(demo: Path, tmp_path: Path) -> None:
    extra = tmp_path / "extra.yaml"
    extra.write_text("swift: {group_by_length: true}\n")
    words = [word for each in ("max_steps=2", f"output_dir={tmp_path}/run") for word in ("--set", f"training.{each}")]
    assert main(["train", str(demo / "config.yaml"), str(extra), *words]) == 0


@pytest.mark.parametrize("trains", ["merger", "visual"])
def test_a_frozen_vit_has_no_backward_pass_where_ms_swift_asks_its_patches_for_gradients(
    demo: Path, demo_modules: Model, make_config: Callable[[str], Config], batch_rows: Any, trains: str
) -> None:
    import torch
    from transformers import Qwen3VLForConditionalGeneration

    from swiftalign.worker.apply_choices import speed_up_model

    template, rows = batch_rows
    model = Qwen3VLForConditionalGeneration.from_pretrained(demo / "model", dtype=torch.float32)
    for name, weight in model.named_parameters():
        weight.requires_grad_(trains in name)
    template.model, visual = model, model.model.visual
    visual.patch_embed.register_forward_hook(lambda part, args, out: out.requires_grad_(True))  # as ms-swift does
    frozen = "true" if trains == "merger" else "false"
    config = make_config(f"tuner: {{train_type: full, freeze_llm: true, freeze_vit: {frozen}, freeze_aligner: false}}")
    speed_up_model(model, resolve(config, demo_modules), Choices())
    tracked = []
    visual.blocks[-1].register_forward_hook(lambda part, args, out: tracked.append(out.requires_grad))
    batch = template.data_collator([dict(row) for row in rows])
    batch.pop("text_position_ids", None)
    model(**batch, use_cache=False).loss.backward()
    assert tracked == [trains == "visual"]
    assert visual.merger.linear_fc1.weight.grad.abs().sum() > 0


# FP8


class _Gated:
    """Builds a small gated layer of frozen matrices."""

    @staticmethod
    def build() -> Any:
        import torch
        from torch import nn

        class Gated(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.gate = nn.Linear(64, 32, bias=False)
                self.up = nn.Linear(64, 32, bias=False)
                self.down = nn.Linear(32, 64, bias=False)
                self.odd = nn.Linear(64, 10, bias=False)
                self.biased = nn.Linear(64, 32)

            def forward(self, x: Any) -> Any:
                return x + self.down(nn.functional.silu(self.gate(x)) * self.up(x))

        torch.manual_seed(0)
        return Gated().to(torch.bfloat16).requires_grad_(False)


def test_fp8_products_are_near_those_in_bfloat16_and_compile() -> None:
    import torch

    from swiftalign.worker.fp8 import Fp8Linear, freeze_in_fp8

    layer = _Gated.build()
    x = torch.randn(2, 20, 64, dtype=torch.bfloat16, requires_grad=True)

    def run() -> tuple[Any, Any]:
        x.grad = None
        out = layer(x)
        out.square().sum().backward()
        return (out - x).detach().float(), x.grad.float()

    exact = run()
    assert freeze_in_fp8([layer]) == 3  # not the one with an odd side, nor the one with a bias
    assert isinstance(layer.gate, Fp8Linear)
    near = run()
    for ours, theirs in zip(near, exact, strict=True):
        difference = torch.linalg.norm(ours - theirs) / torch.linalg.norm(theirs)
        assert 0 < difference < 0.1
    layer.compile(dynamic=True, backend="aot_eager")
    for compiled, eager in zip(run(), near, strict=True):
        assert torch.linalg.norm(compiled - eager) <= 0.01 * torch.linalg.norm(eager)


def test_a_matrix_that_trains_is_not_put_in_fp8() -> None:
    from swiftalign.worker.fp8 import freeze_in_fp8

    layer = _Gated.build().requires_grad_(True)
    assert freeze_in_fp8([layer]) == 0


def test_only_frozen_layers_are_compiled(demo: Path, demo_modules: Model, make_config: Callable[[str], Config]) -> None:
    import torch
    from transformers import Qwen3VLForConditionalGeneration

    from swiftalign.worker.apply_choices import speed_up_trainer

    model = Qwen3VLForConditionalGeneration.from_pretrained(demo / "model", dtype=torch.float32).requires_grad_(False)
    model.model.visual.blocks[0].requires_grad_(True)

    def compiled(layers: torch.nn.ModuleList) -> list[bool]:
        return ["forward" in vars(layer) for layer in layers]

    trainer = SimpleNamespace(model=model, evaluate=lambda: "evaluated")
    speed_up_trainer(trainer, resolve(make_config(""), demo_modules), Choices(kernels="compiled"))
    assert all(compiled(model.model.language_model.layers))
    assert not any(compiled(model.model.visual.blocks))
    assert trainer.evaluate() == "evaluated"


def test_compiled_experts_have_the_same_gradients_each_time(
    tmp_path: Path, make_config: Callable[[str], Config], demo_modules: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from torch._dynamo.utils import counters
    from transformers import Qwen3VLMoeConfig, Qwen3VLMoeForConditionalGeneration

    from swiftalign.worker.apply_choices import speed_up_trainer

    build_model(tmp_path, moe=True, dtype="bfloat16")  # in float32, a CPU's product of groups can't be compiled
    config = Qwen3VLMoeConfig.from_pretrained(tmp_path)
    config.text_config.num_experts_per_tok = 4  # all of them; a sum of two has one order
    model = Qwen3VLMoeForConditionalGeneration.from_pretrained(tmp_path, config=config).requires_grad_(False)
    llm = model.model.language_model
    tokens, wanted = torch.randn(2, 1, 600, model.config.text_config.hidden_size, dtype=torch.bfloat16)
    assert {layer.mlp.experts.config._experts_implementation for layer in llm.layers} == {"grouped_mm"}

    def gradient() -> torch.Tensor:
        given = tokens.clone().requires_grad_()
        (llm(inputs_embeds=given, use_cache=False).last_hidden_state * wanted).sum().backward()
        assert given.grad is not None
        return given.grad

    expected = gradient()
    threads, checkpoint = torch.get_num_threads(), torch.utils.checkpoint.checkpoint
    monkeypatch.setattr(torch.utils.checkpoint, "checkpoint", checkpoint)  # as it is again afterwards
    torch.set_num_threads(2)  # one adds up in the same order each time
    torch.compiler.reset()
    counters.clear()
    try:
        trainer = SimpleNamespace(model=model, evaluate=lambda: None)
        speed_up_trainer(trainer, resolve(make_config(""), demo_modules), Choices(kernels="compiled"))
        found = [gradient() for _ in range(8)]
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(each, found[0]) for each in found)
    assert torch.linalg.norm(found[0] - expected) < 0.02 * torch.linalg.norm(expected)
    assert counters["stats"]["unique_graphs"] == 1  # all layers share it


def test_patches_are_embedded_as_by_the_convolution() -> None:
    import torch

    from swiftalign.worker.apply_choices import embed_patches

    layer = torch.nn.Conv3d(3, 40, (2, 14, 14), stride=(2, 14, 14)).double()
    patches = torch.randn(6, 3, 2, 14, 14, dtype=torch.float64)
    torch.testing.assert_close(embed_patches(layer, patches), layer(patches), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("size", "trains", "operator"),
    [
        pytest.param(128, True, "swiftalign.flash4.default", id="the LLM"),
        pytest.param(72, False, "swiftalign.flash4.default", id="a frozen ViT"),
        pytest.param(72, True, "aten._flash_attention_forward.default", id="a ViT that trains"),
        pytest.param(80, False, "aten._flash_attention_forward.default", id="heads that were not tried"),
    ],
)
def test_flash_attention_4_is_taken_where_its_gradients_are_right(size: int, trains: bool, operator: str) -> None:
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.utils._python_dispatch import TorchDispatchMode

    from swiftalign.worker.attention import attention, flash4_backward

    class Called(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            names.append(str(function))
            return function(*args, **(kwargs or {}))

    names: list[str] = []
    with FakeTensorMode(), Called():  # shapes alone, as of tensors on a GPU
        kinds = {"device": "cuda", "dtype": torch.bfloat16, "requires_grad": trains}
        query, key, value = (torch.empty(1, heads, 10, size, **kinds) for heads in (8, 2, 2))
        starts = torch.empty(3, dtype=torch.int32, device="cuda")
        layer = torch.nn.Module()
        out, _ = attention(layer, query, key, value, None, cu_seq_lens_q=starts, max_length_q=6, flash4=True)
        operands = [each[0].transpose(0, 1) for each in (query, key, value)]
        gradients = flash4_backward(out[0], *operands, out[0], torch.empty(8, 10), starts, 6, 0.1, True)
    assert operator in names
    assert out.shape == (1, 10, 8, size)
    assert [each.shape for each in gradients] == [each.shape for each in operands]


@pytest.mark.parametrize("fused", [True, False], ids=["told by a tensor", "ms-swift's own way"])
def test_a_step_with_a_gradient_that_is_not_a_number_is_left_out(fused: bool) -> None:
    import torch
    from accelerate import Accelerator
    from swift.trainers import Trainer

    from swiftalign.worker.sync_free import clip_without_waiting

    def train(gradients: list[float]) -> tuple[list[float], list[float]]:
        weight = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
        model = torch.nn.ParameterList([weight])
        accelerator = Accelerator(cpu=True)
        optimizer = accelerator.prepare_optimizer(torch.optim.AdamW(model.parameters(), lr=0.1, fused=fused))
        trainer = SimpleNamespace(accelerator=accelerator, optimizer=optimizer, args=SimpleNamespace(max_grad_norm=1.0))
        trainer._clip_grad_norm = lambda model: accelerator.clip_grad_norm_(model.parameters(), 1.0)
        clip_without_waiting(trainer)
        norms = []
        for gradient in gradients:
            weight.grad = torch.tensor([gradient, 1.0])
            norms.append(float(trainer._clip_grad_norm(model)))
            optimizer.step()
            optimizer.zero_grad()
        return weight.tolist(), norms

    with Trainer._fix_grad_norm_nan():
        weights, norms = train([3.0, float("nan"), 0.5])
        assert weights == train([3.0, 0.5])[0] != train([3.0])[0]
    assert norms == pytest.approx([10**0.5, float("nan"), 1.25**0.5], nan_ok=True)
