"""Ablations of the genetic search: plans without it, and plans by it alone.

- no genetic search: the best of what it starts from, which are the baselines' plans, the integer
  programs' and the partitions that relaxations guide to; the bounds are the same.
- genetic search alone: begun with random plans, without baselines, integer programs and bounds, and
  for more generations than the whole search has.
- on a trace: the search of a service with no generation, and the best baseline.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from numpy.random import Generator

from llmpq_sim.api.replaying import ServingOptions
from llmpq_sim.api.tasks import TaskOptions, batch_task, trace_task
from llmpq_sim.core.errors import InfeasibleError
from llmpq_sim.core.plan import Plan, Stage
from llmpq_sim.core.scenario import BatchWorkload
from llmpq_sim.io.models import load_model
from llmpq_sim.io.tasks import quality_target
from llmpq_sim.io.workloads import TraceOptions
from llmpq_sim.paper.ablations import WHOLE, Ablated, budgeted, judged_plan
from llmpq_sim.paper.cases import Case
from llmpq_sim.paper.measurements import REQUESTS, WORKLOADS
from llmpq_sim.paper.methods import GENERATIONS, SEED
from llmpq_sim.search.bound.feasibility import task_grid
from llmpq_sim.search.bound.problem import PlanningTask
from llmpq_sim.search.bound.screening import Screen
from llmpq_sim.search.genetic.batches import (
    POPULATION,
    PlanState,
    SimulatedFront,
    plan_effort,
    plan_toolbox,
)
from llmpq_sim.search.genetic.evaluation import Evaluator
from llmpq_sim.search.genetic.evolution import EvolutionState, begin, evolve, stream
from llmpq_sim.search.genetic.operators import Operators
from llmpq_sim.search.online.planner import search_online
from llmpq_sim.search.online.task import OnlineTask
from llmpq_sim.search.planner import SearchSettings, search

EVOLUTION = (WHOLE, "no genetic search", "genetic search alone")
"""Names of the searches of a batch, the whole one first."""

ON_TRACE = ("on a trace", "no genetic search on a trace", "best baseline on a trace")

GENERATIONS_ALONE = 40
"""Of the genetic search alone, at most: the default of `llmpq search`."""

DRAWN = 8 * POPULATION
"""Random plans drawn, at most, until a population of them could be repaired."""


@dataclass(frozen=True)
class Mix:
    """A bundled cluster of current devices, and what is served on it.

    Attributes:
        cluster: its name.
        workload: of the paper's, all of the output generated.
        gamma: share of the output that is generated.
        kernels: each device's first kernel set, which bundled names say.
    """

    cluster: str
    workload: str = "main"
    gamma: float = 1.0
    kernels: str = "bundled"

    @property
    def label(self) -> str:
        """The mix in a word, as file names and progress have it."""
        return self.cluster

    def task(self) -> PlanningTask:
        """Return what is planned, and judged: no plan may lose more than int4 everywhere.

        Raises:
            InputError: bundled data cannot be read.
        """
        shape, model = WORKLOADS[self.workload], load_model(MODELS[self.cluster])
        tokens = shape.generated_tokens(self.gamma)
        batch = BatchWorkload(shape.prompt_tokens, (tokens,) * REQUESTS)
        options = TaskOptions(self.cluster, None, None, (), quality_target("int4"))
        return batch_task(model, batch, options)[0]

    def real_task(self) -> PlanningTask:
        """Return what plans are judged by."""
        return self.task()

    def trace_task(self) -> OnlineTask:
        """Return the task of serving a trace at a rate that its baselines cannot keep up with.

        Raises:
            InputError: bundled data cannot be read.
        """
        model = load_model(MODELS[self.cluster])
        trace = TraceOptions("azure-conv", requests=TRACE_REQUESTS, rate_per_s=TRACE_RATE_PER_S)
        slo = ServingOptions(ttft_ms=TTFT_MS, tpot_ms=TPOT_MS)
        options = TaskOptions(self.cluster, None, None, (), quality_target("int4"))
        return trace_task(model, trace, slo, "goodput", options)[0]


MODELS = {
    "a100-l40s": "llama-3.1-70b",
    "h200-l40s": "llama-3.1-70b",
    "l4-a10g": "llama-2-13b",
    "rtx-3090-4090": "llama-2-70b",
    "t4-v100-a100": "llama-2-70b",
}
"""The bundled mixes with the model that is served on each."""

MIXES = tuple(Mix(cluster) for cluster in MODELS)
MIX_OF_TRACE = Mix("l4-a10g")

TRACE_REQUESTS, TRACE_RATE_PER_S, TTFT_MS, TPOT_MS = 200, 1.0, 5000.0, 200.0


def evolutions(case: Case | Mix) -> list[Ablated]:
    """Return how our search fares in a case, without its genetic part, and by that alone.

    Raises:
        InputError: bundled data cannot be read.
    """
    asked = budgeted(case) if isinstance(case, Case) else case.task()
    plans = (searched(asked, GENERATIONS), searched(asked, 0), evolved_alone(asked))
    real = case.real_task()
    return [judged_plan(name, plan, real) for name, plan in zip(EVOLUTION, plans, strict=True)]


def searched(task: PlanningTask, generations: int) -> Plan | None:
    """Return the plan of our search with so many generations at most, or None."""
    try:
        return search(task, SearchSettings(SEED, generations, only_plans=True)).best.plan
    except InfeasibleError:
        return None


def evolved_alone(task: PlanningTask) -> Plan | None:
    """Return the plan of a genetic search begun with random plans, or None if none fits."""
    operators, rng = Operators(task, task_grid(task)), stream(SEED, b"evolution alone")
    state: PlanState = EvolutionState(rng, SimulatedFront())
    toolbox = plan_toolbox(operators, Evaluator(Screen(task), 1), rng)
    begin(state, toolbox, plan_effort(), random_plans(operators, rng))
    if not state.hall:
        return None
    evolve(state, toolbox, plan_effort(), GENERATIONS_ALONE, lambda: True)
    return state.best.plan


def random_plans(operators: Operators, rng: Generator) -> Iterator[Plan]:
    """Yield feasible plans repaired from random ones: a population at most."""
    found = 0
    for _ in range(DRAWN):
        plan = operators.repair(_random_plan(operators, rng))
        if plan is not None:
            yield plan
            found += 1
        if found == POPULATION:
            return


def _random_plan(operators: Operators, rng: Generator) -> Plan:
    """Return a plan of random devices, cuts, formats and micro-batches."""
    scenario, layers = operators.task.costs.scenario, operators.task.costs.scenario.model.layers
    members = scenario.cluster.devices
    count = int(rng.integers(1, min(len(members), layers) + 1))
    order = rng.permutation(len(members))[:count].tolist()
    inner = sorted((rng.permutation(layers - 1)[: count - 1] + 1).tolist())
    stages = []
    for number, start, stop in zip(order, [0, *inner], [*inner, layers], strict=True):
        runs = [name for name in operators.task.formats if name in members[number].device.formats]
        drawn = rng.integers(len(runs), size=stop - start).tolist()
        stages.append(Stage(members[number].name, tuple(runs[index] for index in drawn)))
    return Plan(tuple(stages), operators.grid[int(rng.integers(len(operators.grid)))])


def evolutions_on_trace(mix: Mix) -> list[Ablated]:
    """Return how our search for a trace fares, without generations, and the best baseline.

    Raises:
        InputError: bundled data cannot be read.
    """
    task = mix.trace_task()
    whole = search_online(task, SearchSettings(SEED, GENERATIONS_ALONE))
    without = search_online(task, SearchSettings(SEED, 0))
    served = [each.served for each in without.baselines if each.served is not None]
    found = (whole.best, without.best, max(served, key=lambda each: each.fitness))
    return [
        Ablated(
            name,
            each.serving.plan,
            each.result.tokens_per_s,
            task.loss(each.serving.plan),
            goodput_per_s=each.result.goodput_per_s,
        )
        for name, each in zip(ON_TRACE, found, strict=True)
    ]
