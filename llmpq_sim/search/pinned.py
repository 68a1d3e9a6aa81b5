"""Planning around pins: micro-batches, and formats where they are free, of a given pipeline."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from numpy.random import Generator

from llmpq_sim.core.errors import InfeasibleError
from llmpq_sim.core.plan import MicroBatching, Plan
from llmpq_sim.search.baselines.simple import all_baselines
from llmpq_sim.search.bound.bound import first_certificate, near
from llmpq_sim.search.bound.feasibility import smallest, task_grid
from llmpq_sim.search.bound.problem import PlanningTask
from llmpq_sim.search.bound.relaxation import relax, solve_integrally
from llmpq_sim.search.bound.screening import Screen
from llmpq_sim.search.construction import (
    FORMAT_GAP,
    FORMAT_NODES,
    plan_of_formats,
    stage_problem,
)
from llmpq_sim.search.deadline import (
    OutOfTime,
    check_time,
    share_of_time,
    time_limit,
    without_time_limit,
)
from llmpq_sim.search.frame import SearchFrame, SearchProgress
from llmpq_sim.search.genetic.batches import PlanState, SimulatedFront, plan_effort, plan_toolbox
from llmpq_sim.search.genetic.evaluation import Evaluator
from llmpq_sim.search.genetic.evolution import EvolutionState, begin, evolve, stream
from llmpq_sim.search.genetic.operators import Operators
from llmpq_sim.search.pins import Pins, check_pins, explain_pins, least_formats
from llmpq_sim.search.planner import SearchOutcome, SearchSettings, search
from llmpq_sim.search.scoring import fits, keeps_budget, score_in_simpy

if TYPE_CHECKING:
    from llmpq_sim.search.online.planner import OnlineOutcome

PINNED_SHARE = 0.4
"""Of a time budget, what the plan with pins may take; the search without them takes the rest."""

STEP = "pinned layers"


class PinnedOperators(Operators):
    """Mutation, crossover and repair of plans that keep some pins.

    Attributes:
        pins: what no plan may change.
    """

    def __init__(self, task: PlanningTask, grid: Sequence[MicroBatching], pins: Pins) -> None:
        super().__init__(task, grid)
        self.pins = pins

    def changes(self) -> tuple[Callable[[Plan, Generator], Plan], ...]:
        """Return the mutations that leave layers on their devices."""
        if self.pins.formats is not None:
            return (self.change_micro_batching,)
        return (self.change_formats, self.exchange_formats, self.change_micro_batching)

    def repair(self, plan: Plan) -> Plan | None:
        """Return the plan with formats that fit and keep the budget, None where pins forbid it."""
        if self.pins.formats is not None:
            return plan if fits(plan, self.task) and keeps_budget(plan, self.task) else None
        repaired = super().repair(plan)
        return repaired if repaired is not None and self.pins.keeps(repaired) else None


def search_pinned(
    task: PlanningTask,
    pins: Pins,
    settings: SearchSettings,
    on_progress: Callable[[SearchProgress], None] = lambda _: None,
) -> SearchOutcome:
    """Return the best plan that keeps the pins, beside the best without them.

    Bound and baselines are those of the search without pins.

    Args:
        task: what is planned.
        pins: what is decided already.
        settings: how the rest is sought.
        on_progress: receives every step.

    Raises:
        InputError: a device cannot run a format that is pinned.
        InfeasibleError: the pipeline does not fit the memory within the quality budget.
    """
    check_pins(pins, task)
    frame = SearchFrame(on_progress)
    with time_limit(settings.budget_s):
        with share_of_time(PINNED_SHARE):
            state = _evolved(task, pins, settings, frame)
        best = score_in_simpy(state.best.plan, task)
        if frame.ended == "interrupted":
            settings = replace(settings, generations=0, budget_s=0.0)
        free = search(task, settings, on_progress=on_progress)
    return replace(
        free,
        best=best,
        pins=pins,
        unpinned=min(free.best, best, key=lambda score: score.makespan_s),
        front=(best,),
        what_if=(),
        **course(state, free, frame),
    )


def course(
    state: EvolutionState[Any], free: "SearchOutcome | OnlineOutcome", frame: SearchFrame
) -> dict[str, Any]:
    """Return what an outcome says of a search with pins and the one without together.

    Args:
        state: of the generations that kept the pins.
        free: of the search without.
        frame: of both.
    """
    return {
        "evaluations": state.evaluations + free.evaluations,
        "generations": state.generation,
        "seconds": frame.seconds,
        "ended": frame.ended if free.ended == "done" else free.ended,
        "cut_short": (*frame.cut_short, *free.cut_short),
        "logbook": tuple(state.logbook),
    }


def plan_pinned(
    task: PlanningTask, pins: Pins, batchings: Sequence[MicroBatching]
) -> SearchOutcome:
    """Return the plan with the pins and the fastest of some micro-batchings, without a search.

    Formats that are not pinned are those of an integer program. The bound is that of the linear
    relaxations alone; baselines are there to compare with.

    Raises:
        InputError: a device cannot run a format that is pinned.
        InfeasibleError: the pipeline does not fit the memory within the quality budget.
    """
    check_pins(pins, task)
    frame, screen = SearchFrame(lambda _: None), Screen(task)
    plans = pinned_plans(pins, screen, batchings)
    best = score_in_simpy(min(plans, key=screen.makespan_s), task)
    grid = task_grid(task)
    certificate = first_certificate(screen, grid, lambda _done, _total: None)
    floors_s = {batching: entry.bound_s for batching, entry in certificate.entries.items()}
    return SearchOutcome(
        task=task,
        settings=SearchSettings(generations=0, only_plans=True),
        best=best,
        baselines=tuple(all_baselines(screen, floors_s)),
        front=(best,),
        certificate=certificate,
        what_if=(),
        evaluations=len(plans),
        generations=0,
        seconds=frame.seconds,
        ended="done",
        pins=pins,
    )


def pinned_plans(pins: Pins, screen: Screen, batchings: Sequence[MicroBatching]) -> list[Plan]:
    """Return feasible plans that keep the pins, among them the fastest by its closed form.

    The first is found whatever time it takes. Of the others, where formats are free, only
    micro-batchings are tried whose relaxation for these stages promises a better plan.

    Raises:
        InfeasibleError: there is none.
    """
    if pins.formats is not None:
        variants = [pins.plan(pins.formats, batching) for batching in batchings]
        plans = [plan for plan in variants if fits(plan, screen.task)]
    else:
        plans = _with_formats(pins, screen, batchings)
    if not plans:
        raise InfeasibleError(explain_pins(pins, screen.task, batchings))
    return plans


def _with_formats(pins: Pins, screen: Screen, batchings: Sequence[MicroBatching]) -> list[Plan]:
    """Return the plans of integer programs that choose the formats, most promising first."""
    waiting = _by_promise(pins, screen, batchings)
    plans: list[Plan] = []
    with without_time_limit():
        while waiting and not plans:
            plans += _solved(pins, screen.task, waiting.pop(0))
    with suppress(OutOfTime):
        floors_s = {batching: _floor_s(pins, screen.task, batching) for batching in waiting}
        for batching in sorted(waiting, key=lambda each: floors_s[each]):
            if floors_s[batching] >= near(min(map(screen.makespan_s, plans))):
                break
            plans += _solved(pins, screen.task, batching)
    return plans


def _by_promise(
    pins: Pins, screen: Screen, batchings: Sequence[MicroBatching]
) -> list[MicroBatching]:
    """Return micro-batchings, first those in which the smallest formats fit and are fast."""
    least = least_formats(pins, screen.task)
    plans = [pins.plan(least, batching) for batching in batchings]
    ranked = sorted(plans, key=lambda plan: (not fits(plan, screen.task), screen.makespan_s(plan)))
    return [plan.micro_batching for plan in ranked]


def _floor_s(pins: Pins, task: PlanningTask, batching: MicroBatching) -> float:
    """Return a makespan that no formats of the pinned stages are below; infinite if none fit."""
    check_time()
    relaxed = relax(stage_problem(task, batching, pins.order(task), pins.layers))
    return relaxed.bound_s if relaxed.is_feasible else float("inf")


def _solved(pins: Pins, task: PlanningTask, batching: MicroBatching) -> list[Plan]:
    """Return the plan with the best formats, alone, or nothing where none fits."""
    order = pins.order(task)
    problem = stage_problem(task, batching, order, pins.layers)
    blocks = solve_integrally(problem, FORMAT_GAP, FORMAT_NODES)
    if blocks is None:
        return []
    plan = plan_of_formats(task, problem, order, blocks)
    return [plan] if fits(plan, task) and keeps_budget(plan, task) else []


def _evolved(
    task: PlanningTask, pins: Pins, settings: SearchSettings, frame: SearchFrame
) -> PlanState:
    """Return the last state of the genetic search among plans that keep the pins."""
    grid, screen = task_grid(task), Screen(task)
    frame.tell(STEP, 0, settings.generations)
    seeds = pinned_plans(pins, screen, [*grid, smallest(task)])
    state: PlanState = EvolutionState(stream(settings.seed, b"pinned"), SimulatedFront())
    effort = plan_effort()
    operators = PinnedOperators(task, grid, pins)
    toolbox = plan_toolbox(operators, Evaluator(screen, settings.workers), state.rng)
    begin(state, toolbox, effort, sorted(seeds, key=screen.makespan_s)[: effort.population])

    def after_generation() -> bool:
        tokens = task.costs.scenario.workload.total_output_tokens
        frame.best_tokens_per_s = tokens / state.best.makespan_s
        frame.tell(STEP, state.generation, settings.generations)
        return frame.has_time(STEP)

    with frame.step(STEP):
        check_time()
        evolve(state, toolbox, effort, settings.generations, after_generation)
    return state
