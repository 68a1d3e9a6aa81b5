"""Methods of the paper: the plan of each, and one simulator's verdict on all.

Rules of the paper (llm-pq: Uniform, PipeEdge, adabits, LLM-PQ) over candidates of
`search/baselines`:

- Uniform, PipeEdge and adabits know no quality target: of the plans that fit they take the least
  loss, and of equal ones the fastest. Uniform and PipeEdge have one format for all layers, and
  prefill micro-batches as large as those of decode: the reference's Uniform lists smaller ones too,
  but the last one, which is the largest, wins. adabits takes any of LLM-PQ's prefill micro-batches,
  since a smaller one leaves room for more bits.
- LLM-PQ's two solvers and our search are asked for the fastest plan that loses no more than
  PipeEdge's. Where PipeEdge has no plan, every format is good enough. This takes the place of the
  authors' theta, a weight set by hand whose quality files are not published.
- ``llmpq-ref`` minimises the reference's own objective with the authors' theta (`reference`).

As the authors did, all plan for the whole output and for the memory that the reference leaves
(`assumptions`), and plans are judged by the share that is generated and the memory that the devices
have: the reference's own plans are sometimes a little too large by our count, which has scales.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from llmpq_sim.core.errors import InfeasibleError
from llmpq_sim.core.plan import MicroBatching, Plan
from llmpq_sim.paper.cases import Case, with_budget
from llmpq_sim.paper.measurements import CLUSTERS
from llmpq_sim.paper.reference import reference_plan
from llmpq_sim.search.baselines.simple import (
    adabits_plans,
    bit_transfer_plans,
    integer_plans,
    pipeedge_plans,
    uniform_plans,
)
from llmpq_sim.search.bound.problem import PlanningTask
from llmpq_sim.search.bound.screening import Screen
from llmpq_sim.search.grid import paper_micro_batchings
from llmpq_sim.search.planner import SearchOutcome, SearchSettings, search
from llmpq_sim.search.scoring import fits, score_plan

METHODS = (
    "uniform",
    "pipeedge",
    "adabits",
    "llm-pq-ilp",
    "llm-pq-transfer",
    "llmpq",
    "llmpq-ref",
)
"""Names of the methods, the simplest first; ``llmpq`` is our search."""

GENERATIONS = 5
SEED = 0
"""Of our search: a few generations, since the whole evaluation plans some dozens of cases."""


@dataclass(frozen=True)
class Judged:
    """What one method planned in one case.

    Attributes:
        method: one of METHODS.
        plan: what it chose, or None where it found nothing that fits.
        infeasible_reason: why the plan is not feasible, or None.
        tokens_per_s: simulated; None where it is not feasible.
        loss: quality loss in nats, or None where there is no plan.
        memory_bytes: needed by each stage.
        solver_s: how long the method took.
        gap_fraction: how far at most from the best plan for all of the output within the loss
            that LLM-PQ may have, certified; None where no bound covers the plan.
    """

    method: str
    plan: Plan | None
    infeasible_reason: str | None
    tokens_per_s: float | None
    loss: float | None
    memory_bytes: tuple[int, ...]
    solver_s: float
    gap_fraction: float | None


def judge_methods(case: Case) -> list[Judged]:
    """Return what every method does in a case.

    Raises:
        InputError: bundled data cannot be read.
    """
    free = case.task()
    found: dict[str, tuple[Plan | None, float]] = {}

    def plan(method: str, choose: Callable[[], Plan | None]) -> Plan | None:
        started_s = time.monotonic()
        found[method] = (choose(), time.monotonic() - started_s)
        return found[method][0]

    plan("uniform", lambda: uniform_plan(free))
    of_pipeedge = plan("pipeedge", lambda: least_loss(pipeedge_plans(free), free))
    plan("adabits", lambda: least_loss(adabits_plans(free), free))
    asked = losing_no_more(free, of_pipeedge)
    plan("llm-pq-ilp", lambda: fastest(integer_plans(asked), asked))
    plan("llm-pq-transfer", lambda: fastest(bit_transfer_plans(asked), asked))
    outcome = our_search(asked)
    found["llmpq"] = (None, 0.0) if outcome is None else (outcome.best.plan, outcome.seconds)
    plan("llmpq-ref", lambda: _planned_by_reference(free, case))
    judge = Judge(case.real_task(), asked, None if outcome is None else outcome.certificate.bound_s)
    return [judge.judged(method, *found[method]) for method in METHODS]


def losing_no_more(task: PlanningTask, than: Plan | None) -> PlanningTask:
    """Return the task with a plan's loss as the largest allowed; as it is where there is none."""
    if than is None:
        return task
    return with_budget(task, task.quality.plan_loss(than.layer_formats))


def uniform_plan(task: PlanningTask) -> Plan | None:
    """Return Uniform's plan with equal micro-batches, or None if none fits."""
    batching = equal_micro_batches(task)
    return least_loss(
        [plan for plan in uniform_plans(task) if plan.micro_batching == batching], task
    )


def equal_micro_batches(task: PlanningTask) -> MicroBatching:
    """Return the paper's micro-batching whose prefill is as large as its decode."""
    scenario = task.costs.scenario
    return paper_micro_batchings(scenario.workload.requests, len(scenario.cluster.devices))[-1]


def least_loss(plans: Sequence[Plan], task: PlanningTask) -> Plan | None:
    """Return the plan that loses least, of equal ones the fastest, or None if none fits."""
    fitting = [plan for plan in plans if fits(plan, task)]
    screen = Screen(task)
    return min(
        fitting,
        key=lambda plan: (
            round(task.quality.plan_loss(plan.layer_formats), 9),
            screen.makespan_s(plan),
        ),
        default=None,
    )


def fastest(plans: Sequence[Plan], task: PlanningTask) -> Plan | None:
    """Return the fastest plan that fits, or None."""
    fitting = [plan for plan in plans if fits(plan, task)]
    return min(fitting, key=Screen(task).makespan_s, default=None)


def our_search(task: PlanningTask) -> SearchOutcome | None:
    """Return what our search finds, or None where nothing fits."""
    try:
        return search(task, SearchSettings(SEED, GENERATIONS))
    except InfeasibleError:
        return None


def _planned_by_reference(task: PlanningTask, case: Case) -> Plan | None:
    found = reference_plan(task, CLUSTERS[case.cluster].theta)
    return None if found is None else found.plan


@dataclass(frozen=True)
class Judge:
    """Judges the plans of one case with one simulator.

    Attributes:
        real: what plans are judged by.
        asked: what the fastest plan is sought for: all of the output, memory as the reference
            reserves it, and the loss that LLM-PQ may have.
        bound_s: makespan below which no plan of ``asked`` is; None where nothing fits.
    """

    real: PlanningTask
    asked: PlanningTask
    bound_s: float | None

    def judged(self, method: str, plan: Plan | None, solver_s: float) -> Judged:
        """Return what the simulator says of a method's plan."""
        if plan is None:
            return Judged(method, None, "no plan fits", None, None, (), solver_s, None)
        score = score_plan(plan, self.real)
        memory = tuple(stage.total_bytes for stage in score.memory)
        if score.result is None:
            infeasible_reason = score.infeasible_reason()
            return Judged(method, plan, infeasible_reason, None, score.loss, memory, solver_s, None)
        rate = score.result.output_tokens / score.makespan_s
        gap = self._gap_fraction(plan)
        return Judged(method, plan, None, rate, score.loss, memory, solver_s, gap)

    def _gap_fraction(self, plan: Plan) -> float | None:
        """Return how far the plan may be from the best for what was asked, if it keeps that."""
        planned = score_plan(plan, self.asked)
        if self.bound_s is None or planned.result is None:
            return None
        return max(0.0, 1.0 - self.bound_s / planned.makespan_s)
