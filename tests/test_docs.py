"""The pages of docs/: links lead somewhere, and lists are whole."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import typer.main
from PIL import Image

from docs_examples import (
    OPERATIONS,
    PAGES,
    ROOT,
    START,
    TELLING,
    draw_operations,
    has_examples,
    with_keys,
    with_models,
    with_operations,
)
from swiftalign.cli.app import app
from swiftalign.config.arguments import ARGUMENTS
from swiftalign.config.augmentation import PARAMETERS
from swiftalign.config.sections import section_fields
from swiftalign.config.spellings import PASS_THROUGH
from swiftalign.config.swift_arguments import swift_arguments

# The keys in the configurations for supervised fine-tuning of the project that the guide comes from, over its history.
GUIDE_PROJECT = """
    adapters add_version aligner_lr assistant_prefix_format attn_impl augment_prob augment_sources bf16
    create_checkpoint_symlink dataloader_num_workers dataloader_persistent_workers dataloader_pin_memory
    dataloader_prefetch_factor dataset dataset_num_proc deepspeed dump_conversation_path dump_conversation_text
    effective_batch_size
    emit_norm eval_dataset eval_steps eval_strategy external_plugins extra freeze_aligner freeze_llm freeze_vit
    fusion_config global_max_length gradient_accumulation_steps gradient_checkpointing greater_is_better
    group_key_prefix grpo hard_sample_mining images_per_user_turn json_format learning_rate load_best_model_at_end
    log_level log_level_replica logging_dir logging_first_step logging_steps lora_alpha lora_bias lora_dropout
    lora_rank lr_scheduler_kwargs lr_scheduler_type max_grad_norm max_pixels max_steps metric_for_best_model model
    modules_to_save num_train_epochs object_ordering_policy optimizer output_dir packing padding_free
    per_device_eval_batch_size per_device_train_batch_size prompts report_to rlhf run_name sample_limit
    save_delay_steps save_last_epoch
    save_only_model save_safetensors save_steps save_strategy save_total_limit seed summary_label_grouping
    summary_ratio target_modules target_parameters target_regex template token_type_metrics toon_mode torch_dtype
    train_jsonl train_sample_limit train_type trainable_parameters_regex trainer_variant truncation_strategy use_dora
    use_summary use_swift_lora val_dataset val_jsonl val_sample_limit visual_kd vit_lr warmup_ratio weight_decay
"""


def test_the_session_that_is_run_again_is_the_only_one() -> None:
    """tests/test_start.py runs that of docs/start.md; one on another page would need the same."""
    assert [page for page in PAGES if has_examples(page)] == [START]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_to_a_file_leads_to_one(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
    assert not [link for link in links if not (page.parent / link).exists()]


def test_commands_in_the_docs_have_the_options_that_they_show() -> None:
    options = {
        name: {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        for name, command in typer.main.get_command(app).commands.items()
    }
    shown = [
        (page.name, line)
        for page in PAGES
        for code in re.findall(r"```bash\n(.*?)```|`(swiftalign [^`]*)`", page.read_text(), re.DOTALL)
        for line in "".join(code).replace("\\\n", " ").splitlines()
        if re.match(r"swiftalign [a-z]", line)
    ]
    assert len(shown) > 60
    wrong = []
    for page, line in shown:
        _, command, *words = line.partition("  #")[0].split()
        named = {word.partition("=")[0] for word in words if re.fullmatch(r"-[a-z]|--[a-z].*", word)}
        if command not in options or not named - {"-h", "--help"} <= options[command]:
            wrong.append(f"{page}: {line}")
    assert wrong == []


def test_every_architecture_is_on_its_page() -> None:
    page = (ROOT / "docs/models.md").read_text()
    assert with_models(page) == page


def test_every_key_of_other_tools_is_on_its_page_once() -> None:
    page = (ROOT / "docs/keys.md").read_text()
    assert with_keys(page) == page
    tables = re.split(r"\n## ", page)[-3:]
    first, second, third = (re.findall(r"^\| `([\w.]+)` \|", table, re.MULTILINE) for table in tables)
    own = [name for line in re.findall(r"^\| `\w+` \| (.*) \|$", tables[2], re.MULTILINE) for name in line.split(", ")]
    assert sorted([*(f"`{name}`" for name in first), *own]) == sorted(
        f"`{name}`" for name in swift_arguments().keys() | ARGUMENTS.keys()
    )
    known = {name.rpartition(".")[2] for name in (*first, *second)} | section_fields("training").keys()
    assert {*GUIDE_PROJECT.split()} - known - swift_arguments().keys() == set()
    assert third == [*PASS_THROUGH]


def test_every_page_of_docs_is_in_the_navigation() -> None:
    pages = re.findall(r"^ +- [^:]+: (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert not [page.name for page in PAGES[1:] if page.name not in pages]


def test_every_operation_is_on_its_page_with_its_parameters() -> None:
    page = OPERATIONS.read_text()
    assert with_operations(page) == page
    assert re.findall(r"^## (\w+)$", page, re.MULTILINE) == [*PARAMETERS, "imgaug"]
    assert TELLING.keys() - PARAMETERS.keys() == {"imgaug.MotionBlur"}


def test_every_number_of_an_operation_has_a_unit() -> None:
    told = [field for kind in PARAMETERS.values() for field in kind.model_json_schema()["properties"].values()]
    numbers = [each for each in told if each.get("type") in ("number", "integer") or "anyOf" in each]
    assert len(numbers) > 20
    assert not [each for each in numbers if not re.match(r"[a-z]+; ", each["description"])]


def test_the_pictures_of_the_operations_are_as_they_are_now(tmp_path: Path) -> None:
    """`python tests/docs_examples.py --operations` makes them anew."""
    draw_operations(tmp_path)
    folder = OPERATIONS.with_suffix("")
    assert sorted(each.name for each in folder.iterdir()) == sorted(each.name for each in tmp_path.iterdir())
    for path in sorted(tmp_path.iterdir()):
        with Image.open(path) as now, Image.open(folder / path.name) as shown:
            assert now.size == shown.size
            assert np.abs(np.asarray(now).astype(int) - np.asarray(shown)).mean() < 0.5, path.name
    assert sum(each.stat().st_size for each in folder.iterdir()) < 700_000
