"""Runner of the installed command for tests."""

import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import chdir, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

from cli import app
from llmpq_sim.commands.guard import failure

LLMPQ = Path(sys.executable).parent / "llmpq"


def llmpq(
    *arguments: str | Path,
    cwd: Path,
    timeout_s: float = 240.0,
    env: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Return what the installed command did, as on a terminal of 88 columns without colour."""
    return subprocess.run(
        [str(LLMPQ), *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
        env={**os.environ, "COLUMNS": "88", "NO_COLOR": "1", **(env or {})},
    )


def called(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Return what a command line does in this process: for many that are refused at once.

    It is the app that the installed command runs, and what its guard would say; each file of tests
    runs one of its commands by `llmpq`, as a process.
    """
    told, said = StringIO(), StringIO()
    words = [str(argument) for argument in arguments]
    with chdir(cwd), redirect_stdout(told), redirect_stderr(said):
        try:
            code = app(words, standalone_mode=False)
        except Exception as error:
            found = failure(error)
            print(found.shown, file=said)
            code = found.exit_code
    done = code if isinstance(code, int) else 0
    return subprocess.CompletedProcess(words, done, told.getvalue(), said.getvalue())
