"""Small made-up models, devices and tasks, which tests plan in milliseconds."""

from collections.abc import Iterator, Sequence
from itertools import combinations, pairwise, permutations, product

from llmpq_sim.core.cluster import RUNTIME_BYTES, Cluster, ClusterDevice, Device, Link
from llmpq_sim.core.model import ModelSpec, dense_model
from llmpq_sim.core.plan import MicroBatching, Plan, Stage
from llmpq_sim.core.scenario import BatchWorkload, Scenario
from llmpq_sim.core.units import MIB
from llmpq_sim.latency.costs import LayerCosts
from llmpq_sim.latency.spec import spec_profile
from llmpq_sim.quality.table import QualityTable, nominal_quality
from llmpq_sim.search.bound.problem import PlanningTask

FORMATS_OF_TESTS = ("int4", "int8", "fp16")

Placement = tuple[tuple[int, int], ...]
"""Device and number of layers of each stage, in order."""


def tiny_model(layers: int = 4, *, tied: bool = False) -> ModelSpec:
    """Return a model whose layer takes 1.5 MiB at 16 bits, its embedding and its head 0.5 each."""
    return dense_model(
        name="tiny",
        family="opt",
        layers=layers,
        hidden_size=256,
        intermediate_size=1024,
        heads=4,
        kv_heads=4,
        head_dim=64,
        vocab_size=1024,
        max_positions=2048,
        gated_mlp=False,
        tied_embeddings=tied,
        position_rows=0,
        bias_elements=0,
        norm_elements=0,
        dtype="fp16",
    )


def tiny_device(
    name: str = "fast",
    *,
    room_mib: float = 64.0,
    bytes_per_s: float = 2e9,
    flops_per_s: float = 2e11,
    formats: tuple[str, ...] = FORMATS_OF_TESTS,
    runtime_bytes: int = RUNTIME_BYTES,
) -> Device:
    """Return a device with so much memory beside the runtime, slow as the model is tiny."""
    return Device(
        name=name,
        memory_bytes=runtime_bytes + round(room_mib * MIB),
        memory_bytes_per_s=bytes_per_s,
        flops_per_s=flops_per_s,
        multiprocessors=4,
        l2_bytes=MIB,
        compute_fraction=1.0,
        memory_fraction=1.0,
        formats=formats,
        kernels=("spec",),
        source="made up",
        runtime_bytes=runtime_bytes,
    )


def tiny_cluster(devices: Sequence[Device], links: Sequence[Link] = ()) -> Cluster:
    """Return a cluster; links are those of the pairs (0, 1), (0, 2), (1, 2), ... or all alike."""
    members = tuple(
        ClusterDevice(f"{device.name}-{number}", device, "node-0")
        for number, device in enumerate(devices)
    )
    pairs = list(combinations(range(len(members)), 2))
    chosen = list(links) or [Link(1e-5, 1e9)] * len(pairs)
    return Cluster("tiny", members, dict(zip(pairs, chosen, strict=True)))


def tiny_scenario(
    devices: Sequence[Device] = (),
    links: Sequence[Link] = (),
    *,
    model: ModelSpec | None = None,
    prompt_tokens: int = 16,
    output_tokens: tuple[int, ...] = (5, 5, 5, 5),
) -> Scenario:
    """Return a batch of the tiny model; on a fast and a slow device unless told otherwise."""
    chosen = list(devices) or [tiny_device(), tiny_device("slow", bytes_per_s=1e9)]
    workload = BatchWorkload(prompt_tokens, output_tokens)
    return Scenario(model or tiny_model(), tiny_cluster(chosen, links), workload)


def tiny_costs(scenario: Scenario) -> LayerCosts:
    """Return block times from the data sheets of the scenario's devices."""
    kinds = {member.device.name: member.device for member in scenario.cluster.devices}
    return LayerCosts(scenario, {name: spec_profile(device) for name, device in kinds.items()})


def tiny_task(
    scenario: Scenario | None = None,
    *,
    formats: tuple[str, ...] = FORMATS_OF_TESTS,
    sensitivity: Sequence[float] | None = None,
    quality: QualityTable | None = None,
    budget: float | None = None,
) -> PlanningTask:
    """Return a task whose budget is what its first format loses everywhere, unless given."""
    scenario = scenario or tiny_scenario()
    table = quality or nominal_quality(scenario.model.layers, sensitivity)
    limit = table.uniform_loss(formats[0]) if budget is None else budget
    return PlanningTask(tiny_costs(scenario), table, formats, limit)


def every_placement(devices: int, layers: int) -> Iterator[Placement]:
    """Yield every order of some devices with every contiguous cut of the layers."""
    for stages in range(1, min(devices, layers) + 1):
        for order in permutations(range(devices), stages):
            for inner in combinations(range(1, layers), stages - 1):
                counts = [stop - start for start, stop in pairwise((0, *inner, layers))]
                yield tuple(zip(order, counts, strict=True))


def every_plan(task: PlanningTask, batching: MicroBatching) -> Iterator[Plan]:
    """Yield every plan of a task in one micro-batching, whether it fits or not."""
    scenario = task.costs.scenario
    members = scenario.cluster.devices
    for placement in every_placement(len(members), scenario.model.layers):
        choices = [
            [name for name in task.formats if name in members[device].device.formats]
            for device, count in placement
            for _ in range(count)
        ]
        for formats in product(*choices):
            yield plan_at(scenario, placement, formats, batching)


def plan_at(
    scenario: Scenario, placement: Placement, formats: Sequence[str], batching: MicroBatching
) -> Plan:
    """Return the plan with these layers per device and these formats per layer."""
    stages, layer = [], 0
    for device, count in placement:
        name = scenario.cluster.devices[device].name
        stages.append(Stage(name, tuple(formats[layer : layer + count])))
        layer += count
    return Plan(tuple(stages), batching)
