"""Prediction of exactly the requests that a runtime served, by the SimPy models.

The static policy takes requests in order, as many at a time as the plan's batch has, each such
batch after the one before it. Lengths are taken as they were: an output ends where it ended.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from llmpq_sim.api.planned import AnyPlan, Profiles, load
from llmpq_sim.core.errors import InputError
from llmpq_sim.core.execution import RequestTiming, StageStep
from llmpq_sim.core.limits import MOST_SERVED_TOKENS, check_count
from llmpq_sim.core.memory import plan_memory
from llmpq_sim.core.model import ModelSpec
from llmpq_sim.core.plan import Plan
from llmpq_sim.core.result import SimulationResult
from llmpq_sim.core.scenario import BatchWorkload
from llmpq_sim.core.schedule import batch_schedules
from llmpq_sim.core.trace import TraceWorkload
from llmpq_sim.io.executions import Policy, SavedExecution, load_execution
from llmpq_sim.io.plans import SavedPlan
from llmpq_sim.latency.costs import LayerCosts
from llmpq_sim.simulator.continuous.compilation import ServingCosts
from llmpq_sim.simulator.continuous.service import Service, serve
from llmpq_sim.simulator.continuous.settings import ContinuousSettings
from llmpq_sim.simulator.continuous.watch import Watch
from llmpq_sim.simulator.static.checked import every_step
from llmpq_sim.simulator.static.simulate import RunSteps, batch_times, static_result
from llmpq_sim.simulator.static.step_graph import StepGraph, StepTimes

Requests = Sequence[RequestTiming]


@dataclass(frozen=True)
class Prediction:
    """What the simulator says of an execution.

    Attributes:
        result: the metrics.
        requests: those that can be served, with the instants that are predicted for them.
        steps: of all stages, by the instant at which they end.
        stage_bytes: most memory each stage needs for what was run.
        notes: where the prediction simplifies what was run, in sentences.
    """

    result: SimulationResult
    requests: tuple[RequestTiming, ...]
    steps: tuple[StageStep, ...]
    stage_bytes: tuple[int, ...]
    notes: tuple[str, ...] = ()


def predict(
    plan: AnyPlan, *, execution: str | Path | SavedExecution, profiles: Profiles = ()
) -> Prediction:
    """Return what the simulator says of the requests that a deployment served.

    Args:
        plan: the plan that was carried out: what ``plan`` returned, or the name of a plan file.
        execution: what was measured, or the file that ``llmpq deploy`` wrote it to; of its
            requests only lengths and arrivals are read.
        profiles: see ``load``.

    Raises:
        InputError: a file is damaged, no request was finished, or continuous batching has no
            settings.
        InfeasibleError: a stage has no room for any KV cache, by what is predicted.
    """
    saved = load(plan, profiles=profiles)
    if not isinstance(execution, SavedExecution):
        execution = load_execution(Path(execution))
    return predict_requests(
        saved,
        execution.execution.requests,
        execution.policy,
        execution.settings,
        execution.concurrency,
    )


def predict_requests(
    saved: SavedPlan,
    requests: Requests,
    policy: Policy,
    settings: ContinuousSettings | None,
    concurrency: int | None = None,
) -> Prediction:
    """Return what the simulator says of requests, of which lengths and arrivals are read.

    Args:
        saved: the plan.
        requests: of a closed loop in the order in which they enter.
        policy: how they are batched.
        settings: of continuous batching; None for the static policy.
        concurrency: requests in flight of a closed loop, which enter when the simulation lets them
            in; None for requests that arrive when they did.

    Raises:
        InputError, InfeasibleError: see ``predict``.
    """
    if not requests:
        raise InputError("requests: expected at least one that was finished, got none")
    _check_tokens(requests, saved.task.costs.scenario.model)
    if policy == "static":
        return _predict_static(saved, requests)
    if settings is None:
        raise InputError("settings: expected those of continuous batching, got none")
    return _predict_continuous(saved, requests, settings, concurrency)


def _check_tokens(requests: Requests, model: ModelSpec) -> None:
    """Raise InputError for requests that the model cannot have served: each token takes a step."""
    for number, request in enumerate(requests):
        context_tokens = request.prompt_tokens + request.output_tokens
        if context_tokens > model.max_positions:
            raise InputError(
                f"requests[{number}]: expected a prompt and output of at most "
                f"{model.max_positions} tokens, as {model.name} takes, got {context_tokens}"
            )
    total_tokens = sum(request.output_tokens for request in requests)
    check_count("requests", total_tokens, MOST_SERVED_TOKENS, "tokens generated")


# ---- static


def _predict_static(saved: SavedPlan, requests: Requests) -> Prediction:
    size = saved.task.costs.scenario.workload.requests
    batches = [requests[first : first + size] for first in range(0, len(requests), size)]
    stages = len(saved.plan.stages)
    steps: list[StageStep] = []
    instants: list[tuple[float, float]] = []
    busy_s, stage_bytes, start_s = np.zeros(stages), [0] * stages, 0.0
    known: dict[BatchWorkload, LayerCosts] = {}
    for batch in batches:
        plan, workload = _cut(saved.plan, len(batch)), _mean_workload(batch)
        if workload not in known:
            known[workload] = _costs(saved, workload)
        run = _recording(steps, plan, workload)
        times = batch_times(plan, known[workload], run, start_s=start_s)
        instants += times.instants_s
        busy_s, start_s = busy_s + times.busy_s, times.end_s
        stage_bytes = list(map(max, stage_bytes, _batch_bytes(saved, plan, batch)))
    outputs = [request.output_tokens for request in requests]
    return Prediction(
        result=static_result(outputs, instants, tuple(busy_s.tolist()), len(steps)),
        requests=tuple(
            replace(request, arrival_s=0.0, first_s=first_s, last_s=last_s)
            for request, (first_s, last_s) in zip(requests, instants, strict=True)
        ),
        steps=tuple(steps),
        stage_bytes=tuple(stage_bytes),
        notes=_static_notes(batches),
    )


def _cut(plan: Plan, requests: int) -> Plan:
    """Return a plan with the micro-batches of a batch that may be smaller than its own."""
    return replace(plan, micro_batching=plan.micro_batching.within(requests))


def _mean_workload(batch: Requests) -> BatchWorkload:
    """Return a batch with prompts of the mean length, rounded up, and outputs as they were."""
    prompt_tokens = -(-sum(request.prompt_tokens for request in batch) // len(batch))
    return BatchWorkload(prompt_tokens, tuple(request.output_tokens for request in batch))


def _costs(saved: SavedPlan, workload: BatchWorkload) -> LayerCosts:
    costs = saved.task.costs
    return LayerCosts(replace(costs.scenario, workload=workload), costs.profiles)


def _batch_bytes(saved: SavedPlan, plan: Plan, batch: Requests) -> list[int]:
    """Return the bytes of each stage for a batch whose rows are as long as its longest prompt."""
    longest = max(request.prompt_tokens for request in batch)
    workload = BatchWorkload(longest, tuple(request.output_tokens for request in batch))
    scenario = replace(saved.task.costs.scenario, workload=workload)
    return [stage.total_bytes for stage in plan_memory(plan, scenario)]


def _recording(steps: list[StageStep], plan: Plan, workload: BatchWorkload) -> RunSteps:
    """Return a runner that appends the steps of a batch's waves, which it runs in order."""
    schedules = iter(batch_schedules(workload, plan.micro_batching))
    simulate = every_step()

    def run(graph: StepGraph, start_s: float) -> StepTimes:
        schedule, first = next(schedules), len(steps) // len(plan.stages)
        loads = [(0, step.step_tokens) for step in schedule.prefill_steps]
        loads += [(schedule.decode_rows[group][turn], 0) for group, turn in schedule.decode_order]

        def on_step(stage: int, step: int, began_s: float, ended_s: float) -> None:
            steps.append(StageStep(stage, first + step, *loads[step], began_s, ended_s))

        return simulate(graph, start_s, on_step)

    return run


def _static_notes(batches: list[Requests]) -> tuple[str, ...]:
    notes = []
    if len(batches) > 1:
        sizes = f"{len(batches[0])} requests"
        if len(batches[-1]) < len(batches[0]):
            sizes += f", the last one of {len(batches[-1])}"
        notes.append(f"{len(batches)} batches of {sizes}, one after another")
    if any(len({request.prompt_tokens for request in batch}) > 1 for batch in batches):
        lengths = [request.prompt_tokens for batch in batches for request in batch]
        notes.append(
            f"prompts of {min(lengths)} to {max(lengths)} tokens are predicted at the mean length "
            "of their batch, rounded up"
        )
    if any(request.arrival_s > 0 for batch in batches for request in batch):
        notes.append("the static policy is predicted with every request present at the start")
    return tuple(notes)


# ---- continuous


def _predict_continuous(
    saved: SavedPlan, requests: Requests, settings: ContinuousSettings, concurrency: int | None
) -> Prediction:
    scenario = saved.task.costs.scenario
    costs = ServingCosts(scenario.model, scenario.cluster, saved.task.costs.profiles)
    ordered = sorted(requests, key=lambda request: request.arrival_s)
    begin_s = ordered[0].arrival_s  # a request that arrived earlier may have been refused
    loads: list[tuple[int, int]] = []
    steps: list[tuple[int, int, float, float]] = []
    service = serve(
        saved.plan,
        costs,
        replace(_workload(ordered, begin_s), concurrency=concurrency),
        settings,
        watch=Watch(
            on_step=lambda *step: steps.append(step),
            on_batch=lambda _, decodes, prompts, *__: loads.append((decodes, prompts)),
        ),
    )
    return Prediction(
        result=replace(service.result, makespan_s=service.result.makespan_s + begin_s),
        requests=_served(ordered, service, begin_s),
        steps=tuple(
            StageStep(stage, step, *loads[step], began_s + begin_s, ended_s + begin_s)
            for stage, step, began_s, ended_s in steps
        ),
        stage_bytes=service.memory_bytes,
        notes=_continuous_notes(service),
    )


def _workload(ordered: Requests, begin_s: float) -> TraceWorkload:
    return TraceWorkload(
        name="requests",
        arrival_s=np.array([request.arrival_s - begin_s for request in ordered], np.float64),
        prompt_tokens=np.array([request.prompt_tokens for request in ordered], np.int64),
        output_tokens=np.array([request.output_tokens for request in ordered], np.int64),
    )


def _served(ordered: Requests, service: Service, begin_s: float) -> tuple[RequestTiming, ...]:
    arrives = service.workload.concurrency is None
    return tuple(
        replace(
            request,
            arrival_s=request.arrival_s if arrives else entered_s,
            first_s=first_s + begin_s,
            last_s=last_s + begin_s,
        )
        for request, entered_s, first_s, last_s, is_served in zip(
            ordered,
            service.times.arrival_s.tolist(),
            service.times.first_s.tolist(),
            service.times.last_s.tolist(),
            service.served.tolist(),
            strict=True,
        )
        if is_served
    )


def _continuous_notes(service: Service) -> tuple[str, ...]:
    refused = service.result.refused
    if not refused:
        return ()
    return (
        f"{refused} of {service.result.requests} requests that were served do not fit by what is "
        "predicted and are missing from it",
    )
