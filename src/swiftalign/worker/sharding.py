"""Spreading a run's model over the training processes.

With ``fsdp2`` the layers of the LLM are divided among the processes by torch's `fully_shard`, and everything else is on
each GPU: the embeddings, the ViT, and all that trains, whose gradients are averaged as by DDP. What trains is small, so
that dividing it would save little; whole, it is compared, saved, pruned and resumed in the same way as under DDP.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from peft import PeftModel
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy, fully_shard
from torch.distributed.rendezvous import rendezvous
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.overrides import TorchFunctionMode
from transformers.core_model_loading import Transpose

from swiftalign.config.sharding import stage
from swiftalign.model.families import find
from swiftalign.model.family import Family
from swiftalign.plan.plan import TuningPlan
from swiftalign.problems import SwiftalignError, TrainingError
from swiftalign.runs.processes import JOIN_SECONDS, JOIN_VARIABLE
from swiftalign.worker.weights import carry_weights


def join_processes(sharding: str, timeout: float) -> None:
    """Start torch's process group, unless there is one process that needs none.

    At the start a process waits for the others as long as ``train --join-timeout`` says.

    Args:
        sharding: how the run is spread over GPUs.
        timeout: seconds to wait for the other processes in every exchange of data.

    Raises:
        TrainingError: the other processes did not come in time.
    """
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
    if alone and stage(sharding) is None and not sharding.startswith("fsdp2"):
        return
    if alone:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    seconds = float(os.environ.get(JOIN_VARIABLE, JOIN_SECONDS))
    try:
        store, rank, size = next(rendezvous("env://", timeout=timedelta(seconds=seconds)))
    except dist.DistError as error:
        message = f"the training processes did not find each other within {seconds:g} s: {error}"
        hint = "see the logs of all; train --join-timeout sets the seconds"
        raise TrainingError(" ".join(message.split()), hint) from error
    dist.init_process_group(
        "nccl" if torch.cuda.is_available() else "gloo",
        store=store,
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=timeout),
    )
    if stage(sharding) is not None:
        import deepspeed

        deepspeed.init_distributed(dist.get_backend())  # before the model is loaded, which ZeRO-3 divides at once


class _Views(TorchFunctionMode):
    """Leaves views what they are where they would be made contiguous."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return args[0] if function is torch.Tensor.contiguous else function(*args, **(kwargs or {}))


@contextmanager
def loading(sharding: str) -> Iterator[None]:
    """While the model is loaded: with ``fsdp2`` on each machine by one process only, which maps the weight files.

    transformers and ms-swift read the two variables; set for longer, they would make accelerate wrap the model. Mapped
    files take no memory of the machine; but where transformers swaps axes, as those of Qwen3-VL's experts, its copies
    would take as much as the model. They stay views, which `divide` copies on the GPU, a layer at a time.

    ZeRO-3 divides the weights as they are created. Without its own 16-bit modes it would create them in float32, so
    that the dtype is left to transformers, which creates them in the planned one.
    """
    with ExitStack() as undo:
        if sharding.startswith("fsdp2"):
            for name in ("ACCELERATE_USE_FSDP", "FSDP_CPU_RAM_EFFICIENT_LOADING"):
                os.environ[name] = "true"
                undo.callback(os.environ.pop, name)
            undo.callback(setattr, Transpose, "convert", convert := Transpose.convert)

            def swap(*args: Any, **kwargs: Any) -> Any:
                with _Views():
                    return convert(*args, **kwargs)

            Transpose.convert = swap
        if stage(sharding) == 3:
            import deepspeed
            from deepspeed.runtime.zero.partition_parameters import DeepSpeedTensorOverride

            undo.callback(setattr, deepspeed.zero, "Init", deepspeed.zero.Init)
            deepspeed.zero.Init = partial(deepspeed.zero.Init, tensor_overrides=[DeepSpeedTensorOverride.device])
        yield


def make_whole(model: Any) -> None:
    """Under ZeRO-3, replace what trains by whole parameters; DeepSpeed divides them again before the first step.

    Parameters that ZeRO-3 has divided keep the dtype in which they were divided, and have no values to compare.
    """
    divided = [weight for weight in model.parameters() if weight.requires_grad and hasattr(weight, "ds_id")]
    if not divided:
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(divided):
        whole = {id(weight): nn.Parameter(weight.data.clone()) for weight in divided}
    for module in model.modules():
        for name, weight in module.named_parameters(recurse=False):
            if id(weight) in whole:
                setattr(module, name, whole[id(weight)])


def divide(model: Any, plan: TuningPlan, *, offload: bool) -> None:
    """Send rank 0's weights to all processes, and divide the layers of the LLM among them.

    Args:
        model: the model as `loading` leaves it and peft wraps it; with weights on rank 0 only.
        offload: whether the layers' weights stay in the machine's memory, and go to the GPU one layer at a time.

    Raises:
        SwiftalignError: the model has no list of layers under a known name.
    """
    stack = (find(plan.model_type) or Family).stacks[0]
    name = next((name for name, _ in model.named_modules() if name.endswith(stack)), None)
    if name is None:
        raise SwiftalignError(f"fsdp2: {plan.model} has no layers under a known name", "set training.sharding: zero3")
    llm, layers = model.get_submodule(name.rpartition(".")[0]), model.get_submodule(name)
    device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    policy = CPUOffloadPolicy(pin_memory=device.type == "cuda") if offload else OffloadPolicy()
    inside = {id(weight) for weight in layers.parameters()}

    def share(weights: Iterator[torch.Tensor]) -> None:
        for weight in weights:
            weight.data = weight.data.to(device).contiguous()
            dist.broadcast(weight.data, 0)

    share(weight for weight in model.parameters() if id(weight) not in inside)
    share(model.buffers())
    whole = {weight for weight in layers.parameters() if weight.requires_grad}
    for layer in layers:
        share(layer.parameters())
        fully_shard(layer, ignored_params=whole, offload_policy=policy, reshard_after_forward=True)
    rest = {weight for weight in llm.parameters() if not isinstance(weight, DTensor)}
    fully_shard(llm, ignored_params=rest)  # the layers share its streams, so that the next one is gathered in time
    divided = [name for name, weight in model.named_parameters() if isinstance(weight, DTensor)]
    model._ddp_params_and_buffers_to_ignore = divided  # torch's DDP reads it
    inner = model.get_base_model() if isinstance(model, PeftModel) else model
    inner._is_fsdp_managed_module = True  # transformers then generates in all processes together
    model.hf_device_map = {"": device}  # transformers then leaves the weights where they are


def autocast(trainer: Any) -> AbstractContextManager[Any]:
    """The autocast under which a trainer's model runs.

    DeepSpeed has its own setting for it, which only its engine follows; evaluation and generation pass the engine by.
    """
    setting = (trainer.args.deepspeed or {}).get("torch_autocast")
    if setting is None:
        return trainer.accelerator.autocast()  # type: ignore[no-any-return]
    return torch.autocast(trainer.args.device.type, getattr(torch, setting["dtype"]))


def keep_divided(trainer: Any, plan: TuningPlan) -> None:
    """Let a trainer leave divided layers where they are, load only what trains, and save whole weights.

    accelerate refuses DDP for a model with divided weights; here DDP sees only those that are not divided.
    """
    accelerator, wrap = trainer.accelerator, trainer._wrap_model
    accelerator.device_placement = False

    def wrap_model(model: Any, training: bool = True, **kwargs: Any) -> Any:
        model = wrap(model, training=training, **kwargs)
        if not training or dist.get_world_size() == 1 or isinstance(model, DistributedDataParallel):
            return model
        model = accelerator.prepare_model(model, evaluation_mode=True)  # with autocast, without DDP
        settings = accelerator.ddp_handler.to_kwargs() if accelerator.ddp_handler else {}
        return DistributedDataParallel(model, **settings)

    trainer._wrap_model = wrap_model
    trainer._load_from_checkpoint = lambda folder, model=None: carry_weights(plan, trainer.model, Path(folder))
    trainer._load_best_model = lambda: carry_weights(plan, trainer.model, Path(trainer.state.best_model_checkpoint))
    if plan.train_type != "full":
        return  # an adapter's file holds nothing that is divided

    def save_model(folder: str | None = None, _internal_call: bool = False) -> None:
        whole = get_model_state_dict(trainer.model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
        if trainer.args.should_save:  # only this process has the weights
            trainer._save(folder, state_dict=whole)

    trainer.save_model = save_model
