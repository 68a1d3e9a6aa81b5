"""Entry of helper processes: each ends when its parent does, whatever it is doing.

``python -m runtimes.torch_pipeline.processes.child PARENT MODULE ARGUMENT...`` runs a module as the
main program. Only the standard library is imported before, so that a process is bound to its
parent from its first milliseconds, long before it has imported PyTorch.
"""

import ctypes
import os
import runpy
import signal
import sys
import threading
from pathlib import Path
from time import sleep

NAME = "runtimes.torch_pipeline.processes.child"
ROOT = Path(__file__).resolve().parents[3]

PARENT_DEATH_SIGNAL = 1
"""PR_SET_PDEATHSIG of prctl(2)."""


WATCH_S = 0.25
"""How often a parent is looked for where the system does not tell."""


def child_command(module: str, *arguments: str) -> list[str]:
    """Return the command line of a process that runs a module and ends with this process."""
    return [sys.executable, "-m", NAME, str(os.getpid()), module, *arguments]


def child_environment() -> dict[str, str]:
    """Return this process's environment, with which a child finds the package.

    It does not look where the command was given: a folder of the package's name may lie there.
    """
    known = (str(ROOT), os.environ.get("PYTHONPATH", ""))
    path = os.pathsep.join(filter(None, known))
    return {**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"}


def end_with(parent: int) -> None:
    """Let this process be killed when its parent ends; end it at once where that has happened.

    Linux does so by itself; elsewhere a thread looks now and then.
    """
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(PARENT_DEATH_SIGNAL, signal.SIGKILL)
    else:
        threading.Thread(target=watch, args=(parent,), daemon=True).start()
    if os.getppid() != parent:  # it ended before the call
        os._exit(1)


def watch(parent: int) -> None:
    """End this process as soon as its parent is gone."""
    while os.getppid() == parent:
        sleep(WATCH_S)
    os._exit(1)


def main(parent: str, module: str, *arguments: str) -> None:
    """Run a module as the main program of this process."""
    end_with(int(parent))
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
