"""Helper processes of a profile: started, listened to on loopback alone, and always ended."""

import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO, Any

from llmpq_sim.core.errors import ExecutionError
from runtimes.torch_pipeline.processes.child import child_command, child_environment
from runtimes.torch_pipeline.processes.meeting import loopback_only

Told = Mapping[str, Any]
"""What a process is told: plain data."""

Worker = subprocess.Popen[str]


@contextmanager
def workers(module: str, told: Sequence[Told]) -> Iterator[list[Worker]]:
    """Give one process for each of several tasks, and end them whatever happens.

    Args:
        module: what they run, by its full name.
        told: the task of each, handed over as JSON on the command line.
    """
    started: list[Worker] = []
    try:
        started.extend(_started(module, task) for task in told)
        yield started
    finally:
        for worker in started:
            worker.kill()
            worker.communicate()


def answers(started: Sequence[Worker], count: int, what: str) -> Iterator[Any]:
    """Yield so many lines of JSON from the first process.

    Raises:
        ExecutionError: a process failed before.
    """
    lines = _piped(started[0])
    for _ in range(count):
        line = lines.readline()
        if not line.endswith("\n"):
            raise ExecutionError(f"{what} failed: {_last_words(started)}")
        yield json.loads(line)


def _started(module: str, task: Told) -> Worker:
    return subprocess.Popen(
        child_command(module, json.dumps(task)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=child_environment() | loopback_only(),
    )


def _piped(worker: Worker) -> IO[str]:
    if worker.stdout is None:
        raise RuntimeError("a worker was started without a pipe")
    return worker.stdout


def _last_words(started: Sequence[Worker]) -> str:
    words = []
    for number, worker in enumerate(started):
        worker.kill()
        _, text = worker.communicate()
        last = text.strip().splitlines()[-1:] or ["no message"]
        words.append(f"process {number}: {last[0]} (exit code {worker.returncode})")
    return "; ".join(words)
