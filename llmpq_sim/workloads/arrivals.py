"""Arrival processes of requests."""

import math
import re
from dataclasses import dataclass
from typing import Annotated, Protocol

import numpy as np

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.fields import Fields
from llmpq_sim.core.records import Codec, Place, bounded, from_dict
from llmpq_sim.core.trace import FloatArray, IntArray
from llmpq_sim.workloads.randomness import Streams

HOUR_S = 3600.0
WINDOWS_AT_ONCE = 256
MOST_WINDOWS = 1 << 20
PROFILE_WINDOW_S = 600.0

Rate = Annotated[float, bounded(1e-6, 1e3)]
Seconds = Annotated[float, bounded(1e-9, 1e9)]
Burst = Annotated[float, bounded(1.0, 1e5)]
Share = Annotated[float, bounded(0.0, 0.9999)]
Sigma = Annotated[float, bounded(0.0, 5.0)]
"""Numbers within bounds, in which draws are neither all alike nor more than can be held."""


class ArrivalProcess(Protocol):
    """A way in which requests follow each other, at a rate of its own."""

    def draw(self, requests: int, rng: np.random.Generator) -> FloatArray:
        """Return one instant per request, sorted, the first at 0."""


# ---- renewals whose rate wanders


@dataclass(frozen=True)
class Modulation:
    """A factor on the rate that changes with every window: lognormal, of mean 1, AR(1).

    Attributes:
        window_s: how long a factor holds.
        variation: coefficient of variation of the factor.
        persistence: correlation between the logarithms of one factor and the next.
    """

    window_s: Seconds
    variation: Annotated[float, bounded(0.0, 100.0)]
    persistence: Share

    def scores(self, windows: int, before: float, rng: np.random.Generator) -> FloatArray:
        """Return the next windows' factors as standard scores of their logarithm.

        Args:
            windows: how many.
            before: score of the window before them.
            rng: draws what is new in each window.
        """
        scores = rng.standard_normal(windows) * math.sqrt(1 - self.persistence**2)
        for index, news in enumerate(scores.tolist()):
            before = self.persistence * before + news
            scores[index] = before
        return scores

    def level(self, score: FloatArray) -> FloatArray:
        """Return the factors with these standard scores: exp(s x - s^2/2), s^2 = ln(1 + cv^2)."""
        variance = math.log1p(self.variation**2)
        factors: FloatArray = np.exp(math.sqrt(variance) * score - variance / 2)
        return factors


CONSTANT = Modulation(PROFILE_WINDOW_S, variation=0.0, persistence=0.0)


def _hours(fields: Fields, key: str) -> tuple[float, ...]:
    hours = fields.numbers(key)
    if hours and (len(hours) != 24 or min(hours) <= 0):
        raise InputError(f"{fields.where}.{key}: expected 24 positive numbers")
    return hours


@dataclass(frozen=True)
class GammaArrivals:
    """A renewal process with gamma gaps, in a time that runs as fast as the rate is high.

    The rate at an instant is ``rate_per_s`` times the factors of the hour, the trend and the
    window. A shape of 1 with all factors at 1 is a Poisson process.

    Attributes:
        rate_per_s: rate in the long run.
        shape: of the gaps; their coefficient of variation is 1 / sqrt(shape).
        modulation: how the rate wanders.
        hour_profile: factor of each hour of the day, or nothing; instant 0 is midnight.
        trend: how far the rate is below its mean at the first request, and above it at the last.
        normalized: whether instants are scaled to exactly ``rate_per_s``.
    """

    rate_per_s: Rate
    shape: Annotated[float, bounded(0.01, 1e3), Place.OPTIONAL] = 1.0
    modulation: Annotated[Modulation, Place.OPTIONAL] = CONSTANT
    hour_profile: Annotated[tuple[float, ...], Codec(_hours, list), Place.OPTIONAL] = ()
    trend: Annotated[Share, Place.OPTIONAL] = 0.0
    normalized: Annotated[bool, Place.OPTIONAL] = False

    def draw(self, requests: int, rng: np.random.Generator) -> FloatArray:
        """Return the instants of so many requests.

        Raises:
            InputError: the rate is so low that they take more windows than can be held.
        """
        streams = Streams(rng)
        gaps = streams.named("gaps").gamma(self.shape, 1 / self.shape, requests)
        gaps[0] = 0.0
        return self.instants(np.cumsum(gaps), streams.named("modulation"))

    def instants(self, operational: FloatArray, rng: np.random.Generator) -> FloatArray:
        """Return the instant of each request, given how many were expected before it.

        This inverts the integral of the rate, so that events of any process of rate 1 take on
        this one's rate.

        Raises:
            InputError: the rate is so low that it takes more windows than can be held.
        """
        instant_s = operational / self.rate_per_s
        if self.modulation.variation > 0 or self.trend != 0 or self.hour_profile:
            instant_s = self._modulated(operational, rng)
        if self.normalized and instant_s[-1] > 0:
            instant_s = instant_s * (len(instant_s) / self.rate_per_s / instant_s[-1])
        return instant_s

    def _modulated(self, operational: FloatArray, rng: np.random.Generator) -> FloatArray:
        requests, last = len(operational), float(operational[-1])
        expected, score, windows = [np.zeros(1)], float(rng.standard_normal()), 0
        while expected[-1][-1] <= last:
            if windows >= MOST_WINDOWS:
                raise InputError(
                    f"expected {requests} requests within {MOST_WINDOWS} windows of "
                    f"{self.modulation.window_s:g} s, got a rate too low for that"
                )
            fresh = max(WINDOWS_AT_ONCE, windows)
            scores = self.modulation.scores(fresh, score, rng)
            rates = self._rates(np.arange(windows, windows + fresh), scores, requests)
            expected.append(expected[-1][-1] + np.cumsum(rates * self.modulation.window_s))
            score, windows = float(scores[-1]), windows + fresh
        edges_s = np.arange(windows + 1) * self.modulation.window_s
        instant_s: FloatArray = np.interp(operational, np.concatenate(expected), edges_s)
        return instant_s

    def _rates(self, window: IntArray, score: FloatArray, requests: int) -> FloatArray:
        """Return the rates in windows, taken in their middles."""
        middle_s = (window + 0.5) * self.modulation.window_s
        rates: FloatArray = self.rate_per_s * self.modulation.level(score)
        if self.hour_profile:
            hours = (middle_s // HOUR_S).astype(np.int64) % len(self.hour_profile)
            rates *= np.asarray(self.hour_profile)[hours]
        progress = np.minimum(middle_s * self.rate_per_s / requests, 1)
        rates *= 1 + self.trend * (2 * progress - 1)
        return rates


# ---- bursts


@dataclass(frozen=True)
class LognormalDelay:
    """A delay of ``least_s`` plus a lognormal one, at most ``most_s``."""

    median_s: Seconds
    sigma: Sigma
    most_s: Seconds
    least_s: Annotated[Seconds, Place.OPTIONAL] = 0.0

    def draw(self, count: int, rng: np.random.Generator) -> FloatArray:
        """Return independent delays."""
        drawn = self.least_s + self.median_s * rng.lognormal(0.0, self.sigma, count)
        return np.minimum(drawn, self.most_s)


def _delays(fields: Fields, key: str) -> tuple[tuple[float, LognormalDelay], ...]:
    delays = [
        (each.fraction("weight"), from_dict(LognormalDelay, each)) for each in fields.each(key)
    ]
    if not delays:
        raise InputError(f"{fields.where}.{key}: expected at least one delay, got none")
    return tuple(delays)


@dataclass(frozen=True)
class BurstArrivals:
    """Bursts of lognormal size, long pauses between them and short delays inside.

    Attributes:
        median_requests, sigma, most_requests: size of a burst.
        pause: from the last request of a burst to the first of the next.
        delays: (weight, delay) of a mixture, from one request of a burst to the next.
    """

    median_requests: Burst
    sigma: Sigma
    most_requests: int
    pause: LognormalDelay
    delays: Annotated[tuple[tuple[float, LognormalDelay], ...], Codec(_delays)]

    def draw(self, requests: int, rng: np.random.Generator) -> FloatArray:
        """Return the instants of so many requests."""
        streams = Streams(rng)
        gaps = self._delays(requests, streams)
        sizes = self.median_requests * streams.named("sizes").lognormal(0, self.sigma, requests)
        ends = np.cumsum(np.clip(np.rint(sizes), 1, self.most_requests).astype(np.int64))
        begins = ends[ends < requests]
        gaps[begins] = self.pause.draw(len(begins), streams.named("pauses"))
        gaps[0] = 0.0
        return np.cumsum(gaps)

    def _delays(self, requests: int, streams: Streams) -> FloatArray:
        weights = np.array([weight for weight, _ in self.delays])
        edges = np.cumsum(weights / weights.sum())[:-1]
        chosen = np.searchsorted(edges, streams.named("kinds").random(requests), side="right")
        rng = streams.named("delays")
        drawn = np.stack([delay.draw(requests, rng) for _, delay in self.delays])
        gaps: FloatArray = drawn[chosen, np.arange(requests)]
        return gaps


@dataclass(frozen=True)
class PoissonBursts:
    """Bursts at the instants of a Poisson process, geometric in size, each at one instant.

    The index of dispersion of counts is 2 ``mean_requests`` - 1 for windows of any length, as
    E[N^2] / E[N] of a geometric size N is.
    """

    rate_per_s: Rate
    mean_requests: Burst

    def draw(self, requests: int, rng: np.random.Generator) -> FloatArray:
        """Return the instants of so many requests."""
        streams = Streams(rng)
        pauses = streams.named("pauses").exponential(self.mean_requests / self.rate_per_s, requests)
        begins = streams.named("sizes").random(requests) * self.mean_requests < 1
        begins[0] = False
        return np.cumsum(np.where(begins, pauses, 0.0))


# ---- the notations of files and options

PROCESSES = {"gamma": GammaArrivals, "bursts": BurstArrivals, "poisson-bursts": PoissonBursts}


def read_arrivals(fields: Fields, name: str) -> ArrivalProcess | None:
    """Return the process that a mapping describes, or None where there is none.

    Raises:
        InputError: it describes none that can be.
    """
    if not fields.has(name):
        return None
    process = fields.fields(name)
    return from_dict(PROCESSES[process.choice("process", tuple(PROCESSES))], process)


_WITH_NUMBER = re.compile(r"(gamma|burst)\(\s*(\d+(?:\.\d+)?)\s*\)")


def arrivals_from_text(text: str, rate_per_s: float = 1.0) -> ArrivalProcess:
    """Return the process that an option describes.

    ``poisson``; ``gamma(shape)``, which at shapes below 1 is burstier and above 1 steadier;
    ``burst(n)``, bursts of n requests on average.

    Raises:
        InputError: it describes none, or its number is out of range.
    """
    if text.strip() == "poisson":
        return GammaArrivals(rate_per_s)
    match = _WITH_NUMBER.fullmatch(text.strip())
    if match is None:
        raise InputError(f"--arrivals: expected poisson, gamma(shape) or burst(n), got {text!r}")
    number = float(match[2])
    if match[1] == "gamma":
        if not 0.01 <= number <= 1000:
            raise InputError(f"--arrivals: expected a shape of 0.01 to 1000, got {text!r}")
        return GammaArrivals(rate_per_s, shape=number)
    if not 1 <= number <= 100_000:
        raise InputError(f"--arrivals: expected bursts of 1 to 100000 requests, got {text!r}")
    return PoissonBursts(rate_per_s, number)
