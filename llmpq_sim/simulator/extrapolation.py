"""Which matrix products of a plan lie beyond the sizes that were profiled?"""

from collections import Counter

from llmpq_sim.latency.costs import LayerCosts
from llmpq_sim.plan import Plan
from llmpq_sim.schedule import wave_shapes


def extrapolations(plan: Plan, costs: LayerCosts) -> list[str]:
    """Return a sentence for each kind of device whose plan leaves the profiled range.

    There the time follows the fitted roofline, continued from the edge of the range.
    """
    cluster = costs.scenario.cluster
    beyond: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for stage in plan.stages:
        kind = cluster.devices[cluster.index(stage.device, "plan")].device.name
        for format_name in dict.fromkeys(stage.formats):
            outside = _outside(plan, costs, kind, format_name)
            beyond[kind] += sum(outside)
            total[kind] += len(outside)
    return [
        f"{kind}: {count} of {total[kind]} sizes of matrix products in this plan are beyond the "
        f"profiled range of {costs.profiles[kind].name}; they follow its fitted roofline"
        for kind, count in beyond.items()
        if count
    ]


def _outside(plan: Plan, costs: LayerCosts, kind: str, format_name: str) -> list[bool]:
    """Return, for every size of product that a kind of device runs, whether it is outside."""
    workload, model = costs.scenario.workload, costs.scenario.model
    tokens: set[int] = set()
    for shape in wave_shapes(workload, plan.micro_batching):
        tokens |= {rows * workload.prompt_tokens for rows in shape.prefill_rows}
        tokens |= {rows for group in shape.decode_rows for rows in group}
    return [
        bool(
            costs.profiles[kind].beyond_range(
                format_name, count, linear.out_features, linear.in_features
            )
        )
        for linear in model.linears
        for count in sorted(tokens)
    ]
