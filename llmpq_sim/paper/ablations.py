"""What does each decision of the planner bring: how fast is the best plan without it?

Each ablation is planned to the same quality and memory as our search (`methods`) and judged by the
same simulator, prefill and all.

- one format: the search itself, with each format alone; the fastest of those within the loss.
- prefill ignored: the search on costs in which layers take no time in prefill, as PipeEdge plans.
- equal micro-batches: the integer program with the decode micro-batch also in prefill, which is
  PipeEdge's and Uniform's cut.
"""

from dataclasses import dataclass, replace

from llmpq_sim.latency.costs import LayerCosts
from llmpq_sim.paper.cases import Case, with_budget
from llmpq_sim.paper.methods import (
    equal_micro_batches,
    fastest,
    least_loss,
    our_search,
)
from llmpq_sim.plan import Plan
from llmpq_sim.search.baselines import pipeedge_plans
from llmpq_sim.search.integer import integer_plan
from llmpq_sim.search.problem import PlanningTask
from llmpq_sim.search.scoring import score_plan

WHOLE = "llmpq"
ABLATIONS = (WHOLE, "one format", "prefill ignored", "equal micro-batches")
"""Names of the ablations, after the planner with all its decisions."""

NOTHING_S = 1e-9
"""Time of a layer in prefill where that is ignored; zero would leave its bound without a price."""


@dataclass(frozen=True)
class Ablated:
    """What is left without one decision.

    Attributes:
        name: one of ABLATIONS.
        tokens_per_s: simulated; None where no plan was found or it does not fit.
        loss: quality loss of the plan; None where there is none.
    """

    name: str
    tokens_per_s: float | None
    loss: float | None


class DecodeCosts(LayerCosts):
    """Costs of a planner that looks at decode alone."""

    def prefill_layer_s(self, kind: str, format_name: str, rows: int) -> float:  # noqa: ARG002
        """Return next to nothing."""
        return NOTHING_S


def ablate(case: Case) -> list[Ablated]:
    """Return how our planner fares in a case without each of its decisions.

    Raises:
        InputError: bundled data cannot be read.
    """
    asked, real = budgeted(case), case.real_task()
    plans = {
        WHOLE: _searched(asked),
        "one format": _one_format(asked),
        "prefill ignored": _searched(without_prefill(asked)),
        "equal micro-batches": integer_plan(asked, equal_micro_batches(asked)),
    }
    return [_judged(name, plans[name], real) for name in ABLATIONS]


def budgeted(case: Case) -> PlanningTask:
    """Return what our search is asked in a case: no more loss than PipeEdge's plan has."""
    free = case.task()
    of_pipeedge = least_loss(pipeedge_plans(free), free)
    if of_pipeedge is None:
        return free
    return with_budget(free, free.quality.plan_loss(of_pipeedge.layer_formats))


def without_prefill(task: PlanningTask) -> PlanningTask:
    """Return a task in which only decode takes time in layers."""
    return replace(task, costs=DecodeCosts(task.costs.scenario, task.costs.profiles))


def _searched(task: PlanningTask) -> Plan | None:
    outcome = our_search(task)
    return None if outcome is None else outcome.best.plan


def _one_format(task: PlanningTask) -> Plan | None:
    alone = [
        _searched(replace(task, formats=(name,)))
        for name in task.formats
        if task.quality.uniform_loss(name) <= task.allowed_loss
    ]
    return fastest([plan for plan in alone if plan is not None], task)


def _judged(name: str, plan: Plan | None, real: PlanningTask) -> Ablated:
    if plan is None:
        return Ablated(name, None, None)
    score = score_plan(plan, real)
    if score.result is None:
        return Ablated(name, None, score.loss)
    return Ablated(name, score.result.output_tokens / score.makespan_s, score.loss)
