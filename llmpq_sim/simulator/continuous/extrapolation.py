"""Times of a plan that were not measured: sizes beyond a profile, and parts it has not."""

from collections import Counter
from collections.abc import Collection, Mapping
from itertools import product

from llmpq_sim.core.cluster import Cluster
from llmpq_sim.core.layers import EXPERT_LINEARS, LayerKind
from llmpq_sim.core.model import ModelSpec
from llmpq_sim.core.plan import Plan
from llmpq_sim.core.schedule import batch_schedules
from llmpq_sim.latency.assumptions import untimed_parts
from llmpq_sim.latency.costs import LayerCosts
from llmpq_sim.latency.profile import DeviceProfile


def extrapolations(plan: Plan, costs: LayerCosts) -> list[str]:
    """Return sentences on what times of a batch were not measured; see `unmeasured`."""
    workload = costs.scenario.workload
    tokens: set[int] = set()
    for schedule in batch_schedules(workload, plan.micro_batching):
        tokens |= {step.step_tokens for step in schedule.prefill_steps}
        tokens |= {rows for group in schedule.decode_rows for rows in group}
    scenario = costs.scenario
    return unmeasured(plan, scenario.model, scenario.cluster, costs.profiles, tokens)


def unmeasured(
    plan: Plan,
    model: ModelSpec,
    cluster: Cluster,
    profiles: Mapping[str, DeviceProfile],
    tokens: Collection[int],
) -> list[str]:
    """Return sentences on what a plan's times follow rooflines for, by kind of device.

    That are products beyond the profiled sizes, where the fitted roofline is continued from the
    edge of the range, and parts of layers that were not timed.

    Args:
        plan: which layers run where, in which format.
        model: whose layers they are.
        cluster: what the plan's devices belong to.
        profiles: latency profile of each kind of device.
        tokens: of the batches that its stages compute.
    """
    beyond = products_beyond(plan, model, cluster, profiles, tokens)
    return beyond + _untimed_parts(plan, model, cluster, profiles)


def _untimed_parts(
    plan: Plan, model: ModelSpec, cluster: Cluster, profiles: Mapping[str, DeviceProfile]
) -> list[str]:
    layers: dict[str, tuple[dict[LayerKind, None], dict[str, None]]] = {}
    for stage, first in zip(plan.stages, plan.first_layers(), strict=True):
        kind = cluster.devices[cluster.index(stage.device, "plan")].device.name
        kinds, formats = layers.setdefault(kind, ({}, {}))
        numbers = model.kind_of_layer[first : first + len(stage.formats)]
        kinds |= {model.kinds[number]: None for number in numbers}
        formats |= dict.fromkeys(stage.formats)
    where: dict[str, list[str]] = {}
    for kind, (kinds, formats) in layers.items():
        for part in untimed_parts(profiles[kind], kinds, formats):
            where.setdefault(part, []).append(profiles[kind].name)
    parts: dict[tuple[str, ...], list[str]] = {}
    for part, names in where.items():
        parts.setdefault(tuple(sorted(names)), []).append(part)
    return [
        f"{', '.join(names)}: not timed, and priced by rooflines, are {', '.join(untimed)}"
        for names, untimed in parts.items()
    ]


def products_beyond(
    plan: Plan,
    model: ModelSpec,
    cluster: Cluster,
    profiles: Mapping[str, DeviceProfile],
    tokens: Collection[int],
) -> list[str]:
    """Return a sentence for each kind of device that runs products of unprofiled sizes.

    Arguments are those of `unmeasured`.
    """
    beyond: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for stage, first in zip(plan.stages, plan.first_layers(), strict=True):
        numbers = model.kind_of_layer[first : first + len(stage.formats)]
        linears = [
            linear
            for number in dict.fromkeys(numbers)
            for linear in model.kinds[number].linears
            if linear.name not in EXPERT_LINEARS and linear.is_formatted
        ]
        kind = cluster.devices[cluster.index(stage.device, "plan")].device.name
        outside = [
            bool(profiles[kind].beyond_range(name, count, linear.out_features, linear.in_features))
            for name, linear, count in product(set(stage.formats), linears, tokens)
        ]
        beyond[kind] += sum(outside)
        total[kind] += len(outside)
    return [
        f"{kind}: {count} of {total[kind]} sizes of matrix products in this plan are beyond the "
        f"profiled range of {profiles[kind].name}; they follow its fitted roofline"
        for kind, count in beyond.items()
        if count
    ]
