"""Planner for a trace: batch search, race, evolution, whole trace.

1. The batch search plans a representative batch: what it and the baselines find starts the rest.
2. Baselines are served by the whole trace with default settings; so is the best for the batch.
3. A genetic search improves stages and limits. Candidates see the same arrivals, first the first
   requests only; the best of them go on to more, and whatever wins was judged by all.

Each step can be the last: a deadline or an interruption ends the search with the best so far.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from llmpq_sim.core.errors import InfeasibleError
from llmpq_sim.core.plan import Plan, Stage
from llmpq_sim.core.units import gib_apart
from llmpq_sim.search.baselines.simple import Baseline
from llmpq_sim.search.genetic.evolution import stream
from llmpq_sim.search.online.evaluation import Candidate, ServiceEvaluator
from llmpq_sim.search.online.evolution import (
    ServiceState,
    evolve_services,
    first_services,
    race,
    survive,
)
from llmpq_sim.search.online.limits import TOKEN_BUDGETS, first_limits
from llmpq_sim.search.online.operators import (
    ONE_AT_A_TIME,
    ServiceOperators,
    ServingPlan,
    longest_room,
    mean_room,
    serving_plan,
)
from llmpq_sim.search.online.task import OnlineTask
from llmpq_sim.search.planner import Progress, SearchOutcome, SearchSettings
from llmpq_sim.search.planner import search as search_batch
from llmpq_sim.search.scoring import score_in_simpy, score_plan
from llmpq_sim.simulator.continuous.service import Service, serve

BATCH_SHARE = 0.4
"""Share of the time budget that the batch search may take."""

BEST_FOR_BATCH = "best for a batch"
NO_ROOM = "no room for the KV cache of any request"


@dataclass(frozen=True)
class ServedBaseline:
    """A plan of others, served with default settings.

    Attributes:
        name: what tables call it.
        served: what it does, or None where it cannot serve.
        why_not: why it cannot, or None.
    """

    name: str
    served: Candidate | None
    why_not: str | None


@dataclass(frozen=True)
class OnlineOutcome:
    """What a search for a service found.

    Attributes:
        task: what was asked.
        batch: the search of the representative batch, its best plan replaced by the plan found.
        best: the best stages and limits, judged by the whole trace.
        service: its simulation with all instants.
        baselines: what others would serve with, the best plan for the batch last.
        evaluations, generations: how much was tried for the trace.
        seconds: how long all took.
        ended: why it stopped: ``done``, ``budget`` or ``interrupted``.
    """

    task: OnlineTask
    batch: SearchOutcome
    best: Candidate
    service: Service
    baselines: tuple[ServedBaseline, ...]
    evaluations: int
    generations: int
    seconds: float
    ended: str

    @property
    def offered_per_s(self) -> float | None:
        """Requests over the time in which they arrive: no plan that serves all serves more.

        None where they arrive at once, or the last might be refused.
        """
        return None if self.best.result.refused else self.task.workload.rate_per_s

    @property
    def gap_fraction(self) -> float | None:
        """How far the goodput is from the offered load: 1 - goodput / load; None if not sought."""
        goodput_per_s, offered_per_s = self.best.result.goodput_per_s, self.offered_per_s
        if self.task.objective != "goodput" or offered_per_s is None or goodput_per_s is None:
            return None
        return max(0.0, 1.0 - goodput_per_s / offered_per_s)


def search_online(
    task: OnlineTask,
    settings: SearchSettings,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> OnlineOutcome:
    """Return the best plan and limits found for a trace, and how others would serve it.

    Args:
        task: what is asked.
        settings: how it is sought.
        on_progress: told of every step.

    Raises:
        InfeasibleError: no plan fits the memory within the quality budget.
    """
    return _OnlineSearch(task, settings, on_progress).run()


@dataclass
class _OnlineSearch:
    task: OnlineTask
    settings: SearchSettings
    on_progress: Callable[[Progress], None]
    ended: str = "done"
    started_s: float = field(default_factory=time.monotonic)

    def run(self) -> OnlineOutcome:
        task, limit_s = self.task, self.settings.budget_s
        batch = search_batch(
            task.batch,
            replace(
                self.settings,
                budget_s=limit_s and limit_s * BATCH_SHARE,
                wants_front=False,
                only_plans=True,
            ),
            on_progress=self.on_progress,
        )
        self.ended = batch.ended
        evaluator = ServiceEvaluator(task, self.settings.workers)
        baselines = self._baselines(batch, evaluator)
        state = ServiceState([], stream(self.settings.seed, b"online"))
        survive(state, [each.served for each in baselines if each.served is not None])
        self._improve(state, batch, evaluator)
        if not state.population:
            raise InfeasibleError(_no_room(task, batch))
        found = score_in_simpy(_micro_batched(state.best.serving.plan, batch), task.batch)
        return OnlineOutcome(
            task=task,
            batch=replace(batch, best=found),
            best=state.best,
            service=self._service(state.best.serving),
            baselines=baselines,
            evaluations=state.evaluations,
            generations=state.generation,
            seconds=time.monotonic() - self.started_s,
            ended=self.ended,
        )

    def _baselines(
        self, batch: SearchOutcome, evaluator: ServiceEvaluator
    ) -> tuple[ServedBaseline, ...]:
        """Serve the whole trace with what others plan, and with the best plan for the batch."""
        self._tell("serving with plans of others", 0, 1, None)
        plans = [*batch.baselines, Baseline(BEST_FOR_BATCH, batch.best, None)]
        limits = self.task.defaults
        able = [
            serving_plan(each.score.plan.stages, limits)
            for each in plans
            if each.score is not None and each.score.loss <= self.task.batch.allowed_loss
        ]
        judged = evaluator.judge(able, len(evaluator.windows) - 1)
        served = {candidate.serving.plan.stages: candidate for candidate in judged}
        return tuple(_served(each, served) for each in plans)

    def _improve(
        self, state: ServiceState, batch: SearchOutcome, evaluator: ServiceEvaluator
    ) -> None:
        """Race the seeds and evolve; what is found is in the state, also when interrupted."""
        if not self._has_time() and state.population:
            return
        try:
            operators, first = self._first(state, batch)
            self._tell("racing first services", 0, 1, state)
            survive(state, race(first, evaluator))
            if state.population and self._has_time():
                evolve_services(
                    state, operators, evaluator, self.settings.generations, self._after_generation
                )
        except KeyboardInterrupt:
            if not state.population:
                raise
            self.ended = "interrupted"

    def _first(
        self, state: ServiceState, batch: SearchOutcome
    ) -> tuple[ServiceOperators, list[ServingPlan]]:
        """Return what to start from, and operators that keep room for the longest request.

        Where no plan has that room, they keep it for a request of mean length.
        """
        scores = [batch.best, *batch.front, *(each.score for each in batch.baselines)]
        plans = list(dict.fromkeys(each.plan.stages for each in scores if each is not None))
        seeds = [
            serving_plan(stages, limits)
            for limits in first_limits(self.task.defaults)
            for stages in plans
        ]
        for room in (longest_room(self.task), mean_room(self.task)):
            operators = ServiceOperators(room)
            first = first_services(seeds, operators, state.rng)
            if first:
                break
        return operators, first

    def _service(self, found: ServingPlan) -> Service:
        task = self.task
        return serve(found.plan, task.costs, task.workload, found.settings, task.objectives)

    def _after_generation(self, state: ServiceState) -> bool:
        self._tell("improving the service", state.generation, self.settings.generations, state)
        return self._has_time()

    def _has_time(self) -> bool:
        if self.ended == "interrupted":
            return False
        limit = self.settings.budget_s
        if limit is not None and time.monotonic() - self.started_s > limit:
            self.ended = "budget"
            return False
        return True

    def _tell(self, step: str, done: int, total: int, state: ServiceState | None) -> None:
        rate = state.best.result.tokens_per_s if state and state.population else None
        self.on_progress(Progress(step, done, total, rate))


def _served(baseline: Baseline, served: dict[tuple[Stage, ...], Candidate]) -> ServedBaseline:
    """Return what a baseline does, or why it cannot; one may serve that cannot hold the batch."""
    found = served.get(baseline.score.plan.stages) if baseline.score else None
    return ServedBaseline(baseline.name, found, None if found else baseline.why_not or NO_ROOM)


def _micro_batched(plan: Plan, batch: SearchOutcome) -> Plan:
    """Return the plan with the micro-batches, of those found for the batch, that suit it best."""
    scores = [batch.best, *(each.score for each in batch.baselines)]
    cuts = [each.plan.micro_batching for each in scores if each is not None]
    plans = [Plan(plan.stages, each) for each in dict.fromkeys([*cuts, ONE_AT_A_TIME])]
    return min(plans, key=lambda each: score_plan(each, batch.task).makespan_s)


def _no_room(task: OnlineTask, batch: SearchOutcome) -> str:
    longest = int(task.workload.context_tokens.max())
    needed = task.costs.model.layers * task.costs.model.kv_bytes(1, longest)
    needs, has = gib_apart(needed, _left_bytes(batch))
    return (
        f"{task.costs.model.name} on {task.costs.cluster.name}: no plan has room for the KV cache "
        f"of any request beside batches of {TOKEN_BUDGETS[0]} tokens; the longest of "
        f"{task.workload.name} has {longest} tokens, {needs} GiB, the plan for the "
        f"representative batch leaves {has} GiB in all; allow fewer bits, or "
        "use devices with more memory"
    )


def _left_bytes(batch: SearchOutcome) -> int:
    return sum(
        stage.limit_bytes - stage.total_bytes + stage.kv_bytes for stage in batch.best.memory
    )
