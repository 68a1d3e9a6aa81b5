"""Highest request rate at which enough requests meet their objectives.

All instants of the trace are divided by one factor, so that bursts keep their shape. The rate is
doubled or halved until the objectives hold on one side and not on the other, and what lies between
is then halved, as a ratio, down to PRECISION. At the rate found they hold, at one a little higher
they do not; the share that meets them need not fall at every step, so a higher rate at which they
hold again is not excluded.
"""

from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import sqrt

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.result import SimulationResult
from llmpq_sim.core.trace import TraceWorkload
from llmpq_sim.simulator.continuous.service import Service
from llmpq_sim.workloads.shaping import compress

ATTAINMENT = 0.9
"""Share of requests that must meet the objectives, unless told.

Source: Zhong et al., DistServe, arXiv:2401.09670, sec. 2.
"""

PRECISION = 0.01
MOST_DOUBLINGS = 12


@dataclass(frozen=True)
class Trial:
    """The share of requests that met the objectives at one rate."""

    rate_per_s: float
    slo_attainment: float


@dataclass(frozen=True)
class MaxRate:
    """The highest rate found.

    Attributes:
        rate_per_s: of requests; None where not even the lowest rate tried holds.
        attainment: the share of requests that was asked for.
        is_limit: whether a rate a little higher was tried and does not hold; False where all
            rates tried hold.
        trials: in the order in which they were made.
    """

    rate_per_s: float | None
    attainment: float
    is_limit: bool
    trials: tuple[Trial, ...]


Asking = Generator[float, bool, tuple[float | None, bool]]
"""Rates of which it is asked, one after another, whether they hold; at last what is found."""


def max_rate(
    service: Service,
    attainment: float,
    on_trial: Callable[[Trial], None] = lambda _: None,
    *,
    results: Callable[[Sequence[TraceWorkload]], list[SimulationResult]] | None = None,
    at_once: int = 1,
) -> MaxRate:
    """Return the highest rate of a service's workload at which the objectives hold.

    The same whatever is simulated at once: then rates are tried that may be asked of next, and
    those that are not asked of do not count.

    Args:
        service: at any rate.
        attainment: share of requests that must meet the objectives.
        on_trial: receives every rate that was tried.
        results: what the service does with several workloads, simulated at once.
        at_once: how many.

    Raises:
        InputError: there are no objectives, or the trace has no rate.
    """
    own_per_s = _checked_rate(service)
    shares: dict[float, float] = {}
    trials: list[Trial] = []
    asking = _asking(own_per_s)
    rate_per_s = next(asking)
    while True:
        if rate_per_s not in shares:
            answers = {each.rate_per_s: each.slo_attainment >= attainment for each in trials}
            wanted = _next_rates(own_per_s, answers, at_once)
            loads = [compress(service.workload, each) for each in wanted]
            found = results(loads) if results else [service.of(each).result for each in loads]
            shares |= {r: each.slo_attainment or 0.0 for r, each in zip(wanted, found, strict=True)}
        trials.append(Trial(rate_per_s, shares[rate_per_s]))
        on_trial(trials[-1])
        try:
            rate_per_s = asking.send(shares[rate_per_s] >= attainment)
        except StopIteration as end:
            highest_per_s, is_limit = end.value
            return MaxRate(highest_per_s, attainment, is_limit, tuple(trials))


def _checked_rate(service: Service) -> float:
    if service.result.slo_attainment is None:
        raise InputError(
            "--max-rate: expected at least one of --slo-ttft-ms, --slo-tpot-ms and --slo-e2e-ms"
        )
    if service.workload.concurrency is not None:
        raise InputError(
            "--max-rate: a closed loop has no rate to change; leave --concurrency out, or give "
            "--sweep-concurrency instead"
        )
    own_per_s = service.workload.rate_per_s
    if own_per_s is None:
        raise InputError(
            f"--max-rate: {service.workload.name} has no rate to change: all requests arrive at "
            "once; give --arrivals"
        )
    return own_per_s


def _next_rates(own_per_s: float, answers: Mapping[float, bool], most: int) -> list[float]:
    """Return the rate that is asked of next, and those that may be after it, the nearest first.

    Args:
        own_per_s: the first rate.
        answers: what is known so far.
        most: how many to return at most.
    """
    supposed = deque([dict(answers)])
    rates: dict[float, None] = {}
    while supposed and len(rates) < most:
        known = supposed.popleft()
        asking = _asking(own_per_s)
        with suppress(StopIteration):
            rate_per_s = next(asking)
            while rate_per_s in known:
                rate_per_s = asking.send(known[rate_per_s])
            rates[rate_per_s] = None
            supposed += [known | {rate_per_s: holds} for holds in (True, False)]
    return list(rates)


def _asking(own_per_s: float) -> Asking:
    """Ask of rates; return the highest that holds, and whether a higher one does not."""
    low_per_s, high_per_s = yield from _bracket(own_per_s)
    while low_per_s and high_per_s and high_per_s > low_per_s * (1 + PRECISION):
        middle_per_s = sqrt(low_per_s * high_per_s)
        if (yield middle_per_s):
            low_per_s = middle_per_s
        else:
            high_per_s = middle_per_s
    return low_per_s, high_per_s is not None


def _bracket(rate_per_s: float) -> Generator[float, bool, tuple[float | None, float | None]]:
    """Return a rate that holds and one twice as high that does not; None for one not found."""
    if (yield rate_per_s):
        for _ in range(MOST_DOUBLINGS):
            if not (yield 2 * rate_per_s):
                return rate_per_s, 2 * rate_per_s
            rate_per_s *= 2
        return rate_per_s, None
    for _ in range(MOST_DOUBLINGS):
        if (yield rate_per_s / 2):
            return rate_per_s / 2, rate_per_s
        rate_per_s /= 2
    return None, rate_per_s
