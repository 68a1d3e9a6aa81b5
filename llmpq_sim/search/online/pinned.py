"""Planning for a trace around pins: settings, and formats where they are free, of a pipeline."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from llmpq_sim.core.errors import InfeasibleError
from llmpq_sim.core.plan import Plan, Stage
from llmpq_sim.search.bound.feasibility import smallest, task_grid
from llmpq_sim.search.bound.problem import PlanningTask
from llmpq_sim.search.bound.screening import Screen
from llmpq_sim.search.deadline import share_of_time, time_limit, without_time_limit
from llmpq_sim.search.frame import SearchFrame, SearchProgress
from llmpq_sim.search.genetic.evolution import begin, evolve, stream
from llmpq_sim.search.online.evaluation import ServiceEvaluator
from llmpq_sim.search.online.evolution import EFFORT, ServiceState, service_state, service_toolbox
from llmpq_sim.search.online.operators import (
    ONE_AT_A_TIME,
    ServiceOperators,
    longest_room,
    mean_room,
)
from llmpq_sim.search.online.planner import OnlineOutcome, micro_batched, search_online
from llmpq_sim.search.online.task import OnlineTask
from llmpq_sim.search.online.tuning import polished, tuned
from llmpq_sim.search.pinned import PINNED_SHARE, STEP, PinnedOperators, course, pinned_plans
from llmpq_sim.search.pins import Pins, check_pins
from llmpq_sim.search.planner import SearchSettings
from llmpq_sim.search.scoring import score_in_simpy
from llmpq_sim.simulator.continuous.service import serve


class PinnedServiceOperators(ServiceOperators):
    """Mutation, crossover and repair of services whose stages keep some pins."""

    def __init__(self, room: PlanningTask, pins: Pins) -> None:
        super().__init__(room)
        self._stages = PinnedOperators(room, [ONE_AT_A_TIME], pins)


def search_online_pinned(
    task: OnlineTask,
    pins: Pins,
    settings: SearchSettings,
    on_progress: Callable[[SearchProgress], None] = lambda _: None,
) -> OnlineOutcome:
    """Return the best service that keeps the pins, beside the best without them.

    Baselines and the bound are those of the search without pins.

    Args:
        task: what is asked.
        pins: what is decided already.
        settings: how the rest is sought.
        on_progress: receives every step.

    Raises:
        InputError: a device cannot run a format that is pinned.
        InfeasibleError: the pipeline does not fit the memory within the quality budget.
    """
    frame = SearchFrame(on_progress)
    with time_limit(settings.budget_s):
        with share_of_time(PINNED_SHARE):
            room, plans = _first_plans(task, pins)
            state = _evolved(task, PinnedServiceOperators(room, pins), plans, settings, frame)
        if frame.ended == "interrupted":
            settings = replace(settings, generations=0, budget_s=0.0)
        free = search_online(task, settings, on_progress)
    best = state.best
    shown = score_in_simpy(micro_batched(best.serving.plan, free.batch), task.batch)
    return replace(
        free,
        batch=replace(free.batch, best=shown),
        best=best,
        service=serve(
            best.serving.plan, task.costs, task.workload, best.serving.settings, task.objectives
        ),
        pins=pins,
        unpinned=max(free.best, best, key=lambda each: each.fitness),
        **course(state, free, frame),
    )


def _first_plans(task: OnlineTask, pins: Pins) -> tuple[PlanningTask, list[tuple[Stage, ...]]]:
    """Return the task whose room services keep, and stages with the pins that have it.

    That is room for the longest request of the trace, or for one of mean length where not even
    the least formats leave as much. Formats that are free are those that are fastest for one such
    request, and for the representative batch.

    Raises:
        InputError: a device cannot run a format that is pinned.
        InfeasibleError: the pins leave room for neither.
    """
    rooms = [longest_room(task), mean_room(task)]
    with suppress(InfeasibleError):
        check_pins(pins, rooms[0])
        rooms.pop()
    room = rooms[-1]
    check_pins(pins, room)
    plans: list[Plan] = pinned_plans(pins, Screen(room), [ONE_AT_A_TIME, smallest(room)])
    with suppress(InfeasibleError):
        batchings = [*task_grid(task.batch), smallest(task.batch)]
        plans += pinned_plans(pins, Screen(task.batch), batchings)
    return room, list(dict.fromkeys(plan.stages for plan in plans))


def _evolved(
    task: OnlineTask,
    operators: PinnedServiceOperators,
    plans: list[tuple[Stage, ...]],
    settings: SearchSettings,
    frame: SearchFrame,
) -> ServiceState:
    """Return the last state of the genetic search among services that keep the pins.

    Raises:
        InfeasibleError: no settings leave room for the KV cache of any request.
    """
    evaluator = ServiceEvaluator(task, settings.workers)
    state = service_state(stream(settings.seed, b"online pinned"))
    toolbox = service_toolbox(operators, evaluator, state.rng)

    def after_generation() -> bool:
        frame.best_tokens_per_s = state.best.result.tokens_per_s
        frame.tell(STEP, state.generation, settings.generations)
        return frame.has_time(STEP)

    frame.tell(STEP, 0, settings.generations)
    with without_time_limit():  # there is nothing yet that could be given
        first = [tuned(evaluator, stages, task.defaults) for stages in plans[:1]]
    with frame.step(STEP):
        first += [tuned(evaluator, stages, task.defaults) for stages in plans[1:]]
    served = [each for each in first if each is not None]
    if not served:
        raise InfeasibleError(
            "--layers: no settings leave room for the KV cache of any request; give fewer layers "
            "to the smallest device, or lower formats"
        )
    state.hall.update(served)
    if frame.has_time(STEP):
        with frame.step(STEP):
            begin(state, toolbox, EFFORT, [each.serving for each in served])
            evolve(state, toolbox, EFFORT, settings.generations, after_generation)
            state.hall.update([polished(evaluator, state.best)])
    return state
