"""Vital signs tell a stopped process from one that works and from one that is slow."""

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic, sleep

import psutil

from runtimes.torch_pipeline.processes.vitals import Vitals

PATIENCE_S = 60.0


@contextmanager
def running(code: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-c", f"print(flush=True)\n{code}"], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.readline()
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def looked_for(vitals: Vitals, seconds: float) -> None:
    end_s = monotonic() + seconds
    while monotonic() < end_s:
        vitals.look()
        sleep(0.02)


def looked_until(vitals: Vitals, is_seen: Callable[[], bool]) -> bool:
    """Return whether something is seen, for which a busy machine may take its time."""
    end_s = monotonic() + PATIENCE_S
    while monotonic() < end_s:
        vitals.look()
        if is_seen():
            return True
        sleep(0.01)
    return False


def test_a_process_at_work_is_never_idle_for_long() -> None:
    with running("while True: pass") as process:
        vitals = Vitals(process.pid)
        looked_for(vitals, 1.0)
        assert not vitals.is_stopped
        assert looked_until(vitals, lambda: vitals.idle_s() < 0.1)  # or it waits for a core


def test_a_stopped_process_is_idle_until_it_goes_on() -> None:
    with running("while True: pass") as process:
        vitals = Vitals(process.pid)
        process.send_signal(signal.SIGSTOP)
        while psutil.Process(process.pid).status() != psutil.STATUS_STOPPED:
            sleep(0.01)
        looked_for(vitals, 0.5)
        assert vitals.is_stopped
        first_s = vitals.idle_s()
        looked_for(vitals, 0.5)
        assert vitals.idle_s() >= first_s + 0.5
        process.send_signal(signal.SIGCONT)
        assert looked_until(vitals, lambda: not vitals.is_stopped and vitals.idle_s() < 0.1)


def test_a_process_that_waits_is_idle_and_not_stopped() -> None:
    with running("import time\ntime.sleep(600)") as process:
        vitals = Vitals(process.pid)
        assert looked_until(vitals, lambda: vitals.idle_s() > 0.5)
        assert not vitals.is_stopped


def test_nothing_changes_of_a_process_that_is_gone() -> None:
    with running("") as process:
        process.wait()
    vitals = Vitals(process.pid)
    vitals.look()
    assert not vitals.is_stopped
    assert vitals.idle_s() < PATIENCE_S
