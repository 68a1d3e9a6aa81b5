"""What happened, or would happen, when a plan was carried out."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Summary:
    """Mean and percentiles of one quantity over requests; empty samples give zeros."""

    mean: float
    p50: float
    p90: float
    p95: float
    p99: float

    @classmethod
    def of(cls, values: list[float]) -> "Summary":
        """Return the summary of a sample, percentiles interpolated linearly."""
        if not values:
            return cls(0.0, 0.0, 0.0, 0.0, 0.0)
        p50, p90, p95, p99 = np.percentile(values, [50, 90, 95, 99])
        return cls(float(np.mean(values)), float(p50), float(p90), float(p95), float(p99))


@dataclass(frozen=True)
class SimulationResult:
    """One execution of a plan, simulated or measured.

    Attributes:
        requests, finished: how many were asked for and served.
        output_tokens: tokens generated.
        makespan_s: from the first arrival to the last token.
        ttft_s: time to first token.
        tpot_s: time per output token after the first, over requests with more than one.
        latency_s: time from arrival to the last token of a request.
        stage_busy_s: time each stage computed.
        stage_visits: micro-batches served by all stages together.
    """

    requests: int
    finished: int
    output_tokens: int
    makespan_s: float
    ttft_s: Summary
    tpot_s: Summary
    latency_s: Summary
    stage_busy_s: tuple[float, ...]
    stage_visits: int

    @property
    def tokens_per_s(self) -> float:
        """Output tokens over the makespan."""
        return self.output_tokens / self.makespan_s

    @property
    def requests_per_s(self) -> float:
        """Finished requests over the makespan."""
        return self.finished / self.makespan_s

    @property
    def stage_busy_fraction(self) -> tuple[float, ...]:
        """Share of the makespan that each stage computed."""
        return tuple(busy_s / self.makespan_s for busy_s in self.stage_busy_s)
