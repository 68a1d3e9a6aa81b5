"""No helper process outlives whoever started it, however early or late that ends."""

import os
import subprocess
import sys
from pathlib import Path
from time import monotonic, sleep

import psutil
import pytest

from runtimes.torch_pipeline.processes.child import ROOT, child_command, child_environment

PATIENCE_S = 60.0

SLEEPS = """
import sys, time
from pathlib import Path
Path(sys.argv[1]).touch()
time.sleep(600)
"""

PARENT = """
import os, subprocess, sys, time
from pathlib import Path
from runtimes.torch_pipeline.processes.child import child_command
started = Path("started")
child = subprocess.Popen(child_command("sleeps", str(started)))
while WAITS and not started.exists():
    time.sleep(0.01)
print(child.pid, flush=True)
os._exit(0)
"""

WATCHES = """
import os, subprocess, sys, time
from runtimes.torch_pipeline.processes.child import watch
parent = os.getppid()  # asked before the parent may end, which it does once it has read the line
print(os.getpid(), flush=True)
watch(parent)
"""


def environment(folder: Path) -> dict[str, str]:
    return {**child_environment(), "PYTHONPATH": os.pathsep.join((str(folder), str(ROOT)))}


def gone(process: int) -> bool:
    """Return whether a process ends."""
    end_s = monotonic() + PATIENCE_S
    while monotonic() < end_s:
        try:
            if psutil.Process(process).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        sleep(0.02)
    return False


@pytest.mark.parametrize("waits", [True, False], ids=["after", "before"])
def test_a_child_ends_when_its_parent_does(waits: bool, tmp_path: Path) -> None:
    (tmp_path / "sleeps.py").write_text(SLEEPS, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", PARENT.replace("WAITS", str(waits))],
        cwd=tmp_path,
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    assert gone(int(done.stdout))


def test_where_the_system_does_not_tell_a_thread_looks_for_the_parent(tmp_path: Path) -> None:
    parent = (
        "import subprocess, sys\n"
        f"child = subprocess.Popen([sys.executable, '-c', {WATCHES!r}], stdout=subprocess.PIPE)\n"
        "sys.stdout.buffer.write(child.stdout.readline())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", parent],
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    assert gone(int(done.stdout))


def test_a_child_runs_a_module_with_its_arguments(tmp_path: Path) -> None:
    (tmp_path / "says.py").write_text(
        "import sys\nprint(__name__, sys.argv[1:])\n", encoding="utf-8"
    )
    done = subprocess.run(
        child_command("says", "one", "two words"),
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    assert done.stdout == "__main__ ['one', 'two words']\n"
