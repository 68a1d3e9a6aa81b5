"""Warm-up of a stage, so that the first request is as fast as the others.

The first calls of a process pay for memory that the system hands out page by page, and for what
libraries prepare once. A step of each phase, as large as those to come, pays it beforehand.
"""

from collections.abc import Iterator

import torch

from runtimes.torch_pipeline.engine.sampling import sample
from runtimes.torch_pipeline.engine.stage import Stage
from runtimes.torch_pipeline.engine.step import Segment, Step
from runtimes.torch_pipeline.processes.job_spec import JobSpec

ROUNDS = 2


def warm_up(stage: Stage, job: JobSpec) -> None:
    """Compute steps of both phases; what they leave in the cache is overwritten by requests."""
    for _ in range(ROUNDS):
        for step in warm_up_steps(job):
            out = stage.run(step, _entering(stage, step))
            if stage.shard.is_last:
                sample(out, step, job.requests)


def warm_up_steps(job: JobSpec) -> Iterator[Step]:
    """Yield a step of prompts and one of decodes, as large as the job's own may be."""
    longest = max(len(request.prompt) for request in job.requests)
    if job.settings is None:
        rows, decodes = job.micro_batching.prefill, job.micro_batching.decode
        longest = job.micro_batching.chunks(longest)[0]
    else:
        rows = max(1, job.settings.token_budget // longest)
        longest = min(longest, job.settings.token_budget)
        decodes = job.settings.sequence_limit
    most = min(job.cache_rows, len(job.requests))
    rows, decodes = min(rows, most), min(decodes, most)
    yield Step(0, chunks=tuple(Segment(0, row, 0, longest, samples=True) for row in range(rows)))
    start = min(longest, job.cache_context_tokens - 1)
    yield Step(1, decodes=tuple(Segment(0, row, start, 1, samples=True) for row in range(decodes)))


def _entering(stage: Stage, step: Step) -> torch.Tensor:
    if stage.shard.is_first:
        return torch.zeros(step.tokens, dtype=torch.int64, device=stage.device)
    shape = (step.tokens, stage.hidden_size)
    return torch.zeros(shape, dtype=stage.dtype, device=stage.device)
