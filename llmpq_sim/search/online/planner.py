"""Planner for a trace: batch search, race, evolution, whole trace.

1. The batch search plans a representative batch: what it and the baselines find starts the rest.
2. Every baseline's stages, and those of the best for the batch, are served with the best settings
   found for them, by the same procedure for each.
3. A genetic search improves stages and settings. Services see the same arrivals, first the first
   requests only; the best of them go on to more, and whatever wins was judged by all.
4. The settings of the winner are refined.

Each step can be the last: a deadline or an interruption ends the search with the best so far.
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace

from deap import base, tools

from llmpq_sim.core.errors import InfeasibleError
from llmpq_sim.core.plan import Plan, Stage
from llmpq_sim.core.units import gib_apart
from llmpq_sim.search.baselines.simple import NOT_TRIED, Baseline
from llmpq_sim.search.deadline import time_limit, without_time_limit
from llmpq_sim.search.frame import Ending, SearchFrame, SearchProgress
from llmpq_sim.search.genetic.evolution import begin, evolve, stream, survive
from llmpq_sim.search.online.evaluation import ServiceEvaluator
from llmpq_sim.search.online.evolution import (
    EFFORT,
    ServiceIndividual,
    ServiceState,
    service_state,
    service_toolbox,
)
from llmpq_sim.search.online.operators import (
    ONE_AT_A_TIME,
    ServiceOperators,
    ServingPlan,
    longest_room,
    mean_room,
    serving_plan,
)
from llmpq_sim.search.online.settings_genes import LEAST_BUDGET_TOKENS, fitted
from llmpq_sim.search.online.task import OnlineTask
from llmpq_sim.search.online.tuning import polished, tuned
from llmpq_sim.search.pins import Pins
from llmpq_sim.search.planner import LogbookRow, SearchOutcome, SearchSettings
from llmpq_sim.search.planner import search as search_batch
from llmpq_sim.search.scoring import score_in_simpy, score_plan
from llmpq_sim.simulator.continuous.service import Service, serve

BATCH_SHARE = 0.4
"""Share of the time budget that the batch search may take."""

BEST_FOR_BATCH = "best for a batch"
NO_ROOM = "no room for the KV cache of any request"


@dataclass(frozen=True)
class ServedBaseline:
    """A plan of others, served with the best settings found for it.

    Attributes:
        name: what tables call it.
        served: what it does, or None where it cannot serve.
        infeasible_reason: why it cannot, or None.
    """

    name: str
    served: ServiceIndividual | None
    infeasible_reason: str | None


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
        cut_short: the steps that the time budget ended or left out.
        logbook: generations of the genetic search, in what is sought, as `OnlineTask.value`.
        pins: what of the best plan was decided by the user, or None.
        unpinned: the best service that need not keep to the pins, where one was sought.
    """

    task: OnlineTask
    batch: SearchOutcome
    best: ServiceIndividual
    service: Service
    baselines: tuple[ServedBaseline, ...]
    evaluations: int
    generations: int
    seconds: float
    ended: Ending
    cut_short: tuple[str, ...] = ()
    logbook: tuple[LogbookRow, ...] = ()
    pins: Pins | None = None
    unpinned: ServiceIndividual | None = None

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
    on_progress: Callable[[SearchProgress], None] = lambda _: None,
) -> OnlineOutcome:
    """Return the best plan and limits found for a trace, and how others would serve it.

    Args:
        task: what is asked.
        settings: how it is sought.
        on_progress: receives every step.

    Raises:
        InfeasibleError: no plan fits the memory within the quality budget.
    """
    with time_limit(settings.budget_s):
        return _OnlineSearch(task, settings, SearchFrame(on_progress)).run()


@dataclass
class _OnlineSearch:
    task: OnlineTask
    settings: SearchSettings
    frame: SearchFrame

    def run(self) -> OnlineOutcome:
        task = self.task
        batch = self._batch()
        evaluator = ServiceEvaluator(task, self.settings.workers)
        baselines = self._baselines(batch, evaluator)
        state = service_state(stream(self.settings.seed, b"online"))
        served = [each.served for each in baselines if each.served is not None]
        state.hall.update(served)
        survive(state, tools.selBest, EFFORT, served)
        self._improve(state, batch, evaluator)
        if not state.population:
            raise InfeasibleError(_no_room(task, batch))
        found = score_in_simpy(micro_batched(state.best.serving.plan, batch), task.batch)
        return OnlineOutcome(
            task=task,
            batch=replace(batch, best=found),
            best=state.best,
            service=self._service(state.best.serving),
            baselines=baselines,
            evaluations=state.evaluations,
            generations=state.generation,
            seconds=self.frame.seconds,
            ended=self.frame.ended,
            cut_short=tuple(self.frame.cut_short),
            logbook=tuple(state.logbook),
        )

    def _batch(self) -> SearchOutcome:
        """Search the representative batch, with a share of the time."""
        limit_s = self.settings.budget_s
        batch_s = limit_s and limit_s * BATCH_SHARE
        settings = replace(self.settings, budget_s=batch_s, wants_front=False, only_plans=True)
        batch = search_batch(self.task.batch, settings, on_progress=self.frame.on_progress)
        self.frame.ended = batch.ended
        self.frame.cut_short += batch.cut_short
        return batch

    def _baselines(
        self, batch: SearchOutcome, evaluator: ServiceEvaluator
    ) -> tuple[ServedBaseline, ...]:
        """Tune what others plan, and the best plan for the batch, to the whole trace."""
        plans = [*batch.baselines, Baseline(BEST_FOR_BATCH, batch.best, None)]
        allowed = self.task.batch.allowed_loss
        scores = [each.score for each in plans if each.score is not None]
        able = list(dict.fromkeys(e.plan.stages for e in scores if e.loss <= allowed))
        served: dict[tuple[Stage, ...], ServiceIndividual | None] = {}
        with self.frame.step("baselines on the trace", lambda: False):
            for number, stages in enumerate(able):
                self.frame.tell("tuning plans of others", number, len(able))
                served[stages] = tuned(evaluator, stages, self.task.defaults)
        if not served:
            with without_time_limit():  # at least the best plan for the batch
                served[able[-1]] = tuned(evaluator, able[-1], self.task.defaults)
        return tuple(_served(each, served, set(able) - set(served)) for each in plans)

    def _improve(
        self, state: ServiceState, batch: SearchOutcome, evaluator: ServiceEvaluator
    ) -> None:
        """Race the seeds and evolve; what is found is in the state, also when interrupted."""
        self._note(state)
        if state.population and not self.frame.has_time("services"):
            return
        has_some = bool(state.population)
        with nullcontext() if has_some else without_time_limit():
            self._raced_and_evolved(state, batch, evaluator)

    def _raced_and_evolved(
        self, state: ServiceState, batch: SearchOutcome, evaluator: ServiceEvaluator
    ) -> None:
        with self.frame.step("services", lambda: bool(state.population)):
            toolbox = self._begun(state, batch, evaluator)
            self._note(state)
            if state.population and self.frame.has_time("generations"):
                evolve(
                    state,
                    toolbox,
                    EFFORT,
                    self.settings.generations,
                    lambda: self._after_generation(state),
                )
        with self.frame.step("settings of the service", lambda: False):
            if state.population and self.frame.has_time("settings of the service"):
                state.hall.update([polished(evaluator, state.best)])

    def _begun(
        self, state: ServiceState, batch: SearchOutcome, evaluator: ServiceEvaluator
    ) -> base.Toolbox:
        """Race what there is to start from; return operators that keep room for any request.

        Where no plan has room for the longest request, they keep it for one of mean length.
        """
        seeds = [each.serving for each in state.population]
        settings = seeds[0].settings if seeds else self.task.defaults
        scores = [batch.best, *batch.front, *(each.score for each in batch.baselines)]
        plans = dict.fromkeys(each.plan.stages for each in scores if each is not None)
        known = {each.plan.stages for each in seeds}
        seeds += [
            serving_plan(stages, fitted(settings, len(stages)))
            for stages in plans
            if stages not in known
        ]
        self.frame.tell("racing first services", 0, 1)
        for room in (longest_room(self.task), mean_room(self.task)):
            operators = ServiceOperators(room)
            toolbox = service_toolbox(operators, evaluator, state.rng)
            if any(operators.repair(seed) is not None for seed in seeds):
                break
        begin(state, toolbox, EFFORT, seeds)
        return toolbox

    def _service(self, found: ServingPlan) -> Service:
        task = self.task
        return serve(found.plan, task.costs, task.workload, found.settings, task.objectives)

    def _after_generation(self, state: ServiceState) -> bool:
        self._note(state)
        self.frame.tell("improving the service", state.generation, self.settings.generations)
        return self.frame.has_time("generations")

    def _note(self, state: ServiceState) -> None:
        if state.population:
            self.frame.best_tokens_per_s = state.best.result.tokens_per_s


def _served(
    baseline: Baseline,
    served: dict[tuple[Stage, ...], ServiceIndividual | None],
    untried: set[tuple[Stage, ...]],
) -> ServedBaseline:
    """Return what a baseline does, or why it cannot; one may serve that cannot hold the batch."""
    stages = baseline.score.plan.stages if baseline.score else ()
    found = served.get(stages)
    infeasible_reason = NOT_TRIED if stages in untried else baseline.infeasible_reason or NO_ROOM
    return ServedBaseline(baseline.name, found, None if found else infeasible_reason)


def micro_batched(plan: Plan, batch: SearchOutcome) -> Plan:
    """Return the plan with the micro-batches, of those found for the batch, that suit it best."""
    scores = [batch.best, *(each.score for each in batch.baselines)]
    batchings = [each.plan.micro_batching for each in scores if each is not None]
    plans = [Plan(plan.stages, each) for each in dict.fromkeys([*batchings, ONE_AT_A_TIME])]
    return min(plans, key=lambda each: score_plan(each, batch.task).makespan_s)


def _no_room(task: OnlineTask, batch: SearchOutcome) -> str:
    longest = int(task.workload.context_tokens.max())
    needed = task.costs.model.cache_bytes(1, longest)
    needs, has = gib_apart(needed, _left_bytes(batch))
    return (
        f"{task.costs.model.name} on {task.costs.cluster.name}: no plan has room for the KV cache "
        f"of any request beside batches of {LEAST_BUDGET_TOKENS} tokens; the longest of "
        f"{task.workload.name} has {longest} tokens, {needs} GiB, the plan for the "
        f"representative batch leaves {has} GiB in all; allow fewer bits, or "
        "use devices with more memory"
    )


def _left_bytes(batch: SearchOutcome) -> int:
    return sum(
        stage.limit_bytes - stage.total_bytes + stage.kv_bytes for stage in batch.best.memory
    )
