"""Price of a plan's devices for the tokens that they generate."""

from llmpq_sim.core.cluster import Cluster
from llmpq_sim.core.plan import Plan
from llmpq_sim.core.result import SimulationResult


def usd_per_million_tokens(plan: Plan, cluster: Cluster, result: SimulationResult) -> float | None:
    """Return what a million output tokens cost on the devices that the plan uses.

    None where the price of one of them is not known, or nothing was generated.
    """
    places = [cluster.index(stage.device, "plan") for stage in plan.stages]
    prices = [cluster.devices[place].device.price_usd_per_hour for place in places]
    known = [price for price in prices if price is not None]
    if len(known) < len(prices) or not result.tokens_per_s:
        return None
    return sum(known) / 3600 / result.tokens_per_s * 1e6
