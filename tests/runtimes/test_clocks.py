"""Clocks of other machines, read by how far they are ahead of the first stage's."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

AHEAD_S = 1234.5

STAGE = """
import json, sys
from time import perf_counter
import torch.distributed as dist
from runtimes.torch_pipeline.engine import clocks

rank, machines, meet = int(sys.argv[1]), sys.argv[2].split(","), sys.argv[3]
clocks._machine = lambda: machines[rank]
clocks.perf_counter = lambda: perf_counter() + rank * float(sys.argv[4])
dist.init_process_group("gloo", init_method=f"file://{meet}", rank=rank, world_size=3)
ahead_s = clocks.clocks_ahead_s()
if rank == 0:
    print(json.dumps(ahead_s))
dist.barrier()
import os; sys.stdout.flush(); os._exit(0)
"""


def measured(folder: Path, machines: str) -> list[float]:
    """Return what three processes find whose clocks are 0, 1 and 2 times AHEAD_S ahead."""
    stages = [
        subprocess.Popen(
            [sys.executable, "-c", STAGE, str(rank), machines, str(folder / "meet"), str(AHEAD_S)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(3)
    ]
    outputs = [stage.communicate(timeout=120)[0] for stage in stages]
    assert [stage.returncode for stage in stages] == [0, 0, 0]
    found: list[float] = json.loads(outputs[0])
    return found


def test_the_clock_of_another_machine_is_estimated_and_that_of_its_own_is_shared(
    tmp_path: Path,
) -> None:
    # the second process says that it is on the first one's machine, so its clock is not asked for
    found = measured(tmp_path, "here,here,there")
    assert found[:2] == [0.0, 0.0]
    assert found[2] == pytest.approx(2 * AHEAD_S, abs=1.0)  # as far as an answer may take
