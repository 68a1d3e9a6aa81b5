"""Proof of a limit on the requests per second that any service of a workload sustains.

Let a plan serve R requests in M seconds, and let its KV cache hold C tokens. Three things are true
of every batch with T tokens, whose sampled sequences hold s tokens of the cache for themselves and
whose decodes attend to a of them, whatever the scheduler does:

  a <= s <= C;  a layer takes at least t = seconds(T) + attention(a)         (`rate_work`)
  over all batches, T, s and a sum up to what the workload says at least     (`rate_workload`)

No device is busy longer than M. And the cache holds what batches under way hold: over all batches
and blocks the sum of s x t is at most C x M (Little's law, of tokens held in place of requests).
With a weight m on each device and h on the cache, for any prices c and d of tokens held and
attended, a block costs

  sum over batches (m + h s) t >= p x tokens + c x held + d x attended,
  p = least over T, a, s of ((m + h s) t - c s - d a) / T,

which is arithmetic: attention is convex in a, so that the least is at a = 0, a = s or where its
lines meet; that over s is at an end or at the vertex of a parabola, that over T at a knot. Each
block may be placed where it is cheapest, with a price per byte and per unit of loss for what memory
and quality allow, as in `certificate`. So

  M >= (sum of the blocks' costs - byte prices x capacities - loss price x budget)
       / (sum of m over the devices + h C).

Weights take the more memory the larger C is: plans are told apart by intervals of C, in each of
which the cache takes at least what the lower end needs and holds at most the upper end. It uses
neither order nor contiguity of stages, no limits of the scheduler, and no arrivals.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llmpq_sim.core.errors import CertificateError
from llmpq_sim.core.records import Finite
from llmpq_sim.search.bound.rate_problem import RateProblem, choices
from llmpq_sim.search.bound.rate_work import BlockWork
from llmpq_sim.search.bound.rate_workload import RateWorkload
from llmpq_sim.search.bound.schedule_terms import EMBEDDING

FloatArray = NDArray[np.float64]

HALVINGS = 20
"""Of what is not known of a share."""

ROUNDING = 1 + 1e-9
"""What sums of floats may be off by."""


@dataclass(frozen=True)
class RateInterval:
    """Multipliers that limit the rate of plans whose KV cache holds so many tokens.

    Attributes:
        from_tokens, to_tokens: what the cache holds at least and at most.
        busy: weight of one device of each place.
        held: weight of a token held.
        loss_price_s: seconds per unit of quality loss.
        byte_price_s: seconds per byte on a device of each place.
        held_price_s: of a layer's tokens held: by kind of layer and place, for each format; then of
            the embedding's and of the LM head's, by place. Prices where nothing may be are 0.
        attended_price_s: of the tokens attended to, for layers alone.
    """

    from_tokens: int
    to_tokens: int
    busy: tuple[float, ...]
    held: Finite
    loss_price_s: Finite
    byte_price_s: tuple[float, ...]
    held_price_s: tuple[float, ...]
    attended_price_s: tuple[float, ...]


@dataclass(frozen=True)
class RateCertificate:
    """A proven limit.

    Attributes:
        requests_per_s: no plan serves all of the workload's requests at a higher rate.
        workload: what it depends on.
        intervals: the proof, for every size of the KV cache that serves all.
    """

    requests_per_s: float
    workload: RateWorkload
    intervals: tuple[RateInterval, ...]


def least_makespan_s(problem: RateProblem, interval: RateInterval) -> float:
    """Return the time that any plan of an interval takes at least for the whole workload.

    Any multipliers give a true limit: negative ones count as 0, and what a price claims too much
    lessens all prices of that block.
    """
    counts = problem.place_counts
    busy = np.maximum(np.array(interval.busy), 0.0)
    held = max(interval.held, 0.0)
    byte_price_s = np.maximum(np.array(interval.byte_price_s), 0.0)
    loss_price_s = max(interval.loss_price_s, 0.0)
    norm = float((busy * counts).sum()) + held * interval.to_tokens
    if norm <= 0.0:
        return 0.0
    prices_s = _block_prices_s(problem, interval, busy, held)
    block_bytes = problem.block_bytes.copy()
    block_bytes[:EMBEDDING] += problem.kv_bytes[:, None] * interval.from_tokens
    prices_s += block_bytes[:, None, :] * byte_price_s[None, :, None]
    total_s = -loss_price_s * problem.budget
    total_s -= float((byte_price_s * counts * problem.capacity_bytes).sum())
    for item in problem.items:
        priced = prices_s[item.block] + loss_price_s * item.loss
        total_s += item.count * float(priced[item.allowed].min(initial=np.inf))
    return total_s / norm


def _block_prices_s(
    problem: RateProblem, interval: RateInterval, busy: FloatArray, held: float
) -> FloatArray:
    """Return what a block of each kind costs at each place in each format."""
    prices_s = np.zeros((len(problem.block_bytes), len(problem.places), len(problem.formats)))
    layers = prices_s[:EMBEDDING].size
    for number, (block, place, column) in enumerate(choices(problem)):
        work = problem.works.get((block, place, column))
        if work is None:
            continue
        attended = interval.attended_price_s[number] if number < layers else 0.0
        cost_s = work_price_s(
            work,
            problem.workload.held_tokens,
            float(busy[place]),
            held,
            interval.to_tokens,
            (interval.held_price_s[number], attended),
        )
        prices_s[block, place, slice(None) if block < 0 else column] = cost_s
    return prices_s


def work_price_s(
    work: BlockWork,
    held_tokens: int,
    busy: float,
    held: float,
    most_held: int,
    prices_s: tuple[float, float],
) -> float:
    """Return what a block costs at least, by the weights of its device and of the cache.

    Args:
        work: of the block.
        held_tokens: of the workload.
        busy: weight of the device.
        held: weight of a token held.
        most_held: tokens that a batch may hold at most.
        prices_s: of a token held and of one attended to.
    """
    held_s = max(prices_s[0], 0.0)
    attended_s = min(max(prices_s[1], 0.0), busy * work.attention.limit_s)

    def token_s(share: float) -> float:
        prices = (share * held_s, share * attended_s)
        found = token_prices_s(work, busy, held, most_held, prices)
        return min(float(found.min()), busy * work.slope_s)  # beyond the last knot too

    share = _largest_share(token_s)
    priced_s = share * (held_s * held_tokens + attended_s * work.attended)
    return max(token_s(share), 0.0) * work.units + priced_s + busy * work.fixed_s


def _largest_share(token_s: Callable[[float], float]) -> float:
    """Return about the largest share of the prices that leaves a token no negative price.

    A token's price falls as that share grows; without prices, at 0, no batch costs less than 0.
    """
    if token_s(1.0) >= 0.0:
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if token_s(middle) >= 0.0 else (low, middle)
    return low


def token_prices_s(
    work: BlockWork, busy: float, held: float, most_held: int, prices_s: tuple[float, float]
) -> FloatArray:
    """Return what is left of a batch's cost for each of its tokens, at each knot of the tokens.

    The tokens held and attended to are those that leave the least. Arguments: see `work_price_s`.
    """
    attention, most = work.attention, float(most_held)
    bend = min(attention.wide_from, most)
    slope_s = held * work.seconds - prices_s[0]
    alone_s = np.minimum(slope_s * most, 0.0)  # nothing is attended to: at one end
    few_s = _least_s(
        slope_s + busy * attention.token_s - prices_s[1], held * attention.token_s, 0.0, bend
    )
    # as many are attended to as both lines meet at, and as many held as can be
    at_bend_s = attention.token_s * bend
    bent_s = (slope_s + held * at_bend_s) * most + busy * at_bend_s - prices_s[1] * bend
    left_s = np.minimum(np.minimum(alone_s, few_s), bent_s)
    if bend < most:
        wide_slope_s = slope_s - held * attention.spared_s
        wide_slope_s = wide_slope_s + busy * attention.wide_token_s - prices_s[1]
        many_s = _least_s(wide_slope_s, held * attention.wide_token_s, bend, most)
        left_s = np.minimum(left_s, many_s - busy * attention.spared_s)
    return np.asarray((busy * work.seconds + left_s) / work.tokens)


def _least_s(slope_s: FloatArray, curve_s: float, low: float, high: float) -> FloatArray:
    """Return the least of ``slope s + curve s^2`` over s between two ends."""
    if curve_s > 0.0:
        at = np.clip(-slope_s / (2.0 * curve_s), low, high)
    else:
        at = np.where(slope_s > 0.0, low, high)
    return np.asarray((slope_s + curve_s * at) * at)


def proven_per_s(problem: RateProblem, intervals: tuple[RateInterval, ...]) -> float:
    """Return the highest rate of any plan, by arithmetic alone.

    Raises:
        CertificateError: the intervals leave out some size of the cache, or have multipliers of
            another problem.
    """
    _check_intervals(problem, intervals)
    least_s = min(least_makespan_s(problem, interval) for interval in intervals)
    return problem.workload.requests / least_s * ROUNDING if least_s > 0.0 else np.inf


def check_rate(problem: RateProblem, certificate: RateCertificate) -> float:
    """Return the limit that a certificate states, which its multipliers prove.

    Raises:
        CertificateError: they prove less.
    """
    proven = proven_per_s(problem, certificate.intervals)
    if not certificate.requests_per_s >= proven * (1 - 1e-6):
        raise CertificateError(
            f"certificate: states that no plan serves more than {certificate.requests_per_s:.6g} "
            f"requests/s, its multipliers prove {proven:.6g}"
        )
    return certificate.requests_per_s


def _check_intervals(problem: RateProblem, intervals: tuple[RateInterval, ...]) -> None:
    kinds, places, width = len(problem.kv_bytes), len(problem.places), len(problem.formats)
    reached = problem.least_tokens
    for interval in sorted(intervals, key=lambda each: each.from_tokens):
        if interval.from_tokens > reached:
            raise CertificateError(
                f"certificate: says nothing of plans whose KV cache holds {reached} tokens"
            )
        reached = max(reached, interval.to_tokens)
        for found, expected in (
            (interval.busy, places),
            (interval.byte_price_s, places),
            (interval.held_price_s, places * (kinds * width + 2)),
            (interval.attended_price_s, places * kinds * width),
        ):
            if len(found) != expected:
                raise CertificateError(
                    f"certificate: expected {expected} multipliers of a kind, got {len(found)}"
                )
    if reached < problem.most_tokens:
        raise CertificateError(
            f"certificate: says nothing of plans whose KV cache holds more than {reached} tokens"
        )
