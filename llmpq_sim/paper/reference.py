"""Integer program of the reference implementation, with its defects.

The objective of the reference at commit ad783cc, restated (no code of it is used), in ms:

  sum P + (Mp - 1) max P + sum D + (Md - 1)(n - 1) max D + theta sum omega

with the defects that its own logs show: the decode term is one turn short of the steady state, and
nothing for a single micro-batch; embedding and LM head are charged, once for each prefill
micro-batch, to every layer of the first device. It counts memory without scales or zero points
(`memory.reference_layer_bytes`), puts both ends on the first device, permutes kinds of device, and
gives every device a layer. Omega is our nominal loss in nats: the authors' files are not published.

Layers cost alike, so whole numbers of layers per device and format say as much as the reference's
binary for each layer, device and format.
"""

from dataclasses import dataclass
from itertools import permutations

import numpy as np

from llmpq_sim.core.formats import FORMATS
from llmpq_sim.core.memory import embedding_bytes, head_bytes, reference_layer_bytes
from llmpq_sim.core.plan import MicroBatching, Plan, Stage
from llmpq_sim.core.units import MS
from llmpq_sim.latency.costs import LayerCosts
from llmpq_sim.search.bound.problem import FloatArray, PlanningTask, kinds_of
from llmpq_sim.search.construction import arrange_formats
from llmpq_sim.search.grid import paper_micro_batchings

PROGRAM_GAP = 1e-3


@dataclass(frozen=True)
class ReferencePlan:
    """A plan and what the reference's objective says of it, in ms."""

    plan: Plan
    objective_ms: float


def reference_plan(task: PlanningTask, theta: float) -> ReferencePlan | None:
    """Return the plan with the least value of the reference's objective, or None if none fits."""
    scenario = task.costs.scenario
    found = [
        solved
        for order in device_orders(task)
        for batching in paper_micro_batchings(scenario.workload.requests, len(order))
        if (solved := _solve(task, theta, order, batching)) is not None
    ]
    return min(found, key=lambda one: one.objective_ms, default=None)


def device_orders(task: PlanningTask) -> list[list[int]]:
    """Return devices in every order of their kinds, those of one kind side by side."""
    members = task.costs.scenario.cluster.devices
    kinds = [place.kind for place in kinds_of(task)]
    return [
        [number for kind in order for number, one in enumerate(members) if one.device.name == kind]
        for order in permutations(kinds)
    ]


def _solve(
    task: PlanningTask, theta: float, order: list[int], batching: MicroBatching
) -> ReferencePlan | None:
    """Return the best plan of one order and micro-batching, or None if nothing fits."""
    from scipy.optimize import Bounds, LinearConstraint, milp

    scenario = task.costs.scenario
    prefill_s, decode_s = _layer_times(task, order, batching)
    stages, formats = prefill_s.shape
    batch, rounds = scenario.workload.requests, task.costs.rounds
    prefills, groups = -(-batch // batching.prefill), -(-batch // batching.decode)
    mean_loss = np.array([np.mean(task.quality.losses[name]) for name in task.formats])
    objective = (prefill_s + decode_s) / MS + theta * mean_loss
    slowest = [(prefills - 1) / MS, (groups - 1) * rounds / MS]
    by_stage = np.kron(np.eye(stages), np.ones(formats))
    layer_bytes, room_bytes = _memory(task, order, batching)
    pairs = np.zeros((stages, 2))
    of_prefill, of_decode = pairs - [1.0, 0.0], pairs - [0.0, 1.0]
    rows = [
        LinearConstraint(np.hstack([by_stage.sum(0, keepdims=True), pairs[:1]]),
                         scenario.model.layers, scenario.model.layers),
        LinearConstraint(np.hstack([by_stage, pairs]), 1.0, np.inf),
        LinearConstraint(np.hstack([by_stage * np.tile(layer_bytes / layer_bytes.max(), stages),
                                    pairs]), -np.inf, room_bytes / layer_bytes.max()),
        LinearConstraint(np.hstack([by_stage * prefill_s.ravel(), of_prefill]), -np.inf, 0.0),
        LinearConstraint(np.hstack([by_stage * decode_s.ravel(), of_decode]), -np.inf, 0.0),
    ]  # fmt: skip
    answer = milp(
        np.concatenate([objective.ravel(), slowest]),
        constraints=rows,
        integrality=np.concatenate([np.ones(stages * formats), [0, 0]]),
        bounds=Bounds(0.0, np.inf),
        options={"mip_rel_gap": PROGRAM_GAP},
    )
    if answer.x is None:
        return None
    counts = np.rint(answer.x[:-2]).astype(int).reshape(stages, formats)
    return ReferencePlan(_plan(task, order, batching, counts.tolist()), float(answer.fun))


def _layer_times(
    task: PlanningTask, order: list[int], batching: MicroBatching
) -> tuple[FloatArray, FloatArray]:
    """Return prefill and decode times of a layer by stage and format, the ends on the first."""
    costs, scenario = task.costs, task.costs.scenario
    kinds = [scenario.cluster.devices[device].device.name for device in order]
    only = scenario.model.only_layer_kind
    prefill_s = [
        [costs.prefill_layer_s(k, f, batching.prefill, only) for f in task.formats] for k in kinds
    ]
    decode_s = [
        [float(costs.decode_layer_s(k, f, batching.decode, only).mean()) for f in task.formats]
        for k in kinds
    ]
    ends_s = _ends_s(costs, kinds[0], batching) * -(-scenario.workload.requests // batching.prefill)
    prefill = np.array(prefill_s)
    prefill[0] += ends_s
    return prefill, np.array(decode_s)


def _ends_s(costs: LayerCosts, kind: str, batching: MicroBatching) -> float:
    tokens = batching.prefill * costs.scenario.workload.prompt_tokens
    return costs.embedding_s(kind, tokens) + costs.head_s(kind, batching.prefill)


def _memory(
    task: PlanningTask, order: list[int], batching: MicroBatching
) -> tuple[FloatArray, FloatArray]:
    """Return the bytes of a layer by format, and what each stage has for layers (llm-pq.md, 2)."""
    scenario = task.costs.scenario
    model, workload = scenario.model, scenario.workload
    layer_bytes = [
        reference_layer_bytes(model, FORMATS[name].bits, workload.requests, workload.context_tokens)
        for name in task.formats
    ]
    hidden, wide = model.hidden_size, model.only_kind.dense.inner_size
    prompt, context = workload.prompt_tokens, workload.context_tokens
    prefill = batching.prefill * prompt * (20 * hidden + 4 * wide + 2 * prompt)
    decode = batching.decode * (16 * hidden + 4 * wide + 6 * context + 4 * context * hidden)
    members = scenario.cluster.devices
    room = [members[device].device.memory_bytes - max(prefill, decode) for device in order]
    room[0] -= embedding_bytes(model) + head_bytes(model)
    return np.array(layer_bytes, float), np.array(room, float)


def _plan(
    task: PlanningTask, order: list[int], batching: MicroBatching, counts: list[list[int]]
) -> Plan:
    members = task.costs.scenario.cluster.devices
    stages, layer = [], 0
    for device, of_stage in zip(order, counts, strict=True):
        formats = arrange_formats(task, {0: of_stage}, layer)
        stages.append(Stage(members[device].name, formats))
        layer += len(formats)
    return Plan(tuple(stages), batching)
