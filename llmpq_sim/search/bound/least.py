"""The least makespan of any plan with a micro-batching: loose, but known at once."""

from collections import Counter

from llmpq_sim.core.plan import MicroBatching
from llmpq_sim.core.schedule import PrefillStep, prefill_steps
from llmpq_sim.search.bound.problem import PlanningTask

ROUNDING = 1 - 1e-9


def least_makespan_s(task: PlanningTask, batching: MicroBatching) -> float:
    """Return a makespan in seconds that no plan is below, from the times of layers alone.

    Some chunk passes all layers in turn with its prompts, and some group in each round. And
    all micro-batches together keep the devices busy, each layer at its fastest, at best shared
    evenly. The larger counts. Rounds count only where all requests have the same number of them:
    otherwise rows become fewer from one to the next.
    """
    scenario = task.costs.scenario
    waves = Counter(batching.waves(scenario.workload.requests))
    prompts: Counter[PrefillStep] = Counter()
    rounds: Counter[int] = Counter()
    for groups, count in waves.items():
        for step in prefill_steps(sum(groups), batching, scenario.workload.prompt_tokens):
            prompts[step] += count
        for rows in groups:
            rounds[rows] += count
    prefill_s = {step: _prefill_s(task, step) for step in prompts}
    decode_s: dict[int, float] = {}
    if len(set(scenario.workload.output_tokens)) == 1:
        decode_s = {rows: _decode_s(task, rows) for rows in rounds}
    in_turn_s = min(prefill_s.values()) + min(decode_s.values(), default=0.0)
    busy_s = sum(prompts[step] * layers_s for step, layers_s in prefill_s.items())
    busy_s += sum(rounds[rows] * layers_s for rows, layers_s in decode_s.items())
    return max(in_turn_s, busy_s / len(scenario.cluster.devices)) * ROUNDING


def _prefill_s(task: PlanningTask, step: PrefillStep) -> float:
    """Return the time of all layers for a chunk of prompts where each is fastest."""
    costs = task.costs
    return sum(
        layers * min(costs.prefill_step_s(*choice, step, kind) for choice in _choices(task))
        for kind, layers in enumerate(costs.scenario.model.layers_by_kind)
    )


def _decode_s(task: PlanningTask, rows: int) -> float:
    """Return the time of all layers for so many rows in all rounds where each is fastest."""
    costs = task.costs
    return sum(
        layers
        * min(
            float(costs.decode_layer_s(*choice, rows, kind)[: costs.rounds].sum())
            for choice in _choices(task)
        )
        for kind, layers in enumerate(costs.scenario.model.layers_by_kind)
    )


def _choices(task: PlanningTask) -> list[tuple[str, str]]:
    """Return every kind of device with every allowed format that it runs."""
    return [
        (kind, name)
        for kind, device in task.costs.devices.items()
        for name in task.formats
        if name in device.formats
    ]
