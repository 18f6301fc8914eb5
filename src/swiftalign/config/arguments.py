"""What becomes of each argument of ms-swift. Every argument of the tested release is in one class, and in one only:

- it is declared in `swiftalign.config.sections` or by a tuning method: the plan says what it does;
- a rule of `ARGUMENTS` gives it another name, leaves it out, or refuses its values with the reason;
- `PLANNED` names those that are handed through, and that plan, checks or predictions read too;
- `HARMLESS` names those that are handed through, and change neither what trains nor what is saved.

An argument of a later release that is in no class is handed through with a warning (`argument-unknown`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

Names: TypeAlias = tuple[str, ...]
"""A path of keys."""


@dataclass(frozen=True)
class Renamed:
    """Another name of a key.

    Attributes:
        to: the key here.
        convert: the value here, from the value there. `LEFT_OUT` leaves the key out. It raises ValueError with the
            reason and, after a semicolon, what to do.
        values: what the conversion does, for the documentation.
    """

    to: Names
    convert: Callable[[Any], Any] = lambda value: value
    values: str = ""


@dataclass(frozen=True)
class Implied:
    """A key that says what this toolkit does anyway, or nothing: it is left out. Any other value is an error.

    Attributes:
        values: the values that say so, besides empty ones.
        why: what this toolkit does.
        hint: what to write instead of another value.
    """

    values: tuple[Any, ...]
    why: str
    hint: str = "remove the key"


@dataclass(frozen=True)
class Noted:
    """A key that changes nothing that is learnt: it is left out, and a note says so.

    Attributes:
        why: what this toolkit does instead.
    """

    why: str


Rule: TypeAlias = Renamed | Implied | Noted
LEFT_OUT: Any = object()


def _hub(use_hf: Any) -> Any:
    if isinstance(use_hf, bool):
        return "huggingface" if use_hf else "modelscope"
    return LEFT_OUT if use_hf is None else use_hf


def _dtype(name: Any) -> Any:
    return LEFT_OUT if name in (None, "auto") else name.removeprefix("torch.") if isinstance(name, str) else name


# They stand where ms-swift wants a dataset, and the guide's project reads custom.train_jsonl.
_PLACEHOLDERS = ("placeholder", "dummy")


def train_files(datasets: Any) -> Any:
    listed = datasets if isinstance(datasets, list) else [datasets]
    if all(each in (None, *_PLACEHOLDERS) for each in listed):
        return LEFT_OUT
    if sampled := next((each for each in listed if isinstance(each, str) and re.search(r"#\d+$", each)), None):
        path, _, rows = sampled.rpartition("#")
        raise ValueError(
            f"{sampled!r} draws {rows} rows at random; for the first {rows} rows write {{path: {path}, limit: {rows}}}"
        )
    return datasets


def _fsdp(options: Any) -> Any:
    if isinstance(options, dict):
        options = options.get("fsdp", "fsdp2")
    text = " ".join(map(str, options)) if isinstance(options, list) else str(options or "")
    if text.endswith(".json"):
        raise ValueError(f"the settings in {text} are not read; write training: {{sharding: fsdp2}} or fsdp2_offload")
    return ("fsdp2_offload" if "offload" in text else "fsdp2") if text else LEFT_OUT


def _device_map(devices: Any) -> Any:
    if devices not in (None, "auto", "balanced", "balanced_low_0", "sequential"):
        raise ValueError("the layers can't be placed by hand; write training: {sharding: device_map}")
    return "device_map" if devices else LEFT_OUT


_PLAN = "the plan decides this"
_BY_TUNER = (
    "choose what trains in the tuner section, by target_regex, target_modules, modules_to_save or the freeze flags"
)

# An argument of ms-swift, of today or of version 3, in whatever section it stands -> what becomes of it.
ARGUMENTS: dict[str, Rule] = {
    "model": Renamed(("model", "path")),
    "model_revision": Renamed(("model", "revision")),
    "model_type": Renamed(("model", "type")),
    "torch_dtype": Renamed(("model", "dtype"), _dtype, "auto: left out"),
    "attn_impl": Renamed(("model", "attention")),
    "use_hf": Renamed(("hub",), _hub, "true: huggingface, false: modelscope"),
    "dataset": Renamed(("data", "train"), train_files, "placeholder, dummy: left out"),
    "val_dataset": Renamed(("data", "val"), train_files, "placeholder, dummy: left out"),
    "tuner_type": Renamed(("tuner", "train_type")),
    "train_type": Renamed(("tuner", "train_type")),
    # `settle` reads these two.
    "bf16": Renamed(("training", "bf16"), values="true: model.dtype bfloat16"),
    "fp16": Renamed(("training", "fp16"), values="true: model.dtype float16"),
    "packing": Renamed(("training", "packing")),
    "fsdp": Renamed(("training", "sharding"), _fsdp, "fsdp2, with offload among the options fsdp2_offload"),
    "fsdp_config": Noted("training.sharding: fsdp2 has no other settings"),
    "device_map": Renamed(("training", "sharding"), _device_map, "auto: device_map"),
    "tuner_backend": Implied(("peft",), "adapters are peft's"),
    "use_swift_lora": Implied((False,), "adapters are peft's"),
    "lora_bias": Implied(("none",), "biases of adapted layers stay frozen", _BY_TUNER),
    "lora_dtype": Implied((), _PLAN, "set tuner.trainable_dtype"),
    "init_weights": Implied((True, "true", "True"), "adapters begin as peft makes them"),
    "adapters": Implied(
        (), "a run begins with the base model", "merge the adapter first: swiftalign export CHECKPOINT"
    ),
    **dict.fromkeys(
        ("freeze_parameters", "freeze_parameters_regex", "trainable_parameters", "trainable_parameters_regex"),
        Implied((), _PLAN, _BY_TUNER),
    ),
    "target_parameters": Implied((), _PLAN, _BY_TUNER),
    "freeze_parameters_ratio": Implied((0, 0.0), _PLAN, _BY_TUNER),
    **dict.fromkeys(("save_safetensors", "safe_serialization"), Implied((True,), "weights are saved as safetensors")),
    "add_version": Noted("the run folder is training.output_dir itself, and one that holds a run is never overwritten"),
    "streaming": Implied((False,), "rows are read when they are needed"),
    **dict.fromkeys(
        ("cached_dataset", "cached_val_dataset"),
        Implied((), "rows are read from files", "name the files in data.train"),
    ),
    "interleave_prob": Implied((), "files are mixed by weights", "write {path: FILE, weight: W} in data.train"),
    "columns": Implied(("{}",), "rows are read by their layout", "run 'swiftalign convert' on the file"),
    "custom_dataset_info": Implied((), "rows are read from files", "name the files in data.train"),
    "val_dataset_shuffle": Implied((False,), "validation rows keep their order"),
}

# Arguments that change model, rows or checkpoints behind the plan's back, or that have no effect here: those of one
# reason together, each with the value that changes nothing.
_RULES: tuple[tuple[dict[str, tuple[Any, ...]], str, str], ...] = (
    (
        {"new_special_tokens": ()},
        "the tokenizer and the embeddings would change, which the plan leaves as they are",
        "add the tokens to the model's folder before training, or write labels in words that the tokenizer has",
    ),
    (
        {
            **dict.fromkeys(("quant_method", "quant_bits", "bnb_4bit_compute_dtype", "bnb_4bit_quant_storage"), ()),
            "bnb_4bit_quant_type": ("nf4",),
            "bnb_4bit_use_double_quant": (True,),
            "hqq_axis": (),
        },
        "plan, predictions and exports know base models that are not quantized on loading",
        "remove it; training: {frozen_fp8: true} or {sharding: fsdp2} saves memory",
    ),
    (
        {"rope_scaling": (), "max_model_len": ()},
        "an export keeps the base's config.json, in which it would be missing",
        "write it into the config.json of the base model",
    ),
    (
        {"task_type": ("causal_lm",), "num_labels": (), "problem_type": (), "mrl_dims": ()},
        "this toolkit trains on the answers of rows only",
        "remove it, or train with ms-swift",
    ),
    (
        {"init_strategy": ()},
        "weights that are missing in the model's files are an error",
        "name a model whose files are complete",
    ),
    (
        {"model_kwargs": ()},
        "ms-swift makes environment variables of it, which this command would not see",
        "set them in the environment, e.g. IMAGE_MAX_TOKEN_NUM=1024 swiftalign train CONFIG",
    ),
    (
        {
            "use_galore": (False,),
            "galore_rank": (128,),
            "galore_target_modules": (),
            "galore_update_proj_gap": (50,),
            "galore_scale": (1.0, 1),
            "galore_proj_type": ("std",),
            "galore_optim_per_parameter": (False,),
            "galore_with_embedding": (False,),
            "galore_quantization": (False,),
            "galore_proj_quant": (False,),
            "galore_proj_bits": (4,),
            "galore_proj_group_size": (256,),
            "galore_cos_threshold": (0.4,),
            "galore_gamma_proj": (2,),
            "galore_queue_size": (5,),
            "optim_target_modules": (),
        },
        "GaLore projects gradients, which the plan does not know",
        "remove it, or train with ms-swift",
    ),
    (
        {"lisa_activated_layers": (0,), "lisa_step_interval": (20,)},
        "LISA trains other layers in every interval, and a plan names one set",
        "remove it, or train with ms-swift",
    ),
    (
        {
            "adapter_act": ("gelu",),
            "adapter_length": (128,),
            "llamapro_num_new_blocks": (4,),
            "llamapro_num_groups": (),
            "reft_layer_key": (),
            "reft_layers": (),
            "reft_rank": (4,),
            "reft_intervention_type": ("LoreftIntervention",),
            "reft_args": (),
            "vera_rank": (256,),
            "vera_projection_prng_key": (0,),
            "vera_dropout": (0.0, 0),
            "vera_d_initial": (0.1,),
            "lora_ga_batch_size": (2,),
            "lora_ga_iters": (2,),
            "lora_ga_max_length": (1024,),
            "lora_ga_direction": ("ArB2r",),
            "lora_ga_scale": ("stable",),
            "lora_ga_stable_gamma": (16,),
        },
        "it belongs to a tuning method that is not offered here",
        "remove it; 'swiftalign docs methods' compares the methods",
    ),
    (
        {
            "decision_drop_instructions": (0.0, 0),
            "decision_shuffle_fields": (False,),
            "decision_state_as_text": (0.0, 0),
            "decision_subsample_options": (0,),
        },
        "it belongs to rows of another task",
        "remove it",
    ),
    (
        {"auto_find_batch_size": (False,)},
        "the plan says how many rows a step has",
        "write training: {per_device_train_batch_size: auto}",
    ),
    (
        {"accelerator_config": (), "parallelism_config": (), "deepspeed_autotp_size": ()},
        "the plan says how rows and weights are divided among processes",
        "choose training.sharding",
    ),
    (
        {"train_sampling_strategy": ("random",)},
        "two other keys decide the order of the rows",
        "set training.train_dataloader_shuffle or swift.group_by_length",
    ),
    ({"local_rank": (-1,)}, "'swiftalign train' starts the processes", "remove it, and pass --nproc or --gpus"),
    (
        {"use_ray": (False,), "ray_exp_name": (), "device_groups": ()},
        "'swiftalign train' starts the processes, without Ray",
        "remove it; 'swiftalign docs several-gpus' has scripts for several machines",
    ),
    (
        {"save_on_each_node": (False,)},
        "all machines of a run share one run folder, into which one process writes",
        "remove it",
    ),
    ({"max_epochs": ()}, "one key says when a run ends", "write num_train_epochs"),
    ({"early_stop_interval": ()}, "it is called otherwise here", "write training: {early_stopping: {patience: N}}"),
    (
        {"resume_only_model": (False,), "ignore_data_skip": (False,)},
        "a resumed run continues optimizer, schedule and data order, as if it had not been interrupted",
        "remove it; phases begin a new schedule with trained weights",
    ),
    (
        {"load_args": (False,), "load_data_args": (False,)},
        "settings come from the config, which says what trains",
        "swiftalign init CONFIG --from RUN writes those of an old run",
    ),
    (
        {"use_flash_ckpt": (False,), "enable_jit_checkpoint": (False,)},
        "a signal saves a checkpoint anyway, and 'verify-ckpt' knows its files",
        "remove it",
    ),
    (
        {"push_to_hub": (False,), "hub_always_push": (False,)},
        "a run writes to its own folder only",
        "remove it, and upload the export: swiftalign export RUN --output FOLDER --push NAME",
    ),
    (
        {"torch_compile_backend": (), "torch_compile_mode": ()},
        "the frozen layers are compiled one by one, with torch's default backend",
        "write training: {torch_compile: true}",
    ),
    (
        {
            "predict_with_generate": (False,),
            "eval_use_evalscope": (False,),
            "eval_dataset": (),
            "eval_dataset_args": (),
            "eval_limit": (),
            "eval_generation_config": (),
            "extra_eval_args": (),
        },
        "answers are scored by this toolkit",
        "write custom: {grounding_eval: {rows: 64}}, or run 'swiftalign eval' on the run",
    ),
)
_NOTED: dict[str, str] = {
    "strict": "a row that can't be used is always an error",
    **dict.fromkeys(
        (
            "lazy_tokenize",
            "dataset_num_proc",
            "load_from_cache_file",
            "download_mode",
            "disable_auto_column_mapping",
            "shuffle_buffer_size",
            "stopping_strategy",
        ),
        "rows are read from their files when they are needed",
    ),
    **dict.fromkeys(
        ("packing_length", "packing_num_proc", "packing_strategy"), "the rows of a batch are concatenated as they are"
    ),
    **dict.fromkeys(("model_name", "model_author"), "it belongs to a data set of ms-swift"),
    "check_model": "the model is read where the config says",
    "logging_nan_inf_filter": "a loss that is not finite is logged as it is",
    "ignore_args_error": "an unknown key is always an error",
}
ARGUMENTS |= {name: Implied(values, why, hint) for named, why, hint in _RULES for name, values in named.items()}
ARGUMENTS |= {name: Noted(why) for name, why in _NOTED.items()}

# Handed through to ms-swift, and read by plan, checks or predictions too.
PLANNED = (
    "add_non_thinking_prefix agent_template create_checkpoint_symlink data_seed dataloader_drop_last "
    "dataloader_multiprocessing_context dataloader_persistent_workers dataloader_prefetch_factor ddp_timeout "
    "enable_thinking external_plugins group_by_length logging_steps lorap_lr_ratio loss_scale lr_scheduler_kwargs "
    "lr_scheduler_type norm_bbox per_device_eval_batch_size preserve_thinking report_to response_prefix "
    "restore_callback_states_from_checkpoint run_name save_only_model template template_backend tf32 "
    "use_chat_template use_cpu vit_gradient_checkpointing"
)
# Handed through to ms-swift, by what they concern: neither what trains, nor what is saved, nor the rows of a step.
HARMLESS = {
    "the loss, the optimizer and the schedule": "acc_strategy adam_beta1 adam_beta2 adam_epsilon "
    "average_tokens_across_devices disable_ignore_empty_think enable_channel_loss enable_dft_loss full_determinism "
    "is_binary_loss_scale label_names label_smoothing_factor loss_type max_grad_norm neftune_noise_alpha optim "
    "optim_args padding_side router_aux_loss_coef seed warmup_steps",
    "code of the user, whose model and optimizer are compared with the plan": "callbacks custom_register_path "
    "local_repo_path",
    "speed and memory": "dataloader_in_order dataloader_pin_memory ddp_backend ddp_broadcast_buffers "
    "ddp_bucket_cap_mb ddp_find_unused_parameters ddp_static_graph ds3_gather_for_generation enable_npu_model_patch "
    "experts_impl gradient_checkpointing_kwargs liger_kernel_config max_memory remove_unused_columns "
    "torch_empty_cache_steps use_cache use_logits_to_keep zero_hpz_partition_size",
    "evaluation on the validation rows": "batch_eval_metrics bf16_full_eval do_eval do_predict do_train "
    "eval_accumulation_steps eval_delay eval_do_concat_batches eval_metric eval_on_start eval_use_gather_object "
    "fp16_full_eval include_for_metrics prediction_loss_only",
    "generation, which training does without": "generation_config generation_max_length generation_num_beams logprobs "
    "max_new_tokens num_beams repetition_penalty sortish_sampler stop_words stream structured_outputs_regex "
    "temperature top_k top_logprobs top_p",
    "logs, trackers and the size of files": "debug disable_tqdm include_num_input_tokens_seen length_column_name "
    "log_level log_level_replica log_on_each_node logging_dir logging_first_step logging_strategy max_shard_size "
    "project skip_memory_metrics swanlab_email_language swanlab_exp_name swanlab_mode swanlab_notification_method "
    "swanlab_project swanlab_receiver_email swanlab_secret swanlab_sender_email swanlab_smtp_port swanlab_smtp_server "
    "swanlab_token swanlab_webhook_url swanlab_workspace trackio_bucket_id trackio_space_id trackio_static_space_id",
    "an upload, which is refused": "hub_model_id hub_private_repo hub_revision hub_strategy hub_token",
}
