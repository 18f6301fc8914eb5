"""What torchrun and Slurm have set in the environment: used where they started one command per GPU, else kept out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

_KEPT_OUT = re.compile(
    "RANK|LOCAL_RANK|GROUP_RANK|ROLE_RANK|NODE_RANK|WORLD_SIZE|LOCAL_WORLD_SIZE|GROUP_WORLD_SIZE|ROLE_WORLD_SIZE"
    "|ROLE_NAME|NNODES|NPROC_PER_NODE|MASTER_ADDR|MASTER_PORT|TORCHELASTIC_.*|PET_.*|OMPI_COMM_WORLD_.*|PMI_.*|PMIX_.*"
    "|MV2_COMM_WORLD_.*|SLURM_(PROCID|LOCALID|NODEID|NTASKS|NPROCS|NTASKS_PER_NODE|TASKS_PER_NODE|STEP_NUM_TASKS"
    "|STEP_TASKS_PER_NODE)"
)
_SIZES = ("WORLD_SIZE", "SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")
_LAST_STEP = 0xFFFFFFF0  # the steps of a batch script and of an interactive shell have higher numbers
_FIRST_PORT, _PORTS = 15_000, 15_000  # below those that systems give to outgoing connections


@dataclass(frozen=True)
class Job:
    """A job that has started ``swiftalign train`` once per GPU.

    Attributes:
        rank: number of this command in the job.
        size: number of commands.
        local_rank: number of this command on its machine.
        local_size: number of commands on this machine.
        host: address of the machine of command 0.
        port: a port of that machine.
        port_is_taken: whether torchrun itself listens on the port, so that command 0 needs another.
        name: tells the job from others.
    """

    rank: int
    size: int
    local_rank: int
    local_size: int
    host: str
    port: int
    port_is_taken: bool
    name: str


def find_job(environment: Mapping[str, str]) -> Job | None:
    """The job whose variables are complete and fit together; None if there is none, or it has a single task.

    References:
        torch, "torchrun (Elastic Launch)", section "Environment Variables"; Slurm, the manual page of srun, section
        "OUTPUT ENVIRONMENT VARIABLES".
    """
    return _of_torchrun(environment) or _of_srun(environment)


def _of_torchrun(environment: Mapping[str, str]) -> Job | None:
    values = _numbers(environment, "RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT")
    host = environment.get("MASTER_ADDR")
    if values is None or not host:
        return None
    rank, size, local_rank, port = values
    local_size = (_numbers(environment, "LOCAL_WORLD_SIZE") or [size])[0]
    if not (rank < size > 1 and local_rank < local_size <= size and local_rank <= rank and 0 < port < 2**16):
        return None
    taken = environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    run = [environment.get(f"TORCHELASTIC_{name}", "") for name in ("RUN_ID", "RESTART_COUNT")]
    return Job(rank, size, local_rank, local_size, host, port, taken, "-".join(["torchrun", *run]))


def _of_srun(environment: Mapping[str, str]) -> Job | None:
    values = _numbers(environment, "SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "SLURM_STEP_ID", "SLURM_JOB_ID")
    nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST")
    host = environment.get("MASTER_ADDR") or first_host(nodes or "")
    if values is None or not host:
        return None
    rank, size, local_rank, step, job = values
    node = (_numbers(environment, "SLURM_NODEID") or [0])[0]
    tasks = environment.get("SLURM_STEP_TASKS_PER_NODE") or environment.get("SLURM_TASKS_PER_NODE") or str(size)
    local_size = tasks_of(tasks, node)
    if not (rank < size > 1 and local_rank < local_size <= size and local_rank <= rank and step < _LAST_STEP):
        return None
    port = (_numbers(environment, "MASTER_PORT") or [_FIRST_PORT + (job + step) % _PORTS])[0]
    return Job(rank, size, local_rank, local_size, host, port, False, f"slurm-{job}.{step}")


def _numbers(environment: Mapping[str, str], *names: str) -> list[int] | None:
    """The values of these variables; None unless all are there and are whole numbers."""
    values = [environment.get(name, "") for name in names]
    return [int(value) for value in values] if all(re.fullmatch("[0-9]{1,18}", value) for value in values) else None


def first_host(nodes: str) -> str:
    """The first name in a list of hosts as Slurm writes it.

    >>> first_host("gpu[07-12,20],big1")
    'gpu07'
    """
    first = re.match(r"(?:\[[^\]]*\]|[^,\[])*", nodes)
    return re.sub(r"\[([^\],-]*)[^\]]*\]", r"\1", first[0]) if first else ""


def tasks_of(counts: str, node: int) -> int:
    """Number of tasks on a machine of a job step, from counts as Slurm writes them; 0 if they don't name it.

    >>> tasks_of("8(x3),4", 3)
    4
    """
    for count, times in re.findall(r"([0-9]{1,9})(?:\(x([0-9]{1,9})\))?", counts):
        node -= int(times or 1)
        if node < 0:
            return int(count)
    return 0


def is_kept_out(name: str) -> bool:
    """Whether a variable of this name says how many processes a job has, or which of them this is."""
    return re.fullmatch(_KEPT_OUT, name) is not None


def kept_out(environment: Mapping[str, str]) -> list[str]:
    """The variables of a job that the training processes don't get, if they speak of several processes."""
    if all(environment.get(name, "1") == "1" for name in _SIZES):
        return []
    return sorted(name for name in environment if is_kept_out(name))
