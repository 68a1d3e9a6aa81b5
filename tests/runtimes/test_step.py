"""Announcements of steps: other stages receive the step that was sent."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from runtimes.torch_pipeline.engine.step import (
    END,
    INLINE,
    Segment,
    Step,
    decoded,
    encoded,
    encoded_length,
)

NUMBERS = st.integers(0, 2**40)
SEGMENTS = st.builds(Segment, NUMBERS, NUMBERS, NUMBERS, NUMBERS, samples=st.booleans())
STEPS = st.builds(
    Step,
    st.integers(0, 2**40),
    st.lists(SEGMENTS, max_size=60).map(tuple),
    st.lists(SEGMENTS, max_size=60).map(tuple),
    st.lists(st.tuples(NUMBERS, NUMBERS), max_size=30).map(tuple),
)


@given(STEPS)
def test_decoding_gives_what_was_encoded(step: Step) -> None:
    numbers = encoded(step)
    assert len(numbers) == encoded_length(numbers[:INLINE].tolist()) >= INLINE
    assert decoded(numbers.tolist()) == step


def test_a_step_longer_than_one_message_is_whole() -> None:
    decodes = tuple(Segment(i, i, 7, 1, samples=True) for i in range(200))
    step = Step(3, decodes, (Segment(1, 2, 0, 9, samples=False),), ((4, 2),))
    numbers = encoded(step).tolist()
    assert len(numbers) == encoded_length(numbers[:INLINE]) > INLINE
    assert decoded(numbers) == step


def test_the_end_is_no_work() -> None:
    end = decoded(encoded(Step(END)).tolist())
    assert end.ends_run
    assert not Step(0).ends_run
    assert end.tokens == 0


@given(STEPS)
def test_tokens_and_samples_are_those_of_the_segments(step: Any) -> None:
    assert step.prompt_tokens == sum(part.tokens for part in step.chunks)
    assert step.tokens == len(step.decodes) + step.prompt_tokens
    assert step.sampled == tuple(part for part in step.decodes + step.chunks if part.samples)
