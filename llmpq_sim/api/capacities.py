"""Capacity of a saved plan: KV tokens that fit, sequences, and the longest contexts."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from llmpq_sim.api.planned import AnyPlan, Profiles, load
from llmpq_sim.api.replaying import ServingOptions, asked_trace, chosen_settings
from llmpq_sim.core.capacity import LEAST_CONTEXT_TOKENS, Capacity, batch_capacity
from llmpq_sim.core.errors import InputError
from llmpq_sim.core.limits import MOST_SEQUENCES, check_count
from llmpq_sim.core.scenario import BatchWorkload
from llmpq_sim.core.trace import TraceWorkload
from llmpq_sim.io.plans import with_workload
from llmpq_sim.io.tasks import load_output_lengths
from llmpq_sim.io.workloads import TraceOptions, load_workload
from llmpq_sim.simulator.continuous.capacity import block_room, trace_capacity


def capacity(
    plan: AnyPlan,
    *,
    batch: int | None = None,
    prompt_tokens: int | None = None,
    output_tokens: int | Sequence[int] | Path | None = None,
    trace: str | Path | TraceOptions | None = None,
    options: ServingOptions | None = None,
    context_tokens: int | None = None,
    sequences: int | None = None,
    profiles: Profiles = (),
) -> Capacity:
    """Return what fits a plan at once: as a service where it was made for a trace, or one is given.

    Args:
        plan: what ``plan`` returned, or the name of a plan file.
        batch: another number of requests than the plan's own.
        prompt_tokens: another length of the (padded) prompts.
        output_tokens: other numbers of tokens to generate; see ``simulate``.
        trace: whose requests are counted instead; see ``replay``.
        options: of the scheduler of a service; limits on latencies say nothing here.
        context_tokens: the length to count sequences of, prompt and output; the longest of the
            workload unless told.
        sequences: how many are to share the longest context; powers of two unless told.
        profiles: see ``load``.

    Raises:
        InputError: a name, a file or a figure says something that cannot be.
    """
    saved, options = load(plan, profiles=profiles), options or ServingOptions()
    scenario = saved.task.costs.scenario
    _check_asked(context_tokens, sequences, scenario.model.max_positions)
    given = (batch, prompt_tokens, output_tokens)
    if given != (None, None, None) or (trace is None and saved.serving is None):
        if isinstance(output_tokens, Path):
            output_tokens = load_output_lengths(output_tokens)
        if output_tokens is not None and not isinstance(output_tokens, int):
            output_tokens = tuple(output_tokens)
        task, planned = with_workload(saved, batch, prompt_tokens, output_tokens)
        return batch_capacity(planned, task.costs.scenario, context_tokens, sequences)
    workload = _representative(scenario.workload)
    if trace is not None:
        workload = load_workload(asked_trace(trace, 0), scenario.model.max_positions)
    settings = chosen_settings(saved, workload, options)
    room = block_room(saved.plan, scenario.model, scenario.cluster, settings)
    return trace_capacity(room, workload, settings, context_tokens, sequences)


def _check_asked(context_tokens: int | None, sequences: int | None, most: int) -> None:
    """Raise InputError for a length that no request has, or a number of sequences of none."""
    if context_tokens is not None and not LEAST_CONTEXT_TOKENS <= context_tokens <= most:
        raise InputError(
            f"--context: expected {LEAST_CONTEXT_TOKENS} to {most} tokens, prompt and output as "
            f"the model takes them, got {context_tokens}"
        )
    if sequences is not None:
        check_count("--sequences", sequences, MOST_SEQUENCES, "sequences")


def _representative(batch: BatchWorkload) -> TraceWorkload:
    """Return the requests of the batch that stands for a trace."""
    return TraceWorkload(
        "the plan's batch",
        np.zeros(batch.requests),
        np.full(batch.requests, batch.prompt_tokens, np.int64),
        np.array(batch.output_tokens, np.int64),
    )
