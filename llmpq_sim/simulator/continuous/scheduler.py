"""Scheduler of continuous batching that follows each request by itself.

What decodes goes first, then prompts in order of admission, then new requests in order of arrival
(or, where prompts are not cut, prompts before decodes). A request that lacks a KV block takes those
of the last one admitted. `batching` forms the same batches of cohorts, many requests at a time.
"""

from collections import deque
from dataclasses import dataclass, field

from simpy import Event

from llmpq_sim.simulator.continuous.kv_blocks import BlockPool
from llmpq_sim.simulator.continuous.mixed_costs import BatchLoad
from llmpq_sim.simulator.continuous.sequence import Name, Names
from llmpq_sim.simulator.continuous.settings import ContinuousSettings


@dataclass(eq=False)
class Request:
    """A request from its arrival to its last token.

    Attributes:
        number: its position in the workload.
        arrival_s: when it arrives.
        names: of the prefix blocks that its prompt fills, and that it filled when evicted.
        done: happens when its last token is back.
        token_s: when each of its tokens was sampled.
        computed_tokens: whose keys and values are in its blocks.
        blocks: KV blocks it holds, shared ones included.
        prefix: names of the shared ones among them.
        bounded_blocks: of its windows and states among them.
        decodes: whether its prompt, and what it had generated when it lost its blocks, is computed.
        is_running: whether it is admitted.
        in_flight: whether a batch under way holds it.
    """

    number: int
    arrival_s: float
    prompt_tokens: int
    output_tokens: int
    names: Names
    done: Event
    token_s: list[float] = field(default_factory=list)
    computed_tokens: int = 0
    blocks: int = 0
    prefix: list[Name] = field(default_factory=list)
    decodes: bool = False
    is_running: bool = False
    in_flight: bool = False
    bounded_blocks: int = 0

    @property
    def known_tokens(self) -> int:
        """Tokens of the prompt and of the output so far."""
        return self.prompt_tokens + len(self.token_s)

    @property
    def context_tokens(self) -> int:
        """Tokens of the whole prompt and output."""
        return self.prompt_tokens + self.output_tokens


@dataclass(frozen=True)
class Chunk:
    """Prompt tokens that a batch computes of one request, and how many were before them."""

    request: Request
    before: int
    tokens: int


class Batch:
    """Requests that pass the pipeline together.

    Attributes:
        number: batches formed before it.
        decodes: requests that attend to all they know and get a token.
        chunks: of prompts.
        sampled: requests that get a token.
        load: what it asks of each stage.
    """

    def __init__(self, number: int, decodes: list[Request], chunks: list[Chunk]) -> None:
        self.number = number
        self.decodes = decodes
        self.chunks = chunks
        ended = [each for each in chunks if each.before + each.tokens == each.request.known_tokens]
        self.sampled = decodes + [each.request for each in ended]
        self.load = BatchLoad(
            rows=len(decodes),
            context_sum=sum(request.known_tokens for request in decodes),
            chunks=tuple((each.before, each.tokens) for each in chunks),
            samples=len(self.sampled),
        )


class Scheduler:
    """Forms batches and takes them back.

    Attributes:
        pool: of KV blocks.
        waiting: requests to be admitted, in order.
        running: admitted ones, in order of admission.
        batches: how many were formed.
        preemptions: how often a request lost its blocks.
        reused_tokens: prompt tokens not computed because their blocks were there.
    """

    def __init__(self, settings: ContinuousSettings, pool: BlockPool) -> None:
        self.settings = settings
        self.pool = pool
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []
        self.batches = self.preemptions = self.reused_tokens = 0

    def form(self) -> Batch | None:
        """Return the next batch, or None where nothing can be scheduled."""
        form = self._mixed if self.settings.chunked_prefill else self._unmixed
        decodes, chunks = form(self.settings.token_budget)
        if not decodes and not chunks:
            return None
        self.batches += 1
        return Batch(self.batches - 1, decodes, chunks)

    def take_back(self, batch: Batch) -> None:
        """Let the requests of a batch that has returned go on or, if they are done, leave."""
        for request in batch.decodes:
            request.computed_tokens += 1
        for request in batch.sampled:
            request.decodes = True
        for request in [*batch.decodes, *(each.request for each in batch.chunks)]:
            request.in_flight = False
        for request in batch.sampled:
            if len(request.token_s) == request.output_tokens:
                self._leave(request)
                request.done.succeed()

    def _mixed(self, budget: int) -> tuple[list[Request], list[Chunk]]:
        """Fill a batch with decodes, prompts begun and new ones, the last only if blocks abound."""
        preemptions = self.preemptions
        decodes = self._decodes()
        chunks = self._continue_prompts(budget - len(decodes))
        if self.preemptions == preemptions:
            left = budget - len(decodes) - sum(each.tokens for each in chunks)
            chunks += self._admit(left)
        return decodes, chunks

    def _unmixed(self, budget: int) -> tuple[list[Request], list[Chunk]]:
        """Return new prompts, each whole, or else decodes."""
        chunks = self._admit(budget)
        return ([], chunks) if chunks else (self._decodes(), [])

    def _decodes(self) -> list[Request]:
        decodes = []
        for request in list(self.running):
            if not request.decodes or request.in_flight or not request.is_running:
                continue
            if self._obtain(request, request.known_tokens):
                request.in_flight = True
                decodes.append(request)
        return decodes

    def _continue_prompts(self, budget: int) -> list[Chunk]:
        chunks = []
        for request in list(self.running):
            if request.decodes or request.in_flight or not request.is_running or not budget:
                continue
            left = request.known_tokens - request.computed_tokens
            tokens = min(left, budget, self.settings.most_chunk_tokens)
            if self._obtain(request, request.computed_tokens + tokens):
                chunks.append(self._scheduled(request, tokens))
                budget -= tokens
        return chunks

    def _admit(self, budget: int) -> list[Chunk]:
        """Admit waiting requests in order until one finds no room."""
        chunks: list[Chunk] = []
        while self.waiting and budget and len(self.running) < self.settings.sequence_limit:
            request, pool = self.waiting[0], self.pool
            shared = pool.longest_cached_prefix(request)
            reused = shared * pool.prefix_tokens
            tokens = request.known_tokens - reused
            if tokens > budget and not self.settings.chunked_prefill:
                break
            tokens = min(tokens, budget, self.settings.most_chunk_tokens)
            blocks = self._blocks(request, reused + tokens) - shared * pool.prefix_kv_blocks
            needed = blocks
            if self.settings.admission == "no-evict":
                needed = self._still_needed(request, shared)
            if needed > pool.available_beside(request, shared):
                break
            self.waiting.popleft()
            self._start(request, shared, blocks)
            chunks.append(self._scheduled(request, tokens))
            budget -= tokens
        return chunks

    def _still_needed(self, request: Request, shared: int) -> int:
        """Return the blocks until the last tokens of all that run and one that shares some."""
        own = self._blocks(request, request.context_tokens) - shared * self.pool.prefix_kv_blocks
        others = (self._blocks(one, one.context_tokens) - one.blocks for one in self.running)
        return own + sum(others)

    def _blocks(self, request: Request, tokens: int) -> int:
        """Return the blocks of so many tokens of a request, and of its windows and states."""
        return self.settings.blocks(tokens) + request.bounded_blocks

    def _start(self, request: Request, shared: int, blocks: int) -> None:
        self.pool.share(request, shared)
        self.pool.take(blocks)
        request.blocks += blocks
        request.computed_tokens = shared * self.pool.prefix_tokens
        request.is_running = True
        self.reused_tokens += request.computed_tokens
        self.running.append(request)

    def _scheduled(self, request: Request, tokens: int) -> Chunk:
        before = request.computed_tokens
        request.computed_tokens += tokens
        request.in_flight = True
        self.pool.publish(request, before)
        return Chunk(request, before, tokens)

    def _obtain(self, request: Request, tokens: int) -> bool:
        """Take the blocks that a running request lacks to hold so many tokens.

        Where none are free, idle requests admitted later lose theirs, the last one first. Where
        there is none, the request waits; if it is itself the last one admitted, it gives way.
        """
        blocks = self._blocks(request, tokens) - request.blocks
        while blocks > self.pool.available:
            victim = self._last_idle_after(request)
            if victim is None:
                if self.running[-1] is request:
                    self._preempt(request)
                return False
            self._preempt(victim)
        self.pool.take(blocks)
        request.blocks += blocks
        return True

    def _last_idle_after(self, request: Request) -> Request | None:
        for other in reversed(self.running):
            if other is request:
                return None
            if not other.in_flight:
                return other
        return None

    def _preempt(self, request: Request) -> None:
        if self.settings.prefix_caching:
            self.pool.name_own(request, request.number)
        self._leave(request)
        request.computed_tokens, request.decodes = 0, False
        self.waiting.appendleft(request)
        self.preemptions += 1

    def _leave(self, request: Request) -> None:
        self.running.remove(request)
        request.is_running = False
        self.pool.release(request)
