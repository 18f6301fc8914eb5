"""Starting the training processes and following their events."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from subprocess import DEVNULL, STDOUT, Popen, TimeoutExpired
from typing import Any

from swiftalign.checkpoint.read import START_FILE
from swiftalign.files import cache_path, file_error
from swiftalign.problems import SwiftalignError, TrainingError
from swiftalign.runs.events import Event, EventReader
from swiftalign.runs.folder import PLAN_FILE, STOP_FILE
from swiftalign.runs.guard import LAUNCHER
from swiftalign.runs.peers import Peers, join_leader
from swiftalign.runs.processes import ONE, Processes, lost_contact, process_name

_POLL_SECONDS = 0.1
_STOP_SECONDS = 35.0  # torchrun kills a process that has not ended after 30 s
_LAST_WORDS_SECONDS = 5.0  # after the end of one process, for the others to say why they end
_ENDING = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)  # besides SIGTERM and Ctrl-C; Slurm sends what it is told
_FOLDER_SECONDS = 30.0  # a network file system may show a new folder late
_TRIAL_BYTES = 64 << 10  # written to see whether the disk is full


@dataclass(frozen=True)
class _Death:
    """Training processes that have ended too early, as the command that started them sees it.

    Attributes:
        is_cause: whether a signal ended the process, or its machine is gone: nothing in the other processes does that.
    """

    message: str
    hint: str
    is_cause: bool = False


def follow_training(
    run_folder: Path,
    *,
    local_model: bool,
    processes: Processes = ONE,
    peers: Peers | None = None,
    all_gpus: bool = False,
) -> Iterator[Event]:
    """Train in a child process, whose output goes to the run folder's log, and yield its events.

    After SIGTERM, SIGHUP, SIGUSR1, SIGUSR2 or the first Ctrl-C the child finishes its step, saves a checkpoint and
    ends. Before the first step, or after a second signal, it is ended at once.

    Args:
        run_folder: the run folder, as `write_run_files` prepares it.
        local_model: whether the model is a folder; then the child makes no network call.
        processes: number of training processes, and the machines and GPUs that they use.
        peers: the other commands of the run; None if there are none.
        all_gpus: whether a single process gets all visible GPUs.

    Raises:
        TrainingError: a training process of this command, or of another one, ended before its last step.
        SystemExit: after a signal before the first step, or a second one, with the exit code that it stands for.
    """
    events, errors, deaths = EventReader(run_folder), list[Event](), list[_Death]()
    finished = announced = False
    stop, until = _Stop(run_folder), float("inf")
    order = {"local_model": local_model, "all_gpus": all_gpus}
    endpoint = peers.begin(folder=str(run_folder.absolute()), **order) if peers else ""
    with stop, _signals_to(stop.asked), _started(run_folder, processes, endpoint, **order) as (child, log_start):
        while True:
            code = child.poll()
            if not (run_folder / PLAN_FILE).exists():
                raise TrainingError(f"{run_folder}: the run folder was removed while the run trained", "start it again")
            if stop.number and not announced:
                announced = True
                yield Event("stopping")
            for event in events.poll():
                stop.can_wait = stop.can_wait or event.kind == "start"
                finished = finished or event.kind in ("done", "stopped")
                if event.kind == "error":
                    errors.append(event)
                yield event
            for message in peers.poll() if peers else ():
                deaths += [_Death(**death) for death in message.get("deaths", ())]
                if "signal" in message:
                    stop.asked(message["signal"], None)
            if code == 0 or time.monotonic() >= until:
                break
            if code or deaths:
                until = min(until, time.monotonic() + (_LAST_WORDS_SECONDS if processes.commands > 1 else 0))
            time.sleep(_POLL_SECONDS)
    if code != 0 or not finished:
        if code is not None:
            deaths += _deaths(code, run_folder, processes, log_start)
        raise _first_cause(errors, deaths, run_folder, processes)
    if stop.number:
        yield Event("signal", {"number": stop.number})


def take_part(processes: Processes, listen: Callable[[Event], None]) -> int:
    """Start this command's training processes when command 0 says so, and end when it ends.

    A first signal is sent to command 0, which stops the run; a second one ends this command at once.

    Args:
        processes: which of the commands this is, and how to reach command 0.
        listen: is called with the event ``join`` when training begins.

    Returns:
        The exit code of command 0.

    Raises:
        TrainingError: command 0 does not answer, has ended without a word, or its run folder is not to be seen.
        SystemExit: after a signal before training, or a second one, with the exit code that it stands for.
    """
    child: Popen[bytes] | None = None
    signals: list[int] = []

    def asked(number: int, frame: object) -> None:
        signals.append(number)
        if child is None or len(signals) > 1:
            raise SystemExit(128 + number)

    leader, told = join_leader(processes), False
    with _signals_to(asked), contextlib.ExitStack() as running:
        while True:
            try:
                message = leader.receive(_POLL_SECONDS) or {}
                if signals and not told:
                    leader.send(signal=signals[0])
                    told = True
            except ConnectionError:
                text = f"{processes.name}: the command that leads the run has ended, or can't be reached any more"
                raise TrainingError(text, "see its output; then --resume") from None
            if child and (message.get("orderly") or "folder" in message):
                with contextlib.suppress(TimeoutExpired):
                    child.wait(_STOP_SECONDS)
            if "end" in message:
                return int(message["end"])
            if "refused" in message:
                raise TrainingError(f"{processes.name}: {processes.leader} leads another run: {message['refused']}")
            if "folder" in message:
                running.close()
                folder, until = Path(message["folder"]), time.monotonic() + _FOLDER_SECONDS
                while not (folder / START_FILE).exists():
                    if time.monotonic() > until:
                        text = f"{processes.name} does not see the run folder {folder}"
                        hint = "--set training.output_dir=FOLDER, on a file system that all machines share"
                        leader.send(deaths=[asdict(_Death(text, hint, is_cause=True))])
                        raise TrainingError(text, hint)
                    time.sleep(_POLL_SECONDS)
                if not processes.job:  # else the commands share one output
                    listen(Event("join", {"folder": folder, "processes": processes}))
                order = {name: bool(message.get(name)) for name in ("local_model", "all_gpus")}
                child, log_start = running.enter_context(_started(folder, processes, message["endpoint"], **order))
            if child and child.poll():
                leader.send(deaths=[asdict(death) for death in _deaths(child.returncode, folder, processes, log_start)])
                child = None


@contextmanager
def _started(
    run_folder: Path, processes: Processes, endpoint: str, *, local_model: bool, all_gpus: bool
) -> Iterator[tuple[Popen[bytes], int]]:
    """The child that trains, or starts those that train, and where its output begins in the log.

    Leaving the context ends the child, and all that it started.
    """
    environment = processes.environment(os.environ, endpoint, all_gpus=all_gpus)
    environment |= {"PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false", LAUNCHER: str(os.getpid())}
    if local_model:
        environment |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    if kept := cache_path("compiled"):  # for the next run; torch's own place is a temporary folder
        with contextlib.suppress(OSError):
            kept.mkdir(parents=True, exist_ok=True)
            environment = {
                "TORCHINDUCTOR_CACHE_DIR": str(kept / "torch"),
                "FLASH_ATTENTION_CUTE_DSL_CACHE_DIR": str(kept / "flash-attn"),
                "FLASH_ATTENTION_CUTE_DSL_CACHE_ENABLED": "1",
            } | environment
    with _log_file(run_folder, processes).open("ab") as log:
        start = log.tell()
        # Slurm may send a signal to all processes of a job: the child inherits that it does not get these.
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
        try:
            child = Popen(
                processes.command(str(run_folder), endpoint),
                stdin=DEVNULL,
                stdout=log,
                stderr=STDOUT,
                env=environment,
                start_new_session=True,  # Ctrl-C then reaches the child and its children only through this process
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        try:
            yield child, start
        finally:
            with contextlib.suppress(ProcessLookupError, TimeoutExpired):
                if child.poll() is None:
                    os.killpg(child.pid, signal.SIGTERM)
                    child.wait(_STOP_SECONDS)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)  # data loader workers may outlive their parent
            child.wait()


def _log_file(run_folder: Path, processes: Processes) -> Path:
    return run_folder / (f"train-{processes.number}.log" if processes.number else "train.log")


@contextmanager
def _signals_to(handler: Callable[[int, Any], None]) -> Iterator[None]:
    """While in the context, the signals that end a run call a function; one that is ignored, as by nohup, stays so."""
    signals = (signal.SIGTERM, signal.SIGINT, *_ENDING)
    numbers = [each for each in signals if signal.getsignal(each) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, handled in before.items():
            signal.signal(number, handled)


class _Stop:
    """Turns signals into the stop file of the run folder, which the training process looks for after each step."""

    def __init__(self, run_folder: Path) -> None:
        self.can_wait = False  # whether training has begun, so that a step can end and be saved
        self.number = 0
        self._file = run_folder / STOP_FILE

    def __enter__(self) -> _Stop:
        self._file.unlink(missing_ok=True)
        return self

    def __exit__(self, *raised: object) -> None:
        self._file.unlink(missing_ok=True)

    def asked(self, number: int, frame: object) -> None:
        again, self.number = bool(self.number), self.number or number
        if again or not self.can_wait:
            raise SystemExit(128 + number)  # unwinds the stack, which ends the child
        self._file.touch()
        with contextlib.suppress(OSError):  # on a full disk the file stays empty, and the run stops all the same
            self._file.write_text(signal.Signals(number).name, encoding="utf-8")


def _deaths(code: int, run_folder: Path, processes: Processes, log_start: int) -> list[_Death]:
    """What the exit code of this command's child means; torchrun's report in the log says which process ended first."""
    log = _log_file(run_folder, processes)
    with log.open("rb") as file:
        file.seek(max(log.stat().st_size - 50_000, log_start))
        text = file.read().decode(errors="replace")
    codes = {0: (0, code)}  # by rank: number on this machine, exit code
    if processes.job:
        codes = {processes.job.rank: (processes.job.local_rank, code)}
    elif processes.total > 1:
        report = re.findall(r"rank +: (\d+) \(local_rank: (\d+)\)\n +exitcode +: (-?\d+) \(pid: (\d+)\)", text)
        by_torchrun = re.findall(r"Sending process (\d+) closing signal", text)  # it ends the others then
        codes = {int(rank): (int(local), int(ended)) for rank, local, ended, pid in report if pid not in by_torchrun}
    environment, found = processes.environment(os.environ), []
    for rank, (local_rank, ended) in codes.items():
        name = "the training process"
        if processes.total > 1:
            name = process_name(rank, local_rank, environment, several_machines=processes.several_machines)
        # NCCL ends a process that has waited too long.
        waited = re.search(rf"\[Rank {rank}\] Watchdog caught collective operation timeout.*?\(ms\)=(\d+)", text)
        if ended == -signal.SIGABRT and waited:
            message, hint = lost_contact(int(waited[1]) / 1000)
            found.append(_Death(f"{name}: {message}", hint))
        elif ended < 0:
            killed = signal.Signals(-ended).name
            why = "the system may have run out of memory" if killed == "SIGKILL" else f"see {log}"
            found.append(_Death(f"{name} was killed by {killed}", f"{why}; then --resume", is_cause=True))
        else:
            found.append(_Death(f"{name} ended with code {ended}", f"see the end of {log}"))
    return found or [_Death(f"torchrun ended with code {code}", f"see the end of {log}")]


def _first_cause(errors: list[Event], deaths: list[_Death], run_folder: Path, processes: Processes) -> SwiftalignError:
    """What ended training first. An error that follows from the end of another process counts only where it is all."""
    errors = sorted(errors, key=lambda event: (bool(event.values.get("follows")), event.values["time"]))
    causes = [death for death in deaths if death.is_cause]
    if errors and not (causes and errors[0].values.get("follows")):
        values = errors[0].values
        log = _log_file(run_folder, replace(processes, number=values["rank"] // processes.each))
        error = TrainingError(values["message"], values.get("hint") or f"see {log} for the full output")
        error.exit_code = values.get("exit_code", 1)
        return error
    if not causes:  # on a full disk, a training process can't write why it ends
        try:
            with tempfile.NamedTemporaryFile(dir=run_folder) as trial:
                trial.write(bytes(_TRIAL_BYTES))
        except OSError as told:
            told.filename = str(run_folder)
            return file_error(told, TrainingError, again="--resume")
    first = (causes or deaths)[0]
    return TrainingError(first.message, first.hint)
