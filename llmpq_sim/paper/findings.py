"""Findings from results: errors against measurements, rankings, speed-ups."""

from dataclasses import dataclass
from itertools import combinations
from math import exp, log
from typing import Any

from llmpq_sim.core.formats import FORMATS

BASELINES = ("uniform", "pipeedge", "adabits")
OURS = "llmpq"

TIE_FRACTION = 0.02
"""Measured throughputs nearer than this have no order: repeated runs differ by as much."""

LOW_BITS = 4

Content = dict[str, Any]


@dataclass(frozen=True)
class Ranking:
    """How well predictions order the methods that were measured on one cluster.

    Attributes:
        cluster: its number.
        pairs: pairs of methods whose measurements differ.
        right: how many of them are predicted in the measured order.
    """

    cluster: int
    pairs: int
    right: int


def measured_results(results: list[Content]) -> list[Content]:
    """Return the results that have a measurement."""
    return [one for one in results if one["measured_tokens_per_s"] is not None]


def error_fraction(result: Content) -> float | None:
    """Return predicted over measured throughput less one, or None where nothing is predicted."""
    if not result["feasible"]:
        return None
    return float(result["tokens_per_s"] / result["measured_tokens_per_s"] - 1)


def rankings(results: list[Content]) -> list[Ranking]:
    """Return the ranking on every cluster with measurements; what is not feasible comes last."""
    measured = measured_results(results)
    found = []
    for cluster in dict.fromkeys(one["cluster"] for one in measured):
        own = [one for one in measured if one["cluster"] == cluster]
        pairs = [pair for pair in combinations(own, 2) if not _tied(*pair)]
        found.append(Ranking(cluster, len(pairs), sum(_in_order(*pair) for pair in pairs)))
    return found


def speedups(results: list[Content]) -> list[float]:
    """Return, per case where both are feasible, our throughput over the best baseline's."""
    cases: dict[tuple[Any, ...], dict[str, float]] = {}
    for one in results:
        key = (one["cluster"], one["workload"], one["gamma"], one["kernels"])
        cases.setdefault(key, {})
        if one["feasible"]:
            cases[key][one["method"]] = one["tokens_per_s"]
    return [
        rates[OURS] / max(rates[name] for name in BASELINES if name in rates)
        for rates in cases.values()
        if OURS in rates and set(BASELINES) & set(rates)
    ]


def geometric_mean(values: list[float]) -> float:
    """Return the geometric mean of positive numbers; at least one."""
    return exp(sum(map(log, values)) / len(values))


def front(results: list[Content]) -> list[Content]:
    """Return the feasible results that none beats in tokens/s and loss, the fastest first."""
    feasible = [one for one in results if one["tokens_per_s"] is not None]
    kept: list[Content] = []
    for one in sorted(feasible, key=lambda one: (-one["tokens_per_s"], one["quality_loss"])):
        if not kept or one["quality_loss"] < kept[-1]["quality_loss"]:
            kept.append(one)
    return kept


def reached_by_weights(results: list[Content]) -> list[Content]:
    """Return the results of a front that minimise time plus some weight times loss.

    They are the corners of its lower convex hull: below every line between two others.
    """
    corners: list[Content] = []
    for one in results:
        while len(corners) > 1 and not _is_below(corners[-1], corners[-2], one):
            corners.pop()
        corners.append(one)
    return corners


def _is_below(middle: Content, fast: Content, slow: Content) -> bool:
    """Return whether a plan loses less than a line from a faster to a slower one does."""
    fast_s, middle_s, slow_s = (1.0 / one["tokens_per_s"] for one in (fast, middle, slow))
    fall = fast["quality_loss"] - slow["quality_loss"]
    fallen = fast["quality_loss"] - middle["quality_loss"]
    return bool(fallen * (slow_s - fast_s) > fall * (middle_s - fast_s))


def low_bit_share(results: list[Content], method: str = OURS) -> float:
    """Return the share of layers that a method's plans have at 4 bits or fewer."""
    low = total = 0
    for one in results:
        if one["method"] != method or one["plan"] is None:
            continue
        for stage in one["plan"]["stages"]:
            for name, layers in stage["layers"].items():
                total += layers
                low += layers * (FORMATS[name].bits <= LOW_BITS)
    return low / total if total else 0.0


def _tied(first: Content, second: Content) -> bool:
    a, b = first["measured_tokens_per_s"], second["measured_tokens_per_s"]
    return bool(abs(a - b) <= TIE_FRACTION * max(a, b))


def _in_order(first: Content, second: Content) -> bool:
    measured = float(first["measured_tokens_per_s"] - second["measured_tokens_per_s"])
    return (_rate(first) - _rate(second)) * measured > 0


def _rate(result: Content) -> float:
    return float(result["tokens_per_s"]) if result["feasible"] else 0.0
