"""Launcher of the stages' processes, which stops all of them."""

import os
import signal
import subprocess
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep

from runtimes.torch_pipeline.processes.child import child_command, child_environment
from runtimes.torch_pipeline.processes.meeting import listen, loopback_only, parse_address
from runtimes.torch_pipeline.processes.vitals import Vitals
from runtimes.torch_pipeline.processes.worker_files import private

WORKER = "runtimes.torch_pipeline.processes.worker"

PATIENCE_S = 2.0
"""How long processes may take to end before they are killed."""

LOG_CHARACTERS = 400
"""Of what a stage wrote last, in a message."""


@dataclass(frozen=True)
class StageProcess:
    """The process of a stage, a child of this one.

    Attributes:
        process: the child.
        log: where it writes.
        vitals: what the operating system says of it.
    """

    process: "subprocess.Popen[bytes]"
    log: Path
    vitals: Vitals

    @property
    def number(self) -> int:
        """The process id."""
        return self.process.pid

    def exit_code(self) -> int | None:
        """Return how it ended, None where it has not; a signal counts negative."""
        return self.process.poll()

    def last_words(self) -> str:
        """Return the last line that it wrote, for a message."""
        text = self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return lines[-1][:LOG_CHARACTERS] if lines else ""

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process and those that it started."""
        if self.exit_code() is None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, number)


class Launcher:
    """The stages of this machine.

    Attributes:
        folder: of the run, with the job.
        processes: by the numbers of the stages, in order.
    """

    def __init__(self, folder: Path, processes: dict[int, StageProcess]) -> None:
        self.folder = folder
        self.processes = processes

    def has_ended(self) -> bool:
        """Return whether every stage has ended."""
        return all(one.exit_code() is not None for one in self.processes.values())

    def stop(self) -> None:
        """End everything that was started, at last by force; returns when nothing is left."""
        processes = self.processes.values()
        for one in processes:
            one.signal(signal.SIGTERM)
            one.signal(signal.SIGCONT)  # one that is stopped heeds nothing else
        end_s = monotonic() + PATIENCE_S
        while not self.has_ended() and monotonic() < end_s:
            sleep(0.02)
        for one in processes:
            one.signal(signal.SIGKILL)
        for one in processes:
            one.process.wait()


def launch(folder: Path, stages: range, nodes: int, node_rank: int, master: str | None) -> Launcher:
    """Start one process for each stage of this machine.

    Args:
        folder: of the run, with the job.
        stages: numbers of the stages on this machine.
        nodes: machines that take part.
        node_rank: which of them this is.
        master: ``host:port`` where all meet; None where one machine has all stages, which then
            listens on its loopback interface alone.

    Raises:
        InputError: the address is none, or its port is taken.
    """
    environment = _environment() | (loopback_only() if nodes == 1 else {})
    address = None if master is None else parse_address(master)
    launcher = Launcher(folder, {})
    with ExitStack() as at_failure, ExitStack() as held:
        at_failure.callback(launcher.stop)
        listener = None
        if address is not None and node_rank == 0:
            listener = held.enter_context(listen(address)).fileno()
        for stage in stages:
            meeting = [] if address is None else [str(address)]
            inherited = () if listener is None or stage else (listener,)
            launcher.processes[stage] = _start(
                folder, stage, [*meeting, *map(str, inherited)], environment, inherited
            )
        at_failure.pop_all()
    return launcher


def _start(
    folder: Path,
    stage: int,
    meeting: list[str],
    environment: dict[str, str],
    inherited: tuple[int, ...],
) -> StageProcess:
    path = folder / f"stage-{stage}.log"
    with open(path, "wb", opener=private) as log:
        process = subprocess.Popen(
            child_command(WORKER, str(folder), *meeting),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment | {"RANK": str(stage)},
            pass_fds=inherited,
            start_new_session=True,  # Ctrl-C reaches the launcher alone, which stops the others
        )
    return StageProcess(process, path, Vitals(process.pid))


def _environment() -> dict[str, str]:
    return {
        **child_environment(),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),  # each stage sets its own
        "MALLOC_ARENA_MAX": "1",  # few threads allocate, and each arena keeps what it once had
        "TRANSFORMERS_OFFLINE": "1",
        "HF_HUB_OFFLINE": "1",
    }
