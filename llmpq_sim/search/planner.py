"""Planner: bound, seeds, evolution and certificate, in this order.

1. The relaxation of every micro-batching of the grid gives a first bound and says where to look.
2. Seeds: each baseline, and by branch and bound over micro-batchings the integer program's plan and
   the partition that the relaxation guides to.
3. A genetic search whose fitness is the simulator improves the seeds.
4. The bound is tightened where the relaxation is loose, until it meets the plan found.

Each step can be the last: a deadline or an interruption ends the search with the best plan so far.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from llmpq_sim.core.errors import InfeasibleError
from llmpq_sim.search.baselines.simple import Baseline, all_baselines
from llmpq_sim.search.bound.bound import Certificate, first_certificate, tighten
from llmpq_sim.search.bound.feasibility import check_feasible, explain
from llmpq_sim.search.bound.problem import PlanningTask
from llmpq_sim.search.bound.screening import Screen
from llmpq_sim.search.genetic.evaluation import Evaluator
from llmpq_sim.search.genetic.evolution import EvolutionState, evolve, first_state, stream
from llmpq_sim.search.genetic.operators import Operators
from llmpq_sim.search.grid import micro_batching_grid
from llmpq_sim.search.scoring import PlanScore, score_in_simpy, score_plan
from llmpq_sim.search.seeding import Seeds, seek_front, seek_seeds
from llmpq_sim.search.what_if import WhatIf, without_one


@dataclass(frozen=True)
class SearchSettings:
    """How a search is run.

    Attributes:
        seed: of every random draw.
        generations: of the genetic search, at most.
        budget_s: seconds after which no further step starts, or None.
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
class Progress:
    """What a search reports while it runs: its step, and how far it is."""

    step: str
    done: int
    total: int
    best_tokens_per_s: float | None


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
    ended: str

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
    resumed: EvolutionState | None = None,
    on_progress: Callable[[Progress], None] = lambda _: None,
    on_state: Callable[[EvolutionState], None] = lambda _: None,
) -> SearchOutcome:
    """Return the best plan found, its certificate and the baselines.

    Args:
        task: what is planned.
        settings: how.
        resumed: state of an earlier search of the same task and settings, to go on from.
        on_progress: told of every step.
        on_state: given the state after every generation, to save it.

    Raises:
        InfeasibleError: no plan fits the memory within the quality budget.
    """
    return _Search(task, settings, on_progress, on_state).run(resumed)


@dataclass
class _Search:
    task: PlanningTask
    settings: SearchSettings
    on_progress: Callable[[Progress], None]
    on_state: Callable[[EvolutionState], None]
    ended: str = "done"
    best_s: float | None = None
    started_s: float = field(default_factory=time.monotonic)

    def run(self, resumed: EvolutionState | None) -> SearchOutcome:
        scenario = self.task.costs.scenario
        grid = micro_batching_grid(scenario.workload.requests, len(scenario.cluster.devices))
        screen = Screen(self.task)
        certificate = first_certificate(screen, grid, self._told("bound"))
        check_feasible(self.task, certificate)
        self._tell("baselines", 0, 1)
        baselines = tuple(all_baselines(screen, self._has_time))
        operators = Operators(self.task, grid)
        evaluator = Evaluator(screen, self.settings.workers)
        state = resumed or self._seeded(baselines, certificate, screen, operators, evaluator)
        state = self._evolve(state, operators, evaluator)
        best = score_in_simpy(state.best.plan, self.task)
        certificate = self._tightened(certificate, screen, best)
        return SearchOutcome(
            task=self.task,
            settings=self.settings,
            best=best,
            baselines=baselines,
            front=tuple(score_plan(member.plan, self.task) for member in state.front),
            certificate=certificate,
            evaluations=state.evaluations,
            generations=state.generation,
            what_if=self._what_if(best),
            seconds=time.monotonic() - self.started_s,
            ended=self.ended,
        )

    def _seeded(
        self,
        baselines: tuple[Baseline, ...],
        certificate: Certificate,
        screen: Screen,
        operators: Operators,
        evaluator: Evaluator,
    ) -> EvolutionState:
        """Return a first population of baselines, integer programs and guided partitions."""
        seeds = Seeds(certificate)
        for baseline in baselines:
            if baseline.score is not None:
                seeds.add(baseline.score.plan, screen)
        try:
            seek_seeds(seeds, screen, self._has_time, self._told("seeds"))
            if self.settings.wants_front:
                seek_front(seeds, screen, self._told("front"))
        except KeyboardInterrupt:
            if not seeds.plans:
                raise
            self.ended = "interrupted"
        state = first_state(
            seeds.plans, operators, evaluator, stream(self.settings.seed, b"evolution")
        )
        if not state.front:
            raise InfeasibleError(explain(self.task))
        return state

    def _evolve(
        self, state: EvolutionState, operators: Operators, evaluator: Evaluator
    ) -> EvolutionState:
        def after_generation(now: EvolutionState) -> bool:
            self.best_s = now.best.makespan_s
            self._tell("generations", now.generation, self.settings.generations)
            self.on_state(now)
            return self._has_time()

        self.best_s = state.best.makespan_s
        try:
            return evolve(
                state,
                operators,
                evaluator,
                self.settings.generations,
                by_front=self.settings.wants_front,
                on_generation=after_generation,
            )
        except KeyboardInterrupt:
            self.ended = "interrupted"
            return state

    def _tightened(self, certificate: Certificate, screen: Screen, best: PlanScore) -> Certificate:
        if self.settings.only_plans or not self._has_time():
            return certificate
        try:
            return tighten(certificate, screen, best.makespan_s, self._told("certificate"))
        except KeyboardInterrupt:
            self.ended = "interrupted"
            return certificate

    def _what_if(self, best: PlanScore) -> tuple[WhatIf, ...]:
        if self.settings.only_plans or not self._has_time():
            return ()
        return tuple(without_one(self.task, best))

    def _has_time(self) -> bool:
        if self.ended == "interrupted":
            return False
        limit = self.settings.budget_s
        if limit is not None and time.monotonic() - self.started_s > limit:
            self.ended = "budget"
            return False
        return True

    def _told(self, step: str) -> Callable[[int, int], None]:
        return lambda done, total: self._tell(step, done, total)

    def _tell(self, step: str, done: int, total: int) -> None:
        tokens = self.task.costs.scenario.workload.total_output_tokens
        rate = None if self.best_s is None else tokens / self.best_s
        self.on_progress(Progress(step, done, total, rate))
