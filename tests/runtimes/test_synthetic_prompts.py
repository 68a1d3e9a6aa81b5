"""Synthetic prompts: lengths, shared beginnings and tokens."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.scenario import BatchWorkload
from llmpq_sim.core.trace import TraceWorkload
from runtimes.base import Sampling, TokenRequest
from runtimes.deployment.generation_config import TextModel
from runtimes.deployment.synthetic_prompts import batch_requests, trace_requests

MODEL = TextModel("m", 5000, stop_tokens=(2,), special_tokens=frozenset({0, 1, 2, 4999, 6000}))
BLOCK_TOKENS = 4


@st.composite
def traces(draw: st.DrawFn) -> TraceWorkload:
    """Return traces whose prompts begin with some of a few blocks, the last one maybe cut."""
    prompts = draw(st.lists(st.integers(1, 20), min_size=1, max_size=6))
    blocks = [
        tuple(draw(st.lists(st.integers(-2, 2), max_size=-(-prompt // BLOCK_TOKENS))))
        for prompt in prompts
    ]
    return trace_of(prompts, tuple(blocks))


def trace_of(
    prompts: list[int], blocks: tuple[tuple[int, ...], ...] | None = None
) -> TraceWorkload:
    count = len(prompts)
    return TraceWorkload(
        name="t",
        arrival_s=np.arange(count) / 4,
        prompt_tokens=np.array(prompts, dtype=np.int64),
        output_tokens=np.arange(1, count + 1, dtype=np.int64),
        prefix_blocks=blocks,
        block_tokens=None if blocks is None else BLOCK_TOKENS,
    )


def check_plain(requests: tuple[TokenRequest, ...]) -> None:
    """Check what is true of all synthetic requests."""
    assert len({request.name for request in requests}) == len(requests)
    for request in requests:
        assert request.stop_tokens == ()
        assert request.sampling == Sampling()
        assert all(type(token) is int for token in request.prompt)
        assert set(request.prompt) <= set(range(5000)) - MODEL.special_tokens


@given(trace=traces(), seed=st.integers(0, 2**32))
def test_requests_of_a_trace_have_its_lengths_and_arrivals(trace: TraceWorkload, seed: int) -> None:
    requests = trace_requests(trace, MODEL, seed)
    check_plain(requests)
    assert [len(request.prompt) for request in requests] == trace.prompt_tokens.tolist()
    assert [request.output_tokens for request in requests] == trace.output_tokens.tolist()
    assert [request.arrival_s for request in requests] == trace.arrival_s.tolist()


@given(trace=traces(), seed=st.integers(0, 2**32))
def test_prompts_share_exactly_the_tokens_of_the_blocks_they_share(
    trace: TraceWorkload, seed: int
) -> None:
    assert trace.prefix_blocks is not None
    requests = trace_requests(trace, MODEL, seed)
    for (one, ones), (two, twos) in combinations(
        zip(requests, trace.prefix_blocks, strict=True), 2
    ):
        shared = common(ones, twos) * BLOCK_TOKENS
        shortest = min(len(one.prompt), len(two.prompt))
        assert common(one.prompt, two.prompt) >= min(shared, shortest)
        if shared + BLOCK_TOKENS <= shortest:  # 4 equal draws of 5000 do not happen by chance
            assert common(one.prompt, two.prompt) < shared + BLOCK_TOKENS


def common(one: tuple[int, ...], two: tuple[int, ...]) -> int:
    """Return how many first items are equal."""
    pairs = zip(one, two, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(one), len(two)))


@given(prompt=st.integers(1, 30), outputs=st.lists(st.integers(1, 9), min_size=1, max_size=5))
def test_requests_of_a_batch_have_its_lengths_and_are_there_at_the_start(
    prompt: int, outputs: list[int]
) -> None:
    requests = batch_requests(BatchWorkload(prompt, tuple(outputs)), MODEL, 0)
    check_plain(requests)
    assert [len(request.prompt) for request in requests] == [prompt] * len(outputs)
    assert [request.output_tokens for request in requests] == outputs
    assert {request.arrival_s for request in requests} == {0.0}


def test_the_seed_alone_decides_the_tokens_and_fewer_requests_are_the_first_ones() -> None:
    long, short = trace_of([9, 9, 9]), trace_of([9, 9])
    assert trace_requests(long, MODEL, 5) == trace_requests(trace_of([9, 9, 9]), MODEL, 5)
    assert trace_requests(long, MODEL, 5)[:2] == trace_requests(short, MODEL, 5)
    prompts = {trace_requests(long, MODEL, seed)[i].prompt for seed in range(3) for i in range(3)}
    assert len(prompts) == 9


def test_every_ordinary_token_is_drawn() -> None:
    model = TextModel("m", 12, special_tokens=frozenset({0, 11}))
    (request,) = batch_requests(BatchWorkload(2000, (1,)), model, 0)
    assert set(request.prompt) == set(range(1, 11))


def test_a_model_of_special_tokens_alone_is_refused() -> None:
    model = TextModel("m", 2, special_tokens=frozenset({0, 1}))
    with pytest.raises(InputError) as caught:
        batch_requests(BatchWorkload(2, (1,)), model, 0)
    assert str(caught.value) == "m: expected tokens to make prompts of, got 2 special ones"
