"""Sweep of closed loops: a plan's service with ever more requests in flight."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from llmpq_sim.api.planned import AnyPlan, Profiles
from llmpq_sim.api.replaying import Replay, ServingOptions, asked_trace, replay
from llmpq_sim.api.spreading import results_of
from llmpq_sim.core.errors import InputError
from llmpq_sim.core.result import SimulationResult
from llmpq_sim.io.workloads import TraceOptions
from llmpq_sim.workloads.shaping import closed_loop


@dataclass(frozen=True)
class SweepPoint:
    """A service with so many requests always in flight."""

    concurrency: int
    result: SimulationResult

    @property
    def tokens_per_s_per_user(self) -> float:
        """Output tokens a second of all over the requests in flight."""
        return self.result.tokens_per_s / self.concurrency


@dataclass(frozen=True)
class Sweep:
    """What a plan does with ever more requests in flight.

    Attributes:
        replay: of the first loop, simulated in SimPy; the others are what the recurrence says.
        points: in the order asked for.
    """

    replay: Replay
    points: tuple[SweepPoint, ...]


def sweep_concurrency(
    plan: AnyPlan,
    *,
    concurrencies: Sequence[int],
    trace: str | Path | TraceOptions,
    options: ServingOptions | None = None,
    seed: int = 0,
    profiles: Profiles = (),
    on_point: Callable[[SweepPoint], None] = lambda _: None,
    workers: int = 1,
) -> Sweep:
    """Return what a plan does with the same requests in closed loops of several sizes.

    Args:
        plan: what ``plan`` returned, or the name of a plan file.
        concurrencies: requests in flight, one loop each.
        trace: which requests; their instants of arrival are not used.
        options: how they are batched, and what a good request meets.
        seed: of all draws, where ``trace`` is a name.
        profiles: see ``load``.
        on_point: receives each loop when it was simulated.
        workers: how many loops are simulated at once; what they do does not depend on it.

    Raises:
        InfeasibleError: a stage has no room for any KV cache.
        InputError: a loop has fewer than one request in flight or more than there are, or see
            ``replay``.
    """
    asked = asked_trace(trace, seed)
    if not concurrencies:
        raise InputError("--sweep-concurrency: expected at least one number, got none")
    if asked.concurrency is not None:
        raise InputError(
            "--sweep-concurrency: says how many are in flight; leave --concurrency out"
        )
    largest = max(concurrencies)
    first = replace(asked, concurrency=min(concurrencies))
    options = replace(options or ServingOptions(), attainment=None)
    begun = replay(plan, trace=first, options=options, profiles=profiles)
    if largest > begun.service.workload.requests:
        raise InputError(
            f"--sweep-concurrency: expected at most as many in flight as there are requests, "
            f"{begun.service.workload.requests}, got {largest}; --requests asks for more"
        )
    service, points = begun.service, []
    results, at_once = results_of(service, workers), max(workers, 1)
    for start in range(0, len(concurrencies), at_once):
        users = concurrencies[start : start + at_once]
        loops = [closed_loop(service.workload, each) for each in users]
        for number, result in zip(users, results(loops), strict=True):
            points.append(SweepPoint(number, result))
            on_point(points[-1])
    return Sweep(begun, tuple(points))
