"""Launchers of several machines, which together serve what one serves."""

import threading
from dataclasses import replace
from pathlib import Path

import torch

from llmpq_sim.core.execution import Execution
from runtimes.base import Completion, Job, RuntimeOptions, TokenRequest
from runtimes.testing import descendants, saved_plan
from runtimes.torch_pipeline.engine.cache_shapes import CacheShape
from runtimes.torch_pipeline.runtime import TorchRuntime
from tests.runtimes.models import save_model
from tests.runtimes.single_process import load_stages, run, static, token_lists
from tests.runtimes.sockets_of_tests import free_port

CUTS = [("int8",), ("bf16", "int4"), ("bf16",)]
REQUESTS = tuple(
    TokenRequest(f"request-{number}", tuple(range(3 + number, 8 + 2 * number)), tokens)
    for number, tokens in enumerate((6, 1, 4, 6, 3))
)


def test_two_launchers_serve_what_one_process_serves(tmp_path: Path) -> None:
    folder = save_model("llama", tmp_path)
    nodes = ("node-0", "node-0", "node-1")
    saved = saved_plan(folder, CUTS, nodes=nodes, prompt_tokens=16)
    options = RuntimeOptions(nodes=2, master=f"127.0.0.1:{free_port()}")
    jobs = [
        Job(saved, REQUESTS, folder, options=replace(options, node_rank=rank)) for rank in (0, 1)
    ]
    measured: dict[int, Execution | None] = {}
    served: dict[int, list[Completion]] = {0: [], 1: []}

    def launch(rank: int) -> None:
        measured[rank] = TorchRuntime().run(jobs[rank], served[rank].append)

    others = threading.Thread(target=launch, args=(1,))
    others.start()
    launch(0)
    others.join()
    assert measured[1] is None
    assert served[1] == []
    execution = measured[0]
    assert execution is not None
    assert len(execution.stage_peak_bytes) == 3
    assert all(0 < share <= 1 for share in execution.result.stage_busy_fraction)
    stages = load_stages(folder, CUTS, CacheShape(4, 22), dtype=torch.bfloat16)
    expected, _ = run(stages, static(list(REQUESTS), 4, 2, 2, 2), list(REQUESTS))
    found = {one.request: one for one in served[0]}
    assert token_lists(found) == token_lists(expected)
    assert descendants() == set()
