"""Small made-up pipelines and traces for the laws of continuous batching."""

from collections.abc import Callable
from dataclasses import replace
from itertools import accumulate
from random import Random
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import ArrayLike

from llmpq_sim.core.trace import TraceWorkload
from llmpq_sim.simulator.continuous.engine import simulate_service
from llmpq_sim.simulator.continuous.mixed_costs import Pipeline, StageTables
from llmpq_sim.simulator.continuous.recurrence import compute_service
from llmpq_sim.simulator.continuous.service_times import ServiceTimes
from llmpq_sim.simulator.continuous.settings import Admission, ContinuousSettings
from llmpq_sim.simulator.continuous.watch import Watch
from tests.oracles.continuous import serve_plainly

Run = Callable[[Pipeline, TraceWorkload, ContinuousSettings], ServiceTimes]
"""A form of continuous batching: one of three that must agree."""

Case = tuple[Pipeline, TraceWorkload, ContinuousSettings]
StageStep = tuple[int, int, float, float]

ENGINES: tuple[Run, ...] = (simulate_service, compute_service, serve_plainly)


def limits(**others: Any) -> ContinuousSettings:
    """Return settings for small traces: 8 tokens and 4 sequences at a time, blocks of 4."""
    bounds = {"token_budget": 8, "sequence_limit": 4, "longest_context_tokens": 64}
    return ContinuousSettings(**(bounds | {"block_tokens": 4} | others))


def trace(
    arrival_s: ArrayLike,
    prompt_tokens: ArrayLike,
    output_tokens: ArrayLike,
    prefix_blocks: tuple[tuple[int, ...], ...] | None = None,
    block_tokens: int | None = None,
) -> TraceWorkload:
    """Return a workload of these requests."""
    return TraceWorkload(
        name="made up",
        arrival_s=np.array(arrival_s, np.float64),
        prompt_tokens=np.array(prompt_tokens, np.int64),
        output_tokens=np.array(output_tokens, np.int64),
        prefix_blocks=prefix_blocks,
        block_tokens=block_tokens,
    )


def even_pipeline(
    settings: ContinuousSettings,
    *,
    stages: int = 1,
    batch_s: float = 1.0,
    token_s: float = 0.0,
    sample_s: float = 0.0,
    prompt_s: float = 0.0,
    context_s: float = 0.0,
    transfer_s: float = 0.0,
    blocks: int = 1000,
) -> Pipeline:
    """Return equal stages with so much for a batch, each token, each sample (on the last stage),
    each token of a prompt's attention, each token a decode attends to, and each transfer.
    """
    tokens, rows = settings.token_budget, settings.sequence_limit
    longest, step = settings.longest_context_tokens, 16
    knots = np.arange(longest // step + 2) * float(step)
    stage = StageTables(
        tokens_s=[batch_s + token_s * count for count in range(tokens + 1)],
        samples_s=[0.0] * (rows + 1),
        prompt_s=[prompt_s * count for count in range(longest + 1)],
        decode_s=context_s * np.arange(rows + 1.0)[:, np.newaxis] * knots,
        transfer_s=[transfer_s] * (tokens + 1),
    )
    last = replace(stage, samples_s=[sample_s * count for count in range(rows + 1)])
    return Pipeline((*(stage,) * (stages - 1), last), step, (blocks,) * stages)


def with_batch_of(pipeline: Pipeline, number: int, tokens: int, takes_s: float) -> Pipeline:
    """Return a pipeline of which one stage takes so long for a batch of so many tokens."""
    stages = list(pipeline.stages)
    tokens_s = list(stages[number].tokens_s)
    tokens_s[tokens] = takes_s
    stages[number] = replace(stages[number], tokens_s=tokens_s)
    return replace(pipeline, stages=tuple(stages))


def scaled(pipeline: Pipeline, factor: float) -> Pipeline:
    """Return a pipeline with every duration multiplied."""
    stages = tuple(
        StageTables(
            tokens_s=[factor * value for value in stage.tokens_s],
            samples_s=[factor * value for value in stage.samples_s],
            prompt_s=[factor * value for value in stage.prompt_s],
            decode_s=factor * stage.decode_s,
            transfer_s=[factor * value for value in stage.transfer_s],
        )
        for stage in pipeline.stages
    )
    return replace(pipeline, stages=stages)


def steps_of(case: Case) -> list[StageStep]:
    """Return every step of a stage, in the order in which they were told."""
    steps: list[StageStep] = []
    simulate_service(*case, Watch(on_step=lambda *step: steps.append(step)))
    return steps


def outcome(times: ServiceTimes) -> tuple[object, ...]:
    """Return all that was recorded as something that compares by value, bit for bit."""
    return (
        times.arrival_s.tobytes(),
        times.first_s.tobytes(),
        times.last_s.tobytes(),
        times.gaps.summary(0.0),
        times.batches,
        times.busy_s,
        times.preemptions,
        times.peak_blocks,
        times.reused_tokens,
        times.phases,
    )


@st.composite
def cases(
    draw: st.DrawFn,
    *,
    shared: bool = True,
    cut: bool | None = None,
    admission: Admission | None = None,
) -> Case:
    """Any small pipeline, trace and limits: blocks for one request only, to more than enough.

    Durations are few, so that instants coincide.

    Args:
        draw: given by hypothesis.
        shared: whether prompts may share prefixes.
        cut: whether prompts are cut; either unless told.
        admission: when requests are admitted; either unless told.
    """
    longest = draw(st.sampled_from([8, 20, 40]))
    chunked = draw(st.booleans()) if cut is None else cut
    stages = draw(st.integers(1, 4))
    budget = draw(st.integers(1, 24)) if chunked else longest + draw(st.integers(0, 20))
    settings = ContinuousSettings(
        token_budget=budget,
        sequence_limit=draw(st.integers(1, min(budget, 12))),
        longest_context_tokens=longest,
        chunked_prefill=chunked,
        block_tokens=draw(st.sampled_from([1, 2, 4, 8])),
        prefix_caching=shared and draw(st.booleans()),
        schedules_ahead=draw(st.booleans()),
        admission=draw(st.sampled_from(["evict", "no-evict"])) if admission is None else admission,
        chunk_tokens=draw(st.none() | st.integers(1, 8)) if chunked else None,
        batches_in_flight=draw(st.none() | st.integers(1, stages)),
    )
    random = Random(draw(st.integers(0, 10**6)))
    spare = draw(st.sampled_from([-2, 0, 0, 1, 3, 10, 50]))
    blocks = max(settings.blocks(longest) + spare, 1)
    bounded = draw(st.lists(st.integers(0, 3), max_size=4)) if not settings.prefix_caching else []
    table = tuple(accumulate(bounded))
    pipeline = _pipeline(random, settings, stages, blocks + sum(bounded))
    pipeline = replace(pipeline, bounded_blocks=table)
    workload = _workload(random, settings, draw(st.integers(1, 24)))
    users = draw(st.sampled_from([None, None, 1, 2, 5, 30]))
    return pipeline, replace(workload, concurrency=users), settings


def _pipeline(random: Random, settings: ContinuousSettings, stages: int, blocks: int) -> Pipeline:
    palette = [random.choice([0.25, 0.5, 1.0, 2.0, random.random() + 0.01]) for _ in range(4)]
    rows, longest, step = settings.sequence_limit, settings.longest_context_tokens, 16
    knots = longest // step + 2

    def times(count: int, part: float) -> list[float]:
        return [random.choice(palette) * part * number for number in range(count + 1)]

    tables = [
        StageTables(
            tokens_s=[
                random.choice(palette) + other for other in times(settings.token_budget, 0.1)
            ],
            samples_s=times(rows, 0.1) if number == stages - 1 else [0.0] * (rows + 1),
            prompt_s=times(longest, 0.02),
            decode_s=np.array([times(knots - 1, 0.1 * count) for count in range(rows + 1)]),
            transfer_s=times(settings.token_budget, random.choice([0.0, 0.02, 0.5])),
        )
        for number in range(stages)
    ]
    room = tuple(blocks + random.randint(0, 3) for _ in range(stages))
    return Pipeline(tuple(tables), step, room)


def _workload(random: Random, settings: ContinuousSettings, requests: int) -> TraceWorkload:
    half, arrival_s = settings.longest_context_tokens // 2, [0.0]
    for _ in range(requests - 1):
        arrival_s.append(arrival_s[-1] + random.choice([0.0, 0.0, 0.5, 1.0, 5 * random.random()]))
    prompts = [random.randint(1, half + 1) for _ in range(requests)]
    outputs = [random.choice([1, 2, random.randint(1, half + 2)]) for _ in range(requests)]
    unit = settings.block_tokens * random.choice([1, 2])
    if random.random() < 0.2:
        return trace(arrival_s, prompts, outputs)
    names = tuple(_names(random, -(-prompt // unit)) for prompt in prompts)
    return trace(arrival_s, prompts, outputs, names, unit)


def _names(random: Random, units: int) -> tuple[int, ...]:
    """Return names of which the first may be those of one of three families of prompts."""
    family, common = random.randint(0, 2), random.randint(0, units)
    own = [random.randint(10**4, 10**9) for _ in range(units - common)]
    return (*(100 * family + place for place in range(common)), *own)
