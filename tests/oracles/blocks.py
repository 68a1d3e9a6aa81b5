"""KV blocks in use: nothing is counted along, all is looked up."""

from dataclasses import dataclass, field

from llmpq_sim.simulator.continuous.sequence import Name, Names
from llmpq_sim.simulator.continuous.settings import ContinuousSettings


@dataclass(eq=False)
class Request:
    """A request, followed by itself."""

    number: int
    prompt_tokens: int
    output_tokens: int
    names: Names
    token_s: list[float] = field(default_factory=list)
    computed_tokens: int = 0
    decodes: bool = False
    in_flight: bool = False
    own_blocks: int = 0
    prefix: list[Name] = field(default_factory=list)
    bounded_blocks: int = 0

    @property
    def known_tokens(self) -> int:
        """Tokens of the prompt and of the output so far."""
        return self.prompt_tokens + len(self.token_s)


class Blocks:
    """Blocks by who holds them."""

    def __init__(self, capacity: int, per_prefix: int, settings: ContinuousSettings) -> None:
        self.capacity = capacity
        self.per_prefix = per_prefix
        self.prefix_tokens = per_prefix * settings.block_tokens
        self.settings = settings
        self.running: list[Request] = []  # in order of admission
        self.cached: list[Name] = []  # prefix blocks there, the one to be evicted first in front

    def used_prefixes(self) -> set[Name]:
        """Return the prefix blocks that running requests share."""
        return {name for one in self.running for name in one.prefix}

    def used(self) -> int:
        """Return the blocks that running requests hold."""
        own = sum(one.own_blocks for one in self.running)
        return own + self.per_prefix * len(self.used_prefixes())

    def available(self) -> int:
        """Return the blocks that nobody holds."""
        return self.capacity - self.used()

    def needed(self, request: Request, tokens: int) -> int:
        """Return the blocks a request lacks to hold so many tokens."""
        held = request.own_blocks + self.per_prefix * len(request.prefix)
        return self.settings.blocks(tokens) + request.bounded_blocks - held

    def ever_needed(self) -> int:
        """Return the blocks that all running requests lack until their last tokens."""
        return sum(self.needed(one, one.prompt_tokens + one.output_tokens) for one in self.running)

    def take(self, request: Request, blocks: int) -> None:
        """Give a request blocks, those of unused prefixes last and the oldest of them first."""
        request.own_blocks += blocks
        while self.used() + self.per_prefix * len(self.unused()) > self.capacity:
            self.cached.remove(self.unused()[0])

    def unused(self) -> list[Name]:
        """Return the prefix blocks that nobody holds, the one to be evicted first in front."""
        used = self.used_prefixes()
        return [name for name in self.cached if name not in used]

    def longest_cached_prefix(self, request: Request) -> list[Name]:
        """Return the leading prefix blocks that are there, so that a token is left to compute."""
        found: list[Name] = []
        for name in request.names[: (request.known_tokens - 1) // self.prefix_tokens]:
            if name not in self.cached:
                break
            found.append(name)
        return found

    def share(self, request: Request, tokens: int) -> None:
        """Move blocks that a request fills with a named prefix block, up to so many tokens."""
        filled = range(request.computed_tokens // self.prefix_tokens, tokens // self.prefix_tokens)
        for name in request.names[filled.start : filled.stop]:
            if name not in self.cached:
                request.own_blocks -= self.per_prefix
                request.prefix.append(name)
                self.cached.append(name)

    def share_rest(self, request: Request) -> None:
        """Name all that a request has filled beyond what has names, for itself to find again."""
        for place in range(len(request.names), request.computed_tokens // self.prefix_tokens):
            request.names = (*request.names, (request.number, place))
            request.own_blocks -= self.per_prefix
            request.prefix.append(request.names[-1])
            self.cached.append(request.names[-1])

    def release(self, request: Request) -> None:
        """Take everything from a request that ends or is preempted."""
        self.running.remove(request)
        prefix, request.prefix, request.own_blocks = request.prefix, [], 0
        used = self.used_prefixes()
        for name in reversed(prefix):
            if name not in used and name in self.cached:
                self.cached.remove(name)
                self.cached.append(name)
