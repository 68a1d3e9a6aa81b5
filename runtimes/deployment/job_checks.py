"""Checks of a job, whatever runtime it is for."""

from llmpq_sim.core.errors import InfeasibleError, InputError
from llmpq_sim.core.memory import plan_memory
from llmpq_sim.core.plan import check_plan
from llmpq_sim.core.scenario import Scenario
from llmpq_sim.core.units import gib_apart
from runtimes.base import Job


def check_job_alone(job: Job) -> None:
    """Check a job against its own plan, without looking at the machine.

    Raises:
        InputError: the plan is none for its scenario, or a request is more than it holds.
        InfeasibleError: the plan does not fit its devices.
    """
    scenario = job.saved.task.costs.scenario
    check_plan(job.saved.plan, scenario)
    if not job.requests:
        raise InputError("requests: expected at least one that the plan can hold, got none")
    if (job.policy == "continuous") != (job.settings is not None):
        raise InputError(f"policy {job.policy}: expected settings with continuous batching alone")
    if job.concurrency is not None and (job.settings is None or job.concurrency < 1):
        raise InputError(
            f"concurrency: expected at least 1 in flight, with continuous batching, got "
            f"{job.concurrency} with policy {job.policy}"
        )
    _check_names(job)
    _check_requests(job, scenario)
    if job.policy == "static":
        _check_fits(job, scenario)


def longest_context_tokens(job_scenario: Scenario, is_continuous: bool) -> int:
    """Return the most tokens of prompt and output that a plan holds for one request."""
    if is_continuous:
        return job_scenario.model.max_positions
    return job_scenario.workload.context_tokens


def _check_names(job: Job) -> None:
    names = [request.name for request in job.requests]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"requests: expected distinct names, got {twice!r} more than once")


def _check_requests(job: Job, scenario: Scenario) -> None:
    most = longest_context_tokens(scenario, job.settings is not None)
    if job.settings is not None:  # a longer prompt, where prompts stay whole, would wait for ever
        most = min(most, job.settings.longest_context_tokens)
    vocabulary = scenario.model.vocab_size
    for request in job.requests:
        if request.output_tokens < 1:
            raise InputError(f"request {request.name}: expected at least 1 token to generate")
        if request.context_tokens > most:
            raise InputError(
                f"request {request.name}: has {len(request.prompt)} prompt and "
                f"{request.output_tokens} output tokens, the plan's KV cache holds {most}"
            )
        if not request.prompt or not 0 <= min(request.prompt) <= max(request.prompt) < vocabulary:
            raise InputError(
                f"request {request.name}: expected token ids from 0 to {vocabulary - 1}"
            )


def _check_fits(job: Job, scenario: Scenario) -> None:
    stages = job.saved.plan.stages
    for number, memory in enumerate(plan_memory(job.saved.plan, scenario)):
        if not memory.fits:
            needs, has = gib_apart(memory.total_bytes, memory.limit_bytes)
            raise InfeasibleError(
                f"does not fit: stage {number} on {stages[number].device} needs "
                f"{needs} GiB, has {has}"
            )
