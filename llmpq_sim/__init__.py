"""Data types of llmpq: scenarios, plans and results.

A type is imported when it is first asked for, so that commands start at once.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmpq_sim.core.cluster import Cluster, ClusterDevice, Device, Link
    from llmpq_sim.core.errors import CertificateError, InfeasibleError, InputError, LlmpqError
    from llmpq_sim.core.formats import FORMATS, WeightFormat
    from llmpq_sim.core.model import ModelSpec
    from llmpq_sim.core.plan import MicroBatching, Plan, Stage
    from llmpq_sim.core.result import SimulationResult, Summary
    from llmpq_sim.core.scenario import BatchWorkload, Scenario

_ROOMS = {
    "cluster": ("Cluster", "ClusterDevice", "Device", "Link"),
    "errors": ("CertificateError", "InfeasibleError", "InputError", "LlmpqError"),
    "formats": ("FORMATS", "WeightFormat"),
    "model": ("ModelSpec",),
    "plan": ("MicroBatching", "Plan", "Stage"),
    "result": ("SimulationResult", "Summary"),
    "scenario": ("BatchWorkload", "Scenario"),
}

__all__ = [
    "FORMATS",
    "BatchWorkload",
    "CertificateError",
    "Cluster",
    "ClusterDevice",
    "Device",
    "InfeasibleError",
    "InputError",
    "Link",
    "LlmpqError",
    "MicroBatching",
    "ModelSpec",
    "Plan",
    "Scenario",
    "SimulationResult",
    "Stage",
    "Summary",
    "WeightFormat",
]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    for room, names in _ROOMS.items():
        if name in names:
            return getattr(import_module(f"llmpq_sim.core.{room}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
