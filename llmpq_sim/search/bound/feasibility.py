"""Infeasibility in the user's terms: which memory is short, and what would fit."""

from bisect import bisect_right
from collections import Counter
from dataclasses import replace
from functools import partial
from math import isfinite

from llmpq_sim.core.errors import InfeasibleError
from llmpq_sim.core.formats import COMMON_FORMATS
from llmpq_sim.core.memory import (
    available_bytes,
    batch_temporaries_bytes,
    ends_bytes,
    head_bytes,
    layers_weight_bytes,
    temporaries_bytes,
)
from llmpq_sim.core.plan import MicroBatching
from llmpq_sim.core.units import gib, gib_apart
from llmpq_sim.search.bound.bound import Certificate
from llmpq_sim.search.bound.problem import PlanningTask
from llmpq_sim.search.grid import LONG_PROMPT_TOKENS, chunk_sizes, micro_batching_grid

WHOLE = MicroBatching(1, 1, 1)
"""One request at a time, its prompt in one piece."""

LEAST_CONTEXT_TOKENS = 128
"""Requests shorter than this are no advice."""


def task_grid(task: PlanningTask) -> list[MicroBatching]:
    """Return the micro-batchings that a search of the task considers.

    Prompts may be cut where they are long, or where nothing fits beside the temporaries of a
    whole one.
    """
    scenario = task.costs.scenario
    prompt_tokens = scenario.workload.prompt_tokens
    has = total_available_bytes(task, WHOLE)
    is_cut = prompt_tokens >= LONG_PROMPT_TOKENS or not any(
        needed_bytes(task, name) <= has for name in task.formats
    )
    chunks = chunk_sizes(prompt_tokens) if is_cut else ()
    return micro_batching_grid(scenario.workload.requests, len(scenario.cluster.devices), chunks)


def smallest(task: PlanningTask) -> MicroBatching:
    """Return the micro-batching that needs the least memory: one request in small chunks."""
    chunks = chunk_sizes(task.costs.scenario.workload.prompt_tokens)
    return replace(WHOLE, chunk_tokens=chunks[0] if chunks else None)


def check_feasible(task: PlanningTask, certificate: Certificate) -> None:
    """Check that some micro-batching may have a plan.

    Where time was too short to tell of all, memory is.

    Raises:
        InfeasibleError: none has; the message says what is short by how much.
    """
    if certificate.unproven:
        least = min(needed_bytes(task, name) for name in task.formats)
        may_have = least <= total_available_bytes(task, smallest(task))
    else:
        may_have = bool(certificate.feasible)
    if not may_have:
        raise InfeasibleError(explain(task))


def explain(task: PlanningTask) -> str:
    """Return why nothing fits: memory even at the fewest bits, or the quality budget."""
    scenario = task.costs.scenario
    least = min(task.formats, key=lambda name: needed_bytes(task, name))
    has = total_available_bytes(task, smallest(task))
    needs = needed_bytes(task, least)
    name, cluster = scenario.model.name, scenario.cluster.name
    if needs > has:
        kv_bytes = _kv_bytes(task)
        needs_gib, has_gib, short_gib, _ = gib_apart(needs, has, needs - has, 0)
        return (
            f"{name} on {cluster}: does not fit at {least}, the smallest allowed format: weights "
            f"of {gib(needs - kv_bytes)} GiB and one request's KV cache of {gib(kv_bytes)} GiB "
            f"need {needs_gib} GiB, the devices have {has_gib} GiB ({_rooms(task)}); "
            f"{short_gib} GiB are short{_what_would_fit(task, has)}"
        )
    return (
        f"{name} on {cluster}: no plan fits the memory within a quality loss of "
        f"{task.budget:.4g} {task.quality.measure}; {_what_is_possible(task, has)}"
    )


def needed_bytes(task: PlanningTask, format_name: str) -> int:
    """Return the bytes of the whole model in one format with one request's KV cache."""
    scenario = task.costs.scenario
    model = scenario.model
    weights = layers_weight_bytes(model, 0, (format_name,) * model.layers)
    alone = len(scenario.cluster.devices) == 1
    ends = ends_bytes(model, True, alone) + (not alone) * head_bytes(model)
    return weights + _kv_bytes(task) + ends


def _kv_bytes(task: PlanningTask) -> int:
    """Return the bytes of one request's KV cache in all layers."""
    workload = task.costs.scenario.workload
    rows = WHOLE.wave_rows(workload.requests)
    return task.costs.scenario.model.cache_bytes(rows, workload.context_tokens)


def total_available_bytes(task: PlanningTask, batching: MicroBatching) -> int:
    """Return the bytes that all devices together have for layers, embedding and LM head."""
    scenario = task.costs.scenario
    return sum(
        max(0, available_bytes(member.device, scenario.model, scenario.workload, batching))
        for member in scenario.cluster.devices
    )


def _rooms(task: PlanningTask) -> str:
    """Return what the devices of each kind have, and what of it is taken by what."""
    scenario = task.costs.scenario
    members = Counter(member.device.name for member in scenario.cluster.devices)
    batching = smallest(task)
    chunk_tokens = batching.chunks(scenario.workload.prompt_tokens)[0]
    temporaries = temporaries_bytes(scenario.model, scenario.workload, batching)
    rooms = [
        f"{count} x {kind}: {gib(device.memory_bytes)} less {gib(device.runtime_bytes)} of runtime "
        f"and {gib(temporaries)} of temporaries"
        for kind, count in members.items()
        for device in [task.costs.devices[kind]]
    ]
    return f"{', '.join(rooms)} for {chunk_tokens} prompt tokens at a time"


def _what_would_fit(task: PlanningTask, has: int) -> str:
    """Return what would fit, the mildest first; one request in the smallest chunks does not.

    Chunks and sequences are as few as they can be, so what is left is shorter requests, then the
    formats beyond the allowed ones.
    """
    scenario = task.costs.scenario
    least = min(needed_bytes(task, name) for name in task.formats)
    context_tokens = _tokens_in(task, has - _rounding_bytes(task) - least + _kv_bytes(task))
    advice = []
    if context_tokens > max(scenario.workload.longest_output_tokens, LEAST_CONTEXT_TOKENS):
        advice.append(f"requests of {context_tokens} tokens with their output have room")
    fitting = [
        name
        for name in COMMON_FORMATS
        if name not in task.formats and needed_bytes(task, name) <= has
    ]
    if fitting:
        advice.append(f"it would fit at {' or '.join(fitting)}")
    return "".join(f"; {each}" for each in advice)


def _tokens_in(task: PlanningTask, room_bytes: int) -> int:
    """Return how long a context of one request may be whose cache has so many bytes."""
    scenario = task.costs.scenario
    contexts = range(scenario.workload.context_tokens + 1)
    return bisect_right(contexts, room_bytes, key=partial(scenario.model.cache_bytes, 1)) - 1


def _rounding_bytes(task: PlanningTask) -> int:
    """Return what chunks of other prompts may take more on all devices, for parts are rounded."""
    scenario = task.costs.scenario
    batching, prompt_tokens = smallest(task), scenario.workload.prompt_tokens
    most_tokens = batching.chunk_tokens or prompt_tokens
    most = batch_temporaries_bytes(scenario.model, most_tokens)
    now = temporaries_bytes(scenario.model, scenario.workload, batching)
    return len(scenario.cluster.devices) * (most - now)


def _what_is_possible(task: PlanningTask, has: int) -> str:
    """Return the least damaging allowed format whose bytes fit with one request in flight."""
    fitting = [
        name
        for name in task.formats
        if needed_bytes(task, name) <= has and isfinite(task.quality.uniform_loss(name))
    ]
    within = [name for name in fitting if task.quality.uniform_loss(name) <= task.allowed_loss]
    if within or not fitting:
        return "whole layers do not divide over the devices; allow more loss or shorter requests"
    best = min(fitting, key=task.quality.uniform_loss)
    return (
        f"with one request in flight {best} everywhere would fit and lose "
        f"{task.quality.uniform_loss(best):.4g}: try --quality-at-least {best}"
    )
