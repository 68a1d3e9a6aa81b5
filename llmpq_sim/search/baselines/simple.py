"""Simple baselines, each a list of candidates for the same simulator."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from llmpq_sim.core.errors import InfeasibleError
from llmpq_sim.core.formats import FORMATS
from llmpq_sim.core.memory import available_bytes, layer_cache_bytes, layer_weight_bytes
from llmpq_sim.core.plan import MicroBatching, Plan, Stage
from llmpq_sim.search.baselines.bit_transfer import bit_transfer_plan
from llmpq_sim.search.baselines.integer import integer_plan
from llmpq_sim.search.baselines.pipeedge import pipeedge_layers
from llmpq_sim.search.baselines.registry import (
    BUNDLED,
    BaselinePlanner,
    offered_planners,
    plans_of,
)
from llmpq_sim.search.baselines.splits import divided, filled_in_turn
from llmpq_sim.search.baselines.tuning import with_best_batching
from llmpq_sim.search.bound.feasibility import task_grid
from llmpq_sim.search.bound.problem import PlanningTask
from llmpq_sim.search.bound.screening import Screen
from llmpq_sim.search.deadline import OutOfTime, check_time, time_left_s
from llmpq_sim.search.genetic.evaluation import STEPS_PER_S, stage_steps
from llmpq_sim.search.grid import paper_micro_batchings
from llmpq_sim.search.scoring import PlanScore, fits, keeps_budget, score_plan, shortfall_bytes


@dataclass(frozen=True)
class Baseline:
    """The best plan of a baseline, or why it has none.

    Attributes:
        name: what tables call it.
        score: its plan, simulated; None where not even a plan could be written down.
        infeasible_reason: why the plan is not feasible, or None.
        unmoved_reason: why the plan is another baseline's and tells nothing of its own, or None.
    """

    name: str
    score: PlanScore | None
    infeasible_reason: str | None
    unmoved_reason: str | None = None


UNMOVED = "as adabits: could not move"
NOT_TRIED = "not tried: the time budget ended"


def all_baselines(
    screen: Screen, floors_s: Mapping[MicroBatching, float] | None = None
) -> list[Baseline]:
    """Return every baseline, our own first; those that time ran out for say so.

    Args:
        screen: judges plans.
        floors_s: makespans that no plan with a micro-batching is below, where they are known.

    Raises:
        InputError: one of another package is broken.
    """
    floors_s = floors_s or {}
    tried = [
        _tried(name, planner, screen, floors_s) for name, planner in offered_planners().items()
    ]
    start = next(each.score for each in tried if each.name == "adabits")
    return [_marked(each, start) for each in tried]


def _marked(baseline: Baseline, start: PlanScore | None) -> Baseline:
    """Return a baseline; bit-transfer, which starts from adabits, says where it ended there."""
    if baseline.name != "bit-transfer" or start is None or not start.is_feasible:
        return baseline
    moved = baseline.score is None or baseline.score.plan != start.plan
    return baseline if moved else replace(baseline, unmoved_reason=UNMOVED)


def _tried(
    name: str, planner: BaselinePlanner, screen: Screen, floors_s: Mapping[MicroBatching, float]
) -> Baseline:
    try:
        check_time()
        plans = plans_of(name, planner, screen.task)
        if name in BUNDLED:
            plans = with_best_batching(plans, screen, floors_s)
        return best_of(name, plans, screen)
    except OutOfTime:
        return Baseline(name, None, NOT_TRIED)
    except InfeasibleError as refusal:
        return Baseline(name, None, str(refusal))


def quick_plans(task: PlanningTask) -> Iterator[Plan]:
    """Yield the feasible plans of the baselines that solve nothing."""
    for candidates in (uniform_plans, memory_weighted_plans, compute_weighted_plans):
        yield from (
            plan for plan in candidates(task) if fits(plan, task) and keeps_budget(plan, task)
        )


def best_of(name: str, plans: Sequence[Plan], screen: Screen) -> Baseline:
    """Return the fastest feasible of a baseline's plans, or the nearest with what it lacks.

    Raises:
        OutOfTime: the search's time limit leaves no time to simulate it.
    """
    task = screen.task
    feasible = [plan for plan in plans if fits(plan, task) and keeps_budget(plan, task)]
    if feasible:
        fastest = min(feasible, key=screen.makespan_s)
        if stage_steps(fastest, task) > STEPS_PER_S * time_left_s():
            raise OutOfTime
        return Baseline(name, score_plan(fastest, task), None)
    if plans:
        nearest = min(
            plans, key=lambda plan: (not keeps_budget(plan, task), shortfall_bytes(plan, task))
        )
        score = score_plan(nearest, task)
        return Baseline(name, score, score.infeasible_reason())
    return Baseline(name, None, "no plan fits the memory within the quality budget")


def uniform_plans(task: PlanningTask) -> list[Plan]:
    """Return even splits, the remainder to the first devices, one format for all layers.

    Source: LLM-PQ, arXiv:2403.01136, baseline Uniform.
    """
    layers = task.costs.scenario.model.layers
    devices = min(len(task.costs.scenario.cluster.devices), layers)
    split = [layers // devices + (number < layers % devices) for number in range(devices)]
    return _uniform_format_plans(task, lambda _mb, _name: (list(range(devices)), split))


def memory_weighted_plans(task: PlanningTask) -> list[Plan]:
    """Return splits by free memory over the fewest devices that hold the model.

    Of layers that are unequal, each device has its share of their bytes.
    Source: exo's ring partitioning, with the KV cache added to the model's bytes.
    """

    def split(micro_batching: MicroBatching, name: str) -> tuple[list[int], list[int]]:
        free = _free_bytes(task, micro_batching)
        layers = task.costs.scenario.model.layers
        layer_bytes = _layer_bytes(task, micro_batching, name)
        needed = sum(layer_bytes)
        order = sorted(range(len(free)), key=lambda device: (-free[device], device))
        chosen: list[int] = []
        for device in order:
            if sum(free[member] for member in chosen) < needed and len(chosen) < layers:
                chosen.append(device)
        chosen.sort()
        return chosen, divided(layer_bytes, [free[device] for device in chosen])

    return _uniform_format_plans(task, split)


def compute_weighted_plans(task: PlanningTask) -> list[Plan]:
    """Return splits by speed, filled up to each device's memory.

    Speed is the inverse of a layer's time over prefill and decode; a level is found at which
    ``sum min(room, level x speed)`` is the number of layers. Of layers that are unequal, each
    device in turn takes as many as take it no longer than the level, which is as low as can be.
    Source: water-filling as in Parallax.
    """

    def split(micro_batching: MicroBatching, name: str) -> tuple[list[int], list[int]]:
        free = _free_bytes(task, micro_batching)
        layer_bytes = _layer_bytes(task, micro_batching, name)
        seconds = _layer_seconds(task, micro_batching, name)
        if len(task.costs.scenario.model.kinds) > 1:
            filled = filled_in_turn(layer_bytes, seconds, free)
        else:
            room = np.floor(np.array(free) / layer_bytes[0])
            speed = 1.0 / np.array([of_device[0] for of_device in seconds])
            filled = _water_fill(np.maximum(room, 0.0), speed, len(layer_bytes))
        chosen = [device for device, count in enumerate(filled) if count > 0]
        return chosen, [filled[device] for device in chosen]

    return _uniform_format_plans(task, split)


def pipeedge_plans(task: PlanningTask) -> list[Plan]:
    """Return PipeEdge's partitions: the slowest decode stage is as fast as possible."""
    return _uniform_format_plans(
        task,
        lambda micro_batching, name: pipeedge_layers(task, micro_batching, name),
        prefill_is_decode=True,
    )


def adabits_plans(task: PlanningTask) -> list[Plan]:
    """Return the plans with the least quality loss that fit; speed is ignored (LLM-PQ, sec. 6)."""
    return _for_each_micro_batching(task, lambda batching: integer_plan(task, batching, "loss"))


def bit_transfer_plans(task: PlanningTask) -> list[Plan]:
    """Return the plans of LLM-PQ's heuristic, which starts from adabits."""
    return _for_each_micro_batching(task, lambda batching: bit_transfer_plan(task, batching))


def integer_plans(task: PlanningTask, group_layers: int = 1) -> list[Plan]:
    """Return the plans of LLM-PQ's integer program with the corrected objective.

    So many neighbouring layers share device and format, as `integer_plan` says.
    """
    return _for_each_micro_batching(
        task, lambda batching: integer_plan(task, batching, group_layers=group_layers)
    )


Split = Callable[[MicroBatching, str], tuple[list[int], list[int]] | None]


def _for_each_micro_batching(
    task: PlanningTask, make: Callable[[MicroBatching], Plan | None]
) -> list[Plan]:
    plans: list[Plan] = []
    for batchings in _tries(task):
        for micro_batching in batchings:
            check_time()
            made = make(micro_batching)
            plans += [] if made is None else [made]
        if _has_feasible(plans, task):
            break
    return plans


def _tries(task: PlanningTask) -> Iterator[list[MicroBatching]]:
    """Yield LLM-PQ's micro-batchings, then those that need less memory, a step at a time.

    First prompts are cut into ever smaller chunks, as a search of the task cuts them; then ever
    fewer requests are under way at once. A rule that fits without needs none of these, and which
    of the grid suits its partition best is found out later, by `with_best_batching`.
    """
    scenario = task.costs.scenario
    paper = paper_micro_batchings(scenario.workload.requests, len(scenario.cluster.devices))
    yield paper
    chunks = {batching.chunk_tokens or 0 for batching in task_grid(task)} - {0}
    for tokens in sorted(chunks, reverse=True):
        cut = [replace(each, prefill=1, chunk_tokens=tokens) for each in paper]
        yield list(dict.fromkeys(cut))
    rows = scenario.workload.requests // 2
    while rows:
        yield [MicroBatching(1, 1, rows, min(chunks, default=None))]
        rows //= 2


def _has_feasible(plans: Sequence[Plan], task: PlanningTask) -> bool:
    return any(fits(plan, task) and keeps_budget(plan, task) for plan in plans)


def _uniform_format_plans(
    task: PlanningTask, split: Split, *, prefill_is_decode: bool = False
) -> list[Plan]:
    """Return the splits for every format that all devices run, the least damaging first."""
    members = task.costs.scenario.cluster.devices
    names = [
        name
        for name in sorted(task.formats, key=task.quality.uniform_loss)
        if all(name in member.device.formats for member in members)
    ]
    plans: list[Plan] = []
    for batchings in _tries(task):
        for name, batching in product(names, batchings):
            is_cut = batching.chunk_tokens is not None
            if prefill_is_decode and not is_cut and batching.prefill != batching.decode:
                continue
            check_time()
            found = split(batching, name)
            if found is not None:
                plans.append(_plan(task, batching, name, *found))
        if _has_feasible(plans, task):
            break
    return plans


def _plan(
    task: PlanningTask, batching: MicroBatching, name: str, order: list[int], layers: list[int]
) -> Plan:
    members = task.costs.scenario.cluster.devices
    stages = tuple(
        Stage(members[device].name, (name,) * count)
        for device, count in zip(order, layers, strict=True)
    )
    return Plan(stages, batching)


def _free_bytes(task: PlanningTask, batching: MicroBatching) -> list[int]:
    scenario = task.costs.scenario
    return [
        max(available_bytes(member.device, scenario.model, scenario.workload, batching), 0)
        for member in scenario.cluster.devices
    ]


def _layer_bytes(task: PlanningTask, batching: MicroBatching, name: str) -> list[int]:
    """Return the bytes of each layer."""
    scenario = task.costs.scenario
    of_kinds = [
        layer_weight_bytes(kind, FORMATS[name])
        + layer_cache_bytes(kind, scenario.workload, batching)
        for kind in scenario.model.kinds
    ]
    return [of_kinds[kind] for kind in scenario.model.kind_of_layer]


def _layer_seconds(task: PlanningTask, batching: MicroBatching, name: str) -> list[list[float]]:
    """Return the time of each layer on each device over all micro-batches."""
    costs, requests = task.costs, task.costs.scenario.workload.requests
    prefills, groups = -(-requests // batching.prefill), -(-requests // batching.decode)
    model, seconds = costs.scenario.model, []
    for member in costs.scenario.cluster.devices:
        kind, of_kinds = member.device.name, []
        for layer_kind in range(len(model.kinds)):
            decode_s = costs.decode_layer_s(kind, name, batching.decode, layer_kind)
            prefill_s = costs.prefill_layer_s(kind, name, batching.prefill, layer_kind)
            busy_s = prefills * prefill_s + groups * float(decode_s[: costs.rounds].sum())
            of_kinds.append(busy_s)
        seconds.append([of_kinds[layer_kind] for layer_kind in model.kind_of_layer])
    return seconds


def _water_fill(
    room: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
    speed: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
    layers: int,
) -> list[int]:
    """Return layers per device: speed times a common level, no more than the room."""
    if room.sum() < layers:
        room = np.full(len(room), float(layers))
    low, high = 0.0, layers / speed.min()
    for _ in range(100):
        level = (low + high) / 2
        low, high = (
            (level, high) if np.minimum(room, level * speed).sum() < layers else (low, level)
        )
    exact = np.minimum(room, high * speed)
    counts = np.floor(exact + 1e-9)
    for device in np.argsort(counts - exact, kind="stable"):
        if counts.sum() < layers and counts[device] < room[device]:
            counts[device] += 1
    for device in np.argsort(-speed, kind="stable"):
        counts[device] += min(layers - counts.sum(), room[device] - counts[device])
    return [int(count) for count in counts]
