"""Ablations: the best plan without one of the planner's decisions.

Each ablation is planned to the same quality and memory as our search (`methods`) and judged by the
same simulator, prefill and all.

- one format: the search itself, with each format alone; the fastest of those within the loss.
- prefill ignored: the search on costs in which layers take no time in prefill, as PipeEdge plans.
- equal micro-batches: the integer program with the decode micro-batch also in prefill, which is
  PipeEdge's and Uniform's cut.
- layers in groups: LLM-PQ binds neighbouring layers together to shrink its integer program. What
  that costs is told from the program over the same micro-batchings without groups.
"""

from dataclasses import dataclass, replace

from llmpq_sim.core.plan import Plan
from llmpq_sim.core.schedule import PrefillStep
from llmpq_sim.latency.costs import LayerCosts
from llmpq_sim.paper.cases import Case
from llmpq_sim.paper.methods import (
    equal_micro_batches,
    fastest,
    least_loss,
    losing_no_more,
    our_search,
)
from llmpq_sim.search.baselines.integer import integer_plan
from llmpq_sim.search.baselines.simple import integer_plans, pipeedge_plans
from llmpq_sim.search.bound.problem import PlanningTask
from llmpq_sim.search.scoring import score_plan

WHOLE = "llmpq"
ABLATIONS = (WHOLE, "one format", "prefill ignored", "equal micro-batches")
"""Names of the ablations, after the planner with all its decisions."""

PROGRAM = "integer program"
GROUP_LAYERS = {PROGRAM: (1,), "layers in pairs": (2,), "layers in fours or fives": (5, 4)}
"""Layers that share device and format: the first of these that divides the model's layers."""

NOTHING_S = 1e-9
"""Time of a layer in prefill where that is ignored; zero would leave its bound without a price."""


@dataclass(frozen=True)
class Ablated:
    """What is left without one decision.

    Attributes:
        name: one of ABLATIONS or GROUP_LAYERS, or what `theta` or `evolution` calls its plans.
        plan: what was found, or None.
        tokens_per_s: simulated; None where no plan was found or it does not fit.
        loss: quality loss of the plan; None where there is none.
        theta_ms: weight of quality loss that the plan belongs to, if any.
        goodput_per_s: good requests per second, of a plan for a trace.
    """

    name: str
    plan: Plan | None
    tokens_per_s: float | None
    loss: float | None
    theta_ms: float | None = None
    goodput_per_s: float | None = None


class DecodeCosts(LayerCosts):
    """Costs of a planner that looks at decode alone."""

    def prefill_step_s(
        self,
        kind: str,  # noqa: ARG002
        format_name: str,  # noqa: ARG002
        step: PrefillStep,  # noqa: ARG002
        layer_kind: int,  # noqa: ARG002
    ) -> float:
        """Return next to nothing."""
        return NOTHING_S


def ablate(case: Case) -> list[Ablated]:
    """Return how our planner fares in a case without each of its decisions.

    Raises:
        InputError: bundled data cannot be read.
    """
    asked, real = budgeted(case), case.real_task()
    plans = {
        WHOLE: searched_plan(asked),
        "one format": _one_format(asked),
        "prefill ignored": searched_plan(without_prefill(asked)),
        "equal micro-batches": integer_plan(asked, equal_micro_batches(asked)),
    }
    for name, sizes in GROUP_LAYERS.items():
        plans[name] = fastest(integer_plans(asked, group_layers(asked, sizes)), asked)
    return [judged_plan(name, plan, real) for name, plan in plans.items()]


def budgeted(case: Case) -> PlanningTask:
    """Return what our search is asked in a case: no more loss than PipeEdge's plan has."""
    free = case.task()
    return losing_no_more(free, least_loss(pipeedge_plans(free), free))


def without_prefill(task: PlanningTask) -> PlanningTask:
    """Return a task in which only decode takes time in layers."""
    return replace(task, costs=DecodeCosts(task.costs.scenario, task.costs.profiles))


def group_layers(task: PlanningTask, sizes: tuple[int, ...]) -> int:
    """Return the first of these sizes that divides the model's layers; one of them must."""
    return next(size for size in sizes if task.costs.scenario.model.layers % size == 0)


def searched_plan(task: PlanningTask) -> Plan | None:
    """Return the plan that our search finds, or None where nothing fits."""
    outcome = our_search(task)
    return None if outcome is None else outcome.best.plan


def _one_format(task: PlanningTask) -> Plan | None:
    alone = [
        searched_plan(replace(task, formats=(name,)))
        for name in task.formats
        if task.quality.uniform_loss(name) <= task.allowed_loss
    ]
    return fastest([plan for plan in alone if plan is not None], task)


def judged_plan(
    name: str, plan: Plan | None, real: PlanningTask, theta_ms: float | None = None
) -> Ablated:
    """Return what the simulator says of a plan."""
    if plan is None:
        return Ablated(name, None, None, None, theta_ms)
    score = score_plan(plan, real)
    rate = None if score.result is None else score.result.output_tokens / score.makespan_s
    return Ablated(name, plan, rate, score.loss, theta_ms)
