"""Simulation of LLM-PQ's static policy on an offline batch."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from llmpq_sim.core.cluster import Link
from llmpq_sim.core.formats import FORMATS
from llmpq_sim.core.plan import Plan
from llmpq_sim.core.result import SimulationResult, Summary
from llmpq_sim.core.schedule import BatchSchedule, PrefillStep, batch_schedules
from llmpq_sim.latency.costs import LayerCosts
from llmpq_sim.simulator.static.policies import BatchPolicy, StepOrder, pipelined
from llmpq_sim.simulator.static.recurrence import compute_steps
from llmpq_sim.simulator.static.step_graph import StepGraph, StepTimes

FloatArray = NDArray[np.float64]
RunSteps = Callable[[StepGraph, float], StepTimes]

TOKEN_BYTES = 8
"""A sampled token travels back to the first stage as one 64-bit integer."""

HIDDEN_BYTES = 2
"""Activations travel at 16 bits."""


class StageCosts:
    """Seconds of one stage's steps under a plan.

    Attributes:
        kind: the stage's kind of device.
        layers: how many of its layers are of each kind in each format.
    """

    def __init__(self, costs: LayerCosts, plan: Plan, number: int) -> None:
        stage, cluster = plan.stages[number], costs.scenario.cluster
        kinds = costs.scenario.model.kind_of_layer[plan.first_layers()[number] :]
        counts = Counter(zip(kinds, stage.formats, strict=False))
        numbers = range(len(costs.scenario.model.kinds))
        self.kind = cluster.devices[cluster.index(stage.device, "plan")].device.name
        self.layers = {layer: counts[layer] for layer in product(numbers, FORMATS) if counts[layer]}
        self._costs = costs
        self._is_first = number == 0
        self._is_last = number == len(plan.stages) - 1

    def prefill_s(self, rows: int) -> float:
        """Return the time of a prefill micro-batch of so many whole prompts."""
        prompt_tokens = self._costs.scenario.workload.prompt_tokens
        return self.prefill_step_s(PrefillStep(rows, 0, prompt_tokens, is_last=True))

    def prefill_step_s(self, step: PrefillStep) -> float:
        """Return the time of a prefill step; only the last chunk of prompts has the LM head."""
        total_s = self._ends_s(step.rows if step.is_last else 0, step.step_tokens)
        for (layer_kind, name), layers in self.layers.items():
            total_s += layers * self._costs.prefill_step_s(self.kind, name, step, layer_kind)
        return total_s

    def decode_s(self, rows: int) -> FloatArray:
        """Return the time of a decode micro-batch of so many rows in each round."""
        total_s = np.full(self._costs.rounds, self._ends_s(rows, rows))
        for (layer_kind, name), layers in self.layers.items():
            layer_s = self._costs.decode_layer_s(self.kind, name, rows, layer_kind)
            total_s += layers * layer_s[: self._costs.rounds]
        return total_s

    def _ends_s(self, rows: int, tokens: int) -> float:
        embedding_s = self._costs.embedding_s(self.kind, tokens) if self._is_first else 0.0
        head_s = self._costs.head_s(self.kind, rows) if self._is_last and rows else 0.0
        return embedding_s + head_s + self._costs.step_s(self.kind)


@dataclass(frozen=True)
class BatchTimes:
    """What happened to a batch.

    Attributes:
        instants_s: when each request's first and last tokens were sampled.
        busy_s: how long each stage computed.
        steps: micro-batches served by all stages together.
        end_s: when the last token was sampled.
    """

    instants_s: tuple[tuple[float, float], ...]
    busy_s: tuple[float, ...]
    steps: int
    end_s: float


def simulate_static(
    plan: Plan, costs: LayerCosts, run: RunSteps = compute_steps, policy: BatchPolicy = pipelined
) -> SimulationResult:
    """Return what happens when the plan serves the scenario's batch.

    Args:
        plan: a plan that `check_plan` accepts.
        costs: block times of the scenario.
        run: says when each step of a wave is done; the recurrence unless told.
        policy: says which steps may begin when.
    """
    times = batch_times(plan, costs, run, policy)
    output_tokens = costs.scenario.workload.output_tokens
    return static_result(output_tokens, times.instants_s, times.busy_s, times.steps)


def batch_times(
    plan: Plan,
    costs: LayerCosts,
    run: RunSteps = compute_steps,
    policy: BatchPolicy = pipelined,
    start_s: float = 0.0,
) -> BatchTimes:
    """Return when each request of the scenario's batch has its tokens.

    Args:
        plan: stages on devices of the cluster that hold all layers; micro-batches larger than
            the batch are cut to it.
        costs: block times of the scenario.
        run: says when each step of a wave is done; the recurrence unless told.
        policy: says which steps may begin when.
        start_s: instant at which the batch begins.
    """
    stages = [StageCosts(costs, plan, number) for number in range(len(plan.stages))]
    hops = pipeline_links(plan, costs)
    workload = costs.scenario.workload
    instants: list[tuple[float, float]] = []
    busy_s, steps = np.zeros(len(stages)), 0
    built: dict[BatchSchedule, StepGraph] = {}
    for schedule in batch_schedules(workload, plan.micro_batching):
        if schedule not in built:
            order = policy(schedule)
            built[schedule] = build_step_graph(schedule, stages, hops, costs, order)
        times = run(built[schedule], start_s)
        wanted = workload.output_tokens[len(instants) : len(instants) + sum(schedule.group_rows)]
        instants += _token_instants_s(schedule, wanted, times)
        busy_s += [sum(service_s) for service_s in built[schedule].service_s]
        steps += schedule.steps * len(stages)
        start_s = times.end_s
    return BatchTimes(tuple(instants), tuple(busy_s.tolist()), steps, start_s)


def pipeline_links(plan: Plan, costs: LayerCosts) -> list[Link | None]:
    """Return the link behind each stage, the last one back to the first; None on one device."""
    cluster = costs.scenario.cluster
    places = [cluster.index(stage.device, "plan") for stage in plan.stages]
    if len(places) == 1:
        return [None]
    return [
        cluster.link(place, places[(number + 1) % len(places)])
        for number, place in enumerate(places)
    ]


def build_step_graph(
    schedule: BatchSchedule,
    stages: list[StageCosts],
    hops: list[Link | None],
    costs: LayerCosts,
    order: StepOrder,
) -> StepGraph:
    """Return what one wave asks of the pipeline: steps numbered prefill first, then by round."""
    service_s = tuple(_stage_service_s(schedule, stage) for stage in stages)
    decode_rows = [schedule.decode_rows[group][turn] for group, turn in schedule.decode_order]
    tokens = [step.step_tokens for step in schedule.prefill_steps] + decode_rows
    sampled = [step.rows * step.is_last for step in schedule.prefill_steps] + decode_rows
    hidden = HIDDEN_BYTES * costs.scenario.model.hidden_size
    transfer_s = [_transfers_s(hop, tokens, hidden) for hop in hops[:-1]]
    transfer_s.append(_transfers_s(hops[-1], sampled, TOKEN_BYTES))
    return StepGraph(service_s, tuple(transfer_s), order.successors, order.starts)


def _stage_service_s(schedule: BatchSchedule, stage: StageCosts) -> tuple[float, ...]:
    by_step = {step: stage.prefill_step_s(step) for step in set(schedule.prefill_steps)}
    service_s = [by_step[step] for step in schedule.prefill_steps]
    sizes = {rows for group in schedule.decode_rows for rows in group}
    decode_s = {rows: stage.decode_s(rows).tolist() for rows in sizes}
    service_s += [
        decode_s[schedule.decode_rows[group][turn]][turn] for group, turn in schedule.decode_order
    ]
    return tuple(service_s)


def _transfers_s(hop: Link | None, units: list[int], unit_bytes: int) -> tuple[float, ...]:
    if hop is None:
        return (0.0,) * len(units)
    by_units = {count: hop.transfer_s(count * unit_bytes) for count in set(units)}
    return tuple(by_units[count] for count in units)


def _token_instants_s(
    schedule: BatchSchedule, output_tokens: tuple[int, ...], times: StepTimes
) -> list[tuple[float, float]]:
    """Return the instants at which each row's first and last tokens are sampled."""
    first_s = [
        times.sampled_s[number]
        for number, step in enumerate(schedule.prefill_steps)
        if step.is_last
        for _ in range(step.rows)
    ]
    group_of = [group for group, rows in enumerate(schedule.group_rows) for _ in range(rows)]
    last_s = [
        first if tokens == 1 else times.sampled_s[schedule.step_of[group, tokens - 2]]
        for first, group, tokens in zip(first_s, group_of, output_tokens, strict=True)
    ]
    return list(zip(first_s, last_s, strict=True))


def static_result(
    output_tokens: Sequence[int],
    instants_s: Sequence[tuple[float, float]],
    busy_s: tuple[float, ...],
    steps: int,
) -> SimulationResult:
    """Return the metrics of requests that were all present at the start.

    Args:
        output_tokens: generated by each request.
        instants_s: when the first and last tokens of each were sampled.
        busy_s: how long each stage computed.
        steps: micro-batches served by all stages together.
    """
    last_token_s = [last for _, last in instants_s]
    tpot_s = [
        (last - first) / (tokens - 1)
        for (first, last), tokens in zip(instants_s, output_tokens, strict=True)
        if tokens > 1
    ]
    return SimulationResult(
        requests=len(output_tokens),
        finished=len(output_tokens),
        output_tokens=sum(output_tokens),
        makespan_s=max(last_token_s),
        ttft_s=Summary.of([first for first, _ in instants_s]),
        tpot_s=Summary.of(tpot_s),
        latency_s=Summary.of(last_token_s),
        stage_busy_s=busy_s,
        stage_steps=steps,
    )
