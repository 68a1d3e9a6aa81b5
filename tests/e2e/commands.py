"""Runner of the installed command for tests."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

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
