"""Infeasibility in the user's terms: which memory is short, and what would fit."""

from dataclasses import replace
from math import isfinite

from llmpq_sim.core.errors import InfeasibleError
from llmpq_sim.core.formats import FORMATS
from llmpq_sim.core.memory import (
    available_bytes,
    ends_bytes,
    head_bytes,
    layer_kv_bytes,
    layer_weight_bytes,
)
from llmpq_sim.core.plan import MicroBatching
from llmpq_sim.core.units import gib, gib_apart
from llmpq_sim.search.bound.bound import Certificate
from llmpq_sim.search.bound.problem import PlanningTask
from llmpq_sim.search.grid import LONG_PROMPT_TOKENS, chunk_sizes, micro_batching_grid

WHOLE = MicroBatching(1, 1, 1)
"""One request at a time, its prompt in one piece."""


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
        needs_gib, has_gib, short_gib, _ = gib_apart(needs, has, needs - has, 0)
        return (
            f"{name} on {cluster}: does not fit at {least}, the smallest allowed format: layers, "
            f"embedding and one request's KV cache need {needs_gib} GiB, the devices have "
            f"{has_gib} GiB beside {_runtimes(task)} GiB of runtime and workspace each; "
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
    layer = layer_weight_bytes(model, FORMATS[format_name])
    layer += layer_kv_bytes(model, scenario.workload, WHOLE)
    alone = len(scenario.cluster.devices) == 1
    return model.layers * layer + ends_bytes(model, True, alone) + (not alone) * head_bytes(model)


def total_available_bytes(task: PlanningTask, batching: MicroBatching) -> int:
    """Return the bytes that all devices together have for layers, embedding and LM head."""
    scenario = task.costs.scenario
    return sum(
        max(0, available_bytes(member.device, scenario.model, scenario.workload, batching))
        for member in scenario.cluster.devices
    )


def _runtimes(task: PlanningTask) -> str:
    """Return what a runtime takes in GiB: one figure, or the range over the devices."""
    members = task.costs.scenario.cluster.devices
    taken = sorted(member.device.runtime_bytes for member in members)
    return " to ".join(dict.fromkeys((gib(taken[0]), gib(taken[-1]))))


def _what_would_fit(task: PlanningTask, has: int) -> str:
    """Return the formats beyond the allowed ones at which the model would fit."""
    fitting = [
        name for name in FORMATS if name not in task.formats and needed_bytes(task, name) <= has
    ]
    return f"; it would fit at {' or '.join(fitting)}" if fitting else ""


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
