"""Configurations, each with the finding on methods, rates or the run that it must give; see `finding_cases.py`."""

from __future__ import annotations

from finding_cases import ALIGNER, MERGERS, SPLIT, WHOLE, Case

RUN = [
    # -- methods
    Case(
        "dora-without-layers",
        f"tuner:\n  use_dora: true  # here\n  lora_rank: 16\n  target_regex: '^$'\n  modules_to_save: {MERGERS}\n",
        "use_dora has no layer to act on: target_regex '^$' adapts none, and DoRA does nothing for modules_to_save",
        "tuner:\n  use_dora: true\n",
    ),
    Case(
        "dora-without-layers",
        "tuner:\n  freeze_aligner: true\n  use_dora: true  # here\n",
        "use_dora has no layer to act on: no layer is adapted, and DoRA does nothing for modules_to_save",
        f"tuner:\n  use_dora: true\n  target_regex: {ALIGNER}\n  modules_to_save: [lm_head]\n",
    ),
    Case(
        "dora-exclusive",
        "tuner:\n  train_type: boft\n  use_dora: true  # here\n",
        "use_dora does not work with train_type boft",
        "tuner:\n  train_type: boft\n  use_dora: false\n",
    ),
    Case(
        "adalora-schedule",
        "tuner:\n  train_type: adalora\n  adalora_deltaT: 200\n  adalora_tinit: 2000  # here\n  adalora_tfinal: 20000\n"
        "training: {max_steps: 1000}\n",
        "AdaLoRA prunes from step adalora_tinit (2000) until adalora_tfinal (20000) steps before the end: "
        "a run of 1000 leaves no step for it",
        "tuner:\n  train_type: adalora\n  adalora_tinit: 100\n  adalora_tfinal: 899\ntraining: {max_steps: 1000}\n",
    ),
    Case(
        "adalora-schedule",
        "data: {train: DATA}\ntuner:\n  train_type: adalora\n  adalora_tfinal: 12  # here\n",
        "AdaLoRA prunes from step adalora_tinit (0) until adalora_tfinal (12) steps before the end: "
        "a run of 12 leaves no step for it",
        "data: {train: DATA}\ntuner:\n  train_type: adalora\n  adalora_tfinal: 11\n",
    ),
    Case(
        "adalora-ranks",
        "tuner:\n  train_type: adalora\n  adalora_init_r: 8  # here\n",
        "adalora_target_r 8 is not below adalora_init_r 8",
        "tuner:\n  train_type: adalora\n  adalora_init_r: 9\n",
    ),
    Case(
        "adalora-reload",
        "tuner:\n  train_type: adalora\ntraining:\n  resume_from_checkpoint: CHECKPOINT  # here\n",
        "CHECKPOINT has AdaLoRA's pruned factors without adalora_state.safetensors: training can't go on from them",
        f"{SPLIT}tuner:\n  train_type: adalora\ntraining:\n  load_best_model_at_end: true\n",
    ),
    Case(
        "boft-blocks",
        "tuner:\n  train_type: boft\n  boft_block_size: 7  # here\n",
        "model.visual.merger.linear_fc1: 128 inputs do not divide into blocks of 7",
        "tuner:\n  train_type: boft\n  boft_block_size: 32\n",
    ),
    Case(
        "boft-blocks",
        "tuner:\n  train_type: boft\n  boft_block_size: 0\n  boft_block_num: 3  # here\n",
        "model.visual.merger.linear_fc1: 128 inputs do not divide into 3 blocks",
        "tuner:\n  train_type: boft\n  boft_block_size: 0\n  boft_block_num: 4\n",
    ),
    Case(
        "boft-blocks",
        "tuner:\n  train_type: boft\n  boft_n_butterfly_factor: 9  # here\n",
        "model.visual.merger.linear_fc1: 32 blocks of 4 allow no butterfly factor of 9",
        "tuner:\n  train_type: boft\n  boft_n_butterfly_factor: 1\n",
    ),
    Case(
        "fourier-frequencies",
        "tuner:\n  train_type: fourierft\n  fourier_n_frequency: 8193  # here\n",
        "fourier_n_frequency 8193 is more than the 8192 weights of model.visual.merger.linear_fc2",
        "tuner:\n  train_type: fourierft\n  fourier_n_frequency: 8192\n",
    ),
    # -- rates and precision
    Case(
        "unused-learning-rate",
        "training:\n  aligner_lr: 1e-4\n  vit_lr: 1e-5  # here\n",
        "vit_lr is not used: nothing in the ViT trains",
        "tuner: {freeze_vit: false}\ntraining: {vit_lr: 1e-5}\n",
    ),
    Case(
        "unused-learning-rate",
        "training:\n  vit_lr: 1e-5\n  aligner_lr: 1e-4\n  learning_rate: 1e-5  # here\n",
        "learning_rate and vit_lr are not used: nothing in the LLM or the ViT trains",
        "training: {learning_rate: 1e-5}\n",
    ),
    Case(
        "rate-needs-multimodal",
        "training:\n  optimizer: default\n  learning_rate: 1e-4\n  vit_lr: 1e-5  # here\n  aligner_lr: 1e-4\n",
        "vit_lr and aligner_lr have no effect with optimizer default",
        "training: {optimizer: default, learning_rate: 1e-4}\n",
    ),
    Case(
        "zero-learning-rate",
        "training:\n  learning_rate: 1e-5\n  aligner_lr: 0  # here\n",
        "the aligner trains at learning rate 0, so nothing in it changes",
        "training: {learning_rate: 0, aligner_lr: 1e-4}\n",
    ),
    Case(
        "zero-learning-rate",
        "training:\n  learning_rate: 0  # here\n",
        "the aligner trains at learning rate 0, so nothing in it changes",
        "training: {vit_lr: 0}\n",
    ),
    Case(
        "optimizer-unknown",
        "training:\n  optimizer: adamw  # here\n",
        "ms-swift has no optimizer 'adamw', only default, galore, lorap, muon, muonclip, multimodal",
        "training: {optimizer: mine}\nswift: {external_plugins: [mine.py]}\n",
    ),
    Case(
        "optimizer-unplanned",
        "training:\n  optimizer: muon  # here\n",
        "optimizer muon makes its own parameter groups: the plan can't say which learning rate a parameter gets",
        "training: {optimizer: default}\n",
    ),
    Case(
        "low-precision-trainables",
        f"{WHOLE}  trainable_dtype: base  # here\ntraining: {{aligner_lr: 1e-5}}\n",
        "24 tensors would train in bfloat16 at learning rate 1e-05: small updates are rounded away",
        WHOLE,
        model="bf16",
    ),
    # -- the run
    Case(
        "rows-per-step-contradicted",
        "training:\n  effective_batch_size: 32\n  gradient_accumulation_steps: 4  # here\n",
        "effective_batch_size: 32, but with gradient_accumulation_steps: 4 a step has 4 rows "
        "(1 per batch x 4 x 1 process)",
        "training: {effective_batch_size: 32, gradient_accumulation_steps: 32}\n",
    ),
    Case(
        "rows-per-step-contradicted",
        "training:\n  per_device_train_batch_size: auto\n  effective_batch_size: 32\n"
        "  gradient_accumulation_steps: 4  # here\n",
        "effective_batch_size: 32, but with gradient_accumulation_steps: 4 a step has 4 rows "
        "(1 per batch x 4 x 1 process)",
        "training: {per_device_train_batch_size: auto, effective_batch_size: 32, gradient_accumulation_steps: 32}\n",
    ),
    Case(
        "rows-per-step-rounded",
        "training:\n  per_device_train_batch_size: 3\n  effective_batch_size: 32  # here\n",
        "effective_batch_size: 32 can't be divided into equal batches: a step has 33 rows "
        "(3 per batch x 11 x 1 process)",
        "training: {per_device_train_batch_size: 4, effective_batch_size: 32}\n",
    ),
    Case(
        "packing",
        "training:\n  packing: true  # here\n",
        "packing: the rows of a batch are concatenated, as padding_free does; a step has 16 rows, not packs",
        "training: {packing: false}\n",
    ),
    Case(
        "packing",
        "training: {padding_free: false}\ndata:\n  packing: true  # here\n",
        "packing: no effect, since padding_free is false; a step has 16 rows",
        "training: {padding_free: true}\n",
    ),
    Case(
        "packing",
        "data: {sequence_parallel_size: 2}\nswift:\n  packing: true  # here\n",
        "packing: no effect with sequence_parallel_size; a step has 16 rows",
        "data: {sequence_parallel_size: 2}\n",
    ),
    Case(
        "save-delay",
        "data: {train: DATA}\ntraining:\n  save_delay_steps: 100  # here\n",
        "save_delay_steps: 100, but the run ends after 12 steps: nothing would be saved",
        "data: {train: DATA}\ntraining: {save_delay_steps: 12}\n",
    ),
    Case(
        "save-delay",
        "data: {train: DATA}\ntraining:\n  save_delay_epochs: 3.5  # here\n",
        "save_delay_epochs: 3.5, but the run ends after 3 epochs: nothing would be saved",
        "data: {train: DATA}\ntraining: {save_delay_epochs: 2.5}\n",
    ),
    Case(
        "scheduler-incomplete",
        "training:\n  lr_scheduler_type: cosine_with_min_lr  # here\n",
        "lr_scheduler_type: cosine_with_min_lr needs min_lr, the rate at the end, or min_lr_rate, its share of the "
        "first",
        "training: {lr_scheduler_type: cosine_with_min_lr, lr_scheduler_kwargs: {min_lr_rate: 0.1}}\n",
    ),
    Case(
        "scheduler-incomplete",
        "training:\n  lr_scheduler_kwargs: '{}'\n  lr_scheduler_type: cosine_with_min_lr  # here\n",
        "lr_scheduler_type: cosine_with_min_lr needs min_lr, the rate at the end, or min_lr_rate, its share of the "
        "first",
        "training: {lr_scheduler_type: cosine_with_min_lr, lr_scheduler_kwargs: '{\"min_lr\": 1e-6}'}\n",
    ),
    Case(
        "report-to",
        "swift:\n  report_to: tensor_board  # here\n",
        "report_to: transformers can't report to 'tensor_board'",
        "training: {report_to: none}\n",
        no_fix="what is meant can't be told",
    ),
    Case(
        "run-not-resumable",
        "training:\n  save_only_model: true  # here\n",
        "save_only_model: the run can't be resumed, not even after Ctrl-C: checkpoints hold weights only",
        "training: {save_only_model: false}\n",
    ),
    Case(
        "setting-unused",
        f"tuner:\n  target_regex: {ALIGNER}\n  lorap_lr_ratio: 16  # here\n",
        "lorap_lr_ratio: no effect with optimizer multimodal: both factors of an adapter have one rate",
        f"tuner:\n  target_regex: {ALIGNER}\n",
    ),
    Case(
        "setting-unused",
        f"{SPLIT}training:\n  save_steps: 80  # here\n  save_strategy: best\n  eval_strategy: epoch\n",
        "save_steps: no effect, since save_strategy is best",
        f"{SPLIT}training: {{eval_strategy: steps, save_strategy: best, save_steps: 80}}\n",
    ),
    Case(
        "setting-unused",
        "training:\n  dataloader_num_workers: 0\n  dataloader_prefetch_factor: 2  # here\n"
        "  dataloader_persistent_workers: true\n",
        "dataloader_prefetch_factor, dataloader_persistent_workers: no effect, since dataloader_num_workers is 0",
        "training: {dataloader_num_workers: 1, dataloader_prefetch_factor: 2, dataloader_persistent_workers: true}\n",
    ),
    Case(
        "best-model-without-validation",
        "data: {train: DATA}\ntraining:\n  load_best_model_at_end: true  # here\n",
        "load_best_model_at_end needs validation data to choose the best model",
        f"{SPLIT}training: {{load_best_model_at_end: true}}\n",
    ),
    Case(
        "best-model-without-validation",
        "data: {train: DATA}\ntraining:\n  eval_strategy: epoch\n  save_strategy: best  # here\n",
        "save_strategy: best needs validation data to choose the best model",
        f"{SPLIT}training: {{save_strategy: best, eval_strategy: epoch}}\n",
    ),
    Case(
        "best-model-strategies",
        f"{SPLIT}training:\n  eval_strategy: 'no'\n  load_best_model_at_end: true  # here\n",
        "load_best_model_at_end: nothing is evaluated (eval_strategy: no)",
        f"{SPLIT}training: {{eval_strategy: 'no'}}\n",
    ),
    Case(
        "best-model-strategies",
        f"{SPLIT}training:\n  eval_strategy: 'no'\n  eval_steps: 7\n  load_best_model_at_end: true  # here\n",
        "load_best_model_at_end: nothing is evaluated (eval_strategy: no)",
        f"{SPLIT}training: {{load_best_model_at_end: true, eval_steps: 50}}\n",
    ),
    Case(
        "best-model-strategies",
        f"{SPLIT}training:\n  save_strategy: 'no'\n  load_best_model_at_end: true  # here\n",
        "load_best_model_at_end: nothing is saved (save_strategy: no)",
        f"{SPLIT}training: {{save_strategy: 'no'}}\n",
    ),
    Case(
        "best-model-strategies",
        f"{SPLIT}training:\n  save_strategy: best  # here\n",
        "save_strategy: best: eval_strategy is not given",
        f"{SPLIT}training: {{save_strategy: best, eval_strategy: steps, load_best_model_at_end: true}}\n",
    ),
    Case(
        "best-model-strategies",
        f"{SPLIT}training:\n  save_steps: 100\n  eval_steps: 30\n  load_best_model_at_end: true  # here\n",
        "load_best_model_at_end: saving every 100 steps and evaluation every 30 steps never happen at the same step",
        f"{SPLIT}training: {{save_steps: 90, eval_steps: 30, load_best_model_at_end: true}}\n",
    ),
    Case(
        "best-model-strategies",
        f"{SPLIT}training:\n  save_steps: 500\n  eval_steps: 0.1\n  load_best_model_at_end: true  # here\n",
        "load_best_model_at_end: saving every 500 steps and evaluation every 0.1 of the run "
        "never happen at the same step",
        f"{SPLIT}training: {{save_steps: 0.3, eval_steps: 0.1, load_best_model_at_end: true}}\n",
    ),
    Case(
        "best-model-strategies",
        f"{SPLIT}training:\n  save_strategy: epoch\n  eval_strategy: steps\n  load_best_model_at_end: true  # here\n",
        "load_best_model_at_end: saving after each epoch and evaluation every 500 steps never happen at the same step",
        f"{SPLIT}training: {{save_strategy: epoch, load_best_model_at_end: true}}\n",
    ),
    Case(
        "curriculum-shuffle",
        "data:\n  dataset_shuffle: false  # here\n",
        "data.dataset_shuffle is false, but training.train_dataloader_shuffle is true: "
        "the rows are not read in the order of the file",
        "data: {dataset_shuffle: false}\ntraining: {train_dataloader_shuffle: false}\n",
    ),
    Case(
        "curriculum-shuffle",
        "training:\n  train_dataloader_shuffle: false  # here\n",
        "training.train_dataloader_shuffle is false, but data.dataset_shuffle is true: "
        "the rows are not read in the order of the file",
        "data: {dataset_shuffle: true}\n",
    ),
    Case(
        "deepspeed-unreadable",
        "training:\n  deepspeed: zero-3  # here\n",
        "training.deepspeed: 'zero-3' is neither a preset of ms-swift nor a readable JSON file",
        "training: {deepspeed: zero3}\n",
        no_fix="which stage is meant can't be told; the hint lists the presets",
    ),
    Case(
        "sharding-contradicted",
        "training:\n  deepspeed: zero2\n  sharding: fsdp2  # here\n",
        "sharding: fsdp2, but deepspeed's settings stand for zero2",
        "training: {deepspeed: zero2, sharding: zero2}\n",
    ),
    Case(
        "sharding-contradicted",
        "training:\n  sharding: zero3  # here\n"
        "  deepspeed: {zero_optimization: {stage: 3, offload_param: {device: cpu}}}\n",
        "sharding: zero3, but deepspeed's settings stand for zero3_offload",
        "training: {sharding: zero3, deepspeed: {zero_optimization: {stage: 3, offload_param: {device: none}}}}\n",
    ),
    Case(
        "sharding-device-map",
        "training:\n  sharding: device_map  # here\n",
        "sharding: device_map spreads one process over all GPUs, but there are 2 processes",
        "training: {sharding: fsdp2}\n",
        processes=2,
    ),
    Case(
        "zero3-moe",
        "training:\n  deepspeed: zero3  # here\n",
        "zero3: transformers would swap the axes of the experts, which the weight files of MODEL hold as the model "
        "needs them: model.language_model.layers.0.mlp.experts.down_proj and 7 more",
        "training: {sharding: zero2}\n",
        model="moe",
    ),
    Case(
        "sharding-adalora",
        "tuner: {train_type: adalora}\ntraining:\n  deepspeed: zero2  # here\n",
        "zero2: DeepSpeed flattens the parameters, and AdaLoRA measures the importance of each of them",
        "tuner: {train_type: adalora}\ntraining: {sharding: fsdp2}\n",
    ),
    Case(
        "sharding-fp8",
        "training:\n  sharding: fsdp2_offload\n  frozen_fp8: true  # here\n",
        "frozen_fp8: its matrices can't be divided among GPUs as fsdp2_offload does",
        "training: {sharding: zero2, frozen_fp8: true}\n",
    ),
    Case(
        "sharding-trained-whole",
        "tuner: {train_type: full, freeze_llm: false}\ntraining:\n  sharding: fsdp2  # here\n",
        "fsdp2 divides frozen layers only: what trains in the LLM's layers takes 22.6 GB of each GPU, with "
        "gradients and optimizer",
        "tuner: {train_type: full}\ntraining: {sharding: fsdp2}\n",
        model="2B",
    ),
    Case(
        "sharding-brings-little",
        f"{WHOLE}training:\n  deepspeed: zero2  # here\n",
        "zero2 divides the gradients and Adam's averages of 100.7 M parameters: on 8 GPUs it saves 1.06 GB of each",
        f"{WHOLE}training: {{sharding: zero3}}\n",
        model="2B",
    ),
    Case(
        "sharding-brings-little",
        f"{WHOLE}training:\n  sharding: zero1  # here\n",
        "zero1 divides Adam's averages of 100.7 M parameters: on 2 GPUs it saves 403 MB of each",
        "tuner: {train_type: full, freeze_llm: false}\ntraining: {sharding: zero1}\n",
        model="2B",
        processes=2,
    ),
    Case(
        "resume-mismatch",
        "training:\n  resume_from_checkpoint: CHECKPOINT  # here\n",
        "CHECKPOINT differs from this config: modules_to_save model.visual.merger, "
        "model.visual.deepstack_merger_list.0, model.visual.deepstack_merger_list.1, "
        "model.visual.deepstack_merger_list.2, here none; adapters on 0 layers, here on 8 or on others",
        f"{WHOLE}training: {{resume_from_checkpoint: CHECKPOINT}}\n",
        no_fix="the run's own config is the one to take",
    ),
    Case(
        "resume-finished",
        f"{WHOLE}training:\n  max_steps: 30\n  resume_from_checkpoint: CHECKPOINT  # here\n",
        "CHECKPOINT is at step 30, and the run ends at step 30: no steps are left to train",
        f"{WHOLE}training: {{max_steps: 31, resume_from_checkpoint: CHECKPOINT}}\n",
        no_fix="how much longer to train can't be told",
    ),
    Case(
        "grounding-eval-without-validation",
        "data: {train: DATA}\ncustom:\n  grounding_eval: {rows: 8}  # here\n",
        "grounding_eval answers validation rows, but there are none",
        f"{SPLIT}custom: {{grounding_eval: {{rows: 8}}}}\n",
    ),
    Case(
        "grounding-eval-without-validation",
        f"{SPLIT}custom:\n  grounding_eval: {{rows: 8}}  # here\ntraining: {{eval_strategy: 'no'}}\n",
        "grounding_eval answers rows at each evaluation, but nothing is evaluated",
        f"{SPLIT}custom: {{grounding_eval: {{rows: 8}}}}\ntraining: {{eval_strategy: epoch}}\n",
    ),
    Case(
        "best-model-metric-unscored",
        f"{SPLIT}training:\n  metric_for_best_model: eval_quad_acc  # here\n",
        "metric_for_best_model: quad_acc is not measured without custom.grounding_eval",
        f"{SPLIT}training: {{metric_for_best_model: eval_quad_acc}}\ncustom: {{grounding_eval: {{}}}}\n",
    ),
    Case(
        "best-model-metric-unscored",
        f"{SPLIT}training: {{metric_for_best_model: bbox_acc}}\ncustom:\n  grounding_eval:\n    every: 2  # here\n",
        "bbox_acc is measured at every 2nd evaluation only, but the best model is chosen at every one",
        f"{SPLIT}training: {{metric_for_best_model: loss}}\ncustom: {{grounding_eval: {{every: 2}}}}\n",
    ),
    Case(
        "best-model-direction",
        f"{SPLIT}training:\n  greater_is_better: true\n  metric_for_best_model: line_distance  # here\n"
        "custom: {grounding_eval: {}}\n",
        "greater_is_better: true, but a lower line_distance is better",
        f"{SPLIT}training: {{greater_is_better: true, metric_for_best_model: line_acc}}\n"
        "custom: {grounding_eval: {}}\n",
    ),
    Case(
        "early-stopping",
        "data: {train: DATA}\ntraining:\n  early_stopping: {patience: 2}  # here\n",
        "early_stopping needs validation data to watch",
        f"{SPLIT}training: {{early_stopping: {{patience: 2}}}}\n",
    ),
    Case(
        "early-stopping",
        f"{SPLIT}training:\n  eval_strategy: 'no'\n  early_stopping: {{}}  # here\n",
        "early_stopping watches evaluations, but nothing is evaluated",
        f"{SPLIT}training: {{eval_strategy: epoch, early_stopping: {{}}}}\n",
    ),
    Case(
        "early-stopping",
        f"{SPLIT}training:\n  metric_for_best_model: token_acc\n  early_stopping: {{metric: eval_loss}}  # here\n",
        "early_stopping watches eval_loss, but the best model is chosen by token_acc",
        f"{SPLIT}training: {{metric_for_best_model: loss, early_stopping: {{metric: eval_loss}}}}\n",
    ),
    Case(
        "augmentation-imgaug",
        "custom:\n  augmentation:\n    ops:\n      - hflip\n      - imgaug.MotionBlurr: {k: 5}  # here\n",
        "imgaug has no augmenter 'MotionBlurr'",
        "custom: {augmentation: {ops: [{imgaug.MotionBlur: {k: 5, prob: 0.3}}]}}\n",
        no_fix="which augmenter was meant can't be told",
    ),
    *[
        Case(
            "augmentation-curriculum-order",
            f"custom:\n  augmentation:\n    preset: guide\n    curriculum:  # here\n"
            f"      phases: [{{until_percent: 50, ops: {{rotate: {{max_deg: 9}}}}}}]\n{setting}\n",
            f"custom.augmentation.curriculum: with {name}, ms-swift orders the rows in its own way",
            f"custom: {{augmentation: {{preset: guide}}}}\n{setting}\n",
            no_fix="the curriculum or the setting may be what is wanted",
        )
        for name, setting in (
            ("dataloader_drop_last", "swift: {dataloader_drop_last: true}"),
            ("sequence_parallel_size", "swift: {sequence_parallel_size: 2}"),
            ("DeepSpeed's tensor_parallel", "training: {deepspeed: {tensor_parallel: {autotp_size: 2}}}"),
        )
    ],
]
