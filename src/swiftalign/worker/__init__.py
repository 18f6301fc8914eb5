"""The training processes: ms-swift's own pipeline, given a plan and compared with it.

ms-swift, peft and transformers are not patched: no function or class of theirs is replaced. `pipeline.AlignerSft` is a
subclass of ms-swift's `SwiftSft`, and callbacks and the attention function are registered where those packages ask for
it. Where ms-swift's prefixes of the model's components are wrong, those of its registry are corrected. Some attributes
of this run's own model and trainer are replaced:

- ``trainer.get_train_dataloader``, by `batches.train_dataloader`, unless the run asks its loader for something else.
- ``trainer.get_batch_samples``, wrapped by `bad_rows`, so that a run is saved before a row that can't be used.
- ``trainer._load_from_checkpoint`` and ``trainer._load_best_model``, by `weights.load_state` with AdaLoRA, and by
  `weights.carry_weights` with fsdp2, which also replaces ``trainer.save_model`` where whole models are saved.
- ``trainer._wrap_model``, by `sharding`, with fsdp2: it wraps what is not divided in DDP.
- ``trainer.compute_loss_context_manager``, by `sharding.autocast`, with DeepSpeed.
- ``trainer.create_optimizer``, wrapped by `callbacks.PlanCallback`, which compares the optimizer with the plan.
- ``forward`` of the frozen layers, by its compiled form; on a GPU, that of a frozen convolution that embeds patches, by
  a product; that of ms-swift's multimodal model, by `sync_free`; and that of Qwen3.5's linear attention, by
  `linear_attention`, in padding-free batches.
- ``hf_device_map``, ``_is_fsdp_managed_module`` and ``_ddp_params_and_buffers_to_ignore`` of the model, by `sharding`,
  with fsdp2; and its trained parameters, by whole ones, with ZeRO-3.
- ``trainer._clip_grad_norm``, by `sync_free`, unless DeepSpeed clips: it does not wait for the norm.
- ``trainer.training_step`` and ``trainer._save_checkpoint``, wrapped by `watch`, which ends a run that can't learn.
- ``trainer._determine_best_metric``, wrapped by `callbacks.PlanCallback`, which also knows what else is to be saved.
- ``trainer.data_collator``, ``trainer.prepare_logits_to_keep`` and ``trainer._compute_acc``, the template's
  ``_post_encode``, and the language model's ``_deepstack_process``, by `sync_free`, in padding-free batches of the
  families that it knows.
- ``trainer.args.report_to``, by `pipeline`, after the last step: ms-swift would draw pictures of tensorboard's curves.
- ``trainer.evaluate``, wrapped by `apply_choices` so that it runs uncompiled, where the frozen layers are compiled.
- ``config.model_type`` of the model, by `targets`, while ms-swift wraps it with peft.
- ``config._attn_implementation_internal`` of the model and its parts, by `attention`, in padding-free batches.
- The LLM's frozen ``nn.Linear`` modules, by `fp8.Fp8Linear`, with frozen_fp8.
"""
