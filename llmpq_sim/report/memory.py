"""Memory of each stage by purpose: on screens and in JSON."""

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from llmpq_sim.core.memory import StageMemory
from llmpq_sim.core.plan import Plan
from llmpq_sim.core.units import GIB
from llmpq_sim.report.console import new_table, plain

PURPOSES = (
    ("weights", "weights_bytes"),
    ("KV cache", "kv_bytes"),
    ("embedding, head", "ends_bytes"),
    ("temporaries", "temporaries_bytes"),
    ("runtime", "runtime_bytes"),
    ("free", "free_bytes"),
)
"""What a stage's memory is for, on the screen and in JSON; together all that its device has."""


def memory_content(memory: Sequence[StageMemory]) -> list[dict[str, Any]]:
    """Return the bytes of each stage by purpose; free is negative where a stage does not fit."""
    return [{key: getattr(stage, key) for _, key in PURPOSES} for stage in memory]


def memory_table(plan: Plan, memory: Sequence[StageMemory]) -> Table:
    """Return the memory of each stage by purpose, in GiB."""
    headings = [name for name, _ in PURPOSES]
    table = new_table("memory, GiB", *headings, right=headings)
    for stage, needs in zip(plan.stages, memory, strict=True):
        figures = [f"{getattr(needs, key) / GIB:.2f}" for _, key in PURPOSES]
        *used, free = figures
        table.add_row(plain(stage.device), *used, plain(free, "" if needs.fits else "red"))
    return table
