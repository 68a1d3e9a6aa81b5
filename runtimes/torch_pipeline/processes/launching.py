"""Launcher of the stages' processes, which stops all of them."""

import ctypes
import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from time import monotonic, sleep

from llmpq_sim.core.errors import InputError
from runtimes.torch_pipeline.processes.heartbeat import parent_path, read_heartbeat

LOCALHOST = "127.0.0.1"
PARENT_DEATH_SIGNAL = 1
"""PR_SET_PDEATHSIG of prctl(2)."""

PATIENCE_S = 2.0
"""How long processes may take to end before they are killed."""

LOG_FOLDER = "logs"


class Launcher:
    """torchrun with the stages of this machine as its children.

    Attributes:
        folder: of the run, with the job.
        stages: numbers of the stages on this machine.
        process: torchrun's.
    """

    def __init__(self, folder: Path, stages: range, process: "subprocess.Popen[bytes]") -> None:
        self.folder = folder
        self.stages = stages
        self.process = process

    def has_ended(self) -> bool:
        """Return whether torchrun, and so every stage, has ended."""
        return self.process.poll() is not None

    def stop(self) -> None:
        """End everything that was started, at last by force; returns when nothing is left."""
        processes = [*self.stage_processes(), self.process.pid]
        if not self.has_ended():
            self._signal(signal.SIGTERM)
        end_s = monotonic() + PATIENCE_S
        while monotonic() < end_s and any(is_alive(one) for one in processes):
            self.process.poll()
            sleep(0.05)
        for one in [*self.stage_processes(), *processes]:
            with suppress(ProcessLookupError):
                os.kill(one, signal.SIGKILL)
        self._signal(signal.SIGKILL)
        self.process.wait()

    def stage_processes(self) -> list[int]:
        """Return the process ids of the stages that have said so much."""
        records = (read_heartbeat(self.folder, stage) for stage in self.stages)
        return [
            record.process for record in records if record is not None and is_alive(record.process)
        ]

    def log_tail(self, lines: int = 5) -> str:
        """Return the last lines that torchrun and the stages wrote, for a message."""
        path = self.folder / "torchrun.log"
        text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        return "\n".join(line for line in text.splitlines() if line.strip()).strip()[-400 * lines :]

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, number)


def launch(folder: Path, stages: range, nodes: int, node_rank: int, master: str | None) -> Launcher:
    """Start torchrun with one process for each stage of this machine.

    Args:
        folder: of the run, with the job.
        stages: numbers of the stages on this machine.
        nodes: machines that take part.
        node_rank: which of them this is.
        master: ``host:port`` where all meet; None takes a free port of this machine.

    Raises:
        InputError: the address is none, or its port is taken.
    """
    host, port = _address(master, listens=node_rank == 0)
    command = [
        *(sys.executable, "-m", "torch.distributed.run"),
        *("--nnodes", str(nodes), "--node-rank", str(node_rank)),
        *("--nproc-per-node", str(len(stages))),
        *("--master-addr", host, "--master-port", str(port)),
        *("--max-restarts", "0", "--monitor-interval", "0.1"),
        *("--log-dir", str(folder / LOG_FOLDER), "--redirects", "3"),
        *("-m", "runtimes.torch_pipeline.processes.worker", str(folder)),
    ]
    with (folder / "torchrun.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=_environment(),
            start_new_session=True,  # Ctrl-C reaches the launcher alone, which stops the others
            preexec_fn=_die_with_parent,  # noqa: PLW1509 - before exec, in a process of one thread
        )
    parent_path(folder).write_text(str(process.pid), encoding="ascii")
    return Launcher(folder, stages, process)


def is_alive(process: int) -> bool:
    """Return whether a process runs, or has ended without being waited for."""
    try:
        state = Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        if Path("/proc/self/stat").exists():
            return False
        with suppress(ProcessLookupError):
            os.kill(process, 0)
            return True
        return False
    return state[0] != "Z"


def _environment() -> dict[str, str]:
    root = str(Path(__file__).resolve().parents[2])
    known = [path for path in (root, os.environ.get("PYTHONPATH", "")) if path]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(known),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),  # each stage sets its own
        "MALLOC_ARENA_MAX": "1",  # few threads allocate, and each arena keeps what it once had
        "TRANSFORMERS_OFFLINE": "1",
        "HF_HUB_OFFLINE": "1",
    }


def _die_with_parent() -> None:
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(PARENT_DEATH_SIGNAL, signal.SIGKILL)


def _address(master: str | None, *, listens: bool) -> tuple[str, int]:
    if master is None:
        with socket.socket() as probe:
            probe.bind((LOCALHOST, 0))
            return LOCALHOST, probe.getsockname()[1]
    host, _, port = master.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise InputError(f"--master: expected HOST:PORT, got {master!r}")
    if listens:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, int(port)))
            except OSError as error:
                raise InputError(
                    f"--master: cannot listen on {master}: {error.strerror}; choose another port"
                ) from None
    return host, int(port)
