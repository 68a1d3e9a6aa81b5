"""Stages of a plan: what each holds and does, and which one is the bottleneck."""

from dataclasses import dataclass

from llmpq_sim.core.formats import FORMATS
from llmpq_sim.core.memory import layer_cache_bytes, layer_weight_bytes
from llmpq_sim.core.plan import Plan
from llmpq_sim.core.schedule import counted_batch_schedules
from llmpq_sim.latency.costs import LayerCosts
from llmpq_sim.report.formatting import joined, percent_text, span_text
from llmpq_sim.search.bound.problem import PlanningTask
from llmpq_sim.search.scoring import PlanScore
from llmpq_sim.simulator.static.policies import pipelined
from llmpq_sim.simulator.static.simulate import StageCosts, build_step_graph, pipeline_links

EVEN_FRACTION = 0.05
"""Stages whose busy time differs by no more than this share of the busiest are evenly loaded."""

SAME_FRACTION = 0.005
"""Stages whose busy time differs by no more than this share are the bottleneck together."""

WAITING_FRACTION = 0.1
"""Share of the time that the busiest stage must wait for it to be worth a word."""


@dataclass(frozen=True)
class StageRow:
    """One stage of a plan, as tables show it.

    Attributes:
        number: its place in the pipeline.
        device: the device it runs on.
        first_layer, last_layer: its layers, both included.
        formats: the format of each.
        memory_bytes, limit_bytes: what it needs, and what its device has.
        has_room: whether one more layer would fit, in the smallest format the task allows there.
        prefill_fraction, decode_fraction: share of the makespan it computes in each phase; None
            where the plan was not simulated.
    """

    number: int
    device: str
    first_layer: int
    last_layer: int
    formats: tuple[str, ...]
    memory_bytes: int
    limit_bytes: int
    has_room: bool
    prefill_fraction: float | None
    decode_fraction: float | None

    @property
    def layers_text(self) -> str:
        """Its layers as a range, such as ``0-9``."""
        first, last = self.first_layer, self.last_layer
        return str(first) if first == last else f"{first}-{last}"

    @property
    def busy_fraction(self) -> float | None:
        """Share of the makespan it computes."""
        if self.prefill_fraction is None or self.decode_fraction is None:
            return None
        return self.prefill_fraction + self.decode_fraction


def stage_rows(score: PlanScore, task: PlanningTask) -> list[StageRow]:
    """Return a row for each stage of a scored plan."""
    plan, least = score.plan, _least_layer_bytes(score.plan, task)
    fractions = _phase_fractions(score, task.costs)
    return [
        StageRow(
            number=number,
            device=stage.device,
            first_layer=first,
            last_layer=first + len(stage.formats) - 1,
            formats=stage.formats,
            memory_bytes=memory.total_bytes,
            limit_bytes=memory.limit_bytes,
            has_room=memory.total_bytes + least[number] <= memory.limit_bytes,
            prefill_fraction=fractions[number][0],
            decode_fraction=fractions[number][1],
        )
        for number, (stage, first, memory) in enumerate(
            zip(plan.stages, plan.first_layers(), score.memory, strict=True)
        )
    ]


def _least_layer_bytes(plan: Plan, task: PlanningTask) -> list[int]:
    """Return, per stage, the bytes of its smallest layer in the smallest format that may be."""
    scenario = task.costs.scenario
    least = []
    for stage, first in zip(plan.stages, plan.first_layers(), strict=True):
        numbers = scenario.model.kind_of_layer[first : first + len(stage.formats)]
        kinds = [scenario.model.kinds[number] for number in dict.fromkeys(numbers)]
        device = scenario.cluster.devices[scenario.cluster.index(stage.device, "plan")].device
        allowed = {name for name in task.formats if name in device.formats} | set(stage.formats)
        least.append(
            min(
                layer_cache_bytes(kind, scenario.workload, plan.micro_batching)
                + min(layer_weight_bytes(kind, FORMATS[name]) for name in allowed)
                for kind in kinds
            )
        )
    return least


def _phase_fractions(
    score: PlanScore, costs: LayerCosts
) -> list[tuple[float, float]] | list[tuple[None, None]]:
    if score.result is None:
        return [(None, None) for _ in score.plan.stages]
    makespan_s = score.result.makespan_s
    return [
        (prefill_s / makespan_s, decode_s / makespan_s)
        for prefill_s, decode_s in phase_seconds(score.plan, costs)
    ]


def phase_seconds(plan: Plan, costs: LayerCosts) -> list[tuple[float, float]]:
    """Return the seconds that each stage computes in prefill and in decode."""
    stages = [StageCosts(costs, plan, number) for number in range(len(plan.stages))]
    hops = pipeline_links(plan, costs)
    seconds = [(0.0, 0.0) for _ in stages]
    for schedule, count in counted_batch_schedules(costs.scenario.workload, plan.micro_batching):
        graph = build_step_graph(schedule, stages, hops, costs, pipelined(schedule))
        seconds = [
            (
                prefill_s + count * sum(service_s[: graph.starts]),
                decode_s + count * sum(service_s[graph.starts :]),
            )
            for (prefill_s, decode_s), service_s in zip(seconds, graph.service_s, strict=True)
        ]
    return seconds


def bottleneck_text(rows: list[StageRow]) -> str | None:
    """Return which stages limit a simulated plan and why, in sentences."""
    busy = [row.busy_fraction for row in rows if row.busy_fraction is not None]
    if not busy:
        return None
    busiest = [row for row in rows if (row.busy_fraction or 0.0) >= max(busy) * (1 - SAME_FRACTION)]
    sentences = [_load_text(rows, busiest, min(busy), max(busy))]
    if max(busy) < 1 - WAITING_FRACTION and len(rows) > 1:
        sentences.append("The rest is waiting for other stages and links.")
    full = [row.device for row in rows if not row.has_room and row not in busiest]
    if full:
        sentences.append(f"There is no memory for one more layer on {joined(full)}.")
    return " ".join(sentences)


def _load_text(rows: list[StageRow], busiest: list[StageRow], least: float, most: float) -> str:
    prefill = round(100 * (busiest[0].prefill_fraction or 0.0))
    phases = f"{prefill} % in prefill, {round(100 * most) - prefill} % in decode"
    if len(rows) == 1:
        return f"One stage does all the work: {phases}."
    if least >= most * (1 - EVEN_FRACTION):
        busy = span_text([round(100 * least), round(100 * most)])
        return f"Evenly loaded: each stage is busy {busy} % of the time, the busiest {phases}."
    names = joined([row.device for row in busiest])
    return f"Bottleneck: {names}, busy {percent_text(most)} of the time: {phases}."


def unused_devices(score: PlanScore, task: PlanningTask) -> list[str]:
    """Return the devices of the cluster that the plan leaves out."""
    used = {stage.device for stage in score.plan.stages}
    return [m.name for m in task.costs.scenario.cluster.devices if m.name not in used]
