"""LLM-PQ's bit-transfer heuristic: bits and layers move off the slowest stage, one by one."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from llmpq_sim.core.formats import FORMATS
from llmpq_sim.core.plan import MicroBatching, Plan, Stage
from llmpq_sim.search.baselines.integer import integer_plan
from llmpq_sim.search.bound.problem import PlanningTask
from llmpq_sim.search.bound.screening import Screen
from llmpq_sim.search.construction import arrange_layers
from llmpq_sim.search.deadline import check_time
from llmpq_sim.search.scoring import fits, keeps_budget
from llmpq_sim.simulator.static.simulate import StageCosts

EXCHANGES = ((16, 8, 2), (8, 8, 1), (16, 4, 4), (16, 4, 2), (8, 4, 2), (4, 4, 1))
"""For one layer at the first bits, the slowest stage gives so many at the second (LLM-PQ, sec. 5).
One for one at equal bits means that a layer moves and none comes back."""

MOST_ROUNDS = 400


class Exchange(NamedTuple):
    """For one layer in a format of many bits, the slowest stage gives some in one of few."""

    high: str
    low: str
    given: int


def bit_transfer_plan(task: PlanningTask, micro_batching: MicroBatching) -> Plan | None:
    """Return the plan of the heuristic for one micro-batching, or None if nothing fits.

    It starts from adabits and hill-climbs: the slowest stage gives k layers at few bits for one
    layer at more bits of a faster stage, the fastest first, as long as the makespan falls and
    memory and budget hold. The bits of the whole model stay as adabits chose them.
    Source: LLM-PQ, arXiv:2403.01136, sec. 5, with the decode term corrected.
    """
    plan = integer_plan(task, micro_batching, "loss")
    if plan is None:
        return None
    screen = Screen(task)
    best_s = screen.makespan_s(plan)
    for _ in range(MOST_ROUNDS):
        check_time()
        better = _improve(plan, best_s, screen)
        if better is None:
            break
        plan, best_s = better
    return plan


def _improve(plan: Plan, best_s: float, screen: Screen) -> tuple[Plan, float] | None:
    """Return the first exchange that shortens the makespan, or None."""
    by_time = _by_time(plan, screen.task)
    straggler = by_time[-1]
    for pioneer in by_time[:-1]:
        for exchange in exchanges(screen.task.formats):
            moved = _exchanged(plan, screen.task, straggler, pioneer, exchange)
            if moved is None or not fits(moved, screen.task):
                continue
            if not keeps_budget(moved, screen.task):
                continue
            moved_s = screen.makespan_s(moved)
            if moved_s < best_s * (1 - 1e-9):
                return moved, moved_s
    return None


def exchanges(formats: Sequence[str]) -> list[Exchange]:
    """Return the exchanges as formats, the paper's first ones first; each of equal bits by itself.

    A layer that moves for none keeps its format.
    """
    bits = {name: FORMATS[name].bits for name in formats}
    return [
        Exchange(high, low, given)
        for high_bits, low_bits, given in EXCHANGES
        for high in formats
        for low in ([high] if high_bits == low_bits else formats)
        if bits[high] == high_bits and bits[low] == low_bits
    ]


def _by_time(plan: Plan, task: PlanningTask) -> list[int]:
    """Return stages by what they cost the batch when they are the slowest, fastest first."""
    requests, batching = task.costs.scenario.workload.requests, plan.micro_batching
    prefills, groups = -(-requests // batching.prefill), -(-requests // batching.decode)

    def cost_s(number: int) -> float:
        stage = StageCosts(task.costs, plan, number)
        decode_s = float(stage.decode_s(batching.decode).sum())
        return (prefills - 1) * stage.prefill_s(batching.prefill) + groups * decode_s

    return sorted(range(len(plan.stages)), key=cost_s)


def _exchanged(
    plan: Plan, task: PlanningTask, straggler: int, pioneer: int, exchange: Exchange
) -> Plan | None:
    """Return the plan after an exchange between two stages, or None if they lack the layers."""
    high, low, given = exchange.high, exchange.low, exchange.given
    counts = [Counter(stage.formats) for stage in plan.stages]
    back = 0 if high == low else 1
    if counts[straggler][low] < given or counts[pioneer][high] < back:
        return None
    counts[straggler][low] -= given
    counts[straggler][high] += back
    counts[pioneer][low] += given
    counts[pioneer][high] -= back
    if not counts[straggler].total() or not _can_run(plan, task, (straggler, pioneer), counts):
        return None
    rebuilt, layer = [], 0
    for stage, count in zip(plan.stages, counts, strict=True):
        layers = range(layer, layer + count.total())
        formats = arrange_layers(task, [count[name] for name in task.formats], layers)
        rebuilt.append(Stage(stage.device, formats))
        layer += len(formats)
    return replace(plan, stages=tuple(rebuilt))


def _can_run(
    plan: Plan, task: PlanningTask, stages: Sequence[int], counts: list[Counter[str]]
) -> bool:
    """Return whether the devices of some stages run every format they would hold."""
    cluster = task.costs.scenario.cluster
    for number in stages:
        position = cluster.index(plan.stages[number].device, "plan")
        runs = cluster.devices[position].device.formats
        if any(count and name not in runs for name, count in counts[number].items()):
            return False
    return True
