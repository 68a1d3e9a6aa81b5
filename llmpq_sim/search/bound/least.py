"""The least makespan of any plan with a micro-batching: loose, but known at once."""

from collections import Counter

from llmpq_sim.core.plan import MicroBatching, equal_parts
from llmpq_sim.search.bound.problem import PlanningTask

ROUNDING = 1 - 1e-9


def least_makespan_s(task: PlanningTask, batching: MicroBatching) -> float:
    """Return a makespan in seconds that no plan is below, from the times of layers alone.

    Some micro-batch passes all layers in turn with its prompts, and some group in each round. And
    all micro-batches together keep the devices busy, each layer at its fastest, at best shared
    evenly. The larger counts. Rounds count only where all requests have the same number of them:
    otherwise rows become fewer from one to the next.
    """
    scenario = task.costs.scenario
    waves = Counter(batching.waves(scenario.workload.requests))
    prompts: Counter[int] = Counter()
    rounds: Counter[int] = Counter()
    for groups, count in waves.items():
        for rows in equal_parts(sum(groups), batching.prefill):
            prompts[rows] += count
        for rows in groups:
            rounds[rows] += count
    passes = [{rows: _prefill_s(task, rows) for rows in prompts}]
    if len(set(scenario.workload.output_tokens)) == 1:
        passes.append({rows: _decode_s(task, rows) for rows in rounds})
    in_turn_s = sum(min(seconds.values()) for seconds in passes)
    busy_s = sum(
        counts[rows] * layer_s
        for counts, seconds in zip((prompts, rounds), passes, strict=False)
        for rows, layer_s in seconds.items()
    )
    shared_s = busy_s / len(scenario.cluster.devices)
    return scenario.model.layers * max(in_turn_s, shared_s) * ROUNDING


def _prefill_s(task: PlanningTask, rows: int) -> float:
    """Return the time of a layer for so many prompts where it is fastest."""
    return min(task.costs.prefill_layer_s(kind, name, rows) for kind, name in _choices(task))


def _decode_s(task: PlanningTask, rows: int) -> float:
    """Return the time of a layer for so many rows in all rounds where it is fastest."""
    costs = task.costs
    return min(
        float(costs.decode_layer_s(kind, name, rows)[: costs.rounds].sum())
        for kind, name in _choices(task)
    )


def _choices(task: PlanningTask) -> list[tuple[str, str]]:
    """Return every kind of device with every allowed format that it runs."""
    return [
        (kind, name)
        for kind, device in task.costs.devices.items()
        for name in task.formats
        if name in device.formats
    ]
