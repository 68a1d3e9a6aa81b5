"""Files in which stages leave what they have to tell; requests are in them, so they are private."""

import os

FINISHED_FILE = "finished.jsonl"
"""A line for each finished request, by the first stage."""

MEASURED_FILE = "measured.json"
"""The execution, by the first stage at the end."""

LARGEST_BYTES = 1 << 40
"""Of files that processes of one run write for each other: as many as the requests make."""

PRIVATE_MODE = 0o600


def private(path: str, flags: int) -> int:
    """Open a file that only this user may read; for the ``opener`` of ``open``."""
    return os.open(path, flags, PRIVATE_MODE)
