"""Step graphs: what one wave of a batch asks of a pipeline, and when it is done.

A pipeline is stages 0 to N-1, each serving one step at a time in order of arrival. Hop j, a link
that carries one message at a time, joins stage j to stage j+1; hop N-1 returns the sampled token
from the last stage to the first and closes the ring. A *step* is one micro-batch of one phase and
round. It passes every stage once; the return of its token lets others enter.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

OnStep = Callable[[int, int, float, float], None]
"""Told of each stage step: stage, step, and the instants in s at which its service began, ended.
"""


@dataclass(frozen=True)
class StepGraph:
    """What one wave asks of a pipeline.

    Durations are finite and not negative. A step that must await several others is listed only
    under the last of them: steps return in the order in which they entered.

    Attributes:
        service_s: how long each stage computes, indexed by stage, then step.
        transfer_s: how long each hop carries the result, indexed by hop, then step. The last hop
            is occupied by every step, also by one that nothing follows.
        successors: the steps that may enter stage 0 once this step's token has returned, in
            this order. Each has a higher number than this step.
        starts: steps 0 to ``starts - 1`` wait at stage 0, in order, when the wave begins.

    Raises:
        ValueError: the shapes differ, or some step would never enter, or enter twice.
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
        if lengths != [self.steps]:
            raise ValueError(f"expected rows of {self.steps} steps, got rows of {lengths}")
        check_order(self.starts, self.successors)

    @property
    def steps(self) -> int:
        """Number of steps, each of which passes every stage once."""
        return len(self.successors)


@dataclass(frozen=True)
class StepTimes:
    """When the tokens of a step graph were sampled.

    Attributes:
        began_s: instant at which the first stage begins each step.
        sampled_s: instant at which each step leaves the last stage, which samples its token.
        end_s: the last of them.
    """

    began_s: list[float]
    sampled_s: list[float]
    end_s: float


def check_order(starts: int, successors: Sequence[Sequence[int]]) -> None:
    """Raise ValueError if some step would never enter the pipeline, or enter twice."""
    steps = len(successors)
    if not 1 <= starts <= steps:
        raise ValueError(f"starts: expected 1 to {steps}, got {starts}")
    following = sorted(
        follower
        for step, followers in enumerate(successors)
        for follower in followers
        if follower > step
    )
    if following != list(range(starts, steps)):
        raise ValueError(
            f"successors: expected each of steps {starts} to {steps - 1} once, under an earlier "
            f"step, got {following} there"
        )
