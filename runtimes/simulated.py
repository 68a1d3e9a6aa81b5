"""Simulated runtime: executes plans in simulated time, the reference for other runtimes.

There is no model: tokens are drawn from prompts and seeds, and instants are the simulator's.
"""

from collections.abc import Callable
from zlib import crc32

import numpy as np

from llmpq_sim.api.prediction import predict_requests
from llmpq_sim.core.execution import Execution, RequestTiming
from runtimes.base import (
    Completion,
    Job,
    Progress,
    TokenRequest,
    ignore_completion,
    ignore_progress,
)
from runtimes.deployment.job_checks import check_job_alone


class SimulatedRuntime:
    """The runtime that only counts."""

    name = "simulated"

    def check(self, job: Job) -> None:
        """Check that a job could be run.

        Raises:
            LlmpqError: the plan is none for its scenario, does not fit, or holds less than a
                request has.
        """
        check_job_alone(job)

    def run(
        self,
        job: Job,
        on_completion: Callable[[Completion], None] = ignore_completion,
        on_progress: Callable[[Progress], None] = ignore_progress,
    ) -> Execution:
        """Serve every request at once, in the order in which the simulator has them finished.

        Raises:
            InfeasibleError: a stage has no room for any KV cache.
        """
        self.check(job)
        vocabulary = job.saved.task.costs.scenario.model.vocab_size
        served = [_drawn(number, one, vocabulary) for number, one in enumerate(job.requests)]
        lengths = [
            RequestTiming(one.name, len(one.prompt), len(done.tokens), one.arrival_s, 0.0, 0.0)
            for one, done in zip(job.requests, served, strict=True)
        ]
        predicted = predict_requests(job.saved, lengths, job.policy, job.settings, job.concurrency)
        position = {one.name: number for number, one in enumerate(job.requests)}
        for times in sorted(predicted.requests, key=lambda one: one.last_s):
            on_completion(served[position[times.name]])
        result = predicted.result
        on_progress(
            Progress(
                "serving",
                result.finished,
                len(job.requests),
                result.output_tokens,
                result.makespan_s,
                result.stage_busy_fraction,
            )
        )
        ordered = sorted(predicted.requests, key=lambda one: position[one.name])
        return Execution(
            result=result,
            requests=tuple(ordered),
            steps=predicted.steps,
            stage_peak_bytes=predicted.stage_bytes,
            loading_s=0.0,
            dtype=job.options.dtype or "bf16",
            notes=predicted.notes,
        )


def _drawn(number: int, request: TokenRequest, vocabulary: int) -> Completion:
    """Return tokens that depend on the prompt and, where it is sampled, on the seed."""
    seed = request.sampling.seed if request.sampling.temperature > 0 else 0
    rng = np.random.default_rng([seed, crc32(repr(request.prompt).encode())])
    tokens = rng.integers(vocabulary, size=request.output_tokens).tolist()
    for length, token in enumerate(tokens, start=1):
        if token in request.stop_tokens:
            return Completion(number, tuple(tokens[:length]), "stop")
    return Completion(number, tuple(tokens), "length")
