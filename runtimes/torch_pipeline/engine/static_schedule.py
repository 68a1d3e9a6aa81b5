"""Schedule of the static policy: exactly the steps of the plan.

Requests are taken a batch at a time. A batch is cut into waves of decode groups; a wave's rows are
prefilled in micro-batches, then each group decodes in rounds, as ``llmpq_sim.core.schedule`` has
it. A sequence that ends leaves its group at once: the last row of the group takes its place.

Where the plan cuts prompts, the chunks of a micro-batch follow each other without waiting. Prompts
of one micro-batch end together, as if padded on the left: the last chunk holds the end of each and
samples, and a prompt shorter than the longest joins in a later chunk.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from llmpq_sim.core.plan import MicroBatching, equal_parts
from runtimes.base import Completion, TokenRequest
from runtimes.torch_pipeline.engine.sequences import LiveSequence, finished
from runtimes.torch_pipeline.engine.step import Segment, Step


@dataclass
class _Group:
    """Rows that decode together; those alive come first."""

    first_row: int
    alive: list[LiveSequence]
    moves: list[tuple[int, int]]


@dataclass(frozen=True)
class _Prefill:
    """A chunk of the prompts of some rows.

    Attributes:
        rows: of the wave.
        left_tokens: of each of these prompts that come after it.
        released: groups that decode once it is back.
    """

    rows: range
    left_tokens: int
    released: tuple[int, ...]


class StaticSchedule:
    """The steps of the static policy.

    Attributes:
        requests: all of them, in order.
        batch: requests of one batch.
        micro_batching: how a batch is cut.
    """

    def __init__(
        self, requests: Sequence[TokenRequest], batch: int, micro_batching: MicroBatching
    ) -> None:
        self.requests = requests
        self.batch = batch
        self.micro_batching = micro_batching
        self._waves = deque(_waves(len(requests), batch, micro_batching))
        self._ready: deque[tuple[str, int]] = deque()
        self._in_flight: deque[tuple[str, int]] = deque()
        self._number = 0
        self._rows: list[LiveSequence] = []
        self._prefills: list[_Prefill] = []
        self._groups: list[_Group] = []

    @property
    def is_done(self) -> bool:
        """Whether every request is finished."""
        return not (self._ready or self._in_flight or self._waves)

    def next_arrival_s(self, now_s: float) -> float | None:  # noqa: ARG002
        """Return None: a batch is there from the start."""
        return None

    def next_step(self, now_s: float) -> Step | None:  # noqa: ARG002
        """Return the next step of the wave, or of the next wave once this one is done."""
        if not self._ready and not self._in_flight and self._waves:
            self._begin(*self._waves.popleft())
        if not self._ready:
            return None
        step = self._ready.popleft()
        self._in_flight.append(step)
        return self._step(*step)

    def token_ids(self, step: Step) -> list[int]:
        """Return the token ids that enter with a step."""
        of = {sequence.number: sequence for sequence in self._rows}
        return [token for part in step.segments for token in of[part.request].entering(part)]

    def take_back(self, step: Step, tokens: list[int]) -> list[Completion]:
        """Take a step's tokens, let those go on that are not done, and return who is."""
        of = {sequence.number: sequence for sequence in self._rows}
        served = []
        for part, token in zip(step.sampled, tokens, strict=True):
            sequence = of[part.request]
            sequence.take(token)
            if (done := finished(sequence)) is not None:
                served.append(done)
        kind, number = self._in_flight.popleft()
        groups = self._prefills[number].released if kind == "prefill" else (number,)
        for group in groups:
            _close_gaps(self._groups[group])
            if self._groups[group].alive:
                self._ready.append(("decode", group))
        return served

    def _begin(self, first_request: int, groups: tuple[int, ...]) -> None:
        rows = sum(groups)
        self._rows = [
            LiveSequence(first_request + row, self.requests[first_request + row], row)
            for row in range(rows)
        ]
        last_rows = list(accumulate(groups))
        firsts = [0, *last_rows[:-1]]
        self._groups = [
            _Group(first, self._rows[first:last], [])
            for first, last in zip(firsts, last_rows, strict=True)
        ]
        self._prefills = [
            step for part in self._parts(rows) for step in self._prefills_of(part, last_rows)
        ]
        self._ready.extend(("prefill", number) for number in range(len(self._prefills)))

    def _parts(self, rows: int) -> list[range]:
        """Return the rows of each prefill micro-batch of a wave."""
        ends = list(accumulate(equal_parts(rows, min(self.micro_batching.prefill, rows))))
        return [range(start, end) for start, end in pairwise([0, *ends])]

    def _prefills_of(self, part: range, last_rows: list[int]) -> Iterator[_Prefill]:
        """Yield the chunks of a prefill micro-batch, cut as the plan cuts its longest prompt."""
        left_tokens = max(self._rows[row].prompt_tokens for row in part)
        ended = tuple(
            group for group, last in enumerate(last_rows) if part.start < last <= part.stop
        )
        for tokens in self.micro_batching.chunks(left_tokens):
            left_tokens -= tokens
            yield _Prefill(part, left_tokens, () if left_tokens else ended)

    def _step(self, kind: str, number: int) -> Step:
        step_number, self._number = self._number, self._number + 1
        if kind == "prefill":
            prefill = self._prefills[number]
            chunks = (self._chunk(self._rows[row], prefill.left_tokens) for row in prefill.rows)
            return Step(step_number, chunks=tuple(chunk for chunk in chunks if chunk.tokens))
        group = self._groups[number]
        moves, group.moves = tuple(group.moves), []
        return Step(step_number, tuple(one.decode() for one in group.alive), moves=moves)

    def _chunk(self, sequence: LiveSequence, left_tokens: int) -> Segment:
        """Return what of a prompt comes before its last so many tokens and is not computed yet."""
        end = max(sequence.prompt_tokens - left_tokens, 0)
        chunk = sequence.chunk(end - sequence.computed_tokens)
        sequence.computed_tokens = end
        return chunk


def most_rows(requests: int, batch: int, micro_batching: MicroBatching) -> int:
    """Return the most rows of any wave; a smaller last batch may have larger groups than others."""
    return max(sum(groups) for _, groups in _waves(requests, batch, micro_batching))


def _waves(
    requests: int, batch: int, micro_batching: MicroBatching
) -> list[tuple[int, tuple[int, ...]]]:
    """Return the first request and the rows of each group of every wave of every batch."""
    waves, first = [], 0
    while first < requests:
        rows = min(batch, requests - first)
        for groups in micro_batching.within(rows).waves(rows):
            waves.append((first, groups))
            first += sum(groups)
    return waves


def _close_gaps(group: _Group) -> None:
    """Take out who is done; the last rows move into the places of those before them."""
    stay = [one for one in group.alive if one.ended_by is None]
    wanted = range(group.first_row, group.first_row + len(stay))
    holes = iter(sorted(set(wanted) - {one.row for one in stay}))
    for one in reversed(stay):
        if one.row not in wanted:
            hole = next(holes)
            group.moves.append((one.row, hole))
            one.row = hole
    group.alive = sorted(stay, key=lambda one: one.row)
