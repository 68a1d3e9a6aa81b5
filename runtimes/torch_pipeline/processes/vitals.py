"""Vital signs of a process as the operating system has them, whether or not it says anything.

They tell a process that was stopped from one that has not had its turn on a busy machine: the first
neither uses processor time nor waits for any.
"""

from contextlib import suppress
from time import monotonic

import psutil

AT_WORK = (psutil.STATUS_RUNNING, psutil.STATUS_DISK_SLEEP, psutil.STATUS_WAKING)
"""States of a process that computes, waits for a core, or waits for a disk."""

STOPPED = (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP)


class Vitals:
    """When a process was last seen at work; look often.

    Attributes:
        is_stopped: whether it was stopped (SIGSTOP, a debugger) when last looked at.
    """

    def __init__(self, process: int) -> None:
        self.is_stopped = False
        self._process: psutil.Process | None = None
        self._cpu_s = 0.0
        self._at_work_s = monotonic()
        with suppress(psutil.NoSuchProcess):  # it has ended already, which its exit code tells
            self._process = psutil.Process(process)

    def look(self) -> None:
        """Take down what the process is doing now; of one that is gone nothing is changed."""
        if self._process is None:
            return
        try:
            with self._process.oneshot():
                status, times = self._process.status(), self._process.cpu_times()
        except psutil.Error:
            return
        cpu_s = times.user + times.system
        self.is_stopped = status in STOPPED
        if status in AT_WORK or cpu_s > self._cpu_s:
            self._at_work_s = monotonic()
        self._cpu_s = cpu_s

    def idle_s(self) -> float:
        """Return for how many seconds the process has not been seen at work."""
        return monotonic() - self._at_work_s
