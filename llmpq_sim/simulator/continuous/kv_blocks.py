"""KV block pool with prefix caching.

All stages use the same block table, so blocks are counted once. A *unit* is one named block of a
prompt, as many KV blocks as it takes. A unit is shared by all that start with it; once nobody
uses it, it stays until its room is needed, the one unused for longest going first, and of one
sequence the last unit first.
"""

from collections import OrderedDict

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.trace import TraceWorkload
from llmpq_sim.simulator.continuous.sequence import Names, Sequence
from llmpq_sim.simulator.continuous.settings import ContinuousSettings


class BlockPool:
    """Counts KV blocks in use and free.

    Attributes:
        free: blocks that hold nothing.
        unit_blocks: KV blocks of a unit.
    """

    def __init__(self, capacity: int, unit_blocks: int, block_tokens: int) -> None:
        self.capacity = capacity
        self.free = capacity
        self.unit_blocks = unit_blocks
        self.unit_tokens = unit_blocks * block_tokens
        self._users: dict[int, int] = {}
        self._unused: OrderedDict[int, None] = OrderedDict()

    @property
    def available(self) -> int:
        """Blocks that can be taken: free ones and those of unused units."""
        return self.free + self.unit_blocks * len(self._unused)

    def take(self, blocks: int) -> None:
        """Take so many of the available blocks."""
        while self.free < blocks:
            name, _ = self._unused.popitem(last=False)
            del self._users[name]
            self.free += self.unit_blocks
        self.free -= blocks

    def release(self, sequence: Sequence) -> None:
        """Give back all blocks of a sequence."""
        self.free += sequence.blocks - self.unit_blocks * len(sequence.units)
        for name in reversed(sequence.units):
            self._users[name] -= 1
            if not self._users[name]:
                self._unused[name] = None
        sequence.blocks = 0
        sequence.units = []

    def leading(self, sequence: Sequence) -> int:
        """Return how many leading units are there; one token at least is left to compute."""
        most = min((sequence.known_tokens - 1) // self.unit_tokens, len(sequence.names))
        for position in range(most):
            if sequence.names[position] not in self._users:
                return position
        return most

    def available_beside(self, sequence: Sequence, units: int) -> int:
        """Return the blocks that can be taken once a sequence shares its leading units."""
        unused = {name for name in sequence.names[:units] if name in self._unused}
        return self.available - self.unit_blocks * len(unused)

    def share(self, sequence: Sequence, units: int) -> None:
        """Let a sequence use its leading units, which are there."""
        sequence.units = list(sequence.names[:units])
        sequence.blocks = units * self.unit_blocks
        for name in sequence.units:
            self._users[name] += 1
            self._unused.pop(name, None)

    def offer(self, sequence: Sequence, computed_before: int) -> None:
        """Name the units that a sequence has come to fill, unless others hold the same.

        A chunk under way counts as computed: at each stage, who shares it comes later.
        """
        first, last = computed_before // self.unit_tokens, sequence.computed_tokens
        for name in sequence.names[first : last // self.unit_tokens]:
            if name not in self._users:
                self._users[name] = 1
                sequence.units.append(name)


def unit_blocks(workload: TraceWorkload, settings: ContinuousSettings) -> int:
    """Return the KV blocks of one unit; 1 where no prefixes are shared.

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


def unit_names(workload: TraceWorkload, settings: ContinuousSettings, request: int) -> Names:
    """Return the names of the units that a request's prompt fills."""
    names, tokens = workload.prefix_blocks, workload.block_tokens
    if not settings.prefix_caching or names is None or tokens is None:
        return ()
    return names[request][: int(workload.prompt_tokens[request]) // tokens]
