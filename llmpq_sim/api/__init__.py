"""Library interface: plan, simulate, replay, verify and predict.

    from llmpq_sim.api import plan, simulate
    found = plan(model="opt-1.3b", cluster="t4-v100-a100", batch=8, prompt_tokens=64)
    print(found.best.plan, simulate(found).tokens_per_s)

A function is imported when it is first asked for, so that this package costs nothing by itself.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmpq_sim.api.capacities import capacity
    from llmpq_sim.api.planned import Planned, load
    from llmpq_sim.api.planning import plan
    from llmpq_sim.api.prediction import Prediction, predict
    from llmpq_sim.api.quality_target import QualityOptions
    from llmpq_sim.api.replaying import Replay, ServingOptions, replay
    from llmpq_sim.api.simulation import Simulation, simulate
    from llmpq_sim.api.sweeping import Sweep, sweep_concurrency
    from llmpq_sim.api.verification import Verification, verify
    from llmpq_sim.io.workloads import TraceOptions
    from llmpq_sim.search.planner import SearchSettings

_ROOMS = {
    "llmpq_sim.api.capacities": ("capacity",),
    "llmpq_sim.api.planned": ("Planned", "load"),
    "llmpq_sim.api.planning": ("plan",),
    "llmpq_sim.api.prediction": ("Prediction", "predict"),
    "llmpq_sim.api.quality_target": ("QualityOptions",),
    "llmpq_sim.api.replaying": ("Replay", "ServingOptions", "replay"),
    "llmpq_sim.api.simulation": ("Simulation", "simulate"),
    "llmpq_sim.api.sweeping": ("Sweep", "sweep_concurrency"),
    "llmpq_sim.api.verification": ("Verification", "verify"),
    "llmpq_sim.io.workloads": ("TraceOptions",),
    "llmpq_sim.search.planner": ("SearchSettings",),
}

__all__ = [
    "Planned",
    "Prediction",
    "QualityOptions",
    "Replay",
    "SearchSettings",
    "ServingOptions",
    "Simulation",
    "Sweep",
    "TraceOptions",
    "Verification",
    "capacity",
    "load",
    "plan",
    "predict",
    "replay",
    "simulate",
    "sweep_concurrency",
    "verify",
]


def __getattr__(name: str) -> Any:
    for room, names in _ROOMS.items():
        if name in names:
            return getattr(import_module(room), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
