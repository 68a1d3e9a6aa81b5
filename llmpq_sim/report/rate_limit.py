"""Proven limit on a service's rate: on screens, in JSON, and as a warning."""

from typing import Any

from llmpq_sim.core.trace import TraceWorkload
from llmpq_sim.report.formatting import rate_text
from llmpq_sim.search.bound.rate_certificate import RateCertificate


def rate_limit_parts(limit: RateCertificate | None) -> list[str]:
    """Return the rate that no plan exceeds; nothing where nothing is proven."""
    if limit is None:
        return []
    return [f"no plan serves more than {rate_text(limit.requests_per_s)} requests/s (proven)"]


def rate_limit_sentences(limit: RateCertificate | None, workload: TraceWorkload) -> list[str]:
    """Return that more requests arrive than any plan serves, where it is so."""
    if limit is None or workload.rate_per_s is None or workload.rate_per_s <= limit.requests_per_s:
        return []
    return [
        f"{rate_text(workload.rate_per_s)} requests/s arrive, more than the "
        f"{rate_text(limit.requests_per_s)} that are the proven limit of any plan: requests wait "
        "ever longer. Lower --rate, allow fewer bits, or add devices."
    ]


def rate_limit_content(limit: RateCertificate | None, workload: TraceWorkload) -> dict[str, Any]:
    """Return the rate that no plan exceeds, in requests and generated tokens, as plain data."""
    requests_per_s = limit and limit.requests_per_s
    tokens = workload.total_output_tokens / workload.requests
    return {
        "requests_per_s": requests_per_s,
        "tokens_per_s": requests_per_s and requests_per_s * tokens,
    }
