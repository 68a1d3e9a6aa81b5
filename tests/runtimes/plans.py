"""Plans for tiny models on processor cores, as a search would have saved them."""

from pathlib import Path

from llmpq_sim.core.cluster import Cluster, ClusterDevice, Device, Link
from llmpq_sim.core.plan import MicroBatching, Plan, Stage
from llmpq_sim.core.scenario import BatchWorkload, Scenario
from llmpq_sim.core.units import GIB, MIB
from llmpq_sim.io.models import load_model
from llmpq_sim.io.plans import SavedPlan
from llmpq_sim.io.tasks import QualityTarget
from llmpq_sim.latency.costs import LayerCosts
from llmpq_sim.latency.spec import spec_profile
from llmpq_sim.quality.table import nominal_quality
from llmpq_sim.search.bound.bound import Certificate
from llmpq_sim.search.bound.problem import PlanningTask

ALL_FORMATS = ("int3", "int4", "int8", "fp16", "bf16")


def core(name: str, memory_bytes: int = 4 * GIB) -> Device:
    """Return a processor core as a kind of device."""
    return Device(
        name=name,
        memory_bytes=memory_bytes,
        memory_bytes_per_s=1e10,
        flops_per_s=5e10,
        multiprocessors=1,
        l2_bytes=32 * MIB,
        compute_fraction=1.0,
        memory_fraction=1.0,
        formats=ALL_FORMATS,
        kernels=("spec",),
        source="made up",
    )


def saved_plan(
    folder: Path,
    cuts: list[tuple[str, ...]],
    *,
    micro_batching: MicroBatching | None = None,
    prompt_tokens: int = 12,
    output_tokens: tuple[int, ...] = (6, 6, 6, 6),
    nodes: tuple[str, ...] | None = None,
    memory_bytes: int = 4 * GIB,
) -> SavedPlan:
    """Return a plan for the model in a folder, a stage for each tuple of formats."""
    device = core("cpu", memory_bytes)
    names = nodes or ("node-0",) * len(cuts)
    members = tuple(ClusterDevice(f"cpu-{i}", device, names[i]) for i in range(len(cuts)))
    pairs = [(i, j) for i in range(len(cuts)) for j in range(i + 1, len(cuts))]
    cluster = Cluster("cores", members, {pair: Link(5e-5, 5e9) for pair in pairs})
    model = load_model(str(folder))
    scenario = Scenario(model, cluster, BatchWorkload(prompt_tokens, output_tokens))
    stages = tuple(Stage(f"cpu-{i}", formats) for i, formats in enumerate(cuts))
    task = PlanningTask(
        LayerCosts(scenario, {"cpu": spec_profile(device)}),
        nominal_quality(model.layers, None),
        ALL_FORMATS,
        1e9,
    )
    plan = Plan(stages, micro_batching or MicroBatching(2, 2, 2))
    return SavedPlan(plan, task, QualityTarget(None, 1e9), Certificate({}), seed=0)
