"""Report of limits that requests miss even alone on idle devices."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from llmpq_sim.report.formatting import percent_text, seconds_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmpq_sim.simulator.continuous.alone import AloneLimit

NAMES = {"ttft_s": "TTFT", "tpot_s": "TPOT", "latency_s": "end-to-end time"}


def alone_sentences(limits: Sequence[AloneLimit], attainment: float, plans: str) -> list[str]:
    """Return which limits too few requests meet even alone, and the least that is reached.

    Args:
        limits: of the objectives.
        attainment: share of requests that is to meet them.
        plans: whose they are, as "With this plan".
    """
    missed = [limit for limit in limits if limit.met_share < attainment]
    if not missed:
        return []
    which = " and ".join(_missed_text(limit) for limit in missed)
    return [
        f"Even alone on idle devices {which}. {plans} no lower rate brings "
        f"{percent_text(attainment)} there: allow more time, fewer bits, or faster devices."
    ]


def alone_content(limits: Sequence[AloneLimit]) -> list[dict[str, Any]]:
    """Return how requests fare alone as plain data, nothing where it was not asked."""
    return [asdict(limit) for limit in limits]


def _missed_text(limit: AloneLimit) -> str:
    share = percent_text(limit.met_share, 1)
    who = f"only {share} of requests meet" if limit.met_share else "no request meets"
    return (
        f"{who} the {NAMES[limit.name]} of {seconds_text(limit.limit_s)} (least "
        f"{seconds_text(limit.least_s)}, half within {seconds_text(limit.median_s)})"
    )
