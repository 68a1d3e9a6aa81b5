"""Benchmark of decoding one sequence: share of the memory's bandwidth in each format.

On a GPU it is Llama-3.1-8B, launched kernel by kernel and replayed from a recording; on a processor
a small model. Every weight is read once a step: the share is their bytes over the step's time, over
what a copy of a large tensor reaches.
"""

from collections.abc import Callable

import pytest
import torch

from runtimes.profiling.conditions import Conditions
from runtimes.profiling.layers import random_cut
from runtimes.profiling.machine_facts import streamed_bytes_per_s
from runtimes.profiling.processor import Target, find_target
from runtimes.profiling.profiled_models import load_profiled
from runtimes.profiling.timing import QUICK_EFFORT
from runtimes.torch_pipeline.engine.architecture import Shard, connect
from runtimes.torch_pipeline.engine.attention import StageState
from runtimes.torch_pipeline.engine.cache_shapes import CacheShape, empty_cache
from runtimes.torch_pipeline.engine.cuda_graphs import CudaRecorder
from runtimes.torch_pipeline.engine.stage import Stage
from runtimes.torch_pipeline.engine.step import Segment, Step
from runtimes.torch_pipeline.weights.linear import NEVER, StoredLinear

ON_GPU = torch.cuda.is_available()
MODEL = "llama-3.1-8b" if ON_GPU else "llama-160m"
FUSED = {"int8": NEVER, "int4": NEVER, "bf16": NEVER}
CONTEXT_TOKENS, STEPS = 200, 20


@pytest.fixture(scope="module")
def target() -> Target:
    return find_target("cuda:0" if ON_GPU else "cpu", None)


@pytest.fixture(scope="module")
def bytes_per_s(target: Target) -> float:
    return streamed_bytes_per_s(target, QUICK_EFFORT)


def whole_model(format_name: str, target: Target, recorded: bool) -> tuple[Stage, int]:
    """Return a model in one stage, and the bytes of its weights that a step reads."""
    model = load_profiled(MODEL)
    conditions = Conditions(target, torch.bfloat16, {MODEL: model}, FUSED)
    shard = Shard(0, model.spec.layers, is_first=True, is_last=True)
    built, settings = random_cut(model, shard, format_name, conditions)
    cache = empty_cache(built.model.config, CacheShape(1, 1024), torch.bfloat16, target.device)
    state = StageState(cache)
    connect(built, state, target.device)
    linears = [m for m in built.model.modules() if isinstance(m, StoredLinear)]
    recorder = CudaRecorder() if recorded else None
    stage = Stage(shard, built.model, state, settings, recorder)
    return stage, sum(linear.stored_bytes for linear in linears)


def steps_of(stage: Stage) -> Callable[[], None]:
    """Return work that decodes some tokens of one sequence, each after the other."""

    def decode() -> None:
        token = torch.zeros(1, dtype=torch.int64, device=stage.device)
        for number in range(STEPS):
            start = CONTEXT_TOKENS + number
            step = Step(number, decodes=(Segment(0, 0, start, 1, samples=True),))
            token = stage.run(step, token).argmax(dim=-1)
        token.tolist()  # waits for the device

    return decode


@pytest.mark.parametrize("recorded", [False, True] if ON_GPU else [False])
@pytest.mark.parametrize("format_name", ["bf16", "int8", "int4", "int3"])
def test_share_of_bandwidth(
    benchmark: Callable[..., None],
    format_name: str,
    recorded: bool,
    target: Target,
    bytes_per_s: float,
) -> None:
    with torch.inference_mode():
        stage, weight_bytes = whole_model(format_name, target, recorded)
        decode = steps_of(stage)
        for _ in range(3):
            decode()
        benchmark(decode)
    step_s = benchmark.stats.stats.median / STEPS  # type: ignore[attr-defined]
    share = weight_bytes / step_s / bytes_per_s
    print(  # noqa: T201 - the table of a benchmark
        f"\n{MODEL} {format_name} {'recorded' if recorded else 'launched'}: "
        f"{step_s * 1e3:.2f} ms a step, {weight_bytes / 1e9:.2f} GB, {share:.0%} of "
        f"{bytes_per_s / 1e9:,.0f} GB/s"
    )
