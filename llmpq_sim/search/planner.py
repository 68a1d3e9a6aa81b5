"""Planner: bound, seeds, evolution and certificate, in this order.

1. The relaxation of every micro-batching of the grid gives a first bound and says where to look.
2. Seeds: each baseline, and by branch and bound over micro-batchings the integer program's plan and
   the partition that the relaxation guides to.
3. A genetic search whose fitness is the simulator improves the seeds.
4. The bound is tightened where the relaxation is loose, until it meets the plan found.

Each step can be the last: a deadline or an interruption ends the search with the best plan so far.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from llmpq_sim.core.errors import InfeasibleError
from llmpq_sim.core.plan import MicroBatching
from llmpq_sim.search.baselines.simple import NOT_TRIED, Baseline, all_baselines
from llmpq_sim.search.bound.bound import Certificate, first_certificate, tighten
from llmpq_sim.search.bound.feasibility import check_feasible, explain, task_grid
from llmpq_sim.search.bound.problem import PlanningTask
from llmpq_sim.search.bound.screening import Screen
from llmpq_sim.search.deadline import check_time, share_of_time, time_limit
from llmpq_sim.search.frame import Ending, SearchFrame, SearchProgress
from llmpq_sim.search.genetic.batches import (
    PlanState,
    SimulatedFront,
    plan_effort,
    plan_toolbox,
)
from llmpq_sim.search.genetic.evaluation import Evaluator
from llmpq_sim.search.genetic.evolution import EvolutionState, begin, evolve, stream
from llmpq_sim.search.genetic.operators import Operators
from llmpq_sim.search.scoring import PlanScore, score_in_simpy, score_plan
from llmpq_sim.search.seeding import Seeds, seek_any, seek_front, seek_seeds
from llmpq_sim.search.what_if import WhatIf, without_one

BOUND_SHARE, BASELINES_SHARE, SEEDS_SHARE, EVOLUTION_SHARE, TIGHTER_SHARE = 0.4, 0.4, 0.6, 0.6, 0.7
"""Of the time that a budget leaves to each step, what it may take; the last one takes the rest."""

LogbookRow = Mapping[str, float]
"""A generation: its number, how many were judged, and figures of the survivors."""


@dataclass(frozen=True)
class SearchSettings:
    """How a search is run.

    Attributes:
        seed: of every random draw.
        generations: of the genetic search, at most.
        budget_s: seconds after which the search ends with what it has, or None.
        workers: processes that may simulate at once; they do not change the result.
        wants_front: whether to seek the whole front of throughput and quality loss.
        only_plans: whether to leave out what does not change the plan: tightening the bound, and
            what one device less would do.
    """

    seed: int = 0
    generations: int = 40
    budget_s: float | None = None
    workers: int = 1
    wants_front: bool = False
    only_plans: bool = False


@dataclass(frozen=True)
class SearchOutcome:
    """What a search found.

    Attributes:
        task: what was asked.
        settings: how it was sought.
        best: the fastest feasible plan, simulated.
        baselines: what others would plan.
        front: plans that none beats in throughput and loss, fastest first.
        certificate: the proof of the bound.
        what_if: throughput with one device less.
        evaluations, generations: how much was tried.
        seconds: how long it took.
        ended: why it stopped: ``done``, ``budget`` or ``interrupted``.
        cut_short: the steps that the time budget ended or left out.
        logbook: generations of the genetic search; makespans in seconds.
    """

    task: PlanningTask
    settings: SearchSettings
    best: PlanScore
    baselines: tuple[Baseline, ...]
    front: tuple[PlanScore, ...]
    certificate: Certificate
    what_if: tuple[WhatIf, ...]
    evaluations: int
    generations: int
    seconds: float
    ended: Ending
    cut_short: tuple[str, ...] = ()
    logbook: tuple[LogbookRow, ...] = ()

    @property
    def bound_tokens_per_s(self) -> float:
        """Throughput that no plan exceeds."""
        return self.task.costs.scenario.workload.total_output_tokens / self.certificate.bound_s

    @property
    def gap_fraction(self) -> float:
        """How far the plan may be from the best: 1 - throughput / bound."""
        return max(0.0, 1.0 - self.certificate.bound_s / self.best.makespan_s)


def search(
    task: PlanningTask,
    settings: SearchSettings,
    *,
    resumed: PlanState | None = None,
    on_progress: Callable[[SearchProgress], None] = lambda _: None,
    on_state: Callable[[PlanState], None] = lambda _: None,
) -> SearchOutcome:
    """Return the best plan found, its certificate and the baselines.

    Args:
        task: what is planned.
        settings: how.
        resumed: state of an earlier search of the same task and settings, to go on from.
        on_progress: receives every step.
        on_state: given the state after every generation, to save it.

    Raises:
        InfeasibleError: no plan fits the memory within the quality budget.
    """
    with time_limit(settings.budget_s):
        return _Search(task, settings, SearchFrame(on_progress), on_state).run(resumed)


@dataclass
class _Search:
    task: PlanningTask
    settings: SearchSettings
    frame: SearchFrame
    on_state: Callable[[PlanState], None]

    def run(self, resumed: PlanState | None) -> SearchOutcome:
        grid = task_grid(self.task)
        screen = Screen(self.task)
        seeds = Seeds(self._bounded(screen, grid))
        baselines = self._baselines(screen)
        if resumed is None:
            self._seek(seeds, baselines, screen, grid)
        state = self._evolved(seeds, resumed, Operators(self.task, grid), screen)
        best = score_in_simpy(state.best.plan, self.task)
        certificate = self._tightened(seeds.certificate, screen, best)
        return SearchOutcome(
            task=self.task,
            settings=self.settings,
            best=best,
            baselines=baselines,
            front=self._front(best, state),
            certificate=certificate,
            evaluations=state.evaluations,
            generations=state.generation,
            what_if=self._what_if(best),
            seconds=self.frame.seconds,
            ended=self.frame.ended,
            cut_short=tuple(self.frame.cut_short),
            logbook=tuple(state.logbook),
        )

    def _bounded(self, screen: Screen, grid: list[MicroBatching]) -> Certificate:
        """Return the first bounds, of as many micro-batchings as there is time for."""
        with share_of_time(BOUND_SHARE):
            certificate = first_certificate(screen, grid, self.frame.told("bound"))
        if certificate.unproven:
            self.frame.cut(f"bounds of {certificate.unproven} of {len(grid)} micro-batchings")
        check_feasible(self.task, certificate)
        return certificate

    def _baselines(self, screen: Screen) -> tuple[Baseline, ...]:
        self.frame.tell("baselines", 0, 1)
        with share_of_time(BASELINES_SHARE):
            baselines = tuple(all_baselines(screen))
        if any(baseline.infeasible_reason == NOT_TRIED for baseline in baselines):
            self.frame.cut("baselines")
        return baselines

    def _seek(
        self,
        seeds: Seeds,
        baselines: tuple[Baseline, ...],
        screen: Screen,
        grid: list[MicroBatching],
    ) -> None:
        """Add the plans of baselines, of integer programs and of guided partitions."""
        for baseline in baselines:
            if baseline.score is not None:
                seeds.add(baseline.score.plan, screen)
        with share_of_time(SEEDS_SHARE), self.frame.step("seeds", lambda: bool(seeds.plans)):
            seek_seeds(seeds, screen, self.frame.told("seeds"))
            if self.settings.wants_front:
                seek_front(seeds, screen, self.frame.told("front"))
        if not seeds.plans and self.frame.ended == "budget":
            seek_any(seeds, screen, grid)

    def _evolved(
        self, seeds: Seeds, resumed: PlanState | None, operators: Operators, screen: Screen
    ) -> PlanState:
        """Return the last state of the genetic search, begun with seeds or taken up again."""
        rng = stream(self.settings.seed, b"evolution")
        state = resumed or EvolutionState(rng, SimulatedFront())
        effort = plan_effort(by_front=self.settings.wants_front)
        evaluator = Evaluator(screen, self.settings.workers)
        toolbox = plan_toolbox(operators, evaluator, state.rng, by_front=effort.by_front)
        if resumed is None:
            begin(state, toolbox, effort, seeds.plans)
        if not state.hall:
            raise InfeasibleError(explain(self.task))

        def after_generation() -> bool:
            self._note(state)
            self.frame.tell("generations", state.generation, self.settings.generations)
            self.on_state(state)
            return self.frame.has_time("generations")

        self._note(state)
        if not self.frame.has_time("generations"):
            return state
        with share_of_time(EVOLUTION_SHARE), self.frame.step("generations"):
            evolve(state, toolbox, effort, self.settings.generations, after_generation)
        return state

    def _note(self, state: PlanState) -> None:
        tokens = self.task.costs.scenario.workload.total_output_tokens
        self.frame.best_tokens_per_s = tokens / state.best.makespan_s

    def _tightened(self, certificate: Certificate, screen: Screen, best: PlanScore) -> Certificate:
        if not self.settings.only_plans and self.frame.has_time("tighter bounds"):
            with share_of_time(TIGHTER_SHARE), self.frame.step("tighter bounds"):
                tighten(certificate, screen, best.makespan_s, self.frame.told("certificate"))
        return certificate

    def _front(self, best: PlanScore, state: PlanState) -> tuple[PlanScore, ...]:
        """Return the score of each plan of the front, the best first."""
        front = [best]
        with self.frame.step("front"):
            for member in state.hall[1:]:
                check_time()
                front.append(score_plan(member.plan, self.task))
        return tuple(front)

    def _what_if(self, best: PlanScore) -> tuple[WhatIf, ...]:
        rows: list[WhatIf] = []
        if not self.settings.only_plans and self.frame.has_time("what-if"):
            with self.frame.step("what-if"):
                rows.extend(without_one(self.task, best))
        return tuple(rows)
