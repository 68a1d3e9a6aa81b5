"""Schedules: the simulator's steps, and rows of the cache that hold what steps expect."""

from collections import deque
from dataclasses import dataclass, field, replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from llmpq_sim.core.plan import MicroBatching
from llmpq_sim.core.scenario import BatchWorkload
from llmpq_sim.core.schedule import BatchSchedule, batch_schedules
from llmpq_sim.simulator.continuous.engine import simulate_service
from llmpq_sim.simulator.continuous.settings import ContinuousSettings
from llmpq_sim.simulator.continuous.watch import Watch
from runtimes.base import Completion, TokenRequest
from runtimes.torch_pipeline.engine.continuous_schedule import ContinuousSchedule
from runtimes.torch_pipeline.engine.sequences import Schedule
from runtimes.torch_pipeline.engine.static_schedule import StaticSchedule, most_rows
from runtimes.torch_pipeline.engine.step import Segment, Step
from tests.serving import even_pipeline, trace

STOP = 7
ORDINARY = 5


def request(
    number: int, prompt: int = 1, outputs: int = 1, arrival_s: float = 0.0, stops: bool = False
) -> TokenRequest:
    return TokenRequest(
        f"request-{number}",
        tuple(range(10, 10 + prompt)),
        outputs,
        stop_tokens=(STOP,) if stops else (),
        arrival_s=arrival_s,
    )


@dataclass
class Cache:
    """A stage's cache in which a row is a list of (request, position) instead of keys."""

    rows: list[list[tuple[int, int]]]
    steps: list[Step] = field(default_factory=list)

    def compute(self, step: Step) -> None:
        """Check that a step finds what it needs in its rows, and store what it computes."""
        for source, target in step.moves:
            self.rows[target] = list(self.rows[source])
        assert len({part.row for part in step.segments}) == len(step.segments)
        for part in step.segments:
            row = self.rows[part.row]
            before = [(part.request, position) for position in range(part.start)]
            assert row[: part.start] == before
            row[part.start :] = [(part.request, part.start + i) for i in range(part.tokens)]
        self.steps.append(step)


@dataclass
class Drive:
    """Serves a schedule with made-up tokens over a cache of labels.

    Attributes:
        schedule: which steps there are.
        cache: in which labels stand for keys and values.
        in_flight: most steps under way at once.
        stops_after: by request, after how many tokens a stop token is sampled; never if missing.
    """

    schedule: Schedule
    cache: Cache
    in_flight: int = 1
    stops_after: dict[int, int] = field(default_factory=dict)
    sampled: dict[int, int] = field(default_factory=dict)
    served: list[Completion] = field(default_factory=list)
    now_s: float = 0.0

    def run(self) -> list[Step]:
        """Serve all; return the steps in order."""
        under_way: deque[Step] = deque()
        while not self.schedule.is_done:
            room = len(under_way) < self.in_flight
            step = self.schedule.next_step(self.now_s) if room else None
            if step is not None:
                assert len(self.schedule.token_ids(step)) == step.tokens > 0
                assert step.number == len(self.cache.steps)
                self.cache.compute(step)
                under_way.append(step)
            elif under_way:
                step = under_way.popleft()
                self.served += self.schedule.take_back(step, self._tokens(step))
            else:
                arrival_s = self.schedule.next_arrival_s(self.now_s)
                assert arrival_s is not None
                self.now_s = arrival_s
        assert not under_way
        return self.cache.steps

    def _tokens(self, step: Step) -> list[int]:
        for part in step.sampled:
            self.sampled[part.request] = self.sampled.get(part.request, 0) + 1
        return [
            STOP if self.sampled[part.request] == self.stops_after.get(part.request) else ORDINARY
            for part in step.sampled
        ]


def empty_cache(rows: int) -> Cache:
    return Cache([[] for _ in range(rows)])


@st.composite
def static_cases(draw: Any) -> tuple[list[int], int, MicroBatching]:
    """Return output tokens of all requests, the batch, and how it is cut, prompts too or not."""
    outputs = draw(st.lists(st.integers(1, 6), min_size=1, max_size=14))
    batch = draw(st.integers(1, len(outputs)))
    decode = draw(st.integers(1, batch))
    in_flight = draw(st.integers(1, -(-batch // decode)))
    chunk_tokens = draw(st.none() | st.integers(1, 5))
    batching = MicroBatching(draw(st.integers(1, batch)), decode, in_flight, chunk_tokens)
    return outputs, batch, batching


def shapes_of(
    outputs: list[int], batch: int, batching: MicroBatching, prompt: int
) -> list[BatchSchedule]:
    """Return the simulator's waves of all batches, the last of which may be smaller."""
    shapes: list[BatchSchedule] = []
    for first in range(0, len(outputs), batch):
        part = tuple(outputs[first : first + batch])
        shapes += batch_schedules(BatchWorkload(prompt, part), batching.within(len(part)))
    return shapes


@given(static_cases(), st.integers(1, 30), st.integers(1, 9))
def test_static_steps_are_those_of_the_simulator(
    case: tuple[list[int], int, MicroBatching], in_flight: int, prompt: int
) -> None:
    outputs, batch, batching = case
    requests = [request(i, prompt, wanted) for i, wanted in enumerate(outputs)]
    drive = Drive(
        StaticSchedule(requests, batch, batching),
        empty_cache(most_rows(len(outputs), batch, batching)),
    )
    drive.in_flight = in_flight
    expected: list[tuple[int, list[tuple[int, int, bool]]]] = []
    for shape in shapes_of(outputs, batch, batching, prompt):
        expected += [
            (0, [(each.before_tokens, each.tokens, each.is_last)] * each.rows)
            for each in shape.prefill_steps
        ]
        expected += [(shape.decode_rows[group][turn], []) for group, turn in shape.decode_order]
    assert [
        (len(step.decodes), [(part.start, part.tokens, part.samples) for part in step.chunks])
        for step in drive.run()
    ] == expected
    assert [len(one.tokens) for one in sorted(drive.served, key=lambda one: one.request)] == outputs


@given(static_cases(), st.integers(1, 30), st.data())
def test_static_rows_hold_their_sequences_when_outputs_stop_at_random(
    case: tuple[list[int], int, MicroBatching], in_flight: int, data: st.DataObject
) -> None:
    outputs, batch, batching = case
    stops = {i: data.draw(st.integers(1, 8)) for i in range(len(outputs))}
    requests = [request(i, 1 + i % 4, wanted, stops=True) for i, wanted in enumerate(outputs)]
    drive = Drive(
        StaticSchedule(requests, batch, batching),
        empty_cache(most_rows(len(outputs), batch, batching)),
    )
    drive.in_flight, drive.stops_after = in_flight, stops
    steps = drive.run()
    for one in drive.served:
        length = min(outputs[one.request], stops[one.request])
        assert len(one.tokens) == length
        assert one.ended_by == ("stop" if one.tokens[-1] == STOP else "length")
        decodes = [part for step in steps for part in step.decodes if part.request == one.request]
        assert len(decodes) == length - 1  # none after the last token: it left at once
    for step in steps:  # decodes lie side by side, so that the cache need not be gathered
        rows = [part.row for part in step.decodes]
        assert rows == list(range(rows[0], rows[0] + len(rows))) if rows else True


@given(static_cases(), st.data())
def test_prompts_of_a_micro_batch_end_together_and_no_chunk_is_larger_than_planned(
    case: tuple[list[int], int, MicroBatching], data: st.DataObject
) -> None:
    outputs, batch, batching = case
    prompts = [data.draw(st.integers(1, 12)) for _ in outputs]
    requests = [request(i, prompts[i], wanted) for i, wanted in enumerate(outputs)]
    cache = empty_cache(most_rows(len(outputs), batch, batching))
    drive = Drive(StaticSchedule(requests, batch, batching), cache, in_flight=20)
    of = {i: list[tuple[int, Segment]]() for i in range(len(prompts))}
    for step in drive.run():
        sampled = [part.samples for part in step.chunks]
        assert all(sampled) or not any(sampled)
        assert len(step.chunks) <= batching.prefill
        assert all(part.tokens <= (batching.chunk_tokens or 12) for part in step.chunks)
        for part in step.chunks:
            of[part.request].append((step.number, part))
    for prompt, parts in zip(prompts, of.values(), strict=True):
        assert sum(part.tokens for _, part in parts) == prompt
        numbers = [number for number, _ in parts]
        assert numbers == list(range(numbers[0], numbers[0] + len(parts)))


@given(static_cases())
def test_a_static_batch_begins_when_the_one_before_is_done(
    case: tuple[list[int], int, MicroBatching],
) -> None:
    outputs, batch, batching = case
    requests = [request(i, 2, wanted) for i, wanted in enumerate(outputs)]
    drive = Drive(
        StaticSchedule(requests, batch, batching),
        empty_cache(most_rows(len(outputs), batch, batching)),
    )
    drive.in_flight = 20
    batches = [part.request // batch for step in drive.run() for part in step.segments]
    assert batches == sorted(batches)


def test_a_smaller_last_batch_may_need_more_rows_than_a_whole_one() -> None:
    batching = MicroBatching(2, 4, 1)  # groups of 3 and 2 of five requests, one of 4 of four
    assert batching.wave_rows(5) == 3
    assert most_rows(9, 5, batching) == 4


# ---- continuous batching


@st.composite
def continuous_cases(draw: Any) -> tuple[list[tuple[int, int]], ContinuousSettings]:
    """Return prompt and output tokens of requests, and settings."""
    lengths = st.tuples(st.integers(1, 12), st.integers(1, 6))
    chunked = draw(st.booleans())
    budget = draw(st.integers(1, 20)) if chunked else draw(st.integers(18, 30))
    settings = ContinuousSettings(
        token_budget=budget,
        sequence_limit=draw(st.integers(1, min(budget, 6))),
        longest_context_tokens=18,
        chunked_prefill=chunked,
        admission=draw(st.sampled_from(["evict", "no-evict"])),
        chunk_tokens=draw(st.none() | st.integers(1, 8)) if chunked else None,
    )
    return draw(st.lists(lengths, min_size=1, max_size=12)), settings


@given(continuous_cases(), st.none() | st.integers(1, 14))
def test_continuous_steps_are_the_batches_of_the_simulator(
    case: tuple[list[tuple[int, int]], ContinuousSettings], users: int | None
) -> None:
    lengths, settings = case
    batches: list[tuple[int, int]] = []
    prompts, outputs = zip(*lengths, strict=True)
    simulate_service(
        even_pipeline(settings),
        replace(trace([0.0] * len(lengths), prompts, outputs), concurrency=users),
        settings,
        Watch(on_batch=lambda _, decodes, prompts, *__: batches.append((decodes, prompts))),
    )
    requests = [request(i, *each) for i, each in enumerate(lengths)]
    drive = Drive(ContinuousSchedule(requests, settings, 100, users), empty_cache(100))
    assert [(len(step.decodes), step.prompt_tokens) for step in drive.run()] == batches


@given(continuous_cases(), st.integers(1, 6), st.integers(1, 4), st.data())
def test_continuous_batching_keeps_its_limits(
    case: tuple[list[tuple[int, int]], ContinuousSettings],
    rows: int,
    in_flight: int,
    data: st.DataObject,
) -> None:
    lengths, settings = case
    arrivals = [data.draw(st.sampled_from((0.0, 1.0, 2.0))) for _ in lengths]
    requests = [request(i, *each, arrivals[i], stops=True) for i, each in enumerate(lengths)]
    drive = Drive(ContinuousSchedule(requests, settings, rows), empty_cache(rows), in_flight)
    drive.stops_after = {i: data.draw(st.integers(1, 8)) for i in range(len(lengths))}
    steps = drive.run()
    assert all(step.tokens <= settings.token_budget for step in steps)
    longest = max(part.tokens for step in steps for part in step.chunks)
    assert longest <= settings.most_chunk_tokens
    assert sorted(one.request for one in drive.served) == list(range(len(lengths)))
    for one in drive.served:
        assert len(one.tokens) == min(lengths[one.request][1], drive.stops_after[one.request])
    chunks = [part for step in steps for part in step.chunks]
    begun = list(dict.fromkeys(part.request for part in chunks))
    assert begun == sorted(begun, key=lambda number: (arrivals[number], number))
    for number, (prompt, _) in enumerate(lengths):
        own = [part for part in chunks if part.request == number]
        assert sum(part.tokens for part in own) == prompt
        assert [part.samples for part in own] == [False] * (len(own) - 1) + [True]
    if not settings.chunked_prefill:
        assert all(part.start == 0 for part in chunks)
        assert not any(step.decodes and step.chunks for step in steps)


@given(continuous_cases(), st.integers(1, 6))
def test_no_more_sequences_run_than_there_are_rows_and_places(
    case: tuple[list[tuple[int, int]], ContinuousSettings], rows: int
) -> None:
    lengths, settings = case
    requests = [request(i, *each) for i, each in enumerate(lengths)]
    drive = Drive(ContinuousSchedule(requests, settings, rows), empty_cache(rows), 3)
    steps = drive.run()
    spans: dict[int, tuple[int, int]] = {}
    for step in steps:
        for part in step.segments:
            first = spans.get(part.request, (step.number, 0))[0]
            spans[part.request] = (first, step.number)
    most = min(rows, settings.sequence_limit)
    for step in steps:
        assert sum(first <= step.number <= last for first, last in spans.values()) <= most


def test_a_request_is_not_scheduled_before_it_arrives() -> None:
    settings = ContinuousSettings(8, 4, 18)
    schedule = ContinuousSchedule([request(0, 2, 1, 3.0), request(1, 2, 1, 1.5)], settings, 4)
    assert schedule.next_step(1.0) is None
    assert schedule.next_arrival_s(1.0) == 1.5
    first = schedule.next_step(1.5)
    assert first is not None
    assert [part.request for part in first.chunks] == [1]
    assert schedule.next_arrival_s(1.5) == 3.0
    second = schedule.next_step(3.0)
    assert second is not None
    assert [part.request for part in second.chunks] == [0]
    assert schedule.next_arrival_s(3.0) is None


def test_a_row_is_given_on_as_soon_as_its_sequence_is_finished() -> None:
    settings = ContinuousSettings(8, 4, 18)
    schedule = ContinuousSchedule([request(0, 2, 1), request(1, 3, 2)], settings, 1)
    first = schedule.next_step(0.0)
    assert first == Step(0, (), (Segment(0, 0, 0, 2, samples=True),))
    assert schedule.next_step(0.0) is None
    assert schedule.take_back(first, [ORDINARY]) == [Completion(0, (ORDINARY,), "length")]
    assert schedule.next_step(0.0) == Step(1, (), (Segment(1, 0, 0, 3, samples=True),))
