"""Pipeline without processes: stages one after another, as the laws of tokens need it."""

from collections import deque
from pathlib import Path
from typing import Any

import torch

from llmpq_sim.core.plan import MicroBatching
from llmpq_sim.simulator.continuous.settings import ContinuousSettings
from runtimes.base import Completion, TokenRequest
from runtimes.torch_pipeline.engine.architecture import Shard
from runtimes.torch_pipeline.engine.cache_shapes import CacheShape
from runtimes.torch_pipeline.engine.continuous_schedule import ContinuousSchedule
from runtimes.torch_pipeline.engine.cuda_graphs import Recorder
from runtimes.torch_pipeline.engine.sampling import sample
from runtimes.torch_pipeline.engine.sequences import Schedule
from runtimes.torch_pipeline.engine.stage import Stage, load_stage
from runtimes.torch_pipeline.engine.static_schedule import StaticSchedule
from runtimes.torch_pipeline.engine.step import Step, decoded, encoded
from runtimes.torch_pipeline.weights.linear import KernelChoice
from runtimes.torch_pipeline.weights.loading import WeightSettings

CPU = torch.device("cpu")


def load_stages(
    folder: Path,
    shards: list[tuple[str, ...]],
    cache: CacheShape,
    *,
    dtype: torch.dtype = torch.float32,
    choice: KernelChoice | None = None,
    weight_cache: Path | None = None,
    device: torch.device = CPU,
    recorder: Recorder | None = None,
    is_invariant: bool = False,
) -> list[Stage]:
    """Return stages whose layers have these formats."""
    stages, first = [], 0
    for number, formats in enumerate(shards):
        shard = Shard(first, len(formats), number == 0, number == len(shards) - 1)
        settings = WeightSettings(formats, dtype, device, choice or KernelChoice(), weight_cache)
        stages.append(
            load_stage(folder, shard, settings, cache, recorder=recorder, is_invariant=is_invariant)
        )
        first += len(formats)
    return stages


def static(
    requests: list[TokenRequest],
    batch: int,
    prefill: int,
    decode: int,
    in_flight: int,
    chunk_tokens: int | None = None,
) -> StaticSchedule:
    """Return the static policy's schedule."""
    return StaticSchedule(requests, batch, MicroBatching(prefill, decode, in_flight, chunk_tokens))


def continuous(
    requests: list[TokenRequest],
    token_budget: int,
    rows: int,
    *,
    chunked: bool = True,
    **others: Any,
) -> ContinuousSchedule:
    """Return the schedule of continuous batching."""
    settings = ContinuousSettings(token_budget, min(rows, token_budget), 24, chunked, **others)
    return ContinuousSchedule(requests, settings, rows)


def run(
    stages: list[Stage], schedule: Schedule, requests: list[TokenRequest], in_flight: int = 2
) -> tuple[dict[int, Completion], list[Step]]:
    """Serve requests step by step; return who was served, and all steps."""
    under_way: deque[tuple[Step, list[int]]] = deque()
    served: dict[int, Completion] = {}
    steps = []
    while not schedule.is_done:
        step = schedule.next_step(0.0) if len(under_way) < in_flight else None
        if step is None:
            for one in schedule.take_back(*under_way.popleft()):
                served[one.request] = one
            continue
        steps.append(step)
        assert decoded(encoded(step).tolist()) == step
        entering = torch.tensor(schedule.token_ids(step), device=stages[0].device)
        for stage in stages:
            entering = stage.run(step, entering)
        under_way.append((step, sample(entering, step, requests).tolist()))
    return served, steps


def token_lists(served: dict[int, Completion]) -> list[list[int]]:
    """Return the tokens of every request in order."""
    return [list(served[number].tokens) for number in sorted(served)]
