"""How many processes train, and the command and environment that start them."""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace

from swiftalign.problems import SwiftalignError
from swiftalign.runs.job import Job, is_kept_out
from swiftalign.speed.cards import visible_cards

JOIN_SECONDS = 600
JOIN_VARIABLE = "SWIFTALIGN_JOIN_TIMEOUT"  # tells a training process how many seconds it waits for the others
_WORKER = ("-m", "swiftalign.worker")


@dataclass(frozen=True)
class Processes:
    """The processes that train, and the commands, machines and GPUs that they use.

    Attributes:
        each: number of processes that each command starts.
        commands: number of ``swiftalign train`` commands that train together: one per machine, or in a job of torchrun
            or srun one per GPU.
        number: number of this command, from 0; command 0 checks the config, writes the run folder and shows progress.
        leader: HOST:PORT where command 0 listens for the others; empty for a single command.
        gpus: the GPUs to use on this machine, as CUDA_VISIBLE_DEVICES names them; empty for those that are visible.
        job: the job that started this command once per GPU.
        several_machines: whether the commands run on more than one machine.
        join_seconds: how long the commands, and then the training processes, wait for each other.
    """

    each: int = 1
    commands: int = 1
    number: int = 0
    leader: str = ""
    gpus: tuple[str, ...] = ()
    job: Job | None = None
    several_machines: bool = False
    join_seconds: int = JOIN_SECONDS

    @property
    def total(self) -> int:
        """Number of processes that train, over all machines."""
        return self.each * self.commands

    @property
    def name(self) -> str:
        """This command in messages."""
        return f"rank {self.number}" if self.job else f"machine {self.number + 1} of {self.commands}"

    def command(self, run_folder: str, endpoint: str = "") -> list[str]:
        """The command to run on this machine: the worker, or torchrun that starts it.

        Args:
            endpoint: HOST:PORT where torchrun's agents meet; by default where the commands do.
        """
        if self.total == 1 or self.job:
            return [sys.executable, *_WORKER, run_folder]
        where = ["--standalone"]
        if self.commands > 1:
            where = [f"--nnodes={self.commands}", f"--node-rank={self.number}"]
            where += [f"--rdzv-endpoint={endpoint or self.leader}", "--rdzv-backend=c10d", "--rdzv-id=swiftalign"]
            where += [f"--rdzv-conf=join_timeout={self.join_seconds},is_host={int(not self.number)}"]
        torchrun = ["-m", "torch.distributed.run", f"--nproc-per-node={self.each}", *where]
        return [sys.executable, *torchrun, *_WORKER, run_folder]

    def environment(self, given: Mapping[str, str], endpoint: str = "", *, all_gpus: bool = False) -> dict[str, str]:
        """The environment of the training processes: what is given, without what a job says about other processes.

        Args:
            given: this command's environment.
            endpoint: HOST:PORT where the processes of a job meet.
            all_gpus: whether a single process gets all visible GPUs; otherwise it gets the first.
        """
        made = {name: value for name, value in given.items() if not is_kept_out(name)}
        made.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")  # the numbers of GPUs are then those of nvidia-smi
        made[JOIN_VARIABLE] = str(self.join_seconds)
        if self.gpus:
            made["CUDA_VISIBLE_DEVICES"] = ",".join(self.gpus)
        elif self.total == 1 and not all_gpus:
            made["CUDA_VISIBLE_DEVICES"] = made.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0].strip()
        if job := self.job:
            host, _, port = endpoint.rpartition(":")
            made |= {"RANK": str(job.rank), "WORLD_SIZE": str(job.size), "MASTER_ADDR": host, "MASTER_PORT": port}
            made |= {"LOCAL_RANK": str(job.local_rank), "LOCAL_WORLD_SIZE": str(job.local_size)}
        return made


ONE = Processes()


def process_name(rank: int, local_rank: int, environment: Mapping[str, str], *, several_machines: bool) -> str:
    """A training process in messages, with its GPU if CUDA_VISIBLE_DEVICES names it.

    >>> process_name(1, 1, {"CUDA_VISIBLE_DEVICES": "2,5"}, several_machines=False)
    'rank 1 (GPU 5)'
    """
    gpus = environment.get("CUDA_VISIBLE_DEVICES", "").split(",")
    gpu = gpus[local_rank].strip() if local_rank < len(gpus) else ""
    place = " of ".join([f"GPU {gpu}"] * bool(gpu) + [platform.node()] * several_machines)
    return f"rank {rank} ({place})" if place else f"rank {rank}"


def lost_contact(seconds: float | None) -> tuple[str, str]:
    """Message and hint where a process gets no answer from the others.

    Args:
        seconds: how long it has waited; None where the connection was closed.
    """
    if seconds is None:
        return "the connection to another process was closed", "it has ended: see the logs of all; then --resume"
    return f"waited {seconds:g} s for the other processes, without an answer", (
        "one of them has ended, is stopped or is much slower: see the logs of all; swift.ddp_timeout sets the seconds; "
        "then --resume"
    )


def choose_processes(
    nproc: int | None,
    gpus: str | None,
    nodes: int | None,
    node: int | None,
    rendezvous: str | None,
    *,
    job: Job | None = None,
    join_seconds: int = JOIN_SECONDS,
) -> Processes:
    """The processes that the options of ``train`` describe, or else the job that started this command.

    Args:
        job: a job that started this command once per GPU; it counts where nproc, gpus and nodes are None.
        join_seconds: how long the processes wait for each other at the start.

    Raises:
        SwiftalignError: the options contradict each other, one is missing, or there are fewer GPUs.
    """
    numbers = tuple(part.strip() for part in (gpus or "").split(",") if part.strip())
    if gpus is not None and (not numbers or not all(number.isdigit() for number in numbers)):
        raise SwiftalignError(f"--gpus {gpus}: not a list of numbers", "e.g. --gpus 0,1")
    if len(set(numbers)) < len(numbers):
        raise SwiftalignError(f"--gpus {gpus}: a number is given twice")
    if nproc and numbers and nproc != len(numbers):
        raise SwiftalignError(f"--nproc {nproc}, but --gpus names {len(numbers)}", "leave out --nproc")
    machines = nodes or 1
    if machines > 1 and (node is None or not rendezvous):
        hint = "e.g. --nnodes 2 --node-rank 0 --rdzv-endpoint node0:29500, and the same with --node-rank 1 on the other"
        raise SwiftalignError("several machines need --node-rank and --rdzv-endpoint", hint)
    if machines == 1 and (node or rendezvous):
        raise SwiftalignError("--node-rank and --rdzv-endpoint are for several machines", "e.g. --nnodes 2")
    if node is not None and node >= machines:
        raise SwiftalignError(f"--node-rank {node}: with {machines} machines it is at most {machines - 1}")
    if rendezvous and not rendezvous.rpartition(":")[2].isdecimal():
        raise SwiftalignError(f"--rdzv-endpoint {rendezvous}: not HOST:PORT", "e.g. node0:29500")
    cards = visible_cards()
    if job and (nproc, gpus, nodes) == (None, None, None):
        if 1 < len(cards) < job.local_size:
            message = f"{job.local_size} commands run on this machine, which shows them {len(cards)} GPUs"
            raise SwiftalignError(message, f"e.g. srun --gpus-per-node={job.local_size}, one GPU for each command")
        several, leader = job.local_size < job.size, f"{job.host}:{job.port}"
        if len(cards) == 1:  # Slurm shows each command its own GPU only, which is the first to torch
            job = replace(job, local_rank=0, local_size=1)
        entries = tuple(card.entry for card in cards)
        return Processes(1, job.size, job.rank, leader, entries, job, several, join_seconds)
    used = nproc or len(numbers) or 1
    if cards:
        entries_of = {card.number: card.entry for card in cards}
        missing = [number for number in numbers if number not in entries_of]
        there = ", ".join(card.number or card.entry for card in cards)
        if missing:
            message = f"--gpus {gpus}: GPU {missing[0]} is not there, or hidden by CUDA_VISIBLE_DEVICES"
            raise SwiftalignError(message, f"this command sees GPU {there}")
        if used > len(cards):
            found = f"{len(cards)} GPUs are" if len(cards) > 1 else "1 GPU is"
            raise SwiftalignError(f"--nproc {used}, but {found} visible: GPU {there}", f"e.g. --nproc {len(cards)}")
        if numbers:
            numbers = tuple(entries_of[number] for number in numbers)
        elif used > 1:
            numbers = tuple(card.entry for card in cards[:used])
    several = machines > 1
    return Processes(used, machines, node or 0, rendezvous or "", numbers, None, several, join_seconds)
