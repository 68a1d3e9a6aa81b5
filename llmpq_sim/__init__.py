"""Data types of llmpq: scenarios, plans and results."""

from llmpq_sim.core.cluster import Cluster, ClusterDevice, Device, Link
from llmpq_sim.core.errors import CertificateError, InfeasibleError, InputError, LlmpqError
from llmpq_sim.core.formats import FORMATS, WeightFormat
from llmpq_sim.core.model import ModelSpec
from llmpq_sim.core.plan import MicroBatching, Plan, Stage
from llmpq_sim.core.result import SimulationResult, Summary
from llmpq_sim.core.scenario import BatchWorkload, Scenario

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
