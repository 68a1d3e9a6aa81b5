"""Implied decode times of the logged plans, from their measured throughput.

Two plans ran on the same devices with different layers on the slowest of them. So two unknowns
follow from their throughputs: what an 8-bit layer took there, and what a step of a stage took
beside what is assumed. They say where the prediction is wrong; nothing is predicted with them.
"""

from dataclasses import dataclass, replace
from functools import cache
from typing import Annotated

import numpy as np

from llmpq_sim.core.records import Key
from llmpq_sim.latency.work import FloatArray
from llmpq_sim.paper.logged import LOGGED_CASE, wave_of_kernels
from llmpq_sim.paper.measurements import LOGGED_PLANS, LoggedPlan
from llmpq_sim.search.bound.problem import PlanningTask
from llmpq_sim.simulator.static.recurrence import compute_steps

DEVICE, FORMAT = "v100-32g", "int8"
"""The slowest stage of both plans, and the format of nearly all its layers."""

BEGIN_S = np.array([1e-3, 1e-3])
"""Where the unknowns are sought from."""


@dataclass(frozen=True)
class ImpliedDecodeTimes:
    """Decode times by which both logged plans take as long as measured.

    Attributes:
        timed_layer_s: of a layer, as its kernels were timed.
        layer_s: of the same layer, as the throughputs say.
        step_s: of a stage step, beside what is assumed.
    """

    timed_layer_s: float
    layer_s: float
    step_s: Annotated[float, Key("visit_s")]


@cache
def implied_decode_times() -> ImpliedDecodeTimes:
    """Return the times that explain both throughputs.

    Raises:
        InputError: bundled data cannot be read.
    """
    from scipy.optimize import root

    task = LOGGED_CASE.task()
    tokens = task.costs.scenario.workload.total_output_tokens

    def excess_s(extra_s: FloatArray) -> list[float]:
        layer_s, step_s = extra_s.tolist()
        return [
            makespan_s(logged, task, layer_s, step_s) - tokens / logged.tokens_per_s
            for logged in LOGGED_PLANS
        ]

    layer_s, step_s = root(excess_s, BEGIN_S).x.tolist()
    rows = LOGGED_PLANS[0].plan.micro_batching.decode
    only = task.costs.scenario.model.only_layer_kind
    timed_s = float(task.costs.decode_layer_s(DEVICE, FORMAT, rows, only).mean())
    return ImpliedDecodeTimes(timed_s, timed_s + layer_s, step_s)


def makespan_s(logged: LoggedPlan, task: PlanningTask, layer_s: float, step_s: float) -> float:
    """Return how long the batch takes with the kernels of 2023 and some more in decode.

    Args:
        logged: the plan.
        task: what it was planned for.
        layer_s: more for each layer of DEVICE in FORMAT.
        step_s: more for each step of any stage.
    """
    wave, stages, prefills = wave_of_kernels(logged, task)
    service_s = []
    for times_s, stage in zip(wave.service_s, stages, strict=True):
        runs = stage.kind == DEVICE
        layers = sum(count for (_, name), count in stage.layers.items() if runs and name == FORMAT)
        extra_s = layers * layer_s + step_s
        decodes_s = (time_s + extra_s for time_s in times_s[prefills:])
        service_s.append((*times_s[:prefills], *decodes_s))
    return compute_steps(replace(wave, service_s=tuple(service_s))).end_s
