"""Result of a simulated or executed plan."""

from dataclasses import dataclass
from typing import Annotated

from llmpq_sim.core.records import Key, Natural, NotNegative


@dataclass(frozen=True)
class Summary:
    """Mean and percentiles of one quantity over requests; empty samples give zeros."""

    mean: NotNegative
    p50: NotNegative
    p90: NotNegative
    p95: NotNegative
    p99: NotNegative

    @classmethod
    def of(cls, values: list[float]) -> "Summary":
        """Return the summary of a sample, percentiles interpolated linearly."""
        import numpy as np  # noqa: PLC0415 - data types are imported by every command

        if not values:
            return cls(0.0, 0.0, 0.0, 0.0, 0.0)
        p50, p90, p95, p99 = np.percentile(values, [50, 90, 95, 99])
        return cls(float(np.mean(values)), float(p50), float(p90), float(p95), float(p99))


@dataclass(frozen=True)
class SimulationResult:
    """One execution of a plan, simulated or measured.

    Attributes:
        requests, finished: how many were asked for and served.
        makespan_s: from the first arrival to the last token.
        ttft_s: time to first token.
        tpot_s: time per output token after the first, over requests with more than one.
        latency_s: time from arrival to the last token of a request.
        stage_busy_s: time each stage computed.
        stage_steps: micro-batches served by all stages together.
        itl_s: every gap between two tokens of one request.
        refused: requests that could never fit.
        preemptions: how often a sequence lost its KV cache and was computed anew.
        reused_prompt_tokens: prompt tokens whose KV cache was there already.
        kv_peak_fraction: share of each stage's room for KV cache that was in use at most.
        good: requests that met every objective asked for; None where none was asked.
    """

    requests: Natural
    finished: Natural
    output_tokens: Natural
    makespan_s: NotNegative
    ttft_s: Summary
    tpot_s: Summary
    latency_s: Summary
    stage_busy_s: tuple[NotNegative, ...]
    stage_steps: Annotated[Natural, Key("stage_visits")]
    itl_s: Summary = Summary(0.0, 0.0, 0.0, 0.0, 0.0)
    refused: Natural = 0
    preemptions: Natural = 0
    reused_prompt_tokens: Natural = 0
    kv_peak_fraction: tuple[NotNegative, ...] = ()
    good: Natural | None = None

    @property
    def tokens_per_s(self) -> float:
        """Output tokens over the makespan."""
        return self._per_s(self.output_tokens)

    @property
    def requests_per_s(self) -> float:
        """Finished requests over the makespan."""
        return self._per_s(self.finished)

    @property
    def goodput_per_s(self) -> float | None:
        """Requests over the makespan that met every objective."""
        return None if self.good is None else self._per_s(self.good)

    @property
    def slo_attainment(self) -> float | None:
        """Share of all requests, refused ones included, that met every objective."""
        return None if self.good is None else self.good / self.requests

    @property
    def stage_busy_fraction(self) -> tuple[float, ...]:
        """Share of the makespan that each stage computed."""
        return tuple(self._per_s(busy_s) for busy_s in self.stage_busy_s)

    def _per_s(self, quantity: float) -> float:
        """Return a quantity over the makespan; 0 where nothing was served."""
        return quantity / self.makespan_s if self.makespan_s else 0.0
