"""Output of a command: the screen, or JSON for programs."""

import os
import sys
from typing import Any

from rich.console import Console

from llmpq_sim.io.files import json_text


def answer_console() -> Console:
    """Return the console for tables: as wide as the terminal, as COLUMNS says, or 88 columns."""
    width = int(os.environ["COLUMNS"]) if os.environ.get("COLUMNS", "").isdigit() else None
    return Console(width=width or (None if sys.stdout.isatty() else 88), highlight=False)


def print_json(content: dict[str, Any]) -> None:
    """Write one JSON object to stdout."""
    sys.stdout.write(json_text(content))
