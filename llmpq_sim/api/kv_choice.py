"""Choice of a plan's KV cache format: each allowed one is planned with, the fastest plan stays."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from llmpq_sim.api.planned import Planned
from llmpq_sim.core.errors import InfeasibleError
from llmpq_sim.core.kv_formats import PLAIN
from llmpq_sim.core.layers import Recurrent
from llmpq_sim.core.model import ModelSpec
from llmpq_sim.quality.cache_loss import nominal_cache_loss_nats


def with_kv_format(model: ModelSpec, name: str) -> ModelSpec:
    """Return a model with its KV cache in a format; states of fixed size stay as they are."""
    kinds = tuple(
        kind
        if kind.mixer is None or isinstance(kind.mixer, Recurrent)
        else replace(kind, kv_format=name)
        for kind in model.kinds
    )
    return replace(model, kinds=kinds)


def fastest_of_caches(
    model: ModelSpec, names: Sequence[str], found: Callable[[ModelSpec], Planned]
) -> Planned:
    """Return the fastest plan over KV cache formats, and what the others come to.

    Args:
        model: with a cache of 16 bits.
        names: of the formats; none leaves the model as it is.
        found: returns the best plan of a model.

    Raises:
        InfeasibleError: no format leaves a plan within memory and quality.
    """
    if not names:
        return found(model)
    plans: dict[str, Planned] = {}
    refused: dict[str, InfeasibleError] = {}
    for name in names:
        try:
            plans[name] = found(with_kv_format(model, name))
        except InfeasibleError as error:
            refused[name] = error
    if not plans:
        raise next(iter(refused.values()))
    best = min(plans, key=lambda name: plans[name].best.makespan_s)
    return plans[best].noted([_said(best, plans, refused)])


def _said(best: str, plans: dict[str, Planned], refused: dict[str, InfeasibleError]) -> str:
    loss = nominal_cache_loss_nats(best)
    lost = f"which counts as losing {loss:.2g} nats; its reads are reckoned from 16-bit kernels"
    lost = "which loses nothing" if best == PLAIN else lost
    others = [
        f"{name} {_tokens_per_s(plan):.1f} tokens/s" for name, plan in plans.items() if name != best
    ]
    others += [f"{name} has no plan within memory and quality" for name in refused]
    return "; ".join([f"KV cache: {best}, {lost}", *others])


def _tokens_per_s(planned: Planned) -> float:
    tokens = planned.batch.task.costs.scenario.workload.total_output_tokens
    return tokens / planned.best.makespan_s
