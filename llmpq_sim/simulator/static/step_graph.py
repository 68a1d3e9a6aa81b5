"""Step graph: the steps asked of a pipeline, and the steps that each waits for.

A pipeline is stages 0 to N-1, each serving one visit at a time in order of arrival. Hop j, a link
that carries one message at a time, joins stage j to stage j+1; hop N-1 returns the sampled token
from the last stage to the first and closes the ring. A *visit* is one micro-batch of one phase and
round. It passes every stage once; the return of its token lets others enter.
"""

from collections.abc import Callable
from dataclasses import dataclass

OnVisit = Callable[[int, int, float, float], None]
"""Told of each stage visit: stage, visit, and the instants in s at which its service began, ended.
"""

OnBatch = Callable[[float, int, int, int, int], None]
"""Told of each batch of continuous batching in order, the first being visit 0: the instant in s at
which it joins the line before stage 0, sequences that decode, prompt tokens, KV blocks then in use,
and sequences that wait to be admitted.
"""


@dataclass(frozen=True)
class Wave:
    """What one wave asks of a pipeline.

    Durations are finite and not negative. A visit that must await several others is listed only
    under the last of them: visits return in the order in which they entered.

    Attributes:
        service_s: how long each stage computes, indexed by stage, then visit.
        transfer_s: how long each hop carries the result, indexed by hop, then visit. The last hop
            is occupied by every visit, also by one that nothing follows.
        successors: the visits that may enter stage 0 once this visit's token has returned, in
            this order. Each has a higher number than this visit.
        starts: visits 0 to ``starts - 1`` wait at stage 0, in order, when the wave begins.

    Raises:
        ValueError: the shapes differ, or some visit would never enter, or enter twice.
    """

    service_s: tuple[tuple[float, ...], ...]
    transfer_s: tuple[tuple[float, ...], ...]
    successors: tuple[tuple[int, ...], ...]
    starts: int

    def __post_init__(self) -> None:
        stages, hops = len(self.service_s), len(self.transfer_s)
        if not stages or stages != hops:
            raise ValueError(f"expected stages and as many hops, got {stages} and {hops}")
        lengths = sorted({len(row) for row in self.service_s + self.transfer_s})
        if lengths != [self.visits]:
            raise ValueError(f"expected rows of {self.visits} visits, got rows of {lengths}")
        if not 1 <= self.starts <= self.visits:
            raise ValueError(f"starts: expected 1 to {self.visits}, got {self.starts}")
        self._check_successors()

    def _check_successors(self) -> None:
        following = sorted(
            follower
            for visit, followers in enumerate(self.successors)
            for follower in followers
            if follower > visit
        )
        if following != list(range(self.starts, self.visits)):
            raise ValueError(
                f"successors: expected each of visits {self.starts} to {self.visits - 1} once, "
                f"under an earlier visit, got {following} there"
            )

    @property
    def visits(self) -> int:
        """Number of visits, each of which passes every stage once."""
        return len(self.successors)


@dataclass(frozen=True)
class WaveTimes:
    """When a wave's tokens were sampled.

    Attributes:
        sampled_s: instant at which each visit leaves the last stage, which samples its token.
        end_s: the last of them.
    """

    sampled_s: list[float]
    end_s: float
