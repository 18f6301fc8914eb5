"""The commands of a run: the job that starts them, the GPUs that they see, and how they find each other."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs import srun, write_nvidia_smi
from swiftalign.cli import main
from swiftalign.config.sections import Config
from swiftalign.problems import SwiftalignError, TrainingError
from swiftalign.runs.events import Event
from swiftalign.runs.job import find_job, first_host, kept_out, tasks_of
from swiftalign.runs.peers import Peers, join_leader
from swiftalign.runs.processes import Processes, choose_processes
from swiftalign.runs.train import prepare
from swiftalign.speed.cards import GIB, present_card, visible_cards

TORCHRUN = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
TORCHRUN |= {"MASTER_ADDR": "node0", "MASTER_PORT": "29500", "TORCHELASTIC_USE_AGENT_STORE": "True"}
H100, L4 = "NVIDIA H100 80GB HBM3, 81559", "NVIDIA L4, 23034"

# -- the job -----------------------------------------------------------------------------------------------------------


def test_a_command_that_torchrun_starts_once_per_gpu_has_its_rank() -> None:
    job = find_job(TORCHRUN)
    assert job is not None
    assert (job.rank, job.size, job.local_rank, job.local_size) == (3, 4, 1, 2)
    assert (job.host, job.port, job.port_is_taken) == ("node0", 29500, True)
    processes = choose_processes(None, None, None, None, None, job=job)
    assert (processes.total, processes.number, processes.several_machines) == (4, 3, True)
    made = processes.environment(TORCHRUN, "node0:4711")
    rest = {
        name: value for name, value in TORCHRUN.items() if name not in ("MASTER_PORT", "TORCHELASTIC_USE_AGENT_STORE")
    }
    assert rest.items() <= made.items()
    assert made["MASTER_PORT"] == "4711"  # command 0 names another port for each training
    assert "TORCHELASTIC_USE_AGENT_STORE" not in made
    assert "torch.distributed.run" not in processes.command("run")


def test_a_command_that_srun_starts_once_per_gpu_has_its_rank() -> None:
    job = find_job(srun(1, 2))
    assert job is not None
    assert (job.rank, job.size, job.local_rank, job.local_size, job.host) == (1, 2, 1, 2, "localhost")
    assert 15_000 <= job.port < 30_000
    assert not job.port_is_taken
    other = find_job(srun(0, 2, MASTER_ADDR="10.0.0.1", MASTER_PORT="4000"))
    assert other is not None
    assert (other.host, other.port) == ("10.0.0.1", 4000)


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"WORLD_SIZE": "2"},
        {**TORCHRUN, "RANK": "4"},
        {**TORCHRUN, "LOCAL_RANK": "2"},
        {**TORCHRUN, "MASTER_PORT": ""},
        {**TORCHRUN, "RANK": "first"},
        {**TORCHRUN, "RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"},
        {name: value for name, value in srun(0, 8).items() if name != "SLURM_STEP_ID"},
        srun(0, 8, SLURM_STEP_ID="4294967291"),
        srun(0, 8, SLURM_STEP_ID="4294967290"),
        srun(0, 1),
        srun(0, 2, SLURM_STEP_NODELIST="", SLURM_JOB_NODELIST=""),
    ],
    ids=[
        "none",
        "one variable",
        "rank too high",
        "local rank too high",
        "no port",
        "no number",
        "one process",
        "sbatch without srun",
        "batch step",
        "interactive step",
        "one task",
        "no host",
    ],
)
def test_other_variables_are_no_job_and_do_not_reach_training(environment: dict[str, str]) -> None:
    assert find_job(environment) is None
    made = Processes().environment(environment)
    assert not any(name.startswith(("RANK", "WORLD", "LOCAL_", "MASTER", "TORCHELASTIC")) for name in made)
    assert not {"SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"} & made.keys()


@given(
    st.dictionaries(
        st.sampled_from([*TORCHRUN, *srun(0, 2)]), st.sampled_from(["", "0", "1", "2", "9", "-1", "x", "localhost"])
    )
)
def test_any_variables_make_a_consistent_job_or_none(environment: dict[str, str]) -> None:
    job = find_job(environment)
    if job:
        assert 0 <= job.rank < job.size
        assert 0 <= job.local_rank < job.local_size <= job.size
        assert job.host


def test_variables_are_told_only_if_they_speak_of_several_processes() -> None:
    assert kept_out({"WORLD_SIZE": "2", "HOME": "/"}) == ["WORLD_SIZE"]
    assert kept_out({name: value for name, value in srun(0, 8).items() if "STEP_ID" not in name}) != []
    assert kept_out(srun(0, 1)) == kept_out({"RANK": "0", "WORLD_SIZE": "1"}) == []


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("a", "a"), ("a,b", "a"), ("n[3-5,9],m", "n3"), ("r[1-2]n[03-04]", "r1n03"), ("n[007,9]x", "n007x"), ("", "")],
)
def test_the_first_host_of_slurms_list(nodes: str, first: str) -> None:
    assert first_host(nodes) == first


@given(st.text("ab[](),-x0123456789", max_size=60))
def test_any_list_of_slurm_is_read(text: str) -> None:
    first_host(text)
    tasks_of(text, 10**9)


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 4)), min_size=1), st.data())
def test_tasks_per_machine_are_slurms(groups: list[tuple[int, int]], data: st.DataObject) -> None:
    counts = [count for count, times in groups for _ in range(times)]
    node = data.draw(st.integers(0, len(counts)))
    text = ",".join(f"{count}(x{times})" if times > 1 else str(count) for count, times in groups)
    assert tasks_of(text, node) == (counts[node] if node < len(counts) else 0)


# -- GPUs --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def two_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_nvidia_smi(tmp_path / "bin", H100, L4)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.parametrize(
    ("given_entries", "numbers"),
    [
        (None, ["0", "1"]),
        ("", []),
        ("1", ["1"]),
        ("1,0", ["1", "0"]),
        ("GPU-1a1b-1, 0", ["1", "0"]),
        ("GPU-1a", ["1"]),
        ("GPU-", []),
        ("0,-1,1", ["0"]),
        ("0,7,1", ["0"]),
        ("0,0", ["0"]),
        ("MIG-3f", [""]),
        ("NoDevFiles", []),
    ],
)
def test_visible_gpus_are_those_that_cuda_shows(
    given_entries: str | None, numbers: list[str], two_gpus: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if given_entries is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given_entries)
    cards = visible_cards()
    assert [card.number for card in cards] == numbers
    if numbers[:1] == ["1"]:
        card = present_card(cards[:1])
        assert card is not None
        assert (card.name, card.memory // GIB, card.rate) == ("NVIDIA L4", 22, 121e12 * 0.8)


def test_the_smallest_gpu_decides(two_gpus: None) -> None:
    card = present_card(visible_cards())
    assert card is not None
    assert card.name == "NVIDIA L4"


def test_a_machine_without_a_gpu_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(write_nvidia_smi(tmp_path, "No devices were found")))
    assert visible_cards() == ()
    assert present_card(()) is None


@pytest.mark.parametrize(
    ("options", "visible", "message"),
    [
        (["--nproc", "3"], None, "--nproc 3, but 2 GPUs are visible: GPU 0, 1"),
        (["--nproc", "2"], "1", "--nproc 2, but 1 GPU is visible: GPU 1"),
        (["--gpus", "0,2"], None, "--gpus 0,2: GPU 2 is not there, or hidden by CUDA_VISIBLE_DEVICES"),
        (["--gpus", "0"], "GPU-1a1b-1", "--gpus 0: GPU 0 is not there, or hidden by CUDA_VISIBLE_DEVICES"),
    ],
)
def test_gpus_that_are_not_there_are_told_before_anything_is_read(
    options: list[str],
    visible: str | None,
    message: str,
    two_gpus: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert main(["train", "nowhere.yaml", *options]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "visible", "entries"),
    [
        ((None, None), None, "0"),
        ((None, None), "GPU-1a1b-1,0", "GPU-1a1b-1"),
        ((None, None), "", ""),
        ((None, "1"), None, "1"),
        ((2, None), None, "0,1"),
        ((2, None), "1,GPU-0a", "1,GPU-0a"),
        ((None, "0,1"), "GPU-1a,GPU-0a", "GPU-0a,GPU-1a"),
    ],
)
def test_training_processes_get_the_gpus_that_they_use(
    options: tuple[int | None, str | None],
    visible: str | None,
    entries: str,
    two_gpus: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    processes = choose_processes(*options, None, None, None)
    made = processes.environment(os.environ)
    assert (made["CUDA_VISIBLE_DEVICES"], made["CUDA_DEVICE_ORDER"]) == (entries, "PCI_BUS_ID")
    kept = processes.environment(os.environ, all_gpus=True).get("CUDA_VISIBLE_DEVICES")
    assert kept == (visible if processes.total == 1 and not processes.gpus else entries)


def test_slurm_may_show_each_command_its_own_gpu_only(two_gpus: None, monkeypatch: pytest.MonkeyPatch) -> None:
    processes = choose_processes(None, None, None, None, None, job=find_job(srun(1, 2)))
    assert processes.environment({}, "a:1")["LOCAL_RANK"] == "1"
    with pytest.raises(SwiftalignError, match="4 commands run on this machine, which shows them 2 GPUs"):
        choose_processes(None, None, None, None, None, job=find_job(srun(3, 4)))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    processes = choose_processes(None, None, None, None, None, job=find_job(srun(1, 2)))
    made = processes.environment({}, "a:1")
    assert (made["RANK"], made["LOCAL_RANK"], made["LOCAL_WORLD_SIZE"]) == ("1", "0", "1")
    assert not processes.several_machines


@pytest.mark.parametrize(
    ("sharding", "told"),
    [("auto", "2 GPUs are visible, and one is used: GPU 0; --nproc 2 trains on both"), ("device_map", "")],
)
def test_one_process_says_that_it_uses_one_gpu(
    sharding: str,
    told: str,
    two_gpus: None,
    demo: Path,
    make_config: Callable[[str], Config],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    config = make_config(
        f"data: {{train: {demo / 'data/train.jsonl'}}}\n"
        "tuner: {target_regex: '^$', modules_to_save: [model.visual.merger, model.visual.deepstack_merger_list]}\n"
        f"training: {{sharding: {sharding}}}\n"
    )
    heard: list[Event] = []
    prepare(config, listen=heard.append, check_images=False)
    notes = {event.values["name"]: event.values["text"] for event in heard if event.kind == "note"}
    assert notes.get("gpu", "") == told
    assert notes["job"].startswith("not used: WORLD_SIZE. They fit only a command that torchrun or srun starts")


# -- the commands of a run ---------------------------------------------------------------------------------------------


@pytest.fixture
def three() -> Processes:
    with socket.create_server(("localhost", 0)) as free:
        port = free.getsockname()[1]
    return Processes(2, 3, leader=f"localhost:{port}", join_seconds=1)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as made:
        yield made


def receive(line: Any) -> dict[str, Any]:
    message = line.receive(10)
    assert message is not None
    return dict(message)


def test_commands_meet_and_each_hears_of_the_others_end(three: Processes, pool: ThreadPoolExecutor) -> None:
    early = pool.submit(join_leader, replace(three, number=2))  # before command 0 listens
    with Peers(three) as peers:
        with socket.create_connection(("localhost", int(three.leader.rpartition(":")[2]))) as stranger:
            stranger.sendall(b"GET / HTTP/1.0\r\n\r\n")
            lines = [join_leader(replace(three, number=1)), early.result()]
            endpoint = peers.begin(folder="run", local_model=True)
        assert re.fullmatch(r"localhost:\d+", endpoint)
        for line in lines:
            assert receive(line) == {"endpoint": endpoint, "folder": "run", "local_model": True}
        lines[0].send(signal=15)
        lines[1].close()
        heard: list[dict[str, Any]] = []
        while len(heard) < 2:
            heard += peers.poll()
        assert {"signal": 15} in heard
        (death,) = next(message["deaths"] for message in heard if "deaths" in message)
        assert death["message"] == "machine 3 of 3 has ended, or can't be reached any more"
        assert death["is_cause"]
        peers.code = 143
    assert receive(lines[0]) == {"end": 143, "orderly": True}
    with pytest.raises(ConnectionError):
        lines[0].receive(1)


@pytest.mark.parametrize(
    ("raised", "code"),
    [(TrainingError("no more"), 1), (SwiftalignError("no"), 2), (SystemExit(130), 130), (KeyError(), 1)],
)
def test_the_others_end_as_command_0_does_even_before_training(
    raised: BaseException, code: int, three: Processes
) -> None:
    with pytest.raises(type(raised)), Peers(three):  # noqa: PT012
        line = join_leader(replace(three, number=1))
        raise raised
    assert receive(line) == {"end": code, "orderly": False}


def test_a_command_that_does_not_come_is_named(three: Processes) -> None:
    short = replace(three, join_seconds=1)
    with Peers(short) as peers:
        line = join_leader(replace(short, number=1))
        with pytest.raises(TrainingError, match="after 1 s still missing: machine 3 of 3") as error:
            peers.begin(folder="run")
        assert "--join-timeout" in str(error.value.hint)
    assert receive(line)["end"] == 0


def test_nobody_listens(three: Processes) -> None:
    with pytest.raises(
        TrainingError, match=f"machine 2 of 3: no answer from {three.leader} within 1 s: Connection refused"
    ):
        join_leader(replace(three, number=1, join_seconds=1))


def test_another_run_at_the_address_is_told(three: Processes, pool: ThreadPoolExecutor) -> None:
    with Peers(replace(three, join_seconds=1)) as peers:
        line = join_leader(replace(three, number=1, each=4))
        with pytest.raises(TrainingError, match="still missing"):
            peers.begin(folder="run")
        assert receive(line) == {"refused": "swiftalign/machines/3x2"}


def test_a_port_that_is_taken_is_told(three: Processes) -> None:
    with Peers(three), pytest.raises(SwiftalignError, match=r"can't listen at port \d+: Address already in use"):
        Peers(three)


def test_bytes_that_are_no_message_end_a_connection(three: Processes) -> None:
    port = int(three.leader.rpartition(":")[2])
    with Peers(replace(three, join_seconds=1)) as peers, contextlib.ExitStack() as strangers:
        for noise in (b"[" * 10_000 + b"\n", b"5\n", b"\xff\n", b"x" * 70_000, b'{"run": 1}\n'):
            stranger = strangers.enter_context(socket.create_connection(("localhost", port)))
            threading.Thread(target=stranger.sendall, args=(noise,), daemon=True).start()
        with pytest.raises(TrainingError, match="machine 2 of 3, machine 3 of 3"):
            peers.begin(folder="run")
