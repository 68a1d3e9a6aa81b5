"""Highest request rate at which enough requests meet their objectives.

All instants of the trace are divided by one factor, so that bursts keep their shape. The rate is
doubled or halved until the objectives hold on one side and not on the other, and what lies between
is then halved, as a ratio, down to PRECISION. At the rate found they hold, at one a little higher
they do not; the share that meets them need not fall at every step, so a higher rate at which they
hold again is not excluded.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt

from llmpq_sim.core.errors import InputError
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


def max_rate(
    service: Service, attainment: float, on_trial: Callable[[Trial], None] = lambda _: None
) -> MaxRate:
    """Return the highest rate of a service's workload at which the objectives hold.

    Args:
        service: at any rate.
        attainment: share of requests that must meet the objectives.
        on_trial: receives every rate that was tried.

    Raises:
        InputError: there are no objectives, or the trace has no rate.
    """
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
    trials: list[Trial] = []

    def holds(rate_per_s: float) -> bool:
        result = service.of(compress(service.workload, rate_per_s)).result
        trial = Trial(rate_per_s, result.slo_attainment or 0.0)
        trials.append(trial)
        on_trial(trial)
        return trial.slo_attainment >= attainment

    low_per_s, high_per_s = _bracket(holds, own_per_s)
    while low_per_s and high_per_s and high_per_s > low_per_s * (1 + PRECISION):
        middle_per_s = sqrt(low_per_s * high_per_s)
        if holds(middle_per_s):
            low_per_s = middle_per_s
        else:
            high_per_s = middle_per_s
    return MaxRate(low_per_s, attainment, high_per_s is not None, tuple(trials))


def _bracket(
    holds: Callable[[float], bool], rate_per_s: float
) -> tuple[float | None, float | None]:
    """Return a rate that holds and one twice as high that does not; None for one not found."""
    if holds(rate_per_s):
        for _ in range(MOST_DOUBLINGS):
            if not holds(2 * rate_per_s):
                return rate_per_s, 2 * rate_per_s
            rate_per_s *= 2
        return rate_per_s, None
    for _ in range(MOST_DOUBLINGS):
        if holds(rate_per_s / 2):
            return rate_per_s / 2, rate_per_s
        rate_per_s /= 2
    return None, rate_per_s
