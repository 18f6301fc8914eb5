"""The environment that Slurm's srun gives to the tasks of a step, and a program that stands for nvidia-smi."""

from __future__ import annotations

from pathlib import Path


def srun(rank: int, size: int, **other: str) -> dict[str, str]:
    """The variables of one task on a single machine."""
    numbers = {"PROCID": rank, "LOCALID": rank, "NODEID": 0, "NTASKS": size, "NPROCS": size, "STEP_ID": 0, "JOB_ID": 77}
    names = {"STEP_NODELIST": "localhost", "STEP_TASKS_PER_NODE": str(size), "JOB_NODELIST": "localhost"}
    return {f"SLURM_{name}": str(value) for name, value in (numbers | names).items()} | other


def write_nvidia_smi(folder: Path, *cards: str) -> Path:
    """A folder for PATH with an executable ``nvidia-smi`` that lists cards, each as ``NAME, MIB``."""
    lines = [f"{number}, GPU-{number}a{number}b-{number}, {card}" for number, card in enumerate(cards)]
    folder.mkdir(exist_ok=True)
    program = folder / "nvidia-smi"
    program.write_text("#!/bin/sh\ncat <<'END'\n" + "\n".join(lines) + "\nEND\n", encoding="utf-8")
    program.chmod(0o755)
    return folder
