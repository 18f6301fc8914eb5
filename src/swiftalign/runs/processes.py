"""How many processes train, and the command that starts them."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from swiftalign.problems import SwiftalignError

_WORKER = ("-m", "swiftalign.worker")


@dataclass(frozen=True)
class Processes:
    """The processes that train, and the machines and GPUs that they use.

    Attributes:
        per_node: number of processes per machine.
        nodes: number of machines.
        node: number of this machine, from 0; machine 0 writes the run folder.
        rendezvous: HOST:PORT of machine 0; empty for a single machine.
        gpus: numbers of the GPUs to use on this machine; empty for all.
    """

    per_node: int = 1
    nodes: int = 1
    node: int = 0
    rendezvous: str = ""
    gpus: tuple[str, ...] = ()

    @property
    def total(self) -> int:
        return self.per_node * self.nodes

    def command(self, run_folder: str) -> list[str]:
        """The command to run on this machine: the worker, or torchrun that starts it."""
        if self.total == 1:
            return [sys.executable, *_WORKER, run_folder]
        where = ["--standalone"]
        if self.nodes > 1:
            where = [f"--nnodes={self.nodes}", f"--node-rank={self.node}", f"--rdzv-endpoint={self.rendezvous}"]
            where += ["--rdzv-backend=c10d", "--rdzv-id=swiftalign"]
        torchrun = ["-m", "torch.distributed.run", f"--nproc-per-node={self.per_node}", *where]
        return [sys.executable, *torchrun, *_WORKER, run_folder]


def choose_processes(
    nproc: int | None, gpus: str | None, nodes: int, node: int | None, rendezvous: str | None
) -> Processes:
    """The processes that the options of ``train`` describe.

    Raises:
        SwiftalignError: the options contradict each other, or one is missing.
    """
    numbers = tuple(part.strip() for part in (gpus or "").split(",") if part.strip())
    if gpus is not None and (not numbers or not all(number.isdigit() for number in numbers)):
        raise SwiftalignError(f"--gpus {gpus}: not a list of numbers", "e.g. --gpus 0,1")
    if len(set(numbers)) < len(numbers):
        raise SwiftalignError(f"--gpus {gpus}: a number is given twice")
    if nproc and numbers and nproc != len(numbers):
        raise SwiftalignError(f"--nproc {nproc}, but --gpus names {len(numbers)}", "leave out --nproc")
    if nodes > 1 and (node is None or not rendezvous):
        hint = "e.g. --nnodes 2 --node-rank 0 --rdzv-endpoint node0:29500, and the same with --node-rank 1 on the other"
        raise SwiftalignError("several machines need --node-rank and --rdzv-endpoint", hint)
    if nodes == 1 and (node or rendezvous):
        raise SwiftalignError("--node-rank and --rdzv-endpoint are for several machines", "e.g. --nnodes 2")
    if node is not None and node >= nodes:
        raise SwiftalignError(f"--node-rank {node}: with {nodes} machines it is at most {nodes - 1}")
    return Processes(nproc or len(numbers) or 1, nodes, node or 0, rendezvous or "", numbers)
