from itertools import accumulate, chain

from hypothesis import given
from hypothesis import strategies as st

from llmpq_sim.core.plan import MicroBatching, equal_parts
from llmpq_sim.core.scenario import BatchWorkload
from llmpq_sim.core.schedule import (
    BatchSchedule,
    PrefillStep,
    batch_schedules,
    counted_batch_schedules,
)

sizes = st.integers(1, 12)
lengths = st.lists(st.integers(1, 6), min_size=1, max_size=12).map(tuple)


@st.composite
def batches(draw: st.DrawFn) -> tuple[BatchWorkload, MicroBatching]:
    """Any lengths of outputs, cut in any way."""
    output_tokens = draw(lengths)
    chunk_tokens = draw(st.none() | st.integers(1, 9))
    batching = MicroBatching(draw(sizes), draw(sizes), draw(sizes), chunk_tokens)
    return BatchWorkload(8, output_tokens), batching


def whole(*rows: int, tokens: int) -> tuple[PrefillStep, ...]:
    return tuple(PrefillStep(each, 0, tokens, is_last=True) for each in rows)


@given(st.integers(1, 200), st.integers(1, 50))
def test_equal_parts_are_few_and_differ_by_one_at_most(total: int, largest: int) -> None:
    parts = equal_parts(total, largest)
    assert sum(parts) == total
    assert len(parts) == -(-total // largest)
    assert list(parts) == sorted(parts, reverse=True)
    assert largest >= parts[0] <= parts[-1] + 1


@given(batches())
def test_every_row_is_prefilled_once_and_generates_what_it_wants(
    batch: tuple[BatchWorkload, MicroBatching],
) -> None:
    workload, batching = batch
    shapes = batch_schedules(workload, batching)
    prefill = [step for shape in shapes for step in shape.prefill_steps]
    assert sum(step.rows for step in prefill if step.is_last) == workload.requests
    assert sum(step.step_tokens for step in prefill) == workload.requests * 8
    assert sum(sum(shape.group_rows) for shape in shapes) == workload.requests
    decoded = sum(sum(rows) for shape in shapes for rows in shape.decode_rows)
    assert workload.requests + decoded == workload.total_output_tokens


@given(batches())
def test_rows_of_a_group_only_become_fewer(batch: tuple[BatchWorkload, MicroBatching]) -> None:
    for shape in batch_schedules(*batch):
        for rows, group in zip(shape.decode_rows, shape.group_rows, strict=True):
            assert list(rows) == sorted(rows, reverse=True)
            assert all(1 <= count <= group for count in rows)


@given(batches())
def test_chunks_of_prompts_are_equal_and_follow_each_other(
    batch: tuple[BatchWorkload, MicroBatching],
) -> None:
    workload, batching = batch
    for shape in batch_schedules(workload, batching):
        starts = [number for number, step in enumerate(shape.prefill_steps) if not step[1]]
        for start, end in zip(starts, [*starts[1:], len(shape.prefill_steps)], strict=True):
            chunks = shape.prefill_steps[start:end]
            tokens = tuple(step.tokens for step in chunks)
            assert tokens == equal_parts(8, batching.chunk_tokens or 8)
            assert [step.before_tokens for step in chunks] == [0, *accumulate(tokens)][:-1]
            assert len({step.rows for step in chunks}) == 1
            assert [step.is_last for step in chunks] == [False] * (len(chunks) - 1) + [True]


@given(batches())
def test_a_group_is_released_by_the_prefill_of_its_last_row(
    batch: tuple[BatchWorkload, MicroBatching],
) -> None:
    for shape in batch_schedules(*batch):
        prefilled = list(accumulate(step.rows * step.is_last for step in shape.prefill_steps))
        ends = list(accumulate(shape.group_rows))
        released = shape.releases()
        assert sorted(chain.from_iterable(released)) == list(range(len(ends)))
        for number, groups in enumerate(released):
            before = prefilled[number - 1] if number else 0
            assert all(before < ends[group] <= prefilled[number] for group in groups)


@given(batches())
def test_visits_are_numbered_prefill_first_then_by_round(
    batch: tuple[BatchWorkload, MicroBatching],
) -> None:
    for shape in batch_schedules(*batch):
        prefills = len(shape.prefill_rows)
        assert sorted(shape.step_of.values()) == list(range(prefills, shape.steps))
        turns = [turn for _, turn in shape.decode_order]
        assert turns == sorted(turns)


@given(batches())
def test_waves_are_counted_by_shape(batch: tuple[BatchWorkload, MicroBatching]) -> None:
    counted = counted_batch_schedules(*batch)
    assert sum(count for _, count in counted) == len(batch_schedules(*batch))
    assert len({shape for shape, _ in counted}) == len(counted)


def test_the_papers_batch_is_four_prefills_and_four_groups() -> None:
    workload = BatchWorkload(512, (100,) * 32)
    assert batch_schedules(workload, MicroBatching(8, 8, 4)) == [
        BatchSchedule(whole(8, 8, 8, 8, tokens=512), (8, 8, 8, 8), ((8,) * 99,) * 4)
    ]


def test_groups_beyond_those_in_flight_form_the_next_wave() -> None:
    workload = BatchWorkload(8, (3, 1, 2, 5, 4))
    assert batch_schedules(workload, MicroBatching(1, 2, 2)) == [
        BatchSchedule(whole(1, 1, 1, 1, tokens=8), (2, 2), ((1, 1), (2, 1, 1, 1))),
        BatchSchedule(whole(1, tokens=8), (1,), ((1, 1, 1),)),
    ]


def test_a_group_of_single_tokens_has_no_round() -> None:
    (shape,) = batch_schedules(BatchWorkload(8, (1, 1, 4)), MicroBatching(3, 2, 2))
    assert shape.decode_rows == ((), (1, 1, 1))
    assert shape.rounds == 3
    assert shape.releases() == [[0, 1]]
