"""Simulation of the plans that the authors ran, and its error against their logs.

Each logged plan is simulated twice: with the kernels of 2023, and with the stage costs that the
authors' own latency model logged for it. The second isolates the pipeline from the kernels.
"""

from dataclasses import dataclass, replace

from llmpq_sim.core.schedule import batch_schedules
from llmpq_sim.paper.assumptions import STEP_S
from llmpq_sim.paper.cases import KERNELS_OF_2023, Case
from llmpq_sim.paper.measurements import LOGGED_PLANS, LoggedPlan
from llmpq_sim.search.bound.problem import PlanningTask
from llmpq_sim.simulator.static.policies import pipelined
from llmpq_sim.simulator.static.recurrence import compute_steps
from llmpq_sim.simulator.static.simulate import (
    StageCosts,
    build_step_graph,
    pipeline_links,
    simulate_static,
)
from llmpq_sim.simulator.static.step_graph import StepGraph

LOGGED_CASE = Case(3, "main", 1.0, KERNELS_OF_2023)
"""Where the logged plans ran: cluster 3, all 100 tokens."""


@dataclass(frozen=True)
class LoggedPrediction:
    """A logged plan with its throughputs, in tokens/s.

    Attributes:
        logged: the plan, its logged stage costs and what was measured.
        from_kernels: simulated with the kernels of 2023.
        from_stage_costs: simulated with the logged stage costs.
    """

    logged: LoggedPlan
    from_kernels: float
    from_stage_costs: float


def predict_logged_plans() -> list[LoggedPrediction]:
    """Return the predictions for all logged plans.

    Raises:
        InputError: bundled data cannot be read.
    """
    task = LOGGED_CASE.task()
    tokens = task.costs.scenario.workload.total_output_tokens
    return [
        LoggedPrediction(
            logged,
            tokens / simulate_static(logged.plan, task.costs).makespan_s,
            tokens / makespan_of_stage_costs_s(logged, task),
        )
        for logged in LOGGED_PLANS
    ]


def makespan_of_stage_costs_s(logged: LoggedPlan, task: PlanningTask) -> float:
    """Return how long the batch takes with the logged stage costs, in s.

    To these the first stage adds embedding and LM head, which the reference has there, each step
    adds Python's cost, and links are those of the runtime of 2023.
    """
    costs, plan = task.costs, logged.plan
    wave, stages, prefills = wave_of_kernels(logged, task)
    decodes = len(wave.service_s[0]) - prefills
    kind, rows = stages[0].kind, plan.micro_batching.decode
    head_s = costs.head_s(kind, rows)
    prefill_ends_s = head_s + costs.embedding_s(kind, rows * costs.scenario.workload.prompt_tokens)
    decode_ends_s = head_s + costs.embedding_s(kind, rows)
    service_s = tuple(
        (prefill_s + STEP_S + (number == 0) * prefill_ends_s,) * prefills
        + (decode_s + STEP_S + (number == 0) * decode_ends_s,) * decodes
        for number, (prefill_s, decode_s) in enumerate(
            zip(logged.prefill_s, logged.decode_s, strict=True)
        )
    )
    return compute_steps(replace(wave, service_s=service_s)).end_s


def wave_of_kernels(
    logged: LoggedPlan, task: PlanningTask
) -> tuple[StepGraph, list[StageCosts], int]:
    """Return what passes the pipeline with the kernels of 2023, its stages, and prefills in it."""
    costs, plan = task.costs, logged.plan
    stages = [StageCosts(costs, plan, number) for number in range(len(plan.stages))]
    (shape,) = batch_schedules(costs.scenario.workload, plan.micro_batching)
    links = pipeline_links(plan, costs)
    wave = build_step_graph(shape, stages, links, costs, pipelined(shape))
    return wave, stages, len(shape.prefill_rows)
