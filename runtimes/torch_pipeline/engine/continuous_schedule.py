"""Schedule of continuous batching: the steps that serve requests.

As the simulator does: what can decode goes first, all of it; then prompts in order of admission,
then those that wait in order of arrival, under the token budget. In a closed loop a request waits
once one that was in flight is finished. A sequence reserves a whole row of KV cache when it is
admitted, so none is ever preempted, whatever the settings say of admission; as many run at once as
there are rows.
"""

from collections import deque
from collections.abc import Iterator, Sequence

from llmpq_sim.simulator.continuous.settings import ContinuousSettings
from runtimes.base import Completion, TokenRequest
from runtimes.torch_pipeline.engine.sequences import LiveSequence, finished
from runtimes.torch_pipeline.engine.step import Segment, Step


class ContinuousSchedule:
    """The steps of iteration-level batching.

    Attributes:
        requests: all of them.
        settings: token budget, and whether and how small prompts are cut.
    """

    def __init__(
        self,
        requests: Sequence[TokenRequest],
        settings: ContinuousSettings,
        rows: int,
        concurrency: int | None = None,
    ) -> None:
        self.requests = requests
        self.settings = settings
        self._free_rows = sorted(range(min(rows, settings.sequence_limit)), reverse=True)
        order = sorted(range(len(requests)), key=lambda number: requests[number].arrival_s)
        users = len(order) if concurrency is None else concurrency
        self._waiting = deque(order[:users])
        self._to_come = deque(order[users:])
        self._running: dict[int, LiveSequence] = {}  # by number, in order of admission
        self._number = 0

    @property
    def is_done(self) -> bool:
        """Whether every request is finished."""
        return not (self._waiting or self._running or self._to_come)

    def next_arrival_s(self, now_s: float) -> float | None:
        """Return when the first of those that wait arrives, None where it is there already."""
        if not self._waiting:
            return None
        arrival_s = self.requests[self._waiting[0]].arrival_s
        return arrival_s if arrival_s > now_s else None

    def next_step(self, now_s: float) -> Step | None:
        """Return a step of all that can be scheduled now, or None."""
        if self.settings.chunked_prefill:
            decodes = self._decodes()
            chunks = self._chunks(self.settings.token_budget - len(decodes), now_s)
        else:
            chunks = self._chunks(self.settings.token_budget, now_s)
            decodes = [] if chunks else self._decodes()
        if not decodes and not chunks:
            return None
        number, self._number = self._number, self._number + 1
        return Step(number, tuple(decodes), tuple(chunks))

    def token_ids(self, step: Step) -> list[int]:
        """Return the token ids that enter with a step."""
        of = self._running
        return [token for part in step.segments for token in of[part.request].entering(part)]

    def take_back(self, step: Step, tokens: list[int]) -> list[Completion]:
        """Take a step's tokens, give back the rows of who is done, and return them.

        In a closed loop each of them lets the next request in.
        """
        for part in step.segments:
            self._running[part.request].in_flight = False
        served = []
        for part, token in zip(step.sampled, tokens, strict=True):
            sequence = self._running[part.request]
            sequence.take(token)
            if (done := finished(sequence)) is not None:
                served.append(done)
                del self._running[sequence.number]
                self._free_rows.append(sequence.row)
                if self._to_come:
                    self._waiting.append(self._to_come.popleft())
        self._free_rows.sort(reverse=True)
        return served

    def _decodes(self) -> list[Segment]:
        """Return the next token of all that can decode, side by side in the cache."""
        ready = [one for one in self._running.values() if one.tokens and not one.in_flight]
        for sequence in ready:
            sequence.in_flight = True
        return [one.decode() for one in sorted(ready, key=lambda one: one.row)]

    def _chunks(self, budget: int, now_s: float) -> list[Segment]:
        chunks: list[Segment] = []
        if not budget:
            return chunks
        for sequence in self._prefilling(now_s):
            left = sequence.prompt_tokens - sequence.computed_tokens
            tokens = min(left, budget, self.settings.most_chunk_tokens)
            if tokens < left and not self.settings.chunked_prefill:
                self._give_back(sequence)
                break
            chunks.append(sequence.chunk(tokens))
            sequence.computed_tokens += tokens
            sequence.in_flight = True
            budget -= tokens
            if not budget:
                break
        return chunks

    def _prefilling(self, now_s: float) -> Iterator[LiveSequence]:
        """Yield who has prompt tokens to compute: those admitted, then those that can be."""
        for sequence in list(self._running.values()):
            if not sequence.in_flight and sequence.computed_tokens < sequence.prompt_tokens:
                yield sequence
        while self._waiting and self._free_rows:
            request = self.requests[self._waiting[0]]
            if request.arrival_s > now_s:
                return
            number = self._waiting.popleft()
            sequence = LiveSequence(number, request, self._free_rows.pop())
            self._running[number] = sequence
            yield sequence

    def _give_back(self, sequence: LiveSequence) -> None:
        """Undo an admission: the whole prompt did not fit the budget that was left."""
        del self._running[sequence.number]
        self._free_rows.append(sequence.row)
        self._waiting.appendleft(sequence.number)
