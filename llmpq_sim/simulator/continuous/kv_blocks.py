"""Pool of KV blocks, of which some hold a prefix that a later prompt may start with.

All stages use the same block table, so blocks are counted once. A *prefix block* is one named block
of a prompt, as many KV blocks as it takes. It is shared by all prompts that start with it; once
nobody uses it, it stays until its room is needed, the one unused for longest going first, and of
one sequence the last one first. A sequence that is evicted finds what is left of its own again.
"""

from collections import OrderedDict
from typing import Protocol

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.trace import TraceWorkload
from llmpq_sim.simulator.continuous.sequence import Name, Names
from llmpq_sim.simulator.continuous.settings import ContinuousSettings


class Holder(Protocol):
    """What holds KV blocks: a request, followed by itself or in a cohort.

    Attributes:
        names: of the prefix blocks that its prompt fills, and that it filled when evicted.
        prefix: names of the shared ones among them.
        blocks: KV blocks it holds, shared ones included.
        computed_tokens: whose keys and values are in its blocks.
    """

    names: Names
    prefix: list[Name]
    blocks: int
    computed_tokens: int

    @property
    def known_tokens(self) -> int:
        """Tokens of the prompt and of the output so far."""


class BlockPool:
    """Counts KV blocks in use and free.

    Attributes:
        free: blocks that hold nothing.
        prefix_kv_blocks: KV blocks of a prefix block.
        prefix_tokens: tokens of a prefix block.
        shares: prefix blocks that sequences hold, each counted for each of them.
    """

    def __init__(self, capacity: int, prefix_kv_blocks: int, block_tokens: int) -> None:
        self.capacity = capacity
        self.free = capacity
        self.prefix_kv_blocks = prefix_kv_blocks
        self.prefix_tokens = prefix_kv_blocks * block_tokens
        self.shares = 0
        self._users: dict[Name, int] = {}
        self._unused: OrderedDict[Name, None] = OrderedDict()

    @property
    def available(self) -> int:
        """Blocks that can be taken: free ones and those of unused prefix blocks."""
        return self.free + self.prefix_kv_blocks * len(self._unused)

    @property
    def held(self) -> int:
        """Blocks that sequences hold, a shared one counted for each of them."""
        used_once = len(self._users) - len(self._unused)
        return self.capacity - self.available + self.prefix_kv_blocks * (self.shares - used_once)

    def take(self, blocks: int) -> None:
        """Take so many of the available blocks."""
        while self.free < blocks:
            name, _ = self._unused.popitem(last=False)
            del self._users[name]
            self.free += self.prefix_kv_blocks
        self.free -= blocks

    def release(self, sequence: Holder) -> None:
        """Give back all blocks of a sequence."""
        self.free += sequence.blocks - self.prefix_kv_blocks * len(sequence.prefix)
        for name in reversed(sequence.prefix):
            self._users[name] -= 1
            if not self._users[name]:
                self._unused[name] = None
        self.shares -= len(sequence.prefix)
        sequence.blocks = 0
        sequence.prefix = []

    def longest_cached_prefix(self, sequence: Holder) -> int:
        """Return how many leading prefix blocks are there; a token at least is left to compute."""
        most = min((sequence.known_tokens - 1) // self.prefix_tokens, len(sequence.names))
        for position in range(most):
            if sequence.names[position] not in self._users:
                return position
        return most

    def available_beside(self, sequence: Holder, shared: int) -> int:
        """Return the blocks that can be taken once a sequence shares so many prefix blocks."""
        unused = {name for name in sequence.names[:shared] if name in self._unused}
        return self.available - self.prefix_kv_blocks * len(unused)

    def share(self, sequence: Holder, shared: int) -> None:
        """Let a sequence use so many of its leading prefix blocks, which are there."""
        sequence.prefix = list(sequence.names[:shared])
        sequence.blocks = shared * self.prefix_kv_blocks
        self.shares += shared
        for name in sequence.prefix:
            self._users[name] += 1
            self._unused.pop(name, None)

    def publish(self, sequence: Holder, computed_before: int) -> None:
        """Name the prefix blocks that a sequence has come to fill, unless others hold the same.

        A chunk under way counts as computed: at each stage, who shares it comes later.
        """
        first, last = computed_before // self.prefix_tokens, sequence.computed_tokens
        for name in sequence.names[first : last // self.prefix_tokens]:
            if name not in self._users:
                self._users[name] = 1
                sequence.prefix.append(name)
                self.shares += 1

    def name_own(self, sequence: Holder, request: int) -> None:
        """Name all other blocks that a sequence has filled, so that it finds them again.

        vLLM does so with every full block, of prompts and outputs. Here only who is evicted comes
        back for its own.
        """
        first, last = len(sequence.names), sequence.computed_tokens // self.prefix_tokens
        own = [(request, place) for place in range(first, last)]
        sequence.names += tuple(own)
        sequence.prefix += own
        self.shares += len(own)
        self._users |= dict.fromkeys(own, 1)


def prefix_kv_blocks(workload: TraceWorkload, settings: ContinuousSettings) -> int:
    """Return the KV blocks of one prefix block; 1 where no prefixes are shared.

    Raises:
        InputError: the workload's blocks are not a whole number of KV blocks.
    """
    if not settings.prefix_caching or workload.block_tokens is None:
        return 1
    if workload.block_tokens % settings.block_tokens:
        raise InputError(
            f"block_tokens: expected a divisor of {workload.block_tokens}, the prefix block of "
            f"{workload.name}, got {settings.block_tokens}; choose one or turn prefix caching off"
        )
    return workload.block_tokens // settings.block_tokens


def prefix_names(workload: TraceWorkload, settings: ContinuousSettings, request: int) -> Names:
    """Return the names of the prefix blocks that a request's prompt fills."""
    names, tokens = workload.prefix_blocks, workload.block_tokens
    if not settings.prefix_caching or names is None or tokens is None:
        return ()
    return names[request][: int(workload.prompt_tokens[request]) // tokens]
